//! Reading a tree, or writing a new one, from end to end, without serving: for merges.

use super::horizon::Horizon;
use super::{ENGINE, NEW_TREE_DIR, TREE_DIR, for_each_file, guarded, io_error, open_tree, sync_tree};
use super::{record, remove_unfinished_snapshots};
use crate::store::identity::{Directory, write_copy_identity};
use crate::store::log::format::{Draft, Kind};
use crate::store::merge::Heed;
use crate::store::{Record, StoreError};
use std::fs;
use std::path::{Path, PathBuf};

/// Cache of a tree that is read or written in order: little of it is needed again.
const CACHE_BYTES: u64 = 32 << 20;

/// A directory that is read. sled brings a tree in order when it opens it, so that it must be writable.
pub struct Reading {
    directory: Directory,
    bytes: u64,
}

impl Reading {
    /// Begins to read `dir`, which holds an identity. [`StoreError::Unusable`] when it is not sled's, or in use.
    pub fn open(dir: &Path) -> Result<Reading, StoreError> {
        let directory = Directory::open(dir, ENGINE)?;
        let tree = dir.join(TREE_DIR);
        let mut bytes = 0;
        if tree.is_dir() {
            remove_unfinished_snapshots(&tree).map_err(|e| io_error("clearing up", &tree, e))?;
            for_each_file(&tree, &mut |_, meta| {
                bytes += meta.len();
                Ok(())
            })?;
        }
        Ok(Reading { directory, bytes })
    }

    /// How long its files are together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Passes on all records.
    pub fn read(&self, heed: &mut dyn Heed) -> Result<(), StoreError> {
        let dir = self.directory.path();
        let tree = dir.join(TREE_DIR);
        if !tree.is_dir() {
            return Ok(());
        }
        let db = open_tree(&tree, CACHE_BYTES)?;
        let (_, lost) = Horizon::open(&db, dir)?;
        lost.into_iter().for_each(|line| heed.damaged(line));
        let mut records = db.iter();
        while let Some((dbkey, stored)) = guarded("reading", &tree, || records.next().transpose())? {
            match record::decode(&dbkey, &stored) {
                Some(Record { epoch, dbval }) => {
                    heed.record(Draft { kind: Kind::Put, lsn: 0, epoch, dbkey: &dbkey, dbval })?;
                }
                None => {
                    let key = dbkey.get(8..).unwrap_or_default().escape_ascii();
                    heed.damaged(format!("{}: damaged record: key {key}", tree.display()));
                }
            }
            heed.passed((dbkey.len() + stored.len()) as u64)?;
        }
        Ok(())
    }
}

/// Writes a new directory.
pub struct Writer {
    dir: PathBuf,
    tree: sled::Db,
    stored: Vec<u8>,
}

impl Writer {
    /// Begins to write into `dir`, which exists.
    pub fn new(dir: &Path) -> Result<Writer, StoreError> {
        let tree = open_tree(&dir.join(NEW_TREE_DIR), CACHE_BYTES)?;
        Ok(Writer { dir: dir.to_owned(), tree, stored: Vec::new() })
    }

    /// Adds a record; each key is given once.
    pub fn put(&mut self, dbkey: &[u8], record: Record<'_>) -> Result<(), StoreError> {
        record::encode(dbkey, record, &mut self.stored);
        let stored = self.stored.as_slice();
        guarded("writing", &self.dir, || self.tree.insert(dbkey, stored)).map(|_| ())
    }

    /// Makes everything durable, and the directory a store.
    pub fn finish(self) -> Result<(), StoreError> {
        finish(self.tree, &self.dir)
    }
}

/// Makes a tree under [`NEW_TREE_DIR`] durable, and the directory that it is in a store.
pub(super) fn finish(tree: sled::Db, dir: &Path) -> Result<(), StoreError> {
    let (new, to) = (dir.join(NEW_TREE_DIR), dir.join(TREE_DIR));
    let (mut horizon, _) = Horizon::open(&tree, dir)?;
    horizon.begin()?;
    guarded("flushing", &new, || tree.flush())?;
    sync_tree(&new)?;
    horizon.reached_for_good()?;
    drop((horizon, tree));
    fs::rename(&new, &to).map_err(|e| io_error("making", &to, e))?;
    write_copy_identity(dir, ENGINE)
}
