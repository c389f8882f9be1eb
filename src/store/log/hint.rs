//! Hints: for a sealed segment, what is to be known of its records, so that opening need not read the segment.
//!
//! A hint is bound to its segment by a copy of the head, and carries a checksum. A segment without a good hint is read
//! itself; [`HintBuilder`] makes the same bytes then, in memory. Drawn in `doc/format.md`; integers are little-endian.

use super::format::{
    HEAD_LEN, Header, Kind, Origin, Raw, SEGMENT_HEAD_LEN, SegmentHead, encode_varint, parse_varint, position,
    unzigzag, zigzag,
};
use crate::logic::record::is_mark;
use crate::store::fs::{self, Disk, View};
use std::io;
use std::path::Path;

/// First bytes of a hint; the last one is the version of the format.
pub const HINT_MAGIC: [u8; 8] = *b"kumohnt\x01";
/// Bytes before the entries.
pub const HINT_HEAD_LEN: usize = 8 + HEAD_LEN + 24;

const MARK: u8 = 1;
const FORGET: u8 = 2;
const UNSURE: u8 = 4;
/// Something lies between this record and the one before: how much, follows.
const GAP: u8 = 8;
const FLAG_BITS: u32 = 4;

/// What a hint tells of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintEntry {
    /// Ring position.
    pub hash: u64,
    /// Log sequence number.
    pub lsn: u64,
    flags: u8,
    /// Where in the segment.
    pub offset: u32,
    /// Length of the record.
    pub len: u32,
    /// Checksum of the dbkey, to tell keys at one ring position apart without reading them.
    pub key_check: u32,
}

impl HintEntry {
    /// The entry of a good record.
    pub fn of(raw: &Raw<'_>, offset: u64) -> HintEntry {
        let flags = match raw.header.kind {
            Kind::Put if is_mark(raw.dbval()) => MARK,
            Kind::Put => 0,
            Kind::Forget => FORGET,
            Kind::Lost => UNSURE,
        };
        HintEntry {
            hash: position(raw.dbkey()),
            lsn: raw.header.lsn,
            flags,
            offset: offset as u32,
            len: raw.header.record_len() as u32,
            key_check: crc32c::crc32c(raw.dbkey()),
        }
    }

    /// The entry of a good record that is no deletion mark.
    pub fn of_put(dbkey: &[u8], lsn: u64, offset: usize, len: usize) -> HintEntry {
        let (hash, key_check) = (position(dbkey), crc32c::crc32c(dbkey));
        HintEntry { hash, lsn, flags: 0, offset: offset as u32, len: len as u32, key_check }
    }

    /// Whether it is a deletion mark.
    pub fn is_mark(&self) -> bool {
        self.flags & MARK != 0
    }

    /// Whether it is a forget.
    pub fn is_forget(&self) -> bool {
        self.flags & FORGET != 0
    }

    /// Whether the key is not known for sure: it stands for any key at its ring position.
    pub fn is_unsure(&self) -> bool {
        self.flags & UNSURE != 0
    }

    /// Where the next record lies, if nothing is between.
    fn end(&self) -> u32 {
        self.offset + self.len
    }

    fn encode(&self, before: &HintEntry, out: &mut Vec<u8>) {
        let gap = self.offset - before.end();
        let flags = self.flags | if gap > 0 { GAP } else { 0 };
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.key_check.to_le_bytes());
        encode_varint(u64::from(self.len) << FLAG_BITS | u64::from(flags), out);
        encode_varint(zigzag(before.lsn, self.lsn), out);
        if gap > 0 {
            encode_varint(u64::from(gap), out);
        }
    }

    /// `None` when `bytes` at `at` are no entry.
    fn parse(bytes: &[u8], at: &mut usize, before: &HintEntry) -> Option<HintEntry> {
        let fixed = bytes.get(*at..*at + 12)?;
        *at += 12;
        let word = parse_varint(bytes, at)?;
        let lsn = unzigzag(before.lsn, parse_varint(bytes, at)?);
        let flags = (word & ((1 << FLAG_BITS) - 1)) as u8;
        let gap = if flags & GAP != 0 { parse_varint(bytes, at)? } else { 0 };
        let offset = before.end().checked_add(u32::try_from(gap).ok()?)?;
        let len = u32::try_from(word >> FLAG_BITS).ok()?;
        offset.checked_add(len)?;
        Some(HintEntry { hash: le64(fixed, 0), lsn, flags: flags & !GAP, offset, len, key_check: le32(fixed, 8) })
    }

    /// What stands before the first entry.
    fn start(head: &SegmentHead) -> HintEntry {
        HintEntry { hash: 0, lsn: head.birth, flags: 0, offset: 0, len: SEGMENT_HEAD_LEN as u32, key_check: 0 }
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut out"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
}

