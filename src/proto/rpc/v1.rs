//! Version 1: what our nodes say to each other beyond kumofs 0.4. `doc/protocol.md` describes each message.
//!
//! The messages of the hot path (Get, MultiGet, Mutate, Replicate) are written and read by hand, straight into and out
//! of connection buffers.

use super::frame::write_request;
use super::msgpack::{DecodeError, Head, Reader, write_array, write_nil, write_raw, write_uint};
use crate::logic::address::Address;

mod backup;
mod between;
mod compare;
mod held;
mod page;
mod parts;
mod prepare;
mod statistics;

pub use backup::{BackedUp, Backup};
pub use between::{Entry, ReplicateHead, ReportHead, read_entry, write_entry};
pub use compare::{Compare, Compared, List, read_digests, write_digests};
pub use held::Held;
pub use page::Page;
pub use parts::{GetPart, InParts, PART_BYTES, PARTS_AT_ONCE, Part, STAND_IN_LEN, stand_in};
pub use prepare::Prepare;
pub use statistics::{Caller, Lag, Numbers, Statistics};

/// The version number in [`method::CONNECT`].
pub const PROTOCOL: u64 = 1;

/// Method numbers: 1 << 16 | id.
pub mod method {
    const fn v1(id: u32) -> u32 {
        1 << 16 | id
    }
    /// First request of ours on a connection: see [`super::Connect`] → [`super::Connected`].
    pub const CONNECT: u32 = v1(0);
    /// To a manager or server: `[known]` → the newest decided epoch as raw, or nil when its number is not above `known`.
    pub const GET_EPOCH: u32 = v1(1);
    /// Between managers, servers and gateways: `[epoch]` → the number that the receiver holds then.
    pub const EPOCH_PUSH: u32 = v1(2);
    /// To a manager, from a server, after the hello: see [`super::Join`] → true.
    pub const JOIN: u32 = v1(3);
    /// To a manager, from a server: `[address, milliseconds]`: the link to that server is down, for so long → nil.
    pub const LOST: u32 = v1(4);
    /// To a manager, from gateways and tools: `[delay in seconds]` → nil once the flush is decided and seen by all, or false:
    /// it is decided, or may be, and not seen by all.
    pub const FLUSH_ALL: u32 = v1(5);
    /// To a manager, from a server: `[time]` → whether all full servers have copied what the replace of that time asks.
    pub const SOURCED: u32 = v1(6);
    /// To a manager, from a server that is told to end: `[]` → nil: it serves until an epoch removes it.
    pub const LEAVING: u32 = v1(7);
    /// To a manager, from tools: `[bytes per second]`, for each server, 0: as fast as they can → nil once it is decided.
    pub const RATE: u32 = v1(8);
    /// To a manager, from tools: `[whether records are not to move for now]` → nil once it is decided.
    pub const PAUSE: u32 = v1(9);
    /// To a server: `[epoch, dbkey]` → dbval, or [`super::InParts`] where it is large, or nil.
    pub const GET: u32 = v1(10);
    /// To a server or member: see [`super::Part`] → nil: a part of a large value that is to be stored.
    pub const PART: u32 = v1(53);
    /// To a server: see [`super::GetPart`] → that part as raw, or false: the key has another value by now.
    pub const GET_PART: u32 = v1(54);
    /// To a server: `[epoch, [dbkey...]]` → for each a dbval, nil: none, false: not in this answer, ask for it alone.
    pub const MULTI_GET: u32 = v1(11);
    /// To a server: `[epoch, dbkey, version]` → true: the value has this version still; else as Get.
    pub const GET_IF_MODIFIED: u32 = v1(13);
    /// To a server: see [`super::Mutate`] → [`super::Mutated`].
    pub const MUTATE: u32 = v1(12);
    /// To a member, from a coordinator: see [`super::ReplicateHead`] → `[acknowledged]`.
    pub const REPLICATE: u32 = v1(20);
    /// To a coordinator, from a member: see [`super::ReportHead`] → true when all is stable.
    pub const REPORT: u32 = v1(21);
    /// Between servers: `[dbkey]` → `[epoch, dbval]` or nil: to mend a damaged record.
    pub const FETCH: u32 = v1(22);
    /// Between servers: `[epoch, address of the stream port]`, never answered: records `[dbkey, dbval, epoch]` wait there,
    /// and before them the since-epoch of the sender's memory, `[epoch]`.
    pub const OFFER: u32 = v1(23);
    /// To a member, from a worker of a coordinator: `[]`, never answered: it acts no more, and relies on no lease.
    pub const LEAVE: u32 = v1(24);
    /// To a worker of a server, from one of another: see [`super::Compare`] → [`super::Compared`].
    pub const COMPARE: u32 = v1(25);
    /// The same: see [`super::List`] → those of the digests that the receiver lacks.
    pub const LIST: u32 = v1(26);
    /// To a server, from tools: `[]` → see [`super::Statistics`].
    pub const STATISTICS: u32 = v1(40);
    /// To a server, from tools: see [`super::Backup`] → [`super::BackedUp`], when it is done.
    pub const BACKUP: u32 = v1(41);
    /// To a worker of a server, from tools: `[epoch, position]` → see [`super::Page`].
    pub const PAGE: u32 = v1(42);
    /// To a worker of a server, from tools: see [`super::Held`] → digests as raw, or `[[dbkey, digest]...]`.
    pub const HELD: u32 = v1(43);
    /// To a worker of a coordinator, from tools: `[epoch, dbkey, epoch of a record, its dbval]` → true, when the newer of that
    /// and its own is stored anew at all members.
    pub const RESTATE: u32 = v1(44);
    /// To a manager, from tools: `[address of a server]` → nil once it is decided that it leaves when others hold what it holds.
    pub const DRAIN: u32 = v1(46);
    /// To a manager, from tools: `[address of a server, points of the ring]` → nil once it is decided, or as raw why not.
    pub const WEIGHT: u32 = v1(56);
    /// To a manager or server, from tools: `[]` → see [`super::super::settings::write_list`]; `[name, value]` → nil, or as raw why that
    /// cannot be set.
    pub const CONFIG: u32 = v1(45);
    /// To a manager or server, from a manager: see [`super::super::vote::Ask`] → [`super::super::vote::Voted`].
    pub const VOTE: u32 = v1(30);
    /// To a server, from a manager, before an epoch is told: see [`super::Prepare`] → its number, when that is done.
    pub const PREPARE: u32 = v1(31);
}

