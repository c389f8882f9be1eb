//! One event loop of a server: its state, and what happens in a turn.
//!
//! The tasks that read connections execute requests at once ([`super::request`], [`super::member`]). What that leaves
//! behind is done at the end of the turn ([`Worker::finish`]), once for all of them: one append to the store,
//! one message to each other member, one write to each connection.
//!
//! Invariant: an answer that tells something read leaves only after a look at the clock behind the look-up has shown
//! that every lease which it relied on was still live.

use super::background::Background;
use super::link::{Link, Links};
use super::lookahead::Ahead;
use super::measures::{Accepted, Measures};
use super::member::{Ack, Given, Source};
use super::request::Request;
use super::shared::{Config, Mail, Shared, View};
use crate::logic::arcs::Arcs;
use crate::logic::clock::Clock;
use crate::logic::hottest::Hottest;
use crate::logic::memory::Memory;
use crate::logic::pending::Pending;
use crate::logic::record::worker_of;
use crate::logic::route::Group;
use crate::logic::rule::{Rule, on};
use crate::net::conn::{Conn, Scratch};
use crate::net::sock::unpack;
use crate::net::stream::Stream;
use crate::net::time::{boot_micros, unix_secs};
use crate::net::turn::Turn;
use crate::proto::rpc::frame::{write_error, write_error_head, write_success};
use crate::proto::rpc::msgpack::{write_bool, write_uint};
use crate::proto::rpc::{error, v1::Mutated};
use crate::store::{Commit, Shard, Ticket};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// How often a worker looks at what has become due.
const TICK: Duration = Duration::from_millis(20);
/// The longest pause between two commits.
const PACE_MAX: Duration = Duration::from_millis(20);
/// How long a request waits for its range to open or be leased before it is refused.
pub(super) const PARKED_MICROS: u64 = 1_000_000;
/// How often the managers are told that nothing can be stored here.
const UNABLE_TOLD_MICROS: u64 = 300_000;
/// Bytes of parked requests above which new ones are refused at once.
const PARKED_BYTES: usize = 64 << 20;

/// A worker.
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Which one this is.
    pub number: u16,
    /// Ends its turns.
    pub turn: Rc<Turn>,
    /// Connections read into this.
    pub scratch: Rc<Scratch>,
    /// What it does beside serving.
    pub background: Background,
    /// The messages of the connection that is being read. Borrowed while they are executed; in between, kept for its memory.
    pub ahead: RefCell<Ahead>,
    /// Everything else. Borrowed for the length of one call, never across an await.
    pub state: RefCell<State>,
}

/// A part of the ring whose group is one, and what this worker knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Who holds it.
    pub group: Group,
    /// This server executes changes.
    pub writable: bool,
    /// This server answers reads.
    pub readable: bool,
    /// Takeover is complete: it may act as the coordinator.
    pub open: bool,
}

/// How an answer looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Mutate's.
    Version1,
    /// Set's of version 0.
    Set,
    /// Delete's of version 0.
    Delete,
}

/// An answer that waits for something.
pub struct Answer {
    /// To whom.
    pub conn: Rc<Conn>,
    /// To which request.
    pub msgid: u32,
    /// What.
    pub outcome: Outcome,
}

/// What an answer tells.
pub enum Outcome {
    /// An outcome without borrowed parts.
    Mutated(Style, Mutated<'static>),
    /// An encoded response.
    Bytes(Vec<u8>),
}

impl Answer {
    /// Sends it.
    pub fn send(self) {
        match self.outcome {
            Outcome::Mutated(style, mutated) => self.conn.write(|out| write_mutated(out, self.msgid, style, &mutated)),
            Outcome::Bytes(bytes) => self.conn.write(|out| out.extend_from_slice(&bytes)),
        }
    }

    /// Sends instead that it is not known whether the change took effect, or will: another server decides that now.
    pub fn unknown(self) {
        self.conn.write(|out| write_error(out, self.msgid, error::UNKNOWN));
    }

