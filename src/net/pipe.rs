//! Pipes: connections between two roles of one process, which cross no socket.
//!
//! A pipe's ends behave as those of a TCP connection do: bytes arrive in order, a writer waits while its reader is behind,
//! and an end that is dropped is the end of the file to the other. So what is said over a pipe is what would be said over
//! a socket, by the same code ([`super::conn`]). The ends may be in different threads. On one thread the reader's task is
//! woken into the same poll of the event loop, and no system call is made.
//!
//! [`Doors`] is where a server says that it can be reached so, and where a gateway looks before it opens a socket.

use crate::logic::address::Address;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

/// Bytes that a pipe holds in one direction; as much as a reader takes at once. It keeps the memory that it has once
/// needed: pipes are few, and giving it back would cost an allocation for each batch.
const CAPACITY: usize = 256 << 10;

/// One direction.
#[derive(Default)]
struct Channel {
    buffer: Vec<u8>,
    /// How much of it was read.
    taken: usize,
    /// One of its ends is gone.
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared = Arc<Mutex<Channel>>;

fn lock(channel: &Shared) -> MutexGuard<'_, Channel> {
    channel.lock().expect("no holder of a pipe panics")
}

/// An end is gone: whoever waits at the other is told.
fn end(channel: &Shared) {
    let mut channel = lock(channel);
    channel.ended = true;
    let wakers = [channel.reader.take(), channel.writer.take()];
    drop(channel);
    wakers.into_iter().flatten().for_each(Waker::wake);
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

/// One end of a pipe.
pub struct Pipe {
    reader: Reader,
    writer: Writer,
}

impl Pipe {
    /// Both ends of a new pipe.
    pub fn pair() -> (Pipe, Pipe) {
        let (one, other) = (Shared::default(), Shared::default());
        let end = |from: &Shared, to: &Shared| Pipe { reader: Reader(from.clone()), writer: Writer(to.clone()) };
        (end(&one, &other), end(&other, &one))
    }

    /// Its two halves.
    pub fn into_split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

/// The reading half of an end.
pub struct Reader(Shared);

/// The writing half of an end.
pub struct Writer(Shared);

impl Drop for Reader {
    fn drop(&mut self) {
        end(&self.0);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        end(&self.0);
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A writer in another thread might keep this task from ever letting others run.
        let budget = ready!(coop::poll_proceed(cx));
        let mut channel = lock(&self.0);
        let Channel { buffer, taken, ended, reader, writer } = &mut *channel;
        if *taken == buffer.len() {
            if *ended {
                return Poll::Ready(Ok(()));
            }
            keep(reader, cx);
            return Poll::Pending;
        }
        budget.made_progress();
        let rest = &buffer[*taken..];
        let len = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..len]);
        *taken += len;
        if *taken == buffer.len() {
            *taken = 0;
            buffer.clear();
        }
        let waker = writer.take();
        drop(channel);
        waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut channel = lock(&self.0);
        if channel.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = CAPACITY - channel.buffer.len();
        if room == 0 {
            keep(&mut channel.writer, cx);
            return Poll::Pending;
        }
        let len = room.min(bytes.len());
        channel.buffer.extend_from_slice(&bytes[..len]);
        let waker = channel.reader.take();
        drop(channel);
        waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        end(&self.0);
        Poll::Ready(Ok(()))
    }
}

/// Takes the other end of a pipe to a worker; false: nobody is there any more.
type Door = Box<dyn Fn(u16, Pipe) -> bool + Send + Sync>;

/// The servers of this process, and how to reach them by a pipe.
#[derive(Default)]
pub struct Doors(Mutex<BTreeMap<Address, Door>>);

impl Doors {
    /// The server at `address` can be reached.
    pub fn open(&self, address: Address, door: impl Fn(u16, Pipe) -> bool + Send + Sync + 'static) {
        self.doors().insert(address, Box::new(door));
    }

    /// It takes no new connections any more.
    pub fn close(&self, address: Address) {
        self.doors().remove(&address);
    }

    /// A pipe to a worker of the server at `address`; `None`: there is no such server in this process.
    pub fn connect(&self, address: Address, worker: u16) -> Option<Pipe> {
        let doors = self.doors();
        let door = doors.get(&address)?;
        let (ours, theirs) = Pipe::pair();
        door(worker, theirs).then_some(ours)
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<Address, Door>> {
        self.0.lock().expect("no holder of the doors panics")
    }
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.doors().keys()).finish()
    }
}

#[cfg(test)]
mod tests;
