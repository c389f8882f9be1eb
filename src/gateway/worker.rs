//! A worker: one thread's clients, links and operations, in one place that is borrowed once for each read.
//!
//! Everything happens in [`State`], called by the tasks that read connections, by the clock and by mail from the rest of
//! the process. Nothing in it waits.

use super::answers::Pool;
use super::cache::Cache;
use super::client::{self, Clients};
use super::downloads::Downloads;
use super::holdings;
use super::link::Links;
use super::op::Ops;
use super::order::Order;
use super::prefixes::Prefixes;
use super::run::Config;
use super::stats::{Baseline, Counters, Figure, Places};
use super::uploads::Uploads;
use super::view::View;
use crate::logic::backoff::Chance;
use crate::net::conn::Scratch;
use crate::net::front::Arrival;
use crate::net::time::Instant;
use crate::net::turn::Turn;
use crate::net::unread::Unread;
use crate::store::LARGE_BYTES;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// How often links and operations that take long are looked at, in milliseconds.
const CHECK_MS: u64 = 250;

/// A client that has taken nothing of a large answer for so long does not keep others from getting theirs.
const UNREAD_PATIENCE: Duration = Duration::from_secs(10);

/// What the rest of the process tells a worker.
pub enum Mail {
    /// A client connected.
    Client(Arrival),
    /// Take no more commands, answer those under way, close, and say so.
    Drain(oneshot::Sender<()>),
}

/// What a worker asks of the task that talks to the managers.
pub enum Request {
    /// A server knows a newer epoch than ours, or refuses without saying why: ask the managers.
    Renew,
    /// `flush_all`; the answer is whether it was decided, or `None` where only kumofs 0.4 managers are.
    Flush {
        /// Seconds from now.
        delay_secs: u64,
        /// Takes the answer.
        done: oneshot::Sender<Result<(), FlushError>>,
    },
}

/// Why a flush was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushError {
    /// No manager answers.
    NoManager,
    /// The manager is a kumofs 0.4 one, which cannot flush.
    NotServed,
}

/// What all workers share.
pub struct Shared {
    /// What the operator asked for.
    pub config: Config,
    /// Tells this start of the gateway from others.
    pub incarnation: u64,
    /// The newest view.
    pub newest: watch::Sender<Arc<View>>,
    /// To the task that talks to the managers.
    pub requests: mpsc::UnboundedSender<Request>,
    /// Each worker's figures.
    pub counters: Vec<Arc<Counters>>,
    /// What the cluster holds, as last asked.
    pub holdings: holdings::Newest,
    /// Where the figures stood when they were reset.
    pub baseline: Baseline,
    /// What `stats detail` counts.
    pub prefixes: Prefixes,
    /// Where it listens.
    pub places: Places,
    /// When the gateway started.
    pub started: Instant,
}

impl Shared {
    /// Takes a view over for all workers, if it is newer than the one there.
    pub fn offer(&self, view: View) -> bool {
        self.newest.send_if_modified(|newest| {
            let newer = view.supersedes(newest);
            if newer {
                *newest = Arc::new(view);
            }
            newer
        })
    }
}

/// A worker.
pub struct Worker {
    /// What the end of a turn writes.
    pub turn: Rc<Turn>,
    /// What connections read into.
    pub scratch: Rc<Scratch>,
    /// Everything else.
    pub state: RefCell<State>,
    clock: Notify,
}

/// A worker's clients, links and operations.
pub struct State {
    /// The worker that this is the state of.
    pub me: Weak<Worker>,
    /// Its number.
    pub number: u16,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The view in use.
    pub view: Arc<View>,
    /// This worker's figures.
    pub counters: Arc<Counters>,
    /// Milliseconds since the gateway started, as of the last read or tick.
    pub now_ms: u64,
    /// The clients.
    pub clients: Clients,
    /// Their operations.
    pub ops: Ops,
    /// Connections to servers.
    pub links: Links,
    /// Operations to try again: when, order, place, generation.
    pub waiting: BinaryHeap<Reverse<(u64, u64, u32, u32)>>,
    /// Who of them waits for whom.
    pub order: Order,
    /// Whose turn it has become, while they are being sent.
    pub next_in_line: Vec<(u32, u32)>,
    /// Buffers for answers.
    pub pool: Pool,
    /// Values that need not travel again.
    pub cache: Cache,
    /// For pauses.
    pub chance: Chance,
    /// Refusals since the managers were last asked for the hash space.
    pub refusals: u32,
    /// Clients whose commands wait for memory.
    pub starved: Vec<(u32, u32)>,
    /// Who may send large commands.
    pub uploads: Uploads,
    /// What clients leave unread.
    pub unread: Unread,
    /// Large values that clients read.
    pub downloads: Downloads,
    /// Parts of large values may have to be sent.
    pub is_sending: bool,
    /// Where in memory the bytes begin that a client is being read from.
    pub input_at: usize,
    /// For each link, which parts of a retrieval go there: empty between commands, kept for its memory.
    pub by_link: Vec<Vec<u32>>,
    /// Which of them are asked for alone: empty between commands, kept for its memory.
    pub alone: Vec<u32>,
    /// Told when the last client is gone, once that is waited for.
    pub drained: Option<oneshot::Sender<()>>,
    /// When answers of servers that are no longer to be asked are not waited for any more.
    pub recall_ms: u64,
    clock_sleeps: Cell<bool>,
    next_check_ms: u64,
}

