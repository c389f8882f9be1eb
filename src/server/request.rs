//! What comes in on a connection, and what gateways ask.
//!
//! Each message is executed when it is read. It is answered at once, or its answer waits in [`super::worker::State`] for
//! a write to become stable, or the whole request is parked until its range is open and leased.

use super::backup;
use super::compare;
use super::lookahead;
use super::member;
use super::parts::{InParts, Incoming, LARGE_BYTES};
use super::shared::Counters;
use super::statistics;
use super::status;
use super::version0;
use super::worker::{Answer, Outcome, PARKED_MICROS, Parked, Range, State, Style, Worker, write_obsolete};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::memory::Id;
use crate::logic::mutation;
use crate::logic::record::{self, Body, MAX_DBKEY_LEN, Value};
use crate::logic::rule::{Rule, on};
use crate::net::conn::{Conn, Received, THROUGH_BYTES, Then};
use crate::net::time::boot_micros;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{self, Frame, Role, Scanner, write_error, write_success};
use crate::proto::rpc::msgpack::{
    DecodeError, Reader, write_array, write_bool, write_nil, write_raw, write_raw_head, write_uint,
};
use crate::proto::rpc::v1::{Backup, Caller, Connect, Connected, Gone, Mutate, Peer as Calling, method};
use crate::store::{Record, Shard, StoreError};
use std::cell::Cell;
use std::rc::Rc;

/// Output that a peer has not read, in bytes, above which no more of its requests are read.
const BACKLOG_MAX: usize = 1 << 20;
/// Bytes of values in one answer to MultiGet; what exceeds it is asked for alone.
const MULTI_GET_BYTES: usize = 1 << 20;
/// Keys in one MultiGet.
const MULTI_GET_KEYS: usize = 1 << 16;

/// The other end of an accepted connection.
pub struct Peer {
    scanner: Scanner,
    /// Set by a hello, which must come first: this is a node.
    pub node: Option<(Address, Role)>,
    started: bool,
    /// Set by Connect: who is calling.
    pub connect: Option<Connect>,
    /// The same for those who count connections.
    pub(super) caller: Rc<Cell<Caller>>,
    /// The large value that it is sending.
    incoming: Incoming,
}

impl Default for Peer {
    /// One that has said nothing yet.
    fn default() -> Peer {
        let caller = Rc::new(Cell::new(Caller::Client));
        let incoming = Incoming::default();
        Peer { scanner: Scanner::default(), node: None, started: false, connect: None, caller, incoming }
    }
}

/// Why a connection is ended.
pub(super) enum HangUp {
    /// Answer nothing more.
    Now,
    /// After error 5 to this request.
    Protocol(u32),
}

impl From<frame::FrameError> for HangUp {
    fn from(_: frame::FrameError) -> HangUp {
        HangUp::Now
    }
}

/// What is needed to execute a request.
pub(super) struct Request<'a> {
    pub conn: &'a Rc<Conn>,
    pub msgid: u32,
    pub method: u32,
    pub params: &'a [u8],
    /// The whole message, to park it.
    pub message: &'a [u8],
    /// The incarnation of the gateway that asks; 0: it is none of ours.
    pub gateway: u64,
    /// When it was parked before: the end of its patience.
    pub until_micros: Option<u64>,
    /// The large value that its connection has brought.
    pub incoming: &'a Incoming,
}

impl Request<'_> {
    /// What a change is remembered by; `None`: it comes from no gateway of ours, and is not remembered.
    #[inline]
    pub(super) fn id_of(&self, style: Style, mutate: &Mutate<'_>) -> Option<Id> {
        let (gateway, sequence, floor) = (self.gateway, mutate.id.sequence, mutate.id.floor);
        (style == Style::Version1 && gateway != 0 && sequence != 0).then_some(Id { gateway, sequence, floor })
    }
}

/// What became of a request.
pub(super) enum Done {
    /// It is answered, or will be by what it started.
    Yes,
    /// It has to wait for its range, its lease, or a record's repair.
    Park,
}

