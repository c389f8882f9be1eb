//! Bits that turn over, sectors that cannot be read, tails that were torn.

use super::*;
use crate::store::ScanVisitor;
use crate::store::fs::mem::Faults;
use crate::store::log::format::SEGMENT_HEAD_LEN;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What each key held, oldest first.
type History = BTreeMap<u64, Vec<Vec<u8>>>;

/// A store of a few segments with overwritten keys, marks and forgets.
fn populated(disk: &MemDisk) -> (LogStore, History) {
    let store = open(disk, tiny(1)).unwrap();
    let mut history = History::new();
    for i in 1..60_u64 {
        let n = i * 11 % 23;
        let new = if i % 10 == 0 { mark(i) } else { value(i, 50 + (i as usize * 3) % 60) };
        put(&store, &key(n), &new).unwrap();
        commit(&store).unwrap();
        history.entry(n).or_default().push(new);
    }
    (store, history)
}

fn logs(disk: &MemDisk) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).collect()
}

fn logs_and_hints(disk: &MemDisk) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log" || e == "hint")).collect()
}

/// Every key reads as its newest value or as damaged; where `stale` allows it, also as an older one.
fn check(store: &LogStore, history: &History, stale: bool, what: &str) -> usize {
    let mut damaged = 0;
    for (n, values) in history {
        match get(store, &key(*n)) {
            Ok(Some(found)) if found == *values.last().unwrap() => {}
            Ok(Some(found)) => assert!(stale && values.contains(&found), "{what}: key {n} is stale"),
            Ok(None) => assert!(stale, "{what}: key {n} is gone"),
            Err(StoreError::Damaged { .. }) => damaged += 1,
            Err(e) => panic!("{what}: {e}"),
        }
    }
    damaged
}

fn stride(bits: u64) -> usize {
    bits.div_ceil(rounds(120)).max(1) as usize
}

#[test]
fn a_bit_that_turns_over_in_a_closed_store_is_never_served() {
    let clean = MemDisk::new(1);
    let (store, history) = populated(&clean);
    store.close().unwrap();
    drop(store);
    let mut damaged = 0;
    for (path, len) in logs_and_hints(&clean) {
        for bit in (0..len * 8).step_by(stride(len * 8) | 1) {
            let what = format!("bit {bit} of {}", path.display());
            let disk = clean.after_kill();
            disk.flip(&path, bit);
            let store = open(&disk, tiny(1)).unwrap();
            let found = check(&store, &history, false, &what);
            assert!(found == 0 || !store.damage().is_empty(), "{what}: not reported");
            maintain(&store);
            assert_eq!(check(&store, &history, false, &what), found, "{what}: after compaction");
            store.close().unwrap();
            drop(store);
            let store = open(&disk, tiny(2)).unwrap();
            assert_eq!(check(&store, &history, false, &what), found, "{what}: opened again");
            damaged += found;
        }
    }
    // As many as the usual 120 flips of each file have to meet, in proportion.
    let least = rounds(120) * 100 / 120;
    assert!(damaged as u64 > least, "{damaged} of more than {least} flips met live records");
}

#[test]
fn a_bit_that_turns_over_in_a_killed_store_is_never_served_and_is_reported() {
    let clean = MemDisk::new(1);
    let (store, history) = populated(&clean);
    drop(store);
    let newest = logs(&clean).last().unwrap().0.clone();
    for (path, len) in logs(&clean) {
        for bit in (0..len * 8).step_by(stride(len * 8) | 1) {
            let what = format!("bit {bit} of {}", path.display());
            let disk = clean.after_kill();
            disk.flip(&path, bit);
            let store = open(&disk, tiny(1)).unwrap();
            // With a bad head the last record is taken for torn. Where a record's key was not known, an older record of
            // the key shows: the report is what tells then.
            let last = path == newest && (len - 200..len - 80).contains(&(bit / 8));
            let stale = last || !store.damage().is_empty();
            check(&store, &history, stale, &what);
            maintain(&store);
            check(&store, &history, stale, &what);
        }
    }
}

