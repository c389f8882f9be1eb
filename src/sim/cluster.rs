//! A cluster on simulated hosts: starts the roles, and does to them what faults and operators do.

use super::backup::{self, Backup};
use super::net::{self, TcpListener};
use super::node::{Dice, Node, Process, act_as};
use crate::combined::{self, Serving};
use crate::gateway;
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::memory;
use crate::logic::record;
use crate::logic::route::Route;
use crate::manager;
use crate::net::cores::Cores;
use crate::net::rpc::{CallError, Event, Limits, RpcConn};
use crate::net::time::unix_secs;
use crate::proto::rpc::msgpack::{write_array, write_bool, write_raw, write_uint};
use crate::proto::rpc::v0::{self, method};
use crate::proto::rpc::v1;
use crate::server;
use crate::server::epoch_file::load_epoch;
use crate::store::fs::Disk;
use crate::store::fs::mem::{Faults, MemDisk};
use crate::store::log::{LogStore, Options};
use crate::store::{Shard, Store};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where servers serve.
pub const SERVER_PORT: u16 = 19800;
/// Where servers fetch what is copied to them.
pub const STREAM_PORT: u16 = 19900;
const MANAGER_PORT: u16 = 19700;
/// Where gateways serve clients.
pub const CLIENT_PORT: u16 = 11211;
const STORE_DIR: &str = "/db";
const STATE_FILE: &str = "/etc/state";
/// Room for a few values, however small.
const CACHE: gateway::cache::Limits = gateway::cache::Limits { bytes: 2 << 10, least_value: 0 };
/// Few enough for seconds of changes to use up many blocks.
const VERSION_BLOCK: u32 = 32;
/// How long an operator waits for a manager.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(6);

/// A host of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// By number, from 0.
    Manager(usize),
    /// By number, from 0.
    Server(usize),
    /// By number, from 0.
    Gateway(usize),
    /// Who coordinates a key (its number, see [`key_name`]) when the fault strikes; server 0 where nobody does.
    Coordinator(usize),
    /// Another member of a key's group, by number; likewise.
    Member(usize, usize),
    /// Who was in a key's group when the load began, by number, the coordinator first.
    AtFirst(usize, usize),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Manager(n) => write!(f, "manager{n}"),
            Who::Server(n) => write!(f, "server{n}"),
            Who::Gateway(n) => write!(f, "gateway{n}"),
            Who::Coordinator(key) => write!(f, "the coordinator of {}", key_name(*key)),
            Who::Member(key, n) => write!(f, "member {n} of {}", key_name(*key)),
            Who::AtFirst(key, 0) => write!(f, "the first coordinator of {}", key_name(*key)),
            Who::AtFirst(key, n) => write!(f, "what was member {} of {} at first", n - 1, key_name(*key)),
        }
    }
}

/// The keys that clients use.
pub fn key_name(number: usize) -> String {
    format!("key{number}")
}

/// What a cluster is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Managers.
    pub managers: usize,
    /// Servers.
    pub servers: usize,
    /// Of those, so many are attached at first.
    pub attached: usize,
    /// Gateways.
    pub gateways: usize,
    /// Worker threads of a server.
    pub workers: u16,
    /// Servers acknowledge what is synced.
    pub sync: bool,
    /// Servers come and go without an operator.
    pub auto_replace: bool,
    /// How many outcomes a worker of a server remembers, if not as many as usual.
    pub outcomes: Option<usize>,
    /// Each gateway lives in the process of the server with its number.
    pub combined: bool,
}

/// One host and what is on it.
pub struct Host {
    /// The host itself.
    pub node: Rc<Node>,
    process: RefCell<Option<Rc<Process>>>,
    disk: RefCell<MemDisk>,
    store: RefCell<Option<Arc<LogStore>>>,
    stopped: Cell<bool>,
    powered: Cell<bool>,
    /// Every process that ended by itself says why.
    failure: Rc<RefCell<Option<String>>>,
}

