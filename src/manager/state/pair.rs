//! Two managers: who is there, and what each learns from the other.

use super::{Level, Now, Partner, Refused, State};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::logic::ring::HashSpace;
use crate::manager::decide::{self, Meeting};

impl State {
    /// The partner's hello came.
    pub fn partner_opened(&mut self, address: Address) {
        self.partner = Partner::Greeted;
        self.log(Level::Info, format!("new node 0 {address}"));
        self.log(Level::Info, format!("partner connected {address}"));
    }

    /// The partner is one of ours.
    pub fn partner_is_ours(&mut self, disk_id: u64) {
        self.partner = Partner::Ours(disk_id);
        self.partner_disk = disk_id;
    }

    /// The partner is a kumofs 0.4 manager.
    pub fn partner_is_old(&mut self) {
        self.partner = Partner::Old;
    }

    /// Whether the partner is connected and a kumofs 0.4 manager.
    pub fn has_old_partner(&self) -> bool {
        self.partner == Partner::Old
    }

    /// The connection to the partner is gone: this manager decides alone.
    pub fn partner_closed(&mut self, now: Now) {
        if self.partner == Partner::Away {
            return;
        }
        self.partner = Partner::Away;
        if let Some(address) = self.setup.partner {
            self.log(Level::Warn, format!("lost node 0 {address}"));
        }
        self.take_over_copying(now);
        self.settle(now);
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

    /// Another node showed a decided epoch. Returns the number that this manager holds then.
    ///
    /// # Errors
    /// When it is of another cluster.
    pub fn shown(&mut self, now: Now, theirs: Epoch, by_partner: bool) -> Result<u64, Refused> {
        self.partner_met |= by_partner;
        let shown = self.met(now, theirs);
        if let (Err(why), true) = (&shown, by_partner) {
            self.log(Level::Warn, format!("the partner's epoch is refused: {why}"));
        }
        shown?;
        self.settle(now);
        Ok(self.epoch.number)
    }

    pub(super) fn met(&mut self, now: Now, theirs: Epoch) -> Result<(), Refused> {
        match decide::meet(&self.epoch, &theirs) {
            Meeting::Same | Meeting::Ours => {}
            Meeting::Theirs => {
                if self.epoch.number == 0 {
                    self.remembered = false;
                    self.trusted = false;
                }
                self.put_in_force(now, theirs);
            }
            Meeting::Twice => {
                self.log(Level::Warn, format!("epoch {} was decided twice", theirs.number));
                if self.leads() {
                    let draft = self.draft(now);
                    self.decide_anyway(now, draft);
                }
            }
            Meeting::Foreign => return Err(Refused::Foreign),
        }
        Ok(())
    }

    /// A kumofs 0.4 partner sent its hash spaces. False: they are older than ours.
    pub fn partner_spaces(&mut self, now: Now, whs: HashSpace, rhs: HashSpace) -> bool {
        let ours = &self.epoch;
        if matches!(self.partner, Partner::Ours(_)) {
            return false;
        }
        if whs.timestamp < ours.whs.timestamp || rhs.timestamp < ours.rhs.timestamp {
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
