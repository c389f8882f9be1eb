//! One worker's part of the store: its index, its newest segment, and what is staged for it.
//!
//! A record that is put gets its place in the active segment at once, and lies in the staging buffer until the next
//! write; reads find it there. The first failed write stops further puts from piling up: each tries that write again
//! before it is accepted.

use super::core::Core;
use super::format::{
    self, Draft, Header, Kind, MAX_HEAD_LEN, MAX_KEY_BYTES, MAX_VAL_BYTES, Origin, Raw, SEGMENT_HEAD_LEN,
    longest_record, position,
};
use super::index::{Entry, Index, Place, TABLES, table_of, table_start};
use super::large::{Pieces, StagedFile, StoredFile};
use super::segment::Segment;
use crate::logic::clock::ClockTime;
use crate::logic::record::{HASH_LEN, Stamp, is_mark, version_of};
use crate::logic::ring;
use crate::store::fs::store_error;
use crate::store::staged::{self, Large, Staged};
use crate::store::{Commit, LARGE_BYTES, Record, ScanVisitor, Shard, StoreError, Ticket};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// Staged bytes that are written without waiting for a commit, so that a batch of large values does not pile up.
const STAGE_BYTES: usize = 1 << 20;
/// How many records a scan has memory bring ahead.
const AHEAD: usize = 16;
/// Bytes written between two looks at the room on the device; less where segments are small.
pub(super) const ROOM_CHECK_BYTES: u64 = 1 << 20;
/// Large records whose pieces are known, at most: some 2 KiB each.
const KNOWN_PIECES: usize = 1024;

/// A shard of a log store.
pub struct LogShard {
    core: Arc<Core>,
    number: u16,
    index: Index,
    data: Data,
    next_lsn: u64,
    scratch: Vec<u8>,
    gathered: Vec<Entry>,
    /// The last write failed; what it should have written is still staged.
    refused: bool,
    /// Something was written since the last ticket.
    unticketed: bool,
    unchecked_bytes: u64,
    ticket: Ticket,
    /// Dbkeys of records that an earlier process left, and others may lack.
    unstable: Vec<Vec<u8>>,
    /// By ring position and sequence number: large records that were intact, with the checksums of their pieces.
    pieces: HashMap<(u64, u64), Arc<Pieces>>,
}

/// The place of a record, and of a large one the checksums of its pieces.
type Looked = (Place, Option<Arc<Pieces>>);

/// Where the records are.
#[derive(Default)]
struct Data {
    /// By slot; those that may hold records of this shard.
    segments: Vec<Option<Arc<Segment>>>,
    active: Option<Arc<Segment>>,
    /// Records that follow the active segment's written bytes.
    stage: Vec<u8>,
}

impl Data {
    fn segment(&self, slot: u32) -> Option<&Arc<Segment>> {
        self.segments.get(slot as usize)?.as_ref()
    }

    /// Has memory bring the beginning of the record at a place.
    fn prefetch(&self, place: Place) {
        if let Some(segment) = self.segment(place.slot) {
            segment.prefetch(place.offset);
        }
    }

