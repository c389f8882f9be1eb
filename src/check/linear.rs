//! The search for an order that explains every answer.
//!
//! Source: J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (1993); G. Lowe, "Testing for
//! linearizability" (2017): a depth-first search over which operation comes next, that remembers every pair of (what
//! is placed, what the key holds then) and enters none twice. An operation may come next when it was asked for before
//! the first answer among those not placed yet. Those of unknown outcome may come at any time after they were asked
//! for, or never.
//!
//! A long fault leaves dozens of the latter, and which of them were done when is a choice among very many. So they are tried
//! last, where no answered one fits, and of those that do the same only the first: it may come wherever a later one may. Those
//! that store what nobody has ever seen do the same, whatever it is. And where the same answers are explained and the key
//! holds the same, nothing is tried again with more of them used up: what can follow then could follow before.

use super::history::{Action, Clocks, Entry, History, Outcome, Seen};
use super::model::{self, Moment, State};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What the search found for a key, or a whole history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none: the key's operations, and how many of the answered ones the best attempt explained.
    Violated(Violation),
    /// The search took too many steps to know: the key.
    Undecided(Vec<u8>),
}

/// A key's history that no order explains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The key.
    pub key: Vec<u8>,
    /// Its operations.
    pub entries: Vec<Entry>,
    /// The places in `entries` of the longest order that explains its answers.
    pub longest: Vec<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order of the operations on {} explains all answers:", String::from_utf8_lossy(&self.key))?;
        for (at, entry) in self.entries.iter().enumerate() {
            let place = self.longest.iter().position(|p| *p == at);
            let place = place.map_or_else(|| "-".to_owned(), |place| (place + 1).to_string());
            writeln!(f, "{place:>4} {entry}")?;
        }
        write!(f, "(the first column is the longest order that explains its answers)")
    }
}

/// Checks every key of a history with at most `steps` steps of search for each.
pub fn check(history: &History, steps: u64) -> Verdict {
    let mut undecided = None;
    for (key, entries) in history.by_key() {
        if let Some(violation) = told_twice(&key, &entries) {
            return Verdict::Violated(violation);
        }
        match check_key(&key, &entries, history.clocks, steps) {
            Verdict::Linearizable => {}
            Verdict::Undecided(key) => undecided = Some(key),
            violated => return violated,
        }
    }
    undecided.map_or(Verdict::Linearizable, Verdict::Undecided)
}

/// Two different values of one cas unique: a compare-and-swap could succeed on a value that was not current.
fn told_twice(key: &[u8], entries: &[Entry]) -> Option<Violation> {
    let mut told: BTreeMap<u64, (usize, (&[u8], u32))> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Outcome::Value(Seen { data, flags, unique: Some(unique), .. }) = &entry.outcome
            && let Some((first, other)) = told.insert(*unique, (at, (data, *flags)))
            && other != (data.as_slice(), *flags)
        {
            return Some(Violation { key: key.to_vec(), entries: entries.to_vec(), longest: vec![first] });
        }
    }
    None
}

/// Which operations are placed: a bit for each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Box<[u64]>);

/// Values that stand for all that nobody has seen are made of this byte, which no client uses.
const UNSEEN: u8 = 0;

impl Placed {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }

    /// Those of it that are in `which`.
    fn only(&self, which: &Placed) -> Placed {
        Placed(self.0.iter().zip(&which.0).map(|(own, which)| own & which).collect())
    }

    /// Those of it that are not in `which`.
    fn without(&self, which: &Placed) -> Placed {
        Placed(self.0.iter().zip(&which.0).map(|(own, which)| own & !which).collect())
    }

    fn is_within(&self, other: &Placed) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own & !other == 0)
    }
}

/// A step that was taken, and may be taken back.
struct Taken {
    at: usize,
    before: State,
    before_first: usize,
    before_asked: u64,
}

/// Where the search goes on among those that may come next: those of unknown outcome come last.
#[derive(Clone, Copy)]
struct Turn {
    unknown: bool,
    at: usize,
}

