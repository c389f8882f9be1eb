//! The binary log: what happened, in a form that programs read (`doc/protocol.md`, "Binary log").
//!
//! A record is its length as u32, big-endian, then MessagePack `[name, version, {key: value, ...}]`; the name and the
//! keys are up to four ASCII characters in a u32, the first in the highest byte that is used. A file ends in a cut
//! record when its writer died, and has holes where a disk was full: [`next`] finds the way on.

use super::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_raw, write_uint};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use std::fmt;

/// The longest record that is read, in bytes without the length: one with a value of the largest size allowed.
pub const MAX_RECORD_BYTES: usize = 129 << 20;

/// The most bytes of a value that a record keeps. What is longer is cut, and `size` tells how long it was.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// What a daemon writes down. Each becomes a record that also has the `time`, in UNIX seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happened<'a> {
    /// `SM`: a manager started.
    ManagerStart {
        /// Its address.
        addr: Address,
        /// The other manager.
        partner: Option<Address>,
    },
    /// `SS`: a server started.
    ServerStart {
        /// Its address.
        addr: Address,
        /// Its database.
        db: &'a [u8],
        /// The managers.
        manager1: Address,
        /// The second, if there is one.
        manager2: Option<Address>,
        /// The address of its stream port.
        stream: Address,
        /// The directory for temporary files.
        tmp_dir: &'a [u8],
        /// What the names of its backups begin with.
        backup_prefix: &'a [u8],
    },
    /// `SW`: a gateway started.
    GatewayStart {
        /// The managers.
        manager1: Address,
        /// The second, if there is one.
        manager2: Option<Address>,
    },
    /// `nS`: a server came.
    NewServer(Address),
    /// `lS`: a server is taken for dead.
    LostServer(Address),
    /// `eP`: a manager that is not the partner wanted to be it.
    UnknownPartner(Address),
    /// `ers`: a replica did not take a value. Ours ask it until it has, so only kumofs 0.4 writes this.
    ReplicateSetFailed {
        /// The key, without its hash.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// The key's hash.
        hash: u64,
        /// The value's version.
        version: ClockTime,
        /// The replica.
        to: Option<Address>,
    },
    /// `erd`: a replica did not take a deletion; likewise.
    ReplicateDeleteFailed {
        /// The key, without its hash.
        key: &'a [u8],
        /// The key's hash.
        hash: u64,
        /// The deletion's version.
        version: ClockTime,
        /// The replica.
        to: Option<Address>,
    },
    /// `eg`: a client got no answer to a get.
    GetFailed {
        /// The key.
        key: &'a [u8],
        /// The error's number ([`super::rpc::error`]).
        error: u32,
    },
    /// `es`: a client was told that a set failed.
    SetFailed {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// The error's number.
        error: u32,
    },
    /// `ed`: a client was told that a delete failed.
    DeleteFailed {
        /// The key.
        key: &'a [u8],
        /// The error's number.
        error: u32,
    },
    /// `lost`: so many records are missing before this one, because the log was written too slowly.
    RecordsLost(u64),
}

