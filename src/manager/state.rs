//! What a manager knows and does about it, without sockets, clocks or dice: events in, [`Action`]s out.
//!
//! [`State`] holds the epoch in force and the [`Roster`] of servers seen. Each event method notes what happened and
//! leaves actions in an outbox, which [`State::take_actions`] empties. [`settle`] draws the consequences: who is
//! removed, who comes back by itself, when a phase is done. [`super::change`] writes the texts, [`deciding`] makes them
//! facts. An epoch is on disk before anybody is told of it: [`Action::Spread`] says so.

use super::broken::Broken;
use super::change::{self, Draft, Newcomer};
use super::persist::Kept;
use super::ranges::Ranges;
use super::roster::{Kind, Roster};
use crate::logic::address::Address;
use crate::logic::clock::{Clock, ClockTime};
use crate::logic::epoch::{Epoch, Phase};
use crate::logic::paxos::{Question, Vote, Voter};
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::v1::Join;
use deciding::{Asked, Attempt};
use partners::Partner;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

mod command;
mod deciding;
mod parted;
mod partners;
mod settle;

pub use deciding::{Command, Progress, Ticket};

/// Numbers the connections of a manager.
pub type ConnId = u64;

/// The time of an event.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the manager started; never jumps.
    pub since_start: Duration,
    /// The wall clock: UNIX seconds.
    pub unix_secs: u64,
}

/// What does not change while a manager runs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This manager, as other nodes reach it.
    pub own: Address,
    /// The random number in its state file.
    pub disk_id: u64,
    /// Names the cluster, if this manager is the one that founds it. Not 0.
    pub new_cluster: u64,
    /// The other managers.
    pub partners: Vec<Address>,
    /// How long a server may be silent.
    pub lost_after: Duration,
    /// How long to wait for more servers before acting on those that came.
    pub replace_delay: Duration,
}

/// How loud a line of the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// With `-v`.
    Info,
    /// Always.
    Warn,
}

/// What is to be done in the world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A newer epoch is in force: sync it to disk, and then tell partners, servers and gateways.
    Spread,
    /// The same of one that removes nobody but who asked for it: servers can get ready for it before they are told.
    HandOver,
    /// This manager's vote has changed: sync it to disk before anything else that was said since.
    Keep,
    /// Tell the partners how many servers are heard here ([`State::hears`]).
    Confer,
    /// Ask a voter, and report the answer.
    Ask(Voter, Question),
    /// A command that waited is decided, or not.
    Answer(Ticket, Result<(), Refused>),
    /// Tell one connection the epoch in force.
    Tell(ConnId),
    /// Connect to a server's address, and report whether that is refused.
    Check(Address),
    /// Close a connection.
    Close(ConnId),
    /// Tell the partners, one of whom leads, that a server seems dead.
    Hint(Address),
    /// Write to the log.
    Log(Level, String),
    /// Write to the binary log: a server came.
    NoteNew(Address),
    /// Write to the binary log: a server is taken for dead.
    NoteLost(Address),
}

/// Why something is refused, with error 6.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The epoch shown belongs to another cluster.
    #[error("it belongs to another cluster")]
    Foreign,
    /// The epoch shown is none.
    #[error("the epoch on its disk is damaged: {0}")]
    Damaged(String),
    /// Its disk or its start has the number 0, which stands for kumofs 0.4.
    #[error("it has no identity")]
    NoIdentity,
    /// The connection is no server's.
    #[error("it sent no hello as a server")]
    NoServer,
    /// A partner leads.
    #[error("a partner decides")]
    NotLeading,
    /// An epoch with the number of the one in force says something else.
    #[error(
        "its epoch {0} is not this manager's epoch {0}: two managers went on alone, with their disks lost or copied"
    )]
    Twice(u64),
    /// The votes that are needed did not come in time.
    #[error("too few managers and servers have voted so far")]
    Undecided,
    /// A kumofs 0.4 server cannot do that.
    #[error("a kumofs 0.4 server cannot do that")]
    OldServer,
    /// Nor can a manager of it.
    #[error("a kumofs 0.4 manager cannot do that")]
    OldManager,
    /// A server that is not active cannot be drained, nor weighed.
    #[error("server {0} is not attached, or in fault")]
    NotActive(Address),
    /// Nor can one without which nobody would be left.
    #[error("server {0} is the only one that would be left")]
    OnlyOne(Address),
}

