//! A writing process is killed at random moments, by a signal, on a real disk.
//!
//! The test starts itself again as the writer, which tells on its standard output what it acknowledged. Every moment
//! may be inside compaction, hint writing, opening or a backup. `KUMO_TEST_ROUNDS` sets how often.

use super::*;
use crate::store::fs::RealDisk;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const HOME: &str = "KUMO_TEST_WRITER_HOME";
const START: &str = "KUMO_TEST_WRITER_START";
const KEYS: u64 = 300;

fn options(start: u64) -> Options {
    Options { shards: 1 + (start / 100_000 % 3) as u16, segment_bytes: 32 << 10, open_threads: 2, ..tiny(1) }
}

fn noise(n: u64) -> u64 {
    let z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}

/// What operation `i` does: its key, and the value it leaves.
fn operation(i: u64) -> (u64, Option<Vec<u8>>) {
    let dice = noise(i);
    let left = match dice % 10 {
        0 => None,
        1 => Some(mark(i)),
        _ => Some(value(i, (dice / 1000 % 300) as usize)),
    };
    (dice / 16 % KEYS, left)
}

/// Does operations from `start` on, for ever.
fn write_for_ever(home: &Path, start: u64) {
    let store = LogStore::open(Arc::new(RealDisk), &home.join("db"), options(start)).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                store.maintain(20_000).unwrap();
            }
        });
        scope.spawn(|| {
            for i in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                store.backup(&home.join(format!("backup-{start}-{i}"))).unwrap();
            }
        });
        let mut out = std::io::stdout();
        for i in start.. {
            let (n, left) = operation(i);
            match left {
                Some(dbval) => put(&store, &key(n), &dbval).unwrap(),
                None => {
                    if let Some(old) = get(&store, &key(n)).unwrap() {
                        let version = u64::from_be_bytes(old[..8].try_into().unwrap());
                        assert!(forget(&store, &key(n), version).unwrap());
                    }
                }
            }
            if noise(i).is_multiple_of(7) {
                commit(&store).unwrap();
                if writeln!(out, "acknowledged {i}").and_then(|()| out.flush()).is_err() {
                    // The reader is gone: nobody needs us any more.
                    ended.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    });
}

#[test]
#[ignore = "the process that the next test kills"]
fn writer() {
    let Ok(home) = std::env::var(HOME) else { return };
    write_for_ever(Path::new(&home), std::env::var(START).unwrap().parse().unwrap());
}

/// Starts a writer, kills it after `lines` acknowledgements; returns the last operation that it acknowledged.
fn life(home: &Path, start: u64, lines: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::log::tests::process::writer", "--ignored", "--nocapture", "--test-threads=1"])
        .env(HOME, home)
        .env(START, start.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut line, mut last, mut heard) = (String::new(), None, 0);
    let mut killed = false;
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let Some(number) = line.trim_end().strip_prefix("acknowledged ") else { continue };
        // A line that the kill cut off tells nothing.
        if line.ends_with('\n') {
            last = Some(number.parse().unwrap());
        }
        heard += 1;
        if heard == lines && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the writer ended by itself");
    last.unwrap()
}

#[test]
fn a_writer_that_is_killed_at_any_moment_loses_nothing_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let mut known: BTreeMap<u64, Option<Vec<u8>>> = BTreeMap::new();
    for round in 0..rounds(25) {
        let start = (round + 1) * 100_000;
        let acknowledged = life(home.path(), start, 1 + noise(round) % 150);
        for i in start..=acknowledged {
            let (n, left) = operation(i);
            known.insert(n, left);
        }
        let store = LogStore::open(Arc::new(RealDisk), &home.path().join("db"), options(start + 100_000)).unwrap();
        assert_eq!(store.damage(), Vec::<String>::new());
        // What the writer did after that, it may or may not have done.
        let mut later: BTreeMap<u64, Vec<Option<Vec<u8>>>> = BTreeMap::new();
        for i in acknowledged + 1..acknowledged + 2000 {
            let (n, left) = operation(i);
            later.entry(n).or_default().push(left);
        }
        for n in 0..KEYS {
            let found = get(&store, &key(n)).unwrap();
            let expected = known.get(&n).cloned().flatten();
            let possible = found == expected || later.get(&n).is_some_and(|l| l.contains(&found));
            assert!(possible, "round {round}: key {n} is lost or stale");
            known.insert(n, found);
        }
        store.close().unwrap();
        drop(store);
        check_backups(home.path());
    }
}

/// Those that have their name are whole.
fn check_backups(home: &Path) {
    for entry in std::fs::read_dir(home).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("backup-") {
            continue;
        }
        if !name.ends_with(".partial") {
            let copy = LogStore::open(Arc::new(RealDisk), &path, tiny(2)).unwrap();
            assert_eq!(copy.damage(), Vec::<String>::new());
            for (dbkey, dbval) in scan(&copy, 50) {
                let version = u64::from_be_bytes(dbval[..8].try_into().unwrap());
                let (n, left) = operation(version);
                assert_eq!((key(n), left), (dbkey, Some(dbval)));
            }
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}
