//! One worker's view of the tree: the records whose hash falls to it.

use super::flusher::Flusher;
use super::record::{decode, encode, is_mark};
use super::{Damage, guarded, io_error};
use crate::logic::record::{Stamp, dbkey_hash, worker_of};
use crate::store::{Commit, Record, ScanVisitor, Shard, StoreError, Ticket};
use sled::{Db, IVec};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// A worker's part of a [`super::SledStore`].
pub struct SledShard {
    /// Gone once the store is closed.
    db: Weak<Db>,
    /// sled's directory.
    dir: PathBuf,
    number: usize,
    shards: u16,
    counts: Counts,
    /// The last ticket given out.
    ticket: Ticket,
    /// Something was changed since.
    staged: bool,
    /// What the last record got borrows from.
    got: IVec,
    scratch: Vec<u8>,
    flusher: Arc<Flusher>,
    damage: Arc<Damage>,
}

/// How many records take about as long to pass over as one to visit.
const PASSED_OVER_PER_VISIT: usize = 8;

/// Records by kind.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Records that are not deletion marks.
    pub items: u64,
    /// Deletion marks.
    pub marks: u64,
}

impl Counts {
    /// Counts a record that came.
    pub fn add(&mut self, stored: &[u8]) {
        *(if is_mark(stored) { &mut self.marks } else { &mut self.items }) += 1;
    }

    fn remove(&mut self, stored: &[u8]) {
        *(if is_mark(stored) { &mut self.marks } else { &mut self.items }) -= 1;
    }
}

impl SledShard {
    /// Shard `number` of `shards`; `counts` is what the tree holds of it.
    pub fn new(
        db: Weak<Db>,
        dir: PathBuf,
        (number, shards): (usize, u16),
        counts: Counts,
        flusher: Arc<Flusher>,
        damage: Arc<Damage>,
    ) -> SledShard {
        let (got, scratch) = (IVec::default(), Vec::new());
        SledShard { db, dir, number, shards, counts, ticket: 0, staged: false, got, scratch, flusher, damage }
    }

    /// The tree, as long as the store is open.
    fn open(&self) -> Result<Arc<Db>, StoreError> {
        let closed = || io_error("using", &self.dir, std::io::Error::other("the store is closed"));
        self.db.upgrade().ok_or_else(closed)
    }
}

impl Shard for SledShard {
    fn get(&mut self, dbkey: &[u8]) -> Result<Option<Record<'_>>, StoreError> {
        let db = self.open()?;
        match guarded("reading", &self.dir, || db.get(dbkey)) {
            Err(StoreError::Damaged { .. }) => Err(self.damage.report(dbkey)),
            Err(e) => Err(e),
            Ok(None) => Ok(None),
            Ok(Some(stored)) => {
                self.got = stored;
                decode(dbkey, &self.got).map(Some).ok_or_else(|| self.damage.report(dbkey))
            }
        }
    }

    fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError> {
        self.flusher.check()?;
        self.flusher.check_space()?;
        let db = self.open()?;
        encode(dbkey, record, &mut self.scratch);
        let old = guarded("writing", &self.dir, || db.insert(dbkey, self.scratch.as_slice()))?;
        self.counts.add(&self.scratch);
        if let Some(old) = old {
            self.counts.remove(&old);
        }
        self.staged = true;
        Ok(())
    }

    fn forget(&mut self, dbkey: &[u8], stamp: Stamp) -> Result<bool, StoreError> {
        self.flusher.check()?;
        if self.get(dbkey)?.is_none_or(|record| record.stamp() != stamp) {
            return Ok(false);
        }
        let db = self.open()?;
        if let Some(old) = guarded("removing from", &self.dir, || db.remove(dbkey))? {
            self.counts.remove(&old);
            self.staged = true;
        }
        Ok(true)
    }

    fn commit(&mut self) -> Result<Commit, StoreError> {
        self.flusher.check()?;
        if self.staged {
            self.ticket += 1;
            self.staged = false;
            self.flusher.want(self.number, self.ticket);
        } else if self.flusher.durable(self.number) >= self.ticket {
            return Ok(Commit::Done);
        }
        Ok(Commit::Pending(self.ticket))
    }

    fn survey(
        &mut self,
        from: u64,
        budget: usize,
        _whole: usize,
        wanted: &dyn Fn(u64) -> bool,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<Option<u64>, StoreError> {
        let db = self.open()?;
        let mut records = db.range(from.to_be_bytes()..);
        let (mut visited, mut passed_over, mut last) = (0, 0, None);
        while let Some((dbkey, stored)) = guarded("scanning", &self.dir, || records.next().transpose())? {
            let Some(hash) = dbkey_hash(&dbkey) else { continue };
            if usize::from(worker_of(hash, self.shards)) != self.number {
                continue;
            }
            let used = visited + passed_over / PASSED_OVER_PER_VISIT;
            if used >= budget.max(1) && last != Some(hash) {
                return Ok(Some(hash));
            }
            if !wanted(hash) {
                (passed_over, last) = (passed_over + 1, Some(hash));
                continue;
            }
            visit(&dbkey, decode(&dbkey, &stored).ok_or_else(|| self.damage.report(&dbkey)));
            visited += 1;
            last = Some(hash);
        }
        Ok(None)
    }

    fn items(&self) -> u64 {
        self.counts.items
    }

    fn marks(&self) -> u64 {
        self.counts.marks
    }
}
