//! Operations under way: what was asked, and all that a retry needs.
//!
//! One table per worker. Places are reused with their memory, so that a command costs no allocation; a generation tells
//! the operations that had a place one after the other.

use super::cache::Known;
use super::downloads::Download;
use super::large::{Body, Sending};
use super::v0::Stage;
use crate::logic::record::{self, HASH_LEN};
use crate::logic::ring;
use crate::proto::memcache::{Style, Trouble};
use crate::proto::rpc::v1::{self, Mutate, RequestId, Terms};
use std::collections::VecDeque;
use std::rc::Rc;

/// A place keeps its memory up to this many bytes.
const KEPT_BYTES: usize = 4096;

/// [`Op::began_ms`] of a place that is free.
const ENDED: u64 = u64::MAX;

/// [`Home::part`] of an answer that does not come in parts.
pub const WHOLE: u32 = u32::MAX;

/// Where an answer belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Home {
    /// The client's place in the worker's table.
    pub client: u32,
    /// Tells it from other clients that had that place.
    pub generation: u32,
    /// Which of the client's answers, unless none is wanted.
    pub number: Option<u32>,
    /// Which part of that answer, or [`WHOLE`].
    pub part: u32,
}

/// What is asked of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ask {
    /// The value of a key.
    #[default]
    Get,
    /// The values of keys that one worker of a server holds: parts of a client's answer.
    Batch,
    /// A change.
    Mutate(v1::Op),
}

/// An operation.
#[derive(Default)]
pub struct Op {
    /// Tells it from others that had this place.
    pub generation: u32,
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub home: Home,
    /// How it is answered.
    pub style: Style,
    /// On what terms a change is executed.
    pub terms: Terms,
    /// Whether a value is answered with its cas unique.
    pub with_cas: bool,
    /// Whether the part was asked for by itself, because a server left it out.
    pub alone: bool,
    /// Bits of [`v1::option`].
    pub options: u8,
    /// The ring position. Of a batch: of its first key.
    pub hash: u64,
    /// The dbkey and behind it, for changes, the dbval; of a batch the numbers of the parts, 4 bytes each. Last, of a meta
    /// command, its flags.
    pub bytes: Vec<u8>,
    /// How many of `bytes` are the flags.
    pub flags_len: usize,
    /// Where in `bytes` the dbkey ends.
    pub key_end: usize,
    /// The cas unique required, or what to add or subtract, or of a fetch the version of what is known.
    pub arg: u64,
    /// The operation's number: see [`RequestId::sequence`].
    pub sequence: u64,
    /// Its place in the order in which clients asked: its sequence, or that of the batch that it was a part of.
    pub order: u64,
    /// How often it was sent.
    pub attempt: u32,
    /// The epoch when it was first sent: the first time that it may have been executed.
    pub first_epoch: u64,
    /// The epoch that the latest attempt named.
    pub epoch: u64,
    /// When it began, in the worker's milliseconds.
    pub began_ms: u64,
    /// The link that has the latest attempt, while one is under way.
    pub link: Option<u32>,
    /// It stands in a line of [`super::order`].
    pub in_line: bool,
    /// How often it had to wait.
    pub retries: u32,
    /// An attempt got lost on its way: it may have been executed.
    pub uncertain: bool,
    /// That was at a server of kumofs 0.4, which remembers no outcome.
    pub unremembered: bool,
    /// Why it waits, or what is told if it is given up.
    pub trouble: Option<Trouble>,
    /// Where it stands, with a server that speaks version 0.
    pub stage: Stage,
    /// The dbval to write, once it was computed from what was read.
    pub computed: Vec<u8>,
    /// Of a get or a fetch, the value that is known already, if the key has it still.
    pub known: Option<Rc<Known>>,
    /// The data to store, where it is large: then it is not in `bytes`, but would be behind the dbval there.
    pub body: Option<Body>,
    /// How far that is on its way; `None`: it has arrived, or is not sent in parts.
    pub sending: Option<Sending>,
    /// The large value that it has found, as far as it has come.
    pub download: Option<Box<Download>>,
    /// How many replicas were asked without success, where reads may fall back.
    pub fallback: u32,
}

impl Op {
    /// The dbkey.
    #[inline]
    pub fn dbkey(&self) -> &[u8] {
        &self.bytes[..self.key_end]
    }

    /// The dbval.
    #[inline]
    pub fn dbval(&self) -> &[u8] {
        &self.bytes[self.key_end..self.bytes.len() - self.flags_len]
    }

