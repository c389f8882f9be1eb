//! What the next epoch may say: each verb of an operator, and each fault, as a change of the text.
//!
//! A [`Draft`] starts as the epoch in force with the next number; its methods combine. Sources: doc/guarantees.md, "What an
//! epoch may do", for who may become full and when; `doc/protocol.md`, "The replace stream", for the phases.

use super::ranges::Ranges;
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::{Epoch, ManagerEntry, Pace, Phase, ServerEntry};
use crate::logic::ring::{HashSpace, Node};
use crate::logic::rule::{Rule, on};
use crate::logic::weight::Weight;

/// A server as it introduced itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Newcomer {
    /// Where it is reached.
    pub address: Address,
    /// The random number in its database; 0 for kumofs 0.4.
    pub disk_id: u64,
    /// The random number of its start; 0 for kumofs 0.4.
    pub incarnation: u64,
    /// How many workers it has.
    pub workers: u16,
}

/// The next epoch, being written.
#[derive(Debug)]
pub struct Draft {
    epoch: Epoch,
    time: ClockTime,
}

impl Draft {
    /// Starts with what is in force. `time` stamps the hash spaces that change, and names the replace that starts.
    pub fn new(current: &Epoch, time: ClockTime) -> Draft {
        let flushed = if on(Rule::FlushStays) { current.flushed } else { 0 };
        let epoch = Epoch { number: current.number + 1, flushed, ..current.clone() };
        Draft { epoch, time }
    }

    /// The text so far.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Takes a server for dead. It keeps its place on the ring. Copying starts over, because what it was to send must
    /// come from others.
    pub fn remove(&mut self, address: Address) {
        if !is_active(&self.epoch, address) {
            return;
        }
        let was_full = self.epoch.rhs.is_active(address);
        set_active(&mut self.epoch.whs, address, false, self.time);
        set_active(&mut self.epoch.rhs, address, false, self.time);
        let number = self.epoch.number;
        if let Some(entry) = self.epoch.servers.iter_mut().find(|s| s.address == address) {
            entry.removed = Some(number);
            if was_full {
                entry.claim = number;
            }
        }
        if let Phase::Copying { full, .. } = self.epoch.phase {
            self.copy(full);
        }
    }

    /// Adds a server that is to be filled: appended, or at its old place. With the disk that it had it keeps its claim: where
    /// nobody is full, those who held a range last are its sources.
    pub fn admit(&mut self, server: &Newcomer) {
        self.enter(server);
        if self.epoch.whs.find(server.address).is_none() {
            self.epoch.whs.nodes.push(Node::new(server.address, false));
        }
        set_active(&mut self.epoch.whs, server.address, true, self.time);
    }

    /// Takes back a server with all that it holds: full where it was full, filling where it was filling. One that is being
    /// drained goes on to be.
    pub fn revive(&mut self, server: &Newcomer, full: bool) {
        let drained = self.is_drained(server.address);
        self.enter(server);
        self.set_drained(server.address, drained);
        set_active(&mut self.epoch.whs, server.address, true, self.time);
        if full {
            set_active(&mut self.epoch.rhs, server.address, true, self.time);
            self.end_claims_of_the_full();
        }
        if let Phase::Copying { full, .. } = self.epoch.phase {
            self.copy(full);
        }
    }

    /// Has a server leave while it serves: it gets no more than it holds, and goes from the read space when the copying is
    /// done, so that no key has fewer replicas meanwhile.
    pub fn drain(&mut self, address: Address) {
        let before = self.epoch.whs.nodes.len();
        self.epoch.whs.nodes.retain(|n| n.address != address);
        if self.epoch.whs.nodes.len() == before {
            return;
        }
        self.set_drained(address, true);
        self.copy(matches!(self.epoch.phase, Phase::Copying { full: true, .. }));
    }

    /// Gives a server of the write space another part of the ring; records move at once.
    pub fn weigh(&mut self, address: Address, weight: Weight) {
        let node = self.epoch.whs.nodes.iter_mut().find(|n| n.address == address && n.weight != weight);
        if let Some(node) = node {
            node.weight = weight;
            self.copy(matches!(self.epoch.phase, Phase::Copying { full: true, .. }));
        }
    }

    /// Has those that are being drained stay.
    pub fn keep_the_draining(&mut self) {
        for entry in self.epoch.servers.iter_mut().filter(|s| s.drained) {
            let Some(node) = self.epoch.rhs.find(entry.address).filter(|n| n.active) else { continue };
            entry.drained = false;
            self.epoch.whs.nodes.push(*node);
            self.epoch.whs.timestamp = self.time;
        }
    }

    fn is_drained(&self, address: Address) -> bool {
        self.epoch.server(address).is_some_and(|s| s.drained)
    }

    fn set_drained(&mut self, address: Address, drained: bool) {
        if let Some(entry) = self.epoch.servers.iter_mut().find(|s| s.address == address) {
            entry.drained = drained;
        }
    }

    fn enter(&mut self, server: &Newcomer) {
        let Newcomer { address, disk_id, incarnation, workers } = *server;
        let entry = ServerEntry::new(address, disk_id, incarnation, workers.max(1));
        match self.epoch.servers.iter_mut().find(|s| s.address == address) {
            Some(old) => {
                let claim = if old.disk_id == disk_id && disk_id != 0 { old.claim } else { 0 };
                *old = ServerEntry { claim, ..entry };
            }
            None => self.epoch.servers.push(entry),
        }
    }

