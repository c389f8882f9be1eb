//! A segment: one append-only file, and what is known of it.
//!
//! A segment is written by one shard (or by compaction) until it is sealed; then its bytes never change again, so that
//! hard links of it are copies. The part of the file behind [`Segment::len`] is no part of it: a write that failed
//! half-way, or a tail torn by a crash.

use super::format::{Header, MAX_HEAD_LEN, Raw, SegmentHead, seed_at};
use super::hint::HintEntry;
use crate::store::fs::{self, Disk, File, View};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// So many bytes are written before their pages are mapped: that takes some ten microseconds, in which nobody is served.
const MAP_BYTES: u64 = 64 << 10;

/// See the module.
pub struct Segment {
    /// The head, as on disk.
    pub head: SegmentHead,
    /// What index entries call it.
    pub slot: u32,
    /// Its file.
    pub path: PathBuf,
    /// Bytes that it may grow to.
    pub capacity: u64,
    seed: u32,
    view: Option<View>,
    file: Mutex<Option<Arc<dyn File>>>,
    len: AtomicU64,
    /// Up to where the view's pages were mapped, or are left to be when they are read.
    mapped: AtomicU64,
    synced: AtomicU64,
    named: AtomicBool,
    sealed: AtomicBool,
    damaged: AtomicBool,
    retired: AtomicBool,
    hint_len: AtomicU64,
    live: AtomicU64,
    forgets: AtomicU64,
    last_forget: AtomicU64,
    sole: OnceLock<HintEntry>,
}

/// The name of segment `id`'s file.
pub fn log_name(id: u32) -> String {
    format!("{id:08x}.log")
}

/// The name of segment `id`'s hint.
pub fn hint_name(id: u32) -> String {
    format!("{id:08x}.hint")
}

/// The number in a name that ends in `suffix` and was made by [`log_name`] or [`hint_name`].
pub fn id_in(name: &str, suffix: &str) -> Option<u32> {
    let hex = name.strip_suffix(suffix)?;
    let id = u32::from_str_radix(hex, 16).ok()?;
    (hex.len() == 8 && format!("{id:08x}") == hex).then_some(id)
}

impl Segment {
    /// A segment over an open file, of which the first `len` bytes are written.
    pub fn new(
        head: SegmentHead,
        slot: u32,
        path: PathBuf,
        file: Arc<dyn File>,
        len: u64,
        capacity: u64,
    ) -> io::Result<Segment> {
        let view = file.view(capacity)?;
        Ok(Segment {
            head,
            slot,
            path,
            capacity,
            seed: head.seed(),
            view,
            file: Mutex::new(Some(file)),
            len: AtomicU64::new(len),
            mapped: AtomicU64::new(len),
            synced: AtomicU64::new(0),
            named: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            hint_len: AtomicU64::new(0),
            live: AtomicU64::new(0),
            forgets: AtomicU64::new(0),
            last_forget: AtomicU64::new(0),
            sole: OnceLock::new(),
        })
    }

    /// Bytes written, the head included.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// What the checksum of the record at `offset` starts from.
    pub fn seed_at(&self, offset: u32) -> u32 {
        seed_at(self.seed, offset)
    }

    /// The record at `offset`, not verified; `None` when there cannot be one. `scratch` is used where there is no view.
    #[inline]
    pub fn read<'a>(&'a self, offset: u32, scratch: &'a mut Vec<u8>) -> Option<Raw<'a>> {
        let (start, end) = (offset as usize, self.len() as usize);
        let head_len = end.checked_sub(start)?.min(MAX_HEAD_LEN);
        let Some(view) = &self.view else { return self.read_into(offset, end, scratch) };
        let header = Header::parse(view.slice(start, head_len)?, self.head.birth)?;
        if start + header.record_len() > end {
            return None;
        }
        Raw::with_header(header, view.slice(start, header.record_len())?)
    }

