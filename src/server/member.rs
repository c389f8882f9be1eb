//! What a coordinator sends to another member: replication with its lease, and what members report at a takeover.
//!
//! A member applies newer stamps, in order and without gaps, only from who coordinates the key in its own epoch, and
//! acknowledges what its disk has. It remembers as unstable what it was not told to be stable, across epochs, for the
//! report to the next coordinator ([`super::takeover`]).

use super::fill::Sent;
use super::lookahead;
use super::parts;
use super::request::{Request, hash_of};
use super::shared::View;
use super::worker::{State, Worker, write_obsolete};
use crate::logic::lease::GRANT_MICROS;
use crate::logic::memory::Deeds;
use crate::logic::record;
use crate::logic::rule::{Rule, on};
use crate::net::conn::Conn;
use crate::net::time::boot_micros;
use crate::proto::rpc::frame::write_success;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_uint};
use crate::proto::rpc::v1::{Connect, Entry, ReplicateHead, STAND_IN_LEN, method, read_entry};
use crate::store::staged::{HEAD_LEN, Staged};
use crate::store::{Record, Shard, StoreError};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;

/// Dbkeys in the order of their entries' numbers, with what the records owe themselves to.
#[derive(Default)]
pub struct KeyQueue {
    entries: VecDeque<(u64, u16, Deeds)>,
    keys: VecDeque<u8>,
}

impl KeyQueue {
    /// Adds the dbkey of entry `number`.
    pub fn push(&mut self, number: u64, dbkey: &[u8], deeds: Deeds) {
        let len = u16::try_from(dbkey.len()).expect("a dbkey has at most 4104 bytes");
        self.entries.push_back((number, len, deeds));
        self.keys.extend(dbkey);
    }

    /// The lowest number of an entry.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|(number, ..)| *number)
    }

    /// The ring positions of all dbkeys.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        let mut start = 0;
        self.entries.iter().map(move |(_, len, _)| {
            let mut hash = [0; record::HASH_LEN];
            hash.iter_mut().zip(self.keys.range(start..)).for_each(|(to, from)| *to = *from);
            start += usize::from(*len);
            u64::from_be_bytes(hash)
        })
    }

    /// Drops the entries up to `number`.
    pub fn drop_up_to(&mut self, number: u64) {
        while let Some((_, len, _)) = self.entries.pop_front_if(|(entry, ..)| *entry <= number) {
            self.keys.drain(..usize::from(len));
        }
    }

    /// Takes all dbkeys for which `take` says so.
    pub fn take_if(&mut self, mut take: impl FnMut(&[u8]) -> bool) -> Vec<(Vec<u8>, Deeds)> {
        let old = std::mem::take(self);
        let mut taken = Vec::new();
        let keys = Vec::from(old.keys);
        let mut start = 0;
        for (number, len, deeds) in old.entries {
            let dbkey = &keys[start..start + usize::from(len)];
            start += usize::from(len);
            if take(dbkey) {
                taken.push((dbkey.to_vec(), deeds));
            } else {
                self.push(number, dbkey, deeds);
            }
        }
        taken
    }
}

/// One worker of a coordinator, as the member knows it.
pub struct Source {
    /// The number that its next entry has to have, or a lower one.
    pub(super) next: u64,
    /// The last entry on disk.
    durable: u64,
    /// It acts no more: it is granted nothing.
    left: bool,
    /// What it has not told to be stable.
    pub unstable: KeyQueue,
}

impl Default for Source {
    fn default() -> Source {
        Source { next: 1, durable: 0, left: false, unstable: KeyQueue::default() }
    }
}

/// Leases granted, by the holder's life and worker: until when.
pub type Given = BTreeMap<(u64, u16), u64>;

/// An answer to Replicate, for when the store has committed.
pub struct Ack {
    conn: Rc<Conn>,
    msgid: u32,
    source: (u64, u16),
    epoch: u64,
    last: u64,
}

impl Ack {
    /// Acknowledges, and grants the lease; after an epoch came in between, refuses.
    pub fn send(self, view: &View, given: &mut Given, sources: &mut BTreeMap<(u64, u16), Source>) {
        let Some(source) = sources.get_mut(&self.source) else { return };
        source.durable = source.durable.max(self.last);
        if view.epoch.number != self.epoch {
            return write_obsolete(&self.conn, self.msgid, view.epoch.number);
        }
        if source.left {
            return;
        }
        let until = given.entry(self.source).or_default();
        *until = (*until).max(boot_micros() + GRANT_MICROS);
        self.conn.write(|out| {
            write_success(out, self.msgid);
            write_array(out, 1);
            write_uint(out, source.durable);
        });
    }
}

