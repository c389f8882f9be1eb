//! What the shards of a store, its compaction and its sync share: the directory and the list of segments.

use super::Options;
use super::format::{LSN_END, Origin, SEGMENT_HEAD_LEN, SegmentHead};
use super::large::{Pieces, StagedFile};
use super::plan::Plan;
use super::segment::{Segment, log_name};
use super::sync::Syncing;
use crate::logic::clock::ClockTime;
use crate::store::StoreError;
use crate::store::fs::{self, Disk, Lock, store_error};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Garbage that is left alone may take one part in so many of what is free on the device.
const SPARE_SHARE: u64 = 8;
/// Most lines that a report of damage has.
const MAX_DAMAGE_LINES: usize = 1000;

/// All segments of the store, and the names that new ones get.
#[derive(Default)]
pub struct Registry {
    /// By number.
    pub segments: BTreeMap<u32, Arc<Segment>>,
    free_slots: Vec<u32>,
    next_slot: u32,
    next_id: u32,
}

#[derive(Default)]
struct Damage {
    lines: Vec<String>,
    seen: BTreeSet<(u32, u64)>,
}

/// See the module.
pub struct Core {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The directory.
    pub dir: PathBuf,
    /// As given.
    pub options: Options,
    /// The directory's random number.
    pub disk_id: u64,
    /// Commits and what of them is durable.
    pub sync: Syncing,
    registry: Mutex<Registry>,
    unsettled: Mutex<Vec<Arc<Segment>>>,
    sync_turn: Mutex<()>,
    damage: Mutex<Damage>,
    pace_us: AtomicU64,
    allowance: AtomicU64,
    lock: Mutex<Option<Box<dyn Lock>>>,
    staged: AtomicU64,
    put_away: Mutex<Vec<Arc<Segment>>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

impl Registry {
    /// A slot for one more segment.
    pub fn take_slot(&mut self) -> u32 {
        self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        })
    }

    /// Numbers up to `id` are taken.
    pub fn reserve_id(&mut self, id: u32) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }
}

