//! Records on their way, in parts of the ring: each part is a file that is settled by itself, in bounded memory.

use super::window::Window;
use crate::store::StoreError;
use crate::store::fs::store_error;
use crate::store::log::format::{Draft, Kind, encode_varint, parse_varint, position};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most parts: each is an open file.
const MAX_PARTS: u64 = 512;
/// How much of the sources goes into a part, unless there are too many.
const PART_BYTES: u64 = 32 << 20;
/// Memory for what is not written yet, of all parts.
const BUFFER_BYTES: usize = 64 << 20;
/// A part up to this size is read into memory at once.
const IN_MEMORY_BYTES: u64 = 64 << 20;
/// How much of a larger one is read at a time.
const CHUNK: usize = 1 << 20;
const SMALL_CHUNK: usize = 4096;
const MAX_HEAD_LEN: usize = 6 * 10;

/// The parts, while they are written.
pub struct Parts {
    parts: Vec<Part>,
    buffer_bytes: usize,
}

struct Part {
    path: PathBuf,
    file: File,
    written: u64,
    buffer: Vec<u8>,
}

impl Parts {
    /// Makes files in `dir` for sources that have this many bytes.
    pub fn new(dir: &Path, source_bytes: u64) -> Result<Parts, StoreError> {
        let count = source_bytes.div_ceil(PART_BYTES).clamp(1, MAX_PARTS);
        let part = |n| {
            let path = dir.join(format!("part-{n:03}"));
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(|e| store_error("cannot write", &path, e))?;
            Ok(Part { path, file, written: 0, buffer: Vec::new() })
        };
        let parts = (0..count).map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Parts { buffer_bytes: BUFFER_BYTES / parts.len(), parts })
    }

    /// Adds what a source has.
    pub fn add(&mut self, source: usize, entry: &Draft<'_>) -> Result<(), StoreError> {
        let count = self.parts.len() as u64;
        let part = &mut self.parts[(((position(entry.dbkey) >> 32) * count) >> 32) as usize];
        let out = &mut part.buffer;
        let numbers = [source as u64, entry.kind as u64, entry.lsn, entry.epoch];
        let lengths = [entry.dbkey.len() as u64, entry.dbval.len() as u64];
        numbers.into_iter().chain(lengths).for_each(|number| encode_varint(number, out));
        out.extend_from_slice(entry.dbkey);
        out.extend_from_slice(entry.dbval);
        if part.buffer.len() >= self.buffer_bytes { part.flush() } else { Ok(()) }
    }

    /// Ends writing: the parts in the order of the ring.
    pub fn finish(self) -> Result<Vec<Written>, StoreError> {
        let finish = |mut part: Part| {
            part.flush()?;
            Ok(Written { path: part.path, file: part.file, len: part.written })
        };
        self.parts.into_iter().map(finish).collect()
    }
}

impl Part {
    fn flush(&mut self) -> Result<(), StoreError> {
        let written = self.file.write_all_at(&self.buffer, self.written);
        written.map_err(|e| store_error("cannot write", &self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A part that is complete. Its file is removed when it was settled.
pub struct Written {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Where an entry of a part is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: u64,
    offset: u64,
    len: u32,
}

/// What a source has at a ring position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The number of the source.
    pub source: usize,
    /// What it says.
    pub kind: Kind,
    /// Its log sequence number, which orders what a source has.
    pub lsn: u64,
    /// The epoch of the stamp.
    pub epoch: u64,
    /// The dbkey; the ring position alone in [`Kind::Lost`].
    pub dbkey: Vec<u8>,
    /// The dbval.
    pub dbval: Vec<u8>,
}

impl Written {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Passes on all entries, those of one ring position together, and removes the file.
    pub fn settle(self, each: &mut dyn FnMut(&mut Vec<Entry>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let Written { path, file, len } = self;
        let failed = |e| store_error("cannot read", &path, e);
        let in_memory = len <= IN_MEMORY_BYTES;
        let mut window = Window::new(file, len, if in_memory { len as usize } else { CHUNK });
        let mut places = find(&mut window).map_err(failed)?;
        places.sort_unstable();
        if !in_memory {
            window.set_chunk(SMALL_CHUNK);
        }
        let mut entries = Vec::new();
        for same in places.chunk_by(|a, b| a.position == b.position) {
            entries.clear();
            for place in same {
                let bytes = window.get(place.offset, place.len as usize).map_err(failed)?;
                entries.push(bytes.and_then(parse).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?);
            }
            each(&mut entries)?;
        }
        std::fs::remove_file(&path).map_err(|e| store_error("cannot remove", &path, e))
    }
}

/// Numbers before an entry's dbkey, and how many bytes they take.
fn head(bytes: &[u8]) -> Option<([u64; 6], usize)> {
    let (mut numbers, mut at) = ([0; 6], 0);
    for number in &mut numbers {
        *number = parse_varint(bytes, &mut at)?;
    }
    Some((numbers, at))
}

fn find(window: &mut Window) -> io::Result<Vec<Place>> {
    let (mut places, mut offset) = (Vec::new(), 0);
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    while offset < window.end() {
        let ([.., key_len, val_len], head_len) = head(window.up_to(offset, MAX_HEAD_LEN)?).ok_or_else(damaged)?;
        let key_at = offset + head_len as u64;
        let position = position(window.get(key_at, key_len as usize)?.ok_or_else(damaged)?);
        let len = head_len as u64 + key_len + val_len;
        places.push(Place { position, offset, len: u32::try_from(len).map_err(|_| damaged())? });
        offset += len;
    }
    Ok(places)
}

fn parse(bytes: &[u8]) -> Option<Entry> {
    let ([source, kind, lsn, epoch, key_len, _], at) = head(bytes)?;
    let kind = [Kind::Put, Kind::Forget, Kind::Lost].into_iter().find(|k| *k as u64 == kind)?;
    let (dbkey, dbval) = bytes[at..].split_at_checked(key_len as usize)?;
    Some(Entry { source: source as usize, kind, lsn, epoch, dbkey: dbkey.to_vec(), dbval: dbval.to_vec() })
}
