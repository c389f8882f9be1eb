//! A change of a key, from its execution to its stability.
//!
//! The coordinator decides ([`crate::logic::mutation`]), stamps, stores, and puts the record into the outgoing log of the
//! link to each other member. It is answered when the own disk and all of them have it ([`crate::logic::pending`]).

use super::parts::{self, InParts, LARGE_BYTES};
use super::remake::{Plan, keeps_data};
use super::request::{Done, Look, Request, hash_of};
use super::shared::Counters;
use super::worker::{Answer, Outcome, State, Style, Worker, write_mutated, write_refusal};
use crate::logic::clock::ClockTime;
use crate::logic::memory::{Asked, Deed, Deeds, Id, LOOKED, Outcome as Remembered};
use crate::logic::mutation::{self, Decision};
use crate::logic::record::{self, Body, worker_of};
use crate::logic::route::{Group, MAX_GROUP};
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::error;
use crate::proto::rpc::frame::write_error;
use crate::proto::rpc::msgpack::DecodeError;
use crate::proto::rpc::v1::{Gone, Mutate, Mutated, Op, option, write_entry};
use crate::store::staged::{HEAD_LEN, Large, Staged};
use crate::store::{Record, Shard, StoreError};
use std::rc::Rc;

/// Bytes waiting for one member above which changes are refused until it has caught up or is taken for dead.
const LINK_BYTES: usize = 64 << 20;

