//! Sockets and threads: where bytes meet the operating system.
//!
//! A worker is one thread with its own event loop ([`cores`]). Each connection has a task that reads ([`conn`]); what
//! the tasks of a turn produce is finished and written by one more, once ([`turn`]). No channel, lock or
//! task is spent on a single command.

pub mod conn;
pub mod cores;
pub mod time;
pub mod turn;
