//! Increments: with what they build upon, they are whole.

use super::*;
use crate::store::fs::Disk;
use crate::store::fs::mem::Faults;
use crate::store::log::format::Draft;
use crate::store::log::read::Reading;
use crate::store::merge::Heed;
use std::path::PathBuf;

type Found = Vec<(Vec<u8>, u64, Vec<u8>)>;

/// All records of a directory: dbkey, number and dbval.
#[derive(Default)]
struct All(Found);

impl Heed for All {
    fn record(&mut self, entry: Draft<'_>) -> Result<(), StoreError> {
        self.0.push((entry.dbkey.to_vec(), entry.lsn, entry.dbval.to_vec()));
        Ok(())
    }
    fn damaged(&mut self, line: String) {
        panic!("{line}");
    }
    fn note(&mut self, line: String) {
        panic!("{line}");
    }
    fn passed(&mut self, _bytes: u64) -> Result<(), StoreError> {
        Ok(())
    }
}

fn read(disk: &MemDisk, dir: &str) -> Result<Found, StoreError> {
    let mut all = All::default();
    Reading::open(Arc::new(disk.clone()), Path::new(dir))?.read(&mut all)?;
    all.0.sort_unstable();
    Ok(all.0)
}

fn segments(disk: &MemDisk, dir: &str) -> usize {
    disk.list(Path::new(dir)).unwrap().iter().filter(|l| l.name.ends_with(".log")).count()
}

/// Some values change, some compaction happens.
fn work(store: &LogStore, round: u64) {
    for n in (0..60).filter(|n| n % 3 == round % 3) {
        put(store, &key(n), &value(round + 1, 90)).unwrap();
    }
    commit(store).unwrap();
    maintain(store);
}

#[test]
fn increments_are_exactly_what_whole_backups_are() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(2)).unwrap();
    (0..300).for_each(|n| put(&store, &key(n), &value(1, 90)).unwrap());
    commit(&store).unwrap();
    let path = |name: &str| PathBuf::from(format!("/elsewhere/{name}"));
    store.backup(&path("db-0")).unwrap();
    for round in 1..=6 {
        work(&store, round);
        let whole = path(&format!("whole-{round}"));
        store.backup(&whole).unwrap();
        let increment = path(&format!("db-{round}"));
        store.backup_since(&increment, &path(&format!("db-{}", round - 1))).unwrap();
        let (whole, increment) = (whole.to_str().unwrap(), increment.to_str().unwrap());
        assert_eq!(read(&disk, increment).unwrap(), read(&disk, whole).unwrap(), "round {round}");
        assert!(segments(&disk, increment) < segments(&disk, whole), "round {round}");
    }
}

#[test]
fn an_increment_alone_is_no_store_and_says_what_it_lacks() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    (0..60).for_each(|n| put(&store, &key(n), &value(1, 90)).unwrap());
    commit(&store).unwrap();
    let (one, two) = (Path::new("/elsewhere/one"), Path::new("/elsewhere/two"));
    let refused = |result: Result<u64, StoreError>, words: &str| {
        let said = result.unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    };
    refused(store.backup_since(two, one), "/elsewhere/one is no backup to build upon");
    store.backup(one).unwrap();
    put(&store, &key(1), &value(2, 90)).unwrap();
    commit(&store).unwrap();
    let bytes = store.backup_since(two, one).unwrap();
    assert!(bytes < store.disk_bytes() / 4, "{bytes}");
    let opened = LogStore::open(Arc::new(disk.clone()), two, tiny(1)).map(|_| 0);
    refused(opened, "cannot use /elsewhere/two: it is an increment of a backup: make it whole with `kumomergedb");
    refused(store.backup_since(two, one), "exists");
    disk.rename(one, Path::new("/elsewhere/away")).unwrap();
    let said = read(&disk, "/elsewhere/two").unwrap_err().to_string();
    assert!(said.contains("put the backup /elsewhere/one beside it"), "{said}");
}

#[test]
fn where_links_are_impossible_an_increment_has_everything() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    (0..60).for_each(|n| put(&store, &key(n), &value(1, 90)).unwrap());
    commit(&store).unwrap();
    disk.set_faults(Faults { no_links: true, ..Faults::default() });
    store.backup(Path::new("/elsewhere/one")).unwrap();
    store.backup_since(Path::new("/elsewhere/two"), Path::new("/elsewhere/one")).unwrap();
    assert_eq!(read(&disk, "/elsewhere/two").unwrap(), read(&disk, "/elsewhere/one").unwrap());
    assert_eq!(segments(&disk, "/elsewhere/two"), segments(&disk, "/elsewhere/one"));
}
