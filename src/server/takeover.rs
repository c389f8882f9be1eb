//! A new epoch: who coordinates what now, and what must be heard before a new coordinator acts.
//!
//! Source: doc/guarantees.md, "Leases come from the group" and "Takeover". A coordinator that stays goes on, and counts anew
//! who misses its pending writes. A new one waits until the leases that this server granted to others have run
//! out or were given back, and until every other member has reported what it holds unstable; then those records become
//! pending writes with their old stamps, and the range opens.
//!
//! Invariant: nothing is executed in a range that is not open.

use super::report::{Unstable, add};
use super::request::hash_of;
use super::shared::View;
use super::worker::{Answer, Range, State, Worker};
use crate::logic::address::Address;
use crate::logic::arcs::Arcs;
use crate::logic::epoch::ServerEntry;
use crate::logic::lease::GRANT_MICROS;
use crate::logic::memory::{Deeds, Memory};
use crate::logic::route::Group;
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::v1::write_entry;
use crate::store::{Record, Shard};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a change of epochs has left to do.
#[derive(Default)]
pub struct Takeover {
    /// Lives, and of each the worker, that are known to have adopted this epoch: the workers of a server do not do so
    /// together.
    adopted: BTreeSet<(u64, u16)>,
    /// Records that are unstable here and whose coordinator is now another than the one that wrote them.
    pub(super) orphans: Unstable,
    /// Links (places) that have yet to get this server's report.
    pub(super) unreported: BTreeSet<usize>,
    /// Members that have reported to this worker: lives and their workers.
    pub(super) reported: BTreeSet<(u64, u16)>,
    /// Records that were unstable somewhere, to be made pending when their range opens.
    pub(super) taken: Unstable,
    /// Reports to be answered when everything taken is stable.
    pub(super) answers: Vec<Answer>,
    /// Some range that is this server's to coordinate is not open.
    closed: bool,
}

impl Takeover {
    /// Whether something is left to wait for.
    pub fn is_waiting(&self) -> bool {
        self.closed || !self.unreported.is_empty() || !self.answers.is_empty()
    }

    /// The ring positions of records that are unstable here and wait to be reported, or to be made pending.
    pub(super) fn orphan_hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.orphans.keys().chain(self.taken.keys()).filter_map(|dbkey| hash_of(dbkey).ok())
    }

    /// The ring positions of records that were unstable somewhere, and wait to be made pending.
    pub(super) fn taken_hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.taken.keys().filter_map(|dbkey| hash_of(dbkey).ok())
    }

    /// Notes that a life's worker acts in this epoch; true when that is news.
    pub fn adopted_by(&mut self, holder: (u64, u16)) -> bool {
        self.adopted.insert(holder)
    }
}

/// Whether worker `i` of `n` and worker `j` of `m` have keys in common ([`crate::logic::record::worker_of`]).
pub(super) fn overlap(i: u16, n: u16, j: u16, m: u16) -> bool {
    let (i, n, j, m) = (u32::from(i), u32::from(n), u32::from(j), u32::from(m));
    i * m < (j + 1) * n && j * n < (i + 1) * m
}

pub(super) fn is_active(view: &View, server: &ServerEntry) -> bool {
    let address = server.address;
    server.removed.is_none() && (view.epoch.whs.is_active(address) || view.epoch.rhs.is_active(address))
}

pub(super) fn life(view: &View, server: u16) -> Option<(Address, u64)> {
    view.epoch.servers.get(usize::from(server)).map(|s| (s.address, s.incarnation))
}

