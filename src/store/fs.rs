//! The file layer under the log engine: what it needs of a file system, small enough to be simulated.
//!
//! [`RealDisk`] is the operating system's. [`mem::MemDisk`] lives in memory and fails on demand: tests and simulations
//! run the engine on it. Invariant that readers rely on: bytes once written to a file are never written again (the
//! engine only appends), so that a slice of a [`View`] below the written length does not change.

pub mod mem;
mod real;
mod sigbus;
mod view;

pub use real::{RealDisk, lock_file};
pub use view::View;

use super::StoreError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name, without the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// Room on the device of a directory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// What we may still fill.
    pub free: u64,
    /// The size of the device.
    pub total: u64,
}

/// Held while it lives; dropping it releases the lock.
pub trait Lock: Send + Sync {}

/// Files by name.
pub trait Disk: Send + Sync {
    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// Makes a directory and those above it; fine when it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// A new file to read and write; an error when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// An existing file, to read.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file or directory, over a file that is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file one more name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Whether two names are those of one file.
    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool>;
    /// Makes the names in a directory survive a loss of power.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock that the file `path` stands for, making the file; `None` when another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Room on the device.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// A random number.
    fn random(&self) -> io::Result<u64>;
}

/// An open file. Positions are bytes from its start.
pub trait File: Send + Sync {
    /// Its length.
    fn size(&self) -> io::Result<u64>;
    /// Reads what is at `offset`; may be less than asked for, and is 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write less than given.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the content survive a loss of power.
    fn sync(&self) -> io::Result<()>;
    /// A view of the first `capacity` bytes, which may lie beyond the end: what is written later shows up in it.
    /// `None` where there is no such thing; the caller then reads with [`read_at`](File::read_at).
    fn view(&self, capacity: u64) -> io::Result<Option<View>>;
}

/// Writes all of `buf`.
pub fn write_all(file: &dyn File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads until `buf` is full or the file ends; returns how much was read.
pub fn read_full(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The content of a small file, at most `limit` bytes of it.
pub fn read_small(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; limit.min(file.size()? as usize)];
    let read = read_full(file.as_ref(), &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Makes the file `path` hold `bytes`, at once and durably: under another name first, then renamed.
pub fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = partial_name(path);
    match disk.remove(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = disk.create(&partial).and_then(|file| {
        write_all(file.as_ref(), bytes, 0)?;
        file.sync()
    });
    if let Err(e) = written.and_then(|()| disk.rename(&partial, path)) {
        // A rest that cannot be removed either is removed at the next open.
        let _ = disk.remove(&partial);
        return Err(e);
    }
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the file `path` hold bytes with their checksum, CRC-32C, big-endian, before them: complete and synced, or as it
/// was.
pub fn save_checked(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(disk, path, &[&crc32c::crc32c(bytes).to_be_bytes(), bytes].concat())
}

/// Bytes that were kept so, up to `limit`; `None` when they are damaged.
pub fn load_checked(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = read_small(disk, path, limit + 4)?;
    let sound =
        bytes.split_first_chunk::<4>().is_some_and(|(crc, rest)| u32::from_be_bytes(*crc) == crc32c::crc32c(rest));
    Ok(sound.then(|| bytes.split_off(4)))
}

/// What a file or directory is called until it is complete.
pub fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(PARTIAL_SUFFIX);
    path.with_file_name(name)
}

/// The end of the names of incomplete files.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// Turns what the system said about `path` into what the caller can act on.
pub fn store_error(doing: &str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(path.to_owned()),
        _ => StoreError::Io { context: format!("{doing} {}", path.display()), source },
    }
}
