//! Random commands, the same to the gateway and to a real memcached: what both answer is compared, in the binary protocol
//! ([`binary`]) and in text and meta commands ([`lines`]).
//!
//! Cas uniques differ, and are compared by whether there is one; a command that requires one is sent to each side with
//! what that side answered. `KUMO_FUZZ_ROUNDS` makes it longer, `KUMO_FUZZ_SEED` has it begin with another seed than 1,
//! and a failure prints its seed.

mod binary;
mod lines;

use crate::client::Client;
use crate::fake::{Fake, Setup};
use kumofs::gateway::Config;
use kumofs::gateway::cache::Limits;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Rounds of a run in the gate; each is a few commands at once.
const ROUNDS: u64 = 1500;
/// Values of any size are cached.
const CACHE: Limits = Limits { bytes: 1 << 20, least_value: 0 };

/// The seeds of a run, one for each round.
fn seeds() -> Range<u64> {
    let asked = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = asked("KUMO_FUZZ_SEED").unwrap_or(1);
    first..first.saturating_add(asked("KUMO_FUZZ_ROUNDS").unwrap_or(ROUNDS))
}

/// A memcached of the system's, on a socket of its own.
pub struct Memcached {
    process: Child,
    dir: tempfile::TempDir,
}

impl Memcached {
    /// As it is shipped. `None`, said aloud, when none is installed.
    pub fn start() -> Option<Memcached> {
        Memcached::start_with(&[])
    }

    /// One that moves no items about: it holds them then, and a number that is counted at that moment loses its T.
    pub fn start_still() -> Option<Memcached> {
        Memcached::start_with(&["-o", "no_lru_maintainer,no_lru_crawler"])
    }

    fn start_with(options: &[&str]) -> Option<Memcached> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("memcached");
        command.args(options).args(["-vv", "-t", "1", "-u", "root", "-s"]).arg(dir.path().join("socket"));
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(mut process) = started else {
            println!("SKIPPED: memcached is not installed");
            return None;
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|l| l.contains("listening"))), "memcached does not listen");
        // It stops when nobody reads what it logs.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Memcached { process, dir })
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Numbers that a seed gives.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A gateway and a memcached, both empty, and what each last told as cas unique of each key.
struct Sides<K> {
    ours: TcpStream,
    theirs: UnixStream,
    our_cas: HashMap<K, u64>,
    their_cas: HashMap<K, u64>,
    _running: (Fake, Memcached),
    /// How often ours may still say that a server does not answer: on a machine that is busy with other things, none may
    /// have run for so long that its link is taken for broken.
    patience: u32,
}

impl<K> Sides<K> {
    fn start(config: &Config, patience: u32) -> Option<Sides<K>> {
        let memcached = Memcached::start_still()?;
        // Whatever a run makes up as the cas unique of what was never told one is none of memcached's then.
        let mut early = memcached.connect();
        (0..10).for_each(|_| early.write_all(b"set early 0 0 0\r\n\r\n").unwrap());
        early.read_exact(&mut [0; 10 * b"STORED\r\n".len()]).unwrap();
        let fake = Fake::start(Setup { server_workers: 2, config: config.clone(), ..Setup::default() });
        let (ours, theirs) = (Client::connect(fake.gateway).0, memcached.connect());
        ours.set_read_timeout(Some(LONGEST_PAUSE)).unwrap();
        theirs.set_read_timeout(Some(LONGEST_PAUSE)).unwrap();
        let (our_cas, their_cas) = (HashMap::new(), HashMap::new());
        Some(Sides { ours, theirs, our_cas, their_cas, _running: (fake, memcached), patience })
    }

    /// Begins anew: what was asked meanwhile may have been done or not.
    fn start_over(&mut self, config: &Config) {
        assert!(self.patience > 0, "servers that are there do not answer, again and again");
        *self = Sides::start(config, self.patience - 1).unwrap();
    }
}

/// What stands still for longer is taken for hung: a machine may be busy with other things, or stopped, for minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often a run may begin anew.
const PATIENCE: u32 = 20;

/// Reads what there is, also when the process was stopped and goes on.
fn read_some(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Bytes for people.
fn show(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}