    /// The record at a place, not verified, and its checksum's seed.
    #[inline]
    fn read<'a>(&'a self, place: Place, scratch: &'a mut Vec<u8>) -> Option<(Raw<'a>, u32)> {
        let segment = self.segment(place.slot)?;
        let seed = segment.seed_at(place.offset);
        let raw = match u64::from(place.offset).checked_sub(segment.len()) {
            None => segment.read(place.offset, scratch)?,
            Some(staged) => Raw::parse(self.stage.get(staged as usize..)?, segment.head.birth)?,
        };
        Some((raw, seed))
    }

    /// The record at a place, if it is intact and not a note that one was lost.
    #[inline]
    fn read_intact<'a>(&'a self, place: Place, scratch: &'a mut Vec<u8>) -> Option<Raw<'a>> {
        let (raw, seed) = self.read(place, scratch)?;
        (raw.is_intact(seed) && raw.header.kind == Kind::Put).then_some(raw)
    }

    /// As [`read_intact`](Data::read_intact), but of one whose dbval is over `whole` bytes, only that its lengths are intact.
    fn read_surveyed<'a>(&'a self, place: Place, whole: usize, scratch: &'a mut Vec<u8>) -> Option<Raw<'a>> {
        let (raw, seed) = self.read(place, scratch)?;
        let intact = if raw.header.val_len > whole { raw.is_begun(seed) } else { raw.is_intact(seed) };
        (intact && raw.header.kind == Kind::Put).then_some(raw)
    }

    /// The record at a place that has these pieces, if all that stands before them is intact.
    fn read_begun<'a>(&'a self, place: Place, pieces: &Pieces, scratch: &'a mut Vec<u8>) -> Option<Raw<'a>> {
        let (raw, seed) = self.read(place, scratch)?;
        pieces.follow(&raw, seed).then_some(raw)
    }

    /// Whether an entry with the right position is that of `dbkey`; leaves its record's length in `len`. A damaged
    /// record is taken for it: another key at the same position is less likely than that it is this one.
    #[inline]
    fn is_of(&self, entry: &Entry, dbkey: &[u8], scratch: &mut Vec<u8>, len: &mut usize) -> bool {
        let Some((raw, seed)) = self.read(entry.place(), scratch) else {
            if let Some(segment) = self.segment(entry.place().slot) {
                segment.set_damaged();
            }
            *len = 0;
            return true;
        };
        *len = raw.header.record_len();
        (raw.header.kind == Kind::Put && raw.dbkey() == dbkey) || raw.header.kind == Kind::Lost || !raw.is_intact(seed)
    }
}

impl LogShard {
    /// A shard with what opening found.
    pub(super) fn new(
        core: Arc<Core>,
        number: u16,
        index: Index,
        segments: &[Arc<Segment>],
        next_lsn: u64,
    ) -> LogShard {
        let mut shard = LogShard {
            core,
            number,
            index,
            data: Data::default(),
            next_lsn,
            scratch: Vec::new(),
            gathered: Vec::new(),
            refused: false,
            unticketed: false,
            unchecked_bytes: u64::MAX / 2,
            ticket: 0,
            unstable: Vec::new(),
            pieces: HashMap::new(),
        };
        segments.iter().for_each(|s| shard.add_segment(s.clone()));
        shard
    }

    /// Index entries may point to `segment` from now on.
    pub(super) fn add_segment(&mut self, segment: Arc<Segment>) {
        let slot = segment.slot as usize;
        if self.data.segments.len() <= slot {
            self.data.segments.resize(slot + 1, None);
        }
        self.data.segments[slot] = Some(segment);
    }

    /// The records at these places may be here alone.
    pub(super) fn note_unstable(&mut self, places: &[Place]) {
        let Self { data, scratch, unstable, .. } = self;
        unstable.extend(places.iter().filter_map(|place| Some(data.read_intact(*place, scratch)?.dbkey().to_vec())));
    }

    /// No index entry points to the segment at `slot` any more.
    pub(super) fn drop_segment(&mut self, slot: u32) {
        if let Some(place) = self.data.segments.get_mut(slot as usize) {
            *place = None;
        }
    }

    /// The sequence number of the next record.
    pub(super) fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    /// A sequence number for a record that compaction makes.
    pub(super) fn take_lsn(&mut self) -> u64 {
        self.next_lsn += 1;
        self.next_lsn - 1
    }

    /// The index, for compaction.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// The index, for compaction.
    pub(super) fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Whether `dbkey` has a record.
    pub(super) fn holds(&mut self, dbkey: &[u8]) -> bool {
        self.find(dbkey).is_some()
    }

    /// The segment that stores go to.
    pub(super) fn active(&self) -> Option<&Arc<Segment>> {
        self.data.active.as_ref()
    }

    /// A record that compaction took away from `place` does not count there any more.
    pub(super) fn release(&self, place: Place, len: usize) {
        if let Some(segment) = self.data.segment(place.slot) {
            segment.sub_live(len);
        }
    }

