//! Whole clusters in one thread, on a simulated network with simulated disks and clocks: a seed decides everything.
//!
//! The roles are the production code; only the seams of [`crate::net`] (sockets, clocks, chance, threads) and the disk of
//! [`crate::store::fs::mem`] are others. Time is virtual: it jumps to the next timer when nobody has anything to do.
//!
//! 1. [`node`]: hosts and processes: clocks, kill -9, SIGSTOP. [`net`]: TCP over links that are slow, lossy or
//!    cut, for all packets or for one [`kind`].
//! 2. [`cluster`]: the roles on their hosts. [`client`]: who uses them, and what they saw; [`text`], [`wide`]: in which words, and
//!    with which of the rarer commands.
//! 3. [`script`]: what goes wrong and when; [`events`]: what else happens to a cluster. [`scenario`]: the schedules that
//!    break lesser designs. [`run`]: one run and its judgement; [`backup`]: of backups. [`trace`]: what happened, for people.

pub mod backup;
pub mod client;
pub mod cluster;
pub mod events;
pub mod kind;
pub mod net;
pub mod node;
pub mod run;
pub mod scenario;
pub mod script;
pub mod text;
pub mod trace;
pub mod wide;
