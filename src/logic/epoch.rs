//! Epochs: numbered, complete statements of who belongs to the cluster and who holds what.
//!
//! Source: `doc/guarantees.md`, "Names" and "What an epoch may do". An address identifies nobody: a server is a disk
//! id and an incarnation (new at every start). Every request between ours names the epoch that it believes in, and is
//! executed only by a node of exactly that epoch. [`super::route`] turns an epoch into a table for look-ups.

use super::address::Address;
use super::clock::ClockTime;
use super::ring::HashSpace;
use serde::{Deserialize, Serialize};

/// Longest encoded epoch in bytes: room for [`crate::proto::rpc::v0::MAX_NODES`] servers.
pub const MAX_ENCODED_LEN: usize = 1 << 20;

/// A manager, as an epoch names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManagerEntry {
    /// Where it is reached.
    pub address: Address,
    /// The random number in its state file.
    pub disk_id: u64,
}

/// A server, as an epoch names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Where it is reached; its place on the ring.
    pub address: Address,
    /// The random number in its database. 0 for a kumofs 0.4 server.
    pub disk_id: u64,
    /// The random number made at its start. 0 for a kumofs 0.4 server, which has none and speaks version 0 only.
    pub incarnation: u64,
    /// How many workers it has: see [`super::record::worker_of`].
    pub workers: u16,
    /// The epoch that took it for dead, while it is.
    pub removed: Option<u64>,
    /// The epoch that took it for dead when it was full last: up to then its disk holds all that was acknowledged in its
    /// ranges. Kept while it is down, and while it is filled again with the disk that it had. 0 when it is full, or
    /// never was.
    #[serde(default)]
    pub claim: u64,
    /// An operator has it leave (`kumoctl drain`): it is not in whs, and goes from rhs when others have what it holds; from
    /// then on it is not attached unless somebody asks for that. Left out when it is not so, as in [`Epoch::pace`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
}

impl ServerEntry {
    /// One that nothing was ever said of.
    pub fn new(address: Address, disk_id: u64, incarnation: u64, workers: u16) -> ServerEntry {
        ServerEntry { address, disk_id, incarnation, workers, removed: None, claim: 0, drained: false }
    }

    /// A kumofs 0.4 server, of which no more is known than where it is reached.
    pub fn of_version0(address: Address) -> ServerEntry {
        ServerEntry::new(address, 0, 0, 1)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What is being moved, and how far that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is.
    #[default]
    Idle,
    /// Servers copy what whs gives to others; all, not only what is missing, when `full`.
    Copying {
        /// The whs timestamp that names this replace in CopyEnd.
        time: ClockTime,
        /// Send every record to all of its replicas, to repair them.
        full: bool,
    },
    /// Servers drop what they no longer own.
    Deleting {
        /// The whs timestamp that names this replace in DeleteEnd.
        time: ClockTime,
    },
}

/// How fast servers may move records to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pace {
    /// Each server sends at most so many bytes of records in a second; 0: as many as it can.
    pub bytes_per_sec: u64,
    /// None at all for now.
    pub paused: bool,
}

impl Pace {
    fn is_usual(&self) -> bool {
        *self == Pace::default()
    }
}

/// One epoch's text.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number. 0: none was decided yet, or the cluster is led by a kumofs 0.4 manager.
    pub number: u64,
    /// The random number that tells this cluster from others; 0 as long as no server was attached.
    pub cluster: u64,
    /// The managers.
    pub managers: Vec<ManagerEntry>,
    /// Every server of whs or rhs, and those that were drained.
    pub servers: Vec<ServerEntry>,
    /// Who holds what for writes.
    pub whs: HashSpace,
    /// Who holds what for reads.
    pub rhs: HashSpace,
    /// Records stamped in an earlier epoch than this are gone (flush_all).
    pub flushed: u64,
    /// UNIX seconds at which the managers are to flush, when a client asked for a delay.
    pub flush_at: Option<u64>,
    /// The replace under way.
    pub phase: Phase,
    /// How fast it may go. Left out when nothing is said, so that nodes which do not know it read the epoch.
    #[serde(default, skip_serializing_if = "Pace::is_usual")]
    pub pace: Pace,
}

/// Why bytes are not an epoch.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// Longer than [`MAX_ENCODED_LEN`].
    #[error("an epoch of {0} bytes")]
    TooLong(usize),
    /// Not an epoch.
    #[error("not an epoch: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// Contradicts itself.
    #[error("an epoch that contradicts itself: {0}")]
    Inconsistent(&'static str),
}

