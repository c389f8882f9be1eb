//! Writing a directory from nothing, in one go and without an index: what a merge makes.
//!
//! Segments of one shard with a hint each, as compaction leaves them; a server of any number of workers opens it. The
//! identity is written last, so that what an interrupted writer leaves is no store.

use super::format::{Draft, Kind, MAX_KEY_BYTES, MAX_VAL_BYTES, Origin, Raw, SEGMENT_HEAD_LEN, SegmentHead, seed_at};
use super::hint::{HintBuilder, HintEntry};
use super::identity;
use super::segment::{hint_name, log_name};
use crate::store::fs::{self, Disk, File, store_error};
use crate::store::{Record, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a segment ends: its hint is gathered in memory, some 40 bytes a record.
const SEGMENT_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// Writes a new directory.
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next_id: u32,
    next_lsn: u64,
    segment: Option<Growing>,
}

struct Growing {
    head: SegmentHead,
    path: PathBuf,
    file: Arc<dyn File>,
    written: u64,
    buffer: Vec<u8>,
    hint: HintBuilder,
}

impl Writer {
    /// Begins to write into `dir`, which exists.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Writer {
        Writer { disk, dir: dir.to_owned(), next_id: 0, next_lsn: 1, segment: None }
    }

    /// Adds a record; each key is given once.
    pub fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError> {
        if dbkey.len() > MAX_KEY_BYTES || record.dbval.len() > MAX_VAL_BYTES {
            return Err(StoreError::Unusable("a record is larger than a store can hold".to_owned()));
        }
        let (disk, lsn) = (self.disk.clone(), self.next_lsn);
        let segment = self.growing()?;
        let draft = Draft { kind: Kind::Put, lsn, epoch: record.epoch, dbkey, dbval: record.dbval };
        segment.add(draft)?;
        let is_full = segment.len() >= SEGMENT_BYTES;
        self.next_lsn += 1;
        if is_full && let Some(segment) = self.segment.take() {
            segment.finish(disk.as_ref())?;
        }
        Ok(())
    }

    /// Makes everything durable, and the directory a store.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if let Some(segment) = self.segment.take() {
            segment.finish(self.disk.as_ref())?;
        }
        identity::write(self.disk.as_ref(), &self.dir)?;
        Ok(())
    }

    fn growing(&mut self) -> Result<&mut Growing, StoreError> {
        if self.segment.is_none() {
            let head =
                SegmentHead { id: self.next_id, origin: Origin::Stores, shards: 1, shard: 0, birth: self.next_lsn };
            let path = self.dir.join(log_name(head.id));
            let file = self.disk.create(&path).map_err(|e| store_error("cannot write", &path, e))?;
            let bytes = head.encode();
            let (buffer, hint) = ([bytes, bytes].concat(), HintBuilder::default());
            self.next_id += 1;
            self.segment = Some(Growing { head, path, file, written: 0, buffer, hint });
        }
        Ok(self.segment.as_mut().expect("it was made just now"))
    }
}

impl Growing {
    fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn add(&mut self, draft: Draft<'_>) -> Result<(), StoreError> {
        let offset = self.len();
        debug_assert!(offset >= SEGMENT_HEAD_LEN as u64);
        let start = self.buffer.len();
        draft.encode(self.head.birth, seed_at(self.head.seed(), offset as u32), &mut self.buffer);
        let raw = Raw::parse(&self.buffer[start..], self.head.birth).expect("a record that was just made is one");
        self.hint.add(HintEntry::of(&raw, offset));
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        fs::write_all(self.file.as_ref(), &self.buffer, self.written)
            .map_err(|e| store_error("cannot write", &self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, disk: &dyn Disk) -> Result<(), StoreError> {
        self.flush()?;
        self.file.sync().map_err(|e| store_error("cannot sync", &self.path, e))?;
        let hint = self.path.with_file_name(hint_name(self.head.id));
        let bytes = self.hint.finish(&self.head, self.written);
        fs::write_whole(disk, &hint, &bytes).map_err(|e| store_error("cannot write", &hint, e))
    }
}
