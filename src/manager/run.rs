//! A manager among sockets: listens, dials its partners, pings, checks, and carries out what [`State`] says.
//!
//! [`run`] is handed bound listeners and a stop signal and runs as local tasks of one thread. An epoch is synced to the
//! state file before anybody is told of it, and so is this manager's vote; a manager that cannot do that stops.

use super::links::{Link, LinkKind, Links};
use super::persist::{Kept, PersistError, StateFile};
use super::requests;
use super::state::{Action, ConnId, Level, Now, Setup, State, Ticket};
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::paxos::{Answer, Question, Vote, Voter};
use crate::logic::rule::{Rule, on};
use crate::net::listen;
use crate::net::rpc::{CallError, Event, Handler, Limits, Peer, RpcConn};
use crate::net::settings::Settings;
use crate::net::sock::{TcpListener, TcpStream};
use crate::proto::binlog::Happened;
use crate::proto::rpc::frame::Role;
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::vote::{Ask, Voted};
use crate::proto::rpc::{error, v0, v1};
use crate::store::fs::{Disk, RealDisk};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant, MissedTickBehavior};

/// How long a server may be silent (doc/guarantees.md, "The promise", 4: 2 s in all), at least.
pub const LOST_AFTER: Duration = Duration::from_millis(1500);
/// How often the state looks at the time.
const TICK: Duration = Duration::from_millis(25);
/// How long a manager that was refused is not dialled.
const AVOIDED: Duration = Duration::from_secs(5);
/// A server that has not said by then that it speaks version 1 does not.
const JOIN_WITHIN: Duration = Duration::from_secs(1);

