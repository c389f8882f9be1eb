//! Large values that clients store: sent to the server in parts, between which its link carries what else there is.
//!
//! The data stays where it was read, and is held against the bound of [`super::uploads`] until the operation is done. A link
//! brings one value at a time; the others stand in its line. When all parts have arrived, the change itself is sent, without the
//! data. Until then nothing was executed, so what gets lost before is sent again whatever becomes of it.
//!
//! A value that moves is alive: each part that arrives gives the operation, and those behind it, their whole time anew.

use super::op::Op;
use super::pending::Request;
use super::uploads::Upload;
use super::view::Dialect;
use super::worker::State;
use crate::net::conn::Kept;
use crate::proto::memcache::Trouble;
use crate::proto::rpc::v1::{PART_BYTES, PARTS_AT_ONCE, Part};
use crate::store::LARGE_BYTES;
use std::collections::VecDeque;

/// How many bytes of a large value are given a millisecond more to be copied to all replicas: 8 MB a second.
const BYTES_PER_MS: u64 = 8 << 10;

/// The data of a large value, as a client has sent it.
pub struct Body {
    input: Kept,
    start: usize,
    len: usize,
    granted: Upload,
}

impl Body {
    /// Its bytes. They are there as soon as the read that brought them has been seen to.
    pub fn bytes(&self) -> &[u8] {
        self.input.get().and_then(|input| input.get(self.start..self.start + self.len)).unwrap_or_default()
    }
}

/// How far the parts of an operation's value are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sending {
    sent: usize,
    unanswered: usize,
}

/// Operations whose values go over a link in parts, the first of them now.
pub type Line = VecDeque<(u32, u32)>;

impl Op {
    /// The length of what is to be stored.
    pub fn dbval_len(&self) -> usize {
        self.dbval().len() + self.body.as_ref().map_or(0, |body| body.len)
    }

    /// Appends a part of the dbval.
    fn append_part(&self, from: usize, len: usize, out: &mut Vec<u8>) {
        let head = self.dbval();
        let data = self.body.as_ref().map_or(&[][..], |body| body.bytes());
        let (start, end) = (from.min(head.len()), (from + len).min(head.len()));
        out.extend_from_slice(&head[start..end]);
        let (start, end) = (from.saturating_sub(head.len()), (from + len).saturating_sub(head.len()));
        out.extend_from_slice(data.get(start..end.min(data.len())).unwrap_or_default());
    }
}

impl State {
    /// Keeps the data of a client's command as it was read, if it is large and its client was granted the room for it.
    #[inline]
    pub fn keep_large(&mut self, client: super::op::Home, data: &[u8]) -> Option<Body> {
        if data.len() <= LARGE_BYTES || self.view.has_v0() {
            return None;
        }
        let start = (data.as_ptr() as usize).checked_sub(self.input_at)?;
        let client = self.clients.get(client)?;
        let granted = std::mem::take(&mut client.upload);
        Some(Body { input: client.conn.keep_input(), start, len: data.len(), granted })
    }

    /// Gives an operation's data the place that small ones have.
    #[cold]
    pub fn gather(&mut self, place: u32) {
        let op = self.ops.at(place);
        let Some(body) = op.body.take() else { return };
        let at = op.bytes.len() - op.flags_len;
        let flags = op.bytes.split_off(at);
        op.bytes.extend_from_slice(body.bytes());
        op.bytes.extend_from_slice(&flags);
        let home = op.home;
        self.ops.add_bytes(body.len);
        if let Some(client) = self.clients.get(home) {
            client.begin(0, body.len);
        }
        self.end_upload(body.granted);
    }

    /// An operation is done with: the room that its data took is free.
    pub fn let_go(&mut self, body: Option<Body>) {
        if let Some(body) = body {
            self.end_upload(body.granted);
            self.go_on_sending();
        }
    }

    /// Has the end of this turn send what may be sent of large values.
    pub fn go_on_sending(&mut self) {
        self.is_sending = true;
        if let Some(worker) = self.me.upgrade() {
            worker.turn.wake();
        }
    }

    /// Begins to send an operation's value; the change itself follows when it has arrived.
    pub fn begin_parts(&mut self, place: u32, link_place: u32, epoch: u64) {
        let op = self.ops.at(place);
        op.attempt += 1;
        (op.link, op.epoch) = (Some(link_place), epoch);
        op.sending = Some(Sending::default());
        // Later ones of its client on this key come behind it.
        self.order.enter(place, op);
        let generation = op.generation;
        if let Some(link) = self.links.at(link_place) {
            link.line.push_back((place, generation));
        }
        self.go_on_sending();
    }

