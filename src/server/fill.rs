//! Being filled: a server that comes back with an old database takes the group as the truth, whatever the stamps.
//!
//! Source: doc/guarantees.md, "Deletion marks". Its records may have been deleted meanwhile, and the marks collected; they
//! may come from a clock that was ahead, or from another cluster's backup. So each record stamped before the epoch that
//! admitted this life has to be *confirmed*: sent by a full server, as a copy or as a write that was still pending, or
//! found to be the same there ([`super::compare`]). What
//! is sent takes the place of what was here, and what no full server has is dropped before this server says that it
//! has all. Records of that epoch or later came as live writes, and are not in doubt.
//!
//! Invariant: a server that becomes full holds no record from before its life that no full server has.
//!
//! Memory: a hash for each record of before that was sent, some 16 bytes, until the server is full.

use super::dropping::drop_in_slices;
use super::shared::View;
use super::worker::{State, Worker};
use crate::logic::clock::ClockTime;
use crate::logic::digest::{Leaves, Window};
use crate::logic::epoch::Phase;
use crate::logic::record::version_of;
use crate::logic::rule::{Rule, on};
use crate::store::staged::Staged;
use crate::store::{Record, Shard, StoreError};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use tokio::sync::oneshot;

/// What a worker that is being filled knows.
pub struct Fill {
    /// The epoch that admitted this life: records stamped before it are in doubt.
    epoch: u64,
    /// The replace under way, if there is one.
    time: Option<ClockTime>,
    /// The ring positions of records from before that epoch that came as writes which were pending. Those are not sent
    /// again in the next replace.
    written: HashSet<u64>,
    /// The same of those that were copied here in this replace.
    copied: HashSet<u64>,
    /// By life and worker of the servers that compare what they hold with this one: the leaf to be compared next, and how
    /// the ring is cut.
    compared: BTreeMap<(u64, u16), (Leaves, u64)>,
}

impl Fill {
    fn new(epoch: u64) -> Fill {
        let (written, copied) = (HashSet::new(), HashSet::new());
        Fill { epoch, time: None, written, copied, compared: BTreeMap::new() }
    }

    /// Whether what is stored at a ring position, stamped in `epoch`, may be what no other server has.
    pub(super) fn doubts(&self, hash: u64, epoch: u64) -> bool {
        let sent = self.written.contains(&hash) || self.copied.contains(&hash);
        epoch < self.epoch && !sent && on(Rule::OneWayRefill)
    }

    /// A replace of that time is under way. What an earlier one sent was true of its sources, and these may be gone.
    fn enter(&mut self, time: ClockTime) {
        if self.time != Some(time) {
            self.time = Some(time);
            self.copied.clear();
            self.compared.clear();
        }
    }

    /// A window is to be compared: the next one, or the first. False: others are missing before it.
    pub(super) fn begin_window(&mut self, by: (u64, u16), time: ClockTime, window: Window) -> bool {
        if window.first == 0 && self.time == Some(time) {
            self.compared.insert(by, (window.leaves, 0));
        }
        self.time == Some(time) && self.compared.get(&by) == Some(&(window.leaves, window.first))
    }

    /// A window has been compared, with all that follows from it. False: it was not its turn.
    pub(super) fn end_window(&mut self, by: (u64, u16), time: ClockTime, window: Window) -> bool {
        match self.compared.get_mut(&by) {
            Some((leaves, next)) if self.time == Some(time) && (*leaves, *next) == (window.leaves, window.first) => {
                *next += window.len;
                true
            }
            _ => false,
        }
    }

    /// A source of the replace of `time` holds the same at these ring positions.
    pub(super) fn is_the_same(&mut self, time: ClockTime, hashes: impl Iterator<Item = u64>) {
        if self.time == Some(time) {
            self.copied.extend(hashes);
        }
    }

    /// Whether everything was compared with what this life's worker holds.
    fn is_compared(&self, by: (u64, u16)) -> bool {
        self.compared.get(&by).is_some_and(|(leaves, next)| *next == leaves.count())
    }
}

/// How a record came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Over a link, as a write.
    Written,
    /// In a stream, as a copy.
    Copied,
}

impl State {
    /// Begins to be filled with a life that is, and ends when it is full.
    pub(super) fn begin_or_end_fill(&mut self, begins: bool) {
        let filling = self.view.is_filling() && !self.view.is_version0();
        if !filling {
            self.fill = None;
        } else if begins {
            self.fill = Some(Fill::new(self.view.epoch.number));
        }
        if let (Some(fill), Phase::Copying { time, .. }) = (&mut self.fill, self.view.epoch.phase) {
            fill.enter(time);
        }
    }

    /// Whether this server is one of those who fill the others with what is at a ring position.
    pub(super) fn is_source(&self, hash: u64) -> bool {
        self.view.me.is_some_and(|me| self.range(hash).group.sources().contains(&me))
    }

