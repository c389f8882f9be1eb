//! Was what clients saw the work of one memcached that does one thing at a time? A checker of recorded histories.
//!
//! 1. [`history`]: who asked for what, when, and what came of it.
//! 2. [`model`]: what a memcached would do with one key.
//! 3. [`linear`]: the search for an order of all operations of a key that explains every answer (Wing and Gong's, with
//!    Lowe's memory of what was tried).
//!
//! Pure: no time, chance or sockets of its own; times may be real or virtual. The simulation (`crate::sim`) feeds it what its
//! clients saw. Invariant: an accepted history has a witness, a refused one has none; where the search was too long to know,
//! it says so.
//!
//! A value that expires may be gone from the beginning of a window on, and must be from its end on: the time to live, counted in
//! whole seconds from when it was asked for, less and more what clocks are apart ([`Clocks`]). Once gone, it stays so.

pub mod history;
pub mod linear;
pub mod model;

pub use history::{Action, Clocks, Entry, Flushed, History, Marks, Outcome, Seen, Stored};
pub use linear::{Verdict, check};
