//! A cluster made up for the gateway: a manager and servers that speak just enough, and misbehave as a test says.
//!
//! All servers share one store. They run in a thread of their own, beside the gateway; a test changes them by
//! [`Fake::with`].

use kumofs::gateway::{self, Config};
use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::epoch::{Epoch, ServerEntry};
use kumofs::logic::mutation::{self, Answer, Decision};
use kumofs::logic::record;
use kumofs::logic::ring::{HashSpace, Node};
use kumofs::net::cores::{Cores, event_loop};
use kumofs::net::rpc::{Event, Handler, Incoming, Limits, RpcConn};
use kumofs::net::time::unix_secs;
use kumofs::proto::rpc::error;
use kumofs::proto::rpc::frame::Role;
use kumofs::proto::rpc::msgpack::{Reader, write_array, write_bool, write_nil, write_raw, write_uint};
use kumofs::proto::rpc::v0::{self, set_op, write_seed};
use kumofs::proto::rpc::v1::{
    Connect, Connected, GetPart, Gone, InParts, Mutate, Mutated, Op, Part, RequestId, Statistics, method,
};
use kumofs::store::LARGE_BYTES;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc::UnboundedSender, watch};

/// How a server behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As it should.
    Serve,
    /// Keeps requests, until it is told to answer; but shows that it lives.
    Hold,
    /// Takes requests and never answers, not even whether it lives.
    Silent,
    /// Executes changes and never answers.
    Swallow,
    /// Cannot tell what became of changes.
    Forget,
    /// Is no longer there: hangs up on everybody.
    Dead,
    /// Refuses, telling the world's epoch.
    Refuse,
    /// Answers a multi-get with nothing but false.
    LeaveOut,
    /// Answers everything with a map.
    Rubbish,
}

/// A request as a server saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Get,
    GetIfModified,
    MultiGet(usize),
    Mutate(Op, RequestId),
    V0(u32),
}

pub struct Server {
    pub mode: Mode,
    pub seen: Vec<Seen>,
    pub address: Address,
    pub connects: Vec<Connect>,
    held: Vec<Incoming>,
    conns: Vec<RpcConn>,
}

/// The cluster.
pub struct World {
    pub epoch: Epoch,
    pub servers: Vec<Server>,
    /// Whether managers and servers know version 1.
    pub speaks_v1: bool,
    pub store: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The manager cannot say whether a flush is seen by all.
    pub doubts_flushes: bool,
    /// The largest value.
    max_value: usize,
    /// After how long parts of large values are answered; `None`: never.
    pub part_pause: Option<Duration>,
    /// Whether large values are told in parts, and how many bytes of such parts were told.
    pub tells_parts: bool,
    pub told_bytes: usize,
    /// Parts of large values, by the sequences of what is to take them.
    parts: BTreeMap<u64, Vec<u8>>,
    /// What changes were answered with, by their sequences: each is executed once.
    remembered: BTreeMap<u64, Vec<u8>>,
    version: u64,
    managers: Vec<RpcConn>,
}

impl World {
    /// Takes over another epoch, and tells the gateway if `push`.
    pub fn change(&mut self, push: bool, change: impl FnOnce(&mut Epoch)) {
        self.epoch.number += u64::from(self.speaks_v1);
        change(&mut self.epoch);
        self.epoch.whs.timestamp.0 += 1;
        self.epoch.rhs.timestamp.0 += 1;
        if push {
            let epoch = &self.epoch;
            for manager in &self.managers {
                if self.speaks_v1 {
                    manager.notify(method::EPOCH_PUSH, |out| {
                        write_array(out, 1);
                        write_raw(out, &epoch.encode());
                    });
                } else {
                    manager.notify(v0::method::HASH_SPACE_PUSH, |out| {
                        write_array(out, 2);
                        write_seed(out, &epoch.whs);
                        write_seed(out, &epoch.rhs);
                    });
                }
            }
        }
    }

    /// Marks a server as fault in both hash spaces.
    pub fn remove(&mut self, server: usize, push: bool) {
        let address = self.servers[server].address;
        self.change(push, |epoch| {
            for space in [&mut epoch.whs, &mut epoch.rhs] {
                space.nodes.iter_mut().filter(|n| n.address == address).for_each(|n| n.active = false);
            }
        });
    }

    /// Kills a server.
    pub fn kill(&mut self, server: usize) {
        let server = &mut self.servers[server];
        server.mode = Mode::Dead;
        server.held.clear();
        server.conns.drain(..).for_each(|conn| conn.close());
    }

