//! Collecting deletion marks, and deleting what has expired unasked.
//!
//! Source: `doc/guide.md`, "How deletions are forgotten": a mark goes when it is older than `-gX`; when the memory
//! for remembering marks exceeds `-gS`, also when it is older than `-gN`. Marks beyond that memory, and those that
//! were there at the start, are found by the sweep that goes through the shard all the time, slowly while it finds nothing
//! to do. Nothing is collected while records move.

use super::background::Kind;
use super::request::hash_of;
use super::shared::Config;
use super::worker::{State, Worker};
use crate::logic::epoch::Phase;
use crate::logic::expiry;
use crate::logic::record::{self, Stamp, dbkey_hash};
use crate::logic::rule::{Rule, on};
use crate::store::{Record, Shard, StoreError};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The pause between two slices in which nothing had to go.
const SLICE: Duration = Duration::from_millis(125);
/// When one record in so many of a slice had to go, the next one follows at once.
const ENOUGH: u128 = 8;
/// Fewer records than these tell little of what is to come.
const LATELY_LEAST: u64 = 2048;
/// The pause after the whole shard was gone through, and after a failure.
const REST: Duration = Duration::from_secs(10);
/// Of values of more bytes, the sweep reads the beginning only.
const PAGE_BYTES: usize = if cfg!(feature = "sim") { 128 } else { 4 << 10 };
/// Bytes that remembering a mark takes beside its dbkey.
const MARK_OVERHEAD: usize = 48;

/// How long marks are kept, for all workers: they look at it with each slice.
#[derive(Debug)]
pub struct Limits {
    /// At least so many seconds; never more than the most.
    pub min_secs: AtomicU64,
    /// At most so many seconds.
    pub max_secs: AtomicU64,
    /// With more bytes of marks than these, those above the least are collected.
    pub memory: AtomicU64,
    workers: u64,
}

impl Limits {
    /// As the options say.
    pub fn of(config: &Config) -> Limits {
        Limits {
            min_secs: AtomicU64::new(config.garbage_min.as_secs()),
            max_secs: AtomicU64::new(config.garbage_max.as_secs()),
            memory: AtomicU64::new(config.garbage_memory as u64),
            workers: u64::from(config.workers.max(1)),
        }
    }
}

/// The marks remembered, oldest first.
pub struct Marks {
    queue: VecDeque<(u64, Stamp, Box<[u8]>)>,
    bytes: usize,
    min_secs: u64,
    max_secs: u64,
    memory: usize,
}

impl Marks {
    /// None yet.
    pub fn new(limits: &Limits) -> Marks {
        let mut marks = Marks { queue: VecDeque::new(), bytes: 0, min_secs: 0, max_secs: 0, memory: 0 };
        marks.go_by(limits);
        marks
    }

    /// Takes what may have been changed.
    fn go_by(&mut self, limits: &Limits) {
        self.max_secs = limits.max_secs.load(Ordering::Relaxed);
        self.min_secs = limits.min_secs.load(Ordering::Relaxed).min(self.max_secs);
        let memory = limits.memory.load(Ordering::Relaxed) / limits.workers;
        self.memory = usize::try_from(memory).unwrap_or(usize::MAX);
    }

    /// Remembers a mark made or stored at `now_secs`. Beyond twice the memory it is left to the sweep.
    pub fn note(&mut self, now_secs: u64, dbkey: &[u8], stamp: Stamp) {
        if self.bytes < self.memory.saturating_mul(2) {
            self.bytes += dbkey.len() + MARK_OVERHEAD;
            self.queue.push_back((now_secs, stamp, dbkey.into()));
        }
    }

    /// How old a mark has to be where a shard has so many of them, remembered or not.
    fn age_among(&self, marks: u64) -> u64 {
        let bytes = usize::try_from(marks).unwrap_or(usize::MAX).saturating_mul(MARK_OVERHEAD);
        if bytes > self.memory { self.min_secs } else { self.max_secs }
    }

    /// Takes the oldest mark if its time has come.
    fn take_due(&mut self, now_secs: u64) -> Option<(Stamp, Box<[u8]>)> {
        let (noted, _, _) = self.queue.front()?;
        let age = now_secs.saturating_sub(*noted);
        if age < self.max_secs && (self.bytes <= self.memory || age < self.min_secs) {
            return None;
        }
        let (_, stamp, dbkey) = self.queue.pop_front()?;
        self.bytes -= dbkey.len() + MARK_OVERHEAD;
        Some((stamp, dbkey))
    }
}

/// Collects the marks remembered whose time has come, for ever.
pub(super) async fn collect(worker: Rc<Worker>) {
    let mut pause = SLICE;
    loop {
        tokio::time::sleep(pause).await;
        let collected = step(&worker, |state, shard, records| {
            Ok(Tally { looked_at: records, gone: collect_due(state, shard, records)? })
        })
        .await;
        pause = collected.map_or(REST, |tally| tally.pause());
    }
}

