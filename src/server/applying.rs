//! Storing what other servers have copied here, in steps between which the worker serves.

use super::background::Kind;
use super::fill::Sent;
use super::request::hash_of;
use super::worker::Worker;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Phase;
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::v1::{Entry, read_entry};
use crate::store::Record;
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
        state.set_time();
        let phase = state.view.epoch.phase;
        let in_phase = |time| matches!(phase, Phase::Copying { time: now, .. } if now == time);
        // What is sent for a replace that has not begun here, or is over, counts for nothing.
        let me = state.view.me.filter(|_| time.is_none_or(in_phase)).ok_or(NotStored)?;
        state.memory.raise_since(since);
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut r = Reader::new(entries);
        for _ in 0..records {
            if r.rest().is_empty() {
                break;
            }
            let Entry { dbkey, epoch, dbval, .. } = read_entry(&mut r).map_err(|_| NotStored)?;
            let Ok(hash) = hash_of(dbkey) else { continue };
            if !state.range(hash).group.members().contains(&me) {
                continue;
            }
            match state.apply(&mut *shard, dbkey, Record { epoch, dbval }, Sent::Copied) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::error!("cannot store what was copied here: {e}");
                    return Err(NotStored);
                }
                Err(_) => tracing::warn!("a record that was copied here is malformed and was left out"),
            }
        }
        state.is_staged = true;
        self.turn.wake();
        Ok(r.rest())
    }
}
