//! Storing what other servers have copied here, in steps between which the worker serves.

use super::background::Kind;
use super::fill::Sent;
use super::request::hash_of;
use super::worker::{State, Worker};
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Phase;
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::v1::{Entry, read_entry};
use crate::store::staged::{HEAD_LEN, Staged};
use crate::store::{Record, Shard};
use std::rc::Rc;
use tokio::sync::oneshot;

/// Why what was copied here is not stored. Untold, the other server sends everything again, if it still has to.
struct NotStored;

impl Worker {
    /// Starts to store records that another server has copied here; tells when they are committed.
    pub(super) fn start_to_apply(
        self: &Rc<Self>,
        entries: Vec<u8>,
        time: Option<ClockTime>,
        since: u64,
        done: oneshot::Sender<()>,
    ) {
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            let mut rest = &entries[..];
            while !rest.is_empty() {
                let apply = |records| worker.apply_copied(rest, records, time, since);
                match worker.background.step_of(Kind::Apply, apply).await {
                    Ok(not_yet) => rest = not_yet,
                    Err(NotStored) => return,
                }
            }
            worker.state.borrow_mut().copied.push(done);
            worker.turn.wake();
        });
    }

    /// Starts to store a large record that another server has copied here; tells when it is committed.
    pub(super) fn start_to_apply_large(
        self: &Rc<Self>,
        (dbkey, epoch, staged): (Vec<u8>, u64, Staged),
        time: Option<ClockTime>,
        since: u64,
        done: oneshot::Sender<()>,
    ) {
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            let apply = || {
                let mut state = worker.state.borrow_mut();
                let me = state.taker_of_copies(time, since)?;
                let mut head = [0; HEAD_LEN];
                head.copy_from_slice(staged.head());
                let record = Record { epoch, dbval: &head };
                let mut shard = worker.shard().lock().expect("no holder of a shard panics");
                state.store_copied(&mut *shard, me, &dbkey, record, Some(staged))
            };
            if worker.background.step(apply).await.is_ok() {
                worker.state.borrow_mut().copied.push(done);
                worker.turn.wake();
            }
        });
    }

    /// Stores so many of the records; returns those behind them.
    fn apply_copied<'e>(
        &self,
        entries: &'e [u8],
        records: usize,
        time: Option<ClockTime>,
        since: u64,
    ) -> Result<&'e [u8], NotStored> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let me = state.taker_of_copies(time, since)?;
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut r = Reader::new(entries);
        for _ in 0..records {
            if r.rest().is_empty() {
                break;
            }
            let Entry { dbkey, epoch, dbval, .. } = read_entry(&mut r).map_err(|_| NotStored)?;
            state.store_copied(&mut *shard, me, dbkey, Record { epoch, dbval }, None)?;
        }
        self.turn.wake();
        Ok(r.rest())
    }
}

impl State {
    /// This server's place, if it takes copies for the replace that `time` names. What is sent for one that has not begun here, or is
    /// over, counts for nothing.
    fn taker_of_copies(&mut self, time: Option<ClockTime>, since: u64) -> Result<u16, NotStored> {
        self.set_time();
        let phase = self.view.epoch.phase;
        let in_phase = |time| matches!(phase, Phase::Copying { time: now, .. } if now == time);
        let me = self.view.me.filter(|_| time.is_none_or(in_phase)).ok_or(NotStored)?;
        self.memory.raise_since(since);
        Ok(me)
    }

    /// Stores a record if it belongs here. What is `staged` came in parts; the record has the beginning of it alone.
    fn store_copied(
        &mut self,
        shard: &mut dyn Shard,
        me: u16,
        dbkey: &[u8],
        record: Record<'_>,
        staged: Option<Staged>,
    ) -> Result<(), NotStored> {
        let Ok(hash) = hash_of(dbkey) else { return Ok(()) };
        if !self.range(hash).group.members().contains(&me) {
            return Ok(());
        }
        self.is_staged = true;
        let place = (hash, self.is_source(hash));
        match self.put(shard, place, dbkey, record, Sent::Copied, staged) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => {
                tracing::error!("cannot store what was copied here: {e}");
                Err(NotStored)
            }
            Err(_) => {
                tracing::warn!("a record that was copied here is malformed and was left out");
                Ok(())
            }
        }
    }
}
