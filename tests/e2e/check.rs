//! Replicas against each other: kumoctl check.

use crate::common::cluster::Cluster;
use crate::common::process::Process;
use crate::common::{Turn, eventually};
use kumofs::logic::clock::ClockTime;
use kumofs::logic::record;
use kumofs::store::Record;
use kumofs::store::open::{Engine, open};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const RECORDS: usize = 3000;

/// Damages a store whose server is not running: of five keys one is changed, two are gone, one is back from its deletion,
/// and one is newer than on the others.
fn damage(cluster: &Cluster, server: usize) {
    let store = open(Engine::Log, &cluster.store_of(server), 1, false, None).expect("nobody uses it");
    {
        let mut shard = store.shards()[0].lock().expect("nobody has panicked");
        let mut put = |key: &str, change: fn(ClockTime) -> ClockTime| {
            let mut dbkey = Vec::new();
            record::encode_dbkey(key.as_bytes(), &mut dbkey);
            let old = shard.get(&dbkey).expect("it is sound").expect("it is there");
            let (epoch, version) = (old.epoch, record::version_of(old.dbval).expect("it has one"));
            let mut dbval = Vec::new();
            record::encode_header(change(version), 1, 0, 0, 0, &mut dbval);
            dbval.extend_from_slice(format!("other {key}").as_bytes());
            shard.put(&dbkey, Record { epoch, dbval: &dbval }).expect("there is room");
        };
        put("k1", |version| version);
        put("deleted", |version| ClockTime(version.0 - 1));
        put("k4", |version| ClockTime(version.0 + 1));
        for key in ["k2", "k3"] {
            let mut dbkey = Vec::new();
            record::encode_dbkey(key.as_bytes(), &mut dbkey);
            let stamp = shard.get(&dbkey).expect("it is sound").expect("it is there").stamp();
            assert!(shard.forget(&dbkey, stamp).expect("there is room"));
        }
        shard.commit().expect("there is room");
        // As if all had it: else the server would report it, and be put right.
        let position = shard.position();
        drop(shard);
        store.note_stable(0, position);
    }
    store.close().expect("it is written");
}

#[test]
fn a_check_finds_what_a_damaged_store_lacks_and_repairs_it() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    // First, so that it is long known to be on all: what is not is told again when servers start anew.
    client.set("deleted", b"v").expect("it is stored");
    assert!(client.delete("deleted").expect("an answer"));
    (0..RECORDS).for_each(|i| client.set(&format!("k{i}"), format!("v{i}").as_bytes()).expect("it is stored"));
    let servers: Vec<String> = cluster.status().attached.iter().map(|(a, _)| a.to_string()).collect();
    let fine: String = servers.iter().map(|s| format!("{s}:  ok\n")).collect();
    let said = cluster.ctl(&["check"]);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), fine.as_str(), ""));

    // All at once, so that nobody compares it with others when it comes back.
    cluster.processes().for_each(Process::kill);
    damage(&cluster, 1);
    cluster.processes().for_each(Process::restart);
    cluster.until("all are active", |s| s.active() == 3);
    let said =
        eventually("it can be checked", || Some(cluster.ctl(&["check", "--json"])).filter(|s| !s.stdout.is_empty()));
    let told: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert!(said.code == Some(1) && said.stderr.contains("records differ"), "{said:?}");
    let records = told["records"].as_array().expect("records");
    let mut keys: Vec<&str> = records.iter().filter_map(|r| r["key"].as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, ["deleted", "k1", "k2", "k3", "k4"], "{told}");
    let damaged = cluster.server_address(1).to_string();
    let is_named = |r: &serde_json::Value| r["server"] == damaged.as_str() || r["coordinator"] == damaged.as_str();
    assert!(records.iter().all(is_named), "{told}");

    let said = cluster.ctl(&["check", "--repair"]);
    assert!(said.code == Some(0) && said.stdout.contains(" repaired\n"), "{said:?}");
    let said = cluster.ctl(&["check"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), fine.as_str()));
    let mut client = cluster.client();
    let value = |client: &mut crate::common::memcache::Client, key: &str| client.get(key).expect("an answer");
    assert_eq!(value(&mut client, "k2"), Some(b"v2".to_vec()));
    assert_eq!(value(&mut client, "k3"), Some(b"v3".to_vec()));
    assert_eq!(value(&mut client, "k4"), Some(b"other k4".to_vec()), "it was the newest");
    cluster.assert_sound();
}

#[test]
fn what_is_on_its_way_is_no_difference() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (mut client, over) = (cluster.client(), over.clone());
            std::thread::spawn(move || {
                let mut sets = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    client.set("hot", format!("{writer} {sets}").as_bytes()).expect("it is stored");
                    sets += 1;
                }
                sets
            })
        })
        .collect();
    // One key that is always on its way somewhere.
    for _ in 0..20 {
        let said = cluster.ctl(&["check"]);
        assert!(said.code == Some(0) && said.stdout.matches(":  ok\n").count() == 3, "{said:?}");
    }
    over.store(true, Ordering::Relaxed);
    let sets: u64 = writers.into_iter().map(|writer| writer.join().expect("it ends")).sum();
    assert!(sets > 200, "{sets}");
    cluster.assert_sound();
}

#[test]
fn troubles_of_checks_are_one_line() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    cluster.ctl(&["status", "--repair"]).complains(2, &["only check takes --repair"]);
    cluster.ctl(&["check", "more"]).complains(2, &["take something more"]);
    cluster.kill_server(1);
    let said = cluster.ctl(&["check"]);
    assert!(said.code == Some(0) && said.stdout.lines().count() == 2, "those that are left are alike: {said:?}");
    (0..3).for_each(|i| cluster.servers[i].kill());
    cluster.until("all are taken for dead", |s| s.active() == 0);
    cluster.ctl(&["check"]).complains(1, &["no server is attached and active"]);
}