/// All hosts.
pub struct Cluster {
    /// Its shape.
    pub shape: Shape,
    /// Stores have short segments and leave no garbage alone, and servers reserve few versions at a time, so that seconds of
    /// changes keep both busy.
    pub compacts: Cell<bool>,
    /// Of the gateways, every other one caches values, as drawn from a sequence of its own: all else of a seed stays what it
    /// was before there were caches.
    pub caches: Cell<bool>,
    seed: u64,
    managers: Vec<Host>,
    servers: Vec<Host>,
    gateways: Vec<Host>,
    operator: Rc<Node>,
    /// The backups that were asked for.
    pub backups: RefCell<Vec<Backup>>,
    /// The epoch in which the load began.
    began: RefCell<Epoch>,
}

fn ip(kind: u8, number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, kind, number as u8 + 1))
}

/// An address of a manager (1), server (2) or gateway (3).
pub fn address(kind: u8, number: usize, port: u16) -> Address {
    Address::new(SocketAddr::new(ip(kind, number), port))
}

impl Cluster {
    /// Hosts without processes.
    pub fn new(shape: Shape, seed: u64) -> Cluster {
        let hosts = |name: &str, kind: u8, count: usize| {
            let host = |number: usize| {
                let own_seed = seed ^ (u64::from(kind) << 56) ^ ((number as u64 + 1) << 48);
                Host {
                    node: Node::new(&format!("{name}{number}"), ip(kind, number), own_seed),
                    process: RefCell::default(),
                    disk: RefCell::new(MemDisk::new(own_seed)),
                    store: RefCell::default(),
                    stopped: Cell::new(false),
                    powered: Cell::new(true),
                    failure: Rc::default(),
                }
            };
            (0..count).map(host).collect()
        };
        Cluster {
            managers: hosts("manager", 1, shape.managers),
            servers: hosts("server", 2, shape.servers),
            gateways: hosts("gateway", 3, shape.gateways),
            operator: Node::new("operator", ip(4, 0), seed ^ 0x0e),
            backups: RefCell::default(),
            began: RefCell::default(),
            shape,
            compacts: Cell::new(true),
            caches: Cell::new(true),
            seed,
        }
    }

    /// A host. Those that are named by what they do are looked up.
    pub fn host(&self, who: Who) -> &Host {
        match self.resolve(who) {
            Who::Manager(n) => &self.managers[n],
            Who::Gateway(n) => &self.gateways[n],
            Who::Server(n) => &self.servers[n],
            Who::Coordinator(_) | Who::Member(..) | Who::AtFirst(..) => &self.servers[0],
        }
    }

    /// Who someone is.
    pub fn resolve(&self, who: Who) -> Who {
        let (epoch, key, place) = match who {
            Who::Gateway(number) if self.shape.combined => return Who::Server(number),
            Who::Coordinator(key) => (self.newest_epoch(), key, 0),
            Who::Member(key, number) => (self.newest_epoch(), key, number + 1),
            Who::AtFirst(key, place) => (self.began.borrow().clone(), key, place),
            known => return known,
        };
        let members = self.members(&epoch, &key_name(key));
        match members.len() {
            0 => Who::Server(place % self.servers.len()),
            n => Who::Server(members[place % n]),
        }
    }

    /// The load begins.
    pub fn load_begins(&self) {
        self.began.replace(self.newest_epoch());
    }

    /// The group of a key: numbers of servers, the coordinator first.
    pub fn members(&self, epoch: &Epoch, key: &str) -> Vec<usize> {
        let mut dbkey = Vec::new();
        record::encode_dbkey(key.as_bytes(), &mut dbkey);
        let Some(hash) = record::dbkey_hash(&dbkey) else { return Vec::new() };
        self.numbers(epoch, Route::new(epoch).group(hash).members())
    }

    /// The numbers of servers, given by their places in an epoch.
    pub fn numbers(&self, epoch: &Epoch, places: &[u16]) -> Vec<usize> {
        let number = |place: &u16| {
            let address = epoch.servers.get(usize::from(*place))?.address;
            (0..self.servers.len()).find(|n| self::address(2, *n, SERVER_PORT) == address)
        };
        places.iter().filter_map(number).collect()
    }

    /// A host for one more operator.
    pub fn operator(&self, number: u32) -> Rc<Node> {
        Node::new(&format!("operator{number}"), ip(5, number as usize), self.seed ^ 0x0e ^ u64::from(number) << 16)
    }

