//! The engine for key sets that outgrow memory: records in a sled 0.34 tree.
//!
//! All shards share one tree under `DIR/sled`, in the order of the dbkeys, which is that of ring positions. sled
//! keeps what it read and wrote lately in a cache of bounded size; the log engine is faster, smaller on disk and
//! should be preferred while its index fits into memory.
//!
//! What sled needs from us:
//! - Its writes survive the death of the process only after a blocking flush: see `flusher`, and acknowledge only
//!   what [`Store::durable`] has reached.
//! - A process killed while sled writes a snapshot leaves a `snap.*.generating` behind, on which its next opening
//!   fails: such files are removed first. One killed while sled makes its first files leaves them half-made: so they
//!   are made under another name.
//! - It takes damage in the middle of its log for the end, and drops what follows: see `horizon`.
//! - It counts nothing: opening reads all records once to count them (about three seconds for each million).
//! - It recovers from no write error, so puts are refused while the device is almost full, and any other failed
//!   write makes all later ones fail until the store is opened again.
//! - It may panic on damaged files: see `guarded`.
//!
//! **Loss of power.** Without `sync`, it can cost what was acknowledged since sled's last fsync, every
//! [`FSYNC_INTERVAL_MS`], and any value above about 100 kB that the system had not written yet (sled keeps those in
//! files of their own, which it never syncs). sled also uses freed segments again once their contents were handed to
//! the device, without waiting for the device's cache: if power fails just then, older records or the whole tree can be
//! unreadable, with `sync` too, though it then needs a device that reorders what it was given between two syncs. A
//! replica that cannot be opened is filled again by the others; who cannot rely on those being powered otherwise
//! should use the log engine with `sync`. Flushes that were lost are told in [`Store::damage`].
//!
//! **Damage.** Each record has a checksum of its own (`record`), beside those that sled has for its pages. A page that
//! fails sled's is reported, like a record, for each key in it that is asked for, but cannot be written over: the
//! directory must be set aside and filled by replicas.

mod backup;
mod flusher;
mod horizon;
pub mod outside;
mod record;
mod shard;

use super::identity::{Directory, sync_directory};
use super::{Maintained, Shard, Store, StoreError, Ticket};
use crate::logic::record::{dbkey_hash, worker_of};
use flusher::Flusher;
use horizon::Horizon;
use shard::{Counts, SledShard};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The engine's name in `-s` and in the identity file.
pub const ENGINE: &str = "sled";
/// sled's own thread collects garbage and syncs its file this often.
pub const FSYNC_INTERVAL_MS: u64 = 500;
/// sled's files.
const TREE_DIR: &str = "sled";
/// sled's files while they are made.
const NEW_TREE_DIR: &str = "sled.new";
/// How long a closed tree's last threads may hold its file.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);
/// Lines that [`Store::damage`] keeps.
const MAX_DAMAGE_LINES: usize = 1000;

/// How a store is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Acknowledge only what the device has.
    pub sync: bool,
    /// Size of sled's cache. The process needs about twice as much.
    pub cache_bytes: u64,
    /// Refuse to store while the device has less room than this.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { sync: false, cache_bytes: 256 << 20, reserve_bytes: 64 << 20 }
    }
}

/// A directory with a sled tree in it.
pub struct SledStore {
    dir: PathBuf,
    disk_id: u64,
    shards: Vec<Box<Mutex<dyn Shard>>>,
    flusher: Arc<Flusher>,
    damage: Arc<Damage>,
    /// `None` once closed.
    open: Mutex<Option<Open>>,
}

/// What closing gives up.
struct Open {
    /// The only lasting reference; shards borrow it for a call.
    db: Arc<sled::Db>,
    thread: JoinHandle<Horizon>,
    directory: Directory,
}

/// What was found damaged.
struct Damage {
    file: PathBuf,
    lines: Mutex<BTreeSet<String>>,
}

impl Damage {
    /// Notes a damaged record and makes the error that says so. sled does not tell where in its file a record is.
    fn report(&self, dbkey: &[u8]) -> StoreError {
        let mut lines = self.lines.lock().expect("no holder panics");
        if lines.len() < MAX_DAMAGE_LINES {
            let key = dbkey.get(8..).unwrap_or_default();
            lines.insert(format!("damaged record in {}: key {}", self.file.display(), key.escape_ascii()));
        }
        StoreError::Damaged { file: self.file.clone(), offset: 0 }
    }
}