/// A manager.
#[derive(Debug)]
pub struct State {
    setup: Setup,
    epoch: Rc<Epoch>,
    for_gateways: Rc<Epoch>,
    clock: Clock,
    roster: Roster,
    /// Those that are connected.
    partners: BTreeMap<Address, Partner>,
    /// The disks of the partners met since the start; 0 for kumofs 0.4.
    disks: BTreeMap<Address, u64>,
    /// How many active servers were heard lately, and how many by each partner.
    hears: u32,
    told: BTreeMap<Address, u32>,
    /// Partners that were refused when last met.
    strangers: BTreeSet<Address>,
    auto_replace: bool,
    /// This manager's vote on the next epoch.
    vote: Vote,
    /// Votes being gathered.
    attempt: Option<Attempt>,
    /// How long the next one is to last, within bounds.
    attempt_lasts: Duration,
    /// The highest round by which an attempt was outbid.
    outbid: u64,
    /// No attempt is made before, since the start.
    silent_until: Duration,
    commands: VecDeque<Asked>,
    last_ticket: Ticket,
    /// What stands in the way of decisions, and since when.
    blocked_since: Option<Duration>,
    complaint: Option<String>,
    /// An operator has said that those present are to be taken.
    forced: bool,
    /// Of the epoch in force.
    ranges: Ranges,
    /// Incarnations that an epoch removed: never to be admitted again.
    burnt: BTreeSet<u64>,
    /// Links between servers that are said to be down.
    broken: Broken,
    /// Servers that auto-replace leaves alone, until when since the start.
    kept_out: BTreeMap<Address, Duration>,
    /// Who has reported the end of the phase under way.
    reported: BTreeSet<Address>,
    /// Who is being filled, and has copied what others are to have, in the phase under way.
    copied_out: BTreeSet<Address>,
    gone_since: Option<Duration>,
    returned_since: Option<Duration>,
    claimed_since: Option<Duration>,
    /// Since when those who held ranges last could come back to be filled.
    rescued_since: Option<Duration>,
    /// For an epoch: whether its copying, if it ended, would leave keys to nobody.
    strands: Option<(u64, bool)>,
    auto_since: Option<Duration>,
    last_tick: Duration,
    actions: Vec<Action>,
}

impl State {
    /// Starts with what the state file held. `auto_replace` can be changed later.
    pub fn new(setup: Setup, kept: Kept, auto_replace: bool) -> State {
        let epoch = Rc::new(kept.epoch.unwrap_or_default());
        let mut state = State {
            clock: Clock::starting_after(epoch.whs.timestamp.max(epoch.rhs.timestamp)),
            roster: Roster::new(setup.lost_after),
            setup,
            ranges: Ranges::of(&epoch),
            for_gateways: epoch.clone(),
            epoch,
            partners: BTreeMap::new(),
            disks: BTreeMap::new(),
            hears: 0,
            told: BTreeMap::new(),
            strangers: BTreeSet::new(),
            auto_replace,
            vote: kept.vote,
            attempt: None,
            attempt_lasts: Duration::ZERO,
            outbid: 0,
            silent_until: Duration::ZERO,
            commands: VecDeque::new(),
            last_ticket: 0,
            blocked_since: None,
            complaint: None,
            forced: false,
            burnt: BTreeSet::new(),
            broken: Broken::default(),
            kept_out: BTreeMap::new(),
            reported: BTreeSet::new(),
            gone_since: None,
            returned_since: None,
            claimed_since: None,
            rescued_since: None,
            strands: None,
            copied_out: BTreeSet::new(),
            auto_since: None,
            last_tick: Duration::ZERO,
            actions: Vec::new(),
        };
        state.expect_servers(Duration::ZERO);
        state
    }

    /// The epoch in force.
    pub fn epoch(&self) -> &Rc<Epoch> {
        &self.epoch
    }

    /// The epoch that gateways are to go by: that in force, or, while servers get ready for it, the one before. A gateway that
    /// named it early would be refused until they are.
    pub fn for_gateways(&self) -> &Rc<Epoch> {
        &self.for_gateways
    }

    /// Servers are ready for the epoch in force, or have had their time.
    pub fn handed_over(&mut self) {
        self.for_gateways = self.epoch.clone();
    }

    /// The logical counter, as version 0 messages carry it.
    pub fn counter(&self) -> u32 {
        self.clock.counter()
    }

    /// Raises the logical counter to what another node sent.
    pub fn observe_counter(&mut self, counter: u32) {
        self.clock.observe_counter(counter);
    }

    /// What is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What is to be on disk besides the epoch.
    pub fn vote(&self) -> &Vote {
        &self.vote
    }