/// Who opens a connection with [`method::CONNECT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A manager.
    Manager,
    /// A server, replicating.
    Server,
    /// A gateway.
    Gateway,
    /// A command line tool.
    Tool,
}

/// Parameters of [`method::CONNECT`]: `[protocol, peer, incarnation, workers, from worker, worker]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect {
    /// Who is calling.
    pub peer: Peer,
    /// The caller's random number of this start.
    pub incarnation: u64,
    /// How many workers the caller has.
    pub workers: u16,
    /// Which of them is calling.
    pub from_worker: u16,
    /// Which worker of a server is to have this connection.
    pub worker: u16,
}

impl Connect {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::CONNECT);
        write_array(out, 6);
        write_uint(out, PROTOCOL);
        write_uint(out, self.peer as u64);
        write_uint(out, self.incarnation);
        write_uint(out, u64::from(self.workers));
        write_uint(out, u64::from(self.from_worker));
        write_uint(out, u64::from(self.worker));
    }

    /// Reads the parameters.
    pub fn read(params: &[u8]) -> Result<Connect, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(6)?;
        if r.u64()? != PROTOCOL {
            return Err(DecodeError::Type);
        }
        let peer = match r.u64()? {
            0 => Peer::Manager,
            1 => Peer::Server,
            2 => Peer::Gateway,
            3 => Peer::Tool,
            _ => return Err(DecodeError::Type),
        };
        let (incarnation, workers, from_worker) = (r.u64()?, r.u16()?, r.u16()?);
        Ok(Connect { peer, incarnation, workers, from_worker, worker: r.u16()? })
    }
}

