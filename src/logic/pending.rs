//! Writes that not every member of their group has yet.
//!
//! Source: doc/guarantees.md, "Writes". A write is *pending* until the coordinator's disk and every other member have
//! it, then
//! *stable*: only then is success answered, and only then may a reader see it. Answers that depend on a pending write
//! are held with it. Writes are numbered in the order of their execution.

use super::memory::Deeds;
use std::collections::{BTreeMap, VecDeque};

/// Places in the table that tells the last write to a key; a power of two. Keys that share a place are told apart by
/// walking back through its earlier writes.
const SLOTS: usize = 1 << 14;

/// Pending writes, and the answers (`R`) that wait for them.
#[derive(Debug)]
pub struct Pending<R> {
    first: u64,
    writes: VecDeque<Write<R>>,
    /// The dbkeys of `writes`, one behind the other.
    keys: VecDeque<u8>,
    slots: Box<[u64]>,
    /// Answers that wait for all writes up to a number.
    behind: BTreeMap<u64, Vec<R>>,
}

#[derive(Debug)]
struct Write<R> {
    hash: u64,
    /// The write before this one that has the same place in the table; it may be stable long since.
    earlier: u64,
    /// How many have yet to say that they have it.
    missing: u8,
    key_len: u16,
    /// What the record owes itself to, for members that are new.
    deeds: Deeds,
    answer: Option<R>,
    held: Vec<R>,
}

impl<R> Default for Pending<R> {
    fn default() -> Pending<R> {
        let slots = vec![0; SLOTS].into_boxed_slice();
        Pending { first: 1, writes: VecDeque::new(), keys: VecDeque::new(), slots, behind: BTreeMap::new() }
    }
}

fn slot(hash: u64) -> usize {
    hash as usize & (SLOTS - 1)
}

impl<R> Pending<R> {
    /// Takes in a write that `missing` places (other members, and the own disk) do not have yet. Returns its number.
    pub fn push(&mut self, hash: u64, dbkey: &[u8], missing: u8, deeds: Deeds, answer: Option<R>) -> u64 {
        let number = self.next();
        let key_len = u16::try_from(dbkey.len()).expect("a dbkey has at most 4104 bytes");
        self.keys.extend(dbkey);
        let earlier = std::mem::replace(&mut self.slots[slot(hash)], number);
        self.writes.push_back(Write { hash, earlier, missing, key_len, deeds, answer, held: Vec::new() });
        number
    }

    /// The number that the next write will have.
    pub fn next(&self) -> u64 {
        self.first + self.writes.len() as u64
    }

    /// All writes below this number are stable.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many are pending.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The last write to the key if it is pending: what an answer about the key must wait for. Another key's never
    /// counts: it may become stable earlier, or a record be taken for pending that is not.
    #[inline]
    pub fn blocking(&self, hash: u64) -> Option<u64> {
        if self.writes.is_empty() {
            // Without waiting for the table, which is in no cache where clients only read.
            return None;
        }
        let mut number = self.slots[slot(hash)];
        loop {
            let write = self.writes.get(self.place(number)?)?;
            if write.hash == hash {
                return (write.missing > 0).then_some(number);
            }
            number = write.earlier;
        }
    }

    /// Whether a write is not stable yet.
    pub fn is_pending(&self, write: u64) -> bool {
        self.place(write).and_then(|place| self.writes.get(place)).is_some_and(|write| write.missing > 0)
    }

    /// Whether a write is pending to a ring position that `is` accepts.
    pub fn any(&self, is: impl Fn(u64) -> bool) -> bool {
        self.writes.iter().any(|write| write.missing > 0 && is(write.hash))
    }

    /// Keeps an answer until `write` is stable. Gives it back if it is already.
    pub fn hold(&mut self, write: u64, answer: R) -> Option<R> {
        match self.get(write) {
            Some(pending) if pending.missing > 0 => {
                pending.held.push(answer);
                None
            }
            _ => Some(answer),
        }
    }

