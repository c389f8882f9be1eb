//! kumofs: a replicated key-value store that any memcached client can use.
//!
//! Reading order, from the pure to the worldly:
//!
//! 1. [`logic`]: addresses, clocks, the ring, epochs, leases, record layout. No I/O, no tokio, no time of its own.
//! 2. [`proto`]: bytes to messages and back: the memcached dialects, the RPC, the replace stream.
//! 3. [`store`]: the engines that keep records on disk, behind one trait.
//! 4. [`net`]: listeners, connections, worker threads, shutdown.
//! 5. [`manager`], [`server`], [`gateway`]: the three roles. None imports another.
//! 6. [`allinone`]: all of them in one process; [`combined`]: a server and a gateway. [`daemon`]: options, logs, signals. [`tools`]: the command line tools.
//!
//! [`check`] judges recorded histories of clients.
//!
//! `doc/architecture.md` follows a Set through these files.

#[cfg(not(feature = "sim"))]
pub mod allinone;
pub mod check;
pub mod combined;
pub mod daemon;
pub mod gateway;
pub mod logic;
pub mod manager;
pub mod net;
pub mod proto;
pub mod server;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod tools;
