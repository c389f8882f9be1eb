//! Sockets: what all three roles need to listen, connect and talk.
//!
//! [`listen`] turns what operators write into addresses and listeners. [`rpc`] is the control plane's connection: one
//! that may allocate and may start a task for each request, unlike the hot path's.

pub mod listen;
pub mod rpc;
