//! Links between servers that are reported broken, and the fewest servers to part with so that the rest are connected.
//!
//! A server can be alive for its managers and out of reach for another server; the writes of their common keys would
//! then wait for ever. Servers tell which links are down, again and again while they are. Source: doc/guarantees.md,
//! "Short silence". Nobody's safety depends on this: a server that is parted with by mistake has to be filled anew, no
//! more.
//!
//! A report counts when it was repeated, and when both ends were heard after it: a server that hangs, or that was
//! itself stopped for a while, is not what is meant here.

use crate::logic::address::Address;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a link must be down before anybody is parted with: the same as what servers wait before they report it.
const LASTING: Duration = Duration::from_secs(1);
/// A report must have been repeated after this time.
const REPEATED: Duration = Duration::from_millis(250);
/// A report that is not repeated for so long is of no more account: the link is up again, or whoever told is gone.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// The largest cover that is searched for exactly; of more servers, those with the most broken links go first.
const EXACT: usize = 8;

/// What was told of one link, in one direction.
#[derive(Clone, Copy, Debug)]
struct Report {
    /// Since when the link is down.
    since: Duration,
    /// When that was first told.
    first: Duration,
    /// When it was last told.
    last: Duration,
}

/// Two servers that do not hear each other; the lower address first.
pub type Edge = (Address, Address);

/// All reports that are of account. Times are since the start of the manager.
#[derive(Debug, Default)]
pub struct Broken {
    reports: BTreeMap<(Address, Address), Report>,
}

impl Broken {
    /// The server at `from` says that its link to the one at `to` has been down for a time.
    pub fn report(&mut self, now: Duration, from: Address, to: Address, lasting: Duration) {
        self.expire(now);
        let since = now.saturating_sub(lasting);
        let report = self.reports.entry((from, to)).or_insert(Report { since, first: now, last: now });
        report.since = report.since.min(since);
        report.last = now;
    }

    /// Forgets what was told of the server at an address, and by it: another life is there now.
    pub fn forget(&mut self, address: Address) {
        self.reports.retain(|(from, to), _| *from != address && *to != address);
    }

    /// Forgets what was not told again, and what concerns servers that are not `wanted`.
    pub fn retain(&mut self, now: Duration, wanted: impl Fn(Address) -> bool) {
        self.expire(now);
        self.reports.retain(|(from, to), _| wanted(*from) && wanted(*to));
    }

    fn expire(&mut self, now: Duration) {
        self.reports.retain(|_, report| now < report.last + FORGOTTEN);
    }

    /// The links that are down beyond doubt. `heard` tells when the manager last heard a server.
    pub fn edges(&self, now: Duration, heard: impl Fn(Address) -> Option<Duration>) -> BTreeSet<Edge> {
        let since = |address, first| heard(address).is_some_and(|heard| heard > first);
        let counts = |((from, to), report): &(&(Address, Address), &Report)| {
            now >= report.since + LASTING
                && report.last >= report.first + REPEATED
                && since(*from, report.first)
                && since(*to, report.first)
        };
        self.reports.iter().filter(counts).map(|((from, to), _)| (*from.min(to), *from.max(to))).collect()
    }
}

/// The fewest servers without which no edge is left. Of two ways that are as good, the one whose servers have more
/// edges, then the lower `rank`, then the higher address.
pub fn fewest(edges: &BTreeSet<Edge>, rank: &impl Fn(Address) -> u8) -> BTreeSet<Address> {
    (1..=EXACT).find_map(|size| cover(edges, size, rank)).unwrap_or_else(|| greedy(edges.clone(), rank))
}

/// A cover of at most `size` servers: the server with the most edges is in it, or all its neighbours are.
fn cover(edges: &BTreeSet<Edge>, size: usize, rank: &impl Fn(Address) -> u8) -> Option<BTreeSet<Address>> {
    let Some(most) = most_edges(edges, rank) else { return Some(BTreeSet::new()) };
    let with = |taken: &BTreeSet<Address>| {
        let left = edges.iter().filter(|(a, b)| !taken.contains(a) && !taken.contains(b)).copied().collect();
        let mut found = cover(&left, size.checked_sub(taken.len())?, rank)?;
        found.extend(taken);
        Some(found)
    };
    if size == 0 {
        return None;
    }
    let neighbours = edges.iter().filter_map(|(a, b)| match most {
        m if m == *a => Some(*b),
        m if m == *b => Some(*a),
        _ => None,
    });
    with(&BTreeSet::from([most])).or_else(|| with(&neighbours.collect()))
}

