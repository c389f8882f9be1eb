//! Figures: counted by each worker for itself, added up when somebody asks.
//!
//! `stats` answers with the names that memcached's clients and exporters read, where there is something true to say.
//! Items are the cluster's: the servers are asked for theirs.

use super::client::MAX_KEYS;
use super::command::VERSION;
use super::op::{Ask, Home};
use super::outcome::Answer;
use super::worker::{FlushError, Request, Shared, State, Worker};
use crate::net::rpc::{CallError, Limits, RpcConn};
use crate::net::time::unix_secs;
use crate::proto::memcache::{Reply, StatsTopic, Style, Trouble, style};
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::v0::{method, status};
use crate::proto::rpc::v1::Op;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a server has to tell its number of items.
const ITEMS_LIMIT: Duration = Duration::from_secs(1);

macro_rules! figures {
    ($($name:ident $text:literal $doc:literal;)*) => {
        /// A figure that workers count.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Figure {
            $(#[doc = $doc] $name,)*
        }

        impl Figure {
            /// All of them.
            pub const ALL: &'static [Figure] = &[$(Figure::$name),*];

            /// What memcached calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Figure::$name => $text,)*
                }
            }
        }
    };
}

figures! {
    CurrConnections "curr_connections" "Clients connected now.";
    TotalConnections "total_connections" "Clients that ever connected.";
    CmdGet "cmd_get" "Keys asked for by get and gets.";
    CmdSet "cmd_set" "Commands that store.";
    CmdFlush "cmd_flush" "flush_all.";
    CmdTouch "cmd_touch" "Keys asked for by touch, gat and gats.";
    GetHits "get_hits" "Keys found by get and gets.";
    GetMisses "get_misses" "Keys not found by get and gets.";
    DeleteHits "delete_hits" "Keys deleted.";
    DeleteMisses "delete_misses" "Keys to delete that were not there.";
    IncrHits "incr_hits" "Numbers counted up.";
    IncrMisses "incr_misses" "Numbers to count up that were not there.";
    DecrHits "decr_hits" "Numbers counted down.";
    DecrMisses "decr_misses" "Numbers to count down that were not there.";
    CasHits "cas_hits" "Values compared and swapped.";
    CasMisses "cas_misses" "Values to compare that were not there.";
    CasBadval "cas_badval" "Values that had changed.";
    TouchHits "touch_hits" "Keys touched.";
    TouchMisses "touch_misses" "Keys to touch that were not there.";
    BytesRead "bytes_read" "Bytes from clients.";
    BytesWritten "bytes_written" "Bytes to clients.";
    Retries "kumo_retries" "Times that an operation had to wait and be sent again.";
    Failures "kumo_failures" "Operations given up: answered with SERVER_ERROR.";
}

/// One worker's figures. Only that worker changes them; anyone reads.
#[repr(align(128))]
pub struct Counters([AtomicU64; Figure::ALL.len()]);

