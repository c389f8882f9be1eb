//! The servers that this manager sees: who is connected, who may be dead, who introduced itself as what.
//!
//! Liveness only; what follows from it is decided in [`super::state`]. A server is given until its *deadline* to be
//! heard, and every sign of life moves that on. A broken connection is checked by connecting: a refusal is death at
//! once, anything else leaves the deadline as it is.

use super::change::Newcomer;
use super::state::ConnId;
use crate::logic::address::Address;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a server said about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing but its hello yet.
    Silent,
    /// It speaks version 0 only.
    Old,
    /// Its JOIN came.
    Joined {
        /// The random number in its database.
        disk_id: u64,
        /// The random number of its start.
        incarnation: u64,
        /// How many workers it has.
        workers: u16,
        /// Whether its disk held an epoch, so that it must learn what became of it.
        has_epoch: bool,
    },
}

/// One server.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its connection, while there is one.
    pub conn: Option<ConnId>,
    /// What it is.
    pub kind: Kind,
    /// When it is taken for dead if nothing more is heard.
    pub deadline: Duration,
    /// Since when it is taken for dead.
    pub dead_since: Option<Duration>,
    /// It said that it is about to end.
    pub leaving: bool,
    /// When it was last heard.
    pub heard: Option<Duration>,
    /// When its hello came.
    pub opened: Duration,
    /// The order of coming, which is the order of attaching.
    pub arrival: u64,
}

impl Seen {
    /// As a newcomer, once it is known what it speaks, and while it is connected.
    pub fn newcomer(&self, address: Address) -> Option<Newcomer> {
        self.conn?;
        match self.kind {
            Kind::Silent => None,
            Kind::Old => Some(Newcomer { address, disk_id: 0, incarnation: 0, workers: 1 }),
            Kind::Joined { disk_id, incarnation, workers, .. } => {
                Some(Newcomer { address, disk_id, incarnation, workers })
            }
        }
    }
}

/// All servers seen, by address.
#[derive(Debug)]
pub struct Roster {
    servers: BTreeMap<Address, Seen>,
    lost_after: Duration,
    arrivals: u64,
}

impl Roster {
    /// Nobody yet. `lost_after` is how long a server may be silent.
    pub fn new(lost_after: Duration) -> Roster {
        Roster { servers: BTreeMap::new(), lost_after, arrivals: 0 }
    }

    /// The server at an address.
    pub fn get(&self, address: Address) -> Option<&Seen> {
        self.servers.get(&address)
    }

    /// The server of a connection.
    pub fn by_conn(&self, conn: ConnId) -> Option<Address> {
        self.servers.iter().find(|(_, s)| s.conn == Some(conn)).map(|(a, _)| *a)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Address, &Seen)> {
        self.servers.iter().map(|(a, s)| (*a, s))
    }

    /// Expects a server that was not heard yet, until `deadline`.
    pub fn expect(&mut self, address: Address, deadline: Duration) {
        self.servers.entry(address).or_insert(Seen {
            conn: None,
            kind: Kind::Silent,
            deadline,
            dead_since: None,
            leaving: false,
            heard: None,
            opened: Duration::ZERO,
            arrival: 0,
        });
    }

    /// Forgets all that are neither connected nor `wanted`.
    pub fn retain(&mut self, wanted: impl Fn(Address) -> bool) {
        self.servers.retain(|address, s| s.conn.is_some() || wanted(*address));
    }

    /// A hello came. Returns the connection that the same server had before, which is of no use any more.
    pub fn opened(&mut self, now: Duration, address: Address, conn: ConnId) -> Option<ConnId> {
        self.arrivals += 1;
        let seen = Seen {
            conn: Some(conn),
            kind: Kind::Silent,
            deadline: now + self.lost_after,
            dead_since: None,
            leaving: false,
            heard: Some(now),
            opened: now,
            arrival: self.arrivals,
        };
        self.servers.insert(address, seen).and_then(|old| old.conn)
    }

    /// It said what it is.
    pub fn introduced(&mut self, conn: ConnId, kind: Kind) -> Option<Address> {
        let address = self.by_conn(conn)?;
        self.servers.get_mut(&address)?.kind = kind;
        Some(address)
    }

    /// It gave a sign of life.
    pub fn alive(&mut self, now: Duration, conn: ConnId) {
        let deadline = now + self.lost_after;
        if let Some(seen) = self.by_conn(conn).and_then(|a| self.servers.get_mut(&a)) {
            seen.deadline = deadline;
            seen.heard = Some(now);
        }
    }

    /// It said that it is about to end.
    pub fn leaving(&mut self, conn: ConnId) {
        if let Some(seen) = self.by_conn(conn).and_then(|a| self.servers.get_mut(&a)) {
            seen.leaving = true;
        }
    }

    /// Its connection is gone.
    pub fn closed(&mut self, conn: ConnId) -> Option<Address> {
        let address = self.by_conn(conn)?;
        let seen = self.servers.get_mut(&address)?;
        seen.conn = None;
        seen.kind = Kind::Silent;
        Some(address)
    }

    /// It is taken for dead from now on. Returns whether that is new, and its connection, which is of no use any more.
    pub fn bury(&mut self, now: Duration, address: Address) -> (bool, Option<ConnId>) {
        let Some(seen) = self.servers.get_mut(&address) else { return (false, None) };
        let new = seen.dead_since.is_none();
        seen.dead_since.get_or_insert(now);
        seen.kind = Kind::Silent;
        (new, seen.conn.take())
    }

    /// Those whose deadline has passed.
    pub fn overdue(&self, now: Duration) -> Vec<Address> {
        let due = |s: &Seen| s.dead_since.is_none() && s.deadline <= now;
        self.servers.iter().filter(|(_, s)| due(s)).map(|(a, _)| *a).collect()
    }

    /// This process itself was stopped for a while, and heard nobody meanwhile: that is no fault of theirs.
    pub fn excuse(&mut self, now: Duration) {
        let deadline = now + self.lost_after;
        for seen in self.servers.values_mut() {
            seen.deadline = seen.deadline.max(deadline);
        }
    }
}
