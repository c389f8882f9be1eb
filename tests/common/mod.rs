//! Clusters of real processes, and clients that do not trust them.
//!
//! [`cluster`] starts managers, servers and gateways on addresses of their own; [`process`] starts, signals and watches
//! one program; [`memcache`] and [`rpc`] are clients written for tests alone, so that a mistake of the library's is not
//! repeated here; [`load`] reads and writes, and checks every answer against what was promised; [`witness`] records what
//! clients that share keys saw, for the checker of histories; [`world`] is a network whose links can be cut.
//!
//! Nothing here sleeps until something is ready: [`eventually`] asks again and again, up to a deadline.

// Every test binary compiles this for itself, and not each uses all of it.
#![allow(dead_code)]

pub mod cluster;
pub mod load;
pub mod memcache;
pub mod net;
pub mod process;
pub mod rng;
pub mod rpc;
pub mod terminal;
pub mod witness;
pub mod world;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that should come about by itself. Generous: the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `condition` until it gives something; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A number from the environment, for runs longer than the usual.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Says why a test does nothing here. It goes past libtest's capture, so that it is seen.
pub fn skip(why: &str) {
    say(&format!("SKIPPED {}: {why}", std::thread::current().name().unwrap_or("a test")));
}

/// Tells something worth seeing even when the test passes.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// A directory that is gone after the test, on the disk that the build is on; `KUMO_TEST_KEEP=1` keeps it.
pub fn temp_dir() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kumo-").disable_cleanup(setting("KUMO_TEST_KEEP", 0) != 0);
    builder.tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made")
}

/// The path of one of this package's programs.
pub fn program(name: &str) -> PathBuf {
    let path = match name {
        "kumofs" => env!("CARGO_BIN_EXE_kumofs"),
        "kumo-manager" => env!("CARGO_BIN_EXE_kumo-manager"),
        "kumo-server" => env!("CARGO_BIN_EXE_kumo-server"),
        "kumo-gateway" => env!("CARGO_BIN_EXE_kumo-gateway"),
        "kumoctl" => env!("CARGO_BIN_EXE_kumoctl"),
        "kumostat" => env!("CARGO_BIN_EXE_kumostat"),
        "kumosum" => env!("CARGO_BIN_EXE_kumosum"),
        "kumotop" => env!("CARGO_BIN_EXE_kumotop"),
        "kumohash" => env!("CARGO_BIN_EXE_kumohash"),
        "kumolog" => env!("CARGO_BIN_EXE_kumolog"),
        "kumomergedb" => env!("CARGO_BIN_EXE_kumomergedb"),
        other => panic!("no program of this package: {other}"),
    };
    PathBuf::from(path)
}

/// The right to run processes, of which few tests at a time have one: clusters on a busy machine are slow, and their
/// gaps long.
pub struct Turn {
    seats: usize,
}

const SEATS: usize = 2;
static FREE: Mutex<usize> = Mutex::new(SEATS);
static FREED: Condvar = Condvar::new();

impl Turn {
    /// Waits for one of two seats.
    pub fn shared() -> Turn {
        Turn::take(1)
    }

    /// Waits until no other test runs processes: for those that measure, or need the whole machine.
    pub fn alone() -> Turn {
        Turn::take(SEATS)
    }

    fn take(seats: usize) -> Turn {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < seats {
            free = FREED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= seats;
        Turn { seats }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.seats;
        FREED.notify_all();
    }
}
