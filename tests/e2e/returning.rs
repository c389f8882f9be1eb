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

/// Everything was copied to a server that had been away for a moment.
#[test]
fn only_what_differs_is_sent_to_a_server_that_was_away() {
    const ALL: usize = 20_000;
    const CHANGED: usize = 100;
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    let key = |i: usize| format!("key-{i}");
    // What does not compress: a share of this has to be small for its own sake.
    let value = |i: usize, life: u64| {
        let mut rng = crate::common::rng::Rng::new(i as u64 * 10 + life);
        (0..100).map(|_| rng.below(256) as u8).collect::<Vec<u8>>()
    };
    for i in 0..ALL {
        client.set(&key(i), &value(i, 1)).expect("it is stored");
    }
    cluster.kill_server(2);
    cluster.until("two are left", |s| s.active() == 2);
    for i in 0..CHANGED {
        client.set(&key(i * 2), &value(i * 2, 2)).expect("it is stored");
        assert!(client.delete(&key(i * 2 + 1)).expect("an answer"));
    }
    let marks = cluster.manager_marks();
    let servers: Vec<u64> = cluster.servers.iter().map(|s| s.mark()).collect();
    cluster.restart_server(2);
    cluster.order(&["attach"]);
    cluster.until_replaced(&marks);
    let (mut records, mut bytes) = (0, 0);
    for (server, mark) in cluster.servers.iter().zip(servers) {
        for line in server.log_since(mark).lines().filter(|l| l.contains("replace copy: sent")) {
            let number = |after: &str| {
                let text = line.split_once(after).expect("the line tells it").1.trim_start();
                text.split(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number")
            };
            records += number(" sent ");
            bytes += number(" records, ");
        }
    }
    crate::common::say(&format!("rejoin: {records} records and {bytes} bytes for {ALL} of 100 bytes each"));
    // The marks of what was deleted are records, too.
    assert!((2 * CHANGED..4 * CHANGED).contains(&records), "{records} records were sent");
    assert!(bytes < ALL * 100 / 20, "{bytes} bytes were sent");
    cluster.kill_server(0);
    cluster.until("two are left again", |s| s.active() == 2);
    cluster.kill_server(1);
    cluster.until("it is alone", |s| s.active() == 1);
    for i in 0..ALL {
        let due = match i {
            _ if i >= 2 * CHANGED => Some(value(i, 1)),
            _ if i % 2 == 0 => Some(value(i, 2)),
            _ => None,
        };
        assert_eq!(client.get(&key(i)).expect("an answer"), due, "{}", key(i));
    }
    cluster.assert_sound();
}

/// How fast records move is part of the epoch: whoever restarts knows it.
#[test]
fn what_is_paused_stays_paused_over_restarts_and_goes_on_when_told() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    for i in 0..KEYS {
        client.set(&format!("key-{i}"), &[b'x'; 100]).expect("it is stored");
    }
    cluster.order(&["rate", "50000000"]);
    cluster.order(&["pause"]);
    let mut before: Vec<u64> = cluster.servers.iter().map(|s| s.mark()).collect();
    before.push(0);
    let new = cluster.add_server();
    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    cluster.servers[new].wait_for("start replace copy", 0);
    cluster.managers[0].kill();
    cluster.restart_manager(0);
    cluster.until("all are there again", |s| s.active() == 4);
    for i in 0..KEYS {
        client.set(&format!("key-{i}"), &[b'y'; 100]).expect("it is stored");
    }
    let told = cluster.ctl(&["rate"]);
    assert_eq!(told.stdout, "50000000, paused\n", "{told:?}");
    let status = cluster.ctl(&["status", "--json"]).stdout;
    assert!(status.contains("\"phase\":\"copying\"") && status.contains("\"paused\":true"), "{status}");
    let says = "replace copy: sent";
    assert!(cluster.servers.iter().zip(before).all(|(s, mark)| s.logged(says, mark).is_none()), "something moved");
    cluster.order(&["rate", "unlimited"]);
    cluster.order(&["resume"]);
    cluster.until_replaced(&marks);
    assert_eq!(cluster.ctl(&["rate"]).stdout, "unlimited\n");
    cluster.assert_sound();
}