impl Core {
    /// A core without segments yet.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, options: Options, disk_id: u64, lock: Box<dyn Lock>) -> Core {
        let sync = Syncing::new(options.shards);
        let allowance = AtomicU64::new(options.garbage_bytes);
        Core {
            disk,
            dir,
            options,
            disk_id,
            sync,
            registry: Mutex::default(),
            unsettled: Mutex::default(),
            sync_turn: Mutex::default(),
            damage: Mutex::default(),
            pace_us: AtomicU64::new(0),
            allowance,
            lock: Mutex::new(Some(lock)),
            staged: AtomicU64::new(0),
            put_away: Mutex::default(),
        }
    }

    /// A number for the file of a record to be.
    pub fn next_staged(&self) -> u64 {
        self.staged.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a removed segment let go by the next step of maintenance.
    pub fn put_away(&self, segment: Arc<Segment>) {
        held(&self.put_away).push(segment);
    }

    /// Lets go of what was put away.
    pub fn clear_away(&self) {
        let segments = std::mem::take(&mut *held(&self.put_away));
        // Not while the lock is held, which workers take.
        drop(segments);
    }

    /// The list of segments, locked. Take no other lock while holding it.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        held(&self.registry)
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.registry().segments.values().cloned().collect()
    }

    /// Lets another process have the directory.
    pub fn unlock(&self) {
        held(&self.lock).take();
    }

    /// Bytes of garbage that are left alone, as of the last look at the device: as the options say, but little where
    /// little is free.
    pub fn allowance(&self) -> u64 {
        self.allowance.load(Ordering::Relaxed)
    }

    /// How large segments of one shard are made now: small ones for little data, so that garbage in the newest, which
    /// compaction cannot touch, stays a small share.
    pub fn segment_target(&self) -> u64 {
        let live: u64 = self.registry().segments.values().map(|s| s.live()).sum();
        let share = (live + self.allowance()) / u64::from(self.options.shards) / 32;
        share.clamp(self.options.min_segment_bytes(), self.options.segment_bytes)
    }

    /// How long writers should wait between two batches.
    pub fn pace(&self) -> Duration {
        Duration::from_micros(self.pace_us.load(Ordering::Relaxed))
    }

    /// Looks at how much garbage there is: at each new segment, so that writers hear of it while maintenance works.
    pub fn update_pace(&self) {
        let pace = Plan::new(&self.segments(), &self.options, self.segment_target(), self.allowance(), false).pace();
        self.pace_us.store(pace.as_micros() as u64, Ordering::Relaxed);
    }

    /// Makes a segment, for a record of `first_len` bytes and more.
    pub fn create_segment(
        &self,
        origin: Origin,
        shard: u16,
        birth: u64,
        first_len: usize,
    ) -> Result<Arc<Segment>, StoreError> {
        let capacity = SEGMENT_HEAD_LEN as u64 + self.segment_target().max(first_len as u64);
        let (head, slot) = self.name_segment(origin, shard, birth)?;
        let path = self.dir.join(log_name(head.id));
        let made = self.disk.create(&path).and_then(|file| {
            let segment = Segment::new(head, slot, path.clone(), file, 0, capacity)?;
            let bytes = head.encode();
            segment.append(&[bytes, bytes].concat())?;
            Ok(Arc::new(segment))
        });
        match made {
            Ok(segment) => {
                self.enlist(&segment);
                Ok(segment)
            }
            Err(e) => {
                self.registry().free_slots.push(slot);
                // What cannot be removed is an empty segment; the next open removes it.
                let _ = self.disk.remove(&path);
                Err(store_error("cannot write", &path, e))
            }
        }
    }

    /// Makes a segment of a record that has come in pieces; gives the checksums of its pieces, too.
    pub fn adopt_staged(
        &self,
        (shard, birth): (u16, u64),
        staged: StagedFile,
        dbkey: &[u8],
        epoch: u64,
        version: ClockTime,
    ) -> Result<(Arc<Segment>, Pieces), StoreError> {
        let (head, slot) = self.name_segment(Origin::Stores, shard, birth)?;
        match staged.into_record((head, slot), dbkey, epoch, version) {
            Ok((segment, pieces)) => {
                let segment = Arc::new(segment);
                self.enlist(&segment);
                Ok((segment, pieces))
            }
            Err(e) => {
                self.registry().free_slots.push(slot);
                Err(e)
            }
        }
    }

    /// The head and the slot of a new segment.
    fn name_segment(&self, origin: Origin, shard: u16, birth: u64) -> Result<(SegmentHead, u32), StoreError> {
        let mut registry = self.registry();
        let id = registry.next_id;
        if birth + u64::from(u32::MAX) >= LSN_END || id == u32::MAX {
            return Err(StoreError::Unusable(format!(
                "{} used up its numbers: copy it to a new one",
                self.dir.display()
            )));
        }
        registry.reserve_id(id);
        let head = SegmentHead { id, origin, shards: self.options.shards, shard, birth };
        Ok((head, registry.take_slot()))
    }

    /// A new segment is part of the store.
    fn enlist(&self, segment: &Arc<Segment>) {
        self.registry().segments.insert(segment.head.id, segment.clone());
        held(&self.unsettled).push(segment.clone());
        self.update_pace();
    }

    /// A segment found at opening is part of the store.
    pub fn adopt(&self, segment: Arc<Segment>) {
        held(&self.unsettled).push(segment.clone());
        self.registry().segments.insert(segment.head.id, segment);
    }

    /// Takes a removed segment off the list. No index entry may have its slot.
    pub fn forget_segment(&self, segment: &Segment) {
        let mut registry = self.registry();
        registry.segments.remove(&segment.head.id);
        registry.free_slots.push(segment.slot);
        drop(registry);
        held(&self.unsettled).retain(|s| s.head.id != segment.head.id);
    }

    /// Refuses when the device is so full that compaction needs what is left.
    pub fn check_room(&self) -> Result<(), StoreError> {
        let space = self.disk.space(&self.dir).map_err(|e| store_error("cannot look at", &self.dir, e))?;
        let reserve = (2 * self.options.segment_bytes).min(space.total / 16);
        let spare = space.free.saturating_sub(reserve) / SPARE_SHARE;
        self.allowance.store(self.options.garbage_bytes.min(spare), Ordering::Relaxed);
        if space.free < reserve { Err(StoreError::Full(self.dir.clone())) } else { Ok(()) }
    }

    /// Makes everything written so far durable.
    pub fn sync_all(&self) -> Result<(), StoreError> {
        let _turn = held(&self.sync_turn);
        self.sync.check()?;
        let segments = held(&self.unsettled).clone();
        let result = self.sync_segments(&segments);
        if let Err(e) = &result {
            self.sync.set_broken(e);
        }
        result?;
        held(&self.unsettled).retain(|segment| {
            if segment.is_settled() {
                segment.release_file();
            }
            !segment.is_settled()
        });
        Ok(())
    }

    fn sync_segments(&self, segments: &[Arc<Segment>]) -> Result<(), StoreError> {
        for segment in segments {
            segment.sync(self.disk.as_ref()).map_err(|e| store_error("cannot sync", &segment.path, e))?;
        }
        if segments.iter().any(|s| !s.is_named()) {
            self.sync_dir()?;
            segments.iter().for_each(|s| s.set_named());
        }
        Ok(())
    }

    /// Makes the names in the directory durable.
    pub fn sync_dir(&self) -> Result<(), StoreError> {
        self.disk.sync_dir(&self.dir).map_err(|e| store_error("cannot sync", &self.dir, e))
    }

    /// Writes a segment's hint.
    pub fn write_hint(&self, segment: &Segment, bytes: &[u8]) -> Result<(), StoreError> {
        let path = segment.hint_path();
        fs::write_whole(self.disk.as_ref(), &path, bytes).map_err(|e| store_error("cannot write", &path, e))?;
        segment.set_hint_len(bytes.len() as u64);
        Ok(())
    }

    /// Removes a segment's files. The log goes first: a hint alone is removed at the next open.
    pub fn remove_files(&self, segment: &Segment) -> Result<(), StoreError> {
        for path in [segment.path.clone(), segment.hint_path()] {
            match self.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(store_error("cannot remove", &path, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reports damage in a segment, once for each place, and returns the error that says so.
    pub fn damaged(&self, segment: &Segment, offset: u64, what: &str) -> StoreError {
        segment.set_damaged();
        self.report(segment.head.id, offset, || format!("{}: {what} at byte {offset}", segment.path.display()));
        StoreError::Damaged { file: segment.path.clone(), offset }
    }

    /// Adds a line to the report of damage, once for each segment and place.
    pub fn report(&self, id: u32, offset: u64, line: impl FnOnce() -> String) {
        let mut damage = held(&self.damage);
        if damage.lines.len() < MAX_DAMAGE_LINES && damage.seen.insert((id, offset)) {
            damage.lines.push(line());
        }
    }

    /// The report of damage.
    pub fn damage(&self) -> Vec<String> {
        held(&self.damage).lines.clone()
    }
}
