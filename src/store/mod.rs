//! Keeping records on disk: one trait, two engines.
//!
//! A [`Store`] is one directory. It is split into [`Shard`]s, one for each worker thread, so that cores do not meet:
//! a worker locks its own shard once for a batch of commands, and background work (compaction, backup) takes
//! the lock only for moments. Which shard a key lives in follows from its hash and the number of shards
//! ([`crate::logic::record::worker_of`]); a directory may be opened with another number than the last time.
//!
//! A record is a dbkey and a dbval ([`crate::logic::record`]) with the epoch of its stamp; engines look into the dbval
//! only to tell deletion marks (which are records, but no items) and to compare versions.
//!
//! Durability: what [`Shard::commit`] returned [`Commit::Done`] for, or whose ticket [`Store::durable`] has reached,
//! survives the death of the process; with `sync`, also the loss of power.

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
pub mod crash;
pub mod fs;
pub mod identity;
pub mod log;
pub mod merge;
pub mod open;
pub mod restored;
pub mod sled;
pub mod staged;
pub mod tokyo;

use crate::logic::clock::ClockTime;
use crate::logic::record::Stamp;
use crate::logic::rule::{Rule, on};
use staged::{Large, Staged};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A stored value with the epoch of its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The epoch of the stamp.
    pub epoch: u64,
    /// Version, layout and data; see [`crate::logic::record`].
    pub dbval: &'a [u8],
}

impl Record<'_> {
    /// Its stamp; a dbval too short to have a version (never stored) counts as version 0.
    pub fn stamp(&self) -> Stamp {
        let version = crate::logic::record::version_of(self.dbval).unwrap_or(ClockTime(0));
        Stamp { epoch: if on(Rule::EpochInStamp) { self.epoch } else { 0 }, version }
    }
}

/// What goes wrong in a store, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record failed its checksum. It was reported; the caller fetches the key from a replica and puts it again.
    #[error("damaged record in {file} at byte {offset}")]
    Damaged {
        /// The file that holds it.
        file: PathBuf,
        /// Where in the file.
        offset: u64,
    },
    /// No room on the device. Reads go on; writes are refused until there is room.
    #[error("no space left for {0}")]
    Full(PathBuf),
    /// Any other failure of the file system.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory cannot be used; the text says why and what to do.
    #[error("{0}")]
    Unusable(String),
}

/// A dbval of more bytes than this is looked at, and told, in pieces where that is possible.
pub const LARGE_BYTES: usize = if cfg!(feature = "sim") { 256 } else { 2 << 20 };

/// Number of a commit; grows within a shard.
pub type Ticket = u64;

/// What became of a [`Shard::commit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commit {
    /// Everything staged is durable.
    Done,
    /// It will be when [`Store::durable`] of this shard reaches the ticket.
    Pending(Ticket),
}

/// One worker's part of a store.
///
/// Between calls of [`commit`](Shard::commit), changes are staged: seen by every call here, not yet durable.
pub trait Shard: Any + Send {
    /// The record of a key, deletion marks included. The bytes are verified.
    fn get(&mut self, dbkey: &[u8]) -> Result<Option<Record<'_>>, StoreError>;

    /// Has memory bring what lookups of these ring positions will need, all at once, instead of one after the other when
    /// they are made. Changes nothing.
    fn prefetch(&self, _positions: &[u64]) {}

    /// Stores a record over whatever is there. After an error nothing has changed. [`StoreError::Full`] also when an
    /// earlier commit was refused for want of room, and there is none yet.
    fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError>;

