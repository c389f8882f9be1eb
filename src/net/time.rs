//! The clocks of this machine.

/// A moment of the monotonic clock; that of the event loop, so that a simulation can set it.
pub use tokio::time::Instant;

#[cfg(feature = "sim")]
pub use crate::sim::node::{boot_micros, unix_secs};

/// Microseconds of the clock that leases run on: CLOCK_BOOTTIME, which counts while the machine is suspended and never
/// jumps (doc/guarantees.md, "Leases come from the group").
#[cfg(not(feature = "sim"))]
pub fn boot_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(failed, 0, "Linux has had CLOCK_BOOTTIME since 2.6.39");
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// UNIX time in seconds; 0 for a wall clock set before 1970.
#[cfg(not(feature = "sim"))]
pub fn unix_secs() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
