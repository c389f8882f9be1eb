//! Keeping in touch with the managers: they tell the newest epoch, or, where they are kumofs 0.4, the hash spaces.
//!
//! Each manager has a task that connects, asks, takes what is pushed, and connects again when that ends, after a pause
//! that grows and differs between gateways. A manager that does not know CONNECT is spoken to in version 0 on the next
//! connection. Asking is repeated now and then, so that a push that got lost costs a second and no more.

use super::retry::Chance;
use super::view::View;
use super::worker::{FlushError, Request, Shared};
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::net::rpc::{CallError, Event, Handler, Incoming, Limits, RpcConn};
use crate::proto::rpc::error;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_uint};
use crate::proto::rpc::v0::{self, read_seed};
use crate::proto::rpc::v1::{Connect, Connected, Peer, method};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// How long a manager has to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a manager has to decide a flush, which all voters take part in; and how long one is waited for.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How often a manager is asked without being told to.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is asked at most.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Shortest and longest pause before connecting again.
const CONNECT_PAUSE_MS: (u64, u64) = (50, 1_000);

/// A manager, as this gateway sees it.
struct Manager {
    address: Address,
    /// While connected: whether it speaks version 1.
    link: RefCell<Option<(RpcConn, bool)>>,
    /// Asked for at once.
    renew: Notify,
}