fn io_error(doing: &str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(path.to_owned()),
        _ => StoreError::Io { context: format!("{doing} {}", path.display()), source },
    }
}

/// Runs a call of sled's. It may panic on damaged files, where the process must live on and report: a panic in it
/// becomes an error. Nothing of ours is half-changed then, since every call is the last step of an operation.
fn guarded<T>(doing: &str, dir: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let gave_up = || io_error(doing, dir, io::Error::other("sled gave up; set the directory aside and fill a new one"));
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| gave_up())?.map_err(|e| match e {
        sled::Error::Io(source) => io_error(doing, dir, source),
        sled::Error::Corruption { .. } => StoreError::Damaged { file: dir.join("db"), offset: 0 },
        other => io_error(doing, dir, io::Error::other(other.to_string())),
    })
}

/// Opens sled's files.
fn open_tree(dir: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    remove_unfinished_snapshots(dir).map_err(|e| io_error("clearing up", dir, e))?;
    let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(Some(FSYNC_INTERVAL_MS));
    let give_up = Instant::now() + CLOSING_PATIENCE;
    loop {
        match guarded("opening", dir, || config.open()) {
            // The directory is ours; so this is a tree of this process, or one just killed, that is not quite gone.
            Err(StoreError::Io { source, .. })
                if source.to_string().contains("could not acquire lock") && Instant::now() < give_up =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// sled takes a snapshot that it was killed in for its newest.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().ends_with(b".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes sled's files under another name first: what a killed process leaves half-made is made anew.
fn make_tree(dir: &Path) -> Result<(), StoreError> {
    let (new, tree) = (dir.join(NEW_TREE_DIR), dir.join(TREE_DIR));
    if tree.exists() {
        return Ok(());
    }
    remove_dir(&new)?;
    let db = open_tree(&new, Options::default().cache_bytes)?;
    guarded("flushing", &new, || db.flush())?;
    drop(db);
    sync_tree(&new)?;
    fs::rename(&new, &tree).map_err(|e| io_error("making", &tree, e))?;
    sync_directory(dir)
}

fn remove_dir(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", path, e)),
        _ => Ok(()),
    }
}

/// Makes sled's files survive the loss of power.
fn sync_tree(dir: &Path) -> Result<(), StoreError> {
    let sync = |file: &Path| File::open(file).and_then(|f| f.sync_all()).map_err(|e| io_error("syncing", file, e));
    for_each_file(dir, &mut |file, _| sync(file))?;
    sync(&dir.join("blobs"))?;
    sync_directory(dir)
}

/// Calls `each` for all files below a directory of sled's, which may come and go meanwhile.
fn for_each_file(
    dir: &Path,
    each: &mut dyn FnMut(&Path, fs::Metadata) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, e))? {
        let entry = entry.map_err(|e| io_error("listing", dir, e))?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => for_each_file(&entry.path(), each)?,
            Ok(meta) => each(&entry.path(), meta)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("looking at", &entry.path(), e)),
        }
    }
    Ok(())
}

/// Reads all records and counts those of each shard.
fn count(db: &sled::Db, dir: &Path, shards: u16) -> Result<Vec<Counts>, StoreError> {
    let mut counts = vec![Counts::default(); usize::from(shards)];
    let mut records = db.iter();
    while let Some((dbkey, stored)) = guarded("counting", dir, || records.next().transpose())? {
        if let Some(hash) = dbkey_hash(&dbkey) {
            counts[usize::from(worker_of(hash, shards))].add(&stored);
        }
    }
    Ok(counts)
}

impl SledStore {
    /// Opens the store in `dir`, or makes a new one, with `shards` shards (at least 1). Reads every record once.
    ///
    /// Errors: [`StoreError::Unusable`] with words for the operator, [`StoreError::Io`], [`StoreError::Full`].
    pub fn open(dir: &Path, shards: u16, options: Options) -> Result<SledStore, StoreError> {
        let directory = Directory::open(dir, ENGINE)?;
        SledStore::open_in(directory, shards.max(1), options).map_err(|e| match e {
            StoreError::Damaged { .. } => StoreError::Unusable(format!(
                "{} is damaged beyond what sled can repair: set it aside and let its replicas fill a new one",
                dir.display()
            )),
            other => other,
        })
    }