/// Result of [`method::CONNECT`]: `[protocol, incarnation, disk id, workers, epoch number]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connected {
    /// The callee's random number of this start.
    pub incarnation: u64,
    /// The random number of its database or state file.
    pub disk_id: u64,
    /// How many workers it has.
    pub workers: u16,
    /// The newest epoch that it knows.
    pub epoch: u64,
}

impl Connected {
    /// Appends the result.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_array(out, 5);
        write_uint(out, PROTOCOL);
        write_uint(out, self.incarnation);
        write_uint(out, self.disk_id);
        write_uint(out, u64::from(self.workers));
        write_uint(out, self.epoch);
    }

    /// Reads the result.
    pub fn read(result: &[u8]) -> Result<Connected, DecodeError> {
        let mut r = Reader::new(result);
        r.array_of(5)?;
        if r.u64()? != PROTOCOL {
            return Err(DecodeError::Type);
        }
        Ok(Connected { incarnation: r.u64()?, disk_id: r.u64()?, workers: r.u16()?, epoch: r.u64()? })
    }
}

/// Parameters of [`method::JOIN`]: `[disk id, incarnation, workers, stream address, epoch or nil]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    /// The random number of the server's database.
    pub disk_id: u64,
    /// The random number of this start.
    pub incarnation: u64,
    /// How many workers it has.
    pub workers: u16,
    /// Where it listens for replace streams.
    pub stream: Address,
    /// The newest epoch that it has on disk, encoded.
    pub epoch: Option<Vec<u8>>,
}

impl Join {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::JOIN);
        write_array(out, 5);
        write_uint(out, self.disk_id);
        write_uint(out, self.incarnation);
        write_uint(out, u64::from(self.workers));
        write_raw(out, &self.stream.to_bytes());
        match &self.epoch {
            Some(epoch) => write_raw(out, epoch),
            None => write_nil(out),
        }
    }

    /// Reads the parameters.
    pub fn read(params: &[u8]) -> Result<Join, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(5)?;
        let (disk_id, incarnation, workers) = (r.u64()?, r.u64()?, r.u16()?);
        let stream = Address::from_bytes(r.raw()?).ok_or(DecodeError::Type)?;
        let epoch = if r.take_nil() { None } else { Some(r.raw()?.to_vec()) };
        Ok(Join { disk_id, incarnation, workers, stream, epoch })
    }
}

/// What a [`Mutate`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Op {
    /// Store.
    Set = 0,
    /// Store where nothing is.
    Add = 1,
    /// Store over something.
    Replace = 2,
    /// Store when the cas unique is `arg`.
    Cas = 3,
    /// Put data behind what is there.
    Append = 4,
    /// Put data before what is there.
    Prepend = 5,
    /// Add `arg` to a decimal number.
    Incr = 6,
    /// Subtract `arg` from a decimal number, down to 0.
    Decr = 7,
    /// Change the expiry.
    Touch = 8,
    /// Change the expiry and answer the value.
    GetAndTouch = 9,
    /// Delete.
    Delete = 10,
    /// Answer the value, and whether this client is the one to make it anew; change what [`Terms`] say.
    Fetch = 11,
    /// Keep the value, and mark it stale.
    Invalidate = 12,
}

impl Op {
    /// Whether what it stores owes nothing to the data that was there.
    pub fn replaces(self) -> bool {
        matches!(self, Op::Set | Op::Add | Op::Replace | Op::Cas | Op::Delete)
    }

    fn from_number(n: u64) -> Result<Op, DecodeError> {
        use Op::*;
        [Set, Add, Replace, Cas, Append, Prepend, Incr, Decr, Touch, GetAndTouch, Delete, Fetch, Invalidate]
            .into_iter()
            .find(|op| *op as u64 == n)
            .ok_or(DecodeError::Type)
    }
}

/// Options of a [`Mutate`]; bits.
pub mod option {
    /// Answer when the coordinator has it, without waiting for the others (-As, -Ad).
    pub const ASYNC: u8 = 1;
    /// The value's data begins with kumofs's flags, 16 bits (-F).
    pub const KUMOFS_FLAGS: u8 = 2;
    /// The value's data begins with kumofs's expiry, 32 bits (-E).
    pub const KUMOFS_EXPIRE: u8 = 4;
}