    /// Bytes that are written, where there is a view.
    pub fn slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.view.as_ref().filter(|_| (offset + len) as u64 <= self.len())?.slice(offset, len)
    }

    /// Reads bytes that are written; false when they cannot be read.
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> bool {
        if let Some(bytes) = self.slice(offset, out.len()) {
            out.copy_from_slice(bytes);
            return true;
        }
        let file = self.file.lock().expect("no holder of a file panics").clone();
        file.is_some_and(|file| fs::read_full(file.as_ref(), out, offset as u64).is_ok_and(|read| read == out.len()))
    }

    /// Has memory bring the beginning of the record at `offset`.
    pub fn prefetch(&self, offset: u32) {
        if let Some(view) = &self.view {
            view.prefetch(offset as usize);
        }
    }

    fn read_into<'a>(&self, offset: u32, end: usize, scratch: &'a mut Vec<u8>) -> Option<Raw<'a>> {
        let file = self.file.lock().expect("no holder of a file panics").clone()?;
        scratch.resize((end - offset as usize).min(MAX_HEAD_LEN), 0);
        fs::read_full(file.as_ref(), scratch, u64::from(offset)).ok()?;
        let header = Header::parse(scratch, self.head.birth)?;
        if offset as usize + header.record_len() > end {
            return None;
        }
        scratch.resize(header.record_len(), 0);
        fs::read_full(file.as_ref(), scratch, u64::from(offset)).ok()?;
        // Not as read first: two reads of a bad disk may differ.
        Raw::parse(scratch, self.head.birth)
    }

    /// Appends bytes. After an error the segment is as before, and the same may be tried again.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.lock().expect("no holder of a file panics").clone();
        let file = file.ok_or_else(|| io::Error::other("the segment is sealed"))?;
        let len = self.len();
        fs::write_all(file.as_ref(), bytes, len)?;
        let len = len + bytes.len() as u64;
        self.len.store(len, Ordering::Release);
        if len >= self.mapped.load(Ordering::Relaxed) + MAP_BYTES {
            self.map_pages();
        }
        Ok(())
    }

    /// Maps the pages of what was written since this was last done.
    fn map_pages(&self) {
        let len = self.len();
        let from = self.mapped.swap(len, Ordering::Relaxed);
        if let Some(view) = self.view.as_ref().filter(|_| from < len) {
            view.map_pages(from as usize, len as usize);
        }
    }

    /// Its file, opened anew when it was let go.
    pub fn file(&self, disk: &dyn Disk) -> io::Result<Arc<dyn File>> {
        match self.file.lock().expect("no holder of a file panics").clone() {
            Some(file) => Ok(file),
            None => disk.open(&self.path),
        }
    }

    /// Nothing is appended from now on.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
        self.map_pages();
    }

    /// Whether nothing is appended any more.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether all of it survives a loss of power, for ever.
    pub fn is_settled(&self) -> bool {
        self.is_sealed() && self.is_synced()
    }

    /// Whether all that is written so far survives a loss of power.
    pub fn is_synced(&self) -> bool {
        self.named.load(Ordering::Acquire) && self.synced.load(Ordering::Acquire) == self.len()
    }

    /// Makes what is written so far durable, but for the file's name.
    pub fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        let len = self.len();
        if self.synced.load(Ordering::Acquire) < len {
            self.file(disk)?.sync()?;
            self.synced.store(len, Ordering::Release);
        }
        Ok(())
    }

    /// Whether its name is known to be durable.
    pub fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// Its name is durable.
    pub fn set_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// It was found complete on the disk: all of it is durable.
    pub fn set_settled(&self) {
        self.seal();
        self.set_named();
        self.synced.store(self.len(), Ordering::Release);
        self.release_file();
    }

    /// Lets go of the file where the view does for reading, so that old segments cost no open files.
    pub fn release_file(&self) {
        if self.view.is_some() {
            *self.file.lock().expect("no holder of a file panics") = None;
        }
    }

    /// Records in it were found damaged: what is dead in it is not known exactly.
    pub fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether records in it were found damaged.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Nothing in it is needed; it waits for its removal.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it waits for its removal.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Bytes of its hint; 0 while there is none.
    pub fn hint_len(&self) -> u64 {
        self.hint_len.load(Ordering::Relaxed)
    }

    /// A hint of so many bytes was written.
    pub fn set_hint_len(&self, len: u64) {
        self.hint_len.store(len, Ordering::Relaxed);
    }

    /// A record that counts was added.
    pub fn add_live(&self, len: usize) {
        self.live.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// A record in it does not count any more. Its length is read from the record, so damage can make it wrong: no
    /// less than nothing is left.
    pub fn sub_live(&self, len: usize) {
        let less = |live: u64| Some(live.saturating_sub(len as u64));
        // The closure always says Some.
        let _ = self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A forget was added.
    pub fn add_forget(&self, len: usize, lsn: u64) {
        self.add_live(len);
        self.forgets.fetch_add(len as u64, Ordering::Relaxed);
        self.last_forget.fetch_max(lsn, Ordering::Relaxed);
    }

    /// Bytes of records that count, forgets included.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Bytes of forgets.
    pub fn forgets(&self) -> u64 {
        self.forgets.load(Ordering::Relaxed)
    }

    /// The highest sequence number of a forget in it.
    pub fn last_forget(&self) -> u64 {
        self.last_forget.load(Ordering::Relaxed)
    }

    /// Bytes of records.
    pub fn record_bytes(&self) -> u64 {
        self.len() - super::format::SEGMENT_HEAD_LEN as u64
    }

    /// Whether it may hold a record that is dead: then it may hold one that a forget keeps dropped.
    pub fn may_hold_dead(&self) -> bool {
        self.is_damaged() || self.live() < self.record_bytes()
    }

    /// It has this record, and no other.
    pub fn set_sole(&self, record: HintEntry) {
        // It is told once.
        let _ = self.sole.set(record);
    }

    /// The only record that it has, if that was told: then its hint need not be made by reading it.
    pub fn sole(&self) -> Option<HintEntry> {
        self.sole.get().copied()
    }

    /// Its hint's file.
    pub fn hint_path(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(hint_name(self.head.id))
    }
}
