//! What the gateway daemon does: listens, keeps in touch with the managers, hands clients to workers, stops.

use super::cache;
use super::downloads::DOWNLOAD_BYTES;
use super::prefixes::Prefixes;
use super::stats::{Baseline, Counters, Places};
use super::value::Layout;
use super::view::View;
use super::worker::{self, Mail, Shared};
use super::{holdings, managers};
use crate::daemon::binlog::BinaryLog;
use crate::daemon::cache_spec::CacheSpec;
use crate::daemon::options::Serving;
use crate::logic::address::Address;
use crate::net::chance::random_u64;
use crate::net::cores::Cores;
use crate::net::front::Front;
use crate::net::listen;
use crate::net::pipe::Doors;
use crate::net::time::Instant;
use crate::proto::memcache::Limits;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long stopping waits for what is under way.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long stopping waits for one more client that has connected already.
const LAST_CLIENTS: Duration = Duration::from_millis(1);

/// See [`Config::unread_bytes`]: as much as a worker may have of large values, and as much again of others.
const UNREAD_BYTES: usize = 2 * DOWNLOAD_BYTES;

/// What the operator asked for (`doc/guide.md`, "kumo-gateway").
#[derive(Clone, Debug)]
pub struct Config {
    /// The managers (`-m`, `-p`).
    pub managers: Vec<Address>,
    /// What clients may send (`--max-value`).
    pub limits: Limits,
    /// How values are stored (`-F`, `-E`).
    pub layout: Layout,
    /// Retries of a get, after what [`super::retry`] grants to all (`-G`).
    pub get_retry: u32,
    /// Retries of a change (`-S`).
    pub set_retry: u32,
    /// Retries of a delete (`-D`).
    pub delete_retry: u32,
    /// Refusals until the managers are asked for the hash space (`-rn`).
    pub renew_threshold: u32,
    /// Stores are acknowledged before all replicas have them (`-As`).
    pub async_set: bool,
    /// Deletes are acknowledged before all replicas have them (`-Ad`).
    pub async_delete: bool,
    /// How much is cached (`-lc`).
    pub local_cache: cache::Limits,
    /// Put before every key (`-k`).
    pub key_prefix: Vec<u8>,
    /// How long a connection to a server or manager may take (`-Ys`).
    pub connect_timeout: Duration,
    /// Where failures are written down for programs (`-g`).
    pub binary_log: BinaryLog,
    /// Bytes of answers that the clients of a worker may leave unread, all together, before those are closed that have taken
    /// nothing for the longest.
    pub unread_bytes: usize,
    /// Bytes of large values that a worker may have at once for its clients, until they have read them. One value may exceed it.
    pub download_bytes: usize,
    /// Servers in this process.
    pub doors: Arc<Doors>,
}

impl Config {
    /// As `options` say, and for the rest as usual.
    pub fn serving(options: &Serving) -> Config {
        // More than there are addresses is as much as there are.
        let clamped = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let cached =
            |spec: &CacheSpec| cache::Limits { bytes: clamped(spec.bytes), least_value: clamped(spec.least_value) };
        Config {
            layout: Layout { flags: options.memproto_save_flag, expire: options.memproto_save_expire },
            async_set: options.async_replicate_set,
            async_delete: options.async_replicate_delete,
            local_cache: options.local_cache.as_ref().map_or(cache::Limits::OFF, cached),
            ..Config::default()
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            managers: Vec::new(),
            limits: Limits::default(),
            layout: Layout::default(),
            get_retry: 5,
            set_retry: 20,
            delete_retry: 20,
            renew_threshold: 4,
            async_set: false,
            async_delete: false,
            local_cache: cache::Limits::OFF,
            key_prefix: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            binary_log: BinaryLog::default(),
            unread_bytes: UNREAD_BYTES,
            download_bytes: DOWNLOAD_BYTES,
            doors: Arc::default(),
        }
    }
}

/// Serves clients that come in by `fronts` until `shutdown` becomes true (or its sender is gone), then answers what
/// is under way, for at most [`DRAIN_LIMIT`]. To be awaited in an event loop of [`crate::net::cores::event_loop`]; the
/// clients are served by the workers of `cores`.
///
/// # Errors
/// When the system gives no random numbers.
pub async fn run(
    mut config: Config,
    fronts: Vec<Front>,
    cores: Arc<Cores>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let incarnation = random_u64()?;
    let room = Limits::KEY_BYTES.saturating_sub(config.key_prefix.len());
    config.limits.key_bytes = config.limits.key_bytes.min(room);
    let (requests, for_managers) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        config,
        incarnation,
        newest: watch::Sender::new(Arc::new(View::default())),
        requests,
        counters: (0..cores.count()).map(|_| Arc::new(Counters::default())).collect(),
        holdings: holdings::Newest::default(),
        baseline: Baseline::default(),
        prefixes: Prefixes::new(cores.count()),
        places: Places::of(&fronts),
        started: Instant::now(),
    });
    let (working, mut all_ended) = mpsc::channel::<()>(1);
    let mut mailboxes = Vec::new();
    for number in 0..cores.count() {
        let (sender, mail) = mpsc::unbounded_channel();
        mailboxes.push(sender);
        let (shared, working) = (shared.clone(), working.clone());
        cores.run_on(number, move || {
            tokio::task::spawn_local(async move {
                worker::run(number as u16, shared, mail).await;
                drop(working);
            });
        });
    }
    drop(working);
    let managers = tokio::task::spawn_local(managers::run(shared.clone(), for_managers));
    let mailboxes = Rc::new(mailboxes);
    let turn = Rc::new(Cell::new(0));
    let accepting: Vec<_> = fronts
        .into_iter()
        .map(|front| tokio::task::spawn_local(accept(front, mailboxes.clone(), turn.clone(), shutdown.clone())))
        .collect();
    // An error means that nobody can ask for the end any more, which is one.
    let _ = shutdown.wait_for(|stop| *stop).await;
    for task in accepting {
        // One that panicked accepts nobody either.
        let _ = task.await;
    }
    drain(&mailboxes).await;
    managers.abort();
    drop(mailboxes);
    let _ = all_ended.recv().await;
    Ok(())
}

/// Hands clients to the workers in turn.
async fn accept(
    front: Front,
    workers: Rc<Vec<mpsc::UnboundedSender<Mail>>>,
    turn: Rc<Cell<usize>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let hand_over = |client| match client {
        Ok(client) => {
            let worker = turn.replace(turn.get().wrapping_add(1)) % workers.len();
            // A worker that is gone has stopped, and the gateway with it.
            let _ = workers[worker].send(Mail::Client(client));
        }
        Err(e) => tracing::warn!("cannot serve a client: {e}"),
    };
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            client = front.accept() => hand_over(client),
        }
    }
    // Closing the listener resets those that wait behind it: they are to see an end in order, like all others.
    for _ in 0..listen::BACKLOG {
        let Ok(client) = tokio::time::timeout(LAST_CLIENTS, front.accept()).await else { return };
        hand_over(client);
    }
}

/// Has all workers answer what is under way.
async fn drain(workers: &[mpsc::UnboundedSender<Mail>]) {
    let mut waits = Vec::new();
    for worker in workers {
        let (done, wait) = oneshot::channel();
        if worker.send(Mail::Drain(done)).is_ok() {
            waits.push(wait);
        }
    }
    let all = async {
        for wait in waits {
            // An error: the worker has ended, and has nothing to drain.
            let _ = wait.await;
        }
    };
    if tokio::time::timeout(DRAIN_LIMIT, all).await.is_err() {
        tracing::warn!("clients that are still waiting for answers are hung up on");
    }
}
