//! Answers to meta commands.

use super::{Command, Form, base64, flags_of};
use crate::logic::decimal;
use crate::logic::expiry::{NEVER, is_gone};
use crate::proto::memcache::Reply;
use crate::proto::rpc::v1::told;

/// What an answer may tell of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The client's own.
    pub flags: u32,
    /// The cas unique.
    pub cas: u64,
    /// Bytes of the data.
    pub len: usize,
    /// When it expires, and when it did before the command; UNIX seconds, 0 never.
    pub expiry: u32,
    /// The same, before the command.
    pub expiry_before: u32,
    /// Bits of [`told`].
    pub bits: u8,
    /// What `T` and `N` of the command made of the expiry.
    pub expiry_of_t: u32,
    /// See there.
    pub expiry_of_n: u32,
    /// Since when it is what it is, UNIX seconds.
    pub since_secs: u64,
    /// The time now, UNIX seconds.
    pub now_secs: u64,
}

/// Appends the answer to a command with `flags` and the real `key`: with what was seen and its data, or a reply without.
pub fn encode(
    form: Form,
    flags: &[u8],
    key: &[u8],
    reply: &Reply<'_>,
    seen: Option<&Seen>,
    data: &[u8],
    out: &mut Vec<u8>,
) {
    if encode_head(form, flags, key, reply, seen, data.len(), out) {
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// The same without the data, which has `len` bytes; true when that and the end of a line have to follow.
pub fn encode_head(
    form: Form,
    flags: &[u8],
    key: &[u8],
    reply: &Reply<'_>,
    seen: Option<&Seen>,
    len: usize,
    out: &mut Vec<u8>,
) -> bool {
    let (status, is_usual): (&[u8], bool) = match reply {
        Reply::Trouble(trouble) => {
            out.extend_from_slice(trouble.line());
            return false;
        }
        Reply::End if form.command == Command::Get || form.command == Command::Debug => (b"EN", true),
        Reply::NotFound | Reply::End => (b"NF", false),
        Reply::Exists => (b"EX", false),
        Reply::NotStored => (b"NS", false),
        _ => (b"HD", form.command != Command::Get),
    };
    let created = seen.is_some_and(|seen| seen.bits & told::CREATED != 0);
    // memcached answers a number that it made, quiet or not.
    if form.quiet && is_usual && !(form.command == Command::Arithmetic && created) {
        return false;
    }
    if form.command == Command::Debug {
        debug(form, key, status, seen, out);
        return false;
    }
    let value = seen.is_some() && form.tells_value();
    if value {
        out.extend_from_slice(b"VA ");
        decimal::write(len as u64, out);
    } else {
        out.extend_from_slice(status);
    }
    let mut expiry = seen.map_or(NEVER, |seen| seen.expiry_before);
    for (letter, token) in flags_of(flags) {
        match (letter, seen) {
            (b'O', _) => {
                out.extend_from_slice(b" O");
                out.extend_from_slice(token);
            }
            (b'k', _) => {
                out.extend_from_slice(b" k");
                write_key(form, key, out);
            }
            (b'T', Some(seen)) => expiry = seen.expiry_of_t,
            (b'N', Some(seen)) if created => expiry = seen.expiry_of_n,
            (b'c', Some(seen)) if form.command != Command::Delete => number(b" c", seen.cas, out),
            (b't', Some(seen)) if matches!(form.command, Command::Get | Command::Arithmetic) => {
                time_left(expiry, seen.now_secs, out);
            }
            (letter, Some(seen)) if form.command == Command::Get => match letter {
                b's' => number(b" s", seen.len as u64, out),
                b'f' => number(b" f", seen.flags.into(), out),
                // Nothing is written down when a value is read.
                b'l' => number(b" l", seen.now_secs.saturating_sub(seen.since_secs), out),
                b'h' => out.extend_from_slice(b" h0"),
                _ => {}
            },
            (b'c', None) if form.command == Command::Set => out.extend_from_slice(b" c0"),
            _ => {}
        }
    }
    if form.command == Command::Get
        && let Some(seen) = seen
    {
        for (bit, letter) in [(told::SENT, b" Z"), (told::STALE, b" X"), (told::WON, b" W")] {
            if seen.bits & bit != 0 {
                out.extend_from_slice(letter);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    value
}

fn number(name: &[u8], number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    decimal::write(number, out);
}

/// The seconds that are left; -1 for ever.
fn time_left(expiry: u32, now_secs: u64, out: &mut Vec<u8>) {
    if expiry == NEVER {
        out.extend_from_slice(b" t-1");
    } else {
        number(b" t", u64::from(expiry).saturating_sub(now_secs), out);
    }
}

fn write_key(form: Form, key: &[u8], out: &mut Vec<u8>) {
    if form.base64 {
        base64::encode(key, out);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
}

fn debug(form: Form, key: &[u8], status: &[u8], seen: Option<&Seen>, out: &mut Vec<u8>) {
    let Some(seen) = seen.filter(|seen| !is_gone(seen.expiry, seen.now_secs)) else {
        out.extend_from_slice(status);
        return out.extend_from_slice(b"\r\n");
    };
    out.extend_from_slice(b"ME ");
    match form.base64 {
        true => base64::encode(key, out),
        false => out.extend_from_slice(key),
    }
    // As memcached has it: the seconds since it expired, which are fewer than none while it has not.
    out.extend_from_slice(b" exp=-");
    let left = if seen.expiry == NEVER { 1 } else { u64::from(seen.expiry).saturating_sub(seen.now_secs) };
    decimal::write(left, out);
    number(b" la=", seen.now_secs.saturating_sub(seen.since_secs), out);
    number(b" cas=", seen.cas, out);
    out.extend_from_slice(b" fetch=no cls=1");
    number(b" size=", (key.len() + seen.len) as u64, out);
    out.extend_from_slice(b"\r\n");
}
