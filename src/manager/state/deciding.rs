//! How a change becomes a fact: this manager's vote, its attempts to have a text decided, and what waits for them.
//!
//! Source: doc/guarantees.md, "Deciding"; the rules of voting are [`crate::logic::paxos`]'s. Where its own vote is
//! enough, all of this happens within one call. Otherwise one [`Attempt`] is under way at a time; meanwhile nothing else
//! is drafted, and commands wait. Invariant: this manager's vote is on disk before a question or an answer leaves
//! ([`Action::Keep`]).

use super::{Action, Level, Now, Refused, State};
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::paxos::{Answer, Ballot, Electorate, Proposer, Question, Step, Voter};
use crate::logic::weight::Weight;
use crate::manager::change::Draft;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long to wait for votes before asking anew. A vote is two round trips and four writes to disk, one after the other, each of
/// which syncs twice. Where that was not enough, or barely, the next attempt is given twice as long, up to the longest.
const ATTEMPT: Duration = Duration::from_secs(1);
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);
/// How long one who was outbid keeps still, times its place among the managers: one of them gets through.
const PAUSE: Duration = Duration::from_millis(75);
/// How long a command waits to be decided: less than tools and partners wait for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Numbers the commands that wait.
pub type Ticket = u64;

/// How far a command has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It is decided.
    Done,
    /// It is being voted on; [`Action::Answer`] tells the outcome.
    Deciding(Ticket),
}

/// What an operator or a gateway wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// All servers that are connected and not attached are to be.
    Attach {
        /// Start copying at once.
        replace: bool,
    },
    /// The dead give up their places.
    Detach {
        /// Start copying at once.
        replace: bool,
    },
    /// Start copying.
    Replace {
        /// Everything, not only what is missing.
        full: bool,
    },
    /// Have a server leave, as soon as others hold what it holds.
    Drain(Address),
    /// Give a server another part of the ring.
    Weigh(Address, Weight),
    /// Move records at most so fast, in bytes per second for each server; 0: as fast as they can.
    Rate(u64),
    /// Move no records for now, or go on.
    Pause(bool),
    /// Delete all that is stored before the decision.
    Flush,
    /// Delete it at a UNIX time in seconds.
    FlushAt(u64),
}

/// A command that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    ticket: Ticket,
    command: Command,
    /// By a partner that left it to this manager, whoever this one thinks is to decide: no command goes to and fro.
    passed_on: bool,
    until: Duration,
}

/// Votes being gathered.
#[derive(Debug)]
pub(super) struct Attempt {
    proposer: Proposer,
    began: Duration,
    until: Duration,
    /// The command whose text this is.
    ticket: Option<Ticket>,
}

/// What became of a draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// It changes nothing.
    Nothing,
    /// It is in force.
    Done,
    /// It is being voted on.
    UnderWay,
    /// It cannot be voted on now, or something else has to be decided first.
    Blocked,
}

impl State {
    /// This manager as a voter.
    fn voter(&self) -> Voter {
        Voter { address: self.setup.own, disk_id: self.setup.disk_id }
    }

    /// Decides what was drafted, if it changes anything.
    pub(super) fn decide(&mut self, now: Now, draft: Draft) -> Decision {
        let same_text = Epoch { number: self.epoch.number, ..draft.epoch().clone() } == *self.epoch;
        let nobody = draft.epoch().servers.is_empty() && self.epoch.servers.is_empty();
        if same_text || nobody { Decision::Nothing } else { self.decide_anyway(now, draft) }
    }

    pub(super) fn decide_anyway(&mut self, now: Now, draft: Draft) -> Decision {
        if self.attempt.is_some() || !self.can_decide(now) {
            return Decision::Blocked;
        }
        let next = draft.finish(self.managers(), self.setup.new_cluster);
        if let Err(e) = next.check() {
            self.log(Level::Warn, format!("a change is dropped: {e}"));
            return Decision::Nothing;
        }
        let number = self.epoch.number + 1;
        let round = self.vote.next_round(number).max(self.outbid.saturating_add(1));
        let ballot = Ballot { round, proposer: self.voter() };
        let proposer = Proposer::new(self.electorate(), number, ballot, next.encode());
        let (began, lasts) = (now.since_start, self.attempt_lasts.clamp(ATTEMPT, LONGEST_ATTEMPT));
        self.attempt = Some(Attempt { proposer, began, until: began + lasts, ticket: None });
        self.ask_voters(now);
        match &self.attempt {
            Some(_) => Decision::UnderWay,
            None if *self.epoch == next => Decision::Done,
            // What had been accepted before came first.
            None => Decision::Blocked,
        }
    }