    /// Stores a record of a full server unless a newer one is here that is not in doubt; true when it was stored.
    /// `sourced_here`: this server is one of those who fill the others with it. What is `staged` came in parts.
    pub(super) fn put_sent(
        &mut self,
        shard: &mut dyn Shard,
        (hash, sourced_here): (u64, bool),
        dbkey: &[u8],
        record: Record<'_>,
        sent: Sent,
        staged: Option<Staged>,
    ) -> Result<bool, StoreError> {
        let put = |shard: &mut dyn Shard| match (staged, version_of(record.dbval)) {
            (Some(staged), Some(version)) => shard.put_staged(dbkey, record.epoch, version, staged).map(drop),
            _ => shard.put(dbkey, record),
        };
        let Some(fill) = self.fill.as_mut().filter(|_| !sourced_here) else {
            return Ok(shard.is_newer(dbkey, record.stamp())? && put(shard).map(|()| true)?);
        };
        let doubtful = match shard.peek(dbkey) {
            Ok(Some(old)) => fill.doubts(hash, old.epoch),
            Ok(None) => false,
            Err(_) => true,
        };
        let stored = (doubtful || shard.is_newer(dbkey, record.stamp())?) && put(shard).map(|()| true)?;
        if record.epoch < fill.epoch {
            match sent {
                Sent::Written => fill.written.insert(hash),
                Sent::Copied => fill.copied.insert(hash),
            };
        }
        Ok(stored)
    }

    /// Whether there may be records at a ring position that no full server has, all of them having copied: it was not compared.
    fn may_be_left_over(&self, hash: u64) -> bool {
        let Some(fill) = self.fill.as_ref().filter(|_| !self.is_source(hash)) else { return false };
        !self.filler(hash).is_some_and(|by| fill.is_compared(by))
    }
}

impl View {
    /// Whether this server is being filled: active in the write space alone.
    pub fn is_filling(&self) -> bool {
        let Some(me) = self.me.and_then(|me| self.epoch.servers.get(usize::from(me))) else { return false };
        self.epoch.whs.is_active(me.address) && !self.epoch.rhs.is_active(me.address)
    }
}

/// Starts to drop what no full server has sent, all of them having sent everything. `done` is told at the end.
pub(super) fn start_drop(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    let doubts = |state: &State, hash: u64, record: Record<'_>| {
        state.fill.as_ref().is_some_and(|fill| fill.doubts(hash, record.epoch))
    };
    let what = "old records that the others do not have";
    drop_in_slices(worker, what, done, State::may_be_left_over, doubts);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (u64, u16) = (7, 0);

    #[test]
    fn what_is_older_than_this_life_is_in_doubt_until_it_is_sent() {
        let mut fill = Fill::new(5);
        assert!(fill.doubts(1, 4));
        assert!(!fill.doubts(1, 5));
        fill.copied.insert(1);
        assert!(!fill.doubts(1, 4));
        assert!(fill.doubts(2, 4));
    }

    /// The source of the earlier replace may be gone with what it alone had; a write was sent to all, and counts.
    #[test]
    fn what_was_copied_counts_for_one_replace_and_what_was_written_for_good() {
        let mut fill = Fill::new(5);
        fill.enter(ClockTime(1));
        fill.copied.insert(1);
        fill.written.insert(2);
        fill.enter(ClockTime(1));
        assert!(!fill.doubts(1, 4) && !fill.doubts(2, 4));
        fill.enter(ClockTime(2));
        assert!(fill.doubts(1, 4) && !fill.doubts(2, 4));
    }

    #[test]
    fn what_a_source_holds_alike_counts_as_sent_in_its_replace() {
        let mut fill = Fill::new(5);
        fill.enter(ClockTime(1));
        fill.is_the_same(ClockTime(2), [1].into_iter());
        assert!(fill.doubts(1, 4));
        fill.is_the_same(ClockTime(1), [1].into_iter());
        assert!(!fill.doubts(1, 4));
    }

    #[test]
    fn windows_count_only_in_their_order_and_in_the_replace_under_way() {
        let mut fill = Fill::new(5);
        fill.enter(ClockTime(1));
        let first = Window::at(Leaves::for_records(3000), 0).unwrap();
        let mut windows: Vec<Window> = std::iter::successors(Some(first), |w| w.next()).collect();
        assert!(windows.len() > 2);
        assert!(!fill.begin_window(A, ClockTime(1), windows[1]), "the first is missing");
        assert!(!fill.begin_window(A, ClockTime(2), first), "another replace");
        for window in &windows {
            assert!(!fill.is_compared(A));
            assert!(fill.begin_window(A, ClockTime(1), *window));
            assert!(fill.begin_window(A, ClockTime(1), *window), "asked again");
            assert!(fill.end_window(A, ClockTime(1), *window));
            assert!(!fill.end_window(A, ClockTime(1), *window), "twice");
        }
        assert!(fill.is_compared(A) && !fill.is_compared((7, 1)));
        // It starts over.
        assert!(fill.begin_window(A, ClockTime(1), first));
        assert!(!fill.is_compared(A));
        windows.drain(..1);
        assert!(!fill.begin_window(A, ClockTime(1), windows[0]));
        fill.enter(ClockTime(2));
        assert!(!fill.end_window(A, ClockTime(1), first));
    }
}
