//! Whose directory it is: the identity file and the lock.
//!
//! The identity is one line: `kumofs log 1 DISKID CHECK`: the engine, the version of the format, the directory's random
//! number in 16 hex digits, and the CRC-32C of all before it in 8. A directory without one is made ours only when it
//! is empty.

use super::increment::MANIFEST;
use super::open::unreadable;
use super::segment::id_in;
use crate::store::StoreError;
use crate::store::fs::{self, Disk, Lock, partial_name, read_small, store_error};
use std::io;
use std::path::Path;

/// The identity's file name.
pub const IDENTITY: &str = "kumofs";
/// The lock's file name.
pub const LOCK: &str = "kumofs.lock";
/// Version of the directory's format.
pub const FORMAT: u32 = 1;
const TOKYO_CABINET: &[u8] = b"ToKyO CaBiNeT";

/// The line for a disk id.
pub fn encode(disk_id: u64) -> String {
    let text = format!("kumofs log {FORMAT} {disk_id:016x} ");
    format!("{text}{:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The disk id in an identity; else what is wrong with it and what to do.
pub fn parse(bytes: &[u8]) -> Result<u64, String> {
    let damaged =
        || "its identity file is damaged: restore the file `kumofs` from a backup of this directory".to_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let &["kumofs", engine, format, id, check] = &words[..] else { return Err(damaged()) };
    let covered = text.len() - text.trim_end().len() + check.len();
    if check != format!("{:08x}", crc32c::crc32c(&bytes[..bytes.len() - covered])) {
        return Err(damaged());
    }
    if engine != "log" {
        return Err(format!("it holds a store of the engine {engine}: say -s {engine}:DIR"));
    }
    if format != FORMAT.to_string() {
        return Err(format!(
            "it has format {format}, this kumofs knows {FORMAT}: use the version that wrote it, or a newer one"
        ));
    }
    u64::from_str_radix(id, 16).map_err(|_| damaged())
}

/// Writes the identity of a new store into `dir`.
pub fn write(disk: &dyn Disk, dir: &Path) -> Result<u64, StoreError> {
    let path = dir.join(IDENTITY);
    let disk_id = disk.random().map_err(|e| store_error("cannot get a random number for", &path, e))?;
    fs::write_whole(disk, &path, encode(disk_id).as_bytes()).map_err(|e| store_error("cannot write", &path, e))?;
    Ok(disk_id)
}

/// Takes a directory, made or empty or ours; returns its disk id and the lock.
pub fn take(disk: &dyn Disk, dir: &Path) -> Result<(u64, Box<dyn Lock>), StoreError> {
    let known = match disk.list(dir) {
        Ok(listed) => listed.into_iter().map(|l| l.name).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            disk.create_dir(dir).map_err(|e| unreadable(dir, &e))?;
            // So that the new name survives a loss of power, where the directory above can be read.
            let _ = disk.sync_dir(dir.parent().unwrap_or(Path::new(".")));
            Vec::new()
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(explain_file(disk, dir)),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    if !known.iter().any(|name| name == IDENTITY) {
        check_empty(dir, &known)?;
    }
    let lock_path = dir.join(LOCK);
    let lock = disk.lock(&lock_path).map_err(|e| unreadable(&lock_path, &e))?;
    let Some(lock) = lock else {
        let dir = dir.display();
        return Err(StoreError::Unusable(format!(
            "{dir} is in use by another process: stop that one or name another directory"
        )));
    };
    let path = dir.join(IDENTITY);
    let disk_id = match read_small(disk, &path, 4096) {
        Ok(bytes) => {
            parse(&bytes).map_err(|why| StoreError::Unusable(format!("cannot use {}: {why}", dir.display())))?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => write(disk, dir)?,
        Err(e) => return Err(unreadable(&path, &e)),
    };
    Ok((disk_id, lock))
}

fn check_empty(dir: &Path, names: &[String]) -> Result<(), StoreError> {
    let partial = partial_name(Path::new(IDENTITY));
    let ours = |name: &&String| *name == LOCK || Path::new(name) == partial || *name == "lost+found";
    let Some(foreign) = names.iter().find(|name| !ours(name)) else { return Ok(()) };
    let dir = dir.display();
    Err(StoreError::Unusable(if names.iter().any(|name| name == MANIFEST) {
        format!("cannot use {dir}: it is an increment of a backup: make it whole with `kumomergedb DIR {dir}`")
    } else if names.iter().any(|name| id_in(name, ".log").is_some()) {
        format!(
            "cannot use {dir}: its identity file is missing: restore the file `kumofs` from a backup of this directory"
        )
    } else {
        format!("cannot use {dir}: it is not a store (it holds {foreign}): name a new or an empty directory")
    }))
}

/// A store is a directory; `path` is a file. An old database of Tokyo Cabinet, perhaps?
fn explain_file(disk: &dyn Disk, path: &Path) -> StoreError {
    let start = match read_small(disk, path, TOKYO_CABINET.len()) {
        Ok(start) => start,
        Err(e) => return unreadable(path, &e),
    };
    let path = path.display();
    StoreError::Unusable(if start == TOKYO_CABINET {
        format!(
            "{path} is a Tokyo Cabinet database: name a new directory, and bring it in with `kumomergedb DIR {path}`"
        )
    } else {
        format!("cannot use {path}: it is a file: name a new or an empty directory")
    })
}
