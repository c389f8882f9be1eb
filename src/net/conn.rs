//! A connection: an output buffer that the end of the turn writes, and a loop that reads into a shared buffer.
//!
//! An idle connection holds no buffers. Input is read into a scratch buffer of the worker's and handed on from there; only
//! the beginning of an incomplete message is kept. Output beyond what the system takes waits in the connection, which
//! says how much that is, so that its owner stops reading from a peer that does not read ([`Received::wait`]).

use super::stream::{ReadHalf, Stream, WriteHalf};
use super::turn::Turn;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one read may bring.
const SCRATCH_LEN: usize = 256 << 10;
/// How much room is made at a time for the rest of a long message.
const GROW_MIN: usize = 4 << 10;
const GROW_MAX: usize = 1 << 20;
/// Bytes that a connection may read, and write, before others of its worker have their turn.
const TURN_BYTES: usize = 1 << 20;

/// The buffer that all connections of a worker read into.
pub struct Scratch(RefCell<Box<[u8]>>);

impl Scratch {
    /// One for a worker.
    pub fn new() -> Rc<Scratch> {
        Rc::new(Scratch(RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice())))
    }
}

/// What became of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// How many bytes were used up; the rest is shown again, with more behind it.
    pub used: usize,
    /// How many bytes in all the message after those needs, as far as known.
    pub need: usize,
    /// What to do then.
    pub then: Then,
}

/// What to do after bytes were received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Read more.
    Read,
    /// Read nothing, and show the rest again, after [`Conn::resume`], which is called also when all output is written.
    Wait,
    /// Write what is there to be written, then close.
    Close,
}

impl Received {
    /// `used` bytes, then read on.
    pub fn used(used: usize) -> Received {
        Received { used, need: 0, then: Then::Read }
    }

    /// `used` bytes, then wait for [`Conn::resume`].
    pub fn wait(used: usize) -> Received {
        Received { used, need: 0, then: Then::Wait }
    }

    /// Close after what is to be written.
    pub fn close() -> Received {
        Received { used: 0, need: 0, then: Then::Close }
    }
}

#[derive(Default)]
struct Output {
    buffer: Vec<u8>,
    written: usize,
    /// How much there was last time.
    last_len: usize,
}

