//! Records that come out of a backup, and what their stamps are worth in the cluster that takes them in.
//!
//! A stamp begins with an epoch of the cluster that gave it. The cluster that is started on backups numbers its epochs
//! from 1: records stamped by the old one would be newer than what is stored over them, and no flush would concern them;
//! and what the old one had flushed, and not yet collected, would be there again. So a backup has beside its records the
//! epoch in which it was made, and before a server takes part with it, it gives every record the epoch 0, which is older
//! than all, and drops what was flushed ([`settle`]).

use super::fs::{Disk, load_checked, save_checked};
use super::{Commit, Record, Shard, Store, StoreError, Ticket};
use crate::logic::epoch::{Epoch, MAX_ENCODED_LEN};
use crate::logic::record::Stamp;
use std::io;
use std::path::Path;

/// The file beside the records of a backup: as the one that holds a server's epoch.
pub const BACKUP_EPOCH_FILE: &str = "backup-epoch";
/// The file beside the records that holds the newest epoch of the server that they belong to.
pub const EPOCH_FILE: &str = "epoch";

/// Records looked at in one go.
const SLICE: usize = 256;
/// Bytes written before they are committed.
const COMMIT_BYTES: usize = 4 << 20;

/// Keeps beside a backup's records the epoch in which it was made.
///
/// # Errors
/// Those of the file system.
pub fn save(disk: &dyn Disk, dir: &Path, epoch: &Epoch) -> io::Result<()> {
    save_checked(disk, &dir.join(BACKUP_EPOCH_FILE), &epoch.encode())
}

/// The epoch that is beside records in a file of that name, if there is one.
///
/// # Errors
/// When it cannot be read; one of kind `InvalidData` when it is damaged.
pub fn load(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Epoch>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let text = match load_checked(disk, &dir.join(name), MAX_ENCODED_LEN) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        read => read?.ok_or_else(damaged)?,
    };
    Epoch::decode(&text).map(Some).map_err(|_| damaged())
}

/// What became of restored records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// So many have the epoch 0 now.
    pub taken: u64,
    /// So many had been flushed, and were dropped.
    pub dropped: u64,
}

/// Gives the records of a shard the epoch 0, and drops those that were flushed before the backup was made. What was done
/// in part is gone on with when it is called again. Returns the last ticket to wait for, too.
///
/// # Errors
/// Those of the store. Damaged records are left as they are.
pub fn settle(shard: &mut dyn Shard, flushed: u64) -> Result<(Settled, Ticket), StoreError> {
    let (mut settled, mut ticket, mut staged) = (Settled::default(), 0, 0);
    let mut commit = |shard: &mut dyn Shard| {
        if let Commit::Pending(pending) = shard.commit()? {
            ticket = pending;
        }
        Ok::<(), StoreError>(())
    };
    let mut from = Some(0);
    let mut dbval = Vec::new();
    while let Some(at) = from {
        let mut stamped: Vec<(Vec<u8>, Stamp)> = Vec::new();
        from = shard.scan(at, SLICE, &mut |dbkey, record| {
            if let Ok(record) = record
                && record.epoch > 0
            {
                stamped.push((dbkey.to_vec(), record.stamp()));
            }
        })?;
        for (dbkey, stamp) in stamped {
            if stamp.epoch < flushed {
                settled.dropped += u64::from(shard.forget(&dbkey, stamp)?);
                continue;
            }
            let Ok(Some(record)) = shard.get(&dbkey) else { continue };
            dbval.clear();
            dbval.extend_from_slice(record.dbval);
            shard.put(&dbkey, Record { epoch: 0, dbval: &dbval })?;
            settled.taken += 1;
            staged += dbval.len();
            if staged >= COMMIT_BYTES {
                staged = 0;
                commit(shard)?;
            }
        }
        commit(shard)?;
    }
    Ok((settled, ticket))
}

/// Says that the records are settled.
///
/// # Errors
/// Those of the file system.
pub fn forget(store: &dyn Store) -> io::Result<()> {
    store.disk().remove(&store.dir().join(BACKUP_EPOCH_FILE))?;
    store.disk().sync_dir(store.dir())
}

#[cfg(test)]
mod tests;
