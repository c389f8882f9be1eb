//! One run: a cluster, clients, a script, and the judgement.

use super::client::{self, Client, Load, Log};
use super::cluster::{Cluster, Command, Shape, Who, key_name};
use super::node::{self, Dice, Node, Process};
use super::script::{self, Act, Script};
use super::wide::Wide;
use super::{events, net, trace};
use crate::check::{self, Action, Clocks, Entry, Flushed, Outcome, Verdict};
use crate::logic::epoch::Phase;
use crate::logic::record;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Steps of search for each key's history.
const CHECK_STEPS: u64 = 3_000_000;
/// How long a cluster may take to serve at first, and after all faults are over.
const SERVES_WITHIN: Duration = Duration::from_secs(40);
/// How long it may take to serve again without an operator.
const HEALS_WITHIN: Duration = Duration::from_secs(12);

/// How long a script waits for another epoch.
const EPOCH_WITHIN: Duration = Duration::from_secs(3);

/// How long managers may take to have a flush done that is due, once nothing is wrong any more.
const FLUSHES_WITHIN: Duration = Duration::from_secs(3);
/// The numbers of clients that ask for one thing begin here, and go on with milliseconds and the key.
const ASKERS: u32 = 1_000_000;

/// How long replicas may take to agree after the last command: some may have to be filled first.
const SETTLES_WITHIN: Duration = Duration::from_secs(15);

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything else.
    pub seed: u64,
    /// The cluster.
    pub shape: Shape,
    /// What clients do.
    pub load: Load,
    /// What happens meanwhile.
    pub script: Script,
    /// How long clients send commands, in milliseconds.
    pub duration_ms: u64,
    /// The longest time without an acknowledged change that is allowed, in milliseconds.
    pub gap_ms: Option<u64>,
    /// An operator had to attach servers before all keys were served again.
    attached: Cell<bool>,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No order explains what clients saw.
    NotLinearizable(String),
    /// It does not serve although nothing is wrong any more.
    NotServing(String),
    /// Replicas hold different records.
    Disagreement(String),
    /// A process ended by itself.
    Ended(String),
    /// A backup cannot be opened, or could not take the cluster's place.
    Backup(String),
    /// There was too long a time without an acknowledged change.
    Gap(u64),
    /// It panicked.
    Panic(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotLinearizable(text) => write!(f, "not linearizable: {text}"),
            Failure::NotServing(text) => write!(f, "does not serve: {text}"),
            Failure::Disagreement(text) => write!(f, "replicas disagree: {text}"),
            Failure::Ended(text) => write!(f, "ended by itself: {text}"),
            Failure::Backup(text) => write!(f, "wrong backup: {text}"),
            Failure::Gap(ms) => write!(f, "{ms} ms without an acknowledged change"),
            Failure::Panic(text) => write!(f, "panicked: {text}"),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, if anything.
    pub failure: Option<Failure>,
    /// Operations, and those of unknown outcome.
    pub operations: usize,
    /// See `operations`.
    pub unknown: usize,
    /// Whether an operator had to attach servers before all keys were served again.
    pub attached: bool,
    /// Whether the search for an order gave up.
    pub undecided: bool,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Packets delivered: differs when two runs of a seed do.
    pub packets: u64,
    /// Lines of what happened, if asked for.
    pub trace: Vec<String>,
}

impl Plan {
    /// One that is made of these.
    pub fn new(seed: u64, shape: Shape, load: Load, script: Script, duration_ms: u64, gap_ms: Option<u64>) -> Plan {
        Plan { seed, shape, load, script, duration_ms, gap_ms, attached: Cell::new(false) }
    }

    /// A random one.
    pub fn draw(seed: u64) -> Plan {
        let mut dice = Dice::new(seed);
        let shape = script::draw_shape(&mut dice);
        let readers = if dice.one_in(2) { Some(dice.below(shape.gateways as u64) as usize) } else { None };
        let keys = 1 + dice.below(4) as usize;
        let load = Load::new(keys, 10 + dice.below(100), readers);
        let duration_ms = 3_000 + dice.below(9_000);
        let script = script::draw_script(&mut dice, &shape, load.keys, duration_ms);
        Plan::new(seed, shape, load, script, duration_ms, None)
    }

    /// The same with some of the rarer commands.
    pub fn widened(mut self) -> Plan {
        self.load.wide = Wide::draw(self.seed);
        self
    }

    /// The same with large values among those that are stored.
    pub fn large(mut self) -> Plan {
        self.load.large = true;
        self
    }