    /// Sends instead that the request was refused: this server is in epoch `epoch` now.
    pub fn refuse(self, epoch: u64) {
        write_refusal(&self.conn, self.msgid, self.outcome.style(), epoch);
    }
}

impl Outcome {
    fn style(&self) -> Style {
        match self {
            Outcome::Mutated(style, _) => *style,
            Outcome::Bytes(_) => Style::Version1,
        }
    }
}

/// Appends the response that tells `mutated` in the given style.
pub fn write_mutated(out: &mut Vec<u8>, msgid: u32, style: Style, mutated: &Mutated<'_>) {
    write_success(out, msgid);
    match (style, mutated) {
        (Style::Version1, mutated) => mutated.write(out),
        (Style::Set, Mutated::Done(version)) => write_uint(out, *version),
        (Style::Delete, Mutated::Done(_)) => write_bool(out, true),
        (Style::Set | Style::Delete, _) => write_bool(out, false),
    }
}

/// Answers that this server is in another epoch, and in which.
pub fn write_obsolete(conn: &Rc<Conn>, msgid: u32, epoch: u64) {
    conn.write(|out| {
        write_error_head(out, msgid, error::SERVER);
        write_uint(out, epoch);
    });
}

/// Answers that this server is not the one to ask; to ours, also which epoch it is in.
pub fn write_refusal(conn: &Rc<Conn>, msgid: u32, style: Style, epoch: u64) {
    match style {
        Style::Version1 => write_obsolete(conn, msgid, epoch),
        Style::Set | Style::Delete => conn.write(|out| write_error(out, msgid, error::SERVER)),
    }
}

/// A request that waits until its range is open and leased.
pub(super) struct Parked {
    pub conn: Rc<Conn>,
    pub message: Vec<u8>,
    /// [`Request::gateway`].
    pub gateway: u64,
    pub until_micros: u64,
    /// [`Request::incoming`].
    pub incoming: super::parts::Incoming,
}

/// What a worker knows.
pub struct State {
    /// The epoch that it acts in.
    pub view: Arc<View>,
    /// The ranges' numbers around the ring.
    pub arcs: Arcs,
    /// The ranges.
    pub ranges: Vec<Range>,
    /// To other members.
    pub links: Links,
    /// From coordinators.
    pub sources: BTreeMap<(u64, u16), Source>,
    /// Writes that not all have yet.
    pub pending: Pending<Answer>,
    /// What became of changes that may be asked for again.
    pub memory: Memory,
    /// Makes versions.
    pub clock: Clock,
    /// The clock of leases, as of the last batch of input.
    pub now_micros: u64,
    /// UNIX time, likewise.
    pub now_secs: u64,
    /// The earliest end of the leases that this turn's answers rely on.
    pub leased_until: u64,
    /// Leases granted to coordinators.
    pub given: Given,
    /// Before this moment nothing is granted or taken over: an earlier life may have granted.
    pub quiet_until: u64,
    /// Answers to coordinators, for the end of the turn, and those that wait for the disk.
    pub acks: Vec<Ack>,
    pub(super) acks_on_disk: VecDeque<(Ticket, Ack)>,
    /// Answers that do not wait for replicas.
    pub after_commit: Vec<Answer>,
    after_disk: VecDeque<(Ticket, Answer)>,
    /// Told when what other servers copied here is committed.
    pub copied: Vec<oneshot::Sender<()>>,
    copied_on_disk: VecDeque<(Ticket, oneshot::Sender<()>)>,
    /// The first write that the store was not yet asked to commit, and those that wait for the disk.
    first_uncommitted: u64,
    on_disk: VecDeque<(Ticket, u64)>,
    parked: Vec<Parked>,
    parked_bytes: usize,
    /// The connections of `parked`, by address.
    waiting: BTreeSet<*const Conn>,
    /// Changes of large values that are being made.
    pub(super) remakes: super::remake::Remakes,
    /// Large values that are being told.
    pub(super) told: super::parts::Told,
    /// Something happened that parked requests may wait for.
    pub unpark: bool,
    /// The next epoch is about to be told.
    pub(super) yielding: Option<super::yielding::Yielding>,
    /// Takeover under way.
    pub takeover: super::takeover::Takeover,
    /// What earlier lives left unstable.
    pub(super) left: super::left::Left,
    /// What is here from before this life, while it is being filled.
    pub fill: Option<super::fill::Fill>,
    /// Comparisons with other servers under way.
    pub comparisons: u32,
    /// The server is ending, and acts no more.
    pub(super) has_left: bool,
    /// Deletion marks by age.
    pub marks: super::garbage::Marks,
    /// Ring positions that will be looked up soon in a long message: empty between uses, kept for its memory.
    pub next_positions: Vec<u64>,
    /// For new dbvals.
    pub new_dbval: Vec<u8>,
    pub(super) connections: Vec<Accepted>,
    pub(super) measures: Measures,
    pub(super) hottest: Hottest,
    /// Something is staged that nobody waits for.
    pub(super) is_staged: bool,
    commit_failed: bool,
    /// Since when the disk has been full, and when that was last told.
    unable_since: Option<(u64, u64)>,
    next_commit_micros: u64,
}

impl Worker {
    /// Starts a worker in the current event loop. Its work ends with the loop, or when the mailbox is dropped.
    pub fn start(shared: Arc<Shared>, number: u16, mut mailbox: UnboundedReceiver<Mail>) {
        let view = shared.view();
        let state = State::new(view, shared.config.clone(), boot_micros());
        let worker = Rc::new(Worker {
            background: Background::new(shared.clone(), Some(number)),
            shared,
            number,
            turn: Turn::new(),
            scratch: Scratch::new(),
            ahead: RefCell::default(),
            state: RefCell::new(state),
        });
        let items = {
            let mut shard = worker.shard().lock().expect("no holder of a shard panics");
            worker.state.borrow_mut().left.add(shard.take_unstable());
            shard.items()
        };
        worker.shared.counters[usize::from(number)].items.store(items, Ordering::Relaxed);
        worker.state.borrow_mut().clock.observe_counter(worker.shared.versions.start());
        let turns = worker.clone();
        tokio::task::spawn_local(worker.turn.clone().run(move || turns.finish()));
        let ticks = worker.clone();
        tokio::task::spawn_local(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                ticks.tick();
            }
        });
        tokio::task::spawn_local(super::garbage::collect(worker.clone()));
        tokio::task::spawn_local(super::garbage::sweep(worker.clone()));
        tokio::task::spawn_local(async move {
            let view = worker.shared.view();
            worker.adopt(view);
            while let Some(mail) = mailbox.recv().await {
                worker.receive_mail(mail);
            }
        });
    }

    /// The shard that this worker owns.
    pub fn shard(&self) -> &Mutex<dyn Shard> {
        &*self.shared.store.shards()[usize::from(self.number)]
    }

    fn receive_mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Adopt(_) if self.state.borrow().has_left => {}
            Mail::Adopt(view) => self.adopt(view),
            Mail::Yield(view, done) => self.start_yielding(view, done),
            Mail::Leave(done) => self.leave(done),
            Mail::Serve(pipe) => self.serve(pipe.into()),
            Mail::ServeFrom(stream) => match unpack(stream) {
                Ok(stream) => self.serve(stream.into()),
                Err(e) => tracing::warn!("cannot serve a connection: {e}"),
            },
            Mail::Apply { entries, time, since, done } => self.start_to_apply(entries, time, since, done),
            Mail::ApplyLarge { dbkey, epoch, staged, time, since, done } => {
                self.start_to_apply_large((dbkey, epoch, staged), time, since, done);
            }
            Mail::Copy(job) => super::copy::start(self.clone(), job),
            Mail::Drop(done) => super::dropping::start_drop(self.clone(), done),
            Mail::DropUnconfirmed(done) => super::fill::start_drop(self.clone(), done),
            Mail::Durable => self.turn.wake(),
            Mail::Flush(done) => {
                self.state.borrow_mut().next_commit_micros = 0;
                self.finish();
                let _ = done.send(());
            }
            Mail::Measure(done) => {
                let _ = done.send(self.measured());
            }
            Mail::SetNodelay(on, done) => {
                let connections = &self.state.borrow().connections;
                let open = connections.iter().filter_map(|c| c.conn.upgrade()).filter(|c| !c.is_closed());
                let _ = done.send(open.filter(|c| c.set_nodelay(on)).count());
            }
        }
    }

    fn serve(self: &Rc<Self>, stream: Stream) {
        let from = match &stream {
            Stream::Socket(stream) => stream.peer_addr().ok().map(|address| address.ip().to_canonical()),
            // None of these comes from elsewhere.
            Stream::Unix(_) | Stream::Pipe(_) => Some(self.shared.config.address.socket_addr().ip()),
        };
        let (conn, read) = Conn::new(stream, &self.turn);
        let mut peer = super::request::Peer::default();
        {
            let connections = &mut self.state.borrow_mut().connections;
            if connections.len() == connections.capacity() {
                connections.retain(|c| c.conn.strong_count() > 0);
            }
            connections.push(Accepted { conn: Rc::downgrade(&conn), from, caller: peer.caller.clone() });
        }
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            let receiver = conn.clone();
            let scratch = worker.scratch.clone();
            let receive = |bytes: &[u8]| worker.receive(&receiver, &mut peer, bytes);
            let _ = crate::net::conn::read_loop(&conn, read, &scratch, receive).await;
        });
    }

    /// What is due now and then, without input.
    fn tick(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        state.set_time();
        state.rotate_measures();
        let now = state.now_micros;
        state.tell_overdue(self);
        state.note_stable(self);
        let now_micros = state.now_micros;
        state.told.forget(now_micros);
        let renewal = state.links.renewal_due(now);
        let expired = state.parked.iter().any(|p| p.until_micros <= now);
        let waiting =
            state.takeover.is_waiting() || state.unpark || expired || state.commit_failed || state.yielding.is_some();
        drop(state);
        self.advance_takeover();
        if renewal || waiting {
            self.turn.wake();
        }
    }

    /// The end of a turn.
    pub fn finish(self: &Rc<Self>) {
        self.retry_parked();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.read_clocks();
        // What members are told serves their clients.
        if state.measures.is_serving() || !state.acks.is_empty() {
            let counters = &self.shared.counters[usize::from(self.number)];
            counters.served_micros.store(state.now_micros, Ordering::Relaxed);
        }
        // Members store it while the own disk does: so what counts is the slower of the two, and not both.
        state.send_to_members();
        state.commit(self);
        state.advance_yielding();
        // The look at the clock that every answer of this turn stands behind.
        let now = boot_micros();
        if !state.may_tell(now) {
            tracing::warn!("stood still for longer than a lease: answers not yet sent are dropped");
            state.connections.drain(..).filter_map(|c| c.conn.upgrade()).for_each(|conn| conn.close());
        }
        state.leased_until = u64::MAX;
        state.measure(self, now);
    }

    /// Keeps a request until its range is open and leased, or refuses it when too much is kept already.
    pub(super) fn park(&self, state: &mut State, request: &Request<'_>) {
        if state.parked_bytes + request.message.len() > PARKED_BYTES {
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return;
        }
        let until_micros = state.now_micros + PARKED_MICROS;
        self.park_again(state, request, until_micros);
        // A missing lease is renewed by the end of this turn.
        self.turn.wake();
    }

    /// Has a turn end in so many microseconds.
    pub(super) fn wake_after(self: &Rc<Self>, micros: u64) {
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            worker.turn.wake();
        });
    }

    fn retry_parked(self: &Rc<Self>) {
        let parked = {
            let mut state = self.state.borrow_mut();
            state.set_time();
            let now = state.now_micros;
            let expired = state.parked.iter().any(|p| p.until_micros <= now);
            if !std::mem::take(&mut state.unpark) && !expired {
                return;
            }
            state.parked_bytes = 0;
            state.waiting.clear();
            std::mem::take(&mut state.parked)
        };
        for request in parked {
            if !request.conn.is_closed() {
                self.execute_again(&request);
            }
        }
    }

    /// Puts a request back that still has to wait, with the end of its patience as it was.
    pub(super) fn park_again(&self, state: &mut State, request: &Request<'_>, until_micros: u64) {
        let (conn, message, gateway) = (request.conn.clone(), request.message.to_vec(), request.gateway);
        state.parked_bytes += message.len();
        state.waiting.insert(Rc::as_ptr(&conn));
        let incoming = request.incoming.clone();
        state.parked.push(Parked { conn, message, gateway, until_micros, incoming });
    }
}

