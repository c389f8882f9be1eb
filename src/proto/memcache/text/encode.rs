//! Replies as text lines.

use crate::logic::decimal;
use crate::proto::memcache::Reply;

/// Appends `reply` to `out`.
pub fn encode(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let line: &[u8] = match *reply {
        Reply::Value { key, flags, cas, data } => return value(key, flags, cas, data, out),
        Reply::Stat { name, value } => return words(&[b"STAT", name.as_bytes(), value.as_bytes()], out),
        Reply::Version(version) => return words(&[b"VERSION", version.as_bytes()], out),
        Reply::Number(number) => {
            decimal::write(number, out);
            b"\r\n"
        }
        Reply::Noop => b"MN\r\n",
        Reply::End => b"END\r\n",
        Reply::Stored => b"STORED\r\n",
        Reply::NotStored => b"NOT_STORED\r\n",
        Reply::Exists => b"EXISTS\r\n",
        Reply::NotFound => b"NOT_FOUND\r\n",
        Reply::Deleted => b"DELETED\r\n",
        Reply::Touched => b"TOUCHED\r\n",
        Reply::Ok => b"OK\r\n",
        Reply::Reset => b"RESET\r\n",
        Reply::Trouble(trouble) => trouble.line(),
    };
    out.extend_from_slice(line);
}

fn value(key: &[u8], flags: u32, cas: Option<u64>, data: &[u8], out: &mut Vec<u8>) {
    const NUMBERS_AND_ENDS: usize = 64;
    out.reserve(key.len() + data.len() + NUMBERS_AND_ENDS);
    value_head(key, flags, cas, data.len(), out);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends what stands before the data of a value of `len` bytes. The data and a line end follow.
#[inline]
pub fn value_head(key: &[u8], flags: u32, cas: Option<u64>, len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    decimal::write(u64::from(flags), out);
    out.push(b' ');
    decimal::write(len as u64, out);
    if let Some(cas) = cas {
        out.push(b' ');
        decimal::write(cas, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn words(words: &[&[u8]], out: &mut Vec<u8>) {
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}
