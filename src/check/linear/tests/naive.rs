//! The search against a naive one: all orders, with all times at which each operation may take effect and all readings of
//! clocks that are apart.

use super::*;
use crate::check::model::{Moment, State, step};

const SECOND: u64 = 4;
/// No clock reads, for what the naive search decides itself.
const NO_CLOCKS: Clocks = Clocks { second: SECOND, skew_secs: 0 };

/// What the key holds, and the second in which it ends, by the wall clock that is behind all others.
type Held = (State, Option<u64>);

fn ttl_of(action: &Action) -> Option<Option<u32>> {
    match action {
        Action::Set(new) | Action::Add(new) => Some(new.ttl_secs),
        Action::Touch(ttl) => Some(*ttl),
        _ => None,
    }
}

/// What an operation makes of the key when there is no time.
fn plainly(state: &State, entry: &Entry) -> Option<State> {
    let timeless = |stored: &Stored| Stored { ttl_secs: None, ..stored.clone() };
    let action = match &entry.action {
        Action::Set(new) => Action::Set(timeless(new)),
        Action::Add(new) => Action::Add(timeless(new)),
        Action::Touch(_) => Action::Touch(None),
        other => other.clone(),
    };
    let moment = Moment { from: 0, until: 0, clocks: NO_CLOCKS };
    let [state, none] = step(state, &Entry { action, ..entry.clone() }, moment);
    assert_eq!(none, None);
    state
}

struct Naive {
    skew_secs: u64,
    /// Nothing happens behind it.
    end: u64,
}

impl Naive {
    /// Whether what is left can follow, not before `time`.
    fn any_order(&self, left: &mut Vec<Entry>, held: &Held, time: u64) -> bool {
        if left.iter().all(|e| e.outcome == Outcome::Unknown) {
            return true;
        }
        (0..left.len()).any(|at| {
            let entry = left.remove(at);
            let until = if entry.outcome == Outcome::Unknown { self.end } else { entry.returned };
            let mut times = time.max(entry.invoked)..=until;
            let fits = times.any(|time| self.any_reading(left, held, &entry, time));
            left.insert(at, entry);
            fits
        })
    }

    /// The operation takes effect at `time`: is the value still there?
    fn any_reading(&self, left: &mut Vec<Entry>, held: &Held, entry: &Entry, time: u64) -> bool {
        let Some(ends) = held.1 else { return self.any_end(left, held, entry, time) };
        // The clock of who looks is ahead by some of what clocks are apart.
        (0..=self.skew_secs).any(|ahead| {
            let gone = time / SECOND + ahead >= ends;
            self.any_end(left, if gone { &(None, None) } else { held }, entry, time)
        })
    }

    fn any_end(&self, left: &mut Vec<Entry>, held: &Held, entry: &Entry, time: u64) -> bool {
        let Some(state) = plainly(&held.0, entry) else { return false };
        let writes = match entry.action {
            Action::Add(_) => held.0.is_none(),
            Action::Touch(_) => held.0.is_some(),
            _ => true,
        };
        match ttl_of(&entry.action) {
            Some(Some(ttl)) if writes => (entry.invoked..=time).any(|asked| {
                let ends = asked / SECOND + u64::from(ttl);
                (0..=self.skew_secs).any(|ahead| self.any_order(left, &(state.clone(), Some(ends + ahead)), time))
            }),
            Some(None) if writes => self.any_order(left, &(state, None), time),
            _ => {
                let ends = held.1.filter(|_| state.is_some());
                self.any_order(left, &(state, ends), time)
            }
        }
    }
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
    for round in 0..1200 {
        // Every third without time, every third with marks.
        let kind = round % 3;
        let skew_secs = if kind == 1 { below(2) } else { 0 };
        let mut lines = Vec::new();
        for _ in 0..if kind == 1 { 4 } else { 5 } {
            let invoked = below(if kind == 1 { 16 } else { 10 });
            // Of these only the third is told apart from others when nobody has seen it.
            let text = ["1", "2", "x"][below(if kind == 0 { 3 } else { 2 }) as usize];
            let any =
                |below: &mut dyn FnMut(u64) -> u64, all: &[Outcome]| all[below(all.len() as u64) as usize].clone();
            let ttl_secs = if kind == 1 && below(3) > 0 { Some(1 + below(2) as u32) } else { None };
            let new = Stored { ttl_secs, flags: below(2) as u32, ..stored(text) };
            let found = Outcome::Value(Seen { flags: new.flags, ..seen(text) });
            let (action, outcome) = match (kind, below(6)) {
                (_, 0) => (Action::Get, Outcome::Miss),
                (2, 1 | 2) => (fetch(), any(&mut below, &["", "W", "X", "WX", "XZ"].map(|m| marked(text, m)))),
                (2, 3) => {
                    (Action::Invalidate, any(&mut below, &[Outcome::Deleted, Outcome::NotFound, Outcome::Unknown]))
                }
                (2, _) => (set(text), any(&mut below, &[Outcome::Stored, Outcome::Unknown])),
                (1, 2) => {
                    (Action::Touch(ttl_secs), any(&mut below, &[Outcome::Touched, Outcome::NotFound, Outcome::Unknown]))
                }
                (_, 1) => (Action::Get, found),
                (_, 2) => (Action::Delete, any(&mut below, &[Outcome::Deleted, Outcome::NotFound, Outcome::Unknown])),
                (0, 3) => (
                    Action::Add(new),
                    any(&mut below, &[Outcome::Stored, Outcome::NotStored, Outcome::Unknown, Outcome::Unknown]),
                ),
                (_, 3) => (Action::Add(new), any(&mut below, &[Outcome::Stored, Outcome::NotStored])),
                (0, 5) if below(3) == 0 => (Action::Append(text.into()), Outcome::Unknown),
                (0, 4) => (Action::Incr(1), Outcome::Number(below(3) + 1)),
                (1, 4) => (Action::Get, any(&mut below, &[Outcome::Miss, found])),
                _ => (Action::Set(new), any(&mut below, &[Outcome::Stored, Outcome::Unknown])),
            };
            lines.push((invoked, invoked + 1 + below(5), action, outcome));
        }
        let mut history = history(&lines);
        history.clocks = Clocks { second: SECOND, skew_secs };
        let mut entries = history.by_key().remove(b"k".as_slice()).unwrap();
        let naive = Naive { skew_secs, end: 24 }.any_order(&mut entries, &(None, None), 0);
        let searched = check(&history, 100_000) == Verdict::Linearizable;
        assert_eq!(searched, naive, "{skew_secs} {lines:?}");
        found[usize::from(naive)] += 1;
    }
    assert!(found.iter().all(|n| *n > 120), "{found:?}");
}
