//! MessagePack-RPC: what nodes and tools say to each other.
//!
//! [`msgpack`] reads and writes values, [`frame`] finds and takes apart messages in a stream of bytes, [`v0`] is what
//! kumofs 0.4.13 speaks, [`v1`] what ours speak beyond it, [`vote`] the part of that about epochs. Source:
//! `doc/protocol.md`.

pub mod frame;
pub mod msgpack;
pub mod settings;
pub mod v0;
pub mod v1;
pub mod vote;

/// Small integers in the error place of a response (`doc/protocol.md`, "Encoding").
pub mod error {
    /// Made by the caller: the connection broke before the answer.
    pub const TRANSPORT_LOST: u32 = 1;
    /// Made by the caller: the node is taken for dead.
    pub const NODE_LOST: u32 = 2;
    /// Made by the caller: no answer in time.
    pub const TIMEOUT: u32 = 3;
    /// Anything else. To Mutate: the server executed it, but is no longer the one to know what becomes of it.
    pub const UNKNOWN: u32 = 4;
    /// Unknown method, wrong types.
    pub const PROTOCOL: u32 = 5;
    /// Refused: not ready, obsolete hash space, not the one responsible.
    pub const SERVER: u32 = 6;
    /// Version 1 only: the disk is full; nothing was changed.
    pub const NO_SPACE: u32 = 7;
}
