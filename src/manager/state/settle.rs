//! The consequences of who is there and who is not.
//!
//! Six rules, each for the manager that leads: active servers that are gone are removed, unless that would leave a
//! range without a full server while one of its own comes back; of servers that do not hear each
//! other the fewest are removed ([`super::parted`]); a range without a full server takes back those that
//! were removed last from it, full where they missed nothing anywhere else; a phase that all have finished is over; the
//! epoch names the managers that there are. doc/guarantees.md, "What an epoch may do".

use super::{ConnId, Draft, Level, Now, State};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Phase;
use crate::logic::route::{Group, Route};
use crate::logic::rule::{Rule, on};
use crate::manager::change::{self, Newcomer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Deaths within this time are one: processes killed together are removed by one epoch, so that each of them may come
/// back with what it has. Short against the 0.3 s in which a death is to be over.
const GATHER: Duration = Duration::from_millis(50);

/// What became of a server that the epoch calls active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Connected, and the incarnation that was admitted.
    Present,
    /// The same, and about to end.
    Leaving,
    /// Not heard, and not given up.
    Unknown,
    /// Taken for dead, or another disk has its address now.
    Dead,
    /// Started anew with the disk it had.
    Returned(Newcomer),
}

impl State {
    pub(super) fn settle(&mut self, now: Now) {
        if self.epoch.number == 0 || !self.leads() || self.attempt.is_some() || !self.can_decide(now) {
            return;
        }
        let rules: [fn(&mut State, Now); 6] = [
            State::part_with_the_gone,
            State::part_the_disconnected,
            State::take_back_the_last,
            State::take_back_to_be_filled,
            State::finish_phase,
            State::name_the_managers,
        ];
        for rule in rules {
            rule(self, now);
            if self.attempt.is_some() {
                // What is being voted on may change everything.
                return;
            }
        }
    }

    fn standing(&self) -> BTreeMap<Address, Standing> {
        let active = self.epoch.servers.iter().filter(|s| change::is_active(&self.epoch, s.address));
        active
            .map(|recorded| {
                let seen = self.roster.get(recorded.address);
                let standing = match seen.and_then(|s| s.newcomer(recorded.address)) {
                    Some(n) if n.incarnation == recorded.incarnation => {
                        if seen.is_some_and(|s| s.leaving) {
                            Standing::Leaving
                        } else {
                            Standing::Present
                        }
                    }
                    Some(n) if n.disk_id == recorded.disk_id && n.disk_id != 0 && self.is_fresh(&n) => {
                        Standing::Returned(n)
                    }
                    Some(_) => Standing::Dead,
                    None if seen.is_some_and(|s| s.dead_since.is_some()) => Standing::Dead,
                    None => Standing::Unknown,
                };
                (recorded.address, standing)
            })
            .collect()
    }

    /// The servers whose disks may hold a newer epoch than this one, and that have not said so: those that it calls
    /// active, and those that may come back to ranges that nobody serves.
    pub(super) fn unheard(&self) -> BTreeSet<Address> {
        let standing = self.standing();
        let silent = |s: &Standing| matches!(s, Standing::Unknown | Standing::Dead);
        let mut unheard: BTreeSet<Address> =
            standing.iter().filter(|(_, s)| silent(s)).map(|(address, _)| *address).collect();
        let claims = self.ranges.claims(&self.epoch);
        let claiming: BTreeSet<Address> = claims.good.union(&claims.doubtful).copied().collect();
        let there: Vec<Newcomer> =
            self.newcomers().into_iter().filter(|n| self.has_the_disk_of_one(n, &claiming)).collect();
        let active = |a: &Address| standing.contains_key(a);
        unheard.extend(claiming.into_iter().filter(|a| !active(a) && !there.iter().any(|n| n.address == *a)));
        unheard
    }

    /// A manager with a new disk, or one that is new altogether, has no vote until an epoch names it.
    fn name_the_managers(&mut self, now: Now) {
        if self.managers() != self.epoch.managers {
            let draft = self.draft(now);
            self.decide_anyway(now, draft);
        }
    }

