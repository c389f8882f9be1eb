//! From a coordinator to one worker of another server: replication, leases, and the odd question.
//!
//! A link lives as long as both incarnations are in the epoch; its connection is made anew whenever it breaks, and
//! everything not acknowledged is sent again. A server of kumofs 0.4 gets ReplicateSet and ReplicateDelete instead, one
//! for each entry, and grants no leases.

use super::peers::Up;
use super::version0::Passed;
use super::worker::{Answer, State, Worker};
use crate::logic::address::Address;
use crate::logic::backoff::{Backoff, Bounds};
use crate::logic::clock::ClockTime;
use crate::logic::lease::{Held, RENEW_MICROS};
use crate::logic::memory::Deed;
use crate::logic::outlog::{LargeEntry, Outlog};
use crate::logic::record;
use crate::net::conn::{Conn, Received, Then, read_loop};
use crate::net::dial::dial;
use crate::net::sock::TcpStream;
use crate::proto::rpc::frame::{self, Frame, Role, Scanner, write_request};
use crate::proto::rpc::msgpack::{Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::v1::{
    Connect, Connected, Entry, PART_BYTES, PARTS_AT_ONCE, Part, Peer, ReplicateHead, method, read_entry, stand_in,
    write_entry,
};
use crate::proto::rpc::{error, v0};
use crate::store::staged::Large;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Bytes of entries in one message; a longer single entry goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Pauses before connecting again: the first is nothing beside the silence that is promised.
const RECONNECT: Bounds = Bounds { shortest_ms: 1, first_ms: 5, longest_ms: 200 };
/// How long a refused batch waits to be sent again, in microseconds.
const REFUSED_MICROS: u64 = 2_000;
/// After so long without an answer, or without a connection, the managers are told.
const OVERDUE_MICROS: u64 = 1_000_000;
/// How often they are told.
const OVERDUE_TOLD_MICROS: u64 = 300_000;
/// The message id of Connect; requests count on from there.
const CONNECT_ID: u32 = 0;

/// What a question to another server is for.
pub enum Call {
    /// To mend a damaged record: its dbkey.
    Mend(Vec<u8>),
    /// Whatever its asker waits for: the result, or the number of the error.
    Ask(tokio::sync::oneshot::Sender<Result<Vec<u8>, u32>>),
    /// A request that was passed on: who asked, and for what.
    Pass(Answer, Passed),
    /// A part of the large value with this id.
    Part(u64),
    /// A takeover report.
    Report {
        /// The epoch that it is for.
        epoch: u64,
        /// The link's own place.
        place: usize,
    },
}

/// Tells a link from all others that this worker had, also from those that were between the same two lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LinkId {
    /// The life of this server that speaks on it.
    life: u64,
    number: u64,
}

/// Where a link leads, and which it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    address: Address,
    incarnation: u64,
    worker: u16,
    id: LinkId,
}

/// How far the large value is that goes before an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Parts {
    /// The value's id; 0: none.
    id: u64,
    /// How much of it was sent.
    sent: usize,
    /// Parts that are not answered.
    unanswered: usize,
}

/// One link.
pub struct Link {
    /// The other server.
    pub address: Address,
    /// Its life.
    pub incarnation: u64,
    /// Its worker.
    pub worker: u16,
    /// Its place in the epoch.
    pub server: u16,
    id: LinkId,
    conn: Option<Rc<Conn>>,
    log: Outlog<Large>,
    /// What of a large value was sent.
    parts: Parts,
    lease: Held,
    next_id: u32,
    /// Requests without an answer: their ids, the number of their last entry, and when they left.
    in_flight: VecDeque<(u32, u64, u64)>,
    calls: BTreeMap<u32, Call>,
    last_sent_micros: u64,
    not_before_micros: u64,
    dirty: bool,
    /// Since when there is no connection.
    down_since_micros: u64,
    overdue_told_micros: u64,
}

/// The id of the next request, which is no other's that is still unanswered.
fn take_id(next: &mut u32) -> u32 {
    let id = *next;
    *next = id.checked_add(1).unwrap_or(CONNECT_ID + 1);
    id
}

