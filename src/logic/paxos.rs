//! How one text is chosen for each epoch number: Lamport's single-decree Paxos, without I/O.
//!
//! Source: `doc/guarantees.md`, "Deciding". An [`Electorate`] says whose votes are enough, a [`Vote`] is what a voter
//! keeps on disk, and a [`Proposer`] leads one attempt through its two phases. Invariants, on which all safety
//! depends:
//!
//! - Any two sufficient sets of one electorate have a voter in common ([`Electorate::suffice`]).
//! - A voter syncs its [`Vote`] before its answer leaves, and so does a proposer with its own, before it asks.
//! - A ballot carries one text: its proposer promises it to itself first, so that it never bids it again.
//!
//! What is decided is a fact that needs no further vote; passing it on is the business of others.

use super::address::Address;
use super::epoch::Epoch;
use super::rule::{self, on};
use std::collections::BTreeSet;

/// Who votes. Another disk at the same address is another voter, and so is a copy of the disk elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Voter {
    /// Where it is reached.
    pub address: Address,
    /// The random number on its disk. Not 0.
    pub disk_id: u64,
}

/// An attempt to decide a number. Higher ones prevail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ballot {
    /// Counts attempts, from 1.
    pub round: u64,
    /// Whose attempt it is.
    pub proposer: Voter,
}

/// What a proposer asks of a voter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The epoch number to be decided.
    pub number: u64,
    /// In which attempt.
    pub ballot: Ballot,
    /// `None` in the first phase: to take part in no lower ballot. In the second phase: to accept this text.
    pub text: Option<Vec<u8>>,
}

impl Question {
    /// Whether its text, if it has one, is an epoch of that number. No voter accepts anything else.
    pub fn is_sound(&self) -> bool {
        let sound = |text: &Vec<u8>| Epoch::decode(text).is_ok_and(|epoch| epoch.number == self.number);
        self.text.as_ref().is_none_or(sound)
    }
}

/// What a voter answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It takes part in no lower ballot, and had accepted this before.
    Promised(Option<(Ballot, Vec<u8>)>),
    /// It has accepted the text.
    Accepted,
    /// It takes part in a higher ballot.
    Outbid(Ballot),
    /// It votes about another number: it knows more, or less, than the proposer.
    Elsewhere,
}

/// What a voter keeps on disk about the number that it votes on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vote {
    /// The number. Votes on lower ones are of no account any more, because those are decided.
    pub number: u64,
    /// The highest ballot that it takes part in.
    pub promised: Option<Ballot>,
    /// What it accepted last, and in which ballot.
    pub accepted: Option<(Ballot, Vec<u8>)>,
}

impl Vote {
    /// Answers a question, given the number of the newest epoch that the voter knows to be decided. When this changes the
    /// vote, it must be on disk before the answer leaves.
    pub fn answer(&mut self, decided: u64, question: &Question) -> Answer {
        // A vote on a number means that all before it are decided, also when the epoch itself was lost from disk.
        if question.number != decided + 1 || question.number < self.number {
            return Answer::Elsewhere;
        }
        if question.number > self.number {
            *self = Vote { number: question.number, ..Vote::default() };
        }
        if let Some(promised) = self.promised.filter(|promised| question.ballot < *promised) {
            return Answer::Outbid(promised);
        }
        let Some(text) = &question.text else {
            self.promised = Some(question.ballot);
            return Answer::Promised(self.accepted.clone());
        };
        match &self.accepted {
            // Two proposers with one disk id at one address: somebody has copied a disk. One ballot carries one text.
            Some((ballot, accepted)) if *ballot == question.ballot && accepted != text => Answer::Outbid(*ballot),
            _ => {
                self.promised = Some(question.ballot);
                self.accepted = Some((question.ballot, text.clone()));
                Answer::Accepted
            }
        }
    }

    /// The round for a ballot about `number` that no earlier one of this voter's promises is above.
    pub fn next_round(&self, number: u64) -> u64 {
        let promised = self.promised.filter(|_| self.number == number);
        promised.map_or(1, |ballot| ballot.round.saturating_add(1))
    }
}

/// How many votes are enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The only manager, both of two or one of two with more than half of the servers, a majority of three or more.
    Ordinary,
    /// All managers and, where servers have a say, more than half of them.
    Unanimous,
}

/// Those who decide the epoch after a given one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Electorate {
    managers: BTreeSet<Voter>,
    servers: BTreeSet<Voter>,
    rule: Rule,
}

impl Electorate {
    /// Those whom an epoch names to decide the next one. Managers and servers of kumofs 0.4, which have no disk id, do
    /// not vote. Nobody decides what follows the epoch before the first: see [`Electorate::unanimous`].
    pub fn of(epoch: &Epoch) -> Electorate {
        let managers: BTreeSet<Voter> = epoch.managers.iter().filter_map(|m| voter(m.address, m.disk_id)).collect();
        let servers = if managers.len() == 2 { voting_servers(epoch) } else { BTreeSet::new() };
        Electorate { managers, servers, rule: Rule::Ordinary }
    }

