//! What a worker measures of itself: how long requests take, how far the other members are behind, who is connected.
//!
//! It costs one look at the clock in each turn, which the lease check at its end shares. All gets of a turn count as
//! having taken from the first request of the turn until its end, so never less than they did. Of the changes of a turn
//! the last one is watched until it is stable, and stands for all of them. Requests that had to wait for
//! their range count with that wait. Source: `doc/protocol.md`, "Statistics".

use super::worker::{State, Worker};
use crate::logic::address::Address;
use crate::logic::hottest::Part;
use crate::net::conn::Conn;
use crate::proto::rpc::v1::{Caller, Lag};
use hdrhistogram::Histogram;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;

/// Latencies are those of this window and the one before.
const WINDOW_MICROS: u64 = 5_000_000;
/// The longest latency that is told from longer ones.
const LONGEST_MICROS: u64 = 60_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 2;
/// Turns whose changes are watched at a time.
const WATCHED: usize = 128;
/// How exactly the age of changes is known.
const MARK_MICROS: u64 = 1_000;
/// Marks kept: a minute of steady changes of which none becomes stable. Older ones count as no older than that.
const MARKS: usize = 1 << 16;
/// Hottest keys that a worker tells.
const HOTTEST: usize = 16;

/// Latencies of one kind of request, in microseconds.
#[derive(Debug)]
pub struct Latencies {
    now: Histogram<u64>,
    before: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let empty =
            || Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS).expect("the bounds are those of a histogram");
        Latencies { now: empty(), before: empty() }
    }
}

impl Latencies {
    fn record(&mut self, micros: u64, requests: u64) {
        // Saturating: what took longer counts as the longest.
        self.now.saturating_record_n(micros.max(1), requests);
    }

    fn rotate(&mut self) {
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
    }

    fn recent(&self) -> Histogram<u64> {
        let mut all = self.before.clone();
        all.add(&self.now).expect("both have the same bounds");
        all
    }
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub conn: Weak<Conn>,
    pub from: Option<IpAddr>,
    /// What it said that it is.
    pub caller: Rc<Cell<Caller>>,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct Measures {
    /// The first request of this turn.
    began_micros: Option<u64>,
    /// Gets of this turn that are measured already: they had waited.
    waited_gets: u64,
    /// The counter of gets, and the number of the last write (0: none yet), at the end of the last turn.
    gets_before: u64,
    last_before: u64,
    /// The last write of a turn, when the turn began, and how many writes it stands for.
    watched: VecDeque<(u64, u64, u64)>,
    /// When a write was made, at most once in [`MARK_MICROS`].
    marks: VecDeque<(u64, u64)>,
    rotated_micros: u64,
    gets: Latencies,
    changes: Latencies,
}

impl Measures {
    /// A request is executed.
    #[inline]
    pub fn began(&mut self, now_micros: u64) {
        if self.began_micros.is_none() {
            self.began_micros = Some(now_micros);
        }
    }

    /// Whether a request was executed in this turn.
    pub fn is_serving(&self) -> bool {
        self.began_micros.is_some()
    }

    /// A request is executed that waited for so long.
    pub fn waited(&mut self, is_get: bool, micros: u64) {
        if is_get {
            self.waited_gets += 1;
            self.gets.record(micros, 1);
        } else {
            self.changes.record(micros, 1);
        }
    }