impl Worker {
    /// Takes in bytes of a connection and executes every complete message in them.
    pub fn receive(self: &Rc<Self>, conn: &Rc<Conn>, peer: &mut Peer, bytes: &[u8]) -> Received {
        let mut used = 0;
        self.state.borrow_mut().set_time();
        let ahead = &mut *self.ahead.borrow_mut();
        loop {
            if let Err(e) = ahead.look(&bytes[used..], &mut peer.scanner) {
                tracing::info!("hung up on a peer that sent {e}");
                return Received::close();
            }
            if ahead.lens.is_empty() {
                return Received { used, need: peer.scanner.needed(), then: Then::Read };
            }
            if ahead.positions.len() > 1 {
                self.shard().lock().expect("no holder of a shard panics").prefetch(&ahead.positions);
            }
            for len in &ahead.lens {
                if conn.backlog() > BACKLOG_MAX {
                    // What is behind is scanned again.
                    peer.scanner = Scanner::default();
                    return Received::wait(used);
                }
                let message = &bytes[used..used + len];
                used += len;
                match self.receive_message(conn, peer, message) {
                    Ok(()) => {}
                    Err(HangUp::Now) => return Received::close(),
                    Err(HangUp::Protocol(msgid)) => {
                        conn.write(|out| write_error(out, msgid, error::PROTOCOL));
                        return Received::close();
                    }
                }
            }
        }
    }

    fn receive_message(self: &Rc<Self>, conn: &Rc<Conn>, peer: &mut Peer, message: &[u8]) -> Result<(), HangUp> {
        let first = !std::mem::replace(&mut peer.started, true);
        match frame::parse(message)? {
            Frame::Request { msgid, method, params } => {
                let gateway = peer.connect.filter(|c| c.peer == Calling::Gateway).map_or(0, |c| c.incarnation);
                let incoming = &peer.incoming.clone();
                let request = Request { conn, msgid, method, params, message, gateway, until_micros: None, incoming };
                self.execute(peer, &request).map_err(|_| {
                    tracing::info!("hung up on a peer that sent a malformed request of method {method}");
                    HangUp::Protocol(msgid)
                })
            }
            // Nothing is asked over accepted connections, so nobody waits for this.
            Frame::Response { .. } => Ok(()),
            Frame::Hello { address, role } if first => {
                peer.node = Some((address, role));
                peer.caller.set(if role == Role::Server { Caller::Server } else { Caller::Manager });
                let own = self.shared.config.address;
                conn.write(|out| frame::write_hello(out, own, Role::Server));
                Ok(())
            }
            Frame::Hello { .. } => Err(HangUp::Now),
        }
    }

    fn execute(self: &Rc<Self>, peer: &mut Peer, request: &Request<'_>) -> Result<(), DecodeError> {
        match request.method {
            method::CONNECT => {
                let connect = Connect::read(request.params)?;
                peer.connect = Some(connect);
                if connect.peer == Calling::Gateway {
                    peer.caller.set(Caller::Gateway);
                }
                self.connected(request, &connect);
                Ok(())
            }
            method::REPLICATE | method::REPORT | method::LEAVE => match (peer.node, peer.connect) {
                (Some((_, Role::Server)), Some(connect)) => member::execute(self, &connect, request),
                _ => Err(DecodeError::Type),
            },
            method::PART => match peer.connect {
                Some(Connect { peer: Calling::Gateway | Calling::Server, .. }) => self.take_part(request),
                _ => Err(DecodeError::Type),
            },
            method::COMPARE | method::LIST => match (peer.node, peer.connect) {
                (Some((_, Role::Server)), Some(connect)) => compare::execute(self, &connect, request),
                _ => Err(DecodeError::Type),
            },
            _ if version0::is_for_nodes(request.method) => match peer.node {
                Some(_) => version0::execute_for_node(self, request),
                None => Err(DecodeError::Type),
            },
            _ => self.execute_for_client(request),
        }
    }