impl Link {
    fn new((address, incarnation, worker, server): Wanted, id: LinkId, now_micros: u64) -> Link {
        Link {
            address,
            incarnation,
            worker,
            server,
            id,
            conn: None,
            log: Outlog::default(),
            parts: Parts::default(),
            lease: Held::default(),
            next_id: CONNECT_ID + 1,
            in_flight: VecDeque::new(),
            calls: BTreeMap::new(),
            last_sent_micros: 0,
            not_before_micros: 0,
            dirty: false,
            down_since_micros: now_micros,
            overdue_told_micros: 0,
        }
    }

    fn target(&self) -> Target {
        Target { address: self.address, incarnation: self.incarnation, worker: self.worker, id: self.id }
    }

    /// For how long the other server has answered nothing, in microseconds, where that is too long and was not told of
    /// late.
    fn take_overdue(&mut self, now_micros: u64) -> Option<u64> {
        let since = match &self.conn {
            None => self.down_since_micros,
            Some(_) => self.in_flight.front()?.2,
        };
        let lasting = now_micros.saturating_sub(since);
        if lasting <= OVERDUE_MICROS || now_micros < self.overdue_told_micros + OVERDUE_TOLD_MICROS {
            return None;
        }
        self.overdue_told_micros = now_micros;
        Some(lasting)
    }

    /// Until when the member's lease may be relied on.
    #[inline]
    pub fn leased_until(&self) -> u64 {
        if self.is_version0() { u64::MAX } else { self.lease.until_micros() }
    }

    /// Whether the other is a kumofs 0.4 server.
    pub fn is_version0(&self) -> bool {
        self.incarnation == 0
    }

    /// Whether a connection is established.
    pub fn is_up(&self) -> bool {
        self.conn.is_some()
    }

