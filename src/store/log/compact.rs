//! Background work, in small steps: hints for sealed segments, and compaction.
//!
//! Compaction copies what is live in a segment to the end of another one, lets the index point there, and removes the
//! segment once the copies are durable. It holds a shard's lock only to ask the index about a slice of records and to
//! change its pointers. Before a segment is removed the index is searched for pointers into it that are left, so that
//! no miscount and no damage can lose a record: what cannot be read becomes a note that it was lost.
//!
//! When may a forget go? It is needed while another segment may hold an older record of its key. Such a record was
//! written, or copied, before the forget; so its segment was born at a lower sequence number, and it is dead there now.
//! A segment that was born later, or holds nothing dead, or is another shard's, has none. When forgets add up
//! nevertheless, the segment that was born first is compacted, whatever its garbage: its copies are born now.

use super::LogStore;
use super::core::Core;
use super::format::{Draft, Header, Kind, MAX_HEAD_LEN, Origin, Raw, position};
use super::hint::HintBuilder;
use super::index::{Entry, Place, TABLES};
use super::open::{add_step, read_segment};
use super::plan::Plan;
use super::segment::Segment;
use super::walk::{Step, Walk};
use crate::logic::record::{HASH_LEN, worker_of};
use crate::store::fs::store_error;
use crate::store::{Maintained, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of records between two locks of a shard.
const SLICE_BYTES: u64 = 64 << 10;

/// What is going on between two calls.
#[derive(Default)]
pub(super) struct Maintenance {
    job: Option<Job>,
    /// Where copies go, for each shard.
    outputs: Vec<Option<Arc<Segment>>>,
    retired: Vec<Arc<Segment>>,
    /// A hint could not be written: compact before trying again.
    hint_refused: bool,
}

enum Job {
    Hint { segment: Arc<Segment>, walk: Walk, builder: HintBuilder },
    Copy { victim: Victim, walk: Walk },
    Sweep { victim: Victim, table: usize },
}

/// A segment that is compacted.
#[derive(Clone)]
pub(super) struct Victim {
    segment: Arc<Segment>,
    /// Forgets below this number are not needed.
    forget_below: u64,
}

/// A record to copy.
struct Candidate {
    header: Header,
    hash: u64,
    place: Place,
    /// Its dbkey and its dbval, one after the other.
    body: Vec<u8>,
}

impl Candidate {
    fn dbkey(&self) -> &[u8] {
        &self.body[..self.header.key_len]
    }

    fn is_forget(&self) -> bool {
        self.header.kind == Kind::Forget
    }

    fn draft(&self) -> Draft<'_> {
        let Header { kind, lsn, epoch, key_len, .. } = self.header;
        Draft { kind, lsn, epoch, dbkey: &self.body[..key_len], dbval: &self.body[key_len..] }
    }
}

impl Maintenance {
    pub(super) fn run(&mut self, store: &LogStore, budget_bytes: u64) -> Result<Maintained, StoreError> {
        self.outputs.resize(store.shard_count(), None);
        store.core.clear_away();
        let worked = self.work(store, budget_bytes);
        self.remove_retired(store)?;
        Ok(if worked? { Maintained::Worked } else { Maintained::Idle })
    }

    fn work(&mut self, store: &LogStore, budget_bytes: u64) -> Result<bool, StoreError> {
        let mut spent = 0;
        while spent < budget_bytes {
            let Some(job) = self.job.take().map_or_else(|| self.next_job(store), |job| Ok(Some(job)))? else {
                return Ok(spent > 0);
            };
            let (result, job) = self.step(store, job);
            self.job = job;
            spent += result?;
        }
        Ok(true)
    }

    /// A slice of a job: the bytes it read and wrote, and the job if it is not done.
    fn step(&mut self, store: &LogStore, job: Job) -> (Result<u64, StoreError>, Option<Job>) {
        match job {
            Job::Hint { segment, walk, builder } => self.hint_step(&store.core, segment, walk, builder),
            Job::Copy { victim, walk } => self.copy_step(store, victim, walk),
            Job::Sweep { victim, table } => self.sweep_step(store, victim, table),
        }
    }

