//! A memcached client: its bytes become operations, its answers leave in the order of its commands.
//!
//! What a client can make the gateway hold is bounded. No command of its is looked at while [`MAX_KEYS`] keys of its are
//! under way or unanswered, or fewer where its values are large (about [`WINDOW_BYTES`] of them), or while it leaves
//! [`BACKLOG_BYTES`] of answers unread. What all of a worker's clients leave unread has a bound, too: beyond it, those are closed that
//! have taken nothing for the longest. While the requests of all of a worker's clients take [`WORKER_BYTES`], none is. Large
//! commands that are not complete yet have a bound of their own ([`super::uploads`]).

use super::answers::{Answers, Pool};
use super::assembly::{Assembly, Found};
use super::op::{Home, Op, WHOLE};
use super::outcome::Answer;
use super::stats::Figure;
use super::uploads::Upload;
use super::worker::{State, Worker};
use crate::net::conn::{Conn, Ended, Received, THROUGH_BYTES, Then, read_until_ended};
use crate::net::front::Arrival;
use crate::net::stream::{ReadHalf, Stream};
use crate::net::time::Instant;
use crate::proto::memcache::{Reply, Request, Style, Trouble, binary, meta, style, text};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

/// Keys of a client that may be under way, or answered and not given out.
pub const MAX_KEYS: usize = 1024;
/// Bytes of a client's requests that may be under way, and of its answers that are expected. One command may exceed it.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of answers that a client may leave unread, or have held for it, before its commands wait.
pub const BACKLOG_BYTES: usize = 1 << 20;
/// Bytes of requests under way, of all clients of a worker, from which commands wait.
pub const WORKER_BYTES: usize = 64 << 20;

/// How long a gateway that ends waits for a client to hang up, too.
const SEE_OFF: Duration = Duration::from_millis(100);

/// The size of a client's values, as far as seen.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Moving average, in bytes.
    average_len: usize,
}

impl Default for Traffic {
    fn default() -> Traffic {
        // A new client is taken for one of large values: it is the first answers that tell.
        Traffic { average_len: 64 << 10 }
    }
}

impl Traffic {
    /// Notes a value.
    #[inline]
    pub fn note(&mut self, len: usize) {
        self.average_len = self.average_len - self.average_len / 8 + len / 8;
    }

    /// How many keys may be under way.
    #[inline]
    fn window(self) -> usize {
        (WINDOW_BYTES / (self.average_len + 64)).clamp(1, MAX_KEYS)
    }
}

/// Whether a client's commands wait for the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Barrier {
    #[default]
    Open,
    /// Until its operations are done: they take several steps, in clusters of kumofs 0.4.
    UntilIdle,
    /// Until [`State::end_barrier`]: a task of its own does it (`stats`, `flush_all`).
    UntilEnded,
}

/// A client.
pub struct Client {
    /// The connection.
    pub conn: Rc<Conn>,
    /// What it is owed.
    pub answers: Answers,
    /// The size of its values.
    pub traffic: Traffic,
    /// Keys under way, and the bytes of their requests.
    keys: usize,
    bytes: usize,
    /// Its commands wait for answers.
    paused: bool,
    /// Whether its commands wait for the one before.
    barrier: Barrier,
    /// No more commands: it is closed when all is answered.
    closing: bool,
    /// Bytes to be dropped unread: the data of a refused store.
    swallow: u64,
    /// What its first byte said that it speaks.
    speaks: Option<Speaks>,
    /// Whether it may send a large command.
    pub(super) upload: Upload,
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Text,
    Binary,
}

impl Speaks {
    /// By the first byte of a connection.
    fn by(first: u8) -> Speaks {
        if first == binary::MAGIC { Speaks::Binary } else { Speaks::Text }
    }
}

impl Client {
    /// Counts a request that begins.
    #[inline]
    pub fn begin(&mut self, keys: usize, bytes: usize) {
        self.keys += keys;
        self.bytes += bytes;
    }

    /// Counts a request that is done.
    #[inline]
    pub fn end(&mut self, keys: usize, bytes: usize) {
        self.keys -= keys;
        self.bytes -= bytes;
    }

