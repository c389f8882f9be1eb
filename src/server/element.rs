//! The elements of a replace stream: `[dbkey, dbval]`, between ours `[dbkey, dbval, epoch]`, and `[since]`, which tells how far
//! back the sender vouches for what it remembers of the changes in the records behind it.
//!
//! A large value is written, and read, piece by piece, so that no step of either end takes long: whoever reads it has it in a
//! file of its own when the last piece has come.
//!
//! Source: doc/protocol.md, "The replace stream".

use super::copy::Target;
use super::shared::{Mail, Shared};
use crate::logic::clock::ClockTime;
use crate::logic::digest::{of_content, of_record};
use crate::logic::record::{Stamp, dbkey_hash, worker_of};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_raw, write_raw_head, write_uint};
use crate::proto::rpc::v1::write_entry;
use crate::store::staged::{HEAD_LEN, Large, Staged};
use crate::store::{LARGE_BYTES, Record, Shard, StoreError};
use std::io;
use tokio::sync::oneshot;

/// How a stream ends.
pub(super) const NIL: u8 = 0xc0;

/// What a scan comes upon.
pub(super) enum Met<'a> {
    /// A record of up to [`LARGE_BYTES`].
    Whole(Record<'a>),
    /// A larger one, which was not read.
    Large(Stamp, Large),
}

impl Met<'_> {
    pub fn stamp(&self) -> Stamp {
        match self {
            Met::Whole(record) => record.stamp(),
            Met::Large(stamp, _) => *stamp,
        }
    }

    pub fn epoch(&self) -> u64 {
        match self {
            Met::Whole(record) => record.epoch,
            Met::Large(stamp, _) => stamp.epoch,
        }
    }

    /// What [`of_record`] makes of it.
    pub fn digest(&self, seed: u64, dbkey: &[u8]) -> u64 {
        match self {
            Met::Whole(record) => of_record(seed, dbkey, record.epoch, record.dbval),
            Met::Large(stamp, value) => of_content(seed, dbkey, *stamp, value.crc32c()),
        }
    }
}

