//! What kumofs 0.4 gateways, servers and tools ask of a worker.
//!
//! Source: `doc/protocol.md`, "Version 0". Requests are translated to those of ours; what another server has to do is
//! passed on to it, so that an old gateway reads what is true now.

use super::fill::Sent;
use super::link::Call;
use super::request::{Done, Look, Request, hash_of};
use super::shared::Counters;
use super::status;
use super::worker::{Answer, Outcome, State, Style, Worker};
use crate::logic::clock::ClockTime;
use crate::logic::record::{self, Body, LAYOUT_KUMOFS, worker_of};
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_bool, write_nil, write_raw_head, write_uint};
use crate::proto::rpc::v0::{self, DELETE_ASYNC, method, set_op};
use crate::proto::rpc::v1::{self, Mutate, Mutated, Op, RequestId, Terms, option};
use crate::store::{Record, Shard};
use std::rc::Rc;

/// Whether only nodes may use a method.
pub(super) fn is_for_nodes(id: u32) -> bool {
    use method::*;
    matches!(id, KEEP_ALIVE | REPLACE_OFFER | REPLICATE_SET | REPLICATE_DELETE) || id == v1::method::OFFER
}

/// Executes what other servers (and managers, which ping) ask.
pub(super) fn execute_for_node(worker: &Rc<Worker>, request: &Request<'_>) -> Result<(), DecodeError> {
    let mut r = Reader::new(request.params);
    let len = r.array()?;
    match (request.method, len) {
        (method::KEEP_ALIVE, 1) => {
            worker.state.borrow_mut().clock.observe_counter(r.u32()?);
            request.conn.write(|out| {
                write_success(out, request.msgid);
                write_nil(out);
            });
        }
        (method::REPLACE_OFFER, 1) => {
            super::stream::accept_offer(&worker.shared, v0::read_address(&mut r)?, None);
        }
        (v1::method::OFFER, 2) => {
            let time = ClockTime(r.u64()?);
            super::stream::accept_offer(&worker.shared, v0::read_address(&mut r)?, Some(time));
        }
        (method::REPLICATE_SET, 4) => {
            let (clock, _flags, dbkey, dbval) = (r.u32()?, r.u64()?, r.raw()?, r.raw()?);
            replicate(worker, request, clock, dbkey, dbval)?;
        }
        (method::REPLICATE_DELETE, 4) => {
            let (clock, _flags, version, dbkey) = (r.u32()?, r.u64()?, r.u64()?, r.raw()?);
            replicate(worker, request, clock, dbkey, &version.to_be_bytes())?;
        }
        _ => return Err(DecodeError::Type),
    }
    Ok(())
}

/// Stores what a kumofs 0.4 coordinator replicates.
fn replicate(
    worker: &Rc<Worker>,
    request: &Request<'_>,
    clock: u32,
    dbkey: &[u8],
    dbval: &[u8],
) -> Result<(), DecodeError> {
    let hash = hash_of(dbkey)?;
    let mut state = worker.state.borrow_mut();
    let state = &mut *state;
    state.clock.observe_counter(clock);
    let member = state.view.me.is_some_and(|me| state.range(hash).group.members().contains(&me));
    if !member || worker_of(hash, worker.shared.config.workers) != worker.number {
        request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
        return Ok(());
    }
    let mut shard = worker.shard().lock().expect("no holder of a shard panics");
    let record = Record { epoch: state.view.epoch.number, dbval };
    let newer = match shard.get(dbkey) {
        Ok(old) => old.is_none_or(|old| old.stamp() < record.stamp()),
        Err(_) => true,
    };
    match state.apply(&mut *shard, dbkey, record, Sent::Written)? {
        Ok(()) => {
            let mut bytes = Vec::new();
            write_success(&mut bytes, request.msgid);
            write_bool(&mut bytes, newer);
            let outcome = Outcome::Bytes(bytes);
            state.after_commit.push(Answer { conn: request.conn.clone(), msgid: request.msgid, outcome });
            worker.turn.wake();
        }
        Err(e) => {
            tracing::error!("cannot store what was replicated: {e}");
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
        }
    }
    Ok(())
}

