use super::*;
use crate::store::{conformance, crash};

fn open(dir: &Path, shards: u16) -> Result<Box<dyn Store>, StoreError> {
    Ok(Box::new(SledStore::open(dir, shards, Options::default())?))
}

conformance::conformance!(open);

use crate::store::conformance::{Chance, Contents, check, commit, dbkey, dbval, filled, mark, rounds, stamp};
use crate::store::{Commit, Record};

fn sled_store(dir: &Path, options: Options) -> SledStore {
    SledStore::open(dir, 2, options).unwrap()
}

#[test]
fn a_damaged_record_is_reported_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_store(dir.path(), Options::default());
    let mut expected = filled(&store, 20);
    let key = dbkey(3);
    let db = store.db().unwrap();
    let mut stored = db.get(&key).unwrap().unwrap().to_vec();
    *stored.last_mut().unwrap() ^= 1;
    db.insert(&key, stored).unwrap();

    let mut shard = store.shards()[usize::from(worker_of(dbkey_hash(&key).unwrap(), 2))].lock().unwrap();
    assert!(matches!(shard.get(&key), Err(StoreError::Damaged { .. })));
    assert!(matches!(shard.forget(&key, stamp(0, 4)), Err(StoreError::Damaged { .. })));
    let mut damaged = Vec::new();
    let visit = &mut |key: &[u8], record: Result<Record<'_>, StoreError>| {
        if record.is_err() {
            damaged.push(key.to_vec());
        }
    };
    assert_eq!(shard.scan(0, 1000, visit).unwrap(), None);
    assert_eq!(damaged, [key.as_slice()]);
    assert_eq!(store.damage().len(), 1);
    assert!(store.damage()[0].ends_with("key key-3"), "{:?}", store.damage());

    assert!(shard.put_newer(&key, Record { epoch: 0, dbval: &dbval(1, b"from a replica") }).unwrap());
    drop(shard);
    expected.insert(key, (0, dbval(1, b"from a replica")));
    store.damage.lines.lock().unwrap().clear();
    check(&store, &expected);
}

/// sled 0.34 takes the last file named `snap.*` for its newest snapshot, also one that it was killed in.
#[test]
fn an_unfinished_snapshot_does_not_hinder_opening() {
    let dir = tempfile::tempdir().unwrap();
    let expected = filled(&sled_store(dir.path(), Options::default()), 50);
    let unfinished = dir.path().join(TREE_DIR).join("snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&unfinished, "half").unwrap();
    check(&sled_store(dir.path(), Options::default()), &expected);
    assert!(!unfinished.exists());
}

#[test]
fn a_tree_that_was_not_completely_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(sled_store(dir.path(), Options::default()));
    let (tree, new) = (dir.path().join(TREE_DIR), dir.path().join(NEW_TREE_DIR));
    fs::rename(&tree, &new).unwrap();
    fs::write(new.join("conf"), "segment_si").unwrap();
    let store = sled_store(dir.path(), Options::default());
    filled(&store, 5);
    assert!(!new.exists());
}

#[test]
fn nothing_is_durable_before_its_flush_and_one_flush_serves_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_store(dir.path(), Options { sync: true, ..Options::default() });
    let mut shard = store.shards()[0].lock().unwrap();
    assert_eq!(shard.commit().unwrap(), Commit::Done);
    let key = (0..).map(dbkey).find(|k| worker_of(dbkey_hash(k).unwrap(), 2) == 0).unwrap();
    for n in 1..=100 {
        shard.put(&key, Record { epoch: 1, dbval: &dbval(n, b"x") }).unwrap();
        assert_eq!(shard.commit().unwrap(), Commit::Pending(n));
    }
    assert!(matches!(shard.commit().unwrap(), Commit::Done | Commit::Pending(100)));
    drop(shard);
    store.close().unwrap();
    assert_eq!((store.durable(0), store.durable(1)), (100, 0));
}