    /// Has a server answer what it held, the last first, and serve from now on.
    pub fn release_in_reverse(&mut self, server: usize) {
        self.servers[server].mode = Mode::Serve;
        let held = std::mem::take(&mut self.servers[server].held);
        held.into_iter().rev().for_each(|incoming| self.serve(server, incoming));
    }

    /// Has a server answer the last of what it holds, and hold the rest.
    pub fn release_last(&mut self, server: usize) {
        if let Some(incoming) = self.servers[server].held.pop() {
            self.serve(server, incoming);
        }
    }

    /// How many requests a server holds.
    pub fn held(&self, server: usize) -> usize {
        self.servers[server].held.len()
    }

    /// All that servers saw.
    pub fn seen(&self) -> Vec<Seen> {
        self.servers.iter().flat_map(|server| server.seen.clone()).collect()
    }

    fn serve_manager(&mut self, incoming: Incoming) {
        match incoming.method {
            method::CONNECT if self.speaks_v1 => {
                let connected = Connected { incarnation: 1, disk_id: 1, workers: 1, epoch: self.epoch.number };
                incoming.reply.success(|out| connected.write(out));
            }
            method::GET_EPOCH if self.speaks_v1 => self.tell_epoch(incoming),
            method::FLUSH_ALL if self.doubts_flushes => incoming.reply.success(|out| write_bool(out, false)),
            method::FLUSH_ALL if self.speaks_v1 => {
                let mut r = Reader::new(&incoming.params);
                r.array_of(1).unwrap();
                if r.u64().unwrap() == 0 {
                    self.store.clear();
                    self.change(false, |_| ());
                }
                incoming.reply.success(write_nil);
            }
            v0::method::HASH_SPACE_REQUEST => incoming.reply.success(|out| {
                write_array(out, 2);
                write_seed(out, &self.epoch.whs);
                write_seed(out, &self.epoch.rhs);
            }),
            _ => incoming.reply.protocol_error(),
        }
    }

    fn tell_epoch(&self, incoming: Incoming) {
        let known = Reader::new(&incoming.params[1..]).u64().unwrap();
        incoming.reply.success(|out| match self.epoch.number > known {
            true => write_raw(out, &self.epoch.encode()),
            false => write_nil(out),
        });
    }

    fn serve_server(&mut self, number: usize, incoming: Incoming) {
        let server = &mut self.servers[number];
        let silent = server.mode == Mode::Silent;
        match incoming.method {
            method::GET_EPOCH | method::STATISTICS | v0::method::GET_STATUS if silent => return incoming.reply.none(),
            method::CONNECT if self.speaks_v1 => {
                let connect = Connect::read(&incoming.params).unwrap();
                server.connects.push(connect);
                let connected =
                    Connected { incarnation: 1, disk_id: 1, workers: connect.workers, epoch: self.epoch.number };
                return incoming.reply.success(|out| connected.write(out));
            }
            method::GET_EPOCH if self.speaks_v1 => return self.tell_epoch(incoming),
            method::STATISTICS if self.speaks_v1 => {
                let mut told = Statistics::default();
                told.numbers.items = Some(7);
                told.numbers.disk_used_bytes = Some(1000);
                told.numbers.disk_free_bytes = Some(9000);
                told.numbers.holds_ppm = Some(1_000_000);
                return incoming.reply.success(|out| told.write(out));
            }
            _ => {}
        }
        if incoming.method == method::PART && server.mode == Mode::Serve {
            return self.take_part(incoming);
        }
        if incoming.method == method::GET_PART {
            let part = GetPart::read(&incoming.params).unwrap();
            let dbval = &self.store[part.dbkey];
            assert_eq!(record::version_of(dbval), Some(ClockTime(part.version)));
            self.told_bytes += part.len;
            return incoming.reply.success(|out| write_raw(out, &dbval[part.from..part.from + part.len]));
        }
        let mut r = Reader::new(&incoming.params);
        server.seen.push(match incoming.method {
            method::GET => Seen::Get,
            method::GET_IF_MODIFIED => Seen::GetIfModified,
            method::MULTI_GET => {
                r.array_of(2).unwrap();
                r.u64().unwrap();
                Seen::MultiGet(r.array().unwrap())
            }
            method::MUTATE => {
                let mutate = Mutate::read(&incoming.params).unwrap();
                Seen::Mutate(mutate.op, mutate.id)
            }
            other => Seen::V0(other),
        });
        match server.mode {
            Mode::Hold => server.held.push(incoming),
            Mode::Swallow => {
                if let Ok(mutate) = Mutate::read(&incoming.params) {
                    self.mutate(&mutate);
                }
                incoming.reply.none();
            }
            Mode::Forget if incoming.method == method::MUTATE => {
                incoming.reply.success(|out| Mutated::Unknown.write(out));
            }
            Mode::Silent | Mode::Dead => incoming.reply.none(),
            Mode::Rubbish => incoming.reply.success(|out| out.extend_from_slice(&[0x82, 1, 2, 3, 4])),
            Mode::Refuse => {
                let number = self.epoch.number;
                incoming.reply.error_with(error::SERVER, |out| write_uint(out, number));
            }
            Mode::Serve | Mode::LeaveOut | Mode::Forget => self.serve(number, incoming),
        }
    }