    /// Ends the active segment; the next store begins one.
    pub(super) fn roll(&mut self) -> Result<(), StoreError> {
        self.write_stage()?;
        if let Some(segment) = self.data.active.take() {
            segment.seal();
        }
        Ok(())
    }

    /// Writes what is staged although the device is nearly full, so that compaction can free some of it.
    pub(super) fn write_into_reserve(&mut self) -> Result<(), StoreError> {
        (self.refused, self.unchecked_bytes) = (false, 0);
        self.write_stage()
    }

    fn find(&mut self, dbkey: &[u8]) -> Option<(Entry, usize)> {
        let Self { index, data, scratch, .. } = self;
        let mut len = 0;
        let entry = index.find(position(dbkey), |e| data.is_of(e, dbkey, scratch, &mut len))?;
        Some((entry, len))
    }

    /// Sees to it that a record of these lengths can be staged.
    fn make_room(&mut self, key_len: usize, val_len: usize) -> Result<(), StoreError> {
        check_lengths(key_len, val_len)?;
        let len = longest_record(key_len, val_len);
        if self.refused || self.data.stage.len() + len > STAGE_BYTES {
            self.write_stage()?;
        }
        let end = |active: &Arc<Segment>| active.len() + (self.data.stage.len() + len) as u64;
        if self.data.active.as_ref().is_some_and(|active| end(active) <= active.capacity) {
            return Ok(());
        }
        self.roll()?;
        let active = self.core.create_segment(Origin::Stores, self.number, self.next_lsn, len)?;
        self.add_segment(active.clone());
        self.data.active = Some(active);
        Ok(())
    }

    /// Has the index name a new record of a key, in place of the one that it has.
    fn point_to(&mut self, dbkey: &[u8], entry: Entry) {
        let Self { index, data, scratch, .. } = self;
        let mut old_len = 0;
        if let Some(old) = index.put(entry, |e| data.is_of(e, dbkey, scratch, &mut old_len))
            && let Some(segment) = data.segment(old.place().slot)
        {
            segment.sub_live(old_len);
        }
    }

    /// The place of a key's record and, if it is large, the checksums of its pieces: known, or made now of one that is intact.
    fn pieces_of(&mut self, dbkey: &[u8]) -> Result<Option<Looked>, StoreError> {
        let Some((entry, _)) = self.find(dbkey) else { return Ok(None) };
        let place = entry.place();
        let Some((raw, seed)) = self.data.read(place, &mut self.scratch) else {
            return Err(damaged(&self.core, &self.data, place));
        };
        if raw.header.val_len <= LARGE_BYTES {
            return Ok(Some((place, None)));
        }
        let id = (entry.hash, raw.header.lsn);
        if let Some(pieces) = self.pieces.get(&id) {
            return Ok(Some((place, Some(pieces.clone()))));
        }
        if raw.header.kind != Kind::Put || !raw.is_intact(seed) {
            return Err(damaged(&self.core, &self.data, place));
        }
        let pieces = Arc::new(Pieces::of(raw.dbval()));
        self.know_pieces(id, pieces.clone());
        Ok(Some((place, Some(pieces))))
    }

    fn know_pieces(&mut self, id: (u64, u64), pieces: Arc<Pieces>) {
        if self.pieces.len() >= KNOWN_PIECES {
            self.pieces.clear();
        }
        self.pieces.insert(id, pieces);
    }

    /// Stages a record, for which there is room; returns its place.
    fn add(&mut self, kind: Kind, dbkey: &[u8], epoch: u64, dbval: &[u8]) -> Place {
        let active = self.data.active.as_ref().expect("making room made an active segment");
        let offset = active.len() as u32 + self.data.stage.len() as u32;
        let lsn = self.next_lsn;
        let draft = Draft { kind, lsn, epoch, dbkey, dbval };
        let len = draft.encode(active.head.birth, active.seed_at(offset), &mut self.data.stage);
        if kind == Kind::Forget {
            active.add_forget(len, lsn)
        } else {
            active.add_live(len)
        }
        self.next_lsn += 1;
        Place { slot: active.slot, offset }
    }

