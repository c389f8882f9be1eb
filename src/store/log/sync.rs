//! Waiting for the disk: commits get tickets, and one round of syncs serves all that wait.

use crate::store::{StoreError, Ticket};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, RwLock};

type Call = Box<dyn Fn(usize) + Send + Sync>;

#[derive(Default)]
struct Wanted {
    round: bool,
    stop: bool,
}

/// The tickets of all shards.
pub struct Syncing {
    written: Vec<AtomicU64>,
    durable: Vec<AtomicU64>,
    wanted: Mutex<Wanted>,
    wake: Condvar,
    broken: Mutex<Option<String>>,
    call: RwLock<Option<Call>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

impl Syncing {
    /// For so many shards.
    pub fn new(shards: u16) -> Syncing {
        let zeros = || (0..shards).map(|_| AtomicU64::new(0)).collect();
        Syncing {
            written: zeros(),
            durable: zeros(),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            broken: Mutex::default(),
            call: RwLock::default(),
        }
    }

    /// Everything up to `ticket` of a shard is written, and waits for the disk.
    pub fn request(&self, shard: u16, ticket: Ticket) {
        self.written[usize::from(shard)].store(ticket, Ordering::Release);
        held(&self.wanted).round = true;
        self.wake.notify_one();
    }

    /// The highest durable ticket of a shard.
    pub fn durable(&self, shard: usize) -> Ticket {
        self.durable.get(shard).map_or(0, |d| d.load(Ordering::Acquire))
    }

    /// Sets what is called when a shard's durable ticket grew, or will not grow any more.
    pub fn on_durable(&self, call: Call) {
        *self.call.write().expect("nothing panics while it holds this") = Some(call);
    }

    /// One round: `sync_all` syncs all that is written; false when nothing waited for it.
    pub fn round(&self, sync_all: impl FnOnce() -> Result<(), StoreError>) -> Result<bool, StoreError> {
        let written: Vec<Ticket> = self.written.iter().map(|w| w.load(Ordering::Acquire)).collect();
        let waits = |shard: &usize| written[*shard] > self.durable(*shard);
        let shards: Vec<usize> = (0..written.len()).filter(waits).collect();
        if shards.is_empty() {
            return Ok(false);
        }
        let done = sync_all();
        for shard in shards.iter().filter(|_| done.is_ok()) {
            self.durable[*shard].fetch_max(written[*shard], Ordering::AcqRel);
        }
        // Those who wait look again after a failure, too, and find it.
        if let Some(call) = self.call.read().expect("nothing panics while it holds this").as_ref() {
            shards.into_iter().for_each(call);
        }
        done.map(|()| true)
    }

    /// Sleeps until a round is wanted; false when it is time to end.
    pub fn wait(&self) -> bool {
        let mut wanted = held(&self.wanted);
        while !wanted.round && !wanted.stop {
            wanted = self.wake.wait(wanted).expect("nothing panics while it holds this");
        }
        wanted.round = false;
        !wanted.stop
    }

    /// Ends [`wait`](Syncing::wait)ing.
    pub fn stop(&self) {
        held(&self.wanted).stop = true;
        self.wake.notify_all();
    }

    /// A sync failed. What it should have made durable may be lost although a later sync succeeds, so there is no way
    /// on but to start again from what is on the disk.
    pub fn set_broken(&self, error: &StoreError) {
        held(&self.broken).get_or_insert_with(|| error.to_string());
    }

    /// An error when a sync failed.
    pub fn check(&self) -> Result<(), StoreError> {
        match held(&self.broken).as_ref() {
            None => Ok(()),
            Some(what) => {
                let context = "the disk lost writes; check it and start again".to_owned();
                Err(StoreError::Io { context, source: io::Error::other(what.clone()) })
            }
        }
    }
}
