//! The server role: stores records and keeps their replicas alike.
//!
//! Reading order: [`worker`] (one event loop's state and its turn), [`request`] (what gateways ask; [`lookahead`]: what that
//! will look up), [`write`](mod@write)
//! (a change, from its execution to its stability), [`link`] (to another member, as coordinator), [`member`] (from a
//! coordinator), [`mend`] (a damaged record), [`takeover`] (a new epoch), [`report`] (what is unstable then); then the control plane: [`mod@run`],
//! [`managers`], [`status`], [`measures`] and [`statistics`] (what tools are told), `page` and `check` (what they are told of the records), [`epoch_file`], [`vote`], [`versions`]; and what moves
//! records: [`copy`], [`differ`], [`compare`], [`stream`], `applying`, [`fill`], [`dropping`], [`garbage`], all of them in steps that [`background`]
//! has wait for clients.
//!
//! Each worker owns a shard of the store and decides alone about the keys in it; what workers share is [`Shared`].

mod applying;
pub mod background;
pub mod backup;
mod check;
pub mod compare;
pub mod copy;
pub mod differ;
pub mod dropping;
mod element;
pub mod epoch_file;
pub mod fill;
pub mod garbage;
mod left;
pub mod link;
pub mod lookahead;
pub mod managers;
pub mod measures;
pub mod member;
pub mod mend;
mod page;
mod parts;
pub mod peers;
mod remake;
pub mod report;
pub mod request;
pub mod run;
pub mod shared;
pub mod statistics;
pub mod status;
pub mod stream;
pub mod takeover;
pub mod version0;
pub mod versions;
pub mod vote;
pub mod worker;
pub mod write;
mod yielding;

pub use run::run;
pub use shared::{Config, Shared};
