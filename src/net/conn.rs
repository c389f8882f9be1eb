//! A connection: an output buffer that the end of the turn writes, and a loop that reads into a shared buffer.
//!
//! An idle connection holds no buffers. Input is read into a scratch buffer of the worker's and handed on from there; only
//! the beginning of an incomplete message is kept. Output beyond what the system takes waits in the connection, which
//! says how much that is, so that its owner stops reading from a peer that does not read ([`Received::wait`]). Long output
//! need not be copied into the buffer to be written: the system is given it at once ([`Conn::write_through`]), or it is kept
//! where it is ([`Conn::write_piece`]).

use super::stream::{ReadHalf, Stream, WriteHalf};
use super::time::Instant;
use super::turn::Turn;
use super::unread::{Share, Unread};
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one read may bring.
const SCRATCH_LEN: usize = 256 << 10;
/// How much room is made at a time for the rest of a long message.
const GROW_MIN: usize = 4 << 10;
const GROW_MAX: usize = 1 << 20;
/// Bytes that a connection may read, and write, before others of its worker have their turn; and that all of a thread's connections
/// may read before the event loop looks for news of the sockets.
const TURN_BYTES: usize = 256 << 10;

/// Output of so many bytes is worth a system call of its own, which [`Conn::write_through`] makes, rather than a copy. Below half of
/// it, what is saved by one call for many answers is more.
pub const THROUGH_BYTES: usize = if cfg!(feature = "sim") { 128 } else { 32 << 10 };

thread_local! {
    /// Bytes that connections have read since the event loop surely looked for news. Without this count it looks when nobody is ready,
    /// or when 61 tasks have had their turn: where large values go through pipes between roles of one thread, somebody always is,
    /// and the turns of 61 of them took 20 ms.
    static READ_BYTES: Cell<usize> = const { Cell::new(0) };
}

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
    /// What comes behind the buffer, where there are long pieces; then everything that follows is there.
    behind: Option<Box<Behind>>,
}

/// Long pieces, each with what was written behind it.
#[derive(Default)]
struct Behind {
    pieces: VecDeque<(Piece, Vec<u8>)>,
}

impl Output {
    /// Where output is appended.
    #[inline]
    fn end(&mut self) -> &mut Vec<u8> {
        match self.behind.as_mut().and_then(|behind| behind.pieces.back_mut()) {
            None => &mut self.buffer,
            Some((_, rest)) => rest,
        }
    }

    /// What is next to be written. Not to be called when all is.
    fn rest(&self) -> &[u8] {
        if self.written < self.buffer.len() {
            return &self.buffer[self.written..];
        }
        self.behind.as_ref().and_then(|behind| behind.pieces.front()).map_or(&[], |(piece, _)| piece.rest())
    }

    /// So much of it was written.
    fn advance(&mut self, n: usize) {
        if self.written < self.buffer.len() {
            self.written += n;
        } else if let Some((piece, _)) = self.behind.as_mut().and_then(|behind| behind.pieces.front_mut()) {
            piece.written += n;
        }
    }

    /// With the buffer written: goes on to what comes behind it; false when there is nothing.
    #[inline]
    fn reach_piece(&mut self, turn: &Turn) -> bool {
        self.behind.is_some() && self.reach_piece_behind(turn)
    }

    #[cold]
    fn reach_piece_behind(&mut self, turn: &Turn) -> bool {
        while let Some(behind) = &mut self.behind {
            if behind.pieces.front().is_some_and(|(piece, _)| !piece.rest().is_empty()) {
                return true;
            }
            let rest = behind.pieces.pop_front().map(|(_, rest)| rest).unwrap_or_default();
            if behind.pieces.is_empty() {
                self.behind = None;
            }
            turn.give_buffer(std::mem::replace(&mut self.buffer, rest));
            self.written = 0;
            if !self.buffer.is_empty() {
                return true;
            }
        }
        false
    }

    fn len(&self) -> usize {
        let behind = self
            .behind
            .as_ref()
            .map_or(0, |behind| behind.pieces.iter().map(|(piece, rest)| piece.rest().len() + rest.len()).sum());
        self.buffer.len() - self.written + behind
    }
}

/// Output that is long, and written from where it is.
pub struct Piece {
    bytes: Rc<Vec<u8>>,
    written: usize,
    /// Let go when it is written, or the connection is closed.
    _held: Box<dyn Any>,
}

