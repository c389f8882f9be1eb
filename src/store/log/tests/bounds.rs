//! Disk and memory stay within bounds, whatever is done for however long.

use super::*;
use crate::logic::ring::hash;
use crate::store::fs::RealDisk;
use crate::store::fs::mem::Faults;
use crate::store::log::format::Origin;
use std::time::Duration;

const LIVE_KEYS: u64 = 400;

fn overwritten_store(shards: u16, writes: u64) -> LogStore {
    let store = open(&MemDisk::new(1), tiny(shards)).unwrap();
    for i in 0..writes {
        put(&store, &key(i.wrapping_mul(7919) % LIVE_KEYS), &value(i, 110)).unwrap();
        if i % 16 == 0 {
            commit(&store).unwrap();
            // What compaction may do for what was stored meanwhile: three times as much.
            store.maintain(16 * 170 * 3).unwrap();
        }
    }
    commit(&store).unwrap();
    store
}

#[test]
fn the_disk_holds_at_most_half_more_than_the_data_under_steady_overwriting() {
    let store = overwritten_store(2, 40_000);
    let data = LIVE_KEYS * (8 + 7 + 18 + 110);
    let used = store.disk_bytes();
    // Segments are tiny here: heads, hints and the slack of two segments a shard weigh more than they do in life.
    assert!(used < data * 18 / 10, "{used} bytes for {data}");
}

#[test]
fn garbage_within_the_allowance_is_not_copied_around_and_more_is_collected() {
    let allowance = 400_000;
    let copies = |store: &LogStore| store.core.segments().iter().any(|s| s.head.origin == Origin::Compaction);
    let with = |garbage_bytes, writes| {
        let store = open(&MemDisk::new(1), Options { garbage_bytes, ..tiny(2) }).unwrap();
        // In no order, so that something stays alive in every segment for long.
        for i in 0..writes {
            put(&store, &key(hash(&u64::to_le_bytes(i)) % LIVE_KEYS), &value(i, 110)).unwrap();
            if i % 16 == 0 {
                commit(&store).unwrap();
                store.maintain(16 * 170 * 3).unwrap();
            }
        }
        store
    };
    assert!(copies(&with(0, 1_500)) && !copies(&with(allowance, 1_500)));
    let data = LIVE_KEYS * (8 + 7 + 18 + 110);
    let used = with(allowance, 8_000).disk_bytes();
    assert!(used < allowance + data * 18 / 10, "{used} bytes for {data}");
}

/// One segment was more than all of the way from no wait to the longest, so stores went to and fro between the two.
#[test]
fn stores_are_slowed_down_by_and_by_also_where_a_segment_is_more_than_what_is_needed() {
    let store = open(&MemDisk::new(1), Options { garbage_bytes: 100_000, ..tiny(1) }).unwrap();
    let mut paces = vec![Duration::ZERO];
    for i in 0..3_000 {
        put(&store, &key(i % 10), &value(i, 110)).unwrap();
        commit(&store).unwrap();
        let pace = store.pace();
        if paces.last() != Some(&pace) {
            paces.push(pace);
        }
    }
    assert!(paces[1] <= Duration::from_millis(1), "{paces:?}");
    let steps = || paces.windows(2).map(|p| p[1].saturating_sub(p[0]));
    assert!(paces.is_sorted() && steps().all(|step| step <= Duration::from_millis(10)), "{paces:?}");
    assert!(paces.last() >= Some(&Duration::from_millis(50)), "{paces:?}");
}

/// Page faults of this thread that cost no disk so far.
#[cfg(target_os = "linux")]
fn page_faults() -> i64 {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut used) }, 0);
    used.ru_minflt
}

/// Each sixteen pages cost whoever read them first a page fault.
#[cfg(target_os = "linux")]
#[test]
fn what_was_written_by_this_process_is_read_without_page_faults() {
    const KEYS: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 2 << 20, ..tiny(1) };
    let store = LogStore::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    for n in 0..KEYS {
        put(&store, &key(n), &value(n, 110)).unwrap();
        if n % 100 == 0 {
            commit(&store).unwrap();
        }
    }
    commit(&store).unwrap();
    let first = page_faults();
    (0..KEYS).for_each(|n| assert!(get(&store, &key(n)).unwrap().is_some()));
    let faults = page_faults() - first;
    let blocks = store.disk_bytes() as i64 / (64 << 10);
    assert!(faults < blocks / 4, "{faults} page faults for {blocks} times sixteen pages");
}

