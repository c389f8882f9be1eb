//! The order of a client's operations on one key, where some of them must be sent again.
//!
//! Normally it comes by itself: what a client asks about a key goes over one link, in order. An operation that is sent
//! again would come after later ones. So operations in trouble, and all later ones of the same client and key, stand
//! in a line: only the first is under way, the next goes when it is done. Nothing of this is touched while nobody is
//! in trouble. Pure.

use super::op::{Home, Op};
use std::collections::{HashMap, VecDeque};

/// A client and a ring position.
type Key = (u32, u32, u64);

/// An operation that stands in a line.
struct InLine {
    order: u64,
    sequence: u64,
    place: u32,
}

fn key(home: Home, hash: u64) -> Key {
    (home.client, home.generation, hash)
}

/// A line.
#[derive(Default)]
struct Line {
    ops: VecDeque<InLine>,
    /// The place in the order of the last change that left the line, or passed it, and may have been executed.
    changed: u64,
}

/// Whether a read that is tried again would see a change that its client asked for behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overtaken {
    /// It would not.
    No,
    /// Such a change is under way: its answer will tell.
    Perhaps,
    /// One may have been executed, and is not executed again then (doc/guarantees.md, "Exactly once").
    Yes,
}

/// The lines of operations.
#[derive(Default)]
pub struct Order {
    lines: HashMap<Key, Line>,
}

impl Order {
    /// Whether nobody is in trouble.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether an operation of this client on this key has to stand in a line.
    pub fn has(&self, home: Home, hash: u64) -> bool {
        self.lines.contains_key(&key(home, hash))
    }

    /// Has the operation at a place stand in its line, once, where its order belongs.
    pub fn enter(&mut self, place: u32, op: &mut Op) {
        if std::mem::replace(&mut op.in_line, true) {
            return;
        }
        let line = &mut self.lines.entry(key(op.home, op.hash)).or_default().ops;
        let at = line.partition_point(|other| other.order <= op.order);
        line.insert(at, InLine { order: op.order, sequence: op.sequence, place });
    }

    /// Whether it is the turn of an operation: it stands in no line, or is the first in it.
    pub fn may_go(&self, op: &Op) -> bool {
        let first = || self.lines.get(&key(op.home, op.hash)).and_then(|line| line.ops.front());
        !op.in_line || first().is_none_or(|first| first.sequence == op.sequence)
    }

    /// What is to be said of an operation that is tried again, if later ones in its line stand as `standing` says.
    pub fn overtaken(&self, op: &Op, mut standing: impl FnMut(u32) -> Overtaken) -> Overtaken {
        let Some(line) = self.lines.get(&key(op.home, op.hash)).filter(|_| op.in_line) else { return Overtaken::No };
        let mut worst = if line.changed > op.order { Overtaken::Yes } else { Overtaken::No };
        for other in line.ops.iter().filter(|other| other.order > op.order) {
            match standing(other.place) {
                Overtaken::Yes => return Overtaken::Yes,
                Overtaken::Perhaps if worst == Overtaken::No => worst = Overtaken::Perhaps,
                Overtaken::Perhaps | Overtaken::No => {}
            }
        }
        worst
    }

    /// A change is done that may have been executed, in its line or beside it.
    pub fn note_change(&mut self, op: &Op) {
        if let Some(line) = self.lines.get_mut(&key(op.home, op.hash)) {
            line.changed = line.changed.max(op.order);
        }
    }

    /// The operation is done. Returns the place of the one whose turn it is now, if that changed.
    pub fn leave(&mut self, op: &Op) -> Option<u32> {
        let key = key(op.home, op.hash);
        let line = &mut self.lines.get_mut(&key)?.ops;
        let at = line.iter().position(|other| other.sequence == op.sequence)?;
        line.remove(at);
        let next = line.front().map(|first| first.place);
        if next.is_none() {
            self.lines.remove(&key);
        }
        next.filter(|_| at == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::{Ask, Ops};
    use super::*;
    use crate::proto::rpc::v1::Op as Op1;

    #[test]
    fn operations_on_one_key_go_one_after_the_other() {
        let (mut ops, mut order) = (Ops::new(0), Order::default());
        let home = Home { client: 3, ..Home::default() };
        let other = Home { client: 4, ..Home::default() };
        let mut begin = |home, key: &[u8]| {
            let (place, op) = ops.begin(home, Ask::Get, 0);
            op.set_key(b"", key);
            place
        };
        let places = [begin(home, b"a"), begin(home, b"a"), begin(home, b"b"), begin(other, b"a"), begin(home, b"a")];
        let [first, second, of_b, of_other, third] = places;
        order.enter(second, ops.at(second));
        assert!(order.has(home, ops.at(third).hash) && !order.has(other, ops.at(third).hash));
        assert!(order.may_go(ops.at(of_b)) && order.may_go(ops.at(of_other)) && order.may_go(ops.at(second)));
        order.enter(third, ops.at(third));
        order.enter(first, ops.at(first));
        order.enter(first, ops.at(first));
        assert!(order.may_go(ops.at(first)) && !order.may_go(ops.at(second)) && !order.may_go(ops.at(third)));
        assert_eq!(order.leave(ops.at(second)), None, "the first is still under way");
        assert_eq!(order.leave(ops.at(first)), Some(third));
        assert_eq!(order.leave(ops.at(third)), None);
        assert!(order.is_empty());
    }

    /// A get was refused, and the set that its client had sent behind it was answered before the get's pause was over: the
    /// get was sent again all the same, and found the set's value.
    #[test]
    fn a_read_waits_for_later_changes_and_is_not_tried_behind_them() {
        let (mut ops, mut order) = (Ops::new(0), Order::default());
        let home = Home { client: 3, ..Home::default() };
        let mut begin = |ask| {
            let (place, op) = ops.begin(home, ask, 0);
            op.set_key(b"", b"a");
            place
        };
        let set = Ask::Mutate(Op1::Set);
        let [before, get, after] = [begin(set), begin(Ask::Get), begin(set)];
        for place in [before, get, after] {
            order.enter(place, ops.at(place));
        }
        let standing = |now| move |place| if place == after { now } else { Overtaken::Yes };
        for now in [Overtaken::No, Overtaken::Perhaps, Overtaken::Yes] {
            assert_eq!(order.overtaken(ops.at(get), standing(now)), now, "what is in front does not count");
        }
        order.note_change(ops.at(before));
        order.leave(ops.at(before));
        assert_eq!(order.overtaken(ops.at(get), standing(Overtaken::No)), Overtaken::No);
        order.note_change(ops.at(after));
        order.leave(ops.at(after));
        assert_eq!(order.overtaken(ops.at(get), |_| Overtaken::No), Overtaken::Yes);
    }
}
