//! What operators and clients ask for. Each is a change of the epoch, made by the manager that leads.

use super::{Level, Now, Refused, State};
use crate::logic::epoch::Phase;
use crate::manager::change::Newcomer;
use crate::proto::rpc::v0::MAX_NODES;

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
        let mut full = false;
        let claims = self.ranges.claims(&self.epoch);
        let awaited = self.ranges.awaited(&self.epoch);
        for newcomer in newcomers {
            if draft.epoch().whs.nodes.len() >= MAX_NODES {
                self.log(Level::Warn, format!("server {} is not attached: {MAX_NODES} are", newcomer.address));
                continue;
            }
            let claims_address = claims.good.contains(&newcomer.address) || claims.doubtful.contains(&newcomer.address);
            if claims_address && awaited {
                let line = "is not attached: no server that is there has the newest records of some keys; start the";
                let advice = "missing ones, or give them up with `detach-noreplace` and attach again";
                self.log(Level::Warn, format!("server {} {line} {advice}", newcomer.address));
            } else if self.has_the_disk_of_one(newcomer, &claims.doubtful) {
                let line = "holds the best copy that is left of some keys: it is taken back as it is and repaired";
                self.log(Level::Warn, format!("server {} {line}", newcomer.address));
                draft.admit(newcomer);
                draft.revive(newcomer, true);
                full = true;
            } else {
                draft.admit(newcomer);
            }
        }
        if detach {
            draft.detach_faults();
        }
        // A copying under way goes by a write space that this may have changed.
        let copying = matches!(self.epoch.phase, Phase::Copying { .. });
        if replace || copying {
            draft.replace(full);
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
