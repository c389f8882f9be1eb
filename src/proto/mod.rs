//! Bytes to messages and back, without I/O: parsers take a slice and say how much of it they used.
//!
//! Every prefix of a valid message is "incomplete", never an error; every limit is the parser's. Start with
//! [`memcache`], what clients speak.

pub mod memcache;
