//! Bytes to messages and back, knowing nothing of sockets.
//!
//! Parsers take a slice and say how much of it they used; every prefix of a valid message is incomplete, never an
//! error; every limit is the parser's. [`memcache`] is what clients speak, [`rpc`] what nodes and tools do,
//! [`binlog`] what the binary log holds.

pub mod binlog;
pub mod memcache;
pub mod rpc;