impl State {
    /// Whether the answers of this turn may leave `now`, just looked at behind all look-ups: no lease that they rely on has ended.
    pub(super) fn may_tell(&self, now_micros: u64) -> bool {
        self.leased_until > now_micros || !on(Rule::LookAgain) || !on(Rule::Lease)
    }

    pub(super) fn new(view: Arc<View>, config: Config, now_micros: u64) -> State {
        State {
            arcs: Arcs::default(),
            ranges: vec![Range { group: Group::default(), writable: false, readable: false, open: false }],
            links: Links::default(),
            sources: BTreeMap::new(),
            pending: Pending::default(),
            memory: Memory::new(config.memory, view.epoch.number),
            clock: Clock::default(),
            now_micros,
            now_secs: unix_secs(),
            leased_until: u64::MAX,
            given: Given::new(),
            quiet_until: now_micros + crate::logic::lease::GRANT_MICROS,
            acks: Vec::new(),
            acks_on_disk: VecDeque::new(),
            after_commit: Vec::new(),
            after_disk: VecDeque::new(),
            copied: Vec::new(),
            copied_on_disk: VecDeque::new(),
            first_uncommitted: 1,
            on_disk: VecDeque::new(),
            parked: Vec::new(),
            parked_bytes: 0,
            waiting: BTreeSet::new(),
            unpark: false,
            remakes: super::remake::Remakes::default(),
            told: super::parts::Told::default(),
            yielding: None,
            takeover: super::takeover::Takeover::default(),
            left: super::left::Left::default(),
            fill: None,
            comparisons: 0,
            has_left: false,
            marks: super::garbage::Marks::new(&super::garbage::Limits::of(&config)),
            next_positions: Vec::new(),
            new_dbval: Vec::new(),
            connections: Vec::new(),
            measures: Measures::default(),
            hottest: Hottest::default(),
            is_staged: false,
            commit_failed: false,
            unable_since: None,
            next_commit_micros: 0,
            view,
        }
    }

