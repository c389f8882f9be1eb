//! Records whose values come in pieces.

use super::*;
use crate::store::fs::mem::Faults;
use crate::store::log::large::{PIECE_BYTES, Pieces};
use crate::store::staged::HEAD_LEN;
use crate::store::{Commit, LARGE_BYTES, Shard};

/// More than [`LARGE_BYTES`], and no whole number of pieces.
const LEN: usize = LARGE_BYTES + 5 * PIECE_BYTES / 2;

/// Stores a value that comes in pieces of these lengths, in turn.
fn put_in_pieces(shard: &mut dyn Shard, dbkey: &[u8], version: u64, dbval: &[u8], lens: &[usize]) {
    let mut staged = shard.stage(dbkey.len(), dbval.len()).unwrap();
    let (mut at, mut n) = (0, 0);
    while at < dbval.len() {
        let end = (at + lens[n % lens.len()]).min(dbval.len());
        staged.append(&dbval[at..end]).unwrap();
        (at, n) = (end, n + 1);
        assert_eq!((staged.filled(), staged.val_len()), (end, dbval.len()));
        assert_eq!(staged.head(), &dbval[..end.min(HEAD_LEN)]);
    }
    let large = shard.put_staged(dbkey, 1, ClockTime(version), staged).unwrap();
    let mut told = Vec::new();
    assert!(large.append_to(10, dbval.len() - 10, &mut told));
    assert!(told[..] == dbval[10..]);
    assert_eq!(large.crc32c(), crc32c::crc32c(dbval));
    assert!(!large.append_to(1, dbval.len(), &mut told), "there is no more");
}

fn reopened(disk: &MemDisk, options: Options, store: LogStore) -> LogStore {
    store.close().unwrap();
    drop(store);
    open(disk, options).unwrap()
}

#[test]
fn the_pieces_make_the_record_that_the_whole_makes_whatever_their_lengths() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    let lengths: [&[usize]; 5] = [&[LEN], &[1000, 7, 300_000], &[PIECE_BYTES], &[63, 1, 65, 100_000], &[10, 250_001]];
    for (n, lens) in lengths.into_iter().enumerate() {
        let version = n as u64 + 1;
        put(&store, &key(100 + version), &value(1, 20)).unwrap();
        let dbval = value(version, LEN);
        put_in_pieces(&mut *store.shards()[0].lock().unwrap(), &key(version), version, &dbval, lens);
        put(&store, &key(200 + version), &value(1, 20)).unwrap();
        assert!(get(&store, &key(version)).unwrap() == Some(dbval));
    }
    commit(&store).unwrap();
    let all = scan(&store, 3);
    assert_eq!(all.len(), 15);
    let store = reopened(&disk, tiny(1), store);
    assert!(scan(&store, 3) == all && store.damage().is_empty());
    // Another number of shards, and compaction, which moves them.
    let store = reopened(&disk, tiny(3), store);
    maintain(&store);
    assert!(scan(&store, 3) == all && store.damage().is_empty());
}

#[test]
fn the_version_is_the_one_that_it_is_stored_with_and_newer_records_take_its_place() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    {
        let mut shard = store.shards()[0].lock().unwrap();
        let mut staged = shard.stage(key(1).len(), LEN + 18).unwrap();
        staged.append(&value(0, LEN)[..]).unwrap();
        shard.put_staged(&key(1), 1, ClockTime(77), staged).unwrap();
        let record = shard.peek(&key(1)).unwrap().unwrap();
        assert_eq!(record.stamp(), stamp(77));
        assert!(!shard.is_newer(&key(1), stamp(77)).unwrap() && shard.is_newer(&key(1), stamp(78)).unwrap());
        let piece = shard.piece(&key(1), ClockTime(77), 8, 100).unwrap().unwrap().to_vec();
        assert_eq!(piece, value(0, LEN)[8..108]);
        assert!(shard.piece(&key(1), ClockTime(76), 8, 100).unwrap().is_none(), "that is not there");
        assert!(shard.piece(&key(1), ClockTime(77), LEN + 18, 1).unwrap().is_none(), "it has no such piece");
        assert!(shard.piece(&key(2), ClockTime(77), 0, 1).unwrap().is_none());
    }
    let before = store.disk_bytes();
    put(&store, &key(1), &value(78, 3)).unwrap();
    commit(&store).unwrap();
    maintain(&store);
    assert!(store.disk_bytes() + LEN as u64 <= before + 4096, "its segment stays");
    assert_eq!(get(&store, &key(1)).unwrap(), Some(value(78, 3)));
}

