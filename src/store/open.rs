//! Opening a store by the name of its engine.

use super::fs::RealDisk;
use super::log::{self, LogStore};
use super::sled::SledStore;
use super::{Store, StoreError};
use std::path::Path;
use std::sync::Arc;

/// Which engine keeps the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// [`super::log`]: append-only files, all keys in memory.
    Log,
    /// [`super::sled`], for key sets that outgrow memory.
    Sled,
}

/// Opens the store in `dir`, making it if there is none. `cache_bytes` is for sled alone; `None` leaves it to the engine.
///
/// # Errors
/// [`StoreError::Unusable`] when it is not a store, in use, or not to be read; the text says what to do.
pub fn open(
    engine: Engine,
    dir: &Path,
    shards: u16,
    sync: bool,
    cache_bytes: Option<u64>,
) -> Result<Arc<dyn Store>, StoreError> {
    match engine {
        Engine::Log => {
            let options = log::Options { shards, sync, ..log::Options::default() };
            Ok(Arc::new(LogStore::open(Arc::new(RealDisk), dir, options)?))
        }
        Engine::Sled => {
            let defaults = super::sled::Options::default();
            let options =
                super::sled::Options { sync, cache_bytes: cache_bytes.unwrap_or(defaults.cache_bytes), ..defaults };
            Ok(Arc::new(SledStore::open(dir, shards, options)?))
        }
    }
}