    /// Keeps an answer until all writes up to `write` are stable. Gives it back if they are already.
    pub fn hold_behind(&mut self, write: u64, answer: R) -> Option<R> {
        if write < self.first {
            return Some(answer);
        }
        self.behind.entry(write).or_default().push(answer);
        None
    }

    /// Takes the answers that wait for all writes up to some number: at an epoch change some of those writes may be given
    /// up, and what the answers tell with them.
    pub fn take_behind(&mut self) -> impl Iterator<Item = R> + use<R> {
        std::mem::take(&mut self.behind).into_values().flatten()
    }

    /// One more place has the write. When it was the last, the write is stable, and `release` gets its answer and
    /// those held with it.
    #[inline]
    pub fn arrived(&mut self, write: u64, mut release: impl FnMut(R)) {
        let Some(pending) = self.get(write) else { return };
        pending.missing = pending.missing.saturating_sub(1);
        if pending.missing > 0 {
            return;
        }
        if let Some(answer) = pending.answer.take() {
            release(answer);
        }
        for answer in std::mem::take(&mut pending.held) {
            release(answer);
        }
        self.let_go(release);
    }

    /// Lets go of the stable writes that no pending one precedes.
    fn let_go(&mut self, mut release: impl FnMut(R)) {
        while self.writes.front().is_some_and(|w| w.missing == 0) {
            let Some(done) = self.writes.pop_front() else { break };
            self.keys.drain(..usize::from(done.key_len));
            self.first += 1;
        }
        while let Some(entry) = self.behind.first_entry().filter(|entry| *entry.key() < self.first) {
            entry.remove().into_iter().for_each(&mut release);
        }
    }

    /// The dbkeys of the writes that are pending.
    pub fn dbkeys(&mut self) -> Vec<Vec<u8>> {
        let keys = self.keys.make_contiguous();
        let mut start = 0;
        let mut pending = Vec::new();
        for write in &self.writes {
            let end = start + usize::from(write.key_len);
            if write.missing > 0 {
                pending.push(keys[start..end].to_vec());
            }
            start = end;
        }
        pending
    }

    #[inline]
    fn place(&self, write: u64) -> Option<usize> {
        usize::try_from(write.checked_sub(self.first)?).ok()
    }

    fn get(&mut self, write: u64) -> Option<&mut Write<R>> {
        let place = self.place(write)?;
        self.writes.get_mut(place)
    }

    /// Goes through the pending writes, oldest first, with their numbers, dbkeys and deeds; what `recount` returns is how
    /// many places miss it now. Writes that then miss none become stable with the next [`arrived`](Pending::arrived) or
    /// [`settle`](Pending::settle).
    pub fn recount(&mut self, mut recount: impl FnMut(u64, &[u8], &Deeds, &mut Option<R>, &mut Vec<R>) -> u8) {
        let keys = self.keys.make_contiguous();
        let mut start = 0;
        for (number, write) in (self.first..).zip(self.writes.iter_mut()) {
            let end = start + usize::from(write.key_len);
            if write.missing > 0 {
                write.missing = recount(number, &keys[start..end], &write.deeds, &mut write.answer, &mut write.held);
            }
            start = end;
        }
    }

    /// Releases what waits for writes that miss nothing (any more).
    pub fn settle(&mut self, mut release: impl FnMut(R)) {
        for write in self.writes.iter_mut().filter(|w| w.missing == 0) {
            write.answer.take().into_iter().chain(write.held.drain(..)).for_each(&mut release);
        }
        self.let_go(release);
    }

