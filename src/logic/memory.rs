//! What a server remembers of the changes that gateways asked for, so that one asked for again is executed once.
//!
//! Source: doc/guarantees.md, "Exactly once". An operation is known by its gateway's incarnation and its sequence, whose
//! upper 16 bits are the gateway's worker. The operations of one such worker are a *lane*: a floor, and behind it the
//! outcomes in the order of their sequences. Everything below the floor is forgotten, and answered as unknown without
//! being executed: raising a floor is always safe, forgetting without raising it never is. Gateways say below which
//! sequence all their operations are finished; where that is not enough, the bounds of [`Limits`] raise floors too.
//!
//! Invariant: of an operation whose effect is in this server's records, and whose first attempt was made in the epoch
//! [`since`](Memory::since) or later, the outcome is here or its floor is above it. Who takes records from
//! another server therefore takes what that says of them ([`note`](Memory::note)), and its since-epoch with
//! [`raise_since`](Memory::raise_since).
//!
//! Cost: of an operation newer than all others of its lane, as they mostly are, a few compares and an append.

use super::mutation::Answer;
use super::rule;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The reason for which nothing was changed by an operation that looked at a value, and left it as it was.
pub const LOOKED: u8 = 0;

/// Where the worker begins in a sequence.
const WORKER_SHIFT: u32 = 48;

/// What tells one operation from all others, and what else its gateway said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id {
    /// The gateway's random number of this start.
    pub gateway: u64,
    /// Numbers the operations of a gateway's worker; the worker is in the upper 16 bits.
    pub sequence: u64,
    /// All operations of that worker below this sequence are finished.
    pub floor: u64,
}

/// An operation that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deed {
    /// Which.
    pub id: Id,
    /// The version of the record that it made.
    pub version: u64,
    /// What it is answered with.
    pub answer: Answer,
}

/// What is remembered of an operation that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done, under this version, and is answered so.
    Done(u64, Answer),
    /// Nothing was changed, for the reason of this number.
    Refused(u8),
}

/// The same, with what concerns the memory alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    Done(u64, Answer),
    /// It counts within its epoch, the second number: requests of older ones are executed nowhere any more. So it is
    /// remembered only where it came about.
    Refused(u8, u64),
    /// This server does not vouch for the write any more.
    Doubted,
}

/// The operations that made a record what it is. Mostly one, so that one needs no memory of its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Deeds {
    /// None that is known.
    #[default]
    None,
    /// One.
    One(Deed),
    /// Several.
    Many(Vec<Deed>),
}

impl Deeds {
    /// All of them.
    pub fn as_slice(&self) -> &[Deed] {
        match self {
            Deeds::None => &[],
            Deeds::One(deed) => std::slice::from_ref(deed),
            Deeds::Many(deeds) => deeds,
        }
    }
}

impl FromIterator<Deed> for Deeds {
    fn from_iter<I: IntoIterator<Item = Deed>>(deeds: I) -> Deeds {
        let mut all: Vec<Deed> = deeds.into_iter().collect();
        match all.len() {
            0 | 1 => all.pop().into(),
            _ => Deeds::Many(all),
        }
    }
}

impl From<Option<Deed>> for Deeds {
    fn from(deed: Option<Deed>) -> Deeds {
        deed.map_or(Deeds::None, Deeds::One)
    }
}

/// What to do with an operation that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It was not executed: do it.
    New,
    /// It was, and this came of it.
    Known(Outcome),
    /// Whether it was is not known, and cannot be found out: do not execute it.
    Unknown,
    /// Its outcome could not be remembered: do not execute it.
    Full {
        /// The first time in this epoch.
        is_news: bool,
    },
}

/// How much is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Outcomes, of 40 bytes each. Above, lanes with more than their share give up their oldest.
    pub outcomes: usize,
    /// Lanes, of some 150 bytes each. Above, the half of the gateways that were heard least lately is set aside:
    /// whatever they ask for again is unknown.
    pub lanes: usize,
    /// Gateways set aside, of some 16 bytes each. Above, new ones are refused until the next epoch.
    pub gone: usize,
}

impl Limits {
    /// Those of a server's worker: 20 MiB of outcomes, five seconds at 100,000 changes a second while one of them
    /// hangs; 10 MiB of lanes; and more gateways gone than start in years.
    pub const SERVER: Limits = Limits { outcomes: 1 << 19, lanes: 1 << 16, gone: 1 << 20 };
}