impl Worker {
    /// Executes a request to change a key.
    pub(super) fn mutate(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
        style: Style,
        mutate: &Mutate<'_>,
    ) -> Result<Done, DecodeError> {
        let hash = hash_of(mutate.dbkey)?;
        let head;
        let (mutate, large) = match parts::head_of(request.incoming, mutate.id.sequence, mutate.dbkey) {
            Some((first, len)) if mutate.takes_parts() => {
                head = first;
                (&Mutate { dbval: &head, ..*mutate }, Some(len))
            }
            _ => (mutate, None),
        };
        let new = match record::parse(mutate.dbval) {
            Some(value) => value.body,
            None if mutate.dbval.is_empty() => None,
            None => return Err(DecodeError::Type),
        };
        if style == Style::Version1 && mutate.epoch != state.view.epoch.number && on(Rule::Fence) {
            return Ok(self.other_epoch(state, request, mutate.epoch));
        }
        let range = *state.range(hash);
        if !range.writable || worker_of(hash, self.shared.config.workers) != self.number {
            write_refusal(request.conn, request.msgid, style, state.view.epoch.number);
            return Ok(Done::Yes);
        }
        if !range.open || state.yields(hash) {
            return Ok(Done::Park);
        }
        if state.is_behind(&range.group, hash) {
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return Ok(Done::Yes);
        }
        let id = request.id_of(style, mutate);
        let mut has_looked = false;
        if let Some(id) = &id
            && on(Rule::Remember)
        {
            match remembered(state, shard, request, hash, mutate, id) {
                Before::No => {}
                Before::Looked => has_looked = true,
                Before::Done(done) => return Ok(done),
            }
        }
        if let Some(why) = self.shared.versions.refusal(state.clock.counter()) {
            state.tell_unable(self);
            request.conn.write(|out| write_error(out, request.msgid, why));
            return Ok(Done::Yes);
        }
        if mutate.takes_parts() {
            // Its parts are not here, or no longer: they are to be sent again.
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return Ok(Done::Yes);
        }
        // How much of what is there becomes part of what is stored, without being looked at here.
        let mut kept = 0;
        let (old, version, gone) = match state.look_up(shard, mutate.dbkey, mutate.options) {
            Look::Value { dbval, body, version } if dbval.len() > LARGE_BYTES && keeps_data(mutate.op) => {
                kept = dbval.len() - HEAD_LEN;
                let shown = body.data.len() - kept;
                (Some(Body { data: &body.data[..shown], ..body }), version, Gone::Absent)
            }
            Look::Value { body, version, .. } => (Some(body), version, Gone::Absent),
            Look::Missing { version, gone } => (None, version, gone),
            Look::Expired { version } => (None, version, Gone::Expired),
            Look::Unreadable(e) => return Ok(self.unreadable(state, hash, mutate.dbkey, &e)),
        };
        let mut dbval = std::mem::take(&mut state.new_dbval);
        dbval.clear();
        let decision = match large.filter(|len| *len > self.shared.config.max_value + mutation::head_len(mutate)) {
            Some(_) => Decision::Refuse(Mutated::TooLarge),
            None => mutation::decide(mutate, new, old, self.shared.config.max_value.saturating_sub(kept), &mut dbval),
        };
        let answer = match decision {
            // Its client may have been told what it saw then, and will not be told what it would do now.
            Decision::Store(_) if has_looked => {
                state.new_dbval = dbval;
                return Ok(refuse(state, request, style, hash, Mutated::Unknown));
            }
            Decision::Refuse(mutated) => {
                state.new_dbval = dbval;
                // By another's clock it may not have expired: that it is gone is told once that is so everywhere.
                if gone == Gone::Expired
                    && on(Rule::ExpiryIsWritten)
                    && self.delete_expired(state, shard, hash, mutate.dbkey, version).is_none()
                {
                    request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
                    return Ok(Done::Yes);
                }
                let mutated = match (mutated, mutate.op) {
                    (Mutated::NotFound, Op::Fetch | Op::GetAndTouch) if gone != Gone::Absent => Mutated::Gone(gone),
                    _ => mutated,
                };
                let done = refuse(state, request, style, hash, mutated);
                if let (Done::Yes, Some(id), Some(reason)) = (&done, &id, mutated.refusal()) {
                    state.memory.refuse(id, reason, mutate.epoch);
                }
                return Ok(done);
            }
            Decision::Show(bits, expiry) => {
                state.new_dbval = dbval;
                let done = self.show(state, shard, request, style, mutate, (bits, expiry));
                if let (Done::Yes, Some(id)) = (&done, &id) {
                    state.memory.refuse(id, LOOKED, mutate.epoch);
                }
                return Ok(done);
            }
            Decision::Store(answer) => answer,
            Decision::Delete => {
                dbval.resize(record::MARK_LEN, 0);
                mutation::Answer::Done
            }
        };
        let mut staged = None;
        if kept > 0 {
            let tail_len = if mutate.op == Op::Append { mutation::data_len(new, mutate.options) } else { 0 };
            let plan = Plan { base: version, new: &dbval, tail_len };
            match state.remakes.take(&plan) {
                Ok(made) => staged = Some(made),
                Err(anew) => {
                    let begun = self.remake(state, shard, request, mutate.dbkey, (&plan, anew));
                    state.new_dbval = dbval;
                    match begun {
                        Err(e @ StoreError::Damaged { .. }) => {
                            return Ok(self.unreadable(state, hash, mutate.dbkey, &e));
                        }
                        Err(e) => self.refuse_store(state, Some(answer_with(request, Mutated::NotStored)), &e),
                        Ok(()) => {}
                    }
                    return Ok(Done::Yes);
                }
            }
        }
        let version = state.clock.tick_above(state.now_secs, version);
        dbval[..8].copy_from_slice(&version.0.to_be_bytes());
        let deed = id.map(|id| Deed { id, version: version.0, answer });
        let shown = match &staged {
            Some(staged) => Shown::InParts(InParts { version: version.0, len: staged.val_len() }),
            None => Shown::Whole(&dbval),
        };
        let answer = answer_of(answer, request, style, version.0, shown);
        let (told_early, told_late) = if mutate.options & option::ASYNC != 0 || !on(Rule::StableBeforeAcknowledged) {
            (Some(answer), None)
        } else {
            (None, Some(answer))
        };
        let is_shown = matches!(shown, Shown::InParts(_)) && matches!(mutate.op, Op::GetAndTouch | Op::Fetch);
        let staged =
            staged.or_else(|| large.and_then(|_| parts::take(request.incoming, mutate.id.sequence, mutate.dbkey)));
        let stored = match staged {
            None => state.write(shard, hash, mutate.dbkey, &dbval, deed.into(), told_late),
            Some(staged) => state.write_staged(shard, hash, mutate.dbkey, (version, staged), deed.into(), told_late),
        };
        state.new_dbval = dbval;
        self.turn.wake();
        match stored {
            Ok(_) => {
                state.after_commit.extend(told_early);
                deed.iter().for_each(|deed| state.memory.note(deed));
                if is_shown {
                    state.told.keep(shard, mutate.dbkey, state.now_micros);
                }
                self.count(mutate.op);
            }
            Err((answer, e)) => self.refuse_store(state, answer.or(told_early), &e),
        }
        Ok(Done::Yes)
    }

