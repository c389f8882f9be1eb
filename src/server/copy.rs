//! Moving records when the ring changes: copying them to servers that lack them, dropping what went elsewhere.
//!
//! Both go through the shard in slices between which the worker serves. A record that is pending is left out of a copy: the
//! link to each member of its group, new ones too, is delivering it. Records arrive beside live writes and
//! overwrite nothing newer.

use super::shared::{Shared, moving};
use super::stream::{self, Outgoing};
use super::worker::{State, Worker};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Phase;
use crate::logic::record::Stamp;
use crate::logic::record::dbkey_hash;
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::msgpack::{write_array, write_raw, write_uint};
use crate::proto::rpc::v0::{self, method};
use crate::proto::rpc::{frame::write_request, v1};
use crate::store::Record;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Records of a slice.
const SLICE: usize = 256;
/// Bytes gathered for one server before they leave.
const BATCH_BYTES: usize = 64 << 10;
/// The pause after a copy that failed, before it is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How often a copy looks whether its phase is still on.
const PHASE_CHECK: Duration = Duration::from_millis(100);

/// A copy that a phase demands.
pub struct Job {
    /// Names the phase.
    pub time: ClockTime,
    /// Everything goes to all of its replicas, not only what is missing.
    pub full: bool,
    /// Told when all is stored there.
    pub done: oneshot::Sender<()>,
}

/// Where a record has to go.
type Target = (Address, u64);

/// Encoded records by target, and the position to go on from.
type Slice = (BTreeMap<Target, Vec<u8>>, Option<u64>);

/// Starts to copy this worker's part. When the phase is over before that is done, it is given up and nobody told.
pub(super) fn start(worker: Rc<Worker>, job: Job) {
    tokio::task::spawn_local(async move {
        worker.went_through(Some(0));
        worker.shared.moving.fetch_or(moving::COPYING, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = copy_until_done(&worker, &job) => {
                let _ = job.done.send(());
            }
            () = worker.phase_over(job.time) => {}
        }
    });
}

async fn copy_until_done(worker: &Rc<Worker>, job: &Job) {
    while let Err((target, why)) = copy(worker, job).await {
        tracing::warn!("a copy to {target} failed and is tried again: {why}");
        tokio::time::sleep(RETRY).await;
    }
}

async fn copy(worker: &Rc<Worker>, job: &Job) -> Result<(), (Address, &'static str)> {
    let mut streams: BTreeMap<Target, (Vec<u8>, Outgoing)> = BTreeMap::new();
    let mut from = Some(0);
    while let Some(position) = from {
        let (slice, next) = worker.gather(position, job.full).map_err(|e| {
            tracing::error!("cannot read what is to be copied: {e}");
            (worker.shared.config.address, "the store cannot be read")
        })?;
        from = next;
        worker.went_through(next);
        for (target, bytes) in slice {
            let (gathered, outgoing) = match streams.entry(target) {
                Entry::Occupied(stream) => stream.into_mut(),
                Entry::Vacant(place) => {
                    let outgoing = worker.offer(target, job.time).ok_or((target.0, "there is no connection to it"))?;
                    place.insert((Vec::new(), outgoing))
                }
            };
            gathered.extend_from_slice(&bytes);
            if gathered.len() >= BATCH_BYTES {
                outgoing.send(std::mem::take(gathered)).await.map_err(|why| (target.0, why))?;
            }
        }
        tokio::task::yield_now().await;
    }
    for (target, (gathered, outgoing)) in streams {
        outgoing.finish(gathered).await.map_err(|why| (target.0, why))?;
    }
    Ok(())
}

impl Worker {
    /// Waits until the phase that `time` names is over.
    async fn phase_over(&self, time: ClockTime) {
        while self.is_copying(time) {
            tokio::time::sleep(PHASE_CHECK).await;
        }
    }

    /// Whether the phase that `time` names is still on.
    fn is_copying(&self, time: ClockTime) -> bool {
        let state = self.state.borrow();
        state.view.me.is_some() && matches!(state.view.epoch.phase, Phase::Copying { time: now, .. } if now == time)
    }

    /// Encodes the records of a slice for those who are to have them.
    fn gather(&self, from: u64, full: bool) -> Result<Slice, crate::store::StoreError> {
        let state = self.state.borrow();
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut slice: BTreeMap<Target, Vec<u8>> = BTreeMap::new();
        // The coordinator's records are stable or pending; others know only what they were told.
        let unstable = if full { state.unstable_hashes() } else { HashSet::new() };
        let since = state.memory.since();
        let next = shard.scan(from, SLICE, &mut |dbkey, record| {
            let Ok(record) = record else { return };
            let Some(hash) = dbkey_hash(dbkey) else { return };
            let pending = state.pending.blocking(hash).is_some() || unstable.contains(&hash);
            let pending = pending && on(Rule::CopyStableOnly);
            if pending || record.epoch < state.view.epoch.flushed {
                return;
            }
            state.targets(hash, full, |target| {
                let bytes = slice.entry(target).or_insert_with(|| opening(target, since));
                write_element(bytes, dbkey, record, target.1 == 0);
            });
        })?;
        Ok((slice, next))
    }

