//! The bytes of a segment: its head and its records. Drawn in `doc/format.md`; integers are little-endian.
//!
//! A record's checksum starts from a seed that is made of its segment's head and its offset. So bytes that lie in
//! another place than they were written to (a stale block after a loss of power, a value that holds a copy of a
//! segment) are not taken for a record.

use crate::logic::record;

/// Longest head of a record: checksums and four numbers of variable length.
pub const MAX_HEAD_LEN: usize = 5 + 3 + 4 + 8 + 10;
/// Shortest head of a record.
pub const MIN_HEAD_LEN: usize = 5 + 4;
/// Longest dbkey in bytes.
pub const MAX_KEY_BYTES: usize = (1 << 14) - 1;
/// Longest dbval in bytes: above the largest `--max-value` (128 MiB) with its header.
pub const MAX_VAL_BYTES: usize = (1 << 28) - 1;
/// Log sequence numbers stay below this: enough for a century of 90,000 stores a second on each shard.
pub const LSN_END: u64 = 1 << 48;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The key has this dbval (which may be a deletion mark).
    Put = 1,
    /// The key is gone, without trace.
    Forget = 2,
    /// The record of some key at this ring position was lost to damage. The dbkey is the position alone.
    Lost = 3,
}

/// The head of a record: what it says but for the dbkey and the dbval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its own length.
    pub head_len: usize,
    /// Length of the dbval.
    pub val_len: usize,
    /// Length of the dbkey.
    pub key_len: usize,
    /// What it says.
    pub kind: Kind,
    /// Its log sequence number.
    pub lsn: u64,
    /// The epoch of the stamp.
    pub epoch: u64,
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut out"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
}

/// A number in seven bits a byte, the lowest first; the top bit says that more follow. Advances `at`.
pub fn parse_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a number as [`parse_varint`] reads it.
pub fn encode_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A difference as a small number, whichever its sign: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
pub fn zigzag(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from) as i64;
    ((difference << 1) ^ (difference >> 63)) as u64
}

/// What [`zigzag`] made a difference to `from` of.
pub fn unzigzag(from: u64, number: u64) -> u64 {
    let difference = (number >> 1) as i64 ^ -((number & 1) as i64);
    from.wrapping_add(difference as u64)
}

impl Header {
    /// Parses what `bytes` begin with, in a segment of this `birth`; `None` when it cannot be a record's head.
    #[inline]
    pub fn parse(bytes: &[u8], birth: u64) -> Option<Header> {
        let mut at = 5;
        let word = parse_varint(bytes, &mut at)?;
        let val_len = parse_varint(bytes, &mut at)?;
        let lsn = unzigzag(birth, parse_varint(bytes, &mut at)?);
        let epoch = parse_varint(bytes, &mut at)?;
        let kind = match word & 3 {
            1 => Kind::Put,
            2 => Kind::Forget,
            3 => Kind::Lost,
            _ => return None,
        };
        if word >> 2 > MAX_KEY_BYTES as u64 || val_len > MAX_VAL_BYTES as u64 || lsn >= LSN_END {
            return None;
        }
        Some(Header { head_len: at, val_len: val_len as usize, key_len: (word >> 2) as usize, kind, lsn, epoch })
    }

    /// Length of the whole record.
    pub fn record_len(&self) -> usize {
        self.head_len + self.key_len + self.val_len
    }
}

/// The most that a record with a dbkey and a dbval of these lengths takes.
pub fn longest_record(key_len: usize, val_len: usize) -> usize {
    MAX_HEAD_LEN + key_len + val_len
}

/// The check of a record's numbers alone, at byte 4: so that its length can be believed although its data cannot.
fn head_check(seed: u32, numbers: &[u8]) -> u8 {
    crc32c::crc32c_append(seed, numbers) as u8
}

/// A record in its bytes, not yet verified.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The parsed head.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> Raw<'a> {
    /// `bytes` begin with a record of a segment of this `birth`; `None` when they cannot, or when it is cut off.
    pub fn parse(bytes: &'a [u8], birth: u64) -> Option<Raw<'a>> {
        Raw::with_header(Header::parse(bytes, birth)?, bytes)
    }

    /// `bytes` begin with the record that has this header; `None` when it is cut off.
    pub fn with_header(header: Header, bytes: &'a [u8]) -> Option<Raw<'a>> {
        Some(Raw { header, bytes: bytes.get(..header.record_len())? })
    }

    /// Its dbkey and its dbval, one after the other.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.header.head_len..]
    }

    /// Its dbkey.
    pub fn dbkey(&self) -> &'a [u8] {
        &self.body()[..self.header.key_len]
    }

    /// Its dbval.
    pub fn dbval(&self) -> &'a [u8] {
        &self.body()[self.header.key_len..]
    }

    /// The checksum over everything behind it.
    pub fn checksum(&self) -> u32 {
        le32(self.bytes, 0)
    }

    /// What the checksum is over, up to the first `len` bytes of the dbval, which has them.
    pub fn up_to(&self, len: usize) -> &'a [u8] {
        &self.bytes[4..self.header.head_len + self.header.key_len + len]
    }

    /// Whether its lengths can be believed; of what follows them, nothing is looked at.
    pub fn is_begun(&self, seed: u32) -> bool {
        head_is_intact(&self.header, self.bytes, seed)
    }

    /// Whether the checksum over everything behind it is right.
    pub fn is_intact(&self, seed: u32) -> bool {
        crc32c::crc32c_append(seed, &self.bytes[4..]) == self.checksum()
    }
}

/// Whether the check of the numbers in a record's head is right: then its length can be believed.
pub fn head_is_intact(header: &Header, bytes: &[u8], seed: u32) -> bool {
    bytes.get(5..header.head_len).is_some_and(|numbers| bytes[4] == head_check(seed, numbers))
}

