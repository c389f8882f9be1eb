//! A file written by a thread of its own, so that nobody who logs waits for a disk, a pipe or a terminal.
//!
//! Invariant: writers never block. What does not fit into the queue is dropped and counted, and the next thing that
//! fits is preceded by a note about it. Each message is written in one piece. A sink that cannot be written to (a
//! closed pipe, a full disk) loses messages and nothing else. [`super::log`] and [`super::binlog`] write this way.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Most messages that wait to be written.
const MAX_MESSAGES: usize = 8192;
/// Most bytes that wait to be written.
const MAX_BYTES: usize = 8 << 20;

/// Where messages go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Writes the note about dropped messages, given their number, in the form that the sink's readers know.
pub type DropNote = fn(u64) -> Vec<u8>;

enum Message {
    Write(Vec<u8>),
    /// Look at the flags.
    Wake,
    Flush(SyncSender<()>),
}

/// The writers' end. Clones share one thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Queue {
    messages: SyncSender<Message>,
    note: DropNote,
    shared: Arc<Shared>,
}

#[derive(Default, Debug)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// Dropped and not yet noted in the sink.
    dropped: AtomicU64,
    dropped_ever: AtomicU64,
    /// The file is to be opened anew.
    reopen: AtomicBool,
}

impl Queue {
    /// Opens the target and starts the thread that writes to it.
    pub fn open(target: Target, note: DropNote) -> io::Result<Queue> {
        let file = open(&target)?;
        let (messages, received) = sync_channel(MAX_MESSAGES);
        let shared = Arc::new(Shared::default());
        let writer = Writer { target, file, failing: false, shared: shared.clone() };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&received))?;
        Ok(Queue { messages, note, shared })
    }

    /// Queues bytes, or drops them if too much waits already.
    pub fn write(&self, bytes: Vec<u8>) {
        let missing = self.shared.dropped.swap(0, Ordering::Relaxed);
        let noted = missing == 0 || self.send((self.note)(missing));
        if !noted || !self.send(bytes) {
            self.shared.dropped_ever.fetch_add(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(if noted { 1 } else { missing + 1 }, Ordering::Relaxed);
        }
    }

    /// True when the bytes were queued.
    fn send(&self, bytes: Vec<u8>) -> bool {
        let len = bytes.len();
        let waiting = self.shared.waiting_bytes.fetch_add(len, Ordering::Relaxed);
        let sent = waiting + len <= MAX_BYTES && self.messages.try_send(Message::Write(bytes)).is_ok();
        if !sent {
            self.shared.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        sent
    }

    /// Opens the file anew soon: the old one may have been renamed. If that fails, the old one stays. Standard output
    /// stays as it is.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // With a full queue the thread is awake anyway.
        let _ = self.messages.try_send(Message::Wake);
    }

    /// Waits until all that was queued before is written, but not longer than `patience`; true when it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        match self.messages.try_send(Message::Flush(done)) {
            Ok(()) => wait.recv_timeout(patience).is_ok(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// How many messages were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped_ever.load(Ordering::Relaxed)
    }
}

struct Writer {
    target: Target,
    file: File,
    /// The last write failed, which was reported.
    failing: bool,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, received: &Receiver<Message>) {
        while let Ok(message) = received.recv() {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Write(bytes) => self.write(&bytes),
                Message::Wake => {}
                Message::Flush(done) => {
                    // Whoever asked may have lost patience.
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.shared.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        match self.file.write_all(bytes) {
            Ok(()) => self.failing = false,
            Err(e) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                self.shared.dropped_ever.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("cannot write to {}: {e}", self.target);
                }
            }
        }
    }

    fn reopen(&mut self) {
        if self.target == Target::Stdout {
            return;
        }
        match open(&self.target) {
            Ok(file) => self.file = file,
            Err(e) => tracing::warn!("cannot open {} again, the old file stays in use: {e}", self.target),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stdout => f.write_str("standard output"),
            Target::File(path) => path.display().fmt(f),
        }
    }
}

fn open(target: &Target) -> io::Result<File> {
    match target {
        Target::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Target::File(path) => OpenOptions::new().append(true).create(true).open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn note(dropped: u64) -> Vec<u8> {
        format!("[{dropped} lost]").into_bytes()
    }

    #[test]
    fn messages_arrive_in_order_and_a_renamed_file_is_left_at_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        fs::write(&path, "before ").unwrap();
        let queue = Queue::open(Target::File(path.clone()), note).unwrap();
        queue.write(b"one ".to_vec());
        queue.clone().write(b"two".to_vec());
        assert!(queue.flush(PATIENCE));
        fs::rename(&path, &old).unwrap();
        queue.reopen();
        queue.write(b"three".to_vec());
        assert!(queue.flush(PATIENCE));
        assert_eq!(fs::read_to_string(&old).unwrap(), "before one two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_messages_and_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Opened for both, so that neither end waits for the other.
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let queue = Queue::open(Target::File(path), note).unwrap();
        for _ in 0..MAX_MESSAGES * 2 {
            queue.write(vec![b'x'; 1024]);
        }
        assert!(queue.dropped() > 0);
        assert!(queue.shared.waiting_bytes.load(Ordering::Relaxed) <= MAX_BYTES);
        let drain = thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 65536]);
            while !all.ends_with(b"lost]end") {
                let n = reader.read(&mut buffer).unwrap();
                all.extend_from_slice(&buffer[..n]);
            }
            all.len()
        });
        while !queue.flush(PATIENCE) {}
        queue.write(b"end".to_vec());
        assert!(drain.join().unwrap() > 64 * 1024);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_once() {
        assert!(Queue::open(Target::File("/nonexistent/log".into()), note).is_err());
    }
}
