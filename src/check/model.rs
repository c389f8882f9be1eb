//! One key of a memcached that does one thing at a time.
//!
//! A cas unique is the server's choice, so the model does not know it until a client has been told; from then on the
//! version has that one. A client can only ask for a unique that it was told before, so a version whose unique nobody
//! was told is never the one asked for.
//!
//! When a value expires is known up to a window: its seconds are counted from a moment between the question and the time when
//! it took effect, by a clock that may differ from the one that ends it. Within the window it may be there or be gone.

use super::history::{Action, Clocks, Entry, Marks, Outcome, Seen, Stored};
use crate::logic::counter::{self, Direction};
use std::rc::Rc;

/// Of a value that ends in one second of the wall clocks, the seconds that this may be, by the clock that is behind all
/// others: a node that is at this second, or beyond it, sees no value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Window {
    first: u64,
    last: u64,
}

/// What the key holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Item {
    data: Rc<[u8]>,
    flags: u32,
    /// Known once a client was told.
    unique: Option<u64>,
    expiry: Option<Window>,
    stale: bool,
    /// A client was told to make it anew.
    sent: bool,
}

/// The key's state; `None`: it is not there.
pub type State = Option<Item>;

/// When an operation takes effect: not before any that came earlier was asked for, and not after any that comes later, or
/// it itself, was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The earliest time.
    pub from: u64,
    /// The latest.
    pub until: u64,
    /// How times relate to seconds.
    pub clocks: Clocks,
}

/// An operation at its moment.
#[derive(Clone, Copy)]
struct Step<'a> {
    entry: &'a Entry,
    moment: Moment,
}

fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

/// What may become of `state` when the operation is done at that moment; nothing when it would not have been answered so.
/// [`Outcome::Unknown`] fits everything. Two states where the value may have come to its end or not.
pub fn step(state: &State, entry: &Entry, moment: Moment) -> [Option<State>; 2] {
    let Some((item, window)) = state.as_ref().and_then(|item| Some((item, item.expiry?))) else {
        return [done(state, entry, moment), None];
    };
    let Moment { from, until, clocks } = moment;
    let there = if from / clocks.second < window.last {
        // Who finds it there learns that it ends later, and that it is earlier itself.
        let first = window.first.max(from / clocks.second + 1);
        let narrowed = Some(Item { expiry: Some(Window { first, ..window }), ..item.clone() });
        let next = done(&narrowed, entry, Moment { until: until.min(window.last * clocks.second - 1), ..moment });
        // Of unknown outcome, nobody has found anything.
        if entry.outcome == Outcome::Unknown && next == Some(narrowed) { Some(state.clone()) } else { next }
    } else {
        None
    };
    let is_over = until / clocks.second + clocks.skew_secs >= window.first;
    let gone = if is_over { done(&None, entry, moment) } else { None };
    if there == gone { [there, None] } else { [there, gone] }
}

fn done(state: &State, entry: &Entry, moment: Moment) -> Option<State> {
    let (answer, next) = Step { entry, moment }.execute(state);
    (entry.outcome == Outcome::Unknown || entry.outcome == answer).then_some(next)
}

