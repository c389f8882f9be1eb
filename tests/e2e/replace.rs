//! A replace under way: what operators see of it.

use crate::common::cluster::Cluster;
use crate::common::process::run;
use crate::common::{Turn, eventually, skip};

/// Slow enough to be looked at: some seconds for what is stored.
const SLOWLY: &str = "300000";
const RECORDS: usize = 20_000;

fn fill(cluster: &Cluster) {
    let mut client = cluster.client();
    for i in 0..RECORDS {
        client.set(&format!("key-{i}"), &[b'x'; 100]).expect("it is stored");
    }
}

#[test]
fn status_tells_how_far_a_replace_is_behind_the_lines_that_scripts_read() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    fill(&cluster);
    let said = cluster.ctl(&["status"]).stdout;
    assert!(!said.contains("filling"), "{said}");
    cluster.order(&["rate", SLOWLY]);
    let new = cluster.add_server();
    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    let address = cluster.server_address(new).to_string();
    let json = || -> serde_json::Value {
        let said = cluster.ctl(&["status", "--json"]).stdout;
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let told = eventually("half of it is there", || {
        let told = json()["filling"].clone();
        (told[0]["done_ppm"].as_u64()? >= 500_000).then_some(told)
    });
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told[0]["address"], address.as_str(), "{told}");
    // Each of three servers sends what it coordinates of what the fourth is to have, before compression.
    let rate = told[0]["bytes_per_sec"].as_u64().expect("it is known");
    assert!((100_000..1_500_000).contains(&rate), "{told}");
    assert!(told[0]["secs_left"].as_u64().is_some_and(|secs| secs <= 30), "{told}");
    let said = cluster.ctl(&["status"]).stdout;
    let (list, more) = said.split_once(&format!("filling {address}: ")).expect("it is told");
    assert!(list.ends_with("not attached node:\n") && more.contains("% done, "), "{said}");
    assert!(more.ends_with(" s left\n"), "{said}");
    cluster.order(&["pause"]);
    let said = cluster.ctl(&["status"]).stdout;
    assert!(said.ends_with(", paused\n"), "{said}");
    cluster.order(&["rate", "unlimited"]);
    cluster.order(&["resume"]);
    cluster.until_replaced(&marks);
    assert_eq!(json()["filling"], serde_json::json!([]));
    cluster.assert_sound();
}

/// A number that a server tells of itself.
#[track_caller]
fn told(cluster: &Cluster, server: usize, name: &str) -> u64 {
    let said = run("kumostat", &[&cluster.server_address(server).to_string(), "details"], cluster.dir());
    let mark = format!("STAT {name} ");
    let number = said.stdout.lines().find_map(|line| line.split_once(&mark)?.1.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name}: {said:?}"))
}

/// A cluster that stands still with its fourth server half filled, and that server's number.
fn half_filled() -> (Cluster, usize) {
    let mut cluster = Cluster::start(1, 3);
    fill(&cluster);
    cluster.order(&["rate", SLOWLY]);
    let new = cluster.add_server();
    cluster.order(&["attach"]);
    eventually("a part of it is there", || (told(&cluster, new, "items") > RECORDS as u64 / 6).then_some(()));
    cluster.order(&["pause"]);
    cluster.order(&["rate", "unlimited"]);
    (cluster, new)
}

/// Has a replace go on that was interrupted when its server `new` held so many records, and counts what is sent to it from
/// then on.
#[track_caller]
fn goes_on_with_the_rest(cluster: &mut Cluster, new: usize, held: u64, marks: &[u64]) {
    cluster.order(&["resume"]);
    cluster.until_replaced(marks);
    let (items, sent) = (told(cluster, new, "items"), told(cluster, new, "received_records"));
    // What was under way counts for nothing, and is sent again.
    let rest = items - held;
    assert!(held > 0 && sent <= rest + RECORDS as u64 / 20, "{held} of {items} were there, and {sent} were sent");
    let said = cluster.ctl(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    cluster.assert_sound();
}

#[test]
fn a_server_that_dies_half_filled_is_sent_the_rest() {
    let _turn = Turn::shared();
    let (mut cluster, new) = half_filled();
    cluster.kill_server(new);
    let marks = cluster.manager_marks();
    // Without it, nothing is left to be copied.
    cluster.order(&["resume"]);
    cluster.until_replaced(&marks);
    cluster.restart_server(new);
    let held = told(&cluster, new, "items");
    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    goes_on_with_the_rest(&mut cluster, new, held, &marks);
}

#[test]
fn a_replace_whose_manager_dies_goes_on_where_it_was() {
    let _turn = Turn::shared();
    let (mut cluster, new) = half_filled();
    cluster.managers[0].kill();
    let marks = cluster.manager_marks();
    cluster.restart_manager(0);
    cluster.until("all are there again", |s| s.active() == 4);
    // All that was sent in this replace counts.
    goes_on_with_the_rest(&mut cluster, new, 1, &marks);
}

/// The copying starts over. The one that was given up ended a moment later, and took back that records are being copied.
#[test]
fn a_replace_with_a_dead_sender_is_told_as_one_and_sends_the_rest() {
    const COPYING: u64 = 4;
    let _turn = Turn::shared();
    let (mut cluster, new) = half_filled();
    let mark = cluster.servers[1].mark();
    let held = told(&cluster, new, "items");
    let marks = cluster.manager_marks();
    cluster.kill_server(0);
    cluster.servers[1].wait_for("start replace copy", mark);
    cluster.servers[1].wait_for("replace copy: sent", mark);
    let flags = told(&cluster, 1, "replace");
    assert!(flags & COPYING != 0, "{flags}: it copies nothing");
    goes_on_with_the_rest(&mut cluster, new, held, &marks);
}

/// Half of what three servers hold moves to three more. Their disk and memory is to be had again.
#[test]
fn what_has_moved_away_takes_neither_disk_nor_memory_any_more() {
    const VALUES: usize = 4_000;
    const VALUE_BYTES: usize = 10_000;
    let _turn = Turn::shared();
    let mut cluster = Cluster::unattached(1, 3);
    // On a disk with much room, some garbage is left alone.
    let store = cluster.store_of(0);
    cluster.servers[0].kill();
    if !cluster.servers[0].mount_small_disk(&store, 64) {
        return skip("no disk can be mounted");
    }
    cluster.restart_server(0);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    let mut rng = crate::common::rng::Rng::new(7);
    for i in 0..VALUES {
        let value: Vec<u8> = (0..VALUE_BYTES).map(|_| rng.below(256) as u8).collect();
        client.set(&format!("key-{i}"), &value).expect("it is stored");
    }
    let (disk, memory) = (told(&cluster, 0, "disk_used_bytes"), cluster.servers[0].own_bytes());
    assert!(disk as usize > VALUES * VALUE_BYTES);
    cluster.add_servers(3);
    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    cluster.until_replaced(&marks);
    let items = told(&cluster, 0, "items") as usize;
    assert!(items < VALUES * 2 / 3, "{items} of {VALUES} are still there");
    // How much moves is the ring's choice; compaction leaves half as much garbage as there is data, and some for each shard.
    let bound = disk * items as u64 / VALUES as u64 * 3 / 2 + (4 << 20);
    eventually("its disk is given back", || (told(&cluster, 0, "disk_used_bytes") <= bound).then_some(()));
    for server in &cluster.servers {
        let now = server.own_bytes();
        assert!(now < memory + (16 << 20), "{}: {memory} bytes were its own before, and {now} are", server.name);
    }
    cluster.assert_sound();
}
