//! The thread that makes writes durable: one flush for all that wait.
//!
//! sled buffers writes in memory; only a blocking `flush` makes them survive the death of the process (its
//! asynchronous one can wait for itself for ever). While a flush runs, commits gather for the next. [`super::horizon`]
//! remembers how far that went.
//!
//! Invariant: a ticket becomes durable only by a flush that began after it was given out.

use super::horizon::Horizon;
use super::{guarded, io_error};
use crate::store::{StoreError, Ticket};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{JoinHandle, Thread};

type Callback = Arc<dyn Fn(usize) + Send + Sync>;

/// What the shards, the store and the flusher's thread share.
pub struct Flusher {
    /// The last ticket given out, for each shard.
    wanted: Box<[AtomicU64]>,
    /// The last ticket that is durable, for each shard.
    durable: Box<[AtomicU64]>,
    on_durable: Mutex<Option<Callback>>,
    thread: OnceLock<Thread>,
    stop: AtomicBool,
    /// Why nothing can be written any more.
    failure: OnceLock<String>,
    space: Space,
}

/// Watches the room on the device: sled never recovers from a write that found none, so it must not come to that.
struct Space {
    dir: PathBuf,
    reserve_bytes: u64,
    full: AtomicBool,
}

impl Space {
    /// Looks again; true when there is too little room.
    fn measure(&self) -> bool {
        // What cannot be measured is left to the next write to find out.
        let full = free_bytes(&self.dir).is_ok_and(|free| free < self.reserve_bytes);
        self.full.store(full, Ordering::Relaxed);
        full
    }
}

/// Bytes that we may still write to the file system of a directory.
fn free_bytes(dir: &std::path::Path) -> std::io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a NUL, and the struct is ours to be written.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a successful call has filled it.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes everything of a directory's file system to the device, its caches included: sled keeps large values in
/// files of their own, which it never syncs.
fn sync_file_system(dir: &File) -> std::io::Result<()> {
    // SAFETY: the descriptor is open as long as `dir` is borrowed.
    match unsafe { libc::syncfs(dir.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics: they only copy a pointer")
}

impl Flusher {
    /// For a store in `dir`; writes are refused while fewer than `reserve_bytes` are free.
    pub fn new(shards: usize, dir: PathBuf, reserve_bytes: u64) -> Arc<Flusher> {
        let zeros = || (0..shards).map(|_| AtomicU64::new(0)).collect();
        let flusher = Flusher {
            wanted: zeros(),
            durable: zeros(),
            on_durable: Mutex::new(None),
            thread: OnceLock::new(),
            stop: AtomicBool::new(false),
            failure: OnceLock::new(),
            space: Space { dir, reserve_bytes, full: AtomicBool::new(false) },
        };
        flusher.space.measure();
        Arc::new(flusher)
    }

    /// Starts the thread, which numbers its flushes by `horizon` and gives that back when it ends. With `sync`, each
    /// flush also waits for the device.
    pub fn start(
        self: &Arc<Self>,
        db: Arc<sled::Db>,
        mut horizon: Horizon,
        sync: Option<File>,
    ) -> Result<JoinHandle<Horizon>, StoreError> {
        let this = self.clone();
        let body = move || {
            this.run(&db, &mut horizon, sync.as_ref());
            horizon
        };
        let spawned = std::thread::Builder::new().name("sled flush".to_owned()).spawn(body);
        let handle = spawned.map_err(|e| io_error("starting the flush thread for", &self.space.dir, e))?;
        // Set once: a flusher is started once.
        let _ = self.thread.set(handle.thread().clone());
        Ok(handle)
    }

    fn run(&self, db: &sled::Db, horizon: &mut Horizon, sync: Option<&File>) {
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            let wanted: Vec<Ticket> = self.wanted.iter().map(|w| w.load(Ordering::Acquire)).collect();
            let waiting = wanted.iter().zip(&self.durable).any(|(w, d)| *w > d.load(Ordering::Relaxed));
            if !waiting {
                if stopping {
                    return;
                }
                std::thread::park();
                continue;
            }
            if let Err(e) = self.flush(db, horizon, sync) {
                // sled refuses everything after a failed write. Whoever waits is woken, and learns it from `check`.
                let _ = self.failure.set(e.to_string());
                (0..wanted.len()).for_each(|shard| self.tell(shard));
                return;
            }
            self.space.measure();
            for (shard, ticket) in wanted.into_iter().enumerate() {
                if self.durable[shard].swap(ticket, Ordering::AcqRel) < ticket {
                    self.tell(shard);
                }
            }
        }
    }

    fn flush(&self, db: &sled::Db, horizon: &mut Horizon, sync: Option<&File>) -> Result<(), StoreError> {
        horizon.begin()?;
        guarded("flushing", &self.space.dir, || db.flush())?;
        if let Some(dir) = sync {
            sync_file_system(dir).map_err(|e| io_error("syncing", &self.space.dir, e))?;
        }
        horizon.reached(sync.is_some())
    }

    fn tell(&self, shard: usize) {
        let callback = locked(&self.on_durable).clone();
        if let Some(call) = callback {
            call(shard);
        }
    }

    /// Asks for a ticket of a shard to become durable.
    pub fn want(&self, shard: usize, ticket: Ticket) {
        self.wanted[shard].store(ticket, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The highest durable ticket of a shard.
    pub fn durable(&self, shard: usize) -> Ticket {
        self.durable[shard].load(Ordering::Acquire)
    }

    /// Sets what is called when a shard's durable ticket grew, or nothing can become durable any more.
    pub fn on_durable(&self, call: Callback) {
        *locked(&self.on_durable) = Some(call);
    }

    /// Why nothing can be written any more, if so.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            None => Ok(()),
            Some(why) => Err(io_error("writing", &self.space.dir, std::io::Error::other(format!("earlier, {why}")))),
        }
    }

    /// Whether more may be written.
    pub fn check_space(&self) -> Result<(), StoreError> {
        if self.space.full.load(Ordering::Relaxed) && self.space.measure() {
            return Err(StoreError::Full(self.space.dir.clone()));
        }
        Ok(())
    }

    /// Lets the thread end when nothing is waiting any more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