    /// Executes what needs a range, and parks it if that is not ready.
    pub(super) fn execute_for_client(self: &Rc<Self>, request: &Request<'_>) -> Result<(), DecodeError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.measures.began(state.now_micros);
        let shard = &mut *self.shard().lock().expect("no holder of a shard panics");
        let done = match request.method {
            // Requests of one connection are executed in their order, also when an early one has to wait.
            _ if state.has_parked(request.conn) => Done::Park,
            _ if state.stands_behind(request) => Done::Yes,
            method::GET | method::GET_IF_MODIFIED => self.get(state, shard, request)?,
            method::GET_PART => self.tell_part(state, shard, request)?,
            method::MULTI_GET => self.multi_get(state, shard, request)?,
            method::MUTATE => {
                let mutate = Mutate::read(request.params)?;
                self.mutate(state, shard, request, Style::Version1, &mutate)?
            }
            method::FETCH => {
                fetch(shard, request)?;
                Done::Yes
            }
            method::PAGE => self.page(state, shard, request)?,
            method::HELD => self.held(state, request)?,
            method::RESTATE => self.restate(state, shard, request)?,
            method::STATISTICS => {
                Reader::new(request.params).array_of(0)?;
                statistics::answer(self.shared.clone(), request.conn.clone(), request.msgid);
                Done::Yes
            }
            method::CONFIG => {
                let result = status::config(&self.shared, request.params)?;
                request.conn.write(|out| {
                    write_success(out, request.msgid);
                    out.extend_from_slice(&result);
                });
                Done::Yes
            }
            method::BACKUP => {
                let asked = Backup::read(request.params)?;
                backup::answer(self.shared.clone(), request.conn.clone(), request.msgid, asked);
                Done::Yes
            }
            method::GET_EPOCH => {
                self.get_epoch(request)?;
                Done::Yes
            }
            _ => version0::execute_for_client(self, state, shard, request)?,
        };
        if let Done::Park = done {
            match request.until_micros {
                Some(until) if until <= state.now_micros => {
                    request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
                }
                Some(until) => self.park_again(state, request, until),
                None => self.park(state, request),
            }
        } else if let Some(until) = request.until_micros {
            let is_get = matches!(request.method, method::GET | method::GET_IF_MODIFIED | method::MULTI_GET);
            state.measures.waited(is_get, (state.now_micros + PARKED_MICROS).saturating_sub(until));
        }
        Ok(())
    }

    /// Executes a request that was parked.
    pub(super) fn execute_again(self: &Rc<Self>, parked: &Parked) {
        let Parked { conn, message, gateway, until_micros, incoming } = parked;
        let Ok(Frame::Request { msgid, method, params }) = frame::parse(message) else { return };
        let (gateway, until_micros) = (*gateway, Some(*until_micros));
        let request = Request { conn, msgid, method, params, message, gateway, until_micros, incoming };
        // It was well-formed when it was parked.
        let _ = self.execute_for_client(&request);
    }

    fn connected(&self, request: &Request<'_>, connect: &Connect) {
        let shared = &self.shared;
        if connect.worker != self.number {
            // It was brought here by mistake; the caller connects anew.
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return;
        }
        let connected = Connected {
            incarnation: shared.incarnation(),
            disk_id: shared.store.disk_id(),
            workers: shared.config.workers,
            epoch: self.state.borrow().view.epoch.number,
        };
        request.conn.write(|out| {
            write_success(out, request.msgid);
            connected.write(out);
        });
    }

    fn get_epoch(&self, request: &Request<'_>) -> Result<(), DecodeError> {
        let mut r = Reader::new(request.params);
        r.array_of(1)?;
        let known = r.u64()?;
        let view = self.shared.view();
        request.conn.write(|out| {
            write_success(out, request.msgid);
            if view.epoch.number > known {
                write_raw(out, &view.epoch.encode());
            } else {
                write_nil(out);
            }
        });
        Ok(())
    }