    fn write_stage(&mut self) -> Result<(), StoreError> {
        if self.data.stage.is_empty() {
            return Ok(());
        }
        let active = self.data.active.as_ref().expect("staged records have their place in an active segment");
        let checked =
            if self.refused || self.unchecked_bytes >= ROOM_CHECK_BYTES.min(self.core.options.segment_bytes / 4) {
                self.unchecked_bytes = 0;
                self.core.check_room()
            } else {
                Ok(())
            };
        let written = checked
            .and_then(|()| active.append(&self.data.stage).map_err(|e| store_error("cannot write", &active.path, e)));
        self.refused = written.is_err();
        written?;
        self.unchecked_bytes += self.data.stage.len() as u64;
        self.data.stage.clear();
        if self.data.stage.capacity() > 2 * STAGE_BYTES {
            self.data.stage.shrink_to(STAGE_BYTES);
        }
        self.unticketed = true;
        Ok(())
    }

    /// Fills `gathered` with entries of a table from position `from` on, sorted: little more than `limit`, but all of
    /// those at one position. Returns where to go on in this table.
    fn gather(&mut self, table: usize, from: u64, limit: usize, wanted: &dyn Fn(u64) -> bool) -> Option<u64> {
        self.index.gather(table, from, wanted, &mut self.gathered);
        let mut rest = None;
        if self.gathered.len() > limit {
            let (_, last, _) = self.gathered.select_nth_unstable_by_key(limit, |e| e.hash);
            let end = last.hash;
            self.gathered.retain(|e| e.hash <= end);
            rest = end.checked_add(1).filter(|next| table_of(*next) == table);
        }
        self.gathered.sort_unstable_by_key(|e| e.hash);
        rest
    }
}

