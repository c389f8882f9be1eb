//! Merges of real directories, compared with what their stores answer themselves.

use super::*;
use crate::logic::record::Stamp;
use crate::store::Store;
use crate::store::conformance::{Contents, commit, dbkey as key, dbval, forget, get, put, scan};
use crate::store::log::{self, LogStore};
use crate::store::sled::{self, SledStore};

/// Hears all, and has enough after some looks.
struct Ear {
    looks: u64,
    notes: Vec<String>,
}

impl Watcher for Ear {
    fn progress(&mut self, progress: Progress) -> bool {
        assert!(progress.source.is_none() || progress.done <= progress.total, "{progress:?}");
        self.looks = self.looks.saturating_sub(1);
        self.looks > 0
    }

    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
}

fn ear() -> Ear {
    Ear { looks: u64::MAX, notes: Vec::new() }
}

fn order(dest: &Path, engine: Engine, sources: &[PathBuf]) -> Order {
    Order { dest: dest.to_owned(), engine, sources: sources.to_vec(), overwrite: false }
}

fn value(version: u64, len: usize) -> Vec<u8> {
    dbval(version, &(0..len).map(|i| (version as u8).wrapping_add(i as u8)).collect::<Vec<u8>>())
}

fn open_log(dir: &Path, shards: u16) -> LogStore {
    let options =
        log::Options { shards, sync: false, sync_thread: false, segment_bytes: 4096, ..log::Options::default() };
    LogStore::open(Arc::new(RealDisk), dir, options).unwrap()
}

fn open_sled(dir: &Path, shards: u16) -> SledStore {
    SledStore::open(dir, shards, sled::Options { reserve_bytes: 0, ..sled::Options::default() }).unwrap()
}

/// What a store says that it holds.
fn content(store: &dyn Store) -> Contents {
    scan(store, 100)
}

fn stamp_of((epoch, dbval): &(u64, Vec<u8>)) -> Stamp {
    Record { epoch: *epoch, dbval }.stamp()
}

/// Random work on a store: newer and older stamps, marks, forgets.
fn work(store: &dyn Store, rng: &mut u64, keys: u64) {
    let mut draw = |below: u64| {
        *rng ^= *rng << 13;
        *rng ^= *rng >> 7;
        *rng ^= *rng << 17;
        *rng % below
    };
    for _ in 0..300 {
        let dbkey = key(draw(keys));
        let (epoch, version) = (draw(3), 1 + draw(1 << 20));
        match draw(10) {
            0 => put(store, &dbkey, epoch, &version.to_be_bytes()),
            1 | 2 => {
                if let Some(held) = get(store, &dbkey) {
                    assert!(forget(store, &dbkey, stamp_of(&held)));
                }
            }
            _ => put(store, &dbkey, epoch, &value(version, draw(60) as usize)),
        }
        if draw(20) == 0 {
            commit(store);
            store.maintain(1 << 16).unwrap();
        }
    }
    commit(store);
}

#[test]
fn a_merge_holds_what_the_newest_of_the_stores_holds() {
    let seed = crate::store::fs::Disk::random(&RealDisk).unwrap() | 1;
    println!("seed {seed}");
    let mut rng = seed;
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let (mut sources, mut expected, mut read) = (Vec::new(), Contents::new(), 0);
        for n in 0..4_u64 {
            let path = dir.path().join(format!("source-{n}"));
            let held = if n == 3 {
                let store = open_sled(&path, 2);
                work(&store, &mut rng, 80);
                let held = content(&store);
                store.close().unwrap();
                held
            } else {
                // Another number of shards each time, as after a change of hardware; the last is killed.
                for shards in [1 + n as u16, 4, 2] {
                    let store = open_log(&path, shards);
                    work(&store, &mut rng, 80);
                    if shards != 2 {
                        store.close().unwrap();
                    }
                }
                let store = open_log(&path, 3);
                let held = content(&store);
                store.close().unwrap();
                held
            };
            read += held.len();
            for (dbkey, record) in held {
                match expected.get(&dbkey) {
                    Some(other) if stamp_of(other) >= stamp_of(&record) => {}
                    _ => drop(expected.insert(dbkey, record)),
                }
            }
            sources.push(path);
        }
        assert!(read > expected.len() && !expected.is_empty());
        for (name, engine) in [("log", Engine::Log), ("sled", Engine::Sled)] {
            let dest = dir.path().join(name);
            let mut ear = ear();
            let summary = merge(&order(&dest, engine, &sources), &mut ear).unwrap();
            assert_eq!((summary.damaged(), ear.notes), (0, vec![]));
            let marks = expected.values().filter(|(_, dbval)| is_mark(dbval)).count() as u64;
            assert_eq!((summary.values + summary.marks, summary.marks), (expected.len() as u64, marks));
            let merged: Box<dyn Store> = match engine {
                Engine::Log => Box::new(open_log(&dest, 1 + round % 3)),
                Engine::Sled => Box::new(open_sled(&dest, 2)),
            };
            assert_eq!(content(merged.as_ref()), expected, "round {round}, {name}");
            assert_eq!(merged.items(), summary.values);
            assert_eq!(merged.damage(), Vec::<String>::new());
            // It is a store like others: it goes on.
            put(merged.as_ref(), &key(1), 9, &value(1, 5));
            commit(merged.as_ref());
            merged.close().unwrap();
        }
    }
}

