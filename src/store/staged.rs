//! Large values: they come in pieces, and are told in pieces, so that no step takes long.
//!
//! A [`Staged`] takes the pieces of one dbval in their order. [`Shard::put_staged`] makes a record of
//! it, in a moment; dropped before, it leaves nothing. What it put is at hand as a [`Large`] for those that have to send it on.

use super::log::large::{StagedFile, StoredFile};
use super::{Record, Shard, StoreError};
use crate::logic::clock::ClockTime;
use std::sync::Arc;

/// Bytes of the beginning of a dbval that are at hand before all of it is stored: more than the longest header.
pub const HEAD_LEN: usize = 64;

/// The dbval of a record to be, as far as it has come.
pub struct Staged(Place);

enum Place {
    /// Of engines that have no better place.
    Memory {
        bytes: Vec<u8>,
        len: usize,
    },
    File(Box<StagedFile>),
}

impl Staged {
    /// A dbval of `len` bytes that is kept in memory.
    pub fn in_memory(len: usize) -> Staged {
        Staged(Place::Memory { bytes: Vec::new(), len })
    }

    /// One that is kept in a file of the log engine.
    pub(super) fn in_file(file: StagedFile) -> Staged {
        Staged(Place::File(Box::new(file)))
    }

    /// Adds bytes behind those that are there; what is beyond its length is left out.
    ///
    /// # Errors
    /// Those of the disk. Then it is of no use any more.
    pub fn append(&mut self, more: &[u8]) -> Result<(), StoreError> {
        match &mut self.0 {
            Place::Memory { bytes, len } => {
                bytes.extend_from_slice(&more[..more.len().min(*len - bytes.len())]);
                Ok(())
            }
            Place::File(file) => file.append(more),
        }
    }

    /// How many bytes it will have.
    pub fn val_len(&self) -> usize {
        match &self.0 {
            Place::Memory { len, .. } => *len,
            Place::File(file) => file.val_len(),
        }
    }

    /// How many bytes it has.
    pub fn filled(&self) -> usize {
        match &self.0 {
            Place::Memory { bytes, .. } => bytes.len(),
            Place::File(file) => file.filled(),
        }
    }

    /// Its first [`HEAD_LEN`] bytes, as far as they have come.
    pub fn head(&self) -> &[u8] {
        match &self.0 {
            Place::Memory { bytes, .. } => &bytes[..bytes.len().min(HEAD_LEN)],
            Place::File(file) => file.head(),
        }
    }

    /// The whole dbval with this version, where it is in memory; else the file.
    pub(crate) fn finish(self, version: ClockTime) -> Result<Vec<u8>, Box<StagedFile>> {
        match self.0 {
            Place::Memory { mut bytes, .. } => {
                bytes[..8].copy_from_slice(&version.0.to_be_bytes());
                Ok(bytes)
            }
            Place::File(file) => Err(file),
        }
    }
}

/// Stores a dbval that was gathered in memory, as any other record.
pub(super) fn put_gathered<S: Shard + ?Sized>(
    shard: &mut S,
    dbkey: &[u8],
    epoch: u64,
    dbval: Vec<u8>,
) -> Result<Large, StoreError> {
    shard.put(dbkey, Record { epoch, dbval: &dbval })?;
    Ok(Large::in_memory(dbval))
}

/// A dbval that is stored, to be told piece by piece. It stays readable when the record is replaced.
#[derive(Clone)]
pub struct Large(Kept);

#[derive(Clone)]
enum Kept {
    Memory(Arc<Vec<u8>>),
    File(Arc<StoredFile>),
}

impl Large {
    /// One that is kept in memory.
    pub fn in_memory(dbval: Vec<u8>) -> Large {
        Large(Kept::Memory(Arc::new(dbval)))
    }

    /// One in a file of the log engine.
    pub(super) fn in_file(file: StoredFile) -> Large {
        Large(Kept::File(Arc::new(file)))
    }

    /// Its length in bytes.
    pub fn val_len(&self) -> usize {
        match &self.0 {
            Kept::Memory(bytes) => bytes.len(),
            Kept::File(file) => file.val_len(),
        }
    }

    /// Its CRC-32C, as it was when it was stored or last read from end to end.
    pub fn crc32c(&self) -> u32 {
        match &self.0 {
            Kept::Memory(bytes) => crc32c::crc32c(bytes),
            Kept::File(file) => file.crc32c(),
        }
    }

    /// Appends `len` of its bytes, from `from` on, to `out`; false, and nothing appended, when they are not all there or
    /// damaged.
    pub fn append_to(&self, from: usize, len: usize, out: &mut Vec<u8>) -> bool {
        match &self.0 {
            Kept::Memory(bytes) => match bytes.get(from..from.saturating_add(len)) {
                Some(piece) => {
                    out.extend_from_slice(piece);
                    true
                }
                None => false,
            },
            Kept::File(file) => file.append_to(from, len, out),
        }
    }
}
