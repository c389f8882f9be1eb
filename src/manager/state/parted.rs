//! Servers that are alive and do not hear each other, or whose disk is full or fails: the fewest are parted with, so that writes
//! go on.
//!
//! A server that cannot store says that it does not hear itself. It is parted with when others hold all that it holds; when
//! their disks are full as well, it stays, so that what is there can be read.

use super::{Level, Now, State};
use crate::logic::address::Address;
use crate::manager::broken::{self, Edge};
use crate::manager::change::{self, Newcomer};
use std::collections::BTreeSet;
use std::time::Duration;

/// A server that was parted with is not attached by itself for so long: the link may still be down, and each coming and
/// going has records moved.
const KEPT_OUT: Duration = Duration::from_secs(30);
/// The same for one whose disk is full, which takes an operator.
const FULL_KEPT_OUT: Duration = Duration::from_secs(300);

impl State {
    /// A server, whose connection this is, says that its link to another has been down for a time; a partner hints that
    /// a server seems dead.
    pub fn link_lost(&mut self, now: Now, told_by: super::ConnId, address: Address, lasting: Duration) {
        if let Some(from) = self.roster.by_conn(told_by) {
            self.broken.report(now.since_start, from, address, lasting);
        }
        // It may be dead: refusing a connection shows that at once.
        self.hint_lost(address);
    }

    /// Parts with the fewest servers that leave the others connected, but never with the last full one of a range.
    pub(super) fn part_the_disconnected(&mut self, now: Now) {
        let epoch = self.epoch.clone();
        self.broken.retain(now.since_start, |a| change::is_active(&epoch, a));
        let mut edges = self.broken.edges(now.since_start, |a| self.roster.get(a).and_then(|seen| seen.heard));
        let full_disks: BTreeSet<Address> = edges.iter().filter(|(a, b)| a == b).map(|(a, _)| *a).collect();
        let needed = self.ranges.endangered(&epoch, |a| change::is_full(&epoch, a) && !full_disks.contains(&a));
        // What others say of them is said because of their disks.
        let stays = |a: &Address| full_disks.contains(a) && needed.contains(a);
        edges.retain(|(a, b)| !stays(a) && !stays(b));
        if edges.is_empty() {
            return;
        }
        let parted = self.may_part(broken::fewest(&edges, &|a| u8::from(change::is_full(&epoch, a))), &edges);
        if parted.is_empty() {
            return;
        }
        let mut draft = self.draft(now);
        for address in &parted {
            let ends = |(a, b): &Edge| (a == address).then_some(*b).or((b == address).then_some(*a));
            let others: Vec<String> = edges.iter().filter_map(ends).map(|other| other.to_string()).collect();
            self.log_lost(*address);
            let is_full = full_disks.contains(address);
            let why = if is_full {
                "cannot store: its disk is full or fails".to_owned()
            } else {
                format!("does not hear {}", others.join(", "))
            };
            self.log(Level::Warn, format!("server {address} {why}: it is parted with"));
            self.kept_out.retain(|_, until| now.since_start < *until);
            self.kept_out.insert(*address, now.since_start + if is_full { FULL_KEPT_OUT } else { KEPT_OUT });
            draft.remove(*address);
        }
        self.decide(now, draft);
    }

    /// Of a cover, what may go without leaving a range to nobody; for those that may not, their neighbours.
    fn may_part(&self, cover: BTreeSet<Address>, edges: &BTreeSet<Edge>) -> BTreeSet<Address> {
        let served = |without: &BTreeSet<Address>| {
            self.ranges.covered(|a| change::is_full(&self.epoch, a) && !without.contains(&a))
        };
        let whole = served(&BTreeSet::new());
        let mut parted: BTreeSet<Address> = BTreeSet::new();
        let try_to_part = |parted: &mut BTreeSet<Address>, address: Address| {
            parted.insert(address);
            let harmless = !change::is_full(&self.epoch, address) || whole && served(parted);
            if !harmless {
                parted.remove(&address);
            }
            harmless
        };
        for address in cover {
            try_to_part(&mut parted, address);
        }
        for (a, b) in edges {
            if !parted.contains(a) && !parted.contains(b) {
                let _ = try_to_part(&mut parted, *b) || try_to_part(&mut parted, *a);
            }
        }
        parted
    }

    /// The newcomers that auto-replace attaches. What an operator has drained is not among them.
    pub(super) fn welcome(&self, now: Now) -> Vec<Newcomer> {
        let drained = |n: &Newcomer| self.epoch.server(n.address).is_some_and(|s| s.drained && s.disk_id == n.disk_id);
        let kept_out =
            |n: &Newcomer| drained(n) || self.kept_out.get(&n.address).is_some_and(|until| now.since_start < *until);
        self.newcomers().into_iter().filter(|n| !kept_out(n)).collect()
    }
}
