//! A whole cluster in one process: a manager, some servers, and a gateway, on ports of the system's choice.
//!
//! It is made of the roles that the daemons are made of, speaking over loopback; only the gateway reaches the servers
//! without sockets. Their addresses are kept in the data
//! directory, because a server's place on the ring comes from its address: started again, everything finds itself where
//! it was, and the manager revives the cluster by itself.

use crate::gateway;
use crate::logic::address::Address;
use crate::logic::ring::HashSpace;
use crate::manager;
use crate::net::cores::Cores;
use crate::net::front::Front;
use crate::net::listen;
use crate::net::pipe::Doors;
use crate::net::rpc::{CallError, Event, Limits, RpcConn};
use crate::net::settings::Settings;
use crate::net::time::unix_secs;
use crate::proto::memcache;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool};
use crate::proto::rpc::v0::{self, method};
use crate::server;
use crate::store::open::{Engine, open};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The file in the data directory that keeps the addresses of the nodes, a line each.
const ADDRESSES: &str = "addresses";
/// How long the cluster may take to serve.
const START: Duration = Duration::from_secs(30);
/// How often it is asked whether it does.
const STEP: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data: PathBuf,
    /// How many servers.
    pub servers: u16,
    /// How many worker threads, which all roles share.
    pub threads: u16,
    /// Largest data of a value in bytes.
    pub max_value: usize,
    /// Acknowledge only what would survive a loss of power.
    pub sync: bool,
    /// What the process was told at its start.
    pub settings: Settings,
}

