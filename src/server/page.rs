//! Telling tools what is stored, a page of the ring at a time.
//!
//! Source: doc/protocol.md, "Pages". A page tells what a get would: the records that this worker coordinates, when it may
//! answer for them, and not before they are stable. So the pages of all workers of all servers in one epoch hold each
//! record once.

use super::request::{Done, Request, hash_of};
use super::worker::{Answer, Outcome, State, Worker};
use crate::logic::mutation::live;
use crate::logic::record;
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_raw};
use crate::proto::rpc::v1;
use crate::store::{Record, Shard, StoreError};
use std::rc::Rc;

/// A page that has so many bytes gets no more records.
const PAGE_BYTES: usize = 256 << 10;
/// Records looked at between two looks at how long the page is, and how often: others wait for their turn meanwhile.
const STEP: usize = 32;
const STEPS: usize = 16;

/// What was gathered.
#[derive(Default)]
struct Page {
    records: Vec<u8>,
    count: usize,
    /// The ring position of the record that was added last.
    last: Option<u64>,
    /// The first position that found no room.
    rest: Option<u64>,
    /// The newest write that it shows and that is not stable.
    waits_for: Option<u64>,
    damaged: Vec<Vec<u8>>,
}

impl Page {
    /// Whether what stands at a position is for this page: all of a position is in one.
    fn has_room(&mut self, hash: u64) -> bool {
        if self.rest.is_none() && self.records.len() >= PAGE_BYTES && self.last != Some(hash) {
            self.rest = Some(hash);
        }
        self.rest.is_none()
    }

    fn add(&mut self, dbkey: &[u8], dbval: &[u8]) {
        write_array(&mut self.records, 2);
        write_raw(&mut self.records, dbkey);
        write_raw(&mut self.records, dbval);
        self.count += 1;
    }
}

impl Worker {
    /// Executes Page: `[epoch, position]`.
    pub(super) fn page(
        self: &Rc<Self>,
        state: &mut State,
        shard: &mut dyn Shard,
        request: &Request<'_>,
    ) -> Result<Done, DecodeError> {
        let mut r = Reader::new(request.params);
        r.array_of(2)?;
        let (epoch, from) = (r.u64()?, r.u64()?);
        if epoch != state.view.epoch.number && on(Rule::Fence) {
            return Ok(self.other_epoch(state, request, epoch));
        }
        let Some(leased) = state.answers_for_all().filter(|until| *until > state.now_micros || !on(Rule::Lease)) else {
            return Ok(Done::Park);
        };
        let (page, next) = match gather(state, shard, from) {
            Ok(gathered) => gathered,
            Err(e) => {
                tracing::error!("cannot tell what is stored: {e}");
                request.conn.write(|out| write_error(out, request.msgid, error::SERVER));
                return Ok(Done::Yes);
            }
        };
        let is_last_try = request.until_micros.is_some_and(|until| until <= state.now_micros);
        if !page.damaged.is_empty() && !is_last_try {
            for dbkey in &page.damaged {
                self.mend(state, hash_of(dbkey)?, dbkey);
            }
            return Ok(Done::Park);
        }
        state.leased_until = state.leased_until.min(leased);
        let mut bytes = Vec::with_capacity(page.records.len() + 32);
        write_success(&mut bytes, request.msgid);
        v1::Page::write_head(&mut bytes, page.rest.or(next), page.damaged.len() as u64, page.count);
        bytes.extend_from_slice(&page.records);
        let answer = Answer { conn: request.conn.clone(), msgid: request.msgid, outcome: Outcome::Bytes(bytes) };
        match page.waits_for {
            None => answer.send(),
            Some(write) => state.pending.hold_behind(write, answer).into_iter().for_each(Answer::send),
        }
        Ok(Done::Yes)
    }
}

impl State {
    /// Whether a get would tell it.
    pub(super) fn is_live(&self, record: Record<'_>) -> bool {
        let body = record::parse(record.dbval).and_then(|value| value.body);
        record.epoch >= self.view.epoch.flushed && live(body, 0, self.now_secs).is_some()
    }

    /// Until when this worker may tell of everything that it coordinates: that something is not there, too. `None`: of some
    /// of it not yet.
    fn answers_for_all(&self) -> Option<u64> {
        let own: Vec<_> = self.ranges.iter().filter(|range| range.readable).collect();
        if own.iter().any(|range| !range.open) {
            return None;
        }
        let concerned = |server| own.iter().any(|range| range.group.members().contains(&server));
        let links = self.links.iter().filter(|(_, link)| concerned(link.server));
        Some(links.map(|(_, link)| link.leased_until()).min().unwrap_or(u64::MAX))
    }
}

fn gather(state: &State, shard: &mut dyn Shard, from: u64) -> Result<(Page, Option<u64>), StoreError> {
    let mut page = Page::default();
    let mut next = Some(from);
    for _ in 0..STEPS {
        let Some(position) = next.filter(|_| page.rest.is_none()) else { break };
        let is_ours = |hash| state.range(hash).readable;
        next = shard.scan_some(position, STEP, &is_ours, &mut |dbkey, record| {
            let Ok(hash) = hash_of(dbkey) else { return };
            if !page.has_room(hash) {
                return;
            }
            page.last = Some(hash);
            page.waits_for = page.waits_for.max(state.unstable_write(hash));
            match record {
                Ok(record) if state.is_live(record) => page.add(dbkey, record.dbval),
                Ok(_) => {}
                Err(_) => page.damaged.push(dbkey.to_vec()),
            }
        })?;
    }
    Ok((page, next))
}
