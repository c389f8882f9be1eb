//! A disk that lies: damaged records are noticed, reported, and fetched from a replica; no client sees one. A disk that is
//! full.

use crate::common::cluster::Cluster;
use crate::common::{Turn, skip};
use std::fs;

const RECORDS: usize = 60;

#[test]
fn damaged_records_are_mended_from_replicas_and_never_served() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    let value = |i: usize| format!("precious {i} precious");
    for i in 0..RECORDS {
        client.set(&format!("k{i}"), value(i).as_bytes()).expect("it is stored");
    }
    // One letter of each value, in every file of one server, while that runs.
    let mut damaged = 0;
    for file in fs::read_dir(cluster.store_of(0)).expect("the store is a directory") {
        let path = file.expect("it can be listed").path();
        let mut bytes = fs::read(&path).expect("it can be read");
        for at in 0..bytes.len().saturating_sub(8) {
            if &bytes[at..at + 8] == b"precious" {
                bytes[at] = b'P';
                damaged += 1;
            }
        }
        // In place: a new file would not be the one that the server has open.
        use std::os::unix::fs::FileExt;
        let open = fs::OpenOptions::new().write(true).open(&path).expect("it can be opened");
        open.write_all_at(&bytes, 0).expect("it can be written");
    }
    assert!(damaged >= RECORDS, "{damaged} places were found");
    for i in 0..RECORDS {
        assert_eq!(client.get(&format!("k{i}")).expect("an answer"), Some(value(i).into_bytes()), "k{i}");
    }
    cluster.servers[0].wait_for("a damaged record was mended from a replica", 0);
    for i in 0..RECORDS {
        assert_eq!(client.get(&format!("k{i}")).expect("an answer"), Some(value(i).into_bytes()), "k{i} again");
    }
}

/// It acknowledged nothing any more, and the writes of all its keys waited for it for ever.
#[test]
fn a_server_with_a_full_disk_makes_way_and_writes_go_on() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::unattached(1, 3);
    let store = cluster.store_of(2);
    cluster.servers[2].kill();
    // What it had begun to store is below the mount.
    if !cluster.servers[2].mount_small_disk(&store, 48) {
        return skip("no disk can be mounted");
    }
    cluster.restart_server(2);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    let value = vec![b'x'; 512 << 10];
    for i in 0..120 {
        client.set(&format!("large-{i}"), &value).unwrap_or_else(|e| panic!("set {i}: {e:?}"));
    }
    let full = cluster.server_address(2);
    cluster.managers[0].wait_for(&format!("server {full} has a full disk: it is parted with"), 0);
    let status = cluster.status();
    assert!(status.is_fault(full) && status.active() == 2, "{status:?}");
    assert_eq!(client.get("large-119").expect("an answer"), Some(value));
    cluster.assert_sound();
}
