//! Keeping in touch with the managers: they tell the newest epoch, or, where they are kumofs 0.4, the hash spaces.
//!
//! Each manager has a task that connects, asks, takes what is pushed, and connects again when that ends, after a pause
//! that grows and differs between gateways ([`crate::logic::backoff`]). A manager that does not know CONNECT is spoken to in version 0 on the next
//! connection. Asking is repeated now and then, so that a push that got lost costs a second and no more.
//!
//! An epoch of another cluster than ours is not taken over, unless all managers that are there tell one: then the
//! cluster was made anew, and ours is no more.

use super::view::View;
use super::worker::{FlushError, Request, Shared};
use crate::logic::address::Address;
use crate::logic::backoff::{Backoff, Bounds};
use crate::logic::epoch::Epoch;
use crate::net::rpc::{CallError, Event, Handler, Incoming, Limits, RpcConn};
use crate::net::time::Instant;
use crate::proto::rpc::error;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_uint};
use crate::proto::rpc::v0::{self, read_seed};
use crate::proto::rpc::v1::{Connect, Connected, Peer, method};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How long a manager has to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a manager has to decide a flush, which all voters take part in; and how long one is waited for.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How often a manager is asked without being told to.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is asked at most.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Pauses before connecting again: a fleet of gateways that loses its manager comes back one by one. None of them needs it in
/// haste, because servers, too, tell of new epochs.
const CONNECT_PAUSES: Bounds = Bounds { shortest_ms: 50, first_ms: 500, longest_ms: 1_000 };
/// How often in a row CONNECT is left unanswered until the manager is taken for one that does not know it, and for how
/// long.
const LOST_CONNECTS: u32 = 2;
const GUESS_LIMIT: Duration = Duration::from_secs(10);

/// A manager, as this gateway sees it.
struct Manager {
    address: Address,
    /// While connected: whether it speaks version 1.
    link: RefCell<Option<(RpcConn, bool)>>,
    /// The cluster of the last epoch that it told over this link; 0 before the first.
    cluster: Cell<u64>,
    /// Asked for at once.
    renew: Notify,
}

/// All of them, and what is kept in touch.
struct Managers {
    all: Vec<Manager>,
    shared: Arc<Shared>,
}