/// Goes through a shard as [`Shard::scan_some`] does, but reads no large record from end to end that this process has looked at before, and
/// goes no further than one of them: the first look takes some milliseconds. Damaged ones are left out, as far as that is seen.
///
/// # Errors
/// Those of the store.
pub(super) fn scan(
    shard: &mut dyn Shard,
    from: u64,
    budget: usize,
    wanted: &dyn Fn(u64) -> bool,
    visit: &mut dyn FnMut(&[u8], Met<'_>),
) -> Result<Option<u64>, StoreError> {
    let mut large = Vec::new();
    let mut end = None;
    let next = shard.survey(from, budget, LARGE_BYTES, wanted, &mut |dbkey, record| {
        let (Ok(record), Some(position)) = (record, dbkey_hash(dbkey)) else { return };
        if end.is_some_and(|end| position > end) {
            return;
        }
        if record.dbval.len() > LARGE_BYTES {
            end = Some(position);
            large.push(dbkey.to_vec());
        } else {
            visit(dbkey, Met::Whole(record));
        }
    })?;
    let next = end.map_or(next, |end| end.checked_add(1));
    for dbkey in large {
        if let Ok(Some((stamp, value))) = shard.large(&dbkey) {
            visit(&dbkey, Met::Large(stamp, value));
        }
    }
    Ok(next)
}

/// What stands before the records of a slice: `[since]`. A copied record does not tell the operations that it owes itself to;
/// nothing to a kumofs 0.4 server, which asks for none.
pub(super) fn opening(target: Target, since: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if target.1 != 0 {
        write_array(&mut out, 1);
        write_uint(&mut out, since);
    }
    out
}

/// Appends what stands before the bytes of a dbval of so many.
fn write_beginning(out: &mut Vec<u8>, dbkey: &[u8], val_len: usize, version0: bool) {
    write_array(out, if version0 { 2 } else { 3 });
    write_raw(out, dbkey);
    write_raw_head(out, val_len);
}

/// Appends what stands behind them.
fn write_end(out: &mut Vec<u8>, epoch: u64, version0: bool) {
    if !version0 {
        write_uint(out, epoch);
    }
}

/// Appends the element of a record.
pub(super) fn write_element(out: &mut Vec<u8>, dbkey: &[u8], record: Record<'_>, version0: bool) {
    write_beginning(out, dbkey, record.dbval.len(), version0);
    out.extend_from_slice(record.dbval);
    write_end(out, record.epoch, version0);
}

/// The element of a large record.
pub(super) struct LargeElement {
    /// What stands before the dbval's bytes.
    pub before: Vec<u8>,
    pub value: Large,
    /// What stands behind them.
    pub behind: Vec<u8>,
}

impl LargeElement {
    /// For a target, with its opening.
    pub fn new(target: Target, since: u64, dbkey: &[u8], epoch: u64, value: Large) -> LargeElement {
        let (mut before, mut behind) = (opening(target, since), Vec::new());
        write_beginning(&mut before, dbkey, value.val_len(), target.1 == 0);
        write_end(&mut behind, epoch, target.1 == 0);
        LargeElement { before, value, behind }
    }
}

/// A large record that is coming, or has come.
struct Coming {
    dbkey: Vec<u8>,
    hash: u64,
    has_epoch: bool,
    epoch: u64,
    staged: Staged,
}

/// Makes room for a large record of a worker's, whose dbkey and dbval have these lengths.
pub(super) type Stage<'s> = dyn Fn(u16, usize, usize) -> Result<Staged, StoreError> + 's;

/// What came in a stream.
pub(super) struct Elements {
    /// By worker: as in Replicate.
    entries: Vec<Vec<u8>>,
    coming: Option<Coming>,
    large: Vec<Coming>,
    /// The highest since-epoch of the sender's memory so far.
    since: u64,
    /// Records that have come.
    pub records: u64,
    /// The end has come.
    pub complete: bool,
}

impl Elements {
    /// None yet, for so many workers.
    pub fn new(workers: u16) -> Elements {
        let entries = vec![Vec::new(); usize::from(workers)];
        Elements { entries, coming: None, large: Vec::new(), since: 0, records: 0, complete: false }
    }

    fn worker_of(&self, hash: u64) -> u16 {
        worker_of(hash, self.entries.len() as u16)
    }

    /// Takes whole elements, and pieces of large ones, from the front of `bytes`; returns how many bytes they are.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn take(&mut self, bytes: &[u8], stage: &Stage<'_>) -> Result<usize, &'static str> {
        let mut used = 0;
        while !self.complete && used < bytes.len() {
            let rest = &bytes[used..];
            let taken = match self.coming.take() {
                Some(coming) => self.go_on(coming, rest)?,
                None => self.begin(rest, stage)?,
            };
            if taken == 0 {
                break;
            }
            used += taken;
        }
        Ok(used)
    }

    /// Takes what stands at the front, if that can be done by now: an element, or the beginning of a large one.
    fn begin(&mut self, bytes: &[u8], stage: &Stage<'_>) -> Result<usize, &'static str> {
        let mut r = Reader::new(bytes);
        if let Some((dbkey, len, has_epoch)) = large_at(&mut r) {
            let hash = dbkey_hash(dbkey).ok_or("an element is no record")?;
            let staged = stage(self.worker_of(hash), dbkey.len(), len).map_err(cannot_store)?;
            self.coming = Some(Coming { dbkey: dbkey.to_vec(), hash, has_epoch, epoch: 0, staged });
            return Ok(bytes.len() - r.rest().len());
        }
        let mut r = Reader::new(bytes);
        match r.skip() {
            Ok([NIL]) => self.complete = true,
            Ok(element) => self.take_element(element).map_err(|_| "an element is no record")?,
            Err(DecodeError::Incomplete) => return Ok(0),
            Err(DecodeError::Type) => return Err("what came is not MessagePack"),
        }
        Ok(bytes.len() - r.rest().len())
    }

    /// Takes more of a large element.
    fn go_on(&mut self, mut coming: Coming, bytes: &[u8]) -> Result<usize, &'static str> {
        let missing = coming.staged.val_len() - coming.staged.filled();
        let (piece, behind) = bytes.split_at(bytes.len().min(missing));
        coming.staged.append(piece).map_err(cannot_store)?;
        let mut r = Reader::new(behind);
        let epoch = match (piece.len() == missing, coming.has_epoch) {
            (false, _) => Err(DecodeError::Incomplete),
            (true, false) => Ok(0),
            (true, true) => r.u64(),
        };
        match epoch {
            Ok(epoch) => {
                self.large.push(Coming { epoch, ..coming });
                self.records += 1;
                Ok(bytes.len() - r.rest().len())
            }
            Err(DecodeError::Incomplete) => {
                self.coming = Some(coming);
                Ok(piece.len())
            }
            Err(DecodeError::Type) => Err("an element is no record"),
        }
    }

    fn take_element(&mut self, element: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(element);
        let len = r.array()?;
        if len == 1 {
            self.since = self.since.max(r.u64()?);
            return Ok(());
        }
        let (dbkey, dbval) = (r.raw()?, r.raw()?);
        let epoch = match len {
            2 => 0,
            3 => r.u64()?,
            _ => return Err(DecodeError::Type),
        };
        let hash = dbkey_hash(dbkey).ok_or(DecodeError::Type)?;
        let worker = usize::from(self.worker_of(hash));
        write_entry(&mut self.entries[worker], dbkey, epoch, dbval, &[]);
        self.records += 1;
        Ok(())
    }

    /// Has the workers store what has come to more than `above` bytes, and large records that have come. `time` names the replace that
    /// it is for.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn store(&mut self, above: usize, shared: &Shared, time: Option<ClockTime>) -> io::Result<()> {
        let since = self.since;
        for (worker, entries) in self.entries.iter_mut().enumerate().filter(|(_, entries)| entries.len() > above) {
            let entries = std::mem::take(entries);
            stored(|done| shared.tell(worker, Mail::Apply { entries, time, since, done })).await?;
        }
        for Coming { dbkey, hash, epoch, staged, .. } in std::mem::take(&mut self.large) {
            let worker = usize::from(self.worker_of(hash));
            stored(|done| shared.tell(worker, Mail::ApplyLarge { dbkey, epoch, staged, time, since, done })).await?;
        }
        Ok(())
    }
}

/// Waits until a worker has stored what it was told to.
async fn stored(tell: impl FnOnce(oneshot::Sender<()>)) -> io::Result<()> {
    let (done, stored) = oneshot::channel();
    tell(done);
    stored.await.map_err(|_| io::Error::other("it was not stored"))
}

/// The dbkey of a large element, the length of its dbval, and whether an epoch stands behind that: if one begins here, and that much
/// of it has come.
fn large_at<'a>(r: &mut Reader<'a>) -> Option<(&'a [u8], usize, bool)> {
    let has_epoch = match r.array().ok()? {
        2 => false,
        3 => true,
        _ => return None,
    };
    let dbkey = r.raw().ok()?;
    match r.head().ok()? {
        Head::Raw(len) if len > LARGE_BYTES.max(HEAD_LEN) => Some((dbkey, len, has_epoch)),
        _ => None,
    }
}

fn cannot_store(e: StoreError) -> &'static str {
    tracing::error!("cannot store what was copied here: {e}");
    "it cannot be stored"
}

#[cfg(test)]
mod tests;
