//! Changes that keep what a large value holds: append, prepend, touch, a fetch that changes something, and invalidate.
//!
//! What is to be stored is the old value with a new head, or with more before or behind it. It is copied part by part, between
//! which the worker serves all others, into a value that is staged as if it had come in parts. Only then the change is executed, in a
//! moment: if the key has another value by then, it begins anew. Until then nothing was executed, and all others see the old value.
//! Requests of the same connection for the same key wait meanwhile, because a client may have sent them behind the change.

use super::request::{Request, dbkey_of};
use super::worker::{State, Worker};
use crate::logic::clock::ClockTime;
use crate::net::conn::Conn;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{self, Frame, write_error};
use crate::proto::rpc::v1::{Op, PART_BYTES};
use crate::store::staged::{HEAD_LEN, Large, Staged};
use crate::store::{Shard, StoreError};
use std::rc::Rc;

/// How many a worker makes at a time. Who asks for more is refused, and asks again.
const AT_ONCE: usize = 8;
/// Bytes of requests that wait behind one. Who asks for more is refused, and asks again.
const BEHIND_BYTES: usize = 4 << 20;
/// How often one is begun anew because the value has changed, before it is refused.
const ANEW: u32 = 3;

/// Whether what an operation stores has the data that was there.
pub(super) fn keeps_data(op: Op) -> bool {
    matches!(op, Op::Append | Op::Prepend | Op::Touch | Op::GetAndTouch | Op::Fetch | Op::Invalidate)
}

/// A value that was made, for the request that it was made for.
pub(super) struct Remade {
    /// The value that it was made of.
    base: ClockTime,
    /// How often it was begun anew.
    anew: u32,
    staged: Staged,
    /// What is not of the old value.
    new: Vec<u8>,
}

/// One that is being made.
pub(super) struct Remake {
    number: u64,
    conn: Rc<Conn>,
    dbkey: Vec<u8>,
    gateway: u64,
    incoming: super::parts::Incoming,
    /// The requests: the first is the change.
    messages: Vec<Vec<u8>>,
    behind_bytes: usize,
    /// Where the data goes on behind what a head shows of it.
    old: Large,
    copied: usize,
    /// How many of the last bytes of what is new come behind the data.
    tail_len: usize,
    made: Remade,
}

/// Those of a worker.
#[derive(Default)]
pub(super) struct Remakes {
    begun: u64,
    list: Vec<Remake>,
    /// One that is done, while its request is executed.
    done: Option<Remade>,
    part: Vec<u8>,
}

/// What a change is to store: the bytes that are new, of which the last `tail_len` come behind the old data.
pub(super) struct Plan<'a> {
    pub base: ClockTime,
    pub new: &'a [u8],
    pub tail_len: usize,
}

impl Remakes {
    /// Takes the value that was made by a plan.
    pub(super) fn take(&mut self, plan: &Plan<'_>) -> Result<Staged, u32> {
        match self.done.take() {
            Some(done)
                if (done.base, done.new.as_slice(), done.staged.filled())
                    == (plan.base, plan.new, done.staged.val_len()) =>
            {
                Ok(done.staged)
            }
            Some(done) => Err(done.anew + 1),
            None => Err(0),
        }
    }

    fn find(&mut self, number: u64) -> Option<usize> {
        self.list.iter().position(|remake| remake.number == number)
    }
}

