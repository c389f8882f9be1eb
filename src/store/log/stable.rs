//! How far each shard's records are known to be on all servers that are to have them, across deaths of the process.
//!
//! A server that dies forgets which of its records others may lack. What lies behind the positions in this file it looks
//! through when it starts again, and reports as it would have done (doc/guarantees.md, "Takeover"). Format: doc/format.md,
//! "Stable". A position that is too low costs a longer report; one that is too high would hide a record, so that none is
//! written before the records are everywhere. Each shard has two slots, of which a loss of power may tear the one that is
//! written: the other is on the disk, and tells less. A file that is missing or damaged is taken for one that hides nothing: a
//! store of an earlier version.

use crate::store::StoreError;
use crate::store::fs::{Disk, File, partial_name, read_small, store_error, write_all};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The file's name.
pub const STABLE: &str = "stable";
const MAGIC: &[u8; 8] = b"kumostb\n";
const VERSION: u16 = 2;
const HEAD_LEN: usize = 16;
const SLOT_LEN: usize = 16;
/// Slots of a shard.
const SLOTS: usize = 2;

/// What a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Positions(Vec<u64>);

impl Positions {
    /// Of a store whose records, up to these numbers, are everywhere; a number for each shard.
    pub fn new(positions: Vec<u64>) -> Positions {
        Positions(positions)
    }

    /// For a store that is opened with `shards` shards.
    pub fn for_shards(&self, shards: u16) -> Positions {
        if self.0.len() == usize::from(shards) {
            return self.clone();
        }
        Positions(vec![self.least(); usize::from(shards)])
    }

    fn least(&self) -> u64 {
        self.0.iter().copied().min().unwrap_or(0)
    }

