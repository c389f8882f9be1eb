//! Which servers hold the same keys, and what follows: whether all keys are served, and who may come back to serve them.
//!
//! A range is a set of servers that are together the replicas of some keys by the read space, dead ones included. It
//! is *served* when one of them is active. Source: doc/guarantees.md, "What an epoch may do".

use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, ServerEntry};
use crate::logic::ring::Ring;
use std::collections::{BTreeMap, BTreeSet};

/// All distinct ranges of a read space. Depends on the addresses alone, so that faults and returns leave it as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    addresses: Vec<Address>,
    /// Places in the read space.
    ranges: BTreeSet<Vec<u16>>,
}

/// Who may come back full to ranges that are not served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    /// Removed last from every one of their ranges, so that they hold all that was acknowledged there.
    pub good: BTreeSet<Address>,
    /// The other ones: they miss something in one range, but may be the best that is left in another.
    pub doubtful: BTreeSet<Address>,
}

impl Ranges {
    /// The ranges of an epoch's read space.
    pub fn of(epoch: &Epoch) -> Ranges {
        let ring = Ring::new(&epoch.rhs.nodes);
        let range = |arc| {
            let mut places = ring.walk(arc).as_slice().to_vec();
            places.sort_unstable();
            places
        };
        let ranges = (0..ring.points().len()).map(range).collect();
        Ranges { addresses: epoch.rhs.nodes.iter().map(|n| n.address).collect(), ranges }
    }

    /// Whether these are the ranges of an epoch.
    pub fn fit(&self, epoch: &Epoch) -> bool {
        self.addresses.iter().eq(epoch.rhs.nodes.iter().map(|n| &n.address))
    }

    /// Whether every range has a server that `counts`. False when there is no range.
    pub fn covered(&self, counts: impl Fn(Address) -> bool) -> bool {
        let good: Vec<bool> = self.addresses.iter().map(|a| counts(*a)).collect();
        let covered = |range: &Vec<u16>| range.iter().any(|place| good[usize::from(*place)]);
        !self.ranges.is_empty() && self.ranges.iter().all(covered)
    }

    /// The active servers of ranges that are served, but by none that `counts`.
    pub fn endangered(&self, epoch: &Epoch, counts: impl Fn(Address) -> bool) -> BTreeSet<Address> {
        let active = |place: &u16| epoch.rhs.nodes.get(usize::from(*place)).is_some_and(|n| n.active);
        let good: Vec<bool> = self.addresses.iter().map(|a| counts(*a)).collect();
        let safe = |range: &&Vec<u16>| range.iter().any(|place| active(place) && good[usize::from(*place)]);
        let in_danger = self.ranges.iter().filter(|range| !safe(range)).flatten();
        in_danger.filter(|place| active(place)).map(|place| self.addresses[usize::from(*place)]).collect()
    }

    /// Whether a range that is not served has a dead server that may come back to serve it: one that has not been
    /// detached. As long as that is so, nobody else becomes full, for that would end its claim.
    pub fn awaited(&self, epoch: &Epoch) -> bool {
        let Claims { good, doubtful } = self.claims(epoch);
        good.iter().chain(&doubtful).any(|address| epoch.whs.find(*address).is_some())
    }

    /// Finds out who may come back full.
    pub fn claims(&self, epoch: &Epoch) -> Claims {
        let nodes = &epoch.rhs.nodes;
        let entries: BTreeMap<Address, &ServerEntry> = epoch.servers.iter().map(|s| (s.address, s)).collect();
        // When each was removed while it was full; a disk that never was full has no say.
        let had_all = |e: &&&ServerEntry| !e.partial && (e.disk_id != 0 || e.incarnation == 0);
        let removed: Vec<Option<u64>> =
            nodes.iter().map(|n| entries.get(&n.address).filter(had_all).and_then(|e| e.removed)).collect();
        let (mut named, mut missed) = (BTreeSet::new(), BTreeSet::new());
        for range in &self.ranges {
            let places: Vec<usize> = range.iter().map(|place| usize::from(*place)).collect();
            if places.iter().any(|place| nodes[*place].active) {
                missed.extend(places);
                continue;
            }
            let last = places.iter().filter_map(|place| removed[*place]).max();
            named.extend(places.iter().copied().filter(|place| removed[*place].is_some()));
            missed.extend(places.into_iter().filter(|place| removed[*place] != last));
        }
        let mut claims = Claims::default();
        for place in named {
            let set = if missed.contains(&place) { &mut claims.doubtful } else { &mut claims.good };
            set.insert(nodes[place].address);
        }
        claims
    }
}