/// Bits of [`Terms::bits`].
pub mod term {
    /// Where nothing is, the dbval is stored. Incr, Decr: its data is a number, which is answered. Append, Prepend,
    /// Fetch: as it is.
    pub const CREATE: u8 = 1;
    /// Fetch, Invalidate, Incr, Decr: the expiry becomes [`super::Terms::expiry`].
    pub const EXPIRE: u8 = 2;
    /// Fetch, Incr, Decr, with EXPIRE: it counts for what is created too, in place of the dbval's.
    pub const EXPIRE_LAST: u8 = 4;
    /// Fetch, with EXPIRE: what expires before [`super::Terms::recache`] is looked for before the expiry changes.
    pub const RECACHE_FIRST: u8 = 8;
    /// Cas: an older value than what is there is stored, too, and marked stale.
    pub const STALE: u8 = 16;
    /// Incr, Decr: answered with [`super::Mutated::Told`].
    pub const TELL: u8 = 32;
}

/// Bits of [`Mutated::Told`].
pub mod told {
    /// Nothing was there: it was created.
    pub const CREATED: u8 = 1;
    /// Who asks is the one to make the value anew.
    pub const WON: u8 = 2;
    /// Somebody else was told so before.
    pub const SENT: u8 = 4;
    /// The value is stale.
    pub const STALE: u8 = 8;
}

/// On what terms a [`Mutate`] is executed, beyond its operation. Most have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// The cas unique that what is there must have; 0: any. Where nothing is, it does not matter.
    pub cas: u64,
    /// Bits of [`term`].
    pub bits: u8,
    /// UNIX seconds, for [`term::EXPIRE`].
    pub expiry: u32,
    /// Fetch: what is there and expires before this, in UNIX seconds, is to be made anew by who asks; 0: nothing is.
    pub recache: u32,
}

/// What tells one operation of a gateway from all others, across retries (doc/guarantees.md, "Exactly once"). The gateway's
/// incarnation was told by [`Connect`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestId {
    /// Numbers the gateway worker's operations; the worker is in the upper 16 bits.
    pub sequence: u64,
    /// 1 for the first try.
    pub attempt: u32,
    /// The epoch of the first try.
    pub first_epoch: u64,
    /// The lowest sequence not yet finished.
    pub floor: u64,
}

/// Parameters of [`method::MUTATE`]: `[epoch, sequence, attempt, first epoch, floor, op, options, dbkey, arg, dbval]`, and
/// with terms `cas, bits, expiry, recache` behind them, of which the last two may be left out when they are 0.
///
/// The dbval has version 0; its header gives flags and expiry (for Touch, GetAndTouch: the expiry alone), its data what
/// is to be stored. Delete, and Incr and Decr that create nothing, carry an empty raw instead; Set, Add, Replace and Cas do when it came
/// in [`Part`]s before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mutate<'a> {
    /// The epoch that the gateway believes in.
    pub epoch: u64,
    /// Which operation this is.
    pub id: RequestId,
    /// What to do.
    pub op: Op,
    /// Bits of [`option`].
    pub options: u8,
    /// The key.
    pub dbkey: &'a [u8],
    /// The cas unique, or what to add or subtract.
    pub arg: u64,
    /// What to store, or empty.
    pub dbval: &'a [u8],
    /// On what terms.
    pub terms: Terms,
}

/// How many parameters a [`Mutate`] without terms has.
const PLAIN_LEN: usize = 10;

