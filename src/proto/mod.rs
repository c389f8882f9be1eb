//! Bytes to messages and back, knowing nothing of sockets.
//!
//! Every parser takes a slice, says how many bytes it used, and calls every prefix of a valid message incomplete; every
//! limit is the parser's. [`memcache`] is what clients speak, [`rpc`] what nodes do.

pub mod memcache;
pub mod rpc;
