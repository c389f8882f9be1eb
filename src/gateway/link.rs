//! Links: this worker's connections to the workers of servers, opened when first needed.
//!
//! A server in the same process is connected by a pipe ([`crate::net::pipe`]), any other by a socket; nothing else differs.
//!
//! The first request on a link is CONNECT; others follow right behind it, before its answer. What is written while the
//! connection is still being made waits in a buffer. A link that broke is opened again when something is to be sent,
//! after a pause that grows.
//!
//! An answer may take its time: a change waits until all replicas have it, and one of them may hang until the cluster
//! goes on without it. So a request is not sent again because it is slow, but a server that is silent for [`PING_MS`]
//! while something is awaited is asked for a sign of life, and a link on which none came for [`SILENCE_MS`] is taken for
//! broken: then its requests are tried again, by another way if the cluster has changed.

use super::large::Line;
use super::pending::{Pending, Request};
use super::retry::delay_ms;
use super::view::{Dialect, View};
use super::worker::{State, Worker};
use crate::logic::address::Address;
use crate::logic::record::worker_of;
use crate::net::conn::{Conn, Ended, Received, Then, read_loop};
use crate::net::dial::dial;
use crate::net::pipe::Doors;
use crate::net::stream::Stream;
use crate::proto::rpc::frame::{Frame, Scanner};
use crate::proto::rpc::v1::{Connect, Peer};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// A server that is silent for so long, in milliseconds, while answers are awaited is asked for a sign of life.
pub const PING_MS: u64 = 500;
/// A link that is silent for so long, in milliseconds, while answers are awaited is taken for broken.
pub const SILENCE_MS: u64 = 1_500;
/// How long late answers are taken from a server that left the cluster, in milliseconds.
const LEAVE_MS: u64 = 5_000;

/// How far a link is.
enum Stage {
    /// No connection; not before the given millisecond.
    Down { until_ms: u64 },
    /// Being connected; what is to be written then.
    Connecting(Vec<u8>),
    /// Connected.
    Up(Rc<Conn>),
}

/// A connection to a worker of a server.
pub struct Link {
    address: Address,
    incarnation: u64,
    server_worker: u16,
    /// What the server is spoken to in.
    pub dialect: Dialect,
    /// What is not answered.
    pub pending: Pending,
    /// Operations whose values it brings in parts.
    pub line: Line,
    /// Whether the server was asked for its epoch, or for a sign of life.
    pub epoch_asked: bool,
    stage: Stage,
    /// Number of the present connection; never used again.
    connection: u32,
    failures: u32,
    /// When something was last received, or the first of what is awaited was sent, in milliseconds.
    active_ms: u64,
    /// When the server left the cluster.
    left_ms: Option<u64>,
}

impl Link {
    /// Appends output.
    #[inline]
    pub fn write(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        match &mut self.stage {
            Stage::Up(conn) => conn.write(append),
            Stage::Connecting(early) => append(early),
            Stage::Down { .. } => {}
        }
    }

    /// Notes a request; returns its msgid.
    #[inline]
    pub fn ask(&mut self, request: Request, now_ms: u64) -> Option<u32> {
        if self.pending.len() == 0 {
            self.active_ms = now_ms;
        }
        self.pending.add(request)
    }

    /// Whether its server is no longer in the view, or taken for dead.
    pub fn has_left(&self) -> bool {
        self.left_ms.is_some()
    }

    /// Whether what it owes may be expected to come: it is not silent, and says what became of each request.
    pub fn is_answering(&self, now_ms: u64) -> bool {
        matches!(self.stage, Stage::Up(_)) && self.dialect == Dialect::V1 && now_ms < self.active_ms + PING_MS
    }

    /// Its connection is made: writes what waited for it. False when it was given up meanwhile, and with it what waited: a
    /// connection without CONNECT is nobody's, and changes that come over it are not remembered.
    fn made(&mut self, conn: &Rc<Conn>) -> bool {
        let Stage::Connecting(early) = &self.stage else { return false };
        conn.write(|out| out.extend_from_slice(early));
        self.stage = Stage::Up(conn.clone());
        true
    }

    /// Whether requests can be written, if need be by opening a connection.
    #[inline]
    fn is_usable(&self) -> bool {
        !matches!(self.stage, Stage::Down { .. })
    }
}

/// The links of a worker.
#[derive(Default)]
pub struct Links {
    table: Vec<Option<Link>>,
    free: Vec<u32>,
    /// For each server of the view: where its links begin in `of_workers`, and how many workers it has.
    servers: Vec<(u32, u16)>,
    of_workers: Vec<u32>,
    connections: u32,
}

impl Links {
    /// The link for a ring position to a server, a place in the view's epoch.
    #[inline]
    pub fn to(&self, server: u16, hash: u64) -> Option<u32> {
        let (first, workers) = *self.servers.get(usize::from(server))?;
        self.of_workers.get(first as usize + usize::from(worker_of(hash, workers))).copied()
    }

