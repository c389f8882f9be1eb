use super::*;
use crate::logic::clock::ClockTime;
use crate::logic::record::{LAYOUT_FULL, encode_dbkey, encode_header};
use proptest::prelude::*;
use std::collections::BTreeMap;

const ON: Limits = Limits { bytes: 1 << 20, least_value: 0 };

fn dbkey(name: &str) -> (u64, Vec<u8>) {
    let mut dbkey = Vec::new();
    encode_dbkey(name.as_bytes(), &mut dbkey);
    (dbkey_hash(&dbkey).unwrap(), dbkey)
}

fn dbval(version: u64, len: usize) -> Vec<u8> {
    let mut dbval = Vec::new();
    encode_header(ClockTime(version), LAYOUT_FULL, 0, 0, 0, &mut dbval);
    dbval.resize(dbval.len() + len, b'v');
    dbval
}

fn offer(cache: &mut Cache, name: &str, version: u64, len: usize) {
    let (hash, dbkey) = dbkey(name);
    cache.offer(hash, &dbkey, &dbval(version, len));
}

fn version(cache: &mut Cache, name: &str) -> Option<u64> {
    let (hash, dbkey) = dbkey(name);
    assert_eq!(cache.has(hash, &dbkey), cache.find(hash, &dbkey).is_some());
    cache.find(hash, &dbkey).map(|known| known.version())
}

#[test]
fn a_value_is_taken_in_when_its_key_is_asked_for_again() {
    let mut cache = Cache::new(ON);
    offer(&mut cache, "a", 1, 10);
    assert_eq!(version(&mut cache, "a"), None);
    offer(&mut cache, "a", 1, 10);
    assert_eq!((version(&mut cache, "a"), cache.items()), (Some(1), 1));
    let (hash, key) = dbkey("a");
    assert_eq!(cache.find(hash, &key).unwrap().dbval(), dbval(1, 10));
}

#[test]
fn another_value_takes_its_place_and_none_takes_it_out() {
    let mut cache = Cache::new(ON);
    (0..2).for_each(|_| offer(&mut cache, "a", 5, 10));
    offer(&mut cache, "a", 7, 20);
    assert_eq!((version(&mut cache, "a"), cache.items()), (Some(7), 1));
    // Versions may fall, should operators restore a backup: what the coordinator says counts.
    offer(&mut cache, "a", 3, 20);
    assert_eq!(version(&mut cache, "a"), Some(3));
    let (hash, key) = dbkey("a");
    cache.forget(hash, &key);
    assert_eq!((version(&mut cache, "a"), cache.items(), cache.bytes()), (None, 0, 0));
}

#[test]
fn values_that_are_too_small_or_too_large_are_not_taken_in() {
    let mut cache = Cache::new(Limits { bytes: 4000, least_value: 100 });
    for _ in 0..3 {
        offer(&mut cache, "small", 1, 50);
        offer(&mut cache, "large", 1, 1000);
        offer(&mut cache, "right", 1, 100);
    }
    assert_eq!(version(&mut cache, "small"), None);
    assert_eq!(version(&mut cache, "large"), None);
    assert_eq!(version(&mut cache, "right"), Some(1));
    offer(&mut cache, "right", 2, 10);
    assert_eq!((version(&mut cache, "right"), cache.bytes()), (None, 0), "it is useless now");
}

#[test]
fn who_was_asked_for_stays_and_who_was_not_goes() {
    let one = cost(&dbkey("k0").1, &dbval(1, 100));
    let mut cache = Cache::new(Limits { bytes: 8 * one, least_value: 0 });
    for n in 0..8 {
        (0..2).for_each(|_| offer(&mut cache, &format!("k{n}"), 1, 100));
    }
    assert_eq!(version(&mut cache, "k3"), Some(1));
    for n in 0..7 {
        (0..2).for_each(|_| offer(&mut cache, &format!("n{n}"), 1, 100));
    }
    assert_eq!((version(&mut cache, "k3"), version(&mut cache, "k4"), cache.items()), (Some(1), None, 8));
}

#[test]
fn what_somebody_asks_about_stays_although_it_is_let_go() {
    let mut cache = Cache::new(ON);
    (0..2).for_each(|_| offer(&mut cache, "a", 5, 10));
    let (hash, key) = dbkey("a");
    let known = cache.find(hash, &key).unwrap();
    cache.forget(hash, &key);
    assert_eq!(known.dbval(), dbval(5, 10));
}

#[test]
fn without_memory_nothing_is_cached() {
    let mut cache = Cache::new(Limits::OFF);
    (0..3).for_each(|_| offer(&mut cache, "a", 5, 10));
    assert_eq!((version(&mut cache, "a"), cache.is_on()), (None, false));
}

proptest! {
    /// Whatever comes, what is found is what was told last, and the bound is kept.
    #[test]
    fn it_tells_what_it_was_told_last_or_nothing(
        steps in prop::collection::vec((0..40u8, 0..4u8, 0..300usize), 0..400),
        bytes in 1000..20_000usize,
    ) {
        let mut cache = Cache::new(Limits { bytes, least_value: 20 });
        let mut told: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (version, (key, what, len)) in steps.into_iter().enumerate() {
            let (hash, dbkey) = dbkey(&format!("key{key}"));
            match what {
                0 => {
                    cache.forget(hash, &dbkey);
                    told.remove(&key);
                }
                1 => {
                    let dbval = dbval(version as u64, len);
                    cache.offer(hash, &dbkey, &dbval);
                    told.insert(key, dbval);
                }
                _ => {
                    if let Some(dbval) = told.get(&key) {
                        cache.offer(hash, &dbkey, dbval);
                    }
                    if let Some(known) = cache.find(hash, &dbkey) {
                        prop_assert_eq!(Some(known.dbval()), told.get(&key).map(Vec::as_slice));
                    }
                }
            }
            let held = cache.entries.iter().flatten().map(|e| e.known.cost()).sum::<usize>();
            prop_assert_eq!((held, cache.entries.iter().flatten().count()), (cache.bytes(), cache.items()));
            prop_assert!(held <= bytes);
        }
    }
}
