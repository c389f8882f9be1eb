//! Checking replicas for tools: digests and lists of what a member holds, and mending a record by the coordinator's word.
//!
//! Source: doc/protocol.md, "Checks". Both members of a pair are asked the same about the keys that one coordinates and the
//! other holds, too; what a get would not find counts for nothing, since marks and flushed records are collected by each
//! in its own time.

use super::background::Kind;
use super::request::{Done, Request, hash_of};
use super::worker::{Answer, Outcome, State, Worker};
use crate::logic::digest::of_record;
use crate::logic::memory::Deeds;
use crate::logic::record::{self, LAYOUT_KUMOFS, worker_of};
use crate::net::conn::Conn;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_raw, write_uint};
use crate::proto::rpc::v1::{Held, write_digests};
use crate::store::{Record, Shard, StoreError};
use std::rc::Rc;

/// Longest list in bytes.
const LIST_BYTES: usize = 4 << 20;

/// Why nothing is told: the epoch is over, or the store fails.
struct Refused;

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Refused {
        tracing::error!("cannot check what is stored: {e}");
        Refused
    }
}

impl Worker {
    /// Executes Held, in steps.
    pub(super) fn held(self: &Rc<Self>, state: &State, request: &Request<'_>) -> Result<Done, DecodeError> {
        let asked = Held::read(request.params)?;
        if asked.epoch != state.view.epoch.number {
            return Ok(self.other_epoch(state, request, asked.epoch));
        }
        let (conn, msgid, worker) = (request.conn.clone(), request.msgid, self.clone());
        tokio::task::spawn_local(async move {
            let told = if asked.lists { worker.list_held(&asked).await } else { worker.sum_held(&asked).await };
            match told {
                Ok(result) => conn.write(|out| {
                    write_success(out, msgid);
                    out.extend_from_slice(&result);
                }),
                Err(Refused) => refuse(&conn, msgid),
            }
        });
        Ok(Done::Yes)
    }

    async fn sum_held(&self, asked: &Held) -> Result<Vec<u8>, Refused> {
        let mut sums = vec![0_u64; asked.window.len as usize];
        self.each_held(asked, |place, _, digest| sums[place] = sums[place].wrapping_add(digest)).await?;
        let mut result = Vec::new();
        write_digests(&mut result, &sums);
        Ok(result)
    }

    /// Those of the window's first leaf.
    async fn list_held(&self, asked: &Held) -> Result<Vec<u8>, Refused> {
        let (mut list, mut count) = (Vec::new(), 0);
        self.each_held(asked, |place, dbkey, digest| {
            if place == 0 && list.len() < LIST_BYTES {
                write_array(&mut list, 2);
                write_raw(&mut list, dbkey);
                write_uint(&mut list, digest);
                count += 1;
            }
        })
        .await?;
        let mut result = Vec::new();
        write_array(&mut result, count);
        result.extend_from_slice(&list);
        Ok(result)
    }

    async fn each_held(&self, asked: &Held, mut visit: impl FnMut(usize, &[u8], u64)) -> Result<(), Refused> {
        let last = if asked.lists { 1 } else { asked.window.len as usize };
        let mut from = Some(asked.window.start());
        while let Some(position) = from {
            let step = |records| self.some_held(asked, last, position, records, &mut visit);
            from = self.background.step_of(Kind::Check, step).await?;
        }
        Ok(())
    }

    /// Visits some of what is held in the first `last` leaves; returns where to go on.
    fn some_held(
        &self,
        asked: &Held,
        last: usize,
        from: u64,
        records: usize,
        visit: &mut impl FnMut(usize, &[u8], u64),
    ) -> Result<Option<u64>, Refused> {
        let state = self.state.borrow();
        if state.view.epoch.number != asked.epoch {
            return Err(Refused);
        }
        let is_asked_for = |hash| {
            let group = &state.range(hash).group;
            asked.window.place(hash).is_some_and(|place| place < last)
                && group.coordinator() == Some(asked.coordinator)
                && group.full().contains(&asked.member)
        };
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let next = shard.scan_some(from, records, &is_asked_for, &mut |dbkey, record| {
            // A damaged one is none: it is mended, like one that is missing.
            let (Ok(record), Ok(hash)) = (record, hash_of(dbkey)) else { return };
            if let Some(place) = asked.window.place(hash).filter(|_| state.is_live(record)) {
                visit(place, dbkey, of_record(asked.seed, dbkey, record.epoch, record.dbval));
            }
        })?;
        Ok(next.filter(|position| asked.window.place(*position).is_some_and(|place| place < last)))
    }