    fn open_in(directory: Directory, shards: u16, options: Options) -> Result<SledStore, StoreError> {
        let dir = directory.path();
        make_tree(dir)?;
        let tree_dir = dir.join(TREE_DIR);
        let db = Arc::new(open_tree(&tree_dir, options.cache_bytes)?);
        let counts = count(&db, &tree_dir, shards)?;
        let flusher = Flusher::new(usize::from(shards), dir.to_owned(), options.reserve_bytes);
        let sync = match options.sync {
            true => Some(File::open(dir).map_err(|e| io_error("opening", dir, e))?),
            false => None,
        };
        let (horizon, lost) = Horizon::open(&db, dir)?;
        let thread = flusher.start(db.clone(), horizon, sync)?;
        let damage = Arc::new(Damage { file: tree_dir.join("db"), lines: Mutex::new(lost.into_iter().collect()) });
        let shard = |(number, counts)| {
            let place = (number, shards);
            let db = Arc::downgrade(&db);
            SledShard::new(db, tree_dir.clone(), place, counts, flusher.clone(), damage.clone())
        };
        let shards = counts.into_iter().enumerate().map(shard);
        Ok(SledStore {
            dir: dir.to_owned(),
            disk_id: directory.disk_id(),
            shards: shards.map(|shard| Box::new(Mutex::new(shard)) as Box<Mutex<dyn Shard>>).collect(),
            flusher,
            damage,
            open: Mutex::new(Some(Open { db, thread, directory })),
        })
    }

    fn opened(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().expect("no holder panics: sled's calls are guarded")
    }

    /// The tree, unless the store is closed.
    fn db(&self) -> Result<Arc<sled::Db>, StoreError> {
        let closed = || io_error("using", &self.dir, io::Error::other("the store is closed"));
        self.opened().as_ref().map(|open| open.db.clone()).ok_or_else(closed)
    }
}

impl Store for SledStore {
    fn shards(&self) -> &[Box<Mutex<dyn Shard>>] {
        &self.shards
    }

    fn disk_id(&self) -> u64 {
        self.disk_id
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn disk(&self) -> &dyn crate::store::fs::Disk {
        &crate::store::fs::RealDisk
    }

    fn durable(&self, shard: usize) -> Ticket {
        self.flusher.durable(shard)
    }

    /// It is also called when nothing can become durable any more, so that who waits calls `commit` and is told.
    fn on_durable(&self, call: Box<dyn Fn(usize) + Send + Sync>) {
        self.flusher.on_durable(call.into());
    }

    /// Nothing to do: sled collects its garbage itself.
    fn maintain(&self, _budget_bytes: u64) -> Result<Maintained, StoreError> {
        Ok(Maintained::Idle)
    }

    /// Copies all records into a new tree: this takes about as long as storing them all again, and as much room as a
    /// fresh store of them.
    fn backup(&self, dst: &Path) -> Result<(), StoreError> {
        backup::copy(self.db()?.as_ref(), &self.dir.join(TREE_DIR), dst)
    }

    fn disk_bytes(&self) -> u64 {
        let mut bytes = 0;
        // A directory that cannot be listed any more shows in every other call.
        let _ = for_each_file(&self.dir, &mut |_, meta| {
            bytes += meta.len();
            Ok(())
        });
        bytes
    }

    fn damage(&self) -> Vec<String> {
        self.damage.lines.lock().expect("no holder panics").iter().cloned().collect()
    }

    fn close(&self) -> Result<(), StoreError> {
        let Some(Open { db, thread, directory }) = self.opened().take() else { return Ok(()) };
        self.flusher.stop();
        let ended = thread.join();
        let tree_dir = self.dir.join(TREE_DIR);
        let flushed = guarded("flushing", &tree_dir, || db.flush())
            .and_then(|_| self.flusher.check())
            .and_then(|()| sync_tree(&tree_dir));
        let panicked = |_| io_error("flushing", &self.dir, io::Error::other("the flush thread panicked"));
        let settled = ended.map_err(panicked).and_then(|horizon| flushed.and_then(|()| horizon.reached_for_good()));
        drop(db);
        // Calls that had begun before are over when their shards have been locked once.
        for shard in &self.shards {
            drop(shard.lock());
        }
        drop(directory);
        settled
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // Who wants to know of errors has called it before.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests;
