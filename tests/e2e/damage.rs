//! A disk that lies: damaged records are noticed, reported, and fetched from a replica; no client sees one.

use crate::common::Turn;
use crate::common::cluster::Cluster;
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
