//! The log engine: after Bitcask (Sheehy and Smith, 2010), sharded by worker.
//!
//! Records are appended to segments; an index in memory says where the newest record of each key lies. What is in the
//! files, to the byte: `doc/format.md`. Invariants:
//!
//! * bytes once written never change, and a segment is removed only when what replaces its records is durable;
//! * of several records of a key the one with the highest log sequence number counts, wherever it lies;
//! * no record is served whose checksum fails.
//!
//! Bounds, tested small and measured at size by `examples/log_store.rs`: the index takes at most 48 bytes a key (and
//! opening a fifth more for a while); the disk holds at most 1.5 times the dbkeys and dbvals that are live, if
//! [`Store::maintain`] is called and [`Store::pace`] heeded, and beyond that [`Options::garbage_bytes`] and 2 MiB a
//! shard; staged records take 1 MiB a shard, or one record.
//!
//! When the device is full, commits answer [`StoreError::Full`]: what was staged stays staged, is seen by reads, and is
//! written by the next commit that succeeds; further puts are refused meanwhile. So a store that was refused may still
//! come to be, which is what "failed means unknown" allows. Some room is kept for compaction. After a failed sync
//! nothing is acknowledged any more until the store is opened again.
//!
//! Reading order: [`mod@format`] (the bytes), `segment`, `index`, `shard` (get and put), `open`, `hint` and `walk`
//! (what a crash leaves), `compact` and `plan` (background), `sync` (waiting for the disk), `backup`.

mod backup;
mod compact;
mod core;
pub mod format;
pub mod fresh;
mod hint;
pub mod identity;
pub mod increment;
mod index;
pub(super) mod large;
mod open;
mod plan;
pub mod read;
mod segment;
mod shard;
mod stable;
mod sync;
mod walk;

#[cfg(test)]
mod tests;

pub use shard::LogShard;

use self::core::Core;
use super::fs::Disk;
use super::{Maintained, Shard, Store, StoreError, Ticket};
use compact::Maintenance;
use segment::Segment;
use stable::{Positions, Stable};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Largest [`Options::segment_bytes`]: offsets in a segment are 32 bits.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 31;
/// Small stores have segments of this size, in bytes, unless [`Options::segment_bytes`] is less.
const MIN_SEGMENT_BYTES: u64 = 1 << 20;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of shards: one for each worker thread; at least one.
    pub shards: u16,
    /// A commit is durable when the disk has it, not already when the operating system has it.
    pub sync: bool,
    /// With `sync`: whether a thread of the store's own does the syncing; otherwise call [`LogStore::sync_step`].
    pub sync_thread: bool,
    /// Largest size of a segment in bytes, unless one record is larger; at most [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Bytes of garbage that are left alone, so that little data that is overwritten often is not copied all the time:
    /// what stays alive in a segment gets less the longer it waits. Less than that where little is free.
    pub garbage_bytes: u64,
    /// Threads that opening uses.
    pub open_threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        let open_threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            shards: 1,
            sync: false,
            sync_thread: true,
            segment_bytes: 128 << 20,
            garbage_bytes: 256 << 20,
            open_threads,
        }
    }
}

impl Options {
    fn min_segment_bytes(&self) -> u64 {
        self.segment_bytes.min(MIN_SEGMENT_BYTES)
    }
}

/// A store of the log engine.
pub struct LogStore {
    core: Arc<Core>,
    stable: Arc<Stable>,
    shards: Vec<Box<Mutex<dyn Shard>>>,
    maintenance: Mutex<Maintenance>,
    /// Backups under way: while there are any, no segment is removed.
    pins: AtomicUsize,
    sync_thread: Mutex<Option<JoinHandle<()>>>,
}

impl LogStore {
    /// Opens the directory `dir`, making it if there is none. [`StoreError::Unusable`] when it is not a store, or in
    /// use, or not to be read: the text says what to do.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<LogStore, StoreError> {
        let shards = options.shards.max(1);
        let segment_bytes = options.segment_bytes.clamp(shard::LEAST_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let options = Options { shards, segment_bytes, ..options };
        let (disk_id, lock) = identity::take(disk.as_ref(), dir)?;
        let core = Arc::new(Core::new(disk, dir.to_owned(), options, disk_id, lock));
        let known = stable::read(core.disk.as_ref(), dir);
        let shards = open::load(&core, known.as_ref())?;
        let positions = match known {
            Some(known) => known.for_shards(core.options.shards),
            None => Positions::new(shards.iter().map(LogShard::next_lsn).collect()),
        };
        let stable = Arc::new(Stable::begin(core.disk.as_ref(), dir, positions)?);
        let boxed = |shard| Box::new(Mutex::new(shard)) as Box<Mutex<dyn Shard>>;
        let store = LogStore {
            core,
            stable,
            shards: shards.into_iter().map(boxed).collect(),
            maintenance: Mutex::default(),
            pins: AtomicUsize::new(0),
            sync_thread: Mutex::new(None),
        };
        if store.core.options.sync && store.core.options.sync_thread {
            store.start_sync_thread()?;
        }
        Ok(store)
    }

