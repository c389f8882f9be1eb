//! What the workers and the control plane of a server share.

use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Epoch;
use crate::logic::memory::Limits;
use crate::logic::route::Route;
use crate::net::pipe::{Doors, Pipe};
use crate::net::settings::Settings;
use crate::net::sock;
use crate::net::time::Instant;
use crate::store::Store;
use crate::store::staged::Staged;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// How other nodes reach it; names it in hash spaces.
    pub address: Address,
    /// Where it listens for replace streams.
    pub stream: Address,
    /// The managers.
    pub managers: Vec<Address>,
    /// Worker threads.
    pub workers: u16,
    /// Largest data of a value in bytes.
    pub max_value: usize,
    /// How often managers are pinged.
    pub keepalive: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// A deletion mark is kept at least so long.
    pub garbage_min: Duration,
    /// A deletion mark is collected when it is so old.
    pub garbage_max: Duration,
    /// Above so many bytes of remembered marks, those older than `garbage_min` are collected.
    pub garbage_memory: usize,
    /// How many outcomes of changes each worker remembers, and of whom.
    pub memory: Limits,
    /// How many counters of versions are reserved on disk at a time: enough for half of them to outlast a sync of some seconds.
    pub version_block: u32,
    /// Where `backup` puts copies: the suffix is appended to this path.
    pub backup: PathBuf,
    /// Where a gateway in this process finds it.
    pub doors: Arc<Doors>,
    /// What the process was told at its start.
    pub settings: Settings,
}

impl Default for Config {
    /// What kumo-server does without options. There is no default for the addresses.
    fn default() -> Config {
        let nowhere = Address::new(std::net::SocketAddr::from(([0, 0, 0, 0], 0)));
        Config {
            address: nowhere,
            stream: nowhere,
            managers: Vec::new(),
            workers: 1,
            max_value: 1 << 20,
            keepalive: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(1),
            garbage_min: Duration::from_secs(60),
            garbage_max: Duration::from_secs(3600),
            garbage_memory: 2 << 20,
            memory: Limits::SERVER,
            version_block: 1 << 22,
            backup: PathBuf::new(),
            doors: Arc::default(),
            settings: Settings::default(),
        }
    }
}

/// An epoch, ready for use by a server.
#[derive(Debug)]
pub struct View {
    /// The epoch.
    pub epoch: Epoch,
    /// Its groups.
    pub route: Route,
    /// This server's place in it; `None`: it is not (or no longer) in it.
    pub me: Option<u16>,
}

impl View {
    /// Looks at `epoch` as the server at `address`, of this `incarnation`. In a cluster led by a kumofs 0.4 manager, servers
    /// are known by their address alone.
    pub fn new(epoch: Epoch, address: Address, incarnation: u64) -> View {
        let mine = |s: &crate::logic::epoch::ServerEntry| {
            s.address == address && (epoch.number == 0 || s.incarnation == incarnation) && s.removed.is_none()
        };
        let me = epoch.servers.iter().position(mine).and_then(|place| u16::try_from(place).ok());
        View { route: Route::new(&epoch), me, epoch }
    }

    /// Whether the cluster is led by a kumofs 0.4 manager: there are no epochs then, and no leases.
    pub fn is_version0(&self) -> bool {
        self.epoch.number == 0
    }
}

/// Counters of one worker, which alone writes them. They share no line of memory with those of another worker, so that no
/// core takes it from another at each get.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Gets answered.
    pub gets: AtomicU64,
    /// Those of them that found nothing.
    pub misses: AtomicU64,
    /// Changes other than deletes executed.
    pub sets: AtomicU64,
    /// Deletes executed.
    pub deletes: AtomicU64,
    /// When a turn ended last in which something was done for clients, by the clock since boot.
    pub served_micros: AtomicU64,
    /// Items of its shard, as of its last commit; asking the shard would wait for the worker.
    pub items: AtomicU64,
}

impl Counters {
    /// Adds `n`; cheaper than an atomic addition, since there is one writer.
    #[inline]
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}

/// What a worker is told by others.
pub enum Mail {
    /// A newer epoch.
    Adopt(Arc<View>),
    /// Get ready for a newer epoch, which is to be told soon. Told when nothing is under way of what others are to have.
    Yield(Arc<View>, oneshot::Sender<()>),
    /// Act no more, and tell the others, so that they need not wait for leases to run out. Told when that is sent.
    Leave(oneshot::Sender<()>),
    /// A connection to serve, from a role of this process.
    Serve(Pipe),
    /// A connection to serve, from another thread's event loop.
    ServeFrom(sock::Parcel),
    /// Records from another server. Told when they are committed.
    Apply {
        /// As in Replicate.
        entries: Vec<u8>,
        /// The replace that they are sent for, where the sender tells.
        time: Option<ClockTime>,
        /// The since-epoch of that server's memory.
        since: u64,
        /// Told.
        done: oneshot::Sender<()>,
    },
    /// A large record from another server. Told when it is committed.
    ApplyLarge {
        /// Its dbkey.
        dbkey: Vec<u8>,
        /// The epoch of its stamp.
        epoch: u64,
        /// Its dbval, all of which has come.
        staged: Staged,
        /// The replace that it is sent for, where the sender tells.
        time: Option<ClockTime>,
        /// The since-epoch of that server's memory.
        since: u64,
        /// Told.
        done: oneshot::Sender<()>,
    },
    /// Copy what the epoch's phase demands to others.
    Copy(super::copy::Job),
    /// Drop what the epoch gives to others. Told when it is done.
    Drop(oneshot::Sender<()>),
    /// All full servers have copied to this one: drop what none of them has. Told when it is done.
    DropUnconfirmed(oneshot::Sender<()>),
    /// The shard's durable ticket grew, or a sync failed.
    Durable,
    /// Commit, and tell.
    Flush(oneshot::Sender<()>),
    /// Tell what was measured.
    Measure(oneshot::Sender<super::measures::Measured>),
    /// TCP_NODELAY for all connections; told how many were changed.
    SetNodelay(bool, oneshot::Sender<usize>),
}