impl Worker {
    /// Acts in the epoch of `view` from now on, if it is newer.
    pub fn adopt(self: &Rc<Self>, view: Arc<View>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.set_time();
        let old = std::mem::replace(&mut state.view, view.clone());
        if old.epoch.number > view.epoch.number {
            state.view = old;
            return;
        }
        state.yielding = None;
        let begins = view.me.is_some() && (old.me.is_none() || !same_life(&old, &view));
        state.begin_or_end_fill(begins);
        let refuse = |answer: Answer| answer.refuse(view.epoch.number);
        if view.me.is_none() || (old.me.is_some() && !same_life(&old, &view)) {
            // Another life: what the earlier one promised is not this one's to keep. What it stored is.
            state.leave_unstable();
            state.pending.clear(Answer::unknown, refuse);
            state.sources.clear();
            state.links.leave();
            state.takeover = Takeover::default();
            state.quiet_until = state.quiet_until.max(state.now_micros + GRANT_MICROS);
        }
        if begins || view.me.is_none() {
            state.memory = Memory::new(self.shared.config.memory, view.epoch.number);
        }
        state.memory.adopt(view.epoch.number);
        state.takeover.answers.drain(..).for_each(refuse);
        let old_arcs = std::mem::take(&mut state.arcs);
        let old_ranges = std::mem::take(&mut state.ranges);
        let old_group = |hash: u64| old_ranges[old_arcs.value(hash) as usize];
        state.lay_out_ranges(&old, &old_arcs, old_group);
        let new_links = state.arrange_links(self.number, self.shared.config.workers);
        {
            let mut shard = self.shard().lock().expect("no holder of a shard panics");
            state.recount_pending(&old, &mut *shard, |hash| old_group(hash).group);
        }
        state.take_up_left();
        state.adopt_unstable();
        {
            // What this server left itself may come to count where it coordinates already.
            let mut shard = self.shard().lock().expect("no holder of a shard panics");
            state.take_over(&mut *shard);
        }
        let takeover = &mut state.takeover;
        takeover.adopted.clear();
        takeover.reported.clear();
        takeover.unreported = state.links.iter().filter(|(_, l)| !l.is_version0()).map(|(place, _)| place).collect();
        takeover.closed = state.ranges.iter().any(|range| range.writable && !range.open);
        if view.me.is_none() || view.is_version0() {
            takeover.unreported.clear();
        }
        state.links.give_back_leases();
        state.unpark = true;
        for place in new_links {
            self.start_link(place);
        }
        self.turn.wake();
        self.advance_later();
    }

    /// Ends this life in the epoch that it is in, as if a newer one had removed it.
    pub(super) fn leave(self: &Rc<Self>, done: oneshot::Sender<()>) {
        let view = self.state.borrow().view.clone();
        let mut over = View::new(view.epoch.clone(), self.shared.config.address, self.shared.incarnation());
        over.me = None;
        self.adopt(Arc::new(over));
        self.state.borrow_mut().has_left = true;
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            // The turn that writes comes behind all that is woken now.
            worker.turn.wake();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            // The server may end without waiting.
            let _ = done.send(());
        });
    }

    pub(super) fn advance_later(self: &Rc<Self>) {
        let worker = self.clone();
        tokio::task::spawn_local(async move { worker.advance_takeover() });
    }

    /// Reports and opens what can be by now.
    pub(super) fn advance_takeover(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.takeover.is_waiting() || state.view.me.is_none() {
            return;
        }
        state.set_time();
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        for place in state.takeover.unreported.clone() {
            state.report(place, &mut *shard);
        }
        if state.takeover.closed && state.is_silent(None) {
            state.open_ranges(&mut *shard);
            self.turn.wake();
        }
        if !state.takeover.closed && !state.takeover.answers.is_empty() {
            let last = state.pending.next() - 1;
            for answer in std::mem::take(&mut state.takeover.answers) {
                if let Some(answer) = state.pending.hold_behind(last, answer) {
                    answer.send();
                }
            }
        }
    }
}

fn same_life(old: &View, new: &View) -> bool {
    old.me.and_then(|me| life(old, me)) == new.me.and_then(|me| life(new, me))
}

impl State {
    fn lay_out_ranges(&mut self, old: &View, old_arcs: &Arcs, old_range: impl Fn(u64) -> Range) {
        let view = self.view.clone();
        let (route, me) = (&view.route, view.me);
        let was_all_open = !self.takeover.closed;
        let old_ends = if was_all_open { old.route.ends() } else { old_arcs.ends() };
        let ends = route.ends().iter().chain(old_ends).copied().collect();
        let mut numbers: BTreeMap<(usize, bool), u32> = BTreeMap::new();
        let mut ranges: Vec<Range> = Vec::new();
        let mut gains = false;
        self.arcs = Arcs::new(ends, |end| {
            let number = route.group_number(end);
            let group = route.groups()[number];
            let (writable, readable) = roles(&group, me, view.is_version0());
            let before = old_range(end);
            gains |= is_gained(&group, me, before.group.members(), old.me, view.epoch.number == old.epoch.number + 1);
            let open = view.is_version0() || (before.open && before.writable && writable);
            *numbers.entry((number, open)).or_insert_with(|| {
                ranges.push(Range { group, writable, readable, open });
                ranges.len() as u32 - 1
            })
        });
        if ranges.is_empty() {
            ranges.push(Range { group: Group::default(), writable: false, readable: false, open: false });
        }
        self.ranges = ranges;
        if gains {
            // The records of a range that is new here come without the operations that made them.
            self.memory.raise_since(view.epoch.number);
        }
    }

