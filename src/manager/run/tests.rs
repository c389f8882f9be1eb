use super::*;
use crate::logic::epoch::Phase;
use crate::logic::paxos::Vote;
use crate::logic::ring::HashSpace;
use crate::net::rpc::{Incoming, Reply};
use crate::proto::rpc::frame::{self, Frame, Scanner};
use crate::proto::rpc::msgpack::{write_bool, write_raw};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};

const SECOND: Duration = Duration::from_secs(1);

fn scenario(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { time::timeout(30 * SECOND, run).await.expect("the scenario hangs") };
    LocalSet::new().block_on(&runtime, bounded);
}

struct Running {
    address: Address,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), PersistError>>,
}

async fn listener(at: &str) -> (Address, TcpListener) {
    let listener = TcpListener::bind(at).await.unwrap();
    (Address::new(listener.local_addr().unwrap()), listener)
}

fn start_with((address, listener): (Address, TcpListener), edit: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::new(address, [11, 22, 33], || 1_000_000);
    config.keepalive_interval = Duration::from_millis(50);
    edit(&mut config);
    let (stop, stopped) = watch::channel(false);
    let task = tokio::task::spawn_local(run(config, vec![listener], stopped));
    Running { address, stop, task }
}

async fn start(at: &str) -> Running {
    start_with(listener(at).await, |_| {})
}

