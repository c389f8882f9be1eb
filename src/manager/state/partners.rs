//! The other managers: who is there, and what each learns from the others.

use super::{Action, Level, Now, Refused, State};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, ManagerEntry, Phase};
use crate::logic::paxos::Voter;
use crate::logic::ring::HashSpace;
use crate::manager::change;
use crate::manager::roster::Kind;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

/// Another manager of the cluster, while it is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Partner {
    /// Connected; what it speaks is not known yet.
    Greeted,
    /// kumofs 0.4: each decides, the newer hash space counts.
    Old,
    /// Ours, with the random number in its state file.
    Ours(u64),
}

impl State {
    /// Whether this manager decides now, and not a partner. Only haste depends on this: who decides needs votes.
    pub fn leads(&self) -> bool {
        self.leader().is_none()
    }

    /// The partner that decides, unless it is this manager: the one that hears more servers than others do, or has the
    /// lowest address of those. One that is cut off from servers which others hear must not take them for dead.
    pub fn leader(&self) -> Option<Address> {
        let rank = |hears: u32, address: Address| (Reverse(hears), address);
        let ours = self.partners.iter().filter(|(_, p)| matches!(p, Partner::Ours(_)));
        let others = ours.map(|(address, _)| rank(self.told.get(address).copied().unwrap_or(self.hears), *address));
        others.min().filter(|other| *other < rank(self.hears, self.setup.own)).map(|(_, address)| address)
    }

    /// How many of the active servers were heard lately.
    pub fn hears(&self) -> u32 {
        self.hears
    }

    /// A partner says how many of the active servers it has heard lately.
    pub fn partner_hears(&mut self, now: Now, address: Address, hears: u32) {
        if self.told.insert(address, hears) != Some(hears) {
            self.go_on(now);
        }
    }

    /// Counts the servers heard, and has the partners told when that has changed.
    pub(super) fn count_the_heard(&mut self, now: Now) {
        let lately = now.since_start.saturating_sub(self.setup.lost_after / 2);
        let heard = |a: Address| self.roster.get(a).and_then(|s| s.heard).is_some_and(|heard| heard >= lately);
        let active = self.epoch.servers.iter().filter(|s| change::is_active(&self.epoch, s.address));
        let hears = active.filter(|s| heard(s.address)).count() as u32;
        if std::mem::replace(&mut self.hears, hears) != hears && !self.partners.is_empty() {
            self.actions.push(Action::Confer);
        }
    }

    /// A partner's hello came.
    pub fn partner_opened(&mut self, address: Address) {
        self.partners.insert(address, Partner::Greeted);
        self.log(Level::Info, format!("new node 0 {address}"));
        self.log(Level::Info, format!("partner connected {address}"));
    }

    /// A partner is one of ours, has this number on its disk, and this as its newest epoch.
    ///
    /// # Errors
    /// When it must not be spoken with.
    pub fn partner_met(
        &mut self,
        now: Now,
        address: Address,
        disk_id: u64,
        epoch: Option<Epoch>,
    ) -> Result<(), Refused> {
        let copied = disk_id == self.setup.disk_id || disk_id == 0;
        let met = if copied { Err(Refused::NoIdentity) } else { epoch.map_or(Ok(()), |theirs| self.met(now, theirs)) };
        if let Err(why) = met {
            self.partners.remove(&address);
            if self.strangers.insert(address) {
                self.log(Level::Warn, format!("manager {address} is refused: {why}"));
            }
            return Err(why);
        }
        self.strangers.remove(&address);
        self.partners.insert(address, Partner::Ours(disk_id));
        self.disks.insert(address, disk_id);
        self.ask(Voter { address, disk_id });
        self.actions.push(Action::Confer);
        self.go_on(now);
        Ok(())
    }

    /// A partner is a kumofs 0.4 manager.
    pub fn partner_is_old(&mut self, address: Address) {
        self.partners.insert(address, Partner::Old);
        self.disks.insert(address, 0);
    }

    /// Whether a partner is connected and a kumofs 0.4 manager.
    pub fn is_old_partner(&self, address: Address) -> bool {
        self.partners.get(&address) == Some(&Partner::Old)
    }

