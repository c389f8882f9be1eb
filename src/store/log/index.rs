//! Where each key of a shard lies: 16 bytes a key, in 1024 hash tables by the top bits of the ring position.
//!
//! The tables lie in ring order, so that a scan gathers and sorts one table at a time; and they grow one at a time.
//! A table is between 7/16 and 7/8 full when it has grown: at most 39 bytes a key. Keys are not kept: equal positions
//! are told apart by the caller, who reads the records.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

/// Number of tables.
pub const TABLES: usize = 1 << TABLE_BITS;
const TABLE_BITS: u32 = 10;
const MARK: u32 = 1 << 31;

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The segment's slot; below 2^31.
    pub slot: u32,
    /// Byte offset in it.
    pub offset: u32,
}

/// A key in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its ring position.
    pub hash: u64,
    slot_and_mark: u32,
    offset: u32,
}

impl Entry {
    /// An entry for a record at `place`.
    pub fn new(hash: u64, place: Place, is_mark: bool) -> Entry {
        debug_assert!(place.slot < MARK);
        Entry { hash, slot_and_mark: place.slot | if is_mark { MARK } else { 0 }, offset: place.offset }
    }

    /// Where its record lies.
    pub fn place(&self) -> Place {
        Place { slot: self.slot_and_mark & !MARK, offset: self.offset }
    }

    /// Whether it is a deletion mark.
    pub fn is_mark(&self) -> bool {
        self.slot_and_mark & MARK != 0
    }
}

/// Which table a ring position is in.
pub fn table_of(hash: u64) -> usize {
    (hash >> (64 - TABLE_BITS)) as usize
}

/// The first ring position of a table.
pub fn table_start(table: usize) -> u64 {
    (table as u64) << (64 - TABLE_BITS)
}

/// The hash that a table uses. It takes buckets from the low bits, which are as they were, and seven bits to tell
/// entries of a bucket apart from the top, which are the same in a whole table: mix others in there.
fn spread(hash: u64) -> u64 {
    hash ^ (hash << 36)
}

/// The index of one shard.
pub struct Index {
    tables: Vec<HashTable<Entry>>,
    items: u64,
    marks: u64,
}

impl Index {
    /// An empty index.
    pub fn new() -> Index {
        Index { tables: (0..TABLES).map(|_| HashTable::new()).collect(), items: 0, marks: 0 }
    }