    fn arrange_links(&mut self, own_worker: u16, own_workers: u16) -> Vec<usize> {
        let view = self.view.clone();
        let workers: Vec<u16> = view.epoch.servers.iter().map(|s| s.workers).collect();
        let mut wanted = Vec::new();
        if let Some(me) = view.me {
            for (place, server) in view.epoch.servers.iter().enumerate() {
                let Ok(place) = u16::try_from(place) else { break };
                // To its own other workers a server passes requests that came to the wrong one.
                let concerns = |worker: u16| match place == me {
                    true => worker != own_worker,
                    false => overlap(own_worker, own_workers, worker, server.workers),
                };
                if is_active(&view, server) {
                    let links = (0..server.workers).filter(|w| concerns(*w));
                    wanted.extend(links.map(|w| (server.address, server.incarnation, w, place)));
                }
            }
        }
        let own_life = view.me.and_then(|me| life(&view, me)).map_or(0, |(_, life)| life);
        self.links.arrange(own_life, &wanted, &workers, self.now_micros)
    }

    /// Counts anew who misses each pending write, and sends it to members that are new.
    fn recount_pending(&mut self, old: &View, shard: &mut dyn Shard, old_group: impl Fn(u64) -> Group) {
        let mut on_the_way: BTreeSet<(usize, u64)> = BTreeSet::new();
        for (place, link) in self.links.iter() {
            on_the_way.extend(link.unacknowledged().map(|write| (place, write)));
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut to_send: Vec<(usize, u64, Vec<u8>, Deeds)> = Vec::new();
        let mut given_up: Vec<(Vec<u8>, Deeds)> = Vec::new();
        let epoch = self.view.epoch.number;
        // What they tell may hang on a write that is given up now: they are asked again.
        pending.take_behind().for_each(|answer| answer.refuse(epoch));
        pending.recount(|write, dbkey, deeds, answer, held| {
            let Ok(hash) = hash_of(dbkey) else { return 0 };
            let range = *self.range(hash);
            if !range.writable {
                answer.take().into_iter().for_each(Answer::unknown);
                held.drain(..).for_each(|a| a.refuse(epoch));
                given_up.push((dbkey.to_vec(), deeds.clone()));
                return 0;
            }
            let had_it: Vec<_> = old_group(hash).members().iter().filter_map(|s| life(old, *s)).collect();
            let mut missing = u8::from(self.misses_disk(write));
            for place in self.links_for(&range.group, hash) {
                let Some(link) = self.links.get(place) else { continue };
                if on_the_way.contains(&(place, write)) {
                    missing += 1;
                } else if !had_it.contains(&(link.address, link.incarnation)) {
                    to_send.push((place, write, dbkey.to_vec(), deeds.clone()));
                    missing += 1;
                }
            }
            missing
        });
        self.pending = pending;
        for (place, write, dbkey, deeds) in to_send {
            let Ok(hash) = hash_of(&dbkey) else { continue };
            if let Ok(Some((stamp, large))) = shard.large(&dbkey) {
                let record = (dbkey.as_slice(), stamp.epoch, stamp.version);
                self.links.push_large(place, write, hash, record, deeds.as_slice(), large);
                continue;
            }
            match shard.get(&dbkey) {
                Ok(Some(Record { epoch, dbval })) => {
                    self.links.push(place, write, hash, |out| write_entry(out, &dbkey, epoch, dbval, deeds.as_slice()));
                }
                Ok(None) | Err(_) => tracing::error!("a pending record cannot be read again"),
            }
        }
        self.pending.settle(Answer::send);
        for (dbkey, deeds) in given_up {
            add(&mut self.takeover.orphans, &dbkey, deeds.as_slice());
        }
    }

    /// Whether all leases that this worker granted, but to lives that act in this epoch and to `except`, have run out.
    pub(super) fn is_silent(&self, except: Option<u64>) -> bool {
        let silent = |(holder, until): (&(u64, u16), &u64)| {
            *until <= self.now_micros || Some(holder.0) == except || self.takeover.adopted.contains(holder)
        };
        (self.now_micros >= self.quiet_until || !on(Rule::QuietStart))
            && (self.given.iter().all(silent) || !on(Rule::WaitForGrants))
    }

    /// Opens the ranges whose other members have all reported.
    fn open_ranges(&mut self, shard: &mut dyn Shard) {
        let ready: Vec<usize> = (0..self.ranges.len())
            .filter(|i| self.ranges[*i].writable && !self.ranges[*i].open && self.all_reported(&self.ranges[*i].group))
            .collect();
        if ready.is_empty() {
            return;
        }
        for i in ready {
            self.ranges[i].open = true;
        }
        self.take_over(shard);
        self.takeover.closed = self.ranges.iter().any(|range| range.writable && !range.open);
        self.unpark = true;
    }

    /// Makes pending what was unstable somewhere, in ranges that are open.
    fn take_over(&mut self, shard: &mut dyn Shard) {
        for (dbkey, deeds) in std::mem::take(&mut self.takeover.taken) {
            match hash_of(&dbkey).map(|hash| self.range(hash).open) {
                Ok(true) => self.make_pending(shard, &dbkey, deeds.into_values().collect()),
                Ok(false) => {
                    self.takeover.taken.insert(dbkey, deeds);
                }
                Err(_) => {}
            }
        }
    }

    fn all_reported(&self, group: &Group) -> bool {
        let others = group.members().iter().filter(|server| Some(**server) != self.view.me);
        !on(Rule::AwaitReports)
            || others.into_iter().all(|server| {
                let mut links = self.links.iter().filter(|(_, link)| link.server == *server).peekable();
                links.peek().is_some()
                    && links
                        .all(|(_, l)| l.is_version0() || self.takeover.reported.contains(&(l.incarnation, l.worker)))
            })
    }
}

/// Whether a range is new to server `me`, who was `old_me` in the epoch adopted before, with these members: it had no part
/// in it then, or is being filled and may have had none in epochs between.
fn is_gained(group: &Group, me: Option<u16>, old_members: &[u16], old_me: Option<u16>, is_next: bool) -> bool {
    let Some(me) = me.filter(|me| group.members().contains(me)) else { return false };
    old_me.is_none_or(|old_me| !old_members.contains(&old_me)) || (group.filling().contains(&me) && !is_next)
}

/// Whether server `me` executes changes and answers reads of a group.
fn roles(group: &Group, me: Option<u16>, version0: bool) -> (bool, bool) {
    let Some(me) = me else { return (false, false) };
    if version0 {
        return (group.version0_coordinator() == Some(me), group.full().contains(&me));
    }
    let coordinates = group.coordinator() == Some(me);
    (coordinates, coordinates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::record::worker_of;

    /// The workers of a server adopt an epoch one after the other. What the first of them gave back was taken for all that
    /// the server held, while another still answered reads by it.
    #[test]
    fn what_one_worker_of_a_holder_gives_back_the_others_may_still_rely_on() {
        let address = Address::new(([127, 0, 0, 1], 1).into());
        let view = View::new(crate::logic::epoch::Epoch::default(), address, 1);
        let mut state = State::new(Arc::new(view), crate::server::Config::default(), 0);
        state.now_micros = 2 * GRANT_MICROS;
        assert!(state.is_silent(None));
        let until = 3 * GRANT_MICROS;
        state.given = [((7, 0), until), ((7, 1), until)].into();
        assert!(state.takeover.adopted_by((7, 0)));
        assert!(!state.is_silent(None));
        assert!(state.is_silent(Some(7)), "to its holder it may be spoken");
        assert!(state.takeover.adopted_by((7, 1)));
        assert!(state.is_silent(None));
    }

    /// A report came behind the first lease of its epoch, which was forgotten; at the next epoch nobody waited for that lease.
    #[test]
    fn a_report_gives_back_what_was_granted_before_its_epoch_and_no_more() {
        let address = Address::new(([127, 0, 0, 1], 1).into());
        let view = View::new(crate::logic::epoch::Epoch::default(), address, 1);
        let mut state = State::new(Arc::new(view), crate::server::Config::default(), 0);
        state.given = [((7, 0), GRANT_MICROS)].into();
        state.spoke((7, 0));
        assert!(state.given.is_empty());
        state.given = [((7, 0), GRANT_MICROS)].into();
        state.spoke((7, 0));
        assert_eq!(state.given.len(), 1);
    }

    #[test]
    fn workers_overlap_exactly_when_they_share_keys() {
        for (n, m) in [(1, 1), (1, 4), (2, 3), (4, 4), (8, 3)] {
            let mut shared = BTreeSet::new();
            for hash in (0..1u64 << 32).step_by(1 << 16) {
                shared.insert((worker_of(hash, n), worker_of(hash, m)));
            }
            for i in 0..n {
                for j in 0..m {
                    assert_eq!(overlap(i, n, j, m), shared.contains(&(i, j)), "{i} of {n}, {j} of {m}");
                }
            }
        }
    }
}