#[test]
fn large_merges_go_through_many_parts() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts::new(dir.path(), 5 * (32 << 20)).unwrap();
    let (mut parts, mut expected) = (parts, 0);
    for n in 0..5000 {
        let (dbkey, dbval) = (key(n), value(n + 1, (n % 50) as usize));
        for source in 0..2 {
            let entry = Draft { kind: Kind::Put, lsn: n, epoch: 0, dbkey: &dbkey, dbval: &dbval };
            parts.add(source, &entry).unwrap();
            expected += 1;
        }
    }
    let written = parts.finish().unwrap();
    assert_eq!(written.len(), 5);
    let (mut seen, mut last) = (0, Vec::new());
    for part in written {
        assert!(part.len() > 0);
        part.settle(&mut |entries| {
            assert_eq!(entries.len(), 2, "both sources have each key");
            assert!(entries[0].dbkey > last, "parts and their entries are in the order of the ring");
            last.clone_from(&entries[0].dbkey);
            seen += entries.len();
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(seen, expected);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "parts are removed");
}

fn entry(source: usize, kind: Kind, lsn: u64, key: &[u8], epoch: u64, version: u64) -> Entry {
    let dbkey = [&7_u64.to_be_bytes()[..], key].concat();
    Entry { source, kind, lsn, epoch, dbkey, dbval: value(version, 1) }
}

fn winners(mut entries: Vec<Entry>) -> Vec<(Vec<u8>, u64)> {
    let forward: Vec<Entry> = settle(&mut entries).cloned().collect();
    entries.reverse();
    let backward: Vec<Entry> = settle(&mut entries).cloned().collect();
    assert_eq!(forward, backward, "the order of the file does not matter");
    forward.iter().map(|e| (e.dbkey[8..].to_vec(), crate::logic::record::version_of(&e.dbval).unwrap().0)).collect()
}

#[test]
fn a_source_is_settled_by_its_own_order_before_stamps_count() {
    use Kind::{Forget, Lost, Put};
    let (a, b) = (&b"a"[..], &b"b"[..]);
    let won = |key: &[u8], version| (key.to_vec(), version);
    // A copy that took back a newer stamp: the later one in the log counts.
    let earlier_is_newer = vec![entry(0, Put, 1, a, 1, 90), entry(0, Put, 2, a, 1, 50)];
    assert_eq!(winners(earlier_is_newer), [won(a, 50)]);
    // Across sources the stamp counts, its epoch first, and log numbers do not.
    let sources = vec![entry(0, Put, 900, a, 1, 50), entry(1, Put, 1, a, 2, 10), entry(2, Put, 5, a, 1, 60)];
    assert_eq!(winners(sources), [won(a, 10)]);
    // What one source has forgotten, another may have.
    let forgotten = vec![entry(0, Put, 1, a, 1, 90), entry(0, Forget, 2, a, 0, 0), entry(1, Put, 1, a, 1, 20)];
    assert_eq!(winners(forgotten), [won(a, 20)]);
    assert_eq!(winners(vec![entry(0, Put, 1, a, 1, 90), entry(0, Forget, 2, a, 0, 0)]), []);
    // Forgotten, and there again.
    let again = vec![entry(0, Put, 1, a, 1, 90), entry(0, Forget, 2, a, 0, 0), entry(0, Put, 3, a, 1, 7)];
    assert_eq!(winners(again), [won(a, 7)]);
    // What was lost hides all older ones there, of any key at the place; newer ones stay, and those of others.
    let lost = vec![
        entry(0, Put, 1, a, 1, 90),
        entry(0, Put, 2, b, 1, 91),
        entry(0, Lost, 3, b"", 0, 0),
        entry(0, Put, 4, b, 1, 92),
        entry(1, Put, 1, a, 1, 30),
    ];
    assert_eq!(winners(lost), [won(a, 30), won(b, 92)]);
    // A number that damage has cut back to that of a good record does not hide it.
    assert_eq!(winners(vec![entry(0, Lost, 4, b"", 0, 0), entry(0, Put, 4, b, 1, 92)]), [won(b, 92)]);
}

#[test]
fn a_deletion_mark_is_kept_where_it_is_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..2).map(|n| dir.path().join(format!("s{n}"))).collect();
    let stores: Vec<LogStore> = sources.iter().map(|path| open_log(path, 1)).collect();
    let mark = |version: u64| version.to_be_bytes();
    put(&stores[0], &key(1), 1, &value(10, 3));
    put(&stores[1], &key(1), 1, &mark(11));
    put(&stores[0], &key(2), 1, &mark(10));
    put(&stores[1], &key(2), 1, &value(11, 3));
    stores.iter().for_each(|store| {
        commit(store);
        store.close().unwrap();
    });
    let dest = dir.path().join("dest");
    let summary = merge(&order(&dest, Engine::Log, &sources), &mut ear()).unwrap();
    assert_eq!((summary.values, summary.marks), (1, 1));
    let merged = content(&open_log(&dest, 1));
    assert_eq!((&merged[&key(1)].1[..], &merged[&key(2)].1), (&mark(11)[..], &value(11, 3)));
}