impl Running {
    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }

    async fn tool(&self) -> RpcConn {
        let connected = RpcConn::connect_client(self.address.socket_addr(), SECOND, Limits::default(), ignore());
        connected.await.unwrap()
    }

    async fn command(&self, method: u32, params: &[u8]) -> Vec<u8> {
        let tool = self.tool().await;
        let answer = tool.call(method, |out| out.extend_from_slice(params), 5 * SECOND).await.unwrap();
        tool.close();
        answer
    }

    async fn attach(&self) {
        assert_eq!(self.command(v0::method::ATTACH_NEW_SERVERS, &[0x91, 0xc3]).await, [0xc0]);
    }

    /// Waits until so many servers are seen and not attached.
    async fn wait_for_newcomers(&self, count: usize) {
        loop {
            let info = self.command(v0::method::GET_NODES_INFO, &[0x90]).await;
            let mut r = Reader::new(&info);
            r.array_of(2).unwrap();
            v0::read_seed(&mut r).unwrap();
            if r.array().unwrap() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn epoch(&self) -> Epoch {
        let raw = self.command(v1::method::GET_EPOCH, &[0x91, 0]).await;
        Epoch::decode(Reader::new(&raw).raw().unwrap()).unwrap()
    }
}

fn ignore() -> Handler {
    Rc::new(|_: &RpcConn, _: Event| {})
}

/// A method and its parameters.
type Heard = (u32, Vec<u8>);

/// A peer that notes what it is told, votes, and answers true to all else.
#[derive(Clone, Default)]
struct Ear {
    heard: Rc<RefCell<VecDeque<Heard>>>,
    news: Rc<Notify>,
    disk_id: Rc<Cell<u64>>,
    decided: Rc<Cell<u64>>,
    vote: Rc<RefCell<Vote>>,
    /// It does not answer Prepare until these are answered.
    unready: Rc<RefCell<Option<Vec<Reply>>>>,
}

impl Ear {
    fn handler(&self) -> Handler {
        let ear = self.clone();
        Rc::new(move |_: &RpcConn, event: Event| {
            if let Event::Request(Incoming { method, params, reply }) = event {
                match method {
                    v1::method::VOTE => reply.success(|out| ear.vote(&Ask::read(&params).unwrap()).write(out)),
                    v1::method::PREPARE if ear.unready.borrow().is_some() => {
                        ear.unready.borrow_mut().as_mut().unwrap().push(reply);
                    }
                    _ => reply.success(|out| write_bool(out, true)),
                }
                if let Some(epoch) = pushed(method, &params) {
                    ear.decided.set(epoch.number.max(ear.decided.get()));
                }
                ear.heard.borrow_mut().push_back((method, params));
                ear.news.notify_one();
            }
        })
    }

    fn vote(&self, ask: &Ask) -> Voted {
        let answer = self.vote.borrow_mut().answer(self.decided.get(), &ask.question);
        Voted { disk_id: self.disk_id.get(), answer, newest: (0, None) }
    }

    /// The parameters of the next request of a method; earlier ones of others are dropped.
    async fn next(&self, wanted: u32) -> Vec<u8> {
        loop {
            let heard = self.heard.borrow_mut().pop_front();
            match heard {
                Some((method, params)) if method == wanted => return params,
                Some(_) => {}
                None => self.news.notified().await,
            }
        }
    }

    async fn epoch(&self, wanted: impl Fn(&Epoch) -> bool) -> Epoch {
        loop {
            let params = self.next(v1::method::EPOCH_PUSH).await;
            if let Some(epoch) = pushed(v1::method::EPOCH_PUSH, &params).filter(&wanted) {
                return epoch;
            }
        }
    }
}

fn pushed(method: u32, params: &[u8]) -> Option<Epoch> {
    let mut r = Reader::new(params);
    (method == v1::method::EPOCH_PUSH).then(|| {
        r.array_of(1).unwrap();
        Epoch::decode(r.raw().unwrap()).unwrap()
    })
}

/// A server: listens, says hello, joins. Dropped, it dies.
struct FakeServer {
    address: Address,
    conn: RpcConn,
    ear: Ear,
    _listener: TcpListener,
}

impl FakeServer {
    async fn start(manager: &Running, number: u64) -> FakeServer {
        let server = FakeServer::start_old(manager).await;
        server.join(&server.conn, number).await;
        server
    }

    async fn join(&self, conn: &RpcConn, number: u64) {
        self.ear.disk_id.set(number);
        let join =
            v1::Join { disk_id: number, incarnation: number * 10, workers: 2, stream: self.address, epoch: None };
        let joined = conn.call_with(|out, msgid| join.write(out, msgid), SECOND).await;
        assert_eq!(joined, Ok(vec![0xc3]));
    }

    /// The same server, at one more manager.
    async fn also_at(&self, manager: &Running, number: u64) -> RpcConn {
        let (own, to) = ((self.address, Role::Server), manager.address.socket_addr());
        let conn = RpcConn::connect_node(to, own, SECOND, Limits::default(), self.ear.handler()).await.unwrap();
        self.join(&conn, number).await;
        conn
    }

    async fn start_old(manager: &Running) -> FakeServer {
        let at = if manager.address.socket_addr().is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        let (address, listener) = listener(at).await;
        let ear = Ear::default();
        let own = (address, Role::Server);
        let to = manager.address.socket_addr();
        let conn = RpcConn::connect_node(to, own, SECOND, Limits::default(), ear.handler()).await.unwrap();
        FakeServer { address, conn, ear, _listener: listener }
    }

    async fn report(&self, method: u32, time: u64) {
        let params = |out: &mut Vec<u8>| {
            write_array(out, 2);
            write_uint(out, time);
            write_uint(out, 0);
        };
        assert_eq!(self.conn.call(method, params, SECOND).await, Ok(vec![0xc3]));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.conn.close();
    }
}

/// Sends bytes as a plain client; returns so many bytes of the answer.
async fn raw(to: SocketAddr, bytes: &[u8], len: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn seed(space: &HashSpace) -> Vec<u8> {
    let mut out = Vec::new();
    v0::write_seed(&mut out, space);
    out
}

#[test]
fn a_cluster_is_attached_loses_a_server_and_tells_everybody() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        scenario(async {
            let manager = start(at).await;
            let mut servers = Vec::new();
            for number in 1..=3 {
                servers.push(FakeServer::start(&manager, number).await);
            }
            manager.wait_for_newcomers(3).await;

            // A gateway of ours, and one of kumofs.
            let (ours, old) = (Ear::default(), Ear::default());
            let to = manager.address.socket_addr();
            let gateway = RpcConn::connect_client(to, SECOND, Limits::default(), ours.handler()).await.unwrap();
            let connect =
                v1::Connect { peer: v1::Peer::Gateway, incarnation: 5, workers: 2, from_worker: 0, worker: 0 };
            let connected = gateway.call_with(|out, msgid| connect.write(out, msgid), SECOND).await.unwrap();
            let connected = v1::Connected::read(&connected).unwrap();
            assert_eq!((connected.incarnation, connected.disk_id, connected.epoch), (11, 22, 0));
            let old_gateway = RpcConn::connect_client(to, SECOND, Limits::default(), old.handler()).await.unwrap();
            let asked = old_gateway.call(v0::method::HASH_SPACE_REQUEST, |out| out.push(0x90), SECOND).await;
            assert_eq!(asked, Ok(vec![0x92, 0x92, 0x90, 0, 0x92, 0x90, 0]));

            manager.attach().await;
            let copying = |e: &Epoch| matches!(e.phase, Phase::Copying { full: true, .. });
            let epoch = servers[0].ear.epoch(copying).await;
            assert_eq!(epoch.cluster, 33);
            ours.epoch(copying).await;
            let pushed = old.next(v0::method::HASH_SPACE_PUSH).await;
            assert_eq!(pushed, [vec![0x92], seed(&epoch.whs), seed(&epoch.rhs)].concat());

            for server in &servers {
                server.report(v0::method::REPLACE_COPY_END, epoch.whs.timestamp.0).await;
            }
            ours.epoch(|e| matches!(e.phase, Phase::Deleting { .. })).await;
            for server in &servers {
                server.report(v0::method::REPLACE_DELETE_END, epoch.whs.timestamp.0).await;
            }
            ours.epoch(|e| e.phase == Phase::Idle).await;

            let dead = servers.remove(1).address;
            let epoch = ours.epoch(|e| e.server(dead).is_some_and(|s| s.removed.is_some())).await;
            servers[0].ear.epoch(|e| *e == epoch).await;
            manager.stop().await;
        });
    }
}

