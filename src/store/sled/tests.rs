use super::*;
use crate::store::conformance;

fn open(dir: &Path, shards: u16) -> Result<Box<dyn Store>, StoreError> {
    Ok(Box::new(SledStore::open(dir, shards, Options::default())?))
}

conformance::conformance!(open);

use crate::store::conformance::{Chance, check, commit, dbkey, dbval, filled, get, mark, put, rounds, stamp};
use crate::store::{Commit, Record};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

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

    let shard = store.shards().iter().find(|s| s.lock().unwrap().get(&key).is_err()).expect("one shard reports it");
    let mut shard = shard.lock().unwrap();
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

/// Flips bits and cuts off tails of sled's file. Whatever it makes of them, no panic comes out, and no wrong record.
#[test]
fn a_damaged_file_yields_errors_or_what_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let expected = filled(&sled_store(&whole, Options::default()), 3000);
    let bytes = fs::read(whole.join(TREE_DIR).join("db")).unwrap();
    for seed in 0..rounds(20) {
        let mut chance = Chance(seed);
        drop(sled_store(&broken, Options::default()));
        for name in ["conf", "db"] {
            fs::copy(whole.join(TREE_DIR).join(name), broken.join(TREE_DIR).join(name)).unwrap();
        }
        for_each_file(&whole.join(TREE_DIR), &mut |file, _| {
            let name = file.file_name().unwrap();
            fs::copy(file, broken.join(TREE_DIR).join(name)).unwrap();
            Ok(())
        })
        .unwrap();
        let mut changed = bytes.clone();
        match chance.below(4) {
            0 => changed.truncate(chance.below(bytes.len() as u64) as usize),
            n => {
                for _ in 0..n * n {
                    changed[chance.below(bytes.len() as u64) as usize] ^= 1 << chance.below(8);
                }
            }
        }
        fs::write(broken.join(TREE_DIR).join("db"), &changed).unwrap();
        let outcome = match SledStore::open(&broken, 2, Options::default()) {
            Err(e) => e.to_string(),
            Ok(store) => {
                let (mut right, mut wrong, mut failed) = (0, 0, 0);
                for (key, record) in &expected {
                    let shard = usize::from(worker_of(dbkey_hash(key).unwrap(), 2));
                    match store.shards()[shard].lock().unwrap().get(key) {
                        Err(_) => failed += 1,
                        Ok(Some(r)) if (r.epoch, r.dbval.to_vec()) == *record => right += 1,
                        Ok(Some(_)) => panic!("a wrong record"),
                        Ok(None) => wrong += 1,
                    }
                }
                format!("{right} right, {wrong} missing, {failed} errors")
            }
        };
        eprintln!("seed {seed}: {outcome}");
        fs::remove_dir_all(&broken).unwrap();
    }
}
