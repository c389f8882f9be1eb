//! The gateway: memcached clients on one side, the cluster on the other.
//!
//! It holds no data and decides nothing about it: it finds the server that coordinates a key, asks it, asks again when
//! the cluster changes, and answers each client in the order of its commands. Invariant: an answer is never made up. A
//! miss is a server's miss; what cannot be told is an error.
//!
//! Each worker thread serves its clients by itself, over links of its own to each worker of each server; nothing is
//! shared but the newest epoch. Reading order:
//!
//! 1. [`run`](mod@run): what the daemon does: accepts, keeps in touch with the managers ([`managers`]), stops.
//! 2. [`worker`]: a worker's state, its mail and its clock.
//! 3. [`client`]: a client's bytes become operations ([`command`]), large ones when there is room ([`uploads`]); its answers
//!    leave in order ([`answers`], [`assembly`]).
//! 4. [`flow`]: an operation ([`op`]) is sent, and tried again ([`retry`]) in its client's order ([`order`]).
//!    [`answered`]: it is answered, and told to the client ([`outcome`]).
//! 5. [`link`]: a connection to a server, and what is under way on it ([`pending`]).
//!    [`cache`]: values that need not travel again. [`large`], [`downloads`]: values that travel in parts.
//! 6. [`view`]: the epoch and who serves what; [`value`]: how values are laid out; [`v0`]: kumofs 0.4 servers.
//! 7. The figures: [`stats`], and what the cluster holds: [`holdings`]; what failed, for the binary log: [`failures`].

mod answered;
mod answers;
mod assembly;
pub mod cache;
mod client;
mod command;
mod downloads;
mod failures;
mod flow;
mod holdings;
mod large;
mod link;
mod managers;
mod meta;
mod op;
mod order;
mod outcome;
mod pending;
mod prefixes;
mod retry;
mod run;
mod stats;
mod uploads;
mod v0;
mod value;
mod view;
mod worker;

pub use run::{Config, DRAIN_LIMIT, run};
pub use value::Layout;