/// Bits of [`Shared::moving`]; the numbers of GetStatus's replace flags.
pub mod moving {
    /// Copying to others.
    pub const COPYING: u8 = 4;
    /// Dropping what moved away.
    pub const DELETING: u8 = 8;
}

/// What a server has sent to others to bring them up to date.
#[derive(Debug, Default)]
pub struct Moved {
    /// Records sent.
    pub records: AtomicU64,
    /// Bytes on the wire: streams as they are compressed, and what was said and heard to find out what others lack.
    pub bytes: AtomicU64,
}

/// What other servers have sent to this one in a replace.
#[derive(Debug, Default)]
pub struct Received {
    time: Option<ClockTime>,
    /// Records in streams.
    pub records: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
}

impl Received {
    /// Counts what came for the replace of `time`, and forgets an earlier one.
    pub fn add(&mut self, time: Option<ClockTime>, records: u64, bytes: u64) {
        if self.time != time {
            *self = Received { time, ..Received::default() };
        }
        self.records += records;
        self.bytes += bytes;
    }
}

/// How far a worker's copying or deleting has gone through its shard, which holds keys of the whole ring.
#[derive(Debug, Default)]
pub struct Progress {
    /// A position on the ring: what is before it is done.
    pub position: AtomicU64,
    /// When it began, by the clock since boot; later by what it was told to stand still.
    pub began_micros: AtomicU64,
}

/// Shared by all threads of a server.
pub struct Shared {
    /// How long deletion marks are kept; an operator may change it.
    pub garbage: super::garbage::Limits,
    /// As started.
    pub config: Config,
    /// The records.
    pub store: Arc<dyn Store>,
    /// When it started.
    pub started: Instant,
    /// Names this start, or this life since an epoch removed it.
    pub incarnation: AtomicU64,
    /// The newest epoch.
    pub view: Mutex<Arc<View>>,
    /// A mailbox for each worker.
    pub mailboxes: Vec<UnboundedSender<Mail>>,
    /// For each worker.
    pub counters: Vec<Counters>,
    /// Bits of [`moving`].
    pub moving: AtomicU8,
    /// How much this server has moved since its start.
    pub moved: Moved,
    /// Held while a backup is made.
    pub backup_turn: Mutex<()>,
    /// What others have sent to it in the newest replace.
    pub received: Mutex<Received>,
    /// How far each worker is with copying or deleting.
    pub progress: Vec<Progress>,
    /// What tools were told last.
    pub statistics: super::statistics::Newest,
    /// Links to other servers that are down, for the managers: to whom, and for how long.
    pub lost: UnboundedSender<(Address, Duration)>,
    /// Other servers that are connected.
    pub peers: super::peers::Peers,
    /// Streams offered to other servers.
    pub offered: super::stream::Offered,
    /// Stream addresses that other servers offer, and for which replace, for the control plane to fetch.
    pub offers: UnboundedSender<(Address, Option<ClockTime>)>,
    /// The logical counter of the newest version made here.
    pub clock: AtomicU64,
    /// Up to where versions may be made and acknowledged.
    pub versions: super::versions::Versions,
    /// A newer epoch than ours is about: ask for it.
    pub behind: tokio::sync::Notify,
    /// No new connections any more.
    pub draining: AtomicBool,
}

impl Shared {
    /// The newest epoch.
    pub fn view(&self) -> Arc<View> {
        self.view.lock().expect("no holder panics").clone()
    }

    /// Tells a worker. One that has ended hears nothing.
    pub fn tell(&self, worker: usize, mail: Mail) {
        let _ = self.mailboxes[worker].send(mail);
    }

    /// Asks every worker, each of which answers with a value.
    pub fn ask_all<T>(&self, mail: impl Fn(oneshot::Sender<T>) -> Mail) -> Vec<oneshot::Receiver<T>> {
        let ask = |worker| {
            let (done, answered) = oneshot::channel();
            self.tell(worker, mail(done));
            answered
        };
        (0..self.mailboxes.len()).map(ask).collect()
    }

    /// The random number of this life.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Number of items stored.
    pub fn items(&self) -> u64 {
        self.total(|counters| &counters.items)
    }

    /// When a worker, or any of them, did something for clients last.
    pub fn served_micros(&self, worker: Option<u16>) -> u64 {
        let served = |c: &Counters| c.served_micros.load(Ordering::Relaxed);
        match worker {
            Some(worker) => self.counters.get(usize::from(worker)).map_or(0, served),
            None => self.counters.iter().map(served).max().unwrap_or(0),
        }
    }

    /// Sum of a counter over the workers.
    pub fn total(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|c| counter(c).load(Ordering::Relaxed)).sum()
    }
}