    /// The flags of a meta command.
    pub fn flags(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.flags_len..]
    }

    /// Whether its place is taken.
    fn is_under_way(&self) -> bool {
        self.began_ms != ENDED
    }

    /// Makes it as new, one field at a time: they are many, and mostly so already.
    #[inline]
    fn renew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.began_ms = ENDED;
        (self.with_cas, self.alone, self.in_line) = (false, false, false);
        (self.uncertain, self.unremembered) = (false, false);
        (self.style, self.terms) = (Style::Text, Terms::default());
        (self.options, self.arg, self.attempt, self.retries, self.fallback) = (0, 0, 0, 0, 0);
        (self.link, self.trouble, self.stage, self.key_end, self.flags_len) = (None, None, Stage::Start, 0, 0);
        self.known = None;
        (self.body, self.sending, self.download) = (None, None, None);
        if self.computed.capacity() > 0 {
            self.computed = Vec::new();
        }
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }

    /// Sets the key: `prefix` and `key` together. Returns the ring position.
    #[inline]
    pub fn set_key(&mut self, prefix: &[u8], key: &[u8]) {
        self.set_key_by(prefix, |out| out.extend_from_slice(key));
    }

    /// The same with a key that is appended.
    #[inline]
    pub fn set_key_by(&mut self, prefix: &[u8], write_key: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(&[0; HASH_LEN]);
        self.bytes.extend_from_slice(prefix);
        write_key(&mut self.bytes);
        self.hash = ring::hash(&self.bytes[HASH_LEN..]);
        self.bytes[..HASH_LEN].copy_from_slice(&self.hash.to_be_bytes());
        self.key_end = self.bytes.len();
    }

    /// Sets the key by its dbkey.
    pub fn set_dbkey(&mut self, dbkey: &[u8]) {
        self.hash = record::dbkey_hash(dbkey).unwrap_or_default();
        self.bytes.extend_from_slice(dbkey);
        self.key_end = self.bytes.len();
    }

    /// The part numbers of a batch.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
        self.bytes.as_chunks::<4>().0.iter().map(|part| u32::from_le_bytes(*part))
    }

    /// How many keys it is about.
    pub fn keys(&self) -> usize {
        if self.ask == Ask::Batch { self.bytes.len() / 4 } else { 1 }
    }

    /// Whether it is the get of a meta command.
    pub fn is_fetch(&self) -> bool {
        self.ask == Ask::Mutate(v1::Op::Fetch)
    }

    /// Whether it is a read, sent again without harm: of a fetch servers remember only what it changed.
    pub fn is_read(&self) -> bool {
        self.ask == Ask::Get || self.is_fetch()
    }

    /// Whether a client retrieves a value by it; `me`, which looks at one, is none to memcached.
    pub fn is_retrieval(&self) -> bool {
        match self.ask {
            Ask::Get => !matches!(self.style, Style::Meta(_)),
            Ask::Batch | Ask::Mutate(v1::Op::Fetch | v1::Op::GetAndTouch) => true,
            Ask::Mutate(_) => false,
        }
    }

    /// Whether it may change something.
    pub fn is_mutation(&self) -> bool {
        matches!(self.ask, Ask::Mutate(_))
    }

    /// Appends the version 1 request of a get or a change.
    #[inline]
    pub fn write_v1(&self, out: &mut Vec<u8>, msgid: u32, epoch: u64, floor: u64) {
        match self.ask {
            Ask::Mutate(op) => {
                let (sequence, attempt, first_epoch) = (self.sequence, self.attempt, self.first_epoch);
                let id = RequestId { sequence, attempt, first_epoch, floor };
                // What is large has been sent in parts.
                let dbval = if self.body.is_none() { self.dbval() } else { &[] };
                let (options, dbkey, arg) = (self.options, self.dbkey(), self.arg);
                Mutate { epoch, id, op, options, dbkey, arg, dbval, terms: self.terms }.write(out, msgid);
            }
            _ => match &self.known {
                Some(known) => v1::write_get_if_modified(out, msgid, epoch, self.dbkey(), known.version()),
                None => v1::write_get(out, msgid, epoch, self.dbkey()),
            },
        }
    }
}

/// The operations of a worker.
pub struct Ops {
    table: Vec<Op>,
    free: Vec<u32>,
    /// Bytes of requests under way.
    bytes: usize,
    sequences: Sequences,
}

impl Ops {
    /// The table of a worker.
    pub fn new(worker: u16) -> Ops {
        Ops { table: Vec::new(), free: Vec::new(), bytes: 0, sequences: Sequences::new(worker) }
    }