    /// Whether the record numbered `lsn` of a segment of `shard` out of `shards` is known to be everywhere. All shards of a
    /// store that is opened number on from the highest number of all.
    pub fn cover(&self, shards: u16, shard: u16, lsn: u64) -> bool {
        let same = self.0.len() == usize::from(shards);
        let position = if same { self.0.get(usize::from(shard)).copied() } else { None };
        lsn < position.unwrap_or_else(|| self.least())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.0.len() as u16).to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        for (shard, position) in self.0.iter().enumerate() {
            (0..SLOTS).for_each(|_| out.extend(slot(shard as u16, *position)));
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Positions> {
        let (head, slots) = bytes.split_at_checked(HEAD_LEN)?;
        let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let sound = head[..8] == MAGIC[..] && head[12..] == crc32c::crc32c(&head[..12]).to_le_bytes();
        if !sound || number(8) != VERSION || slots.len() != usize::from(number(10)) * SLOTS * SLOT_LEN {
            return None;
        }
        // What either slot says was true when it was written.
        let positions = slots.chunks_exact(SLOTS * SLOT_LEN).enumerate().map(|(shard, slots)| {
            let told = slots.chunks_exact(SLOT_LEN).filter_map(|bytes| {
                let position = u64::from_le_bytes(*bytes.first_chunk()?);
                (slot(shard as u16, position) == bytes).then_some(position)
            });
            told.max()
        });
        positions.collect::<Option<Vec<u64>>>().map(Positions)
    }
}

fn slot(shard: u16, position: u64) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&position.to_le_bytes());
    slot[8..10].copy_from_slice(&shard.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..12]);
    slot[12..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// Reads what the last process left; `None` when that tells nothing.
pub fn read(disk: &dyn Disk, dir: &Path) -> Option<Positions> {
    let limit = HEAD_LEN + SLOT_LEN * usize::from(u16::MAX);
    Positions::decode(&read_small(disk, &dir.join(STABLE), limit).ok()?)
}

/// The file of an open store.
pub struct Stable {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    positions: Positions,
    /// `None` until it could be written.
    file: Option<Arc<dyn File>>,
    /// For each shard, the slot that is written: the other is on the disk.
    written: Vec<usize>,
    /// For each shard, how often that slot was written since it was the other; 0: it is on the disk.
    unsynced: Vec<u64>,
}

impl Stable {
    /// Goes on from `positions`. Where the disk has no room for them, the earlier file stays, and tells less.
    pub fn begin(disk: &dyn Disk, dir: &Path, positions: Positions) -> Result<Stable, StoreError> {
        let path = dir.join(STABLE);
        let file = match write_anew(disk, &path, &positions) {
            Ok(file) => Some(file),
            Err(e) => match store_error("cannot write", &path, e) {
                StoreError::Full(_) => None,
                e => return Err(e),
            },
        };
        let shards = positions.0.len();
        let state = State { positions, file, written: vec![0; shards], unsynced: vec![0; shards] };
        Ok(Stable { path, state: Mutex::new(state) })
    }

    fn held(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this")
    }

    /// Makes durable what was noted. What is noted meanwhile waits for the next time.
    pub fn sync(&self) -> io::Result<()> {
        let (file, before) = {
            let state = self.held();
            match &state.file {
                Some(file) if state.unsynced.iter().any(|n| *n > 0) => (file.clone(), state.unsynced.clone()),
                _ => return Ok(()),
            }
        };
        file.sync()?;
        let state = &mut *self.held();
        for (shard, before) in before.into_iter().enumerate().filter(|(_, before)| *before > 0) {
            if state.unsynced[shard] == before {
                state.unsynced[shard] = 0;
                state.written[shard] = (state.written[shard] + 1) % SLOTS;
            }
        }
        Ok(())
    }

    /// Notes that the records of a shard before `position` are everywhere.
    pub fn note(&self, disk: &dyn Disk, shard: u16, position: u64) -> io::Result<()> {
        let state = &mut *self.held();
        let number = usize::from(shard);
        match state.positions.0.get_mut(number) {
            Some(known) if *known < position => *known = position,
            _ => return Ok(()),
        }
        match &state.file {
            Some(file) => {
                let at = HEAD_LEN + SLOT_LEN * (SLOTS * number + state.written[number]);
                state.unsynced[number] += 1;
                write_all(file.as_ref(), &slot(shard, position), at as u64)
            }
            None => {
                state.file = Some(write_anew(disk, &self.path, &state.positions)?);
                Ok(())
            }
        }
    }
}

/// Makes the file, and keeps it open to be written.
fn write_anew(disk: &dyn Disk, path: &Path, positions: &Positions) -> io::Result<Arc<dyn File>> {
    let partial = partial_name(path);
    match disk.remove(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&partial)?;
    write_all(file.as_ref(), &positions.encode(), 0)?;
    file.sync()?;
    disk.rename(&partial, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fs::RealDisk;

    #[test]
    fn what_is_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&RealDisk, dir.path()), None);
        let stable = Stable::begin(&RealDisk, dir.path(), Positions::new(vec![5, 5])).unwrap();
        stable.note(&RealDisk, 1, 9).unwrap();
        stable.note(&RealDisk, 1, 7).unwrap();
        stable.note(&RealDisk, 2, 7).unwrap();
        assert_eq!(read(&RealDisk, dir.path()), Some(Positions::new(vec![5, 9])));
        let path = dir.path().join(STABLE);
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 16;
            std::fs::write(&path, &bytes).unwrap();
            // A slot that is damaged leaves the other, which tells less.
            let second_of_1 = HEAD_LEN + 3 * SLOT_LEN;
            let expected = match at {
                _ if at < HEAD_LEN => None,
                _ if (HEAD_LEN + 2 * SLOT_LEN..second_of_1).contains(&at) => Some(vec![5, 5]),
                _ => Some(vec![5, 9]),
            };
            assert_eq!(read(&RealDisk, dir.path()), expected.map(Positions::new), "byte {at}");
            std::fs::write(&path, &sound[..at]).unwrap();
            assert_eq!(read(&RealDisk, dir.path()), None, "cut at {at}");
        }
    }

    #[test]
    fn another_number_of_shards_is_told_by_the_least() {
        let positions = Positions::new(vec![5, 9]);
        assert!(positions.cover(2, 1, 8) && !positions.cover(2, 1, 9) && !positions.cover(2, 0, 8));
        assert!(positions.cover(3, 1, 4) && !positions.cover(3, 1, 5));
        assert_eq!(positions.for_shards(3), Positions::new(vec![5, 5, 5]));
        assert_eq!(positions.for_shards(2), positions);
    }
}
