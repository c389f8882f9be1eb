//! The search for an order that explains every answer.
//!
//! Source: J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (1993); G. Lowe, "Testing for
//! linearizability" (2017): a depth-first search over which operation comes next, that remembers every pair of (what
//! is placed, what the key holds then) and enters none twice. An operation may come next when it was asked for before
//! the first answer among those not placed yet. Those of unknown outcome may come at any time after they were asked
//! for, or never.

use super::history::{Action, Entry, History, Outcome};
use super::model::{self, State};
use std::collections::{BTreeMap, HashSet};
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
        match check_key(&key, &entries, steps) {
            Verdict::Linearizable => {}
            Verdict::Undecided(key) => undecided = Some(key),
            violated => return violated,
        }
    }
    undecided.map_or(Verdict::Linearizable, Verdict::Undecided)
}

/// Two different values of one cas unique: a compare-and-swap could succeed on a value that was not current.
fn told_twice(key: &[u8], entries: &[Entry]) -> Option<Violation> {
    let mut told: BTreeMap<u64, (usize, &[u8])> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Outcome::Value(data, Some(unique)) = &entry.outcome
            && let Some((first, other)) = told.insert(*unique, (at, data))
            && other != data.as_slice()
        {
            return Some(Violation { key: key.to_vec(), entries: entries.to_vec(), longest: vec![first] });
        }
    }
    None
}

/// Which operations are placed: a bit for each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Box<[u64]>);

impl Placed {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

/// A step that was taken, and may be taken back.
struct Taken {
    at: usize,
    before: State,
    before_first: usize,
}

struct Search<'a> {
    entries: &'a [Entry],
    placed: Placed,
    state: State,
    /// Everything before this is placed or is of no use.
    first: usize,
    answered_left: usize,
    seen: HashSet<(Placed, State)>,
    path: Vec<Taken>,
    longest: (usize, Vec<usize>),
}

/// Checks the operations of one key, which are in the order in which they were asked for.
pub fn check_key(key: &[u8], entries: &[Entry], steps: u64) -> Verdict {
    // What neither changes anything nor was answered explains nothing.
    let entries: Vec<Entry> = entries
        .iter()
        .filter(|e| e.outcome != Outcome::Unknown || !matches!(e.action, Action::Get | Action::Touch))
        .cloned()
        .collect();
    let answered = entries.iter().filter(|e| e.outcome != Outcome::Unknown).count();
    let mut search = Search {
        entries: &entries,
        placed: Placed(vec![0; entries.len().div_ceil(64)].into()),
        state: None,
        first: 0,
        answered_left: answered,
        seen: HashSet::new(),
        path: Vec::new(),
        longest: (0, Vec::new()),
    };
    match search.run(steps) {
        Some(true) => Verdict::Linearizable,
        None => Verdict::Undecided(key.to_vec()),
        Some(false) => {
            let longest = search.longest.1;
            Verdict::Violated(Violation { key: key.to_vec(), entries, longest })
        }
    }
}