    /// Gives up all pending writes, as a server does that was removed. `unknown` gets their own answers: they may yet
    /// take effect. `refused` gets those that were held with them.
    pub fn clear(&mut self, mut unknown: impl FnMut(R), mut refused: impl FnMut(R)) {
        self.first = self.next();
        self.keys.clear();
        for write in self.writes.drain(..) {
            write.answer.into_iter().for_each(&mut unknown);
            write.held.into_iter().for_each(&mut refused);
        }
        self.take_behind().for_each(refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_answered_when_the_last_place_has_it() {
        let mut pending = Pending::default();
        let write = pending.push(5, b"12345678k", 2, Deeds::None, Some("stored"));
        let mut released = Vec::new();
        pending.arrived(write, |r| released.push(r));
        assert_eq!((pending.blocking(5), released.len()), (Some(write), 0));
        pending.arrived(write, |r| released.push(r));
        assert_eq!(released, ["stored"]);
        assert_eq!((pending.blocking(5), pending.len()), (None, 0));
    }

    #[test]
    fn a_reader_waits_for_the_write_that_it_saw_and_no_longer() {
        let mut pending = Pending::default();
        let first = pending.push(5, b"12345678k", 1, Deeds::None, Some("first"));
        assert_eq!(pending.hold(first, "saw the first"), None);
        let second = pending.push(5, b"12345678k", 1, Deeds::None, Some("second"));
        let mut released = Vec::new();
        pending.arrived(first, |r| released.push(r));
        assert_eq!(released, ["first", "saw the first"]);
        assert_eq!(pending.blocking(5), Some(second));
        assert_eq!(pending.hold(first, "late"), Some("late"));
    }

    #[test]
    fn writes_to_other_keys_become_stable_in_any_order() {
        let mut pending = Pending::default();
        let a = pending.push(1, b"12345678a", 1, Deeds::None, Some('a'));
        let b = pending.push(2, b"12345678b", 1, Deeds::None, Some('b'));
        let mut released = Vec::new();
        pending.arrived(b, |r| released.push(r));
        assert_eq!((pending.first(), pending.blocking(2)), (a, None));
        pending.arrived(a, |r| released.push(r));
        assert_eq!((released, pending.first()), (vec!['b', 'a'], b + 1));
    }

    #[test]
    fn keys_that_share_a_place_do_not_block_or_release_each_other() {
        let (one, other) = (5, 5 + SLOTS as u64);
        assert_eq!(slot(one), slot(other));
        let mut pending = Pending::default();
        let first = pending.push(one, b"12345678a", 1, Deeds::None, Some("one"));
        let second = pending.push(other, b"12345678b", 1, Deeds::None, Some("other"));
        assert_eq!(pending.blocking(5 + 2 * SLOTS as u64), None);
        assert_eq!((pending.blocking(one), pending.blocking(other)), (Some(first), Some(second)));
        // The second is stable first: who looks at the first key waits on.
        pending.arrived(second, drop);
        assert_eq!((pending.blocking(one), pending.blocking(other)), (Some(first), None));
        pending.arrived(first, drop);
        assert_eq!((pending.blocking(one), pending.len()), (None, 0));
    }

    #[test]
    fn answers_about_many_keys_are_taken_before_writes_are_given_up() {
        let mut pending = Pending::default();
        let write = pending.push(1, b"12345678a", 1, Deeds::None, Some("set"));
        assert_eq!(pending.hold_behind(write, "gets"), None);
        assert_eq!(pending.take_behind().collect::<Vec<_>>(), ["gets"]);
        let mut released = Vec::new();
        pending.arrived(write, |r| released.push(r));
        assert_eq!(released, ["set"]);
    }

    #[test]
    fn an_epoch_counts_anew_who_misses_what() {
        let mut pending = Pending::default();
        pending.push(1, b"12345678a", 2, Deeds::None, Some('a'));
        pending.push(2, b"12345678bb", 1, Deeds::None, Some('b'));
        assert_eq!(pending.dbkeys(), [b"12345678a".to_vec(), b"12345678bb".to_vec()]);
        let mut keys = Vec::new();
        pending.recount(|number, dbkey, _, _, _| {
            keys.push((number, dbkey.to_vec()));
            u8::from(number == 2)
        });
        assert_eq!(keys, [(1, b"12345678a".to_vec()), (2, b"12345678bb".to_vec())]);
        let mut released = Vec::new();
        pending.settle(|r| released.push(r));
        assert_eq!((released, pending.len()), (vec!['a'], 1));
        assert_eq!(pending.dbkeys(), [b"12345678bb".to_vec()]);
    }
}
