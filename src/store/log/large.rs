//! A large record: a segment of its own, whose data is written as it comes, and whose head when it becomes a record.
//!
//! Its file has the layout of any segment. What is not known before the record is made, its numbers, is written last and with
//! the same length whatever they are. Until then it has a name of its own ([`is_leftover`]), and opening removes it.
//!
//! Checksums of pieces of the data are kept in memory ([`Pieces`]), so that a piece can be told without reading all of the
//! record. They are never written: what another process stored is looked at once, from end to end.

use super::core::Core;
use super::format::{
    HEAD_LEN as SEGMENT_COPY_LEN, Kind, MAX_HEAD_LEN, Raw, SEGMENT_HEAD_LEN, SegmentHead, encode_long_head,
};
use super::hint::HintEntry;
use super::segment::Segment;
use crate::logic::clock::ClockTime;
use crate::store::StoreError;
use crate::store::fs::{self, File, PARTIAL_SUFFIX, store_error};
use crate::store::staged::HEAD_LEN;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a piece that has a checksum of its own.
pub const PIECE_BYTES: usize = 128 << 10;
/// How the file of a record to be is called, before a number and [`PARTIAL_SUFFIX`].
const STAGED_PREFIX: &str = "large-";

/// Whether a file is what is left of a record that was not made.
pub fn is_leftover(name: &str) -> bool {
    let number = name.strip_prefix(STAGED_PREFIX).and_then(|rest| rest.strip_suffix(PARTIAL_SUFFIX));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Checksums of a dbval, but for its first [`HEAD_LEN`] bytes: one for each [`PIECE_BYTES`], counted from its beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    crcs: Vec<u32>,
    /// How much of the dbval there is.
    end: usize,
    /// The checksum of all of it.
    whole: u32,
}

impl Default for Pieces {
    /// Those of the first [`HEAD_LEN`] bytes: none.
    fn default() -> Pieces {
        Pieces { crcs: Vec::new(), end: HEAD_LEN, whole: 0 }
    }
}

impl Pieces {
    /// Those of a whole dbval, which is longer than [`HEAD_LEN`].
    pub fn of(dbval: &[u8]) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.add(dbval.get(HEAD_LEN..).unwrap_or_default());
        pieces
    }

    /// Adds the bytes behind those that are there.
    fn add(&mut self, mut bytes: &[u8]) {
        // Combining those of the pieces would take as long, and all of it at once.
        self.whole = crc32c::crc32c_append(self.whole, bytes);
        while !bytes.is_empty() {
            let (piece, start) = (self.end / PIECE_BYTES, self.end % PIECE_BYTES);
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - start));
            if piece == self.crcs.len() {
                self.crcs.push(0);
            }
            self.crcs[piece] = crc32c::crc32c_append(self.crcs[piece], now);
            self.end += now.len();
            bytes = later;
        }
    }

    /// Where a piece lies.
    fn range(&self, piece: usize) -> Range<usize> {
        let start = piece * PIECE_BYTES;
        start.max(HEAD_LEN)..(start + PIECE_BYTES).min(self.end)
    }

    /// The checksum of all of it, behind what has the checksum `crc`.
    fn continue_from(&self, crc: u32) -> u32 {
        crc32c::crc32c_combine(crc, self.whole, self.end - HEAD_LEN)
    }

    /// Whether all that stands before the pieces in a record that has them is intact: its numbers, its key, and the first
    /// [`HEAD_LEN`] bytes of its dbval.
    pub fn follow(&self, raw: &Raw<'_>, seed: u32) -> bool {
        raw.header.val_len == self.end
            && self.continue_from(crc32c::crc32c_append(seed, raw.up_to(HEAD_LEN))) == raw.checksum()
    }

    /// Whether the pieces that `len` bytes of the dbval from `from` on lie in are intact; `read` gives bytes of it.
    pub fn are_intact<'a>(&self, from: usize, len: usize, read: impl Fn(Range<usize>) -> Option<&'a [u8]>) -> bool {
        let last = from.saturating_add(len).div_ceil(PIECE_BYTES).min(self.crcs.len());
        let intact = |n: usize| read(self.range(n)).is_some_and(|bytes| crc32c::crc32c(bytes) == self.crcs[n]);
        (from / PIECE_BYTES..last).all(intact)
    }
}

/// The file of a record to be. Dropped, it is removed.
pub struct StagedFile {
    core: Arc<Core>,
    file: Arc<dyn File>,
    path: PathBuf,
    key_len: usize,
    val_len: usize,
    head: Vec<u8>,
    pieces: Pieces,
    unchecked_bytes: usize,
    is_record: bool,
}

impl StagedFile {
    /// Begins one, for a key and a dbval of these lengths.
    pub(super) fn begin(core: &Arc<Core>, key_len: usize, val_len: usize) -> Result<StagedFile, StoreError> {
        core.check_room()?;
        let path = core.dir.join(format!("{STAGED_PREFIX}{}{PARTIAL_SUFFIX}", core.next_staged()));
        let file = core.disk.create(&path).map_err(|e| store_error("cannot write", &path, e))?;
        let (core, head) = (core.clone(), Vec::with_capacity(HEAD_LEN));
        Ok(StagedFile {
            core,
            file,
            path,
            key_len,
            val_len,
            head,
            pieces: Pieces::default(),
            unchecked_bytes: 0,
            is_record: false,
        })
    }