    fn get(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
    ) -> Result<Done, DecodeError> {
        let mut r = Reader::new(request.params);
        let is_conditional = request.method == method::GET_IF_MODIFIED;
        r.array_of(if is_conditional { 3 } else { 2 })?;
        let (epoch, dbkey) = (r.u64()?, r.raw()?);
        let known = if is_conditional { Some(ClockTime(r.u64()?)) } else { None };
        let hash = hash_of(dbkey)?;
        if epoch != state.view.epoch.number && on(Rule::Fence) {
            return Ok(self.other_epoch(state, request, epoch));
        }
        let Some(range) = self.readable(state, request, hash) else { return Ok(Done::Yes) };
        let leased = state.leased_until(&range.group, hash);
        if !range.open || (leased <= state.now_micros && on(Rule::Lease)) {
            return Ok(Done::Park);
        }
        Counters::add(&self.shared.counters[usize::from(self.number)].gets, 1);
        let told = match state.look_up(shard, dbkey, 0) {
            Look::Value { version, .. } if known == Some(version) => Told::Unmodified,
            Look::Value { version, dbval, .. } if dbval.len() > LARGE_BYTES => {
                Told::InParts(InParts { version: version.0, len: dbval.len() })
            }
            Look::Value { dbval, .. } => Told::Value(dbval),
            Look::Missing { gone, .. } => {
                self.count_miss();
                Told::Missing(gone)
            }
            Look::Expired { .. } if !on(Rule::ExpiryIsWritten) => Told::Missing(Gone::Expired),
            Look::Expired { version } => {
                self.count_miss();
                let write = self.delete_expired(state, shard, hash, dbkey, version);
                return Ok(answer_after(state, request, write, Told::Missing(Gone::Expired)));
            }
            Look::Unreadable(e) => return Ok(self.unreadable(state, hash, dbkey, &e)),
        };
        state.leased_until = state.leased_until.min(leased);
        match state.unstable_write(hash) {
            None => match told {
                Told::Value(dbval) if dbval.len() >= THROUGH_BYTES && state.may_tell(boot_micros()) => {
                    request.conn.write(|out| {
                        write_success(out, request.msgid);
                        write_raw_head(out, dbval.len());
                    });
                    request.conn.write_through(dbval, b"");
                }
                told => request.conn.write(|out| told.write(out, request.msgid)),
            },
            // What is seen now is to be told once it is stable, even if it is overwritten by then.
            Some(write) => drop(answer_after(state, request, Some(write), told)),
        }
        if let Told::InParts(_) = told {
            state.told.keep(shard, dbkey, state.now_micros);
        }
        Ok(Done::Yes)
    }