    /// The newest epoch that any server has on its disk.
    pub fn newest_epoch(&self) -> Epoch {
        let known = |host: &Host| load_epoch(&*host.disk.borrow(), Path::new(STORE_DIR)).ok();
        self.servers.iter().filter_map(known).max_by_key(|epoch| epoch.number).unwrap_or_default()
    }

    /// What every active server of an epoch knows to have been flushed.
    pub fn flushed_everywhere(&self, epoch: &Epoch) -> u64 {
        let active = |number: &usize| {
            let address = address(2, *number, SERVER_PORT);
            epoch.whs.is_active(address) || epoch.rhs.is_active(address)
        };
        let known = |number: usize| {
            let disk = self.servers[number].disk.borrow();
            load_epoch(&*disk, Path::new(STORE_DIR)).map_or(0, |epoch| epoch.flushed)
        };
        (0..self.servers.len()).filter(active).map(known).min().unwrap_or(0)
    }

    /// The newest epoch in a few words: each server, and since when it is out.
    pub fn describe(&self) -> String {
        let epoch = self.newest_epoch();
        let mut text = format!("epoch {} {:?}", epoch.number, epoch.phase);
        for number in 0..self.servers.len() {
            let address = address(2, number, SERVER_PORT);
            let entry = epoch.servers.iter().find(|s| s.address == address);
            let space = |space: &crate::logic::ring::HashSpace| match space.find(address) {
                None => '-',
                Some(_) if space.is_active(address) => '+',
                Some(_) => 'x',
            };
            let out = entry.and_then(|e| e.removed).map_or_else(String::new, |at| format!(" out since {at}"));
            let store =
                self.servers[number].store.borrow().as_ref().map(|s| s.disk_id() == entry.map_or(0, |e| e.disk_id));
            let full = self.servers[number].disk.borrow().is_full();
            text += &format!(
                "; server{number} whs{} rhs{}{out}, same disk {store:?}{}",
                space(&epoch.whs),
                space(&epoch.rhs),
                if full { ", full" } else { "" }
            );
        }
        text
    }

    /// Everybody.
    pub fn everybody(&self) -> Vec<Who> {
        let managers = (0..self.managers.len()).map(Who::Manager);
        let servers = (0..self.servers.len()).map(Who::Server);
        let gateways = if self.shape.combined { 0 } else { self.gateways.len() };
        managers.chain(servers).chain((0..gateways).map(Who::Gateway)).collect()
    }

    /// Starts a process that is not running; gives its host power if it has none.
    pub fn start(&self, who: Who) {
        let who = self.resolve(who);
        let host = self.host(who);
        if host.process.borrow().is_some() {
            return;
        }
        if !host.powered.replace(true) {
            net::set_power(host.node.ip, true);
        }
        host.stopped.set(false);
        let disk = host.disk.borrow().clone();
        let failure = host.failure.clone();
        let process = match who {
            Who::Manager(number) => {
                let config = self.manager_config(number, disk);
                Process::start(&host.node, run_manager(config, failure))
            }
            Who::Gateway(number) => {
                Process::start(&host.node, run_gateway(self.gateway_config(number), clients_of(host), failure))
            }
            Who::Server(number) => {
                let config = self.server_config(number);
                let gateway = (self.shape.combined && number < self.shape.gateways)
                    .then(|| (self.gateway_config(number), clients_of(host)));
                match act_as(&host.node, || self.open_store(disk, STORE_DIR)) {
                    Ok(store) => {
                        *host.store.borrow_mut() = Some(store.clone());
                        Process::start(&host.node, run_server(config, store, self.shape.sync, gateway, failure))
                    }
                    Err(line) => {
                        *failure.borrow_mut() = Some(line);
                        return;
                    }
                }
            }
            Who::Coordinator(_) | Who::Member(..) | Who::AtFirst(..) => return,
        };
        *host.process.borrow_mut() = Some(process);
    }

    /// Opens what a server has made as a backup under a suffix.
    ///
    /// # Errors
    /// When that is no store.
    pub fn open_backup(&self, server: usize, suffix: &str) -> Result<Arc<LogStore>, String> {
        let host = &self.servers[server];
        let disk = host.disk.borrow().clone();
        act_as(&host.node, || self.open_store(disk, &format!("{STORE_DIR}-{suffix}")))
    }

