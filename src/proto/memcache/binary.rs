//! The binary protocol: packets with a head of 24 bytes.
//!
//! Source: memcached's protocol_binary.h, and memcached 1.6.18 as it behaves. [`parse`] decides nothing but the form.
//! Lengths are checked before anything else of a packet is waited for: what is wrong by its head alone is told at once,
//! and closes the connection where memcached closes it. Keys may hold any bytes.

mod encode;
#[cfg(test)]
mod tests;

pub use encode::{encode, value_head};

use super::text::{Parsed, StaleKey, Then};
use super::{Create, Detail, Keys, Limits, Request, StatsTopic, Trouble, Verb};
use crate::logic::counter::Direction;

/// The first byte of every request; of no command of the text protocol.
pub const MAGIC: u8 = 0x80;
/// The first byte of every answer.
const ANSWER_MAGIC: u8 = 0x81;
/// Bytes before extras, key and data.
const HEAD_BYTES: usize = 24;
/// The expiry with which increment and decrement create nothing.
const CREATE_NOTHING: u32 = u32::MAX;

/// The commands, by number. A quiet twin is answered only where something else than the usual happened.
mod opcode {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const FLUSH: u8 = 0x08;
    pub const GETQ: u8 = 0x09;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const GETKQ: u8 = 0x0d;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const SETQ: u8 = 0x11;
    pub const ADDQ: u8 = 0x12;
    pub const REPLACEQ: u8 = 0x13;
    pub const DELETEQ: u8 = 0x14;
    pub const INCREMENTQ: u8 = 0x15;
    pub const DECREMENTQ: u8 = 0x16;
    pub const QUITQ: u8 = 0x17;
    pub const FLUSHQ: u8 = 0x18;
    pub const APPENDQ: u8 = 0x19;
    pub const PREPENDQ: u8 = 0x1a;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d;
    pub const GATQ: u8 = 0x1e;
    pub const SASL_LIST: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const GATK: u8 = 0x23;
    pub const GATKQ: u8 = 0x24;
}

/// What of a request's head its answer repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The command's number.
    pub opcode: u8,
    /// The client's own, in the order of its bytes.
    pub opaque: [u8; 4],
}

impl Head {
    /// Whether a quit is answered before the connection is closed.
    pub fn answers_quit(self) -> bool {
        self.opcode == opcode::QUIT
    }

    /// The loud twin of the command.
    fn loud(self) -> u8 {
        use opcode::*;
        match self.opcode {
            GETQ => GET,
            GETKQ => GETK,
            GATQ => GAT,
            GATKQ => GATK,
            SETQ => SET,
            ADDQ => ADD,
            REPLACEQ => REPLACE,
            DELETEQ => DELETE,
            INCREMENTQ => INCREMENT,
            DECREMENTQ => DECREMENT,
            QUITQ => QUIT,
            FLUSHQ => FLUSH,
            APPENDQ => APPEND,
            PREPENDQ => PREPEND,
            other => other,
        }
    }

    /// Whether the usual outcome is not answered: of a retrieval the miss, of anything else the success.
    fn is_quiet(self) -> bool {
        self.loud() != self.opcode
    }
}

/// A request's head and its lengths.
struct Packet {
    head: Head,
    key_len: usize,
    extras_len: usize,
    body_len: usize,
    cas: u64,
}

impl Packet {
    fn read(bytes: &[u8; HEAD_BYTES]) -> Packet {
        let &[_, opcode, k0, k1, extras_len, _, _, _, b0, b1, b2, b3, o0, o1, o2, o3, ..] = bytes;
        let mut cas = [0; 8];
        cas.copy_from_slice(&bytes[16..]);
        Packet {
            head: Head { opcode, opaque: [o0, o1, o2, o3] },
            key_len: u16::from_be_bytes([k0, k1]).into(),
            extras_len: extras_len.into(),
            body_len: u32::from_be_bytes([b0, b1, b2, b3]) as usize,
            cas: u64::from_be_bytes(cas),
        }
    }

    /// Bytes behind extras and key.
    fn data_len(&self) -> usize {
        self.body_len - self.extras_len - self.key_len
    }

    /// Whether the lengths are what the command has; `None`: there is no such command.
    fn is_well_formed(&self) -> Option<bool> {
        use opcode::*;
        let (key, no_data) = (self.key_len > 0, self.data_len() == 0);
        Some(match (self.head.loud(), self.extras_len) {
            (GET | GETK | DELETE, extras) => extras == 0 && key && no_data,
            (SET | ADD | REPLACE, extras) => extras == 8 && key,
            (INCREMENT | DECREMENT, extras) => extras == 20 && key && no_data,
            (APPEND | PREPEND, extras) => extras == 0 && key,
            (TOUCH | GAT | GATK, extras) => extras == 4 && key && no_data,
            (QUIT | NOOP | VERSION, extras) => extras == 0 && !key && no_data,
            (SASL_LIST, 0) if !key && no_data => return None,
            (SASL_AUTH | SASL_STEP, 0) if key => return None,
            (SASL_LIST | SASL_AUTH | SASL_STEP, _) => false,
            (FLUSH, extras) => matches!(extras, 0 | 4) && !key && no_data,
            (STAT, extras) => extras == 0 && no_data,
            _ => return None,
        })
    }
}

