//! A copy of a store that is serving.
//!
//! sled has no way to link or copy the files of an open tree, so the records are copied one by one into a new tree,
//! in order, while stores go on. Every record that was there when the copy began is in it, or a newer version of it,
//! unless it was forgotten meanwhile.

use super::{NEW_TREE_DIR, guarded, io_error, open_tree, outside, remove_dir};
use crate::store::StoreError;
use crate::store::identity::sync_directory;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Cache of the tree that is written: it is written in order, so little of it is needed again.
const CACHE_BYTES: u64 = 32 << 20;

/// Copies what is in `db` to a new store at `dst`, which appears when it is complete.
pub fn copy(db: &sled::Db, dir: &Path, dst: &Path) -> Result<(), StoreError> {
    if dst.symlink_metadata().is_ok() {
        let dst = dst.display();
        return Err(StoreError::Unusable(format!("{dst} exists: name another directory for the backup")));
    }
    let partial = partial_name(dst)?;
    remove_dir(&partial)?;
    let copied = fs::create_dir_all(&partial)
        .map_err(|e| io_error("making", &partial, e))
        .and_then(|()| copy_records(db, dir, &partial))
        .and_then(|()| fs::rename(&partial, dst).map_err(|e| io_error("making", dst, e)));
    if copied.is_err() {
        // The error that stopped the copy says more than one about clearing up.
        let _ = remove_dir(&partial);
    }
    copied?;
    match dst.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// `DST.partial`.
fn partial_name(dst: &Path) -> Result<PathBuf, StoreError> {
    let mut name = match dst.file_name() {
        Some(name) => OsString::from(name),
        None => return Err(io_error("making", dst, io::ErrorKind::InvalidInput.into())),
    };
    name.push(".partial");
    Ok(dst.with_file_name(name))
}

fn copy_records(db: &sled::Db, dir: &Path, to: &Path) -> Result<(), StoreError> {
    let new = to.join(NEW_TREE_DIR);
    let copy = open_tree(&new, CACHE_BYTES)?;
    let mut records = db.iter();
    while let Some((dbkey, stored)) = guarded("copying", dir, || records.next().transpose())? {
        guarded("writing", &new, || copy.insert(dbkey, stored))?;
    }
    outside::finish(copy, to)
}
