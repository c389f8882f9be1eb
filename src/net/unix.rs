//! Sockets of the file system, on which clients of this host are served.
//!
//! A socket's file outlives a process that is killed. It is replaced when nobody listens at it any more; while somebody does, it is
//! an error. Who looks and replaces holds a lock on the directory, so that of two processes that start at once one finds the
//! other listening.

use super::listen::{BACKLOG, ListenError};
use libc::{S_IFMT, S_IFSOCK};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest path in bytes: what Linux has room for, without the NUL behind it.
pub const MAX_PATH_BYTES: usize = 107;

/// How long another process may keep the lock of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the lock is tried.
const LOCK_STEP: Duration = Duration::from_millis(10);

/// The file of a socket; it is removed with this value, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    /// As it was written.
    shown: PathBuf,
    /// From the root.
    absolute: PathBuf,
    /// Who may connect, as for chmod.
    mode: u32,
    /// Device and number, which tell it from another of that name.
    identity: (u64, u64),
}

impl SocketFile {
    /// The path as the operator wrote it.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// Who may connect, as for chmod.
    pub fn mode(&self) -> u32 {
        self.mode
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.absolute).is_ok_and(|found| identity(&found) == self.identity) {
            // What cannot be removed is replaced at the next start.
            let _ = fs::remove_file(&self.absolute);
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Listens at a path, not blocking; `mode` says who may connect, whatever the umask. What a process left there that is gone is
/// replaced.
///
/// # Errors
/// When somebody listens there, something else is there, or the system refuses.
pub fn bind(path: &Path, mode: u32) -> Result<(SocketFile, UnixListener), ListenError> {
    let shown = path.display().to_string();
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(ListenError::PathTooLong { path: shown, bytes: path.as_os_str().len() });
    }
    let failed = |source: io::Error| ListenError::Path { path: shown.clone(), source };
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(failed(io::Error::other("a NUL cannot be part of a path")));
    }
    let absolute = std::path::absolute(path).map_err(failed)?;
    // Given back when it is closed, also should the process die.
    let _lock = lock(absolute.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
    make_way(path)?;
    let listen = || -> io::Result<(SocketFile, UnixListener)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The file gets the socket's mode, less the umask: at no time may more connect than shall.
        // SAFETY: a system call without pointers.
        if unsafe { libc::fchmod(socket.as_raw_fd(), mode) } != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.bind(&SockAddr::unix(path)?)?;
        let identity = identity(&fs::symlink_metadata(path)?);
        let file = SocketFile { shown: path.to_owned(), absolute: absolute.clone(), mode, identity };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok((file, socket.into()))
    };
    listen().map_err(failed)
}

/// Removes the file of a socket at which nobody listens.
fn make_way(path: &Path) -> Result<(), ListenError> {
    let shown = || path.display().to_string();
    let failed = |source: io::Error| ListenError::Path { path: shown(), source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if found.mode() & S_IFMT != S_IFSOCK {
        return Err(ListenError::NoSocket(shown()));
    }
    let asked = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        // One that listens and whose queue is full would have us wait.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    });
    match asked {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Ok(()) => Err(ListenError::PathInUse(shown())),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(ListenError::PathInUse(shown())),
        Err(e) => Err(failed(e)),
    }
}

/// Locks a directory against others who replace sockets in it.
fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(fs::TryLockError::Error(e)) => return Err(e),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_STEP),
            Err(fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process keeps its directory locked"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for mode in [0o700, 0o777, 0o660] {
            let (file, listener) = bind(&path, mode).unwrap();
            assert_eq!((mode_of(&path), file.mode(), file.path()), (mode, mode, path.as_path()));
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"x").unwrap();
            let (mut served, _) = listener.accept().unwrap();
            served.read_exact(&mut [0]).unwrap();
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_the_dead_left_is_replaced_and_what_lives_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        // A process that is killed leaves the file, and nobody who listens.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (file, listener) = bind(&path, 0o700).unwrap();
        assert!(matches!(bind(&path, 0o700), Err(ListenError::PathInUse(_))));
        // With a queue that is full, too.
        let full = Socket::from(listener);
        full.listen(0).unwrap();
        let waiting: Vec<_> = std::iter::repeat_with(|| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&SockAddr::unix(&path).unwrap()).map(|()| socket)
        })
        .map_while(Result::ok)
        .take(100)
        .collect();
        assert!(waiting.len() < 100, "the queue was never full");
        assert!(matches!(bind(&path, 0o700), Err(ListenError::PathInUse(_))));
        assert!(path.exists());
        drop(file);
    }

    #[test]
    fn a_file_that_took_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (first, _listening) = bind(&path, 0o700).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let (_second, _listener) = bind(&path, 0o700).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn each_obstacle_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let error = |path: &Path| bind(path, 0o700).unwrap_err().to_string();
        fs::write(at("file"), b"precious").unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        for name in ["file", "link"] {
            assert!(error(&at(name)).contains("is there and is no socket"), "{}", error(&at(name)));
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"precious");
        assert!(error(&at("none/socket")).contains("No such file or directory"), "{}", error(&at("none/socket")));
        assert!(error(&at("file/socket")).contains("Not a directory"), "{}", error(&at("file/socket")));
        assert!(error(Path::new(std::ffi::OsStr::from_bytes(b"a\0b"))).contains("NUL"));
        let bytes = MAX_PATH_BYTES + 1;
        let long = PathBuf::from(format!("/{}", "x".repeat(bytes - 1)));
        assert!(error(&long).contains(&format!("{bytes} bytes")), "{}", error(&long));
        let _held = lock(dir.path()).unwrap();
        assert!(error(&at("socket")).contains("locked"), "{}", error(&at("socket")));
    }

    #[test]
    fn the_longest_path_can_be_listened_at() {
        let dir = tempfile::tempdir().unwrap();
        let room = MAX_PATH_BYTES - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("x".repeat(room));
        let (_file, _listener) = bind(&path, 0o700).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