    fn next_job(&mut self, store: &LogStore) -> Result<Option<Job>, StoreError> {
        let core = &store.core;
        let is_full = core.check_room().is_err();
        if is_full {
            self.remove_retired(store)?;
        }
        let segments = core.segments();
        let plan = Plan::new(&segments, &core.options, core.segment_target(), core.allowance(), is_full);
        if let Some(segment) = plan.dead_segment() {
            let victim = Victim { forget_below: plan.forget_below(&segment), segment };
            return Ok(Some(Job::Sweep { victim, table: 0 }));
        }
        if !std::mem::take(&mut self.hint_refused)
            && !is_full
            && !plan.is_behind()
            && let Some(segment) = plan.segment_to_hint()
        {
            self.hint_refused = true;
            let mut walk = open_walk(core, &segment)?;
            self.hint_refused = false;
            let mut builder = HintBuilder::default();
            if let Some(record) = segment.sole() {
                builder.add(record);
                walk.skip_all();
            }
            return Ok(Some(Job::Hint { segment, walk, builder }));
        }
        let Some(segment) = plan.victim() else { return Ok(None) };
        if !segment.is_sealed() {
            self.seal(store, &segment)?;
        }
        let walk = open_walk(core, &segment)?;
        Ok(Some(Job::Copy { victim: Victim { forget_below: plan.forget_below(&segment), segment }, walk }))
    }

    /// Ends a segment that stores or copies still went to.
    fn seal(&mut self, store: &LogStore, segment: &Arc<Segment>) -> Result<(), StoreError> {
        let shard = usize::from(segment.head.shard);
        match segment.head.origin {
            Origin::Stores => store.with_shard(shard, |s| match s.active() {
                Some(active) if active.head.id == segment.head.id => s.roll(),
                _ => Ok(()),
            }),
            Origin::Compaction => {
                self.seal_output(shard);
                Ok(())
            }
        }
    }

    fn seal_output(&mut self, shard: usize) {
        if let Some(output) = self.outputs.get_mut(shard).and_then(Option::take) {
            output.seal();
        }
    }

    /// Ends all segments that copies go to.
    pub(super) fn seal_outputs(&mut self) {
        (0..self.outputs.len()).for_each(|shard| self.seal_output(shard));
    }

    fn hint_step(
        &mut self,
        core: &Core,
        segment: Arc<Segment>,
        mut walk: Walk,
        mut builder: HintBuilder,
    ) -> (Result<u64, StoreError>, Option<Job>) {
        let mut spent = 0;
        while spent < SLICE_BYTES {
            let Some(step) = walk.step() else {
                let result = finish_hint(core, &segment, builder);
                self.hint_refused = result.is_err();
                return (result.map(|bytes| spent + bytes), None);
            };
            spent += step_len(&step);
            if matches!(step, Step::Damaged { .. } | Step::Torn { .. }) {
                segment.set_damaged();
            }
            add_step(core, &mut walk, &segment.head, step, &mut builder);
        }
        (Ok(spent), Some(Job::Hint { segment, walk, builder }))
    }

