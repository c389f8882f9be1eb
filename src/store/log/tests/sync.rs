//! `--sync`: acknowledging waits for the disk.

use super::*;
use crate::store::fs::mem::Faults;
use std::sync::mpsc;

#[test]
fn a_commit_is_pending_until_one_sync_serves_all_shards() {
    let disk = MemDisk::new(1);
    let store = open(&disk, Options { sync: true, ..tiny(2) }).unwrap();
    let (told, hears) = mpsc::channel();
    store.on_durable(Box::new(move |shard| told.send(shard).unwrap()));
    for n in 0..20 {
        put(&store, &key(n), &value(1, 5)).unwrap();
    }
    let tickets: Vec<Commit> = store.shards().iter().map(|s| s.lock().unwrap().commit().unwrap()).collect();
    assert_eq!(tickets, [Commit::Pending(1), Commit::Pending(1)]);
    assert_eq!((store.durable(0), store.durable(1)), (0, 0));
    // Nothing new is staged, but what came before is not durable yet.
    assert_eq!(store.shards()[0].lock().unwrap().commit().unwrap(), Commit::Pending(1));
    assert!(store.sync_step().unwrap());
    assert_eq!((store.durable(0), store.durable(1)), (1, 1));
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(store.shards()[0].lock().unwrap().commit().unwrap(), Commit::Done);
    assert!(!store.sync_step().unwrap());
}

#[test]
fn the_stores_own_thread_syncs_and_tells() {
    let home = tempfile::tempdir().unwrap();
    let options = Options { sync: true, sync_thread: true, ..tiny(2) };
    let store = LogStore::open(Arc::new(crate::store::fs::RealDisk), home.path(), options).unwrap();
    let (told, hears) = mpsc::channel();
    // At the end nobody listens any more.
    store.on_durable(Box::new(move |shard| told.send(shard).unwrap_or(())));
    for n in 0..50 {
        put(&store, &key(n), &value(1, 500)).unwrap();
        let shard = shard_of(&store, &key(n));
        let Commit::Pending(ticket) = store.shards()[shard].lock().unwrap().commit().unwrap() else { continue };
        while store.durable(shard) < ticket {
            hears.recv().unwrap();
        }
    }
    store.close().unwrap();
}

/// Whoever waited for the device waited for ever, unless another store came by.
#[test]
fn a_sync_that_fails_wakes_those_who_wait_and_nothing_is_durable_after_it() {
    let disk = MemDisk::new(1);
    let store = open(&disk, Options { sync: true, ..tiny(1) }).unwrap();
    let (told, hears) = mpsc::channel();
    store.on_durable(Box::new(move |shard| told.send(shard).unwrap()));
    put(&store, &key(1), &value(1, 5)).unwrap();
    let commit = || store.shards()[0].lock().unwrap().commit();
    assert_eq!(commit().unwrap(), Commit::Pending(1));
    disk.set_faults(Faults { fail_syncs: true, ..Faults::default() });
    assert!(store.sync_step().is_err());
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), [0]);
    assert!(commit().is_err());
    // A device that works again does not bring back what it lost.
    disk.set_faults(Faults::default());
    assert!(store.sync_step().is_err() && commit().is_err());
    assert_eq!(store.durable(0), 0);
}
