//! Merging databases: of each key the newest record that any of them has, in a new directory.
//!
//! The sources are read from end to end, and what is in them goes to temporary files, one for each part of the ring
//! (`parts`); then each part is settled and written. Memory: 64 MiB while reading; while writing, an index of the part,
//! 24 bytes a record, its content if that is less than 64 MiB, and the hint of the segment that grows. At 100 million
//! records that is some 300 MiB. Disk: the temporary files are as long as the sources are.
//!
//! Rules ([`settle`]):
//!
//! * Each source is settled by itself first, as opening it would: of a key the record with the highest log sequence
//!   number counts, whatever its stamp; a forget hides older ones, and so does a damaged record whose place is known,
//!   both in this source only.
//! * Of what the sources then have of a key, the newest stamp counts; of equal ones, the source named first.
//! * The newest epoch that is beside a source comes to lie beside the result, for what a server makes of it
//!   ([`super::restored`]).
//! * A deletion mark is a record like others: where it is the newest, it is what the result has. Servers forget it as
//!   they forget all others.
//!
//! Invariant: the destination appears by one rename, complete. What an interrupted merge leaves is called
//! `DEST.tmp`, and holds no identity, so that no server takes it for a store.

mod parts;
mod source;
mod window;

#[cfg(test)]
mod tests;

pub use source::Source;
pub use window::Window;

use super::fs::{Disk, RealDisk, store_error};
use super::log::format::{Draft, Kind};
use super::log::fresh;
use super::open::Engine;
use super::restored::{self, BACKUP_EPOCH_FILE, EPOCH_FILE};
use super::sled::outside;
use super::{Record, StoreError};
use crate::logic::epoch::Epoch;
use crate::logic::record::is_mark;
use parts::{Entry, Parts};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The end of the name of a directory that is not complete.
const TMP_SUFFIX: &str = ".tmp";
/// The end of the name of a directory that was replaced, for the moment until it is removed.
const OLD_SUFFIX: &str = ".replaced";
const PARTS_DIR: &str = "parts";

/// What is told what a source holds.
pub trait Heed {
    /// A record. An error ends the reading.
    fn record(&mut self, entry: Draft<'_>) -> Result<(), StoreError>;
    /// A line about something that cannot be read, and was left out.
    fn damaged(&mut self, line: String);
    /// A line about something else that its owner should know.
    fn note(&mut self, line: String);
    /// So many bytes more were read. An error ends the reading.
    fn passed(&mut self, bytes: u64) -> Result<(), StoreError>;
}

/// What a merge is about.
#[derive(Clone, Debug)]
pub struct Order {
    /// The directory that is made.
    pub dest: PathBuf,
    /// The engine that it is for.
    pub engine: Engine,
    /// What is read.
    pub sources: Vec<PathBuf>,
    /// A store at `dest` is replaced; else the merge is refused.
    pub overwrite: bool,
}

/// How far a merge is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The source that is read; `None` while the result is written.
    pub source: Option<usize>,
    /// Bytes of this half that are done.
    pub done: u64,
    /// Bytes of this half.
    pub total: u64,
    /// Records read, or written.
    pub records: u64,
}

/// What looks on.
pub trait Watcher {
    /// Called often. False ends the merge.
    fn progress(&mut self, progress: Progress) -> bool;
    /// A line about a source.
    fn note(&mut self, line: &str);
}

/// What a source had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Had {
    /// Its path.
    pub path: PathBuf,
    /// What it is: `log`, `sled` or `tch`.
    pub kind: &'static str,
    /// Records in it, older ones of a key included.
    pub records: u64,
    /// Places that could not be read.
    pub damaged: u64,
}

/// What became of a merge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The sources, as named.
    pub sources: Vec<Had>,
    /// Values in the result.
    pub values: u64,
    /// Deletion marks in the result.
    pub marks: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Summary {
    /// Places that could not be read, in all sources.
    pub fn damaged(&self) -> u64 {
        self.sources.iter().map(|s| s.damaged).sum()
    }
}