    /// Answers a fetch that changes nothing.
    fn show(
        &self,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
        style: Style,
        mutate: &Mutate<'_>,
        (bits, expiry): (u8, u32),
    ) -> Done {
        let Ok(hash) = hash_of(mutate.dbkey) else { return Done::Park };
        if !is_leased(state, hash) {
            return Done::Park;
        }
        let unstable = state.unstable_write(hash);
        let Look::Value { dbval, version, .. } = state.look_up(shard, mutate.dbkey, mutate.options) else {
            return Done::Park;
        };
        let told = match Shown::of(dbval, version.0) {
            _ if version == ClockTime(mutate.arg) => Mutated::Same(bits),
            Shown::Whole(dbval) => Mutated::Told(bits, expiry, dbval),
            Shown::InParts(parts) => Mutated::ToldInParts(bits, expiry, parts),
        };
        Counters::add(&self.shared.counters[usize::from(self.number)].gets, 1);
        match unstable {
            None => request.conn.write(|out| write_mutated(out, request.msgid, style, &told)),
            Some(write) => {
                let outcome = bytes_of(request, style, &told);
                state.answer_behind(write, Answer { conn: request.conn.clone(), msgid: request.msgid, outcome });
            }
        }
        if let Mutated::ToldInParts(..) = told {
            state.told.keep(shard, mutate.dbkey, state.now_micros);
        }
        Done::Yes
    }

    fn count(&self, op: Op) {
        let counters = &self.shared.counters[usize::from(self.number)];
        Counters::add(if op == Op::Delete { &counters.deletes } else { &counters.sets }, 1);
    }

    fn refuse_store(&self, state: &mut State, answer: Option<Answer>, e: &StoreError) {
        tracing::error!("cannot store: {e}");
        state.tell_unable(self);
        let Some(answer) = answer else { return };
        let full = matches!((e, &answer.outcome), (StoreError::Full(_), Outcome::Mutated(Style::Version1, _)));
        match full {
            true => answer.conn.write(|out| write_error(out, answer.msgid, error::NO_SPACE)),
            false => answer.refuse(state.view.epoch.number),
        }
    }

    /// Writes the mark of a record whose time is over. `None` when that cannot be done now.
    pub(super) fn delete_expired(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        hash: u64,
        dbkey: &[u8],
        version: ClockTime,
    ) -> Option<u64> {
        let range = *state.range(hash);
        if !range.writable || state.is_behind(&range.group, hash) {
            return None;
        }
        let version = state.clock.tick_above(state.now_secs, version);
        self.turn.wake();
        state.write(shard, hash, dbkey, &version.0.to_be_bytes(), Deeds::None, None).ok()
    }

    /// What becomes of a request for a record that the store cannot read: a damaged one is fetched from another member
    /// while the request waits.
    pub(super) fn unreadable(self: &Rc<Self>, state: &mut State, hash: u64, dbkey: &[u8], e: &StoreError) -> Done {
        tracing::error!("cannot read: {e}");
        if let StoreError::Damaged { .. } = e {
            self.mend(state, hash, dbkey);
        }
        Done::Park
    }
}

/// Whether it may be told now what was read of a key.
fn is_leased(state: &mut State, hash: u64) -> bool {
    let group = state.range(hash).group;
    let leased = state.leased_until(&group, hash);
    if leased <= state.now_micros && on(Rule::Lease) {
        return false;
    }
    state.leased_until = state.leased_until.min(leased);
    true
}

