//! Large values in parts, so that nothing else on a link waits for all of one.

use super::super::frame::write_request;
use super::super::msgpack::{DecodeError, Reader, write_array, write_raw, write_raw_head, write_uint};
use super::method;
use crate::logic::clock::ClockTime;

/// Bytes of a part; the last one of a value may have fewer.
pub const PART_BYTES: usize = if cfg!(feature = "sim") { 100 } else { 128 << 10 };
/// Parts of a value that are on their way at a time: more would keep what else a worker has to do waiting for longer.
pub const PARTS_AT_ONCE: usize = 2;

/// How long the dbval of an entry of [`method::REPLICATE`] is that came in parts. No record is so long.
pub const STAND_IN_LEN: usize = 9;

/// What such an entry has in place of the dbval: its version, and a zero byte.
pub fn stand_in(version: ClockTime) -> [u8; STAND_IN_LEN] {
    let mut bytes = [0; STAND_IN_LEN];
    bytes[..8].copy_from_slice(&version.0.to_be_bytes());
    bytes
}

/// Parameters of [`method::PART`]: `[id, dbkey, length of the dbval, from, bytes]`.
///
/// The receiver keeps one value of each connection. The part from 0 begins a new one; each other one begins where the one before
/// ended. A later [`method::MUTATE`] with the sequence `id`, the dbkey and an empty dbval takes it, or an entry of
/// [`method::REPLICATE`] with the dbkey, whose dbval stands in for it and has that version ([`stand_in`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// The sequence or version of what is to take it.
    pub id: u64,
    /// The key.
    pub dbkey: &'a [u8],
    /// The length of the dbval.
    pub len: usize,
    /// Where in it this part begins.
    pub from: usize,
    /// The part.
    pub bytes: &'a [u8],
}

impl<'a> Part<'a> {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        self.write_head(out, msgid, self.bytes.len());
        out.extend_from_slice(self.bytes);
    }

    /// Appends the request without its last `bytes_len` bytes, the part itself.
    pub fn write_head(&self, out: &mut Vec<u8>, msgid: u32, bytes_len: usize) {
        write_request(out, msgid, method::PART);
        write_array(out, 5);
        write_uint(out, self.id);
        write_raw(out, self.dbkey);
        write_uint(out, self.len as u64);
        write_uint(out, self.from as u64);
        write_raw_head(out, bytes_len);
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are none, or the part does not lie in the value.
    pub fn read(params: &'a [u8]) -> Result<Part<'a>, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(5)?;
        let (id, dbkey) = (r.u64()?, r.raw()?);
        let (len, from, bytes) = (length(&mut r)?, length(&mut r)?, r.raw()?);
        if bytes.is_empty() || from.checked_add(bytes.len()).is_none_or(|end| end > len) {
            return Err(DecodeError::Type);
        }
        Ok(Part { id, dbkey, len, from, bytes })
    }
}

fn length(r: &mut Reader<'_>) -> Result<usize, DecodeError> {
    usize::try_from(r.u64()?).map_err(|_| DecodeError::Type)
}

/// Parameters of [`method::GET_PART`]: `[dbkey, version, from, length]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetPart<'a> {
    /// The key.
    pub dbkey: &'a [u8],
    /// The version that its value had when it was asked for.
    pub version: u64,
    /// Where in the dbval the part begins.
    pub from: usize,
    /// Its length, [`PART_BYTES`] at most.
    pub len: usize,
}

impl<'a> GetPart<'a> {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::GET_PART);
        write_array(out, 4);
        write_raw(out, self.dbkey);
        write_uint(out, self.version);
        write_uint(out, self.from as u64);
        write_uint(out, self.len as u64);
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are none.
    pub fn read(params: &'a [u8]) -> Result<GetPart<'a>, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(4)?;
        let (dbkey, version) = (r.raw()?, r.u64()?);
        let (from, len) = (length(&mut r)?, length(&mut r)?);
        if len > PART_BYTES {
            return Err(DecodeError::Type);
        }
        Ok(GetPart { dbkey, version, from, len })
    }
}

/// What [`method::GET`] answers about a large value: `[version, length of the dbval]`. The parts are to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InParts {
    /// Its version.
    pub version: u64,
    /// The length of its dbval.
    pub len: usize,
}

impl InParts {
    /// Appends the result.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_array(out, 2);
        self.write_numbers(out);
    }

    /// Appends the two numbers alone.
    pub fn write_numbers(&self, out: &mut Vec<u8>) {
        write_uint(out, self.version);
        write_uint(out, self.len as u64);
    }

    /// Reads the two numbers alone.
    ///
    /// # Errors
    /// When they are none.
    pub fn read_numbers(r: &mut Reader<'_>) -> Result<InParts, DecodeError> {
        Ok(InParts { version: r.u64()?, len: length(r)? })
    }

    /// Reads the result.
    ///
    /// # Errors
    /// When it is another.
    pub fn read(result: &[u8]) -> Result<InParts, DecodeError> {
        let mut r = Reader::new(result);
        r.array_of(2)?;
        InParts::read_numbers(&mut r)
    }
}
