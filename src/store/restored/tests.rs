use super::*;
use crate::logic::clock::ClockTime;
use crate::logic::record::{LAYOUT_FULL, encode_dbkey, encode_header};
use crate::store::fs::RealDisk;
use crate::store::open::{Engine, open};

fn dbkey(key: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode_dbkey(key.as_bytes(), &mut out);
    out
}

fn value(version: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_header(ClockTime(version), LAYOUT_FULL, 0, 0, 0, &mut out);
    out.extend_from_slice(b"data");
    out
}

#[test]
fn records_of_a_backup_become_older_than_all_and_flushed_ones_go() {
    for engine in [Engine::Log, Engine::Sled] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let all = [("flushed", 3, value(1)), ("kept", 5, value(2)), ("newer", 9, value(3)), ("old", 0, value(4))];
        let mark = 7_u64.to_be_bytes().to_vec();
        {
            let store = open(engine, &path, 1, false, None).unwrap();
            let mut shard = store.shards()[0].lock().unwrap();
            for (key, epoch, dbval) in &all {
                shard.put(&dbkey(key), Record { epoch: *epoch, dbval }).unwrap();
            }
            shard.put(&dbkey("deleted"), Record { epoch: 5, dbval: &mark }).unwrap();
            shard.commit().unwrap();
            drop(shard);
            store.close().unwrap();
        }
        // Done again it changes nothing.
        for (taken, dropped) in [(3, 1), (0, 0)] {
            let store = open(engine, &path, 1, false, None).unwrap();
            let mut shard = store.shards()[0].lock().unwrap();
            let (settled, _) = settle(&mut *shard, 5).unwrap();
            assert_eq!(settled, Settled { taken, dropped }, "{engine:?}");
            assert_eq!(shard.get(&dbkey("flushed")).unwrap(), None);
            for (key, _, dbval) in &all[1..] {
                assert_eq!(shard.get(&dbkey(key)).unwrap(), Some(Record { epoch: 0, dbval }), "{key}");
            }
            assert_eq!(shard.get(&dbkey("deleted")).unwrap(), Some(Record { epoch: 0, dbval: &mark }));
            // Whatever the new cluster stores is newer.
            assert!(shard.put_newer(&dbkey("newer"), Record { epoch: 1, dbval: &value(1) }).unwrap());
            shard.put(&dbkey("newer"), Record { epoch: 0, dbval: &all[2].2 }).unwrap();
            shard.commit().unwrap();
            drop(shard);
            store.close().unwrap();
        }
    }
}

#[test]
fn many_records_are_settled_in_slices() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Engine::Log, &dir.path().join("db"), 2, true, None).unwrap();
    for shard in store.shards() {
        let mut shard = shard.lock().unwrap();
        for n in 0..2000 {
            shard.put(&dbkey(&format!("key-{n}")), Record { epoch: 1 + n % 2, dbval: &value(n) }).unwrap();
        }
        shard.commit().unwrap();
        let (settled, ticket) = settle(&mut *shard, 2).unwrap();
        assert_eq!(settled, Settled { taken: 1000, dropped: 1000 });
        assert!(ticket > 0, "what is synced is to be waited for");
        assert_eq!(shard.items(), 1000);
    }
    store.close().unwrap();
}

#[test]
fn the_epoch_beside_a_backup_is_kept_and_damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(&RealDisk, dir.path(), BACKUP_EPOCH_FILE).unwrap(), None);
    let epoch = Epoch { number: 7, flushed: 6, ..Epoch::default() };
    save(&RealDisk, dir.path(), &epoch).unwrap();
    assert_eq!(load(&RealDisk, dir.path(), BACKUP_EPOCH_FILE).unwrap(), Some(epoch));
    let path = dir.path().join(BACKUP_EPOCH_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(load(&RealDisk, dir.path(), BACKUP_EPOCH_FILE).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
