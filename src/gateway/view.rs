//! What a gateway knows of the cluster: the newest epoch, laid out for look-ups. Made once, shared by all workers.

use crate::logic::epoch::Epoch;
use crate::logic::ring::HashSpace;
use crate::logic::route::Route;

/// What a server is spoken to in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// kumofs 0.4's.
    V0,
    /// Ours.
    V1,
}

/// An epoch and its routes.
#[derive(Debug)]
pub struct View {
    /// The epoch. Number 0 without servers: nothing is known yet. Number 0 with servers: led by a kumofs 0.4 manager.
    pub epoch: Epoch,
    route: Route,
    /// Who takes writes, where that is not who reads: in a cluster led by a kumofs 0.4 manager the first active server
    /// of whs.
    write_route: Option<Route>,
    has_v0: bool,
}

impl Default for View {
    fn default() -> View {
        View::new(Epoch::default())
    }
}

impl View {
    /// Lays out an epoch.
    pub fn new(epoch: Epoch) -> View {
        let route = Route::new(&epoch);
        let write_route = (epoch.number == 0 && !epoch.whs.same_nodes(&epoch.rhs))
            .then(|| Route::new(&Epoch { rhs: epoch.whs.clone(), ..epoch.clone() }));
        let has_v0 = epoch.servers.iter().any(|s| epoch.number == 0 || s.incarnation == 0);
        View { epoch, route, write_route, has_v0 }
    }

    /// The number of the epoch.
    pub fn number(&self) -> u64 {
        self.epoch.number
    }

    /// Whether this replaces `held`: a higher number, or, where a kumofs 0.4 manager leads, newer hash spaces.
    /// A view of another cluster never does.
    pub fn supersedes(&self, held: &View) -> bool {
        let (new, old) = (&self.epoch, &held.epoch);
        if new.cluster != 0 && old.cluster != 0 && new.cluster != old.cluster {
            return false;
        }
        let stamps = |e: &Epoch| (e.whs.timestamp, e.rhs.timestamp);
        match new.number.cmp(&old.number) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal if new.number == 0 => {
                let ((new_whs, new_rhs), (old_whs, old_rhs)) = (stamps(new), stamps(old));
                new_whs >= old_whs && new_rhs >= old_rhs && (new_whs, new_rhs) != (old_whs, old_rhs)
            }
            _ => false,
        }
    }

    /// The server, a place in [`Epoch::servers`], to ask for a key at a ring position; `None`: nobody serves it. With
    /// `fallback` above 0, the replicas after the first, for reads where a kumofs 0.4 manager leads.
    #[inline]
    pub fn reader(&self, hash: u64, fallback: u32) -> Option<u16> {
        let full = self.route.group(hash).full();
        if fallback == 0 || full.is_empty() {
            full.first().copied()
        } else {
            full.get(fallback as usize % full.len()).copied()
        }
    }

    /// The server, a place in [`Epoch::servers`], that changes a key at a ring position.
    #[inline]
    pub fn writer(&self, hash: u64) -> Option<u16> {
        self.write_route.as_ref().unwrap_or(&self.route).group(hash).coordinator()
    }

    /// How many replicas a read may be tried at.
    pub fn readers(&self, hash: u64) -> u32 {
        self.route.group(hash).full().len() as u32
    }

    /// Whether some servers are spoken to in version 0.
    pub fn has_v0(&self) -> bool {
        self.has_v0
    }

    /// What a server, a place in [`Epoch::servers`], is spoken to in.
    pub fn dialect(&self, server: u16) -> Dialect {
        match self.epoch.servers.get(usize::from(server)) {
            Some(entry) if self.epoch.number > 0 && entry.incarnation != 0 => Dialect::V1,
            _ => Dialect::V0,
        }
    }

    /// What a kumofs 0.4 manager's two hash spaces say.
    pub fn of_hash_spaces(whs: HashSpace, rhs: HashSpace) -> View {
        use crate::logic::epoch::ServerEntry;
        let mut servers: Vec<ServerEntry> = Vec::new();
        for node in whs.nodes.iter().chain(&rhs.nodes) {
            if !servers.iter().any(|s| s.address == node.address) {
                servers.push(ServerEntry::of_version0(node.address));
            }
        }
        View::new(Epoch { servers, whs, rhs, ..Epoch::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::address::Address;
    use crate::logic::clock::ClockTime;
    use crate::logic::ring::{Node, hash};

    fn space(nodes: &[(u16, bool)], timestamp: u64) -> HashSpace {
        let address = |port| Address::new(([127, 0, 0, 1], port).into());
        let nodes = nodes.iter().map(|&(port, active)| Node::new(address(port), active)).collect();
        HashSpace { nodes, timestamp: ClockTime(timestamp) }
    }

    #[test]
    fn under_a_kumofs_manager_whs_takes_the_writes_and_rhs_the_reads() {
        let rhs = space(&[(1, true), (2, true), (3, true)], 1);
        let whs = space(&[(1, true), (2, true), (3, true), (4, true)], 2);
        let view = View::of_hash_spaces(whs.clone(), rhs.clone());
        let only_whs = Route::new(&View::of_hash_spaces(whs.clone(), whs).epoch);
        let mut differ = 0;
        for i in 0..1000u32 {
            let hash = hash(&i.to_le_bytes());
            let reader = view.reader(hash, 0).unwrap();
            assert!(reader < 3);
            let port = view.epoch.servers[usize::from(view.writer(hash).unwrap())].address.port();
            assert_eq!(port, only_whs.group(hash).coordinator().unwrap() + 1);
            differ += u32::from(view.writer(hash) != view.reader(hash, 0));
            let mut all: Vec<_> = (0..3).map(|n| view.reader(hash, n).unwrap()).collect();
            assert_eq!(view.reader(hash, 3), Some(reader), "after the last replica the first again");
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
        assert!((150..350).contains(&differ), "{differ} of 1000 keys have a new coordinator");
    }

    #[test]
    fn only_what_is_newer_replaces_a_view() {
        let of = |number, cluster, stamp| {
            let nodes = space(&[(1, true)], stamp);
            let mut epoch = View::of_hash_spaces(nodes.clone(), nodes).epoch;
            (epoch.number, epoch.cluster) = (number, cluster);
            View::new(epoch)
        };
        assert!(of(0, 0, 5).supersedes(&View::default()));
        assert!(of(0, 0, 6).supersedes(&of(0, 0, 5)));
        assert!(!of(0, 0, 5).supersedes(&of(0, 0, 5)));
        assert!(of(1, 7, 5).supersedes(&of(0, 0, 9)));
        assert!(of(3, 7, 5).supersedes(&of(2, 7, 5)));
        assert!(!of(2, 7, 9).supersedes(&of(2, 7, 5)));
        assert!(!of(3, 8, 5).supersedes(&of(2, 7, 5)), "another cluster");
    }
}