/// The seed of the checksums of the record at `offset` in a segment with this `segment_seed`.
pub fn seed_at(segment_seed: u32, offset: u32) -> u32 {
    segment_seed ^ offset
}

/// What a record is made of.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// What it says.
    pub kind: Kind,
    /// Its log sequence number.
    pub lsn: u64,
    /// The epoch of the stamp.
    pub epoch: u64,
    /// At most [`MAX_KEY_BYTES`].
    pub dbkey: &'a [u8],
    /// At most [`MAX_VAL_BYTES`].
    pub dbval: &'a [u8],
}

/// Appends a number as [`parse_varint`] reads it, in `len` bytes: more than it needs.
fn encode_long_varint(mut number: u64, len: usize, out: &mut Vec<u8>) {
    for _ in 1..len {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8 & 0x7f);
}

/// Appends the head of a record, first of its segment, in [`MAX_HEAD_LEN`] bytes whatever its numbers are, so that what is behind
/// it can be written before. The checksum, in its first four bytes, is left to the caller. `seed`: of the place.
pub fn encode_long_head(kind: Kind, (key_len, val_len): (usize, usize), epoch: u64, seed: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 5]);
    encode_long_varint((key_len as u64) << 2 | kind as u64, 3, out);
    encode_long_varint(val_len as u64, 4, out);
    // Its sequence number is the one that its segment was born at.
    encode_long_varint(0, 8, out);
    encode_long_varint(epoch, 10, out);
    out[start + 4] = head_check(seed, &out[start + 5..]);
}

impl Draft<'_> {
    /// Appends the record's bytes to `out`; returns how many. `birth` and `seed`: of the segment and the place.
    pub fn encode(&self, birth: u64, seed: u32, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.reserve(longest_record(self.dbkey.len(), self.dbval.len()));
        out.extend_from_slice(&[0; 5]);
        encode_varint((self.dbkey.len() as u64) << 2 | self.kind as u64, out);
        encode_varint(self.dbval.len() as u64, out);
        encode_varint(zigzag(birth, self.lsn), out);
        encode_varint(self.epoch, out);
        out[start + 4] = head_check(seed, &out[start + 5..]);
        out.extend_from_slice(self.dbkey);
        out.extend_from_slice(self.dbval);
        let crc = crc32c::crc32c_append(seed, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.len() - start
    }
}

/// The ring position in a dbkey; 0 for what is too short to have one, so that it can be stored nevertheless.
pub fn position(dbkey: &[u8]) -> u64 {
    record::dbkey_hash(dbkey).unwrap_or(0)
}

/// Bytes before the first record of a segment: the head, twice.
pub const SEGMENT_HEAD_LEN: usize = 2 * HEAD_LEN;
/// Bytes of one copy of a segment's head.
pub const HEAD_LEN: usize = 32;
/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"kumoseg\n";
/// Version of the format of segments.
pub const SEGMENT_VERSION: u32 = 1;

/// Who wrote a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Stores: sequence numbers are dense, and start with the head's.
    Stores = 0,
    /// Compaction: copies, with the numbers that they had.
    Compaction = 1,
}

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    /// Its number, also in its name.
    pub id: u32,
    /// Who wrote it.
    pub origin: Origin,
    /// How many shards the store had then.
    pub shards: u16,
    /// Which of them its records are from.
    pub shard: u16,
    /// The shard's next sequence number when the segment was made: what was dead by then is not in it.
    pub birth: u64,
}

impl SegmentHead {
    /// Whether stores of its shard went on in another of these segments, so that no crash tore this one.
    pub fn is_superseded(&self, all: &[SegmentHead]) -> bool {
        let follows = |h: &SegmentHead| {
            h.id > self.id && h.origin == Origin::Stores && (h.shards, h.shard) == (self.shards, self.shard)
        };
        self.origin == Origin::Stores && all.iter().any(follows)
    }

    /// The bytes of one copy.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&(SEGMENT_VERSION as u16).to_le_bytes());
        out[10..12].copy_from_slice(&(self.origin as u16).to_le_bytes());
        out[12..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..18].copy_from_slice(&self.shards.to_le_bytes());
        out[18..20].copy_from_slice(&self.shard.to_le_bytes());
        out[20..28].copy_from_slice(&self.birth.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Parses one copy; `None` when it is damaged or not one.
    pub fn parse(bytes: &[u8]) -> Option<SegmentHead> {
        let bytes = bytes.get(..HEAD_LEN)?;
        let le16 = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let intact = crc32c::crc32c(&bytes[..28]) == le32(bytes, 28);
        if !intact || bytes[..8] != SEGMENT_MAGIC || u32::from(le16(8)) != SEGMENT_VERSION {
            return None;
        }
        let origin = match le16(10) {
            0 => Origin::Stores,
            1 => Origin::Compaction,
            _ => return None,
        };
        let head =
            SegmentHead { id: le32(bytes, 12), origin, shards: le16(16), shard: le16(18), birth: le64(bytes, 20) };
        (head.shard < head.shards && head.birth < LSN_END).then_some(head)
    }

    /// Parses the start of a segment: the first copy, or the second one when that is damaged.
    pub fn parse_either(bytes: &[u8]) -> Option<SegmentHead> {
        SegmentHead::parse(bytes).or_else(|| SegmentHead::parse(bytes.get(HEAD_LEN..)?))
    }

    /// What the checksums of its records start from.
    pub fn seed(&self) -> u32 {
        le32(&self.encode(), 28)
    }

    /// Whether a key can have records in segments with both heads.
    pub fn overlaps(&self, other: &SegmentHead) -> bool {
        self.shards != other.shards || self.shard == other.shard
    }
}
