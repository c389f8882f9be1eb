//! A server's connections to its managers, and what comes from there: epochs, phases of a replace, backups.
//!
//! With managers of ours a server says who it is (Join) and gets epochs; with those of kumofs 0.4 it gets hash spaces,
//! which are treated as an epoch without a number. [`kept`] is what they say of an epoch before they tell it, [`behind`] what
//! a server does when others know more.

use super::copy::Job;
use super::dropping;
use super::shared::{Mail, Shared, View, moving};
use super::vote::Ballots;
use crate::logic::address::Address;
use crate::logic::backoff::{Backoff, Bounds};
use crate::logic::clock::ClockTime;
use crate::logic::epoch::{Epoch, Phase, ServerEntry};
use crate::logic::paxos::Answer;
use crate::logic::ring::HashSpace;
use crate::net::chance::random_u64;
use crate::net::rpc::{CallError, Event, Handler, Incoming, Limits, Reply, RpcConn};
use crate::net::time::Instant;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::Role;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_nil, write_uint};
use crate::proto::rpc::v0::{self, method};
use crate::proto::rpc::v1::{self, Backup, Join, Prepare};
use crate::proto::rpc::vote::{Ask, Voted};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

mod behind;
mod kept;

/// How long a manager may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pauses before connecting again: a manager needs its servers soon, to hear that they live and for their votes.
const RECONNECT: Bounds = Bounds { shortest_ms: 5, first_ms: 20, longest_ms: 500 };
/// How often in a row a manager hangs up on Join until it is taken for one that does not know it.
const LOST_JOINS: u32 = 3;
/// How often a server that is being filled asks whether all have copied to it.
const SOURCED_PAUSE: Duration = Duration::from_millis(50);
/// How long a server that is told to end waits until an epoch removes it, and how often it looks. As long as managers ask for its vote,
/// or have it get ready, they are at it, and only their disks are slow.
const LEAVE_LIMIT: Duration = Duration::from_secs(4);
const LEAVE_MOST: Duration = Duration::from_secs(20);
const LEAVE_PAUSE: Duration = Duration::from_millis(5);
/// How long it then answers on.
const LEAVE_LINGER: Duration = Duration::from_millis(50);

/// The control plane of a server.
pub struct Control {
    shared: Arc<Shared>,
    /// Open connections to managers, and whether each speaks version 1.
    managers: RefCell<Vec<(Address, RpcConn, bool)>>,
    /// Phases that were finished, to be told again to a manager that comes back.
    copied: Cell<Option<ClockTime>>,
    deleted: Cell<Option<ClockTime>>,
    /// Phases under way.
    copying: Cell<Option<ClockTime>>,
    deleting: Cell<Option<ClockTime>>,
    ballots: RefCell<Ballots>,
    /// An epoch that is on disk and is not acted by yet, as the life saw it that it was kept in.
    kept: RefCell<Option<(u64, Arc<View>)>>,
    /// The server is about to end: the life that an epoch removes is its last.
    leaving: Cell<bool>,
    /// When a manager last asked for a vote, or had this server get ready for an epoch.
    stirred: Cell<Instant>,
}

impl Control {
    /// A control plane without connections.
    pub fn new(shared: Arc<Shared>, ballots: Ballots) -> Rc<Control> {
        Rc::new(Control {
            shared,
            managers: RefCell::default(),
            copied: Cell::new(None),
            deleted: Cell::new(None),
            copying: Cell::new(None),
            deleting: Cell::new(None),
            ballots: RefCell::new(ballots),
            kept: RefCell::default(),
            leaving: Cell::new(false),
            stirred: Cell::new(Instant::now()),
        })
    }

    /// Keeps a connection to each manager, tells them of lost servers, and asks for epochs that others seem to know.
    pub fn start(self: &Rc<Self>, lost: mpsc::UnboundedReceiver<(Address, Duration)>) {
        for manager in self.shared.config.managers.clone() {
            tokio::task::spawn_local(self.clone().keep_manager(manager));
        }
        tokio::task::spawn_local(self.clone().tell_losses(lost));
        tokio::task::spawn_local(self.clone().catch_up());
    }

