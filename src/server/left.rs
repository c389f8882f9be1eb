//! What earlier lives of this server left unstable: records that may be here and at no other server.
//!
//! Where all that held a key died and came back, each with what it had, they may differ in writes that were under way. A
//! coordinator that told such a record because it found it on its disk could be followed by one that lacks it. So a
//! server that comes back full reports what it left, as a member does at any takeover ([`super::report`]), and what it
//! coordinates itself is sent to all before it is shown. Nothing else is in doubt: what was stable is everywhere.
//!
//! A process that dies leaves word of that on its disk: now and then, how many of its records are known to be stable
//! ([`crate::store::Store::note_stable`]). Source: doc/guarantees.md, "Takeover".

use super::report::add;
use super::request::hash_of;
use super::worker::{State, Worker};
use crate::logic::rule::{Rule, on};
use std::collections::BTreeSet;

/// How often a worker looks whether more has become stable, in microseconds.
const LOOK_MICROS: u64 = 100_000;

/// See the module.
#[derive(Default)]
pub struct Left {
    dbkeys: BTreeSet<Vec<u8>>,
    /// What has to become stable before all records up to a position of the shard are.
    awaited: Option<Awaited>,
    noted: u64,
    looked_micros: u64,
}

struct Awaited {
    position: u64,
    /// Pending writes below this number.
    pending: u64,
    /// Entries of coordinators below these numbers.
    sources: Vec<((u64, u16), u64)>,
}

impl Left {
    /// Adds what an earlier life left.
    pub fn add(&mut self, dbkeys: Vec<Vec<u8>>) {
        self.dbkeys.extend(dbkeys);
    }
}

impl State {
    /// This life is over: what it holds unstable is left to the next.
    pub(super) fn leave_unstable(&mut self) {
        let mut left = self.pending.dbkeys();
        for source in self.sources.values_mut() {
            left.extend(source.unstable.take_if(|_| true).into_iter().map(|(dbkey, _)| dbkey));
        }
        let takeover = &self.takeover;
        left.extend(takeover.orphans.keys().chain(takeover.taken.keys()).cloned());
        self.left.add(left);
    }

    /// At a new epoch: takes what was left for unstable where this server is full, or one of the last that held the range.
    /// Where it is being filled by others, these are the truth; what it left counts again if it is taken back as such.
    pub(super) fn take_up_left(&mut self) {
        self.left.awaited = None;
        let view = self.view.clone();
        let Some(me) = view.me.filter(|_| !view.is_version0()) else { return };
        let (mut taken, mut kept) = (Vec::new(), BTreeSet::new());
        for dbkey in std::mem::take(&mut self.left.dbkeys) {
            let Ok(hash) = hash_of(&dbkey) else { continue };
            let group = view.route.group(hash);
            if group.sources().contains(&me) {
                taken.push(dbkey);
            } else if group.members().contains(&me) {
                kept.insert(dbkey);
            }
        }
        self.left.dbkeys = kept;
        for dbkey in taken.iter().filter(|_| on(Rule::ReportLeft)) {
            add(&mut self.takeover.orphans, dbkey, &[]);
        }
    }

    /// Now and then, tells the store how far its records are stable.
    pub(super) fn note_stable(&mut self, worker: &Worker) {
        if self.now_micros < self.left.looked_micros + LOOK_MICROS {
            return;
        }
        self.left.looked_micros = self.now_micros;
        let takeover = &self.takeover;
        if !(self.left.dbkeys.is_empty() && takeover.orphans.is_empty() && takeover.taken.is_empty()) {
            return;
        }
        let become_stable = |awaited: &Awaited| {
            let told = |(source, number): &((u64, u16), u64)| {
                let first = self.sources.get(source).and_then(|source| source.unstable.first());
                first.is_none_or(|first| first >= *number)
            };
            self.pending.first() >= awaited.pending && awaited.sources.iter().all(told)
        };
        match &self.left.awaited {
            Some(awaited) if !become_stable(awaited) => return,
            Some(awaited) if awaited.position > self.left.noted => {
                worker.shared.store.note_stable(usize::from(worker.number), awaited.position);
                self.left.noted = awaited.position;
            }
            _ => {}
        }
        let position = worker.shard().lock().expect("no holder of a shard panics").position();
        let sources = self.sources.iter().map(|(source, known)| (*source, known.next)).collect();
        self.left.awaited = Some(Awaited { position, pending: self.pending.next(), sources });
    }
}
