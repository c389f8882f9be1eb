//! Moving records when the ring changes: bringing servers up to date that lack some.
//!
//! This worker goes through its shard window by window, in slices between which it serves. Where the other can be asked
//! what it lacks ([`super::differ`]), only that is sent; to others, everything. A record that is pending is left out: the
//! link to each member of its group, new ones too, is delivering it. Records arrive beside live writes and
//! overwrite nothing newer.

use super::background::Kind;
use super::differ::Found;
use super::element::{self, LargeElement, Met, opening, write_element};
use super::shared::moving;
use super::stream::{self, Outgoing};
use super::takeover::overlap;
use super::worker::{State, Worker};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::digest::{Leaves, Window};
use crate::logic::epoch::{Pace, Phase};
use crate::logic::record::{dbkey_hash, worker_of};
use crate::logic::rule::{Rule, on};
use crate::net::time::{Instant, boot_micros};
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{write_array, write_uint};
use crate::proto::rpc::v0::{self, method};
use crate::proto::rpc::v1::{self, PART_BYTES};
use crate::store::staged::Large;
use crate::store::{LARGE_BYTES, StoreError};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes gathered for one server before they leave.
const BATCH_BYTES: usize = 64 << 10;
/// The pause after a copy that failed, before it is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How often a copy looks whether its phase is still on.
const PHASE_CHECK: Duration = Duration::from_millis(100);
/// How often a copy that is done looks whether what it left out has arrived.
const STABLE_CHECK: Duration = Duration::from_millis(5);
/// A stream that was so long of no use is ended, well before the other hangs up.
const STREAM_REST: Duration = Duration::from_secs(5);

/// A copy that a phase demands.
pub struct Job {
    /// Names the phase.
    pub time: ClockTime,
    /// Everything goes to all of its replicas, not only what is missing.
    pub full: bool,
    /// Told when all is stored there.
    pub done: oneshot::Sender<()>,
}

/// A server that records go to: its address and its life.
pub(super) type Target = (Address, u64);