impl Step<'_> {
    /// When what is to live so long from when this was asked for comes to its end.
    fn window(&self, ttl_secs: Option<u32>) -> Option<Window> {
        let Clocks { second, skew_secs } = self.moment.clocks;
        let at = |time: u64, ttl: u32| time / second + u64::from(ttl);
        ttl_secs.map(|ttl| Window { first: at(self.entry.invoked, ttl), last: at(self.moment.until, ttl) + skew_secs })
    }

    fn fresh(&self, stored: &Stored) -> State {
        let (data, expiry) = (stored.data.as_slice().into(), self.window(stored.ttl_secs));
        Some(Item { data, flags: stored.flags, unique: None, expiry, stale: false, sent: false })
    }

    /// The answer and the state after it.
    fn execute(&self, state: &State) -> (Outcome, State) {
        let unchanged = |answer| (answer, state.clone());
        match (&self.entry.action, state) {
            (Action::Get | Action::GetAndTouch(_), None) => unchanged(Outcome::Miss),
            (Action::Get, Some(item)) => self.look(item, Marks::default()),
            (Action::GetAndTouch(ttl), Some(item)) => {
                self.look(&Item { expiry: self.window(*ttl), ..item.clone() }, Marks::default())
            }
            (Action::Set(new), _) | (Action::Add(new), None) | (Action::Replace(new), Some(_)) => {
                (Outcome::Stored, self.fresh(new))
            }
            (Action::Add(_), Some(_)) | (Action::Replace(_) | Action::Append(_) | Action::Prepend(_), None) => {
                unchanged(Outcome::NotStored)
            }
            (Action::Append(data), Some(item)) => (Outcome::Stored, grown(item, joined(&item.data, data))),
            (Action::Prepend(data), Some(item)) => (Outcome::Stored, grown(item, joined(data, &item.data))),
            (Action::Cas(unique, new), Some(item)) if item.unique == Some(*unique) => {
                (Outcome::Stored, self.fresh(new))
            }
            (Action::Cas(..), Some(_)) => unchanged(Outcome::Exists),
            (Action::Delete, Some(_)) => (Outcome::Deleted, None),
            (
                Action::Cas(..)
                | Action::Incr(_)
                | Action::Decr(_)
                | Action::Delete
                | Action::Touch(_)
                | Action::Invalidate,
                None,
            ) => unchanged(Outcome::NotFound),
            (Action::Incr(by), Some(item)) => count(item, Direction::Up, *by),
            (Action::Decr(by), Some(item)) => count(item, Direction::Down, *by),
            (Action::Touch(ttl), Some(item)) => {
                (Outcome::Touched, Some(Item { expiry: self.window(*ttl), ..item.clone() }))
            }
            (Action::Fetch { vivify_secs: None, .. }, None) => unchanged(Outcome::Miss),
            (Action::Fetch { vivify_secs, .. }, None) => self.vivify(*vivify_secs),
            (Action::Fetch { recache_secs, .. }, Some(item)) => self.fetch(item, *recache_secs),
            (Action::Invalidate, Some(item)) => {
                (Outcome::Deleted, Some(Item { unique: None, stale: true, sent: false, ..item.clone() }))
            }
            (Action::Flush | Action::FlushLater(_), _) => (Outcome::Ok, None),
        }
    }

    /// A value is told: where its unique is not known yet, it is the one that was answered.
    fn look(&self, item: &Item, marks: Marks) -> (Outcome, State) {
        let told = match &self.entry.outcome {
            Outcome::Value(seen) => seen.unique,
            _ => None,
        };
        let known = Item { unique: item.unique.or(told), ..item.clone() };
        let unique = told.and(known.unique);
        (Outcome::Value(Seen { data: item.data.to_vec(), flags: item.flags, unique, marks }), Some(known))
    }

    /// Makes an empty value, which who asked is to fill.
    fn vivify(&self, ttl_secs: Option<u32>) -> (Outcome, State) {
        let empty = self.fresh(&Stored { data: Vec::new(), flags: 0, ttl_secs });
        let sent = empty.map(|item| Item { sent: true, ..item });
        let Some(item) = sent else { return (Outcome::Miss, None) };
        self.look(&item, Marks { won: true, ..Marks::default() })
    }

    /// A value with its marks: the first to see it stale, or near its end, is to make it anew.
    fn fetch(&self, item: &Item, recache_secs: Option<u32>) -> (Outcome, State) {
        let Clocks { second, skew_secs } = self.moment.clocks;
        let ends = |time: u64, recache: u32| time / second + u64::from(recache);
        // It is near its end when that comes before a second between these two.
        let near = recache_secs.map(|secs| (ends(self.entry.invoked, secs), ends(self.moment.until, secs) + skew_secs));
        let told = match &self.entry.outcome {
            Outcome::Value(seen) => seen.marks.won,
            _ => true,
        };
        let (mut won, mut expiry) = (item.stale && !item.sent, item.expiry);
        if let (Some(window), Some((least, most)), false) = (&mut expiry, near, item.sent || item.stale) {
            won = window.last < least || window.first < most && told;
            *window = match won {
                true => Window { last: window.last.min(most.saturating_sub(1)), ..*window },
                false => Window { first: window.first.max(least), ..*window },
            };
        }
        let marks = Marks { won, stale: item.stale, sent: item.sent };
        self.look(&Item { sent: item.sent || won, expiry, ..item.clone() }, marks)
    }
}

/// Other data with the same flags and expiry; marks go.
fn grown(item: &Item, data: Vec<u8>) -> State {
    Some(Item { data: data.into(), unique: None, stale: false, sent: false, ..item.clone() })
}