    fn open_store(&self, disk: MemDisk, dir: &str) -> Result<Arc<LogStore>, String> {
        let usual = Options {
            shards: self.shape.workers,
            sync: self.shape.sync,
            sync_thread: false,
            open_threads: 1,
            ..Options::default()
        };
        let options = match self.compacts.get() {
            true => Options { segment_bytes: 16 << 10, garbage_bytes: 0, ..usual },
            false => usual,
        };
        let disk: Arc<dyn Disk> = Arc::new(disk);
        LogStore::open(disk, Path::new(dir), options).map(Arc::new).map_err(|e| e.to_string())
    }

    /// Where managers listen.
    pub fn manager_addresses(&self) -> Vec<Address> {
        (0..self.managers.len()).map(|n| address(1, n, MANAGER_PORT)).collect()
    }

    fn manager_config(&self, number: usize, disk: MemDisk) -> manager::Config {
        let node = &self.managers[number].node;
        let dice = act_as(node, || [(); 3].map(|()| super::node::random_u64()));
        // The directory is an operator's to make.
        let _ = disk.create_dir(Path::new("/etc"));
        let mut config = manager::Config::new(address(1, number, MANAGER_PORT), dice, unix_secs);
        config.partners = self.manager_addresses();
        config.partners.remove(number);
        config.auto_replace = self.shape.auto_replace;
        config.replace_delay = Duration::from_secs(1);
        config.state = Some(STATE_FILE.into());
        config.disk = manager::run::DiskHandle(Arc::new(disk));
        config
    }

    fn gateway_config(&self, number: usize) -> gateway::Config {
        let caches = Dice::new(self.seed ^ 0xcac4e ^ (number as u64) << 40).one_in(2) && self.caches.get();
        let local_cache = if caches { CACHE } else { gateway::cache::Limits::OFF };
        gateway::Config { managers: self.manager_addresses(), local_cache, ..gateway::Config::default() }
    }

    fn server_config(&self, number: usize) -> server::Config {
        server::Config {
            address: address(2, number, SERVER_PORT),
            stream: address(2, number, STREAM_PORT),
            managers: self.manager_addresses(),
            workers: self.shape.workers,
            garbage_min: Duration::from_secs(2),
            garbage_max: Duration::from_secs(4),
            version_block: if self.compacts.get() { VERSION_BLOCK } else { server::Config::default().version_block },
            backup: STORE_DIR.into(),
            memory: memory::Limits {
                outcomes: self.shape.outcomes.unwrap_or(memory::Limits::SERVER.outcomes),
                ..memory::Limits::SERVER
            },
            ..server::Config::default()
        }
    }

    /// Kills a process: kill -9.
    pub fn kill(&self, who: Who) {
        let host = self.host(who);
        let process = host.process.borrow_mut().take();
        host.store.take();
        if let Some(process) = process {
            let life = host.node.lives.get();
            process.kill();
            net::process_died(host.node.ip, life);
            let left = host.disk.borrow().after_kill();
            *host.disk.borrow_mut() = left;
        }
    }

    /// Takes a host's power: its process ends, nobody is told, and what was not synced may be lost.
    pub fn cut_power(&self, who: Who, seed: u64) {
        let host = self.host(who);
        host.powered.set(false);
        net::set_power(host.node.ip, false);
        let process = host.process.borrow_mut().take();
        host.store.take();
        if let Some(process) = process {
            process.kill();
        }
        // Without sync a loss of power may cost what was acknowledged; then only the process dies.
        let disk = host.disk.borrow();
        let left = if self.shape.sync { disk.after_power_loss(seed) } else { disk.after_kill() };
        drop(disk);
        *host.disk.borrow_mut() = left;
    }

    /// Stops a process, or lets it go on.
    pub fn set_stopped(&self, who: Who, stopped: bool) {
        let host = self.host(who);
        host.stopped.set(stopped);
        if let Some(process) = &*host.process.borrow() {
            process.set_stopped(stopped);
        }
    }

    /// Kills a process and empties its disk.
    pub fn wipe(&self, who: Who, seed: u64) {
        self.kill(who);
        *self.host(who).disk.borrow_mut() = MemDisk::new(seed);
    }

