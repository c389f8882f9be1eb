//! Starting and stopping a server: its sockets, its workers, its control plane.

use super::background::Background as Steps;
use super::epoch_file::load_epoch;
use super::garbage::Limits;
use super::managers::{Control, random_id};
use super::shared::{Config, Counters, Mail, Moved, Progress, Shared, View};
use super::stream;
use super::versions::Versions;
use super::vote::Ballots;
use super::worker::Worker;
use crate::logic::budget::Budget;
use crate::net::background::Background;
use crate::net::cores::Cores;
use crate::net::sock::{TcpListener, TcpStream, pack};
use crate::net::time::{Instant, boot_micros};
use crate::proto::rpc::frame::{Frame, Scanner};
use crate::proto::rpc::v1::{Connect, method};
use crate::store::restored::{self, BACKUP_EPOCH_FILE, Settled};
use crate::store::{Maintained, Store};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a new connection may take to say what it is before it goes to the first worker.
const OPENING: Duration = Duration::from_millis(200);
/// How often an incomplete opening is looked at again.
const OPENING_STEP: Duration = Duration::from_millis(2);
/// Bytes that hello and Connect take at most.
const OPENING_BYTES: usize = 128;
/// Bytes that a step of background work may read and write, and the least pause between two steps: at most 64 MiB/s.
const MAINTAIN_BYTES: u64 = 256 << 10;
const MAINTAIN_PAUSE: Duration = Duration::from_millis(4);
const MAINTAIN_REST: Duration = Duration::from_millis(200);