    /// Executes Restate: `[epoch, dbkey, record epoch, dbval]`. Of what is here and what is offered, the newer is stored anew
    /// at all members.
    pub(super) fn restate(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
    ) -> Result<Done, DecodeError> {
        let mut r = Reader::new(request.params);
        r.array_of(4)?;
        let (epoch, dbkey) = (r.u64()?, r.raw()?);
        let offered = Record { epoch: r.u64()?, dbval: r.raw()? };
        let hash = hash_of(dbkey)?;
        if !offered.dbval.is_empty() && record::parse(offered.dbval).is_none() {
            return Err(DecodeError::Type);
        }
        if epoch != state.view.epoch.number {
            return Ok(self.other_epoch(state, request, epoch));
        }
        let range = *state.range(hash);
        if !range.writable || worker_of(hash, self.shared.config.workers) != self.number {
            refuse(request.conn, request.msgid);
            return Ok(Done::Yes);
        }
        if !range.open {
            return Ok(Done::Park);
        }
        let own = match shard.get(dbkey) {
            Ok(Some(record)) => Some(record),
            Ok(None) | Err(StoreError::Damaged { .. }) => None,
            Err(e) => {
                tracing::error!("cannot read: {e}");
                refuse(request.conn, request.msgid);
                return Ok(Done::Yes);
            }
        };
        let newest = match own {
            Some(own) if own.stamp() >= offered.stamp() => own,
            _ => offered,
        };
        let above = record::version_of(newest.dbval).unwrap_or_default();
        let mut dbval = anew(newest.dbval, state.is_live(newest));
        let version = state.clock.tick_above(state.now_secs, above);
        dbval[..record::MARK_LEN].copy_from_slice(&version.0.to_be_bytes());
        let mut told = Vec::new();
        write_success(&mut told, request.msgid);
        write_bool(&mut told, true);
        let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(told) };
        self.turn.wake();
        if let Err((_, e)) = state.write(shard, hash, dbkey, &dbval, Deeds::None, Some(answer)) {
            tracing::error!("cannot store: {e}");
            refuse(request.conn, request.msgid);
        }
        Ok(Done::Yes)
    }
}

fn refuse(conn: &Rc<Conn>, msgid: u32) {
    conn.write(|out| write_error(out, msgid, error::SERVER));
}

/// A record to be stamped anew: clients notice nothing, and keep the cas unique that they know where the layout has room for it.
fn anew(dbval: &[u8], is_live: bool) -> Vec<u8> {
    let Some(body) = record::parse(dbval).and_then(|value| value.body).filter(|_| is_live) else {
        return vec![0; record::MARK_LEN];
    };
    let mut out = Vec::with_capacity(dbval.len() + 16);
    if body.layout == LAYOUT_KUMOFS {
        record::encode_header(Default::default(), LAYOUT_KUMOFS, 0, 0, 0, &mut out);
    } else {
        record::encode_marked(Default::default(), body.flags, body.expiry, body.cas, body.marks, &mut out);
    }
    out.extend_from_slice(body.data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;

    #[test]
    fn what_is_stored_anew_keeps_all_that_clients_see() {
        let mut dbval = Vec::new();
        record::encode_header(ClockTime(77), 1, 5, 6, 0, &mut dbval);
        dbval.extend_from_slice(b"abc");
        let new = anew(&dbval, true);
        let body = record::parse(&new).unwrap().body.unwrap();
        assert_eq!((body.flags, body.expiry, body.cas, body.data), (5, 6, 77, &b"abc"[..]));
        assert!(record::is_mark(&anew(&dbval, false)) && record::is_mark(&anew(&[0; 8], true)));
        let kumofs = [&[0; 10][..], b"abc"].concat();
        assert_eq!(anew(&kumofs, true), kumofs);
    }
}