impl Search<'_> {
    /// Whether there is an order; `None`: not known after so many steps.
    fn run(&mut self, steps: u64) -> Option<bool> {
        let mut from = self.first;
        for _ in 0..steps {
            if self.answered_left == 0 {
                return Some(true);
            }
            match self.next(from) {
                Some((at, state)) => {
                    self.take(at, state);
                    from = self.first;
                }
                None => match self.path.pop() {
                    Some(taken) => from = self.take_back(taken),
                    None => return Some(false),
                },
            }
        }
        None
    }

    /// The first operation from `from` on that may come next, leads somewhere new, and what the key holds then.
    fn next(&mut self, from: usize) -> Option<(usize, State)> {
        // Whatever was asked for after this was answered comes later.
        let left = (self.first..self.entries.len()).filter(|at| !self.placed.has(*at));
        let answered = left.map(|at| &self.entries[at]).filter(|e| e.outcome != Outcome::Unknown);
        let until = answered.map(|e| e.returned).min()?;
        for at in from..self.entries.len() {
            let entry = &self.entries[at];
            if entry.invoked > until {
                return None;
            }
            if self.placed.has(at) {
                continue;
            }
            let Some(state) = model::step(&self.state, &entry.action, &entry.outcome) else { continue };
            // Unknown and without effect here, it may as well come later or never.
            if entry.outcome == Outcome::Unknown && state == self.state {
                continue;
            }
            self.placed.flip(at);
            if self.seen.insert((self.placed.clone(), state.clone())) {
                return Some((at, state));
            }
            self.placed.flip(at);
        }
        None
    }

    /// Places an operation; its bit is set already.
    fn take(&mut self, at: usize, state: State) {
        let before = std::mem::replace(&mut self.state, state);
        self.path.push(Taken { at, before, before_first: self.first });
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
    fn take_back(&mut self, taken: Taken) -> usize {
        self.placed.flip(taken.at);
        self.state = taken.before;
        self.first = taken.before_first;
        if self.entries[taken.at].outcome != Outcome::Unknown {
            self.answered_left += 1;
        }
        taken.at + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations of one key from lines `asked answered action outcome`.
    fn history(lines: &[(u64, u64, Action, Outcome)]) -> History {
        let mut history = History::default();
        for (client, (invoked, returned, action, outcome)) in (0..).zip(lines.iter().cloned()) {
            history.push(Entry { client, key: b"k".to_vec(), action, outcome, invoked, returned });
        }
        history
    }

    fn verdict(lines: &[(u64, u64, Action, Outcome)]) -> Verdict {
        check(&history(lines), 100_000)
    }

    fn set(text: &str) -> Action {
        Action::Set(text.as_bytes().to_vec())
    }

    fn value(text: &str) -> Outcome {
        Outcome::Value(text.as_bytes().to_vec(), None)
    }

    fn violated(lines: &[(u64, u64, Action, Outcome)]) -> bool {
        matches!(verdict(lines), Verdict::Violated(_))
    }

    #[test]
    fn a_stale_read_is_found() {
        let (a, b) = ((1, 2, set("a"), Outcome::Stored), (3, 4, set("b"), Outcome::Stored));
        assert_eq!(verdict(&[a.clone(), b.clone(), (5, 6, Action::Get, value("b"))]), Verdict::Linearizable);
        assert!(violated(&[a.clone(), b.clone(), (5, 6, Action::Get, value("a"))]));
        // Asked for while b was under way, either is right.
        assert_eq!(verdict(&[a.clone(), b.clone(), (3, 6, Action::Get, value("a"))]), Verdict::Linearizable);
        // But nobody sees a after somebody saw b.
        let reads = [(3, 4, Action::Get, value("b")), (5, 6, Action::Get, value("a"))];
        assert!(violated(&[a, (3, 9, set("b"), Outcome::Stored), reads[0].clone(), reads[1].clone()]));
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(violated(&[(1, 2, set("a"), Outcome::Stored), (3, 4, Action::Get, Outcome::Miss)]));
        assert!(violated(&[(1, 2, Action::Incr(1), Outcome::Number(1))]));
    }

    #[test]
    fn a_deleted_value_that_comes_back_is_found() {
        let deleted = [(1, 2, set("a"), Outcome::Stored), (3, 4, Action::Delete, Outcome::Deleted)];
        let [first, second] = deleted;
        assert!(violated(&[first, second, (5, 6, Action::Get, value("a"))]));
    }

    #[test]
    fn the_unknown_may_happen_later_or_never_but_once() {
        let start = (1, 2, set("1"), Outcome::Stored);
        let unknown = (3, 4, Action::Incr(1), Outcome::Unknown);
        let read = |at, text| (at, at + 1, Action::Get, value(text));
        assert_eq!(verdict(&[start.clone(), unknown.clone(), read(90, "1")]), Verdict::Linearizable);
        assert_eq!(verdict(&[start.clone(), unknown.clone(), read(90, "1"), read(95, "2")]), Verdict::Linearizable);
        assert!(violated(&[start.clone(), unknown.clone(), read(90, "3")]));
        assert!(violated(&[start.clone(), unknown.clone(), read(90, "2"), read(95, "1")]));
        // Not before it was asked for.
        assert!(violated(&[start, (50, 51, Action::Incr(1), Outcome::Unknown), read(40, "2")]));
    }

    #[test]
    fn a_compare_and_swap_on_what_was_not_current_is_found() {
        let gets =
            |at, text: &str, unique| (at, at + 1, Action::Get, Outcome::Value(text.as_bytes().to_vec(), Some(unique)));
        let cas = |at, outcome| (at, at + 1, Action::Cas(7, b"c".to_vec()), outcome);
        let (a, b) = ((1, 2, set("a"), Outcome::Stored), (5, 6, set("b"), Outcome::Stored));
        assert_eq!(verdict(&[a.clone(), gets(3, "a", 7), cas(5, Outcome::Stored)]), Verdict::Linearizable);
        assert_eq!(verdict(&[a.clone(), gets(3, "a", 7), b.clone(), cas(7, Outcome::Exists)]), Verdict::Linearizable);
        assert!(violated(&[a.clone(), gets(3, "a", 7), b.clone(), cas(7, Outcome::Stored)]));
        assert!(violated(&[a, gets(3, "a", 7), b, gets(7, "b", 7)]));
    }

    #[test]
    fn a_flush_concerns_every_key() {
        let mut history = history(&[(1, 2, set("a"), Outcome::Stored), (5, 6, Action::Get, value("a"))]);
        assert_eq!(check(&history, 1000), Verdict::Linearizable);
        let flush =
            Entry { client: 9, key: Vec::new(), action: Action::Flush, outcome: Outcome::Ok, invoked: 3, returned: 4 };
        history.push(flush);
        let Verdict::Violated(violation) = check(&history, 1000) else { panic!("a value survived a flush") };
        assert!(violation.to_string().contains("flush_all"), "{violation}");
    }

    #[test]
    fn a_search_that_takes_too_long_says_so() {
        let many: Vec<_> = (0..40).map(|n| (1, 100, set(&n.to_string()), Outcome::Stored)).collect();
        let mut lines = many.clone();
        lines.push((101, 102, Action::Get, value("none")));
        assert_eq!(verdict(&lines), Verdict::Undecided(b"k".to_vec()));
        assert_eq!(verdict(&many), Verdict::Linearizable);
    }

    /// Against all orders tried out, on small random histories.
    #[test]
    fn it_finds_what_trying_out_all_orders_finds() {
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut found = [0, 0];
        for _ in 0..3000 {
            let mut lines = Vec::new();
            for _ in 0..5 {
                let invoked = below(10);
                let text = ["1", "2"][below(2) as usize];
                let (action, outcome) = match below(6) {
                    0 => (Action::Get, Outcome::Miss),
                    1 => (Action::Get, value(text)),
                    2 => (
                        Action::Delete,
                        [Outcome::Deleted, Outcome::NotFound, Outcome::Unknown][below(3) as usize].clone(),
                    ),
                    3 => (Action::Add(text.into()), [Outcome::Stored, Outcome::NotStored][below(2) as usize].clone()),
                    4 => (Action::Incr(1), Outcome::Number(below(3) + 1)),
                    _ => (set(text), [Outcome::Stored, Outcome::Unknown][below(2) as usize].clone()),
                };
                lines.push((invoked, invoked + 1 + below(5), action, outcome));
            }
            let mut entries = history(&lines).by_key().remove(b"k".as_slice()).unwrap();
            let naive = any_order(&mut Vec::new(), &mut entries, &None);
            assert_eq!(!violated(&lines), naive, "{lines:?}");
            found[usize::from(naive)] += 1;
        }
        assert!(found.iter().all(|n| *n > 300), "{found:?}");
    }

    fn any_order(placed: &mut Vec<Entry>, left: &mut Vec<Entry>, state: &State) -> bool {
        if left.iter().all(|e| e.outcome == Outcome::Unknown) {
            return true;
        }
        (0..left.len()).any(|at| {
            let entry = left.remove(at);
            let answered = |e: &Entry| e.outcome != Outcome::Unknown;
            let in_time = left.iter().all(|e| !answered(e) || e.returned >= entry.invoked);
            let stepped = model::step(state, &entry.action, &entry.outcome);
            let fits = in_time
                && stepped.is_some_and(|next| {
                    placed.push(entry.clone());
                    let fits = any_order(placed, left, &next);
                    placed.pop();
                    fits
                });
            left.insert(at, entry);
            fits
        })
    }
}