/// Turns over a bit of the last place in the directory's segments where `what` lies.
fn damage(dir: &Path, what: &[u8]) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "log"));
    paths.sort();
    for path in paths.iter().rev() {
        let mut bytes = std::fs::read(path).unwrap();
        if let Some(at) = bytes.windows(what.len()).rposition(|w| w == what) {
            bytes[at + what.len() - 1] ^= 4;
            std::fs::write(path, bytes).unwrap();
            return;
        }
    }
    panic!("it is in no segment");
}

#[test]
fn what_is_damaged_is_left_out_and_its_older_versions_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..2).map(|n| dir.path().join(format!("s{n}"))).collect();
    let store = open_log(&sources[0], 1);
    put(&store, &key(1), 1, &value(10, 3));
    put(&store, &key(2), 1, &value(10, 3));
    put(&store, &key(1), 1, &value(20, 30));
    put(&store, &key(3), 1, &value(22, 30));
    put(&store, &key(2), 1, &value(21, 30));
    put(&store, &key(4), 1, &value(23, 30));
    commit(&store);
    store.close().unwrap();
    let other = open_log(&sources[1], 1);
    put(&other, &key(2), 1, &value(15, 3));
    commit(&other);
    other.close().unwrap();
    damage(&sources[0], &value(20, 30));
    damage(&sources[0], &value(21, 30));

    let (dest, mut ear) = (dir.path().join("dest"), ear());
    let summary = merge(&order(&dest, Engine::Log, &sources), &mut ear).unwrap();
    assert_eq!((summary.damaged(), summary.sources[0].damaged), (2, 2));
    assert!(ear.notes.iter().all(|n| n.contains("s0/") && n.contains("damaged bytes at byte")), "{:?}", ear.notes);
    let merged = content(&open_log(&dest, 1));
    assert_eq!(merged.len(), 3, "the key of the damaged record that nobody else has is left out");
    assert_eq!((&merged[&key(2)].1, &merged[&key(3)].1), (&value(15, 3), &value(22, 30)));
}

