//! Sockets and threads: where bytes meet the operating system.
//!
//! A worker is one thread with its own event loop ([`cores`]). Each connection has a task that reads ([`conn`]); what
//! the tasks of a turn produce is finished and written by one more, once ([`turn`]). No channel, lock or
//! task is spent on a single command.
//!
//! [`listen`] turns what operators write into addresses and listeners. [`rpc`] is the control plane's connection: one
//! that may allocate and may start a task for each request, unlike the hot path's.

pub mod conn;
pub mod cores;
pub mod listen;
pub mod rpc;
pub mod time;
pub mod turn;
