//! What every engine must do, as tests over a function that opens one.
//!
//! An engine's tests say `conformance!(opener)`, where `opener(dir, shards)` opens or makes a store; each scenario then
//! is a test of its own. Helpers for other tests of stores are here too.

use super::{Commit, Maintained, Record, ScanVisitor, Shard, Store, StoreError};
use crate::logic::clock::ClockTime;
use crate::logic::record::{LAYOUT_FULL, Stamp, dbkey_hash, encode_dbkey, encode_header, worker_of};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Opens or makes a store.
pub type Opener = dyn Fn(&Path, u16) -> Result<Box<dyn Store>, StoreError>;

/// All records of a store: epoch and dbval by dbkey.
pub type Contents = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// Makes a test of each scenario here.
macro_rules! conformance {
    ($opener:expr) => {
        $crate::store::conformance::scenarios! { $opener;
            records_come_back_as_put
            put_newer_keeps_the_newest
            forget_drops_the_stamp_named_and_for_good
            committed_records_become_durable_and_survive_reopening
            another_number_of_shards_finds_every_record
            scans_visit_each_record_once_in_ring_order
            keys_that_share_a_ring_position_are_scanned_in_one_step
            a_scan_goes_on_while_records_change
            random_changes_agree_with_a_map
            a_backup_holds_what_was_committed
            a_backup_is_taken_while_serving
            a_backup_overwrites_nothing
            a_second_opener_is_refused
            foreign_directories_and_files_are_refused
            the_disk_id_stays_and_is_its_own
            bytes_on_disk_are_counted
            what_comes_in_pieces_is_a_record_like_others
        }
    };
}
pub(crate) use conformance;

macro_rules! scenarios {
    ($opener:expr; $($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                $crate::store::conformance::$scenario(&$opener);
            }
        )*
    };
}
pub(crate) use scenarios;

/// The dbkey of test key `n`.
pub fn dbkey(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_dbkey(format!("key-{n}").as_bytes(), &mut out);
    out
}

/// A dbval with data.
pub fn dbval(version: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_header(ClockTime(version), LAYOUT_FULL, 0, 0, 0, &mut out);
    out.extend_from_slice(data);
    out
}

/// The dbval of a deletion mark.
pub fn mark(version: u64) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}

/// The stamp of an epoch and a version.
pub fn stamp(epoch: u64, version: u64) -> Stamp {
    Stamp { epoch, version: ClockTime(version) }
}

fn shard_of(store: &dyn Store, dbkey: &[u8]) -> usize {
    usize::from(worker_of(dbkey_hash(dbkey).unwrap(), store.shards().len() as u16))
}

/// Puts a record into the shard that it belongs to.
pub fn put(store: &dyn Store, dbkey: &[u8], epoch: u64, dbval: &[u8]) {
    let mut shard = store.shards()[shard_of(store, dbkey)].lock().unwrap();
    shard.put(dbkey, Record { epoch, dbval }).unwrap();
}

fn put_newer(store: &dyn Store, dbkey: &[u8], epoch: u64, dbval: &[u8]) -> bool {
    let mut shard = store.shards()[shard_of(store, dbkey)].lock().unwrap();
    shard.put_newer(dbkey, Record { epoch, dbval }).unwrap()
}

/// Forgets a record of that stamp; true when it was there.
pub fn forget(store: &dyn Store, dbkey: &[u8], stamp: Stamp) -> bool {
    store.shards()[shard_of(store, dbkey)].lock().unwrap().forget(dbkey, stamp).unwrap()
}

/// The epoch and the dbval of a key.
pub fn get(store: &dyn Store, dbkey: &[u8]) -> Option<(u64, Vec<u8>)> {
    let mut shard = store.shards()[shard_of(store, dbkey)].lock().unwrap();
    shard.get(dbkey).unwrap().map(|r| (r.epoch, r.dbval.to_vec()))
}

/// Commits all shards and waits until that is durable.
pub fn commit(store: &dyn Store) {
    let (grew, waiting) = mpsc::channel();
    store.on_durable(Box::new(move |shard| {
        // Nobody listens any more when the callback of an earlier commit is called late.
        let _ = grew.send(shard);
    }));
    for (number, shard) in store.shards().iter().enumerate() {
        let commit = shard.lock().unwrap().commit().unwrap();
        if let Commit::Pending(ticket) = commit {
            while store.durable(number) < ticket {
                waiting.recv_timeout(Duration::from_secs(30)).expect("a commit becomes durable in seconds");
            }
        }
    }
}

