//! The decisions, without I/O: everything here is a function of its arguments.
//!
//! Time and chance come in as arguments, so that a simulation replays from a seed. Start with [`ring`] (who holds
//! a key), then [`record`] (what is held), [`epoch`], [`paxos`] and [`route`] (who is who, and since when), then what a
//! coordinator goes by: [`pending`], [`outlog`], [`lease`], [`memory`].

pub mod address;
pub mod arcs;
pub mod backoff;
pub mod budget;
pub mod clock;
pub mod counter;
pub mod decimal;
pub mod digest;
pub mod epoch;
pub mod expiry;
pub mod hottest;
pub mod lease;
pub mod memory;
pub mod mutation;
pub mod outlog;
pub mod paxos;
pub mod pending;
pub mod record;
pub mod ring;
pub mod route;
pub mod rule;
pub mod weight;
