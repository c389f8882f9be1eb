//! Which servers hold the same keys, and what follows: whether all keys are served, and who may come back to serve them.
//!
//! A range is a set of servers that are together the replicas of some keys by the read space, dead ones included. It
//! is *served* when one of them is active. Source: doc/guarantees.md, "What an epoch may do".

use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, ServerEntry};
use crate::logic::ring::Ring;
use crate::logic::rule::{Rule, on};
use crate::logic::weight::Weight;
use std::collections::{BTreeMap, BTreeSet};

/// All distinct ranges of a read space. Depends on addresses and weights alone, so that faults and returns leave it as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    weights: Vec<Weight>,
    addresses: Vec<Address>,
    /// Places in the read space.
    ranges: BTreeSet<Vec<u16>>,
}

/// Who claims to hold ranges that are not served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    /// Removed last from every one of their ranges, so that they hold all that was acknowledged there: they may come back
    /// full.
    pub good: BTreeSet<Address>,
    /// The other ones: they miss something in one range, but may be those who held another last. They come back to be
    /// filled in the one, and as sources of the other.
    pub doubtful: BTreeSet<Address>,
}

impl Claims {
    /// Whether a server claims anything.
    pub fn contains(&self, address: Address) -> bool {
        self.good.contains(&address) || self.doubtful.contains(&address)
    }
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
        let weights = epoch.rhs.nodes.iter().map(|n| n.weight).collect();
        Ranges { weights, addresses: epoch.rhs.nodes.iter().map(|n| n.address).collect(), ranges }
    }

    /// Whether these are the ranges of an epoch.
    pub fn fit(&self, epoch: &Epoch) -> bool {
        let nodes = &epoch.rhs.nodes;
        self.addresses.iter().eq(nodes.iter().map(|n| &n.address))
            && self.weights.iter().eq(nodes.iter().map(|n| &n.weight))
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

    /// Whether a range that is not served has a server that claims it. As long as that is so, nobody else becomes full,
    /// for that would end the claim.
    pub fn awaited(&self, epoch: &Epoch) -> bool {
        self.claims(epoch) != Claims::default()
    }

    /// Whether, for every range that is not served but claimed, one of those who held it last is `there`.
    pub fn rescued(&self, epoch: &Epoch, there: impl Fn(Address) -> bool) -> bool {
        let claims = self.claims_by_place(epoch);
        let rescued = |range: &Vec<u16>| {
            let last = range.iter().map(|place| claims[usize::from(*place)]).max().unwrap_or(0);
            let holds = |place: &u16| claims[usize::from(*place)] == last && there(self.addresses[usize::from(*place)]);
            last == 0 || range.iter().any(holds)
        };
        self.unserved(epoch).all(rescued)
    }

    fn unserved<'a>(&'a self, epoch: &'a Epoch) -> impl Iterator<Item = &'a Vec<u16>> {
        let active = |place: &u16| epoch.rhs.nodes.get(usize::from(*place)).is_some_and(|n| n.active);
        self.ranges.iter().filter(move |range| !range.iter().any(active))
    }

    /// The claim of each place; 0 for one that has none, or was detached. One that is being drained was not.
    fn claims_by_place(&self, epoch: &Epoch) -> Vec<u64> {
        let entries: BTreeMap<Address, &ServerEntry> = epoch.servers.iter().map(|s| (s.address, s)).collect();
        let attached: BTreeSet<Address> = epoch.whs.nodes.iter().map(|n| n.address).collect();
        let claim = |address: &Address| {
            let entry = entries.get(address).filter(|e| attached.contains(address) || e.drained);
            entry.map_or(0, |e| e.claim)
        };
        self.addresses.iter().map(claim).collect()
    }

    /// Finds out who claims what.
    pub fn claims(&self, epoch: &Epoch) -> Claims {
        let by_place = self.claims_by_place(epoch);
        let (mut named, mut missed) = (BTreeSet::new(), BTreeSet::new());
        for range in &self.ranges {
            let places: Vec<usize> = range.iter().map(|place| usize::from(*place)).collect();
            if places.iter().any(|place| epoch.rhs.nodes[*place].active) {
                missed.extend(places);
                continue;
            }
            let last = places.iter().map(|place| by_place[*place]).max();
            named.extend(places.iter().copied().filter(|place| by_place[*place] > 0));
            let stale = |place: &usize| Some(by_place[*place]) != last && on(Rule::LastRemovedOnly);
            missed.extend(places.into_iter().filter(stale));
        }
        let mut claims = Claims::default();
        for place in named {
            let set = if missed.contains(&place) { &mut claims.doubtful } else { &mut claims.good };
            set.insert(self.addresses[place]);
        }
        claims
    }
}