    fn take_part(&mut self, incoming: Incoming) {
        let part = Part::read(&incoming.params).unwrap();
        let value = self.parts.entry(part.id).or_default();
        value.truncate(part.from);
        value.extend_from_slice(part.bytes);
        match self.part_pause {
            None => incoming.reply.none(),
            Some(pause) => drop(tokio::task::spawn_local(async move {
                tokio::time::sleep(pause).await;
                incoming.reply.success(write_nil);
            })),
        }
    }

    fn serve(&mut self, server: usize, incoming: Incoming) {
        let mut r = Reader::new(&incoming.params);
        match incoming.method {
            method::GET | method::GET_IF_MODIFIED | method::MULTI_GET if self.speaks_v1 => {
                let is_conditional = incoming.method == method::GET_IF_MODIFIED;
                r.array_of(if is_conditional { 3 } else { 2 }).unwrap();
                if r.u64().unwrap() != self.epoch.number {
                    let number = self.epoch.number;
                    return incoming.reply.error_with(error::SERVER, |out| write_uint(out, number));
                }
                let mut result = Vec::new();
                let many = incoming.method == method::MULTI_GET;
                let keys = if many { r.array().unwrap() } else { 1 };
                if many {
                    write_array(&mut result, keys);
                }
                for _ in 0..keys {
                    let dbkey = r.raw().unwrap();
                    let known = is_conditional.then(|| ClockTime(r.u64().unwrap()));
                    match self.live(dbkey).ok_or_else(|| self.why_gone(dbkey)) {
                        Ok(dbval) if known.is_some() && record::version_of(dbval) == known => {
                            write_bool(&mut result, true);
                        }
                        _ if many && self.servers[server].mode == Mode::LeaveOut => write_bool(&mut result, false),
                        Ok(dbval) if self.tells_parts && dbval.len() > LARGE_BYTES && many => {
                            write_bool(&mut result, false);
                        }
                        Ok(dbval) if self.tells_parts && dbval.len() > LARGE_BYTES => {
                            let version = record::version_of(dbval).unwrap().0;
                            InParts { version, len: dbval.len() }.write(&mut result);
                        }
                        Ok(dbval) => write_raw(&mut result, dbval),
                        Err(gone) => gone.write(&mut result),
                    }
                }
                incoming.reply.success(|out| out.extend_from_slice(&result));
            }
            method::MUTATE if self.speaks_v1 => {
                let mutate = Mutate::read(&incoming.params).unwrap();
                if mutate.epoch != self.epoch.number {
                    let number = self.epoch.number;
                    return incoming.reply.error_with(error::SERVER, |out| write_uint(out, number));
                }
                let parts = self.parts.remove(&mutate.id.sequence).filter(|_| mutate.takes_parts());
                let result = match &parts {
                    Some(dbval) => self.mutate(&Mutate { dbval, ..mutate }),
                    None => self.mutate(&mutate),
                };
                incoming.reply.success(|out| out.extend_from_slice(&result));
            }
            _ => self.serve_v0(incoming),
        }
    }

    fn live(&self, dbkey: &[u8]) -> Option<&Vec<u8>> {
        let dbval = self.store.get(dbkey)?;
        mutation::live(record::parse(dbval)?.body, 0, unix_secs()).map(|_| dbval)
    }