    /// How many requests wait for their range.
    pub(super) fn parked_requests(&self) -> usize {
        self.parked.len()
    }

    /// Whether an earlier request of a connection waits.
    pub(super) fn has_parked(&self, conn: &Rc<Conn>) -> bool {
        !self.waiting.is_empty() && self.waiting.contains(&Rc::as_ptr(conn))
    }

    /// Looks at the clocks: something has come, or is due.
    pub fn set_time(&mut self) {
        if on(Rule::LookFirst) {
            self.read_clocks();
        }
    }

    fn read_clocks(&mut self) {
        self.now_micros = boot_micros();
        self.now_secs = unix_secs();
    }

    /// The range of a ring position.
    #[inline]
    pub fn range(&self, hash: u64) -> &Range {
        &self.ranges[self.arcs.value(hash) as usize]
    }

    /// The links to the other members of a range's group that concern a key.
    #[inline]
    pub fn links_for(&self, group: &Group, hash: u64) -> impl Iterator<Item = usize> {
        let me = self.view.me;
        let group = *group;
        (0..group.members().len()).filter_map(move |i| {
            let server = group.members()[i];
            if Some(server) == me { None } else { self.links.of(server, |workers| worker_of(hash, workers)) }
        })
    }

    /// Until when the other members have granted this coordinator a lease for a key; 0 when one has not.
    #[inline]
    pub fn leased_until(&self, group: &Group, hash: u64) -> u64 {
        if self.view.is_version0() {
            return u64::MAX;
        }
        let others = group.members().len() - 1;
        let mut granted = 0;
        let mut until = u64::MAX;
        for link in self.links_for(group, hash) {
            granted += 1;
            until = until.min(self.links.get(link).map_or(0, Link::leased_until));
        }
        if granted < others { 0 } else { until }
    }