/// Keeps in touch until it is dropped; does what workers ask for.
pub async fn run(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut tasks = tokio::task::JoinSet::new();
    let manager = |address: &Address| Manager {
        address: *address,
        link: RefCell::default(),
        cluster: Cell::new(0),
        renew: Notify::new(),
    };
    let managers = Rc::new(Managers { all: shared.config.managers.iter().map(manager).collect(), shared });
    for number in 0..managers.all.len() {
        tasks.spawn_local(keep(managers.clone(), number));
    }
    while let Some(request) = requests.recv().await {
        match request {
            Request::Renew => managers.all.iter().for_each(|manager| manager.renew.notify_one()),
            Request::Flush { delay_secs, done } => {
                let (managers, began) = (managers.clone(), Instant::now());
                tasks.spawn_local(async move {
                    while managers.all.iter().all(|manager| manager.link.borrow().is_none())
                        && began.elapsed() < FLUSH_LIMIT
                    {
                        tokio::time::sleep(ASK_PAUSE).await;
                    }
                    // Who asked may have gone.
                    let _ = done.send(managers.flush(delay_secs).await);
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Connects to a manager again and again.
async fn keep(managers: Rc<Managers>, number: usize) {
    let (shared, manager) = (&managers.shared, &managers.all[number]);
    let mut backoff = Backoff::new(CONNECT_PAUSES, shared.incarnation.wrapping_add(number as u64));
    let mut lost_connects = 0;
    let mut version = Version::One;
    let mut said = false;
    loop {
        // Weak: the connection belongs to what it would keep alive.
        let told = Rc::downgrade(&managers);
        let handler: Handler = Rc::new(move |_, event| {
            if let (Event::Request(incoming), Some(managers)) = (event, told.upgrade()) {
                managers.take_push(&managers.all[number], incoming);
            }
        });
        let (to, timeout) = (manager.address.socket_addr(), shared.config.connect_timeout);
        let ended = match RpcConn::connect_client(to, timeout, Limits::default(), handler).await {
            Ok(conn) => {
                let ended = managers.serve(manager, &conn, version).await;
                conn.close();
                if manager.link.take().is_some() {
                    backoff.worked();
                    said = false;
                }
                ended
            }
            Err(e) => Ended::Lost(e.to_string()),
        };
        lost_connects = if matches!(ended, Ended::LostConnect) { lost_connects + 1 } else { 0 };
        version = match &ended {
            Ended::SpeaksV0 => Version::Zero,
            Ended::LostConnect if lost_connects >= LOST_CONNECTS => Version::ZeroPerhaps,
            _ => Version::One,
        };
        if let Ended::Lost(why) = ended
            && !std::mem::replace(&mut said, true)
        {
            tracing::warn!("manager {} is not reached: {why}; trying again", manager.address);
        }
        if version == Version::One {
            tokio::time::sleep(backoff.failed()).await;
        }
    }
}

/// What a manager is spoken to in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    /// It has said that it does not know CONNECT.
    Zero,
    /// It hung up on CONNECT.
    ZeroPerhaps,
}

/// Why a connection to a manager ended.
enum Ended {
    /// It does not know CONNECT.
    SpeaksV0,
    /// It broke before CONNECT was answered.
    LostConnect,
    /// It broke.
    Lost(String),
}

impl Managers {
    /// Talks to a manager until the connection ends. The manager has its link once it answered.
    async fn serve(&self, manager: &Manager, conn: &RpcConn, version: Version) -> Ended {
        let began = Instant::now();
        let speaks_v1 = version == Version::One;
        manager.cluster.set(0);
        if speaks_v1 && let Some(ended) = self.connect(conn).await {
            return ended;
        }
        loop {
            if let Err(e) = self.ask(manager, conn, speaks_v1).await {
                return Ended::Lost(e.to_string());
            }
            if manager.link.borrow().is_none() {
                tracing::info!("connect success {}", manager.address);
                manager.link.replace(Some((conn.clone(), speaks_v1)));
            }
            tokio::time::sleep(ASK_PAUSE).await;
            tokio::select! {
                biased;
                () = manager.renew.notified() => {}
                () = tokio::time::sleep(ASK_INTERVAL) => {}
                why = conn.closed() => return Ended::Lost(why.to_string()),
            }
            if version == Version::ZeroPerhaps && began.elapsed() >= GUESS_LIMIT {
                return Ended::Lost("it may speak version 1 after all".to_owned());
            }
        }
    }

    /// Says CONNECT; returns why the connection is of no use, if so.
    async fn connect(&self, conn: &RpcConn) -> Option<Ended> {
        let (incarnation, workers) = (self.shared.incarnation, self.shared.counters.len() as u16);
        let connect = Connect { peer: Peer::Gateway, incarnation, workers, from_worker: 0, worker: 0 };
        match conn.call_with(|out, msgid| connect.write(out, msgid), ANSWER_LIMIT).await {
            Ok(result) if Connected::read(&result).is_ok() => None,
            Ok(_) => Some(Ended::Lost("it answers in another protocol".to_owned())),
            Err(CallError::Refused(error::PROTOCOL, _)) => Some(Ended::SpeaksV0),
            // kumofs 0.4 may hang up before its answer is read.
            Err(CallError::Lost) => Some(Ended::LostConnect),
            Err(e) => Some(Ended::Lost(e.to_string())),
        }
    }

    /// Asks for the newest view: the first time for any, because it may be another cluster's.
    async fn ask(&self, manager: &Manager, conn: &RpcConn, speaks_v1: bool) -> Result<(), CallError> {
        let malformed = |_: DecodeError| CallError::Refused(error::PROTOCOL, Vec::new());
        if !speaks_v1 {
            let result = conn.call(v0::method::HASH_SPACE_REQUEST, |out| write_array(out, 0), ANSWER_LIMIT).await?;
            self.shared.offer(read_hash_spaces(&result).map_err(malformed)?);
            return Ok(());
        }
        let known = if manager.cluster.get() == 0 { 0 } else { self.shared.newest.borrow().number() };
        let params = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_uint(out, known);
        };
        let result = conn.call(method::GET_EPOCH, params, ANSWER_LIMIT).await?;
        let mut r = Reader::new(&result);
        if !r.take_nil() {
            let epoch = Epoch::decode(r.raw().map_err(malformed)?).map_err(|_| malformed(DecodeError::Type))?;
            self.take_epoch(manager, epoch);
        }
        Ok(())
    }

    fn take_epoch(&self, manager: &Manager, epoch: Epoch) {
        manager.cluster.set(epoch.cluster);
        let (ours, theirs) = (self.shared.newest.borrow().epoch.cluster, epoch.cluster);
        if ours == 0 || theirs == 0 || ours == theirs {
            self.shared.offer(View::new(epoch));
            return;
        }
        let agrees = |other: &Manager| {
            std::ptr::eq(other, manager) || other.link.borrow().is_none() || other.cluster.get() == theirs
        };
        if self.all.iter().all(agrees) {
            tracing::warn!("the cluster was made anew: {theirs:x} instead of {ours:x}");
            self.shared.newest.send_replace(Arc::new(View::new(epoch)));
        } else {
            tracing::warn!("manager {} is of another cluster: {theirs:x}, not {ours:x}", manager.address);
        }
    }

    /// Takes what a manager tells unasked.
    fn take_push(&self, manager: &Manager, incoming: Incoming) {
        match incoming.method {
            method::EPOCH_PUSH => {
                let mut r = Reader::new(&incoming.params);
                let epoch = r.array_of(1).and_then(|()| r.raw()).ok().and_then(|bytes| Epoch::decode(bytes).ok());
                let Some(epoch) = epoch else { return incoming.reply.error(error::PROTOCOL) };
                self.take_epoch(manager, epoch);
                let held = self.shared.newest.borrow().number();
                incoming.reply.success(|out| write_uint(out, held));
            }
            v0::method::HASH_SPACE_PUSH => match read_hash_spaces(&incoming.params) {
                Ok(view) => {
                    self.shared.offer(view);
                    incoming.reply.success(|out| write_bool(out, true));
                }
                Err(_) => incoming.reply.error(error::PROTOCOL),
            },
            _ => incoming.reply.error(error::PROTOCOL),
        }
    }

    /// Has a manager flush, and takes over the epoch that says so, so that this gateway's clients see it at once. Another
    /// manager is asked only where the one before has said that it does nothing: a flush is done once.
    async fn flush(&self, delay_secs: u64) -> Result<(), FlushError> {
        let mut outcome = Err(FlushError::NoManager);
        for manager in &self.all {
            let link = manager.link.borrow().clone();
            let Some((conn, speaks_v1)) = link else { continue };
            if !speaks_v1 {
                outcome = Err(FlushError::NotServed);
                continue;
            }
            let params = |out: &mut Vec<u8>| {
                write_array(out, 1);
                write_uint(out, delay_secs);
            };
            match conn.call(method::FLUSH_ALL, params, FLUSH_LIMIT).await {
                Ok(result) if Reader::new(&result).bool() == Ok(false) => return Err(FlushError::NoManager),
                // Should asking fail, the servers refuse our older epoch, and tell.
                Ok(_) => return self.ask(manager, &conn, true).await.or(Ok(())),
                Err(e @ CallError::Refused(..)) => tracing::warn!("manager {} does not flush: {e}", manager.address),
                Err(e) => {
                    tracing::warn!("manager {} does not say whether it flushes: {e}", manager.address);
                    return Err(FlushError::NoManager);
                }
            }
        }
        outcome
    }
}

fn read_hash_spaces(array: &[u8]) -> Result<View, DecodeError> {
    let mut r = Reader::new(array);
    r.array_of(2)?;
    Ok(View::of_hash_spaces(read_seed(&mut r)?, read_seed(&mut r)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: u64 = 500;

    /// When each gateway of a fleet tries to connect, in milliseconds since all of them lost their manager, which is back after
    /// `down_ms`.
    fn attempts(bounds: Bounds, down_ms: u64) -> Vec<Vec<u64>> {
        let gateway = |seed: u64| {
            let mut backoff = Backoff::new(bounds, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut at = vec![backoff.failed().as_millis() as u64];
            while at.last().is_some_and(|last| *last < down_ms) {
                at.push(at.last().copied().unwrap_or(0) + backoff.failed().as_millis() as u64);
            }
            at
        };
        (0..FLEET).map(gateway).collect()
    }

    /// The most attempts within 10 ms.
    fn crowd(attempts: &[Vec<u64>]) -> usize {
        let mut by_time = std::collections::BTreeMap::new();
        attempts.iter().flatten().for_each(|at| *by_time.entry(at / 10).or_insert(0) += 1);
        by_time.into_values().max().unwrap_or(0)
    }

    /// All of a fleet tried again between 50 and 100 ms after the manager had gone: a hundred connections in 10 ms.
    #[test]
    fn a_fleet_that_lost_its_manager_does_not_come_back_at_once() {
        for down_ms in [0, 100, 1_000, 3_000, 10_000, 60_000] {
            let attempts = attempts(CONNECT_PAUSES, down_ms);
            let last = attempts.iter().filter_map(|at| at.last()).max().copied().unwrap_or(0);
            assert!(last <= down_ms + 1_000, "down for {down_ms} ms, and all are back after {last} ms");
            let crowd = crowd(&attempts);
            assert!(crowd <= 30, "down for {down_ms} ms, and {crowd} attempts in 10 ms");
        }
        let hasty = Bounds { shortest_ms: 50, first_ms: 100, longest_ms: 1_000 };
        assert!(crowd(&attempts(hasty, 0)) > 80, "the figure tells one from the other");
    }
}
