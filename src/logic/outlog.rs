//! What a coordinator still has to get to one member: entries in order, numbered without gaps.
//!
//! Source: doc/guarantees.md, "Writes": each message holds everything not yet acknowledged, in order, and without gaps.
//! Entries are kept encoded, one behind the other, until the member has acknowledged them; after a reconnect they
//! are sent again from the first one that it has not.
//!
//! A large value is sent before its entry, which takes its place in that order only when the member has the value: so entries of
//! other keys do not wait for it. Those of the same key do. What a change owes itself to travels with its entry, and a record that was
//! made of another must not be known without what made that one (doc/guarantees.md, "Exactly once").

use std::collections::VecDeque;

/// Encoded entries of one link.
#[derive(Debug)]
pub struct Outlog<L> {
    /// The entries not acknowledged, behind `head` bytes that are.
    bytes: Vec<u8>,
    head: usize,
    entries: VecDeque<Entry>,
    /// Number of the last acknowledged entry; the first one ever is 1.
    acknowledged: u64,
    /// Number of the last stable entry, and the writes of the acknowledged ones behind it.
    stable: u64,
    unstable: VecDeque<u64>,
    /// How many of `entries`, and bytes of them, are on their way.
    sent: usize,
    sent_bytes: usize,
    /// Large values that entries go without, oldest first: they have to be sent before.
    large: VecDeque<InPlace<L>>,
    /// Entries that have no number yet: those of large values that the member does not have, and of their keys.
    waiting: VecDeque<Waiting<L>>,
    waiting_bytes: usize,
}

/// What is to be sent before an entry.
#[derive(Clone, Debug)]
pub struct LargeEntry<L> {
    /// Tells it from others.
    pub id: u64,
    /// Its key.
    pub dbkey: Vec<u8>,
    /// Its value.
    pub value: L,
}

/// One whose entry has its number.
#[derive(Debug)]
struct InPlace<L> {
    number: u64,
    /// The member has it, over this connection.
    arrived: bool,
    entry: LargeEntry<L>,
}

/// An entry without a number.
#[derive(Debug)]
struct Waiting<L> {
    hash: u64,
    write: u64,
    bytes: Vec<u8>,
    large: Option<LargeEntry<L>>,
}

#[derive(Debug)]
struct Entry {
    len: u32,
    write: u64,
}

/// A run of entries to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    /// The number of the first.
    pub first: u64,
    /// How many.
    pub count: usize,
    /// All of them, encoded.
    pub bytes: &'a [u8],
}

impl<L> Default for Outlog<L> {
    /// One without entries.
    fn default() -> Outlog<L> {
        Outlog {
            bytes: Vec::new(),
            head: 0,
            entries: VecDeque::new(),
            acknowledged: 0,
            stable: 0,
            unstable: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            large: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }
}

impl<L> Outlog<L> {
    /// Adds an entry whose value is not in it, but has to be sent before.
    pub fn push_large(&mut self, write: u64, hash: u64, large: LargeEntry<L>, encode: impl FnOnce(&mut Vec<u8>)) {
        self.wait(write, hash, Some(large), encode);
    }

    /// What has to be sent before the next entry. To be asked when [`take_batch`](Outlog::take_batch) has nothing.
    pub fn next_large(&self) -> Option<&LargeEntry<L>> {
        let next = self.next_to_send();
        let in_place = self.large.iter().find(|large| !large.arrived && large.number >= next);
        match in_place {
            Some(large) => Some(&large.entry).filter(|_| large.number == next),
            None => self.waiting.front()?.large.as_ref(),
        }
    }

    /// The member has what [`next_large`](Outlog::next_large) told: its entry can be sent.
    pub fn large_arrived(&mut self) {
        let next = self.next_to_send();
        if let Some(large) = self.large.iter_mut().find(|large| !large.arrived && large.number >= next) {
            large.arrived |= large.number == next;
            return;
        }
        let mut goes = self.waiting.pop_front();
        while let Some(waiting) = goes {
            self.put_in_place(waiting);
            goes = self.waiting.pop_front_if(|waiting| waiting.large.is_none());
        }
    }