    /// The writes that the member has not acknowledged.
    pub fn unacknowledged(&self) -> impl Iterator<Item = u64> + '_ {
        self.log.unacknowledged()
    }

    /// Bytes that the member has not acknowledged.
    pub fn backlog_bytes(&self) -> usize {
        self.log.len_bytes()
    }

    /// Asks the other something; false when there is no connection.
    pub fn call(&mut self, call: Call, write: impl FnOnce(&mut Vec<u8>, u32)) -> bool {
        let Some(conn) = self.conn.clone() else { return false };
        let id = take_id(&mut self.next_id);
        self.calls.insert(id, call);
        conn.write(|out| write(out, id));
        true
    }

    /// Sends a request that is never answered; false when there is no connection.
    pub fn notify(&mut self, write: impl FnOnce(&mut Vec<u8>, u32)) -> bool {
        let Some(conn) = self.conn.clone() else { return false };
        let id = take_id(&mut self.next_id);
        conn.write(|out| write(out, id));
        true
    }

    fn send(&mut self, epoch: u64, since: u64, first_pending: u64, now_micros: u64) {
        let Some(conn) = self.conn.clone() else { return };
        if now_micros < self.not_before_micros {
            return;
        }
        self.dirty = false;
        if self.is_version0() {
            return self.send_version0(&conn, now_micros);
        }
        let stable = self.log.stable(first_pending);
        let mut sent = false;
        loop {
            let id = take_id(&mut self.next_id);
            let Some(batch) = self.log.take_batch(BATCH_BYTES) else {
                if self.send_parts(&conn) {
                    continue;
                }
                break;
            };
            let head = ReplicateHead { epoch, since, stable, first: batch.first };
            conn.write(|out| {
                head.write(out, id, batch.count);
                out.extend_from_slice(batch.bytes);
            });
            self.in_flight.push_back((id, batch.first + batch.count as u64 - 1, now_micros));
            self.lease.ask(id, now_micros);
            sent = true;
        }
        if !sent && self.is_to_renew(now_micros) {
            let id = take_id(&mut self.next_id);
            let head = ReplicateHead { epoch, since, stable, first: self.log.next_to_send() };
            conn.write(|out| head.write(out, id, 0));
            self.in_flight.push_back((id, 0, now_micros));
            self.lease.ask(id, now_micros);
            sent = true;
        }
        if sent {
            self.last_sent_micros = now_micros;
            conn.flush();
        }
    }

    /// Sends parts of the large value that goes before the next entry, as many as may be on their way; true when all have
    /// arrived, so that the entry can be sent.
    fn send_parts(&mut self, conn: &Rc<Conn>) -> bool {
        let Some(large) = self.log.next_large() else { return false };
        if self.parts.id != large.id {
            self.parts = Parts { id: large.id, ..Parts::default() };
        }
        let len = large.value.val_len();
        while self.parts.sent < len && self.parts.unanswered < PARTS_AT_ONCE {
            let from = self.parts.sent;
            let part_len = PART_BYTES.min(len - from);
            let id = take_id(&mut self.next_id);
            let part = Part { id: large.id, dbkey: &large.dbkey, len, from, bytes: &[] };
            let written = conn.write(|out| {
                let before = out.len();
                part.write_head(out, id, part_len);
                let written = large.value.append_to(from, part_len, out);
                if !written {
                    out.truncate(before);
                }
                written
            });
            if !written {
                // The disk lost what was just written. Without this write the member is behind for good.
                tracing::error!("cannot send a large value: it is damaged");
                conn.close();
                return false;
            }
            self.calls.insert(id, Call::Part(large.id));
            self.parts.sent += part_len;
            self.parts.unanswered += 1;
        }
        let arrived = self.parts.sent == len && self.parts.unanswered == 0;
        if arrived {
            self.parts = Parts::default();
            self.log.large_arrived();
        }
        arrived
    }

    /// A part was answered. One that was refused has all of them sent again, after a pause.
    fn part_answered(&mut self, id: u64, error: Option<u32>, now_micros: u64) {
        if self.parts.id != id {
            return;
        }
        match error {
            None => self.parts.unanswered = self.parts.unanswered.saturating_sub(1),
            Some(_) => {
                self.parts = Parts::default();
                self.not_before_micros = now_micros + REFUSED_MICROS;
            }
        }
    }

    /// Whether the lease is to be asked for although there is nothing to send.
    fn is_to_renew(&self, now_micros: u64) -> bool {
        now_micros >= self.not_before_micros && now_micros >= self.last_sent_micros + RENEW_MICROS
    }

    /// The member refused a request: most likely one of the two has not adopted an epoch yet, and will within milliseconds. Reads
    /// wait for its grant, so that is asked for as soon as may be, and not when it would be time to renew it.
    fn refused(&mut self, msgid: u32, now_micros: u64) {
        self.lease.refused(msgid);
        self.log.rewind();
        self.parts = Parts::default();
        self.not_before_micros = now_micros + REFUSED_MICROS;
        self.last_sent_micros = 0;
    }

    fn send_version0(&mut self, conn: &Rc<Conn>, now_micros: u64) {
        while let Some(batch) = self.log.take_batch(BATCH_BYTES) {
            let mut r = Reader::new(batch.bytes);
            for number in batch.first..batch.first + batch.count as u64 {
                let Entry { dbkey, dbval, .. } =
                    read_entry(&mut r).expect("the log holds what this server has encoded");
                let id = self.next_id;
                self.next_id = id.checked_add(1).unwrap_or(CONNECT_ID + 1);
                conn.write(|out| write_version0(out, id, dbkey, dbval));
                self.in_flight.push_back((id, number, now_micros));
            }
        }
    }
}

/// Appends ReplicateSet, or for a mark ReplicateDelete.
fn write_version0(out: &mut Vec<u8>, id: u32, dbkey: &[u8], dbval: &[u8]) {
    let version = record::version_of(dbval).unwrap_or_default();
    let mark = record::is_mark(dbval);
    write_request(out, id, if mark { v0::method::REPLICATE_DELETE } else { v0::method::REPLICATE_SET });
    write_array(out, 4);
    write_uint(out, u64::from(ClockTime(version.0).counter()));
    write_uint(out, 0);
    if mark {
        write_uint(out, version.0);
        write_raw(out, dbkey);
    } else {
        write_raw(out, dbkey);
        write_raw(out, dbval);
    }
}