/// A gateway that asked while servers synced an epoch got it early, and all that it asked them for was refused meanwhile.
#[test]
fn a_gateway_is_told_an_epoch_when_servers_are_ready_for_it() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        let epoch = server.ear.epoch(|_| true).await;
        server.report(v0::method::REPLACE_COPY_END, epoch.whs.timestamp.0).await;
        server.ear.epoch(|e| matches!(e.phase, Phase::Deleting { .. })).await;
        server.report(v0::method::REPLACE_DELETE_END, epoch.whs.timestamp.0).await;
        let epoch = server.ear.epoch(|e| e.phase == Phase::Idle).await;

        let ear = Ear::default();
        let to = manager.address.socket_addr();
        let gateway = RpcConn::connect_client(to, SECOND, Limits::default(), ear.handler()).await.unwrap();
        let connect = v1::Connect { peer: v1::Peer::Gateway, incarnation: 5, workers: 1, from_worker: 0, worker: 0 };
        gateway.call_with(|out, msgid| connect.write(out, msgid), SECOND).await.unwrap();
        server.ear.unready.replace(Some(Vec::new()));
        assert_eq!(manager.command(v1::method::RATE, &[0x91, 100]).await, [0xc0]);
        assert_eq!(manager.epoch().await.number, epoch.number + 1);
        server.ear.next(v1::method::PREPARE).await;
        for known in [0, epoch.number] {
            let ask = |out: &mut Vec<u8>| {
                write_array(out, 1);
                write_uint(out, known);
            };
            let answer = gateway.call(v1::method::GET_EPOCH, ask, SECOND).await.unwrap();
            let told = Reader::new(&answer).raw().ok().map(|bytes| Epoch::decode(bytes).unwrap().number);
            // Where this took so long that the manager waits no more, it has asked the server to yield meanwhile.
            let waits = server.ear.heard.borrow().is_empty();
            assert!(told == Some(epoch.number).filter(|_| known == 0) || !waits, "{known} was known, {told:?} is told");
        }
        server.ear.unready.take().unwrap().into_iter().for_each(|reply| reply.success(|out| write_bool(out, true)));
        ear.epoch(|e| e.number == epoch.number + 1).await;
        manager.stop().await;
    });
}