    /// Whether nothing is under way and all is answered.
    fn is_idle(&self) -> bool {
        self.keys == 0 && self.answers.is_empty()
    }

    /// Whether the client is within a `part`-th of its bounds.
    #[inline]
    fn has_room(&self, part: usize) -> bool {
        let window = self.traffic.window() / part;
        (self.keys <= window.saturating_sub(1) || self.keys == 0)
            && self.answers.len() < MAX_KEYS / part
            && self.bytes < WINDOW_BYTES / part
            && self.answers.held_bytes() < BACKLOG_BYTES / part
    }

    /// Gives the answer with this number, now or when its turn comes.
    #[inline]
    pub fn answer(&mut self, number: u32, pool: &mut Pool, encode: impl FnOnce(&mut Vec<u8>)) {
        let answers = &mut self.answers;
        if answers.is_next(number) {
            self.conn.write(|out| {
                pool.counted(out, |out, pool| {
                    encode(out);
                    answers.given(out, pool);
                });
            });
        } else {
            answers.hold(number, pool, encode);
        }
    }

    /// Whether an answer, that of a whole command, is long enough to go to the client from where it is, and may go now.
    #[inline]
    pub fn takes_through(&self, number: u32, home: Home, found: &Found<'_>) -> bool {
        found.data.len() >= THROUGH_BYTES && home.part == WHOLE && self.answers.is_next(number)
    }

    /// Gives such an answer. Not for the meta protocol.
    pub fn answer_through(&mut self, (op, key): (&Op, &[u8]), found: &Found<'_>, pool: &mut Pool) {
        let value = (key, found.flags, op.with_cas.then_some(found.cas));
        let tail = op.style.value_tail();
        let head = |out: &mut Vec<u8>| op.style.write_value_head(value, found.data.len(), out);
        let written = |conn: &Rc<Conn>| conn.write_through(found.data, tail);
        self.answer_around(found.data.len() + tail.len(), head, written, b"", pool);
    }

    /// Gives an answer whose turn it is around something long: what `head` appends, what `long` gives to the connection, which is
    /// `len` bytes, and `tail`.
    pub fn answer_around(
        &mut self,
        len: usize,
        head: impl FnOnce(&mut Vec<u8>),
        long: impl FnOnce(&Rc<Conn>),
        tail: &[u8],
        pool: &mut Pool,
    ) {
        pool.written_bytes += len as u64;
        self.conn.write(|out| pool.counted(out, |out, _| head(out)));
        long(&self.conn);
        let answers = &mut self.answers;
        self.conn.write(|out| {
            pool.counted(out, |out, pool| {
                out.extend_from_slice(tail);
                answers.given(out, pool);
            });
        });
    }

    /// Gives a part of an answer. `alone`: it was asked for by itself.
    pub fn answer_part(&mut self, number: u32, part: u32, alone: bool, answer: &Answer<'_>, pool: &mut Pool) {
        let answers = &mut self.answers;
        let mut is_next = answers.is_next(number);
        let Some(assembly) = answers.assembly(number) else { return };
        is_next = is_next
            && assembly.is_worth_writing(1, if let Answer::Found(found) = answer { found.data.len() } else { 0 });
        if alone {
            assembly.told_alone();
        }
        match answer {
            Answer::Found(found) if is_next => {
                self.conn.write(|out| pool.counted(out, |out, _| assembly.found(part, found, Some(out))));
            }
            Answer::Found(found) => assembly.found(part, found, None),
            Answer::Missing(_) => assembly.missing(part),
            Answer::Reply(Reply::Trouble(trouble)) => assembly.fail(part, *trouble),
            Answer::Changed(..) | Answer::Told(..) | Answer::Reply(_) => assembly.missing(part),
        }
        self.give_parts(number, pool);
    }

    /// Gives what there is of the answer with this number, if it is its turn and worth it, and all that follow.
    pub fn give_parts(&mut self, number: u32, pool: &mut Pool) {
        let worth = |assembly: &mut Assembly| assembly.is_worth_writing(0, 0);
        if self.answers.is_next(number) && self.answers.assembly(number).is_some_and(worth) {
            self.give(pool);
        }
    }