    fn part_with_the_gone(&mut self, now: Now) {
        let standing = self.standing();
        let is = |address: &Address, wanted: Standing| standing.get(address) == Some(&wanted);
        let gone = |s: &Standing| matches!(s, Standing::Dead | Standing::Leaving | Standing::Returned(_));
        let returned: BTreeMap<Address, Newcomer> = standing
            .iter()
            .filter_map(|(a, s)| if let Standing::Returned(n) = s { Some((*a, *n)) } else { None })
            .collect();
        note_since(&mut self.gone_since, now, standing.values().any(gone));
        note_since(&mut self.returned_since, now, !returned.is_empty());
        let Some(since) = self.gone_since else { return };
        if now.since_start < since + GATHER && !self.forced {
            return;
        }
        let endangered = self.ranges.endangered(&self.epoch, |a| is(&a, Standing::Present));
        // They may come back, or turn out to have died together with the others.
        if !self.forced && endangered.iter().any(|a| is(a, Standing::Unknown)) {
            return;
        }
        let reviving: BTreeSet<Address> = endangered.iter().copied().filter(|a| returned.contains_key(a)).collect();
        if !reviving.is_empty() {
            let complete = endangered.iter().all(|a| returned.contains_key(a));
            let there = |a: Address| is(&a, Standing::Present) || reviving.contains(&a);
            let waited = self.waited(now, self.returned_since);
            if !(complete || self.forced || waited && self.ranges.covered(there)) {
                return;
            }
        }
        let mut draft = self.draft(now);
        for (address, standing) in standing.iter().filter(|(_, s)| gone(s)) {
            let filling = !change::is_full(&self.epoch, *address);
            match standing {
                // A filling server that restarts with all others is filled anew, without an operator.
                Standing::Returned(n) if reviving.contains(address) || filling && !reviving.is_empty() => {
                    self.log(Level::Info, format!("server {address} is taken back"));
                    draft.revive(n, !filling);
                }
                _ => {
                    // A death was logged when it was found; what took its place so soon that none was found was not.
                    if *standing == Standing::Leaving {
                        self.log(Level::Info, format!("server {address} ends"));
                    } else if self.roster.get(*address).is_some_and(|s| s.dead_since.is_none()) {
                        self.log_lost(*address);
                    }
                    draft.remove(*address);
                }
            }
        }
        self.gone_since = None;
        self.returned_since = None;
        self.decide(now, draft);
    }

    fn take_back_the_last(&mut self, now: Now) {
        let unserved = self.ranges.claims(&self.epoch).good;
        let mut there: Vec<Newcomer> = Vec::new();
        if !unserved.is_empty() {
            there = self.newcomers().into_iter().filter(|n| self.has_the_disk_of_one(n, &unserved)).collect();
        }
        if there.is_empty() {
            self.claimed_since = None;
            return;
        }
        self.claimed_since.get_or_insert(now.since_start);
        let covered = |a| change::is_full(&self.epoch, a) || there.iter().any(|n| n.address == a);
        let waited = self.waited(now, self.claimed_since);
        if !(there.len() == unserved.len() || self.forced || waited && self.ranges.covered(covered)) {
            return;
        }
        self.claimed_since = None;
        let mut draft = self.draft(now);
        for newcomer in &there {
            self.log(Level::Info, format!("server {} is taken back", newcomer.address));
            draft.revive(newcomer, true);
        }
        self.decide(now, draft);
    }

    /// Where those who held a range last cannot come back full, because they missed something in another, they come
    /// back to be filled there, as the sources of the first.
    fn take_back_to_be_filled(&mut self, now: Now) {
        let claims = self.ranges.claims(&self.epoch);
        let claimed: BTreeSet<Address> = claims.good.union(&claims.doubtful).copied().collect();
        let mut there: Vec<Newcomer> = Vec::new();
        if !claimed.is_empty() {
            there = self.newcomers().into_iter().filter(|n| self.has_the_disk_of_one(n, &claimed)).collect();
        }
        let comes = |a: Address| self.epoch.whs.is_active(a) || there.iter().any(|n| n.address == a);
        let due = !there.is_empty() && self.ranges.rescued(&self.epoch, comes);
        note_since(&mut self.rescued_since, now, due);
        if !due || !(self.forced || self.waited(now, self.rescued_since)) {
            return;
        }
        self.rescued_since = None;
        let mut draft = self.draft(now);
        for newcomer in &there {
            let line =
                "holds keys that nobody serves: it is taken back, and serves when what it missed is copied to it";
            self.log(Level::Info, format!("server {} {line}", newcomer.address));
            draft.admit(newcomer);
        }
        draft.copy(false);
        self.decide(now, draft);
    }

    /// Whether a newcomer is one of those servers, come back with the disk that the epoch knows.
    pub(super) fn has_the_disk_of_one(&self, newcomer: &Newcomer, servers: &BTreeSet<Address>) -> bool {
        let recorded = self.epoch.server(newcomer.address).map_or(0, |s| s.disk_id);
        servers.contains(&newcomer.address) && recorded == newcomer.disk_id && recorded != 0
    }

    fn waited(&self, now: Now, since: Option<Duration>) -> bool {
        since.is_some_and(|since| now.since_start >= since + self.setup.replace_delay)
    }

