//! Servers that come back with an old database.

use crate::common::Turn;
use crate::common::cluster::Cluster;
use std::time::Duration;

const KEYS: usize = 500;

/// Longer than deletion marks are kept, with the options below.
const MARKS_GONE: Duration = Duration::from_secs(4);

/// 500 keys were deleted while a server was away, for longer than deletion marks are kept. When it came back with its old
/// database, keys that it coordinated were there again, and full-replace spread them.
#[test]
fn what_was_deleted_stays_deleted_when_a_server_returns_after_the_marks_are_gone() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.server_options = ["-gX", "1", "-gN", "1"].map(str::to_owned).to_vec();
    cluster.start_managers(1);
    cluster.add_servers(3);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    for i in 0..KEYS {
        client.set(&format!("gone-{i}"), b"old").expect("it is stored");
        client.set(&format!("kept-{i}"), b"old").expect("it is stored");
    }
    cluster.kill_server(2);
    cluster.until("two are left", |s| s.active() == 2);
    for i in 0..KEYS {
        assert!(client.delete(&format!("gone-{i}")).expect("an answer"));
        client.set(&format!("kept-{i}"), b"new").expect("it is stored");
    }
    // Not for anything to be ready: the marks have to grow old.
    std::thread::sleep(MARKS_GONE);
    let check = |client: &mut crate::common::memcache::Client, when: &str| {
        for i in 0..KEYS {
            assert_eq!(client.get(&format!("gone-{i}")).expect("an answer"), None, "gone-{i} {when}");
            let kept = client.get(&format!("kept-{i}")).expect("an answer");
            assert_eq!(kept, Some(b"new".to_vec()), "kept-{i} {when}");
        }
    };
    let marks = cluster.manager_marks();
    cluster.restart_server(2);
    cluster.until("it is back", |s| s.not_attached.len() == 1);
    cluster.order(&["attach"]);
    cluster.until_replaced(&marks);
    check(&mut client, "after its return");
    let marks = cluster.manager_marks();
    cluster.order(&["full-replace"]);
    cluster.until_replaced(&marks);
    check(&mut client, "after full-replace");
    // Each key is coordinated by the one that returned when the others are gone.
    cluster.kill_server(0);
    cluster.until("two are left again", |s| s.active() == 2);
    cluster.kill_server(1);
    cluster.until("it is alone", |s| s.active() == 1);
    check(&mut client, "with only it left");
    cluster.assert_sound();
}