    fn why_gone(&self, dbkey: &[u8]) -> Gone {
        let is_there = self.store.get(dbkey).and_then(|dbval| record::parse(dbval)?.body).is_some();
        if is_there { Gone::Expired } else { Gone::Absent }
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn mutate(&mut self, mutate: &Mutate<'_>) -> Vec<u8> {
        if let Some(result) = self.remembered.get(&mutate.id.sequence) {
            return result.clone();
        }
        let new = record::parse(mutate.dbval).and_then(|value| value.body);
        let old = self.live(mutate.dbkey).cloned();
        let old = old.as_deref().and_then(record::parse).and_then(|value| value.body);
        let (mut dbval, mut result) = (Vec::new(), Vec::new());
        let decision = mutation::decide(mutate, new, old, self.max_value, &mut dbval);
        let version = self.next_version();
        if let Some(head) = dbval.get_mut(..8) {
            head.copy_from_slice(&version.to_be_bytes());
        }
        let mutated = match decision {
            Decision::Store(Answer::Done) | Decision::Delete => Mutated::Done(version),
            Decision::Store(Answer::Number(number)) => Mutated::Number(version, number),
            Decision::Store(Answer::Told(bits, expiry)) => Mutated::Told(bits, expiry, &dbval),
            Decision::Store(Answer::Value) => Mutated::Value(&dbval),
            Decision::Refuse(Mutated::NotFound) if matches!(mutate.op, Op::Fetch | Op::GetAndTouch) => {
                match self.why_gone(mutate.dbkey) {
                    Gone::Absent => Mutated::NotFound,
                    gone => Mutated::Gone(gone),
                }
            }
            Decision::Refuse(mutated) => mutated,
            Decision::Show(bits, expiry) => match &self.store[mutate.dbkey] {
                known if record::version_of(known) == Some(ClockTime(mutate.arg)) => Mutated::Same(bits),
                dbval => Mutated::Told(bits, expiry, dbval),
            },
        };
        mutated.write(&mut result);
        match decision {
            Decision::Store(_) => drop(self.store.insert(mutate.dbkey.to_vec(), dbval)),
            Decision::Delete => drop(self.store.remove(mutate.dbkey)),
            Decision::Refuse(_) => {}
            Decision::Show(..) => return result,
        }
        self.remembered.insert(mutate.id.sequence, result.clone());
        result
    }

    fn serve_v0(&mut self, incoming: Incoming) {
        let mut r = Reader::new(&incoming.params);
        let values = r.array().unwrap();
        match (incoming.method, values) {
            (v0::method::GET, 1) => {
                let found = self.store.get(r.raw().unwrap()).cloned();
                incoming.reply.success(|out| match found {
                    Some(dbval) => write_raw(out, &dbval),
                    None => write_nil(out),
                });
            }
            (v0::method::SET, 3) => {
                let (op, dbkey, dbval) = (r.u64().unwrap(), r.raw().unwrap(), r.raw().unwrap());
                let stored = self.store.get(dbkey).and_then(|stored| record::version_of(stored));
                if op == set_op::CAS && stored != record::version_of(dbval) {
                    return incoming.reply.success(|out| write_bool(out, false));
                }
                let version = self.next_version();
                let stamped = [&ClockTime(version).0.to_be_bytes(), &dbval[8..]].concat();
                self.store.insert(dbkey.to_vec(), stamped);
                incoming.reply.success(|out| write_uint(out, version));
            }
            (v0::method::DELETE, 2) => {
                r.u64().unwrap();
                let deleted = self.store.remove(r.raw().unwrap()).is_some();
                incoming.reply.success(|out| write_bool(out, deleted));
            }
            (v0::method::GET_STATUS, 1) => incoming.reply.success(|out| write_uint(out, 7)),
            _ => incoming.reply.protocol_error(),
        }
    }
}

type Change = Box<dyn FnOnce(&mut World) + Send>;

/// A running gateway over a made-up cluster.
pub struct Fake {
    pub gateway: SocketAddr,
    changes: UnboundedSender<Change>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Fake`] is started with.
#[derive(Clone)]
pub struct Setup {
    pub servers: usize,
    pub server_workers: u16,
    pub gateway_workers: usize,
    pub speaks_v1: bool,
    pub config: Config,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { servers: 3, server_workers: 1, gateway_workers: 1, speaks_v1: true, config: Config::default() }
    }
}

impl Fake {
    pub fn start(setup: Setup) -> Fake {
        let (started, ready) = mpsc::channel();
        let (changes, mut queue) = tokio::sync::mpsc::unbounded_channel::<Change>();
        let (stop, shutdown) = watch::channel(false);
        let run = async move || {
            let world = World::listen(&setup).await;
            let manager = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut config = setup.config;
            config.managers = vec![Address::new(manager.local_addr().unwrap())];
            serve_manager(world.clone(), manager);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(listener.local_addr().unwrap()).unwrap();
            tokio::task::spawn_local(async move {
                while let Some(change) = queue.recv().await {
                    change(&mut world.borrow_mut());
                }
            });
            let cores = Arc::new(Cores::start(setup.gateway_workers).unwrap());
            gateway::run(config, vec![listener.into()], cores, shutdown).await.unwrap();
        };
        let thread = std::thread::spawn(move || event_loop().unwrap().block_on(run()));
        Fake { gateway: ready.recv().unwrap(), changes, stop, thread: Some(thread) }
    }

    /// Does something to the cluster, or looks at it.
    pub fn with<R: Send + 'static>(&self, change: impl FnOnce(&mut World) -> R + Send + 'static) -> R {
        let (done, result) = mpsc::channel();
        let change = move |world: &mut World| done.send(change(world)).unwrap();
        assert!(self.changes.send(Box::new(change)).is_ok(), "the cluster has ended");
        result.recv().unwrap()
    }

    /// Waits until the cluster is as `is` says.
    pub fn wait_until(&self, what: &str, is: impl Fn(&World) -> bool + Send + Sync + 'static) {
        let is = Arc::new(is);
        for _ in 0..2000 {
            let is = is.clone();
            if self.with(move |world| is(world)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("not so in ten seconds: {what}");
    }

    /// Stops the gateway and waits for its end.
    pub fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Asks the gateway to stop.
    pub fn begin_stop(&self) {
        self.stop.send(true).unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the cluster or the gateway panicked");
        }
    }
}

impl World {
    async fn listen(setup: &Setup) -> Rc<RefCell<World>> {
        let world = Rc::new(RefCell::new(World {
            epoch: Epoch::default(),
            servers: Vec::new(),
            speaks_v1: setup.speaks_v1,
            store: BTreeMap::new(),
            doubts_flushes: false,
            max_value: setup.config.limits.value_bytes,
            part_pause: Some(Duration::ZERO),
            tells_parts: false,
            told_bytes: 0,
            parts: BTreeMap::new(),
            remembered: BTreeMap::new(),
            version: 1000,
            managers: Vec::new(),
        }));
        for number in 0..setup.servers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = Address::new(listener.local_addr().unwrap());
            let (mode, seen, connects) = (Mode::Serve, Vec::new(), Vec::new());
            let server = Server { mode, seen, address, connects, held: Vec::new(), conns: Vec::new() };
            world.borrow_mut().servers.push(server);
            serve_server(world.clone(), number, listener);
        }
        let mut borrowed = world.borrow_mut();
        let addresses: Vec<Address> = borrowed.servers.iter().map(|s| s.address).collect();
        let entry = |(i, address): (usize, &Address)| {
            ServerEntry::new(*address, i as u64 + 1, i as u64 + 1, setup.server_workers)
        };
        let nodes = addresses.iter().map(|address| Node::new(*address, true)).collect();
        let space = HashSpace { nodes, timestamp: ClockTime(1) };
        borrowed.epoch = Epoch {
            number: u64::from(setup.speaks_v1),
            cluster: u64::from(setup.speaks_v1),
            servers: addresses.iter().enumerate().map(entry).collect(),
            whs: space.clone(),
            rhs: space,
            ..Epoch::default()
        };
        drop(borrowed);
        world
    }
}

fn serve_manager(world: Rc<RefCell<World>>, listener: TcpListener) {
    let own = (Address::new(listener.local_addr().unwrap()), Role::Manager);
    let serving = world.clone();
    let handler: Handler = Rc::new(move |_, event| {
        if let Event::Request(incoming) = event {
            serving.borrow_mut().serve_manager(incoming);
        }
    });
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let conn = RpcConn::accept(stream, own, Limits::default(), handler.clone());
            world.borrow_mut().managers.push(conn);
        }
    });
}

fn serve_server(world: Rc<RefCell<World>>, number: usize, listener: TcpListener) {
    let own = (Address::new(listener.local_addr().unwrap()), Role::Server);
    let serving = world.clone();
    let handler: Handler = Rc::new(move |_, event| {
        if let Event::Request(incoming) = event {
            serving.borrow_mut().serve_server(number, incoming);
        }
    });
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if world.borrow().servers[number].mode != Mode::Dead {
                let limits = Limits { frame: 64 << 20, client_frame: 64 << 20, unsent: 512 << 20, ..Limits::default() };
                let conn = RpcConn::accept(stream, own, limits, handler.clone());
                world.borrow_mut().servers[number].conns.push(conn);
            }
        }
    });
}