    /// The end of a turn. `gets`: executed so far; `next`: the number of the next write; `first`: all writes below it are
    /// stable.
    pub fn ended(&mut self, now: u64, gets: u64, next: u64, first: u64, is_pending: impl Fn(u64) -> bool) {
        let began = self.began_micros.take().unwrap_or(now);
        let new_gets = gets.saturating_sub(self.gets_before).saturating_sub(self.waited_gets);
        (self.gets_before, self.waited_gets) = (gets, 0);
        if new_gets > 0 {
            self.gets.record(now.saturating_sub(began), new_gets);
        }
        let last = next.saturating_sub(1);
        let new_writes = last.saturating_sub(self.last_before);
        if new_writes > 0 {
            if self.watched.len() < WATCHED {
                self.watched.push_back((last, began, new_writes));
            }
            let fresh = self.marks.back().is_none_or(|(_, at)| now >= at + MARK_MICROS);
            if fresh && self.marks.len() < MARKS {
                self.marks.push_back((self.last_before + 1, began));
            }
            self.last_before = last;
        }
        let changes = &mut self.changes;
        self.watched.retain(|&(write, began, writes)| {
            let pending = is_pending(write);
            if !pending {
                changes.record(now.saturating_sub(began), writes);
            }
            pending
        });
        while self.marks.get(1).is_some_and(|(write, _)| *write <= first) {
            self.marks.pop_front();
        }
    }

    /// For how long a write has been there, about.
    fn age_micros(&self, write: u64, now_micros: u64) -> u64 {
        let later = self.marks.partition_point(|(marked, _)| *marked <= write);
        let mark = later.checked_sub(1).and_then(|place| self.marks.get(place)).or(self.marks.front());
        mark.map_or(0, |(_, at)| now_micros.saturating_sub(*at))
    }

    /// Begins a new window when it is time; true then.
    pub fn rotate(&mut self, now_micros: u64) -> bool {
        if now_micros < self.rotated_micros + WINDOW_MICROS {
            return false;
        }
        self.rotated_micros = now_micros;
        self.gets.rotate();
        self.changes.rotate();
        true
    }
}

/// What one worker tells of itself.
#[derive(Debug)]
pub struct Measured {
    /// Latencies of gets, in microseconds.
    pub gets: Histogram<u64>,
    /// Latencies of changes, in microseconds.
    pub changes: Histogram<u64>,
    /// Of each other member.
    pub lags: BTreeMap<Address, Lag>,
    /// Connections, by who and from where.
    pub callers: BTreeMap<(Caller, Option<IpAddr>), u64>,
    /// Requests that wait for their range.
    pub parked: u64,
    /// Whether each other server has granted it a lease that holds.
    pub leases: BTreeMap<Address, bool>,
    /// Bytes of memory that the index takes; `None`: the store cannot tell.
    pub index_bytes: Option<u64>,
    /// Deletion marks stored.
    pub marks: u64,
    /// How many requests the sketch of keys saw, and what it made of them.
    pub hottest: Part,
}

impl Worker {
    /// Tells what was measured.
    pub(super) fn measured(&self) -> Measured {
        let state = self.state.borrow();
        let shard = self.shard().lock().expect("no holder of a shard panics");
        let now_micros = crate::net::time::boot_micros();
        Measured {
            gets: state.measures.gets.recent(),
            changes: state.measures.changes.recent(),
            lags: state.lags(now_micros),
            callers: state.callers(),
            parked: state.parked_requests() as u64,
            leases: state.leases(now_micros),
            index_bytes: shard.index_bytes(),
            marks: shard.marks(),
            hottest: (state.hottest.seen(), state.hottest.top(HOTTEST)),
        }
    }
}

impl State {
    /// The end of a turn, whose answers have left at `now_micros`.
    pub(super) fn measure(&mut self, worker: &Worker, now_micros: u64) {
        let gets = worker.shared.counters[usize::from(worker.number)].gets.load(Ordering::Relaxed);
        let State { pending, measures, .. } = self;
        measures.ended(now_micros, gets, pending.next(), pending.first(), |write| pending.is_pending(write));
    }

    /// What has to be done now and then.
    pub(super) fn rotate_measures(&mut self) {
        if self.measures.rotate(self.now_micros) {
            self.hottest.halve();
        }
    }

    fn lags(&self, now_micros: u64) -> BTreeMap<Address, Lag> {
        let mut lags: BTreeMap<Address, Lag> = BTreeMap::new();
        for (_, link) in self.links.iter() {
            let oldest = link.unacknowledged().min();
            let lag = Lag {
                entries: link.unacknowledged().count() as u64,
                bytes: link.backlog_bytes() as u64,
                age_micros: oldest.map_or(0, |write| self.measures.age_micros(write, now_micros)),
                up: link.is_up(),
            };
            lags.entry(link.address).and_modify(|all| all.add(&lag)).or_insert(lag);
        }
        lags
    }

