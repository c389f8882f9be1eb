//! Being compared: another server tells digests of what it holds, and learns what this one lacks.
//!
//! Source: doc/protocol.md, "Rejoining"; the other end is [`super::differ`]. Compare names the digests of a window of leaves,
//! List those of each record in the leaves that differ. What is here and in neither is dropped at once where the sender
//! coordinates the range and this server is being filled: the full ones do not have it, or are sending something newer.
//! Windows come in their order; when the last one has, the sender's part needs no confirmation by record.

use super::background::Kind;
use super::element::{self, Met};
use super::fill::Fill;
use super::request::{Request, hash_of};
use super::worker::{State, Worker};
use crate::logic::clock::ClockTime;
use crate::logic::digest::Window;
use crate::logic::epoch::Phase;
use crate::logic::record::{Stamp, worker_of};
use crate::logic::rule::{Rule, on};
use crate::net::conn::Conn;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::DecodeError;
use crate::proto::rpc::v1::{Compare, Compared, Connect, List, method, write_digests};
use crate::store::StoreError;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Comparisons under way at a time; each sender has one.
const MAX_UNDER_WAY: u32 = 1024;

/// Whom a comparison is with, and about what.
#[derive(Clone, Copy)]
struct With {
    incarnation: u64,
    worker: u16,
    workers: u16,
    time: ClockTime,
    window: Window,
}

/// Why a comparison cannot be made: this server is in another phase, or the store fails.
struct Refused;

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Refused {
        tracing::error!("cannot compare what is stored: {e}");
        Refused
    }
}

/// Executes a request of another server, in steps.
pub(super) fn execute(worker: &Rc<Worker>, connect: &Connect, request: &Request<'_>) -> Result<(), DecodeError> {
    let (incarnation, from) = (connect.incarnation, connect.from_worker);
    let with = |time, window| With { incarnation, worker: from, workers: connect.workers.max(1), time, window };
    if request.method == method::COMPARE {
        let asked = Compare::read(request.params)?;
        let with = with(asked.time, asked.window);
        start(worker, request, async move |worker, out| {
            worker.compare(with, asked.counter, &asked.digests).await?.write(out);
            Ok(())
        });
    } else {
        let asked = List::read(request.params)?;
        let with = with(asked.time, asked.window);
        start(worker, request, async move |worker, out| {
            write_digests(out, &worker.list(with, asked.leaves).await?);
            Ok(())
        });
    }
    Ok(())
}

/// Starts a comparison, which appends its result.
fn start(
    worker: &Rc<Worker>,
    request: &Request<'_>,
    compare: impl AsyncFnOnce(&Worker, &mut Vec<u8>) -> Result<(), Refused> + 'static,
) {
    let (conn, msgid, worker) = (request.conn.clone(), request.msgid, worker.clone());
    let refuse = move |conn: &Rc<Conn>| conn.write(|out| write_error(out, msgid, error::SERVER));
    if worker.state.borrow().comparisons >= MAX_UNDER_WAY {
        return refuse(&conn);
    }
    worker.state.borrow_mut().comparisons += 1;
    tokio::task::spawn_local(async move {
        let mut result = Vec::new();
        let compared = compare(&worker, &mut result).await;
        worker.state.borrow_mut().comparisons -= 1;
        match compared {
            Ok(()) => conn.write(|out| {
                write_success(out, msgid);
                out.extend_from_slice(&result);
            }),
            Err(Refused) => refuse(&conn),
        }
    });
}