/// Answers that nothing was changed. That tells what was read, so it needs the lease, and waits for what it saw.
fn refuse(state: &mut State, request: &Request<'_>, style: Style, hash: u64, mutated: Mutated<'static>) -> Done {
    if !is_leased(state, hash) {
        return Done::Park;
    }
    match state.unstable_write(hash) {
        None => request.conn.write(|out| write_mutated(out, request.msgid, style, &mutated)),
        Some(write) => {
            let outcome = Outcome::Mutated(style, mutated);
            let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome };
            state.answer_behind(write, answer);
        }
    }
    Done::Yes
}

/// What is known of earlier attempts at a request.
enum Before {
    /// It was not executed.
    No,
    /// It looked at the value, in this epoch, and changed nothing.
    Looked,
    /// It was executed, or cannot be now, and that has been seen to.
    Done(Done),
}

/// Looks whether a request was executed before, and sees to its answer then.
#[inline]
fn remembered(
    state: &mut State,
    shard: &mut dyn Shard,
    request: &Request<'_>,
    hash: u64,
    mutate: &Mutate<'_>,
    id: &Id,
) -> Before {
    let outcome = match state.memory.ask(id, mutate.id.first_epoch, mutate.epoch) {
        Asked::New => return Before::No,
        Asked::Known(Remembered::Refused(LOOKED)) => return Before::Looked,
        Asked::Known(outcome) => outcome,
        Asked::Unknown => {
            request.conn.write(|out| write_mutated(out, request.msgid, Style::Version1, &Mutated::Unknown));
            return Before::Done(Done::Yes);
        }
        Asked::Full { is_news } => {
            if is_news {
                tracing::error!("too many gateways to remember: changes of new ones are refused until the next epoch");
            }
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return Before::Done(Done::Yes);
        }
    };
    let answer = match outcome {
        Remembered::Done(version, answer @ (mutation::Answer::Value | mutation::Answer::Told(..))) => {
            match state.look_up(shard, mutate.dbkey, 0) {
                Look::Value { dbval, version: now, .. } if now.0 == version => {
                    answer_of(answer, request, Style::Version1, version, Shown::of(dbval, version))
                }
                // It was done, and the value that it is to be answered with is no longer there.
                _ => answer_with(request, Mutated::Unknown),
            }
        }
        Remembered::Done(version, answer) => answer_of(answer, request, Style::Version1, version, Shown::Whole(&[])),
        Remembered::Refused(reason) => answer_with(request, Mutated::of_refusal(reason).unwrap_or(Mutated::Unknown)),
    };
    match state.pending.blocking(hash) {
        None => answer.send(),
        // What it made is stable when what was made of that is.
        Some(write) => state.answer_behind(write, answer),
    }
    Before::Done(Done::Yes)
}

fn answer_with(request: &Request<'_>, mutated: Mutated<'static>) -> Answer {
    let outcome = Outcome::Mutated(Style::Version1, mutated);
    Answer { conn: request.conn.clone(), msgid: request.msgid, outcome }
}

/// A value that an answer tells.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Whole(&'a [u8]),
    InParts(InParts),
}

impl<'a> Shown<'a> {
    fn of(dbval: &'a [u8], version: u64) -> Shown<'a> {
        let len = dbval.len();
        if len > LARGE_BYTES { Shown::InParts(InParts { version, len }) } else { Shown::Whole(dbval) }
    }
}

fn answer_of(answer: mutation::Answer, request: &Request<'_>, style: Style, version: u64, shown: Shown<'_>) -> Answer {
    let outcome = match (answer, shown) {
        (mutation::Answer::Done, _) => Outcome::Mutated(style, Mutated::Done(version)),
        (mutation::Answer::Number(number), _) => Outcome::Mutated(style, Mutated::Number(version, number)),
        (mutation::Answer::Value, Shown::Whole(dbval)) => bytes_of(request, style, &Mutated::Value(dbval)),
        (mutation::Answer::Value, Shown::InParts(parts)) => bytes_of(request, style, &Mutated::ValueInParts(parts)),
        (mutation::Answer::Told(bits, expiry), Shown::Whole(dbval)) => {
            bytes_of(request, style, &Mutated::Told(bits, expiry, dbval))
        }
        (mutation::Answer::Told(bits, expiry), Shown::InParts(parts)) => {
            bytes_of(request, style, &Mutated::ToldInParts(bits, expiry, parts))
        }
    };
    Answer { conn: request.conn.clone(), msgid: request.msgid, outcome }
}

fn bytes_of(request: &Request<'_>, style: Style, mutated: &Mutated<'_>) -> Outcome {
    let mut bytes = Vec::new();
    write_mutated(&mut bytes, request.msgid, style, mutated);
    Outcome::Bytes(bytes)
}

impl State {
    /// Whether a member of a group has so much still to be sent that no more is to be added.
    fn is_behind(&self, group: &Group, hash: u64) -> bool {
        self.links_for(group, hash).any(|link| self.links.backlog(link) > LINK_BYTES)
    }

