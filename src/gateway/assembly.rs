//! The answer to a retrieval of many keys, put together in the order of the keys.
//!
//! Parts are asked for from several servers at once and come in any order. What is next is written straight to the
//! output when the whole answer is next; the rest is held. A part that cannot be told ends the answer with an error:
//! never a miss where the truth is not known.

use crate::logic::record::HASH_LEN;
use crate::logic::ring;
use crate::proto::memcache::{Reply, Trouble, text};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What is held of an answer is written when it is so long, in bytes, or all there is.
const PIECE_BYTES: usize = 64 << 10;

/// What is known of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Asked,
    /// Nothing to write, or written already.
    Done,
    Held {
        start: usize,
        end: usize,
    },
    Failed(Trouble),
}

/// A value as clients see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// The client's own.
    pub flags: u32,
    /// When it expires, UNIX seconds; 0 never.
    pub expiry: u32,
    /// The cas unique.
    pub cas: u64,
    /// The data.
    pub data: &'a [u8],
}

/// The keys of a retrieval and what became of them.
#[derive(Default)]
pub struct Assembly {
    with_cas: bool,
    /// Bytes of the operator's prefix before each key.
    prefix_len: usize,
    dbkeys: Vec<u8>,
    ends: Vec<usize>,
    parts: Vec<Part>,
    held: Vec<u8>,
    held_parts: usize,
    /// How many parts are still to be told.
    left: usize,
    next: usize,
    failed: bool,
    /// Parts to be asked for one by one, and how many of them are asked for now.
    alone: BinaryHeap<Reverse<u32>>,
    asked_alone: usize,
}