/// The key that the caller should ask a replica for when a record is damaged: the whole dbkey where its own hash proves
/// it, else the ring position alone.
fn key_of_damaged(entry: &Entry, read: Option<(Raw<'_>, u32)>) -> Vec<u8> {
    let position = entry.hash.to_be_bytes();
    let proven = |dbkey: &&[u8]| dbkey.starts_with(&position) && ring::hash(&dbkey[HASH_LEN..]) == entry.hash;
    read.map(|(raw, _)| raw.dbkey()).filter(proven).unwrap_or(&position).to_vec()
}

impl Shard for LogShard {
    fn get(&mut self, dbkey: &[u8]) -> Result<Option<Record<'_>>, StoreError> {
        let Some((entry, _)) = self.find(dbkey) else { return Ok(None) };
        let place = entry.place();
        match self.data.read_intact(place, &mut self.scratch) {
            Some(raw) => Ok(Some(Record { epoch: raw.header.epoch, dbval: raw.dbval() })),
            None => Err(damaged(&self.core, &self.data, place)),
        }
    }

    fn prefetch(&self, positions: &[u64]) {
        // The finds do not depend on each other, so the processor waits for many of them at a time.
        for entry in positions.iter().filter_map(|hash| self.index.find(*hash, |_| true)) {
            self.data.prefetch(entry.place());
        }
    }

    fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError> {
        self.make_room(dbkey.len(), record.dbval.len())?;
        let place = self.add(Kind::Put, dbkey, record.epoch, record.dbval);
        self.point_to(dbkey, Entry::new(position(dbkey), place, is_mark(record.dbval)));
        Ok(())
    }

    fn peek(&mut self, dbkey: &[u8]) -> Result<Option<Record<'_>>, StoreError> {
        let Some((entry, len)) = self.find(dbkey) else { return Ok(None) };
        let place = entry.place();
        if len > LARGE_BYTES
            && let Some((_, Some(pieces))) = self.pieces_of(dbkey)?
        {
            return match self.data.read_begun(place, &pieces, &mut self.scratch) {
                Some(raw) => Ok(Some(Record { epoch: raw.header.epoch, dbval: raw.dbval() })),
                None => Err(damaged(&self.core, &self.data, place)),
            };
        }
        match self.data.read_intact(place, &mut self.scratch) {
            Some(raw) => Ok(Some(Record { epoch: raw.header.epoch, dbval: raw.dbval() })),
            None => Err(damaged(&self.core, &self.data, place)),
        }
    }

    fn piece(
        &mut self,
        dbkey: &[u8],
        version: ClockTime,
        from: usize,
        len: usize,
    ) -> Result<Option<&[u8]>, StoreError> {
        let Some((place, pieces)) = self.pieces_of(dbkey)? else { return Ok(None) };
        let Some((raw, seed)) = self.data.read(place, &mut self.scratch) else { return Ok(None) };
        let dbval = raw.dbval();
        let intact = match &pieces {
            Some(pieces) => pieces.follow(&raw, seed) && pieces.are_intact(from, len, |range| dbval.get(range)),
            None => raw.is_intact(seed),
        };
        if !intact {
            self.pieces.remove(&(position(dbkey), raw.header.lsn));
            return Err(damaged(&self.core, &self.data, place));
        }
        let is_that = version_of(dbval) == Some(version);
        Ok(from.checked_add(len).filter(|_| is_that).and_then(|end| dbval.get(from..end)))
    }

    fn large(&mut self, dbkey: &[u8]) -> Result<Option<(Stamp, Large)>, StoreError> {
        let Some((place, Some(pieces))) = self.pieces_of(dbkey)? else { return Ok(None) };
        if self.data.segment(place.slot).is_some_and(|segment| u64::from(place.offset) >= segment.len()) {
            self.write_stage()?;
        }
        let raw = self.data.read_begun(place, &pieces, &mut self.scratch);
        let (Some(raw), Some(segment)) = (raw, self.data.segment(place.slot)) else {
            return Err(damaged(&self.core, &self.data, place));
        };
        let Header { head_len, key_len, val_len, epoch, .. } = raw.header;
        let stamp = Stamp { epoch, version: version_of(raw.dbval()).unwrap_or_default() };
        let val_at = place.offset as usize + head_len + key_len;
        Ok(Some((stamp, Large::in_file(StoredFile::new(&self.core, segment.clone(), val_at, val_len, pieces)))))
    }

    fn stage(&mut self, key_len: usize, val_len: usize) -> Result<Staged, StoreError> {
        check_lengths(key_len, val_len)?;
        StagedFile::begin(&self.core, key_len, val_len).map(Staged::in_file)
    }

    fn put_staged(
        &mut self,
        dbkey: &[u8],
        epoch: u64,
        version: ClockTime,
        staged: Staged,
    ) -> Result<Large, StoreError> {
        let val_len = staged.val_len();
        let file = match staged.finish(version) {
            Err(file) => file,
            Ok(dbval) => return staged::put_gathered(self, dbkey, epoch, dbval),
        };
        // Numbers are dense in a segment of stores, so the one before ends here.
        self.roll()?;
        let lsn = self.next_lsn;
        let (segment, pieces) = self.core.adopt_staged((self.number, lsn), *file, dbkey, epoch, version)?;
        self.next_lsn += 1;
        self.unticketed = true;
        self.add_segment(segment.clone());
        segment.add_live(segment.record_bytes() as usize);
        let place = Place { slot: segment.slot, offset: SEGMENT_HEAD_LEN as u32 };
        self.point_to(dbkey, Entry::new(position(dbkey), place, false));
        let pieces = Arc::new(pieces);
        self.know_pieces((position(dbkey), lsn), pieces.clone());
        let val_at = SEGMENT_HEAD_LEN + MAX_HEAD_LEN + dbkey.len();
        Ok(Large::in_file(StoredFile::new(&self.core, segment, val_at, val_len, pieces)))
    }

    fn forget(&mut self, dbkey: &[u8], stamp: Stamp) -> Result<bool, StoreError> {
        if self.peek(dbkey)?.is_none_or(|record| record.stamp() != stamp) {
            return Ok(false);
        }
        let Some((entry, old_len)) = self.find(dbkey) else { return Ok(false) };
        self.make_room(dbkey.len(), 0)?;
        self.add(Kind::Forget, dbkey, stamp.epoch, &[]);
        self.index.remove(entry.hash, entry.place());
        if let Some(segment) = self.data.segment(entry.place().slot) {
            segment.sub_live(old_len);
        }
        Ok(true)
    }

    fn commit(&mut self) -> Result<Commit, StoreError> {
        self.write_stage()?;
        if !self.core.options.sync {
            return Ok(Commit::Done);
        }
        self.core.sync.check()?;
        if self.unticketed {
            self.unticketed = false;
            self.ticket += 1;
            self.core.sync.request(self.number, self.ticket);
        }
        let durable = self.core.sync.durable(usize::from(self.number)) >= self.ticket;
        Ok(if durable { Commit::Done } else { Commit::Pending(self.ticket) })
    }

    fn survey(
        &mut self,
        from: u64,
        budget: usize,
        whole: usize,
        wanted: &dyn Fn(u64) -> bool,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<Option<u64>, StoreError> {
        let (mut from, mut visited) = (from, 0);
        loop {
            let table = table_of(from);
            let rest = self.gather(table, from, budget.saturating_sub(visited).max(1) - 1, wanted);
            for (n, entry) in self.gathered.iter().enumerate() {
                // Records lie anywhere, and most of a scan would be waiting for memory.
                if let Some(ahead) = self.gathered.get(n + AHEAD) {
                    self.data.prefetch(ahead.place());
                }
                match self.data.read_surveyed(entry.place(), whole, &mut self.scratch) {
                    Some(raw) => visit(raw.dbkey(), Ok(Record { epoch: raw.header.epoch, dbval: raw.dbval() })),
                    None => {
                        let error = damaged(&self.core, &self.data, entry.place());
                        let key = key_of_damaged(entry, self.data.read(entry.place(), &mut self.scratch));
                        visit(&key, Err(error));
                    }
                }
            }
            let passed_over = self.index.table_len(table).saturating_sub(self.gathered.len());
            visited += self.gathered.len() + passed_over / PASSED_OVER_PER_VISIT;
            match rest {
                Some(next) => from = next,
                None if table + 1 == TABLES => return Ok(None),
                None => from = table_start(table + 1),
            }
            if visited >= budget {
                return Ok(Some(from));
            }
        }
    }

    fn position(&self) -> u64 {
        self.next_lsn
    }

    fn take_unstable(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.unstable)
    }

    fn items(&self) -> u64 {
        self.index.items()
    }

    fn marks(&self) -> u64 {
        self.index.marks()
    }

    fn index_bytes(&self) -> Option<u64> {
        Some(self.index.memory_bytes() as u64)
    }
}

fn damaged(core: &Core, data: &Data, place: Place) -> StoreError {
    match data.segment(place.slot) {
        Some(segment) => core.damaged(segment, u64::from(place.offset), "damaged record"),
        None => StoreError::Damaged { file: core.dir.clone(), offset: u64::from(place.offset) },
    }
}

fn check_lengths(key_len: usize, val_len: usize) -> Result<(), StoreError> {
    if key_len > MAX_KEY_BYTES || val_len > MAX_VAL_BYTES {
        let context = format!("a dbkey of {key_len} and a dbval of {val_len} bytes are more than a record can hold");
        return Err(StoreError::Io { context, source: io::ErrorKind::InvalidInput.into() });
    }
    Ok(())
}

/// How many entries of the index take about as long to pass over as a record to visit.
const PASSED_OVER_PER_VISIT: usize = 64;

/// Room for at least one record behind a segment's head.
pub(super) const LEAST_SEGMENT_BYTES: u64 = (SEGMENT_HEAD_LEN + format::MAX_HEAD_LEN) as u64;
