//! Messages in a stream of bytes.
//!
//! A [`Scanner`] takes the next message from the bytes that have come, in one walk: one that arrives in many pieces is walked to
//! where the bytes end, and on from there when there are more. Parameters and results stay slices.

use super::msgpack::{DecodeError, Reader, write_array, write_nil, write_uint};
use crate::logic::address::Address;

/// Longest message in bytes: the largest value (128 MiB) and room for what surrounds it.
pub const MAX_FRAME: usize = (128 << 20) + (1 << 20);

/// Role numbers in the hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// 0
    Manager,
    /// 1
    Server,
}

impl Role {
    /// As the hello carries it.
    pub fn number(self) -> u8 {
        match self {
            Role::Manager => 0,
            Role::Server => 1,
        }
    }
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// `[0, msgid, method, params]`
    Request {
        /// Echoed by the response.
        msgid: u32,
        /// version << 16 | id
        method: u32,
        /// The parameters, an array, still encoded.
        params: &'a [u8],
    },
    /// `[1, msgid, error, result]`
    Response {
        /// Of the request.
        msgid: u32,
        /// The error number, or why there is none to tell.
        error: Option<u32>,
        /// The result, still encoded.
        result: &'a [u8],
    },
    /// `[2, address, role]`, the first message between nodes
    Hello {
        /// How the sender is reached.
        address: Address,
        /// What it is.
        role: Role,
    },
}

/// Why a stream of bytes cannot be a stream of messages; the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a message longer than {MAX_FRAME} bytes")]
    TooLong,
    /// Not MessagePack, or not one of the message forms.
    #[error("not a MessagePack-RPC message")]
    Malformed,
}

impl From<DecodeError> for FrameError {
    fn from(_: DecodeError) -> FrameError {
        FrameError::Malformed
    }
}

/// Finds the messages in a stream of bytes.
#[derive(Clone, Debug)]
pub struct Scanner {
    position: usize,
    values_left: usize,
    needed: usize,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner { position: 0, values_left: 1, needed: 0 }
    }
}

impl Scanner {
    /// The message that starts at `bytes[0]`, and its length; then it is ready for the one behind that. `None`: more bytes are
    /// needed, and the next ones must begin with these.
    #[inline]
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        // One that is there as a whole, as most are, is walked without remembering how far.
        if self.position == 0
            && let Ok(message) = Reader::new(bytes).skip()
            && message.len() <= MAX_FRAME
        {
            return Ok(Some((parse(message)?, message.len())));
        }
        let Some(len) = self.advance(bytes)? else { return Ok(None) };
        *self = Scanner::default();
        Ok(Some((parse(&bytes[..len])?, len)))
    }

    /// The length of the message that starts at `bytes[0]`, or `None` when more bytes are needed. `bytes` must begin
    /// with what earlier calls saw. Start a new one for each message.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        // The first byte tells rubbish at once, before much of it is waited for.
        if self.position == 0 && bytes.first().is_some_and(|tag| !matches!(tag, 0x93 | 0x94 | 0xdc | 0xdd)) {
            return Err(FrameError::Malformed);
        }
        while self.values_left > 0 {
            let mut reader = Reader::new(bytes.get(self.position..).unwrap_or_default());
            let before = reader.rest().len();
            match reader.head_and_bytes() {
                Ok(children) => {
                    self.position += before - reader.rest().len();
                    self.values_left = (self.values_left - 1).saturating_add(children);
                }
                Err(Short::NeedAtLeast(n)) => {
                    self.needed = self.position.saturating_add(n);
                    return if self.needed > MAX_FRAME { Err(FrameError::TooLong) } else { Ok(None) };
                }
                Err(Short::Malformed) => return Err(FrameError::Malformed),
            }
            // Every value still to come has at least one byte.
            if self.position.saturating_add(self.values_left) > MAX_FRAME {
                return Err(FrameError::TooLong);
            }
        }
        Ok(Some(self.position))
    }

    /// How many bytes the message has at least, as far as was seen.
    pub fn needed(&self) -> usize {
        self.needed
    }
}

enum Short {
    NeedAtLeast(usize),
    Malformed,
}

impl Reader<'_> {
    fn head_and_bytes(&mut self) -> Result<usize, Short> {
        let saved = self.clone();
        match self.skip_head() {
            Ok(children) => Ok(children),
            Err(DecodeError::Type) => Err(Short::Malformed),
            Err(DecodeError::Incomplete) => {
                let mut peek = saved;
                let before = peek.rest().len();
                let needed = match peek.head() {
                    Ok(super::msgpack::Head::Raw(len)) => before - peek.rest().len() + len,
                    Ok(super::msgpack::Head::Ext(len)) => before - peek.rest().len() + len + 1,
                    _ => before + 1,
                };
                Err(Short::NeedAtLeast(needed))
            }
        }
    }
}