struct Search<'a> {
    entries: &'a [Entry],
    /// Of one of unknown outcome: the last before it that does the same.
    twins: Vec<Option<usize>>,
    clocks: Clocks,
    /// Those of unknown outcome.
    unknown: Placed,
    placed: Placed,
    state: State,
    /// Everything before this is placed or is of no use.
    first: usize,
    /// When the last was asked for of those that are placed: the order has reached this time.
    asked: u64,
    answered_left: usize,
    /// Of those that are answered, which were placed, and what the key held: with which of unknown outcome.
    seen: HashMap<(Placed, State), Vec<Placed>>,
    path: Vec<Taken>,
    longest: (usize, Vec<usize>),
}

/// Checks the operations of one key, which are in the order in which they were asked for.
pub fn check_key(key: &[u8], entries: &[Entry], clocks: Clocks, steps: u64) -> Verdict {
    // What neither changes anything nor was answered explains nothing.
    let entries: Vec<Entry> =
        entries.iter().filter(|e| e.outcome != Outcome::Unknown || e.action != Action::Get).cloned().collect();
    let told = entries;
    let entries = without_unseen(&told);
    let mut unknown = Placed(vec![0; entries.len().div_ceil(64)].into());
    (0..entries.len()).filter(|at| entries[*at].outcome == Outcome::Unknown).for_each(|at| unknown.flip(at));
    let answered = entries.iter().filter(|e| e.outcome != Outcome::Unknown).count();
    let mut search = Search {
        entries: &entries,
        twins: twins(&entries),
        clocks,
        unknown,
        placed: Placed(vec![0; entries.len().div_ceil(64)].into()),
        state: None,
        first: 0,
        asked: 0,
        answered_left: answered,
        seen: HashMap::new(),
        path: Vec::new(),
        longest: (0, Vec::new()),
    };
    match search.run(steps) {
        Some(true) => Verdict::Linearizable,
        None => Verdict::Undecided(key.to_vec()),
        Some(false) => {
            let longest = search.longest.1;
            Verdict::Violated(Violation { key: key.to_vec(), entries: told, longest })
        }
    }
}

/// The same, where all values that nobody was told, and whose operations nobody knows the outcome of, are one. No answer tells
/// them apart: none has any of them in it, and none of them is a number, nor part of one.
fn without_unseen(entries: &[Entry]) -> Vec<Entry> {
    let told: Vec<&[u8]> = entries
        .iter()
        .filter_map(|e| match &e.outcome {
            Outcome::Value(seen) => Some(seen.data.as_slice()),
            _ => None,
        })
        .collect();
    let is_unseen = |data: &[u8]| {
        data.iter().any(u8::is_ascii_alphabetic)
            && !told.iter().any(|told| told.windows(data.len()).any(|part| part == data) || told.contains(&UNSEEN))
    };
    let mut entries = entries.to_vec();
    for entry in entries.iter_mut().filter(|e| e.outcome == Outcome::Unknown) {
        match &mut entry.action {
            Action::Set(new) | Action::Add(new) | Action::Replace(new) | Action::Cas(_, new)
                if is_unseen(&new.data) =>
            {
                (new.data, new.flags) = (vec![UNSEEN], 0);
            }
            Action::Append(data) | Action::Prepend(data) if is_unseen(data) => *data = vec![UNSEEN],
            _ => {}
        }
    }
    entries
}

/// For each operation of unknown outcome, the last one before it that does the same to any value.
fn twins(entries: &[Entry]) -> Vec<Option<usize>> {
    let unknown = |at: &usize| entries[*at].outcome == Outcome::Unknown;
    let twin = |at: usize| {
        let action = &entries[at].action;
        let same = |other: &usize| unknown(other) && entries[*other].action == *action;
        // How long a value lives is counted from when it was asked for.
        if unknown(&at) && !action.counts_time() { (0..at).rev().find(same) } else { None }
    };
    (0..entries.len()).map(twin).collect()
}

