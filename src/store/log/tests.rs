//! Tests of the log engine as a whole. Most run on a disk in memory that fails on demand.

mod backup;
mod bounds;
mod crash;
mod damage;
mod faults;
mod increment;
mod large;
mod model;
mod open;
mod process;
mod stable;
mod sync;
mod vectors;

use super::{LogStore, Options};
use crate::logic::clock::ClockTime;
use crate::logic::record::{LAYOUT_FULL, Stamp, encode_dbkey, encode_header};
use crate::store::fs::mem::MemDisk;
use crate::store::{Commit, Maintained, Record, Store, StoreError};
use std::path::Path;
use std::sync::Arc;

/// Rounds of a randomized test: `KUMO_TEST_ROUNDS`, or `default`.
fn rounds(default: u64) -> u64 {
    std::env::var("KUMO_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The directory that simulated stores live in.
fn dir() -> &'static Path {
    Path::new("/kumo/db")
}

/// Small segments, no threads.
fn tiny(shards: u16) -> Options {
    Options { shards, sync: false, sync_thread: false, segment_bytes: 2000, garbage_bytes: 0, open_threads: 1 }
}

fn open(disk: &MemDisk, options: Options) -> Result<LogStore, StoreError> {
    LogStore::open(Arc::new(disk.clone()), dir(), options)
}

fn key(n: u64) -> Vec<u8> {
    let mut dbkey = Vec::new();
    encode_dbkey(format!("key-{n}").as_bytes(), &mut dbkey);
    dbkey
}

/// A value of `len` bytes that tells its version in every eighth byte.
fn value(version: u64, len: usize) -> Vec<u8> {
    let mut dbval = Vec::new();
    encode_header(ClockTime(version), LAYOUT_FULL, 0, 0, 0, &mut dbval);
    dbval.extend((0..len).map(|i| version.to_le_bytes()[i % 8]));
    dbval
}

fn mark(version: u64) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}

fn stamp(version: u64) -> Stamp {
    Stamp { epoch: 1, version: ClockTime(version) }
}

fn shard_of(store: &LogStore, dbkey: &[u8]) -> usize {
    let hash = crate::logic::record::dbkey_hash(dbkey).unwrap();
    crate::logic::record::worker_of(hash, store.shards().len() as u16).into()
}

fn put(store: &LogStore, dbkey: &[u8], dbval: &[u8]) -> Result<(), StoreError> {
    store.shards()[shard_of(store, dbkey)].lock().unwrap().put(dbkey, Record { epoch: 1, dbval })
}

fn get(store: &LogStore, dbkey: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let mut shard = store.shards()[shard_of(store, dbkey)].lock().unwrap();
    Ok(shard.get(dbkey)?.map(|record| record.dbval.to_vec()))
}

fn forget(store: &LogStore, dbkey: &[u8], version: u64) -> Result<bool, StoreError> {
    store.shards()[shard_of(store, dbkey)].lock().unwrap().forget(dbkey, stamp(version))
}

fn commit(store: &LogStore) -> Result<(), StoreError> {
    for shard in store.shards() {
        shard.lock().unwrap().commit()?;
    }
    Ok(())
}

/// Everything in a store, by a scan in steps of `budget`; checks that the order is that of the ring.
fn scan(store: &LogStore, budget: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for shard in store.shards() {
        let mut next = Some(0);
        let mut last = Vec::new();
        while let Some(from) = next {
            let mut visit = |dbkey: &[u8], record: Result<Record<'_>, StoreError>| {
                assert!(dbkey[..8] >= last[..], "out of order");
                last = dbkey[..8].to_vec();
                all.push((dbkey.to_vec(), record.unwrap().dbval.to_vec()));
            };
            next = shard.lock().unwrap().scan(from, budget, &mut visit).unwrap();
        }
    }
    all.sort();
    all
}

/// Maintains until there is nothing left to do.
fn maintain(store: &LogStore) {
    for _ in 0..100_000 {
        if store.maintain(1 << 16).unwrap() == Maintained::Idle {
            return;
        }
    }
    panic!("maintenance finds no end");
}

#[test]
fn what_was_put_is_read_before_and_after_the_commit() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    put(&store, &key(1), &value(5, 10)).unwrap();
    assert_eq!(get(&store, &key(1)).unwrap(), Some(value(5, 10)));
    commit(&store).unwrap();
    assert_eq!(get(&store, &key(1)).unwrap(), Some(value(5, 10)));
    assert_eq!(get(&store, &key(2)).unwrap(), None);
    put(&store, &key(1), &mark(6)).unwrap();
    assert_eq!(get(&store, &key(1)).unwrap(), Some(mark(6)));
    let marks = |s: &LogStore| s.shards().iter().map(|s| s.lock().unwrap().marks()).sum::<u64>();
    assert_eq!((store.items(), marks(&store)), (0, 1));
    assert!(!forget(&store, &key(1), 5).unwrap());
    assert!(forget(&store, &key(1), 6).unwrap());
    assert_eq!((get(&store, &key(1)).unwrap(), marks(&store)), (None, 0));
}

#[test]
fn put_newer_compares_stamps() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    let mut shard = store.shards()[0].lock().unwrap();
    let mut newer = |epoch, version| shard.put_newer(&key(1), Record { epoch, dbval: &value(version, 3) }).unwrap();
    assert!(newer(1, 10));
    assert!(!newer(1, 10) && !newer(1, 9) && !newer(0, 99));
    assert!(newer(2, 1) && newer(2, 2));
}

#[test]
fn keys_that_are_no_dbkeys_and_large_records_are_kept_too() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    let large = value(3, 100_000);
    let keys: [&[u8]; 4] = [b"", b"short", &key(1), &[7; super::format::MAX_KEY_BYTES]];
    let mut shard = store.shards()[0].lock().unwrap();
    for dbkey in keys {
        shard.put(dbkey, Record { epoch: 9, dbval: &large }).unwrap();
        assert_eq!(shard.get(dbkey).unwrap(), Some(Record { epoch: 9, dbval: &large }));
    }
    assert_eq!(shard.commit().unwrap(), Commit::Done);
    let too_long = [7; super::format::MAX_KEY_BYTES + 1];
    assert!(matches!(shard.put(&too_long, Record { epoch: 9, dbval: &large }), Err(StoreError::Io { .. })));
    drop(shard);
    store.close().unwrap();
    drop(store);
    let store = open(&disk, tiny(1)).unwrap();
    let mut shard = store.shards()[0].lock().unwrap();
    for dbkey in keys {
        assert_eq!(shard.get(dbkey).unwrap(), Some(Record { epoch: 9, dbval: &large }));
    }
}
