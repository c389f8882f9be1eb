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
