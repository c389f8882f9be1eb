//! Workers that let others finish: where processes are more than cores, a thread that is woken at once takes the core from the one that woke it, with
//! a single request to answer, and the next one wakes it again. Under SCHED_BATCH (sched(7)) it waits until the other has no
//! more to do: messages hold more, and there are fewer of them (doc/performance.md).
//!
//! Where programs compute on every core without end, such a thread would wait for each of them, some milliseconds every time. So it
//! looks how long it waits on average, which the kernel counts (`schedstat`), and does as threads usually do while that is long.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A worker stops being courteous when it waits longer than this for its core, on average, and so many times longer than it runs. Where the processes of a
/// cluster and those that load it share two cores, it waits up to six times as long as it runs; beside programs that compute
/// all the time, ten to twenty times, where that does harm (doc/performance.md).
const LONG_WAIT: Duration = Duration::from_micros(100);
const LONG_WAIT_IN_RUNS: u32 = 10;
/// Turns between two looks: a look costs nothing to speak of then, and an average has settled. A busy worker has thousands a second.
const TURNS: u32 = 256;
/// How long a worker stays discourteous: the first time, and at most, doubled each time that courtesy did not pay.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// Looks after which courtesy has paid.
const PROVEN_LOOKS: u32 = 8;

/// The calling thread's place among the threads of the machine.
pub struct Courtesy {
    schedstat: File,
    before: Times,
    judge: Judge,
    turns: u32,
}

impl Courtesy {
    /// Makes the calling thread courteous. None, and nothing is changed, where the kernel does not count waits, or where somebody has given this process
    /// a policy of its own (chrt(1), systemd's `CPUSchedulingPolicy=`).
    pub fn of_this_thread() -> Option<Courtesy> {
        if policy() != libc::SCHED_OTHER {
            return None;
        }
        let schedstat = File::open("/proc/thread-self/schedstat").ok()?;
        let before = Times::read(&schedstat)?;
        set_policy(libc::SCHED_BATCH).then(|| Courtesy { schedstat, before, judge: Judge::new(), turns: 0 })
    }

    /// To be called by the same thread whenever it has nothing left to do.
    pub fn turn_ended(&mut self) {
        self.turns += 1;
        if self.turns < TURNS {
            return;
        }
        self.turns = 0;
        let Some(times) = Times::read(&self.schedstat) else { return };
        let mean = times.mean_since(&self.before);
        self.before = times;
        self.weigh(mean, Instant::now());
    }

    fn weigh(&mut self, mean: Mean, now: Instant) {
        let was = self.judge.courteous();
        self.judge.look(mean, now);
        if self.judge.courteous() != was {
            set_policy(if was { libc::SCHED_OTHER } else { libc::SCHED_BATCH });
            let Mean { ran, waited } = mean;
            tracing::debug!(
                "a worker waited {waited:?} for its core and ran {ran:?}, on average; lets others finish: {}",
                !was
            );
        }
    }
}

/// How long a thread has run and waited for a core so far, and how often (Documentation/scheduler/sched-stats.rst of Linux, "/proc/<pid>/schedstat").
struct Times {
    ran_nanos: u64,
    waited_nanos: u64,
    count: u64,
}

/// What it was each time, on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mean {
    ran: Duration,
    waited: Duration,
}

impl Times {
    fn read(schedstat: &File) -> Option<Times> {
        let mut text = [0; 64];
        let len = schedstat.read_at(&mut text, 0).ok()?;
        Times::parse(std::str::from_utf8(&text[..len]).ok()?)
    }

    fn parse(text: &str) -> Option<Times> {
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Times { ran_nanos: next()?, waited_nanos: next()?, count: next()? })
    }

    fn mean_since(&self, before: &Times) -> Mean {
        let count = self.count.saturating_sub(before.count).max(1);
        let mean = |now: u64, then: u64| Duration::from_nanos(now.saturating_sub(then) / count);
        Mean { ran: mean(self.ran_nanos, before.ran_nanos), waited: mean(self.waited_nanos, before.waited_nanos) }
    }
}

/// Whether to be courteous, by how long it makes a thread wait.
struct Judge {
    /// Until when discourtesy lasts; `None`: be courteous.
    until: Option<Instant>,
    /// How long it lasts the next time.
    pause: Duration,
    /// Looks in a row that found courtesy to pay.
    looks: u32,
}

impl Judge {
    fn new() -> Judge {
        Judge { until: None, pause: FIRST_PAUSE, looks: 0 }
    }

    fn courteous(&self) -> bool {
        self.until.is_none()
    }

    /// Decides what to be from `now` on, after some turns.
    fn look(&mut self, mean: Mean, now: Instant) {
        let long = mean.waited > LONG_WAIT && mean.waited > mean.ran * LONG_WAIT_IN_RUNS;
        match self.until {
            None if long => {
                self.until = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.looks = 0;
            }
            None => {
                self.looks = self.looks.saturating_add(1);
                if self.looks >= PROVEN_LOOKS {
                    self.pause = FIRST_PAUSE;
                }
            }
            Some(until) if now >= until => self.until = None,
            Some(_) => {}
        }
    }
}

/// The scheduling policy of the calling thread.
fn policy() -> libc::c_int {
    // SAFETY: it takes no pointer.
    unsafe { libc::sched_getscheduler(0) }
}

/// Whether the calling thread now has this policy, which must not be a real-time one.
fn set_policy(policy: libc::c_int) -> bool {
    // SAFETY: all fields of a sched_param are numbers, some of them with a C library that has more than one.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = 0;
    // SAFETY: `param` is valid for the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) == 0 }
}

#[cfg(test)]
mod tests;