/// Merges.
///
/// # Errors
/// [`StoreError::Unusable`] when a source is none or in use, the destination is there, or the watcher had enough; others
/// as files fail. The destination has not changed then.
pub fn merge(order: &Order, watcher: &mut dyn Watcher) -> Result<Summary, StoreError> {
    let old = Old::look(order)?;
    let sources = order.sources.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>, _>>()?;
    let tmp = with_suffix(&order.dest, TMP_SUFFIX);
    if tmp.symlink_metadata().is_ok() {
        return Err(StoreError::Unusable(format!(
            "{} is there: another merge is at work, or was interrupted; if there is none, remove it",
            tmp.display()
        )));
    }
    let made = gather(order, &sources, &tmp, watcher).and_then(|summary| {
        old.make_way(&order.dest)?;
        std::fs::rename(&tmp, &order.dest).map_err(|e| store_error("cannot make", &order.dest, e))?;
        Ok(summary)
    });
    if made.is_err() {
        // The error that stopped the merge says more than one about clearing up.
        let _ = std::fs::remove_dir_all(&tmp);
    }
    let summary = made?;
    let above = order.dest.parent().unwrap_or(Path::new("."));
    RealDisk.sync_dir(above).map_err(|e| store_error("cannot sync", above, e))?;
    old.remove(&order.dest)?;
    Ok(summary)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// What is at the destination before.
enum Old {
    Nothing,
    /// A store that is to be replaced; it cannot be opened meanwhile.
    Store(#[allow(dead_code, reason = "it holds the lock")] Source),
}

impl Old {
    fn look(order: &Order) -> Result<Old, StoreError> {
        let dest = &order.dest;
        if dest.file_name().is_none() {
            return Err(StoreError::Unusable(format!("{} cannot be made: name a new directory", dest.display())));
        }
        if dest.symlink_metadata().is_err() {
            return Ok(Old::Nothing);
        }
        if !order.overwrite {
            return Err(StoreError::Unusable(format!(
                "{} exists: name a new directory first and the sources behind it, or have it replaced with --overwrite",
                dest.display()
            )));
        }
        let same = |path: &&PathBuf| matches!((path.canonicalize(), dest.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if order.sources.iter().find(same).is_some() {
            return Err(StoreError::Unusable(format!("{} is a source: it is not replaced", dest.display())));
        }
        match Source::open(dest)? {
            Source::Tokyo(_) => {
                Err(StoreError::Unusable(format!("{} is a file: it is not replaced by a directory", dest.display())))
            }
            store => Ok(Old::Store(store)),
        }
    }

    fn make_way(&self, dest: &Path) -> Result<(), StoreError> {
        let Old::Store(_) = self else { return Ok(()) };
        let aside = with_suffix(dest, OLD_SUFFIX);
        std::fs::rename(dest, &aside).map_err(|e| store_error("cannot move away", dest, e))
    }

    fn remove(self, dest: &Path) -> Result<(), StoreError> {
        let Old::Store(_) = self else { return Ok(()) };
        let aside = with_suffix(dest, OLD_SUFFIX);
        std::fs::remove_dir_all(&aside).map_err(|e| store_error("cannot remove", &aside, e))
    }
}

/// Makes the result at `tmp`.
fn gather(order: &Order, sources: &[Source], tmp: &Path, watcher: &mut dyn Watcher) -> Result<Summary, StoreError> {
    let parts_dir = tmp.join(PARTS_DIR);
    std::fs::create_dir_all(&parts_dir).map_err(|e| store_error("cannot make", &parts_dir, e))?;
    let total = sources.iter().map(Source::bytes).sum();
    let mut reader = Reader {
        parts: Parts::new(&parts_dir, total)?,
        progress: Progress { source: Some(0), done: 0, total, records: 0 },
        had: Vec::new(),
        watcher,
    };
    for (source, path) in sources.iter().zip(&order.sources) {
        let before = reader.progress.records;
        reader.had.push(Had { path: path.clone(), kind: source.kind(), records: 0, damaged: 0 });
        source.read(&mut reader)?;
        reader.progress.source = reader.progress.source.map(|n| n + 1);
        let read = reader.progress.records - before;
        reader.had.last_mut().expect("it was pushed").records = read;
    }
    let Reader { parts, had, watcher, .. } = reader;
    let mut sink = match order.engine {
        Engine::Log => Sink::Log(fresh::Writer::new(Arc::new(RealDisk), tmp)),
        Engine::Sled => Sink::Sled(outside::Writer::new(tmp)?),
    };
    let mut summary = Summary { sources: had, ..Summary::default() };
    let parts = parts.finish()?;
    let total = parts.iter().map(parts::Written::len).sum();
    let mut done = 0;
    for part in parts {
        let len = part.len();
        part.settle(&mut |entries| {
            for winner in settle(entries) {
                summary.count(winner);
                sink.put(&winner.dbkey, Record { epoch: winner.epoch, dbval: &winner.dbval })?;
            }
            let records = summary.values + summary.marks;
            go_on(watcher, Progress { source: None, done, total, records })
        })?;
        done += len;
    }
    std::fs::remove_dir(&parts_dir).map_err(|e| store_error("cannot remove", &parts_dir, e))?;
    sink.finish()?;
    if let Some(epoch) = newest_epoch(&order.sources)? {
        restored::save(&RealDisk, tmp, &epoch).map_err(|e| store_error("cannot write to", tmp, e))?;
    }
    Ok(summary)
}

/// The newest epoch that is beside the sources: in a server's own database, or in a backup.
fn newest_epoch(sources: &[PathBuf]) -> Result<Option<Epoch>, StoreError> {
    let mut newest: Option<Epoch> = None;
    for source in sources {
        for name in [EPOCH_FILE, BACKUP_EPOCH_FILE] {
            let read = restored::load(&RealDisk, source, name);
            let epoch = read.map_err(|e| store_error("cannot read", &source.join(name), e))?;
            let number = newest.as_ref().map_or(0, |epoch| epoch.number);
            newest = epoch.filter(|epoch| epoch.number > number).or(newest);
        }
    }
    Ok(newest)
}

fn go_on(watcher: &mut dyn Watcher, progress: Progress) -> Result<(), StoreError> {
    match watcher.progress(progress) {
        true => Ok(()),
        false => Err(StoreError::Unusable("stopped before it was done: nothing was made".to_owned())),
    }
}

impl Summary {
    fn count(&mut self, entry: &Entry) {
        match is_mark(&entry.dbval) {
            true => self.marks += 1,
            false => self.values += 1,
        }
        self.bytes += (entry.dbkey.len() + entry.dbval.len()) as u64;
    }
}

enum Sink {
    Log(fresh::Writer),
    Sled(outside::Writer),
}

impl Sink {
    fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError> {
        match self {
            Sink::Log(writer) => writer.put(dbkey, record),
            Sink::Sled(writer) => writer.put(dbkey, record),
        }
    }

    fn finish(self) -> Result<(), StoreError> {
        match self {
            Sink::Log(writer) => writer.finish(),
            Sink::Sled(writer) => writer.finish(),
        }
    }
}

struct Reader<'a> {
    parts: Parts,
    progress: Progress,
    had: Vec<Had>,
    watcher: &'a mut dyn Watcher,
}

impl Heed for Reader<'_> {
    fn record(&mut self, entry: Draft<'_>) -> Result<(), StoreError> {
        self.progress.records += 1;
        self.parts.add(self.had.len() - 1, &entry)
    }

    fn damaged(&mut self, line: String) {
        if let Some(had) = self.had.last_mut() {
            had.damaged += 1;
        }
        self.watcher.note(&line);
    }

    fn note(&mut self, line: String) {
        self.watcher.note(&line);
    }

    fn passed(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.progress.done += bytes;
        go_on(self.watcher, self.progress)
    }
}

/// Of what the sources have at one ring position, the record of each key that counts.
fn settle(entries: &mut [Entry]) -> impl Iterator<Item = &Entry> {
    // Of each source the newest first; where numbers are the same, what is sure before what is not.
    entries.sort_by(|a, b| {
        let newest_first = b.lsn.cmp(&a.lsn).then((a.kind as u8).cmp(&(b.kind as u8)));
        a.source.cmp(&b.source).then(newest_first)
    });
    let mut winners: Vec<&Entry> = Vec::new();
    for of_source in entries.chunk_by(|a, b| a.source == b.source) {
        for entry in current(of_source) {
            match winners.iter_mut().find(|w| w.dbkey == entry.dbkey) {
                Some(winner) if stamp(winner) < stamp(entry) => *winner = entry,
                Some(_) => {}
                None => winners.push(entry),
            }
        }
    }
    winners.sort_by(|a, b| a.dbkey.cmp(&b.dbkey));
    winners.into_iter()
}

fn stamp(entry: &Entry) -> crate::logic::record::Stamp {
    Record { epoch: entry.epoch, dbval: &entry.dbval }.stamp()
}

/// Of what one source has at a ring position, newest first, the record that it would serve of each key.
fn current(entries: &[Entry]) -> Vec<&Entry> {
    let mut seen: Vec<&Entry> = Vec::new();
    for entry in entries {
        if entry.kind == Kind::Lost {
            // It stands for any key here.
            break;
        }
        if seen.iter().all(|s| s.dbkey != entry.dbkey) {
            seen.push(entry);
        }
    }
    seen.retain(|entry| entry.kind == Kind::Put);
    seen
}