#[test]
fn the_golden_requests_are_answered_byte_for_byte() {
    scenario(async {
        // Seldom pings, lest one comes between.
        let manager = start_with(listener("127.0.0.1:0").await, |c| c.keepalive_interval = 30 * SECOND);
        let to = manager.address.socket_addr();
        let virgin = raw(to, &[0x94, 0, 7, 1, 0x90], 11).await;
        assert_eq!(virgin, [0x94, 1, 7, 0xc0, 0x92, 0x92, 0x90, 0, 0x92, 0x90, 0]);
        let server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        let address = server.address.to_bytes();
        let info = [&[0x94, 1, 7, 0xc0, 0x92, 0x92, 0x90, 0, 0x91, 0xa6][..], &address].concat();
        assert_eq!(raw(to, &[0x94, 0, 7, 0x63, 0x90], 16).await, info);

        assert_eq!(raw(to, &[0x94, 0, 7, 100, 0x91, 0xc3], 5).await, [0x94, 1, 7, 0xc0, 0xc0]);
        let time = manager.epoch().await.whs.timestamp.0.to_be_bytes();
        let space = [&[0x92, 0x91, 0xa7, 1][..], &address, &[0xcf], &time].concat();
        let both = [&[0x94, 1, 7, 0xc0, 0x92][..], &space, &space].concat();
        assert_eq!(raw(to, &[0x94, 0, 7, 1, 0x90], both.len()).await, both);
        let info = [&[0x94, 1, 7, 0xc0, 0x92][..], &space, &[0x90]].concat();
        assert_eq!(raw(to, &[0x94, 0, 7, 0x63, 0x90], info.len()).await, info);

        for (method, params, answer) in [
            (101, &[0x91, 0xc2][..], 0xc0),
            (103, &[0x91, 0xc3], 0xc3),
            (103, &[0x91, 0xc2], 0xc0),
            (104, &[0x90], 0xc0),
            (104, &[0x91, 0xc3], 0xc0),
        ] {
            let request = [&[0x94, 0, 7, method][..], params].concat();
            assert_eq!(raw(to, &request, 5).await, [0x94, 1, 7, 0xc0, answer], "method {method}");
        }
        let backup = [&[0x94, 0, 7, 102, 0x91, 0xa8][..], b"20090101"].concat();
        assert_eq!(raw(to, &backup, 5).await, [0x94, 1, 7, 0xc0, 0xc0]);
        let asked = server.ear.next(v0::method::SERVER_CREATE_BACKUP).await;
        assert_eq!(asked, [&[0x91, 0xa8][..], b"20090101"].concat());
        let wicked = [&[0x94, 0, 7, 102, 0x91, 0xa4][..], b"../x"].concat();
        assert_eq!(raw(to, &wicked, 5).await, [0x94, 1, 7, 6, 0xc0]);

        // What a node asks, after its hello.
        let hello = [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1];
        let own = [&[0x93, 2, 0xa6][..], &manager.address.to_bytes(), &[0]].concat();
        let epoch = manager.epoch().await;
        for (method, space) in [(4, seed(&epoch.whs)), (5, seed(&epoch.rhs))] {
            let request = [&hello[..], &[0x94, 0, 7, method, 0x90]].concat();
            let answer = [&own[..], &[0x94, 1, 7, 0xc0], &space].concat();
            assert_eq!(raw(to, &request, answer.len()).await, answer);
        }
        let request = [&hello[..], &[0x94, 0, 7, 0, 0x91, 5]].concat();
        let answer = [&own[..], &[0x94, 1, 7, 0xc0, 0xc0]].concat();
        assert_eq!(raw(to, &request, answer.len()).await, answer);
        manager.stop().await;
    });
}