#[test]
fn a_damaged_record_is_mended_by_putting_it_again() {
    let disk = MemDisk::new(1);
    let (store, history) = populated(&disk);
    store.close().unwrap();
    drop(store);
    let (path, len) = logs(&disk).pop().unwrap();
    (100..len).step_by(97).for_each(|byte| disk.flip(&path, byte * 8));
    let store = open(&disk, tiny(1)).unwrap();
    let damaged = check(&store, &history, false, "flipped");
    assert!(damaged > 2);
    maintain(&store);
    for (n, values) in &history {
        let newest = values.last().unwrap();
        let mut shard = store.shards()[0].lock().unwrap();
        shard.put_newer(&key(*n), Record { epoch: 1, dbval: newest }).unwrap();
    }
    assert_eq!(check(&store, &history, false, "put again"), 0);
    let items = history.values().filter(|v| v.last().unwrap().len() > 8).count() as u64;
    assert_eq!(store.items(), items);
    store.close().unwrap();
    drop(store);
    let store = open(&disk, tiny(1)).unwrap();
    assert_eq!(check(&store, &history, false, "opened again"), 0);
    assert_eq!(store.items(), items);
}

#[test]
fn a_scan_reports_damage_with_the_whole_key_where_it_is_proven() {
    let disk = MemDisk::new(1);
    let (store, history) = populated(&disk);
    store.close().unwrap();
    drop(store);
    let (path, len) = logs(&disk).pop().unwrap();
    // A byte of a value is turned over: keys are whole. The record that is hit must be a live one.
    let hit = (100..len).find_map(|byte| {
        let flipped = disk.after_kill();
        flipped.flip(&path, byte * 8);
        let store = open(&flipped, tiny(1)).unwrap();
        let mut damaged = Vec::new();
        let mut visit = |dbkey: &[u8], record: Result<Record<'_>, StoreError>| {
            if record.is_err() {
                damaged.push(dbkey.to_vec());
            }
        };
        store.shards()[0].lock().unwrap().scan(0, usize::MAX, &mut visit).unwrap();
        damaged.pop().filter(|dbkey| dbkey.len() > 8)
    });
    let hit = hit.expect("some live value was hit");
    assert!(history.keys().any(|n| key(*n) == hit));
}

#[test]
fn a_tail_that_a_crash_tore_is_left_out_without_a_report() {
    let disk = MemDisk::new(1);
    let (store, history) = populated(&disk);
    put(&store, &key(500), &value(1, 100)).unwrap();
    disk.set_faults(Faults { kill_at: Some(disk.steps() + 1), ..Faults::default() });
    commit(&store).unwrap_err();
    let disk = disk.after_kill();
    for _ in 0..3 {
        let store = open(&disk, tiny(1)).unwrap();
        assert_eq!(check(&store, &history, false, "torn"), 0);
        assert_eq!(store.damage(), Vec::<String>::new());
        put(&store, &key(501), &value(1, 100)).unwrap();
        commit(&store).unwrap();
        drop(store);
    }
}

#[test]
fn damage_in_the_middle_costs_only_what_it_hit() {
    let disk = MemDisk::new(1);
    let (store, history) = populated(&disk);
    drop(store);
    let path = logs(&disk)[1].0.clone();
    (500 * 8..700 * 8).for_each(|bit| disk.flip(&path, bit));
    let store = open(&disk, tiny(1)).unwrap();
    assert_eq!(store.damage().len(), 1, "{:?}", store.damage());
    let exact = history.iter().filter(|(n, v)| get(&store, &key(**n)).ok().flatten().as_ref() == v.last()).count();
    assert!(exact + 4 >= history.len(), "{exact} of {}", history.len());
}