    fn start_sync_thread(&self) -> Result<(), StoreError> {
        let (core, stable) = (self.core.clone(), self.stable.clone());
        let run = move || {
            while core.sync.wait() {
                // A failure shows at the next commit.
                let _ = sync_round(&core, &stable);
            }
        };
        let thread = std::thread::Builder::new()
            .name("kumo-sync".to_owned())
            .spawn(run)
            .map_err(|source| StoreError::Io { context: "cannot start the thread that syncs".to_owned(), source })?;
        *self.held_sync_thread() = Some(thread);
        Ok(())
    }

    fn held_sync_thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.sync_thread.lock().expect("nothing panics while it holds this")
    }

    fn stop_sync_thread(&self) {
        self.core.sync.stop();
        if let Some(thread) = self.held_sync_thread().take() {
            // It ends by itself; that it panicked would be told by the panic.
            let _ = thread.join();
        }
    }

    /// Syncs what waits for it, where there is no thread that does; false when nothing waited.
    pub fn sync_step(&self) -> Result<bool, StoreError> {
        sync_round(&self.core, &self.stable)
    }

    /// Bytes of memory that the index takes.
    pub fn index_bytes(&self) -> usize {
        (0..self.shard_count()).map(|shard| self.with_shard(shard, |s| s.index().memory_bytes())).sum()
    }

    fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Whether a segment may hold records of a shard.
    fn may_hold(&self, shard: usize, segment: &Segment) -> bool {
        usize::from(segment.head.shards) != self.shard_count() || usize::from(segment.head.shard) == shard
    }

    /// Locks a shard for a moment.
    fn with_shard<T>(&self, shard: usize, act: impl FnOnce(&mut LogShard) -> T) -> T {
        let mut guard = self.shards[shard].lock().expect("no holder of a shard panics");
        let shard: &mut dyn Any = &mut *guard;
        act(shard.downcast_mut().expect("the shards of a log store are log shards"))
    }

    fn maintenance(&self) -> MutexGuard<'_, Maintenance> {
        self.maintenance.lock().expect("no step of maintenance panics")
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.stop_sync_thread();
    }
}

impl Store for LogStore {
    fn shards(&self) -> &[Box<Mutex<dyn Shard>>] {
        &self.shards
    }

    fn disk_id(&self) -> u64 {
        self.core.disk_id
    }

    fn dir(&self) -> &Path {
        &self.core.dir
    }

    fn disk(&self) -> &dyn Disk {
        self.core.disk.as_ref()
    }

    fn durable(&self, shard: usize) -> Ticket {
        self.core.sync.durable(shard)
    }

    fn note_stable(&self, shard: usize, position: u64) {
        if let Err(e) = self.stable.note(self.core.disk.as_ref(), shard as u16, position) {
            tracing::debug!("cannot note what is stable: {e}");
        }
    }

    fn on_durable(&self, call: Box<dyn Fn(usize) + Send + Sync>) {
        self.core.sync.on_durable(call);
    }

    fn maintain(&self, budget_bytes: u64) -> Result<Maintained, StoreError> {
        let result = self.maintenance().run(self, budget_bytes);
        self.core.update_pace();
        result
    }

    fn pace(&self) -> Duration {
        self.core.pace()
    }

    fn backup(&self, dst: &Path) -> Result<(), StoreError> {
        backup::backup(self, dst, None).map(drop)
    }

    fn backup_since(&self, dst: &Path, since: &Path) -> Result<u64, StoreError> {
        backup::backup(self, dst, Some(since))
    }

    fn disk_bytes(&self) -> u64 {
        self.core.segments().iter().map(|s| s.len() + s.hint_len()).sum()
    }

    fn damage(&self) -> Vec<String> {
        self.core.damage()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.stop_sync_thread();
        let mut maintenance = self.maintenance();
        for shard in 0..self.shard_count() {
            self.with_shard(shard, |s| s.roll())?;
        }
        maintenance.finish(self)?;
        sync_round(&self.core, &self.stable)?;
        self.core.unlock();
        Ok(())
    }
}

/// Syncs what waits for it, and what is known to be everywhere; false when nothing waited. That the latter fails costs a
/// longer report after a loss of power, and no more.
fn sync_round(core: &Core, stable: &Stable) -> Result<bool, StoreError> {
    let synced = core.sync.round(|| core.sync_all())?;
    if synced && let Err(e) = stable.sync() {
        tracing::debug!("cannot sync what is stable: {e}");
    }
    Ok(synced)
}

/// A segment's files: the log, which is there, and the hint, which may be.
fn files_of(segment: &Segment) -> [PathBuf; 2] {
    [segment.path.clone(), segment.hint_path()]
}