    /// Asks the managers to go on without this server, and waits until an epoch does; not for long, and not where nobody
    /// is there to decide it. Until then it serves, so that clients do not notice how long the decision takes.
    pub async fn leave(&self) {
        self.leaving.set(true);
        let asked = Instant::now();
        let is_there = |m: &(Address, RpcConn, bool)| m.2 && m.1.is_open();
        for (_, conn, _) in self.managers.borrow().iter().filter(|m| is_there(m)) {
            conn.notify(v1::method::LEAVING, |out| write_array(out, 0));
        }
        while asked.max(self.stirred.get()).elapsed() < LEAVE_LIMIT
            && asked.elapsed() < LEAVE_MOST
            && self.shared.view().me.is_some()
            && self.managers.borrow().iter().any(is_there)
        {
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        if self.shared.view().me.is_none() {
            // What gateways still send here, until they have heard of that epoch, is to be refused and not cut off.
            tokio::time::sleep(LEAVE_LINGER).await;
        }
    }

    /// Ends the connections to the managers, and makes none any more: the server is ending.
    pub fn hang_up(&self) {
        self.managers.borrow().iter().for_each(|(_, conn, _)| conn.close());
    }

    async fn keep_manager(self: Rc<Self>, manager: Address) {
        let seed = self.shared.incarnation().wrapping_add(u64::from(manager.port()));
        let mut backoff = Backoff::new(RECONNECT, seed);
        let mut version1 = true;
        let mut lost_joins = 0;
        let mut refused = false;
        loop {
            if self.shared.draining.load(Ordering::Relaxed) {
                return;
            }
            let own = (self.shared.config.address, Role::Server);
            let to = manager.socket_addr();
            let timeout = self.shared.config.connect_timeout;
            let connected = RpcConn::connect_node(to, own, timeout, Limits::default(), self.handler(manager)).await;
            if let Ok(conn) = connected {
                let greeted = self.greet(manager, &conn, version1).await;
                let lost = version1 && matches!(greeted, Err(CallError::Lost));
                lost_joins = if lost { lost_joins + 1 } else { 0 };
                match greeted {
                    Ok(()) => {
                        backoff.worked();
                        refused = false;
                        self.keep_alive(&conn).await;
                    }
                    // An old manager answers error 5 to Join.
                    Err(CallError::Refused(error::PROTOCOL, _)) => version1 = false,
                    // Or it hangs up before that is read. Who is in an epoch has managers of ours, and no other.
                    Err(CallError::Lost) if lost_joins >= LOST_JOINS && self.shared.view().is_version0() => {
                        version1 = false;
                    }
                    Err(CallError::Refused(error::SERVER, _)) => {
                        if !std::mem::replace(&mut refused, true) {
                            let why = "most likely they belong to different clusters; its log says more";
                            tracing::warn!("manager {manager} refuses this server: {why}");
                        }
                    }
                    Err(e) => tracing::info!("manager {manager}: {e}"),
                }
                // One on which it has not said who it is in time is no use: it would tell that manager nothing.
                conn.close();
                let mut managers = self.managers.borrow_mut();
                let known = managers.len();
                managers.retain(|(address, _, _)| *address != manager);
                if managers.len() < known {
                    tracing::info!("lost node 0 {manager}");
                }
            } else {
                (version1, lost_joins) = (true, 0);
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn greet(self: &Rc<Self>, manager: Address, conn: &RpcConn, version1: bool) -> Result<(), CallError> {
        if version1 {
            self.join(conn).await?;
        } else {
            self.fetch_spaces(conn).await?;
        }
        tracing::info!("new node 0 {manager}");
        self.managers.borrow_mut().push((manager, conn.clone(), version1));
        self.tell_ends_again(conn);
        Ok(())
    }

    /// Tells a manager what was finished of the phase under way: it may have been told before it knew of that phase.
    fn tell_ends_again(&self, conn: &RpcConn) {
        match self.shared.view().epoch.phase {
            Phase::Copying { time, .. } if self.copied.get() == Some(time) => {
                self.notify_end(conn, method::REPLACE_COPY_END, time);
            }
            Phase::Deleting { time } if self.deleted.get() == Some(time) => {
                self.notify_end(conn, method::REPLACE_DELETE_END, time);
            }
            _ => {}
        }
    }

    /// Says who this server is. What the manager answers may end this life; then the next one introduces itself.
    async fn join(&self, conn: &RpcConn) -> Result<(), CallError> {
        let shared = &self.shared;
        loop {
            let view = shared.view();
            let join = Join {
                disk_id: shared.store.disk_id(),
                incarnation: shared.incarnation(),
                workers: shared.config.workers,
                stream: shared.config.stream,
                epoch: (view.epoch.number > 0).then(|| view.epoch.encode()),
            };
            let result = conn.call_with(|out, msgid| join.write(out, msgid), PATIENCE).await?;
            let over = Reader::new(&result).bool() == Ok(false);
            if over && join.incarnation == shared.incarnation() && shared.view().me.is_none() {
                // It was admitted and removed without hearing of it.
                self.begin_another_life();
            }
            if join.incarnation == shared.incarnation() {
                return Ok(());
            }
        }
    }

    /// A removed life is over; the next one has to be admitted like any other newcomer.
    fn begin_another_life(&self) {
        match random_id() {
            Ok(id) => self.shared.incarnation.store(id, Ordering::Relaxed),
            Err(e) => tracing::error!("no random numbers: {e}"),
        }
    }

    async fn fetch_spaces(self: &Rc<Self>, conn: &RpcConn) -> Result<(), CallError> {
        let mut spaces = Vec::new();
        for method in [method::WHS_REQUEST, method::RHS_REQUEST] {
            let seed = conn.call(method, |out| write_array(out, 0), PATIENCE).await?;
            let space = v0::read_seed(&mut Reader::new(&seed));
            spaces.push(space.map_err(|_| CallError::Refused(error::PROTOCOL, Vec::new()))?);
        }
        if let [whs, rhs] = &mut spaces[..] {
            self.adopt_spaces(std::mem::take(whs), std::mem::take(rhs));
        }
        Ok(())
    }

    /// Pings a manager until it no longer answers.
    async fn keep_alive(&self, conn: &RpcConn) {
        loop {
            tokio::select! {
                biased;
                _ = conn.closed() => return,
                () = tokio::time::sleep(self.shared.config.keepalive) => {}
            }
            let clock = self.shared.clock.load(Ordering::Relaxed);
            let ping = |out: &mut Vec<u8>| {
                write_array(out, 1);
                write_uint(out, clock & u64::from(u32::MAX));
            };
            if conn.call(method::KEEP_ALIVE, ping, PATIENCE).await.is_err() {
                return;
            }
            self.tell_ends_again(conn);
        }
    }

    async fn tell_losses(self: Rc<Self>, mut lost: mpsc::UnboundedReceiver<(Address, Duration)>) {
        while let Some(first) = lost.recv().await {
            let mut losses = BTreeMap::from([first]);
            while let Ok((address, lasting)) = lost.try_recv() {
                let longest = losses.entry(address).or_insert(lasting);
                *longest = lasting.max(*longest);
            }
            let tell = |out: &mut Vec<u8>, address: Address, lasting: Duration| {
                write_array(out, 2);
                v0::write_address(out, address);
                write_uint(out, lasting.as_millis() as u64);
            };
            for (_, conn, _) in self.managers.borrow().iter().filter(|(_, _, version1)| *version1) {
                for (address, lasting) in &losses {
                    conn.notify(v1::method::LOST, |out| tell(out, *address, *lasting));
                }
            }
            // Many links to one server break together.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn handler(self: &Rc<Self>, manager: Address) -> Handler {
        let control = self.clone();
        Rc::new(move |conn, event| match event {
            Event::Request(request) => control.execute(manager, conn, request),
            Event::Opened(_) | Event::Closed(_) => {}
        })
    }

    fn execute(self: &Rc<Self>, manager: Address, conn: &RpcConn, request: Incoming) {
        let mut r = Reader::new(&request.params);
        let executed = match request.method {
            method::KEEP_ALIVE => Ok(nil as fn(&mut Vec<u8>)),
            v1::method::EPOCH_PUSH => match r.array_of(1).and_then(|()| r.raw()) {
                Ok(bytes) => {
                    if let Err(Stranger) = self.take_epoch(bytes) {
                        tracing::warn!("manager {manager} told an epoch of another cluster: it is left alone");
                        // It is shown our epoch on the next connection, and learns that this server is not its own.
                        request.reply.error(error::SERVER);
                        return conn.hang_up();
                    }
                    // Whoever pushed may count on it that no worker acts in an earlier epoch any more.
                    let workers = self.shared.ask_all(Mail::Flush);
                    let number = self.shared.view().epoch.number;
                    tokio::task::spawn_local(async move {
                        all(workers).await;
                        request.reply.success(|out| write_uint(out, number));
                    });
                    return;
                }
                Err(e) => Err(e),
            },
            v1::method::PREPARE => match Prepare::read(&request.params) {
                Ok(prepare) => return self.prepare(manager, &prepare, request.reply),
                Err(e) => Err(e),
            },
            v1::method::VOTE => match Ask::read(&request.params) {
                Ok(ask) => return self.vote(&ask, request.reply),
                Err(e) => Err(e),
            },
            method::HASH_SPACE_SYNC => {
                self.hash_space_sync(&mut r).map(|fresh| if fresh { yes } else { nil } as fn(&mut Vec<u8>))
            }
            method::REPLACE_COPY_START => self.copy_start(&mut r).map(|()| yes as fn(&mut Vec<u8>)),
            method::REPLACE_DELETE_START => self.delete_start(&mut r).map(|()| yes as fn(&mut Vec<u8>)),
            method::SERVER_CREATE_BACKUP => {
                let suffix = r.array_of(1).and_then(|()| r.raw()).map(<[u8]>::to_vec);
                match suffix {
                    Ok(suffix) => {
                        tokio::task::spawn_local(self.clone().backup(suffix, request));
                        return;
                    }
                    Err(e) => Err(e),
                }
            }
            _ => Err(DecodeError::Type),
        };
        match executed {
            Ok(result) => request.reply.success(result),
            Err(_) => {
                tracing::warn!("manager {manager} sent a malformed or unknown request {}", request.method);
                request.reply.protocol_error();
            }
        }
    }

    /// A manager asks for this server's vote on the next epoch.
    fn vote(&self, ask: &Ask, reply: Reply) {
        self.stirred.set(Instant::now());
        let (shared, view) = (&self.shared, self.shared.view());
        let (question, epoch) = (&ask.question, &view.epoch);
        if is_foreign(epoch, ask.cluster) || !question.is_sound() {
            tracing::warn!("a vote was refused: the manager belongs to another cluster, or proposes no epoch");
            return reply.error(error::SERVER);
        }
        let (disk, dir) = (shared.store.disk(), shared.store.dir());
        match self.ballots.borrow_mut().answer(disk, dir, epoch.number, question) {
            Ok(answer) => {
                let news = answer == Answer::Elsewhere && epoch.number >= question.number;
                let number = if answer == Answer::Elsewhere { epoch.number } else { 0 };
                let newest = (number, news.then(|| epoch.encode()));
                reply.success(|out| Voted { disk_id: shared.store.disk_id(), answer, newest }.write(out));
            }
            Err(e) => {
                tracing::error!("no vote on epoch {}: {e}", question.number);
                reply.error(error::SERVER);
            }
        }
    }

    /// Takes in an encoded epoch; one that is malformed or older is left alone.
    fn take_epoch(self: &Rc<Self>, bytes: &[u8]) -> Result<(), Stranger> {
        match Epoch::decode(bytes) {
            Ok(epoch) if is_foreign(&self.shared.view().epoch, epoch.cluster) => return Err(Stranger),
            Ok(epoch) => self.adopt(epoch),
            Err(e) => tracing::warn!("not adopted: {e}"),
        }
        Ok(())
    }

    /// Acts by an epoch from now on, if it is newer than the one known: keeps it on disk, then tells the workers.
    fn adopt(self: &Rc<Self>, epoch: Epoch) {
        let shared = &self.shared;
        let known = shared.view();
        if epoch.number <= known.epoch.number || shared.draining.load(Ordering::Relaxed) {
            return;
        }
        let Some(view) = self.keep(epoch) else { return };
        let life = shared.incarnation();
        // Also when it never heard of the epoch that had admitted it.
        let named = view.epoch.server(shared.config.address).is_some_and(|s| s.incarnation == life);
        let removed = (known.me.is_some() || named) && view.me.is_none();
        tracing::info!("epoch {}{}", view.epoch.number, if view.me.is_none() { ", not in it" } else { "" });
        self.act_on(view);
        if removed && !self.leaving.get() {
            self.begin_another_life();
            for (_, conn, _) in self.managers.borrow().iter().filter(|(_, _, version1)| *version1) {
                let (control, conn) = (self.clone(), conn.clone());
                tokio::task::spawn_local(async move { control.join(&conn).await });
            }
        }
    }

    fn act_on(self: &Rc<Self>, view: Arc<View>) {
        let shared = &self.shared;
        *shared.view.lock().expect("no holder panics") = view.clone();
        for worker in 0..shared.mailboxes.len() {
            shared.tell(worker, Mail::Adopt(view.clone()));
        }
        if view.me.is_none() {
            return;
        }
        match view.epoch.phase {
            Phase::Copying { time, full } => self.start_copy(time, full),
            Phase::Deleting { time } => self.start_delete(time),
            Phase::Idle => {}
        }
    }

    /// Has all workers copy, and tells the managers when they have.
    fn start_copy(self: &Rc<Self>, time: ClockTime, full: bool) {
        if self.copying.replace(Some(time)) == Some(time) {
            return;
        }
        tracing::info!("start replace copy for time({})", time.0);
        let moved = &self.shared.moved;
        let before = (moved.records.load(Ordering::Relaxed), moved.bytes.load(Ordering::Relaxed));
        let workers = self.shared.ask_all(|done| Mail::Copy(Job { time, full, done }));
        let control = self.clone();
        tokio::task::spawn_local(async move {
            // A phase that ended before its copies did tells nobody.
            let copied = all(workers).await;
            let moved = &control.shared.moved;
            let records = moved.records.load(Ordering::Relaxed) - before.0;
            let bytes = moved.bytes.load(Ordering::Relaxed) - before.1;
            if bytes > 0 {
                tracing::info!("replace copy: sent {records} records, {bytes} bytes, for time({})", time.0);
            }
            let finished = copied && control.be_filled(time).await;
            // Another copy may have begun meanwhile.
            if control.copying.get() == Some(time) {
                dropping::clear(&control.shared, moving::COPYING);
            }
            if finished {
                tracing::info!("finish replace copy for time({})", time.0);
                control.copied.set(Some(time));
                control.tell_end(method::REPLACE_COPY_END, time);
            }
        });
    }

    /// Where this server is being filled: waits until the full ones have copied everything, and then has all workers
    /// drop what none of them has. False when the phase was over before.
    async fn be_filled(&self, time: ClockTime) -> bool {
        let in_phase = |view: &View| matches!(view.epoch.phase, Phase::Copying { time: now, .. } if now == time);
        let view = self.shared.view();
        if !view.is_filling() || view.is_version0() {
            return true;
        }
        while in_phase(&self.shared.view()) {
            if self.is_sourced(time).await {
                return all(self.shared.ask_all(Mail::DropUnconfirmed)).await && in_phase(&self.shared.view());
            }
            tokio::time::sleep(SOURCED_PAUSE).await;
        }
        false
    }

    /// Whether a manager says that all full servers have copied.
    async fn is_sourced(&self, time: ClockTime) -> bool {
        let managers: Vec<RpcConn> = self.managers.borrow().iter().filter(|m| m.2).map(|m| m.1.clone()).collect();
        let ask = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_uint(out, time.0);
        };
        for conn in managers {
            let answer = conn.call(v1::method::SOURCED, ask, PATIENCE).await;
            if answer.is_ok_and(|result| Reader::new(&result).bool() == Ok(true)) {
                return true;
            }
        }
        false
    }

    /// Has all workers drop what is not theirs, and tells the managers when they have.
    fn start_delete(self: &Rc<Self>, time: ClockTime) {
        if self.deleting.replace(Some(time)) == Some(time) {
            return;
        }
        tracing::info!("start replace delete for time({})", time.0);
        let workers = self.shared.ask_all(Mail::Drop);
        let control = self.clone();
        tokio::task::spawn_local(async move {
            let finished = all(workers).await;
            if control.deleting.get() == Some(time) {
                dropping::clear(&control.shared, moving::DELETING);
            }
            if finished {
                tracing::info!("finish replace for time({})", time.0);
                control.deleted.set(Some(time));
                control.tell_end(method::REPLACE_DELETE_END, time);
            }
        });
    }

    fn tell_end(&self, method: u32, time: ClockTime) {
        for (_, conn, _) in self.managers.borrow().iter() {
            self.notify_end(conn, method, time);
        }
    }

    fn notify_end(&self, conn: &RpcConn, method: u32, time: ClockTime) {
        conn.notify(method, |out| {
            write_array(out, 2);
            write_uint(out, time.0);
            write_uint(out, self.shared.clock.load(Ordering::Relaxed) & u64::from(u32::MAX));
        });
    }

    async fn backup(self: Rc<Self>, suffix: Vec<u8>, request: Incoming) {
        match super::backup::make(self.shared.clone(), &Backup { suffix, ..Backup::default() }).await {
            Ok(_) => request.reply.success(yes),
            Err(_) => request.reply.error(error::SERVER),
        }
    }
}

/// What kumofs 0.4 managers say.
impl Control {
    fn adopt_spaces(self: &Rc<Self>, whs: HashSpace, rhs: HashSpace) {
        let known = self.shared.view();
        if known.epoch.number > 0 {
            return;
        }
        let phase = known.epoch.phase;
        self.act_on_spaces(whs, rhs, phase);
    }

    fn act_on_spaces(self: &Rc<Self>, whs: HashSpace, rhs: HashSpace, phase: Phase) {
        let mut addresses: Vec<Address> = whs.nodes.iter().chain(&rhs.nodes).map(|n| n.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let servers = addresses.into_iter().map(ServerEntry::of_version0).collect();
        let epoch = Epoch { servers, whs, rhs, phase, ..Epoch::default() };
        self.act_on(Arc::new(View::new(epoch, self.shared.config.address, self.shared.incarnation())));
    }

    fn hash_space_sync(self: &Rc<Self>, r: &mut Reader<'_>) -> Result<bool, DecodeError> {
        r.array_of(3)?;
        let (whs, rhs, _clock) = (v0::read_seed(r)?, v0::read_seed(r)?, r.u32()?);
        let known = self.shared.view();
        let fresh = known.epoch.number == 0
            && whs.timestamp >= known.epoch.whs.timestamp
            && rhs.timestamp >= known.epoch.rhs.timestamp;
        if fresh {
            self.adopt_spaces(whs, rhs);
        }
        Ok(fresh)
    }

    fn copy_start(self: &Rc<Self>, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        let len = r.array()?;
        let (whs, _clock) = (v0::read_seed(r)?, r.u32()?);
        let full = len == 3 && r.bool()?;
        let known = self.shared.view();
        if known.epoch.number == 0 {
            let phase = Phase::Copying { time: whs.timestamp, full };
            self.act_on_spaces(whs, known.epoch.rhs.clone(), phase);
        }
        Ok(())
    }

    fn delete_start(self: &Rc<Self>, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        r.array_of(2)?;
        let (space, _clock) = (v0::read_seed(r)?, r.u32()?);
        let known = self.shared.view();
        if known.epoch.number == 0 {
            let phase = Phase::Deleting { time: space.timestamp };
            self.act_on_spaces(known.epoch.whs.clone(), space, phase);
        }
        Ok(())
    }
}

/// A manager of another cluster.
struct Stranger;

fn is_foreign(epoch: &Epoch, cluster: u64) -> bool {
    cluster != 0 && epoch.cluster != 0 && cluster != epoch.cluster
}

fn yes(out: &mut Vec<u8>) {
    write_bool(out, true);
}

fn nil(out: &mut Vec<u8>) {
    write_nil(out);
}

/// Waits for all; false when one will never come.
async fn all(receivers: Vec<oneshot::Receiver<()>>) -> bool {
    let mut finished = true;
    for receiver in receivers {
        finished &= receiver.await.is_ok();
    }
    finished
}

/// A random number other than 0.
///
/// # Errors
/// When the system has none.
pub fn random_id() -> std::io::Result<u64> {
    Ok(random_u64()?.max(1))
}