    /// Whether votes can be gathered. What stands in their way for long is said once.
    pub(super) fn can_decide(&mut self, now: Now) -> bool {
        if now.since_start < self.silent_until {
            return false;
        }
        let Err(why) = self.may_propose() else {
            self.blocked_since = None;
            self.complaint = None;
            return true;
        };
        let since = *self.blocked_since.get_or_insert(now.since_start);
        if now.since_start >= since + PATIENCE {
            self.complain(why);
        }
        false
    }

    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            self.log(Level::Warn, format!("nothing can be decided: {why}"));
            self.complaint = Some(why);
        }
    }

    /// Those who decide the next epoch: whom the one in force names, if any of the configured managers is among them.
    /// Without any, all configured ones have to agree: for the first epoch, and when all disks of managers are new.
    fn electorate(&self) -> Electorate {
        let named = Electorate::of(&self.epoch);
        let configured: BTreeSet<Voter> = self
            .managers()
            .iter()
            .filter(|m| m.disk_id != 0)
            .map(|m| Voter { address: m.address, disk_id: m.disk_id })
            .collect();
        if configured.is_disjoint(named.managers()) { Electorate::unanimous(configured, &self.epoch) } else { named }
    }

    /// Whether a vote makes sense now. `Err` tells the operator what is missing.
    fn may_propose(&self) -> Result<(), String> {
        let electorate = self.electorate();
        if electorate.is_takeover() {
            self.may_take_over()?;
        }
        let mut reachable = self.voters_in_reach();
        reachable.insert(self.voter());
        if electorate.suffice(&reachable) {
            return Ok(());
        }
        let missing = |voters: &BTreeSet<Voter>| addresses(voters.difference(&reachable).map(|v| v.address));
        let (managers, servers) = (missing(electorate.managers()), missing(electorate.servers()));
        let servers = if servers.is_empty() { servers } else { format!(", servers {servers}") };
        Err(format!("too few voters are in reach; missing: managers {managers}{servers}"))
    }

    /// A manager whose disk has no vote takes nothing over blindly: a newer epoch may be on a disk that is not here.
    fn may_take_over(&self) -> Result<(), String> {
        let unmet = self.setup.partners.iter().copied().filter(|p| !self.disks.contains_key(p));
        let unmet = addresses(unmet);
        if !unmet.is_empty() {
            return Err(format!("manager {unmet} has not been met yet; start it, or leave it out of --partner (-p)"));
        }
        if self.epoch.number == 0 || self.forced {
            return Ok(());
        }
        let configured: Vec<Address> = self.managers().iter().map(|m| m.address).collect();
        let named = Electorate::of(&self.epoch);
        let others = addresses(named.managers().iter().map(|v| v.address).filter(|a| !configured.contains(a)));
        if !others.is_empty() {
            let advice = "name them with --partner (-p), or give them up with `kumoctl attach` at this manager";
            return Err(format!("the servers follow manager {others}: {advice}"));
        }
        let unheard = addresses(self.unheard().into_iter());
        if !unheard.is_empty() {
            let advice = "`kumoctl attach` goes on without them";
            return Err(format!("this manager's disk is new, and servers {unheard} may know more: {advice}"));
        }
        Ok(())
    }

    /// Asks all voters in reach what the attempt is to know, itself first.
    fn ask_voters(&mut self, now: Now) {
        let Some(attempt) = &self.attempt else { return };
        let question = attempt.proposer.question();
        let answer = self.vote.answer(self.epoch.number, &question);
        self.actions.push(Action::Keep);
        for voter in self.voters_in_reach() {
            self.ask(voter);
        }
        self.heard(now, self.voter(), answer);
    }

    /// Asks one voter, if it has a vote on what is under way.
    pub(super) fn ask(&mut self, voter: Voter) {
        let Some(attempt) = &self.attempt else { return };
        let electorate = attempt.proposer.electorate();
        if electorate.managers().contains(&voter) || electorate.servers().contains(&voter) {
            self.actions.push(Action::Ask(voter, attempt.proposer.question()));
        }
    }

    /// A voter answered a question about a number in a ballot.
    pub fn voted(&mut self, now: Now, from: Voter, number: u64, ballot: Ballot, answer: Answer) {
        if self.attempt.as_ref().is_some_and(|a| a.proposer.attempts(number, ballot)) {
            self.heard(now, from, answer);
            if self.attempt.is_none() {
                self.go_on(now);
            }
        }
    }

    fn heard(&mut self, now: Now, from: Voter, answer: Answer) {
        let Some(attempt) = &mut self.attempt else { return };
        match attempt.proposer.heard(from, answer) {
            Step::Wait => {}
            Step::Ask => self.ask_voters(now),
            Step::Decided(text) => self.conclude(now, &text),
            Step::Outbid(ballot) => {
                self.attempt = None;
                self.outbid = self.outbid.max(ballot.round);
                let place = self.setup.partners.iter().filter(|p| **p < self.setup.own).count() as u32;
                self.silent_until = now.since_start + PAUSE * (place + 1);
            }
        }
    }

    fn conclude(&mut self, now: Now, text: &[u8]) {
        let Some(attempt) = self.attempt.take() else { return };
        self.attempt_lasts = (now.since_start - attempt.began) * 2;
        match Epoch::decode(text) {
            Ok(next) => {
                if let Some(ticket) = attempt.ticket.filter(|_| text == attempt.proposer.wish()) {
                    self.answer(ticket, Ok(()));
                }
                let tell = if self.is_orderly(&next) { Action::HandOver } else { Action::Spread };
                self.put_in_force(now, next, tell);
            }
            // No voter accepts such a text.
            Err(e) => self.log(Level::Warn, format!("what was decided cannot be read: {e}")),
        }
    }

    /// Another manager asks for this one's vote.
    ///
    /// # Errors
    /// When it belongs to another cluster, or proposes what is no epoch.
    pub fn asked(&mut self, cluster: u64, question: &Question) -> Result<Answer, Refused> {
        if cluster != 0 && self.epoch.cluster != 0 && cluster != self.epoch.cluster {
            return Err(Refused::Foreign);
        }
        if !question.is_sound() {
            return Err(Refused::Damaged("it has another number, or contradicts itself".to_owned()));
        }
        let before = self.vote.clone();
        let answer = self.vote.answer(self.epoch.number, question);
        if self.vote != before {
            self.actions.push(Action::Keep);
        }
        Ok(answer)
    }

    /// Draws the consequences, and carries out what waits.
    pub(super) fn go_on(&mut self, now: Now) {
        self.settle(now);
        self.run_commands(now);
    }

    /// Time passes: attempts and commands that took too long are given up.
    pub(super) fn give_up_in_time(&mut self, now: Now) {
        if let Some(late) = self.attempt.take_if(|a| a.until <= now.since_start) {
            self.attempt_lasts = (late.until - late.began) * 2;
        }
        let late: Vec<Ticket> = self.commands.iter().filter(|c| c.until <= now.since_start).map(|c| c.ticket).collect();
        for ticket in late {
            if let Err(why) = self.may_propose() {
                self.complain(why);
            }
            self.answer(ticket, Err(Refused::Undecided));
        }
    }

    fn answer(&mut self, ticket: Ticket, outcome: Result<(), Refused>) {
        self.commands.retain(|c| c.ticket != ticket);
        self.actions.push(Action::Answer(ticket, outcome));
    }

    /// Takes a command; one that a partner has `passed_on` is carried out here in any case.
    ///
    /// # Errors
    /// When a partner decides, or when it cannot be done.
    pub fn command(&mut self, now: Now, command: Command, passed_on: bool) -> Result<Progress, Refused> {
        if !passed_on && !self.leads() {
            return Err(Refused::NotLeading);
        }
        let flushes = matches!(command, Command::Flush | Command::FlushAt(_));
        if flushes && self.epoch.number > 0 && !self.epoch.strict() {
            return Err(Refused::OldServer);
        }
        if let Command::Drain(address) = command {
            self.may_drain(address)?;
        }
        if let Command::Weigh(address, _) = command {
            self.may_weigh(address)?;
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.commands.push_back(Asked { ticket, command, passed_on, until: now.since_start + PATIENCE });
        self.run_commands(now);
        let done = Action::Answer(ticket, Ok(()));
        match self.actions.iter().position(|action| *action == done) {
            Some(at) => {
                self.actions.remove(at);
                Ok(Progress::Done)
            }
            None => Ok(Progress::Deciding(ticket)),
        }
    }

    fn run_commands(&mut self, now: Now) {
        if self.attempt.is_none() && !self.leads() {
            // The one that decides has been met since.
            let others: Vec<Ticket> = self.commands.iter().filter(|c| !c.passed_on).map(|c| c.ticket).collect();
            for ticket in others {
                self.answer(ticket, Err(Refused::NotLeading));
            }
        }
        while let (None, Some(asked)) = (&self.attempt, self.commands.front().copied()) {
            match self.carry_out(now, asked.command) {
                Decision::Nothing | Decision::Done => self.answer(asked.ticket, Ok(())),
                Decision::Blocked => return,
                Decision::UnderWay => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.ticket = Some(asked.ticket);
                    }
                }
            }
        }
    }
}

fn addresses(of: impl Iterator<Item = Address>) -> String {
    of.map(|a| a.to_string()).collect::<Vec<_>>().join(", ")
}
