//! A whole cluster as gateways see it: the epoch, who coordinates which key, and a connection to each worker.
//!
//! For tools that read or write records: [`super::export`], [`super::import`], [`super::check`]. When something fails, the view is made anew,
//! since most failures are changes of the cluster.

use super::Trouble;
use super::ask::{self, AskError, MANAGER_PORT, Node, PATIENCE, Role};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, ServerEntry};
use crate::logic::record::worker_of;
use crate::logic::route::{Group, Route};
use crate::net::rpc::CallError;
use crate::proto::rpc::error;
use crate::proto::rpc::v1::{Connect, Connected, Peer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// For how long an operation is tried again while the cluster changes.
pub const TRY_FOR: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

const UNSERVED: &str = "nobody serves some of the keys now";

/// A cluster, by a manager.
pub struct Cluster {
    manager: Address,
    view: RefCell<Rc<View>>,
    renewed: Cell<Instant>,
    renewing: tokio::sync::Mutex<()>,
}

/// An epoch, and connections made in it.
pub struct View {
    /// The epoch.
    pub epoch: Epoch,
    route: Route,
    /// By place in the epoch, and worker.
    nodes: BTreeMap<(u16, u16), Result<Node, String>>,
}

impl Cluster {
    /// Asks a manager, and connects to all workers of active servers.
    ///
    /// # Errors
    /// When the manager does not answer, is one of kumofs 0.4, or knows no server that is attached.
    pub async fn of(manager: &str) -> Result<Cluster, Trouble> {
        let manager = ask::address(manager, MANAGER_PORT)?;
        let epoch = newest_epoch(manager).await?;
        if !epoch.rhs.nodes.iter().any(|node| node.active) {
            return Err(Trouble::Failed("no server is attached and active".to_owned()));
        }
        let view = RefCell::new(Rc::new(View::of(epoch).await));
        Ok(Cluster { manager, view, renewed: Cell::new(Instant::now()), renewing: tokio::sync::Mutex::default() })
    }

    /// As it was last.
    pub fn view(&self) -> Rc<View> {
        self.view.borrow().clone()
    }

    /// Waits a moment, and looks at the cluster anew. A manager that does not answer changes nothing.
    pub async fn renew(&self) {
        let asked = Instant::now();
        tokio::time::sleep(PAUSE).await;
        let _turn = self.renewing.lock().await;
        // Of many who want it at a time, one is enough.
        if self.renewed.get() > asked {
            return;
        }
        if let Ok(epoch) = newest_epoch(self.manager).await {
            let view = Rc::new(View::of(epoch).await);
            *self.view.borrow_mut() = view;
            self.renewed.set(Instant::now());
        }
    }
}

impl View {
    async fn of(epoch: Epoch) -> View {
        let route = Route::new(&epoch);
        let mut connecting = Vec::new();
        for (place, server) in (0..).zip(&epoch.servers) {
            if server.removed.is_some() || !epoch.rhs.is_active(server.address) {
                continue;
            }
            for worker in 0..server.workers {
                connecting.push(((place, worker), tokio::task::spawn_local(connect(server.clone(), worker))));
            }
        }
        let mut nodes = BTreeMap::new();
        for (place, node) in connecting {
            let node = node.await.unwrap_or_else(|_| Err("the connection failed".to_owned()));
            nodes.insert(place, node);
        }
        View { epoch, route, nodes }
    }

    /// All workers of all active servers.
    pub fn workers(&self) -> impl Iterator<Item = &Result<Node, String>> {
        self.nodes.values()
    }

    /// Whether every key is served.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_whole(&self) -> Result<(), String> {
        let served = self.route.groups().iter().all(|group| group.coordinator().is_some());
        if served { Ok(()) } else { Err(UNSERVED.to_owned()) }
    }

    /// All distinct groups of servers.
    pub fn groups(&self) -> &[Group] {
        self.route.groups()
    }

    /// The workers of a server, by its place in the epoch.
    pub fn workers_of(&self, place: u16) -> impl Iterator<Item = &Result<Node, String>> {
        self.nodes.range((place, 0)..=(place, u16::MAX)).map(|(_, node)| node)
    }

    /// The worker that coordinates a ring position.
    ///
    /// # Errors
    /// Why there is none now.
    pub fn coordinator(&self, hash: u64) -> Result<&Node, String> {
        self.worker_of(self.route.group(hash).coordinator().ok_or(UNSERVED)?, hash)
    }

    /// The worker of a server that has a ring position.
    ///
    /// # Errors
    /// Why it is not connected.
    pub fn worker_of(&self, place: u16, hash: u64) -> Result<&Node, String> {
        let server = &self.epoch.servers[usize::from(place)];
        let node = self.nodes.get(&(place, worker_of(hash, server.workers)));
        node.ok_or_else(|| format!("{} is not connected", server.address))?.as_ref().map_err(Clone::clone)
    }
}

async fn newest_epoch(manager: Address) -> Result<Epoch, Trouble> {
    let node = Node::connect(manager, Role::Manager).await?;
    match ask::newest_epoch(&node).await {
        Ok(Some(epoch)) => Ok(epoch),
        Ok(None) => Err(Trouble::Failed("no server is attached yet".to_owned())),
        Err(AskError::Refused(_, error::PROTOCOL)) => {
            Err(Trouble::Failed(format!("{manager} is an older version, which cannot do that")))
        }
        Err(e) => Err(e.into()),
    }
}

async fn connect(server: ServerEntry, worker: u16) -> Result<Node, String> {
    let address = server.address;
    let node = Node::connect(address, Role::Server).await.map_err(|e| e.to_string())?;
    let connect = Connect { peer: Peer::Tool, incarnation: 0, workers: 1, from_worker: 0, worker };
    match node.call_with(|out, id| connect.write(out, id), PATIENCE).await {
        Ok(result) => match Connected::read(&result) {
            Ok(connected) if connected.incarnation == server.incarnation => Ok(node),
            Ok(_) => Err(format!("{address} has started anew")),
            Err(e) => Err(AskError::Answer(address, Role::Server, e).to_string()),
        },
        Err(e) => Err(trouble(address, &e)),
    }
}

/// A failed call, in words.
pub fn trouble(address: Address, e: &CallError) -> String {
    match e {
        CallError::Lost => format!("{address} hung up before it answered"),
        CallError::Timeout => AskError::Silent(address).to_string(),
        CallError::Refused(error::NO_SPACE, _) => format!("{address} has no space left"),
        CallError::Refused(number, _) => format!("{address} refused (error {number}); its log says why"),
    }
}