impl<'a> Mutate<'a> {
    /// Whether what it stores came in [`Part`]s before.
    pub fn takes_parts(&self) -> bool {
        let stores = matches!(self.op, Op::Set | Op::Add | Op::Replace | Op::Cas);
        stores && self.dbval.is_empty() && self.terms.bits == 0
    }

    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::MUTATE);
        let Terms { cas, bits, expiry, recache } = self.terms;
        let terms_len = match (cas, bits, expiry, recache) {
            (0, 0, 0, 0) => 0,
            (_, _, 0, 0) => 2,
            _ => 4,
        };
        write_array(out, PLAIN_LEN + terms_len);
        write_uint(out, self.epoch);
        write_uint(out, self.id.sequence);
        write_uint(out, u64::from(self.id.attempt));
        write_uint(out, self.id.first_epoch);
        write_uint(out, self.id.floor);
        out.push(self.op as u8);
        out.push(self.options & 0x7f);
        write_raw(out, self.dbkey);
        write_uint(out, self.arg);
        write_raw(out, self.dbval);
        if terms_len > 0 {
            write_uint(out, cas);
            write_uint(out, u64::from(bits));
        }
        if terms_len > 2 {
            write_uint(out, u64::from(expiry));
            write_uint(out, u64::from(recache));
        }
    }

    /// Reads the parameters.
    pub fn read(params: &'a [u8]) -> Result<Mutate<'a>, DecodeError> {
        let mut r = Reader::new(params);
        let len = r.array()?;
        if ![PLAIN_LEN, PLAIN_LEN + 2, PLAIN_LEN + 4].contains(&len) {
            return Err(DecodeError::Type);
        }
        Ok(Mutate {
            epoch: r.u64()?,
            id: RequestId { sequence: r.u64()?, attempt: r.u32()?, first_epoch: r.u64()?, floor: r.u64()? },
            op: Op::from_number(r.u64()?)?,
            options: u8::try_from(r.u64()?).map_err(|_| DecodeError::Type)?,
            dbkey: r.raw()?,
            arg: r.u64()?,
            dbval: r.raw()?,
            terms: match len {
                PLAIN_LEN => Terms::default(),
                _ => {
                    let (cas, bits) = (r.u64()?, u8::try_from(r.u64()?).map_err(|_| DecodeError::Type)?);
                    let (expiry, recache) = if len == PLAIN_LEN + 2 { (0, 0) } else { (r.u32()?, r.u32()?) };
                    Terms { cas, bits, expiry, recache }
                }
            },
        })
    }
}

/// Why a retrieval finds nothing: in answers to Get and MultiGet in place of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// nil: it was never stored, or deleted.
    Absent,
    /// 1: its time is over.
    Expired,
    /// 2: it was flushed.
    Flushed,
}

impl Gone {
    /// Appends it.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Gone::Absent => write_nil(out),
            Gone::Expired => out.push(1),
            Gone::Flushed => out.push(2),
        }
    }

    /// What has such a head, if it is one.
    #[inline]
    pub fn of(head: Head) -> Option<Gone> {
        Some(match head {
            Head::Nil => Gone::Absent,
            Head::UInt(1) => Gone::Expired,
            Head::UInt(2) => Gone::Flushed,
            _ => return None,
        })
    }
}

/// Result of [`method::MUTATE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutated<'a> {
    /// `[0, version]`: done. The version is the value's cas unique now.
    Done(u64),
    /// `[1]`: add found something, replace, append or prepend nothing.
    NotStored,
    /// `[2]`: the cas unique is another.
    Exists,
    /// `[3]`: nothing is there.
    NotFound,
    /// `[3, why]`: nothing is there for fetch or get-and-touch, and something was.
    Gone(Gone),
    /// `[4]`: incr or decr on something that is no number.
    NotNumber,
    /// `[5]`: the value would exceed the server's largest.
    TooLarge,
    /// `[6, version, number]`: incr or decr is done.
    Number(u64, u64),
    /// `[7, dbval]`: get-and-touch is done.
    Value(&'a [u8]),
    /// `[9, bits, expiry, dbval]`: fetched, or counted and told. Bits of [`told`]; the expiry as it was before; the value
    /// as it is now.
    Told(u8, u32, &'a [u8]),
    /// `[7, version, length]`: the same of a large value, whose parts are to be asked for.
    ValueInParts(InParts),
    /// `[9, bits, expiry, version, length]`: the same of a large value.
    ToldInParts(u8, u32, InParts),
    /// `[10, bits]`: fetched, nothing has changed, and the value is still of the version that the fetch names.
    Same(u8),
    /// `[8]`: whether it took effect is not known and cannot be found out.
    Unknown,
}

impl Mutated<'static> {
    /// The outcome that changes nothing and has this number.
    pub fn of_refusal(number: u8) -> Option<Mutated<'static>> {
        use Mutated::{Exists, NotFound, NotNumber, NotStored, TooLarge};
        [NotStored, Exists, NotFound, NotNumber, TooLarge].into_iter().find(|m| m.refusal() == Some(number))
    }
}

