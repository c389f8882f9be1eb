//! Disks that fail without the process dying.

use super::*;
use crate::store::fs::mem::Faults;
use std::collections::BTreeMap;

fn is_full<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full(_)))
}

#[test]
fn a_full_disk_refuses_stores_and_serves_reads_until_there_is_room() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    disk.set_faults(Faults { capacity: Some(40_000), ..Faults::default() });
    let mut stored = 0;
    let refused = loop {
        let result = put(&store, &key(stored), &value(1, 500)).and_then(|()| commit(&store));
        if result.is_err() {
            break result;
        }
        stored += 1;
    };
    assert!(is_full(&refused), "{refused:?}");
    assert!(stored > 50, "{stored}");
    for n in 0..stored {
        assert_eq!(get(&store, &key(n)).unwrap(), Some(value(1, 500)));
    }
    // Staged, seen, and not acknowledged.
    assert_eq!(get(&store, &key(stored)).unwrap(), Some(value(1, 500)));
    assert!(is_full(&put(&store, &key(9999), &value(1, 500))));
    assert_eq!(get(&store, &key(9999)).unwrap(), None);
    disk.set_faults(Faults::default());
    commit(&store).unwrap();
    put(&store, &key(9999), &value(1, 500)).unwrap();
    commit(&store).unwrap();
    let store = open(&disk.after_kill(), tiny(1)).unwrap();
    assert_eq!(store.items(), stored + 2);
}

#[test]
fn compaction_frees_a_disk_that_overwriting_filled() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    disk.set_faults(Faults { capacity: Some(120_000), ..Faults::default() });
    let mut model = BTreeMap::new();
    let mut refusals = 0;
    for i in 0..5_000_u64 {
        let n = i * 7 % 100;
        match put(&store, &key(n), &value(i, 400)).and_then(|()| commit(&store)) {
            Ok(()) => {
                model.insert(n, i);
            }
            Err(StoreError::Full(_)) => {
                refusals += 1;
                model.insert(n, i);
                for _ in 0..200 {
                    store.maintain(10_000).unwrap();
                    if commit(&store).is_ok() {
                        break;
                    }
                }
                put(&store, &key(n), &value(i, 400)).unwrap();
                commit(&store).expect("compaction made room");
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refusals > 3, "the disk was full {refusals} times");
    for (n, i) in model {
        assert_eq!(get(&store, &key(n)).unwrap(), Some(value(i, 400)));
    }
}

#[test]
fn errors_and_short_writes_lose_nothing_that_was_accepted() {
    for seed in 0..rounds(25) {
        let disk = MemDisk::new(seed);
        let store = open(&disk, tiny(2)).unwrap();
        let start = disk.steps();
        let fail_at = (0..60).map(|i| start + 1 + (seed * 31 + i * i * 7) % 900).collect();
        disk.set_faults(Faults { fail_at, short_writes: true, ..Faults::default() });
        let mut model = BTreeMap::new();
        for i in 1..600_u64 {
            let n = (i * 13 + seed) % 40;
            if put(&store, &key(n), &value(i, 120)).is_ok() {
                model.insert(n, Some(i));
            }
            if i % 9 == 0
                && let Some(Some(version)) = model.get(&n)
                && forget(&store, &key(n), *version).is_ok_and(|done| done)
            {
                model.insert(n, None);
            }
            if i % 4 == 0 {
                // Either may fail; both are tried again.
                let _ = (commit(&store), store.maintain(1500));
            }
            if i == 300 {
                let _ = store.backup(Path::new("/kumo/backup"));
            }
        }
        let check = |store: &LogStore| {
            for (n, version) in &model {
                assert_eq!(get(store, &key(*n)).unwrap(), version.map(|v| value(v, 120)), "seed {seed} key {n}");
            }
        };
        check(&store);
        disk.set_faults(Faults::default());
        commit(&store).unwrap();
        check(&store);
        let store = open(&disk.after_kill(), tiny(2)).unwrap();
        check(&store);
        assert_eq!(store.damage(), Vec::<String>::new());
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let disk = MemDisk::new(1);
    let store = open(&disk, Options { sync: true, ..tiny(1) }).unwrap();
    put(&store, &key(1), &value(1, 9)).unwrap();
    commit(&store).unwrap();
    disk.set_faults(Faults { fail_at: [disk.steps() + 1].into(), ..Faults::default() });
    assert!(store.sync_step().is_err());
    assert_eq!(store.durable(0), 0);
    put(&store, &key(2), &value(1, 9)).unwrap();
    assert!(matches!(commit(&store), Err(StoreError::Io { .. })));
    assert!(store.sync_step().is_err());
    assert_eq!(store.durable(0), 0);
}