impl Piece {
    /// The bytes from `from` on; `held` is dropped when they are written.
    pub fn new(bytes: Rc<Vec<u8>>, from: usize, held: impl Any) -> Piece {
        Piece { bytes, written: from, _held: Box::new(held) }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
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
    /// Who receives wants to keep what was used up.
    kept: Cell<Option<Kept>>,
    /// A message of so many bytes gets its room at once.
    expected: Cell<usize>,
    /// Where what the peer does not take is counted.
    unread: OnceCell<Share>,
}

/// Input that whoever received it keeps as it was read. It is there when the call that it was shown in has returned.
pub type Kept = Rc<OnceCell<Vec<u8>>>;

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
            kept: Cell::new(None),
            expected: Cell::new(0),
            unread: OnceCell::new(),
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
        let result = append(output.end());
        drop(output);
        if !self.dirty.replace(true) {
            self.turn.mark(self.clone());
        }
        result
    }

    /// Appends a long piece of output, which is not copied.
    pub fn write_piece(self: &Rc<Self>, piece: Piece) {
        if !self.closed.get() {
            self.output.borrow_mut().behind.get_or_insert_default().pieces.push_back((piece, Vec::new()));
        }
        self.write(|_| ());
    }

    /// Appends `long` and then `behind`, as [`write`](Conn::write) would, but has the system take them now, with all that waits
    /// before them, from where they are. Only what it does not take is copied.
    pub fn write_through(self: &Rc<Self>, long: &[u8], behind: &[u8]) {
        let taken = self.push_through(long, behind);
        self.write(|out| {
            out.extend_from_slice(&long[taken.min(long.len())..]);
            out.extend_from_slice(&behind[taken.saturating_sub(long.len())..]);
        });
    }

    /// Writes what waits, `long` and `behind`; returns how many bytes of the latter two the system took.
    fn push_through(&self, long: &[u8], behind: &[u8]) -> usize {
        let mut output = self.output.borrow_mut();
        let mut writer = self.writer.borrow_mut();
        let Some(open) = writer.as_mut().filter(|_| !self.blocked.get() && output.behind.is_none()) else { return 0 };
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = 0;
        while taken < long.len() + behind.len() {
            let rests = [
                &output.buffer[output.written..],
                &long[taken.min(long.len())..],
                &behind[taken.saturating_sub(long.len())..],
            ];
            // What fails here fails again at the end of the turn, which closes the connection.
            let Poll::Ready(Ok(n @ 1..)) = Pin::new(&mut *open).poll_write_vectored(&mut cx, &rests.map(IoSlice::new))
            else {
                break;
            };
            let of_buffer = n.min(rests[0].len());
            output.written += of_buffer;
            taken += n - of_buffer;
        }
        taken
    }

    /// Bytes waiting to be written.
    pub fn backlog(&self) -> usize {
        self.output.borrow().len()
    }

    /// Has what the peer does not take counted. To be said once.
    pub fn count_unread(&self, all: &Unread) {
        // A second share would be dropped, and count nothing.
        let _ = self.unread.set(Share::new(all));
    }

    /// How much the peer does not take, and since when it has taken nothing of it, where that is counted.
    pub fn unread(&self) -> Option<(usize, Instant)> {
        self.unread.get()?.get()
    }

    fn note_unread(&self, bytes: usize, moved: bool) {
        if let Some(share) = self.unread.get() {
            share.set(bytes, moved);
        }
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
        self.note_unread(0, false);
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

    /// Keeps the bytes that are being shown, from the first to the last one that will be used up. To be called while they are
    /// received. Many of them are not copied for that.
    pub fn keep_input(&self) -> Kept {
        let kept = self.kept.take().unwrap_or_default();
        self.kept.set(Some(kept.clone()));
        kept
    }

    /// Lets the next message, of up to so many bytes, have all of its room at once, so that it is not copied while it grows. The
    /// caller bounds how many such messages there are.
    pub fn expect(&self, bytes: usize) {
        self.expected.set(bytes);
    }

    /// Takes what was used up away.
    fn use_up(&self, input: &mut Vec<u8>, used: usize) {
        match self.kept.take() {
            None => drop(input.drain(..used)),
            Some(kept) => {
                let rest = input.split_off(used);
                // Nobody else sets it.
                let _ = kept.set(std::mem::replace(input, rest));
            }
        }
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

    /// Writes as much as the system takes; the rest is left to a task of its own. The end of a turn does so for each connection
    /// that was written to; before that, for what should not wait for the rest of the turn.
    pub fn flush(self: &Rc<Self>) {
        if !self.dirty.replace(false) {
            // Nothing came since it was flushed: what it wrote last stays known, for the size of its next buffer.
            return;
        }
        if self.blocked.get() || self.closed.get() {
            if !self.closed.get() {
                self.note_unread(self.backlog(), false);
            }
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
        let mut held = self.output.borrow_mut();
        let mut left = TURN_BYTES;
        loop {
            let output = &mut *held;
            if output.written == output.buffer.len() && !output.reach_piece(&self.turn) {
                break;
            }
            if left == 0 {
                self.note_unread(output.len(), true);
                return yield_turn(cx);
            }
            let mut writer = self.writer.borrow_mut();
            let Some(open) = writer.as_mut() else { return Poll::Ready(()) };
            let rest = output.rest();
            let Poll::Ready(written) = Pin::new(open).poll_write(cx, &rest[..rest.len().min(left)]) else {
                self.note_unread(output.len(), left < TURN_BYTES);
                return Poll::Pending;
            };
            match written {
                Ok(n) if n > 0 => {
                    left -= n;
                    output.advance(n);
                }
                // Nothing taken without an error does not happen on a socket; treat it as closed.
                Ok(_) | Err(_) => {
                    drop((held, writer));
                    self.close();
                    return Poll::Ready(());
                }
            }
        }
        let output = &mut *held;
        // It may write much and little by turns: what it wrote a few times ago counts, too.
        (output.written, output.last_len) = (0, output.buffer.len().max(output.last_len / 2));
        self.turn.give_buffer(std::mem::take(&mut output.buffer));
        drop(held);
        if self.blocked.get() {
            self.note_unread(0, true);
        }
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
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::take(&mut yielded) {
            READ_BYTES.set(0);
        }
        let mut has_read = false;
        loop {
            if conn.closed.get() {
                return Poll::Ready(Ended::Closed);
            }
            // Everybody may read once, so that nobody waits for ever.
            if has_read && READ_BYTES.get() >= TURN_BYTES {
                yielded = true;
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
                conn.use_up(&mut kept, received.used);
                received
            } else if kept.is_empty() {
                let mut scratch = scratch.0.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                match ready!(Pin::new(&mut *read).poll_read(cx, &mut buffer)) {
                    Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ended::Eof),
                    Ok(()) => {}
                    Err(e) => return Poll::Ready(Ended::Failed(e)),
                }
                READ_BYTES.set(READ_BYTES.get() + buffer.filled().len());
                has_read = true;
                let received = receive(buffer.filled());
                if let Some(wanted) = conn.kept.take() {
                    let _ = wanted.set(buffer.filled()[..received.used].to_vec());
                }
                kept.extend_from_slice(&buffer.filled()[received.used..]);
                received
            } else {
                match ready!(poll_read_more(cx, read, &mut kept, need, conn.expected.get())) {
                    Ok(0) => return Poll::Ready(Ended::Eof),
                    Ok(len) => READ_BYTES.set(READ_BYTES.get() + len),
                    Err(e) => return Poll::Ready(Ended::Failed(e)),
                }
                has_read = true;
                let received = receive(&kept);
                conn.use_up(&mut kept, received.used);
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

/// Memory from so many bytes on is asked for in large pages.
const LARGE_PAGES_FROM: usize = 4 << 20;

/// Has the system give the memory of a long buffer in large pages, where it does that: filling a value of 128 MiB then costs 64 page
/// faults, and not 32,768.
pub fn prefer_large_pages(buffer: &Vec<u8>) {
    #[cfg(target_os = "linux")]
    if buffer.capacity() >= LARGE_PAGES_FROM {
        const PAGE: usize = 4096;
        let start = (buffer.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (buffer.as_ptr() as usize + buffer.capacity()) / PAGE * PAGE;
        // SAFETY: the range lies within the buffer's own memory, and this is advice, which changes none of its bytes. A system that
        // does not know it refuses, and all stays as it was.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Reads behind `kept`, whose message needs `need` bytes in all; room is made only as bytes come, unless so many are `expected`.
fn poll_read_more(
    cx: &mut Context<'_>,
    read: &mut ReadHalf,
    kept: &mut Vec<u8>,
    need: usize,
    expected: usize,
) -> Poll<io::Result<usize>> {
    let missing = need.saturating_sub(kept.len()).clamp(GROW_MIN, GROW_MAX);
    if kept.capacity() < need && need <= expected && kept.try_reserve_exact(need - kept.len()).is_ok() {
        prefer_large_pages(kept);
    }
    // What is expected has its room to the last byte: for more, all of it would move.
    let is_there = need > kept.len() && kept.capacity() >= need && need <= expected;
    if kept.capacity() - kept.len() < missing && !is_there {
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
