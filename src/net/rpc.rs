//! A MessagePack-RPC connection for the control plane: requests and answers in both directions on one socket.
//!
//! An [`RpcConn`] is a cheap handle. Two tasks of the current [`tokio::task::LocalSet`] read and write; nothing here
//! starts a thread. What comes in goes to one handler as [`Event`]s: first `Opened`, then requests, at last `Closed`,
//! once. Each side of a connection between nodes first sends a hello; a connection whose first message is none is a
//! client's (`doc/protocol.md`, "Encoding").
//!
//! Memory is bounded by [`Limits`]: a message longer than `frame` is malformed; no request is read while more than
//! `unsent` bytes wait to be sent; a peer to which four times as much waits does not read, and is hung up on.

use super::dial::dial;
use super::sock::TcpStream;
use crate::logic::address::Address;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{self, FrameError, Role};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time;

mod reader;

use reader::Reader;

/// Bounds on what a peer can make a connection hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest message in bytes that is read.
    pub frame: usize,
    /// The same for accepted connections whose peer is no node: their requests are small.
    pub client_frame: usize,
    /// Bytes waiting to be sent above which no more requests are read.
    pub unsent: usize,
    /// How long hanging up waits for the peer to take what it is still owed.
    pub linger: Duration,
}

impl Default for Limits {
    /// Fit for managers: room for the longest epoch many times over, and no more.
    fn default() -> Limits {
        Limits { frame: 4 << 20, client_frame: 64 << 10, unsent: 1 << 20, linger: Duration::from_secs(1) }
    }
}

/// Who the peer is, as its first message told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// It sent a hello.
    Node(Address, Role),
    /// It did not.
    Client,
}

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke before the answer; whether the peer acted is not known.
    #[error("the connection broke")]
    Lost,
    /// No answer in time; whether the peer acted, or will, is not known.
    #[error("no answer in time")]
    Timeout,
    /// The peer answered with an error number ([`error`]) and a result, which is nil in version 0.
    #[error("refused with error {0}")]
    Refused(u32, Vec<u8>),
}

impl CallError {
    /// The error number that stands for this in version 0.
    pub fn number(&self) -> u32 {
        match self {
            CallError::Lost => error::TRANSPORT_LOST,
            CallError::Timeout => error::TIMEOUT,
            CallError::Refused(number, _) => *number,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Closed {
    /// The peer closed it, or the network broke it.
    #[error("closed by the peer")]
    ByPeer,
    /// This side closed it.
    #[error("closed by us")]
    ByUs,
    /// The peer sent what is no message, or one that may not stand there.
    #[error("malformed input: {0}")]
    Malformed(#[from] FrameError),
    /// The peer does not read what it is sent.
    #[error("the peer does not read")]
    Unread,
}

/// What happens on a connection.
#[derive(Debug)]
pub enum Event {
    /// The first message told who the peer is. Comes before all else; not on a client's own end, which knows.
    Opened(Peer),
    /// A request came.
    Request(Incoming),
    /// The connection is no more. Comes last, once, also when it was never opened.
    Closed(Closed),
}

/// What takes the events of one or many connections. It must not block; to answer later it starts a local task.
pub type Handler = Rc<dyn Fn(&RpcConn, Event)>;

/// A request of the peer.
#[derive(Debug)]
pub struct Incoming {
    /// version << 16 | id
    pub method: u32,
    /// The parameters: an array, encoded and complete.
    pub params: Vec<u8>,
    /// Answers it.
    pub reply: Reply,
}

/// Answers one request, now or later. Dropped without an answer, it answers error 4, so that no peer waits in vain.
#[derive(Debug)]
pub struct Reply {
    conn: RpcConn,
    msgid: u32,
    answered: bool,
}

impl Reply {
    /// Answers with a result.
    pub fn success(mut self, result: impl FnOnce(&mut Vec<u8>)) {
        self.send(|out, msgid| {
            frame::write_success(out, msgid);
            result(out);
        });
    }

    /// Answers with an error number and nil.
    pub fn error(mut self, number: u32) {
        self.send(|out, msgid| frame::write_error(out, msgid, number));
    }

    /// Answers with an error number and a result.
    pub fn error_with(mut self, number: u32, result: impl FnOnce(&mut Vec<u8>)) {
        self.send(|out, msgid| {
            frame::write_error_head(out, msgid, number);
            result(out);
        });
    }

    /// For an unknown method or wrong types: answers error 5 and hangs up, as kumofs does.
    pub fn protocol_error(mut self) {
        self.send(|out, msgid| frame::write_error(out, msgid, error::PROTOCOL));
        self.conn.hang_up();
    }

    /// For methods that are never answered.
    pub fn none(mut self) {
        self.answered = true;
    }

    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>, u32)) {
        self.answered = true;
        self.conn.append(|out| write(out, self.msgid));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            self.send(|out, msgid| frame::write_error(out, msgid, error::UNKNOWN));
        }
    }
}

/// The encoded result of a call, or why there is none.
pub type Answer = Result<Vec<u8>, CallError>;

/// A call under way. It borrows nothing, so it may be awaited in a task of its own.
pub type Call = Pin<Box<dyn Future<Output = Answer>>>;

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// What waits is still sent; what comes is thrown away.
    HangingUp(Closed),
    Closed(Closed),
}

