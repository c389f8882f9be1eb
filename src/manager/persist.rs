//! The state file: this manager's id, the newest epoch, and its vote on the next one, so that a restart knows what was
//! decided and keeps what was promised.
//!
//! Bytes: `KUMOMGR` and the version 2, CRC-32C of the rest (little-endian), then MessagePack `[disk id, epoch, vote]`
//! with the epoch as bytes and the vote as [`crate::proto::rpc::vote`] has it. Version 1, which is still read, had
//! `[disk id, epoch]`. It is replaced as a whole: written beside, synced, renamed, and the directory synced. A
//! lock file beside it keeps a second manager off.

use crate::logic::epoch::{Epoch, EpochError, MAX_ENCODED_LEN};
use crate::logic::paxos::Vote;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::vote::{read_vote, write_vote};
use crate::store::fs::{Disk, Lock, read_small, write_whole};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KUMOMGR\x02";
const MAGIC_1: &[u8; 8] = b"KUMOMGR\x01";

/// Longest state file that is read: the epoch, and the one that was accepted.
const MAX_LEN: usize = 2 * MAX_ENCODED_LEN + 256;

/// What a manager remembers over a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// The newest epoch that it knows.
    pub epoch: Option<Epoch>,
    /// Its vote on the next one.
    pub vote: Vote,
}

/// Why the state file is of no use; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The system refuses.
    #[error("cannot {verb} the state file {path}: {source}; --state names another place")]
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
    /// Opens the file and returns what is in it; a file that is not there yet is made, with `fresh_disk_id`. Blocks.
    ///
    /// # Errors
    /// When it is locked, damaged, or the system refuses.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path, fresh_disk_id: u64) -> Result<(StateFile, Kept), PersistError> {
        let io = |verb| move |source| PersistError::Io { verb, path: path.to_owned(), source };
        let lock = disk.lock(&beside(path, ".lock")).map_err(io("lock"))?;
        let lock = lock.ok_or_else(|| PersistError::Locked(path.to_owned()))?;
        let mut file = StateFile { disk: disk.clone(), path: path.to_owned(), disk_id: fresh_disk_id, _lock: lock };
        match read_small(disk.as_ref(), path, MAX_LEN + 1) {
            Ok(bytes) if bytes.len() > MAX_LEN => Err(file.damaged("it is too long")),
            Ok(bytes) => {
                let (disk_id, kept) = decode(&bytes).map_err(|why| file.damaged(&why))?;
                file.disk_id = disk_id;
                Ok((file, kept))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                file.write(&[], &Vote::default())?;
                Ok((file, Kept::default()))
            }
            Err(e) => Err(io("read")(e)),
        }
    }

    /// The random number of this file.
    pub fn disk_id(&self) -> u64 {
        self.disk_id
    }

    /// Replaces what is kept. When this returns, epoch and vote survive a power cut. Blocks.
    ///
    /// # Errors
    /// When the system refuses; what was kept before is there still.
    pub fn save(&self, epoch: &Epoch, vote: &Vote) -> Result<(), PersistError> {
        if epoch.number == 0 { self.write(&[], vote) } else { self.write(&epoch.encode(), vote) }
    }

    fn write(&self, epoch: &[u8], vote: &Vote) -> Result<(), PersistError> {
        let written = write_whole(self.disk.as_ref(), &self.path, &encode(self.disk_id, epoch, vote));
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

fn encode(disk_id: u64, epoch: &[u8], vote: &Vote) -> Vec<u8> {
    let mut body = Vec::with_capacity(epoch.len() + 32);
    write_array(&mut body, 3);
    write_uint(&mut body, disk_id);
    write_raw(&mut body, epoch);
    write_vote(&mut body, vote);
    [&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Result<(u64, Kept), String> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short")?;
    let version1 = magic == MAGIC_1;
    if magic != MAGIC && !version1 {
        return Err("it begins otherwise".to_owned());
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err("its checksum is wrong".to_owned());
    }
    let read = || -> Result<(u64, &[u8], Vote), DecodeError> {
        let mut r = Reader::new(body);
        r.array_of(if version1 { 2 } else { 3 })?;
        Ok((r.u64()?, r.raw()?, if version1 { Vote::default() } else { read_vote(&mut r)? }))
    };
    let (disk_id, epoch, vote) = read().map_err(|e| e.to_string())?;
    let epoch = if epoch.is_empty() { None } else { Some(Epoch::decode(epoch)) };
    let epoch = epoch.transpose().map_err(|e: EpochError| e.to_string())?;
    Ok((disk_id, Kept { epoch, vote }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::address::Address;
    use crate::logic::paxos::{Ballot, Voter};
    use crate::store::fs::RealDisk;

    fn open(path: &Path, fresh_disk_id: u64) -> Result<(StateFile, Kept), PersistError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        StateFile::open(&disk, path, fresh_disk_id)
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, cluster: 5, ..Epoch::default() }
    }

    fn vote(number: u64) -> Vote {
        let address = Address::new("10.0.0.1:19700".parse().unwrap());
        let ballot = Ballot { round: 1, proposer: Voter { address, disk_id: 9 } };
        Vote { number, promised: Some(ballot), accepted: Some((ballot, b"text".to_vec())) }
    }

    #[test]
    fn what_was_saved_last_is_found_again_with_the_first_disk_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (file, found) = open(&path, 77).unwrap();
        assert_eq!((file.disk_id(), found), (77, Kept::default()));
        file.save(&Epoch::default(), &vote(1)).unwrap();
        drop(file);
        let (file, found) = open(&path, 88).unwrap();
        assert_eq!((file.disk_id(), found), (77, Kept { epoch: None, vote: vote(1) }));
        file.save(&epoch(1), &Vote::default()).unwrap();
        file.save(&epoch(2), &vote(3)).unwrap();
        drop(file);
        let (file, found) = open(&path, 88).unwrap();
        assert_eq!((file.disk_id(), found), (77, Kept { epoch: Some(epoch(2)), vote: vote(3) }));
    }

    #[test]
    fn the_golden_file_is_written_so_and_the_former_one_is_read() {
        let bytes = encode(7, b"", &Vote::default());
        assert_eq!(bytes, b"KUMOMGR\x02\xc3\x9c\xf2\x87\x93\x07\xa0\x93\x00\xc0\xc0", "{bytes:02x?}");
        let former = b"KUMOMGR\x01\x5d\x87\xa8\x0c\x92\x07\xa0";
        assert_eq!(decode(former).unwrap(), (7, Kept::default()));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_found() {
        let sound = encode(7, &epoch(3).encode(), &vote(4));
        assert_eq!(decode(&sound).unwrap(), (7, Kept { epoch: Some(epoch(3)), vote: vote(4) }));
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
