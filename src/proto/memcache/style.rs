//! How a command is answered: by its dialect, and by what it said about its answer.
//!
//! A style travels with the operation, and [`encode`] is the one place that makes bytes of an answer. A command that is
//! quiet in its dialect keeps its place in the order of answers, and its answer may have no bytes.

use super::{Reply, binary, meta, text};

/// What an answer is to look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Style {
    /// As lines of text.
    #[default]
    Text,
    /// As packets with this head.
    Binary(binary::Head),
    /// As a line of the meta protocol. Its flags travel with the operation: what tells a value is written by
    /// [`meta::encode`], this writes what needs none.
    Meta(meta::Form),
}

/// Appends one answer, or one part of an answer. `cas`: the cas unique that what was written has now, 0 for none.
/// `key`: the command's own.
#[inline]
pub fn encode(style: Style, key: &[u8], reply: &Reply<'_>, cas: u64, out: &mut Vec<u8>) {
    match style {
        Style::Text => text::encode(reply, out),
        Style::Meta(form) => meta::encode(form, b"", key, reply, None, b"", out),
        Style::Binary(head) => binary::encode(head, key, reply, cas, out),
    }
}

impl Style {
    /// Appends what stands before the data of a value of `len` bytes, given as its key, the client's flags and the cas unique. Not
    /// for the meta protocol.
    pub fn write_value_head(self, value: (&[u8], u32, Option<u64>), len: usize, out: &mut Vec<u8>) {
        let (key, flags, cas) = value;
        match self {
            Style::Text | Style::Meta(_) => text::value_head(key, flags, cas, len, out),
            Style::Binary(head) => binary::value_head(head, (key, flags, cas), len, out),
        }
    }

    /// What stands behind the data of the only value of an answer.
    pub fn value_tail(self) -> &'static [u8] {
        match self {
            Style::Text | Style::Meta(_) => b"\r\nEND\r\n",
            Style::Binary(_) => b"",
        }
    }
}
