//! What an earlier process left that is not known to be stable.

use super::*;

/// The numbers of the keys.
fn take(store: &LogStore) -> Vec<u64> {
    let number = |dbkey: Vec<u8>| String::from_utf8_lossy(&dbkey[8 + "key-".len()..]).parse().unwrap();
    let mut all: Vec<u64> = store.shards().iter().flat_map(|s| s.lock().unwrap().take_unstable()).map(number).collect();
    all.sort_unstable();
    all
}

fn note_all(store: &LogStore) {
    for (number, shard) in store.shards().iter().enumerate() {
        let position = shard.lock().unwrap().position();
        store.note_stable(number, position);
    }
}

fn put_all(store: &LogStore, numbers: std::ops::Range<u64>, version: u64) {
    for n in numbers {
        put(store, &key(n), &value(version, 40)).unwrap();
    }
    commit(store).unwrap();
}

#[test]
fn records_behind_what_was_noted_are_told_to_the_next_process() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    assert!(take(&store).is_empty());
    put_all(&store, 0..100, 1);
    note_all(&store);
    put_all(&store, 90..110, 2);
    assert!(forget(&store, &key(91), 2).unwrap());
    put(&store, &key(92), &mark(3)).unwrap();
    commit(&store).unwrap();
    // Copies keep their numbers.
    maintain(&store);
    drop(store);
    let expected: Vec<u64> = (90..110).filter(|n| *n != 91).collect();
    for _ in 0..2 {
        // As long as nothing is noted, the one after that is told, too.
        let store = open(&disk, tiny(2)).unwrap();
        assert_eq!(take(&store), expected);
        assert!(take(&store).is_empty(), "once");
    }
    let store = open(&disk, tiny(2)).unwrap();
    note_all(&store);
    drop(store);
    assert!(take(&open(&disk, tiny(2)).unwrap()).is_empty());
}

#[test]
fn nothing_is_missed_when_the_number_of_shards_changes() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    put_all(&store, 0..100, 1);
    note_all(&store);
    put_all(&store, 100..120, 2);
    drop(store);
    for shards in [3, 1, 2] {
        let store = open(&disk, tiny(shards)).unwrap();
        let told = take(&store);
        assert!((100..120).all(|n| told.contains(&n)), "{shards}: {told:?}");
    }
    let store = open(&disk, tiny(3)).unwrap();
    note_all(&store);
    put_all(&store, 120..125, 3);
    drop(store);
    assert_eq!(take(&open(&disk, tiny(3)).unwrap()), [120, 121, 122, 123, 124]);
}

#[test]
fn a_store_without_the_file_accuses_nobody() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    put_all(&store, 0..10, 1);
    drop(store);
    use crate::store::fs::Disk;
    disk.remove(&dir().join(super::super::stable::STABLE)).unwrap();
    assert!(take(&open(&disk, tiny(2)).unwrap()).is_empty());
}

/// Noted in place and without a copy, it was torn by one loss of power in four, and then accused nobody.
#[test]
fn a_loss_of_power_hides_nothing_of_a_store_that_syncs() {
    for seed in 0..200 {
        let disk = MemDisk::new(seed);
        let options = Options { sync: true, sync_thread: false, ..tiny(2) };
        let store = open(&disk, options.clone()).unwrap();
        for round in 0..1 + seed % 4 {
            put_all(&store, 0..20, 2 * round + 1);
            store.sync_step().unwrap();
            note_all(&store);
        }
        put_all(&store, 20..25, 100);
        store.sync_step().unwrap();
        if seed % 2 == 0 {
            put_all(&store, 25..30, 100);
            note_all(&store);
            put_all(&store, 30..31, 100);
            store.core.sync.round(|| store.core.sync_all()).unwrap();
        }
        let disk = disk.after_power_loss(seed);
        drop(store);
        let told = take(&open(&disk, options).unwrap());
        let behind = if seed % 2 == 0 { 30..31 } else { 20..25 };
        assert!(behind.clone().all(|n| told.contains(&n)), "seed {seed}: {behind:?} of {told:?}");
    }
}

#[test]
fn what_is_noted_while_it_is_synced_does_not_spoil_what_is_on_the_disk() {
    use crate::store::fs::Disk;
    use crate::store::log::stable::{Positions, Stable, read};
    for seed in 0..100 {
        let disk = MemDisk::new(seed);
        disk.create_dir(dir()).unwrap();
        let positions = Positions::new(vec![5, 5]);
        let stable = Stable::begin(&disk, dir(), positions).unwrap();
        for position in [10, 20, 30] {
            stable.note(&disk, 0, position).unwrap();
            stable.sync().unwrap();
        }
        stable.note(&disk, 0, 40).unwrap();
        stable.note(&disk, 0, 50).unwrap();
        let found = read(&disk.after_power_loss(seed), dir()).expect("one slot of each shard is whole");
        assert!(found.cover(2, 0, 29), "seed {seed}: {found:?}");
        assert!(!found.cover(2, 0, 50) && found.cover(2, 1, 4) && !found.cover(2, 1, 5), "seed {seed}: {found:?}");
    }
}
