//! What connections have to write and their peers do not take: how much it is in all, and for how long.
//!
//! Only what stays behind after a write is counted, so that connections whose peers read cost nothing.

use super::time::Instant;
use std::cell::Cell;
use std::rc::Rc;

/// Bytes that the connections of a worker could not write, of those that are watched.
#[derive(Clone, Default)]
pub struct Unread(Rc<Cell<usize>>);

impl Unread {
    /// How many there are.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }
}

/// One connection's share.
pub struct Share {
    all: Unread,
    bytes: Cell<usize>,
    since: Cell<Option<Instant>>,
}

impl Share {
    /// One of a connection that has nothing to write.
    pub fn new(all: &Unread) -> Share {
        Share { all: all.clone(), bytes: Cell::new(0), since: Cell::new(None) }
    }

    /// So much is left; `moved`: the peer has taken something.
    pub fn set(&self, bytes: usize, moved: bool) {
        self.all.0.set(self.all.0.get() - self.bytes.replace(bytes) + bytes);
        if bytes == 0 {
            self.since.set(None);
        } else if moved || self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
    }

    /// How much is left, and since when the peer has taken nothing of it.
    pub fn get(&self) -> Option<(usize, Instant)> {
        Some((self.bytes.get(), self.since.get()?))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_summed_and_their_age_is_that_of_the_last_byte_taken() {
        let all = Unread::default();
        let (a, b) = (Share::new(&all), Share::new(&all));
        assert!(a.get().is_none());
        a.set(100, false);
        let since = a.get().expect("something is left").1;
        b.set(50, true);
        a.set(200, false);
        assert_eq!((all.bytes(), a.get()), (250, Some((200, since))));
        while Instant::now() == since {}
        a.set(150, true);
        assert!(a.get().is_some_and(|(_, moved)| moved > since));
        a.set(0, true);
        assert!(a.get().is_none());
        drop(b);
        assert_eq!(all.bytes(), 0);
    }
}