/// The writing side of a connection, and its state.
pub struct Conn {
    turn: Rc<Turn>,
    output: RefCell<Output>,
    /// None once closed: dropping it tells the peer.
    writer: RefCell<Option<WriteHalf>>,
    /// In the turn's list.
    dirty: Cell<bool>,
    /// The system takes no more for now; a task waits to go on.
    blocked: Cell<bool>,
    closed: Cell<bool>,
    closing: Cell<bool>,
    waiting: Cell<bool>,
    /// What was not used up is to be shown again before more is read.
    again: Cell<bool>,
    again_when_drained: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Conn {
    /// Takes over a stream. The reading half goes to [`read_loop`].
    pub fn new(stream: impl Into<Stream>, turn: &Rc<Turn>) -> (Rc<Conn>, ReadHalf) {
        let (read, write) = stream.into().into_split();
        // Answers are written in whole batches already; waiting for more would only add latency.
        write.set_nodelay(true);
        let conn = Conn {
            turn: turn.clone(),
            output: RefCell::default(),
            writer: RefCell::new(Some(write)),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            closed: Cell::new(false),
            closing: Cell::new(false),
            waiting: Cell::new(false),
            again: Cell::new(false),
            again_when_drained: Cell::new(false),
            reader: RefCell::default(),
        };
        (Rc::new(conn), read)
    }

    /// Appends output, to be written at the end of the turn. On a closed connection it is discarded.
    #[inline]
    pub fn write<R>(self: &Rc<Self>, append: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut output = self.output.borrow_mut();
        if output.buffer.capacity() == 0 {
            output.buffer = self.turn.take_buffer(output.last_len);
        }
        let result = append(&mut output.buffer);
        drop(output);
        if !self.dirty.replace(true) {
            self.turn.mark(self.clone());
        }
        result
    }

    /// Bytes waiting to be written.
    pub fn backlog(&self) -> usize {
        let output = self.output.borrow();
        output.buffer.len() - output.written
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Sets TCP_NODELAY; false when the system refuses.
    pub fn set_nodelay(&self, on: bool) -> bool {
        let writer = self.writer.borrow();
        writer.as_ref().is_some_and(|w| w.set_nodelay(on))
    }

    /// Closes at once, without writing what waits, and ends the reading loop.
    pub fn close(&self) {
        self.closed.set(true);
        self.output.replace(Output::default());
        self.writer.replace(None);
        self.wake_reader();
    }

    /// Waits until the connection is closed, by whichever side. Not while it is being read.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            if self.closed.get() {
                return Poll::Ready(());
            }
            *self.reader.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Closes once everything is written. Nothing is read any more.
    pub fn close_when_written(self: &Rc<Self>) {
        self.closing.set(true);
        self.write(|_| ());
        self.wake_reader();
    }

    /// Ends the wait that [`Then::Wait`] began.
    pub fn resume(&self) {
        if self.waiting.replace(false) {
            self.again.set(true);
            self.wake_reader();
        }
    }

    /// Has what was not used up shown again, waiting or not, once everything is written. With nothing to write that is
    /// at the end of this turn.
    pub fn show_again_when_written(self: &Rc<Self>) {
        if !self.again_when_drained.replace(true) {
            self.write(|_| ());
        }
    }

    fn wake_reader(&self) {
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Writes as much as the system takes; the rest is left to a task of its own.
    pub(super) fn flush(self: &Rc<Self>) {
        self.dirty.set(false);
        if self.blocked.get() || self.closed.get() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_drain(&mut cx).is_pending() {
            self.blocked.set(true);
            let conn = self.clone();
            tokio::task::spawn_local(async move {
                poll_fn(|cx| conn.poll_drain(cx)).await;
                conn.blocked.set(false);
            });
        }
    }

    /// Ready when everything is written or the connection is closed.
    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut output = self.output.borrow_mut();
        let turn_end = output.written.saturating_add(TURN_BYTES);
        while output.written < output.buffer.len() {
            if output.written >= turn_end {
                return yield_turn(cx);
            }
            let mut writer = self.writer.borrow_mut();
            let Some(open) = writer.as_mut() else { return Poll::Ready(()) };
            let end = output.buffer.len().min(turn_end);
            match ready!(Pin::new(open).poll_write(cx, &output.buffer[output.written..end])) {
                Ok(n) if n > 0 => output.written += n,
                // Nothing taken without an error does not happen on a socket; treat it as closed.
                Ok(_) | Err(_) => {
                    drop((output, writer));
                    self.close();
                    return Poll::Ready(());
                }
            }
        }
        (output.written, output.last_len) = (0, output.buffer.len());
        self.turn.give_buffer(std::mem::take(&mut output.buffer));
        drop(output);
        if self.closing.get() {
            self.close();
        } else if self.again_when_drained.take() {
            self.waiting.set(false);
            self.again.set(true);
            self.wake_reader();
        }
        // Whoever waits because of what waited here may go on.
        self.resume();
        Poll::Ready(())
    }
}

/// Why a reading loop ended.
#[derive(Debug)]
pub enum Ended {
    /// The peer closed its side.
    Eof,
    /// It was closed from here.
    Closed,
    /// The connection broke.
    Failed(io::Error),
}

/// Reads until the connection ends, handing what came to `receive`, which gets all bytes not used up so far. Then the
/// connection is closed.
pub async fn read_loop(
    conn: &Rc<Conn>,
    mut read: ReadHalf,
    scratch: &Scratch,
    receive: impl FnMut(&[u8]) -> Received,
) -> Ended {
    let ended = read_until_ended(conn, &mut read, scratch, receive).await;
    conn.close();
    ended
}

/// As [`read_loop`], but leaves the connection open: a peer that closed its side may still read.
pub async fn read_until_ended(
    conn: &Rc<Conn>,
    read: &mut ReadHalf,
    scratch: &Scratch,
    mut receive: impl FnMut(&[u8]) -> Received,
) -> Ended {
    let mut kept: Vec<u8> = Vec::new();
    let mut need = 0;
    poll_fn(|cx| {
        let mut turn_bytes = 0;
        loop {
            if conn.closed.get() {
                return Poll::Ready(Ended::Closed);
            }
            if turn_bytes >= TURN_BYTES {
                return yield_turn(cx);
            }
            let mut reader = conn.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *reader = Some(cx.waker().clone());
            }
            drop(reader);
            if conn.waiting.get() || conn.closing.get() {
                return Poll::Pending;
            }
            let received = if conn.again.take() {
                let received = receive(&kept);
                kept.drain(..received.used);
                received
            } else if kept.is_empty() {
                let mut scratch = scratch.0.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                match ready!(Pin::new(&mut *read).poll_read(cx, &mut buffer)) {
                    Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ended::Eof),
                    Ok(()) => {}
                    Err(e) => return Poll::Ready(Ended::Failed(e)),
                }
                turn_bytes += buffer.filled().len();
                let received = receive(buffer.filled());
                kept.extend_from_slice(&buffer.filled()[received.used..]);
                received
            } else {
                match ready!(poll_read_more(cx, read, &mut kept, need)) {
                    Ok(0) => return Poll::Ready(Ended::Eof),
                    Ok(len) => turn_bytes += len,
                    Err(e) => return Poll::Ready(Ended::Failed(e)),
                }
                let received = receive(&kept);
                kept.drain(..received.used);
                received
            };
            if kept.is_empty() {
                kept = Vec::new();
            }
            need = received.need;
            match received.then {
                Then::Read => {}
                Then::Wait => conn.waiting.set(true),
                Then::Close => conn.close_when_written(),
            }
        }
    })
    .await
}

/// Goes on when the others that are ready, and those of whom the system has news, have had their turn.
fn yield_turn<T>(cx: &mut Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

/// Reads behind `kept`, whose message needs `need` bytes in all; room is made only as bytes come.
fn poll_read_more(
    cx: &mut Context<'_>,
    read: &mut ReadHalf,
    kept: &mut Vec<u8>,
    need: usize,
) -> Poll<io::Result<usize>> {
    let missing = need.saturating_sub(kept.len()).clamp(GROW_MIN, GROW_MAX);
    if kept.capacity() - kept.len() < missing {
        // Twice as much each time, but not more than the message has, where that is known: one that tells no length is looked
        // at from its beginning with each read, so these have to become fewer.
        let most = if missing > GROW_MIN { need } else { usize::MAX };
        let doubled = (2 * kept.capacity()).min(most).max(kept.len() + missing);
        kept.reserve_exact(doubled - kept.len());
    }
    let room = kept.spare_capacity_mut();
    let len = room.len().min(TURN_BYTES);
    let mut buffer = ReadBuf::uninit(&mut room[..len]);
    ready!(Pin::new(read).poll_read(cx, &mut buffer))?;
    let filled = buffer.filled().len();
    // SAFETY: `poll_read` filled, so initialised, the first `filled` bytes of the spare capacity.
    unsafe { kept.set_len(kept.len() + filled) };
    Poll::Ready(Ok(filled))
}

#[cfg(test)]
mod tests;