#[test]
fn what_does_not_belong_here_is_answered_error_5_and_hung_up_on() {
    let hello = [0x93, 2, 0xa6, 0x4d, 0x59, 127, 0, 0, 1, 1];
    let wrong: [&[u8]; 7] = [
        &[0x94, 0, 7, 55, 0x90],
        &[0x94, 0, 7, 100, 0x90],
        &[0x94, 0, 7, 100, 0x91, 7],
        &[0x94, 0, 7, 0, 0x91, 7],
        &[0x94, 0, 7, 10, 0x92, 1, 1],
        &[0x94, 0, 7, 0xce, 0, 1, 0, 3, 0x90],
        &[0x94, 0, 7, 34, 0x91, 0xa1, 0],
    ];
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let to = manager.address.socket_addr();
        let own = 10;
        for (request, skip) in wrong.iter().map(|w| (w.to_vec(), 0)).chain([
            ([&hello[..], &[0x94, 0, 7, 99, 0x90]].concat(), own),
            ([&hello[..], &[0x94, 0, 7, 100, 0x91, 0xc3]].concat(), own),
            ([&hello[..], &[0x94, 0, 7, 2, 0x90]].concat(), own),
        ]) {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer[skip..], [0x94, 1, 7, 5, 0xc0], "{request:02x?}");
        }
        manager.stop().await;
    });
}

#[test]
fn a_kumofs_server_is_driven_by_the_old_methods() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let server = FakeServer::start_old(&manager).await;
        let counter = |out: &mut Vec<u8>| out.extend([0x91, 0]);
        assert_eq!(server.conn.call(v0::method::KEEP_ALIVE, counter, SECOND).await, Ok(vec![0xc0]));
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        let epoch = manager.epoch().await;
        let synced = server.ear.next(v0::method::HASH_SPACE_SYNC).await;
        assert!(synced.starts_with(&[vec![0x93], seed(&epoch.whs), seed(&epoch.rhs)].concat()));
        let start = server.ear.next(v0::method::REPLACE_COPY_START).await;
        assert!(start.starts_with(&[vec![0x93], seed(&epoch.whs)].concat()) && start.ends_with(&[0xc3]));
        server.report(v0::method::REPLACE_COPY_END, epoch.whs.timestamp.0).await;
        let delete = server.ear.next(v0::method::REPLACE_DELETE_START).await;
        assert!(delete.starts_with(&[vec![0x92], seed(&epoch.whs)].concat()));
        server.report(v0::method::REPLACE_DELETE_END, epoch.whs.timestamp.0).await;
        assert_eq!(manager.epoch().await.phase, Phase::Idle);
        manager.stop().await;
    });
}

#[test]
fn a_server_that_says_nothing_is_an_old_one() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let _server = FakeServer::start_old(&manager).await;
        manager.wait_for_newcomers(1).await;
        manager.stop().await;
    });
}

#[test]
fn a_server_that_stops_answering_is_removed() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        // It has no ear at all: its connection stays open, and nothing is answered.
        let mut stream = TcpStream::connect(manager.address.socket_addr()).await.unwrap();
        let (address, _listener) = listener("127.0.0.1:0").await;
        let mut out = Vec::new();
        frame::write_hello(&mut out, address, Role::Server);
        let join = v1::Join { disk_id: 1, incarnation: 2, workers: 1, stream: address, epoch: None };
        join.write(&mut out, 0);
        stream.write_all(&out).await.unwrap();
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        while manager.epoch().await.server(address).unwrap().removed.is_none() {
            time::sleep(Duration::from_millis(10)).await;
        }
        // What it was sent is a stream of whole messages.
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).await.unwrap();
        let mut rest = &sent[..];
        while let Some(len) = Scanner::default().advance(rest).unwrap() {
            frame::parse(&rest[..len]).unwrap();
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        manager.stop().await;
    });
}

