//! What servers tell each other of records: Replicate and Report.

use super::method;
use crate::logic::memory::{Deed, Deeds, Id};
use crate::logic::mutation::Answer;
use crate::logic::record;
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{
    DecodeError, Head, Reader, write_array, write_bool, write_nil, write_raw, write_uint,
};

/// What stands before the entries of a [`method::REPLICATE`]: `[epoch, since, stable, first, [entry...]]`.
///
/// Entries of a link are numbered from 1. Each message holds the next ones in order, without gaps; after a
/// reconnect, all that were not acknowledged. The request asks for a lease too; the result `[acknowledged]` grants it.
/// An error 6 with an epoch's number says that the member is in that epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicateHead {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The since-epoch of its memory ([`crate::logic::memory::Memory::since`]).
    pub since: u64,
    /// All entries up to this number are stable: every member has them.
    pub stable: u64,
    /// The number of the first entry here.
    pub first: u64,
}

impl ReplicateHead {
    /// Appends the head of the whole request; the caller appends `entries` times [`write_entry`].
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32, entries: usize) {
        write_request(out, msgid, method::REPLICATE);
        write_array(out, 5);
        write_uint(out, self.epoch);
        write_uint(out, self.since);
        write_uint(out, self.stable);
        write_uint(out, self.first);
        write_array(out, entries);
    }

    /// Reads the head; the reader then stands before the first entry. Returns the number of entries.
    pub fn read(r: &mut Reader<'_>) -> Result<(ReplicateHead, usize), DecodeError> {
        r.array_of(5)?;
        let head = ReplicateHead { epoch: r.u64()?, since: r.u64()?, stable: r.u64()?, first: r.u64()? };
        Ok((head, r.array()?))
    }
}

/// What stands before the entries of a [`method::REPORT`]: `[epoch, since, more, [entry...]]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportHead {
    /// The member's epoch.
    pub epoch: u64,
    /// The since-epoch of its memory.
    pub since: u64,
    /// Another part of the report follows.
    pub more: bool,
}

impl ReportHead {
    /// Appends the head of the whole request; the caller appends `entries` times [`write_entry`].
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32, entries: usize) {
        write_request(out, msgid, method::REPORT);
        write_array(out, 4);
        write_uint(out, self.epoch);
        write_uint(out, self.since);
        write_bool(out, self.more);
        write_array(out, entries);
    }

    /// Reads the head; the reader then stands before the first entry. Returns the number of entries.
    pub fn read(r: &mut Reader<'_>) -> Result<(ReportHead, usize), DecodeError> {
        r.array_of(4)?;
        let head = ReportHead { epoch: r.u64()?, since: r.u64()?, more: r.bool()? };
        Ok((head, r.array()?))
    }
}

/// Values of a deed in an entry.
const DEED_VALUES: usize = 5;

/// An entry of Replicate and Report: a record, and the operations that it owes itself to and that may be asked for again.
///
/// `[dbkey, epoch, dbval]`, then for each operation `gateway, sequence, lag, age, answer`: the lag is how far the
/// gateway's floor is behind the sequence, the age how far the version that the operation made is behind that of the
/// dbval, the answer nil, true (the value that was there), a number, or raw with what a fetch was told: a
/// number of 8 bytes, big-endian, the bits of [`super::told`] times 2^32 and the expiry as it was before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The key.
    pub dbkey: &'a [u8],
    /// The epoch of the stamp.
    pub epoch: u64,
    /// The record, its version first.
    pub dbval: &'a [u8],
    /// The operations.
    pub deeds: Deeds,
}