impl Default for Counters {
    fn default() -> Counters {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds `n`; by wrapping, so that a figure can fall too.
    #[inline]
    pub fn add(&self, figure: Figure, n: u64) {
        let counter = &self.0[figure as usize];
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The figure now.
    pub fn get(&self, figure: Figure) -> u64 {
        self.0[figure as usize].load(Relaxed)
    }

    /// Counts what an operation came to.
    #[inline]
    pub fn count_answer(&self, ask: Ask, answer: &Answer<'_>) {
        use Figure::*;
        if let Answer::Reply(Reply::Trouble(trouble)) = answer
            && *trouble != Trouble::NonNumeric
        {
            self.add(Failures, 1);
        }
        let figure = match (ask, answer) {
            (Ask::Get | Ask::Mutate(Op::GetAndTouch), Answer::Found(_)) => GetHits,
            (Ask::Mutate(Op::Fetch), Answer::Told(..)) => GetHits,
            (Ask::Get | Ask::Mutate(Op::GetAndTouch | Op::Fetch), Answer::Missing) => GetMisses,
            (Ask::Mutate(Op::Incr), Answer::Told(..)) => IncrHits,
            (Ask::Mutate(Op::Decr), Answer::Told(..)) => DecrHits,
            (Ask::Mutate(op), Answer::Reply(reply) | Answer::Changed(reply, _)) => match (op, reply) {
                (Op::Delete, Reply::Deleted) => DeleteHits,
                (Op::Delete, Reply::NotFound) => DeleteMisses,
                (Op::Incr, Reply::Number(_)) => IncrHits,
                (Op::Incr, Reply::NotFound) => IncrMisses,
                (Op::Decr, Reply::Number(_)) => DecrHits,
                (Op::Decr, Reply::NotFound) => DecrMisses,
                (Op::Cas, Reply::Stored) => CasHits,
                (Op::Cas, Reply::NotFound) => CasMisses,
                (Op::Cas, Reply::Exists) => CasBadval,
                (Op::Touch, Reply::Touched) => TouchHits,
                (Op::Touch, Reply::NotFound) => TouchMisses,
                _ => return,
            },
            _ => return,
        };
        self.add(figure, 1);
    }
}

/// Where the figures stood when they were last reset.
pub struct Baseline([AtomicU64; Figure::ALL.len()]);

impl Default for Baseline {
    fn default() -> Baseline {
        Baseline(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Shared {
    fn total(&self, figure: Figure) -> u64 {
        self.counters.iter().fold(0, |sum, counters| sum.wrapping_add(counters.get(figure)))
    }

    /// A figure of the whole gateway, since the last reset.
    pub fn figure(&self, figure: Figure) -> u64 {
        self.total(figure).wrapping_sub(self.baseline.0[figure as usize].load(Relaxed))
    }

    fn reset_figures(&self) {
        // What is, is not reset; what was counted, is.
        for figure in Figure::ALL.iter().filter(|f| **f != Figure::CurrConnections) {
            self.baseline.0[*figure as usize].store(self.total(*figure), Relaxed);
        }
    }
}

/// Tells a client the figures; all its other commands are answered, and further ones wait.
pub fn tell(state: &mut State, home: Home, how: Style, topic: StatsTopic) {
    let (Some(worker), Some(client)) = (state.me.upgrade(), state.clients.get(home)) else { return };
    let number = client.answers.push();
    let shared = state.shared.clone();
    tokio::task::spawn_local(async move {
        let mut told = Told { how, out: Vec::new() };
        match topic {
            StatsTopic::General => general(&shared, items(&shared).await, &mut told),
            StatsTopic::Settings => settings(&shared, &mut told),
            // There are no slabs here, and no memory limit that evicts: nothing to tell.
            StatsTopic::Items | StatsTopic::Slabs | StatsTopic::Sizes | StatsTopic::Conns => told.reply(&Reply::End),
            StatsTopic::Reset => {
                shared.reset_figures();
                told.reply(&Reply::Reset);
            }
            StatsTopic::Other => told.reply(&Reply::NotFound),
        }
        worker.state.borrow_mut().end_barrier(home, Some(number), |to| to.extend_from_slice(&told.out));
    });
}

/// The answer to `stats`.
struct Told {
    how: Style,
    out: Vec<u8>,
}

impl Told {
    fn reply(&mut self, reply: &Reply<'_>) {
        style::encode(self.how, b"", reply, 0, &mut self.out);
    }

    fn stat(&mut self, name: &str, value: impl ToString) {
        self.reply(&Reply::Stat { name, value: &value.to_string() });
    }
}

fn general(shared: &Shared, items: Option<u64>, told: &mut Told) {
    told.stat("pid", std::process::id());
    told.stat("uptime", shared.started.elapsed().as_secs());
    told.stat("time", unix_secs());
    told.stat("version", VERSION);
    told.stat("kumofs_version", env!("CARGO_PKG_VERSION"));
    told.stat("pointer_size", usize::BITS);
    let (user, system) = cpu_time();
    told.stat("rusage_user", user);
    told.stat("rusage_system", system);
    for figure in Figure::ALL {
        told.stat(figure.name(), shared.figure(*figure));
    }
    told.stat("total_items", shared.figure(Figure::CmdSet));
    // Not told rather than told wrongly, when a server does not answer.
    if let Some(items) = items {
        told.stat("curr_items", items);
    }
    told.stat("evictions", 0);
    told.stat("threads", shared.counters.len());
    let view = shared.newest.borrow().clone();
    told.stat("kumo_epoch", view.number());
    told.stat("kumo_servers", view.epoch.servers.len());
    told.reply(&Reply::End);
}

fn settings(shared: &Shared, told: &mut Told) {
    let config = &shared.config;
    told.stat("item_size_max", config.limits.value_bytes);
    told.stat("num_threads", shared.counters.len());
    told.stat("cas_enabled", "yes");
    told.stat("flush_enabled", "yes");
    told.stat("evictions", "off");
    told.stat("kumo_max_keys_under_way", MAX_KEYS);
    told.stat("kumo_get_retry", config.get_retry);
    told.stat("kumo_set_retry", config.set_retry);
    told.stat("kumo_delete_retry", config.delete_retry);
    told.reply(&Reply::End);
}

/// CPU time of this process, user and system, in seconds as memcached writes them.
fn cpu_time() -> (String, String) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for a rusage, of which all-zero bytes are one, should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let text = |time: libc::timeval| format!("{}.{:06}", time.tv_sec, time.tv_usec);
    (text(usage.ru_utime), text(usage.ru_stime))
}

/// The items of the cluster: each is counted by all servers that have a copy, so their sum is divided by the copies.
async fn items(shared: &Shared) -> Option<u64> {
    let view = shared.newest.borrow().clone();
    let active: Vec<_> = view.epoch.rhs.nodes.iter().filter(|node| node.active).map(|node| node.address).collect();
    let mut asked = tokio::task::JoinSet::new();
    for address in &active {
        asked.spawn_local(items_of(address.socket_addr()));
    }
    let mut sum = 0;
    while let Some(items) = asked.join_next().await {
        sum += items.ok()?.ok()?;
    }
    let copies = active.len().min(crate::logic::ring::REPLICAS) as u64;
    (copies > 0).then(|| sum / copies)
}

async fn items_of(server: std::net::SocketAddr) -> Result<u64, CallError> {
    let conn = RpcConn::connect_client(server, ITEMS_LIMIT, Limits::default(), Rc::new(|_, _| ()));
    let conn = conn.await.map_err(|_| CallError::Lost)?;
    let params = |out: &mut Vec<u8>| {
        write_array(out, 1);
        write_uint(out, u64::from(status::ITEMS));
    };
    let result = conn.call(method::GET_STATUS, params, ITEMS_LIMIT).await;
    conn.close();
    Reader::new(&result?).u64().map_err(|_| CallError::Lost)
}

/// Has a manager flush, and tells the client.
pub fn flush(state: &mut State, home: Home, how: Style, delay_secs: u64, noreply: bool) {
    let (Some(worker), Some(client)) = (state.me.upgrade(), state.clients.get(home)) else { return };
    let number = if noreply { None } else { Some(client.answers.push()) };
    let (done, outcome) = oneshot::channel();
    // Without that task the gateway is stopping; then `outcome` says so.
    let _ = state.shared.requests.send(Request::Flush { delay_secs, done });
    tokio::task::spawn_local(finish_flush(worker, home, how, number, outcome));
}

async fn finish_flush(
    worker: Rc<Worker>,
    home: Home,
    how: Style,
    number: Option<u32>,
    outcome: oneshot::Receiver<Result<(), FlushError>>,
) {
    let outcome = outcome.await.unwrap_or(Err(FlushError::NoManager));
    let mut state = worker.state.borrow_mut();
    let newest: Arc<_> = state.shared.newest.borrow().clone();
    if newest.number() > state.view.number() {
        state.adopt(newest);
    }
    let reply = match outcome {
        Ok(()) => Reply::Ok,
        Err(FlushError::NotServed) => Reply::Trouble(Trouble::NotServed),
        Err(FlushError::NoManager) => Reply::Trouble(Trouble::NoManager),
    };
    state.end_barrier(home, number, |out| style::encode(how, b"", &reply, 0, out));
}