    /// Hands what this turn stored to the operating system, and tells those who waited for it.
    fn commit(&mut self, worker: &Rc<Worker>) {
        let last = self.pending.next();
        let answers = self.acks.len() + self.after_commit.len() + self.copied.len();
        let nothing = last == self.first_uncommitted && answers == 0 && !self.is_staged;
        self.take_durable(worker);
        // A sync that failed shows at the next commit, which those who wait for the device cannot wait for.
        if nothing && !self.commit_failed && !self.waits_for_device() {
            return;
        }
        if self.now_micros < self.next_commit_micros {
            return worker.wake_after(self.next_commit_micros - self.now_micros);
        }
        let counter = self.clock.counter();
        worker.shared.clock.fetch_max(u64::from(counter), Ordering::Relaxed);
        if !worker.shared.versions.cover(counter) {
            // The next life could give these versions again. This goes on when the disk has more of them reserved.
            if worker.shared.versions.refusal(counter).is_some() {
                self.tell_unable(worker);
            }
            return;
        }
        // While compaction is behind, acknowledgements come more slowly, and so do the next writes.
        let pace = worker.shared.store.pace().min(PACE_MAX);
        self.next_commit_micros = self.now_micros + pace.as_micros() as u64;
        let mut shard = worker.shard().lock().expect("no holder of a shard panics");
        let commit = shard.commit();
        worker.shared.counters[usize::from(worker.number)].items.store(shard.items(), Ordering::Relaxed);
        drop(shard);
        match commit {
            Ok(commit) => {
                self.commit_failed = false;
                self.is_staged = false;
                self.unable_since = None;
                self.committed(commit, last);
            }
            Err(e) => {
                // Nothing is told to anybody; the next turn or tick tries again.
                if !std::mem::replace(&mut self.commit_failed, true) {
                    tracing::error!("cannot store: {e}");
                }
                self.tell_unable(worker);
            }
        }
    }