#[test]
fn what_is_in_use_in_the_way_or_foreign_is_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let (good, dest) = (dir.path().join("good"), dir.path().join("dest"));
    let store = open_log(&good, 1);
    let refused = |order: &Order, word: &str| {
        let line = merge(order, &mut ear()).expect_err("it was merged").to_string();
        assert!(line.contains(word) && !line.contains('\n'), "{line}");
        assert!(!dest.with_extension("tmp").exists(), "something is left behind");
    };
    let from = |source: &Path| order(&dest, Engine::Log, &[source.to_owned()]);
    refused(&from(&good), "in use");
    put(&store, &key(1), 1, &value(1, 1));
    commit(&store);
    store.close().unwrap();
    refused(&from(&dir.path().join("nothing")), "does not exist");
    let (foreign_dir, foreign_file) = (dir.path().join("etc"), dir.path().join("passwd"));
    std::fs::create_dir(&foreign_dir).unwrap();
    std::fs::write(foreign_dir.join("kumofs"), "something else").unwrap();
    std::fs::write(&foreign_file, "root:x:0:0").unwrap();
    refused(&from(&foreign_dir), "is not a kumofs database");
    refused(&from(&foreign_file), "is not a kumofs database");

    // An interrupted merge is not taken up, nor taken for a result.
    let tmp = dir.path().join("dest.tmp");
    std::fs::create_dir(&tmp).unwrap();
    let line = merge(&from(&good), &mut ear()).unwrap_err().to_string();
    assert!(line.contains("dest.tmp") && line.contains("interrupted") && tmp.exists(), "{line}");
    std::fs::remove_dir(&tmp).unwrap();

    merge(&from(&good), &mut ear()).unwrap();
    refused(&from(&good), "exists");
    let replacing =
        |source: &Path, dest: &Path| Order { overwrite: true, ..order(dest, Engine::Log, &[source.into()]) };
    refused(&replacing(&good, &good), "is a source");
    refused(&replacing(&good, &foreign_dir), "is not a kumofs database");
    assert!(foreign_dir.join("kumofs").exists());
    let held = open_log(&dest, 1);
    refused(&replacing(&good, &dest), "in use");
    put(&held, &key(2), 1, &value(1, 1));
    commit(&held);
    held.close().unwrap();
    drop(held);
    merge(&replacing(&good, &dest), &mut ear()).unwrap();
    let after = content(&open_log(&dest, 1));
    assert_eq!(after.keys().cloned().collect::<Vec<_>>(), [key(1)]);
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 4, "good, etc, passwd, dest");
}

#[test]
fn one_that_is_stopped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let store = open_log(&source, 1);
    (0..50).for_each(|n| put(&store, &key(n), 1, &value(1, 1)));
    commit(&store);
    store.close().unwrap();
    for looks in [1, 20, 60, 99] {
        let mut ear = Ear { looks, notes: Vec::new() };
        let dest = dir.path().join("dest");
        let line = merge(&order(&dest, Engine::Log, std::slice::from_ref(&source)), &mut ear).unwrap_err().to_string();
        assert!(line.contains("nothing was made"), "{line}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "after {looks} looks");
    }
}

#[test]
fn the_newest_epoch_beside_the_sources_comes_to_lie_beside_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..3).map(|n| dir.path().join(format!("source-{n}"))).collect();
    for (n, path) in (0..).zip(&sources) {
        let store = open_log(path, 1);
        put(&store, &key(n), 5 + n, &value(1 + n, 1));
        commit(&store);
        store.close().unwrap();
    }
    let dest = dir.path().join("dest");
    merge(&order(&dest, Engine::Log, &sources), &mut ear()).unwrap();
    assert_eq!(restored::load(&RealDisk, &dest, BACKUP_EPOCH_FILE).unwrap(), None, "no source tells an epoch");
    let epoch = |number, flushed| Epoch { number, flushed, ..Epoch::default() };
    restored::save(&RealDisk, &sources[0], &epoch(8, 7)).unwrap();
    restored::save(&RealDisk, &sources[1], &epoch(6, 2)).unwrap();
    let again = Order { overwrite: true, ..order(&dest, Engine::Log, &sources) };
    merge(&again, &mut ear()).unwrap();
    assert_eq!(restored::load(&RealDisk, &dest, BACKUP_EPOCH_FILE).unwrap(), Some(epoch(8, 7)));
    // A server's own database has it under another name.
    std::fs::rename(sources[0].join(BACKUP_EPOCH_FILE), sources[2].join(EPOCH_FILE)).unwrap();
    merge(&again, &mut ear()).unwrap();
    assert_eq!(restored::load(&RealDisk, &dest, BACKUP_EPOCH_FILE).unwrap(), Some(epoch(8, 7)));
}
