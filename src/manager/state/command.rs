//! What operators and clients ask for. Each is a change of the epoch, made by the manager that leads.

use super::{Level, Now, Refused, State};
use crate::logic::address::Address;
use crate::logic::epoch::Phase;
use crate::manager::change::Newcomer;
use crate::proto::rpc::v0::MAX_NODES;
use std::collections::BTreeSet;

impl State {
    /// attach, attach-noreplace: all servers that are connected and not attached are to be.
    ///
    /// # Errors
    /// When the partner decides.
    pub fn attach(&mut self, now: Now, replace: bool) -> Result<(), Refused> {
        self.must_lead()?;
        // The operator has seen who is there and who is not.
        self.trusted = true;
        self.forced = true;
        self.settle(now);
        self.forced = false;
        let newcomers = self.newcomers();
        self.attach_and_detach(now, &newcomers, false, replace);
        Ok(())
    }

    /// detach, detach-noreplace: the dead give up their places.
    ///
    /// # Errors
    /// When the partner decides.
    pub fn detach(&mut self, now: Now, replace: bool) -> Result<(), Refused> {
        self.must_lead()?;
        self.attach_and_detach(now, &[], true, replace);
        Ok(())
    }

    /// replace, full-replace.
    ///
    /// # Errors
    /// When the partner decides.
    pub fn replace(&mut self, now: Now, full: bool) -> Result<(), Refused> {
        self.must_lead()?;
        let mut draft = self.draft(now);
        draft.replace(full);
        self.decide(now, draft);
        Ok(())
    }

    pub(super) fn attach_and_detach(&mut self, now: Now, newcomers: &[Newcomer], detach: bool, replace: bool) {
        let mut draft = self.draft(now);
        let claims = self.ranges.claims(&self.epoch);
        let claimed: BTreeSet<Address> = claims.good.union(&claims.doubtful).copied().collect();
        for newcomer in newcomers {
            if draft.epoch().whs.nodes.len() >= MAX_NODES {
                self.log(Level::Warn, format!("server {} is not attached: {MAX_NODES} are", newcomer.address));
                continue;
            }
            if claimed.contains(&newcomer.address) && !self.has_the_disk_of_one(newcomer, &claimed) {
                let line =
                    "is not attached: an earlier disk at its address holds keys that nobody serves; start it with";
                let advice = "that, or give it up with `detach-noreplace` and attach again";
                self.log(Level::Warn, format!("server {} {line} {advice}", newcomer.address));
            } else {
                draft.admit(newcomer);
            }
        }
        if detach {
            // Unless it is said that no copying shall follow: then they are given up with all that they hold.
            let keep = |a: Address| replace && claimed.contains(&a);
            let kept: Vec<Address> =
                claimed.iter().copied().filter(|a| keep(*a) && !self.epoch.whs.is_active(*a)).collect();
            for address in kept {
                let line = "is not detached: it holds keys that nobody serves; `detach-noreplace` gives them up";
                self.log(Level::Warn, format!("server {address} {line}"));
            }
            draft.detach_faults(keep);
        }
        let whs = &draft.epoch().whs;
        if !detach && !self.ranges.rescued(draft.epoch(), |a| whs.is_active(a)) {
            let gone =
                claimed.iter().filter(|a| !whs.is_active(**a)).map(Address::to_string).collect::<Vec<_>>().join(" ");
            let line = "held some keys last, and they are not served without: start them, or give them up with";
            self.log(Level::Warn, format!("{gone} {line} `detach-noreplace`"));
        }
        // A copying under way goes by a write space that this may have changed.
        let copying = matches!(self.epoch.phase, Phase::Copying { .. });
        if replace || copying {
            draft.replace(false);
        }
        self.decide(now, draft);
    }

    /// Deletes all that is stored before now, or before the moment when `delay_secs` have passed.
    ///
    /// # Errors
    /// When the partner decides, or when a kumofs 0.4 server would go on serving what is to be gone.
    pub fn flush_all(&mut self, now: Now, delay_secs: u64) -> Result<(), Refused> {
        self.must_lead()?;
        if self.epoch.number > 0 && !self.epoch.strict() {
            return Err(Refused::OldServer);
        }
        let mut draft = self.draft(now);
        if delay_secs == 0 {
            draft.flush();
        } else {
            draft.flush_at(now.unix_secs.saturating_add(delay_secs));
        }
        self.decide(now, draft);
        Ok(())
    }

    pub(super) fn flush_when_due(&mut self, now: Now) {
        if self.leads() && self.epoch.flush_at.is_some_and(|at| at <= now.unix_secs) {
            let mut draft = self.draft(now);
            draft.flush();
            self.decide(now, draft);
        }
    }

    fn must_lead(&self) -> Result<(), Refused> {
        if self.leads() { Ok(()) } else { Err(Refused::NotLeading) }
    }
}
