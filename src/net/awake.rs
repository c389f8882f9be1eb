//! Cores that stay awake while requests come one after another: what has nothing to do goes to sleep, and to wake it may take longer
//! than what it then does, above all in a virtual machine, where that is the host's work. Linux lets a program bound how
//! long waking may take (Documentation/power/pm_qos_interface.rst, "CPU latency QoS"), for all cores and as long as it keeps a
//! file open. This does so, and only while it helps: an idle cluster lets its machine sleep, and on a busy one no core
//! sleeps for long, while threads that are woken sooner find less to do each time (doc/performance.md).

use super::usage::Usage;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where Linux is told.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// What it takes for no bound, in microseconds (`PM_QOS_CPU_LATENCY_DEFAULT_VALUE` of include/linux/pm_qos.h).
const UNBOUNDED: i32 = 2_000_000_000;
/// Time between two looks. A burst that is shorter is over before anything could be done for it.
const LOOK: Duration = Duration::from_millis(50);
/// Sleeps of this process a second from which on requests are said to come one after another: with fewer, cores would be
/// awake for more than a millisecond to save some tens of microseconds.
const OFTEN: f64 = 1000.0;
/// The longest that a thread runs between two sleeps, on average, for waking it to matter.
const SHORT_RUN: Duration = Duration::from_micros(50);
/// The least part of all cores' time that nobody needs.
const IDLE_SHARE: f64 = 0.15;

/// Bounds how long cores take to wake up to `bound`, in microseconds, from now on until the event loop of this thread ends, while it helps.
/// Where the system does not allow that, it says so in the log, and everything else goes on.
pub fn start(bound: u32) {
    match Bound::open(Path::new(DEVICE), bound) {
        Ok(bound) => drop(tokio::task::spawn_local(keep(bound))),
        Err(e) => tracing::warn!(
            "cores are not kept awake: {DEVICE}: {e}; give this user access to it, or leave out --wake-latency"
        ),
    }
}

async fn keep(mut bound: Bound) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Sample::take();
    loop {
        looks.tick().await;
        let now = Sample::take();
        let helps = matches!((&before, &now), (Some(before), Some(now)) if before.until(now).helps());
        before = now;
        if let Err(e) = bound.set(helps) {
            tracing::warn!("cores are not kept awake: {DEVICE}: {e}");
            return;
        }
    }
}

/// A bound that this process may set and take back. The kernel takes it back when the process ends, however it does.
struct Bound {
    device: File,
    micros: i32,
    set: bool,
}

impl Bound {
    fn open(device: &Path, micros: u32) -> io::Result<Bound> {
        let device = OpenOptions::new().write(true).open(device)?;
        // What opens the file asks for no bound until it writes one.
        Ok(Bound { device, micros: i32::try_from(micros).unwrap_or(UNBOUNDED), set: false })
    }

    fn set(&mut self, set: bool) -> io::Result<()> {
        if set != self.set {
            let micros = if set { self.micros } else { UNBOUNDED };
            self.device.write_all_at(&micros.to_ne_bytes(), 0)?;
            self.set = set;
            tracing::debug!("cores are kept awake: {set}");
        }
        Ok(())
    }
}

/// What this process and the machine have done so far.
struct Sample {
    at: Instant,
    /// How often threads of this process went to sleep.
    sleeps: u64,
    /// CPU time of this process.
    ran: Duration,
    machine: Machine,
}

/// Time of all cores, in the kernel's ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    idle: u64,
    all: u64,
}

impl Sample {
    fn take() -> Option<Sample> {
        let usage = Usage::of_this_process();
        Some(Sample {
            at: Instant::now(),
            sleeps: usage.sleeps,
            ran: usage.user + usage.system,
            machine: Machine::parse(&std::fs::read_to_string("/proc/stat").ok()?)?,
        })
    }

    fn until(&self, later: &Sample) -> Pace {
        let sleeps = later.sleeps.saturating_sub(self.sleeps);
        let elapsed = later.at.saturating_duration_since(self.at).max(Duration::from_micros(1));
        let all = later.machine.all.saturating_sub(self.machine.all);
        Pace {
            sleeps_per_second: sleeps as f64 / elapsed.as_secs_f64(),
            run: later.ran.saturating_sub(self.ran).div_f64((sleeps as f64).max(1.0)),
            idle_share: later.machine.idle.saturating_sub(self.machine.idle) as f64 / (all as f64).max(1.0),
        }
    }
}