    /// Whether a partner is connected and one of ours.
    pub fn is_our_partner(&self, address: Address) -> bool {
        matches!(self.partners.get(&address), Some(Partner::Ours(_)))
    }

    /// The connection to a partner is gone.
    pub fn partner_closed(&mut self, now: Now, address: Address) {
        self.told.remove(&address);
        if self.partners.remove(&address).is_none() {
            return;
        }
        self.log(Level::Warn, format!("lost node 0 {address}"));
        self.take_over_copying(now);
        self.go_on(now);
    }

    /// A kumofs 0.4 server reports only to the manager that started the copying. If that was the partner, start anew.
    fn take_over_copying(&mut self, now: Now) {
        let old_servers = self.epoch.servers.iter().any(|s| s.incarnation == 0 && s.removed.is_none());
        if let (Phase::Copying { full, .. }, true) = (self.epoch.phase, old_servers) {
            let mut draft = self.draft(now);
            draft.replace(full);
            self.decide(now, draft);
        }
    }

    /// All managers, as the next epoch is to name them: this one, and each configured one that was met, or that the
    /// epoch in force names already.
    pub(super) fn managers(&self) -> Vec<ManagerEntry> {
        let mut managers = vec![ManagerEntry { address: self.setup.own, disk_id: self.setup.disk_id }];
        for address in &self.setup.partners {
            let recorded = self.epoch.managers.iter().find(|m| m.address == *address).map(|m| m.disk_id);
            let known = self.disks.get(address).copied().or(recorded);
            managers.extend(known.map(|disk_id| ManagerEntry { address: *address, disk_id }));
        }
        managers.sort_unstable_by_key(|m| m.address);
        managers
    }

    /// The managers and servers that can be asked for their votes now.
    pub(super) fn voters_in_reach(&self) -> BTreeSet<Voter> {
        let managers = self.partners.iter().filter_map(|(address, partner)| match partner {
            Partner::Ours(disk_id) => Some(Voter { address: *address, disk_id: *disk_id }),
            Partner::Greeted | Partner::Old => None,
        });
        let servers = self.roster.iter().filter(|(_, seen)| seen.conn.is_some());
        let servers = servers.filter_map(|(address, seen)| match seen.kind {
            Kind::Joined { disk_id, .. } => Some(Voter { address, disk_id }),
            Kind::Silent | Kind::Old => None,
        });
        managers.chain(servers).collect()
    }

    /// Another node showed a decided epoch. Returns the number that this manager holds then.
    ///
    /// # Errors
    /// When it does not belong here.
    pub fn shown(&mut self, now: Now, theirs: Epoch) -> Result<u64, Refused> {
        self.met(now, theirs)?;
        self.go_on(now);
        Ok(self.epoch.number)
    }

    /// What was decided is a fact, whoever tells it.
    pub(super) fn met(&mut self, now: Now, theirs: Epoch) -> Result<(), Refused> {
        if self.epoch.cluster != 0 && theirs.cluster != 0 && self.epoch.cluster != theirs.cluster {
            return Err(Refused::Foreign);
        }
        match theirs.number.cmp(&self.epoch.number) {
            Ordering::Greater => self.put_in_force(now, theirs, Action::Spread),
            Ordering::Equal if theirs != *self.epoch => return Err(Refused::Twice(theirs.number)),
            Ordering::Equal | Ordering::Less => {}
        }
        Ok(())
    }

    /// A kumofs 0.4 partner sent its hash spaces. False: they are older than ours.
    pub fn partner_spaces(&mut self, now: Now, whs: HashSpace, rhs: HashSpace) -> bool {
        let ours = &self.epoch;
        if self.partners.values().any(|p| matches!(p, Partner::Ours(_))) {
            return false;
        }
        if whs.timestamp < ours.whs.timestamp || rhs.timestamp < ours.rhs.timestamp {
            return false;
        }
        if ours.is_weighted() {
            let line = "a kumofs 0.4 manager is not listened to: servers have weights, which it cannot tell";
            self.log(Level::Warn, line.to_owned());
            return false;
        }
        if whs != ours.whs || rhs != ours.rhs {
            self.observe_counter(whs.timestamp.counter().max(rhs.timestamp.counter()));
            let mut draft = self.draft(now);
            draft.take_spaces(whs, rhs);
            self.decide(now, draft);
        }
        true
    }
}