/// Appends an [`Entry`].
#[inline]
pub fn write_entry(out: &mut Vec<u8>, dbkey: &[u8], epoch: u64, dbval: &[u8], deeds: &[Deed]) {
    write_array(out, 3 + DEED_VALUES * deeds.len());
    write_raw(out, dbkey);
    write_uint(out, epoch);
    write_raw(out, dbval);
    let newest = record::version_of(dbval).unwrap_or_default().0;
    for deed in deeds {
        write_uint(out, deed.id.gateway);
        write_uint(out, deed.id.sequence);
        write_uint(out, deed.id.sequence.wrapping_sub(deed.id.floor));
        write_uint(out, newest.wrapping_sub(deed.version));
        match deed.answer {
            Answer::Done => write_nil(out),
            Answer::Value => write_bool(out, true),
            Answer::Number(number) => write_uint(out, number),
            Answer::Told(bits, expiry) => {
                let packed = u64::from(bits) << 32 | u64::from(expiry);
                write_raw(out, &packed.to_be_bytes());
            }
        }
    }
}

/// Reads what [`write_entry`] wrote.
#[inline]
pub fn read_entry<'a>(r: &mut Reader<'a>) -> Result<Entry<'a>, DecodeError> {
    let values = r.array()?.checked_sub(3).ok_or(DecodeError::Type)?;
    let (dbkey, epoch, dbval) = (r.raw()?, r.u64()?, r.raw()?);
    let deeds = match values {
        0 => Deeds::None,
        DEED_VALUES => Deeds::One(read_deed(r, dbval)?),
        many if many % DEED_VALUES == 0 => {
            // One by one: what a count claims may not be there.
            let mut deeds = Vec::new();
            for _ in 0..many / DEED_VALUES {
                deeds.push(read_deed(r, dbval)?);
            }
            Deeds::Many(deeds)
        }
        _ => return Err(DecodeError::Type),
    };
    Ok(Entry { dbkey, epoch, dbval, deeds })
}

#[inline]
fn read_deed(r: &mut Reader<'_>, dbval: &[u8]) -> Result<Deed, DecodeError> {
    let (gateway, sequence, lag, age) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let newest = record::version_of(dbval).ok_or(DecodeError::Type)?.0;
    let answer = match r.head()? {
        Head::Nil => Answer::Done,
        Head::Bool(true) => Answer::Value,
        Head::UInt(number) => Answer::Number(number),
        Head::Raw(8) => {
            let packed = r.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| DecodeError::Type)?;
            let bits = u8::try_from(packed >> 32).map_err(|_| DecodeError::Type)?;
            Answer::Told(bits, packed as u32)
        }
        _ => return Err(DecodeError::Type),
    };
    let id = Id { gateway, sequence, floor: sequence.wrapping_sub(lag) };
    Ok(Deed { id, version: newest.wrapping_sub(age), answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_with_its_operations_and_no_prefix_does() {
        let deed = |sequence, version, answer| {
            let id = Id { gateway: u64::MAX, sequence, floor: sequence - 3 };
            Deed { id, version, answer }
        };
        let (one, two) = (deed(1 << 50, 1000, Answer::Done), deed(1 << 49, 3, Answer::Number(u64::MAX)));
        let dbval = [&1000u64.to_be_bytes()[..], b"\0\0data"].concat();
        for deeds in [
            Deeds::None,
            Deeds::One(one),
            Deeds::Many(vec![one, two, deed(9, 1001, Answer::Value), deed(8, 2, Answer::Told(3, 7))]),
        ] {
            let mut out = Vec::new();
            write_entry(&mut out, b"12345678k", 7, &dbval, deeds.as_slice());
            let read = read_entry(&mut Reader::new(&out)).unwrap();
            assert_eq!(read, Entry { dbkey: b"12345678k", epoch: 7, dbval: &dbval, deeds });
            for cut in 0..out.len() {
                assert!(read_entry(&mut Reader::new(&out[..cut])).is_err(), "cut at {cut}");
            }
        }
        let mut claims = vec![0xdd, 0xff, 0xff, 0xff, 0xfe];
        write_raw(&mut claims, b"12345678k");
        write_uint(&mut claims, 7);
        write_raw(&mut claims, &dbval);
        assert!(read_entry(&mut Reader::new(&claims)).is_err());
    }
}
