//! What this process has taken of the machine so far.

use std::time::Duration;

/// CPU time, and how often threads went to sleep (getrusage(2)).
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Times that a thread waited for something, and so gave up its core.
    pub sleeps: u64,
}

impl Usage {
    /// That of all threads of this process, those that have ended included.
    pub fn of_this_process() -> Usage {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is valid for a rusage, of which all-zero bytes are one, should the call fail.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let duration = |time: libc::timeval| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            sleeps: u64::try_from(usage.ru_nvcsw).unwrap_or(0),
        }
    }
}
