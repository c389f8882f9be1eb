//! What is unstable at a change of epochs: sorted by who has to hear of it, reported by members, taken over by coordinators.
//!
//! A record that is not known to be everywhere travels with all changes that it owes itself to, also those whose
//! records it has overwritten, so that none of them is executed again (doc/guarantees.md, "Exactly once").

use super::fill::Sent;
use super::link::Call;
use super::request::{Request, hash_of};
use super::takeover::{is_active, life};
use super::worker::{Answer, Outcome, State, Worker, write_obsolete};
use crate::logic::memory::{Deed, Deeds};
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::frame::write_success;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_bool};
use crate::proto::rpc::v1::{Connect, Entry, ReportHead, read_entry, write_entry};
use crate::store::{Record, Shard};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of records in one message of a report.
const REPORT_BYTES: usize = 1 << 20;

/// Dbkeys of unstable records, with all that they owe themselves to: also what made records that they have overwritten.
pub(super) type Unstable = BTreeMap<Vec<u8>, BTreeMap<(u64, u64), Deed>>;

/// Adds what a record owes itself to.
pub(super) fn add(unstable: &mut Unstable, dbkey: &[u8], deeds: &[Deed]) {
    if !unstable.contains_key(dbkey) {
        unstable.insert(dbkey.to_vec(), BTreeMap::new());
    }
    let known = unstable.get_mut(dbkey).into_iter();
    known.for_each(|known| known.extend(deeds.iter().map(|deed| ((deed.id.gateway, deed.id.sequence), *deed))));
}

impl Worker {
    /// A member reports what it holds unstable.
    pub(super) fn receive_report(self: &Rc<Self>, connect: &Connect, request: &Request<'_>) -> Result<(), DecodeError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut r = Reader::new(request.params);
        let (ReportHead { epoch, since, more }, entries) = ReportHead::read(&mut r)?;
        if epoch != state.view.epoch.number || state.view.me.is_none() {
            if epoch > state.view.epoch.number {
                self.shared.behind.notify_one();
            }
            write_obsolete(request.conn, request.msgid, state.view.epoch.number);
            return Ok(());
        }
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        if entries > 0 {
            state.memory.raise_since(since);
        }
        for _ in 0..entries {
            let Entry { dbkey, epoch, dbval, deeds } = read_entry(&mut r)?;
            if let Err(e) = state.apply(&mut *shard, dbkey, Record { epoch, dbval }, Sent::Written)? {
                tracing::error!("cannot store what was reported: {e}");
                write_obsolete(request.conn, request.msgid, state.view.epoch.number);
                return Ok(());
            }
            deeds.as_slice().iter().for_each(|deed| state.memory.note(deed));
            if state.range(hash_of(dbkey)?).open {
                state.make_pending(&mut *shard, dbkey, deeds);
            } else {
                add(&mut state.takeover.taken, dbkey, deeds.as_slice());
            }
        }
        if !more {
            state.spoke((connect.incarnation, connect.from_worker));
            state.takeover.reported.insert((connect.incarnation, connect.from_worker));
        }
        let mut bytes = Vec::new();
        write_success(&mut bytes, request.msgid);
        write_bool(&mut bytes, true);
        let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(bytes) };
        if entries == 0 {
            answer.send();
        } else {
            state.takeover.answers.push(answer);
        }
        self.turn.wake();
        self.advance_later();
        Ok(())
    }

    /// The coordinator at the end of a link has made stable what was reported, or the report did not arrive.
    pub(super) fn report_answered(self: &Rc<Self>, epoch: u64, place: usize, stable: bool) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if epoch != state.view.epoch.number {
            return;
        }
        let Some(server) = state.links.get(place).map(|link| link.server) else { return };
        if !stable {
            state.takeover.unreported.insert(place);
            return;
        }
        let orphans = std::mem::take(&mut state.takeover.orphans);
        let elsewhere = |dbkey: &[u8]| state.coordinator_link(dbkey) != Some((server, place));
        state.takeover.orphans = orphans.into_iter().filter(|(dbkey, _)| elsewhere(dbkey)).collect();
    }
}