    fn multi_get(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
    ) -> Result<Done, DecodeError> {
        let mut r = Reader::new(request.params);
        r.array_of(2)?;
        let (epoch, keys) = (r.u64()?, r.array()?);
        if keys > MULTI_GET_KEYS {
            return Err(DecodeError::Type);
        }
        if epoch != state.view.epoch.number && on(Rule::Fence) {
            return Ok(self.other_epoch(state, request, epoch));
        }
        let mut leased = u64::MAX;
        let mut checked = r.clone();
        for _ in 0..keys {
            let hash = hash_of(checked.raw()?)?;
            let Some(range) = self.readable(state, request, hash) else { return Ok(Done::Yes) };
            leased = leased.min(if range.open { state.leased_until(&range.group, hash) } else { 0 });
        }
        if leased <= state.now_micros && on(Rule::Lease) {
            return Ok(Done::Park);
        }
        let mut answer = std::mem::take(&mut state.new_dbval);
        answer.clear();
        write_success(&mut answer, request.msgid);
        write_array(&mut answer, keys);
        let mut waits_for = None;
        for done in 0..keys {
            if lookahead::behind((done, keys - done), &r, lookahead::of_key, &mut state.next_positions) {
                shard.prefetch(&state.next_positions);
            }
            let dbkey = r.raw()?;
            if state.is_remaking(request.conn, dbkey) {
                // Asked for alone, it waits for the change that was sent before.
                write_bool(&mut answer, false);
                continue;
            }
            waits_for = waits_for.max(self.append_value(state, shard, dbkey, &mut answer)?);
        }
        Counters::add(&self.shared.counters[usize::from(self.number)].gets, keys as u64);
        state.leased_until = state.leased_until.min(leased);
        match waits_for {
            None => {
                request.conn.write(|out| out.extend_from_slice(&answer));
                state.new_dbval = answer;
            }
            Some(write) => {
                let outcome = Outcome::Bytes(answer);
                let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome };
                if let Some(answer) = state.pending.hold_behind(write, answer) {
                    answer.send();
                }
            }
        }
        Ok(Done::Yes)
    }

    /// Appends an element of MultiGet's answer; returns the write that it must wait for.
    fn append_value(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        dbkey: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<Option<u64>, DecodeError> {
        if answer.len() > MULTI_GET_BYTES {
            write_bool(answer, false);
            return Ok(None);
        }
        let hash = hash_of(dbkey)?;
        match state.look_up(shard, dbkey, 0) {
            Look::Value { dbval, .. } if dbval.len() > LARGE_BYTES => write_bool(answer, false),
            Look::Value { dbval, .. } => write_raw(answer, dbval),
            Look::Missing { gone, .. } => {
                self.count_miss();
                gone.write(answer);
            }
            Look::Expired { .. } if !on(Rule::ExpiryIsWritten) => Gone::Expired.write(answer),
            Look::Expired { version } => {
                self.count_miss();
                let write = self.delete_expired(state, shard, hash, dbkey, version);
                match write {
                    Some(_) => Gone::Expired.write(answer),
                    None => write_bool(answer, false),
                }
                return Ok(write);
            }
            // Asked for alone, it waits until it is mended.
            Look::Unreadable(_) => write_bool(answer, false),
        }
        Ok(state.unstable_write(hash))
    }

    /// A get found nothing.
    pub(super) fn count_miss(&self) {
        Counters::add(&self.shared.counters[usize::from(self.number)].misses, 1);
    }

    /// The range of a key that this server answers for. Refuses the request otherwise.
    pub(super) fn readable(&self, state: &State, request: &Request<'_>, hash: u64) -> Option<Range> {
        let range = state.range(hash);
        let here = record::worker_of(hash, self.shared.config.workers) == self.number;
        if range.readable && here {
            return Some(*range);
        }
        write_obsolete(request.conn, request.msgid, state.view.epoch.number);
        None
    }

    /// What becomes of a request of another epoch: an older one is refused, and told the newer; one that is ahead waits
    /// until this server has caught up.
    pub(super) fn other_epoch(&self, state: &State, request: &Request<'_>, epoch: u64) -> Done {
        if epoch > state.view.epoch.number {
            self.shared.behind.notify_one();
            return Done::Park;
        }
        write_obsolete(request.conn, request.msgid, state.view.epoch.number);
        Done::Yes
    }
}

/// A record as a coordinator sees it. Versions are those stored, for the next one to exceed.
pub(super) enum Look<'s> {
    /// There is a value.
    Value { dbval: &'s [u8], body: Body<'s>, version: ClockTime },
    /// There is none: never stored, deleted, or flushed.
    Missing { version: ClockTime, gone: Gone },
    /// Its time is over: it is to be deleted, and gone once that is stable.
    Expired { version: ClockTime },
    /// The store cannot tell.
    Unreadable(StoreError),
}

impl State {
    /// The write that an answer about a key has to wait for.
    #[inline]
    pub(super) fn unstable_write(&self, hash: u64) -> Option<u64> {
        self.pending.blocking(hash).filter(|_| on(Rule::StableBeforeShown))
    }