    /// Whether, in the replace of `time`, all have copied but those that are being filled and have nothing to copy. These then drop what nobody
    /// sent them before they say that they have everything. kumofs 0.4 servers do not wait for this.
    fn is_sourced(&self, time: ClockTime) -> bool {
        let has_copied = |a: Address| {
            let filling = !change::is_full(&self.epoch, a);
            match self.epoch.server(a) {
                Some(s) if filling && s.incarnation != 0 => s.claim == 0 || self.copied_out.contains(&a),
                _ => self.reported.contains(&a),
            }
        };
        matches!(self.epoch.phase, Phase::Copying { time: now, .. } if now == time) && self.movers().all(has_copied)
    }

    /// A server that is being filled, and has itself copied what it had to, asks whether all have.
    pub fn asks_whether_sourced(&mut self, now: Now, conn: ConnId, time: ClockTime) -> bool {
        if matches!(self.epoch.phase, Phase::Copying { time: t, .. } if t == time) {
            self.roster.alive(now.since_start, conn);
            let address = self.roster.by_conn(conn);
            let newcomer = address.and_then(|a| self.roster.get(a)?.newcomer(a));
            if let Some(n) = newcomer.filter(|n| self.is_recorded(n.address, n.incarnation)) {
                self.copied_out.insert(n.address);
            }
        }
        self.is_sourced(time)
    }

    fn finish_phase(&mut self, now: Now) {
        if self.epoch.phase == Phase::Idle {
            return;
        }
        if self.movers().any(|a| !self.reported.contains(&a)) && on(Rule::CopiedBeforeFull) {
            return;
        }
        // It waits for those who come back.
        if self.movers().next().is_none() {
            return;
        }
        // Filling servers may say that they have copied everything when nobody was there to copy from.
        if matches!(self.epoch.phase, Phase::Copying { .. })
            && !self.ranges.rescued(&self.epoch, |a| self.epoch.whs.is_active(a))
        {
            return;
        }
        if matches!(self.epoch.phase, Phase::Copying { .. }) && self.would_strand() {
            return;
        }
        let mut draft: Draft = self.draft(now);
        match self.epoch.phase {
            Phase::Copying { .. } => draft.finish_copying(),
            Phase::Deleting { .. } => draft.finish_deleting(),
            Phase::Idle => return,
        }
        self.decide(now, draft);
    }

    /// Those who have to end a phase: the active ones, and among them those that are being drained, which may be the only
    /// ones to have something.
    fn movers(&self) -> impl Iterator<Item = Address> {
        let active = |a: &Address| change::is_active(&self.epoch, *a);
        self.epoch.servers.iter().map(|s| s.address).filter(active)
    }

    /// Whether the copying under way, if it ended now, would take keys from those who hold them and leave them to nobody:
    /// all servers that were to hold them died while they were being filled. It then waits for these, or for the
    /// operator to detach them, while those who hold the keys serve them.
    fn would_strand(&mut self) -> bool {
        let number = self.epoch.number;
        if let Some((known, strands)) = self.strands
            && known == number
        {
            return strands;
        }
        let stranded = |group: &Group| !group.sources().is_empty() && group.version0_coordinator().is_none();
        let strands = Route::new(&self.epoch).groups().iter().any(stranded);
        self.strands = Some((number, strands));
        if strands {
            let line =
                "copying cannot end: all that were to hold some keys died meanwhile; start them and `attach`, or";
            self.log(Level::Warn, format!("{line} `detach` them"));
        }
        strands
    }

    fn may_replace_by_itself(&self, now: Now) -> bool {
        let mut faults = self.epoch.whs.nodes.iter().filter(|n| !n.active).peekable();
        let moving = matches!(self.epoch.phase, Phase::Copying { .. });
        if moving {
            // Only what cannot end by itself, and if that helps.
            let claims = self.ranges.claims(&self.epoch);
            let strands = self.strands == Some((self.epoch.number, true));
            return strands && faults.any(|n| !claims.contains(n.address));
        }
        if faults.peek().is_none() && self.welcome(now).is_empty() {
            return false;
        }
        let founding = self.epoch.servers.is_empty();
        founding || self.ranges.covered(|a| change::is_full(&self.epoch, a))
    }

    /// With `-a`: attaches newcomers and detaches the dead, some time after the first of them was noticed. Never while
    /// a range has no full server, because that would end the claim of those who could still bring its records back.
    pub(super) fn replace_by_itself(&mut self, now: Now) {
        let due = self.auto_replace && self.leads() && self.attempt.is_none() && self.may_replace_by_itself(now);
        note_since(&mut self.auto_since, now, due);
        if self.waited(now, self.auto_since) {
            self.auto_since = None;
            let welcome = self.welcome(now);
            self.attach_and_detach(now, &welcome, true, true);
        }
    }
}

/// Remembers since when something is the case.
fn note_since(since: &mut Option<Duration>, now: Now, is: bool) {
    *since = if is { since.or(Some(now.since_start)) } else { None };
}
