//! What must hold for any bytes on a port that speaks the text protocol.

use kumofs::proto::memcache::Limits;
use kumofs::proto::memcache::text::{Parsed, Then, parse};

/// Small, so that short inputs reach them.
const LIMITS: Limits = Limits { value_bytes: 100, get_line_bytes: 4096 };

/// The parser always gets on or asks for more, stays inside the buffer, and says the same however the bytes arrive.
pub fn fuzz_text(data: &[u8]) {
    let whole = outcomes(data, usize::MAX);
    // A line over the limit is served when it is there to its end and ends the connection when it is not.
    if data.split(|b| *b == b'\n').all(|line| line.len() < Limits::LINE_BYTES) {
        let piece_bytes = 1 + usize::from(data.first().copied().unwrap_or(0) % 16);
        assert_eq!(outcomes(data, piece_bytes), whole, "in pieces of {piece_bytes}");
    }
}

/// What the parser says of a connection's bytes that come `piece_bytes` at a time, as text.
fn outcomes(data: &[u8], piece_bytes: usize) -> Vec<String> {
    let mut outcomes = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut needed = 1;
    while end < data.len() {
        end = end.saturating_add(piece_bytes).min(data.len());
        while end.saturating_sub(start) >= needed {
            let buf = &data[start..end];
            let parsed = parse(buf, &LIMITS);
            let outcome = format!("{parsed:?}");
            let (used, swallow) = match parsed {
                Parsed::Incomplete { needed_bytes } => {
                    assert!(needed_bytes > buf.len(), "more of the same is asked for");
                    needed = needed_bytes;
                    continue;
                }
                Parsed::Request { used_bytes, .. } => (used_bytes, 0),
                Parsed::Refused { used_bytes, then: Then::GoOn, .. } => (used_bytes, 0),
                Parsed::Refused { used_bytes, then: Then::Swallow { bytes, .. }, .. } => (used_bytes, bytes as usize),
                Parsed::Refused { then: Then::Close, .. } => {
                    outcomes.push(outcome);
                    return outcomes;
                }
            };
            assert!(used > 0 && used <= buf.len());
            outcomes.push(outcome);
            start += used + swallow;
            needed = 1;
        }
    }
    outcomes
}

/// Every command in some of its forms, and lines that are almost one.
pub fn seeds() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 16] = [
        b"get a\r\nget a b c\r\ngets a b\r\n",
        b"gat 10 a\r\ngats -1 a b\r\n",
        b"set a 1 0 3\r\nabc\r\n",
        b"set a 4294967295 -1 0 noreply\r\n\r\nadd b 0 2592001 1\r\nx\r\n",
        b"replace a 0 0 2\r\nxy\r\nappend a 0 0 1\r\nz\r\nprepend a 0 0 1\r\nw\r\n",
        b"cas a 0 0 1 18446744073709551615\r\nx\r\ncas a 0 0 1 0 noreply\r\nx\r\n",
        b"delete a\r\ndelete a 0\r\ndelete a noreply\r\ndelete a 0 noreply\r\n",
        b"incr a 1\r\ndecr a 18446744073709551615 noreply\r\n",
        b"touch a 100\r\ntouch a -1 noreply\r\n",
        b"flush_all\r\nflush_all 10\r\nflush_all noreply\r\nflush_all -1 noreply\r\n",
        b"stats\r\nstats items\r\nstats reset\r\nversion\r\nverbosity 1\r\nverbosity 1 noreply\r\nquit\r\n",
        b"set a 0 0 101\r\n0123456789012345678901234567890123456789\r\n",
        b"set a 0 0 3\r\nabcd\r\nset a 0 0 3\r\nab\r\n",
        b"set kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk 0 0 -1\r\nset a b c d\r\nset a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\n \r\nget\0a\r\nget \t\r\n\x80\xff\r\n",
    ];
    lines.iter().map(|line| line.to_vec()).collect()
}