impl<'a> Mutated<'a> {
    /// The number of an outcome that changes nothing.
    pub fn refusal(&self) -> Option<u8> {
        Some(match self {
            Mutated::NotStored => 1,
            Mutated::Exists => 2,
            Mutated::NotFound | Mutated::Gone(_) => 3,
            Mutated::NotNumber => 4,
            Mutated::TooLarge => 5,
            Mutated::Done(_)
            | Mutated::Number(..)
            | Mutated::Value(_)
            | Mutated::Told(..)
            | Mutated::Same(_)
            | Mutated::ValueInParts(_)
            | Mutated::ToldInParts(..)
            | Mutated::Unknown => return None,
        })
    }

    /// Appends the result.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Mutated::Done(version) => {
                out.extend_from_slice(&[0x92, 0]);
                write_uint(out, version);
            }
            Mutated::NotStored => out.extend_from_slice(&[0x91, 1]),
            Mutated::Exists => out.extend_from_slice(&[0x91, 2]),
            Mutated::NotFound => out.extend_from_slice(&[0x91, 3]),
            Mutated::Gone(gone) => {
                out.extend_from_slice(&[0x92, 3]);
                gone.write(out);
            }
            Mutated::NotNumber => out.extend_from_slice(&[0x91, 4]),
            Mutated::TooLarge => out.extend_from_slice(&[0x91, 5]),
            Mutated::Number(version, number) => {
                out.extend_from_slice(&[0x93, 6]);
                write_uint(out, version);
                write_uint(out, number);
            }
            Mutated::Value(dbval) => {
                out.extend_from_slice(&[0x92, 7]);
                write_raw(out, dbval);
            }
            Mutated::Told(bits, expiry, dbval) => {
                out.extend_from_slice(&[0x94, 9]);
                write_uint(out, u64::from(bits));
                write_uint(out, u64::from(expiry));
                write_raw(out, dbval);
            }
            Mutated::ValueInParts(parts) => {
                out.extend_from_slice(&[0x93, 7]);
                parts.write_numbers(out);
            }
            Mutated::ToldInParts(bits, expiry, parts) => {
                out.extend_from_slice(&[0x95, 9]);
                write_uint(out, u64::from(bits));
                write_uint(out, u64::from(expiry));
                parts.write_numbers(out);
            }
            Mutated::Same(bits) => {
                out.extend_from_slice(&[0x92, 10]);
                write_uint(out, u64::from(bits));
            }
            Mutated::Unknown => out.extend_from_slice(&[0x91, 8]),
        }
    }

    /// Reads the result.
    pub fn read(result: &'a [u8]) -> Result<Mutated<'a>, DecodeError> {
        let mut r = Reader::new(result);
        let len = r.array()?;
        Ok(match (r.u64()?, len) {
            (0, 2) => Mutated::Done(r.u64()?),
            (1, 1) => Mutated::NotStored,
            (2, 1) => Mutated::Exists,
            (3, 1) => Mutated::NotFound,
            (3, 2) => Mutated::Gone(Gone::of(r.head()?).ok_or(DecodeError::Type)?),
            (4, 1) => Mutated::NotNumber,
            (5, 1) => Mutated::TooLarge,
            (6, 3) => Mutated::Number(r.u64()?, r.u64()?),
            (7, 2) => Mutated::Value(r.raw()?),
            (7, 3) => Mutated::ValueInParts(InParts::read_numbers(&mut r)?),
            (9, 4 | 5) => {
                let bits = u8::try_from(r.u64()?).map_err(|_| DecodeError::Type)?;
                let expiry = r.u32()?;
                match len {
                    4 => Mutated::Told(bits, expiry, r.raw()?),
                    _ => Mutated::ToldInParts(bits, expiry, InParts::read_numbers(&mut r)?),
                }
            }
            (10, 2) => Mutated::Same(u8::try_from(r.u64()?).map_err(|_| DecodeError::Type)?),
            (8, 1) => Mutated::Unknown,
            _ => return Err(DecodeError::Type),
        })
    }
}

