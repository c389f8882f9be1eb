//! Large values in parts: those that come in are stored as they come, those that are asked for are told part by part.
//!
//! A connection brings one value at a time ([`Incoming`]), and what takes it, a change or a replicated write, comes over the same
//! connection behind it. So nothing of it is kept in memory, no turn is longer than a part takes, and between parts the
//! connection carries what it else carries. A value that nothing took goes with the next one, or with the connection.

use super::request::{Done, Request, hash_of};
use super::worker::{State, Worker};
use crate::logic::clock::ClockTime;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, write_bool, write_nil, write_raw, write_raw_head};
pub(super) use crate::proto::rpc::v1::InParts;
use crate::proto::rpc::v1::{GetPart, Part};
pub(super) use crate::store::LARGE_BYTES;
use crate::store::staged::{HEAD_LEN, Large, Staged};
use crate::store::{Shard, StoreError};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A value that comes in parts.
pub(super) struct Upload {
    id: u64,
    dbkey: Vec<u8>,
    staged: Staged,
}

/// What a connection has brought of a large value.
pub(super) type Incoming = Rc<RefCell<Option<Upload>>>;

/// The first bytes of the dbval that came in parts for `id`, and its length, if all of it is there.
pub(super) fn head_of(incoming: &Incoming, id: u64, dbkey: &[u8]) -> Option<([u8; HEAD_LEN], usize)> {
    let upload = incoming.borrow();
    let staged = &upload.as_ref().filter(|upload| upload.is_whole(id, dbkey))?.staged;
    Some((staged.head().try_into().ok()?, staged.val_len()))
}

/// The value itself, which is then no longer there.
pub(super) fn take(incoming: &Incoming, id: u64, dbkey: &[u8]) -> Option<Staged> {
    incoming.borrow_mut().take_if(|upload| upload.is_whole(id, dbkey)).map(|upload| upload.staged)
}

impl Upload {
    fn is_whole(&self, id: u64, dbkey: &[u8]) -> bool {
        self.id == id && self.dbkey == dbkey && self.staged.filled() == self.staged.val_len()
    }

    fn is_continued_by(&self, part: &Part<'_>) -> bool {
        (self.id, self.dbkey.as_slice()) == (part.id, part.dbkey)
            && (self.staged.val_len(), self.staged.filled()) == (part.len, part.from)
    }
}

/// How long a large value is kept that was told of, in microseconds: its parts are asked for one after the other.
const TOLD_MICROS: u64 = 10_000_000;
/// How many are kept at most.
const TOLD_MOST: usize = 64;

/// Large values whose parts are being asked for. They can be told to their end, whatever becomes of their keys meanwhile.
#[derive(Default)]
pub(super) struct Told {
    list: VecDeque<(Vec<u8>, ClockTime, Large, u64)>,
}

impl Told {
    /// Keeps the value that a key has now.
    pub(super) fn keep(&mut self, shard: &mut dyn Shard, dbkey: &[u8], now_micros: u64) {
        // One that cannot be kept has to be asked for anew when it changes.
        let Ok(Some((stamp, large))) = shard.large(dbkey) else { return };
        self.list.retain(|(key, version, ..)| (key.as_slice(), *version) != (dbkey, stamp.version));
        if self.list.len() == TOLD_MOST {
            self.list.pop_front();
        }
        self.list.push_back((dbkey.to_vec(), stamp.version, large, now_micros + TOLD_MICROS));
    }

    /// Lets go of those whose time is over.
    pub(super) fn forget(&mut self, now_micros: u64) {
        self.list.retain(|(.., until_micros)| *until_micros > now_micros);
    }

    fn append(&mut self, part: &GetPart<'_>, now_micros: u64, out: &mut Vec<u8>) -> bool {
        let is_it = |(dbkey, version, ..): &&mut (Vec<u8>, ClockTime, Large, u64)| {
            dbkey == part.dbkey && version.0 == part.version
        };
        let Some((.., large, until_micros)) = self.list.iter_mut().find(is_it) else { return false };
        *until_micros = now_micros + TOLD_MICROS;
        large.append_to(part.from, part.len, out)
    }
}

impl Worker {
    /// Stores a part.
    pub(super) fn take_part(self: &Rc<Self>, request: &Request<'_>) -> Result<(), DecodeError> {
        let part = Part::read(request.params)?;
        hash_of(part.dbkey)?;
        if part.len <= HEAD_LEN {
            return Err(DecodeError::Type);
        }
        match self.store_part(request, &part) {
            Ok(true) => request.conn.write(|out| {
                write_success(out, request.msgid);
                write_nil(out);
            }),
            // The one before was refused.
            Ok(false) => request.conn.write(|out| write_error(out, request.msgid, error::SERVER)),
            Err(e) => {
                tracing::error!("cannot store: {e}");
                request.incoming.take();
                self.state.borrow_mut().tell_unable(self);
                let number = if matches!(e, StoreError::Full(_)) { error::NO_SPACE } else { error::SERVER };
                request.conn.write(|out| write_error(out, request.msgid, number));
            }
        }
        Ok(())
    }

    fn store_part(&self, request: &Request<'_>, part: &Part<'_>) -> Result<bool, StoreError> {
        let mut upload = request.incoming.borrow_mut();
        if part.from == 0 {
            // Its room is free for the new one.
            *upload = None;
            let mut shard = self.shard().lock().expect("no holder of a shard panics");
            let staged = shard.stage(part.dbkey.len(), part.len)?;
            *upload = Some(Upload { id: part.id, dbkey: part.dbkey.to_vec(), staged });
        }
        match upload.as_mut().filter(|upload| upload.is_continued_by(part)) {
            Some(upload) => upload.staged.append(part.bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// Tells a part of a value, if the key still has that version of it or had it lately. What a version holds never changes, so neither the epoch
    /// nor a lease matters here: they did when the version was told.
    pub(super) fn tell_part(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
    ) -> Result<Done, DecodeError> {
        let part = GetPart::read(request.params)?;
        let GetPart { dbkey, version, from, len } = part;
        let hash = hash_of(dbkey)?;
        match shard.piece(dbkey, ClockTime(version), from, len) {
            Ok(piece) => request.conn.write(|out| {
                write_success(out, request.msgid);
                if let Some(bytes) = piece {
                    return write_raw(out, bytes);
                }
                let before = out.len();
                write_raw_head(out, len);
                if !state.told.append(&part, state.now_micros, out) {
                    out.truncate(before);
                    write_bool(out, false);
                }
            }),
            Err(e) => return Ok(self.unreadable(state, hash, dbkey, &e)),
        }
        Ok(Done::Yes)
    }
}