    /// Sends what may be on its way of large values. Called at the end of a turn.
    pub fn send_parts(&mut self) {
        if std::mem::take(&mut self.is_sending) {
            for link_place in 0..self.links.len() as u32 {
                while self.send_next_parts(link_place) {}
            }
        }
    }

    /// Sends parts of the first value in a link's line; true when the next one may have its turn.
    fn send_next_parts(&mut self, link_place: u32) -> bool {
        let Some(link) = self.links.at(link_place) else { return false };
        let Some((place, generation)) = link.line.front().copied() else { return false };
        let here = |op: &&mut Op| op.link == Some(link_place) && op.body.is_some();
        let Some(op) = self.ops.get(place, generation).filter(here) else {
            link.line.pop_front();
            return true;
        };
        // With its parts sent, it stays the first until it is done: the server keeps one value of each connection.
        let Some(sending) = op.sending.as_mut() else { return false };
        if link.dialect == Dialect::V0 {
            return false;
        }
        let mut progress = *sending;
        let (len, id, request) =
            (op.dbval_len(), op.sequence, Request::Part { op: place, generation, attempt: op.attempt });
        while progress.sent < len && progress.unanswered < PARTS_AT_ONCE {
            let Some(msgid) = link.ask(request, self.now_ms) else { break };
            let (from, part_len) = (progress.sent, PART_BYTES.min(len - progress.sent));
            let part = Part { id, dbkey: op.dbkey(), len, from, bytes: &[] };
            link.write(|out| {
                part.write_head(out, msgid, part_len);
                op.append_part(from, part_len, out);
            });
            progress.sent += part_len;
            progress.unanswered += 1;
        }
        op.sending = Some(progress);
        if progress.sent == len && progress.unanswered == 0 {
            op.sending = None;
            self.send_change(place, link_place);
        }
        false
    }

    /// The value has arrived: sends what is to be done with it.
    fn send_change(&mut self, place: u32, link_place: u32) {
        let (floor, epoch, now_ms) = (self.ops.floor(), self.view.number(), self.now_ms);
        let Some(link) = self.links.at(link_place) else { return };
        let op = self.ops.at(place);
        op.epoch = epoch;
        op.began_ms = now_ms;
        if !op.uncertain {
            op.first_epoch = epoch;
        }
        let request = Request::Attempt { op: place, generation: op.generation, attempt: op.attempt };
        match link.ask(request, now_ms) {
            Some(msgid) => link.write(|out| op.write_v1(out, msgid, epoch, floor)),
            None => self.put_off(place, Trouble::Overloaded),
        }
    }

    /// A server has answered a part.
    pub fn part_answered(
        &mut self,
        link_place: u32,
        (place, generation, attempt): (u32, u32, u32),
        error: Option<u32>,
        result: &[u8],
    ) {
        let now_ms = self.now_ms;
        let Some(op) = self.ops.get(place, generation).filter(|op| op.attempt == attempt && op.link.is_some()) else {
            return;
        };
        let Some(sending) = &mut op.sending else { return };
        if let Some(error) = error {
            return self.refused(place, link_place, error, result);
        }
        sending.unanswered = sending.unanswered.saturating_sub(1);
        let line = self.links.at(link_place).map(|link| link.line.clone()).unwrap_or_default();
        for (place, generation) in line {
            if let Some(op) = self.ops.get(place, generation) {
                op.began_ms = now_ms;
            }
        }
        self.go_on_sending();
    }

    /// A link broke: those that stood in its line go another way. Nothing of them was executed.
    pub fn line_lost(&mut self, line: Line, link_place: u32) {
        for (place, generation) in line {
            let waits = |op: &&mut Op| op.link == Some(link_place) && op.sending.is_some();
            if self.ops.get(place, generation).filter(waits).is_some() {
                self.put_off(place, Trouble::NoServer);
            }
        }
    }
}

/// What an operation is given beyond its patience for the size of its value, in milliseconds.
pub fn more_patience_ms(op: &Op) -> u64 {
    op.body.as_ref().map_or(0, |body| body.len as u64 / BYTES_PER_MS)
}