impl Worker {
    async fn compare(&self, with: With, counter: u32, theirs: &[u64]) -> Result<Compared, Refused> {
        self.state.borrow_mut().begin_window(with)?;
        // What was overwritten, deleted or flushed does not come here, and its versions must not be made again.
        if on(Rule::CounterTravels) {
            self.observe_for_good(counter).await?;
        }
        let mut own = vec![0_u64; theirs.len()];
        let mut found = 0_u64;
        let mut alike: Vec<(usize, u64)> = Vec::new();
        let mut from = Some(with.window.start());
        while let Some(position) = from {
            let sum = |state: &State, place: usize, dbkey: &[u8], met: &Met<'_>| {
                found += 1;
                alike.extend(state.confirmed_singly(dbkey, met.epoch()).map(|hash| (place, hash)));
                own[place] = own[place].wrapping_add(met.digest(with.incarnation, dbkey));
            };
            let visit = |records| self.visit_window(with, position, records, sum);
            from = self.background.step_of(Kind::Compare, visit).await?;
        }
        let differ: Vec<usize> = (0..theirs.len()).filter(|place| own[*place] != theirs[*place]).collect();
        alike.retain(|(place, _)| own[*place] == theirs[*place]);
        self.state.borrow_mut().confirm(with, alike.into_iter().map(|(_, hash)| hash))?;
        if found == 0 || differ.is_empty() {
            self.state.borrow_mut().end_window(with)?;
        }
        Ok(if found == 0 && !differ.is_empty() { Compared::Nothing } else { Compared::Differ(differ) })
    }

    /// Raises the counter of this worker's clock, and has the disk know.
    async fn observe_for_good(&self, counter: u32) -> Result<(), Refused> {
        self.state.borrow_mut().clock.observe_counter(counter);
        self.shared.clock.fetch_max(u64::from(counter), Ordering::Relaxed);
        if self.shared.versions.covered(counter).await { Ok(()) } else { Err(Refused) }
    }

    async fn list(&self, with: With, leaves: Vec<(usize, Vec<u64>)>) -> Result<Vec<u64>, Refused> {
        let mut theirs: Vec<Option<HashSet<u64>>> = (0..with.window.len).map(|_| None).collect();
        for (place, digests) in leaves {
            theirs[place] = Some(digests.into_iter().collect());
        }
        let mut from = Some(with.window.start());
        while let Some(position) = from {
            let list = |records| self.list_some(with, position, records, &mut theirs);
            from = self.background.step_of(Kind::Compare, list).await?;
        }
        self.state.borrow_mut().end_window(with)?;
        Ok(theirs.into_iter().flatten().flatten().collect())
    }

    /// Takes from the digests of each leaf those of some records that are here, and drops the records that are in none.
    fn list_some(
        &self,
        with: With,
        from: u64,
        records: usize,
        theirs: &mut [Option<HashSet<u64>>],
    ) -> Result<Option<u64>, Refused> {
        let (mut strangers, mut alike): (Vec<(Vec<u8>, Stamp)>, Vec<u64>) = (Vec::new(), Vec::new());
        let next = self.visit_window(with, from, records, |state, place, dbkey, met| {
            let Some(theirs) = &mut theirs[place] else { return };
            let known = theirs.remove(&met.digest(with.incarnation, dbkey));
            if known {
                alike.extend(state.confirmed_singly(dbkey, met.epoch()));
            } else if state.may_drop(with.incarnation, dbkey, met.epoch()) {
                strangers.push((dbkey.to_vec(), met.stamp()));
            }
        })?;
        self.state.borrow_mut().confirm(with, alike.into_iter())?;
        if !strangers.is_empty() {
            let mut shard = self.shard().lock().expect("no holder of a shard panics");
            for (dbkey, stamp) in &strangers {
                shard.forget(dbkey, *stamp)?;
            }
            // What was dropped is committed with the turn.
            self.state.borrow_mut().is_staged = true;
            self.turn.wake();
        }
        Ok(next)
    }

    /// Visits some records of a window that the sender is to have sent; returns where to go on.
    fn visit_window(
        &self,
        with: With,
        from: u64,
        records: usize,
        mut visit: impl FnMut(&State, usize, &[u8], &Met<'_>),
    ) -> Result<Option<u64>, Refused> {
        let state = self.state.borrow();
        let (sender, full) = state.sender(with).ok_or(Refused)?;
        let Some(me) = state.view.me else { return Err(Refused) };
        let flushed = state.view.epoch.flushed;
        let wanted = |hash| {
            with.window.place(hash).is_some()
                && worker_of(hash, with.workers) == with.worker
                && state.range(hash).group.moves(full, sender, me)
        };
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        // A damaged one is none: it is sent.
        let next = element::scan(&mut *shard, from, records, &wanted, &mut |dbkey, met| {
            let Ok(hash) = hash_of(dbkey) else { return };
            if let Some(place) = with.window.place(hash).filter(|_| met.epoch() >= flushed) {
                visit(&state, place, dbkey, &met);
            }
        })?;
        Ok(next.filter(|position| with.window.place(*position).is_some()))
    }
}

impl State {
    /// The place of the server that compares, and whether the replace is a full one; `None`: it is not under way here.
    fn sender(&self, with: With) -> Option<(u16, bool)> {
        let Phase::Copying { time, full } = self.view.epoch.phase else { return None };
        let is_it = |s: &crate::logic::epoch::ServerEntry| s.incarnation == with.incarnation && s.removed.is_none();
        let place = self.view.epoch.servers.iter().position(is_it).filter(|_| time == with.time)?;
        Some((u16::try_from(place).ok()?, full))
    }

    /// Whether a record that the sender does not hold is to go: the sender holds the truth, and this one is from before.
    fn may_drop(&self, sender: u64, dbkey: &[u8], epoch: u64) -> bool {
        let (Some(fill), Ok(hash)) = (&self.fill, hash_of(dbkey)) else { return false };
        fill.doubts(hash, epoch) && self.filler(hash).is_some_and(|(incarnation, _)| incarnation == sender)
    }

    /// The ring position of a record that, being the same at the sender, counts as sent. Where one server fills this one
    /// alone, nothing is kept: its windows tell.
    fn confirmed_singly(&self, dbkey: &[u8], epoch: u64) -> Option<u64> {
        let hash = hash_of(dbkey).ok()?;
        let in_doubt = self.fill.as_ref().is_some_and(|fill| fill.doubts(hash, epoch));
        (in_doubt && self.filler(hash).is_none()).then_some(hash)
    }

    fn confirm(&mut self, with: With, hashes: impl Iterator<Item = u64>) -> Result<(), Refused> {
        self.sender(with).ok_or(Refused)?;
        if let Some(fill) = &mut self.fill {
            fill.is_the_same(with.time, hashes);
        }
        Ok(())
    }

    /// The life and the worker that fill this server with what is at a ring position, where it is one alone.
    pub(super) fn filler(&self, hash: u64) -> Option<(u64, u16)> {
        let group = &self.range(hash).group;
        let coordinator = group.coordinator()?;
        let server = self.view.epoch.servers.get(usize::from(coordinator))?;
        let filled = self.view.me.is_some_and(|me| group.filling().contains(&me));
        filled.then(|| (server.incarnation, worker_of(hash, server.workers)))
    }

    fn begin_window(&mut self, with: With) -> Result<(), Refused> {
        self.in_turn(with, Fill::begin_window)
    }

    fn end_window(&mut self, with: With) -> Result<(), Refused> {
        self.in_turn(with, Fill::end_window)
    }

    fn in_turn(
        &mut self,
        with: With,
        step: fn(&mut Fill, (u64, u16), ClockTime, Window) -> bool,
    ) -> Result<(), Refused> {
        self.sender(with).ok_or(Refused)?;
        let by = (with.incarnation, with.worker);
        let in_turn = self.fill.as_mut().is_none_or(|fill| step(fill, by, with.time, with.window));
        if in_turn { Ok(()) } else { Err(Refused) }
    }
}