/// Executes what gateways and tools ask.
pub(super) fn execute_for_client(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    request: &Request<'_>,
) -> Result<Done, DecodeError> {
    let mut r = Reader::new(request.params);
    let len = r.array()?;
    match (request.method, len) {
        (method::GET, 1) => get(worker, state, shard, request, r.raw()?, None),
        (method::GET_IF_MODIFIED, 2) => {
            let dbkey = r.raw()?;
            get(worker, state, shard, request, dbkey, Some(r.u64()?))
        }
        (method::SET, 3) => {
            let (op, dbkey, dbval) = (r.u64()?, r.raw()?, r.raw()?);
            set(worker, state, shard, request, op, dbkey, dbval)
        }
        (method::DELETE, 2) => {
            let (flags, dbkey) = (r.u64()?, r.raw()?);
            let options = if flags & DELETE_ASYNC != 0 { option::ASYNC } else { 0 };
            let mutate = mutate_of(state, Op::Delete, options, dbkey, 0, &[]);
            change(worker, state, shard, request, Style::Delete, &mutate)
        }
        (method::GET_STATUS, 1) => {
            status::answer(&worker.shared, request.conn, request.msgid, r.u32()?)?;
            Ok(Done::Yes)
        }
        (method::SET_CONFIG, 2) => {
            if r.u32()? != 0 {
                return Err(DecodeError::Type);
            }
            status::set_nodelay(worker.shared.clone(), request.conn.clone(), request.msgid, r.bool()?);
            Ok(Done::Yes)
        }
        _ => Err(DecodeError::Type),
    }
}

fn mutate_of<'a>(state: &State, op: Op, options: u8, dbkey: &'a [u8], arg: u64, dbval: &'a [u8]) -> Mutate<'a> {
    Mutate {
        epoch: state.view.epoch.number,
        id: RequestId::default(),
        op,
        options,
        dbkey,
        arg,
        dbval,
        terms: Terms::default(),
    }
}

fn set(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    request: &Request<'_>,
    op: u64,
    dbkey: &[u8],
    dbval: &[u8],
) -> Result<Done, DecodeError> {
    let version = record::parse(dbval).filter(|v| v.body.is_some()).ok_or(DecodeError::Type)?.version;
    let (op, options) = match op {
        set_op::SET => (Op::Set, 0),
        set_op::SET_ASYNC => (Op::Set, option::ASYNC),
        set_op::CAS => (Op::Cas, 0),
        _ => return Err(DecodeError::Type),
    };
    let mutate = mutate_of(state, op, options, dbkey, version.0, dbval);
    change(worker, state, shard, request, Style::Set, &mutate)
}

fn change(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    request: &Request<'_>,
    style: Style,
    mutate: &Mutate<'_>,
) -> Result<Done, DecodeError> {
    let hash = hash_of(mutate.dbkey)?;
    let range = *state.range(hash);
    let here = worker_of(hash, worker.shared.config.workers) == worker.number;
    let sent_here = state.view.me.is_some() && range.group.version0_coordinator() == state.view.me;
    if (range.writable && here) || !(range.writable || sent_here) {
        return worker.mutate(state, shard, request, style, mutate);
    }
    let passed = match style {
        Style::Delete => Passed::Delete,
        Style::Set | Style::Version1 => Passed::Set,
    };
    pass(state, request, hash, passed, |out, id| mutate.write(out, id));
    Ok(Done::Yes)
}