/// Appends a whole [`method::GET`].
pub fn write_get(out: &mut Vec<u8>, msgid: u32, epoch: u64, dbkey: &[u8]) {
    write_request(out, msgid, method::GET);
    write_array(out, 2);
    write_uint(out, epoch);
    write_raw(out, dbkey);
}

/// Appends a whole [`method::GET_IF_MODIFIED`].
pub fn write_get_if_modified(out: &mut Vec<u8>, msgid: u32, epoch: u64, dbkey: &[u8], version: u64) {
    write_request(out, msgid, method::GET_IF_MODIFIED);
    write_array(out, 3);
    write_uint(out, epoch);
    write_raw(out, dbkey);
    write_uint(out, version);
}

/// Appends the head of a [`method::MULTI_GET`] of `keys` keys; the caller appends each dbkey as raw.
pub fn write_multi_get_head(out: &mut Vec<u8>, msgid: u32, epoch: u64, keys: usize) {
    write_request(out, msgid, method::MULTI_GET);
    write_array(out, 2);
    write_uint(out, epoch);
    write_array(out, keys);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::frame::{Frame, parse};

    #[test]
    fn each_message_comes_back_as_written() {
        let mut out = Vec::new();
        let connect = Connect { peer: Peer::Gateway, incarnation: u64::MAX, workers: 4, from_worker: 2, worker: 3 };
        connect.write(&mut out, 9);
        let Frame::Request { msgid: 9, method: method::CONNECT, params } = parse(&out).unwrap() else { panic!() };
        assert_eq!(Connect::read(params), Ok(connect));

        let mut out = Vec::new();
        let stream = Address::new("[::1]:7".parse().unwrap());
        let join = Join { disk_id: 1, incarnation: 2, workers: 3, stream, epoch: Some(vec![1, 2]) };
        join.write(&mut out, 9);
        let Frame::Request { params, .. } = parse(&out).unwrap() else { panic!() };
        assert_eq!(Join::read(params), Ok(join));

        let mut out = Vec::new();
        let id = RequestId { sequence: 1 << 50, attempt: 3, first_epoch: 4, floor: 300 };
        let created = Terms { cas: 1 << 40, bits: term::CREATE, ..Terms::default() };
        for terms in [Terms::default(), created, Terms { expiry: 1 << 31, recache: 5, ..created }] {
            out.clear();
            let dbkey = b"12345678k";
            let mutate = Mutate { epoch: 7, id, op: Op::Cas, options: 5, dbkey, arg: 99, dbval: b"v", terms };
            mutate.write(&mut out, 9);
            let Frame::Request { params, .. } = parse(&out).unwrap() else { panic!() };
            assert_eq!(Mutate::read(params), Ok(mutate));
            for cut in 0..params.len() {
                assert!(Mutate::read(&params[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn each_outcome_comes_back_as_written() {
        use Mutated::*;
        let all = [
            Done(1 << 40),
            NotStored,
            Exists,
            NotFound,
            Gone(super::Gone::Expired),
            Gone(super::Gone::Flushed),
            NotNumber,
            TooLarge,
            Number(7, u64::MAX),
            Value(b"abc"),
            Told(told::WON | told::STALE, 1 << 31, b"abc"),
            ValueInParts(InParts { version: 1 << 40, len: 1 << 27 }),
            ToldInParts(told::SENT, 7, InParts { version: 1 << 40, len: 1 << 27 }),
            Same(told::SENT | told::STALE),
            Unknown,
        ];
        for outcome in all {
            let mut out = Vec::new();
            outcome.write(&mut out);
            assert_eq!(Mutated::read(&out), Ok(outcome));
            assert_eq!(outcome.refusal().is_some(), outcome.refusal() == Some(out[1]));
            // Remembered it is not told why.
            let remembered = if let Gone(_) = outcome { NotFound } else { outcome };
            assert_eq!(outcome.refusal().and_then(Mutated::of_refusal), outcome.refusal().map(|_| remembered));
            for cut in 0..out.len() {
                assert!(Mutated::read(&out[..cut]).is_err());
            }
        }
    }
}