/// A link that there has to be: the other's address, life, worker and place in the epoch.
pub type Wanted = (Address, u64, u16, u16);

/// All links of a worker.
#[derive(Default)]
pub struct Links {
    /// How many there were.
    made: u64,
    list: Vec<Option<Link>>,
    /// By server and its worker: places in `list`.
    table: Vec<Vec<Option<usize>>>,
    dirty: Vec<usize>,
    /// Records being mended.
    pub(super) mending: Vec<Vec<u8>>,
}

impl Links {
    /// The link to the worker of a server that `worker` chooses, told how many that has.
    #[inline]
    pub fn of(&self, server: u16, worker: impl FnOnce(u16) -> u16) -> Option<usize> {
        let workers = self.table.get(usize::from(server))?;
        let worker = if workers.len() == 1 { 0 } else { worker(u16::try_from(workers.len()).ok()?) };
        *workers.get(usize::from(worker))?
    }

    /// A link.
    pub fn get(&self, link: usize) -> Option<&Link> {
        self.list.get(link)?.as_ref()
    }

    /// A link, to change it.
    pub fn get_mut(&mut self, link: usize) -> Option<&mut Link> {
        self.list.get_mut(link)?.as_mut()
    }

    /// All links with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Link)> {
        self.list.iter().enumerate().filter_map(|(place, link)| Some((place, link.as_ref()?)))
    }

    /// Bytes that the member has not acknowledged.
    pub fn backlog(&self, link: usize) -> usize {
        self.get(link).map_or(0, Link::backlog_bytes)
    }

    /// Adds an entry for `write` to a key at ring position `hash`, which `encode` appends.
    #[inline]
    pub fn push(&mut self, place: usize, write: u64, hash: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(Some(link)) = self.list.get_mut(place) else { return };
        link.log.push(write, hash, encode);
        if !std::mem::replace(&mut link.dirty, true) {
            self.dirty.push(place);
        }
    }

    /// The same for a record whose value is large, and goes in parts. A kumofs 0.4 server gets it whole.
    pub fn push_large(
        &mut self,
        place: usize,
        write: u64,
        hash: u64,
        (dbkey, epoch, version): (&[u8], u64, ClockTime),
        deeds: &[Deed],
        value: Large,
    ) {
        let Some(Some(link)) = self.list.get_mut(place) else { return };
        if link.is_version0() {
            let mut dbval = Vec::new();
            value.append_to(0, value.val_len(), &mut dbval);
            return self.push(place, write, hash, |out| write_entry(out, dbkey, epoch, &dbval, deeds));
        }
        let large = LargeEntry { id: version.0, dbkey: dbkey.to_vec(), value };
        let stand_in = stand_in(version);
        link.log.push_large(write, hash, large, |out| write_entry(out, dbkey, epoch, &stand_in, deeds));
        self.mark(place);
    }

    fn mark(&mut self, place: usize) {
        if let Some(link) = self.get_mut(place)
            && !std::mem::replace(&mut link.dirty, true)
        {
            self.dirty.push(place);
        }
    }

    /// Marks the links that should send although they have nothing new; true when there are any.
    pub fn renewal_due(&mut self, now_micros: u64) -> bool {
        for place in 0..self.list.len() {
            if let Some(link) = self.get(place)
                && link.is_up()
                && link.is_to_renew(now_micros)
                && !link.is_version0()
            {
                self.mark(place);
            }
        }
        !self.dirty.is_empty()
    }

    /// Has every link tell its member at once which epoch this server is in, giving back what it held.
    pub fn give_back_leases(&mut self) {
        for place in 0..self.list.len() {
            if let Some(link) = self.get_mut(place) {
                link.lease.give_back();
                link.last_sent_micros = 0;
                link.not_before_micros = 0;
                self.mark(place);
            }
        }
    }

    /// Tells every member that this worker acts no more, and ends the connections.
    pub fn leave(&mut self) {
        for link in self.list.iter_mut().flatten() {
            let Some(conn) = link.conn.take() else { continue };
            if link.is_version0() {
                conn.close();
                continue;
            }
            let id = take_id(&mut link.next_id);
            conn.write(|out| {
                write_request(out, id, method::LEAVE);
                write_array(out, 0);
            });
            conn.close_when_written();
        }
    }

    /// Makes the links be those of this server's life `life` to `wanted`, in an epoch with servers that have so many
    /// `workers` each. Returns the places of new ones. What an earlier life had is given up: the others know it by that
    /// life, and would take nothing more from it.
    pub fn arrange(&mut self, life: u64, wanted: &[Wanted], workers: &[u16], now_micros: u64) -> Vec<usize> {
        for slot in &mut self.list {
            let keep = |l: &Link| {
                l.id.life == life && wanted.iter().any(|w| (w.0, w.1, w.2) == (l.address, l.incarnation, l.worker))
            };
            if let Some(gone) = slot.take_if(|link| !keep(link))
                && let Some(conn) = gone.conn
            {
                conn.close();
            }
        }
        self.table = workers.iter().map(|n| vec![None; usize::from(*n)]).collect();
        let mut new = Vec::new();
        for &(address, incarnation, worker, server) in wanted {
            let same = |l: &Link| (l.address, l.incarnation, l.worker) == (address, incarnation, worker);
            let place = self.list.iter().position(|slot| slot.as_ref().is_some_and(same)).unwrap_or_else(|| {
                let free = self.list.iter().position(Option::is_none).unwrap_or(self.list.len());
                if free == self.list.len() {
                    self.list.push(None);
                }
                self.made += 1;
                let id = LinkId { life, number: self.made };
                self.list[free] = Some(Link::new((address, incarnation, worker, server), id, now_micros));
                new.push(free);
                free
            });
            if let Some(link) = &mut self.list[place] {
                link.server = server;
            }
            self.table[usize::from(server)][usize::from(worker)] = Some(place);
        }
        new
    }
}