    /// Gives all answers whose turn has come.
    pub fn give(&mut self, pool: &mut Pool) {
        let answers = &mut self.answers;
        self.conn.write(|out| pool.counted(out, |out, pool| answers.give(out, pool)));
    }

    /// The answer whose turn it is and a part of it to ask for by itself, if the client reads what it gets.
    pub fn next_alone(&mut self, at_once: usize) -> Option<(u32, u32)> {
        let (number, assembly) = self.answers.next_assembly()?;
        if !assembly.has_alone() {
            return None;
        }
        if self.conn.backlog() >= BACKLOG_BYTES {
            self.conn.show_again_when_written();
            return None;
        }
        assembly.next_alone(at_once).map(|part| (number, part))
    }

    /// Ends the waiting of commands, or the client, if it is time to.
    #[inline]
    pub fn go_on(&mut self) {
        if self.closing {
            if self.is_idle() && self.barrier != Barrier::UntilEnded {
                self.conn.close_when_written();
            }
        } else if self.barrier == Barrier::UntilIdle && self.is_idle() {
            self.barrier = Barrier::Open;
            self.conn.resume();
        } else if self.paused && self.has_room(2) {
            self.paused = false;
            self.conn.resume();
        }
    }

    /// Takes no more commands; closes when all is answered.
    pub fn close_when_answered(&mut self) {
        self.closing = true;
        self.go_on();
    }
}

/// The clients of a worker.
#[derive(Default)]
pub struct Clients {
    table: Vec<(u32, Option<Client>)>,
    free: Vec<u32>,
}

impl Clients {
    /// The client to whom an answer belongs, if it is still there.
    #[inline]
    pub fn get(&mut self, home: Home) -> Option<&mut Client> {
        match self.table.get_mut(home.client as usize) {
            Some((generation, client)) if *generation == home.generation => client.as_mut(),
            _ => None,
        }
    }

    fn add(&mut self, conn: Rc<Conn>) -> Home {
        let place = self.free.pop().unwrap_or_else(|| {
            self.table.push((0, None));
            self.table.len() as u32 - 1
        });
        let (generation, client) = &mut self.table[place as usize];
        *client = Some(Client {
            conn,
            answers: Answers::default(),
            traffic: Traffic::default(),
            keys: 0,
            bytes: 0,
            paused: false,
            barrier: Barrier::Open,
            closing: false,
            swallow: 0,
            speaks: None,
            upload: Upload::None,
        });
        Home { client: place, generation: *generation, ..Home::default() }
    }

    fn remove(&mut self, home: Home) {
        if self.get(home).is_some() {
            let (generation, client) = &mut self.table[home.client as usize];
            *generation = generation.wrapping_add(1);
            *client = None;
            self.free.push(home.client);
        }
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.table.len()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.table.iter_mut().filter_map(|(_, client)| client.as_mut())
    }
}

/// What a command asks of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next command.
    GoOn,
    /// To wait: until nothing else is under way, and then for this command's end.
    Wait,
    /// No more commands.
    Quit,
}

