//! Collecting deletion marks, and deleting what has expired unasked.
//!
//! Source: `doc/guide.md`, "How deletions are forgotten": a mark goes when it is older than `-gX`; when the memory
//! for remembering marks exceeds `-gS`, also when it is older than `-gN`. Marks beyond that memory, and those that
//! were there at the start, are found by the sweep that goes through the shard all the time, slowly. Nothing is
//! collected while records move.

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

/// How often the sweep takes a slice.
const SWEEP: Duration = Duration::from_millis(125);
/// How many times it takes none after it has been through the whole shard: 10 s.
const RESTS: u32 = 80;
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

/// Goes through the worker's shard for ever, slowly; the marks remembered are looked at all the time.
pub(super) async fn sweep(worker: Rc<Worker>) {
    let mut from = 0;
    let mut rests = 0;
    loop {
        tokio::time::sleep(SWEEP).await;
        let rest = rests > 0;
        let sweep = |records| {
            let mut state = worker.state.borrow_mut();
            let mut shard = worker.shard().lock().expect("no holder of a shard panics");
            state.set_time();
            state.marks.go_by(&worker.shared.garbage);
            collect_due(&mut state, &mut *shard, records)?;
            if rest { Ok(None) } else { sweep_slice(&worker, &mut state, &mut *shard, from, records) }
        };
        match worker.background.step_of(Kind::Collect, sweep).await {
            Ok(_) if rest => rests -= 1,
            Ok(Some(next)) => from = next,
            Ok(None) => (from, rests) = (0, RESTS),
            Err(e) => {
                tracing::error!("cannot collect garbage: {e}");
                rests = RESTS;
            }
        }
        worker.turn.wake();
    }
}

/// Whether marks may go: everybody holds what the ring says.
fn is_settled(state: &State) -> bool {
    let epoch = &state.view.epoch;
    let settled = epoch.phase == Phase::Idle && epoch.whs.same_nodes(&epoch.rhs);
    state.view.me.is_some() && (settled || !on(Rule::MarksStay))
}

fn collect_due(state: &mut State, shard: &mut dyn Shard, marks: usize) -> Result<(), StoreError> {
    if !is_settled(state) {
        return Ok(());
    }
    let due = std::iter::from_fn(|| state.marks.take_due(state.now_secs)).take(marks).collect();
    forget_stable(state, shard, due)
}

/// Forgets those marks that every member is known to have. Others are left to the sweep.
fn forget_stable(state: &mut State, shard: &mut dyn Shard, marks: Vec<(Stamp, Box<[u8]>)>) -> Result<(), StoreError> {
    if marks.is_empty() {
        return Ok(());
    }
    state.is_staged = true;
    let unstable = state.unstable_hashes();
    for (stamp, dbkey) in marks {
        let stable = |hash| state.pending.blocking(hash).is_none() && !unstable.contains(&hash);
        if hash_of(&dbkey).is_ok_and(|hash| stable(hash) || !on(Rule::MarksStay)) {
            shard.forget(&dbkey, stamp)?;
        }
    }
    Ok(())
}

fn sweep_slice(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    from: u64,
    records: usize,
) -> Result<Option<u64>, StoreError> {
    let settled = is_settled(state);
    let mut due = Vec::new();
    let next = shard.survey(from, records, &mut |dbkey, record| {
        if record.is_ok_and(|record| state.end_of(dbkey, record, settled).is_some()) {
            due.push(dbkey.to_vec());
        }
    })?;
    let mut old = Vec::new();
    for dbkey in due {
        // The survey does not verify all that it tells: what is damaged is neither dropped, nor said to have expired.
        let Ok(Some(record)) = shard.peek(&dbkey) else { continue };
        let stamp = record.stamp();
        match (state.end_of(&dbkey, record, settled), dbkey_hash(&dbkey)) {
            (Some(End::Forgotten), _) => old.push((stamp, dbkey.into())),
            (Some(End::Expired), Some(hash)) => {
                worker.delete_expired(state, shard, hash, &dbkey, stamp.version);
            }
            _ => {}
        }
    }
    forget_stable(state, shard, old)?;
    Ok(next)
}

/// What ends a record.
enum End {
    /// It is a mark, or was flushed, and everybody has had the time to learn of it: no trace of it is kept.
    Forgotten,
    /// Its time is over: a mark takes its place.
    Expired,
}

impl State {
    /// What this server is to make of a record now, where everybody holds what the ring says or not; `None`: it stays.
    fn end_of(&self, dbkey: &[u8], record: Record<'_>, settled: bool) -> Option<End> {
        let flushed = record.epoch < self.view.epoch.flushed;
        match record::parse(record.dbval)? {
            record::Value { body: Some(body), .. } if !flushed => {
                // The coordinator alone changes a key, also this way.
                let may_change = || dbkey_hash(dbkey).is_some_and(|hash| self.range(hash).open);
                (expiry::is_gone(body.expiry, self.now_secs) && may_change()).then_some(End::Expired)
            }
            record::Value { version, .. } => {
                let age = self.now_secs.saturating_sub(version.unix_secs());
                (settled && age >= self.marks.max_secs).then_some(End::Forgotten)
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
    fn far_above_the_memory_marks_are_left_to_the_sweep() {
        let mut marks = marks(1000);
        for _ in 0..1000 {
            marks.note(1000, b"12345678k", Stamp::default());
        }
        assert!(marks.bytes < 3000);
    }
}
