//! Reading a directory without opening it as a store: for merges, which must neither hold an index of everything in
//! memory nor change what they read.
//!
//! What is passed on is every record of every segment, in no order of keys; the caller settles which of a key counts:
//! the one with the highest log sequence number. Damage is judged as at opening ([`super::open`]), so that a merge
//! takes neither more nor less for damaged than a server does.

use super::format::{Draft, Kind, Origin, SegmentHead};
use super::identity::{IDENTITY, LOCK, parse};
use super::increment::{Manifest, built_upon};
use super::open::{Start, unreadable};
use super::segment::{id_in, log_name};
use super::walk::{Step, Walk};
use crate::store::StoreError;
use crate::store::fs::{Disk, File, Lock, read_small, store_error};
use crate::store::merge::Heed;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory that is read. Nobody can open it as a store meanwhile, if anybody ever has.
pub struct Reading {
    disk: Arc<dyn Disk>,
    /// Numbers of its segments, ascending, and where they are: those of an increment lie in several directories.
    segments: Vec<(u32, PathBuf)>,
    bytes: u64,
    _lock: Option<Box<dyn Lock>>,
}

/// A segment as found.
struct Found {
    head: SegmentHead,
    file: Arc<dyn File>,
    path: PathBuf,
    /// How much of it is to be read.
    end: u64,
    /// A hint told that end, so that what was torn has been left out before.
    is_settled: bool,
}

impl Reading {
    /// Begins to read `dir`. [`StoreError::Unusable`] when it is not a directory of the engine, or in use.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Reading, StoreError> {
        let names = disk.list(dir).map_err(|e| unreadable(dir, &e))?;
        let has = |name: &str| names.iter().any(|n| n.name == name);
        let increment = Manifest::read(disk.as_ref(), dir)?;
        if !has(IDENTITY) && increment.is_none() {
            return Err(StoreError::Unusable(format!("{} is not a kumofs database", dir.display())));
        }
        // A directory without a lock file was never opened: a backup. None is made there: it may be read-only.
        let lock = match has(LOCK) {
            false => None,
            true => {
                let path = dir.join(LOCK);
                let taken = disk.lock(&path).map_err(|e| unreadable(&path, &e))?;
                let in_use =
                    || format!("{} is in use by another process: stop that one, or make a backup", dir.display());
                Some(taken.ok_or_else(|| StoreError::Unusable(in_use()))?)
            }
        };
        let mut segments: Vec<(u32, PathBuf)> =
            names.iter().filter_map(|n| Some((id_in(&n.name, ".log")?, dir.to_owned()))).collect();
        if let Some(manifest) = increment {
            segments.extend(built_upon(disk.as_ref(), dir, &manifest)?);
        } else {
            let identity = dir.join(IDENTITY);
            let bytes = read_small(disk.as_ref(), &identity, 4096).map_err(|e| unreadable(&identity, &e))?;
            parse(&bytes).map_err(|why| StoreError::Unusable(format!("cannot read {}: {why}", dir.display())))?;
        }
        segments.sort_unstable();
        let size = |(id, dir): &(u32, PathBuf)| {
            let path = dir.join(log_name(*id));
            disk.open(&path).and_then(|file| file.size()).map_err(|e| store_error("cannot read", &path, e))
        };
        let bytes = segments.iter().map(size).sum::<Result<u64, _>>()?;
        Ok(Reading { disk, segments, bytes, _lock: lock })
    }

    /// How long all segments are together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Passes on all records.
    pub fn read(&self, heed: &mut dyn Heed) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for (id, dir) in &self.segments {
            found.extend(self.find(*id, dir, heed)?);
        }
        let heads: Vec<SegmentHead> = found.iter().map(|f| f.head).collect();
        found.iter().try_for_each(|f| read_segment(f, &heads, heed))
    }

    fn find(&self, id: u32, dir: &Path, heed: &mut dyn Heed) -> Result<Option<Found>, StoreError> {
        let start = Start::look(self.disk.as_ref(), dir, id)?;
        if let Some(line) = start.damage() {
            heed.damaged(line);
        }
        let Start { path, file, size, head, hint } = start;
        let end = hint.as_ref().map_or(size, |h| h.segment_len);
        Ok(head.map(|head| Found { head, file, path, end, is_settled: hint.is_some() }))
    }
}

/// A damaged record whose length was right: what it hides, its key may tell.
struct Damaged {
    position: Vec<u8>,
    lsn: u64,
    epoch: u64,
}

fn read_segment(found: &Found, heads: &[SegmentHead], heed: &mut dyn Heed) -> Result<(), StoreError> {
    let head = &found.head;
    let mut walk = Walk::new(found.file.clone(), head, found.end);
    let (mut top, mut before) = (0, None);
    let mut damaged = Vec::new();
    while let Some(step) = walk.step() {
        match step {
            Step::Record { offset, len } => {
                let Some(raw) = walk.record(offset, len) else { continue };
                let Draft { lsn, .. } = draft(&raw);
                (top, before) = (top.max(lsn), Some(lsn));
                heed.record(draft(&raw))?;
                heed.passed(len as u64)?;
            }
            Step::Damaged { offset, len, header } => {
                heed.damaged(format!("{}: {len} damaged bytes at byte {offset}", found.path.display()));
                if let (Some(header), Some(raw)) = (header, walk.record(offset, len as usize)) {
                    // As hints have it: its number is that of its place where numbers are dense.
                    let dense = before.filter(|_| head.origin == Origin::Stores).map(|lsn| lsn + 1);
                    let lsn = dense.unwrap_or(header.lsn);
                    before = Some(lsn);
                    let position = super::format::position(raw.dbkey()).to_be_bytes().to_vec();
                    damaged.push(Damaged { position, lsn, epoch: header.epoch });
                }
                heed.passed(len)?;
            }
            Step::Torn { offset } => {
                if !found.is_settled && is_damage(found, heads, &mut walk, offset) {
                    let len = found.end - offset;
                    heed.damaged(format!("{}: {len} damaged bytes at byte {offset}", found.path.display()));
                }
                heed.passed(found.end - offset)?;
            }
        }
    }
    for d in damaged {
        // Never above the good ones, so that a number that was damaged itself hides no later store.
        let lsn = d.lsn.min(top);
        heed.record(Draft { kind: Kind::Lost, lsn, epoch: d.epoch, dbkey: &d.position, dbval: &[] })?;
    }
    Ok(())
}

fn draft<'a>(raw: &super::format::Raw<'a>) -> Draft<'a> {
    let header = &raw.header;
    Draft { kind: header.kind, lsn: header.lsn, epoch: header.epoch, dbkey: raw.dbkey(), dbval: raw.dbval() }
}

/// Whether a bad end is damage: a process that dies cuts its last record off, which is then in the newest segment of its
/// shard, or in a copy that compaction was making.
fn is_damage(found: &Found, heads: &[SegmentHead], walk: &mut Walk, offset: u64) -> bool {
    found.head.is_superseded(heads) || walk.met_unreadable() || walk.is_whole_at(offset)
}