    /// Whether new servers are attached and dead ones detached without an operator.
    pub fn auto_replace(&self) -> bool {
        self.auto_replace
    }

    /// Turns that on or off.
    pub fn set_auto_replace(&mut self, on: bool) {
        self.auto_replace = on;
        self.auto_since = None;
    }

    /// How long is waited for more servers before acting on those that came.
    pub fn replace_delay(&self) -> Duration {
        self.setup.replace_delay
    }

    /// Changes that.
    pub fn set_replace_delay(&mut self, delay: Duration) {
        self.setup.replace_delay = delay;
    }

    /// The servers that are connected and not attached, in the order of coming.
    pub fn newcomers(&self) -> Vec<Newcomer> {
        let mut found: Vec<(u64, Newcomer)> = self
            .roster
            .iter()
            .filter_map(|(address, seen)| Some((seen.arrival, seen.newcomer(address)?)))
            .filter(|(_, n)| !change::is_active(&self.epoch, n.address) && self.is_fresh(n))
            .collect();
        found.sort_unstable_by_key(|(arrival, _)| *arrival);
        found.into_iter().map(|(_, n)| n).collect()
    }

    /// What operators see as not attached: the [`newcomers`](State::newcomers), behind those that are being drained, or were
    /// and have yet to begin their next life.
    pub fn not_attached(&self) -> Vec<Address> {
        let newcomers: Vec<Address> = self.newcomers().iter().map(|n| n.address).collect();
        let is_connected = |a: Address| self.roster.get(a).and_then(|seen| seen.newcomer(a)).is_some();
        let leaving = |a: Address| change::is_active(&self.epoch, a) || is_connected(a) && !newcomers.contains(&a);
        let drained = self.epoch.servers.iter().filter(|s| s.drained).map(|s| s.address);
        drained.filter(|address| leaving(*address)).chain(newcomers.iter().copied()).collect()
    }

    fn is_fresh(&self, server: &Newcomer) -> bool {
        server.incarnation == 0 || !self.burnt.contains(&server.incarnation) || !on(Rule::DeadStayDead)
    }

    /// Whether the server of a connection gets version 1 messages, and this epoch concerns it.
    pub fn follows_epochs(&self, conn: ConnId) -> bool {
        let Some(address) = self.roster.by_conn(conn) else { return false };
        match self.roster.get(address).map(|s| s.kind) {
            Some(Kind::Joined { has_epoch, .. }) => has_epoch || self.epoch.server(address).is_some(),
            _ => false,
        }
    }

    /// Whether the server of a connection speaks version 0 only.
    pub fn is_old(&self, conn: ConnId) -> bool {
        let seen = self.roster.by_conn(conn).and_then(|a| self.roster.get(a));
        seen.is_some_and(|s| s.kind == Kind::Old)
    }

    fn log(&mut self, level: Level, line: String) {
        self.actions.push(Action::Log(level, line));
    }

    /// A server's hello came.
    pub fn server_opened(&mut self, now: Now, conn: ConnId, address: Address) {
        if let Some(old) = self.roster.opened(now.since_start, address, conn) {
            self.actions.push(Action::Close(old));
        }
        self.log(Level::Info, format!("new node 1 {address}"));
        self.log(Level::Info, format!("server connected {address}"));
        self.actions.push(Action::NoteNew(address));
    }

    /// A server introduced itself, as version 1 does.
    ///
    /// # Errors
    /// When it has nothing to do here; the connection is then of no use.
    pub fn joined(&mut self, now: Now, conn: ConnId, join: &Join) -> Result<(), Refused> {
        let address = self.roster.by_conn(conn).ok_or(Refused::NoServer)?;
        if join.disk_id == 0 || join.incarnation == 0 {
            return self.refuse(now, conn, address, Refused::NoIdentity);
        }
        if let Some(bytes) = &join.epoch {
            let theirs = Epoch::decode(bytes).map_err(|e| Refused::Damaged(e.to_string()));
            let met = theirs.and_then(|theirs| {
                let burnt = theirs.server(address).is_some_and(|s| s.incarnation == join.incarnation);
                self.met(now, theirs).map(|()| burnt)
            });
            match met {
                // It runs on an epoch that named it so, and the one in force does not.
                Ok(true) if !self.is_recorded(address, join.incarnation) => {
                    self.burnt.insert(join.incarnation);
                }
                Ok(_) => {}
                Err(why) => return self.refuse(now, conn, address, why),
            }
        }
        let twin = self.epoch.servers.iter().find(|s| s.disk_id == join.disk_id && s.address != address);
        if let Some(old) = twin.map(|t| t.address) {
            self.log(Level::Warn, format!("server {address} has the disk of {old}: it counts as a new server"));
        }
        let kind = Kind::Joined {
            disk_id: join.disk_id,
            incarnation: join.incarnation,
            workers: join.workers,
            has_epoch: join.epoch.is_some(),
        };
        if !self.is_recorded(address, join.incarnation) {
            self.broken.forget(address);
        }
        self.roster.introduced(conn, kind);
        self.roster.alive(now.since_start, conn);
        if self.epoch.number > 0 {
            self.actions.push(Action::Tell(conn));
        }
        self.ask(Voter { address, disk_id: join.disk_id });
        self.go_on(now);
        Ok(())
    }

