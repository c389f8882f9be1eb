//! `--daemon PIDFILE`: leaving the terminal.
//!
//! The process that was started stays until the daemon listens or has failed, and ends with status 0 or with the
//! daemon's own error line and status; so a script needs no waiting of its own. Invariant: forking happens
//! before any thread is started, since only the forking thread lives on in the child.

use super::cmdline::Ended;
use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// What the daemon tells the waiting process when it listens; otherwise the first byte is the exit status and the
/// rest the error line.
const LISTENING: u8 = 0;

/// How this process is attached to whoever started it.
#[derive(Debug)]
pub struct Attachment {
    /// Absent in the foreground.
    detached: Option<Detached>,
}

#[derive(Debug)]
struct Detached {
    pid_file: PathBuf,
    /// To the process that waits; absent when it has been told.
    waiting: Option<PipeWriter>,
}

impl Attachment {
    /// Stays in the foreground.
    pub fn foreground() -> Attachment {
        Attachment { detached: None }
    }

    /// Goes into the background and returns there; the process that was started does not return from this. Standard
    /// input becomes empty, standard output goes nowhere unless it is kept, and the same holds for standard error from the
    /// moment when the daemon listens. The working directory stays, so that relative paths keep their meaning.
    ///
    /// Call it before any thread is started.
    pub fn background(program: &str, pid_file: &Path, keep_stdout: bool) -> Result<Attachment, String> {
        let failed = |e: io::Error| format!("cannot detach from the terminal: {e}; run without --daemon (-d)");
        let (reader, writer) = io::pipe().map_err(failed)?;
        if let Some(child) = fork().map_err(failed)? {
            drop(writer);
            wait(child);
            std::process::exit(await_daemon(program, reader));
        }
        // SAFETY: setsid only concerns this process. It fails for leaders of process groups, which a new child is not.
        unsafe { libc::setsid() };
        // The second child leads no session, so that no terminal that it opens becomes its own.
        if fork().map_err(failed)?.is_some() {
            // SAFETY: ends this process without running anything that the child has to run later.
            unsafe { libc::_exit(0) };
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        replace(&null, libc::STDIN_FILENO).map_err(failed)?;
        if !keep_stdout {
            replace(&null, libc::STDOUT_FILENO).map_err(failed)?;
        }
        let detached = Detached { pid_file: pid_file.to_owned(), waiting: Some(writer) };
        Ok(Attachment { detached: Some(detached) })
    }

    /// Whether this process is in the background.
    pub fn is_detached(&self) -> bool {
        self.detached.is_some()
    }

    /// Says that the daemon listens: writes the pid file and lets the waiting process end.
    pub fn listening(&mut self) -> Result<(), String> {
        let Some(detached) = &mut self.detached else { return Ok(()) };
        let path = &detached.pid_file;
        fs::write(path, format!("{}\n", std::process::id())).map_err(|e| {
            format!("cannot write the pid file {}: {e}; name another with --daemon (-d)", path.display())
        })?;
        if let Some(mut waiting) = detached.waiting.take() {
            // Nobody may wait any more; the daemon works all the same.
            let _ = waiting.write_all(&[LISTENING]);
        }
        if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
            let _ = replace(&null, libc::STDERR_FILENO);
        }
        Ok(())
    }

    /// Reports the end where somebody can read it: to the waiting process, or on standard error.
    pub fn report(&mut self, program: &str, ended: &Ended) -> u8 {
        let waiting = self.detached.as_mut().and_then(|detached| detached.waiting.take());
        match (waiting, ended) {
            (Some(mut waiting), Ended::Usage(line) | Ended::Failed(line)) => {
                let _ = waiting.write_all(&[&[ended.status()], line.as_bytes()].concat());
                ended.status()
            }
            _ => ended.report(program),
        }
    }

    /// Removes the pid file, if it still is this process's.
    pub fn end(&self) {
        if let Some(detached) = &self.detached {
            let ours =
                fs::read_to_string(&detached.pid_file).is_ok_and(|text| text.trim() == std::process::id().to_string());
            if ours {
                let _ = fs::remove_file(&detached.pid_file);
            }
        }
    }
}

/// Waits for the daemon to listen or to fail; the exit status.
fn await_daemon(program: &str, mut from_daemon: PipeReader) -> i32 {
    let mut told = Vec::new();
    // What was told before an error is as good as anything.
    let _ = from_daemon.read_to_end(&mut told);
    match told.split_first() {
        Some((&LISTENING, _)) => 0,
        Some((&status, line)) => {
            let line = String::from_utf8_lossy(line).into_owned();
            let ended = if status == 2 { Ended::Usage(line) } else { Ended::Failed(line) };
            ended.report(program).into()
        }
        None => {
            let line = "the daemon ended before it listened; run it without --daemon (-d) to see why";
            Ended::Failed(line.to_owned()).report(program).into()
        }
    }
}

/// Forks: the child's id in the parent, none in the child.
fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: there is one thread only, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Waits for the first child, which ends as soon as it has a child of its own.
fn wait(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the pointer is to a live local.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Makes one of the standard streams lead elsewhere.
fn replace(by: &impl AsFd, stream: RawFd) -> io::Result<()> {
    // SAFETY: both are open descriptors, and nothing here owns the standard streams.
    match unsafe { libc::dup2(by.as_fd().as_raw_fd(), stream) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