    /// For a cluster's first epoch, and for one that finds none of its managers' disks any more: `managers`, which are
    /// all that are configured, have to agree. Where the servers of that epoch have a say, more than half of them must
    /// agree too: whoever of the former managers is left can then decide nothing else.
    pub fn unanimous(managers: BTreeSet<Voter>, epoch: &Epoch) -> Electorate {
        Electorate { managers, servers: Electorate::of(epoch).servers, rule: Rule::Unanimous }
    }

    /// Whether these decide because none is left of those whom the epoch names.
    pub fn is_takeover(&self) -> bool {
        self.rule == Rule::Unanimous
    }

    /// The managers that vote.
    pub fn managers(&self) -> &BTreeSet<Voter> {
        &self.managers
    }

    /// The servers that vote.
    pub fn servers(&self) -> &BTreeSet<Voter> {
        &self.servers
    }

    /// Whether the votes of these are enough.
    pub fn suffice(&self, of: &BTreeSet<Voter>) -> bool {
        let managers = self.managers.intersection(of).count();
        let backed = self.servers.intersection(of).count() * 2 > self.servers.len();
        match (self.rule, self.managers.len()) {
            (_, 0) => false,
            _ if !on(rule::Rule::Quorum) => managers > 0,
            (Rule::Unanimous, all) => managers == all && (backed || self.servers.is_empty()),
            (Rule::Ordinary, 1) => managers == 1,
            (Rule::Ordinary, 2) => managers == 2 || managers == 1 && backed,
            (Rule::Ordinary, all) => managers * 2 > all,
        }
    }
}

fn voter(address: Address, disk_id: u64) -> Option<Voter> {
    (disk_id != 0).then_some(Voter { address, disk_id })
}

/// The servers that are active or, when none is, those that were taken for dead last.
fn voting_servers(epoch: &Epoch) -> BTreeSet<Voter> {
    let active = |a: Address| epoch.whs.is_active(a) || epoch.rhs.is_active(a);
    let last = if epoch.servers.iter().any(|s| active(s.address)) {
        None
    } else {
        epoch.servers.iter().filter_map(|s| s.removed).max()
    };
    let votes = epoch.servers.iter().filter(|s| active(s.address) || last.is_some() && s.removed == last);
    votes.filter_map(|s| voter(s.address, s.disk_id)).collect()
}

/// What a proposer is to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Wait for more answers.
    Wait,
    /// Ask everybody the new [`Proposer::question`].
    Ask,
    /// This text is decided.
    Decided(Vec<u8>),
    /// Give up: a higher ballot is under way. Try again above it, after a while.
    Outbid(Ballot),
}

/// One attempt to decide a number.
#[derive(Clone, Debug)]
pub struct Proposer {
    electorate: Electorate,
    number: u64,
    ballot: Ballot,
    /// What is proposed when nothing was accepted before.
    wish: Vec<u8>,
    /// What was accepted before, in the highest ballot heard of.
    found: Option<(Ballot, Vec<u8>)>,
    /// In the second phase, and after it.
    accepting: bool,
    /// Who agreed in this phase.
    agreed: BTreeSet<Voter>,
}

impl Proposer {
    /// An attempt to make `wish` the text of a number.
    pub fn new(electorate: Electorate, number: u64, ballot: Ballot, wish: Vec<u8>) -> Proposer {
        Proposer { electorate, number, ballot, wish, found: None, accepting: false, agreed: BTreeSet::new() }
    }

    /// Whether this is the attempt to decide a number in a ballot.
    pub fn attempts(&self, number: u64, ballot: Ballot) -> bool {
        (self.number, self.ballot) == (number, ballot)
    }

    /// What the proposer would have decided.
    pub fn wish(&self) -> &[u8] {
        &self.wish
    }

    /// Those to ask.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// What to ask them now.
    pub fn question(&self) -> Question {
        let text = self.accepting.then(|| self.text().to_vec());
        Question { number: self.number, ballot: self.ballot, text }
    }

    /// What is being proposed.
    pub fn text(&self) -> &[u8] {
        self.found.as_ref().map_or(&self.wish, |(_, text)| text)
    }

    /// An answer to a question of this attempt came; late and repeated ones do no harm. An answer to another attempt
    /// must not be given here.
    pub fn heard(&mut self, from: Voter, answer: Answer) -> Step {
        match answer {
            Answer::Outbid(ballot) if ballot > self.ballot => return Step::Outbid(ballot),
            Answer::Outbid(_) | Answer::Elsewhere => return Step::Wait,
            Answer::Promised(_) if self.accepting => return Step::Wait,
            Answer::Accepted if !self.accepting => return Step::Wait,
            Answer::Promised(found) => {
                self.agreed.insert(from);
                // Only the votes that count say what may have been decided.
                let counts = self.electorate.managers.contains(&from) || self.electorate.servers.contains(&from);
                if let Some(found) = found.filter(|_| counts) {
                    let newer = self.found.as_ref().is_none_or(|(ballot, _)| found.0 > *ballot);
                    self.found = if newer { Some(found) } else { self.found.take() };
                }
            }
            Answer::Accepted => {
                self.agreed.insert(from);
            }
        }
        if !self.electorate.suffice(&self.agreed) {
            return Step::Wait;
        }
        if self.accepting {
            return Step::Decided(self.text().to_vec());
        }
        self.accepting = true;
        self.agreed.clear();
        Step::Ask
    }
}

#[cfg(test)]
mod tests;