/// Goes through the worker's shard for ever, slowly while there is nothing to do.
pub(super) async fn sweep(worker: Rc<Worker>) {
    let (mut from, mut pause, mut lately) = (0, SLICE, Tally::default());
    loop {
        tokio::time::sleep(pause).await;
        let swept = step(&worker, |state, shard, records| {
            let swept = sweep_slice(&worker, state, shard, from, records)?;
            lately.add(swept.tally, shard.items());
            Ok(swept)
        });
        (from, pause) = match swept.await {
            Some(Swept { next: Some(next), tally }) => (next, tally.pause().min(lately.pause())),
            Some(Swept { next: None, .. }) => (0, REST),
            None => (from, REST),
        };
    }
}

/// Does some of either when there is time for it; `None`: it failed.
async fn step<T>(
    worker: &Rc<Worker>,
    work: impl FnOnce(&mut State, &mut dyn Shard, usize) -> Result<T, StoreError>,
) -> Option<T> {
    let work = |records| {
        let mut state = worker.state.borrow_mut();
        let mut shard = worker.shard().lock().expect("no holder of a shard panics");
        state.set_time();
        state.marks.go_by(&worker.shared.garbage);
        work(&mut state, &mut *shard, records)
    };
    let done = worker.background.step_of(Kind::Collect, work).await;
    worker.turn.wake();
    done.inspect_err(|e| tracing::error!("cannot collect garbage: {e}")).ok()
}

/// Whether marks may go: everybody holds what the ring says.
fn is_settled(state: &State) -> bool {
    let epoch = &state.view.epoch;
    let settled = epoch.phase == Phase::Idle && epoch.whs.same_nodes(&epoch.rhs);
    state.view.me.is_some() && (settled || !on(Rule::MarksStay))
}

/// Forgets marks remembered, up to so many; returns how many.
fn collect_due(state: &mut State, shard: &mut dyn Shard, marks: usize) -> Result<usize, StoreError> {
    if !is_settled(state) {
        return Ok(0);
    }
    let due = std::iter::from_fn(|| state.marks.take_due(state.now_secs)).take(marks).collect();
    forget_stable(state, shard, due)
}

/// Forgets those marks that every member is known to have; returns how many. Others are left to the sweep.
fn forget_stable(
    state: &mut State,
    shard: &mut dyn Shard,
    marks: Vec<(Stamp, Box<[u8]>)>,
) -> Result<usize, StoreError> {
    if marks.is_empty() {
        return Ok(0);
    }
    state.is_staged = true;
    let unstable = state.unstable_hashes();
    let mut gone = 0;
    for (stamp, dbkey) in marks {
        let stable = |hash| state.pending.blocking(hash).is_none() && !unstable.contains(&hash);
        if hash_of(&dbkey).is_ok_and(|hash| stable(hash) || !on(Rule::MarksStay)) {
            gone += usize::from(shard.forget(&dbkey, stamp)?);
        }
    }
    Ok(gone)
}

/// How many records were looked at, and how many of them had to go, and went.
#[derive(Clone, Copy, Default)]
struct Tally {
    looked_at: usize,
    gone: usize,
}