#[test]
fn a_manager_started_again_on_its_state_file_knows_the_cluster() {
    scenario(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let manager = start_with(listener("127.0.0.1:0").await, |c| c.state = Some(path.clone()));
        let server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        let epoch = manager.epoch().await;
        manager.stop().await;
        drop(server);
        let manager = start_with(listener("127.0.0.1:0").await, |c| c.state = Some(path.clone()));
        assert_eq!(manager.epoch().await, epoch);
        manager.stop().await;
    });
}

#[test]
fn a_manager_that_cannot_write_its_state_stops_without_telling_anybody() {
    scenario(async {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let manager = start_with(listener("127.0.0.1:0").await, |c| c.state = Some(place.join("state")));
        let server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        std::fs::remove_dir_all(&place).unwrap();
        let tool = manager.tool().await;
        tool.notify(v0::method::ATTACH_NEW_SERVERS, |out| out.extend([0x91, 0xc3]));
        let failure = manager.task.await.unwrap().unwrap_err().to_string();
        assert!(failure.contains("cannot write the state file"), "{failure}");
        let pushed = server.ear.heard.borrow().iter().any(|(method, _)| *method == v1::method::EPOCH_PUSH);
        assert!(!pushed);
    });
}

/// Two managers that know each other; the one with the lower address first.
async fn pair() -> (Running, Running) {
    let mut listeners = [listener("127.0.0.1:0").await, listener("127.0.0.1:0").await];
    listeners.sort_by_key(|(address, _)| *address);
    let addresses = [listeners[0].0, listeners[1].0];
    let mut running = listeners.into_iter().enumerate().map(|(i, l)| {
        start_with(l, |c| {
            c.partners = vec![addresses[1 - i]];
            c.dice = c.dice.map(|number| number + i as u64);
        })
    });
    (running.next().unwrap(), running.next().unwrap())
}

#[test]
fn a_pair_takes_commands_at_either_and_goes_on_with_the_servers_when_one_dies() {
    scenario(async {
        let (low, high) = pair().await;
        let server = FakeServer::start(&low, 1).await;
        let _at_high = server.also_at(&high, 1).await;
        low.wait_for_newcomers(1).await;
        // It waits until the two have found each other.
        high.attach().await;
        let epoch = server.ear.epoch(|e| e.number > 0).await;
        assert_eq!(epoch.managers.iter().map(|m| m.disk_id).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(low.epoch().await, epoch);
        while high.command(v1::method::GET_EPOCH, &[0x91, 0]).await == [0xc0] {}
        low.stop().await;
        let answer = high.tool().await.call(104, |out| out.extend([0x91, 0xc3]), 5 * SECOND).await;
        assert_eq!(answer, Ok(vec![0xc0]));
        assert_eq!(high.epoch().await.number, epoch.number + 1);
        drop(server);
        high.stop().await;
    });
}

#[test]
fn three_managers_found_a_cluster_and_one_of_them_dies() {
    scenario(async {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(listener("127.0.0.1:0").await);
        }
        let addresses: Vec<Address> = listeners.iter().map(|(address, _)| *address).collect();
        let start = |(i, l): (usize, (Address, TcpListener))| {
            start_with(l, |c| {
                c.partners = addresses.iter().copied().filter(|a| *a != addresses[i]).collect();
                c.dice = c.dice.map(|number| number + i as u64);
            })
        };
        let mut managers: Vec<Running> = listeners.into_iter().enumerate().map(start).collect();
        let server = FakeServer::start(&managers[1], 1).await;
        let _others = [server.also_at(&managers[0], 1).await, server.also_at(&managers[2], 1).await];
        managers[1].attach().await;
        let epoch = server.ear.epoch(|e| e.number > 0).await;
        assert_eq!(epoch.managers.len(), 3);
        managers.remove(2).stop().await;
        let answer = managers[0].tool().await.call(104, |out| out.extend([0x91, 0xc3]), 5 * SECOND).await;
        assert_eq!(answer, Ok(vec![0xc0]));
        managers.remove(1).stop().await;
        // One of three decides nothing, and says so.
        let answer = managers[0].tool().await.call(104, |out| out.extend([0x91, 0xc3]), 5 * SECOND).await;
        assert_eq!(answer, Err(CallError::Refused(error::SERVER, vec![0xc0])));
        drop(server);
        managers.remove(0).stop().await;
    });
}