#[test]
fn a_large_record_can_be_told_to_its_end_however_it_came_and_whatever_becomes_of_it() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    put_in_pieces(&mut *store.shards()[0].lock().unwrap(), &key(1), 1, &value(1, LEN), &[PIECE_BYTES]);
    put(&store, &key(2), &value(2, LEN)).unwrap();
    put(&store, &key(3), &value(3, 20)).unwrap();
    let kept = {
        let mut shard = store.shards()[0].lock().unwrap();
        assert!(shard.large(&key(3)).unwrap().is_none() && shard.large(&key(4)).unwrap().is_none());
        [1, 2].map(|n| shard.large(&key(n)).unwrap().expect("it is large"))
    };
    for n in [1, 2] {
        put(&store, &key(n), &value(10 + n, 20)).unwrap();
    }
    commit(&store).unwrap();
    maintain(&store);
    for ((told, large), n) in kept.into_iter().zip([1, 2]) {
        assert_eq!((told, large.val_len()), (stamp(n), value(n, LEN).len()));
        let mut all = Vec::new();
        assert!(large.append_to(0, large.val_len(), &mut all));
        assert!(all == value(n, LEN));
    }
}

#[test]
fn what_was_not_stored_leaves_nothing() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    let files = disk.files().len();
    let mut staged = store.shards()[0].lock().unwrap().stage(8, LEN).unwrap();
    staged.append(&[1; 100_000]).unwrap();
    assert_eq!(disk.files().len(), files + 1);
    drop(staged);
    assert_eq!(disk.files().len(), files);
    // A process that dies in the middle leaves a file that the next one removes.
    let mut staged = store.shards()[0].lock().unwrap().stage(8, LEN).unwrap();
    staged.append(&[1; 100_000]).unwrap();
    let killed = disk.after_kill();
    assert_eq!(killed.files().len(), files + 1);
    let next = open(&killed, tiny(1)).unwrap();
    assert!(killed.files().iter().all(|(path, _)| !path.to_string_lossy().contains("large")));
    assert!(scan(&next, 10).is_empty() && next.damage().is_empty());
}

#[test]
fn a_kill_at_any_step_leaves_all_of_it_or_nothing() {
    for step in 1..200 {
        let disk = MemDisk::new(step);
        let store = open(&disk, tiny(1)).unwrap();
        put(&store, &key(1), &value(1, 50)).unwrap();
        commit(&store).unwrap();
        let at = disk.steps();
        disk.set_faults(Faults { kill_at: Some(at + step), ..Faults::default() });
        let done = (|| {
            let mut shard = store.shards()[0].lock().unwrap();
            let dbval = value(2, LEN);
            let mut staged = shard.stage(key(1).len(), dbval.len())?;
            dbval.chunks(PIECE_BYTES).try_for_each(|piece| staged.append(piece))?;
            shard.put_staged(&key(1), 1, ClockTime(2), staged)?;
            shard.commit()
        })();
        let next = open(&disk.after_kill(), tiny(1)).unwrap();
        let found = get(&next, &key(1)).unwrap();
        assert!(next.damage().is_empty(), "{:?}", next.damage());
        match done {
            Ok(_) => {
                assert!(found == Some(value(2, LEN)));
                assert!(step > 5, "it takes more than that");
                return;
            }
            Err(_) => assert!(found == Some(value(1, 50)) || found == Some(value(2, LEN)), "killed at step {step}"),
        }
    }
    panic!("it takes no more than 200 steps");
}

#[test]
fn synced_it_survives_a_loss_of_power() {
    for seed in 0..20 {
        let disk = MemDisk::new(seed);
        let options = Options { sync: true, ..tiny(1) };
        let store = open(&disk, options.clone()).unwrap();
        put_in_pieces(&mut *store.shards()[0].lock().unwrap(), &key(1), 5, &value(5, LEN), &[PIECE_BYTES]);
        let Commit::Pending(ticket) = store.shards()[0].lock().unwrap().commit().unwrap() else {
            panic!("it is not on the device yet");
        };
        assert!(store.sync_step().unwrap() && store.durable(0) >= ticket);
        let next = open(&disk.after_power_loss(seed), options).unwrap();
        assert!(get(&next, &key(1)).unwrap() == Some(value(5, LEN)));
    }
}

