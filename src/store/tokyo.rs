//! Reading the databases of kumofs 0.4: Tokyo Cabinet hash databases (`.tch`), by the format that its manual describes.
//!
//! ```text
//! 0      | "ToKyO CaBiNeT" ...  32
//! 32     | type 1: 0 a hash database | flags 1: 1 open, 2 broken | apow 1 | fpow 1 | opts 1 | 0 (3)
//! 40     | buckets 8 | records 8 | file size 8 | first record 8 | ...
//!
//! record | c8 | hash 1 | left 4 or 8 | right 4 or 8 | padding 2 | key len | value len | key | value | padding ...
//! free   | b0 | size 4 | ...
//! ```
//!
//! Records and free blocks lie one after the other, at multiples of 2^apow. left and right (8 bytes with option 1,
//! *large*) are trees of records, and not needed to read all. Lengths are numbers of seven bits a byte, the lowest first;
//! all bytes but the last are complemented. Other integers are in the order of the machine, or, as Debian builds the
//! library, swapped: the file size tells which.
//!
//! There are no checksums. But each key begins with the hash of what follows: a record is taken for one only when that is
//! right, and by it the next one is found behind a damaged stretch. A damaged value is not noticed.

use super::StoreError;
use super::fs::store_error;
use super::log::format::{Draft, Kind, MAX_KEY_BYTES, MAX_VAL_BYTES};
use super::merge::{Heed, Window};
use crate::logic::record::{HASH_LEN, MARK_LEN, dbkey_hash};
use crate::logic::ring::hash;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How every Tokyo Cabinet database begins.
pub const MAGIC: &[u8] = b"ToKyO CaBiNeT";
const HEADER_LEN: usize = 256;
const RECORD: u8 = 0xc8;
const FREE: u8 = 0xb0;
/// Bytes of a free block that say what it is.
const FREE_HEAD_LEN: usize = 5;
/// Longest head of a record: two trees of 8 bytes, two lengths of up to 5.
const MAX_HEAD_LEN: usize = 2 + 16 + 2 + 10;
const CHUNK: usize = 1 << 20;
/// Shortest value of kumofs that is no deletion mark: version and meta.
const LEAST_VALUE_LEN: usize = MARK_LEN + 2;

const LARGE: u8 = 1;
const DEFLATE: u8 = 2;
/// Options of compression that are not read: BZIP2, TCBS and one that programs bring along.
const OTHER_COMPRESSION: u8 = 4 | 8 | 16;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    swapped: bool,
    was_open: bool,
    alignment: u64,
    opts: u8,
    records: u64,
    file_size: u64,
    first: u64,
}

impl Header {
    /// `None` when it is none: the text says why.
    fn parse(bytes: &[u8], file_len: u64) -> Result<Header, &'static str> {
        if bytes.len() < HEADER_LEN || !bytes.starts_with(MAGIC) {
            return Err("it is cut off");
        }
        if bytes[32] != 0 {
            return Err("it is no hash database, and kumofs has no others");
        }
        let (apow, opts) = (bytes[34], bytes[36]);
        let word = |at: usize, swapped| integer(&bytes[at..at + 8], swapped);
        // Read in the wrong order, a size is out of all measure.
        let fits = |swapped: &bool| {
            let (size, first) = (word(56, *swapped), word(64, *swapped));
            first >= HEADER_LEN as u64 && first <= size && size < 1 << 48
        };
        let Some(swapped) = [false, true].into_iter().find(fits) else { return Err("its header is damaged") };
        if apow > 16 || word(64, swapped) > file_len {
            return Err("its header is damaged");
        }
        Ok(Header {
            swapped,
            was_open: bytes[33] & 1 != 0,
            alignment: 1 << apow,
            opts,
            records: word(48, swapped),
            file_size: word(56, swapped),
            first: word(64, swapped),
        })
    }
}

fn integer(bytes: &[u8], swapped: bool) -> u64 {
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if swapped { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
}

/// A length; advances `at`.
fn length(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if byte & 0x80 == 0 {
            return Some((number | u64::from(byte) << shift) as usize);
        }
        number |= u64::from(!byte) << shift;
    }
    None
}

/// What lies at a place of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    /// A record: where its key begins, the lengths of key and value, and where the next block is.
    Record { key: u64, key_len: usize, val_len: usize, next: u64 },
    /// Nothing, up to the next block.
    Free { next: u64 },
}

/// A database that is read.
pub struct Reading {
    path: PathBuf,
    file: File,
    header: Header,
    end: u64,
}

/// What was counted.
#[derive(Default)]
struct Count {
    good: u64,
    foreign: u64,
}

impl Reading {
    /// Begins to read the file at `path`. [`StoreError::Unusable`] when it is not what kumofs 0.4 writes.
    pub fn open(path: &Path) -> Result<Reading, StoreError> {
        let failed = |e| store_error("cannot read", path, e);
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut bytes = Vec::new();
        (&mut file).take(HEADER_LEN as u64).read_to_end(&mut bytes).map_err(failed)?;
        let refused = |why: &str| StoreError::Unusable(format!("cannot read {}: {why}", path.display()));
        let header = Header::parse(&bytes, len).map_err(refused)?;
        if header.opts & OTHER_COMPRESSION != 0 {
            return Err(refused(&format!(
                "its values are compressed in a way that is not read here; `tchmgr optimize -td {}` turns them into one \
                 that is",
                path.display()
            )));
        }
        Ok(Reading { path: path.to_owned(), file, header, end: header.file_size.min(len) })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.end - self.header.first
    }

