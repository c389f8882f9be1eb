//! The manager: who belongs to the cluster, who is alive, and who holds what.
//!
//! Pure: [`change`] (what an epoch may say), [`roster`] (who is seen), [`broken`] (who does not hear whom), [`ranges`]
//! (who holds the same keys), [`state`] (events in, actions out; its `deciding` is how a change becomes a fact).
//! Worldly: [`persist`] (the state file), `requests` (the methods), `flushing` (when a flush is answered), `links` (who is told what), [`run`](mod@run)
//! (sockets and time). Start with [`state`].

pub mod broken;
pub mod change;
mod flushing;
mod handover;
mod links;
pub mod persist;
pub mod ranges;
mod requests;
pub mod roster;
pub mod run;
pub mod state;

pub use run::{Config, Recorder, run};