impl Machine {
    /// From the text of `/proc/stat`.
    fn parse(text: &str) -> Option<Machine> {
        let fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests take is part of user and nice.
        let [_, _, _, idle, iowait, ..] = ticks[..] else { return None };
        Some(Machine { idle: idle + iowait, all: ticks.iter().take(8).sum() })
    }
}

/// How requests came between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    sleeps_per_second: f64,
    /// How long a thread ran between two sleeps, on average.
    run: Duration,
    /// The part of all cores' time that nobody needed.
    idle_share: f64,
}

impl Pace {
    /// Whether cores had better be awake.
    fn helps(&self) -> bool {
        self.sleeps_per_second >= OFTEN && self.run <= SHORT_RUN && self.idle_share >= IDLE_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_BY_ONE: Pace = Pace { sleeps_per_second: 3000.0, run: Duration::from_micros(28), idle_share: 0.5 };

    #[test]
    fn it_helps_where_much_comes_and_each_is_little_and_cores_are_idle() {
        assert!(ONE_BY_ONE.helps());
        assert!(!Pace { sleeps_per_second: 100.0, ..ONE_BY_ONE }.helps(), "nobody asks");
        assert!(!Pace { run: Duration::from_micros(120), ..ONE_BY_ONE }.helps(), "each wake finds enough to do");
        assert!(!Pace { idle_share: 0.05, ..ONE_BY_ONE }.helps(), "cores are awake anyway");
    }

    #[test]
    fn a_pace_is_what_was_done_between_two_samples() {
        let at = Instant::now();
        let before = Sample { at, sleeps: 1000, ran: Duration::from_secs(7), machine: Machine { idle: 100, all: 500 } };
        let later = Sample {
            at: at + Duration::from_millis(50),
            sleeps: 1200,
            ran: Duration::from_secs(7) + Duration::from_millis(6),
            machine: Machine { idle: 104, all: 510 },
        };
        let pace = before.until(&later);
        assert!((pace.sleeps_per_second - 4000.0).abs() < 0.1, "{pace:?}");
        assert_eq!(pace.run, Duration::from_micros(30));
        assert!((pace.idle_share - 0.4).abs() < 1e-9, "{pace:?}");
        // Counters that stood still, or went back, are no division by nothing.
        assert!(!later.until(&before).helps());
        assert!(!later.until(&later).helps());
    }

    #[test]
    fn the_machine_is_read_from_the_sum_of_all_cores() {
        let text = "cpu  10 1 20 300 40 2 3 4 7 1\ncpu0 10 1 20 300 40 2 3 4 7 1\nintr 5\n";
        assert_eq!(Machine::parse(text), Some(Machine { idle: 340, all: 380 }));
        for bad in ["", "cpu", "cpu  1 2 3", "cpu  1 2 3 x 5", "intr 5\n"] {
            assert_eq!(Machine::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn samples_count_what_this_process_does() {
        let before = Sample::take().expect("this system tells");
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let after = Sample::take().unwrap();
        assert!(after.sleeps >= before.sleeps + 20, "{} after {}", after.sleeps, before.sleeps);
        assert!(after.ran >= before.ran);
        assert!(after.machine.all >= after.machine.idle);
    }

    #[test]
    fn the_bound_is_written_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("cpu_dma_latency");
        std::fs::write(&device, []).unwrap();
        let mut bound = Bound::open(&device, 7).unwrap();
        let written = || std::fs::read(&device).unwrap();
        bound.set(false).unwrap();
        assert!(written().is_empty(), "there was none");
        bound.set(true).unwrap();
        assert_eq!(written(), 7i32.to_ne_bytes());
        std::fs::write(&device, []).unwrap();
        bound.set(true).unwrap();
        assert!(written().is_empty(), "it was set");
        bound.set(false).unwrap();
        assert_eq!(written(), UNBOUNDED.to_ne_bytes());
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_that_says_so() {
        assert_eq!(
            Bound::open(Path::new("/nonexistent/x"), 0).map(|_| ()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