    /// Gives an entry its number.
    fn put_in_place(&mut self, Waiting { write, bytes, large, .. }: Waiting<L>) {
        self.waiting_bytes -= bytes.len();
        self.append(write, |out| out.extend_from_slice(&bytes));
        if let Some(entry) = large {
            let number = self.acknowledged + self.entries.len() as u64;
            self.large.push_back(InPlace { number, arrived: true, entry });
        }
    }

    /// Adds an entry that `encode` appends, for the write numbered `write` to a key at ring position `hash`.
    #[inline]
    pub fn push(&mut self, write: u64, hash: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        if !self.waiting.is_empty() && self.waiting.iter().any(|waiting| waiting.hash == hash) {
            return self.wait(write, hash, None, encode);
        }
        self.append(write, encode);
    }

    #[inline]
    fn append(&mut self, write: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        encode(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - before).expect("an entry is bounded by the largest message");
        self.entries.push_back(Entry { len, write });
    }

    #[cold]
    fn wait(&mut self, write: u64, hash: u64, large: Option<LargeEntry<L>>, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Waiting { hash, write, bytes, large });
    }

    /// Takes what was not sent yet, whole entries up to about `limit` bytes but at least one; `None`: nothing can be sent now.
    pub fn take_batch(&mut self, limit: usize) -> Option<Batch<'_>> {
        let first = self.next_to_send();
        let start = self.sent_bytes;
        let mut count = 0;
        let not_there = self.large.iter().find(|large| !large.arrived && large.number >= first);
        let most = not_there.map_or(usize::MAX, |large| (large.number - first) as usize);
        for entry in self.entries.iter().skip(self.sent) {
            if count == most {
                break;
            }
            if count > 0 && self.sent_bytes - start + entry.len as usize > limit {
                break;
            }
            self.sent_bytes += entry.len as usize;
            count += 1;
        }
        self.sent += count;
        let bytes = &self.bytes[self.head + start..self.head + self.sent_bytes];
        (count > 0).then_some(Batch { first, count, bytes })
    }

    /// The number of the first entry that was not sent yet, or will be the next.
    pub fn next_to_send(&self) -> u64 {
        self.acknowledged + 1 + self.sent as u64
    }

    /// The member has all entries up to number `upto`; `done` hears the write of each that is new. Numbers never sent
    /// are not believed.
    pub fn acknowledge(&mut self, upto: u64, mut done: impl FnMut(u64)) {
        while self.acknowledged < upto && self.sent > 0 {
            let Some(entry) = self.entries.pop_front() else { break };
            self.acknowledged += 1;
            self.sent -= 1;
            self.sent_bytes -= entry.len as usize;
            self.head += entry.len as usize;
            self.unstable.push_back(entry.write);
            done(entry.write);
        }
        while self.large.pop_front_if(|large| large.number <= self.acknowledged).is_some() {}
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Sends everything not acknowledged again: the connection is a new one.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
        self.large.iter_mut().for_each(|large| large.arrived = false);
    }

    /// The writes not acknowledged.
    pub fn unacknowledged(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().map(|e| e.write).chain(self.waiting.iter().map(|waiting| waiting.write))
    }

    /// The number of the newest entry that is stable, with all before it, when all writes below `first_pending` are.
    pub fn stable(&mut self, first_pending: u64) -> u64 {
        while self.unstable.front().is_some_and(|write| *write < first_pending) {
            self.unstable.pop_front();
            self.stable += 1;
        }
        self.stable
    }

    /// Bytes kept.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() - self.head + self.waiting_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[&[u8]]) -> Outlog<&'static str> {
        let mut log = Outlog::default();
        for (i, entry) in entries.iter().enumerate() {
            log.push(100 + i as u64, i as u64, |out| out.extend_from_slice(entry));
        }
        log
    }

    #[test]
    fn entries_leave_in_order_and_are_let_go_when_acknowledged() {
        let mut log = log(&[b"aa", b"b", b"ccc"]);
        assert_eq!(log.take_batch(3), Some(Batch { first: 1, count: 2, bytes: b"aab" }));
        assert_eq!(log.take_batch(1), Some(Batch { first: 3, count: 1, bytes: b"ccc" }));
        assert_eq!(log.take_batch(1), None);
        let mut done = Vec::new();
        log.acknowledge(2, |write| done.push(write));
        assert_eq!(done, [100, 101]);
        assert_eq!(log.unacknowledged().collect::<Vec<_>>(), [102]);
        assert_eq!(log.len_bytes(), 3);
    }

    #[test]
    fn a_new_connection_gets_everything_not_acknowledged_again() {
        let mut log = log(&[b"aa", b"b", b"ccc"]);
        log.take_batch(100);
        log.acknowledge(1, |_| ());
        log.rewind();
        assert_eq!(log.take_batch(100), Some(Batch { first: 2, count: 2, bytes: b"bccc" }));
    }

    fn large(id: u64) -> LargeEntry<&'static str> {
        LargeEntry { id, dbkey: b"key".to_vec(), value: "value" }
    }

    #[test]
    fn entries_of_other_keys_go_before_one_whose_large_value_is_on_its_way_and_those_of_its_key_do_not() {
        let mut log = log(&[b"aa"]);
        log.push_large(7, 50, large(1), |out| out.push(b'b'));
        log.push(8, 51, |out| out.push(b'c'));
        log.push(9, 50, |out| out.push(b'd'));
        log.push_large(10, 52, large(2), |out| out.push(b'e'));
        assert_eq!((log.len_bytes(), log.unacknowledged().count()), (6, 5));
        assert_eq!(log.take_batch(100), Some(Batch { first: 1, count: 2, bytes: b"aac" }));
        assert_eq!(log.take_batch(100), None);
        assert_eq!(log.next_large().map(|large| large.id), Some(1));
        log.large_arrived();
        assert_eq!(log.take_batch(100), Some(Batch { first: 3, count: 2, bytes: b"bd" }));
        assert_eq!(log.take_batch(100), None);
        assert_eq!(log.next_large().map(|large| large.id), Some(2));
        log.large_arrived();
        assert_eq!(log.take_batch(100), Some(Batch { first: 5, count: 1, bytes: b"e" }));
        assert!(log.next_large().is_none());
        let mut done = Vec::new();
        log.acknowledge(5, |write| done.push(write));
        assert_eq!(done, [100, 8, 7, 9, 10]);
        assert_eq!((log.len_bytes(), log.unacknowledged().count()), (0, 0));
    }

    #[test]
    fn a_large_value_that_arrived_over_a_connection_that_broke_is_sent_again_before_its_entry() {
        let mut log = log(&[b"aa"]);
        log.push_large(7, 50, large(1), |out| out.push(b'b'));
        log.take_batch(100);
        log.large_arrived();
        log.push(8, 50, |out| out.push(b'c'));
        assert_eq!(log.take_batch(100), Some(Batch { first: 2, count: 2, bytes: b"bc" }));
        log.push_large(9, 51, large(2), |out| out.push(b'd'));
        log.rewind();
        assert!(log.next_large().is_none(), "another entry is next");
        assert_eq!(log.take_batch(100), Some(Batch { first: 1, count: 1, bytes: b"aa" }));
        assert_eq!(log.take_batch(100), None);
        assert_eq!(log.next_large().map(|large| large.id), Some(1));
        log.large_arrived();
        assert_eq!(log.take_batch(100), Some(Batch { first: 2, count: 2, bytes: b"bc" }));
        assert_eq!(log.next_large().map(|large| large.id), Some(2));
        log.acknowledge(2, |_| ());
        log.rewind();
        assert_eq!(log.take_batch(100), Some(Batch { first: 3, count: 1, bytes: b"c" }));
        assert_eq!(log.next_large().map(|large| large.id), Some(2));
    }

    #[test]
    fn acknowledgements_of_what_was_never_sent_are_not_believed() {
        let mut log = log(&[b"aa", b"b"]);
        log.take_batch(2);
        let mut done = 0;
        log.acknowledge(u64::MAX, |_| done += 1);
        assert_eq!(done, 1);
        assert_eq!(log.take_batch(9).unwrap().first, 2);
    }

    #[test]
    fn what_this_member_has_is_stable_only_when_all_have_it() {
        let mut log = log(&[b"aa", b"b", b"ccc"]);
        log.take_batch(100);
        log.acknowledge(2, |_| ());
        assert_eq!(log.stable(100), 0);
        assert_eq!(log.stable(101), 1);
        assert_eq!(log.stable(999), 2);
    }
}