/// Executes a request of a coordinator or, at a takeover, of a member.
pub(super) fn execute(worker: &Rc<Worker>, connect: &Connect, request: &Request<'_>) -> Result<(), DecodeError> {
    if request.method == method::REPORT {
        return worker.receive_report(connect, request);
    }
    let mut state = worker.state.borrow_mut();
    let state = &mut *state;
    let key = (connect.incarnation, connect.from_worker);
    if request.method == method::LEAVE {
        state.given.remove(&key);
        state.sources.entry(key).or_default().left = true;
        return Ok(());
    }
    let mut r = Reader::new(request.params);
    let (head, entries) = ReplicateHead::read(&mut r)?;
    let known = state.view.epoch.number;
    if head.epoch > known {
        worker.shared.behind.notify_one();
    }
    let is_sender = |s: &crate::logic::epoch::ServerEntry| s.incarnation == connect.incarnation && s.removed.is_none();
    let sender = state.view.epoch.servers.iter().position(is_sender).and_then(|place| u16::try_from(place).ok());
    let (Some(me), Some(sender), true) = (state.view.me, sender, head.epoch == known) else {
        write_obsolete(request.conn, request.msgid, known);
        return Ok(());
    };
    state.spoke(key);
    let source = state.sources.entry(key).or_default();
    if head.first > source.next && on(Rule::PrefixClosed) {
        // Something before it was refused and will be sent again.
        write_obsolete(request.conn, request.msgid, known);
        return Ok(());
    }
    source.unstable.drop_up_to(head.stable);
    if entries > 0 {
        state.memory.raise_since(head.since);
    }
    let mut last = 0;
    {
        let mut shard = worker.shard().lock().expect("no holder of a shard panics");
        for (done, number) in (head.first..head.first + entries as u64).enumerate() {
            if lookahead::behind((done, entries - done), &r, lookahead::of_entry, &mut state.next_positions) {
                shard.prefetch(&state.next_positions);
            }
            let Entry { dbkey, epoch, dbval, deeds } = read_entry(&mut r)?;
            let hash = hash_of(dbkey)?;
            let group = &state.range(hash).group;
            let (coordinates, sourced_here) = (group.coordinator() == Some(sender), group.sources().contains(&me));
            last = number;
            if !coordinates {
                // It gave up that write with the epoch in which it coordinated the key, and reports it to who does now.
                let source = state.sources.get_mut(&key).expect("it was entered above");
                source.next = source.next.max(number + 1);
                continue;
            }
            let (mut head, mut staged, mut dbval) = ([0; HEAD_LEN], None, dbval);
            if dbval.len() == STAND_IN_LEN {
                staged = parts::take(request.incoming, record::version_of(dbval).unwrap_or_default().0, dbkey);
                let Some(staged) = &staged else {
                    let source = state.sources.get_mut(&key).expect("it was entered above");
                    if number < source.next {
                        // It is here: sent again, because its acknowledgement was lost.
                        continue;
                    }
                    // What it stands for is not here, and is to be sent again.
                    write_obsolete(request.conn, request.msgid, known);
                    return Ok(());
                };
                head.copy_from_slice(staged.head());
                dbval = &head;
            }
            let record = Record { epoch, dbval };
            match state.put(&mut *shard, (hash, sourced_here), dbkey, record, Sent::Written, staged)? {
                Ok(()) => {}
                Err(e) => {
                    tracing::error!("cannot store what was replicated: {e}");
                    state.tell_unable(worker);
                    write_obsolete(request.conn, request.msgid, known);
                    return Ok(());
                }
            }
            deeds.as_slice().iter().filter(|_| on(Rule::MemoryTravels)).for_each(|deed| state.memory.note(deed));
            let source = state.sources.get_mut(&key).expect("it was entered above");
            if number >= source.next {
                source.unstable.push(number, dbkey, deeds);
                source.next = number + 1;
            }
        }
    }
    let ack = Ack { conn: request.conn.clone(), msgid: request.msgid, source: key, epoch: known, last };
    if entries == 0 {
        ack.send(&state.view, &mut state.given, &mut state.sources);
    } else {
        state.acks.push(ack);
        worker.turn.wake();
    }
    Ok(())
}

impl State {
    /// A life's worker spoke in this epoch: it has adopted it, and given back what it held in earlier ones. What it was granted
    /// in this one it holds.
    pub(super) fn spoke(&mut self, holder: (u64, u16)) {
        if self.takeover.adopted_by(holder) {
            self.given.remove(&holder);
        }
    }

    /// The ring positions of what this server was not told to be stable: it may be here and nowhere else.
    pub(super) fn unstable_hashes(&self) -> HashSet<u64> {
        let told: HashSet<u64> = self.sources.values().flat_map(|source| source.unstable.hashes()).collect();
        told.into_iter().chain(self.takeover.orphan_hashes()).collect()
    }

    /// Stores a record of another server unless a newer one is here. The outer error says that it is none.
    pub(super) fn apply(
        &mut self,
        shard: &mut dyn Shard,
        dbkey: &[u8],
        record: Record<'_>,
        sent: Sent,
    ) -> Result<Result<(), StoreError>, DecodeError> {
        let hash = hash_of(dbkey)?;
        let place = (hash, self.is_source(hash));
        self.put(shard, place, dbkey, record, sent, None)
    }

    /// The same, given the ring position, and whether this server is one of those who fill others with what is there. What is
    /// `staged` came in parts; the record has the beginning of it alone.
    pub(super) fn put(
        &mut self,
        shard: &mut dyn Shard,
        place: (u64, bool),
        dbkey: &[u8],
        record: Record<'_>,
        sent: Sent,
        staged: Option<Staged>,
    ) -> Result<Result<(), StoreError>, DecodeError> {
        let value = record::parse(record.dbval).ok_or(DecodeError::Type)?;
        self.clock.observe_counter(value.version.counter());
        Ok(match self.put_sent(shard, place, dbkey, record, sent, staged) {
            Ok(stored) => {
                if stored && value.body.is_none() {
                    self.marks.note(self.now_secs, dbkey, record.stamp());
                }
                Ok(())
            }
            Err(e) => Err(e),
        })
    }
}