/// Parses the first packet in `buf`, and returns with it what its answer repeats.
pub fn parse<'a>(buf: &'a [u8], limits: &Limits) -> (Head, Parsed<'a>) {
    let refused = |head, reply, used_bytes, then| (head, Parsed::Refused { reply, used_bytes, then });
    if buf.first().is_some_and(|first| *first != MAGIC) {
        return refused(Head::default(), None, buf.len(), Then::Close);
    }
    let Some(bytes) = buf.first_chunk() else {
        return (Head::default(), Parsed::Incomplete { needed_bytes: HEAD_BYTES });
    };
    let packet = Packet::read(bytes);
    let head = packet.head;
    let close = |trouble| refused(head, Some(trouble), buf.len(), Then::Close);
    if packet.extras_len + packet.key_len > packet.body_len {
        return close(Trouble::NoCommand);
    }
    if packet.key_len > limits.key_bytes {
        return close(Trouble::BadFormat);
    }
    match packet.is_well_formed() {
        None => {
            // memcached takes key and extras of what it does not know for read twice, and loses its place in the stream.
            let then = Then::Swallow { bytes: packet.body_len as u64, stale_key: None };
            return refused(head, Some(Trouble::NoCommand), HEAD_BYTES, then);
        }
        Some(false) => return close(Trouble::BadFormat),
        Some(true) => {}
    }
    let data_at = HEAD_BYTES + packet.extras_len + packet.key_len;
    let too_large = packet.data_len() > limits.value_bytes;
    let used_bytes = if too_large { data_at } else { HEAD_BYTES + packet.body_len };
    let Some(body) = buf.get(HEAD_BYTES..used_bytes) else {
        return (head, Parsed::Incomplete { needed_bytes: used_bytes });
    };
    let (extras, rest) = body.split_at(packet.extras_len);
    let (key, data) = rest.split_at(packet.key_len);
    if too_large {
        // What was to be replaced would be wrong to serve.
        let stale_key = (head.loud() == opcode::SET).then_some(StaleKey { key, base64: false });
        let then = Then::Swallow { bytes: packet.data_len() as u64, stale_key };
        return refused(head, Some(Trouble::TooLarge), used_bytes, then);
    }
    (head, Parsed::Request { request: request(&packet, extras, key, data), used_bytes })
}

/// What a stat is about. memcached compares these names as far as they go and the others whole, and has no `conns` here.
fn stats_topic(key: &[u8]) -> StatsTopic {
    const BY_BEGIN: [(&[u8], StatsTopic); 5] = [
        (b"reset", StatsTopic::Reset),
        (b"settings", StatsTopic::Settings),
        (b"detail on", StatsTopic::Detail(Detail::On)),
        (b"detail off", StatsTopic::Detail(Detail::Off)),
        (b"detail dump", StatsTopic::Detail(Detail::Dump)),
    ];
    let topic = BY_BEGIN.iter().find(|(name, _)| key.starts_with(name)).map(|(_, topic)| *topic);
    match topic.or_else(|| StatsTopic::named(key)) {
        None | Some(StatsTopic::Conns) => StatsTopic::Other,
        Some(topic) => topic,
    }
}

/// The number at a place in the extras, whose length was checked.
fn be32(extras: &[u8], at: usize) -> u32 {
    extras.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn be64(extras: &[u8], at: usize) -> u64 {
    extras.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// An exptime; its 32 bits have no sign, as in memcached.
fn exptime(extras: &[u8], at: usize) -> i64 {
    i64::from(be32(extras, at))
}

/// The request of a packet whose lengths are right.
fn request<'a>(packet: &Packet, extras: &[u8], key: &'a [u8], data: &'a [u8]) -> Request<'a> {
    use opcode::*;
    let (cas, noreply) = (packet.cas, false);
    let loud = packet.head.loud();
    match loud {
        SET | ADD | REPLACE => {
            let verb = match (cas, loud) {
                (0, SET) => Verb::Set,
                (0, ADD) => Verb::Add,
                (0, _) => Verb::Replace,
                (unique, _) => Verb::Cas(unique),
            };
            let (flags, exptime) = (be32(extras, 0), exptime(extras, 4));
            Request::Store { verb, key, flags, exptime, data, cas: 0, noreply }
        }
        APPEND | PREPEND => {
            let verb = if loud == APPEND { Verb::Append } else { Verb::Prepend };
            Request::Store { verb, key, flags: 0, exptime: 0, data, cas, noreply }
        }
        DELETE => Request::Delete { key, cas, noreply },
        INCREMENT | DECREMENT => {
            let direction = if loud == INCREMENT { Direction::Up } else { Direction::Down };
            let create = Create { initial: be64(extras, 8), exptime: exptime(extras, 16) };
            let create = (be32(extras, 16) != CREATE_NOTHING).then_some(create);
            Request::Count { direction, key, delta: be64(extras, 0), cas, create, noreply }
        }
        TOUCH | GAT | GATK => {
            let exptime = exptime(extras, 0);
            Request::GetAndTouch { exptime, keys: Keys::one(key), with_cas: true }
        }
        FLUSH => Request::FlushAll { delay: exptime(extras, 0), noreply },
        STAT => Request::Stats(stats_topic(key)),
        QUIT => Request::Quit,
        NOOP => Request::Noop,
        VERSION => Request::Version,
        _ => Request::Get { keys: Keys::one(key), with_cas: true },
    }
}