fn greedy(mut edges: BTreeSet<Edge>, rank: &impl Fn(Address) -> u8) -> BTreeSet<Address> {
    let mut taken = BTreeSet::new();
    while let Some(most) = most_edges(&edges, rank) {
        edges.retain(|(a, b)| *a != most && *b != most);
        taken.insert(most);
    }
    taken
}

fn most_edges(edges: &BTreeSet<Edge>, rank: &impl Fn(Address) -> u8) -> Option<Address> {
    let mut degrees: BTreeMap<Address, usize> = BTreeMap::new();
    for address in edges.iter().flat_map(|(a, b)| [*a, *b]) {
        *degrees.entry(address).or_default() += 1;
    }
    degrees.into_iter().max_by_key(|(address, degree)| (*degree, u8::MAX - rank(*address), *address)).map(|(a, _)| a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(n: u8) -> Address {
        Address::new(format!("10.0.0.{n}:19800").parse().unwrap())
    }

    fn graph(edges: &[(u8, u8)]) -> BTreeSet<Edge> {
        edges.iter().map(|(a, b)| (server(*a.min(b)), server(*a.max(b)))).collect()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_report_counts_when_it_lasts_is_repeated_and_both_ends_are_heard() {
        let (a, b) = (server(1), server(2));
        let mut broken = Broken::default();
        broken.report(ms(1000), a, b, ms(1000));
        assert!(broken.edges(ms(1200), |_| Some(ms(1200))).is_empty(), "told once");
        broken.report(ms(1300), a, b, ms(1300));
        assert!(broken.edges(ms(1300), |s| Some(ms(if s == b { 900 } else { 1300 }))).is_empty(), "one hangs");
        assert_eq!(broken.edges(ms(1300), |_| Some(ms(1001))), graph(&[(1, 2)]));
        broken.retain(ms(2299), |_| true);
        assert_eq!(broken.edges(ms(2299), |_| Some(ms(2299))).len(), 1);
        broken.retain(ms(2300), |_| true);
        assert!(broken.edges(ms(2300), |_| Some(ms(2300))).is_empty(), "not told again");
    }

    #[test]
    fn a_link_that_comes_and_goes_is_not_down() {
        let mut broken = Broken::default();
        for millis in [0, 300, 600, 900] {
            broken.report(ms(millis), server(1), server(2), Duration::ZERO);
        }
        assert!(broken.edges(ms(900), |_| Some(ms(900))).is_empty());
    }

    #[test]
    fn the_one_in_the_middle_goes_and_of_two_the_one_of_less_worth() {
        let equal = |_: Address| 0;
        assert_eq!(fewest(&graph(&[(1, 2), (2, 3), (2, 4)]), &equal), BTreeSet::from([server(2)]));
        assert_eq!(fewest(&graph(&[(1, 2)]), &equal), BTreeSet::from([server(2)]));
        assert_eq!(fewest(&graph(&[(1, 2)]), &|s| u8::from(s == server(2))), BTreeSet::from([server(1)]));
        assert!(fewest(&BTreeSet::new(), &equal).is_empty());
    }

    #[test]
    fn many_are_covered_too() {
        let pairs: Vec<(u8, u8)> = (0..20).map(|n| (2 * n, 2 * n + 1)).collect();
        assert_eq!(fewest(&graph(&pairs), &|_| 0).len(), 20);
    }

    proptest! {
        #[test]
        fn no_smaller_set_covers_all(pairs in prop::collection::vec((0u8..7, 0u8..7), 0..14)) {
            let pairs: Vec<(u8, u8)> = pairs.into_iter().filter(|(a, b)| a != b).collect();
            let edges = graph(&pairs);
            let covers = |set: &dyn Fn(Address) -> bool| edges.iter().all(|(a, b)| set(*a) || set(*b));
            let found = fewest(&edges, &|_| 0);
            prop_assert!(covers(&|a| found.contains(&a)));
            let smallest = (0u32..1 << 7)
                .filter(|bits| covers(&|a| (0..7u8).any(|n| server(n) == a && bits >> n & 1 == 1)))
                .map(u32::count_ones)
                .min();
            prop_assert_eq!(Some(found.len() as u32), smallest);
        }
    }
}
