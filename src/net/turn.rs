//! The end of a turn: what the tasks woken together have produced is finished and written, once.
//!
//! An event loop wakes tasks in the order of their events. The first one that has something to finish wakes the
//! turn's task, which so runs after all tasks that were woken before it: one append to the store, one message
//! to each peer and one write to each connection serve them all.

use super::conn::Conn;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes of buffers kept for reuse, and of the largest one worth keeping. All connections written in a turn give theirs
/// back at once, so that they are counted by their size and not by their number.
const POOLED_BYTES: usize = 16 << 20;
const POOLED_CAPACITY: usize = 1 << 20;
/// Output of more bytes, as links have, gets a buffer that was large before: small ones would grow again and again.
const LARGE_BYTES: usize = 4 << 10;

/// What is to be finished at the end of this turn of an event loop.
#[derive(Default)]
pub struct Turn {
    dirty: RefCell<Vec<Rc<Conn>>>,
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
    pooled_bytes: Cell<usize>,
}

impl Turn {
    /// A turn whose task is not running yet: see [`run`](Turn::run).
    pub fn new() -> Rc<Turn> {
        Rc::new(Turn::default())
    }

    /// Asks for the end of this turn to be run.
    #[inline]
    pub fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Notes that `conn` has output to write.
    pub(super) fn mark(&self, conn: Rc<Conn>) {
        self.dirty.borrow_mut().push(conn);
        self.wake();
    }

    /// An empty buffer, warm if possible, for about so many bytes. Any that is there is better than none: where what connections
    /// write changes, buffers come back larger than they went, and there may be only large ones for a while.
    pub(super) fn take_buffer(&self, len: usize) -> Vec<u8> {
        let warm = if len > LARGE_BYTES { self.large.borrow_mut().pop() } else { None };
        let warm = warm.or_else(|| self.small.borrow_mut().pop());
        let buffer = warm.or_else(|| self.large.borrow_mut().pop()).unwrap_or_default();
        self.pooled_bytes.set(self.pooled_bytes.get() - buffer.capacity());
        buffer
    }

    /// Takes back a buffer whose content was written.
    pub(super) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let (capacity, pooled_bytes) = (buffer.capacity(), self.pooled_bytes.get());
        if (1..=POOLED_CAPACITY).contains(&capacity) && pooled_bytes + capacity <= POOLED_BYTES {
            buffer.clear();
            self.pooled_bytes.set(pooled_bytes + capacity);
            let pool = if capacity > LARGE_BYTES { &self.large } else { &self.small };
            pool.borrow_mut().push(buffer);
        }
    }

    /// The task that ends turns: calls `finish`, then writes what connections have to send. Never returns.
    pub async fn run(self: Rc<Self>, mut finish: impl FnMut()) {
        // Sockets that are always ready must not make this task yield between two of them.
        let turns = poll_fn::<(), _>(|cx| {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            drop(waker);
            if self.woken.replace(false) {
                finish();
                let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
                for conn in dirty.drain(..) {
                    conn.flush();
                }
                let mut marked_meanwhile = self.dirty.borrow_mut();
                dirty.append(&mut marked_meanwhile);
                *marked_meanwhile = dirty;
            }
            Poll::Pending
        });
        tokio::task::coop::unconstrained(turns).await;
    }
}