/// Runs a server until `shutdown` says true, on the current event loop (the control plane) and on `cores` (the workers,
/// as many as `config.workers`). `listener` and `stream_listener` are bound to the addresses in `config`.
///
/// # Errors
/// One line that says what to do.
pub async fn run(
    config: Config,
    store: Arc<dyn Store>,
    listener: TcpListener,
    stream_listener: TcpListener,
    cores: Arc<Cores>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), String> {
    for damage in store.damage() {
        tracing::error!("{damage}");
    }
    let (lost, losses) = mpsc::unbounded_channel();
    let (offers, offered) = mpsc::unbounded_channel();
    let epoch = load_epoch(store.disk(), store.dir())?;
    let ballots = Ballots::load(store.disk(), store.dir(), &epoch)?;
    let versions = Versions::load(store.disk(), store.dir(), config.version_block)?;
    let incarnation = random_id().map_err(|e| format!("the system gives no random numbers: {e}"))?;
    let view = View::new(epoch, config.address, incarnation);
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
    let shared = Arc::new(Shared {
        garbage: Limits::of(&config),
        started: Instant::now(),
        incarnation: AtomicU64::new(incarnation),
        view: Mutex::new(Arc::new(view)),
        counters: mailboxes.iter().map(|_| Counters::default()).collect(),
        received: Mutex::default(),
        progress: mailboxes.iter().map(|_| Progress::default()).collect(),
        statistics: super::statistics::Newest::default(),
        mailboxes,
        moving: AtomicU8::new(0),
        moved: Moved::default(),
        backup_turn: Mutex::default(),
        lost,
        peers: super::peers::Peers::default(),
        offered: stream::Offered::default(),
        offers,
        clock: AtomicU64::new(u64::from(versions.start())),
        versions,
        behind: tokio::sync::Notify::new(),
        draining: AtomicBool::new(false),
        config,
        store: store.clone(),
    });
    let durable = Arc::downgrade(&shared);
    store.on_durable(Box::new(move |shard| {
        if let Some(shared) = durable.upgrade() {
            shared.tell(shard, Mail::Durable);
        }
    }));
    for (number, inbox) in (0..shared.config.workers).zip(inboxes) {
        let shared = shared.clone();
        let core = usize::from(number) % cores.count();
        cores.run_on(core, move || Worker::start(shared, number, inbox));
    }
    let maintenance = start_maintenance(store.clone(), shared.clone())?;
    settle_backup(&*store, shared.view().epoch.number).await?;
    open_door(&shared);
    let control = Control::new(shared.clone(), ballots);
    control.start(losses);
    let steps = Rc::new(Steps::new(shared.clone(), None));
    let tasks = [
        tokio::task::spawn_local(super::versions::keep(shared.clone())),
        tokio::task::spawn_local(stream::listen(shared.clone(), steps.clone(), stream_listener)),
        tokio::task::spawn_local(stream::fetch_offers(shared.clone(), steps, offered)),
        tokio::task::spawn_local(accept(shared.clone(), listener)),
    ];
    let _ = shutdown.wait_for(|stop| *stop).await;
    stop(&shared, &control, tasks).await;
    let counter = u32::try_from(shared.clock.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    shared.versions.give_back(store.disk(), store.dir(), counter);
    maintenance.ended().await;
    store.close().map_err(|e| format!("the store was not closed cleanly: {e}"))
}

/// Has records that come out of a backup count as older than all that the cluster does, before it is joined.
async fn settle_backup(store: &dyn Store, known: u64) -> Result<(), String> {
    let path = store.dir().join(BACKUP_EPOCH_FILE);
    let failed = |e: &dyn std::fmt::Display| format!("cannot take in the backup in {}: {e}", store.dir().display());
    let unread = |e| format!("cannot read {}: {e}; take another copy of the backup", path.display());
    let Some(epoch) = restored::load(store.disk(), store.dir(), BACKUP_EPOCH_FILE).map_err(unread)? else {
        return Ok(());
    };
    if known == 0 {
        for (number, shard) in store.shards().iter().enumerate() {
            let settled = restored::settle(&mut *shard.lock().expect("no holder of a shard panics"), epoch.flushed);
            let (Settled { taken, dropped }, ticket) = settled.map_err(|e| failed(&e))?;
            while store.durable(number) < ticket {
                tokio::time::sleep(Duration::from_millis(1)).await;
                // Where a sync has failed, it says so.
                shard.lock().expect("no holder of a shard panics").commit().map_err(|e| failed(&e))?;
            }
            tracing::info!("backup: {taken} records taken in, and {dropped} dropped that had been flushed");
        }
    }
    restored::forget(store).map_err(|e| failed(&e))
}

/// Ends in order: others take over; no new connections; no worker acts any more, and the other servers know; the managers
/// find nobody at home, should they not have heard; what was executed is stored.
async fn stop(shared: &Shared, control: &Control, tasks: [tokio::task::JoinHandle<()>; 4]) {
    control.leave().await;
    shared.config.doors.close(shared.config.address);
    shared.draining.store(true, Ordering::Relaxed);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for mail in [Mail::Leave, Mail::Flush] {
        for worker in 0..shared.mailboxes.len() {
            let (done, finished) = oneshot::channel();
            shared.tell(worker, mail(done));
            // A worker that has ended has nothing to do.
            let _ = finished.await;
        }
        control.hang_up();
    }
}

/// Compaction and its like, in a thread of its own.
fn start_maintenance(store: Arc<dyn Store>, shared: Arc<Shared>) -> Result<Background, String> {
    let mut budget = Budget::default();
    let step = move || {
        if shared.draining.load(Ordering::Relaxed) {
            return None;
        }
        let began = boot_micros();
        let worked = store.maintain(MAINTAIN_BYTES);
        let ended = boot_micros();
        budget.spent(began, ended);
        Some(match worked {
            // When it is behind, it works without pausing.
            Ok(Maintained::Worked) if store.pace() > Duration::ZERO => Duration::ZERO,
            Ok(Maintained::Worked) => {
                let wait = budget.wait_micros(ended, shared.served_micros(None));
                MAINTAIN_PAUSE.max(Duration::from_micros(wait))
            }
            Ok(Maintained::Idle) => MAINTAIN_REST,
            Err(e) => {
                tracing::error!("background work on the store: {e}");
                MAINTAIN_REST
            }
        })
    };
    Background::start("maintenance", step).map_err(|e| format!("the system starts no further thread: {e}"))
}

/// Has gateways in this process reach the workers without a socket.
fn open_door(shared: &Arc<Shared>) {
    let mailboxes = shared.mailboxes.clone();
    shared.config.doors.open(shared.config.address, move |worker, pipe| {
        mailboxes.get(usize::from(worker)).is_some_and(|mailbox| mailbox.send(Mail::Serve(pipe)).is_ok())
    });
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, _) = crate::net::listen::accept(&listener).await;
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let worker = if shared.config.workers == 1 { 0 } else { wanted_worker(&stream).await };
            hand_over(&shared, worker % shared.config.workers, stream);
        });
    }
}