struct Inner {
    remote: Option<SocketAddr>,
    limits: Limits,
    peer: Cell<Option<Peer>>,
    unsent: RefCell<Vec<u8>>,
    /// Bytes that the writer has taken from `unsent` and not yet given to the system.
    in_flight: Cell<usize>,
    /// Wakes the writer.
    written: Notify,
    /// Wakes a reader that waits for the peer to take its answers.
    drained: Notify,
    /// The reader has seen the end of the input.
    input_ended: Notify,
    calls: RefCell<BTreeMap<u32, oneshot::Sender<Answer>>>,
    next_msgid: Cell<u32>,
    state: watch::Sender<State>,
    /// Taken when `Closed` has been told.
    handler: RefCell<Option<Handler>>,
}

/// A connection. Clones are the same one. It lives until one side closes it, not until its handles are gone.
#[derive(Clone)]
pub struct RpcConn(Rc<Inner>);

impl fmt::Debug for RpcConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcConn({:?}, {:?})", self.0.remote, *self.0.state.borrow())
    }
}

impl PartialEq for RpcConn {
    fn eq(&self, other: &RpcConn) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// Who sends the first message, and what it must be.
#[derive(Clone, Copy)]
enum Opening {
    /// Ours was a hello; the peer's must be one.
    HelloSent,
    /// The peer's first message tells; a hello is answered with this one.
    Accepted(Address, Role),
    /// This is a client's own end; no hello may come.
    Client,
}

impl RpcConn {
    /// Takes an accepted connection. A hello is answered with `own`.
    pub fn accept(stream: TcpStream, own: (Address, Role), limits: Limits, handler: Handler) -> RpcConn {
        let remote = prepare(&stream);
        RpcConn::start(stream, remote, Opening::Accepted(own.0, own.1), limits, handler)
    }

    /// Connects to another node and sends the hello `own` at once. The peer is known when `Opened` came.
    ///
    /// # Errors
    /// Those of connecting; `TimedOut` after `timeout`.
    pub async fn connect_node(
        to: SocketAddr,
        own: (Address, Role),
        timeout: Duration,
        limits: Limits,
        handler: Handler,
    ) -> io::Result<RpcConn> {
        let stream = connect(to, timeout).await?;
        Ok(RpcConn::node(stream, Some(to), own, limits, handler))
    }

    /// Connects as a client, which sends no hello.
    ///
    /// # Errors
    /// As [`connect_node`](RpcConn::connect_node).
    pub async fn connect_client(
        to: SocketAddr,
        timeout: Duration,
        limits: Limits,
        handler: Handler,
    ) -> io::Result<RpcConn> {
        let stream = connect(to, timeout).await?;
        Ok(RpcConn::start(stream, Some(to), Opening::Client, limits, handler))
    }