/// The operations of one worker of a gateway.
#[derive(Debug)]
struct Lane {
    gateway: u64,
    worker: u16,
    /// Nothing is known below this sequence.
    floor: u64,
    /// The highest sequence that ever had an outcome here.
    highest: u64,
    /// In the order of their sequences.
    outcomes: VecDeque<(u64, Kept)>,
    /// When it was last turned to, as of [`Memory::turns`].
    turn: u64,
}

/// What one worker of a server remembers.
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    since: u64,
    lanes: Vec<Lane>,
    /// Where in `lanes` they are.
    places: BTreeMap<(u64, u16), usize>,
    /// The one that was looked at last: the next is mostly the same.
    last: usize,
    turns: u64,
    /// Gateways set aside.
    gone: BTreeSet<u64>,
    outcomes: usize,
    /// Something could not be remembered, or no room is left for new gateways: from the next epoch on, nothing older is
    /// vouched for.
    missed: bool,
}

impl Memory {
    /// Of a server that took part in everything since an epoch.
    pub fn new(limits: Limits, since: u64) -> Memory {
        Memory {
            limits,
            since,
            lanes: Vec::new(),
            places: BTreeMap::new(),
            last: 0,
            turns: 0,
            gone: BTreeSet::new(),
            outcomes: 0,
            missed: false,
        }
    }

    /// Operations first attempted in an earlier epoch than this, and not remembered, may have been executed.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Another server whose records are taken over vouches for no more than this.
    #[inline]
    pub fn raise_since(&mut self, since: u64) {
        self.since = self.since.max(since);
    }

    /// How many outcomes are remembered.
    pub fn len(&self) -> usize {
        self.outcomes
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.outcomes == 0
    }

    /// A new epoch: the time to forget all, should too many gateways have been set aside, or something been missed. Only
    /// changes that were begun before and are asked for again are unknown then.
    pub fn adopt(&mut self, epoch: u64) {
        if self.missed || self.gone.len() > self.limits.gone / 2 {
            *self = Memory::new(self.limits, self.since.max(epoch));
        }
    }

    /// What to do with an operation, first attempted in `first_epoch`, that is asked for in `epoch`.
    #[inline]
    pub fn ask(&mut self, id: &Id, first_epoch: u64, epoch: u64) -> Asked {
        let since = self.since;
        let unheard = if first_epoch < since && rule::on(rule::Rule::SinceEpoch) { Asked::Unknown } else { Asked::New };
        let Some(place) = self.lane(id) else {
            if self.gone.contains(&id.gateway) {
                return Asked::Unknown;
            }
            return Asked::Full { is_news: !std::mem::replace(&mut self.missed, true) };
        };
        self.raise_floor(place, id.floor);
        let lane = &self.lanes[place];
        if id.sequence < lane.floor && rule::on(rule::Rule::Floor) {
            return Asked::Unknown;
        }
        if id.sequence > lane.highest {
            return unheard;
        }
        match lane.find(id.sequence).map(|at| lane.outcomes[at].1) {
            Ok(Kept::Done(version, answer)) => Asked::Known(Outcome::Done(version, answer)),
            Ok(Kept::Refused(reason, then)) if then == epoch => Asked::Known(Outcome::Refused(reason)),
            Ok(Kept::Refused(..)) | Err(_) => unheard,
            Ok(Kept::Doubted) => Asked::Unknown,
        }
    }

    /// Remembers what was done.
    #[inline]
    pub fn note(&mut self, deed: &Deed) {
        self.keep(&deed.id, Kept::Done(deed.version, deed.answer));
    }

    /// Remembers that nothing was changed, for the reason of this number, in this epoch.
    pub fn refuse(&mut self, id: &Id, reason: u8, epoch: u64) {
        self.keep(id, Kept::Refused(reason, epoch));
    }

