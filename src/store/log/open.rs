//! Opening a directory: is it ours, and what is in it.
//!
//! Nothing that is found is changed: a torn tail is left out of its segment, not cut off its file, since a backup may
//! share the file. New stores go to new segments. Of several records of a key the one with the highest sequence
//! number counts.

use super::core::Core;
use super::format::{SEGMENT_HEAD_LEN, SegmentHead};
use super::hint::{Hint, HintBuilder, HintEntry};
use super::index::{Entry, Index, Place, TABLES, table_of};
use super::large::is_leftover;
use super::segment::{Segment, hint_name, id_in, log_name};
use super::shard::LogShard;
use super::stable::Positions;
use super::walk::{Step, Walk};
use crate::logic::record::worker_of;
use crate::store::StoreError;
use crate::store::fs::{self, Disk, File, PARTIAL_SUFFIX, store_error};
use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Parts in which the ring is loaded.
const PASSES: usize = 8;

/// A segment as found, with what is in it.
struct Found {
    segment: Arc<Segment>,
    hint: Hint,
    /// Its last records were bad: how many bytes.
    torn_bytes: u64,
    /// The hint was made now, from the segment.
    from_log: bool,
}

/// What reading a segment from end to end gave.
pub(super) struct Read {
    /// The bytes of its hint.
    pub hint: Vec<u8>,
    /// How much of it counts.
    pub len: u64,
    torn_bytes: u64,
    damaged: bool,
}

/// Reads the store's segments; returns its shards. They note what is not `stable`, if that is known.
pub(super) fn load(core: &Arc<Core>, stable: Option<&Positions>) -> Result<Vec<LogShard>, StoreError> {
    let mut found = find_segments(core)?;
    judge_torn_tails(core, &mut found)?;
    for f in &found {
        core.adopt(f.segment.clone());
        if f.from_log {
            // Without this hint the next open reads the segment again, and may take an old torn tail for damage.
            let written =
                f.segment.sync(core.disk.as_ref()).is_ok() && core.write_hint(&f.segment, f.hint.as_bytes()).is_ok();
            if written {
                f.segment.set_settled();
            }
        }
    }
    let top = found.iter().map(|f| f.hint.top_lsn.max(f.segment.head.birth)).max();
    let next_lsn = top.map_or(1, |lsn| lsn + 1);
    run_all(core.options.open_threads, usize::from(core.options.shards), |number| {
        Ok(build_shard(core, number as u16, &found, next_lsn, stable))
    })
}