    /// What goes wrong with a disk from now on.
    pub fn set_disk_faults(&self, who: Who, faults: Faults) {
        self.host(who).disk.borrow().set_faults(faults);
    }

    /// Turns over a bit of what a disk holds of a key, if it holds it.
    pub fn damage(&self, who: Who, key: &str) {
        let mut dbkey = Vec::new();
        record::encode_dbkey(key.as_bytes(), &mut dbkey);
        let found = self.host(who).disk.borrow().damage_behind(&dbkey);
        tracing::info!("{key} {} damaged", if found { "is" } else { "cannot be" });
    }

    /// How many bytes a disk holds.
    pub fn disk_bytes(&self, who: Who) -> u64 {
        self.host(who).disk.borrow().files().iter().map(|(_, len)| len).sum()
    }

    /// Has every process that is down, or that ended by itself, started.
    pub fn start_all(&self) {
        for who in self.everybody() {
            if self.host(who).failure.borrow_mut().take().is_some() {
                self.kill(who);
            }
            self.set_stopped(who, false);
            self.start(who);
        }
    }

    /// Why processes have ended by themselves.
    pub fn failures(&self) -> Vec<(Who, String)> {
        let failure = |who: Who| self.host(who).failure.borrow().clone().map(|line| (who, line));
        self.everybody().into_iter().filter_map(failure).collect()
    }

    /// Has each manager in turn, until one does not refuse, carry out what an operator wants.
    pub async fn command(self: &Rc<Self>, command: Command) -> Result<(), CallError> {
        if let Command::Backup(number) = command {
            backup::make(self, number).await;
            return Ok(());
        }
        let mut outcome = Err(CallError::Lost);
        for to in self.manager_addresses() {
            outcome = self.operate(to, command).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn operate(&self, manager: Address, command: Command) -> Result<(), CallError> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        let operator = Process::start(&self.operator, async move {
            let handler = Rc::new(|_: &RpcConn, _: Event| ());
            let to = manager.socket_addr();
            let conn = RpcConn::connect_client(to, Duration::from_secs(1), Limits::default(), handler).await;
            let result = match conn {
                Ok(conn) => {
                    let (method, params) = command.encode();
                    conn.call(method, |out| out.extend(params), OPERATOR_PATIENCE).await.map(drop)
                }
                Err(_) => Err(CallError::Lost),
            };
            let _ = done.send(result);
        });
        let outcome = outcome.await.unwrap_or(Err(CallError::Lost));
        let life = self.operator.lives.get();
        operator.kill();
        net::process_died(self.operator.ip, life);
        outcome
    }

    /// What a server has stored for a key: its stamp's epoch and the dbval.
    pub fn stored(&self, server: usize, key: &str) -> Option<(u64, Vec<u8>)> {
        let mut dbkey = Vec::new();
        record::encode_dbkey(key.as_bytes(), &mut dbkey);
        let worker = record::worker_of(record::dbkey_hash(&dbkey)?, self.shape.workers);
        let store = self.servers[server].store.borrow().clone()?;
        let mut shard = store.shards()[usize::from(worker)].lock().expect("no holder of a shard panics");
        let shard: &mut dyn Shard = &mut *shard;
        shard.get(&dbkey).ok().flatten().map(|record| (record.epoch, record.dbval.to_vec()))
    }
}

/// What an operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// kumoctl attach.
    Attach,
    /// kumoctl attach-noreplace.
    AttachOnly,
    /// kumoctl drain of that server.
    Drain(usize),
    /// kumoctl weight of that server, in points of the ring.
    Weigh(usize, u16),
    /// kumoctl replace.
    Replace,
    /// kumoctl detach.
    Detach,
    /// kumoctl full-replace.
    FullReplace,
    /// kumoctl enable-auto-replace.
    AutoReplace(bool),
    /// kumoctl rate: bytes a second; 0: as fast as they can.
    Rate(u64),
    /// kumoctl pause, resume.
    Pause(bool),
    /// kumoctl backup with this number as suffix. It asks servers, not managers.
    Backup(u32),
}

