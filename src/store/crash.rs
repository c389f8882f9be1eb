//! Kills a process that writes into a store, again and again, and looks for everything it acknowledged.
//!
//! The writer is this test binary, run for one test that calls [`write_until_killed`]. On its output it tells what it
//! is about to change, and that this is durable: pipes outlive their writers, so nothing told is lost. A key must then
//! be as last acknowledged, or as the changes under way would have it.

use super::conformance::{Chance, Opener, commit, dbkey, dbval, get, mark, put, scan};
use crate::logic::record::{dbkey_hash, version_of, worker_of};
use crate::store::Record;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Names the directory that the writer works in; its `store` is the store, `copy` a backup.
const DIR_VAR: &str = "KUMO_TEST_CRASH_DIR";
/// Seeds the writer; its versions begin above.
const SEED_VAR: &str = "KUMO_TEST_CRASH_SEED";
const KEYS: u64 = 2000;

/// What a key holds: a version, or nothing.
type Held = Option<u64>;

/// The only dbval of a version.
fn value_of(version: u64) -> Vec<u8> {
    match version % 97 {
        0 => mark(version),
        1 => dbval(version, &vec![version as u8; 200_000]),
        n => dbval(version, &vec![version as u8; n as usize * 20]),
    }
}

/// The writer: does nothing in an ordinary run of the tests, and works until it is killed in a run by [`survives`].
pub fn write_until_killed(open: &Opener) {
    let (Ok(dir), Ok(seed)) = (std::env::var(DIR_VAR), std::env::var(SEED_VAR)) else { return };
    let (dir, seed) = (PathBuf::from(dir), seed.parse::<u64>().unwrap());
    let mut chance = Chance(seed);
    let store = open(&dir.join("store"), 1 + chance.below(3) as u16).unwrap();
    let mut out = std::io::stdout();
    std::thread::scope(|scope| {
        if chance.below(3) == 0 {
            scope.spawn(|| store.backup(&dir.join("copy")).unwrap());
        }
        for version in (seed << 32..).step_by(1000) {
            let changes = (0..1 + chance.below(60)).map(|n| (chance.below(KEYS), version + n, chance.below(8) == 0));
            let changes: Vec<_> = changes.collect();
            let told: Vec<String> = changes
                .iter()
                .map(|(key, version, forget)| if *forget { format!("{key}:") } else { format!("{key}:{version}") })
                .collect();
            out.write_all(format!("\ntry {}\n", told.join(" ")).as_bytes()).unwrap();
            for (key, version, forget) in changes {
                if forget {
                    forget_whatever_it_holds(&*store, &dbkey(key));
                } else {
                    put(&*store, &dbkey(key), seed, &value_of(version));
                }
            }
            commit(&*store);
            out.write_all(b"\nack\n").unwrap();
            store.maintain(1 << 20).unwrap();
        }
    });
}

fn forget_whatever_it_holds(store: &dyn super::Store, dbkey: &[u8]) {
    let shard = worker_of(dbkey_hash(dbkey).unwrap(), store.shards().len() as u16);
    let mut shard = store.shards()[usize::from(shard)].lock().unwrap();
    let stamp = shard.get(dbkey).unwrap().map(|r| r.stamp());
    if let Some(stamp) = stamp {
        assert!(shard.forget(dbkey, stamp).unwrap());
    }
}

/// Runs `writer`, the test's full name, `rounds` times on one store, kills it at random moments, and checks the store
/// after each.
pub fn survives(open: &Opener, writer: &str, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::<u64, Held>::new();
    for seed in 1..=rounds {
        let told = run_and_kill(dir.path(), writer, seed);
        let (mut under_way, mut acks) = (Vec::new(), 0);
        for line in &told {
            if let Some(changes) = line.strip_prefix("try ") {
                under_way = changes.split(' ').map(parse_change).collect();
            } else if line == "ack" {
                acknowledged.extend(under_way.drain(..));
                acks += 1;
            }
        }
        let copied = check_copy(open, &dir.path().join("copy"));
        let store = open(&dir.path().join("store"), 2).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let mut present = 0;
        for key in 0..KEYS {
            let held = held(&*store, key);
            let last = acknowledged.get(&key).copied().flatten();
            let fine = held == last || under_way.contains(&(key, held));
            assert!(fine, "seed {seed}, key {key}: holds {held:?}, acknowledged {last:?}");
            acknowledged.insert(key, held);
            present += usize::from(held.is_some());
        }
        assert_eq!(scan(&*store, 100).len(), present);
        let marks: u64 = store.shards().iter().map(|s| s.lock().unwrap().marks()).sum();
        assert_eq!(store.items() + marks, present as u64, "seed {seed}");
        eprintln!("seed {seed}: {acks} acknowledged, {present} records, copy {copied}");
        store.close().unwrap();
    }
}

/// `KEY:VERSION` or, of a key forgotten, `KEY:`.
fn parse_change(change: &str) -> (u64, Held) {
    let (key, version) = change.split_once(':').unwrap();
    (key.parse().unwrap(), (!version.is_empty()).then(|| version.parse().unwrap()))
}

/// Lets the writer work for a random number of acknowledgements or a random time from its start, kills it, and
/// returns the whole lines that it wrote.
fn run_and_kill(dir: &Path, writer: &str, seed: u64) -> Vec<String> {
    let mut chance = Chance(!seed);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([writer, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR_VAR, dir)
        .env(SEED_VAR, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    if chance.below(3) == 0 {
        // Not to wait for anything: the kill may hit any moment, also of opening.
        std::thread::sleep(Duration::from_micros(chance.below(60_000)));
    } else {
        let most = if chance.below(6) == 0 { 300 } else { 40 };
        let mut acks = chance.below(most);
        while acks > 0 && lines.read_line(&mut text).unwrap() > 0 {
            acks -= u64::from(text.ends_with("\nack\n"));
        }
    }
    let ended = child.try_wait().unwrap();
    assert!(ended.is_none(), "the writer ended by itself: {ended:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    while lines.read_line(&mut text).unwrap() > 0 {}
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// The version that a key holds, after a look at its value.
fn held(store: &dyn super::Store, key: u64) -> Held {
    get(store, &dbkey(key)).map(|(epoch, dbval)| {
        let version = version_of(&dbval).unwrap().0;
        let record = Record { epoch, dbval: &dbval };
        assert!(record.dbval == value_of(version) && epoch == version >> 32, "a record that nobody wrote");
        version
    })
}

/// A backup that the killed writer made is there as a whole or not at all.
fn check_copy(open: &Opener, copy: &Path) -> &'static str {
    if !copy.exists() {
        return "not there";
    }
    let store = open(copy, 1).unwrap();
    for key in 0..KEYS {
        held(&*store, key);
    }
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(copy).unwrap();
    "whole"
}