    fn end_claims_of_the_full(&mut self) {
        for entry in &mut self.epoch.servers {
            if self.epoch.rhs.is_active(entry.address) {
                entry.claim = 0;
            }
        }
    }

    /// Lets the dead go from the write space, but for those to `keep`; from the read space they go when the copying is done.
    pub fn detach_faults(&mut self, keep: impl Fn(Address) -> bool) {
        let before = self.epoch.whs.nodes.len();
        self.epoch.whs.nodes.retain(|n| n.active || keep(n.address));
        if self.epoch.whs.nodes.len() != before {
            self.epoch.whs.timestamp = self.time;
        }
        let rhs = &self.epoch.rhs;
        let gone = |s: &ServerEntry| s.drained && !rhs.is_active(s.address) && !keep(s.address);
        self.epoch.servers.iter_mut().filter(|s| gone(s)).for_each(|s| s.drained = false);
    }

    /// Starts a replace. Where nobody is full and nobody may come back, all are full at once, and repair each other:
    /// they may hold backups.
    pub fn replace(&mut self, full: bool) {
        let was_full = matches!(self.epoch.phase, Phase::Copying { full: true, .. });
        let nobody_full =
            !self.epoch.rhs.nodes.iter().any(|n| n.active) && !Ranges::of(&self.epoch).awaited(&self.epoch);
        if nobody_full {
            self.epoch.rhs.nodes.clone_from(&self.epoch.whs.nodes);
            self.epoch.rhs.timestamp = self.time;
            self.end_claims_of_the_full();
        }
        self.copy(full || nobody_full || was_full);
    }

    /// Has copying start, or start over. Where nobody is there to do it, the phase under way waits for those who come back:
    /// what they had not copied or dropped yet, they still have to.
    pub fn copy(&mut self, full: bool) {
        if !self.epoch.whs.nodes.iter().any(|n| n.active) {
            return;
        }
        self.epoch.whs.timestamp = self.time;
        self.epoch.phase = Phase::Copying { time: self.time, full };
    }

    /// All have copied: what was filling is full.
    pub fn finish_copying(&mut self) {
        if let Phase::Copying { time, .. } = self.epoch.phase {
            self.epoch.rhs = self.epoch.whs.clone();
            self.end_claims_of_the_full();
            // Their lives are over: nobody is to act on what they know of this cluster.
            let number = self.epoch.number;
            for entry in self.epoch.servers.iter_mut().filter(|s| s.drained) {
                (entry.removed, entry.claim) = (entry.removed.or(Some(number)), 0);
            }
            self.epoch.phase = Phase::Deleting { time };
        }
    }

    /// All have dropped what they no longer own.
    pub fn finish_deleting(&mut self) {
        self.epoch.phase = Phase::Idle;
    }

    /// All records stamped before this epoch are gone; a flush that was to come later is not to come.
    pub fn flush(&mut self) {
        self.epoch.flushed = self.epoch.number;
        self.epoch.flush_at = None;
    }

    /// Flushes at a UNIX time in seconds, instead of any earlier wish.
    pub fn flush_at(&mut self, unix_secs: u64) {
        self.epoch.flush_at = Some(unix_secs);
    }

    /// Says how fast records may move from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.epoch.pace = pace;
    }

    /// Takes both spaces as a kumofs 0.4 manager decided them. Servers that are not known speak version 0.
    pub fn take_spaces(&mut self, whs: HashSpace, rhs: HashSpace) {
        for node in whs.nodes.iter().chain(&rhs.nodes) {
            if self.epoch.server(node.address).is_none() {
                self.enter(&Newcomer { address: node.address, disk_id: 0, incarnation: 0, workers: 1 });
            }
        }
        (self.epoch.whs, self.epoch.rhs) = (whs, rhs);
        let number = self.epoch.number;
        let (whs, rhs) = (&self.epoch.whs, &self.epoch.rhs);
        for entry in &mut self.epoch.servers {
            let active = [whs, rhs].iter().any(|s| s.is_active(entry.address));
            entry.removed = if active { None } else { entry.removed.or(Some(number)) };
            entry.claim = entry.removed.unwrap_or(0);
        }
    }

    /// The finished text. `new_cluster` names the cluster if this is its first epoch.
    pub fn finish(mut self, managers: Vec<ManagerEntry>, new_cluster: u64) -> Epoch {
        self.epoch.managers = managers;
        if self.epoch.cluster == 0 {
            self.epoch.cluster = new_cluster;
        }
        let (whs, rhs) = (&self.epoch.whs, &self.epoch.rhs);
        let is_in = |space: &HashSpace, s: &ServerEntry| space.find(s.address).is_some();
        self.epoch.servers.retain(|s| is_in(whs, s) || is_in(rhs, s) || s.drained);
        self.epoch
    }
}

fn set_active(space: &mut HashSpace, address: Address, active: bool, time: ClockTime) {
    if let Some(node) = space.nodes.iter_mut().find(|n| n.address == address) {
        node.active = active;
        space.timestamp = time;
    }
}

/// Whether a server is active in either space.
pub fn is_active(epoch: &Epoch, address: Address) -> bool {
    epoch.whs.is_active(address) || epoch.rhs.is_active(address)
}

/// Whether a server is active in the read space.
pub fn is_full(epoch: &Epoch, address: Address) -> bool {
    epoch.rhs.is_active(address)
}

#[cfg(test)]
mod tests;
