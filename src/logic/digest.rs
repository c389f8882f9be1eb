//! Digests by which two servers find out what one of them lacks, without sending what both hold.
//!
//! Source: doc/guarantees.md, "Being filled"; the bytes: doc/protocol.md, "Rejoining". The ring is cut into 2^bits *leaves* of equal width; the digest of a leaf is
//! the sum of its records', so it can be taken in any order and in pieces, and an empty leaf has 0. A record's covers all
//! of it: dbkey, stamp, and what is stored, should two records carry one stamp after all (restored from elsewhere).
//!
//! The seed is a random number of the sender's life, so that nobody can choose values whose digests collide.

use super::record::{Stamp, dbkey_hash, version_of};

/// Records that a leaf is to have, on average.
const LEAF_RECORDS: u64 = 16;
/// Most bits: some billions of records.
pub const MAX_BITS: u8 = 28;
/// Leaves that are compared together.
pub const WINDOW: u64 = 64;

/// The digest of a record.
pub fn of_record(seed: u64, dbkey: &[u8], epoch: u64, dbval: &[u8]) -> u64 {
    let version = version_of(dbval).unwrap_or_default();
    of_content(seed, dbkey, Stamp { epoch, version }, crc32c::crc32c(dbval))
}

/// The same, where the CRC-32C of the dbval is known.
pub fn of_content(seed: u64, dbkey: &[u8], stamp: Stamp, crc: u32) -> u64 {
    let content = u64::from(crc32c::crc32c(dbkey)) << 32 | u64::from(crc);
    let hash = dbkey_hash(dbkey).unwrap_or(0);
    [hash, stamp.epoch, stamp.version.0, content].into_iter().fold(seed, |sum, n| mix(sum ^ n))
}

/// A bijection in which every bit of the input moves half of those of the output: SplitMix64's finalizer (Steele, Lea and
/// Flood, 2014).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// How the ring is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaves {
    bits: u8,
}

impl Leaves {
    /// Leaves for so many records.
    pub fn for_records(records: u64) -> Leaves {
        let leaves = records.div_ceil(LEAF_RECORDS).max(1);
        let bits = leaves.next_power_of_two().trailing_zeros();
        Leaves { bits: u8::try_from(bits).unwrap_or(MAX_BITS).min(MAX_BITS) }
    }

    /// 2^bits of them; `None`: that is too many.
    pub fn of_bits(bits: u64) -> Option<Leaves> {
        u8::try_from(bits).ok().filter(|bits| *bits <= MAX_BITS).map(|bits| Leaves { bits })
    }

    /// The logarithm of their number.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        1 << self.bits
    }

    /// The leaf of a ring position.
    pub fn of(self, position: u64) -> u64 {
        position.checked_shr(64 - u32::from(self.bits)).unwrap_or(0)
    }

    /// The first ring position of a leaf.
    pub fn start(self, leaf: u64) -> u64 {
        leaf.checked_shl(64 - u32::from(self.bits)).unwrap_or(0)
    }
}

/// Some leaves next to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// How the ring is cut.
    pub leaves: Leaves,
    /// The first of them.
    pub first: u64,
    /// How many they are, up to [`WINDOW`].
    pub len: u64,
}

impl Window {
    /// The one that begins at a leaf; `None` behind the last leaf.
    pub fn at(leaves: Leaves, first: u64) -> Option<Window> {
        let len = leaves.count().checked_sub(first)?.min(WINDOW);
        (len > 0).then_some(Window { leaves, first, len })
    }

    /// The one behind it.
    pub fn next(self) -> Option<Window> {
        Window::at(self.leaves, self.first + self.len)
    }

    /// Its first ring position.
    pub fn start(self) -> u64 {
        self.leaves.start(self.first)
    }

    /// Which of its leaves has a ring position, counted from its first; `None`: none has.
    pub fn place(self, position: u64) -> Option<usize> {
        let place = self.leaves.of(position).checked_sub(self.first)?;
        (place < self.len).then_some(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"\x12\x34\x56\x78\x9a\xbc\xde\xf0key";

    #[test]
    fn windows_cover_the_ring_once_whatever_the_number_of_records() {
        for records in [0, 1, 16, 17, 1000, 5000] {
            let leaves = Leaves::for_records(records);
            let mut windows = Vec::new();
            let mut next = Window::at(leaves, 0);
            while let Some(window) = next {
                windows.push(window);
                next = window.next();
            }
            assert_eq!(windows.iter().map(|w| w.len).sum::<u64>(), leaves.count());
            let step = u64::MAX / 997;
            for position in (0..997).map(|i| i * step).chain([0, u64::MAX]) {
                let places: Vec<_> = windows.iter().filter_map(|w| Some((w, w.place(position)?))).collect();
                assert_eq!(places.len(), 1, "{position} with {records}");
                let (window, place) = places[0];
                assert!((place as u64) < window.len && window.start() <= position);
            }
        }
    }

    #[test]
    fn a_leaf_has_about_sixteen_records_and_never_too_many_leaves() {
        assert_eq!(Leaves::for_records(16).count(), 1);
        assert_eq!(Leaves::for_records(1 << 20).count(), 1 << 16);
        assert_eq!(Leaves::for_records(u64::MAX / 2).bits(), MAX_BITS);
        assert_eq!(Leaves::of_bits(u64::from(MAX_BITS) + 1), None);
        assert_eq!(Leaves::of_bits(300), None);
    }

    #[test]
    fn whatever_differs_shows_in_the_digest() {
        let value = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, b'x'];
        let mut other = value;
        other[10] = b'y';
        let mut newer = value;
        newer[7] = 8;
        let one = of_record(1, KEY, 5, &value);
        assert_eq!(one, of_record(1, KEY, 5, &value));
        let others = [
            of_record(2, KEY, 5, &value),
            of_record(1, KEY, 6, &value),
            of_record(1, KEY, 5, &newer),
            of_record(1, KEY, 5, &other),
            of_record(1, KEY, 5, &value[..8]),
            of_record(1, &KEY[..10], 5, &value),
        ];
        assert!(others.iter().all(|d| *d != one), "{one:x} {others:x?}");
    }
}
