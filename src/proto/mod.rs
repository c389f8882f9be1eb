//! Bytes to messages and back, knowing nothing of sockets.
//!
//! Every parser takes a slice, says how many bytes it used, and calls every prefix of a valid message incomplete.

pub mod binlog;
pub mod rpc;