#[test]
fn where_the_device_is_full_it_is_refused_and_all_else_stays() {
    let disk = MemDisk::new(1);
    let store = open(&disk, tiny(1)).unwrap();
    put(&store, &key(1), &value(1, 50)).unwrap();
    commit(&store).unwrap();
    disk.set_faults(Faults { capacity: Some(LEN as u64 / 2), ..Faults::default() });
    let refused = (|| {
        let mut staged = store.shards()[0].lock().unwrap().stage(key(1).len(), LEN)?;
        value(2, LEN).chunks(PIECE_BYTES).try_for_each(|piece| staged.append(piece))
    })();
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    put(&store, &key(2), &value(1, 50)).unwrap();
    commit(&store).unwrap();
    assert_eq!(scan(&store, 9).len(), 2);
}

#[test]
fn damage_is_found_in_the_piece_that_it_is_in() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LogStore::open(Arc::new(crate::store::fs::RealDisk), dir.path(), Options::default()).unwrap();
    let dbval = value(9, LEN);
    let flip = |at: usize| {
        use std::os::unix::fs::FileExt;
        let large = |path: &std::path::PathBuf| path.metadata().unwrap().len() > LEN as u64;
        let paths = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = paths.into_iter().find(large).expect("the record has a file");
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let at = at as u64 + file.metadata().unwrap().len() - dbval.len() as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    let store = open();
    let mut shard = store.shards()[0].lock().unwrap();
    put_in_pieces(&mut *shard, &key(1), 9, &dbval, &[100_000]);
    shard.commit().unwrap();
    let piece = |shard: &mut dyn Shard, n: usize| {
        let told = shard.piece(&key(1), ClockTime(9), n * PIECE_BYTES, 1000)?;
        Ok::<_, StoreError>(told == Some(&dbval[n * PIECE_BYTES..n * PIECE_BYTES + 1000]))
    };
    // What stands before the pieces is told without them: the version, the flags.
    for at in [0, 8, HEAD_LEN - 1] {
        flip(at);
        assert!(matches!(shard.peek(&key(1)), Err(StoreError::Damaged { .. })), "byte {at}");
        assert!(matches!(piece(&mut *shard, 1), Err(StoreError::Damaged { .. })), "byte {at}");
        assert!(shard.large(&key(1)).is_err(), "byte {at}");
        flip(at);
        assert!(shard.peek(&key(1)).unwrap().is_some() && piece(&mut *shard, 1).unwrap());
    }
    flip(3 * PIECE_BYTES + 5000);
    assert!(piece(&mut *shard, 0).unwrap() && piece(&mut *shard, 2).unwrap() && piece(&mut *shard, 4).unwrap());
    assert!(matches!(piece(&mut *shard, 3), Err(StoreError::Damaged { .. })));
    assert!(matches!(shard.get(&key(1)), Err(StoreError::Damaged { .. })));
    drop(shard);
    drop(store);
    // The next process looks at all of it before it tells any.
    flip(3 * PIECE_BYTES + 5000);
    let store = open();
    let mut shard = store.shards()[0].lock().unwrap();
    assert!(piece(&mut *shard, 3).unwrap());
    drop(shard);
    drop(store);
    flip(4 * PIECE_BYTES);
    let store = open();
    let mut shard = store.shards()[0].lock().unwrap();
    assert!(matches!(piece(&mut *shard, 1), Err(StoreError::Damaged { .. })));
    assert!(matches!(shard.peek(&key(1)), Err(StoreError::Damaged { .. })));
}

#[test]
fn checksums_of_pieces_are_the_same_however_they_were_made() {
    let dbval = value(3, 3 * PIECE_BYTES + 17);
    let pieces = Pieces::of(&dbval);
    assert!(pieces.are_intact(0, dbval.len(), |range| dbval.get(range)));
    assert!(pieces.are_intact(PIECE_BYTES, 1, |range| dbval.get(range)));
    let mut other = dbval.clone();
    other[2 * PIECE_BYTES] ^= 1;
    let intact = |from, len| pieces.are_intact(from, len, |range| other.get(range));
    assert!(intact(0, 2 * PIECE_BYTES) && !intact(0, 2 * PIECE_BYTES + 1) && !intact(2 * PIECE_BYTES, 1));
    assert!(intact(3 * PIECE_BYTES, 17));
}