#[test]
fn an_almost_full_device_refuses_puts_and_serves_gets() {
    let dir = tempfile::tempdir().unwrap();
    let expected = filled(&sled_store(dir.path(), Options::default()), 20);
    let store = sled_store(dir.path(), Options { reserve_bytes: u64::MAX, ..Options::default() });
    for shard in store.shards() {
        let put = shard.lock().unwrap().put(&dbkey(1), Record { epoch: 9, dbval: &mark(99) });
        assert!(matches!(put, Err(StoreError::Full(_))));
    }
    check(&store, &expected);
    let removed = store.shards().iter().any(|s| s.lock().unwrap().forget(&dbkey(1), stamp(1, 2)).unwrap());
    assert!(removed, "forgetting makes room");
    commit(&store);
}

#[test]
fn a_closed_store_answers_with_errors() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled_store(dir.path(), Options::default());
    filled(&store, 5);
    store.close().unwrap();
    store.close().unwrap();
    let mut shard = store.shards()[0].lock().unwrap();
    assert!(shard.get(&dbkey(1)).is_err() && shard.put(&dbkey(1), Record { epoch: 1, dbval: &mark(1) }).is_err());
    assert!(shard.scan(0, 1, &mut |_, _| {}).is_err() && store.backup(&dir.path().join("copy")).is_err());
    // Another process may have it now.
    sled_store(dir.path(), Options::default());
}

/// Flips bits in sled's files and cuts off their tails. Whatever sled makes of that: no panic, no wrong record, and no
/// record that is missing without a word.
#[test]
fn damaged_files_yield_errors_or_what_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    // Twice, so that there is a snapshot, and a log that goes on after it.
    drop(filled(&sled_store(&whole, Options::default()), 1500));
    let expected = filled(&sled_store(&whole, Options::default()), 3000);
    for seed in 0..rounds(30) {
        let mut chance = Chance(seed);
        copy_files(&whole, &broken);
        let mut files = Vec::new();
        for_each_file(&broken.join(TREE_DIR), &mut |file, _| {
            files.push(file.to_owned());
            Ok(())
        })
        .unwrap();
        files.sort();
        let file = match chance.below(4) {
            0 => files[chance.below(files.len() as u64) as usize].clone(),
            _ => broken.join(TREE_DIR).join("db"),
        };
        damage_file(&file, &mut chance);
        let outcome = match SledStore::open(&broken, 2, Options::default()) {
            Err(e) => e.to_string(),
            Ok(store) => {
                let (right, failed) = count_right(&store, &expected);
                format!("{right} right, {failed} errors")
            }
        };
        eprintln!("seed {seed}: {} damaged: {outcome}", file.display());
        fs::remove_dir_all(&broken).unwrap();
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.metadata().unwrap().is_dir() {
            true => copy_files(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn damage_file(file: &Path, chance: &mut Chance) {
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len() as u64;
    match chance.below(4) {
        0 => bytes.truncate(chance.below(len) as usize),
        n => (0..n * n).for_each(|_| bytes[chance.below(len) as usize] ^= 1 << chance.below(8)),
    }
    fs::write(file, &bytes).unwrap();
}

fn count_right(store: &SledStore, expected: &Contents) -> (usize, usize) {
    let (mut right, mut failed) = (0, 0);
    for (key, record) in expected {
        let shard = usize::from(worker_of(dbkey_hash(key).unwrap(), 2));
        match store.shards()[shard].lock().unwrap().get(key) {
            Ok(found) => {
                assert_eq!(found.map(|r| (r.epoch, r.dbval.to_vec())).as_ref(), Some(record));
                right += 1;
            }
            Err(_) => failed += 1,
        }
    }
    (right, failed)
}

/// Works only when [`killed_at_any_moment_it_keeps_what_it_acknowledged`] runs it as a process of its own.
#[test]
fn crash_writer() {
    crash::write_until_killed(&open);
}

#[test]
fn killed_at_any_moment_it_keeps_what_it_acknowledged() {
    crash::survives(&open, "store::sled::tests::crash_writer", rounds(6));
}