fn get(
    worker: &Rc<Worker>,
    state: &mut State,
    shard: &mut dyn Shard,
    request: &Request<'_>,
    dbkey: &[u8],
    unless: Option<u64>,
) -> Result<Done, DecodeError> {
    let hash = hash_of(dbkey)?;
    let range = *state.range(hash);
    let replica = state.view.me.is_some_and(|me| range.group.full().contains(&me));
    let here = worker_of(hash, worker.shared.config.workers) == worker.number;
    if !replica {
        request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
        return Ok(Done::Yes);
    }
    if !range.readable || !here {
        let epoch = state.view.epoch.number;
        pass(state, request, hash, Passed::Get { unless }, |out, id| v1::write_get(out, id, epoch, dbkey));
        return Ok(Done::Yes);
    }
    let leased = state.leased_until(&range.group, hash);
    if !range.open || leased <= state.now_micros {
        return Ok(Done::Park);
    }
    Counters::add(&worker.shared.counters[usize::from(worker.number)].gets, 1);
    let mut bytes = Vec::new();
    match state.look_up_whole(shard, dbkey, 0) {
        Look::Value { body, .. } => write_body(&mut bytes, request.msgid, Some(body), unless),
        Look::Missing { .. } => {
            worker.count_miss();
            write_body(&mut bytes, request.msgid, None, unless);
        }
        Look::Expired { version } => {
            worker.count_miss();
            write_body(&mut bytes, request.msgid, None, unless);
            if worker.delete_expired(state, shard, hash, dbkey, version).is_none() {
                return Ok(Done::Park);
            }
        }
        Look::Unreadable(e) => return Ok(worker.unreadable(state, hash, dbkey, &e)),
    }
    state.leased_until = state.leased_until.min(leased);
    let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(bytes) };
    match state.pending.blocking(hash) {
        None => answer.send(),
        Some(write) => state.pending.hold(write, answer).into_iter().for_each(Answer::send),
    }
    Ok(Done::Yes)
}

/// Appends the answer to Get or GetIfModified: data as kumofs lays it out, under the cas unique, which a later
/// compare-and-swap has to name.
fn write_body(out: &mut Vec<u8>, msgid: u32, body: Option<Body<'_>>, unless: Option<u64>) {
    write_success(out, msgid);
    match body {
        None => write_nil(out),
        Some(body) if unless.is_some_and(|version| body.cas <= version) => write_bool(out, true),
        Some(body) => {
            write_raw_head(out, record::header_len(LAYOUT_KUMOFS) + body.data.len());
            out.extend_from_slice(&body.cas.to_be_bytes());
            out.extend_from_slice(&LAYOUT_KUMOFS.to_be_bytes());
            out.extend_from_slice(body.data);
        }
    }
}

/// Has the coordinator's worker execute a request, and answers what that answers.
fn pass(state: &mut State, request: &Request<'_>, hash: u64, passed: Passed, write: impl FnOnce(&mut Vec<u8>, u32)) {
    let coordinator = state.range(hash).group.coordinator();
    let place = coordinator.and_then(|server| state.links.of(server, |workers| worker_of(hash, workers)));
    let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(Vec::new()) };
    let asked = place
        .and_then(|place| state.links.get_mut(place))
        .is_some_and(|link| !link.is_version0() && link.call(Call::Pass(answer, passed), write));
    if !asked {
        request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
    }
}

/// A request of version 0 that was passed on to the coordinator in version 1: how its answer is made of the other's.
#[derive(Clone, Copy, Debug)]
pub enum Passed {
    /// Get; with a version, GetIfModified.
    Get {
        /// A value that is not newer is not wanted. Version 1 has no such question, so the value comes this far.
        unless: Option<u64>,
    },
    /// Set.
    Set,
    /// Delete.
    Delete,
}

impl Passed {
    /// Appends the answer.
    pub fn write_answer(self, out: &mut Vec<u8>, msgid: u32, result: Result<&[u8], u32>) {
        let Ok(result) = result else { return write_error(out, msgid, error::SERVER) };
        match self {
            Passed::Get { unless } => {
                let value = Reader::new(result).raw().ok().and_then(record::parse);
                write_body(out, msgid, value.and_then(|v| v.body), unless);
            }
            Passed::Set | Passed::Delete => match (self, Mutated::read(result)) {
                (Passed::Delete, Ok(outcome)) => {
                    write_success(out, msgid);
                    write_bool(out, matches!(outcome, Mutated::Done(_)));
                }
                (_, Ok(Mutated::Done(version))) => {
                    write_success(out, msgid);
                    write_uint(out, version);
                }
                (_, Ok(_)) => {
                    write_success(out, msgid);
                    write_bool(out, false);
                }
                (_, Err(_)) => write_error(out, msgid, error::SERVER),
            },
        }
    }
}
