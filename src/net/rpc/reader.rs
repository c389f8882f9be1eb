//! The reading half of a connection: finds messages, judges the first one, and hands the others on.

use super::{CallError, Closed, Event, Incoming, Opening, Peer, Reply, RpcConn, State, reached};
use crate::proto::rpc::frame::{self, Frame, FrameError, Scanner};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};

/// Reads one connection.
pub(super) struct Reader {
    conn: RpcConn,
    accepted: bool,
    /// What the first message must be, until it came.
    opening: Option<Opening>,
    buffer: BytesMut,
}

impl Reader {
    pub(super) fn new(conn: RpcConn, opening: Opening) -> Reader {
        let accepted = matches!(opening, Opening::Accepted(..));
        Reader { conn, accepted, opening: Some(opening), buffer: BytesMut::new() }
    }

    /// Reads until the end, which it makes known.
    pub(super) async fn run<S: AsyncRead>(mut self, mut socket: ReadHalf<S>) {
        let conn = self.conn.clone();
        let state = conn.0.state.subscribe();
        tokio::select! {
            biased;
            why = self.read_all(&mut socket) => match why {
                // What the peer asked before it closed its side is still answered.
                Closed::ByPeer => conn.start_hanging_up(why),
                _ => conn.end(why),
            },
            () = reached(state, |s| matches!(s, State::Closed(_))) => {}
        }
        conn.0.input_ended.notify_one();
    }

    async fn read_all<S: AsyncRead>(&mut self, socket: &mut ReadHalf<S>) -> Closed {
        let mut scanner = Scanner::default();
        loop {
            while self.conn.is_open() {
                match scanner.advance(&self.buffer) {
                    Ok(Some(len)) => {
                        scanner = Scanner::default();
                        let message = self.buffer.split_to(len);
                        if let Err(e) = self.handle(&message) {
                            return Closed::Malformed(e);
                        }
                    }
                    Ok(None) if self.buffer.len() >= self.longest_frame() => {
                        return Closed::Malformed(FrameError::TooLong);
                    }
                    Ok(None) => break,
                    Err(e) => return Closed::Malformed(e),
                }
                while self.conn.is_open() && self.conn.waiting() > self.conn.0.limits.unsent {
                    self.conn.0.drained.notified().await;
                }
            }
            if !self.conn.is_open() {
                self.buffer.clear();
            }
            match socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Closed::ByPeer,
                Ok(_) => {}
                Err(_) => {
                    self.conn.end(Closed::ByPeer);
                    return Closed::ByPeer;
                }
            }
        }
    }

    fn longest_frame(&self) -> usize {
        let limits = &self.conn.0.limits;
        let node = !self.accepted || matches!(self.conn.peer(), Some(Peer::Node(..)));
        if node { limits.frame } else { limits.client_frame.min(limits.frame) }
    }

    fn handle(&mut self, message: &[u8]) -> Result<(), FrameError> {
        let message = frame::parse(message)?;
        self.open(&message)?;
        match message {
            Frame::Hello { .. } => {}
            Frame::Request { msgid, method, params } => {
                let reply = Reply { conn: self.conn.clone(), msgid, answered: false };
                self.conn.tell(Event::Request(Incoming { method, params: params.to_vec(), reply }));
            }
            Frame::Response { msgid, error, result } => {
                let call = self.conn.0.calls.borrow_mut().remove(&msgid);
                if let Some(call) = call {
                    let answer = match error {
                        None => Ok(result.to_vec()),
                        Some(number) => Err(CallError::Refused(number, result.to_vec())),
                    };
                    // The caller may have stopped waiting meanwhile.
                    let _ = call.send(answer);
                }
            }
        }
        Ok(())
    }

    /// Judges the first message: a hello where one must be, and nowhere else.
    fn open(&mut self, message: &Frame<'_>) -> Result<(), FrameError> {
        let opening = self.opening.take();
        let peer = match (opening, message) {
            (Some(Opening::HelloSent), Frame::Hello { address, role }) => Peer::Node(*address, *role),
            (Some(Opening::Accepted(own, own_role)), Frame::Hello { address, role }) => {
                self.conn.append(|out| frame::write_hello(out, own, own_role));
                Peer::Node(*address, *role)
            }
            (Some(Opening::Accepted(..)), Frame::Request { .. }) => Peer::Client,
            (Some(Opening::Client) | None, Frame::Request { .. } | Frame::Response { .. }) => return Ok(()),
            _ => return Err(FrameError::Malformed),
        };
        self.conn.0.peer.set(Some(peer));
        self.conn.tell(Event::Opened(peer));
        Ok(())
    }
}
