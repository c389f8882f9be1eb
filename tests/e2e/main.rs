//! The whole, as its users meet it: real processes on addresses of their own, told by signals, options and bytes.
//!
//! One binary, so that [`common::Turn`] can keep its tests from crowding the machine. `doc/testing.md` tells how to run
//! parts of it, longer.

#[path = "../common/mod.rs"]
mod common;
#[path = "../story/mod.rs"]
mod story;

mod bad_input;
mod benches;
mod cache;
mod check;
mod clients;
mod combined;
mod damage;
mod drain;
mod flush;
mod guide;
mod harness;
mod installed;
mod kill;
mod large;
mod once;
mod onecommand;
mod options;
mod package;
mod partition;
mod planned;
mod pymemcache;
mod quorum;
mod replace;
mod returning;
mod settings;
mod state;
mod stories;
mod supervised;
mod terminal;
mod tools;
mod transfer;
mod unix_sockets;
mod version0;
mod weight;
mod wins;
mod wire;