    /// Whether a life that introduced itself on a connection was removed by an epoch, be it that it never heard of the
    /// one that had admitted it.
    pub fn is_over(&self, conn: ConnId, incarnation: u64) -> bool {
        let entry = self.roster.by_conn(conn).and_then(|address| self.epoch.server(address));
        self.burnt.contains(&incarnation) || entry.is_some_and(|s| s.incarnation == incarnation && s.removed.is_some())
    }

    fn refuse(&mut self, now: Now, conn: ConnId, address: Address, why: Refused) -> Result<(), Refused> {
        self.log(Level::Warn, format!("server refused {address}: {why}"));
        self.roster.closed(conn);
        if change::is_active(&self.epoch, address) {
            // Whoever was admitted at this address is there no more.
            self.bury(now, address);
            self.settle(now);
        }
        self.forget_strangers();
        Err(why)
    }

    fn is_recorded(&self, address: Address, incarnation: u64) -> bool {
        let entry = self.epoch.server(address);
        entry.is_some_and(|s| s.incarnation == incarnation && s.removed.is_none())
    }

    /// A server sent something other than JOIN first, or nothing for too long: it is a kumofs 0.4 server.
    pub fn spoke_old(&mut self, now: Now, conn: ConnId) {
        let known = self.roster.by_conn(conn).and_then(|a| self.roster.get(a)).map(|s| s.kind);
        if known == Some(Kind::Silent) {
            self.roster.introduced(conn, Kind::Old);
            if self.epoch.number > 0 {
                self.actions.push(Action::Tell(conn));
            }
            self.settle(now);
        }
    }

    /// Something was heard on a server's connection.
    pub fn alive(&mut self, now: Now, conn: ConnId) {
        self.roster.alive(now.since_start, conn);
    }

    /// A server's connection is gone.
    pub fn server_closed(&mut self, now: Now, conn: ConnId) {
        let Some(address) = self.roster.closed(conn) else { return };
        if change::is_active(&self.epoch, address) {
            self.actions.push(Action::Check(address));
        } else {
            self.log_lost(address);
            self.forget_strangers();
        }
        self.settle(now);
    }

    fn log_lost(&mut self, address: Address) {
        self.log(Level::Warn, format!("lost node 1 {address}"));
        self.log(Level::Warn, format!("server lost {address}"));
        self.actions.push(Action::NoteLost(address));
    }

    /// Connecting to a server was tried; that `began` at a time since the start. A server that came back meanwhile lives.
    pub fn checked(&mut self, now: Now, began: Duration, address: Address, reachable: bool) {
        let came_back = self.roster.get(address).is_some_and(|s| s.conn.is_some() && s.opened > began);
        if !reachable && !came_back && change::is_active(&self.epoch, address) {
            self.bury(now, address);
            self.settle(now);
        }
    }

    /// A server is about to end: it serves until an epoch removes it.
    pub fn leaving(&mut self, now: Now, conn: ConnId) {
        self.roster.leaving(conn);
        self.settle(now);
    }

    /// A server is said to be out of reach.
    pub fn hint_lost(&mut self, address: Address) {
        if change::is_active(&self.epoch, address) {
            self.actions.push(Action::Check(address));
        }
    }

    fn bury(&mut self, now: Now, address: Address) {
        let (new, conn) = self.roster.bury(now.since_start, address);
        self.actions.extend(conn.map(Action::Close));
        if new {
            self.log_lost(address);
        }
        if new && !self.leads() && change::is_active(&self.epoch, address) {
            self.actions.push(Action::Hint(address));
        }
    }

    /// A server has copied what the replace of `time` asked of it.
    pub fn copy_ended(&mut self, now: Now, conn: ConnId, time: ClockTime) {
        if matches!(self.epoch.phase, Phase::Copying { time: t, .. } if t == time) {
            self.report(now, conn);
        }
    }