/// All records, by scans of `budget` of all shards. Checks their order, and that each is in its shard.
pub fn scan(store: &dyn Store, budget: usize) -> Contents {
    visited_by(store, budget, |shard, from, budget, visit| shard.scan(from, budget, visit))
}

/// What goes through a shard, from a position on.
type Going = fn(&mut dyn Shard, u64, usize, &mut ScanVisitor<'_>) -> Result<Option<u64>, StoreError>;

fn visited_by(store: &dyn Store, budget: usize, going: Going) -> Contents {
    let mut contents = Contents::new();
    for (number, shard) in store.shards().iter().enumerate() {
        let (mut from, mut last) = (0, 0);
        loop {
            let mut visited = 0;
            let next = going(&mut *shard.lock().unwrap(), from, budget, &mut |dbkey, record| {
                let (hash, record) = (dbkey_hash(dbkey).unwrap(), record.unwrap());
                assert!(hash >= from && hash >= last, "out of order: {hash:x} after {last:x}");
                assert_eq!(shard_of(store, dbkey), number);
                let before = contents.insert(dbkey.to_vec(), (record.epoch, record.dbval.to_vec()));
                assert_eq!(before, None, "visited twice");
                (last, visited) = (hash, visited + 1);
            });
            let Some(next) = next.unwrap() else { break };
            assert!(visited >= budget && next > last, "{visited} of {budget}; {last:x} to {next:x}");
            from = next;
        }
    }
    contents
}

fn marks(store: &dyn Store) -> u64 {
    store.shards().iter().map(|s| s.lock().unwrap().marks()).sum()
}

/// Checks that counts, scans and gets tell the same.
pub fn check(store: &dyn Store, expected: &Contents) {
    assert!(scan(store, 7) == *expected, "a scan differs from what is expected");
    let surveyed = visited_by(store, 7, |shard, from, budget, visit| shard.survey(from, budget, 100, &|_| true, visit));
    assert!(surveyed == *expected, "a survey differs from what is expected");
    let expected_marks = expected.values().filter(|(_, v)| v.len() == 8).count() as u64;
    assert_eq!((store.items(), marks(store)), (expected.len() as u64 - expected_marks, expected_marks));
    for (dbkey, record) in expected {
        assert_eq!(get(store, dbkey).as_ref(), Some(record));
    }
    assert_eq!(store.damage(), Vec::<String>::new());
}

fn maintain(store: &dyn Store) {
    while store.maintain(1 << 20).unwrap() == Maintained::Worked {}
}

/// Records `0..count` put and committed, with data of growing length.
pub fn filled(store: &dyn Store, count: u64) -> Contents {
    let mut contents = Contents::new();
    for n in 0..count {
        let value = if n % 10 == 9 { mark(n + 1) } else { dbval(n + 1, &vec![b'v'; n as usize % 300]) };
        put(store, &dbkey(n), n % 3, &value);
        contents.insert(dbkey(n), (n % 3, value));
    }
    commit(store);
    contents
}

/// A small seeded generator (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// How many rounds a randomized test runs: `KUMO_TEST_ROUNDS`, or its own default.
pub fn rounds(default: u64) -> u64 {
    std::env::var("KUMO_TEST_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn records_come_back_as_put(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 2).unwrap();
    let big = vec![b'x'; 1 << 20];
    let values = [dbval(1, b""), dbval(2, b"data"), dbval(3, &big), mark(4), dbval(5, &[0; 1000])];
    let mut expected = Contents::new();
    for (n, value) in values.iter().enumerate() {
        put(&*store, &dbkey(n as u64), n as u64, value);
        expected.insert(dbkey(n as u64), (n as u64, value.clone()));
    }
    check(&*store, &expected);
    assert_eq!(get(&*store, &dbkey(99)), None);
    for (n, value) in values.iter().rev().enumerate() {
        put(&*store, &dbkey(n as u64), 7, value);
        expected.insert(dbkey(n as u64), (7, value.clone()));
    }
    commit(&*store);
    check(&*store, &expected);
    store.close().unwrap();
}

pub fn put_newer_keeps_the_newest(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 1).unwrap();
    let key = dbkey(1);
    assert!(put_newer(&*store, &key, 1, &dbval(5, b"first")));
    assert!(!put_newer(&*store, &key, 1, &dbval(5, b"same stamp")));
    assert!(!put_newer(&*store, &key, 1, &mark(4)));
    assert!(!put_newer(&*store, &key, 0, &dbval(9, b"earlier epoch")));
    assert_eq!(get(&*store, &key), Some((1, dbval(5, b"first"))));
    assert!(put_newer(&*store, &key, 1, &mark(6)));
    assert!(put_newer(&*store, &key, 2, &dbval(1, b"later epoch")));
    assert_eq!(get(&*store, &key), Some((2, dbval(1, b"later epoch"))));
    assert_eq!((store.items(), marks(&*store)), (1, 0));
}

pub fn forget_drops_the_stamp_named_and_for_good(open: &Opener) {
    let dir = temp();
    let mut expected = {
        let store = open(dir.path(), 2).unwrap();
        let mut expected = filled(&*store, 50);
        // Twice, so that an older record is there to come back.
        for n in 0..50 {
            put(&*store, &dbkey(n), 5, &dbval(100 + n, b"again"));
            expected.insert(dbkey(n), (5, dbval(100 + n, b"again")));
        }
        commit(&*store);
        for n in 0..25 {
            assert!(!forget(&*store, &dbkey(n), stamp(4, 100 + n)) && !forget(&*store, &dbkey(n), stamp(5, 99 + n)));
            assert!(forget(&*store, &dbkey(n), stamp(5, 100 + n)));
            assert!(!forget(&*store, &dbkey(n), stamp(5, 100 + n)));
            expected.remove(&dbkey(n));
        }
        check(&*store, &expected);
        commit(&*store);
        store.close().unwrap();
        expected
    };
    let store = open(dir.path(), 2).unwrap();
    check(&*store, &expected);
    maintain(&*store);
    check(&*store, &expected);
    // An older stamp may come in again: nothing remembers the one forgotten.
    assert!(put_newer(&*store, &dbkey(0), 1, &dbval(1, b"older")));
    expected.insert(dbkey(0), (1, dbval(1, b"older")));
    check(&*store, &expected);
}

pub fn committed_records_become_durable_and_survive_reopening(open: &Opener) {
    let dir = temp();
    let mut expected = Contents::new();
    for round in 0..3 {
        let store = open(dir.path(), 2).unwrap();
        check(&*store, &expected);
        commit(&*store);
        for n in round * 100..round * 100 + 150 {
            put(&*store, &dbkey(n), round, &dbval(n, b"some data"));
            expected.insert(dbkey(n), (round, dbval(n, b"some data")));
        }
        commit(&*store);
        for shard in store.shards() {
            assert_eq!(shard.lock().unwrap().commit().unwrap(), Commit::Done, "nothing new to wait for");
        }
        store.close().unwrap();
    }
    check(&*open(dir.path(), 2).unwrap(), &expected);
}

pub fn another_number_of_shards_finds_every_record(open: &Opener) {
    let dir = temp();
    let mut expected = filled(&*open(dir.path(), 2).unwrap(), 300);
    for shards in [1, 3, 4, 2] {
        let store = open(dir.path(), shards).unwrap();
        assert_eq!(store.shards().len(), usize::from(shards));
        check(&*store, &expected);
        let n = u64::from(shards);
        put(&*store, &dbkey(n), 9, &dbval(1000 + n, b"changed"));
        expected.insert(dbkey(n), (9, dbval(1000 + n, b"changed")));
        assert!(forget(&*store, &dbkey(10 + n), stamp((10 + n) % 3, 11 + n)));
        expected.remove(&dbkey(10 + n));
        commit(&*store);
        maintain(&*store);
        store.close().unwrap();
    }
    check(&*open(dir.path(), 2).unwrap(), &expected);
}

pub fn scans_visit_each_record_once_in_ring_order(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 2).unwrap();
    assert_eq!(scan(&*store, 1), Contents::new());
    let expected = filled(&*store, 500);
    for budget in [1, 2, 100, 10_000] {
        assert!(scan(&*store, budget) == expected, "budget {budget}");
    }
    let middle = 1 << 63;
    let mut visited = 0;
    for shard in store.shards() {
        let visit = &mut |dbkey: &[u8], _: Result<Record<'_>, StoreError>| {
            assert!(dbkey_hash(dbkey).unwrap() >= middle);
            visited += 1;
        };
        assert_eq!(shard.lock().unwrap().scan(middle, 10_000, visit).unwrap(), None);
    }
    assert_eq!(visited, expected.keys().filter(|k| dbkey_hash(k).unwrap() >= middle).count());
}