impl State {
    /// Sorts what is unstable here by who has to hear of it.
    pub(super) fn adopt_unstable(&mut self) {
        let view = self.view.clone();
        let coordinator_of = |dbkey: &[u8]| {
            let group = view.route.group(hash_of(dbkey).ok()?);
            group.coordinator().and_then(|server| life(&view, server)).map(|(_, incarnation)| incarnation)
        };
        let mut sources = std::mem::take(&mut self.sources);
        for ((incarnation, _), source) in &mut sources {
            for (dbkey, deeds) in source.unstable.take_if(|dbkey| coordinator_of(dbkey) != Some(*incarnation)) {
                add(&mut self.takeover.orphans, &dbkey, deeds.as_slice());
            }
        }
        let still_there =
            |incarnation: u64| view.epoch.servers.iter().any(|s| s.incarnation == incarnation && is_active(&view, s));
        sources.retain(|(incarnation, _), _| still_there(*incarnation));
        self.sources = sources;
        self.given.retain(|_, until| *until > self.now_micros);
        // What was taken over and not sent on yet is another's to take now, if another coordinates it.
        let taken = std::mem::take(&mut self.takeover.taken);
        for (dbkey, deeds) in std::mem::take(&mut self.takeover.orphans).into_iter().chain(taken) {
            let Ok(hash) = hash_of(&dbkey) else { continue };
            let group = view.route.group(hash);
            match view.me {
                Some(me) if group.coordinator() == Some(me) => {
                    self.takeover.taken.entry(dbkey).or_default().extend(deeds);
                }
                Some(me) if group.members().contains(&me) => {
                    self.takeover.orphans.entry(dbkey).or_default().extend(deeds);
                }
                // Nobody hears of it from here, so it may never have been.
                _ => deeds.values().for_each(|deed| self.memory.doubt(&deed.id)),
            }
        }
    }

    /// The server that coordinates a key, and the place of the link to its worker.
    fn coordinator_link(&self, dbkey: &[u8]) -> Option<(u16, usize)> {
        let hash = hash_of(dbkey).ok()?;
        let server = self.range(hash).group.coordinator()?;
        let place = self.links.of(server, |workers| crate::logic::record::worker_of(hash, workers))?;
        Some((server, place))
    }

    /// Sends the report to one link if that is due and possible.
    pub(super) fn report(&mut self, place: usize, shard: &mut dyn Shard) {
        let Some((incarnation, true)) = self.links.get(place).map(|l| (l.incarnation, l.is_up())) else { return };
        if !self.is_silent(Some(incarnation)) {
            return;
        }
        let (epoch, since) = (self.view.epoch.number, self.memory.since());
        let mut chunks: Vec<(usize, Vec<u8>)> = vec![(0, Vec::new())];
        for (dbkey, deeds) in self.takeover.orphans.iter().filter(|_| on(Rule::ReportUnstable)) {
            if self.coordinator_link(dbkey).map(|(_, place)| place) != Some(place) {
                continue;
            }
            let Ok(Some(Record { epoch, dbval })) = shard.get(dbkey) else { continue };
            if chunks.last().is_some_and(|(_, bytes)| bytes.len() > REPORT_BYTES) {
                chunks.push((0, Vec::new()));
            }
            if let Some((count, bytes)) = chunks.last_mut() {
                let deeds: Deeds = deeds.values().copied().collect();
                write_entry(bytes, dbkey, epoch, dbval, deeds.as_slice());
                *count += 1;
            }
        }
        let Some(link) = self.links.get_mut(place) else { return };
        let last = chunks.len() - 1;
        for (i, (count, bytes)) in chunks.iter().enumerate() {
            link.call(Call::Report { epoch, place }, |out, id| {
                ReportHead { epoch, since, more: i < last }.write(out, id, *count);
                out.extend_from_slice(bytes);
            });
        }
        self.takeover.unreported.remove(&place);
    }

    /// Sends a record that is here to all others, under its own stamp.
    pub(super) fn make_pending(&mut self, shard: &mut dyn Shard, dbkey: &[u8], deeds: Deeds) {
        let Ok(hash) = hash_of(dbkey) else { return };
        if !on(Rule::ResendReported) {
            return;
        }
        if let Ok(Some((stamp, large))) = shard.large(dbkey) {
            self.replicate_large(hash, (dbkey, stamp.epoch, stamp.version), &large, deeds, None);
            return;
        }
        let Ok(Some(Record { epoch, dbval })) = shard.get(dbkey) else { return };
        self.replicate(hash, dbkey, epoch, dbval, deeds, None);
    }
}
