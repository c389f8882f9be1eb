//! What servers tell each other to find out what one of them lacks: Compare and List. `doc/protocol.md`, "Rejoining".

use super::method;
use crate::logic::clock::ClockTime;
use crate::logic::digest::{Leaves, WINDOW, Window};
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_raw, write_uint};

/// Bytes of a digest in a list.
const DIGEST_LEN: usize = 8;

/// Parameters of [`method::COMPARE`]: `[time, counter, bits, first, [digest...]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// Names the replace.
    pub time: ClockTime,
    /// The sender's logical counter ([`ClockTime::counter`]): no version that it knows of has a higher one.
    pub counter: u32,
    /// The leaves.
    pub window: Window,
    /// One for each.
    pub digests: Vec<u64>,
}

impl Compare {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::COMPARE);
        write_array(out, 5);
        write_uint(out, self.time.0);
        write_uint(out, u64::from(self.counter));
        write_uint(out, u64::from(self.window.leaves.bits()));
        write_uint(out, self.window.first);
        write_array(out, self.digests.len());
        self.digests.iter().for_each(|digest| write_uint(out, *digest));
    }

    /// Reads the parameters.
    pub fn read(params: &[u8]) -> Result<Compare, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(5)?;
        let (time, counter) = (ClockTime(r.u64()?), r.u32()?);
        let window = read_window(&mut r)?;
        r.array_of(window.len as usize)?;
        let digests = (0..window.len).map(|_| r.u64()).collect::<Result<_, _>>()?;
        Ok(Compare { time, counter, window, digests })
    }
}

/// Parameters of [`method::LIST`]: `[time, bits, first, [[place, digests]...]]`, the digests of a leaf's records one behind the
/// other, 8 bytes each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Names the replace.
    pub time: ClockTime,
    /// The leaves that were compared.
    pub window: Window,
    /// Of those that differ, which it is of the window, and the digests of its records.
    pub leaves: Vec<(usize, Vec<u64>)>,
}

impl List {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::LIST);
        write_array(out, 4);
        write_uint(out, self.time.0);
        write_uint(out, u64::from(self.window.leaves.bits()));
        write_uint(out, self.window.first);
        write_array(out, self.leaves.len());
        for (place, digests) in &self.leaves {
            write_array(out, 2);
            write_uint(out, *place as u64);
            write_digests(out, digests);
        }
    }

    /// Reads the parameters.
    pub fn read(params: &[u8]) -> Result<List, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(4)?;
        let time = ClockTime(r.u64()?);
        let window = read_window(&mut r)?;
        let count = r.array()?;
        if count as u64 > WINDOW {
            return Err(DecodeError::Type);
        }
        let mut leaves = Vec::with_capacity(count);
        for _ in 0..count {
            r.array_of(2)?;
            let place = r.u64()?;
            if place >= window.len {
                return Err(DecodeError::Type);
            }
            leaves.push((place as usize, read_digests(&mut r)?));
        }
        Ok(List { time, window, leaves })
    }
}

pub(super) fn read_window(r: &mut Reader<'_>) -> Result<Window, DecodeError> {
    let leaves = Leaves::of_bits(r.u64()?).ok_or(DecodeError::Type)?;
    Window::at(leaves, r.u64()?).ok_or(DecodeError::Type)
}

/// Appends digests as one raw.
pub fn write_digests(out: &mut Vec<u8>, digests: &[u64]) {
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.to_be_bytes()).collect();
    write_raw(out, &bytes);
}

/// Reads what [`write_digests`] wrote.
pub fn read_digests(r: &mut Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    let (digests, rest) = r.raw()?.as_chunks::<DIGEST_LEN>();
    if !rest.is_empty() {
        return Err(DecodeError::Type);
    }
    Ok(digests.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect())
}

/// What came of [`method::COMPARE`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compared {
    /// `nil`: the other holds nothing there.
    Nothing,
    /// `[place...]`: these leaves of the window differ.
    Differ(Vec<usize>),
}

impl Compared {
    /// Appends the result.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Compared::Nothing => crate::proto::rpc::msgpack::write_nil(out),
            Compared::Differ(places) => {
                write_array(out, places.len());
                places.iter().for_each(|place| write_uint(out, *place as u64));
            }
        }
    }

    /// Reads the result.
    pub fn read(result: &[u8]) -> Result<Compared, DecodeError> {
        let mut r = Reader::new(result);
        if r.take_nil() {
            return Ok(Compared::Nothing);
        }
        let count = r.array()?;
        if count as u64 > WINDOW {
            return Err(DecodeError::Type);
        }
        let place =
            |_| r.u64().and_then(|place| if place < WINDOW { Ok(place as usize) } else { Err(DecodeError::Type) });
        (0..count).map(place).collect::<Result<_, _>>().map(Compared::Differ)
    }
}