    /// Number of records that are not marks.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Number of marks.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().map(HashTable::allocation_size).sum();
        tables + self.tables.capacity() * size_of::<HashTable<Entry>>()
    }

    fn count(&mut self, entry: Entry) {
        *if entry.is_mark() { &mut self.marks } else { &mut self.items } += 1;
    }

    fn uncount(&mut self, entry: Entry) {
        *if entry.is_mark() { &mut self.marks } else { &mut self.items } -= 1;
    }

    /// The entry at `hash` for which `is_it` says yes.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        self.tables[table_of(hash)].find(spread(hash), |e| e.hash == hash && is_it(e)).copied()
    }

    /// Puts `entry` in the place of the one for which `is_it` says yes, which is returned, or adds it.
    pub fn put(&mut self, entry: Entry, mut is_it: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let hash = entry.hash;
        let table = &mut self.tables[table_of(hash)];
        let old = match table.entry(spread(hash), |e| e.hash == hash && is_it(e), |e| spread(e.hash)) {
            TableEntry::Occupied(mut there) => Some(std::mem::replace(there.get_mut(), entry)),
            TableEntry::Vacant(free) => {
                free.insert(entry);
                None
            }
        };
        if let Some(old) = old {
            self.uncount(old);
        }
        self.count(entry);
        old
    }

    /// Makes room in a table for `additional` entries, at opening.
    pub fn reserve(&mut self, table: usize, additional: usize) {
        self.tables[table].reserve(additional, |e| spread(e.hash));
    }

    /// Adds an entry of a key that is not there, at opening.
    pub fn add(&mut self, entry: Entry) {
        self.tables[table_of(entry.hash)].insert_unique(spread(entry.hash), entry, |e| spread(e.hash));
        self.count(entry);
    }

    /// Takes out the entry at `hash` that points to `place`; true when it was there.
    pub fn remove(&mut self, hash: u64, place: Place) -> bool {
        let table = &mut self.tables[table_of(hash)];
        let Ok(found) = table.find_entry(spread(hash), |e| e.hash == hash && e.place() == place) else {
            return false;
        };
        let (entry, _) = found.remove();
        if table.len() < table.capacity() / 4 {
            table.shrink_to(table.len() * 2, |e| spread(e.hash));
        }
        self.uncount(entry);
        true
    }

    /// Whether some entry at `hash` points to `place`.
    pub fn points_to(&self, hash: u64, place: Place) -> bool {
        self.find(hash, |e| e.place() == place).is_some()
    }

    /// Lets the entry at `hash` that points to `from` point to `to`; true when it was there.
    pub fn relocate(&mut self, hash: u64, from: Place, to: Place) -> bool {
        let table = &mut self.tables[table_of(hash)];
        match table.find_mut(spread(hash), |e| e.hash == hash && e.place() == from) {
            Some(entry) => {
                *entry = Entry::new(hash, to, entry.is_mark());
                true
            }
            None => false,
        }
    }

    /// The entries of a table that point into the segment at `slot`: their positions and places.
    pub fn pointing_to(&self, table: usize, slot: u32) -> Vec<(u64, Place)> {
        let there = self.tables[table].iter().filter(|e| e.place().slot == slot);
        there.map(|e| (e.hash, e.place())).collect()
    }

    /// Number of entries in a table.
    pub fn table_len(&self, table: usize) -> usize {
        self.tables[table].len()
    }

    /// Fills `out` with the entries of a table at those positions from `from` on that are `wanted`, in no order.
    pub fn gather(&self, table: usize, from: u64, wanted: &dyn Fn(u64) -> bool, out: &mut Vec<Entry>) {
        out.clear();
        out.extend(self.tables[table].iter().filter(|e| e.hash >= from && wanted(e.hash)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::ring;

    fn entry(n: u32) -> Entry {
        Entry::new(ring::hash(&n.to_le_bytes()), Place { slot: n % 7, offset: n }, n.is_multiple_of(3))
    }

    #[test]
    fn memory_stays_below_48_bytes_a_key_at_every_size() {
        let mut index = Index::new();
        let mut worst = 0.0_f64;
        for n in 0..300_000_u32 {
            index.add(entry(n));
            if n > 20_000 && n.is_multiple_of(1000) {
                worst = worst.max(index.memory_bytes() as f64 / f64::from(n));
            }
        }
        assert!(worst <= 48.0, "{worst} bytes a key");
    }

    #[test]
    fn memory_is_given_back_when_keys_go() {
        let mut index = Index::new();
        (0..100_000).for_each(|n| index.add(entry(n)));
        for n in 10_000..100_000 {
            assert!(index.remove(entry(n).hash, entry(n).place()));
        }
        assert!(index.memory_bytes() < 100 * 10_000, "{} bytes", index.memory_bytes());
        assert_eq!(index.items() + index.marks(), 10_000);
    }

    #[test]
    fn equal_positions_are_kept_apart() {
        let mut index = Index::new();
        let (a, b) = (Place { slot: 1, offset: 1 }, Place { slot: 1, offset: 2 });
        assert_eq!(index.put(Entry::new(5, a, false), |_| false), None);
        assert_eq!(index.put(Entry::new(5, b, true), |_| false), None);
        assert_eq!((index.items(), index.marks()), (1, 1));
        assert_eq!(index.find(5, |e| e.place() == b).map(|e| e.is_mark()), Some(true));
        let c = Place { slot: 2, offset: 0 };
        assert!(index.relocate(5, a, c) && !index.relocate(5, a, c));
        assert!(index.points_to(5, c) && index.points_to(5, b));
    }
}