    /// Gives an answer when a write is stable.
    fn answer_behind(&mut self, write: u64, answer: Answer) {
        if let Some(answer) = self.pending.hold(write, answer) {
            answer.send();
        }
    }

    /// Stores a stamped record as the coordinator and sends it on its way to the others, with the operation that it owes
    /// itself to. `answer` is given when all have it. Returns the write's number.
    ///
    /// # Errors
    /// Those of the store; then nothing has changed, and the answer is given back.
    pub(super) fn write(
        &mut self,
        shard: &mut dyn Shard,
        hash: u64,
        dbkey: &[u8],
        dbval: &[u8],
        deeds: Deeds,
        answer: Option<Answer>,
    ) -> Result<u64, (Option<Answer>, StoreError)> {
        let epoch = self.view.epoch.number;
        if let Err(e) = shard.put(dbkey, Record { epoch, dbval }) {
            return Err((answer, e));
        }
        if record::is_mark(dbval) {
            self.marks.note(self.now_secs, dbkey, Record { epoch, dbval }.stamp());
        }
        Ok(self.replicate(hash, dbkey, epoch, dbval, deeds, answer))
    }

    /// The same of a value that has come in parts; the others get it in parts, too.
    fn write_staged(
        &mut self,
        shard: &mut dyn Shard,
        hash: u64,
        dbkey: &[u8],
        (version, staged): (ClockTime, Staged),
        deeds: Deeds,
        answer: Option<Answer>,
    ) -> Result<u64, (Option<Answer>, StoreError)> {
        let epoch = self.view.epoch.number;
        match shard.put_staged(dbkey, epoch, version, staged) {
            Ok(large) => Ok(self.replicate_large(hash, (dbkey, epoch, version), &large, deeds, answer)),
            Err(e) => Err((answer, e)),
        }
    }

    /// Makes a record that is stored here pending, and sends it to the other members of its group.
    pub(super) fn replicate(
        &mut self,
        hash: u64,
        dbkey: &[u8],
        epoch: u64,
        dbval: &[u8],
        deeds: Deeds,
        answer: Option<Answer>,
    ) -> u64 {
        let group = self.range(hash).group;
        // The own disk is the one that is not another member.
        let missing = group.members().len() as u8;
        let write = self.pending.next();
        let mut links = [usize::MAX; MAX_GROUP];
        for (slot, link) in links.iter_mut().zip(self.links_for(&group, hash)) {
            *slot = link;
        }
        for link in links.into_iter().take_while(|link| *link != usize::MAX) {
            self.links.push(link, write, hash, |out| write_entry(out, dbkey, epoch, dbval, deeds.as_slice()));
        }
        self.pending.push(hash, dbkey, missing, deeds, answer)
    }

    /// The same of a large value.
    pub(super) fn replicate_large(
        &mut self,
        hash: u64,
        record: (&[u8], u64, ClockTime),
        large: &Large,
        deeds: Deeds,
        answer: Option<Answer>,
    ) -> u64 {
        let (group, write) = (self.range(hash).group, self.pending.next());
        for link in self.links_for(&group, hash).collect::<Vec<_>>() {
            self.links.push_large(link, write, hash, record, deeds.as_slice(), large.clone());
        }
        self.pending.push(hash, record.0, group.members().len() as u8, deeds, answer)
    }
}
