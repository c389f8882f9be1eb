//! What can be merged: directories of both engines, and files of kumofs 0.4. A look at it tells which.

use super::Heed;
use crate::store::fs::{RealDisk, store_error};
use crate::store::identity::IDENTITY_FILE;
use crate::store::log::increment::MANIFEST;
use crate::store::log::read;
use crate::store::sled::{self, outside};
use crate::store::{StoreError, tokyo};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

/// A database that is read.
pub enum Source {
    /// A directory of the engine `log`.
    Log(read::Reading),
    /// A directory of the engine `sled`.
    Sled(outside::Reading),
    /// A Tokyo Cabinet hash database of kumofs 0.4.
    Tokyo(tokyo::Reading),
}

impl Source {
    /// Begins to read what is at `path`.
    pub fn open(path: &Path) -> Result<Source, StoreError> {
        let foreign = || StoreError::Unusable(format!("{} is not a kumofs database", path.display()));
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => StoreError::Unusable(format!("{} does not exist", path.display())),
            _ => store_error("cannot read", path, e),
        };
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            if path.join(MANIFEST).exists() {
                return read::Reading::open(Arc::new(RealDisk), path).map(Source::Log);
            }
            let identity = begin(&path.join(IDENTITY_FILE), 64).map_err(|_| foreign())?;
            let engine = identity.split(u8::is_ascii_whitespace).nth(1);
            return if !identity.starts_with(b"kumofs ") {
                Err(foreign())
            } else if engine == Some(sled::ENGINE.as_bytes()) {
                outside::Reading::open(path).map(Source::Sled)
            } else {
                // It tells what is wrong with an identity that is damaged, or newer.
                read::Reading::open(Arc::new(RealDisk), path).map(Source::Log)
            };
        }
        match begin(path, tokyo::MAGIC.len() as u64).map_err(failed)? == tokyo::MAGIC {
            true => tokyo::Reading::open(path).map(Source::Tokyo),
            false => Err(foreign()),
        }
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Log(_) => "log",
            Source::Sled(_) => sled::ENGINE,
            Source::Tokyo(_) => "tch",
        }
    }

    /// How many bytes there are to read.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::Log(source) => source.bytes(),
            Source::Sled(source) => source.bytes(),
            Source::Tokyo(source) => source.bytes(),
        }
    }

    /// Passes on all that is in it.
    pub fn read(&self, heed: &mut dyn Heed) -> Result<(), StoreError> {
        match self {
            Source::Log(source) => source.read(heed),
            Source::Sled(source) => source.read(heed),
            Source::Tokyo(source) => source.read(heed),
        }
    }
}

fn begin(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
