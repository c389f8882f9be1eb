//! The process dies at each step that the disk takes, and the next one finds what was acknowledged.

use super::*;
use crate::store::fs::mem::Faults;
use std::collections::BTreeMap;

type State = Option<Vec<u8>>;

/// What a key may hold after a crash.
#[derive(Default)]
struct Tracker {
    acknowledged: BTreeMap<u64, State>,
    /// Tried since the last acknowledgement.
    tried: Vec<(u64, State)>,
    /// Every value that a key ever had.
    ever: BTreeMap<u64, Vec<State>>,
}

impl Tracker {
    fn tries(&mut self, n: u64, state: State) {
        self.ever.entry(n).or_default().push(state.clone());
        self.tried.push((n, state));
    }

    fn acknowledge(&mut self) {
        self.acknowledged.extend(self.tried.drain(..));
    }

    fn check(&self, store: &LogStore, what: &str) {
        for n in 0..KEYS {
            let found = get(store, &key(n)).unwrap_or_else(|e| panic!("{what}: key {n}: {e}"));
            let acknowledged = self.acknowledged.get(&n).cloned().flatten();
            let tried = self.tried.iter().any(|(k, state)| *k == n && *state == found);
            let name = |s: &State| s.as_ref().map(|v| crate::logic::record::version_of(v));
            assert!(
                tried || found == acknowledged,
                "{what}: key {n}: {:?} not {:?}",
                name(&found),
                name(&acknowledged)
            );
        }
    }

    /// Whatever is found was once stored.
    fn check_no_rubbish(&self, store: &LogStore, what: &str) {
        for n in 0..KEYS {
            if let Ok(found @ Some(_)) = get(store, &key(n)) {
                assert!(self.ever.get(&n).is_some_and(|ever| ever.contains(&found)), "{what}: key {n}");
            }
        }
    }
}

const KEYS: u64 = 25;