/// A field's value on its way into a record.
enum Field<'a> {
    Bytes(&'a [u8]),
    /// Bytes of which only the beginning is kept.
    Cut(&'a [u8]),
    Addr(Option<Address>),
    Number(u64),
}

/// Appends a record.
pub fn encode(unix_secs: u64, happened: &Happened<'_>, out: &mut Vec<u8>) {
    use Field::{Addr, Bytes, Cut, Number};
    let mut record = |name: &str, version: u64, fields: &[(&str, Field<'_>)]| {
        encode_record(name, version, unix_secs, fields, out);
    };
    // The versions are those of kumofs 0.4.13, whose kumolog goes by them.
    match *happened {
        Happened::ManagerStart { addr, partner } => {
            record("SM", 2, &[("addr", Addr(Some(addr))), ("Padd", Addr(partner))]);
        }
        Happened::ServerStart { addr, db, manager1, manager2, stream, tmp_dir, backup_prefix } => record(
            "SS",
            2,
            &[
                ("addr", Addr(Some(addr))),
                ("db", Bytes(db)),
                ("mgr1", Addr(Some(manager1))),
                ("mgr2", Addr(manager2)),
                ("sadd", Addr(Some(stream))),
                ("tmpd", Bytes(tmp_dir)),
                ("bkup", Bytes(backup_prefix)),
            ],
        ),
        Happened::GatewayStart { manager1, manager2 } => {
            record("SW", 2, &[("mgr1", Addr(Some(manager1))), ("mgr2", Addr(manager2))]);
        }
        Happened::NewServer(addr) => record("nS", 3, &[("addr", Addr(Some(addr)))]),
        Happened::LostServer(addr) => record("lS", 3, &[("addr", Addr(Some(addr)))]),
        Happened::UnknownPartner(addr) => record("eP", 3, &[("addr", Addr(Some(addr)))]),
        Happened::ReplicateSetFailed { key, value, hash, version, to } => record(
            "ers",
            4,
            &[
                ("key", Bytes(key)),
                ("val", Cut(value)),
                ("hash", Number(hash)),
                ("cktm", Number(version.0)),
                ("to", Addr(to)),
            ],
        ),
        Happened::ReplicateDeleteFailed { key, hash, version, to } => record(
            "erd",
            4,
            &[("key", Bytes(key)), ("hash", Number(hash)), ("cktm", Number(version.0)), ("to", Addr(to))],
        ),
        Happened::GetFailed { key, error } => record("eg", 3, &[("key", Bytes(key)), ("err", Number(error.into()))]),
        Happened::SetFailed { key, value, error } => {
            record("es", 3, &[("key", Bytes(key)), ("val", Cut(value)), ("err", Number(error.into()))]);
        }
        Happened::DeleteFailed { key, error } => {
            record("ed", 3, &[("key", Bytes(key)), ("err", Number(error.into()))]);
        }
        Happened::RecordsLost(count) => record("lost", 1, &[("num", Number(count))]),
    }
}

fn encode_record(name: &str, version: u64, unix_secs: u64, fields: &[(&str, Field<'_>)], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write_array(out, 3);
    write_uint(out, Name::of(name).0.into());
    write_uint(out, version);
    let cut = fields.iter().find_map(|(_, field)| match field {
        Field::Cut(bytes) if bytes.len() > MAX_VALUE_BYTES => Some(bytes.len() as u64),
        _ => None,
    });
    write_small_map(out, 1 + fields.len() + usize::from(cut.is_some()));
    write_field(out, "time", &Field::Number(unix_secs));
    for (key, field) in fields {
        write_field(out, key, field);
    }
    if let Some(size) = cut {
        write_field(out, "size", &Field::Number(size));
    }
    let len = u32::try_from(out.len() - start - 4).expect("keys, values and paths are bounded far below 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Records have a handful of fields.
fn write_small_map(out: &mut Vec<u8>, len: usize) {
    out.push(0x80 | u8::try_from(len & 0x0f).expect("four bits"));
}

fn write_field(out: &mut Vec<u8>, key: &str, field: &Field<'_>) {
    write_uint(out, Name::of(key).0.into());
    match *field {
        Field::Bytes(bytes) => write_raw(out, bytes),
        Field::Cut(bytes) => write_raw(out, &bytes[..bytes.len().min(MAX_VALUE_BYTES)]),
        Field::Number(n) => write_uint(out, n),
        Field::Addr(Some(addr)) => write_raw(out, &addr.to_bytes()),
        // No address: kumolog shows this as 0.0.0.0:0.
        Field::Addr(None) => write_raw(out, &[0; 6]),
    }
}

/// Up to four printable ASCII characters in a number: the name of a record or of one of its fields.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name(u32);

impl Name {
    /// Packs a name; longer ones are cut to four characters.
    pub fn of(text: &str) -> Name {
        Name(text.bytes().take(4).fold(0, |packed, byte| packed << 8 | u32::from(byte)))
    }

    /// The name in a number, if it is one.
    fn from_packed(packed: u32) -> Option<Name> {
        let bytes = packed.to_be_bytes();
        let used = bytes.iter().position(|b| *b != 0).map(|first| &bytes[first..])?;
        used.iter().all(u8::is_ascii_graphic).then_some(Name(packed))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_be_bytes().iter().filter(|b| **b != 0).try_for_each(|b| write!(f, "{}", char::from(*b)))
    }
}

/// A record as it was read. Names and fields are whatever its writer knew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What happened.
    pub name: Name,
    /// The version of its form.
    pub version: u16,
    /// Its fields, in order.
    pub fields: Vec<(Name, Value<'a>)>,
}

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// nil
    Nil,
    /// true or false
    Bool(bool),
    /// a non-negative integer
    UInt(u64),
    /// a negative integer
    Int(i64),
    /// bytes: text, a key, an address
    Raw(&'a [u8]),
    /// anything else, as MessagePack
    Other(&'a [u8]),
}

/// What stands at the beginning of some bytes of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A record, and the number of bytes it takes.
    Record(Record<'a>, usize),
    /// So many bytes are damaged; what follows them may be a record.
    Damaged(usize),
    /// Nothing more can be said before more bytes are there; at the end of a file: the last record is cut.
    Incomplete,
}

/// Reads the next record. At the end of a file that does not grow, `Incomplete` with bytes left means a cut record:
/// call [`next_after_cut`] to find records that follow a damaged length.
pub fn next(bytes: &[u8]) -> Step<'_> {
    match parse(bytes) {
        Ok((record, used)) => Step::Record(record, used),
        Err(DecodeError::Incomplete) => Step::Incomplete,
        Err(DecodeError::Type) => Step::Damaged(resync(bytes, false)),
    }
}

/// Goes on where [`next`] said `Incomplete` and no more bytes will come: how many are damaged before the next whole
/// record or the end.
pub fn next_after_cut(bytes: &[u8]) -> usize {
    resync(bytes, true)
}

/// The number of bytes to the next place where a record begins, or may begin if more bytes are to come.
fn resync(bytes: &[u8], at_end: bool) -> usize {
    let good = |at: &usize| match parse(&bytes[*at..]) {
        Ok(_) => true,
        Err(e) => e == DecodeError::Incomplete && !at_end,
    };
    (1..bytes.len()).find(good).unwrap_or(bytes.len())
}

/// Reads a whole record. `Incomplete` only for what more bytes could complete.
fn parse(bytes: &[u8]) -> Result<(Record<'_>, usize), DecodeError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Incomplete)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_RECORD_BYTES {
        return Err(DecodeError::Type);
    }
    match rest.get(..length) {
        // All bytes are there: what ends too early is wrong.
        Some(body) => match parse_body(body) {
            Ok(record) => Ok((record, 4 + length)),
            Err(_) => Err(DecodeError::Type),
        },
        // The beginning can already be wrong.
        None => match parse_body(rest) {
            Err(DecodeError::Incomplete) => Err(DecodeError::Incomplete),
            _ => Err(DecodeError::Type),
        },
    }
}

fn parse_body(body: &[u8]) -> Result<Record<'_>, DecodeError> {
    let mut r = Reader::new(body);
    r.array_of(3)?;
    let name = read_name(&mut r)?;
    let version = r.u16()?;
    let Head::Map(len) = r.head()? else { return Err(DecodeError::Type) };
    let mut fields = Vec::new();
    for _ in 0..len {
        fields.push((read_name(&mut r)?, read_value(&mut r)?));
    }
    if r.rest().is_empty() { Ok(Record { name, version, fields }) } else { Err(DecodeError::Type) }
}

fn read_name(r: &mut Reader<'_>) -> Result<Name, DecodeError> {
    Name::from_packed(r.u32()?).ok_or(DecodeError::Type)
}

fn read_value<'a>(r: &mut Reader<'a>) -> Result<Value<'a>, DecodeError> {
    let mut ahead = r.clone();
    let value = match ahead.head()? {
        Head::Nil => Value::Nil,
        Head::Bool(b) => Value::Bool(b),
        Head::UInt(n) => Value::UInt(n),
        Head::Int(n) => Value::Int(n),
        Head::Raw(len) => Value::Raw(ahead.take(len)?),
        _ => return r.skip().map(Value::Other),
    };
    *r = ahead;
    Ok(value)
}

#[cfg(test)]
mod tests;