impl Assembly {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.dbkeys.clear();
        self.ends.clear();
        self.parts.clear();
        self.held.clear();
        self.alone.clear();
        (self.held_parts, self.left, self.next, self.asked_alone, self.failed) = (0, 0, 0, 0, false);
    }

    /// Bytes of memory that it keeps when cleared, about.
    pub fn capacity(&self) -> usize {
        self.dbkeys.capacity() + self.held.capacity() + self.parts.capacity() * size_of::<Part>()
    }

    /// Starts an answer; `with_cas`: values carry their cas unique.
    pub fn begin(&mut self, with_cas: bool, prefix_len: usize) {
        self.with_cas = with_cas;
        self.prefix_len = prefix_len;
    }

    /// Adds a key; returns its part number and ring position.
    #[inline]
    pub fn add(&mut self, prefix: &[u8], key: &[u8]) -> (u32, u64) {
        let start = self.dbkeys.len() + HASH_LEN;
        self.dbkeys.extend_from_slice(&[0; HASH_LEN]);
        self.dbkeys.extend_from_slice(prefix);
        self.dbkeys.extend_from_slice(key);
        let hash = ring::hash(&self.dbkeys[start..]);
        self.dbkeys[start - HASH_LEN..start].copy_from_slice(&hash.to_be_bytes());
        self.ends.push(self.dbkeys.len());
        self.parts.push(Part::Asked);
        self.left += 1;
        (self.parts.len() as u32 - 1, hash)
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// The dbkey of a part. Part numbers come from [`add`](Assembly::add).
    #[inline]
    pub fn dbkey(&self, part: u32) -> &[u8] {
        let part = part as usize;
        let start = if part == 0 { 0 } else { self.ends[part - 1] };
        &self.dbkeys[start..self.ends[part]]
    }

    /// Whether a part is still to be told.
    pub fn is_asked(&self, part: u32) -> bool {
        self.parts.get(part as usize) == Some(&Part::Asked)
    }

    /// Whether what is told next, about so many parts with so many bytes, is to be written out as far as possible, given
    /// that the whole answer is next. Short answers are written whole: a piece costs as much as all of it.
    #[inline]
    pub fn is_worth_writing(&self, parts: usize, bytes: usize) -> bool {
        self.left <= parts || self.held.len() + bytes >= PIECE_BYTES
    }

    /// A part was found. With `out` it is written there, after what is held before it, if it is the next part.
    #[inline]
    pub fn found(&mut self, part: u32, found: &Found<'_>, out: Option<&mut Vec<u8>>) {
        if !self.is_asked(part) {
            return;
        }
        self.left -= 1;
        if let Some(out) = out {
            self.give_held(out);
            if part as usize == self.next && !self.failed {
                self.write_value(part, found, out);
                self.parts[part as usize] = Part::Done;
                self.next += 1;
                return;
            }
        }
        let mut held = std::mem::take(&mut self.held);
        let start = held.len();
        self.write_value(part, found, &mut held);
        self.parts[part as usize] = Part::Held { start, end: held.len() };
        self.held = held;
        self.held_parts += 1;
    }

    fn write_value(&self, part: u32, found: &Found<'_>, out: &mut Vec<u8>) {
        let key = &self.dbkey(part)[HASH_LEN + self.prefix_len..];
        let cas = self.with_cas.then_some(found.cas);
        text::encode(&Reply::Value { key, flags: found.flags, cas, data: found.data }, out);
    }

    /// Whether a part is the next to be given, all before it being told.
    pub fn is_next(&self, part: u32) -> bool {
        let before = self.parts.get(self.next..part as usize).unwrap_or_default();
        !self.failed && before.iter().all(|part| matches!(part, Part::Done | Part::Held { .. }))
    }

    /// Writes what stands before the data of a large value, which is next; the caller writes that itself. Then the part is told.
    pub fn write_head(&mut self, part: u32, found: &Found<'_>, out: &mut Vec<u8>) {
        self.give_held(out);
        let key = &self.dbkey(part)[HASH_LEN + self.prefix_len..];
        text::value_head(key, found.flags, self.with_cas.then_some(found.cas), found.data.len(), out);
        self.missing(part);
    }

    /// There is nothing for this part.
    #[inline]
    pub fn missing(&mut self, part: u32) {
        if self.is_asked(part) {
            self.parts[part as usize] = Part::Done;
            self.left -= 1;
        }
    }

    /// What there is for this part cannot be told.
    pub fn fail(&mut self, part: u32, trouble: Trouble) {
        if self.is_asked(part) {
            self.parts[part as usize] = Part::Failed(trouble);
            self.left -= 1;
        }
    }

    /// The server left this part out of its answer: it is to be asked for by itself.
    pub fn leave_alone(&mut self, part: u32) {
        if self.is_asked(part) {
            self.alone.push(Reverse(part));
        }
    }

    /// Whether there are parts to ask for one by one.
    pub fn has_alone(&self) -> bool {
        !self.alone.is_empty() && !self.failed
    }

    /// The next part to ask for by itself, with at most `at_once` under way. Call it when the whole answer is next.
    pub fn next_alone(&mut self, at_once: usize) -> Option<u32> {
        if self.failed || self.asked_alone >= at_once {
            return None;
        }
        let Reverse(part) = self.alone.pop()?;
        self.asked_alone += 1;
        Some(part)
    }

    /// A part asked for by itself was told.
    pub fn told_alone(&mut self) {
        self.asked_alone = self.asked_alone.saturating_sub(1);
    }

    /// Writes what is next, and the end when nothing is left. For the answer whose turn it is.
    pub fn give(&mut self, out: &mut Vec<u8>) {
        self.give_held(out);
        if self.next == self.parts.len() && !self.failed {
            text::encode(&Reply::End, out);
            self.next += 1;
        }
    }

    /// Writes what is held and next.
    #[inline]
    fn give_held(&mut self, out: &mut Vec<u8>) {
        while !self.failed {
            match self.parts.get(self.next) {
                Some(Part::Asked) | None => return,
                Some(Part::Done) => {}
                Some(&Part::Held { start, end }) => {
                    out.extend_from_slice(&self.held[start..end]);
                    self.held_parts -= 1;
                    if self.held_parts == 0 {
                        self.held.clear();
                    }
                }
                Some(&Part::Failed(trouble)) => {
                    text::encode(&Reply::Trouble(trouble), out);
                    self.failed = true;
                }
            }
            self.next += 1;
        }
    }

    /// Whether all of it was given.
    pub fn is_complete(&self) -> bool {
        self.failed || self.next > self.parts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(data: &[u8]) -> Found<'_> {
        Found { flags: 1, expiry: 0, cas: 9, data }
    }

    fn of_keys(keys: &[&str]) -> Assembly {
        let mut assembly = Assembly::default();
        assembly.begin(false, 1);
        for key in keys {
            assembly.add(b"p", key.as_bytes());
        }
        assembly
    }

    proptest! {
        #[test]
        fn values_come_in_the_order_of_the_keys(
            order in Just((0..20u32).collect::<Vec<_>>()).prop_shuffle(),
            next_from in 0..20usize,
        ) {
            let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
            let mut assembly = of_keys(&keys.iter().map(String::as_str).collect::<Vec<_>>());
            let mut out = Vec::new();
            for (n, part) in order.into_iter().enumerate() {
                prop_assert!(!assembly.is_complete());
                let is_next = n >= next_from;
                if part % 3 == 0 {
                    assembly.missing(part);
                } else {
                    assembly.found(part, &found(b"x"), is_next.then_some(&mut out));
                }
                if is_next {
                    assembly.give(&mut out);
                }
            }
            prop_assert!(assembly.is_complete());
            let mut expected: String =
                (0..20).filter(|i| i % 3 != 0).map(|i| format!("VALUE k{i} 1 1\r\nx\r\n")).collect();
            expected += "END\r\n";
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_part_that_cannot_be_told_ends_the_answer_with_an_error() {
        let mut assembly = of_keys(&["a", "b", "c"]);
        let mut out = Vec::new();
        assembly.found(2, &found(b"c"), Some(&mut out));
        assembly.fail(1, Trouble::NoServer);
        assembly.give(&mut out);
        assert!(out.is_empty());
        assembly.found(0, &found(b"a"), Some(&mut out));
        assembly.give(&mut out);
        assert_eq!(out, b"VALUE a 1 1\r\na\r\nSERVER_ERROR no server reachable\r\n");
        assert!(assembly.is_complete());
    }

    #[test]
    fn what_a_server_left_out_is_asked_for_in_order_few_at_a_time() {
        let mut assembly = of_keys(&["a", "b", "c"]);
        for part in [2, 0, 1] {
            assembly.leave_alone(part);
        }
        assert_eq!((assembly.next_alone(2), assembly.next_alone(2), assembly.next_alone(2)), (Some(0), Some(1), None));
        assembly.told_alone();
        assert_eq!((assembly.next_alone(2), assembly.next_alone(2)), (Some(2), None));
    }

    #[test]
    fn large_values_are_next_one_after_the_other() {
        let mut assembly = of_keys(&["a", "b", "c", "d"]);
        let mut out = Vec::new();
        assert!(assembly.is_next(0) && !assembly.is_next(1));
        assembly.write_head(0, &found(b"long"), &mut out);
        assert!(assembly.is_next(1) && !assembly.is_next(3));
        assembly.found(1, &found(b"b"), None);
        assembly.missing(2);
        assert!(assembly.is_next(3));
        out.extend_from_slice(b"long\r\n");
        assembly.write_head(3, &found(b"LONG"), &mut out);
        out.extend_from_slice(b"LONG\r\n");
        assembly.give(&mut out);
        assert_eq!(out, b"VALUE a 1 4\r\nlong\r\nVALUE b 1 1\r\nb\r\nVALUE d 1 4\r\nLONG\r\nEND\r\n");
        assert!(assembly.is_complete());
    }

    #[test]
    fn a_cleared_assembly_is_as_new() {
        let mut assembly = of_keys(&["a"]);
        assembly.fail(0, Trouble::NoServer);
        assembly.give(&mut Vec::new());
        assembly.clear();
        assembly.begin(true, 0);
        let (part, hash) = assembly.add(b"", b"wirekey");
        assert_eq!((part, hash), (0, 0x667df3131b5ae4d7));
        let mut out = Vec::new();
        assembly.found(0, &found(b"v"), Some(&mut out));
        assembly.give(&mut out);
        assert_eq!(out, b"VALUE wirekey 1 1 9\r\nv\r\nEND\r\n");
    }
}