pub fn keys_that_share_a_ring_position_are_scanned_in_one_step(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 1).unwrap();
    let mut expected = Contents::new();
    for position in [0, 1, 77, u64::MAX] {
        for last in [&b""[..], b"a", b"b", b"c"] {
            let key = [&position.to_be_bytes()[..], last].concat();
            put(&*store, &key, 1, &dbval(1, last));
            expected.insert(key, (1, dbval(1, last)));
        }
    }
    check(&*store, &expected);
    for budget in 1..10 {
        assert!(scan(&*store, budget) == expected, "budget {budget}");
    }
}

pub fn a_scan_goes_on_while_records_change(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 1).unwrap();
    let before = filled(&*store, 400);
    let mut shard = store.shards()[0].lock().unwrap();
    let mut visits = BTreeMap::<Vec<u8>, u32>::new();
    let (mut from, mut step) = (Some(0), 0);
    while let Some(position) = from {
        let visit = &mut |dbkey: &[u8], record: Result<Record<'_>, StoreError>| {
            assert!(record.is_ok());
            *visits.entry(dbkey.to_vec()).or_default() += 1;
        };
        from = shard.scan(position, 20, visit).unwrap();
        for n in 0..20 {
            let n = step * 20 + n;
            shard.put(&dbkey(n % 400), Record { epoch: 9, dbval: &dbval(5000 + n, b"rewritten") }).unwrap();
            shard.put(&dbkey(1000 + n), Record { epoch: 9, dbval: &dbval(1, b"new") }).unwrap();
        }
        step += 1;
    }
    assert!(before.keys().all(|k| visits.get(k) == Some(&1)), "what is there throughout is visited once");
    assert!(visits.values().all(|count| *count == 1));
}

