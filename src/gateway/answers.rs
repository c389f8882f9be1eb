//! A client's answers: given out in the order of its commands, whatever the order they come in.
//!
//! Each command that is answered takes a number. The answer whose turn it is goes straight into the connection's
//! buffer; others are held until those before them are there. Pure: output is a buffer that the caller brings.

use super::assembly::Assembly;
use std::collections::VecDeque;

/// A queue longer than this gives its memory back when it is empty: idle clients hold next to nothing.
const KEPT_SLOTS: usize = 256;
/// Bytes of buffers, and of assemblies, kept for reuse, and of the largest one worth keeping. Answers of pipelined commands
/// that come from several servers are held by the hundred, all small.
const POOLED_BYTES: usize = 4 << 20;
const POOLED_CAPACITY: usize = 16 << 10;

/// What held answers are kept in, recycled; and a count of what is given to clients.
#[derive(Default)]
pub struct Pool {
    /// Bytes given out since this was last taken.
    pub written_bytes: u64,
    buffers: Vec<Vec<u8>>,
    buffers_bytes: usize,
    // Boxed where they are used: a slot of the queue stays small, and taking one from here moves a pointer.
    #[allow(clippy::vec_box)]
    assemblies: Vec<Box<Assembly>>,
    assemblies_bytes: usize,
}

impl Pool {
    /// Counts what `append` appends.
    #[inline]
    pub fn counted<R>(&mut self, out: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>, &mut Pool) -> R) -> R {
        let before = out.len();
        let result = append(out, self);
        self.written_bytes += (out.len() - before) as u64;
        result
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.buffers_bytes -= buffer.capacity();
        buffer
    }

    fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity <= POOLED_CAPACITY && self.buffers_bytes + capacity <= POOLED_BYTES {
            buffer.clear();
            self.buffers_bytes += capacity;
            self.buffers.push(buffer);
        }
    }

    /// An assembly without parts.
    pub fn take_assembly(&mut self) -> Box<Assembly> {
        let assembly = self.assemblies.pop().unwrap_or_default();
        self.assemblies_bytes -= assembly.capacity();
        assembly
    }

    fn give_assembly(&mut self, mut assembly: Box<Assembly>) {
        let capacity = assembly.capacity();
        if capacity <= POOLED_CAPACITY && self.assemblies_bytes + capacity <= POOLED_BYTES {
            assembly.clear();
            self.assemblies_bytes += capacity;
            self.assemblies.push(assembly);
        }
    }
}

enum Slot {
    Waiting,
    Held(Vec<u8>),
    Many(Box<Assembly>),
}

/// The answers of one client that were not all given out yet.
#[derive(Default)]
pub struct Answers {
    /// The number of the front slot. Numbers wrap; a client has far fewer at a time.
    first: u32,
    slots: VecDeque<Slot>,
    held_bytes: usize,
}

impl Answers {
    /// A number for an answer to come.
    #[inline]
    pub fn push(&mut self) -> u32 {
        self.push_slot(Slot::Waiting)
    }

    /// A number for an answer to come in parts.
    pub fn push_many(&mut self, assembly: Box<Assembly>) -> u32 {
        self.push_slot(Slot::Many(assembly))
    }

    fn push_slot(&mut self, slot: Slot) -> u32 {
        let number = self.first.wrapping_add(self.slots.len() as u32);
        self.slots.push_back(slot);
        number
    }

    /// How many are not given out.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether all are given out.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held for later.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether it is this answer's turn.
    #[inline]
    pub fn is_next(&self, number: u32) -> bool {
        number == self.first && !self.slots.is_empty()
    }

    /// Follows the writing of the next answer to `out`: writes what was waiting for it.
    #[inline]
    pub fn given(&mut self, out: &mut Vec<u8>, pool: &mut Pool) {
        self.pop();
        if !self.slots.is_empty() {
            self.give(out, pool);
        }
    }

    fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front();
        self.first = self.first.wrapping_add(1);
        if self.slots.is_empty() && self.slots.capacity() > KEPT_SLOTS {
            self.slots = VecDeque::new();
        }
        slot
    }

    /// Keeps an answer whose turn has not come. One that was given already is dropped.
    pub fn hold(&mut self, number: u32, pool: &mut Pool, encode: impl FnOnce(&mut Vec<u8>)) {
        let index = number.wrapping_sub(self.first) as usize;
        if let Some(slot @ Slot::Waiting) = self.slots.get_mut(index) {
            let mut buffer = pool.take_buffer();
            encode(&mut buffer);
            self.held_bytes += buffer.len();
            *slot = Slot::Held(buffer);
        }
    }

    /// The parts of an answer that comes in parts, unless it was given.
    pub fn assembly(&mut self, number: u32) -> Option<&mut Assembly> {
        match self.slots.get_mut(number.wrapping_sub(self.first) as usize) {
            Some(Slot::Many(assembly)) => Some(assembly),
            _ => None,
        }
    }

    /// The parts of the next answer, if it comes in parts, and its number.
    pub fn next_assembly(&mut self) -> Option<(u32, &mut Assembly)> {
        match self.slots.front_mut() {
            Some(Slot::Many(assembly)) => Some((self.first, assembly)),
            _ => None,
        }
    }

    /// Writes all whose turn has come.
    pub fn give(&mut self, out: &mut Vec<u8>, pool: &mut Pool) {
        loop {
            match self.slots.front_mut() {
                None | Some(Slot::Waiting) => return,
                Some(Slot::Held(_)) => {}
                Some(Slot::Many(assembly)) => {
                    assembly.give(out);
                    if !assembly.is_complete() {
                        return;
                    }
                }
            }
            match self.pop() {
                Some(Slot::Held(buffer)) => {
                    self.held_bytes -= buffer.len();
                    out.extend_from_slice(&buffer);
                    pool.give_buffer(buffer);
                }
                Some(Slot::Many(assembly)) => pool.give_assembly(assembly),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(answers: &mut Answers, pool: &mut Pool, out: &mut Vec<u8>, number: u32, text: &[u8]) {
        if answers.is_next(number) {
            out.extend_from_slice(text);
            answers.given(out, pool);
        } else {
            answers.hold(number, pool, |held| held.extend_from_slice(text));
        }
    }

    proptest! {
        #[test]
        fn answers_come_in_the_order_of_the_commands(order in Just((0..40u32).collect::<Vec<_>>()).prop_shuffle()) {
            let (mut answers, mut pool, mut out) = (Answers::default(), Pool::default(), Vec::new());
            answers.first = u32::MAX - 20;
            let numbers: Vec<u32> = order.iter().map(|_| answers.push()).collect();
            for (n, i) in order.iter().enumerate() {
                answer(&mut answers, &mut pool, &mut out, numbers[*i as usize], format!("{i} ").as_bytes());
                let given = out.split(|b| *b == b' ').count() - 1;
                prop_assert!(given <= n + 1 && given + answers.len() == 40);
            }
            let expected: String = (0..40).map(|i| format!("{i} ")).collect();
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
            prop_assert_eq!(answers.held_bytes(), 0);
        }
    }

    #[test]
    fn an_answer_given_twice_is_dropped() {
        let (mut answers, mut pool, mut out) = (Answers::default(), Pool::default(), Vec::new());
        let (a, b) = (answers.push(), answers.push());
        answer(&mut answers, &mut pool, &mut out, b, b"b");
        answer(&mut answers, &mut pool, &mut out, b, b"x");
        answer(&mut answers, &mut pool, &mut out, a, b"a");
        answer(&mut answers, &mut pool, &mut out, a, b"x");
        assert_eq!(out, b"ab");
    }

    #[test]
    fn an_idle_queue_gives_its_memory_back() {
        let (mut answers, mut pool, mut out) = (Answers::default(), Pool::default(), Vec::new());
        let numbers: Vec<u32> = (0..10_000).map(|_| answers.push()).collect();
        for number in numbers {
            answer(&mut answers, &mut pool, &mut out, number, b"x");
        }
        assert!(answers.is_empty());
        assert_eq!(answers.slots.capacity(), 0);
    }
}
