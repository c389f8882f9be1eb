//! What memcached clients speak: requests, replies, and the dialects that carry them.
//!
//! [`Request`] and [`Reply`] belong to no dialect; a gateway executes the one and makes the other. [`text`] is the
//! classic text protocol, [`binary`] the packets of the binary one, [`style`] the way that a command is answered. Dialects
//! differ in the first byte of a command (the binary one starts with 0x80; [`meta`]
//! commands are text lines whose first word is `m` and one letter), so that one port can take them all. What is
//! answered how, and where it differs from memcached 1.6, is in `doc/memcached.md`.

pub mod binary;
pub mod meta;
mod reply;
mod request;
pub mod style;
pub mod text;

pub use meta::Meta;
pub use reply::{Reply, Trouble};
pub use request::{Create, Detail, Keys, Request, StatsTopic, Verb};
pub use style::Style;

use crate::logic::record::MAX_KEY_LEN;

/// What a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most bytes of data in a value; at most [`Limits::MAX_VALUE_BYTES`].
    pub value_bytes: usize,
    /// Most bytes of a retrieval's line (get, gets, gat, gats) that is waited for. memcached sets none; ours bounds
    /// what a client can make us keep, at about 4,000 of the longest keys.
    pub get_line_bytes: usize,
    /// Longest key in bytes: [`Limits::KEY_BYTES`], less what the operator puts before every key.
    pub key_bytes: usize,
}

impl Limits {
    /// Longest key in bytes with all that is put before it, as in memcached.
    pub const KEY_BYTES: usize = MAX_KEY_LEN;
    /// Most bytes of any other command line that is waited for, as in memcached.
    pub const LINE_BYTES: usize = 2048;
    /// The largest `value_bytes` that the rest of the system is made for.
    pub const MAX_VALUE_BYTES: usize = 128 << 20;
}

impl Limits {
    /// Whether a key may be so in a text command. Bytes that control terminals are nobody's wish there, although memcached takes
    /// them; binary and base64 keys may hold them.
    #[inline]
    fn allow(&self, key: &[u8]) -> bool {
        key.len() <= self.key_bytes && !has_controls(key)
    }
}

/// Whether one of the bytes is a control character. All are looked at, several at once, because hardly ever one is.
#[inline]
fn has_controls(text: &[u8]) -> bool {
    text.iter().fold(false, |found, byte| found | byte.is_ascii_control())
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { value_bytes: 1 << 20, get_line_bytes: 1 << 20, key_bytes: Limits::KEY_BYTES }
    }
}