/// Gathers the entries of a segment.
#[derive(Default)]
pub struct HintBuilder {
    entries: Vec<HintEntry>,
    /// Which of them are of damaged records, ascending.
    guessed: Vec<usize>,
}

impl HintBuilder {
    /// Adds one.
    pub fn add(&mut self, entry: HintEntry) {
        self.entries.push(entry);
    }

    /// Adds a damaged record whose length was right: its key may be, too. Its sequence number is that of its place
    /// where numbers are dense, and at most the highest of the good ones, so that it never hides later stores.
    pub fn add_damaged(&mut self, origin: Origin, header: &Header, dbkey: &[u8], offset: u64) {
        let lsn = match (origin, self.entries.last()) {
            (Origin::Stores, Some(previous)) => previous.lsn + 1,
            _ => header.lsn,
        };
        let (hash, len) = (position(dbkey), header.record_len() as u32);
        self.guessed.push(self.entries.len());
        self.entries.push(HintEntry { hash, lsn, flags: UNSURE, offset: offset as u32, len, key_check: 0 });
    }

    /// The hint's bytes. `segment_len`: how much of the segment's file counts.
    pub fn finish(mut self, head: &SegmentHead, segment_len: u64) -> Vec<u8> {
        let sure = self.entries.iter().enumerate().filter(|(i, _)| self.guessed.binary_search(i).is_err());
        let top_lsn = sure.map(|(_, e)| e.lsn).max().unwrap_or(0);
        for guessed in self.guessed {
            self.entries[guessed].lsn = self.entries[guessed].lsn.min(top_lsn);
        }
        let mut out = Vec::with_capacity(HINT_HEAD_LEN + self.entries.len() * 16 + 4);
        out.extend_from_slice(&HINT_MAGIC);
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(&segment_len.to_le_bytes());
        out.extend_from_slice(&top_lsn.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let mut before = HintEntry::start(head);
        for entry in &self.entries {
            entry.encode(&before, &mut out);
            before = *entry;
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }
}

enum Bytes {
    Viewed(View, usize),
    Owned(Vec<u8>),
}

/// A verified hint.
pub struct Hint {
    bytes: Bytes,
    /// The head of its segment.
    pub head: SegmentHead,
    /// How much of the segment's file counts.
    pub segment_len: u64,
    /// The highest sequence number in it.
    pub top_lsn: u64,
    count: usize,
}

impl Hint {
    /// Takes the bytes of a hint; `None` when they are damaged or none.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Hint> {
        Hint::verified(Bytes::Owned(bytes))
    }

    /// Reads a hint's file; `None` when it is damaged or none.
    pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Hint>> {
        let file = disk.open(path)?;
        let size = file.size()?;
        let bytes = match file.view(size)? {
            Some(view) => Bytes::Viewed(view, size as usize),
            None => {
                let mut bytes = vec![0; size as usize];
                let read = fs::read_full(file.as_ref(), &mut bytes, 0)?;
                bytes.truncate(read);
                Bytes::Owned(bytes)
            }
        };
        Ok(Hint::verified(bytes))
    }

    fn verified(bytes: Bytes) -> Option<Hint> {
        let all = bytes.as_slice();
        let body = &all[..all.len().checked_sub(4)?];
        if body.len() < HINT_HEAD_LEN || body[..8] != HINT_MAGIC || crc32c::crc32c(body) != le32(all, body.len()) {
            return None;
        }
        let head = SegmentHead::parse(&body[8..])?;
        let at = 8 + HEAD_LEN;
        let (segment_len, top_lsn, count) = (le64(body, at), le64(body, at + 8), le64(body, at + 16) as usize);
        Some(Hint { bytes, head, segment_len, top_lsn, count })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The entries, in the order of the segment.
    pub fn entries(&self) -> impl Iterator<Item = HintEntry> {
        let bytes = self.bytes.as_slice();
        let (mut at, mut before) = (HINT_HEAD_LEN, HintEntry::start(&self.head));
        (0..self.count).map_while(move |_| {
            before = HintEntry::parse(bytes, &mut at, &before)?;
            Some(before)
        })
    }

    /// Bytes of the hint.
    pub fn byte_len(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Viewed(view, len) => view.slice(0, *len).unwrap_or(&[]),
            Bytes::Owned(bytes) => bytes,
        }
    }
}