    /// A server has dropped what the replace of `time` took from it.
    pub fn delete_ended(&mut self, now: Now, conn: ConnId, time: ClockTime) {
        if matches!(self.epoch.phase, Phase::Deleting { time: t } if t == time) {
            self.report(now, conn);
        }
    }

    fn report(&mut self, now: Now, conn: ConnId) {
        self.roster.alive(now.since_start, conn);
        let Some(address) = self.roster.by_conn(conn) else { return };
        let newcomer = self.roster.get(address).and_then(|s| s.newcomer(address));
        if newcomer.is_some_and(|n| self.is_recorded(address, n.incarnation)) {
            self.reported.insert(address);
            self.settle(now);
        }
    }

    fn draft(&mut self, now: Now) -> Draft {
        let newest = self.epoch.whs.timestamp.max(self.epoch.rhs.timestamp);
        Draft::new(&self.epoch, self.clock.tick_above(now.unix_secs, newest))
    }

    /// Makes a decided epoch the one that this manager goes by.
    fn put_in_force(&mut self, now: Now, next: Epoch, tell: Action) {
        let before = std::mem::replace(&mut self.epoch, Rc::new(next));
        if tell != Action::HandOver {
            self.for_gateways = self.epoch.clone();
        }
        let active = before.servers.iter().filter(|s| s.removed.is_none());
        let removed = active.filter(|s| !self.is_recorded(s.address, s.incarnation)).map(|s| s.incarnation);
        let removed: Vec<u64> = removed.filter(|i| *i != 0).collect();
        self.burnt.extend(removed);
        if self.epoch.phase != before.phase {
            self.reported.clear();
            self.copied_out.clear();
            self.log_phase(before.phase);
        }
        self.expect_servers(now.since_start);
        self.forget_strangers();
        if !self.ranges.fit(&self.epoch) {
            self.ranges = Ranges::of(&self.epoch);
        }
        // Whatever was being voted on follows an earlier epoch.
        self.attempt = None;
        self.outbid = 0;
        if self.vote.number <= self.epoch.number {
            self.vote = Vote::default();
        }
        self.actions.push(tell);
    }

    /// Whether the next epoch removes nobody but who is there and asked for it.
    fn is_orderly(&self, next: &Epoch) -> bool {
        let stays = |address, incarnation| {
            next.server(address).is_some_and(|s| s.incarnation == incarnation && s.removed.is_none())
        };
        let asked = |address| self.roster.get(address).is_some_and(|seen| seen.leaving && seen.conn.is_some());
        let mut active = self.epoch.servers.iter().filter(|s| s.removed.is_none());
        active.all(|s| stays(s.address, s.incarnation) || asked(s.address))
    }

    fn log_phase(&mut self, before: Phase) {
        match (before, self.epoch.phase) {
            (_, Phase::Copying { full, .. }) => self.log(Level::Info, format!("start replace copy; full={full}")),
            (_, Phase::Deleting { time }) => self.log(Level::Info, format!("start replace delete time({})", time.0)),
            (Phase::Deleting { time }, Phase::Idle) => {
                self.log(Level::Info, format!("replace finished time({})", time.0));
            }
            _ => {}
        }
    }

    /// Active servers that were never heard are given some time.
    fn expect_servers(&mut self, now: Duration) {
        let deadline = now + self.setup.replace_delay.max(self.setup.lost_after);
        for server in &self.epoch.servers {
            if change::is_active(&self.epoch, server.address) {
                self.roster.expect(server.address, deadline);
            }
        }
    }

    fn forget_strangers(&mut self) {
        self.roster.retain(|address| change::is_active(&self.epoch, address));
    }

    /// Time passes. Called many times a second.
    pub fn tick(&mut self, now: Now) {
        if now.since_start.saturating_sub(self.last_tick) > self.setup.lost_after / 2 {
            self.roster.excuse(now.since_start);
        }
        self.last_tick = now.since_start;
        for address in self.roster.overdue(now.since_start) {
            self.bury(now, address);
        }
        self.forget_strangers();
        self.count_the_heard(now);
        self.give_up_in_time(now);
        self.go_on(now);
        self.flush_when_due(now);
        self.replace_by_itself(now);
    }

    /// The connections of servers that have said hello before `since_start` and nothing since.
    pub fn silent_since(&self, since_start: Duration) -> Vec<ConnId> {
        let silent = self.roster.iter().filter(|(_, s)| s.kind == Kind::Silent && s.opened <= since_start);
        silent.filter_map(|(_, s)| s.conn).collect()
    }
}

#[cfg(test)]
mod tests;