    /// Takes a place for a new operation. Returns it with its number.
    #[inline]
    pub fn begin(&mut self, home: Home, ask: Ask, began_ms: u64) -> (u32, &mut Op) {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.table.push(Op::default());
                self.table.len() as u32 - 1
            }
        };
        let op = &mut self.table[place as usize];
        op.ask = ask;
        op.home = home;
        op.began_ms = began_ms;
        op.sequence = self.sequences.next();
        op.order = op.sequence;
        (place, op)
    }

    /// Counts the bytes of an operation that is complete now, until its [`end`](Ops::end).
    #[inline]
    pub fn count_bytes(&mut self, place: u32) {
        self.bytes += self.table[place as usize].bytes.len();
    }

    /// An operation under way got so many bytes more.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The operation at a place, if it is still the one of that generation.
    #[inline]
    pub fn get(&mut self, place: u32, generation: u32) -> Option<&mut Op> {
        self.table.get_mut(place as usize).filter(|op| op.generation == generation)
    }

    /// The operation at a place, to look at.
    pub fn get_at(&self, place: u32) -> Option<&Op> {
        self.table.get(place as usize)
    }

    /// The operation at a place that was taken and not ended.
    #[inline]
    pub fn at(&mut self, place: u32) -> &mut Op {
        &mut self.table[place as usize]
    }

    /// Gives a place back. All but its memory and its generation is as new then.
    #[inline]
    pub fn end(&mut self, place: u32) {
        let op = &mut self.table[place as usize];
        assert!(op.is_under_way(), "an operation ends once");
        self.bytes -= op.bytes.len();
        self.sequences.finish(op.sequence);
        op.renew();
        self.free.push(place);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// The lowest sequence that is not finished (`doc/guarantees.md`, "Exactly once").
    #[inline]
    pub fn floor(&self) -> u64 {
        self.sequences.floor
    }

    /// Bytes of their requests.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The places and generations of those under way that `which` accepts, in the order in which clients asked. Who
    /// ends some of them looks again by [`get`](Ops::get) whether the others are still there.
    pub fn select(&self, which: impl Fn(&Op) -> bool) -> Vec<(u32, u32)> {
        let accepted = |(_, op): &(usize, &Op)| op.is_under_way() && which(op);
        let mut found: Vec<_> = self.table.iter().enumerate().filter(accepted).collect();
        found.sort_unstable_by_key(|(_, op)| op.order);
        found.into_iter().map(|(place, op)| (place as u32, op.generation)).collect()
    }
}

/// Numbers operations, and knows the lowest that is not finished.
struct Sequences {
    floor: u64,
    finished: VecDeque<bool>,
}

impl Sequences {
    /// Numbers for a worker.
    fn new(worker: u16) -> Sequences {
        Sequences { floor: (u64::from(worker) << 48) + 1, finished: VecDeque::new() }
    }

    /// The next number.
    #[inline]
    fn next(&mut self) -> u64 {
        self.finished.push_back(false);
        self.floor + self.finished.len() as u64 - 1
    }

    /// The operation with this number is done: answered, or given up for good.
    #[inline]
    fn finish(&mut self, sequence: u64) {
        if let Some(finished) = self.finished.get_mut((sequence - self.floor) as usize) {
            *finished = true;
        }
        while self.finished.front() == Some(&true) {
            self.finished.pop_front();
            self.floor += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_reused_under_another_generation() {
        let mut ops = Ops::new(0);
        let (place, op) = ops.begin(Home::default(), Ask::Get, 0);
        op.set_key(b"", b"wirekey");
        assert_eq!(op.hash, 0x667df3131b5ae4d7);
        let generation = op.generation;
        ops.count_bytes(place);
        assert_eq!((ops.len(), ops.bytes()), (1, 15));
        ops.end(place);
        assert_eq!((ops.len(), ops.bytes()), (0, 0));
        let (again, op) = ops.begin(Home::default(), Ask::Batch, 0);
        assert_eq!(again, place);
        assert!(op.bytes.is_empty());
        assert!(ops.get(place, generation).is_none(), "a late answer must not find the new one");
    }

    #[test]
    fn the_floor_is_the_lowest_unfinished_number() {
        let mut sequences = Sequences::new(2);
        let numbers: Vec<u64> = (0..5).map(|_| sequences.next()).collect();
        assert_eq!(numbers[0] >> 48, 2);
        assert_eq!(sequences.floor, numbers[0]);
        sequences.finish(numbers[1]);
        sequences.finish(numbers[2]);
        assert_eq!(sequences.floor, numbers[0]);
        sequences.finish(numbers[0]);
        assert_eq!(sequences.floor, numbers[3]);
        sequences.finish(numbers[4]);
        sequences.finish(numbers[3]);
        assert_eq!(sequences.floor, numbers[4] + 1);
        assert_eq!(sequences.next(), numbers[4] + 1);
    }
}