/// The worker that Connect asks for, seen without taking any bytes from the connection. Who says nothing for as long as an
/// opening may take asks for none.
async fn wanted_worker(stream: &TcpStream) -> u16 {
    tokio::time::timeout(OPENING, see_opening(stream)).await.unwrap_or(0)
}

async fn see_opening(stream: &TcpStream) -> u16 {
    let mut bytes = [0; OPENING_BYTES];
    loop {
        let Ok(n) = stream.peek(&mut bytes).await else { return 0 };
        match read_opening(&bytes[..n]) {
            Some(worker) => return worker,
            None if n == 0 || n == OPENING_BYTES => return 0,
            // What was seen stays there to be read, so that peeking again would not wait for more.
            None => tokio::time::sleep(OPENING_STEP).await,
        }
    }
}

/// The worker that an opening asks for; 0 when it asks for none; `None`: it is incomplete.
fn read_opening(bytes: &[u8]) -> Option<u16> {
    let mut rest = bytes;
    loop {
        match Scanner::default().take(rest) {
            Ok(Some((Frame::Hello { .. }, len))) => rest = &rest[len..],
            Ok(Some((Frame::Request { method: method::CONNECT, params, .. }, _))) => {
                return Some(Connect::read(params).map_or(0, |connect| connect.worker));
            }
            Ok(Some(_)) => return Some(0),
            Ok(None) => return None,
            Err(_) => return Some(0),
        }
    }
}

fn hand_over(shared: &Shared, worker: u16, stream: TcpStream) {
    match pack(stream) {
        Ok(stream) => shared.tell(usize::from(worker), Mail::ServeFrom(stream)),
        Err(e) => tracing::warn!("cannot serve a connection: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::frame;
    use crate::proto::rpc::v1::Peer;

    #[test]
    fn the_worker_is_read_from_hello_and_connect() {
        let mut bytes = Vec::new();
        frame::write_hello(
            &mut bytes,
            crate::logic::address::Address::new("127.0.0.1:1".parse().unwrap()),
            frame::Role::Server,
        );
        Connect { peer: Peer::Server, incarnation: u64::MAX, workers: 9, from_worker: 2, worker: 3 }
            .write(&mut bytes, 0);
        for cut in 0..bytes.len() {
            assert_eq!(read_opening(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(read_opening(&bytes), Some(3));
        assert!(bytes.len() <= OPENING_BYTES);
    }

    /// One that connected and said nothing was waited for until it hung up.
    #[tokio::test]
    async fn whoever_says_nothing_or_half_of_it_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for said in [&b""[..], &[0x94, 0]] {
            let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut client, said).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let waited = tokio::time::timeout(OPENING * 50, wanted_worker(&stream)).await;
            assert_eq!(waited, Ok(0), "{said:?}");
        }
    }

    #[test]
    fn whoever_asks_for_no_worker_gets_the_first() {
        assert_eq!(read_opening(b"GET / HTTP/1.1"), Some(0));
        assert_eq!(read_opening(&[0x94, 0, 7, 34, 0x90]), Some(0));
    }
}