    /// Where the dbval begins.
    fn val_at(&self) -> usize {
        SEGMENT_HEAD_LEN + MAX_HEAD_LEN + self.key_len
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let bytes = &bytes[..bytes.len().min(self.val_len - self.filled())];
        let (first, rest) = bytes.split_at(bytes.len().min(HEAD_LEN - self.head.len()));
        self.head.extend_from_slice(first);
        if rest.is_empty() {
            return Ok(());
        }
        self.unchecked_bytes += rest.len();
        if self.unchecked_bytes > super::shard::ROOM_CHECK_BYTES as usize {
            self.unchecked_bytes = 0;
            self.core.check_room()?;
        }
        let at = self.val_at() + self.filled();
        fs::write_all(self.file.as_ref(), rest, at as u64).map_err(|e| store_error("cannot write", &self.path, e))?;
        self.pieces.add(rest);
        Ok(())
    }

    pub fn val_len(&self) -> usize {
        self.val_len
    }

    pub fn filled(&self) -> usize {
        self.head.len() + self.pieces.end - HEAD_LEN
    }

    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Makes it a record, the only one of a segment of its own; gives that and the checksums of its pieces.
    pub(super) fn into_record(
        mut self,
        (head, slot): (SegmentHead, u32),
        dbkey: &[u8],
        epoch: u64,
        version: ClockTime,
    ) -> Result<(Segment, Pieces), StoreError> {
        debug_assert!(self.filled() == self.val_len && dbkey.len() == self.key_len);
        self.head[..8].copy_from_slice(&version.0.to_be_bytes());
        let path = self.core.dir.join(super::segment::log_name(head.id));
        let copy = head.encode();
        let mut bytes = Vec::with_capacity(self.val_at() + HEAD_LEN);
        bytes.extend_from_slice(&copy);
        bytes.extend_from_slice(&copy);
        debug_assert_eq!(bytes.len(), 2 * SEGMENT_COPY_LEN);
        let seed = super::format::seed_at(head.seed(), SEGMENT_HEAD_LEN as u32);
        encode_long_head(Kind::Put, (dbkey.len(), self.val_len), epoch, seed, &mut bytes);
        bytes.extend_from_slice(dbkey);
        bytes.extend_from_slice(&self.head);
        let crc = self.pieces.continue_from(crc32c::crc32c_append(seed, &bytes[SEGMENT_HEAD_LEN + 4..]));
        bytes[SEGMENT_HEAD_LEN..SEGMENT_HEAD_LEN + 4].copy_from_slice(&crc.to_le_bytes());
        let len = (self.val_at() + self.val_len) as u64;
        let made = fs::write_all(self.file.as_ref(), &bytes, 0)
            .and_then(|()| Segment::new(head, slot, path.clone(), self.file.clone(), len, len))
            .and_then(|segment| self.core.disk.rename(&self.path, &path).map(|()| segment));
        let segment = made.map_err(|e| store_error("cannot write", &path, e))?;
        segment.set_sole(HintEntry::of_put(dbkey, head.birth, SEGMENT_HEAD_LEN, len as usize - SEGMENT_HEAD_LEN));
        segment.seal();
        self.is_record = true;
        Ok((segment, std::mem::take(&mut self.pieces)))
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.is_record {
            // What cannot be removed now is removed at the next open.
            let _ = self.core.disk.remove(&self.path);
        }
    }
}

/// The dbval of a large record.
pub struct StoredFile {
    core: Arc<Core>,
    segment: Arc<Segment>,
    val_at: usize,
    val_len: usize,
    pieces: Arc<Pieces>,
}

impl StoredFile {
    /// One whose dbval begins at `val_at` in its segment.
    pub(super) fn new(
        core: &Arc<Core>,
        segment: Arc<Segment>,
        val_at: usize,
        val_len: usize,
        pieces: Arc<Pieces>,
    ) -> StoredFile {
        StoredFile { core: core.clone(), segment, val_at, val_len, pieces }
    }

    pub fn val_len(&self) -> usize {
        self.val_len
    }

    pub fn crc32c(&self) -> u32 {
        let mut head = [0; HEAD_LEN];
        if !self.segment.read_at(self.val_at, &mut head) {
            // As if it were another one.
            return 0;
        }
        self.pieces.continue_from(crc32c::crc32c(&head))
    }

    pub fn append_to(&self, from: usize, len: usize, out: &mut Vec<u8>) -> bool {
        if from.checked_add(len).is_none_or(|end| end > self.val_len) {
            return false;
        }
        let view = |range: Range<usize>| self.segment.slice(self.val_at + range.start, range.len());
        if let Some(bytes) = view(from..from + len) {
            let intact = self.pieces.are_intact(from, len, view);
            if intact {
                out.extend_from_slice(bytes);
            }
            return intact;
        }
        // Pieces are read from end to end, to be checked.
        let start = from / PIECE_BYTES * PIECE_BYTES;
        let mut bytes = vec![0; ((from + len).div_ceil(PIECE_BYTES) * PIECE_BYTES).min(self.val_len) - start];
        let is_read = self.segment.read_at(self.val_at + start, &mut bytes);
        let read = |range: Range<usize>| bytes.get(range.start - start..range.end - start);
        let intact = is_read && self.pieces.are_intact(from, len, read);
        if intact {
            out.extend_from_slice(&bytes[from - start..][..len]);
        }
        intact
    }
}

impl Drop for StoredFile {
    /// The last one that has a removed file frees its pages, in memory and on disk, which takes long: not in the midst of a turn.
    fn drop(&mut self) {
        if self.segment.is_retired() {
            self.core.put_away(self.segment.clone());
        }
    }
}