/// Keeps in touch until it is dropped; does what workers ask for.
pub async fn run(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut managers = Vec::new();
    for (number, address) in shared.config.managers.iter().enumerate() {
        let manager = Rc::new(Manager { address: *address, link: RefCell::default(), renew: Notify::new() });
        let chance = Chance(shared.incarnation.wrapping_add(number as u64));
        tasks.spawn_local(keep(manager.clone(), shared.clone(), chance));
        managers.push(manager);
    }
    while let Some(request) = requests.recv().await {
        match request {
            Request::Renew => managers.iter().for_each(|manager| manager.renew.notify_one()),
            Request::Flush { delay_secs, done } => {
                let (managers, shared, began) = (managers.clone(), shared.clone(), Instant::now());
                tasks.spawn_local(async move {
                    while managers.iter().all(|manager| manager.link.borrow().is_none())
                        && began.elapsed() < FLUSH_LIMIT
                    {
                        tokio::time::sleep(ASK_PAUSE).await;
                    }
                    // Who asked may have gone.
                    let _ = done.send(flush(&managers, &shared, delay_secs).await);
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Connects again and again.
async fn keep(manager: Rc<Manager>, shared: Arc<Shared>, mut chance: Chance) {
    let mut pause_ms = CONNECT_PAUSE_MS.0;
    let mut speaks_v1 = true;
    let mut said = false;
    loop {
        let handler: Handler = {
            let shared = shared.clone();
            Rc::new(move |_, event| {
                if let Event::Request(incoming) = event {
                    take_push(&shared, incoming);
                }
            })
        };
        let (to, timeout) = (manager.address.socket_addr(), shared.config.connect_timeout);
        let ended = match RpcConn::connect_client(to, timeout, Limits::default(), handler).await {
            Ok(conn) => {
                let served = Cell::new(false);
                let ended = serve(&manager, &shared, &conn, speaks_v1, &served).await;
                manager.link.take();
                conn.close();
                if served.get() {
                    (pause_ms, said) = (CONNECT_PAUSE_MS.0, false);
                }
                ended
            }
            Err(e) => Ended::Lost(e.to_string()),
        };
        match ended {
            Ended::SpeaksV0 => speaks_v1 = false,
            Ended::Lost(why) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("manager {} is not reached: {why}; trying again", manager.address);
                }
                speaks_v1 = true;
                let jitter_ms = u64::from(chance.draw()) % pause_ms;
                tokio::time::sleep(Duration::from_millis(pause_ms + jitter_ms)).await;
                pause_ms = (pause_ms * 2).min(CONNECT_PAUSE_MS.1);
            }
        }
    }
}

/// Why a connection to a manager ended.
enum Ended {
    /// It does not know CONNECT.
    SpeaksV0,
    /// It broke.
    Lost(String),
}

/// Talks to a manager until the connection ends. Sets `served` when it answered.
async fn serve(manager: &Manager, shared: &Arc<Shared>, conn: &RpcConn, speaks_v1: bool, served: &Cell<bool>) -> Ended {
    if speaks_v1 {
        let workers = shared.counters.len() as u16;
        let connect =
            Connect { peer: Peer::Gateway, incarnation: shared.incarnation, workers, from_worker: 0, worker: 0 };
        match conn.call_with(|out, msgid| connect.write(out, msgid), ANSWER_LIMIT).await {
            Ok(result) if Connected::read(&result).is_ok() => {}
            Ok(_) => return Ended::Lost("it answers in another protocol".into()),
            Err(CallError::Refused(error::PROTOCOL, _)) => return Ended::SpeaksV0,
            // kumofs 0.4 may hang up before its answer is read.
            Err(CallError::Lost) => return Ended::SpeaksV0,
            Err(e) => return Ended::Lost(e.to_string()),
        }
    }
    loop {
        let asked = ask(shared, conn, speaks_v1).await;
        if let Err(e) = asked {
            return Ended::Lost(e.to_string());
        }
        if !served.replace(true) {
            tracing::info!("connect success {}", manager.address);
            manager.link.replace(Some((conn.clone(), speaks_v1)));
        }
        tokio::time::sleep(ASK_PAUSE).await;
        tokio::select! {
            () = manager.renew.notified() => {}
            () = tokio::time::sleep(ASK_INTERVAL) => {}
            why = conn.closed() => return Ended::Lost(why.to_string()),
        }
    }
}

/// Asks for the newest view.
async fn ask(shared: &Shared, conn: &RpcConn, speaks_v1: bool) -> Result<(), CallError> {
    let malformed = |_: DecodeError| CallError::Refused(error::PROTOCOL, Vec::new());
    if !speaks_v1 {
        let result = conn.call(v0::method::HASH_SPACE_REQUEST, |out| write_array(out, 0), ANSWER_LIMIT).await?;
        shared.offer(read_hash_spaces(&result).map_err(malformed)?);
        return Ok(());
    }
    let known = shared.newest.borrow().number();
    let params = |out: &mut Vec<u8>| {
        write_array(out, 1);
        write_uint(out, known);
    };
    let result = conn.call(method::GET_EPOCH, params, ANSWER_LIMIT).await?;
    let mut r = Reader::new(&result);
    if !r.take_nil() {
        let epoch = Epoch::decode(r.raw().map_err(malformed)?).map_err(|_| malformed(DecodeError::Type))?;
        shared.offer(View::new(epoch));
    }
    Ok(())
}

fn read_hash_spaces(array: &[u8]) -> Result<View, DecodeError> {
    let mut r = Reader::new(array);
    r.array_of(2)?;
    Ok(View::of_hash_spaces(read_seed(&mut r)?, read_seed(&mut r)?))
}

/// Takes what a manager tells unasked.
fn take_push(shared: &Shared, incoming: Incoming) {
    match incoming.method {
        method::EPOCH_PUSH => {
            let mut r = Reader::new(&incoming.params);
            let epoch = r.array_of(1).and_then(|()| r.raw()).ok().and_then(|bytes| Epoch::decode(bytes).ok());
            let Some(epoch) = epoch else { return incoming.reply.error(error::PROTOCOL) };
            shared.offer(View::new(epoch));
            let held = shared.newest.borrow().number();
            incoming.reply.success(|out| write_uint(out, held));
        }
        v0::method::HASH_SPACE_PUSH => match read_hash_spaces(&incoming.params) {
            Ok(view) => {
                shared.offer(view);
                incoming.reply.success(|out| write_bool(out, true));
            }
            Err(_) => incoming.reply.error(error::PROTOCOL),
        },
        _ => incoming.reply.error(error::PROTOCOL),
    }
}

/// Has a manager flush, and takes over the epoch that says so, so that this gateway's clients see it at once.
async fn flush(managers: &[Rc<Manager>], shared: &Shared, delay_secs: u64) -> Result<(), FlushError> {
    let mut outcome = Err(FlushError::NoManager);
    for manager in managers {
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
            // Should asking fail, the servers refuse our older epoch, and tell.
            Ok(_) => return ask(shared, &conn, true).await.or(Ok(())),
            Err(e) => tracing::warn!("manager {} does not flush: {e}", manager.address),
        }
    }
    outcome
}
