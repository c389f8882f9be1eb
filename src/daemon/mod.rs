//! What the daemons have in common: options, logs, signals, and how they start and end.
//!
//! Options: [`options`] lists them, [`cmdline`] reads them, [`values`] and the two `spec` modules read what they take.

pub mod argv;
pub mod cache_spec;
pub mod cmdline;
pub mod options;
mod overlay;
pub mod store_spec;
pub mod values;
