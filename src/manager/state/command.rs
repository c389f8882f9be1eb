//! What operators and clients ask for. Each is a change of the epoch, made by the manager
//! that leads. [`super::deciding`] has them wait for votes.

use super::deciding::{Command, Decision, Progress};
use super::{Level, Now, Refused, State};
use crate::logic::address::Address;
use crate::logic::epoch::{Pace, Phase};
use crate::logic::weight::Weight;
use crate::manager::change::{Draft, Newcomer};
use crate::proto::rpc::v0::MAX_NODES;
use std::collections::BTreeSet;

impl Command {
    /// To flush now, or when a delay in seconds has passed.
    pub fn flush(now: Now, delay_secs: u64) -> Command {
        if delay_secs == 0 { Command::Flush } else { Command::FlushAt(now.unix_secs.saturating_add(delay_secs)) }
    }
}

impl State {
    /// attach, attach-noreplace.
    ///
    /// # Errors
    /// When a partner decides.
    pub fn attach(&mut self, now: Now, replace: bool) -> Result<Progress, Refused> {
        self.command(now, Command::Attach { replace }, false)
    }

    /// detach, detach-noreplace.
    ///
    /// # Errors
    /// When a partner decides.
    pub fn detach(&mut self, now: Now, replace: bool) -> Result<Progress, Refused> {
        self.command(now, Command::Detach { replace }, false)
    }

    /// replace, full-replace.
    ///
    /// # Errors
    /// When a partner decides.
    pub fn replace(&mut self, now: Now, full: bool) -> Result<Progress, Refused> {
        self.command(now, Command::Replace { full }, false)
    }

    /// drain: has a server leave when others hold what it holds.
    ///
    /// # Errors
    /// When a partner decides, or it may not be drained.
    pub fn drain(&mut self, now: Now, address: Address) -> Result<Progress, Refused> {
        self.command(now, Command::Drain(address), false)
    }

    /// weight: gives a server another part of the ring.
    ///
    /// # Errors
    /// When a partner decides, or it may not have another.
    pub fn weigh(&mut self, now: Now, address: Address, weight: Weight) -> Result<Progress, Refused> {
        self.command(now, Command::Weigh(address, weight), false)
    }

    /// Deletes all that is stored before now, or before the moment when `delay_secs` have passed.
    ///
    /// # Errors
    /// When a partner decides, or when a kumofs 0.4 server would go on serving what is to be gone.
    pub fn flush_all(&mut self, now: Now, delay_secs: u64) -> Result<Progress, Refused> {
        self.command(now, Command::flush(now, delay_secs), false)
    }

    /// Drafts what a command asks for, and has it decided.
    pub(super) fn carry_out(&mut self, now: Now, command: Command) -> Decision {
        match command {
            Command::Attach { replace } => self.attach_those_present(now, replace),
            Command::Detach { replace } => self.attach_and_detach(now, &[], true, replace),
            Command::Replace { full } => self.change(now, |draft| draft.replace(full)),
            Command::Drain(address) => {
                self.log(Level::Info, format!("server {address} is drained"));
                self.change(now, |draft| draft.drain(address))
            }
            Command::Weigh(address, weight) => {
                self.log(Level::Info, format!("server {address} has weight {weight}"));
                self.change(now, |draft| draft.weigh(address, weight))
            }
            Command::Rate(bytes_per_sec) => {
                self.change(now, |draft| draft.set_pace(Pace { bytes_per_sec, ..draft.epoch().pace }))
            }
            Command::Pause(paused) => self.change(now, |draft| draft.set_pace(Pace { paused, ..draft.epoch().pace })),
            Command::Flush => self.change(now, Draft::flush),
            Command::FlushAt(unix_secs) => self.change(now, |draft| draft.flush_at(unix_secs)),
        }
    }

    /// Whether a server may be drained, or is being.
    ///
    /// # Errors
    /// When it is not active, is a kumofs 0.4 server, or nobody else would be.
    pub(super) fn may_drain(&self, address: Address) -> Result<(), Refused> {
        let entry = self.epoch.server(address).filter(|s| s.drained || self.epoch.whs.is_active(s.address));
        let others = self.epoch.whs.nodes.iter().any(|n| n.active && n.address != address);
        match entry {
            None => Err(Refused::NotActive(address)),
            Some(entry) if entry.incarnation == 0 => Err(Refused::OldServer),
            Some(_) if !others => Err(Refused::OnlyOne(address)),
            Some(_) => Ok(()),
        }
    }

    /// Whether a server may have another weight.
    ///
    /// # Errors
    /// When it is not active, or a server or manager of kumofs 0.4 goes by hash spaces, which tell no weights.
    pub(super) fn may_weigh(&self, address: Address) -> Result<(), Refused> {
        if self.partners.values().any(|partner| matches!(partner, super::Partner::Old)) {
            return Err(Refused::OldManager);
        }
        match self.epoch.whs.is_active(address) {
            true if !self.epoch.strict() => Err(Refused::OldServer),
            true => Ok(()),
            false => Err(Refused::NotActive(address)),
        }
    }

    fn change(&mut self, now: Now, change: impl FnOnce(&mut Draft)) -> Decision {
        let mut draft = self.draft(now);
        change(&mut draft);
        self.decide(now, draft)
    }

    fn attach_those_present(&mut self, now: Now, replace: bool) -> Decision {
        // The operator has seen who is there and who is not.
        self.forced = true;
        self.settle(now);
        let newcomers = self.newcomers();
        let busy = self.attempt.is_some();
        let decision = if busy { Decision::Blocked } else { self.attach_and_detach(now, &newcomers, false, replace) };
        self.forced = false;
        decision
    }

    pub(super) fn attach_and_detach(
        &mut self,
        now: Now,
        newcomers: &[Newcomer],
        detach: bool,
        replace: bool,
    ) -> Decision {
        let mut draft = self.draft(now);
        if !detach {
            draft.keep_the_draining();
        }
        let claims = self.ranges.claims(&self.epoch);
        let claimed: BTreeSet<Address> = claims.good.union(&claims.doubtful).copied().collect();
        for newcomer in newcomers {
            if draft.epoch().whs.nodes.len() >= MAX_NODES {
                self.log(Level::Warn, format!("server {} is not attached: {MAX_NODES} are", newcomer.address));
                continue;
            }
            if newcomer.incarnation == 0 && draft.epoch().is_weighted() {
                let line = "is not attached: it is of kumofs 0.4, which knows no weights, and servers have some";
                self.log(Level::Warn, format!("server {} {line}", newcomer.address));
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
        self.decide(now, draft)
    }

    pub(super) fn flush_when_due(&mut self, now: Now) {
        if self.leads() && self.epoch.flush_at.is_some_and(|at| at <= now.unix_secs) {
            self.carry_out(now, Command::Flush);
        }
    }
}