    /// Offers a stream to another server.
    fn offer(&self, target: Target, time: ClockTime) -> Option<Outgoing> {
        let mut state = self.state.borrow_mut();
        let link = state.links.iter().find(|(_, l)| (l.address, l.incarnation) == target && l.is_up())?.0;
        let outgoing = stream::register(&self.shared, self.number, target.0);
        let own = self.shared.config.stream;
        let link = state.links.get_mut(link)?;
        let offered = link.notify(|out, id| {
            if target.1 == 0 {
                write_request(out, id, method::REPLACE_OFFER);
                write_array(out, 1);
            } else {
                write_request(out, id, v1::method::OFFER);
                write_array(out, 2);
                write_uint(out, time.0);
            }
            v0::write_address(out, own);
        });
        offered.then_some(outgoing)
    }
}

/// What stands before the records of a slice: `[since]`, how far back the sender vouches for what it remembers. A copied
/// record does not tell the operations that it owes itself to; nothing to a kumofs 0.4 server, which asks for none.
fn opening(target: Target, since: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if target.1 != 0 {
        write_array(&mut out, 1);
        write_uint(&mut out, since);
    }
    out
}

/// Appends an element of the stream: `[dbkey, dbval]`, for ours with the epoch as a third.
fn write_element(out: &mut Vec<u8>, dbkey: &[u8], record: Record<'_>, version0: bool) {
    write_array(out, if version0 { 2 } else { 3 });
    write_raw(out, dbkey);
    write_raw(out, record.dbval);
    if !version0 {
        write_uint(out, record.epoch);
    }
}

impl State {
    /// Calls `to` with each server that this one has to send a record to.
    fn targets(&self, hash: u64, full: bool, mut to: impl FnMut(Target)) {
        let Some(me) = self.view.me else { return };
        let group = self.range(hash).group;
        // Where nobody is full, those who held the range last may differ in what was not acknowledged: all get all.
        let all = full || group.full().is_empty();
        let receivers = match (group.sources().contains(&me), all) {
            (false, _) => return,
            (true, true) => group.members(),
            (true, false) if group.coordinator() == Some(me) => group.filling(),
            (true, false) => return,
        };
        for server in receivers.iter().filter(|server| **server != me) {
            if let Some(entry) = self.view.epoch.servers.get(usize::from(*server)) {
                to((entry.address, entry.incarnation));
            }
        }
    }
}

/// Starts to drop what this worker holds and the epoch gives to others.
pub(super) fn start_drop(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    worker.went_through(Some(0));
    worker.shared.moving.fetch_or(moving::DELETING, Ordering::Relaxed);
    drop_in_slices(worker, "records that moved away", done, |state, hash, _| {
        let Some(me) = state.view.me else { return false };
        let deleting = matches!(state.view.epoch.phase, Phase::Deleting { .. });
        deleting && !state.range(hash).group.members().contains(&me)
    });
}

/// Starts to go through the shard and to drop the records for which `goes` says so, given their ring position. The store
/// is asked again when it fails. `done` is told at the end.
pub(super) fn drop_in_slices(
    worker: Rc<Worker>,
    what: &'static str,
    done: oneshot::Sender<()>,
    goes: impl Fn(&State, u64, Record<'_>) -> bool + 'static,
) {
    tokio::task::spawn_local(async move {
        let (mut from, mut dropped) = (Some(0), 0);
        while let Some(position) = from {
            match worker.drop_slice(position, &goes) {
                Ok((count, next)) => {
                    (dropped, from) = (dropped + count, next);
                    worker.went_through(next);
                }
                Err(e) => {
                    tracing::error!("cannot drop {what}: {e}");
                    tokio::time::sleep(RETRY).await;
                }
            }
            tokio::task::yield_now().await;
        }
        if dropped > 0 {
            tracing::info!("dropped {dropped} {what}");
        }
        // Whoever asked may have gone on to another epoch.
        let _ = done.send(());
    });
}

impl Worker {
    /// Notes for tools where on the ring this worker's copying or deleting goes on; `None`: it is at the end.
    fn went_through(&self, next: Option<u64>) {
        self.shared.gone_through[usize::from(self.number)].store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn drop_slice(
        &self,
        from: u64,
        goes: impl Fn(&State, u64, Record<'_>) -> bool,
    ) -> Result<(u64, Option<u64>), crate::store::StoreError> {
        let state = self.state.borrow();
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut gone: Vec<(Vec<u8>, Stamp)> = Vec::new();
        let next = shard.scan(from, SLICE, &mut |dbkey, record| {
            // What is damaged is mended from the others, or found out not to be there, when it is asked for.
            let (Ok(record), Some(hash)) = (record, dbkey_hash(dbkey)) else { return };
            if goes(&state, hash, record) {
                gone.push((dbkey.to_vec(), record.stamp()));
            }
        })?;
        for (dbkey, stamp) in &gone {
            shard.forget(dbkey, *stamp)?;
        }
        if !gone.is_empty() {
            // What was dropped is committed with the turn.
            self.turn.wake();
        }
        Ok((gone.len() as u64, next))
    }
}

/// The bits of GetStatus that tell how far a server is with moving records.
pub fn clear(shared: &Shared, bit: u8) {
    shared.moving.fetch_and(!bit, Ordering::Relaxed);
}
