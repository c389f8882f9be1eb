//! The operating system's files.

use super::{Disk, File, Listed, Lock, Space, View};
use std::fs::TryLockError;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The file system of this host.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

struct RealFile(std::fs::File);

struct RealLock {
    _file: std::fs::File,
}

impl Lock for RealLock {}

impl Disk for RealDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        std::fs::read_dir(dir)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok(Listed { name, is_dir: entry.file_type()?.is_dir() })
            })
            .collect()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(std::fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (std::fs::metadata(one)?, std::fs::metadata(other)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = std::fs::File::options().write(true).create(true).truncate(false).open(path)?;
        Ok(lock_file(&file)?.then(|| Box::new(RealLock { _file: file }) as Box<dyn Lock>))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: an all-zero statvfs is a valid value of that plain C struct.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are valid for the call; `path` ends with a zero byte.
        if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The widths of these fields differ between systems.
        #[allow(clippy::unnecessary_cast)]
        let (unit, free, total) = (stat.f_frsize as u64, stat.f_bavail as u64, stat.f_blocks as u64);
        Ok(Space { free: free.saturating_mul(unit), total: total.saturating_mul(unit) })
    }

    fn random(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::other)
    }
}

/// How long a lock that another has is waited for, and how long between two looks. A process that was killed holds its locks
/// until it has ended; and a child that is being started holds those of its parent until it executes its program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Locks a file for as long as it is open; false when another keeps it locked.
pub fn lock_file(file: &std::fs::File) -> io::Result<bool> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

impl File for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn view(&self, capacity: u64) -> io::Result<Option<View>> {
        View::new(&self.0, capacity).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_while_it_is_waited_for_is_taken_and_one_that_stays_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealDisk.lock(&path).unwrap().expect("nobody has it");
        assert!(RealDisk.lock(&path).unwrap().is_none());
        let waiting = std::thread::spawn(move || RealDisk.lock(&path).unwrap().is_some());
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