impl Command {
    fn encode(self) -> (u32, Vec<u8>) {
        let mut params = Vec::new();
        let flag = |params: &mut Vec<u8>, on: bool| {
            write_array(params, 1);
            write_bool(params, on);
        };
        let method = match self {
            Command::Attach => {
                flag(&mut params, true);
                method::ATTACH_NEW_SERVERS
            }
            Command::AttachOnly => {
                flag(&mut params, false);
                method::ATTACH_NEW_SERVERS
            }
            Command::Detach => {
                flag(&mut params, true);
                method::DETACH_FAULT_SERVERS
            }
            Command::Drain(server) => {
                write_array(&mut params, 1);
                v0::write_address(&mut params, address(2, server, SERVER_PORT));
                v1::method::DRAIN
            }
            Command::Weigh(server, points) => {
                write_array(&mut params, 2);
                v0::write_address(&mut params, address(2, server, SERVER_PORT));
                write_uint(&mut params, points.into());
                v1::method::WEIGHT
            }
            Command::Replace => {
                write_array(&mut params, 0);
                method::START_REPLACE
            }
            Command::FullReplace => {
                flag(&mut params, true);
                method::START_REPLACE
            }
            Command::AutoReplace(on) => {
                flag(&mut params, on);
                method::SET_AUTO_REPLACE
            }
            Command::Rate(bytes_per_sec) => {
                write_array(&mut params, 1);
                write_uint(&mut params, bytes_per_sec);
                v1::method::RATE
            }
            Command::Pause(paused) => {
                flag(&mut params, paused);
                v1::method::PAUSE
            }
            Command::Backup(number) => {
                write_array(&mut params, 1);
                write_raw(&mut params, number.to_string().as_bytes());
                method::CREATE_BACKUP
            }
        };
        (method, params)
    }
}

type Failure = Rc<RefCell<Option<String>>>;

async fn run_manager(config: manager::Config, failure: Failure) {
    let (_stop, stopped) = watch::channel(false);
    let ended = match TcpListener::listen(config.listen.socket_addr()) {
        Ok(listener) => manager::run(config, vec![listener], stopped).await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    *failure.borrow_mut() = Some(ended.err().unwrap_or_else(|| "ended".to_owned()));
}

/// Where a gateway on a host serves clients.
fn clients_of(host: &Host) -> SocketAddr {
    SocketAddr::new(host.node.ip, CLIENT_PORT)
}

async fn run_server(
    config: server::Config,
    store: Arc<LogStore>,
    sync: bool,
    gateway: Option<(gateway::Config, SocketAddr)>,
    failure: Failure,
) {
    let (_stop, stopped) = watch::channel(false);
    if sync {
        let syncing = store.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                // A failure shows at the next commit.
                let _ = syncing.sync_step();
            }
        });
    }
    let listeners = TcpListener::listen(config.address.socket_addr())
        .and_then(|listener| Ok((listener, TcpListener::listen(config.stream.socket_addr())?)));
    let clients =
        gateway.map(|(config, address)| Ok(Serving { config, clients: vec![TcpListener::listen(address)?.into()] }));
    let cores = Cores::start(usize::from(config.workers));
    let ended = match (listeners, clients.transpose(), cores) {
        (Ok(listeners), Ok(Some(serving)), Ok(cores)) => {
            combined::run(config, store, listeners, serving, Arc::new(cores), stopped).await
        }
        (Ok((listener, stream)), Ok(None), Ok(cores)) => {
            server::run(config, store, listener, stream, Arc::new(cores), stopped).await
        }
        (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) => Err(e.to_string()),
    };
    *failure.borrow_mut() = Some(ended.err().unwrap_or_else(|| "ended".to_owned()));
}

async fn run_gateway(config: gateway::Config, address: SocketAddr, failure: Failure) {
    let (_stop, stopped) = watch::channel(false);
    let ended = match (TcpListener::listen(address), Cores::start(1)) {
        (Ok(listener), Ok(cores)) => gateway::run(config, vec![listener.into()], Arc::new(cores), stopped).await,
        (Err(e), _) | (_, Err(e)) => Err(e),
    };
    *failure.borrow_mut() = Some(ended.err().map_or_else(|| "ended".to_owned(), |e| e.to_string()));
}