impl State {
    /// Sends what waits for other members.
    pub(super) fn send_to_members(&mut self) {
        let epoch = self.view.epoch.number;
        let (since, first_pending) = (self.memory.since(), self.pending.first());
        let mut dirty = std::mem::take(&mut self.links.dirty);
        dirty.retain(|place| {
            let Some(link) = self.links.get_mut(*place) else { return false };
            link.send(epoch, since, first_pending, self.now_micros);
            // What it could not send now waits for the next turn.
            link.dirty &= link.is_up();
            link.dirty
        });
        self.links.dirty = dirty;
    }

    /// Tells the managers which links have been down, or unanswered, for too long.
    pub(super) fn tell_overdue(&mut self, worker: &Worker) {
        for link in self.links.list.iter_mut().flatten() {
            if let Some(lasting) = link.take_overdue(self.now_micros) {
                // Without its control plane this server is about to end.
                let _ = worker.shared.lost.send((link.address, Duration::from_micros(lasting)));
            }
        }
    }
}

impl Worker {
    /// Starts the task that keeps a link connected.
    pub(super) fn start_link(self: &Rc<Self>, place: usize) {
        let worker = self.clone();
        tokio::task::spawn_local(async move { worker.keep_link(place).await });
    }

    async fn keep_link(self: Rc<Self>, place: usize) {
        let target = |worker: &Worker| {
            let state = worker.state.borrow();
            state.links.get(place).map(Link::target)
        };
        let Some(wanted) = target(&self) else { return };
        let seed = wanted.id.life.wrapping_add(wanted.id.number << 16 | u64::from(self.number));
        let mut backoff = Backoff::new(RECONNECT, seed);
        // The place may be given to another link, even one between the same two; that has its own task.
        while target(&self) == Some(wanted) {
            if let Ok(stream) = dial(wanted.address.socket_addr(), self.shared.config.connect_timeout).await
                && target(&self) == Some(wanted)
                && self.run_link(place, wanted, stream).await
            {
                backoff.worked();
            }
            if target(&self) == Some(wanted) {
                let _ = self.shared.lost.send((wanted.address, Duration::ZERO));
                tokio::time::sleep(backoff.failed()).await;
            }
        }
    }