/// Runs a cluster whose gateway serves `clients` until `shutdown` says true. Calls `ready` once it serves. Needs an event
/// loop of [`crate::net::cores::event_loop`].
///
/// # Errors
/// One line that says what to do.
pub async fn run(
    config: Config,
    clients: Vec<Front>,
    shutdown: watch::Receiver<bool>,
    ready: impl FnOnce(),
) -> Result<(), String> {
    make_directory(&config.data)?;
    let Sockets { manager, servers } = Sockets::bind(&config.data, config.servers)?;
    let cores = Cores::start(usize::from(config.threads)).map_err(|e| format!("cannot start threads: {e}"))?;
    let cores = Arc::new(cores);
    // Gateway first, then servers, then the manager: each stops while what it needs is there.
    let (stop_servers, servers_stop) = watch::channel(false);
    let (stop_manager, manager_stop) = watch::channel(false);
    let manager_address = own_address(&manager)?;
    let dice = random_numbers()?;
    let mut manager_config = manager::Config::new(manager_address, dice, unix_secs);
    manager_config.state = Some(config.data.join("manager"));
    manager_config.settings = config.settings.clone();
    let manager_task = tokio::task::spawn_local(manager::run(manager_config, vec![into_tokio(manager)?], manager_stop));
    let doors = Arc::new(Doors::default());
    let mut server_tasks: Vec<JoinHandle<Result<(), String>>> = Vec::new();
    for (number, (listener, stream)) in (1..).zip(servers) {
        let mut server = server_config(&config, number, manager_address, &listener, &stream)?;
        server.doors = doors.clone();
        server.settings = config.settings.clone();
        let store = open(Engine::Log, &server.backup, server.workers, config.sync, None).map_err(|e| e.to_string())?;
        let (listener, stream) = (into_tokio(listener)?, into_tokio(stream)?);
        let run = server::run(server, store, listener, stream, cores.clone(), servers_stop.clone());
        server_tasks.push(tokio::task::spawn_local(run));
    }
    let limits = memcache::Limits { value_bytes: config.max_value, ..memcache::Limits::default() };
    let gateway_config =
        gateway::Config { managers: vec![manager_address], limits, doors, ..gateway::Config::default() };
    let serving = async {
        let mut stopped = shutdown.clone();
        tokio::select! {
            started = bring_up(manager_address, usize::from(config.servers)) => started?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
        let gateway = gateway::run(gateway_config, clients, cores.clone(), shutdown);
        ready();
        gateway.await.map_err(|e| format!("the gateway: {e}"))
    };
    let mut result = tokio::select! {
        result = serving => result,
        ended = first_to_end(&mut server_tasks) => Err(ended),
    };
    let _ = stop_servers.send(true);
    for task in server_tasks.into_iter().filter(|task| !task.is_finished()) {
        result = result.and(task.await.unwrap_or_else(|e| Err(format!("a server failed: {e}"))));
    }
    let _ = stop_manager.send(true);
    let manager = manager_task.await.map_err(|e| format!("the manager failed: {e}"));
    result.and(manager.and_then(|ended| ended.map_err(|e| e.to_string())))
}

/// Waits until one of the servers ends, which none should; returns why.
async fn first_to_end(servers: &mut [JoinHandle<Result<(), String>>]) -> String {
    std::future::poll_fn(|cx| {
        for server in servers.iter_mut() {
            if let std::task::Poll::Ready(ended) = std::pin::Pin::new(server).poll(cx) {
                return std::task::Poll::Ready(match ended {
                    Ok(Ok(())) => "a server stopped by itself".to_owned(),
                    Ok(Err(e)) => e,
                    Err(e) => format!("a server failed: {e}"),
                });
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn server_config(
    config: &Config,
    number: u16,
    manager: Address,
    listener: &TcpListener,
    stream: &TcpListener,
) -> Result<server::Config, String> {
    Ok(server::Config {
        address: own_address(listener)?,
        stream: own_address(stream)?,
        managers: vec![manager],
        workers: config.threads,
        max_value: config.max_value,
        backup: config.data.join(format!("server{number}")),
        ..server::Config::default()
    })
}

/// Waits for all servers, attaches those that are not, and waits until all are active.
async fn bring_up(manager: Address, servers: usize) -> Result<(), String> {
    let ignore = Rc::new(|_: &RpcConn, _: Event| ());
    let asking = async {
        let conn = loop {
            match RpcConn::connect_client(manager.socket_addr(), PATIENCE, Limits::default(), ignore.clone()).await {
                Ok(conn) => break conn,
                Err(_) => tokio::time::sleep(STEP).await,
            }
        };
        loop {
            let (whs, rhs, unattached) = look(&conn).await.map_err(|e| format!("the manager does not answer: {e}"))?;
            let active = |space: &HashSpace| space.nodes.iter().filter(|n| n.active).count();
            if active(&whs) == servers && active(&rhs) == servers {
                return Ok(());
            }
            // Servers that come back revive by themselves; only newcomers are attached.
            let settled = whs.nodes.iter().all(|n| n.active) && whs.same_nodes(&rhs);
            if unattached > 0 && settled && active(&whs) + unattached == servers {
                let attach = |out: &mut Vec<u8>| {
                    write_array(out, 1);
                    write_bool(out, true);
                };
                // Refused, it is asked for again.
                let _ = conn.call(method::ATTACH_NEW_SERVERS, attach, PATIENCE).await;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    match tokio::time::timeout(START, asking).await {
        Ok(result) => result,
        Err(_) => Err(format!("the servers were not all active after {} s; see the log (-v)", START.as_secs())),
    }
}

/// The write and read hash spaces, and how many servers are not attached.
async fn look(conn: &RpcConn) -> Result<(HashSpace, HashSpace, usize), CallError> {
    let empty = |out: &mut Vec<u8>| write_array(out, 0);
    let malformed = |_: DecodeError| CallError::Refused(crate::proto::rpc::error::PROTOCOL, Vec::new());
    let info = conn.call(method::GET_NODES_INFO, empty, PATIENCE).await?;
    let mut r = Reader::new(&info);
    let unattached = r.array_of(2).and_then(|()| r.skip()).and_then(|_| r.array()).map_err(malformed)?;
    let spaces = conn.call(method::HASH_SPACE_REQUEST, empty, PATIENCE).await?;
    let mut r = Reader::new(&spaces);
    let whs = r.array_of(2).and_then(|()| v0::read_seed(&mut r)).map_err(malformed)?;
    let rhs = v0::read_seed(&mut r).map_err(malformed)?;
    Ok((whs, rhs, unattached))
}

/// The sockets of all nodes.
struct Sockets {
    manager: TcpListener,
    /// For each server: its own port and its stream port.
    servers: Vec<(TcpListener, TcpListener)>,
}

impl Sockets {
    /// Binds the addresses that are on file; where there are none yet, the system chooses, and they are put there.
    fn bind(data: &Path, servers: u16) -> Result<Sockets, String> {
        let path = data.join(ADDRESSES);
        let known = read_addresses(&path)?;
        let wanted = 1 + 2 * usize::from(servers);
        if !known.is_empty() && known.len() > wanted {
            let had = (known.len() - 1) / 2;
            return Err(format!("{} holds a cluster of {had} servers: start it with --servers {had}", data.display()));
        }
        let mut listeners = Vec::new();
        for number in 0..wanted {
            listeners.push(match known.get(number) {
                Some(address) => listen::bind(*address).map_err(|e| {
                    format!("{e}; this cluster's nodes are known by the addresses in {}", path.display())
                })?,
                None => listen::bind(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(|e| e.to_string())?,
            });
        }
        if known.len() < wanted {
            write_addresses(&path, &listeners)?;
        }
        let mut listeners = listeners.into_iter();
        let manager = listeners.next().ok_or("no address for the manager")?;
        let mut pairs = Vec::new();
        while let (Some(listener), Some(stream)) = (listeners.next(), listeners.next()) {
            pairs.push((listener, stream));
        }
        Ok(Sockets { manager, servers: pairs })
    }
}

fn read_addresses(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    let parse = |line: &str| line.parse().map_err(|_| format!("{} is damaged: {line:?} is no address", path.display()));
    text.lines().map(parse).collect()
}

fn write_addresses(path: &Path, listeners: &[TcpListener]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new).map_err(failed)?;
    for listener in listeners {
        writeln!(file, "{}", listener.local_addr().map_err(failed)?).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

/// Makes the data directory, or checks that it is one of ours.
fn make_directory(data: &Path) -> Result<(), String> {
    fs::create_dir_all(data).map_err(|e| format!("cannot make {}: {e}; name another with --data", data.display()))?;
    let mut entries = fs::read_dir(data).map_err(|e| format!("cannot read {}: {e}", data.display()))?;
    if entries.next().is_some() && !data.join(ADDRESSES).exists() {
        return Err(format!("{} is not empty and holds no kumofs cluster: name another with --data", data.display()));
    }
    Ok(())
}

fn own_address(listener: &TcpListener) -> Result<Address, String> {
    listener.local_addr().map(Address::new).map_err(|e| format!("a listener without address: {e}"))
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, String> {
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    listener.map_err(|e| format!("cannot listen: {e}"))
}

fn random_numbers() -> Result<[u64; 3], String> {
    let mut numbers = [0; 3];
    for number in &mut numbers {
        *number = getrandom::u64().map_err(|e| format!("the system gives no random numbers: {e}"))?;
    }
    Ok(numbers)
}