    fn copy_step(
        &mut self,
        store: &LogStore,
        victim: Victim,
        mut walk: Walk,
    ) -> (Result<u64, StoreError>, Option<Job>) {
        let start = walk.position();
        // Looks at all segments: not once for each record.
        let slice_bytes = SLICE_BYTES.min(store.core.segment_target() / 4).max(1);
        let mut candidates: Vec<Vec<Candidate>> = Vec::new();
        candidates.resize_with(store.shard_count(), Vec::new);
        let mut ended = false;
        while walk.position() - start < slice_bytes {
            match walk.step() {
                None => {
                    ended = true;
                    break;
                }
                Some(Step::Record { offset, len }) => {
                    if let Some(raw) = walk.record(offset, len) {
                        add_candidate(&mut candidates, &victim, &raw, offset);
                    }
                }
                Some(Step::Damaged { offset, .. } | Step::Torn { offset }) => {
                    store.core.damaged(&victim.segment, offset, "damaged bytes");
                }
            }
        }
        let mut spent = walk.position() - start;
        for (shard, candidates) in candidates.into_iter().enumerate() {
            match self.copy(store, shard, candidates) {
                Ok(written) => spent += written,
                Err(e) => {
                    walk.go_back(start);
                    return (Err(e), Some(Job::Copy { victim, walk }));
                }
            }
        }
        let next = if ended { Job::Sweep { victim, table: 0 } } else { Job::Copy { victim, walk } };
        (Ok(spent), Some(next))
    }

    /// Copies those of the candidates that are live; returns the bytes written.
    fn copy(&mut self, store: &LogStore, shard: usize, mut candidates: Vec<Candidate>) -> Result<u64, StoreError> {
        store.with_shard(shard, |s| {
            candidates.retain(
                |c| {
                    if c.is_forget() { !s.holds(c.dbkey()) } else { s.index().points_to(c.hash, c.place) }
                },
            );
        });
        if candidates.is_empty() {
            return Ok(0);
        }
        let most: usize = candidates.iter().map(|c| MAX_HEAD_LEN + c.body.len()).sum();
        let output = self.output(store, shard, most)?;
        let base = output.len() as u32;
        let mut bytes = Vec::with_capacity(most);
        let mut copies = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            let offset = base + bytes.len() as u32;
            let len = candidate.draft().encode(output.head.birth, output.seed_at(offset), &mut bytes);
            copies.push((Place { slot: output.slot, offset }, len));
        }
        output.append(&bytes).map_err(|e| store_error("cannot write", &output.path, e))?;
        store.with_shard(shard, |s| {
            for (candidate, (to, len)) in candidates.iter().zip(copies) {
                if candidate.is_forget() {
                    output.add_forget(len, candidate.header.lsn);
                } else if s.index_mut().relocate(candidate.hash, candidate.place, to) {
                    output.add_live(len);
                    s.release(candidate.place, candidate.header.record_len());
                }
            }
        });
        Ok(bytes.len() as u64)
    }

    /// The segment that copies of a shard go to, with room for `len` bytes.
    fn output(&mut self, store: &LogStore, shard: usize, len: usize) -> Result<Arc<Segment>, StoreError> {
        if let Some(output) = &self.outputs[shard]
            && output.len() + len as u64 <= output.capacity
        {
            return Ok(output.clone());
        }
        self.seal_output(shard);
        let birth = store.with_shard(shard, |s| s.next_lsn());
        let output = store.core.create_segment(Origin::Compaction, shard as u16, birth, len)?;
        store.with_shard(shard, |s| s.add_segment(output.clone()));
        self.outputs[shard] = Some(output.clone());
        Ok(output)
    }

    /// Ends what is going on, and writes the hints that are missing, so that the next open is quick.
    pub(super) fn finish(&mut self, store: &LogStore) -> Result<(), StoreError> {
        let core = &store.core;
        self.job = None;
        self.seal_outputs();
        core.sync_all()?;
        for segment in core.segments().iter().filter(|s| s.hint_len() == 0 && !s.is_retired()) {
            if let Some(record) = segment.sole() {
                let mut builder = HintBuilder::default();
                builder.add(record);
                core.write_hint(segment, &builder.finish(&segment.head, segment.len()))?;
                continue;
            }
            let file = segment.file(core.disk.as_ref()).map_err(|e| store_error("cannot open", &segment.path, e))?;
            let read = read_segment(core, file, &segment.head, segment.len());
            core.write_hint(segment, &read.hint)?;
        }
        Ok(())
    }

    /// Looks through one table of each shard for pointers into the victim that are left.
    fn sweep_step(&mut self, store: &LogStore, victim: Victim, table: usize) -> (Result<u64, StoreError>, Option<Job>) {
        if table == TABLES {
            victim.segment.retire();
            self.retired.push(victim.segment);
            return (Ok(0), None);
        }
        let slot = victim.segment.slot;
        let mut spent = 0;
        for shard in (0..store.shard_count()).filter(|s| store.may_hold(*s, &victim.segment)) {
            let left = store.with_shard(shard, |s| {
                spent += (s.index().table_len(table) * size_of::<Entry>()) as u64;
                let left = s.index().pointing_to(table, slot);
                left.into_iter().map(|(hash, place)| rescue(store, s, &victim, hash, place)).collect::<Vec<_>>()
            });
            if let Err(e) = self.copy(store, shard, left) {
                return (Err(e), Some(Job::Sweep { victim, table }));
            }
        }
        (Ok(spent), Some(Job::Sweep { victim, table: table + 1 }))
    }

    /// Removes the segments that nothing points to, once everything that took their place is durable.
    fn remove_retired(&mut self, store: &LogStore) -> Result<(), StoreError> {
        if self.retired.is_empty() || store.pins.load(Ordering::Acquire) > 0 {
            return Ok(());
        }
        for shard in 0..store.shard_count() {
            store.with_shard(shard, |s| s.write_into_reserve())?;
        }
        store.core.sync_all()?;
        while let Some(segment) = self.retired.last() {
            for shard in 0..store.shard_count() {
                store.with_shard(shard, |s| s.drop_segment(segment.slot));
            }
            store.core.remove_files(segment)?;
            store.core.sync_dir()?;
            store.core.forget_segment(segment);
            self.retired.pop();
        }
        Ok(())
    }
}