    /// Serves a link's new connection until it ends; true when it was of use.
    async fn run_link(self: &Rc<Self>, place: usize, wanted: Target, stream: TcpStream) -> bool {
        let (conn, read) = Conn::new(stream, &self.turn);
        let own = self.shared.config.address;
        conn.write(|out| {
            frame::write_hello(out, own, Role::Server);
            if wanted.incarnation != 0 {
                let incarnation = wanted.id.life;
                let workers = self.shared.config.workers;
                let (from_worker, worker) = (self.number, wanted.worker);
                Connect { peer: Peer::Server, incarnation, workers, from_worker, worker }.write(out, CONNECT_ID);
            }
        });
        let mut scanner = Scanner::default();
        let mut useful = false;
        let mut up = None;
        let (receiver, scratch) = (conn.clone(), self.scratch.clone());
        let receive = |bytes: &[u8]| {
            self.state.borrow_mut().set_time();
            let mut used = 0;
            loop {
                match scanner.take(&bytes[used..]) {
                    Ok(Some((frame, len))) => {
                        used += len;
                        match self.receive_answer(place, wanted, &receiver, frame) {
                            Ok(works) => {
                                useful |= works;
                                if up.is_none() && self.is_link(place, &receiver) {
                                    up = Some(Up::new(&self.shared, wanted.address));
                                }
                            }
                            Err(()) => return Received::close(),
                        }
                    }
                    Ok(None) => return Received { used, need: scanner.needed(), then: Then::Read },
                    Err(_) => return Received::close(),
                }
            }
        };
        let _ = read_loop(&conn, read, &scratch, receive).await;
        drop(up);
        let mut state = self.state.borrow_mut();
        state.set_time();
        let now_micros = state.now_micros;
        if let Some(link) = state.links.get_mut(place)
            && link.conn.as_ref().is_some_and(|own| Rc::ptr_eq(own, &conn))
        {
            link.conn = None;
            link.down_since_micros = now_micros;
            link.log.rewind();
            link.parts = Parts::default();
            link.lease.forget_requests();
            link.in_flight.clear();
            let calls = std::mem::take(&mut link.calls);
            drop(state);
            for call in calls.into_values() {
                self.finish_call(call, Err(error::TRANSPORT_LOST));
            }
        }
        useful
    }

    /// Whether a connection is the one of the link at that place.
    fn is_link(&self, place: usize, conn: &Rc<Conn>) -> bool {
        let state = self.state.borrow();
        state.links.get(place).and_then(|link| link.conn.as_ref()).is_some_and(|own| Rc::ptr_eq(own, conn))
    }

    /// Takes in a message on a link; true when it shows that the link works. An error ends the connection.
    fn receive_answer(
        self: &Rc<Self>,
        place: usize,
        wanted: Target,
        conn: &Rc<Conn>,
        frame: Frame<'_>,
    ) -> Result<bool, ()> {
        match frame {
            Frame::Hello { .. } => {
                if wanted.incarnation == 0 {
                    self.link_up(place, wanted, conn);
                }
                Ok(false)
            }
            Frame::Request { .. } => Err(()),
            Frame::Response { msgid: CONNECT_ID, error, result } => {
                let connected = Connected::read(result).map_err(drop);
                if error.is_some() || connected?.incarnation != wanted.incarnation {
                    return Err(());
                }
                self.link_up(place, wanted, conn);
                Ok(true)
            }
            Frame::Response { msgid, error, result } => self.receive_outcome(place, conn, msgid, error, result),
        }
    }

