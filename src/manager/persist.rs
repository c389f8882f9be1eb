//! The state file: this manager's id and the newest epoch, so that a restart knows what was decided.
//!
//! Bytes: `KUMOMGR` and the version 1, CRC-32C of the rest (little-endian), then MessagePack `[disk id, epoch]` with the
//! epoch as bytes. It is replaced as a whole: written beside, synced, renamed, and the directory synced. A
//! lock file beside it keeps a second manager off.

use crate::logic::epoch::{Epoch, EpochError, MAX_ENCODED_LEN};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_raw, write_uint};
use crate::store::fs::{Disk, Lock, read_small, write_whole};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KUMOMGR\x01";

/// Longest state file that is read.
const MAX_LEN: usize = MAX_ENCODED_LEN + 64;

/// Why the state file is of no use; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The system refuses.
    #[error("cannot {verb} the state file {path}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no state file, or was damaged.
    #[error("{path} is not a sound manager state file ({why}): restore it, or move it away to learn from the servers")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another manager runs on it.
    #[error("the state file {0} is in use: another kumo-manager runs on it; give this one its own")]
    Locked(PathBuf),
}

/// An open state file. The lock lasts as long as this.
pub struct StateFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    disk_id: u64,
    _lock: Box<dyn Lock>,
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateFile({})", self.path.display())
    }
}

impl StateFile {
    /// Opens the file and returns the epoch in it, if it has one; a file that is not there yet is made, with
    /// `fresh_disk_id`. Blocks.
    ///
    /// # Errors
    /// When it is locked, damaged, or the system refuses.
    pub fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        fresh_disk_id: u64,
    ) -> Result<(StateFile, Option<Epoch>), PersistError> {
        let io = |verb| move |source| PersistError::Io { verb, path: path.to_owned(), source };
        let lock = disk.lock(&beside(path, ".lock")).map_err(io("lock"))?;
        let lock = lock.ok_or_else(|| PersistError::Locked(path.to_owned()))?;
        let mut file = StateFile { disk: disk.clone(), path: path.to_owned(), disk_id: fresh_disk_id, _lock: lock };
        match read_small(disk.as_ref(), path, MAX_LEN + 1) {
            Ok(bytes) if bytes.len() > MAX_LEN => Err(file.damaged("it is too long")),
            Ok(bytes) => {
                let (disk_id, epoch) = decode(&bytes).map_err(|why| file.damaged(&why))?;
                file.disk_id = disk_id;
                Ok((file, epoch))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                file.write(&[])?;
                Ok((file, None))
            }
            Err(e) => Err(io("read")(e)),
        }
    }

    /// The random number of this file.
    pub fn disk_id(&self) -> u64 {
        self.disk_id
    }

    /// Replaces what is kept. When this returns, the epoch survives a power cut. Blocks.
    ///
    /// # Errors
    /// When the system refuses; the former epoch is kept then.
    pub fn save(&self, epoch: &Epoch) -> Result<(), PersistError> {
        self.write(&epoch.encode())
    }

    fn write(&self, epoch: &[u8]) -> Result<(), PersistError> {
        let written = write_whole(self.disk.as_ref(), &self.path, &encode(self.disk_id, epoch));
        written.map_err(|source| PersistError::Io { verb: "write", path: self.path.clone(), source })
    }

    fn damaged(&self, why: &str) -> PersistError {
        PersistError::Damaged { path: self.path.clone(), why: why.to_owned() }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn encode(disk_id: u64, epoch: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(epoch.len() + 16);
    write_array(&mut body, 2);
    write_uint(&mut body, disk_id);
    write_raw(&mut body, epoch);
    [&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Result<(u64, Option<Epoch>), String> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short")?;
    if magic != MAGIC {
        return Err("it begins otherwise".to_owned());
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err("its checksum is wrong".to_owned());
    }
    let read = || -> Result<(u64, &[u8]), DecodeError> {
        let mut r = Reader::new(body);
        r.array_of(2)?;
        Ok((r.u64()?, r.raw()?))
    };
    let (disk_id, epoch) = read().map_err(|e| e.to_string())?;
    let epoch = if epoch.is_empty() { None } else { Some(Epoch::decode(epoch)) };
    let epoch = epoch.transpose().map_err(|e: EpochError| e.to_string())?;
    Ok((disk_id, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fs::RealDisk;

    fn open(path: &Path, fresh_disk_id: u64) -> Result<(StateFile, Option<Epoch>), PersistError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        StateFile::open(&disk, path, fresh_disk_id)
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, cluster: 5, ..Epoch::default() }
    }

    #[test]
    fn what_was_saved_last_is_found_again_with_the_first_disk_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (file, found) = open(&path, 77).unwrap();
        assert_eq!((file.disk_id(), found), (77, None));
        file.save(&epoch(1)).unwrap();
        file.save(&epoch(2)).unwrap();
        drop(file);
        let (file, found) = open(&path, 88).unwrap();
        assert_eq!((file.disk_id(), found), (77, Some(epoch(2))));
    }

    #[test]
    fn the_golden_file_is_written_so() {
        let bytes = encode(7, b"");
        assert_eq!(bytes, b"KUMOMGR\x01\x5d\x87\xa8\x0c\x92\x07\xa0", "{bytes:02x?}");
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_found() {
        let sound = encode(7, &epoch(3).encode());
        assert_eq!(decode(&sound).unwrap(), (7, Some(epoch(3))));
        for at in 0..sound.len() {
            assert!(decode(&sound[..at]).is_err(), "cut at {at}");
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_second_manager_is_kept_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = open(&path, 1).unwrap();
        let second = open(&path, 2).unwrap_err();
        assert!(matches!(second, PersistError::Locked(_)), "{second}");
        drop(first);
        open(&path, 2).unwrap();
    }

    #[test]
    fn troubles_are_told_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(&path, b"something else").unwrap();
        let damaged = open(&path, 1).unwrap_err().to_string();
        assert!(damaged.contains("move it away") && !damaged.contains('\n'), "{damaged}");
        let nowhere = open(&dir.path().join("no/such"), 1).unwrap_err().to_string();
        assert!(nowhere.contains("cannot lock"), "{nowhere}");
    }
}