    /// Looks at a key. `options` are those of a Mutate, for kumofs's own expiry. Of a large value only what its header says is sure
    /// to be right.
    pub(super) fn look_up<'s>(&mut self, shard: &'s mut dyn Shard, dbkey: &[u8], options: u8) -> Look<'s> {
        self.hottest.touch(dbkey);
        self.judge(shard.peek(dbkey), options)
    }

    /// The same with all of a large value.
    pub(super) fn look_up_whole<'s>(&mut self, shard: &'s mut dyn Shard, dbkey: &[u8], options: u8) -> Look<'s> {
        self.hottest.touch(dbkey);
        self.judge(shard.get(dbkey), options)
    }

    fn judge<'s>(&self, record: Result<Option<Record<'s>>, StoreError>, options: u8) -> Look<'s> {
        let Record { epoch, dbval } = match record {
            Ok(Some(record)) => record,
            Ok(None) => return Look::Missing { version: ClockTime(0), gone: Gone::Absent },
            Err(e) => return Look::Unreadable(e),
        };
        match record::parse(dbval) {
            Some(Value { version, body: Some(body) }) if epoch >= self.view.epoch.flushed => {
                match mutation::live(Some(body), options, self.now_secs) {
                    Some(body) => Look::Value { dbval, body, version },
                    None => Look::Expired { version },
                }
            }
            Some(Value { version, body }) => {
                let gone = if body.is_some() { Gone::Flushed } else { Gone::Absent };
                Look::Missing { version, gone }
            }
            None => Look::Missing { version: ClockTime(0), gone: Gone::Absent },
        }
    }
}

/// What a get is told.
#[derive(Clone, Copy)]
enum Told<'a> {
    /// The dbval.
    Value(&'a [u8]),
    /// There is none.
    Missing(Gone),
    /// It is large: who asks is to ask for its parts.
    InParts(InParts),
    /// Who asks has it already.
    Unmodified,
}

impl Told<'_> {
    /// Appends the answer.
    fn write(self, out: &mut Vec<u8>, msgid: u32) {
        write_success(out, msgid);
        match self {
            Told::Value(dbval) => write_raw(out, dbval),
            Told::InParts(parts) => parts.write(out),
            Told::Missing(gone) => gone.write(out),
            Told::Unmodified => write_bool(out, true),
        }
    }
}

/// Answers Get so once `write` is stable; without a write, that it could not be executed.
fn answer_after(state: &mut State, request: &Request<'_>, write: Option<u64>, told: Told<'_>) -> Done {
    let Some(write) = write else {
        request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
        return Done::Yes;
    };
    let mut bytes = Vec::new();
    told.write(&mut bytes, request.msgid);
    let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(bytes) };
    if let Some(answer) = state.pending.hold(write, answer) {
        answer.send();
    }
    Done::Yes
}

/// The ring position in a dbkey. Gateways of ours are believed that it is the hash of the key.
pub(super) fn hash_of(dbkey: &[u8]) -> Result<u64, DecodeError> {
    record::dbkey_hash(dbkey).filter(|_| dbkey.len() <= MAX_DBKEY_LEN).ok_or(DecodeError::Type)
}

/// The dbkey that a request of one key is about.
pub(super) fn dbkey_of<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    match request.method {
        method::MUTATE => Mutate::read(request.params).ok().map(|mutate| mutate.dbkey),
        method::GET | method::GET_IF_MODIFIED => {
            let mut r = Reader::new(request.params);
            r.array().and_then(|_| r.u64()).and_then(|_| r.raw()).ok()
        }
        _ => None,
    }
}

/// Tells another server what is stored here, to mend its damaged record.
fn fetch(shard: &mut dyn Shard, request: &Request<'_>) -> Result<(), DecodeError> {
    let mut r = Reader::new(request.params);
    r.array_of(1)?;
    let dbkey = r.raw()?;
    hash_of(dbkey)?;
    match shard.get(dbkey) {
        Ok(record) => request.conn.write(|out| {
            write_success(out, request.msgid);
            match record {
                Some(record) => {
                    write_array(out, 2);
                    write_uint(out, record.epoch);
                    write_raw(out, record.dbval);
                }
                None => write_nil(out),
            }
        }),
        Err(_) => request.conn.write(|out| write_error(out, request.msgid, error::SERVER)),
    }
    Ok(())
}
