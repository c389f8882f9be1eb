//! The bytes of a segment: its head and its records. Drawn in `doc/format.md`; integers are little-endian.
//!
//! A record's checksum starts from a seed that is made of its segment's head and its offset. So bytes that lie in
//! another place than they were written to (a stale block after a loss of power, a value that holds a copy of a
//! segment) are not taken for a record.

use crate::logic::record;

/// Bytes before the dbkey in a record.
pub const HEADER_LEN: usize = 24;
/// Longest dbkey in bytes; 14 bits hold it.
pub const MAX_KEY_BYTES: usize = (1 << 14) - 1;
/// Longest dbval in bytes: above the largest `--max-value` (128 MiB) with its header.
pub const MAX_VAL_BYTES: usize = (1 << 28) - 1;
/// Log sequence numbers stay below this: 48 bits, enough for a century of 90,000 stores a second on each shard.
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

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Checksum of everything behind it.
    pub crc: u32,
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

impl Header {
    /// Parses the first [`HEADER_LEN`] bytes; `None` when they cannot begin a record.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_LEN)?;
        let val_len = le32(bytes, 4) as usize;
        let word = le64(bytes, 8);
        let kind = match (word >> 14) & 3 {
            1 => Kind::Put,
            2 => Kind::Forget,
            3 => Kind::Lost,
            _ => return None,
        };
        if val_len > MAX_VAL_BYTES {
            return None;
        }
        let key_len = (word as usize) & MAX_KEY_BYTES;
        Some(Header { crc: le32(bytes, 0), val_len, key_len, kind, lsn: word >> 16, epoch: le64(bytes, 16) })
    }

    /// Length of the whole record.
    pub fn record_len(&self) -> usize {
        HEADER_LEN + self.key_len + self.val_len
    }
}

/// Length of a record with a dbkey and a dbval of these lengths.
pub fn record_len(key_len: usize, val_len: usize) -> usize {
    HEADER_LEN + key_len + val_len
}

/// A record in its bytes, not yet verified.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The parsed head.
    pub header: Header,
    bytes: &'a [u8],
}

impl<'a> Raw<'a> {
    /// `bytes` begin with a record; `None` when they cannot, or when it is cut off.
    pub fn parse(bytes: &'a [u8]) -> Option<Raw<'a>> {
        let header = Header::parse(bytes)?;
        Some(Raw { header, bytes: bytes.get(..header.record_len())? })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its dbkey.
    pub fn dbkey(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..HEADER_LEN + self.header.key_len]
    }

    /// Its dbval.
    pub fn dbval(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN + self.header.key_len..]
    }

    /// The checksum over everything behind it.
    pub fn is_intact(&self, seed: u32) -> bool {
        crc32c::crc32c_append(seed, &self.bytes[4..]) == self.header.crc
    }
}

/// The seed of the checksum of the record at `offset` in a segment with this `segment_seed`.
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

impl Draft<'_> {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(record_len(self.dbkey.len(), self.dbval.len()));
        let word = self.lsn << 16 | (self.kind as u64) << 14 | self.dbkey.len() as u64;
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.dbval.len() as u32).to_le_bytes());
        out.extend_from_slice(&word.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(self.dbkey);
        out.extend_from_slice(self.dbval);
        let crc = crc32c::crc32c_append(seed, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
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