fn count(item: &Item, direction: Direction, by: u64) -> (Outcome, State) {
    match counter::count(&item.data, direction, by) {
        Err(counter::NotANumber) => (Outcome::NotANumber, Some(item.clone())),
        Ok(number) => {
            let mut data = Vec::new();
            counter::write_data(number, item.data.len(), &mut data);
            (Outcome::Number(number), Some(Item { data: data.into(), unique: None, ..item.clone() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time 0, clocks that agree, seconds of ten units.
    fn at(state: &State, action: &Action, outcome: &Outcome, (from, until): (u64, u64)) -> Vec<State> {
        let entry = Entry {
            client: 0,
            key: Vec::new(),
            action: action.clone(),
            outcome: outcome.clone(),
            invoked: from,
            returned: until,
        };
        let clocks = Clocks { second: 10, skew_secs: 0 };
        step(state, &entry, Moment { from, until, clocks }).into_iter().flatten().collect()
    }

    fn value(text: &str, flags: u32, unique: Option<u64>) -> Outcome {
        Outcome::Value(Seen { data: text.into(), flags, unique, marks: Marks::default() })
    }

    fn marked(text: &str, letters: &str) -> Outcome {
        let has = |letter| letters.contains(letter);
        let marks = Marks { won: has('W'), stale: has('X'), sent: has('Z') };
        Outcome::Value(Seen { data: text.into(), flags: 0, unique: None, marks })
    }

    fn data(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn follow(story: &[(Action, Outcome)]) {
        let mut state = None;
        for (action, outcome) in story {
            let next = at(&state, action, outcome, (0, 0));
            state = next.into_iter().next().unwrap_or_else(|| panic!("{action} was not answered {outcome}"));
        }
    }

    #[test]
    fn a_memcached_answers_as_memcached_does() {
        let flagged = |text: &str| Stored { flags: 7, ..data(text).into() };
        follow(&[
            (Action::Get, Outcome::Miss),
            (Action::Append(data("x")), Outcome::NotStored),
            (Action::Incr(1), Outcome::NotFound),
            (Action::Delete, Outcome::NotFound),
            (Action::Add(flagged("10")), Outcome::Stored),
            (Action::Add(data("11").into()), Outcome::NotStored),
            (Action::Get, value("10", 7, Some(77))),
            (Action::Touch(None), Outcome::Touched),
            (Action::GetAndTouch(None), value("10", 7, Some(77))),
            (Action::Cas(76, data("0").into()), Outcome::Exists),
            (Action::Cas(77, flagged("10")), Outcome::Stored),
            (Action::Cas(77, data("10").into()), Outcome::Exists),
            (Action::Decr(1), Outcome::Number(9)),
            (Action::Get, value("9 ", 7, None)),
            (Action::Append(data("a")), Outcome::Stored),
            (Action::Prepend(data("b")), Outcome::Stored),
            (Action::Get, value("b9 a", 7, None)),
            (Action::Incr(1), Outcome::NotANumber),
            (Action::Flush, Outcome::Ok),
            (Action::Get, Outcome::Miss),
        ]);
    }

    #[test]
    fn one_client_is_told_to_make_a_stale_value_anew() {
        let fetch = Action::Fetch { vivify_secs: None, recache_secs: None };
        follow(&[
            (fetch.clone(), Outcome::Miss),
            (Action::Invalidate, Outcome::NotFound),
            (Action::Fetch { vivify_secs: Some(30), recache_secs: None }, marked("", "W")),
            (fetch.clone(), marked("", "Z")),
            (Action::Set(data("1").into()), Outcome::Stored),
            (fetch.clone(), marked("1", "")),
            (Action::Invalidate, Outcome::Deleted),
            (Action::Get, marked("1", "")),
            (fetch.clone(), marked("1", "WX")),
            (fetch.clone(), marked("1", "XZ")),
            (Action::Incr(1), Outcome::Number(2)),
            (fetch.clone(), marked("2", "XZ")),
            (Action::Invalidate, Outcome::Deleted),
            (fetch.clone(), marked("2", "WX")),
            (Action::Append(data("3")), Outcome::Stored),
            (fetch, marked("23", "")),
        ]);
    }

    #[test]
    fn a_value_near_its_end_is_won_once() {
        let soon = Stored { ttl_secs: Some(5), ..data("1").into() };
        let state = at(&None, &Action::Set(soon), &Outcome::Stored, (0, 12)).remove(0);
        let fetch = |recache| Action::Fetch { vivify_secs: None, recache_secs: Some(recache) };
        // It ends in second 5 or 6.
        assert!(at(&state, &fetch(5), &marked("1", "W"), (5, 9)).is_empty());
        assert_eq!(at(&state, &fetch(6), &marked("1", "W"), (5, 9)).len(), 1);
        assert_eq!(at(&state, &fetch(6), &marked("1", ""), (5, 9)).len(), 1);
        assert!(at(&state, &fetch(7), &marked("1", ""), (5, 9)).is_empty());
        let won = at(&state, &fetch(7), &marked("1", "W"), (5, 9)).remove(0);
        assert_eq!(at(&won, &fetch(7), &marked("1", "Z"), (5, 9)).len(), 1);
    }

    #[test]
    fn a_version_has_one_cas_unique() {
        let told = |unique| value("1", 0, Some(unique));
        let stored = at(&None, &Action::Set(data("1").into()), &Outcome::Stored, (0, 0)).remove(0);
        let state = at(&stored, &Action::Get, &told(5), (0, 0)).remove(0);
        assert_eq!(at(&state, &Action::Get, &told(5), (0, 0)), std::slice::from_ref(&state));
        assert!(at(&state, &Action::Get, &told(6), (0, 0)).is_empty());
    }
}
