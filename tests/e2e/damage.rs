//! A disk that lies: damaged records are noticed, reported, and fetched from a replica; no client sees one. A disk that is
//! full, or fails.

use crate::common::cluster::Cluster;
use crate::common::memcache::{Client, Error};
use crate::common::{Turn, eventually, skip};
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
    cluster.managers[0]
        .wait_for(&format!("server {full} cannot store: its disk is full or fails: it is parted with"), 0);
    let status = cluster.status();
    assert!(status.is_fault(full) && status.active() == 2, "{status:?}");
    assert_eq!(client.get("large-119").expect("an answer"), Some(value));
    cluster.assert_sound();
}

/// It was told to nobody: the server acknowledged nothing any more, and the writes of all its keys waited for it for ever.
#[test]
fn a_server_whose_disk_fails_makes_way_and_writes_go_on() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::unattached(1, 3);
    cluster.servers[2].kill();
    cluster.servers[2].survive_broken_disk();
    cluster.restart_server(2);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    let value = vec![b'x'; 20_000];
    let set = |client: &mut Client, i: usize| client.set(&format!("key-{i}"), &value);
    (0..20).for_each(|i| set(&mut client, i).expect("it is stored"));
    // Its log fits, and what it keeps of epochs.
    cluster.servers[2].break_disk(64 << 10);
    for i in 20..60 {
        set(&mut client, i).unwrap_or_else(|e| panic!("set {i}: {e:?}"));
    }
    let broken = cluster.server_address(2);
    let line = format!("server {broken} cannot store: its disk is full or fails: it is parted with");
    cluster.managers[0].wait_for(&line, 0);
    let status = cluster.status();
    assert!(status.is_fault(broken) && status.active() == 2, "{status:?}");
    for i in 0..60 {
        assert_eq!(client.get(&format!("key-{i}")).expect("an answer").as_ref(), Some(&value), "key-{i}");
    }
    cluster.assert_sound();
}

#[test]
fn where_all_disks_are_full_reads_go_on_and_stores_are_refused_until_there_is_room() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::unattached(1, 1);
    let store = cluster.store_of(0);
    cluster.servers[0].kill();
    if !cluster.servers[0].mount_small_disk(&store, 24) {
        return skip("no disk can be mounted");
    }
    cluster.restart_server(0);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    let value = vec![b'x'; 256 << 10];
    let mut stored = 0;
    let refusal = loop {
        assert!(stored < 200, "the disk holds more than its size");
        match client.set(&format!("large-{stored}"), &value) {
            Ok(()) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(stored > 0 && matches!(&refusal, Error::Refused(_)), "after {stored}: {refusal:?}");
    let refusal = eventually("stores are refused for want of room", || match client.set("another", &value) {
        Err(Error::Refused(line)) => (line == "SERVER_ERROR no space left").then_some(line),
        other => panic!("a full disk: {other:?}"),
    });
    assert_eq!(refusal, "SERVER_ERROR no space left");
    for i in 0..stored {
        assert_eq!(client.get(&format!("large-{i}")).expect("an answer").as_ref(), Some(&value), "large-{i}");
    }
    for _ in 0..500 {
        client.set("another", &value).expect_err("there is no room");
    }
    let lines = cluster.servers[0].log_since(0).matches("cannot store").count();
    assert!((1..200).contains(&lines), "{lines} lines about the same disk");
    cluster.servers[0].resize_small_disk(&store, 200);
    eventually("there is room again", || client.set("another", &value).ok());
    assert_eq!(client.get("another").expect("an answer"), Some(value));
    assert_eq!(cluster.status().active(), 1);
    cluster.assert_sound();
}