#[test]
fn a_kumofs_manager_as_partner_is_told_the_hash_spaces() {
    scenario(async {
        let (partner, partner_listener) = listener("127.0.0.1:0").await;
        let manager = start_with(listener("127.0.0.1:0").await, |c| c.partners = vec![partner]);
        // It hangs up on the first question of version 1, and is not asked again.
        let heard = Ear::default();
        let mut asked = 0;
        let own = (partner, Role::Manager);
        while asked < 2 {
            let (stream, _) = partner_listener.accept().await.unwrap();
            asked += 1;
            let ear = heard.clone();
            let handler: Handler = Rc::new(move |_: &RpcConn, event: Event| {
                if let Event::Request(Incoming { method, params, reply }) = event {
                    ear.heard.borrow_mut().push_back((method, params));
                    ear.news.notify_one();
                    if method >> 16 == 0 { reply.success(|out| write_bool(out, true)) } else { reply.protocol_error() }
                }
            });
            RpcConn::accept(stream, own, Limits::default(), handler);
        }
        let server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        let epoch = manager.epoch().await;
        assert_eq!(epoch.managers.iter().find(|m| m.address == partner).unwrap().disk_id, 0, "it has no vote");
        let synced = heard.next(v0::method::HASH_SPACE_SYNC).await;
        assert!(synced.starts_with(&[vec![0x93], seed(&epoch.whs), seed(&epoch.rhs)].concat()));
        drop(server);
        manager.stop().await;
    });
}

#[test]
fn many_idle_and_broken_clients_leave_it_unmoved() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let to = manager.address.socket_addr();
        let mut idle = Vec::new();
        for i in 0..300u32 {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let half: &[u8] = if i % 2 == 0 { &[0x94, 0, 7] } else { b"rubbish" };
            stream.write_all(half).await.unwrap();
            idle.push(stream);
        }
        assert_eq!(raw(to, &[0x94, 0, 7, 1, 0x90], 11).await.len(), 11);
        manager.stop().await;
    });
}

#[test]
fn a_foreign_server_is_refused_and_hung_up_on() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let _server = FakeServer::start(&manager, 1).await;
        manager.wait_for_newcomers(1).await;
        manager.attach().await;
        let foreign = FakeServer::start_old(&manager).await;
        let epoch = Epoch { number: 99, cluster: 5, ..Epoch::default() }.encode();
        let join = v1::Join { disk_id: 9, incarnation: 9, workers: 1, stream: foreign.address, epoch: Some(epoch) };
        let joined = foreign.conn.call_with(|out, msgid| join.write(out, msgid), SECOND).await;
        assert_eq!(joined, Err(CallError::Refused(error::SERVER, vec![0xc0])));
        foreign.conn.closed().await;
        assert_eq!(manager.epoch().await.cluster, 33);
        manager.stop().await;
    });
}

#[test]
fn a_message_that_is_a_frame_but_no_epoch_is_a_protocol_error() {
    scenario(async {
        let manager = start("127.0.0.1:0").await;
        let server = FakeServer::start(&manager, 1).await;
        let params = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_raw(out, b"no epoch");
        };
        let answer = server.conn.call(v1::method::EPOCH_PUSH, params, SECOND).await;
        assert_eq!(answer, Err(CallError::Refused(error::PROTOCOL, vec![0xc0])));
        server.conn.closed().await;
        assert!(matches!(frame::parse(&[0x94, 1, 0, 5, 0xc0]), Ok(Frame::Response { error: Some(5), .. })));
        manager.stop().await;
    });
}