    /// A link by its place.
    #[inline]
    pub fn at(&mut self, place: u32) -> Option<&mut Link> {
        self.table.get_mut(place as usize)?.as_mut()
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the clock need not tick for the links.
    pub fn idle(&self) -> bool {
        self.table.iter().flatten().all(|link| link.pending.len() == 0 && link.left_ms.is_none())
    }

    /// Makes the table fit a view. Links to servers that are not in it, or taken for dead, are left to end.
    pub fn adopt(&mut self, view: &View, now_ms: u64) {
        self.servers.clear();
        self.of_workers.clear();
        for link in self.table.iter_mut().flatten() {
            link.left_ms = link.left_ms.or(Some(now_ms));
        }
        for (server, entry) in view.epoch.servers.iter().enumerate() {
            let dialect = view.dialect(server as u16);
            let is_active = [&view.epoch.whs, &view.epoch.rhs].into_iter().any(|space| space.is_active(entry.address));
            self.servers.push((self.of_workers.len() as u32, entry.workers));
            for server_worker in 0..entry.workers {
                let same = |link: &Link| {
                    link.address == entry.address
                        && (link.incarnation, link.server_worker) == (entry.incarnation, server_worker)
                        && (link.dialect == dialect || entry.incarnation != 0)
                };
                let known = self.table.iter().position(|link| link.as_ref().is_some_and(same));
                let place = known.map_or_else(
                    || self.add(entry.address, entry.incarnation, server_worker, dialect),
                    |place| place as u32,
                );
                if let Some(link) = self.at(place).filter(|_| is_active) {
                    link.left_ms = None;
                }
                self.of_workers.push(place);
            }
        }
    }

    fn add(&mut self, address: Address, incarnation: u64, server_worker: u16, dialect: Dialect) -> u32 {
        let link = Link {
            address,
            incarnation,
            server_worker,
            dialect,
            pending: Pending::default(),
            line: Line::new(),
            epoch_asked: false,
            stage: Stage::Down { until_ms: 0 },
            connection: 0,
            failures: 0,
            active_ms: 0,
            left_ms: None,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() as u32 - 1
        });
        self.table[place as usize] = Some(link);
        place
    }

    fn remove(&mut self, place: u32) {
        if let Some(link) = self.table[place as usize].take() {
            if let Stage::Up(conn) = link.stage {
                conn.close();
            }
            self.free.push(place);
        }
    }

    /// The link at a place, if it still has that connection.
    #[inline]
    fn connected(&mut self, place: u32, connection: u32) -> Option<&mut Link> {
        self.at(place).filter(|link| link.connection == connection)
    }
}

impl State {
    /// The link at a place, ready to be written to; opens it if need be. `None`: not now.
    #[inline]
    pub fn usable_link(&mut self, place: u32) -> Option<&mut Link> {
        if !self.links.at(place)?.is_usable() && !self.open_link(place) {
            return None;
        }
        self.links.at(place)
    }

    fn open_link(&mut self, place: u32) -> bool {
        let connection = self.links.connections.wrapping_add(1);
        let (Some(link), Some(worker)) = (self.links.at(place), self.me.upgrade()) else { return false };
        if !matches!(link.stage, Stage::Down { until_ms } if until_ms <= self.now_ms) {
            return false;
        }
        link.connection = connection;
        link.stage = Stage::Connecting(Vec::new());
        if link.dialect == Dialect::V1 {
            let connect = Connect {
                peer: Peer::Gateway,
                incarnation: self.shared.incarnation,
                workers: self.shared.counters.len() as u16,
                from_worker: self.number,
                worker: link.server_worker,
            };
            if let Some(msgid) = link.ask(Request::Connect, self.now_ms) {
                link.write(|out| connect.write(out, msgid));
            }
        }
        let (address, server_worker) = (link.address, link.server_worker);
        self.links.connections = connection;
        tokio::task::spawn_local(serve_link(worker, place, connection, address, server_worker));
        true
    }

    /// The connection is made: writes what waited for it. False when nobody waits any more.
    fn link_up(&mut self, place: u32, connection: u32, conn: &Rc<Conn>) -> bool {
        let Some(link) = self.links.connected(place, connection) else { return false };
        link.made(conn)
    }

    /// The connection broke, or was never made: what was under way on it is tried again.
    fn link_down(&mut self, place: u32, connection: u32, why: &str) {
        self.read_clock();
        let chance = self.chance.draw();
        let now_ms = self.now_ms;
        let Some(link) = self.links.connected(place, connection) else { return };
        tracing::debug!("link to {} worker {} is down: {why}", link.address, link.server_worker);
        let was_up = matches!(link.stage, Stage::Up(_));
        link.failures = if was_up && now_ms > link.active_ms + SILENCE_MS { 0 } else { link.failures + 1 };
        let pause_ms = if link.failures <= 1 { 0 } else { delay_ms(link.failures, chance) };
        link.stage = Stage::Down { until_ms: now_ms + pause_ms };
        link.epoch_asked = false;
        let (line, requests) = (std::mem::take(&mut link.line), link.pending.drain());
        self.line_lost(line, place);
        self.downloads_lost(place);
        for request in requests {
            if let Request::Attempt { op, generation, attempt } = request {
                self.attempt_lost(op, generation, attempt, was_up);
            }
        }
    }

