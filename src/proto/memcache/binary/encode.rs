//! Replies as packets.

use super::{ANSWER_MAGIC, HEAD_BYTES, Head, opcode};
use crate::proto::memcache::{Reply, Trouble};

/// Status numbers, of which memcached has those up to [`status::UNKNOWN_COMMAND`] and `OUT_OF_MEMORY`.
mod status {
    pub const DONE: u16 = 0x00;
    pub const NOT_FOUND: u16 = 0x01;
    pub const EXISTS: u16 = 0x02;
    pub const TOO_LARGE: u16 = 0x03;
    pub const INVALID: u16 = 0x04;
    pub const NOT_STORED: u16 = 0x05;
    pub const NON_NUMERIC: u16 = 0x06;
    pub const UNKNOWN_COMMAND: u16 = 0x81;
    pub const OUT_OF_MEMORY: u16 = 0x82;
    pub const INTERNAL: u16 = 0x84;
    pub const BUSY: u16 = 0x85;
    pub const TEMPORARY: u16 = 0x86;
}

const NOT_FOUND: (u16, &[u8]) = (status::NOT_FOUND, b"Not found");
const EXISTS: (u16, &[u8]) = (status::EXISTS, b"Data exists for key.");
const NOT_STORED: (u16, &[u8]) = (status::NOT_STORED, b"Not stored.");

/// Appends `reply`; see [`super::super::style::encode`].
pub fn encode(head: Head, key: &[u8], reply: &Reply<'_>, cas: u64, out: &mut Vec<u8>) {
    use opcode::*;
    let (loud, quiet) = (head.loud(), head.is_quiet());
    let (status, text) = match *reply {
        Reply::Value { flags, cas, data, .. } => {
            let key = if matches!(loud, GETK | GATK) { key } else { b"" };
            let data = if loud == TOUCH { b"" } else { data };
            return packet(head, status::DONE, &flags.to_be_bytes(), key, data, cas.unwrap_or(0), out);
        }
        Reply::Stat { name, value } => {
            return packet(head, status::DONE, b"", name.as_bytes(), value.as_bytes(), 0, out);
        }
        Reply::Number(_) | Reply::Stored | Reply::Deleted | Reply::Touched | Reply::Ok if quiet => return,
        Reply::Number(number) => return packet(head, status::DONE, b"", b"", &number.to_be_bytes(), cas, out),
        Reply::Version(version) => return packet(head, status::DONE, b"", b"", version.as_bytes(), 0, out),
        // A delete leaves nothing that could have a cas unique.
        Reply::Deleted => return packet(head, status::DONE, b"", b"", b"", 0, out),
        Reply::Stored | Reply::Touched | Reply::Ok | Reply::Reset | Reply::End | Reply::Noop => {
            return packet(head, status::DONE, b"", b"", b"", cas, out);
        }
        // A miss has no text where it has the key.
        Reply::NotFound if matches!(loud, GET | GETK | GAT | GATK) && quiet => return,
        Reply::NotFound if matches!(loud, GETK | GATK) => {
            return packet(head, status::NOT_FOUND, b"", key, b"", 0, out);
        }
        Reply::NotFound => NOT_FOUND,
        Reply::Exists => EXISTS,
        Reply::NotStored if loud == ADD => EXISTS,
        Reply::NotStored if loud == REPLACE => NOT_FOUND,
        Reply::NotStored => NOT_STORED,
        Reply::Trouble(trouble) => of_trouble(trouble),
    };
    packet(head, status, b"", b"", text, 0, out);
}

/// The status of a trouble, and its text: memcached's, and ours for what cannot happen to a single process.
fn of_trouble(trouble: Trouble) -> (u16, &'static [u8]) {
    match trouble {
        Trouble::NoCommand => (status::UNKNOWN_COMMAND, b"Unknown command"),
        Trouble::TooLarge => (status::TOO_LARGE, b"Too large."),
        Trouble::NonNumeric => (status::NON_NUMERIC, b"Non-numeric server-side value for incr or decr"),
        Trouble::NoServer => (status::TEMPORARY, b"no server reachable"),
        Trouble::TryAgain => (status::TEMPORARY, b"cluster is changing, try again"),
        Trouble::NoManager => (status::INTERNAL, b"no manager decided the flush; it may still happen"),
        Trouble::NotServed => (status::INTERNAL, b"not served by kumofs 0.4"),
        Trouble::Unknown => (status::INTERNAL, b"outcome unknown"),
        Trouble::NoSpace => (status::OUT_OF_MEMORY, b"no space left"),
        Trouble::Overloaded => (status::BUSY, b"overloaded, try again"),
        _ => (status::INVALID, b"Invalid arguments"),
    }
}

/// Appends what stands before the data of a value of `len` bytes, given as its key, flags and cas unique. The data follows.
pub fn value_head(head: Head, (key, flags, cas): (&[u8], u32, Option<u64>), len: usize, out: &mut Vec<u8>) {
    let key = if matches!(head.loud(), opcode::GETK | opcode::GATK) { key } else { b"" };
    packet_head(head, status::DONE, &flags.to_be_bytes(), key, len, cas.unwrap_or(0), out);
}

fn packet(head: Head, status: u16, extras: &[u8], key: &[u8], data: &[u8], cas: u64, out: &mut Vec<u8>) {
    out.reserve(HEAD_BYTES + extras.len() + key.len() + data.len());
    packet_head(head, status, extras, key, data.len(), cas, out);
    out.extend_from_slice(data);
}

#[inline]
fn packet_head(head: Head, status: u16, extras: &[u8], key: &[u8], data_len: usize, cas: u64, out: &mut Vec<u8>) {
    let body_len = extras.len() + key.len() + data_len;
    out.extend_from_slice(&[ANSWER_MAGIC, head.opcode]);
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(&[extras.len() as u8, 0]);
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(&(body_len as u32).to_be_bytes());
    out.extend_from_slice(&head.opaque);
    out.extend_from_slice(&cas.to_be_bytes());
    out.extend_from_slice(extras);
    out.extend_from_slice(key);
}