impl Worker {
    /// Begins to make a value, for the `anew`th time; its request is executed when it is made.
    pub(super) fn remake(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
        dbkey: &[u8],
        (plan, anew): (&Plan<'_>, u32),
    ) -> Result<(), StoreError> {
        let remakes = &mut state.remakes;
        let large = if anew > ANEW || remakes.list.len() >= AT_ONCE { None } else { shard.large(dbkey)? };
        let Some((_, old)) = large.filter(|(stamp, _)| stamp.version == plan.base) else {
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
            return Ok(());
        };
        let rest_len = old.val_len() - HEAD_LEN;
        let mut staged = shard.stage(dbkey.len(), plan.new.len() + rest_len)?;
        staged.append(&plan.new[..plan.new.len() - plan.tail_len])?;
        remakes.begun += 1;
        let number = remakes.begun;
        remakes.list.push(Remake {
            number,
            conn: request.conn.clone(),
            dbkey: dbkey.to_vec(),
            gateway: request.gateway,
            incoming: request.incoming.clone(),
            messages: vec![request.message.to_vec()],
            behind_bytes: 0,
            old,
            copied: HEAD_LEN,
            tail_len: plan.tail_len,
            made: Remade { base: plan.base, anew, staged, new: plan.new.to_vec() },
        });
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                // All others that are ready have their turn between two parts.
                tokio::task::yield_now().await;
                match worker.state.borrow_mut().remake_part(number) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        tracing::error!("cannot change a large value: {e}");
                        break;
                    }
                }
            }
            worker.remade(number);
        });
        Ok(())
    }

    /// Executes the request that a value was made for, and those behind it.
    fn remade(self: &Rc<Self>, number: u64) {
        let remake = {
            let mut state = self.state.borrow_mut();
            state.set_time();
            let Some(place) = state.remakes.find(number) else { return };
            let remake = state.remakes.list.swap_remove(place);
            state.remakes.done = Some(remake.made);
            (remake.conn, remake.incoming, remake.gateway, remake.messages)
        };
        let (conn, incoming, gateway, messages) = &remake;
        for message in messages {
            if let Ok(Frame::Request { msgid, method, params }) = frame::parse(message)
                && !conn.is_closed()
            {
                let gateway = *gateway;
                let request = Request { conn, msgid, method, params, message, gateway, until_micros: None, incoming };
                // It was well-formed when it came.
                let _ = self.execute_for_client(&request);
            }
            self.state.borrow_mut().remakes.done = None;
        }
        self.turn.wake();
    }
}

impl State {
    /// Copies one part; false when nothing is left to copy.
    fn remake_part(&mut self, number: u64) -> Result<bool, StoreError> {
        let Some(place) = self.remakes.find(number) else { return Ok(false) };
        let Remakes { list, part, .. } = &mut self.remakes;
        let remake = &mut list[place];
        if remake.conn.is_closed() {
            return Ok(false);
        }
        part.clear();
        let len = PART_BYTES.min(remake.old.val_len() - remake.copied);
        if len == 0 || !remake.old.append_to(remake.copied, len, part) {
            let tail = remake.made.new.len() - remake.tail_len;
            remake.made.staged.append(&remake.made.new[tail..])?;
            return Ok(false);
        }
        remake.copied += len;
        remake.made.staged.append(part)?;
        Ok(true)
    }

    /// Has a request wait that its connection has sent behind a change of the same key that is being made; false when there is none.
    #[inline]
    pub(super) fn stands_behind(&mut self, request: &Request<'_>) -> bool {
        !self.remakes.list.is_empty() && self.waits_for_remake(request)
    }

    #[cold]
    fn waits_for_remake(&mut self, request: &Request<'_>) -> bool {
        let Some(dbkey) = dbkey_of(request) else { return false };
        let is_before = |remake: &&mut Remake| Rc::ptr_eq(&remake.conn, request.conn) && remake.dbkey == dbkey;
        let Some(remake) = self.remakes.list.iter_mut().find(is_before) else { return false };
        remake.behind_bytes += request.message.len();
        if remake.behind_bytes > BEHIND_BYTES {
            request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
        } else {
            remake.messages.push(request.message.to_vec());
        }
        true
    }

    /// Whether a connection has sent a change of a key that is being made.
    pub(super) fn is_remaking(&self, conn: &Rc<Conn>, dbkey: &[u8]) -> bool {
        self.remakes.list.iter().any(|remake| Rc::ptr_eq(&remake.conn, conn) && remake.dbkey == dbkey)
    }
}