fn noise(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// Commits, and with `sync` waits until it is durable.
fn acknowledge(store: &LogStore, sync: bool, tracker: &mut Tracker) -> Result<(), StoreError> {
    commit(store)?;
    if sync {
        store.sync_step()?;
        for (number, shard) in store.shards().iter().enumerate() {
            match shard.lock().unwrap().commit()? {
                Commit::Done => {}
                Commit::Pending(ticket) => assert!(store.durable(number) >= ticket),
            }
        }
    }
    tracker.acknowledge();
    Ok(())
}

/// The life of a store, until the disk fails.
fn live(disk: &MemDisk, sync: bool, seed: u64, tracker: &mut Tracker) -> Result<(), StoreError> {
    let options = |shards| Options { sync, ..tiny(shards) };
    let mut store = open(disk, options(2))?;
    for i in 1..200 {
        let dice = noise(seed << 32 | i);
        let n = dice / 64 % KEYS;
        match dice % 64 {
            0..40 => {
                let new = value(i, (dice / 4096 % 200) as usize);
                tracker.tries(n, Some(new.clone()));
                put(&store, &key(n), &new)?;
            }
            40..46 => {
                tracker.tries(n, Some(mark(i)));
                put(&store, &key(n), &mark(i))?;
            }
            46..56 => {
                if let Some(old) = get(&store, &key(n))? {
                    tracker.tries(n, None);
                    assert!(forget(&store, &key(n), u64::from_be_bytes(old[..8].try_into().unwrap()))?);
                }
            }
            _ => acknowledge(&store, sync, tracker)?,
        }
        if i % 5 == 0 {
            store.maintain(700)?;
        }
        if i == 70 {
            acknowledge(&store, sync, tracker)?;
            store.backup(Path::new("/kumo/backup"))?;
        }
        if i == 120 {
            acknowledge(&store, sync, tracker)?;
            store.close()?;
            drop(store);
            store = open(disk, options(3))?;
        }
    }
    Ok(())
}

fn crash_at_every_step(sync: bool, check: impl Fn(&MemDisk, &Tracker, u64)) {
    let whole = MemDisk::new(3);
    live(&whole, sync, 1, &mut Tracker::default()).unwrap();
    let steps = whole.steps();
    assert!(steps > 200, "a life of {steps} steps");
    let stride = steps.div_ceil(rounds(250)).max(1);
    for kill_at in (1..=steps).step_by(stride as usize) {
        let disk = MemDisk::new(kill_at);
        disk.set_faults(Faults { kill_at: Some(kill_at), ..Faults::default() });
        let mut tracker = Tracker::default();
        live(&disk, sync, 1, &mut tracker).unwrap_err();
        check(&disk, &tracker, kill_at);
    }
}

fn check_backup(disk: &MemDisk, tracker: &Tracker, what: &str) {
    let there = disk.files().iter().any(|(path, _)| path.starts_with("/kumo/backup"));
    if there {
        let copy = LogStore::open(Arc::new(disk.clone()), Path::new("/kumo/backup"), tiny(1)).unwrap();
        tracker.check_no_rubbish(&copy, what);
        assert!(copy.items() > 0 && copy.damage().is_empty());
    }
}

#[test]
fn killed_at_any_step_nothing_acknowledged_is_lost() {
    crash_at_every_step(false, |disk, tracker, step| {
        let what = format!("killed at step {step}");
        let disk = disk.after_kill();
        let store = open(&disk, tiny(3)).unwrap();
        tracker.check(&store, &what);
        assert_eq!(store.damage(), Vec::<String>::new(), "{what}");
        maintain(&store);
        tracker.check(&store, &what);
        check_backup(&disk, tracker, &what);
    });
}

#[test]
fn killed_while_opening_after_a_kill_nothing_is_lost() {
    let disk = MemDisk::new(5);
    let mut tracker = Tracker::default();
    let whole = MemDisk::new(5);
    live(&whole, false, 1, &mut Tracker::default()).unwrap();
    disk.set_faults(Faults { kill_at: Some(whole.steps() * 3 / 4), ..Faults::default() });
    live(&disk, false, 1, &mut tracker).unwrap_err();
    let fresh = disk.after_kill();
    open(&fresh, tiny(2)).unwrap();
    for kill_at in 1..=fresh.steps() {
        let disk = disk.after_kill();
        disk.set_faults(Faults { kill_at: Some(kill_at), ..Faults::default() });
        drop(open(&disk, tiny(2)));
        tracker.check(&open(&disk.after_kill(), tiny(2)).unwrap(), &format!("killed at step {kill_at} of opening"));
    }
}

#[test]
fn with_sync_nothing_acknowledged_is_lost_when_power_fails() {
    crash_at_every_step(true, |disk, tracker, step| {
        for seed in 0..2 {
            let what = format!("power lost at step {step}, seed {seed}");
            let disk = disk.after_power_loss(seed);
            let store = open(&disk, tiny(2)).unwrap();
            tracker.check(&store, &what);
            maintain(&store);
            tracker.check(&store, &what);
            check_backup(&disk, tracker, &what);
        }
    });
}

#[test]
fn without_sync_a_loss_of_power_leaves_a_store_that_opens_and_serves_no_rubbish() {
    crash_at_every_step(false, |disk, tracker, step| {
        let what = format!("power lost at step {step}");
        let store = open(&disk.after_power_loss(step), tiny(2)).unwrap();
        tracker.check_no_rubbish(&store, &what);
        maintain(&store);
        tracker.check_no_rubbish(&store, &what);
    });
}

#[test]
fn a_forgotten_key_stays_away_through_any_number_of_compactions_and_kills() {
    let mut disk = MemDisk::new(1);
    let mut tracker = Tracker::default();
    for life in 0..rounds(30) {
        disk.set_faults(Faults { kill_at: Some(50 + noise(life) % 500), ..Faults::default() });
        // What the last life tried may have happened or not: take what is there.
        let store = open(&disk.after_kill(), tiny(2)).unwrap();
        tracker.tried.clear();
        for n in 0..KEYS {
            tracker.acknowledged.insert(n, get(&store, &key(n)).unwrap());
        }
        disk = disk.after_kill();
        disk.set_faults(Faults { kill_at: Some(50 + noise(life) % 500), ..Faults::default() });
        let again = life_of_forgets(&disk, life, &mut tracker);
        assert!(again.is_err() || disk.steps() < 550);
        tracker.check(&open(&disk.after_kill(), tiny(2)).unwrap(), &format!("life {life}"));
    }
}

fn life_of_forgets(disk: &MemDisk, life: u64, tracker: &mut Tracker) -> Result<(), StoreError> {
    let store = open(disk, tiny(2))?;
    for i in 1..2000 {
        let n = noise(life * 10_000 + i) % KEYS;
        let version = life * 10_000 + i;
        match get(&store, &key(n))? {
            Some(old) => {
                tracker.tries(n, None);
                assert!(forget(&store, &key(n), u64::from_be_bytes(old[..8].try_into().unwrap()))?);
            }
            None => {
                tracker.tries(n, Some(value(version, 90)));
                put(&store, &key(n), &value(version, 90))?;
            }
        }
        if i % 3 == 0 {
            acknowledge(&store, false, tracker)?;
            store.maintain(2000)?;
        }
    }
    Ok(())
}
