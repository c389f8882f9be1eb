//! Sockets and threads: where bytes meet the operating system.
//!
//! A worker is one thread with its own event loop ([`cores`]). Each connection has a task that reads ([`conn`]); what
//! the tasks of a turn produce is finished and written by one more, once ([`turn`]). No channel, lock or
//! task is spent on a single command. What is not hot (managers, tools) speaks through [`rpc`]; [`listen`] turns what
//! operators type into addresses and sockets, [`unix`] paths into others; clients come in by any of them ([`front`]); [`dial`]
//! connects. Where cores are scarce, workers let others finish first ([`courtesy`]); where they are idle, they can be kept from
//! sleeping ([`awake`]). What is the system's and no socket library's ([`sock`], [`time`], [`chance`], [`usage`],
//! [`background`], [`cores`]) stands in small modules of its own, for which a simulation puts others.

#[cfg(not(feature = "sim"))]
pub mod awake;
pub mod background;
pub mod chance;
pub mod conn;
pub mod cores;
pub mod courtesy;
pub mod dial;
pub mod front;
pub mod listen;
pub mod pipe;
pub mod rpc;
pub mod settings;
pub mod sock;
pub mod stream;
pub mod time;
pub mod turn;
pub mod unix;
pub mod unread;
pub mod usage;