    /// Stores `record` unless the key holds one with the same or a newer stamp; true when it was stored.
    fn put_newer(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<bool, StoreError> {
        Ok(self.is_newer(dbkey, record.stamp())? && self.put(dbkey, record).map(|()| true)?)
    }

    /// Whether a record with this stamp takes the place of what the key holds.
    fn is_newer(&mut self, dbkey: &[u8], stamp: Stamp) -> Result<bool, StoreError> {
        match self.peek(dbkey) {
            Ok(Some(old)) => Ok(old.stamp() < stamp),
            // A damaged record is replaced: its stamp cannot be known, and the new one comes from a replica.
            Ok(None) | Err(StoreError::Damaged { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// The record of a key, as [`get`](Shard::get) tells it; of one over [`LARGE_BYTES`], only the first
    /// [`staged::HEAD_LEN`] bytes of the dbval are sure to be right.
    fn peek(&mut self, dbkey: &[u8]) -> Result<Option<Record<'_>>, StoreError> {
        self.get(dbkey)
    }

    /// `len` bytes from `from` on of the dbval that a key has with this stamp; `None` when it has another by now, or fewer bytes.
    fn piece(
        &mut self,
        dbkey: &[u8],
        version: ClockTime,
        from: usize,
        len: usize,
    ) -> Result<Option<&[u8]>, StoreError> {
        let dbval = self.get(dbkey)?.map(|record| record.dbval);
        let dbval = dbval.filter(|dbval| crate::logic::record::version_of(dbval) == Some(version));
        Ok(dbval.and_then(|dbval| dbval.get(from..from.checked_add(len)?)))
    }

    /// A key's record, if it is over [`LARGE_BYTES`], to be told piece by piece whatever becomes of it here; `None`: it is not.
    fn large(&mut self, dbkey: &[u8]) -> Result<Option<(Stamp, Large)>, StoreError> {
        let record = self.get(dbkey)?.filter(|record| record.dbval.len() > LARGE_BYTES);
        Ok(record.map(|record| (record.stamp(), Large::in_memory(record.dbval.to_vec()))))
    }

    /// Begins a record whose dbval, of `val_len` bytes, comes in pieces.
    fn stage(&mut self, _key_len: usize, val_len: usize) -> Result<Staged, StoreError> {
        Ok(Staged::in_memory(val_len))
    }

    /// Stores a record that has come in pieces, all of them, with this version, over whatever is there. `dbkey` is as long as was said
    /// when it began. After an error nothing has changed.
    fn put_staged(
        &mut self,
        dbkey: &[u8],
        epoch: u64,
        version: ClockTime,
        staged: Staged,
    ) -> Result<Large, StoreError> {
        match staged.finish(version) {
            Ok(dbval) => staged::put_gathered(self, dbkey, epoch, dbval),
            Err(_) => Err(StoreError::Unusable("a record of another engine cannot be stored".to_owned())),
        }
    }

    /// Drops the record of a key without trace (it moved away, or is a mark past its time) if its stamp is `stamp`;
    /// true when it was dropped. It does not come back at the next open.
    fn forget(&mut self, dbkey: &[u8], stamp: Stamp) -> Result<bool, StoreError>;

    /// Hands everything staged to the operating system in one write, and asks for it to be synced where the store is
    /// so set. After an error, what was staged stays staged and is tried again by the next call.
    fn commit(&mut self) -> Result<Commit, StoreError>;

    /// Visits records, marks included, by ascending ring position: those at positions from `from` on, until at least
    /// `budget` were visited, whole steps at a time. Returns the position to go on from, or `None` at the end.
    /// Changes between calls may or may not be seen; what is there throughout is visited exactly once. Damaged
    /// records are passed to `visit` as errors.
    fn scan(&mut self, from: u64, budget: usize, visit: &mut ScanVisitor<'_>) -> Result<Option<u64>, StoreError> {
        self.scan_some(from, budget, &|_| true, visit)
    }

    /// The same for the ring positions that are `wanted`: others are passed over unread, which counts for little of the
    /// budget, so that a call may end with fewer visits.
    fn scan_some(
        &mut self,
        from: u64,
        budget: usize,
        wanted: &dyn Fn(u64) -> bool,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<Option<u64>, StoreError> {
        self.survey(from, budget, usize::MAX, wanted, visit)
    }

    /// The same, but an engine may tell a record whose dbval is over `whole` bytes when it has verified no more than its lengths, and without
    /// having read what is behind its beginning. Before anything is done about one, it is to be looked at with [`peek`](Shard::peek)
    /// or [`large`](Shard::large).
    fn survey(
        &mut self,
        from: u64,
        budget: usize,
        whole: usize,
        wanted: &dyn Fn(u64) -> bool,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<Option<u64>, StoreError>;

    /// Where the next change will stand among this shard's.
    fn position(&self) -> u64 {
        0
    }

    /// The dbkeys of records behind the last position that an earlier process has told to be stable
    /// ([`Store::note_stable`]). Told once. Empty where the engine does not know.
    fn take_unstable(&mut self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Number of records that are not deletion marks, exact, at no cost.
    fn items(&self) -> u64;

    /// Number of deletion marks.
    fn marks(&self) -> u64;

    /// Bytes of memory that the index of this shard takes; `None`: the engine does not tell.
    fn index_bytes(&self) -> Option<u64> {
        None
    }
}

/// What [`Shard::scan`] calls with each record: its dbkey and the record, or why it cannot be read.
pub type ScanVisitor<'v> = dyn FnMut(&[u8], Result<Record<'_>, StoreError>) + 'v;

/// What [`Store::maintain`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintained {
    /// Nothing was left to do: look again in a while.
    Idle,
    /// Did about a budget's worth; there may be more.
    Worked,
}

/// A directory of records.
pub trait Store: Send + Sync {
    /// One for each worker.
    fn shards(&self) -> &[Box<Mutex<dyn Shard>>];

    /// The random number made when the directory was: names this disk in epochs (doc/guarantees.md, "Names").
    fn disk_id(&self) -> u64;

    /// The directory, for the role's own small files beside the records.
    fn dir(&self) -> &Path;

    /// The disk that the directory is on.
    fn disk(&self) -> &dyn fs::Disk;

    /// The highest ticket of a shard that is durable.
    fn durable(&self, shard: usize) -> Ticket;

    /// Keeps in mind, for the next process, that the changes of a shard before a position
    /// ([`Shard::position`]) are on all servers that are to have them. A failure costs nothing but a longer report.
    fn note_stable(&self, _shard: usize, _position: u64) {}

    /// Sets what is called, from another thread, with the shard's number when its [`durable`](Store::durable) grew, and
    /// once more when a sync failed that it waited for: from then on, commits answer errors.
    fn on_durable(&self, call: Box<dyn Fn(usize) + Send + Sync>);

    /// A step of background work (compaction, hints): reads and writes about `budget_bytes`. Called again and again
    /// by a thread of the daemon's, or by the steps of a simulation; never by two at once.
    fn maintain(&self, budget_bytes: u64) -> Result<Maintained, StoreError>;

    /// How long each writer should wait between two batches, so that background work keeps up; zero nearly always.
    /// Writers that do not wait lose nothing, but the disk may then hold more garbage than it should.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    /// Makes a copy at `dst` that holds, for each shard, all that was committed when it was made; `dst` must not
    /// exist, and appears complete or not at all. Serving goes on meanwhile. Blocking: call it from a thread of its own.
    fn backup(&self, dst: &Path) -> Result<(), StoreError>;

    /// The same, but without what the backup `since`, a directory beside it, has already; gives its bytes. The two together are
    /// read by [`merge`]; by itself it is no store.
    fn backup_since(&self, dst: &Path, _since: &Path) -> Result<u64, StoreError> {
        Err(StoreError::Unusable(format!("{} is not made: this engine makes whole backups only", dst.display())))
    }

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;

    /// What was found damaged since opening, for reports: a line each.
    fn damage(&self) -> Vec<String>;

    /// Makes everything durable and releases the directory. Called once, after the last use.
    fn close(&self) -> Result<(), StoreError>;

    /// Number of records that are not deletion marks.
    fn items(&self) -> u64 {
        self.shards().iter().map(|s| s.lock().expect("no holder of a shard panics").items()).sum()
    }
}