pub fn random_changes_agree_with_a_map(open: &Opener) {
    for seed in 0..rounds(4) {
        let mut chance = Chance(seed);
        let dir = temp();
        let mut expected = Contents::new();
        let mut store = open(dir.path(), 2).unwrap();
        for step in 1..=2000 {
            random_change(&*store, &mut expected, &mut chance, step);
            match chance.below(400) {
                0 => {
                    commit(&*store);
                    store.close().unwrap();
                    drop(store);
                    store = open(dir.path(), 1 + chance.below(3) as u16).unwrap();
                }
                1..=20 => commit(&*store),
                21..=30 => drop(store.maintain(1 << 16).unwrap()),
                31 => check(&*store, &expected),
                _ => {}
            }
        }
        eprintln!("seed {seed}: {} records", expected.len());
        check(&*store, &expected);
    }
}

fn random_change(store: &dyn Store, expected: &mut Contents, chance: &mut Chance, step: u64) {
    let key = dbkey(chance.below(150));
    let (epoch, version) = (step / 500, 1 + chance.below(step));
    let value = match chance.below(4) {
        0 => mark(version),
        _ => dbval(version, &vec![step as u8; chance.below(3000) as usize]),
    };
    let old_stamp = expected.get(&key).map(|(epoch, dbval)| Record { epoch: *epoch, dbval }.stamp());
    match chance.below(6) {
        0 => {
            let named = old_stamp.unwrap_or_default();
            assert_eq!(forget(store, &key, named), old_stamp.is_some());
            expected.remove(&key);
        }
        1 => assert_eq!(get(store, &key).as_ref(), expected.get(&key)),
        2 | 3 => {
            let newer = old_stamp.is_none_or(|old| old < stamp(epoch, version));
            assert_eq!(put_newer(store, &key, epoch, &value), newer);
            if newer {
                expected.insert(key, (epoch, value));
            }
        }
        _ => {
            put(store, &key, epoch, &value);
            expected.insert(key, (epoch, value));
        }
    }
}

pub fn a_backup_holds_what_was_committed(open: &Opener) {
    let dir = temp();
    let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
    let store = open(&original, 2).unwrap();
    let mut expected = filled(&*store, 300);
    assert!(forget(&*store, &dbkey(7), stamp(1, 8)));
    expected.remove(&dbkey(7));
    commit(&*store);
    store.backup(&copy).unwrap();
    put(&*store, &dbkey(8), 9, &mark(1000));
    commit(&*store);
    let copied = open(&copy, 3).unwrap();
    check(&*copied, &expected);
    assert_ne!(copied.disk_id(), store.disk_id(), "a copy is another disk");
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names.len(), 2, "nothing unfinished is left: {names:?}");
    put(&*copied, &dbkey(9), 9, &dbval(2000, b"in the copy"));
    commit(&*copied);
    assert_ne!(get(&*store, &dbkey(9)), get(&*copied, &dbkey(9)), "both go on by themselves");
}

pub fn a_backup_is_taken_while_serving(open: &Opener) {
    let dir = temp();
    let store = open(&dir.path().join("original"), 2).unwrap();
    let before = filled(&*store, 1000);
    let copy = dir.path().join("copy");
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| store.backup(&copy).unwrap());
        let mut n = 0;
        while !backup.is_finished() || n < 100 {
            put(&*store, &dbkey(n % 1000), 5, &dbval(10_000 + n, b"meanwhile"));
            put(&*store, &dbkey(2000 + n), 5, &dbval(1, b"meanwhile"));
            commit(&*store);
            n += 1;
        }
    });
    let copied = scan(&*open(&copy, 2).unwrap(), 100);
    for (key, record) in &before {
        let found = copied.get(key).expect("what was committed is in the copy");
        assert!(found == record || found.1.ends_with(b"meanwhile"));
    }
}

