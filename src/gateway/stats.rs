//! Figures: counted by each worker for itself, added up when somebody asks.
//!
//! `stats` answers with memcached's names, all of them, because monitors give up at the first that is missing. Items and
//! bytes are the cluster's ([`holdings`](super::holdings)); what has no counterpart here, as evictions, is zero. Ours are
//! under `stats kumofs`.

use super::client::MAX_KEYS;
use super::command::VERSION;
use super::holdings::{Holdings, holdings};
use super::op::{Ask, Home};
use super::outcome::Answer;
use super::prefixes::Prefixes;
use super::worker::{FlushError, Request, Shared, State, Worker};
use crate::net::front::Front;
use crate::net::time::unix_secs;
use crate::net::usage::Usage;
use crate::proto::memcache::{Detail, Reply, StatsTopic, Style, Trouble, style};
use crate::proto::rpc::v1::{Gone, Op, term};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;

macro_rules! figures {
    ($($name:ident $doc:literal;)*) => {
        /// A figure that workers count.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Figure {
            $(#[doc = $doc] $name,)*
        }

        impl Figure {
            /// All of them.
            pub const ALL: &'static [Figure] = &[$(Figure::$name),*];
        }
    };
}

figures! {
    CurrConnections "Clients connected now.";
    TotalConnections "Clients that ever connected.";
    CmdGet "Keys asked for by get and gets.";
    CmdSet "Commands that store.";
    CmdFlush "flush_all.";
    CmdTouch "Keys asked for by touch, gat and gats.";
    GetHits "Keys found by retrievals.";
    GetMisses "Keys not found by retrievals.";
    GetExpired "Of those, keys of values that had expired.";
    GetFlushed "Of those, keys of values that were flushed.";
    DeleteHits "Keys deleted.";
    DeleteMisses "Keys to delete that were not there.";
    IncrHits "Numbers counted up.";
    IncrMisses "Numbers to count up that were not there.";
    DecrHits "Numbers counted down.";
    DecrMisses "Numbers to count down that were not there.";
    CasHits "Values compared and swapped.";
    CasMisses "Values to compare that were not there.";
    CasBadval "Values that had changed.";
    TouchHits "Keys touched by touch, gat and gats.";
    TouchMisses "Keys to touch that were not there.";
    CmdMeta "Commands of the meta protocol.";
    StoreTooLarge "Values over the limit.";
    TotalItems "Values stored.";
    BytesRead "Bytes from clients.";
    BytesWritten "Bytes to clients.";
    CacheHits "Values answered from the cache, after their servers said that they are unmodified.";
    CacheMisses "Values that had to travel, where there is a cache.";
    CacheSavedBytes "Bytes of values that need not travel.";
    CacheItems "Values cached now.";
    CacheBytes "Bytes that the cache takes now.";
    Retries "Times that an operation had to wait and be sent again.";
    Failures "Operations given up: answered with SERVER_ERROR.";
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

    /// Sets a figure that is not counted.
    #[inline]
    pub fn set(&self, figure: Figure, n: u64) {
        self.0[figure as usize].store(n, Relaxed);
    }

    /// The figure now.
    pub fn get(&self, figure: Figure) -> u64 {
        self.0[figure as usize].load(Relaxed)
    }

    /// Counts retrievals that found nothing where something had been.
    #[inline]
    pub fn count_gone(&self, gone: Gone, n: u64) {
        match gone {
            Gone::Absent => {}
            Gone::Expired => self.add(Figure::GetExpired, n),
            Gone::Flushed => self.add(Figure::GetFlushed, n),
        }
    }

    /// Counts what an operation came to.
    #[inline]
    pub fn count_answer(&self, op: &super::op::Op, answer: &Answer<'_>) {
        use Figure::*;
        if let Answer::Reply(Reply::Trouble(trouble)) = answer
            && *trouble != Trouble::NonNumeric
        {
            self.add(Failures, 1);
        }
        if let Answer::Changed(Reply::Stored, _) = answer {
            self.add(TotalItems, 1);
        }
        if let Answer::Missing(gone) = answer
            && op.is_retrieval()
        {
            self.count_gone(*gone, 1);
        }
        let figure = match (op.ask, answer) {
            // To memcached, `me` is no retrieval, and `mg` with T a touch where it finds something and a get where not.
            (Ask::Get, _) if matches!(op.style, Style::Meta(_)) => return,
            (Ask::Mutate(Op::Fetch), Answer::Told(..)) if op.terms.bits & term::EXPIRE != 0 => {
                self.add(CmdTouch, 1);
                TouchHits
            }
            (Ask::Mutate(Op::Fetch), Answer::Missing(_)) if op.terms.bits & term::EXPIRE != 0 => {
                self.add(CmdGet, 1);
                GetMisses
            }
            (Ask::Mutate(Op::GetAndTouch), Answer::Found(_)) => TouchHits,
            (Ask::Mutate(Op::GetAndTouch), Answer::Missing(_)) => TouchMisses,
            (Ask::Get, Answer::Found(_)) | (Ask::Mutate(Op::Fetch), Answer::Told(..)) => GetHits,
            (Ask::Get | Ask::Mutate(Op::Fetch), Answer::Missing(_)) => GetMisses,
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

/// Where a gateway listens, as `stats settings` tells it.
#[derive(Debug)]
pub struct Places {
    /// The first port; 0: none.
    port: u16,
    /// Addresses, with commas between them.
    addresses: String,
    /// Paths of sockets, with commas between them.
    sockets: String,
    /// Who may connect to those, as for chmod.
    mode: u32,
}

impl Places {
    /// Where clients come in.
    pub fn of(fronts: &[Front]) -> Places {
        let addresses: Vec<_> = fronts.iter().filter_map(Front::address).collect();
        let files: Vec<_> = fronts.iter().filter_map(Front::file).collect();
        let told = |names: Vec<String>| if names.is_empty() { "NULL".to_owned() } else { names.join(",") };
        Places {
            port: addresses.first().map_or(0, std::net::SocketAddr::port),
            addresses: told(addresses.iter().map(|a| a.ip().to_string()).collect()),
            sockets: told(files.iter().map(|f| f.path().display().to_string()).collect()),
            mode: files.first().map_or(0o700, |f| f.mode()),
        }
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
        let is_counted =
            |figure: &&Figure| !matches!(figure, Figure::CurrConnections | Figure::CacheItems | Figure::CacheBytes);
        for figure in Figure::ALL.iter().filter(is_counted) {
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
            StatsTopic::General => general(&shared, holdings(&shared).await, &mut told),
            StatsTopic::Settings => settings(&shared, holdings(&shared).await, &mut told),
            StatsTopic::Kumofs => ours(&shared, &mut told),
            // There are no slabs here; as from a memcached that has stored nothing yet.
            StatsTopic::Slabs => {
                told.stat("active_slabs", 0);
                told.stat("total_malloced", 0);
                told.reply(&Reply::End);
            }
            StatsTopic::Sizes => {
                told.stat("sizes_status", "disabled");
                told.reply(&Reply::End);
            }
            StatsTopic::Items | StatsTopic::Conns => told.reply(&Reply::End),
            StatsTopic::Detail(detail) => told.detail(&shared.prefixes, detail),
            StatsTopic::Reset => {
                shared.reset_figures();
                shared.prefixes.clear();
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

    /// What memcached answers in text as a whole is one stat in the binary protocol.
    fn detail(&mut self, prefixes: &Prefixes, detail: Detail) {
        let is_text = self.how == Style::Text;
        match detail {
            Detail::On | Detail::Off => {
                prefixes.switch(detail == Detail::On);
                self.reply(if is_text { &Reply::Ok } else { &Reply::End });
            }
            Detail::Dump if is_text => prefixes.dump(&mut self.out),
            Detail::Dump => {
                let mut dump = Vec::new();
                prefixes.dump(&mut dump);
                self.stat("detailed", String::from_utf8_lossy(&dump));
                self.reply(&Reply::End);
            }
        }
    }

    fn stat(&mut self, name: &str, value: impl ToString) {
        self.reply(&Reply::Stat { name, value: &value.to_string() });
    }
}

/// What a line of `stats` tells.
enum Line {
    /// What was counted.
    Counted(Figure),
    /// What is read off somewhere else.
    Now(fn(&Shared, &Holdings) -> u64),
    /// What is never otherwise: nothing here evicts, crawls or moves items about.
    Always(u64),
}

use Line::{Always, Counted, Now};

/// What follows pid, uptime, time, version and CPU time, in memcached's order.
const GENERAL: &[(&str, Line)] = &[
    ("max_connections", Now(|_, _| open_files_limit())),
    ("curr_connections", Counted(Figure::CurrConnections)),
    ("total_connections", Counted(Figure::TotalConnections)),
    // Who comes over the limit waits in the system's queue.
    ("rejected_connections", Always(0)),
    ("connection_structures", Counted(Figure::CurrConnections)),
    ("response_obj_oom", Always(0)),
    ("response_obj_count", Always(0)),
    ("response_obj_bytes", Always(0)),
    ("read_buf_count", Always(0)),
    ("read_buf_bytes", Always(0)),
    ("read_buf_bytes_free", Always(0)),
    ("read_buf_oom", Always(0)),
    ("reserved_fds", Always(0)),
    ("cmd_get", Counted(Figure::CmdGet)),
    ("cmd_set", Counted(Figure::CmdSet)),
    ("cmd_flush", Counted(Figure::CmdFlush)),
    ("cmd_touch", Counted(Figure::CmdTouch)),
    ("cmd_meta", Counted(Figure::CmdMeta)),
    ("get_hits", Counted(Figure::GetHits)),
    ("get_misses", Counted(Figure::GetMisses)),
    ("get_expired", Counted(Figure::GetExpired)),
    ("get_flushed", Counted(Figure::GetFlushed)),
    ("delete_misses", Counted(Figure::DeleteMisses)),
    ("delete_hits", Counted(Figure::DeleteHits)),
    ("incr_misses", Counted(Figure::IncrMisses)),
    ("incr_hits", Counted(Figure::IncrHits)),
    ("decr_misses", Counted(Figure::DecrMisses)),
    ("decr_hits", Counted(Figure::DecrHits)),
    ("cas_misses", Counted(Figure::CasMisses)),
    ("cas_hits", Counted(Figure::CasHits)),
    ("cas_badval", Counted(Figure::CasBadval)),
    ("touch_hits", Counted(Figure::TouchHits)),
    ("touch_misses", Counted(Figure::TouchMisses)),
    ("store_too_large", Counted(Figure::StoreTooLarge)),
    ("store_no_memory", Always(0)),
    ("auth_cmds", Always(0)),
    ("auth_errors", Always(0)),
    ("bytes_read", Counted(Figure::BytesRead)),
    ("bytes_written", Counted(Figure::BytesWritten)),
    ("limit_maxbytes", Now(|_, held| held.limit_bytes)),
    ("accepting_conns", Always(1)),
    ("listen_disabled_num", Always(0)),
    ("time_in_listen_disabled_us", Always(0)),
    ("threads", Now(|shared, _| shared.counters.len() as u64)),
    ("conn_yields", Always(0)),
    ("hash_power_level", Always(0)),
    ("hash_bytes", Always(0)),
    ("hash_is_expanding", Always(0)),
    ("slab_reassign_rescues", Always(0)),
    ("slab_reassign_chunk_rescues", Always(0)),
    ("slab_reassign_evictions_nomem", Always(0)),
    ("slab_reassign_inline_reclaim", Always(0)),
    ("slab_reassign_busy_items", Always(0)),
    ("slab_reassign_busy_deletes", Always(0)),
    ("slab_reassign_running", Always(0)),
    ("slabs_moved", Always(0)),
    ("lru_crawler_running", Always(0)),
    ("lru_crawler_starts", Always(0)),
    ("lru_maintainer_juggles", Always(0)),
    ("malloc_fails", Always(0)),
    ("log_worker_dropped", Always(0)),
    ("log_worker_written", Always(0)),
    ("log_watcher_skipped", Always(0)),
    ("log_watcher_sent", Always(0)),
    ("log_watchers", Always(0)),
    ("unexpected_napi_ids", Always(0)),
    ("round_robin_fallback", Always(0)),
    ("bytes", Now(|_, held| held.bytes)),
    ("curr_items", Now(|_, held| held.items)),
    ("total_items", Counted(Figure::TotalItems)),
    ("slab_global_page_pool", Always(0)),
    ("expired_unfetched", Always(0)),
    ("evicted_unfetched", Always(0)),
    ("evicted_active", Always(0)),
    ("evictions", Always(0)),
    ("reclaimed", Always(0)),
    ("crawler_reclaimed", Always(0)),
    ("crawler_items_checked", Always(0)),
    ("lrutail_reflocked", Always(0)),
    ("moves_to_cold", Always(0)),
    ("moves_to_warm", Always(0)),
    ("moves_within_lru", Always(0)),
    ("direct_reclaims", Always(0)),
    ("lru_bumps_dropped", Always(0)),
];

fn general(shared: &Shared, held: Option<Holdings>, told: &mut Told) {
    told.stat("pid", std::process::id());
    told.stat("uptime", shared.started.elapsed().as_secs());
    told.stat("time", unix_secs());
    told.stat("version", VERSION);
    told.stat("pointer_size", usize::BITS);
    let (user, system) = cpu_time();
    told.stat("rusage_user", user);
    told.stat("rusage_system", system);
    // Not told rather than told wrongly, while no server has ever answered.
    const OF_SERVERS: [&str; 3] = ["limit_maxbytes", "bytes", "curr_items"];
    for (name, line) in GENERAL.iter().filter(|(name, _)| held.is_some() || !OF_SERVERS.contains(name)) {
        let value = match line {
            Counted(figure) => shared.figure(*figure),
            Now(read) => read(shared, &held.unwrap_or_default()),
            Always(value) => *value,
        };
        told.stat(name, value);
    }
    told.reply(&Reply::End);
}

/// What memcached's names do not cover.
fn ours(shared: &Shared, told: &mut Told) {
    let (config, view) = (&shared.config, shared.newest.borrow().clone());
    told.stat("kumofs_version", env!("CARGO_PKG_VERSION"));
    told.stat("kumo_epoch", view.number());
    told.stat("kumo_servers", view.epoch.servers.len());
    told.stat("kumo_retries", shared.figure(Figure::Retries));
    told.stat("kumo_failures", shared.figure(Figure::Failures));
    told.stat("kumo_max_keys_under_way", MAX_KEYS);
    let (hits, misses) = (shared.figure(Figure::CacheHits), shared.figure(Figure::CacheMisses));
    told.stat("kumo_cache_limit_bytes", config.local_cache.bytes);
    told.stat("kumo_cache_bytes", shared.figure(Figure::CacheBytes));
    told.stat("kumo_cache_items", shared.figure(Figure::CacheItems));
    told.stat("kumo_cache_hits", hits);
    told.stat("kumo_cache_misses", misses);
    told.stat("kumo_cache_hit_rate", format_args!("{:.4}", hits as f64 / (hits + misses).max(1) as f64));
    told.stat("kumo_cache_saved_bytes", shared.figure(Figure::CacheSavedBytes));
    told.stat("kumo_detail_untold", shared.prefixes.untold());
    told.stat("kumo_get_retry", config.get_retry);
    told.stat("kumo_set_retry", config.set_retry);
    told.stat("kumo_delete_retry", config.delete_retry);
    told.reply(&Reply::End);
}

fn settings(shared: &Shared, held: Option<Holdings>, told: &mut Told) {
    if let Some(held) = held {
        told.stat("maxbytes", held.limit_bytes);
    }
    told.stat("maxconns", open_files_limit());
    told.stat("tcpport", shared.places.port);
    told.stat("udpport", 0);
    told.stat("inter", &shared.places.addresses);
    told.stat("verbosity", 0);
    told.stat("oldest", 0);
    told.stat("evictions", "off");
    told.stat("domain_socket", &shared.places.sockets);
    told.stat("umask", format!("{:o}", shared.places.mode));
    told.stat("shutdown_command", "no");
    told.stat("num_threads", shared.counters.len());
    told.stat("stat_key_prefix", ":");
    told.stat("detail_enabled", if shared.prefixes.is_on() { "yes" } else { "no" });
    told.stat("cas_enabled", "yes");
    told.stat("tcp_backlog", crate::net::listen::BACKLOG);
    told.stat("binding_protocol", "auto-negotiate");
    told.stat("auth_enabled_sasl", "no");
    told.stat("auth_enabled_ascii", "no");
    told.stat("item_size_max", shared.config.limits.value_bytes);
    told.stat("maxconns_fast", "no");
    told.stat("slab_reassign", "no");
    told.stat("slab_automove", 0);
    told.stat("lru_crawler", "no");
    told.stat("lru_crawler_sleep", 0);
    told.stat("lru_crawler_tocrawl", 0);
    told.stat("flush_enabled", "yes");
    told.stat("dump_enabled", "no");
    told.stat("lru_maintainer_thread", "no");
    told.stat("lru_segmented", "no");
    told.stat("hot_lru_pct", 0);
    told.stat("warm_lru_pct", 0);
    told.stat("hot_max_factor", "0.00");
    told.stat("warm_max_factor", "0.00");
    told.stat("temp_lru", "no");
    told.stat("idle_timeout", 0);
    told.stat("track_sizes", "no");
    told.stat("ssl_enabled", "no");
    told.reply(&Reply::End);
}

/// Files that this process may have open: each client is one, beside a few.
fn open_files_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live local, which stays as it is should the call fail.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// CPU time of this process, user and system, in seconds as memcached writes them.
fn cpu_time() -> (String, String) {
    let usage = Usage::of_this_process();
    let text = |time: Duration| format!("{}.{:06}", time.as_secs(), time.subsec_micros());
    (text(usage.user), text(usage.system))
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
