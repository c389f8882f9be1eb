//! Random histories against a BTreeMap.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Act {
    Put { key: u64, len: usize },
    Mark { key: u64 },
    Forget { key: u64 },
    Commit,
    Maintain { steps: usize },
    Backup,
    Close { shards: u16 },
    Kill { shards: u16 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let key = 0..40_u64;
    let act = prop_oneof![
        20 => (key.clone(), 0..300_usize).prop_map(|(key, len)| Act::Put { key, len }),
        4 => key.clone().prop_map(|key| Act::Mark { key }),
        8 => key.prop_map(|key| Act::Forget { key }),
        6 => Just(Act::Commit),
        6 => (1..40_usize).prop_map(|steps| Act::Maintain { steps }),
        1 => Just(Act::Backup),
        1 => (1..5_u16).prop_map(|shards| Act::Close { shards }),
        1 => (1..5_u16).prop_map(|shards| Act::Kill { shards }),
    ];
    proptest::collection::vec(act, 1..400)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn check(store: &LogStore, model: &Model) {
    let all: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(scan(store, 3), all);
    assert_eq!(store.items(), model.values().filter(|v| v.len() > 8).count() as u64);
    let marks: u64 = store.shards().iter().map(|s| s.lock().unwrap().marks()).sum();
    assert_eq!(marks, model.values().filter(|v| v.len() == 8).count() as u64);
    for n in 0..40 {
        assert_eq!(get(store, &key(n)).unwrap().as_ref(), model.get(&key(n)), "key {n}");
    }
    assert_eq!(store.damage(), Vec::<String>::new());
}

fn run(acts: Vec<Act>) {
    let mut disk = MemDisk::new(7);
    let mut store = open(&disk, tiny(2)).unwrap();
    let (mut model, mut version, mut backups) = (Model::new(), 0, 0);
    for act in acts {
        version += 1;
        match act {
            Act::Put { key: n, len } => {
                put(&store, &key(n), &value(version, len)).unwrap();
                model.insert(key(n), value(version, len));
            }
            Act::Mark { key: n } => {
                put(&store, &key(n), &mark(version)).unwrap();
                model.insert(key(n), mark(version));
            }
            Act::Forget { key: n } => {
                let held = model.remove(&key(n)).map(|v| u64::from_be_bytes(v[..8].try_into().unwrap()));
                assert_eq!(forget(&store, &key(n), held.unwrap_or(1)).unwrap(), held.is_some());
            }
            Act::Commit => commit(&store).unwrap(),
            Act::Maintain { steps } => {
                for _ in 0..steps {
                    store.maintain(500).unwrap();
                }
            }
            Act::Backup => {
                commit(&store).unwrap();
                backups += 1;
                let dst = format!("/kumo/backup-{backups}");
                store.backup(Path::new(&dst)).unwrap();
                let copy = LogStore::open(Arc::new(disk.clone()), Path::new(&dst), tiny(3)).unwrap();
                check(&copy, &model);
                assert_ne!(copy.disk_id(), store.disk_id());
            }
            Act::Close { shards } => {
                store.close().unwrap();
                store = open(&disk, tiny(shards)).unwrap();
                check(&store, &model);
            }
            Act::Kill { shards } => {
                commit(&store).unwrap();
                disk = disk.after_kill();
                store = open(&disk, tiny(shards)).unwrap();
                check(&store, &model);
            }
        }
    }
    check(&store, &model);
    maintain(&store);
    check(&store, &model);
    store.close().unwrap();
    check(&open(&disk, tiny(1)).unwrap(), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(60) as u32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_random_history_leaves_what_a_map_would_hold(acts in acts()) {
        run(acts);
    }
}