pub fn a_backup_overwrites_nothing(open: &Opener) {
    let dir = temp();
    let store = open(&dir.path().join("original"), 1).unwrap();
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(store.backup(&taken).is_err());
    assert_eq!(std::fs::read_dir(&taken).unwrap().count(), 0);
    assert!(store.backup(&dir.path().join("original")).is_err());
    check(&*store, &Contents::new());
}

fn refused(open: &Opener, path: &Path) {
    match open(path, 1).map(|_| ()) {
        Err(StoreError::Unusable(text)) => {
            assert!(!text.contains('\n') && text.contains(&path.display().to_string()), "{text}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

pub fn a_second_opener_is_refused(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 1).unwrap();
    refused(open, dir.path());
    let expected = filled(&*store, 10);
    check(&*store, &expected);
    store.close().unwrap();
    check(&*open(dir.path(), 1).unwrap(), &expected);
}

pub fn foreign_directories_and_files_are_refused(open: &Opener) {
    let dir = temp();
    std::fs::write(dir.path().join("letter"), "dear").unwrap();
    refused(open, dir.path());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "left as it was");
    refused(open, &dir.path().join("letter"));
    std::fs::write(dir.path().join("kumofs"), "something else").unwrap();
    refused(open, dir.path());
}

pub fn the_disk_id_stays_and_is_its_own(open: &Opener) {
    let (dir, other) = (temp(), temp());
    let id = open(dir.path(), 1).unwrap().disk_id();
    let again = open(dir.path(), 2).unwrap();
    assert_eq!((again.disk_id(), again.dir()), (id, dir.path()));
    assert_ne!(open(other.path(), 1).unwrap().disk_id(), id);
}

pub fn bytes_on_disk_are_counted(open: &Opener) {
    let dir = temp();
    let store = open(dir.path(), 1).unwrap();
    let empty = store.disk_bytes();
    for n in 0..20 {
        put(&*store, &dbkey(n), 1, &dbval(1, &[b'x'; 100_000]));
    }
    commit(&*store);
    assert!(store.disk_bytes() >= empty + 1_500_000, "{empty} {}", store.disk_bytes());
}

/// A value that comes in pieces.
pub fn what_comes_in_pieces_is_a_record_like_others(open: &Opener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let large = dbval(5, &vec![7; super::LARGE_BYTES + 1000]);
    {
        let store = open(&path, 1).unwrap();
        let mut shard = store.shards()[0].lock().unwrap();
        shard.put(&dbkey(1), Record { epoch: 3, dbval: &dbval(4, b"small") }).unwrap();
        let mut staged = shard.stage(dbkey(1).len(), large.len()).unwrap();
        large.chunks(100_000).for_each(|piece| staged.append(piece).unwrap());
        let kept = shard.put_staged(&dbkey(1), 3, ClockTime(5), staged).unwrap();
        assert!(shard.get(&dbkey(1)).unwrap() == Some(Record { epoch: 3, dbval: &large }));
        assert_eq!(shard.peek(&dbkey(1)).unwrap().unwrap().stamp(), stamp(3, 5));
        assert!(shard.piece(&dbkey(1), ClockTime(5), 1000, 99).unwrap() == Some(&large[1000..1099]));
        assert_eq!(shard.items(), 1);
        shard.put(&dbkey(1), Record { epoch: 3, dbval: &dbval(6, b"small") }).unwrap();
        let mut told = Vec::new();
        assert!(kept.append_to(0, kept.val_len(), &mut told) && told == large, "what replaced it does not matter");
        let mut staged = shard.stage(dbkey(2).len(), large.len()).unwrap();
        staged.append(&large).unwrap();
        shard.put_staged(&dbkey(2), 3, ClockTime(5), staged).unwrap();
        shard.commit().unwrap();
        drop(shard);
        store.close().unwrap();
    }
    let store = open(&path, 1).unwrap();
    let mut shard = store.shards()[0].lock().unwrap();
    assert!(shard.get(&dbkey(2)).unwrap() == Some(Record { epoch: 3, dbval: &large }));
    assert!(shard.get(&dbkey(1)).unwrap() == Some(Record { epoch: 3, dbval: &dbval(6, b"small") }));
}