/// Takes down what happened, for the binary log.
#[derive(Clone)]
pub struct Recorder(Arc<dyn Fn(&Happened<'_>) + Send + Sync>);

impl Recorder {
    /// Hands each happening to a function, which must not block.
    pub fn new(note: impl Fn(&Happened<'_>) + Send + Sync + 'static) -> Recorder {
        Recorder(Arc::new(note))
    }

    fn note(&self, happened: &Happened<'_>) {
        (self.0)(happened);
    }
}

impl Default for Recorder {
    /// Forgets everything.
    fn default() -> Recorder {
        Recorder::new(|_| {})
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// A disk.
#[derive(Clone)]
pub struct DiskHandle(pub Arc<dyn Disk>);

impl fmt::Debug for DiskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskHandle")
    }
}

impl Default for DiskHandle {
    /// This host's.
    fn default() -> DiskHandle {
        DiskHandle(Arc::new(RealDisk))
    }
}

/// What a manager is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-l`: this manager, as other nodes reach it.
    pub listen: Address,
    /// `-p`: the other managers.
    pub partners: Vec<Address>,
    /// `-a`: attach and detach without an operator.
    pub auto_replace: bool,
    /// `-Rs`: how long to wait for more servers to come or go.
    pub replace_delay: Duration,
    /// `-k`: how often servers are pinged.
    pub keepalive_interval: Duration,
    /// `-Ys`: how long connecting may take.
    pub connect_timeout: Duration,
    /// `-Yn`: how often connecting is tried again.
    pub connect_retry_limit: u32,
    /// `--state`: where the newest epoch is kept. Without it a restarted manager learns from its partner and servers.
    pub state: Option<PathBuf>,
    /// Where that path leads.
    pub disk: DiskHandle,
    /// `-g`: where programs read what happened.
    pub recorder: Recorder,
    /// What the process was told at its start.
    pub settings: Settings,
    /// Random numbers: this start's, a new state file's, a new cluster's.
    pub dice: [u64; 3],
    /// The wall clock: UNIX seconds.
    pub unix_secs: fn() -> u64,
}

impl Config {
    /// The defaults of kumo-manager.
    pub fn new(listen: Address, dice: [u64; 3], unix_secs: fn() -> u64) -> Config {
        Config {
            listen,
            partners: Vec::new(),
            auto_replace: false,
            replace_delay: Duration::from_secs(4),
            keepalive_interval: Duration::from_millis(500),
            connect_timeout: Duration::from_millis(500),
            connect_retry_limit: 2,
            state: None,
            disk: DiskHandle::default(),
            recorder: Recorder::default(),
            settings: Settings::default(),
            dice,
            unix_secs,
        }
    }

    /// How long a peer may leave a ping unanswered.
    fn lost_after(&self) -> Duration {
        LOST_AFTER.max(self.keepalive_interval * 3)
    }
}

/// A running manager, as its tasks share it.
pub(super) struct Manager {
    pub(super) config: Config,
    pub(super) disk_id: u64,
    pub(super) state: RefCell<State>,
    pub(super) links: RefCell<Links>,
    /// Commands that are being voted on.
    pub(super) waiting: RefCell<BTreeMap<Ticket, requests::Waiting>>,
    file: Option<StateFile>,
    started: Instant,
    /// Partners being connected to, and when those that were refused are to be tried again.
    dialling: RefCell<BTreeSet<Address>>,
    avoided: RefCell<BTreeMap<Address, Instant>>,
    failed: watch::Sender<bool>,
    failure: Cell<Option<PersistError>>,
}

/// Runs a manager until `shutdown` says true or its sender is gone. Needs a `LocalSet` or local runtime.
///
/// # Errors
/// When the state file cannot be opened, or cannot be written any more.
pub async fn run(
    config: Config,
    listeners: Vec<TcpListener>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), PersistError> {
    let manager = Manager::open(config)?;
    tracing::info!("start manager {}", manager.config.listen);
    let (addr, partner) = (manager.config.listen, manager.config.partners.first().copied());
    manager.config.recorder.note(&Happened::ManagerStart { addr, partner });
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn_local(manager.clone().accept(listener));
    }
    tasks.spawn_local(manager.clone().tick());
    tasks.spawn_local(manager.clone().ping());
    let mut failed = manager.failed.subscribe();
    tokio::select! {
        biased;
        // An error says that nobody is left who could ask to stop: stop as well.
        _ = shutdown.wait_for(|stop| *stop) => {}
        _ = failed.wait_for(|failed| *failed) => {}
    }
    tasks.shutdown().await;
    manager.links.borrow().close_all();
    manager.failure.take().map_or(Ok(()), Err)
}

impl Manager {
    fn open(config: Config) -> Result<Rc<Manager>, PersistError> {
        let [_, fresh_disk_id, new_cluster] = config.dice;
        let fresh_disk_id = fresh_disk_id.max(1);
        let (file, kept) = match &config.state {
            Some(path) => {
                StateFile::open(&config.disk.0, path, fresh_disk_id).map(|(file, kept)| (Some(file), kept))?
            }
            None => (None, Kept::default()),
        };
        let disk_id = file.as_ref().map_or(fresh_disk_id, StateFile::disk_id);
        let setup = Setup {
            own: config.listen,
            disk_id,
            new_cluster: new_cluster.max(1),
            partners: config.partners.clone(),
            lost_after: config.lost_after(),
            replace_delay: config.replace_delay,
        };
        Ok(Rc::new(Manager {
            state: RefCell::new(State::new(setup, kept, config.auto_replace)),
            links: RefCell::default(),
            waiting: RefCell::default(),
            file,
            disk_id,
            started: Instant::now(),
            dialling: RefCell::default(),
            avoided: RefCell::default(),
            failed: watch::Sender::new(false),
            failure: Cell::new(None),
            config,
        }))
    }

    pub(super) fn now(&self) -> Now {
        Now { since_start: self.started.elapsed(), unix_secs: (self.config.unix_secs)() }
    }

    /// Lets the state see something, and does what it says then.
    pub(super) fn with_state<T>(self: &Rc<Self>, event: impl FnOnce(&mut State, Now) -> T) -> T {
        let answer = event(&mut self.state.borrow_mut(), self.now());
        self.act();
        answer
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let (stream, _) = listen::accept(&listener).await;
            let id = self.links.borrow_mut().reserve();
            let conn = RpcConn::accept(stream, self.hello(), Limits::default(), self.handler(id));
            self.links.borrow_mut().add(id, Link::new(conn, false));
        }
    }

    fn hello(&self) -> (Address, Role) {
        (self.config.listen, Role::Manager)
    }

    fn handler(self: &Rc<Self>, id: ConnId) -> Handler {
        // Weak, because the manager holds the connections and each of them its handler.
        let manager: Weak<Manager> = Rc::downgrade(self);
        Rc::new(move |conn: &RpcConn, event: Event| {
            let Some(manager) = manager.upgrade() else { return };
            match event {
                Event::Opened(Peer::Node(address, Role::Server)) => manager.server_opened(id, address),
                Event::Opened(Peer::Node(address, Role::Manager)) => manager.manager_opened(id, conn, address),
                Event::Opened(Peer::Client) => manager.links.borrow_mut().set_kind(id, LinkKind::Client),
                Event::Request(request) => requests::handle(&manager, id, request),
                Event::Closed(_) => manager.closed(id),
            }
        })
    }

    fn server_opened(self: &Rc<Self>, id: ConnId, address: Address) {
        self.links.borrow_mut().set_kind(id, LinkKind::Server);
        self.with_state(|state, now| state.server_opened(now, id, address));
    }

    fn manager_opened(self: &Rc<Self>, id: ConnId, conn: &RpcConn, address: Address) {
        if !self.config.partners.contains(&address) {
            tracing::warn!("unknown partner {address}: give it to this manager with --partner, or keep it away");
            self.config.recorder.note(&Happened::UnknownPartner(address));
            conn.close();
            return;
        }
        let other = self.links.borrow().partner(address);
        if let Some((other, other_dialled)) = other {
            // Both dialled at once: both keep the connection that the lower address opened.
            let keep_dialled = self.config.listen < address;
            if other_dialled == keep_dialled {
                self.links.borrow_mut().set_kind(id, LinkKind::Spare);
                conn.close();
                return;
            }
            self.links.borrow_mut().retire(other);
        }
        self.links.borrow_mut().set_kind(id, LinkKind::Partner);
        if other.is_none() {
            self.with_state(|state, _| state.partner_opened(address));
        }
        tokio::task::spawn_local(self.clone().learn_version(id, conn.clone(), address));
    }

    /// Asks a partner whether it is one of ours, and shows it our epoch.
    async fn learn_version(self: Rc<Self>, id: ConnId, conn: RpcConn, address: Address) {
        let connect = v1::Connect {
            peer: v1::Peer::Manager,
            incarnation: self.config.dice[0],
            workers: 1,
            from_worker: 0,
            worker: 0,
        };
        // An old partner hangs up on what it does not know: it is not asked twice.
        let answer = if self.links.borrow().old_partners.contains(&address) {
            Err(CallError::Refused(error::PROTOCOL, Vec::new()))
        } else {
            conn.call_with(|out, msgid| connect.write(out, msgid), self.config.lost_after()).await
        };
        let answer = answer.map(|result| v1::Connected::read(&result));
        // What it has decided is learnt before anything is decided together with it.
        let epoch = if matches!(answer, Ok(Ok(_))) { self.learn_epoch(&conn).await } else { Ok(None) };
        if self.links.borrow().partner(address).map(|(partner, _)| partner) != Some(id) {
            return;
        }
        match (answer, epoch) {
            (Ok(Ok(connected)), Ok(epoch)) => {
                let disk_id = connected.disk_id;
                let met = self.with_state(|state, now| state.partner_met(now, address, disk_id, epoch));
                if met.is_err() {
                    self.avoided.borrow_mut().insert(address, Instant::now() + AVOIDED);
                    // It is to find out for itself why.
                    return conn.hang_up();
                }
            }
            (Err(CallError::Refused(error::PROTOCOL, _)), _) => {
                self.links.borrow_mut().old_partners.insert(address);
                self.state.borrow_mut().partner_is_old(address);
            }
            // It will be asked again on the next connection.
            _ => return conn.close(),
        }
        self.tell(&[id]);
    }

    /// A partner's newest epoch, also when it is older than ours: it may be another cluster's.
    async fn learn_epoch(self: &Rc<Self>, partner: &RpcConn) -> Result<Option<Epoch>, CallError> {
        let params = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_uint(out, 0);
        };
        let result = partner.call(v1::method::GET_EPOCH, params, self.config.lost_after()).await?;
        Ok(Reader::new(&result).raw().ok().and_then(|epoch| Epoch::decode(epoch).ok()))
    }

    /// Asks a voter, and tells it what it must know before, if it does not.
    async fn ask(self: Rc<Self>, voter: Voter, question: Question) {
        let Some((id, conn)) = self.links.borrow().node(voter.address) else { return };
        let (number, ballot) = (question.number, question.ballot);
        let ask = Ask { cluster: self.state.borrow().epoch().cluster, question };
        for is_last in [false, true] {
            let answer = conn.call_with(|out, msgid| ask.write(out, msgid), self.config.lost_after()).await;
            let Some(voted) = answer.ok().and_then(|result| Voted::read(&result).ok()) else { return };
            let voter = Voter { disk_id: voted.disk_id, ..voter };
            match voted {
                Voted { answer: Answer::Elsewhere, newest: (_, Some(epoch)), .. } => {
                    if let Ok(epoch) = Epoch::decode(&epoch) {
                        // One of another cluster was refused when it joined.
                        let _ = self.with_state(|state, now| state.shown(now, epoch));
                    }
                    return;
                }
                Voted { answer: Answer::Elsewhere, newest: (theirs, None), .. } => {
                    if is_last || theirs + 1 >= number {
                        return;
                    }
                    self.tell(&[id]);
                }
                Voted { answer, .. } => {
                    return self.with_state(|state, now| state.voted(now, voter, number, ballot, answer));
                }
            }
        }
    }

    fn closed(self: &Rc<Self>, id: ConnId) {
        let link = self.links.borrow_mut().remove(id);
        match link.map(|l| (l.kind, l.peer_address())) {
            Some((LinkKind::Server, _)) => self.with_state(|state, now| state.server_closed(now, id)),
            Some((LinkKind::Partner, Some(address))) => {
                self.with_state(|state, now| state.partner_closed(now, address));
            }
            _ => {}
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.with_state(|state, now| {
                state.tick(now);
                if let Some(then) = now.since_start.checked_sub(JOIN_WITHIN) {
                    for conn in state.silent_since(then) {
                        state.spoke_old(now, conn);
                    }
                }
            });
        }
    }

    async fn ping(self: Rc<Self>) {
        let mut interval = time::interval(self.config.keepalive_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            for (id, conn, kind) in self.links.borrow().nodes() {
                tokio::task::spawn_local(self.clone().ping_one(id, conn, kind));
            }
            for partner in &self.config.partners {
                let avoided = self.avoided.borrow().get(partner).is_some_and(|until| Instant::now() < *until);
                if !avoided
                    && self.links.borrow().partner(*partner).is_none()
                    && self.dialling.borrow_mut().insert(*partner)
                {
                    tokio::task::spawn_local(self.clone().dial_partner(*partner));
                }
            }
        }
    }

    async fn ping_one(self: Rc<Self>, id: ConnId, conn: RpcConn, kind: LinkKind) {
        let (counter, hears) = (self.state.borrow().counter(), self.state.borrow().hears());
        let address = self.links.borrow().address(id);
        let ours = kind == LinkKind::Partner && address.is_some_and(|a| self.state.borrow().is_our_partner(a));
        let params = |out: &mut Vec<u8>| {
            write_array(out, if ours { 2 } else { 1 });
            write_uint(out, u64::from(counter));
            if ours {
                write_uint(out, u64::from(hears));
            }
        };
        // A partner that hangs is to be noticed as soon as a server that hangs with it.
        let all = self.config.lost_after();
        let patience = if kind == LinkKind::Partner { all - self.config.keepalive_interval } else { all };
        let answer = conn.call(v0::method::KEEP_ALIVE, params, patience).await;
        match (answer, kind) {
            (Ok(_), LinkKind::Server) => self.with_state(|state, now| state.alive(now, id)),
            (Err(CallError::Timeout), LinkKind::Partner) => conn.close(),
            // A silent server meets its deadline; a broken connection is told otherwise.
            _ => {}
        }
    }

    async fn dial_partner(self: Rc<Self>, partner: Address) {
        let id = self.links.borrow_mut().reserve();
        let (to, timeout) = (partner.socket_addr(), self.config.connect_timeout);
        let dialled = RpcConn::connect_node(to, self.hello(), timeout, Limits::default(), self.handler(id)).await;
        if let Ok(conn) = dialled {
            self.links.borrow_mut().add(id, Link::new(conn, true));
        }
        self.dialling.borrow_mut().remove(&partner);
    }

    /// Does what the state says until it says nothing more.
    fn act(self: &Rc<Self>) {
        loop {
            let actions = self.state.borrow_mut().take_actions();
            if actions.is_empty() {
                return;
            }
            let durable = |action: &Action| matches!(action, Action::Spread | Action::HandOver | Action::Keep);
            if actions.iter().any(durable) && !self.save() {
                return;
            }
            for action in actions {
                match action {
                    Action::NoteNew(address) => self.config.recorder.note(&Happened::NewServer(address)),
                    Action::NoteLost(address) => self.config.recorder.note(&Happened::LostServer(address)),
                    Action::Log(Level::Info, line) => tracing::info!("{line}"),
                    Action::Log(Level::Warn, line) => tracing::warn!("{line}"),
                    Action::Spread => {
                        let everybody = self.links.borrow().all();
                        self.tell(&everybody);
                    }
                    Action::HandOver => {
                        let epoch = self.state.borrow().epoch().clone();
                        tokio::task::spawn_local(self.clone().hand_over(epoch));
                    }
                    // Done above, before anything was said.
                    Action::Keep => {}
                    Action::Confer => {
                        for (id, conn, kind) in self.links.borrow().nodes() {
                            if kind == LinkKind::Partner {
                                tokio::task::spawn_local(self.clone().ping_one(id, conn, kind));
                            }
                        }
                    }
                    Action::Ask(voter, question) => {
                        tokio::task::spawn_local(self.clone().ask(voter, question));
                    }
                    Action::Answer(ticket, outcome) => requests::answer(self, ticket, outcome),
                    Action::Tell(id) => self.tell(&[id]),
                    Action::Close(id) => self.links.borrow().close(id),
                    Action::Check(address) => {
                        tokio::task::spawn_local(self.clone().check(address));
                    }
                    Action::Hint(address) => self.links.borrow().hint_partners(address),
                }
            }
        }
    }

    /// Whether the state file could not be written: nobody may be told anything any more.
    pub(super) fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Syncs epoch and vote. False: it cannot be, and the manager stops without having told anybody.
    fn save(&self) -> bool {
        if self.has_failed() {
            return false;
        }
        let state = self.state.borrow();
        let vote = if on(Rule::DurableVote) { state.vote() } else { &Vote::default() };
        match self.file.as_ref().map_or(Ok(()), |file| file.save(state.epoch(), vote)) {
            Ok(()) => true,
            Err(e) => {
                self.failure.set(Some(e));
                self.failed.send_replace(true);
                false
            }
        }
    }

    /// Tells some connections the epoch in force, each in its own words.
    pub(super) fn tell(&self, ids: &[ConnId]) {
        self.links.borrow_mut().tell(ids, &self.state.borrow());
    }

    async fn check(self: Rc<Self>, address: Address) {
        let began = self.now().since_start;
        let mut reachable = true;
        for _ in 0..=self.config.connect_retry_limit {
            let attempt = TcpStream::connect(address.socket_addr());
            if let Ok(outcome) = time::timeout(self.config.connect_timeout, attempt).await {
                reachable = !outcome.is_err_and(|e| is_refusal(&e));
                break;
            }
        }
        self.with_state(|state, now| state.checked(now, began, address, reachable));
    }
}

/// Whether connecting failed because of the other side. A timeout, or trouble of our own, proves nothing.
fn is_refusal(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable};
    matches!(e.kind(), ConnectionRefused | ConnectionReset | HostUnreachable)
}

#[cfg(test)]
mod tests;
