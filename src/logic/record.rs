//! What a replica holds for a key: the `dbkey` and `dbval` byte layouts.
//!
//! Source: `doc/protocol.md`, "Values". A dbkey is hash(key), 8 bytes big-endian, and the key. A dbval is:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | version: [`ClockTime`], big-endian. Alone: a deletion mark |
//! | 2 | layout, big-endian ("meta" in kumofs) |
//! | rest | by layout |
//!
//! | layout | then |
//! |---|---|
//! | 0 | the data as a kumofs client wrote it |
//! | 1 | flags u32, expiry u32 (UNIX seconds, 0 never), data |
//! | 2 | flags u32, expiry u32, cas u64, data: the cas unique is older than the version (after a touch) |
//! | 3 | flags u32, expiry u32, cas u64 (0: the version), marks u8 (see [`mark`]), data |
//!
//! All integers are big-endian. One layout serves the wire and the disk, so that a value is served as a slice of what
//! is stored. The epoch of the stamp travels beside the dbval, see [`Stamp`].

use super::clock::ClockTime;
use super::ring::hash;

/// Longest key in bytes (memcached's limit).
pub const MAX_KEY_LEN: usize = 250;
/// Bytes of the hash before the key.
pub const HASH_LEN: usize = 8;
/// Longest dbkey in bytes that kumofs clients may send; memcached clients stop at [`MAX_KEY_LEN`].
pub const MAX_DBKEY_LEN: usize = HASH_LEN + 4096;
/// Length of a deletion mark.
pub const MARK_LEN: usize = 8;

/// Layout 0: the data as kumofs wrote it.
pub const LAYOUT_KUMOFS: u16 = 0;
/// Layout 1: flags and expiry before the data.
pub const LAYOUT_FULL: u16 = 1;
/// Layout 2: flags, expiry and a cas unique of its own before the data.
pub const LAYOUT_CAS: u16 = 2;

/// Layout 3: as 2, and marks before the data. Written only where a mark is set.
pub const LAYOUT_MARKED: u16 = 3;

/// What the meta protocol notes about a value, bits of [`Body::marks`].
pub mod mark {
    /// It was invalidated: still served, and to be made anew by the client that is told so first.
    pub const STALE: u8 = 1;
    /// A client was told that it is the one to make it anew.
    pub const TOKEN_SENT: u8 = 2;
    /// All of them.
    pub const ALL: u8 = STALE | TOKEN_SENT;
}

/// When a record was written: compared by epoch, then by version (doc/guarantees.md, "Writes").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Stamp {
    /// The epoch whose coordinator wrote it; 0 in clusters led by a kumofs 0.4 manager.
    pub epoch: u64,
    /// What version 0 of the protocol sees.
    pub version: ClockTime,
}

/// Appends the dbkey of `key` to `out`.
pub fn encode_dbkey(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&hash(key).to_be_bytes());
    out.extend_from_slice(key);
}

/// The ring position in a dbkey; `None` when it is too short to be one.
pub fn dbkey_hash(dbkey: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(dbkey.get(..HASH_LEN)?.try_into().ok()?))
}

/// Which of `workers` worker threads of a server owns a ring position. By the lower half of the hash: the upper
/// half places the key on the ring, and each worker must get its share of every arc.
pub fn worker_of(hash: u64, workers: u16) -> u16 {
    ((u64::from(hash as u32) * u64::from(workers)) >> 32) as u16
}

/// A parsed dbval; all fields borrow from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value<'a> {
    /// The version.
    pub version: ClockTime,
    /// What is stored; `None` in a deletion mark.
    pub body: Option<Body<'a>>,
}

/// What a value holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body<'a> {
    /// The layout number.
    pub layout: u16,
    /// memcached's client flags; 0 in layout 0.
    pub flags: u32,
    /// UNIX seconds from which it is gone; 0 never, and always in layout 0.
    pub expiry: u32,
    /// The cas unique.
    pub cas: u64,
    /// Bits of [`mark`]; 0 in layouts below 3.
    pub marks: u8,
    /// The client's data.
    pub data: &'a [u8],
}

/// The version at the head of a dbval; `None` when it is too short.
pub fn version_of(dbval: &[u8]) -> Option<ClockTime> {
    Some(ClockTime(u64::from_be_bytes(dbval.get(..8)?.try_into().ok()?)))
}

/// Whether a dbval is a deletion mark.
pub fn is_mark(dbval: &[u8]) -> bool {
    dbval.len() == MARK_LEN
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Parses a dbval; `None` when it is not one: shorter than its layout demands, or of an unknown layout.
pub fn parse(dbval: &[u8]) -> Option<Value<'_>> {
    let version = version_of(dbval)?;
    if dbval.len() == MARK_LEN {
        return Some(Value { version, body: None });
    }
    let layout = u16::from_be_bytes(dbval.get(8..10)?.try_into().ok()?);
    let body = match layout {
        LAYOUT_KUMOFS => Body { layout, flags: 0, expiry: 0, cas: version.0, marks: 0, data: &dbval[10..] },
        LAYOUT_FULL => {
            let (flags, expiry) = (be32(dbval, 10)?, be32(dbval, 14)?);
            Body { layout, flags, expiry, cas: version.0, marks: 0, data: &dbval[18..] }
        }
        LAYOUT_CAS => {
            let (flags, expiry) = (be32(dbval, 10)?, be32(dbval, 14)?);
            let cas = u64::from_be_bytes(dbval.get(18..26)?.try_into().ok()?);
            Body { layout, flags, expiry, cas, marks: 0, data: &dbval[26..] }
        }
        LAYOUT_MARKED => {
            let (flags, expiry) = (be32(dbval, 10)?, be32(dbval, 14)?);
            let cas = match u64::from_be_bytes(dbval.get(18..26)?.try_into().ok()?) {
                0 => version.0,
                older => older,
            };
            let marks = *dbval.get(26)?;
            Body { layout, flags, expiry, cas, marks, data: &dbval[27..] }
        }
        _ => return None,
    };
    Some(Value { version, body: Some(body) })
}

