//! What the daemons have in common: options, logs, signals, and how they start and end.
//!
//! Options: [`options`] lists them, [`cmdline`] reads them, [`values`] and the two `spec` modules read what they take.

pub mod argv;
pub mod cache_spec;
pub mod cmdline;
pub mod log;
pub mod options;
mod overlay;
pub mod queue;
pub mod store_spec;
pub mod values;

/// A moment in the local time zone.
///
/// `unix_secs` beyond what the system's calendar reaches counts as 1970.
pub fn local_time(unix_secs: u64) -> libc::tm {
    // SAFETY: all fields of tm are numbers or a pointer, for which zero is valid.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    let secs = libc::time_t::try_from(unix_secs).unwrap_or(0);
    // SAFETY: both pointers are to live locals; localtime_r is safe to call from several threads.
    unsafe { libc::localtime_r(&raw const secs, &raw mut tm) };
    tm
}