impl Search<'_> {
    /// Whether there is an order; `None`: not known after so many steps.
    fn run(&mut self, steps: u64) -> Option<bool> {
        let mut from = self.turn();
        for _ in 0..steps {
            if self.answered_left == 0 {
                return Some(true);
            }
            match self.next(from) {
                Some((at, state)) => {
                    self.take(at, state);
                    from = self.turn();
                }
                None => match self.path.pop() {
                    Some(taken) => from = self.take_back(taken),
                    None => return Some(false),
                },
            }
        }
        None
    }

    /// Where to begin to look for what comes next.
    fn turn(&self) -> Turn {
        Turn { unknown: false, at: self.first }
    }

    /// The first operation from `from` on that may come next, leads somewhere new, and what the key holds then.
    fn next(&mut self, from: Turn) -> Option<(usize, State)> {
        // Whatever was asked for after this was answered comes later.
        let left = (self.first..self.entries.len()).filter(|at| !self.placed.has(*at));
        let answered = left.map(|at| &self.entries[at]).filter(|e| e.outcome != Outcome::Unknown);
        let until = answered.map(|e| e.returned).min()?;
        let answered_ones = if from.unknown { None } else { Some((false, from.at)) };
        let unknown_ones = (true, if from.unknown { from.at } else { self.first });
        for (unknown, start) in answered_ones.into_iter().chain([unknown_ones]) {
            for at in start..self.entries.len() {
                let entry = &self.entries[at];
                if entry.invoked > until {
                    break;
                }
                if self.placed.has(at) || (entry.outcome == Outcome::Unknown) != unknown {
                    continue;
                }
                if self.twins[at].is_some_and(|twin| !self.placed.has(twin)) {
                    continue;
                }
                let moment = Moment { from: self.asked.max(entry.invoked), until, clocks: self.clocks };
                for state in model::step(&self.state, entry, moment).into_iter().flatten() {
                    // Unknown and without effect here, it may as well come later or never.
                    if unknown && state == self.state {
                        continue;
                    }
                    self.placed.flip(at);
                    if self.is_new(&state) {
                        return Some((at, state));
                    }
                    self.placed.flip(at);
                }
            }
        }
        None
    }

    /// Whether what is placed leads somewhere new when the key holds `state`; notes it.
    fn is_new(&mut self, state: &State) -> bool {
        let used = self.placed.only(&self.unknown);
        let known = self.seen.entry((self.placed.without(&self.unknown), state.clone())).or_default();
        if known.iter().any(|fewer| fewer.is_within(&used)) {
            return false;
        }
        known.retain(|more| !used.is_within(more));
        known.push(used);
        true
    }

    /// Places an operation; its bit is set already.
    fn take(&mut self, at: usize, state: State) {
        let before = std::mem::replace(&mut self.state, state);
        self.path.push(Taken { at, before, before_first: self.first, before_asked: self.asked });
        self.asked = self.asked.max(self.entries[at].invoked);
        while self.first < self.entries.len() && self.placed.has(self.first) {
            self.first += 1;
        }
        if self.entries[at].outcome != Outcome::Unknown {
            self.answered_left -= 1;
        }
        let explained = self.path.iter().filter(|t| self.entries[t.at].outcome != Outcome::Unknown).count();
        if explained > self.longest.0 {
            self.longest = (explained, self.path.iter().map(|t| t.at).collect());
        }
    }

    /// Takes the last step back; returns where to look for another.
    fn take_back(&mut self, taken: Taken) -> Turn {
        self.placed.flip(taken.at);
        self.state = taken.before;
        self.first = taken.before_first;
        self.asked = taken.before_asked;
        let unknown = self.entries[taken.at].outcome == Outcome::Unknown;
        if !unknown {
            self.answered_left += 1;
        }
        // There may be another state that the same operation leads to; the one that was tried is in `seen`.
        Turn { unknown, at: taken.at }
    }
}

#[cfg(test)]
mod tests;