impl State {
    /// Notes what time it is.
    pub fn read_clock(&mut self) {
        self.now_ms = self.shared.started.elapsed().as_millis() as u64;
    }

    /// Makes sure that the clock ticks for an operation that begins.
    #[inline]
    pub fn wake_clock(&self) {
        if self.clock_sleeps.replace(false) {
            self.ring_clock();
        }
    }

    /// Has the clock look again when it must tick next.
    pub fn ring_clock(&self) {
        if let Some(worker) = self.me.upgrade() {
            worker.clock.notify_one();
        }
    }

    /// Takes over what was counted on the way.
    #[inline]
    pub fn count_written(&mut self) {
        let written = std::mem::take(&mut self.pool.written_bytes);
        self.count(Figure::BytesWritten, written);
    }

    /// Adds to a figure.
    #[inline]
    pub fn count(&self, figure: Figure, n: u64) {
        self.counters.add(figure, n);
    }

    /// What is seen to once for all that a turn has brought.
    fn end_turn(&mut self) {
        self.ask_parts();
        self.send_parts();
        if self.unread.bytes() > self.shared.config.unread_bytes {
            self.close_unread(self.shared.config.unread_bytes, 0, Duration::ZERO);
        }
    }

    /// Does what is due. Returns how long nothing will be; `None`: until something begins.
    fn tick(&mut self) -> Option<Duration> {
        self.read_clock();
        while let Some(Reverse((due_ms, _, place, generation))) = self.waiting.peek().copied()
            && due_ms <= self.now_ms
        {
            self.waiting.pop();
            let (ops, order) = (&mut self.ops, &self.order);
            if ops.get(place, generation).is_some_and(|op| op.link.is_none() && order.may_go(op)) {
                self.send(place);
            }
        }
        if self.now_ms >= self.recall_ms {
            self.recall_late();
        }
        if self.ops.len() == 0 && self.links.idle() {
            self.waiting.clear();
            self.clock_sleeps.set(true);
            return None;
        }
        if self.now_ms >= self.next_check_ms {
            self.next_check_ms = self.now_ms + CHECK_MS;
            if self.downloads.wait_for_room() {
                // Who reads nothing does not keep it for ever.
                self.close_unread(0, LARGE_BYTES, UNREAD_PATIENCE);
            }
            if !self.downloads.is_empty() {
                // There may be some by now.
                self.ask_parts();
            }
            self.check_links();
            self.check_operations();
        }
        let retry_ms = self.waiting.peek().map_or(u64::MAX, |Reverse((due_ms, ..))| *due_ms);
        let next_ms = self.next_check_ms.min(retry_ms).min(self.recall_ms);
        Some(Duration::from_millis(next_ms.saturating_sub(self.now_ms).max(1)))
    }
}

/// Serves until the mail ends.
pub async fn run(number: u16, shared: Arc<Shared>, mut mail: mpsc::UnboundedReceiver<Mail>) {
    let mut newest = shared.newest.subscribe();
    let view = newest.borrow_and_update().clone();
    let seed = shared.incarnation.wrapping_add(u64::from(number) << 32);
    let counters = shared.counters[usize::from(number)].clone();
    let worker = Rc::new_cyclic(|me| Worker {
        turn: Turn::new(),
        scratch: Scratch::new(),
        state: RefCell::new(State {
            me: me.clone(),
            number,
            counters,
            view: Arc::default(),
            now_ms: 0,
            clients: Clients::default(),
            ops: Ops::new(number),
            links: Links::default(),
            waiting: BinaryHeap::new(),
            order: Order::default(),
            next_in_line: Vec::new(),
            pool: Pool::default(),
            cache: Cache::new(shared.config.local_cache.share(shared.counters.len())),
            chance: Chance(seed),
            refusals: 0,
            starved: Vec::new(),
            uploads: Uploads::default(),
            unread: Unread::default(),
            downloads: Downloads::default(),
            is_sending: false,
            input_at: 0,
            by_link: Vec::new(),
            alone: Vec::new(),
            drained: None,
            clock_sleeps: Cell::new(false),
            next_check_ms: 0,
            recall_ms: u64::MAX,
            shared,
        }),
        clock: Notify::new(),
    });
    worker.state.borrow_mut().adopt(view);
    let ending = worker.clone();
    let end = move || ending.state.borrow_mut().end_turn();
    let turns = tokio::task::spawn_local(worker.turn.clone().run(end));
    let clock = tokio::task::spawn_local(keep_time(worker.clone()));
    loop {
        tokio::select! {
            biased;
            message = mail.recv() => match message {
                Some(Mail::Client(stream)) => client::start(&worker, stream),
                Some(Mail::Drain(done)) => worker.state.borrow_mut().drain(done),
                None => break,
            },
            Ok(()) = newest.changed() => {
                let view = newest.borrow_and_update().clone();
                worker.state.borrow_mut().adopt(view);
            }
        }
    }
    clock.abort();
    turns.abort();
    worker.state.borrow_mut().close_all();
}

/// The clock: ticks when something is due, and sleeps while nothing is under way.
async fn keep_time(worker: Rc<Worker>) {
    loop {
        let pause = worker.state.borrow_mut().tick();
        match pause {
            Some(pause) => {
                let _ = tokio::time::timeout(pause, worker.clock.notified()).await;
            }
            None => worker.clock.notified().await,
        }
    }
}
