//! The local cache of a worker (`-lc`): values that are asked for again and again.
//!
//! It answers nothing by itself. A get of a key whose value is here asks the coordinator whether that is still the value
//! (`GetIfModified`, or a fetch that names a version: `doc/protocol.md`, "Requests of gateways"), and what is saved is that
//! the value travels. So there is nothing to invalidate: what is out of date is useless, and never told.
//!
//! A value is taken in when its key is asked for a second time within the last few ten thousand keys, so that keys which
//! are asked for once do not push out the hot ones. Where there is no room, a value goes that was not asked for since the
//! search for one came past it last ("second chance").

use crate::logic::record::{dbkey_hash, version_of};
use hashbrown::HashTable;
use std::rc::Rc;

/// Bytes that an entry takes beside key and value, about.
const ENTRY_BYTES: usize = 96;
/// A value is not taken in where it would fill more than this part of the cache.
const LARGEST_PART: usize = 4;
/// Places in the table of keys that were asked for once.
const SEEN: usize = 1 << 16;

/// How much is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of all keys and values, with what keeping them takes. 0: nothing is cached.
    pub bytes: usize,
    /// Values of fewer bytes are not: asking for them costs no more than asking whether they have changed.
    pub least_value: usize,
}

impl Limits {
    /// No cache.
    pub const OFF: Limits = Limits { bytes: 0, least_value: 0 };

    /// The share of one of several workers.
    pub fn share(self, workers: usize) -> Limits {
        Limits { bytes: self.bytes / workers.max(1), ..self }
    }
}

/// A value as a coordinator told it. It stays while somebody asks about it, cached or not.
#[derive(Debug)]
pub struct Known {
    key_len: usize,
    /// The dbkey, and behind it the dbval.
    bytes: Box<[u8]>,
}

impl Known {
    fn new(dbkey: &[u8], dbval: &[u8]) -> Rc<Known> {
        Rc::new(Known { key_len: dbkey.len(), bytes: [dbkey, dbval].concat().into_boxed_slice() })
    }

    fn dbkey(&self) -> &[u8] {
        &self.bytes[..self.key_len]
    }

    /// The whole dbval.
    pub fn dbval(&self) -> &[u8] {
        &self.bytes[self.key_len..]
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        version_of(self.dbval()).unwrap_or_default().0
    }

    fn cost(&self) -> usize {
        cost(&self.bytes[..self.key_len], &self.bytes[self.key_len..])
    }
}

fn cost(dbkey: &[u8], dbval: &[u8]) -> usize {
    ENTRY_BYTES + dbkey.len() + dbval.len()
}

struct Entry {
    known: Rc<Known>,
    /// Since the hand came past.
    asked: bool,
}

/// One worker's cache.
pub struct Cache {
    limits: Limits,
    bytes: usize,
    /// Places in `entries`, by the ring position of their keys.
    places: HashTable<u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Where the next search for a value to let go begins.
    hand: usize,
    /// The other half of the ring positions of keys that were asked for.
    seen: Box<[u32]>,
}

impl Cache {
    /// An empty one.
    pub fn new(limits: Limits) -> Cache {
        let seen = if limits.bytes > 0 { SEEN } else { 0 };
        Cache {
            limits,
            bytes: 0,
            places: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            hand: 0,
            seen: vec![0; seen].into_boxed_slice(),
        }
    }

    /// Whether anything is cached.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.limits.bytes > 0
    }

    /// Bytes of what is here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many values are here.
    pub fn items(&self) -> usize {
        self.places.len()
    }

    /// Whether the value of a key is here.
    #[inline]
    pub fn has(&self, hash: u64, dbkey: &[u8]) -> bool {
        !self.places.is_empty() && self.place(hash, dbkey).is_some()
    }

    /// The value of a key, if it is here.
    #[inline]
    pub fn find(&mut self, hash: u64, dbkey: &[u8]) -> Option<Rc<Known>> {
        if self.places.is_empty() {
            return None;
        }
        let place = self.place(hash, dbkey)?;
        let entry = self.entries[place as usize].as_mut()?;
        entry.asked = true;
        Some(entry.known.clone())
    }

    /// A coordinator told a value: it is taken in, takes the place of an older one, or shows that one to be useless.
    pub fn offer(&mut self, hash: u64, dbkey: &[u8], dbval: &[u8]) {
        let cost = cost(dbkey, dbval);
        let fits = dbval.len() >= self.limits.least_value && cost <= self.limits.bytes / LARGEST_PART;
        match self.place(hash, dbkey) {
            Some(place) => {
                let same = |entry: &Entry| entry.known.dbval() == dbval;
                if self.entries[place as usize].as_ref().is_some_and(same) {
                    return;
                }
                self.remove(place);
                if fits {
                    self.insert(hash, Known::new(dbkey, dbval));
                }
            }
            None if fits && self.is_asked_again(hash) => self.insert(hash, Known::new(dbkey, dbval)),
            None => {}
        }
    }

    /// A coordinator told that a key has no value.
    #[inline]
    pub fn forget(&mut self, hash: u64, dbkey: &[u8]) {
        if !self.places.is_empty()
            && let Some(place) = self.place(hash, dbkey)
        {
            self.remove(place);
        }
    }

    fn place(&self, hash: u64, dbkey: &[u8]) -> Option<u32> {
        let is_it = |place: &u32| self.entries[*place as usize].as_ref().is_some_and(|e| e.known.dbkey() == dbkey);
        self.places.find(hash, is_it).copied()
    }

    /// Whether a key was asked for before; from now on it was.
    fn is_asked_again(&mut self, hash: u64) -> bool {
        let other_half = (hash >> 32) as u32;
        let place = hash as usize % SEEN;
        std::mem::replace(&mut self.seen[place], other_half) == other_half
    }

    fn insert(&mut self, hash: u64, known: Rc<Known>) {
        let cost = known.cost();
        while self.bytes + cost > self.limits.bytes {
            self.let_one_go();
        }
        self.bytes += cost;
        let entry = Some(Entry { known, asked: false });
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        let entries = &self.entries;
        let hash_of = |place: &u32| entries[*place as usize].as_ref().and_then(|e| dbkey_hash(e.known.dbkey()));
        self.places.insert_unique(hash, place, |place| hash_of(place).unwrap_or_default());
    }

    /// Lets go of a value. There is one, as something is over the bound.
    fn let_one_go(&mut self) {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            match &mut self.entries[place] {
                Some(entry) if entry.asked => entry.asked = false,
                Some(_) => return self.remove(place as u32),
                None => {}
            }
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(entry) = self.entries[place as usize].take() else { return };
        self.bytes -= entry.known.cost();
        self.free.push(place);
        let hash = dbkey_hash(entry.known.dbkey()).unwrap_or_default();
        if let Ok(found) = self.places.find_entry(hash, |other| *other == place) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests;