    fn link_up(self: &Rc<Self>, place: usize, wanted: Target, conn: &Rc<Conn>) {
        let mut state = self.state.borrow_mut();
        let Some(link) = state.links.get_mut(place) else { return conn.close() };
        if link.target() != wanted {
            return conn.close();
        }
        link.conn = Some(conn.clone());
        link.last_sent_micros = 0;
        link.not_before_micros = 0;
        state.links.mark(place);
        self.turn.wake();
    }

    fn receive_outcome(
        self: &Rc<Self>,
        place: usize,
        conn: &Rc<Conn>,
        msgid: u32,
        error: Option<u32>,
        result: &[u8],
    ) -> Result<bool, ()> {
        let mut state = self.state.borrow_mut();
        let state_ref = &mut *state;
        let Some(link) = state_ref.links.get_mut(place) else { return Err(()) };
        if !link.conn.as_ref().is_some_and(|own| Rc::ptr_eq(own, conn)) {
            return Err(());
        }
        if let Some(call) = link.calls.remove(&msgid) {
            if let Call::Part(id) = call {
                link.part_answered(id, error, state_ref.now_micros);
                let pause = link.not_before_micros > state_ref.now_micros;
                state_ref.links.mark(place);
                match pause {
                    true => self.wake_after(REFUSED_MICROS),
                    false => self.turn.wake(),
                }
                return Ok(true);
            }
            drop(state);
            self.finish_call(call, error.map_or(Ok(result), Err));
            return Ok(true);
        }
        let Some(asked) = link.in_flight.iter().position(|(id, _, _)| *id == msgid) else { return Err(()) };
        link.in_flight.remove(asked);
        let was_leased = link.lease.until_micros() > state_ref.now_micros;
        let acknowledged = match (error, link.is_version0()) {
            (None, true) => link.in_flight.front().map_or(u64::MAX, |(_, number, _)| number - 1),
            (None, false) => {
                link.lease.granted(msgid);
                let mut r = Reader::new(result);
                r.array_of(1).and_then(|()| r.u64()).map_err(drop)?
            }
            (Some(_), _) => {
                link.refused(msgid, state_ref.now_micros);
                if Reader::new(result).u64().is_ok_and(|epoch| epoch > state_ref.view.epoch.number) {
                    self.shared.behind.notify_one();
                }
                state_ref.links.mark(place);
                self.wake_after(REFUSED_MICROS);
                return Ok(true);
            }
        };
        let pending = &mut state_ref.pending;
        link.log.acknowledge(acknowledged, |write| pending.arrived(write, Answer::send));
        state_ref.unpark |= !was_leased;
        if !was_leased {
            self.turn.wake();
        }
        Ok(true)
    }

    fn finish_call(self: &Rc<Self>, call: Call, result: Result<&[u8], u32>) {
        match call {
            Call::Pass(answer, passed) => answer.conn.write(|out| passed.write_answer(out, answer.msgid, result)),
            Call::Report { epoch, place } => self.report_answered(epoch, place, result.is_ok()),
            Call::Mend(dbkey) => self.mended(&dbkey, result),
            // Seen to where it is received; with a connection that broke, all of them are sent again.
            Call::Part(_) => {}
            Call::Ask(answer) => {
                // Whoever asked may have given up.
                let _ = answer.send(result.map(<[u8]>::to_vec));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At a new epoch members refuse until they have adopted it, too. Where clients only read, their reads then waited for the
    /// next renewal.
    #[test]
    fn what_was_refused_is_asked_for_again_at_once_and_not_when_it_would_be_renewed() {
        let address = Address::new(([127, 0, 0, 1], 1).into());
        let now = 1_000_000;
        let mut link = Link::new((address, 7, 0, 0), LinkId { life: 1, number: 1 }, now);
        link.last_sent_micros = now;
        assert!(!link.is_to_renew(now + REFUSED_MICROS));
        assert!(link.is_to_renew(now + RENEW_MICROS));
        link.refused(1, now);
        assert!(!link.is_to_renew(now + REFUSED_MICROS - 1));
        assert!(link.is_to_renew(now + REFUSED_MICROS));
    }
}