/// Why a copy is not complete.
pub(super) enum Failed {
    /// To whom, and why.
    At(Address, &'static str),
    /// This life cannot be asked what it lacks: it gets everything.
    CannotCompare(Target),
}

/// Starts to copy this worker's part. When the phase is over before that is done, it is given up and nobody told.
pub(super) fn start(worker: Rc<Worker>, job: Job) {
    tokio::task::spawn_local(async move {
        worker.shared.moving.fetch_or(moving::COPYING, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = copy_until_done(&worker, &job) => {
                let _ = job.done.send(());
            }
            () = worker.phase_over(job.time) => {}
        }
    });
}

async fn copy_until_done(worker: &Rc<Worker>, job: &Job) {
    let mut plain = BTreeSet::new();
    loop {
        match copy(worker, job, &plain).await {
            Ok(()) => return,
            Err(Failed::CannotCompare(target)) => {
                tracing::info!("{} is sent everything: it cannot compare", target.0);
                plain.insert(target);
            }
            Err(Failed::At(target, why)) => {
                tracing::warn!("a copy to {target} failed and is tried again: {why}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn copy(worker: &Rc<Worker>, job: &Job, plain: &BTreeSet<Target>) -> Result<(), Failed> {
    let plan = worker.plan(job.full, plain);
    let mut streams = Streams { worker, time: job.time, open: BTreeMap::new(), added: 0 };
    worker.begins_to_go_through();
    let mut next = Window::at(worker.cut(), 0).filter(|_| !plan.ways.is_empty());
    while let Some(window) = next {
        let mut found = Found::new(window, plan.pairs.len());
        let mut from = Some(window.start());
        while let Some(position) = from {
            let gather = |records| worker.gather(position, records, job.full, &plan, &mut found);
            let slice = worker.background.step_of(Kind::Gather, gather).await.map_err(|e| {
                tracing::error!("cannot read what is to be copied: {e}");
                Failed::At(worker.shared.config.address, "the store cannot be read")
            })?;
            from = slice.next;
            for (target, bytes) in slice.bytes {
                streams.add(target, &bytes).await?;
            }
            streams.keep_pace().await?;
            for (target, element) in slice.large {
                streams.add_large(target, element).await?;
                streams.keep_pace().await?;
            }
        }
        for (number, pair) in plan.pairs.iter().enumerate() {
            let lacking = worker.lacking(pair, job.time, &found, number).await?;
            let mut rest = &lacking[..];
            while !rest.is_empty() {
                let encode = |records| worker.encode(pair.target, job.full, rest, records);
                let encoded = worker.background.step_of(Kind::Encode, encode).await;
                rest = &rest[encoded.used..];
                streams.add(pair.target, &encoded.bytes).await?;
                if let Some(element) = encoded.large {
                    streams.add_large(pair.target, element).await?;
                }
                streams.keep_pace().await?;
            }
        }
        streams.end_resting().await?;
        next = window.next();
        worker.went_through(next.map(Window::start));
    }
    streams.end().await?;
    worker.what_was_left_out_arrives().await;
    worker.may_take_over().await;
    Ok(())
}

/// How a server is brought up to date.
enum Way {
    /// It gets everything.
    Everything,
    /// Its workers, by number, are asked what they lack: which pair that is.
    Compare(Vec<Option<usize>>),
}

/// This worker and one of another server, which have keys in common.
pub(super) struct Pair {
    pub target: Target,
    pub worker: u16,
}

/// Who gets something, and how.
#[derive(Default)]
struct Plan {
    ways: BTreeMap<Target, Way>,
    pairs: Vec<Pair>,
}

/// Streams to other servers, opened when there is something to send.
struct Streams<'w> {
    worker: &'w Rc<Worker>,
    time: ClockTime,
    open: BTreeMap<Target, Stream>,
    /// Bytes that were added and not yet waited for.
    added: u64,
}

struct Stream {
    gathered: Vec<u8>,
    outgoing: Outgoing,
    used: Instant,
}

impl Streams<'_> {
    /// Has encoded elements leave when there are enough of them.
    async fn add(&mut self, target: Target, bytes: &[u8]) -> Result<(), Failed> {
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = match self.open.entry(target) {
            Entry::Occupied(stream) => stream.into_mut(),
            Entry::Vacant(place) => {
                let outgoing = self.worker.offer(target, self.time);
                let outgoing = outgoing.ok_or(Failed::At(target.0, "there is no connection to it"))?;
                place.insert(Stream { gathered: Vec::new(), outgoing, used: Instant::now() })
            }
        };
        stream.gathered.extend_from_slice(bytes);
        self.added += bytes.len() as u64;
        stream.used = Instant::now();
        if stream.gathered.len() >= BATCH_BYTES {
            let batch = std::mem::take(&mut stream.gathered);
            stream.outgoing.send(batch).await.map_err(|why| Failed::At(target.0, why))?;
        }
        Ok(())
    }

    /// Has a large record leave piece by piece. One that turns out to be damaged is left out, as it would be if it were small.
    async fn add_large(&mut self, target: Target, element: LargeElement) -> Result<(), Failed> {
        let LargeElement { before, value, behind } = element;
        let pieces = || (0..value.val_len()).step_by(PART_BYTES);
        let mut bytes = Vec::new();
        // An element that has begun cannot be taken back: so first it is looked at to its end.
        for from in pieces() {
            if !self.worker.read_piece(&value, from, &mut bytes).await {
                tracing::error!("a large record is damaged, and is not copied to {}", target.0);
                return Ok(());
            }
        }
        self.add(target, &before).await?;
        for from in pieces() {
            if !self.worker.read_piece(&value, from, &mut bytes).await {
                return Err(Failed::At(target.0, "a record was damaged meanwhile"));
            }
            self.add(target, &bytes).await?;
        }
        self.add(target, &behind).await
    }

    /// Waits as long as what was added is to take, and while nothing is to move.
    async fn keep_pace(&mut self) -> Result<(), Failed> {
        let mut waited = Duration::ZERO;
        loop {
            let due = self.worker.pace().due(self.added, waited);
            let Some(pause) = due else { break };
            if waited > STREAM_REST {
                self.end_all().await?;
            }
            let pause = pause.min(PHASE_CHECK);
            tokio::time::sleep(pause).await;
            waited += pause;
            if self.worker.pace().pace.paused {
                self.worker.stood_still(pause);
            }
        }
        self.added = 0;
        Ok(())
    }

    /// Ends streams that are of no use for now.
    async fn end_resting(&mut self) -> Result<(), Failed> {
        let resting: Vec<Target> =
            self.open.iter().filter(|(_, s)| s.used.elapsed() > STREAM_REST).map(|(target, _)| *target).collect();
        for target in resting {
            self.end_one(target).await?;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), Failed> {
        self.end_all().await
    }

    async fn end_all(&mut self) -> Result<(), Failed> {
        while let Some(target) = self.open.keys().next().copied() {
            self.end_one(target).await?;
        }
        Ok(())
    }

    async fn end_one(&mut self, target: Target) -> Result<(), Failed> {
        let Some(stream) = self.open.remove(&target) else { return Ok(()) };
        stream.outgoing.finish(stream.gathered).await.map_err(|why| Failed::At(target.0, why))
    }
}

/// What one worker may do of what its server may.
#[derive(Clone, Copy)]
struct Share {
    pace: Pace,
    workers: u64,
}

impl Share {
    /// How long is still to be waited for so many bytes; `None`: no longer.
    fn due(self, bytes: u64, waited: Duration) -> Option<Duration> {
        if self.pace.paused {
            return Some(Duration::MAX);
        }
        let rate = (self.pace.bytes_per_sec / self.workers).max(1);
        let lasts = if self.pace.bytes_per_sec == 0 { 0 } else { bytes.saturating_mul(1_000_000) / rate };
        Duration::from_micros(lasts).checked_sub(waited).filter(|rest| !rest.is_zero())
    }
}

/// What goes through a shard came upon.
#[derive(Default)]
struct Slice {
    /// Encoded records by target.
    bytes: BTreeMap<Target, Vec<u8>>,
    large: Vec<(Target, LargeElement)>,
    /// The position to go on from.
    next: Option<u64>,
}

/// What the other of a pair lacks, encoded.
struct Encoded {
    bytes: Vec<u8>,
    /// A large record, behind them.
    large: Option<LargeElement>,
    /// How many dbkeys that was for.
    used: usize,
}

impl Worker {
    /// Waits until the phase that `time` names is over.
    async fn phase_over(&self, time: ClockTime) {
        while self.is_copying(time) {
            tokio::time::sleep(PHASE_CHECK).await;
        }
    }

    /// Waits until all that was pending, or about to be, has reached those who are filled. The copy left it out, with what it
    /// has overwritten; when the phase ends before it has come, they have neither.
    async fn what_was_left_out_arrives(&self) {
        let mut last = None;
        loop {
            {
                let state = self.state.borrow();
                // What is taken over becomes pending yet, behind all that is now.
                if !state.takeover.taken.is_empty() {
                    last = None;
                } else if state.pending.first() >= *last.get_or_insert(state.pending.next()) {
                    return;
                }
            }
            tokio::time::sleep(STABLE_CHECK).await;
        }
    }

    /// Waits until this server may take something over. Where all have copied, those that were filled coordinate; and one that has
    /// just started keeps still for as long as leases of an earlier life may last, with all of its clients waiting.
    async fn may_take_over(&self) {
        loop {
            let rest = self.state.borrow().quiet_until.saturating_sub(boot_micros());
            if rest == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_micros(rest)).await;
        }
    }

    /// Whether the phase that `time` names is still on.
    fn is_copying(&self, time: ClockTime) -> bool {
        let state = self.state.borrow();
        state.view.me.is_some() && matches!(state.view.epoch.phase, Phase::Copying { time: now, .. } if now == time)
    }

    /// Cuts the ring for what this worker holds.
    fn cut(&self) -> Leaves {
        let shard = self.shard().lock().expect("no holder of a shard panics");
        Leaves::for_records(shard.items() + shard.marks())
    }

    fn plan(&self, full: bool, plain: &BTreeSet<Target>) -> Plan {
        let state = self.state.borrow();
        let mut plan = Plan::default();
        let Some(me) = state.view.me else { return plan };
        let groups = state.view.route.groups();
        for (place, server) in (0..).zip(&state.view.epoch.servers) {
            if !groups.iter().any(|group| group.moves(full, me, place)) {
                continue;
            }
            let target = (server.address, server.incarnation);
            let way = if server.incarnation == 0 || plain.contains(&target) {
                Way::Everything
            } else {
                let own = self.shared.config.workers;
                let mut pair_with = |worker| {
                    overlap(self.number, own, worker, server.workers).then(|| {
                        plan.pairs.push(Pair { target, worker });
                        plan.pairs.len() - 1
                    })
                };
                Way::Compare((0..server.workers).map(&mut pair_with).collect())
            };
            plan.ways.insert(target, way);
        }
        plan
    }

    /// Notes the records of a slice for those who are asked what they lack, and encodes them for the others.
    fn gather(
        &self,
        from: u64,
        records: usize,
        full: bool,
        plan: &Plan,
        found: &mut Found,
    ) -> Result<Slice, StoreError> {
        let state = self.state.borrow();
        let mut slice = Slice::default();
        let Some(me) = state.view.me else { return Ok(slice) };
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let (window, since, seed) = (found.window, state.memory.since(), self.shared.incarnation());
        let unstable = state.not_to_be_copied(full);
        let ways: Vec<Option<(Target, &Way)>> = state
            .view
            .epoch
            .servers
            .iter()
            .map(|server| {
                let target = (server.address, server.incarnation);
                plan.ways.get(&target).map(|way| (target, way))
            })
            .collect();
        let wanted = |hash| window.place(hash).is_some() && state.is_source_in(hash, full, me);
        let next = element::scan(&mut *shard, from, records, &wanted, &mut |dbkey, met| {
            let Some(hash) = dbkey_hash(dbkey) else { return };
            if !state.may_be_copied(hash, met.epoch(), &unstable) {
                return;
            }
            let mut noted = None;
            let group = &state.range(hash).group;
            for server in group.members().iter().filter(|server| group.moves(full, me, **server)) {
                match ways.get(usize::from(*server)) {
                    Some(Some((target, Way::Everything))) => {
                        match &met {
                            Met::Whole(record) => {
                                let bytes = slice.bytes.entry(*target).or_insert_with(|| opening(*target, since));
                                write_element(bytes, dbkey, *record, target.1 == 0);
                            }
                            Met::Large(stamp, value) => {
                                let element = LargeElement::new(*target, since, dbkey, stamp.epoch, value.clone());
                                slice.large.push((*target, element));
                            }
                        }
                        self.shared.moved.records.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Some((_, Way::Compare(pairs)))) => {
                        let worker = worker_of(hash, u16::try_from(pairs.len()).unwrap_or(u16::MAX));
                        if let Some(pair) = pairs.get(usize::from(worker)).copied().flatten() {
                            let number = *noted.get_or_insert_with(|| found.note(dbkey, met.digest(seed, dbkey)));
                            found.add(pair, number, hash);
                        }
                    }
                    _ => {}
                }
            }
        })?;
        slice.next = next.filter(|position| window.place(*position).is_some());
        Ok(slice)
    }

    /// Reads the piece of a large value that begins at `from`, in a step of its own; false when it is damaged.
    async fn read_piece(&self, value: &Large, from: usize, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let len = PART_BYTES.min(value.val_len() - from);
        self.background.step(|| value.append_to(from, len, bytes)).await
    }

    /// How fast this worker may move records: its share of what its server may.
    fn pace(&self) -> Share {
        let pace = self.state.borrow().view.epoch.pace;
        Share { pace, workers: u64::from(self.shared.config.workers.max(1)) }
    }

    /// Encodes the first of the records that the target lacks, as they are by now, up to a batch, to so many records, and to the first
    /// large one.
    fn encode(&self, target: Target, full: bool, dbkeys: &[&[u8]], records: usize) -> Encoded {
        let state = self.state.borrow();
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let (unstable, since) = (state.not_to_be_copied(full), state.memory.since());
        let mut encoded = Encoded { bytes: opening(target, since), large: None, used: 0 };
        let before = encoded.bytes.len();
        for dbkey in dbkeys {
            if encoded.bytes.len() >= BATCH_BYTES || encoded.used >= records || encoded.large.is_some() {
                break;
            }
            encoded.used += 1;
            let Some(hash) = dbkey_hash(dbkey) else { continue };
            let Ok(Some(record)) = shard.peek(dbkey) else { continue };
            if !state.may_be_copied(hash, record.epoch, &unstable) {
                continue;
            }
            if record.dbval.len() <= LARGE_BYTES {
                write_element(&mut encoded.bytes, dbkey, record, false);
            } else if let Ok(Some((stamp, value))) = shard.large(dbkey) {
                encoded.large = Some(LargeElement::new(target, since, dbkey, stamp.epoch, value));
            } else {
                continue;
            }
            self.shared.moved.records.fetch_add(1, Ordering::Relaxed);
        }
        if encoded.bytes.len() == before {
            encoded.bytes.clear();
        }
        encoded
    }

    /// Offers a stream to another server.
    fn offer(&self, target: Target, time: ClockTime) -> Option<Outgoing> {
        let mut state = self.state.borrow_mut();
        let link = state.links.iter().find(|(_, l)| (l.address, l.incarnation) == target && l.is_up())?.0;
        let outgoing = stream::register(&self.shared, self.number, target.0);
        let own = self.shared.config.stream;
        let link = state.links.get_mut(link)?;
        let offered = link.notify(|out, id| {
            if target.1 == 0 {
                write_request(out, id, method::REPLACE_OFFER);
                write_array(out, 1);
            } else {
                write_request(out, id, v1::method::OFFER);
                write_array(out, 2);
                write_uint(out, time.0);
            }
            v0::write_address(out, own);
        });
        offered.then_some(outgoing)
    }
}

impl State {
    /// Whether this server brings what is at a ring position to anybody.
    fn is_source_in(&self, hash: u64, full: bool, me: u16) -> bool {
        let group = &self.range(hash).group;
        group.members().iter().any(|server| group.moves(full, me, *server))
    }

    /// The ring positions of what is unstable here, but for what is pending. The coordinator's records are stable,
    /// pending, or about to be pending after a takeover; others know only what they were told.
    fn not_to_be_copied(&self, full: bool) -> HashSet<u64> {
        if full { self.unstable_hashes() } else { self.takeover.taken_hashes().collect() }
    }

    fn may_be_copied(&self, hash: u64, epoch: u64, unstable: &HashSet<u64>) -> bool {
        let pending = self.pending.blocking(hash).is_some() || unstable.contains(&hash);
        !(pending && on(Rule::CopyStableOnly)) && epoch >= self.view.epoch.flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_of_a_server_share_its_rate() {
        let pace = Pace { bytes_per_sec: 1000, paused: false };
        let share = Share { pace, workers: 4 };
        assert_eq!(share.due(500, Duration::ZERO), Some(Duration::from_secs(2)));
        assert_eq!(share.due(500, Duration::from_secs(2)), None);
        let unlimited = Share { pace: Pace::default(), workers: 4 };
        assert_eq!(unlimited.due(u64::MAX, Duration::ZERO), None);
        let slow = Share { pace: Pace { bytes_per_sec: 1, paused: false }, workers: 8 };
        assert_eq!(slow.due(3, Duration::ZERO), Some(Duration::from_secs(3)));
        let paused = Share { pace: Pace { paused: true, ..pace }, workers: 4 };
        assert!(paused.due(0, Duration::from_secs(3600)).is_some());
    }
}