/// Takes apart a message that is one whole value, as the [`Scanner`] found it. A response's error that is no small integer counts
/// as [`super::error::UNKNOWN`].
pub fn parse(message: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut r = Reader::new(message);
    let len = r.array()?;
    match (r.u64()?, len) {
        (0, 4) => {
            let (msgid, method) = (r.u32()?, r.u32()?);
            let params = r.rest();
            Reader::new(params).array()?;
            Ok(Frame::Request { msgid, method, params })
        }
        (1, 4) => {
            let msgid = r.u32()?;
            let error = r.skip()?;
            let error = match error {
                [0xc0] => None,
                other => Some(Reader::new(other).u32().unwrap_or(super::error::UNKNOWN)),
            };
            Ok(Frame::Response { msgid, error, result: r.rest() })
        }
        (2, 3) => {
            let address = Address::from_bytes(r.raw()?).ok_or(FrameError::Malformed)?;
            let role = match r.u64()? {
                0 => Role::Manager,
                1 => Role::Server,
                _ => return Err(FrameError::Malformed),
            };
            Ok(Frame::Hello { address, role })
        }
        _ => Err(FrameError::Malformed),
    }
}

/// Appends a hello.
pub fn write_hello(out: &mut Vec<u8>, address: Address, role: Role) {
    write_array(out, 3);
    write_uint(out, 2);
    super::msgpack::write_raw(out, &address.to_bytes());
    write_uint(out, u64::from(role.number()));
}

/// Appends the head of a request; the caller appends the parameters, an array.
#[inline]
pub fn write_request(out: &mut Vec<u8>, msgid: u32, method: u32) {
    out.extend_from_slice(&[0x94, 0]);
    write_uint(out, u64::from(msgid));
    write_uint(out, u64::from(method));
}

/// Appends the head of a successful response; the caller appends the result.
#[inline]
pub fn write_success(out: &mut Vec<u8>, msgid: u32) {
    out.extend_from_slice(&[0x94, 1]);
    write_uint(out, u64::from(msgid));
    out.push(0xc0);
}

/// Appends a whole response that tells an error and nothing else.
pub fn write_error(out: &mut Vec<u8>, msgid: u32, error: u32) {
    write_error_head(out, msgid, error);
    write_nil(out);
}

/// Appends the head of a response that tells an error; the caller appends the result.
pub fn write_error_head(out: &mut Vec<u8>, msgid: u32, error: u32) {
    out.extend_from_slice(&[0x94, 1]);
    write_uint(out, u64::from(msgid));
    write_uint(out, u64::from(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        Scanner::default().advance(bytes)
    }

    #[test]
    fn the_golden_hello_is_written_and_read() {
        let address = Address::new("127.0.0.1:19801".parse().unwrap());
        let mut out = Vec::new();
        write_hello(&mut out, address, Role::Server);
        assert_eq!(out, [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1]);
        assert_eq!(parse(&out), Ok(Frame::Hello { address, role: Role::Server }));
    }

    #[test]
    fn every_prefix_of_a_message_is_incomplete_and_one_scanner_goes_on() {
        let mut out = Vec::new();
        write_request(&mut out, 70_000, 35);
        write_array(&mut out, 3);
        write_uint(&mut out, 0);
        super::super::msgpack::write_raw(&mut out, &[b'k'; 40]);
        super::super::msgpack::write_raw(&mut out, &[b'v'; 300]);
        let mut scanner = Scanner::default();
        for cut in 0..out.len() {
            assert_eq!(scan(&out[..cut]), Ok(None), "cut at {cut}");
            assert_eq!(scanner.advance(&out[..cut]), Ok(None), "cut at {cut}");
        }
        let whole = out.len();
        out.extend_from_slice(b"next");
        assert_eq!(scanner.advance(&out), Ok(Some(whole)));
    }

    #[test]
    fn huge_lengths_are_refused_before_they_arrive() {
        assert_eq!(scan(&[0x94, 0, 0, 0, 0xdb, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::TooLong));
        assert_eq!(scan(&[0x94, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::TooLong));
        assert_eq!(scan(&[0x94, 0, 0, 0, 0xdf, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::TooLong));
    }

    #[test]
    fn rubbish_is_malformed_at_its_first_byte() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\n"), Err(FrameError::Malformed));
        assert_eq!(scan(b"\xc1"), Err(FrameError::Malformed));
        assert_eq!(scan(b""), Ok(None));
    }

    #[test]
    fn errors_that_are_no_numbers_are_unknown() {
        let response = [0x94, 1, 7, 0xa1, b'x', 0xc0];
        let expected = Frame::Response { msgid: 7, error: Some(super::super::error::UNKNOWN), result: &[0xc0] };
        assert_eq!(parse(&response), Ok(expected));
    }
}
