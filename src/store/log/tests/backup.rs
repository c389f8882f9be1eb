//! Backups, made while the store works.

use super::*;
use crate::store::fs::mem::Faults;
use crate::store::fs::{Disk, File, Listed, Lock, Space};
use std::io;

fn open_at(disk: &MemDisk, dir: &Path) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), dir, tiny(2)).unwrap()
}

#[test]
fn a_backup_holds_what_was_committed_and_nothing_later() {
    for no_links in [false, true] {
        let disk = MemDisk::new(1);
        let store = open(&disk, tiny(2)).unwrap();
        (0..100).for_each(|n| put(&store, &key(n), &value(1, 90)).unwrap());
        commit(&store).unwrap();
        // A compaction is under way.
        (0..50).for_each(|n| put(&store, &key(n), &value(2, 90)).unwrap());
        commit(&store).unwrap();
        for _ in 0..5 {
            store.maintain(1000).unwrap();
        }
        disk.set_faults(Faults { no_links, ..Faults::default() });
        let dst = Path::new("/elsewhere/backup");
        store.backup(dst).unwrap();
        disk.set_faults(Faults::default());
        (0..100).for_each(|n| put(&store, &key(n), &value(3, 90)).unwrap());
        commit(&store).unwrap();
        maintain(&store);
        store.close().unwrap();
        let copy = open_at(&disk, dst);
        for n in 0..100 {
            assert_eq!(get(&copy, &key(n)).unwrap(), Some(value(if n < 50 { 2 } else { 1 }, 90)));
        }
        assert_eq!(copy.damage(), Vec::<String>::new());
        assert_ne!(copy.disk_id(), store.disk_id());
        // The backup lives its own life.
        put(&copy, &key(1), &value(9, 1)).unwrap();
        copy.close().unwrap();
        assert_eq!(get(&open(&disk, tiny(2)).unwrap(), &key(1)).unwrap(), Some(value(3, 90)));
    }
}

#[test]
fn a_backup_never_replaces_anything() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    put(&store, &key(1), &value(1, 9)).unwrap();
    commit(&store).unwrap();
    store.backup(Path::new("/kumo/one")).unwrap();
    assert!(matches!(store.backup(Path::new("/kumo/one")), Err(StoreError::Unusable(_))));
}

#[test]
fn what_an_interrupted_backup_left_is_cleared_by_the_next() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    (0..60).for_each(|n| put(&store, &key(n), &value(1, 90)).unwrap());
    commit(&store).unwrap();
    disk.set_faults(Faults { fail_at: (disk.steps() + 9..disk.steps() + 20).collect(), ..Faults::default() });
    store.backup(Path::new("/kumo/one")).unwrap_err();
    disk.set_faults(Faults::default());
    assert!(disk.files().iter().any(|(path, _)| path.starts_with("/kumo/one.partial")));
    store.backup(Path::new("/kumo/one")).unwrap();
    assert!(!disk.files().iter().any(|(path, _)| path.starts_with("/kumo/one.partial")));
    assert_eq!(open_at(&disk, Path::new("/kumo/one")).items(), 60);
}

#[test]
fn stores_and_compaction_go_on_while_backups_are_made() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(crate::store::fs::RealDisk);
    let options = Options { segment_bytes: 16 << 10, ..tiny(2) };
    let store = LogStore::open(disk.clone(), &home.path().join("db"), options.clone()).unwrap();
    let backups = 8;
    let done = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    (0..100).for_each(|n| put(&store, &key(n), &value(0, 100)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                (0..100).for_each(|n| put(&store, &key(n), &value(version, 100)).unwrap());
                commit(&store).unwrap();
                if done.load(ordering) {
                    return;
                }
            }
        });
        scope.spawn(|| {
            while !done.load(ordering) {
                store.maintain(50_000).unwrap();
            }
        });
        (0..backups).for_each(|i| store.backup(&home.path().join(format!("backup-{i}"))).unwrap());
        done.store(true, ordering);
    });
    for i in 0..backups {
        let copy = LogStore::open(disk.clone(), &home.path().join(format!("backup-{i}")), options.clone()).unwrap();
        assert_eq!((copy.items(), copy.damage()), (100, vec![]));
        for n in 0..100 {
            let found = get(&copy, &key(n)).unwrap().unwrap();
            let version = u64::from_be_bytes(found[..8].try_into().unwrap());
            assert_eq!(found, value(version, 100));
        }
    }
}

type OnLink = Box<dyn Fn() + Send + Sync>;

/// A disk on which something happens before each hard link.
struct Busy {
    disk: MemDisk,
    on_link: std::sync::Mutex<Option<OnLink>>,
}

impl Disk for Busy {
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Some(on_link) = self.on_link.lock().unwrap().as_ref() {
            on_link();
        }
        self.disk.hard_link(from, to)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        self.disk.is_same(one, other)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.lock(path)
    }
    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }
    fn random(&self) -> io::Result<u64> {
        self.disk.random()
    }
}

#[test]
fn segments_that_compaction_is_done_with_stay_until_the_backup_has_them() {
    let disk = Arc::new(Busy { disk: MemDisk::new(1), on_link: std::sync::Mutex::new(None) });
    let store = Arc::new(LogStore::open(disk.clone(), dir(), tiny(2)).unwrap());
    for version in 1..4 {
        (0..100).for_each(|n| put(&store, &key(n), &value(version, 90)).unwrap());
    }
    commit(&store).unwrap();
    let working = Arc::downgrade(&store);
    *disk.on_link.lock().unwrap() = Some(Box::new(move || {
        working.upgrade().unwrap().maintain(3000).unwrap();
    }));
    let before = store.disk_bytes();
    store.backup(Path::new("/kumo/one")).unwrap();
    *disk.on_link.lock().unwrap() = None;
    maintain(&store);
    assert!(store.disk_bytes() < before, "nothing was compacted");
    let copy = open_at(&disk.disk, Path::new("/kumo/one"));
    (0..100).for_each(|n| assert_eq!(get(&copy, &key(n)).unwrap(), Some(value(3, 90))));
}