/// Bytes of a dbval before the data, for a layout we write.
pub fn header_len(layout: u16) -> usize {
    match layout {
        LAYOUT_KUMOFS => 10,
        LAYOUT_FULL => 18,
        LAYOUT_CAS => 26,
        _ => 27,
    }
}

/// Appends the head of a dbval, in the shortest of our layouts that has room for it. `cas`: 0 is the version's.
pub fn encode_marked(version: ClockTime, flags: u32, expiry: u32, cas: u64, marks: u8, out: &mut Vec<u8>) {
    let layout = match (marks, cas) {
        (0, 0) => LAYOUT_FULL,
        (0, _) => LAYOUT_CAS,
        _ => LAYOUT_MARKED,
    };
    encode_header(version, layout, flags, expiry, cas, out);
    if layout == LAYOUT_MARKED {
        out.push(marks);
    }
}

/// Appends the head of a dbval (everything before the data; in [`LAYOUT_MARKED`] before the marks). `cas` is written in
/// [`LAYOUT_CAS`] and [`LAYOUT_MARKED`] only.
pub fn encode_header(version: ClockTime, layout: u16, flags: u32, expiry: u32, cas: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.0.to_be_bytes());
    out.extend_from_slice(&layout.to_be_bytes());
    if layout == LAYOUT_KUMOFS {
        return;
    }
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&expiry.to_be_bytes());
    if layout >= LAYOUT_CAS {
        out.extend_from_slice(&cas.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_comes_back_as_written() {
        for layout in [LAYOUT_KUMOFS, LAYOUT_FULL, LAYOUT_CAS, LAYOUT_MARKED] {
            let mut dbval = Vec::new();
            encode_header(ClockTime(77), layout, 5, 6, 9, &mut dbval);
            if layout == LAYOUT_MARKED {
                dbval.push(mark::STALE);
            }
            assert_eq!(dbval.len(), header_len(layout));
            dbval.extend_from_slice(b"abc");
            let body = parse(&dbval).unwrap().body.unwrap();
            assert_eq!(body.data, b"abc");
            assert_eq!(body.cas, if layout >= LAYOUT_CAS { 9 } else { 77 });
            assert_eq!(body.marks, if layout == LAYOUT_MARKED { mark::STALE } else { 0 });
            let expected = if layout == LAYOUT_KUMOFS { (0, 0) } else { (5, 6) };
            assert_eq!((body.flags, body.expiry), expected);
        }
    }

    #[test]
    fn the_value_of_the_golden_get_is_layout_zero() {
        let dbval = [0x6b, 0, 0xa0, 0x3f, 0, 1, 0xa7, 0x1c, 0, 0, b'a', b'b', b'c'];
        let value = parse(&dbval).unwrap();
        assert_eq!(value.version, ClockTime(0x6b00a03f0001a71c));
        assert_eq!(value.body.unwrap().data, b"abc");
    }

    #[test]
    fn eight_bytes_are_a_mark_and_everything_cut_short_is_refused() {
        assert_eq!(parse(&[0; 8]), Some(Value { version: ClockTime(0), body: None }));
        let mut dbval = Vec::new();
        for marks in [0, mark::STALE] {
            dbval.clear();
            encode_marked(ClockTime(1), 0, 0, 5, marks, &mut dbval);
            for cut in (0..dbval.len()).filter(|c| *c != MARK_LEN) {
                assert_eq!(parse(&dbval[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(parse(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3]), None, "unknown layout");
    }

    #[test]
    fn the_shortest_layout_that_has_room_is_written() {
        for (cas, marks, layout, seen_cas) in [
            (0, 0, LAYOUT_FULL, 7),
            (5, 0, LAYOUT_CAS, 5),
            (0, mark::STALE, LAYOUT_MARKED, 7),
            (5, mark::ALL, LAYOUT_MARKED, 5),
        ] {
            let mut dbval = Vec::new();
            encode_marked(ClockTime(7), 1, 2, cas, marks, &mut dbval);
            let body = parse(&dbval).unwrap().body.unwrap();
            assert_eq!(body, Body { layout, flags: 1, expiry: 2, cas: seen_cas, marks, data: b"" });
        }
    }

    #[test]
    fn a_dbkey_carries_its_hash_in_front() {
        let mut dbkey = Vec::new();
        encode_dbkey(b"wirekey", &mut dbkey);
        assert_eq!(dbkey_hash(&dbkey), Some(0x667df3131b5ae4d7));
        assert_eq!(&dbkey[8..], b"wirekey");
    }

    #[test]
    fn workers_share_the_keys_evenly() {
        let mut counts = [0u32; 3];
        for i in 0..30_000u32 {
            counts[worker_of(hash(&i.to_be_bytes()), 3) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
    }
}