    /// Passes on all records.
    pub fn read(&self, heed: &mut dyn Heed) -> Result<(), StoreError> {
        let path = self.path.display();
        if self.header.was_open {
            heed.note(format!("{path}: was not closed by its server, or still is in use"));
        }
        if self.header.file_size > self.end {
            heed.damaged(format!("{path}: its last {} bytes are missing", self.header.file_size - self.end));
        }
        let count = self.walk(heed)?;
        if count.good == 0 && count.foreign > 0 {
            return Err(StoreError::Unusable(format!("{path} is not a database of kumofs: its keys have no hash")));
        }
        let all = count.good + count.foreign;
        if all != self.header.records && !self.header.was_open {
            heed.note(format!("{path}: its header counts {} records, and {all} were found", self.header.records));
        }
        Ok(())
    }

    fn walk(&self, heed: &mut dyn Heed) -> Result<Count, StoreError> {
        let failed = |e: io::Error| store_error("cannot read", &self.path, e);
        let file = self.file.try_clone().map_err(failed)?;
        let mut blocks = Blocks { window: Window::new(file, self.end, CHUNK), header: self.header };
        let (mut count, mut unpacked) = (Count::default(), Vec::new());
        let mut at = self.header.first;
        while at < self.end {
            let next = match blocks.followed_at(at).map_err(failed)? {
                Some(Block::Free { next }) => next,
                Some(Block::Record { key, key_len, val_len, next }) => {
                    let bytes = blocks.window.get(key, key_len + val_len).map_err(failed)?.unwrap_or_default();
                    let (dbkey, stored) = bytes.split_at(key_len.min(bytes.len()));
                    let dbval = self.value(stored, &mut unpacked);
                    match dbval.filter(|_| is_dbkey(dbkey)) {
                        Some(dbval) => {
                            count.good += 1;
                            heed.record(Draft { kind: Kind::Put, lsn: 0, epoch: 0, dbkey, dbval })?;
                        }
                        None => {
                            count.foreign += 1;
                            heed.damaged(format!("{}: no record of kumofs at byte {at}", self.path.display()));
                        }
                    }
                    next
                }
                None => {
                    let next = blocks.look_for_record(at).map_err(failed)?;
                    heed.damaged(format!("{}: {} damaged bytes at byte {at}", self.path.display(), next - at));
                    next
                }
            };
            heed.passed(next - at)?;
            at = next;
        }
        Ok(count)
    }

    /// A value as kumofs stored it; `None` when it is none.
    fn value<'a>(&self, stored: &'a [u8], unpacked: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let dbval = if self.header.opts & DEFLATE == 0 {
            stored
        } else {
            unpacked.clear();
            let unpacking = flate2::read::DeflateDecoder::new(stored);
            unpacking.take(MAX_VAL_BYTES as u64 + 1).read_to_end(unpacked).ok()?;
            unpacked.as_slice()
        };
        let is_value = dbval.len() == MARK_LEN || (LEAST_VALUE_LEN..=MAX_VAL_BYTES).contains(&dbval.len());
        is_value.then_some(dbval)
    }
}

/// Whether a key is kumofs's: the hash of the rest, then the rest.
fn is_dbkey(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_KEY_BYTES && dbkey_hash(bytes).is_some_and(|position| position == hash(&bytes[HASH_LEN..]))
}

struct Blocks {
    window: Window,
    header: Header,
}

impl Blocks {
    /// The block at `at`; `None` when there can be none.
    fn at(&mut self, at: u64) -> io::Result<Option<Block>> {
        let Header { swapped, alignment, .. } = self.header;
        let end = self.window.end();
        let bytes = self.window.up_to(at, MAX_HEAD_LEN)?;
        let block = match bytes.first() {
            Some(&FREE) if bytes.len() >= FREE_HEAD_LEN => {
                Block::Free { next: at + integer(&bytes[1..FREE_HEAD_LEN], swapped) }
            }
            Some(&RECORD) => match record_at(bytes, at, &self.header) {
                Some(record) => record,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let (Block::Free { next } | Block::Record { next, .. }) = block;
        Ok(Some(block).filter(|_| next > at && next <= end && next.is_multiple_of(alignment)))
    }

    /// The block at `at`, if something follows where it says: there are no checksums.
    fn followed_at(&mut self, at: u64) -> io::Result<Option<Block>> {
        let Some(block) = self.at(at)? else { return Ok(None) };
        let (Block::Free { next } | Block::Record { next, .. }) = block;
        let follows = next == self.window.end() || self.at(next)?.is_some();
        if follows || self.is_ours(&block)? { Ok(Some(block)) } else { Ok(None) }
    }

    fn is_ours(&mut self, block: &Block) -> io::Result<bool> {
        let Block::Record { key, key_len, .. } = *block else { return Ok(false) };
        Ok(key_len <= MAX_KEY_BYTES && self.window.get(key, key_len)?.is_some_and(is_dbkey))
    }

    /// The next place behind `from` where a record of kumofs lies; else the end.
    fn look_for_record(&mut self, from: u64) -> io::Result<u64> {
        let alignment = self.header.alignment;
        let mut at = (from / alignment + 1) * alignment;
        while at < self.window.end() {
            if let Some(block) = self.at(at)?
                && self.is_ours(&block)?
            {
                return Ok(at);
            }
            at += alignment;
        }
        Ok(self.window.end())
    }
}

fn record_at(bytes: &[u8], at: u64, header: &Header) -> Option<Block> {
    let tree = if header.opts & LARGE == 0 { 4 } else { 8 };
    let mut head_len = 2 + 2 * tree + 2;
    let padding = integer(bytes.get(head_len - 2..head_len)?, header.swapped);
    let key_len = length(bytes, &mut head_len)?;
    let val_len = length(bytes, &mut head_len)?;
    let key = at + head_len as u64;
    Some(Block::Record { key, key_len, val_len, next: key + key_len as u64 + val_len as u64 + padding })
}

#[cfg(test)]
mod tests;