impl State {
    /// Takes what a client sent, as many commands as there are and have room.
    fn client_received(&mut self, home: Home, bytes: &[u8]) -> Received {
        self.read_clock();
        self.input_at = bytes.as_ptr() as usize;
        let mut used = 0;
        loop {
            if self.must_wait(home) {
                return self.client_read(Received::wait(used));
            }
            let Some(client) = self.clients.get(home) else { return Received::close() };
            let rest = &bytes[used..];
            if client.swallow > 0 {
                let swallowed = client.swallow.min(rest.len() as u64);
                client.swallow -= swallowed;
                used += swallowed as usize;
                if client.swallow > 0 {
                    return self.client_read(Received::used(used));
                }
                continue;
            }
            let Some(first) = rest.first() else { return self.client_read(Received::used(used)) };
            let limits = &self.shared.config.limits;
            let (style, parsed) = match client.speaks.get_or_insert_with(|| Speaks::by(*first)) {
                Speaks::Text => (Style::Text, text::parse(rest, limits)),
                Speaks::Binary => {
                    let (head, parsed) = binary::parse(rest, limits);
                    (Style::Binary(head), parsed)
                }
            };
            match parsed {
                text::Parsed::Incomplete { needed_bytes } => {
                    if !self.may_upload(home, needed_bytes) {
                        return self.client_read(Received::wait(used));
                    }
                    return self.client_read(Received { used, need: needed_bytes, then: Then::Read });
                }
                text::Parsed::Request { request, used_bytes } => match self.execute(home, style, request) {
                    Flow::GoOn => {
                        used += used_bytes;
                        self.uploaded(home);
                    }
                    Flow::Wait => return self.client_read(Received::wait(used)),
                    Flow::Quit => {
                        self.end_client(home);
                        return self.client_read(Received::wait(used + used_bytes));
                    }
                },
                text::Parsed::Refused { reply, used_bytes, then } => {
                    used += used_bytes;
                    self.uploaded(home);
                    if let text::Then::Swallow { bytes, stale_key } = then {
                        if let Some(text::StaleKey { key, base64 }) = stale_key {
                            let mut decoded = Vec::new();
                            let is_decoded = base64 && meta::base64::decode(key, &mut decoded).is_some();
                            let key = if is_decoded { &decoded } else { key };
                            self.execute(home, Style::Text, Request::Delete { key, cas: 0, noreply: true });
                        }
                        if let Some(client) = self.clients.get(home) {
                            client.swallow = bytes;
                        }
                    }
                    if let Some(trouble) = reply {
                        if trouble == Trouble::TooLarge {
                            self.count(Figure::StoreTooLarge, 1);
                        }
                        self.reply(home, style, Reply::Trouble(trouble));
                    }
                    if then == text::Then::Close {
                        self.end_client(home);
                        return self.client_read(Received::wait(used));
                    }
                }
            }
        }
    }

    /// A client's command is done with: nothing of it is held as it came.
    #[inline]
    fn uploaded(&mut self, home: Home) {
        let Some(client) = self.clients.get(home) else { return };
        let upload = std::mem::take(&mut client.upload);
        self.end_upload(upload);
    }

    fn client_read(&mut self, received: Received) -> Received {
        self.count(Figure::BytesRead, received.used as u64);
        self.count_written();
        received
    }

    /// Whether a client's next command has to wait; then something will show it again.
    fn must_wait(&mut self, home: Home) -> bool {
        let Some(client) = self.clients.get(home) else { return false };
        if client.closing || client.barrier != Barrier::Open {
            return true;
        }
        if !client.has_room(1) {
            client.paused = true;
            return true;
        }
        if client.conn.backlog() >= BACKLOG_BYTES {
            client.conn.show_again_when_written();
            return true;
        }
        if self.ops.bytes() >= WORKER_BYTES {
            self.starved.push((home.client, home.generation));
            return true;
        }
        false
    }

    /// Whether a command that all others wait for may begin, and be ended by [`end_barrier`](State::end_barrier);
    /// otherwise it is shown again when it may.
    pub fn begin_barrier(&mut self, home: Home) -> bool {
        self.raise_barrier(home, Barrier::UntilEnded)
    }

    /// The same for a command that ends with its operations.
    pub fn begin_alone(&mut self, home: Home) -> bool {
        self.raise_barrier(home, Barrier::UntilIdle)
    }

    fn raise_barrier(&mut self, home: Home, barrier: Barrier) -> bool {
        let Some(client) = self.clients.get(home) else { return false };
        let idle = client.is_idle();
        if idle {
            client.barrier = barrier;
        } else {
            client.paused = true;
        }
        idle
    }

    /// A command that all after it wait for is done. `encode` appends its answer, if one is wanted.
    pub fn end_barrier(&mut self, home: Home, number: Option<u32>, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(client) = self.clients.get(home) else { return };
        client.barrier = Barrier::Open;
        if let Some(number) = number {
            client.answer(number, &mut self.pool, encode);
        }
        client.conn.resume();
        client.go_on();
    }

    /// Answers a command at once, or when its turn comes.
    pub fn reply(&mut self, home: Home, how: Style, reply: Reply<'_>) {
        let Some(client) = self.clients.get(home) else { return };
        let number = client.answers.push();
        client.answer(number, &mut self.pool, |out| style::encode(how, b"", &reply, 0, out));
    }