    fn node<S>(stream: S, remote: Option<SocketAddr>, own: (Address, Role), limits: Limits, handler: Handler) -> RpcConn
    where
        S: AsyncRead + AsyncWrite + 'static,
    {
        let conn = RpcConn::start(stream, remote, Opening::HelloSent, limits, handler);
        conn.append(|out| frame::write_hello(out, own.0, own.1));
        conn
    }

    fn start<S>(stream: S, remote: Option<SocketAddr>, opening: Opening, limits: Limits, handler: Handler) -> RpcConn
    where
        S: AsyncRead + AsyncWrite + 'static,
    {
        let conn = RpcConn(Rc::new(Inner {
            remote,
            limits,
            peer: Cell::new(None),
            unsent: RefCell::default(),
            in_flight: Cell::new(0),
            written: Notify::new(),
            drained: Notify::new(),
            input_ended: Notify::new(),
            calls: RefCell::default(),
            next_msgid: Cell::new(0),
            state: watch::Sender::new(State::Open),
            handler: RefCell::new(Some(handler)),
        }));
        let (read_half, write_half) = tokio::io::split(stream);
        let reader = Reader::new(conn.clone(), opening);
        tokio::task::spawn_local(reader.run(read_half));
        tokio::task::spawn_local(conn.clone().write_task(write_half));
        conn
    }

    /// The socket's other end, if it is known.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.0.remote
    }

    /// Who the peer is; `None` before its first message, and on a client's own end.
    pub fn peer(&self) -> Option<Peer> {
        self.0.peer.get()
    }

    /// Whether more can be sent.
    pub fn is_open(&self) -> bool {
        *self.0.state.borrow() == State::Open
    }

    /// Waits for the end.
    pub async fn closed(&self) -> Closed {
        let mut state = self.0.state.subscribe();
        let ended = state.wait_for(|s| matches!(s, State::Closed(_))).await.map(|s| *s);
        match ended {
            Ok(State::Closed(why)) => why,
            _ => Closed::ByUs,
        }
    }