impl Epoch {
    /// The MessagePack form that travels and is kept on disk.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("an epoch has no value that MessagePack cannot hold")
    }

    /// Reads and checks the MessagePack form.
    ///
    /// # Errors
    /// When it is too long, malformed, or does not [`check`](Epoch::check).
    pub fn decode(bytes: &[u8]) -> Result<Epoch, EpochError> {
        if bytes.len() > MAX_ENCODED_LEN {
            return Err(EpochError::TooLong(bytes.len()));
        }
        let epoch: Epoch = rmp_serde::from_slice(bytes)?;
        epoch.check()?;
        Ok(epoch)
    }

    /// States what must hold in every epoch.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn check(&self) -> Result<(), EpochError> {
        let known = |space: &HashSpace| space.nodes.iter().all(|n| self.server(n.address).is_some());
        if !known(&self.whs) || !known(&self.rhs) {
            return Err(EpochError::Inconsistent("a hash space names an unknown server"));
        }
        let mut addresses: Vec<Address> = self.servers.iter().map(|s| s.address).collect();
        addresses.sort_unstable();
        if addresses.windows(2).any(|w| w[0] == w[1]) {
            return Err(EpochError::Inconsistent("two servers have one address"));
        }
        if self.servers.iter().any(|s| s.workers == 0) {
            return Err(EpochError::Inconsistent("a server without workers"));
        }
        let active = |s: &ServerEntry| self.whs.is_active(s.address) || self.rhs.is_active(s.address);
        if self.servers.iter().any(|s| s.removed.is_some() && active(s)) {
            return Err(EpochError::Inconsistent("a removed server is active"));
        }
        if self.servers.iter().any(|s| s.drained && self.whs.find(s.address).is_some()) {
            return Err(EpochError::Inconsistent("a drained server is to get records"));
        }
        if self.whs.nodes.iter().chain(&self.rhs.nodes).any(|n| !n.weight.is_sound()) {
            return Err(EpochError::Inconsistent("a server of no possible weight"));
        }
        if self.flushed > self.number {
            return Err(EpochError::Inconsistent("flushed by an epoch that is not yet"));
        }
        Ok(())
    }

    /// The server at an address.
    pub fn server(&self, address: Address) -> Option<&ServerEntry> {
        self.servers.iter().find(|s| s.address == address)
    }

    /// Whether the ring is another than version 0 can tell: who asks in it is sent nowhere.
    pub fn is_weighted(&self) -> bool {
        self.whs.is_weighted() || self.rhs.is_weighted()
    }

    /// Whether all servers speak version 1, so that the whole promise holds (doc/guarantees.md, "The promise").
    pub fn strict(&self) -> bool {
        self.number > 0 && self.servers.iter().all(|s| s.incarnation != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::Node;
    use super::*;

    fn sample() -> Epoch {
        let address = Address::new("127.0.0.1:19801".parse().unwrap());
        let space = HashSpace { nodes: vec![Node::new(address, true)], timestamp: ClockTime(5) };
        Epoch {
            number: 3,
            cluster: 9,
            managers: vec![ManagerEntry { address, disk_id: 4 }],
            servers: vec![ServerEntry::new(address, 7, 8, 2)],
            whs: space.clone(),
            rhs: space,
            flushed: 1,
            flush_at: Some(12),
            phase: Phase::Copying { time: ClockTime(5), full: true },
            pace: Pace { bytes_per_sec: 7, paused: true },
        }
    }

    #[test]
    fn an_epoch_comes_back_as_written_and_no_prefix_does() {
        let bytes = sample().encode();
        assert_eq!(Epoch::decode(&bytes).unwrap(), sample());
        for cut in 0..bytes.len() {
            assert!(Epoch::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_epoch_that_says_nothing_of_the_pace_is_what_it_was_before_there_was_one() {
        let usual = Epoch { pace: Pace::default(), ..sample() };
        let bytes = usual.encode();
        assert_eq!(bytes[0], 0x99, "nine values");
        assert_eq!(Epoch::decode(&bytes).unwrap(), usual);
    }

    #[test]
    fn a_drained_server_is_told_behind_all_else_and_only_then() {
        let mut epoch = sample();
        let before = epoch.encode();
        epoch.whs.nodes.clear();
        let emptied = epoch.encode();
        epoch.servers[0].drained = true;
        assert_eq!(Epoch::decode(&epoch.encode()).unwrap(), epoch);
        assert_eq!(epoch.encode().len(), emptied.len() + 1);
        assert!(before.len() > emptied.len());
    }

    #[test]
    fn a_weight_is_told_behind_all_else_of_a_node_and_only_when_it_is_not_usual() {
        let plain = sample();
        let mut weighed = sample();
        weighed.whs.nodes[0].weight = "0.5".parse().unwrap();
        assert!(weighed.is_weighted() && !plain.is_weighted());
        assert!(!weighed.whs.same_nodes(&weighed.rhs), "records move");
        assert_eq!(weighed.encode().len(), plain.encode().len() + 1);
        assert_eq!(Epoch::decode(&weighed.encode()).unwrap(), weighed);
        weighed.whs.nodes[0].weight = rmp_serde::from_slice(&[12]).unwrap();
        assert!(Epoch::decode(&weighed.encode()).is_err(), "too light");
    }

    #[test]
    fn contradictions_are_refused() {
        let broken: [fn(&mut Epoch); 5] = [
            |e| e.servers.clear(),
            |e| e.servers[0].drained = true,
            |e| e.servers[0].workers = 0,
            |e| e.servers[0].removed = Some(2),
            |e| e.flushed = 4,
        ];
        for breaks in broken {
            let mut epoch = sample();
            breaks(&mut epoch);
            assert!(Epoch::decode(&epoch.encode()).is_err());
        }
    }
}