fn step_len(step: &Step) -> u64 {
    match step {
        Step::Record { len, .. } => *len as u64,
        Step::Damaged { len, .. } => *len,
        Step::Torn { .. } => 0,
    }
}

fn open_walk(core: &Core, segment: &Segment) -> Result<Walk, StoreError> {
    let file = segment.file(core.disk.as_ref()).map_err(|e| store_error("cannot open", &segment.path, e))?;
    Ok(Walk::new(file, &segment.head, segment.len()))
}

/// Writes a hint, for a segment that is durable.
fn finish_hint(core: &Core, segment: &Segment, builder: HintBuilder) -> Result<u64, StoreError> {
    core.sync_all()?;
    let bytes = builder.finish(&segment.head, segment.len());
    core.write_hint(segment, &bytes)?;
    Ok(bytes.len() as u64)
}

fn add_candidate(candidates: &mut [Vec<Candidate>], victim: &Victim, raw: &Raw<'_>, offset: u64) {
    if raw.header.kind == Kind::Forget && raw.header.lsn < victim.forget_below {
        return;
    }
    let hash = position(raw.dbkey());
    let place = Place { slot: victim.segment.slot, offset: offset as u32 };
    let shard = usize::from(worker_of(hash, candidates.len() as u16));
    candidates[shard].push(Candidate { header: raw.header, hash, place, body: raw.body().to_vec() });
}

/// The record at a place as it is, or, where it cannot be read, a note that it was lost.
fn rescue(store: &LogStore, shard: &mut super::shard::LogShard, victim: &Victim, hash: u64, place: Place) -> Candidate {
    let mut scratch = Vec::new();
    if let Some(raw) = victim.segment.read(place.offset, &mut scratch)
        && raw.is_intact(victim.segment.seed_at(place.offset))
    {
        return Candidate { header: raw.header, hash, place, body: raw.body().to_vec() };
    }
    store.core.damaged(&victim.segment, u64::from(place.offset), "damaged record");
    let lsn = shard.take_lsn();
    let header = Header { head_len: 0, val_len: 0, key_len: HASH_LEN, kind: Kind::Lost, lsn, epoch: 0 };
    Candidate { header, hash, place, body: hash.to_be_bytes().to_vec() }
}