    /// Closes a link whose peer breaks the rules or is silent.
    pub fn break_link(&mut self, place: u32, why: &str) {
        if let Some(link) = self.links.at(place) {
            if let Stage::Up(conn) = &link.stage {
                conn.close();
            }
            let connection = link.connection;
            self.link_down(place, connection, why);
        }
    }

    /// Takes what came over a link.
    fn link_received(&mut self, place: u32, connection: u32, bytes: &[u8], scanner: &mut Scanner) -> Received {
        let received = self.take_frames(place, connection, bytes, scanner);
        self.count_written();
        received
    }

    fn take_frames(&mut self, place: u32, connection: u32, bytes: &[u8], scanner: &mut Scanner) -> Received {
        self.read_clock();
        let mut used = 0;
        while let Some(link) = self.links.connected(place, connection) {
            link.active_ms = self.now_ms;
            let rest = &bytes[used..];
            match scanner.take(rest) {
                Ok(None) => return Received { used, need: scanner.needed(), then: Then::Read },
                Ok(Some((frame, len))) => {
                    used += len;
                    match frame {
                        Frame::Response { msgid, error, result } => self.answered(place, msgid, error, result),
                        Frame::Request { msgid, method, params } => self.asked(place, msgid, method, params),
                        Frame::Hello { .. } => return Received::close(),
                    }
                }
                Err(_) => return Received::close(),
            }
        }
        Received::close()
    }

    /// Breaks links that are silent, and ends those to servers that left.
    pub fn check_links(&mut self) {
        for place in 0..self.links.len() as u32 {
            let now_ms = self.now_ms;
            let Some(link) = self.links.at(place) else { continue };
            let awaited = link.pending.len() > 0;
            if link.left_ms.is_some_and(|left| !awaited || now_ms >= left + LEAVE_MS) {
                self.break_link(place, "the server left the cluster");
                self.links.remove(place);
            } else if awaited && now_ms >= link.active_ms + SILENCE_MS {
                self.break_link(place, "no answer");
            } else if awaited && now_ms >= link.active_ms + PING_MS {
                self.fetch_epoch(place);
            }
        }
    }

    /// Closes all links.
    pub fn close_links(&mut self) {
        for place in 0..self.links.len() as u32 {
            self.links.remove(place);
        }
    }
}

/// A server in this process is reached by a pipe, any other by a socket.
async fn connect(doors: &Doors, address: Address, server_worker: u16, limit: Duration) -> io::Result<Stream> {
    match doors.connect(address, server_worker) {
        Some(pipe) => Ok(pipe.into()),
        None => dial(address.socket_addr(), limit).await.map(Stream::from),
    }
}

/// A link's task: connects, reads until the connection ends.
async fn serve_link(worker: Rc<Worker>, place: u32, connection: u32, address: Address, server_worker: u16) {
    let shared = worker.state.borrow().shared.clone();
    let limit = shared.config.connect_timeout;
    let why = match connect(&shared.config.doors, address, server_worker, limit).await {
        Ok(stream) => {
            let (conn, read) = Conn::new(stream, &worker.turn);
            if !worker.state.borrow_mut().link_up(place, connection, &conn) {
                return conn.close();
            }
            let mut scanner = Scanner::default();
            let receive =
                |bytes: &[u8]| worker.state.borrow_mut().link_received(place, connection, bytes, &mut scanner);
            match read_loop(&conn, read, &worker.scratch, receive).await {
                Ended::Eof => "closed by the server".to_owned(),
                Ended::Closed => "closed".to_owned(),
                Ended::Failed(e) => e.to_string(),
            }
        }
        Err(e) => e.to_string(),
    };
    worker.state.borrow_mut().link_down(place, connection, &why);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::pipe::Pipe;
    use crate::net::turn::Turn;

    /// A gateway slept while it connected; awake, it first gave up the link for its silence, and then found it connected. What
    /// it asked for again went without CONNECT in front, and was executed a second time.
    #[test]
    fn a_connection_that_was_given_up_while_it_was_made_is_not_used() {
        let mut links = Links::default();
        let place = links.add(Address::new(([127, 0, 0, 1], 1).into()), 1, 0, Dialect::V1);
        let link = links.at(place).unwrap();
        let (conn, _) = Conn::new(Pipe::pair().0, &Turn::new());
        link.stage = Stage::Down { until_ms: 0 };
        assert!(!link.made(&conn));
        assert!(matches!(link.stage, Stage::Down { .. }));
        link.stage = Stage::Connecting(b"CONNECT".to_vec());
        assert!(link.made(&conn));
        assert!(matches!(link.stage, Stage::Up(_)) && conn.backlog() == b"CONNECT".len());
    }
}