/// Runs `job` for 0 to `count - 1` on some threads; the results in order.
fn run_all<T: Send>(
    threads: usize,
    count: usize,
    job: impl Fn(usize) -> Result<T, StoreError> + Sync,
) -> Result<Vec<T>, StoreError> {
    if threads <= 1 {
        return (0..count).map(job).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<T, StoreError>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = job(number);
                    results.lock().expect("nothing panics while it holds this").push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("nothing panics while it holds this");
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

fn find_segments(core: &Arc<Core>) -> Result<Vec<Found>, StoreError> {
    let names = core.disk.list(&core.dir).map_err(|e| store_error("cannot list", &core.dir, e))?;
    let mut ids: Vec<u32> = names.iter().filter_map(|n| id_in(&n.name, ".log")).collect();
    ids.sort_unstable();
    for name in names.iter().map(|n| n.name.as_str()) {
        let partial = name.strip_suffix(PARTIAL_SUFFIX).is_some_and(|rest| id_in(rest, ".hint").is_some());
        let orphan = id_in(name, ".hint").is_some_and(|id| ids.binary_search(&id).is_err());
        if partial || orphan || is_leftover(name) {
            let path = core.dir.join(name);
            core.disk.remove(&path).map_err(|e| store_error("cannot remove", &path, e))?;
        }
    }
    let slots: Vec<u32> = {
        let mut registry = core.registry();
        ids.iter().for_each(|id| registry.reserve_id(*id));
        ids.iter().map(|_| registry.take_slot()).collect()
    };
    let found = run_all(core.options.open_threads, ids.len(), |i| find_segment(core, ids[i], slots[i]))?;
    Ok(found.into_iter().flatten().collect())
}

/// What the file of a segment and its hint say at their beginnings.
pub(super) struct Start {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub size: u64,
    /// The head, from wherever it is whole; `None`: nothing of the segment can be read.
    pub head: Option<SegmentHead>,
    /// The hint, if it is the segment's.
    pub hint: Option<Hint>,
}

impl Start {
    pub fn look(disk: &dyn Disk, dir: &Path, id: u32) -> Result<Start, StoreError> {
        let path = dir.join(log_name(id));
        let failed = |e| store_error("cannot read", &path, e);
        let file = disk.open(&path).map_err(failed)?;
        let size = file.size().map_err(failed)?;
        let mut start = [0; SEGMENT_HEAD_LEN];
        // What cannot be read counts as damaged: the hint may still tell.
        let read = fs::read_full(file.as_ref(), &mut start, 0).unwrap_or(0);
        let head = SegmentHead::parse_either(&start[..read]).filter(|head| head.id == id);
        let hint = Hint::read(disk, &dir.join(hint_name(id))).ok().flatten();
        let fits = |h: &Hint| h.head.id == id && head.is_none_or(|head| head == h.head) && h.segment_len <= size;
        let hint = hint.filter(fits);
        let head = head.or_else(|| hint.as_ref().map(|h| h.head));
        Ok(Start { path, file, size, head, hint })
    }

    /// The line about a segment without a head; `None`: it has one, or nothing can have been in it.
    pub fn damage(&self) -> Option<String> {
        let (path, size) = (self.path.display(), self.size);
        let line = || format!("{path}: its head is damaged; {size} bytes cannot be read");
        (self.head.is_none() && size > SEGMENT_HEAD_LEN as u64).then(line)
    }
}

fn find_segment(core: &Core, id: u32, slot: u32) -> Result<Option<Found>, StoreError> {
    let start = Start::look(core.disk.as_ref(), &core.dir, id)?;
    if let Some(line) = start.damage() {
        core.report(id, 0, || line);
        return Ok(None);
    }
    let Start { path, file, size, head, hint } = start;
    let Some(head) = head else {
        core.disk.remove(&path).map_err(|e| store_error("cannot remove", &path, e))?;
        return Ok(None);
    };
    let failed = |e| store_error("cannot read", &path, e);
    let segment = |len| Segment::new(head, slot, path.clone(), file.clone(), len, size).map_err(failed);
    let found = match hint {
        Some(hint) => {
            let segment = Arc::new(segment(hint.segment_len)?);
            segment.set_hint_len(hint.byte_len());
            segment.set_settled();
            Found { segment, hint, torn_bytes: 0, from_log: false }
        }
        None => {
            let read = read_segment(core, file.clone(), &head, size);
            let segment = Arc::new(segment(read.len)?);
            if read.damaged {
                segment.set_damaged();
            }
            let hint = Hint::from_bytes(read.hint).expect("a hint that was just made is good");
            Found { segment, hint, torn_bytes: read.torn_bytes, from_log: true }
        }
    };
    found.segment.seal();
    Ok(Some(found))
}

/// Reads the first `size` bytes of a segment from end to end, and reports damage.
pub(super) fn read_segment(core: &Core, file: Arc<dyn File>, head: &SegmentHead, size: u64) -> Read {
    let mut walk = Walk::new(file, head, size);
    let mut builder = HintBuilder::default();
    let (mut damaged, mut len) = (false, size);
    while let Some(step) = walk.step() {
        damaged |= matches!(step, Step::Damaged { .. });
        if let Step::Torn { offset } = step {
            len = offset;
        }
        add_step(core, &mut walk, head, step, &mut builder);
    }
    let mut torn_bytes = size - len;
    // A process that dies cuts its last record off; it does not turn over bits in it.
    if torn_bytes > 0 && (walk.met_unreadable() || walk.is_whole_at(len)) {
        damaged = true;
        report_bad(core, head.id, len, torn_bytes);
        torn_bytes = 0;
    }
    Read { hint: builder.finish(head, len), len, torn_bytes, damaged }
}

/// Adds what lies at a place of a segment to its hint; reports damage.
pub(super) fn add_step(core: &Core, walk: &mut Walk, head: &SegmentHead, step: Step, builder: &mut HintBuilder) {
    match step {
        Step::Record { offset, len } => {
            if let Some(raw) = walk.record(offset, len) {
                builder.add(HintEntry::of(&raw, offset));
            }
        }
        Step::Damaged { offset, len, header } => {
            report_bad(core, head.id, offset, len);
            if let (Some(header), Some(raw)) = (header, walk.record(offset, len as usize)) {
                builder.add_damaged(head.origin, &header, raw.dbkey(), offset);
            }
        }
        Step::Torn { .. } => {}
    }
}

fn report_bad(core: &Core, id: u32, offset: u64, len: u64) {
    let path = core.dir.join(log_name(id));
    core.report(id, offset, || format!("{}: {len} damaged bytes at byte {offset}", path.display()));
}

/// A tail that a crash tore is in the newest segment of its shard, or in a copy that compaction was making; anywhere
/// else it is damage. Segments in which nothing is left are removed.
fn judge_torn_tails(core: &Core, found: &mut Vec<Found>) -> Result<(), StoreError> {
    let heads: Vec<SegmentHead> = found.iter().map(|f| f.segment.head).collect();
    for f in found.iter().filter(|f| f.torn_bytes > 0) {
        let head = f.segment.head;
        if head.is_superseded(&heads) {
            f.segment.set_damaged();
            report_bad(core, head.id, f.segment.len(), f.torn_bytes);
        }
    }
    let (empty, rest): (Vec<Found>, Vec<Found>) =
        std::mem::take(found).into_iter().partition(|f| f.hint.len() == 0 && !f.segment.is_damaged());
    *found = rest;
    empty.iter().try_for_each(|f| core.remove_files(&f.segment))
}

/// A record that may be the newest of its key.
#[derive(Clone, Copy)]
struct Candidate {
    entry: HintEntry,
    found: usize,
}

fn build_shard(core: &Arc<Core>, number: u16, found: &[Found], next_lsn: u64, stable: Option<&Positions>) -> LogShard {
    let shards = core.options.shards;
    let may_hold = |f: &&Found| f.segment.head.shards != shards || f.segment.head.shard == number;
    let ours: Vec<&Found> = found.iter().filter(may_hold).collect();
    let mut index = Index::new();
    let is_unstable = |c: &&Candidate| {
        let head = ours[c.found].segment.head;
        !c.entry.is_forget() && stable.is_some_and(|stable| !stable.cover(head.shards, head.shard, c.entry.lsn))
    };
    let (mut candidates, mut newest, mut unstable) = (Vec::new(), Vec::new(), Vec::new());
    // A part of the ring at a time, so that little more memory is needed than the index takes.
    for tables in (0..TABLES).step_by(TABLES / PASSES).map(|first| first..first + TABLES / PASSES) {
        candidates.clear();
        for (found, f) in ours.iter().enumerate() {
            let is_foreign = f.segment.head.shards != shards;
            let is_ours = |e: &HintEntry| {
                tables.contains(&table_of(e.hash)) && (!is_foreign || worker_of(e.hash, shards) == number)
            };
            candidates.extend(f.hint.entries().filter(is_ours).map(|entry| Candidate { entry, found }));
        }
        candidates.sort_unstable_by_key(|c| (c.entry.hash, Reverse((c.entry.lsn, c.found))));
        newest.clear();
        for same_place in candidates.chunk_by(|a, b| a.entry.hash == b.entry.hash) {
            keep_newest(same_place, &mut newest);
        }
        let place = |c: &Candidate| Place { slot: ours[c.found].segment.slot, offset: c.entry.offset };
        unstable.extend(newest.iter().filter(is_unstable).map(place));
        for in_table in newest.chunk_by(|a, b| table_of(a.entry.hash) == table_of(b.entry.hash)) {
            add_to_index(&mut index, &ours, in_table);
        }
    }
    let segments: Vec<Arc<Segment>> = ours.iter().map(|f| f.segment.clone()).collect();
    let mut shard = LogShard::new(core.clone(), number, index, &segments, next_lsn);
    shard.note_unstable(&unstable);
    shard
}

/// Adds records of one table.
fn add_to_index(index: &mut Index, ours: &[&Found], records: &[Candidate]) {
    let forgets = records.iter().filter(|c| c.entry.is_forget()).count();
    index.reserve(table_of(records[0].entry.hash), records.len() - forgets);
    for Candidate { entry, found } in records {
        let segment = &ours[*found].segment;
        if entry.is_forget() {
            segment.add_forget(entry.len as usize, entry.lsn);
        } else {
            segment.add_live(entry.len as usize);
            let place = Place { slot: segment.slot, offset: entry.offset };
            index.add(Entry::new(entry.hash, place, entry.is_mark()));
        }
    }
}

/// Of records at one ring position, newest first, the newest of each key. One whose key is not sure stands for any key
/// there: it hides all that are older, and any that is newer hides it.
fn keep_newest(records: &[Candidate], newest: &mut Vec<Candidate>) {
    let kept = newest.len();
    for candidate in records {
        let entry = &candidate.entry;
        if entry.is_unsure() {
            if newest.len() == kept {
                newest.push(*candidate);
            }
            return;
        }
        if newest[kept..].iter().all(|n| n.entry.key_check != entry.key_check) {
            newest.push(*candidate);
        }
    }
}

/// The error for a directory that cannot be read at all.
pub(super) fn unreadable(what: &Path, e: &io::Error) -> StoreError {
    StoreError::Unusable(format!("cannot open {}: {e}: check the path and its permissions", what.display()))
}