    /// Tells the managers, now and then, that nothing more can be stored here, because the disk is full or fails: a link to
    /// oneself that is down.
    pub(super) fn tell_unable(&mut self, worker: &Worker) {
        let now = self.now_micros;
        let (since, told) = self.unable_since.unwrap_or((now, 0));
        if now >= told + UNABLE_TOLD_MICROS {
            self.unable_since = Some((since, now));
            let lasting = Duration::from_micros(now - since);
            // Without its control plane this server is about to end.
            let _ = worker.shared.lost.send((worker.shared.config.address, lasting));
        }
    }

    fn committed(&mut self, commit: Commit, last: u64) {
        match commit {
            Commit::Done => {
                for write in self.first_uncommitted..last {
                    self.pending.arrived(write, Answer::send);
                }
                self.acks.drain(..).for_each(|ack| ack.send(&self.view, &mut self.given, &mut self.sources));
                self.after_commit.drain(..).for_each(Answer::send);
                for done in self.copied.drain(..) {
                    // Nobody waits for a copy that was given up.
                    let _ = done.send(());
                }
            }
            Commit::Pending(ticket) => {
                self.on_disk.extend((self.first_uncommitted..last).map(|write| (ticket, write)));
                self.acks_on_disk.extend(self.acks.drain(..).map(|ack| (ticket, ack)));
                self.after_disk.extend(self.after_commit.drain(..).map(|answer| (ticket, answer)));
                self.copied_on_disk.extend(self.copied.drain(..).map(|done| (ticket, done)));
            }
        }
        self.first_uncommitted = last;
    }

    /// Goes on with what the disk has by now.
    fn take_durable(&mut self, worker: &Worker) {
        if !self.waits_for_device() {
            return;
        }
        let durable = worker.shared.store.durable(usize::from(worker.number));
        while let Some((_, write)) = self.on_disk.pop_front_if(|(ticket, _)| *ticket <= durable) {
            self.pending.arrived(write, Answer::send);
        }
        while let Some((_, ack)) = self.acks_on_disk.pop_front_if(|(ticket, _)| *ticket <= durable) {
            ack.send(&self.view, &mut self.given, &mut self.sources);
        }
        while let Some((_, answer)) = self.after_disk.pop_front_if(|(ticket, _)| *ticket <= durable) {
            answer.send();
        }
        while let Some((_, done)) = self.copied_on_disk.pop_front_if(|(ticket, _)| *ticket <= durable) {
            let _ = done.send(());
        }
    }

    /// Whether something was written that the device does not have yet.
    fn waits_for_device(&self) -> bool {
        let waiting = self.acks_on_disk.len() + self.after_disk.len() + self.copied_on_disk.len();
        !self.on_disk.is_empty() || waiting > 0
    }

    /// Whether the own disk does not have `write` yet.
    pub fn misses_disk(&self, write: u64) -> bool {
        write >= self.first_uncommitted || self.on_disk.iter().any(|(_, w)| *w == write)
    }
}