    fn keep(&mut self, id: &Id, kept: Kept) {
        let Some(place) = self.lane(id) else {
            // What a gateway that was set aside asks for is unknown in any case.
            self.missed |= !self.gone.contains(&id.gateway);
            return;
        };
        self.raise_floor(place, id.floor);
        let lane = &mut self.lanes[place];
        if id.sequence < lane.floor {
            return;
        }
        if id.sequence > lane.highest {
            lane.highest = id.sequence;
            lane.outcomes.push_back((id.sequence, kept));
        } else {
            match lane.find(id.sequence) {
                // What was done stays so.
                Ok(at) if matches!(lane.outcomes[at].1, Kept::Done(..)) => return,
                Ok(at) => {
                    lane.outcomes[at].1 = kept;
                    return;
                }
                Err(at) => lane.outcomes.insert(at, (id.sequence, kept)),
            }
        }
        self.outcomes += 1;
        if self.outcomes > self.limits.outcomes {
            self.trim();
        }
    }

    /// The write that an operation made is no longer vouched for by this server.
    pub fn doubt(&mut self, id: &Id) {
        let Some(place) = self.places.get(&(id.gateway, worker_of(id))) else { return };
        let lane = &mut self.lanes[*place];
        if let Ok(at) = lane.find(id.sequence) {
            lane.outcomes[at].1 = Kept::Doubted;
        }
    }

    /// The place of an operation's lane, made if need be. `None`: it was set aside, or there is no room.
    #[inline]
    fn lane(&mut self, id: &Id) -> Option<usize> {
        let worker = worker_of(id);
        match self.lanes.get(self.last) {
            Some(lane) if lane.gateway == id.gateway && lane.worker == worker => Some(self.last),
            _ => self.turn_to(id.gateway, worker),
        }
    }

    fn turn_to(&mut self, gateway: u64, worker: u16) -> Option<usize> {
        let place = match self.places.get(&(gateway, worker)) {
            Some(place) => *place,
            None if self.gone.contains(&gateway) => return None,
            None => {
                if self.lanes.len() >= self.limits.lanes {
                    self.set_aside();
                }
                if self.lanes.len() >= self.limits.lanes || self.gone.contains(&gateway) {
                    return None;
                }
                let lane = Lane { gateway, worker, floor: 0, highest: 0, outcomes: VecDeque::new(), turn: 0 };
                self.places.insert((gateway, worker), self.lanes.len());
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.turns += 1;
        self.lanes[place].turn = self.turns;
        self.last = place;
        Some(place)
    }

    #[inline]
    fn raise_floor(&mut self, place: usize, floor: u64) {
        let lane = &mut self.lanes[place];
        if floor <= lane.floor {
            return;
        }
        lane.floor = floor;
        while lane.outcomes.pop_front_if(|(sequence, _)| *sequence < floor).is_some() {
            self.outcomes -= 1;
        }
    }

    /// Raises the floors of the lanes with more than their share of half of what is allowed.
    fn trim(&mut self) {
        let share = self.limits.outcomes / 2 / self.lanes.len().max(1);
        for place in 0..self.lanes.len() {
            let outcomes = &self.lanes[place].outcomes;
            if let Some(last) = outcomes.len().checked_sub(share + 1).and_then(|last| outcomes.get(last)) {
                let floor = last.0 + 1;
                self.raise_floor(place, floor);
            }
        }
    }

    /// Sets aside the half of the gateways that were heard least lately, as far as there is room.
    fn set_aside(&mut self) {
        let mut heard: BTreeMap<u64, u64> = BTreeMap::new();
        for lane in &self.lanes {
            let turn = heard.entry(lane.gateway).or_default();
            *turn = lane.turn.max(*turn);
        }
        let mut oldest: Vec<(u64, u64)> = heard.into_iter().map(|(gateway, turn)| (turn, gateway)).collect();
        oldest.sort_unstable();
        let room = self.limits.gone.saturating_sub(self.gone.len());
        let half = oldest.len().div_ceil(2);
        self.gone.extend(oldest.iter().take(half.min(room)).map(|(_, gateway)| *gateway));
        let gone = &self.gone;
        self.lanes.retain(|lane| !gone.contains(&lane.gateway));
        self.outcomes = self.lanes.iter().map(|lane| lane.outcomes.len()).sum();
        self.places = (0..).zip(&self.lanes).map(|(place, lane)| ((lane.gateway, lane.worker), place)).collect();
        self.last = 0;
    }
}

impl Lane {
    /// The place of a sequence, or where it would be.
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        self.outcomes.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    }
}

fn worker_of(id: &Id) -> u16 {
    (id.sequence >> WORKER_SHIFT) as u16
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod united;