impl Tally {
    /// How long to wait after that: not at all when one record in [`ENOUGH`] had to go, so that they go as fast as they come. What
    /// bounds it then is the time that all background work may take.
    fn pause(self) -> Duration {
        let micros = SLICE.as_micros() * self.gone as u128 * ENOUGH / (self.looked_at.max(1) as u128);
        SLICE.saturating_sub(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// Adds a slice of a shard of so many records, and forgets what was more than some eighth of them ago. Of neighbours on the ring, one
    /// server alone deletes what has expired: in the others' parts it finds nothing to do, and is to be through them as soon.
    fn add(&mut self, slice: Tally, records: u64) {
        if self.looked_at as u64 > (records / 8).max(LATELY_LEAST) {
            *self = Tally { looked_at: self.looked_at / 2, gone: self.gone / 2 };
        }
        *self = Tally { looked_at: self.looked_at + slice.looked_at, gone: self.gone + slice.gone };
    }
}

/// What a slice of the sweep came to.
struct Swept {
    /// Where to go on; `None`: that was all.
    next: Option<u64>,
    tally: Tally,
}

fn sweep_slice(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    from: u64,
    records: usize,
) -> Result<Swept, StoreError> {
    let ends = Ends { settled: is_settled(state), mark_secs: state.marks.age_among(shard.marks()) };
    let (mut looked_at, mut due) = (0, Vec::new());
    let next = shard.survey(from, records, PAGE_BYTES, &|_| true, &mut |dbkey, record| {
        looked_at += 1;
        if record.is_ok_and(|record| state.end_of(dbkey, record, &ends).is_some()) {
            due.push(dbkey.to_vec());
        }
    })?;
    let (mut gone, mut old) = (0, Vec::new());
    for dbkey in due {
        // The survey does not verify all that it tells: what is damaged is neither dropped, nor said to have expired.
        let Ok(Some(record)) = shard.peek(&dbkey) else { continue };
        let stamp = record.stamp();
        match (state.end_of(&dbkey, record, &ends), dbkey_hash(&dbkey)) {
            (Some(End::Forgotten), _) => old.push((stamp, dbkey.into())),
            (Some(End::Expired), Some(hash)) => {
                let written = worker.delete_expired(state, shard, hash, &dbkey, stamp.version);
                gone += usize::from(written.is_some());
            }
            _ => {}
        }
    }
    gone += forget_stable(state, shard, old)?;
    Ok(Swept { next, tally: Tally { looked_at, gone } })
}

/// What decides on the end of records.
struct Ends {
    /// Everybody holds what the ring says.
    settled: bool,
    /// How old marks have to be.
    mark_secs: u64,
}

/// What ends a record.
enum End {
    /// It is a mark, or was flushed, and everybody has had the time to learn of it: no trace of it is kept.
    Forgotten,
    /// Its time is over: a mark takes its place.
    Expired,
}

impl State {
    /// What this server is to make of a record now; `None`: it stays.
    fn end_of(&self, dbkey: &[u8], record: Record<'_>, ends: &Ends) -> Option<End> {
        let flushed = record.epoch < self.view.epoch.flushed;
        match record::parse(record.dbval)? {
            record::Value { body: Some(body), .. } if !flushed => {
                // The coordinator alone changes a key, also this way.
                let may_change = || dbkey_hash(dbkey).is_some_and(|hash| self.range(hash).open);
                (expiry::is_gone(body.expiry, self.now_secs) && may_change()).then_some(End::Expired)
            }
            record::Value { version, body } => {
                let age = self.now_secs.saturating_sub(version.unix_secs());
                let least = if body.is_none() { ends.mark_secs } else { self.marks.max_secs };
                (ends.settled && age >= least).then_some(End::Forgotten)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(memory: usize) -> Marks {
        Marks { queue: VecDeque::new(), bytes: 0, min_secs: 60, max_secs: 3600, memory }
    }

    #[test]
    fn a_mark_goes_when_it_is_old() {
        let mut marks = marks(1 << 20);
        marks.note(1000, b"12345678k", Stamp::default());
        assert_eq!(marks.take_due(4599), None);
        assert!(marks.take_due(4600).is_some());
        assert_eq!((marks.take_due(9999), marks.bytes), (None, 0));
    }

    #[test]
    fn above_the_memory_it_goes_earlier_but_not_too_early() {
        let mut marks = marks(10);
        marks.note(1000, b"12345678k", Stamp::default());
        assert_eq!(marks.take_due(1059), None);
        assert!(marks.take_due(1060).is_some());
    }

    #[test]
    fn where_there_are_more_marks_than_the_memory_is_for_the_least_age_will_do() {
        let marks = marks(10 * MARK_OVERHEAD);
        assert_eq!([0, 10, 11, u64::MAX].map(|n| marks.age_among(n)), [3600, 3600, 60, 60]);
    }

    #[test]
    fn what_is_changed_holds_from_the_next_slice_on() {
        let limits = Limits::of(&Config { workers: 2, garbage_memory: 100, ..Config::default() });
        let mut marks = Marks::new(&limits);
        assert_eq!((marks.min_secs, marks.max_secs, marks.memory), (60, 3600, 50));
        marks.note(1000, b"12345678k", Stamp::default());
        limits.max_secs.store(10, Ordering::Relaxed);
        assert_eq!(marks.take_due(1010), None);
        marks.go_by(&limits);
        assert_eq!(marks.min_secs, 10, "never above the most");
        assert!(marks.take_due(1010).is_some());
    }

    #[test]
    fn the_more_had_to_go_the_sooner_the_next_slice_follows() {
        let pause_after = |looked_at, gone| Tally { looked_at, gone }.pause();
        assert_eq!(pause_after(0, 0), SLICE);
        assert_eq!(pause_after(256, 0), SLICE);
        assert_eq!(pause_after(256, 16), SLICE / 2);
        assert_eq!(pause_after(256, 32), Duration::ZERO);
        assert_eq!(pause_after(256, 256), Duration::ZERO);
        assert_eq!(pause_after(usize::MAX, usize::MAX), Duration::ZERO);
    }

    #[test]
    fn parts_of_the_ring_where_nothing_had_to_go_do_not_make_it_slow_at_once() {
        let mut lately = Tally::default();
        let mut slice = |gone| {
            lately.add(Tally { looked_at: 256, gone }, 100_000);
            lately.pause()
        };
        assert_eq!(slice(0), SLICE);
        assert!((0..20).all(|_| slice(256) == Duration::ZERO));
        let until_it_pauses = (0..1000).take_while(|_| slice(0) == Duration::ZERO).count();
        assert!((20..200).contains(&until_it_pauses), "{until_it_pauses} slices");
        let until_it_is_slow = (0..1000).take_while(|_| slice(0) < SLICE).count();
        assert!(until_it_is_slow < 1000, "what was long ago is forgotten");
    }

    #[test]
    fn far_above_the_memory_marks_are_left_to_the_sweep() {
        let mut marks = marks(1000);
        for _ in 0..1000 {
            marks.note(1000, b"12345678k", Stamp::default());
        }
        assert!(marks.bytes < 3000);
    }
}