    /// Sends a request, at once, and then waits for its answer. `params` appends the parameters, an array. Dropping the
    /// future forgets the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, method: u32, params: impl FnOnce(&mut Vec<u8>), timeout: Duration) -> Call {
        self.call_with(
            |out, msgid| {
                frame::write_request(out, msgid, method);
                params(out);
            },
            timeout,
        )
    }

    /// As [`call`](RpcConn::call); `write` appends the whole request, given its msgid.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_with(&self, write: impl FnOnce(&mut Vec<u8>, u32), timeout: Duration) -> Call {
        let msgid = self.take_msgid();
        let (sender, receiver) = oneshot::channel();
        if self.is_open() {
            self.0.calls.borrow_mut().insert(msgid, sender);
            self.append(|out| write(out, msgid));
        }
        let pending = PendingCall { conn: self.clone(), msgid };
        Box::pin(async move {
            let answer = time::timeout(timeout, receiver).await;
            drop(pending);
            match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(CallError::Lost),
                Err(_) => Err(CallError::Timeout),
            }
        })
    }

    /// Sends a request whose answer, if any, is of no interest.
    pub fn notify(&self, method: u32, params: impl FnOnce(&mut Vec<u8>)) {
        let msgid = self.take_msgid();
        self.append(|out| {
            frame::write_request(out, msgid, method);
            params(out);
        });
    }

    /// Closes at once; what waits to be sent is dropped. The handler is told later, not from within this.
    pub fn close(&self) {
        self.end(Closed::ByUs);
    }

    /// Closes when what waits has been sent, or after [`Limits::linger`]. Nothing more is handled.
    pub fn hang_up(&self) {
        self.start_hanging_up(Closed::ByUs);
    }

    fn start_hanging_up(&self, why: Closed) {
        self.0.state.send_if_modified(|state| {
            let open = *state == State::Open;
            if open {
                *state = State::HangingUp(why);
            }
            open
        });
        self.0.calls.take();
        self.0.written.notify_one();
    }

    /// Ends the connection. The tasks see it and stop; the writer, the last, tells the handler.
    fn end(&self, why: Closed) {
        self.0.state.send_if_modified(|state| {
            let first = !matches!(state, State::Closed(_));
            if first {
                *state = State::Closed(why);
            }
            first
        });
        self.0.calls.take();
        self.0.unsent.take();
    }

    fn take_msgid(&self) -> u32 {
        let msgid = self.0.next_msgid.get();
        self.0.next_msgid.set(msgid.wrapping_add(1));
        msgid
    }

    fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_open() {
            return;
        }
        write(&mut self.0.unsent.borrow_mut());
        if self.waiting() > self.0.limits.unsent.saturating_mul(4) {
            self.end(Closed::Unread);
        } else {
            self.0.written.notify_one();
        }
    }

    /// Bytes that the peer has not taken yet.
    fn waiting(&self) -> usize {
        self.0.unsent.borrow().len() + self.0.in_flight.get()
    }

    fn tell(&self, event: Event) {
        let handler = self.0.handler.borrow().clone();
        if let Some(handler) = handler {
            handler(self, event);
        }
    }

    async fn write_task<S: AsyncWrite>(self, mut socket: WriteHalf<S>) {
        let state = self.0.state.subscribe();
        let linger = self.0.limits.linger;
        let overdue = async {
            reached(state.clone(), |s| s != State::Open).await;
            time::sleep(linger).await;
        };
        tokio::select! {
            biased;
            () = self.write_until_hung_up(&mut socket) => {}
            () = overdue => {}
            () = reached(state.clone(), |s| matches!(s, State::Closed(_))) => {}
        }
        let why = match *self.0.state.borrow() {
            State::Open => Closed::ByPeer,
            State::HangingUp(why) | State::Closed(why) => why,
        };
        self.end(why);
        let handler = self.0.handler.take();
        if let Some(handler) = handler {
            handler(&self, Event::Closed(why));
        }
    }

    /// Writes what is appended; returns when the peer is gone, or all is sent after hanging up.
    async fn write_until_hung_up<S: AsyncWrite>(&self, socket: &mut WriteHalf<S>) {
        loop {
            let batch = self.0.unsent.take();
            if !batch.is_empty() {
                self.0.in_flight.set(batch.len());
                if socket.write_all(&batch).await.is_err() {
                    return;
                }
                self.0.in_flight.set(0);
                continue;
            }
            self.0.drained.notify_one();
            if !self.is_open() {
                // Closing a socket that has unread input resets it, and the reset may overtake the last answer: let the
                // peer see the end of the stream and hang up too.
                if socket.shutdown().await.is_ok() {
                    self.0.input_ended.notified().await;
                }
                return;
            }
            self.0.written.notified().await;
        }
    }
}

/// Waits until the state is one that `is` accepts.
async fn reached(mut state: watch::Receiver<State>, is: impl Fn(State) -> bool) {
    // An error means that the connection itself is gone, which nobody outlives who waits here.
    let _ = state.wait_for(|s| is(*s)).await;
}

/// Takes the call out of the table when its future is done or dropped.
struct PendingCall {
    conn: RpcConn,
    msgid: u32,
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.conn.0.calls.borrow_mut().remove(&self.msgid);
    }
}

async fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = dial(to, timeout).await?;
    prepare(&stream);
    Ok(stream)
}

/// Sends small messages at once; tells the other end, which is gone already if it cannot be told.
fn prepare(stream: &TcpStream) -> Option<SocketAddr> {
    // Only speed depends on it.
    let _ = stream.set_nodelay(true);
    stream.peer_addr().ok()
}

#[cfg(test)]
mod tests;