#[test]
fn sectors_that_cannot_be_read_count_as_damage_and_not_as_a_tail() {
    let disk = MemDisk::new(1);
    let (store, history) = populated(&disk);
    drop(store);
    let (path, len) = logs(&disk)[0].clone();
    disk.set_faults(Faults { unreadable: vec![(path.clone(), len - 300..len)], ..Faults::default() });
    let store = open(&disk, tiny(1)).unwrap();
    assert!(!store.damage().is_empty());
    check(&store, &history, true, "unreadable tail");
    disk.set_faults(Faults::default());
}

#[test]
fn a_value_that_holds_a_copy_of_a_segment_forges_nothing() {
    let disk = MemDisk::new(1);
    let (store, _) = populated(&disk);
    let path = logs(&disk)[0].0.clone();
    let image = crate::store::fs::read_small(&disk, &path, 1 << 20).unwrap();
    drop(store);
    let store = open(&disk, Options { segment_bytes: 100_000, ..tiny(1) }).unwrap();
    for pad in 0..8 {
        let mut dbval = value(1000, pad);
        dbval.extend_from_slice(&image);
        put(&store, &key(900 + pad as u64), &dbval).unwrap();
    }
    put(&store, &key(999), &value(1000, 1)).unwrap();
    commit(&store).unwrap();
    let items = store.items();
    drop(store);
    let holder = logs(&disk).pop().unwrap().0;
    // The length of the record that holds the image is damaged: its inside is searched for records.
    disk.flip(&holder, (64 + 4) * 8);
    let store = open(&disk, tiny(1)).unwrap();
    assert_eq!(store.items(), items - 1);
}

#[test]
fn a_file_that_is_cut_under_a_running_store_is_damage_and_not_the_end_of_it() {
    let home = tempfile::tempdir().unwrap();
    let store = LogStore::open(Arc::new(crate::store::fs::RealDisk), home.path(), Options::default()).unwrap();
    (0..500).for_each(|n| put(&store, &key(n), &value(1, 1000)).unwrap());
    commit(&store).unwrap();
    let log = home.path().join("00000000.log");
    std::fs::File::options().write(true).open(log).unwrap().set_len(8192).unwrap();
    let damaged = |n: &u64| matches!(get(&store, &key(*n)), Err(StoreError::Damaged { .. }));
    let lost = (0..500).filter(damaged).count();
    assert!((480..500).contains(&lost), "{lost} damaged");
    assert_eq!(get(&store, &key(0)).unwrap(), Some(value(1, 1000)));
    (0..500).for_each(|n| put(&store, &key(n), &value(2, 10)).unwrap());
    assert_eq!((0..500).filter(damaged).count(), 0);
}

/// Longer values are not read from end to end.
const WHOLE: usize = 500;

/// What a survey tells of the only record: whether it can be believed so far.
fn is_surveyed(store: &LogStore) -> bool {
    let mut told = None;
    let visit: &mut ScanVisitor<'_> = &mut |_, record| told = Some(record.is_ok());
    assert_eq!(store.shards()[0].lock().unwrap().survey(0, 10, WHOLE, &|_| true, visit).unwrap(), None);
    told.expect("there is a record")
}

#[test]
fn a_survey_looks_at_the_lengths_of_a_long_record_and_at_all_of_a_short_one() {
    for (len, passes) in [(WHOLE - 100, false), (WHOLE, true)] {
        let clean = MemDisk::new(1);
        let store = open(&clean, tiny(1)).unwrap();
        put(&store, &key(1), &value(1, len)).unwrap();
        store.close().unwrap();
        drop(store);
        let (path, bytes) = logs(&clean).into_iter().next_back().unwrap();
        let (head, end) = (SEGMENT_HEAD_LEN as u64, bytes * 8 - 1);
        for (bit, is_good) in [(end, passes), (end - 8 * 50, passes), ((head + 5) * 8 + 3, false)] {
            let disk = clean.after_kill();
            let store = open(&disk, tiny(1)).unwrap();
            disk.flip(&path, bit);
            assert_eq!(is_surveyed(&store), is_good, "{len} bytes, bit {bit} of {bytes} bytes");
            assert!(matches!(get(&store, &key(1)), Err(StoreError::Damaged { .. })), "never served");
        }
    }
}