    /// The same with clocks apart, backups, replaces and changes of pace.
    pub fn eventful(mut self) -> Plan {
        events::add(self.seed, &self.shape, self.duration_ms, &mut self.script);
        self
    }

    /// By how many seconds wall clocks are apart at most.
    fn skew_secs(&self) -> u64 {
        let ahead = self.script.iter().filter_map(|(_, act)| match act {
            Act::WallClock(_, secs) => Some(*secs),
            _ => None,
        });
        let (least, most) = ahead.fold((0, 0), |(least, most), secs| (secs.min(least), secs.max(most)));
        most.abs_diff(least)
    }

    /// Carries it out. With `traced`, the report has lines of what happened.
    pub fn run(&self, traced: bool) -> Report {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let _guard = traced.then(|| trace::collect(&lines));
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run_inner()));
        net::end();
        let mut report = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Report { failure: Some(Failure::Panic(text.unwrap_or_default())), ..Report::default() }
        });
        report.trace = lines.take();
        report
    }

    fn run_inner(&self) -> Report {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime needs nothing of the system");
        // Not a local runtime: that would take the tasks which processes start for its own.
        let world = LocalSet::new();
        let report = world.block_on(&runtime, async {
            node::begin();
            net::begin(self.seed);
            tokio::task::spawn_local(net::run());
            let cluster = Rc::new(Cluster::new(self.shape, self.seed));
            let log = Rc::new(Log::default());
            let failure = self.live(&cluster, &log).await.err();
            self.judge(&cluster, &log, failure)
        });
        drop(world);
        report
    }

    async fn live(&self, cluster: &Rc<Cluster>, log: &Rc<Log>) -> Result<(), Failure> {
        self.bring_up(cluster, log).await?;
        self.store_ballast(cluster, log).await;
        let enough = Rc::new(Cell::new(false));
        let mut clients = Vec::new();
        for gateway in 0..self.shape.gateways {
            for _ in 0..self.load.clients {
                let number = clients.len() as u32;
                let ip = cluster.host(Who::Gateway(gateway)).node.ip;
                let client = Client::new(number, (gateway, ip), log.clone(), self.seed);
                // A process of its own on the gateway's host: it outlives the gateway's.
                let host = Node::new(&format!("client{number}"), ip, self.seed ^ u64::from(number) << 8);
                host.lives.set(1_000_000 + u64::from(number));
                clients.push(Process::start(&host, client.run(self.load, enough.clone())));
            }
        }
        cluster.load_begins();
        log.watch_gaps();
        let mut began = Instant::now();
        let mut epoch = cluster.newest_epoch().number;
        for (at, act) in &self.script {
            sleep_until(began + Duration::from_millis(*at)).await;
            tracing::info!("*** {act}");
            match act {
                Act::AwaitEpoch => began += until_another_epoch(cluster, epoch).await,
                Act::Ask(gateway, key, action) => self.ask(cluster, log, (*gateway, *key, action.clone())),
                Act::Insist(command) => began += insist(cluster, *command).await,
                _ => {}
            }
            epoch = cluster.newest_epoch().number;
            act.strike(cluster);
        }
        sleep_until(began + Duration::from_millis(self.duration_ms)).await;
        if let Some(gap_ms) = self.gap_ms
            && log.longest_gap.get() > gap_ms * 1000
        {
            return Err(Failure::Gap(log.longest_gap.get() / 1000));
        }
        tracing::info!("*** all faults are over");
        for who in cluster.everybody() {
            let node = &cluster.host(who).node;
            node.set_drift_ppm(0);
            node.set_wall_offset(0);
            cluster.set_disk_faults(who, Default::default());
        }
        net::heal_all();
        cluster.start_all();
        if self.load.ends_reading() {
            enough.set(true);
        }
        if events::changes_pace(&self.script) {
            for command in [Command::Pause(false), Command::Rate(0)] {
                let _ = cluster.command(command).await;
            }
        }
        if self.until_served(cluster, log, HEALS_WITHIN).await.is_err() {
            tracing::info!("*** an operator attaches");
            self.attached.set(true);
            cluster.command(Command::Attach).await.map_err(|e| Failure::NotServing(format!("attach: {e}")))?;
            self.until_served(cluster, log, SERVES_WITHIN).await?;
        }
        enough.set(true);
        for client in &clients {
            client.ended().await;
        }
        self.see_flushes(cluster, log).await?;
        let until = Instant::now() + SETTLES_WITHIN;
        loop {
            sleep(Duration::from_millis(200)).await;
            match self.compare(cluster) {
                Err(_) if Instant::now() < until => {}
                compared => return compared,
            }
        }
    }

    /// A client that asks for one thing. It outlives what happens to its gateway, as all do.
    fn ask(&self, cluster: &Rc<Cluster>, log: &Rc<Log>, (gateway, key, action): (Who, usize, Action)) {
        let ip = cluster.host(gateway).node.ip;
        let number = ASKERS + (node::elapsed_micros() / 1000) as u32 * 10 + key as u32;
        let host = Node::new(&format!("asker{number}"), ip, self.seed);
        host.lives.set(3_000_000 + u64::from(number));
        let mut client = Client::new(number, (0, ip), log.clone(), self.seed);
        Process::start(&host, async move { drop(client.execute(key, action).await) });
    }

    /// Where a flush was asked for with a delay: waits until it is done, which it must be soon once it is due, and has
    /// every key read again through every gateway.
    async fn see_flushes(&self, cluster: &Rc<Cluster>, log: &Rc<Log>) -> Result<(), Failure> {
        let is_delayed = |entry: &Entry| matches!(entry.action, Action::FlushLater(_));
        if !log.history.borrow().entries().iter().any(is_delayed) {
            return Ok(());
        }
        let due = node::elapsed_micros() * 1000;
        let until = Instant::now() + FLUSHES_WITHIN;
        while cluster.newest_epoch().flush_at.is_some_and(|at| at <= node::unix_secs()) {
            if Instant::now() > until {
                return Err(Failure::NotServing(format!("a flush is due and not done: {}", cluster.describe())));
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.until_read(cluster, log).await;
        let done = node::elapsed_micros() * 1000;
        log.history.borrow_mut().flushed = Some(Flushed { due, done });
        self.until_read(cluster, log).await;
        Ok(())
    }

    /// Has every key read through every gateway, and waits for that.
    async fn until_read(&self, cluster: &Rc<Cluster>, log: &Rc<Log>) {
        for gateway in 0..self.shape.gateways {
            for key in 0..self.load.keys {
                self.ask(cluster, log, (Who::Gateway(gateway), key, Action::Get));
                sleep(Duration::from_millis(20)).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
    }

    async fn bring_up(&self, cluster: &Rc<Cluster>, log: &Rc<Log>) -> Result<(), Failure> {
        (0..self.shape.managers).for_each(|n| cluster.start(Who::Manager(n)));
        (0..self.shape.attached).for_each(|n| cluster.start(Who::Server(n)));
        (0..self.shape.gateways).for_each(|n| cluster.start(Who::Gateway(n)));
        sleep(Duration::from_secs(2)).await;
        cluster.command(Command::Attach).await.map_err(|e| Failure::NotServing(format!("attach: {e}")))?;
        self.until_served(cluster, log, SERVES_WITHIN).await?;
        (0..self.shape.servers).for_each(|n| cluster.start(Who::Server(n)));
        Ok(())
    }

    async fn store_ballast(&self, cluster: &Cluster, log: &Rc<Log>) {
        let Some((count, bytes)) = self.load.ballast else { return };
        let ip = cluster.host(Who::Gateway(0)).node.ip;
        let host = Node::new("ballast", ip, self.seed);
        host.lives.set(3_000_000);
        let mut client = Client::new(99, (0, ip), log.clone(), self.seed);
        let storing = async move {
            for number in 0..count {
                client.execute(client::BALLAST + number, Action::Set(vec![b'b'; bytes].into())).await;
            }
        };
        Process::start(&host, storing).ended().await;
    }

    /// Waits until every gateway stores and reads every key, for as long as that may take.
    async fn until_served(&self, cluster: &Rc<Cluster>, log: &Rc<Log>, within: Duration) -> Result<(), Failure> {
        let until = Instant::now() + within;
        // What is stored at first tells that it serves at all.
        let reads = self.load.ends_reading() && !log.is_new();
        for gateway in 0..self.shape.gateways {
            let ip = cluster.host(Who::Gateway(gateway)).node.ip;
            let host = Node::new(&format!("probe{gateway}"), ip, self.seed);
            host.lives.set(2_000_000 + node::elapsed_micros());
            let (served, log, keys) = (Rc::new(Cell::new(false)), log.clone(), self.load.keys);
            let number = 100 + gateway as u32 + (node::elapsed_micros() / 1000 * 10) as u32;
            let (seed, told) = (self.seed, served.clone());
            let probe = Process::start(&host, async move {
                let mut client = Client::new(number, (gateway, ip), log, seed);
                for key in 0..keys {
                    loop {
                        if reads && matches!(client.execute(key, Action::Get).await, Outcome::Value(..) | Outcome::Miss)
                        {
                            break;
                        }
                        let value = if key % 3 == 1 { "1".to_owned() } else { format!("p{number}.{key}") };
                        let stored = !reads
                            && client.execute(key, Action::Set(value.into_bytes().into())).await == Outcome::Stored;
                        let read = client.execute(key, Action::Get).await;
                        if stored && matches!(read, Outcome::Value(..) | Outcome::Miss) {
                            break;
                        }
                        sleep(Duration::from_millis(500)).await;
                    }
                }
                told.set(true);
            });
            while !served.get() {
                let failures = cluster.failures();
                if let Some((who, line)) = failures.first() {
                    return Err(Failure::Ended(format!("{who}: {line}")));
                }
                if Instant::now() > until {
                    let state = cluster.describe();
                    return Err(Failure::NotServing(format!("gateway{gateway} after {within:?}: {state}")));
                }
                sleep(Duration::from_millis(50)).await;
            }
            let life = host.lives.get();
            probe.kill();
            net::process_died(ip, life);
        }
        Ok(())
    }

    /// Whether the replicas of each key hold the same, and no records move any more.
    fn compare(&self, cluster: &Cluster) -> Result<(), Failure> {
        let epoch = cluster.newest_epoch();
        // Who died for good has to be attached or detached first.
        if epoch.phase != Phase::Idle && epoch.whs.nodes.iter().all(|node| node.active) {
            return Err(Failure::NotServing(format!("records still move: {}", cluster.describe())));
        }
        for key in (0..self.load.keys).map(key_name) {
            let members = cluster.members(&epoch, &key);
            let held = |server: &usize| {
                let record = cluster.stored(*server, &key);
                // A mark that is collected here and not yet there is the same as none.
                record.filter(|(at, dbval)| !record::is_mark(dbval) && *at >= epoch.flushed)
            };
            let first = members.first().and_then(held);
            if let Some(other) = members.iter().find(|server| held(server) != first) {
                let text = format!(
                    "{key} at server{} {first:?}, at server{other} {:?} in epoch {}",
                    members[0],
                    held(other),
                    epoch.number
                );
                return Err(Failure::Disagreement(text));
            }
        }
        Ok(())
    }

    fn judge(&self, cluster: &Cluster, log: &Log, failure: Option<Failure>) -> Report {
        let mut history = log.history.borrow_mut();
        history.clocks = Clocks { second: client::SECOND, skew_secs: self.skew_secs() };
        let unknown = history.entries().iter().filter(|e| e.outcome == Outcome::Unknown).count();
        let verdict = check::check(&history, CHECK_STEPS);
        let mut undecided = matches!(verdict, Verdict::Undecided(_));
        let mut judged = match verdict {
            Verdict::Violated(violation) => Some(Failure::NotLinearizable(violation.to_string())),
            Verdict::Linearizable | Verdict::Undecided(_) => failure,
        };
        for who in cluster.everybody() {
            cluster.kill(who);
        }
        for backup in cluster.backups.borrow().iter() {
            if judged.is_some() {
                break;
            }
            match backup.judge(cluster, &history, self.load.keys) {
                Ok(known) => undecided |= !known,
                Err(text) => judged = Some(Failure::Backup(text)),
            }
        }
        Report {
            failure: judged,
            operations: history.entries().len(),
            unknown,
            attached: self.attached.get(),
            undecided,
            virtual_ms: node::elapsed_micros() / 1000,
            packets: net::packets(),
            trace: Vec::new(),
        }
    }
}

/// Repeats a command until the newest epoch on any disk is another. Returns how long that took.
async fn insist(cluster: &Rc<Cluster>, command: Command) -> Duration {
    let (began, known) = (Instant::now(), cluster.newest_epoch().number);
    while cluster.newest_epoch().number == known && began.elapsed() < EPOCH_WITHIN {
        // One that is refused, or not answered, is repeated like one that has nothing to change.
        let _ = cluster.command(command).await;
        sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

/// Waits until the newest epoch on any disk is another than `known`. Returns how long that took.
async fn until_another_epoch(cluster: &Cluster, known: u64) -> Duration {
    let began = Instant::now();
    while cluster.newest_epoch().number == known && began.elapsed() < EPOCH_WITHIN {
        sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}