    /// Lets clients go on that waited for memory.
    #[inline]
    pub fn feed_starved(&mut self) {
        if self.starved.is_empty() || self.ops.bytes() >= WORKER_BYTES / 2 {
            return;
        }
        for (client, generation) in std::mem::take(&mut self.starved) {
            if let Some(client) = self.clients.get(Home { client, generation, ..Home::default() }) {
                client.conn.resume();
            }
        }
    }

    /// Takes no more commands of a client.
    fn end_client(&mut self, home: Home) {
        if let Some(client) = self.clients.get(home) {
            client.close_when_answered();
        }
    }

    /// Takes no more commands of any client, and tells `done` when all are answered and gone.
    pub fn drain(&mut self, done: oneshot::Sender<()>) {
        self.clients.iter_mut().for_each(Client::close_when_answered);
        self.drained = Some(done);
        self.tell_drained();
    }

    fn tell_drained(&mut self) {
        if self.clients.is_empty()
            && let Some(done) = self.drained.take()
        {
            // Who waited may have lost patience.
            let _ = done.send(());
        }
    }

    /// Closes clients that leave more than `each` bytes of answers unread and have taken nothing of them for `patience`, those first
    /// that have not for the longest, until no more than `bytes` are unread in all.
    pub fn close_unread(&mut self, bytes: usize, each: usize, patience: Duration) {
        let now = Instant::now();
        let clients = self.clients.iter_mut().filter_map(|client| Some((client.conn.unread()?, client.conn.clone())));
        let is_late = |(unread, since): (usize, Instant)| unread > each && now.duration_since(since) >= patience;
        let clients = clients.filter(|(unread, _)| is_late(*unread));
        let mut late: Vec<_> = clients.map(|((_, since), conn)| (since, conn)).collect();
        late.sort_by_key(|(since, _)| *since);
        let mut closed = 0;
        for (_, conn) in late {
            if self.unread.bytes() <= bytes {
                break;
            }
            conn.close();
            closed += 1;
        }
        if closed > 0 {
            tracing::warn!("closed {closed} clients that do not read their answers");
        }
    }

    /// Closes everything, whatever is under way.
    pub fn close_all(&mut self) {
        self.clients.iter_mut().for_each(|client| client.conn.close());
        self.close_links();
    }

    fn client_gone(&mut self, home: Home) {
        self.uploaded(home);
        self.clients.remove(home);
        self.count(Figure::CurrConnections, 1u64.wrapping_neg());
        self.tell_drained();
    }
}

/// Serves a client that connected.
pub fn start(worker: &Rc<Worker>, arrival: Arrival) {
    match arrival.unpack() {
        Ok(stream) => {
            tokio::task::spawn_local(serve(worker.clone(), stream));
        }
        Err(e) => tracing::warn!("cannot serve a client: {e}"),
    }
}

async fn serve(worker: Rc<Worker>, stream: Stream) {
    let (conn, mut read) = Conn::new(stream, &worker.turn);
    let home = {
        let mut state = worker.state.borrow_mut();
        state.count(Figure::CurrConnections, 1);
        state.count(Figure::TotalConnections, 1);
        conn.count_unread(&state.unread);
        state.clients.add(conn.clone())
    };
    let receive = |bytes: &[u8]| worker.state.borrow_mut().client_received(home, bytes);
    let ended = read_until_ended(&conn, &mut read, &worker.scratch, receive).await;
    if matches!(ended, Ended::Eof) {
        // It may have closed its side only, and still wait for answers.
        worker.state.borrow_mut().end_client(home);
        conn.closed().await;
    }
    conn.close();
    if worker.state.borrow().drained.is_some() {
        see_off(read).await;
    }
    worker.state.borrow_mut().client_gone(home);
}

/// Waits until a client has seen that the gateway ends. Commands that it sends before are not executed; left unread, they
/// would have the system reset the connection, maybe before the client has read its answers.
async fn see_off(mut read: ReadHalf) {
    let all = async {
        let mut rest = [0; 1024];
        while matches!(read.read(&mut rest).await, Ok(1..)) {}
    };
    // A client that is idle sees it when it comes back.
    let _ = tokio::time::timeout(SEE_OFF, all).await;
}