    fn leases(&self, now_micros: u64) -> BTreeMap<Address, bool> {
        let mut leases = BTreeMap::new();
        for (_, link) in self.links.iter().filter(|(_, link)| !link.is_version0()) {
            *leases.entry(link.address).or_insert(true) &= link.leased_until() > now_micros;
        }
        leases
    }

    fn callers(&self) -> BTreeMap<(Caller, Option<IpAddr>), u64> {
        let mut callers = BTreeMap::new();
        let open = self.connections.iter().filter(|c| c.conn.upgrade().is_some_and(|conn| !conn.is_closed()));
        for connection in open {
            *callers.entry((connection.caller.get(), connection.from)).or_insert(0) += 1;
        }
        callers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gets_count_from_the_first_request_of_their_turn_until_its_end() {
        let mut measures = Measures::default();
        measures.began(1_000);
        measures.began(1_090);
        measures.ended(1_100, 5, 1, 1, |_| false);
        measures.ended(9_999, 5, 1, 1, |_| false);
        let gets = measures.gets.recent();
        assert_eq!((gets.len(), gets.max()), (5, 100));
        assert_eq!(measures.changes.recent().len(), 0);
    }

    #[test]
    fn a_get_that_waited_counts_once_and_with_its_wait() {
        let mut measures = Measures::default();
        measures.began(900_000);
        measures.waited(true, 500_000);
        measures.ended(900_010, 3, 1, 1, |_| false);
        let gets = measures.gets.recent();
        assert_eq!((gets.len(), gets.value_at_quantile(0.5)), (3, 10));
        assert!(gets.max() >= 500_000);
    }

    #[test]
    fn changes_count_until_the_last_of_their_turn_is_stable() {
        let mut measures = Measures::default();
        measures.began(1_000);
        measures.ended(1_050, 0, 4, 1, |_| true);
        assert_eq!(measures.changes.recent().len(), 0);
        measures.ended(3_000, 0, 4, 4, |_| false);
        let changes = measures.changes.recent();
        assert_eq!(changes.len(), 3);
        assert!((2_000..2_020).contains(&changes.value_at_quantile(0.5)), "{changes:?}");
    }

    #[test]
    fn the_age_of_a_write_is_that_of_the_mark_before_it() {
        let mut measures = Measures::default();
        for turn in 0..10 {
            measures.began(turn * 10_000);
            measures.ended(turn * 10_000 + 50, 0, 2 * turn + 3, 1, |_| true);
        }
        assert_eq!(measures.age_micros(1, 100_000), 100_000);
        assert_eq!(measures.age_micros(20, 100_000), 10_000);
        measures.ended(100_000, 0, 21, 20, |_| false);
        assert_eq!(measures.age_micros(1, 100_000), 10_000, "marks of stable writes are let go");
        assert_eq!(Measures::default().age_micros(1, 9), 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut measures = Measures::default();
        for turn in 0..2 * MARKS as u64 {
            measures.began(turn * 2_000);
            measures.ended(turn * 2_000 + 1, 0, turn + 2, 1, |_| true);
        }
        assert_eq!((measures.watched.len(), measures.marks.len()), (WATCHED, MARKS));
    }

    #[test]
    fn latencies_are_of_the_last_two_windows() {
        let mut measures = Measures::default();
        assert!(measures.rotate(WINDOW_MICROS));
        measures.gets.record(7, 1);
        assert!(!measures.rotate(WINDOW_MICROS + 1));
        assert!(measures.rotate(2 * WINDOW_MICROS));
        assert_eq!(measures.gets.recent().len(), 1);
        assert!(measures.rotate(3 * WINDOW_MICROS));
        assert_eq!(measures.gets.recent().len(), 0);
    }
}