#[test]
fn where_little_is_free_little_garbage_is_left_alone() {
    let disk = MemDisk::new(1);
    let used = |options: Options| {
        let store = open(&disk, options).unwrap();
        let mut most = 0;
        for i in 0..10_000_u64 {
            put(&store, &key(i % LIVE_KEYS), &value(i, 110)).unwrap();
            if i % 16 == 0 {
                commit(&store).unwrap();
                store.maintain(16 * 170 * 3).unwrap();
                most = most.max(store.disk_bytes());
            }
        }
        most
    };
    disk.set_faults(Faults { capacity: Some(1_000_000), ..Faults::default() });
    let most = used(Options { garbage_bytes: 10_000_000, ..tiny(2) });
    assert!(most < 500_000, "{most} bytes of 1000000");
}

#[test]
fn forgets_do_not_add_up() {
    let store = open(&MemDisk::new(1), tiny(2)).unwrap();
    // Data that never changes, in segments that are older than every forget, and that hold something dead.
    for n in 0..LIVE_KEYS {
        put(&store, &key(n % 390), &value(1, 110)).unwrap();
    }
    let kept = store.items();
    let mut most = 0;
    for i in 0..20_000_u64 {
        put(&store, &key(1_000_000 + i), &value(2, 20)).unwrap();
        assert!(forget(&store, &key(1_000_000 + i), 2).unwrap());
        commit(&store).unwrap();
        store.maintain(400).unwrap();
        if i > 1000 {
            most = most.max(store.disk_bytes());
        }
    }
    assert_eq!(store.items(), kept);
    assert!(most < 2 * LIVE_KEYS * 170, "{most} bytes");
}

#[test]
fn a_shard_that_rests_does_not_keep_the_forgets_of_one_that_works() {
    let store = open(&MemDisk::new(1), tiny(2)).unwrap();
    let (mut resting, mut working): (Vec<_>, Vec<_>) = (0..40_000).map(key).partition(|k| shard_of(&store, k) == 0);
    resting.truncate(50);
    for version in 1..4 {
        resting.iter().for_each(|k| put(&store, k, &value(version, 50)).unwrap());
    }
    for (i, dbkey) in working.drain(..).enumerate() {
        put(&store, &dbkey, &value(2, 20)).unwrap();
        assert!(forget(&store, &dbkey, 2).unwrap());
        if i % 8 == 0 {
            commit(&store).unwrap();
            store.maintain(4000).unwrap();
        }
    }
    maintain(&store);
    assert!(store.disk_bytes() < 30_000, "{} bytes", store.disk_bytes());
}

#[test]
fn many_short_lives_do_not_leave_many_small_segments() {
    let disk = MemDisk::new(1);
    let options = Options { segment_bytes: 100_000, ..tiny(2) };
    for life in 0..100 {
        let store = open(&disk, options.clone()).unwrap();
        put(&store, &key(life), &value(1, 100)).unwrap();
        commit(&store).unwrap();
        store.close().unwrap();
    }
    let store = open(&disk, options).unwrap();
    maintain(&store);
    assert_eq!(store.items(), 100);
    let logs = disk.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).count();
    assert!(logs <= 20, "{logs} segments");
}

#[test]
fn a_directory_of_another_number_of_shards_is_compacted_into_ours() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(4)).unwrap();
    (0..200).for_each(|n| put(&store, &key(n), &value(1, 100)).unwrap());
    store.close().unwrap();
    drop(store);
    let store = open(&disk, tiny(3)).unwrap();
    for version in 2..20 {
        (0..200).for_each(|n| put(&store, &key(n), &value(version, 100)).unwrap());
        commit(&store).unwrap();
        maintain(&store);
    }
    (0..200).for_each(|n| assert_eq!(get(&store, &key(n)).unwrap(), Some(value(19, 100))));
    assert!(store.disk_bytes() < 200 * 170 * 2, "{} bytes", store.disk_bytes());
}

#[test]
fn the_index_of_a_store_takes_at_most_48_bytes_a_key() {
    let disk = MemDisk::new(1);
    let store = open(&disk, Options { segment_bytes: 1 << 20, ..tiny(2) }).unwrap();
    for n in 0..60_000_u64 {
        put(&store, &key(n), &mark(1)).unwrap();
        if n > 40_000 && n % 1000 == 0 {
            assert!(store.index_bytes() as u64 <= 48 * n, "{} bytes for {n} keys", store.index_bytes());
        }
    }
    store.close().unwrap();
    drop(store);
    let store = open(&disk, tiny(2)).unwrap();
    assert!(store.index_bytes() <= 48 * 60_000, "{} bytes after opening", store.index_bytes());
}
