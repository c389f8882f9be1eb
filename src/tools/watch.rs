//! Servers that are asked again and again, each by a task of its own, so that one that hangs delays no other.
//!
//! Invariant: what a [`Watched`] last told stays until it tells something newer; who shows it looks at its age. Used by
//! [`super::sum`] and [`super::top`].

use super::Trouble;
use super::ask::{self, AskError, MANAGER_PORT, Node, PATIENCE, Role};
use crate::logic::address::Address;
use crate::logic::ring::HashSpace;
use crate::proto::rpc::v0::status;
use crate::proto::rpc::v1::Statistics;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};
use tokio::time;

/// How often a manager is asked which servers there are.
const MEMBERS_EVERY: Duration = Duration::from_secs(2);

/// What a server told at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When the answers were complete.
    pub at: Instant,
    /// Gets since its start.
    pub gets: u64,
    /// Sets since its start.
    pub sets: u64,
    /// Deletes since its start.
    pub deletes: u64,
    /// Records held.
    pub items: u64,
    /// Its ClockTime.
    pub clock_time: u64,
    /// How far it is with a replace: GetStatus's flags.
    pub replace: u64,
    /// What servers of ours tell beyond that.
    pub more: Option<Rc<Statistics>>,
}

impl Sample {
    /// Requests since the server's start.
    pub fn requests(&self) -> u64 {
        self.gets + self.sets + self.deletes
    }
}

/// What came of asking so far.
#[derive(Debug, Default)]
struct Told {
    last: Option<Sample>,
    /// Why the newest question was not answered.
    trouble: Option<String>,
}

/// A server under watch.
#[derive(Debug)]
pub struct Watched {
    /// Where it is.
    pub address: Address,
    told: RefCell<Told>,
}

impl Watched {
    /// Begins to ask a server every so often. Ends with the value.
    pub fn start(address: Address, every: Duration) -> Rc<Watched> {
        let watched = Rc::new(Watched { address, told: RefCell::default() });
        tokio::task::spawn_local(poll(Rc::downgrade(&watched), address, every));
        watched
    }

    /// The newest sample.
    pub fn sample(&self) -> Option<Sample> {
        self.told.borrow().last.clone()
    }

    /// Why the newest question was not answered.
    pub fn trouble(&self) -> Option<String> {
        self.told.borrow().trouble.clone()
    }

    fn told(&self, result: Result<Sample, AskError>) {
        let mut told = self.told.borrow_mut();
        match result {
            Ok(sample) => *told = Told { last: Some(sample), trouble: None },
            Err(why) => told.trouble = Some(why.to_string()),
        }
    }
}

async fn poll(watched: Weak<Watched>, address: Address, every: Duration) {
    let mut ticks = time::interval(every);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut node = None;
    let mut is_old = false;
    loop {
        ticks.tick().await;
        let asked = time::timeout(PATIENCE, ask_all(address, &mut node, &mut is_old)).await;
        let result = asked.unwrap_or(Err(AskError::Silent(address)));
        if result.is_err() {
            node = None;
        }
        let Some(watched) = watched.upgrade() else { return };
        watched.told(result);
    }
}

/// `is_old`: it is known, for as long as it is connected, to have no statistics.
async fn ask_all(address: Address, node: &mut Option<Node>, is_old: &mut bool) -> Result<Sample, AskError> {
    let node = match node {
        Some(node) if node.is_open() => node,
        _ => {
            *is_old = false;
            node.insert(Node::connect(address, Role::Server).await?)
        }
    };
    let number = |what| node.status(what, |r| r.u64());
    let (gets, sets, deletes, items, clock_time, replace) = tokio::try_join!(
        number(status::CMD_GET),
        number(status::CMD_SET),
        number(status::CMD_DELETE),
        number(status::ITEMS),
        number(status::CLOCK_TIME),
        number(status::REPLACE),
    )?;
    let more = if *is_old { None } else { ask_more(node).await? };
    *is_old = more.is_none();
    Ok(Sample { at: Instant::now(), gets, sets, deletes, items, clock_time, replace, more })
}

async fn ask_more(node: &Node) -> Result<Option<Rc<Statistics>>, AskError> {
    match ask::statistics(node).await {
        Ok(told) => Ok(Some(Rc::new(told))),
        Err(AskError::Old(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The hash space for writing as servers know it, where no manager is asked: the first that answers is believed.
pub async fn follow_space(servers: Vec<Address>, space: Weak<RefCell<HashSpace>>) {
    loop {
        for server in &servers {
            let asked = async {
                let node = Node::connect(*server, Role::Server).await?;
                ask::hash_space_of(&node).await
            };
            let Ok(Ok(found)) = time::timeout(PATIENCE, asked).await else { continue };
            let Some(space) = space.upgrade() else { return };
            space.replace(found);
            break;
        }
        time::sleep(MEMBERS_EVERY).await;
        if space.strong_count() == 0 {
            return;
        }
    }
}

/// The servers to watch, as the manager tells them from time to time. Those that go are forgotten.
#[derive(Debug)]
pub struct Members {
    servers: RefCell<BTreeMap<Address, Rc<Watched>>>,
    /// As the manager told it last. Those in fault are not asked.
    space: RefCell<HashSpace>,
    every: Duration,
}

impl Members {
    /// Asks the manager once, and then every few seconds; while it does not answer, its last word counts.
    ///
    /// # Errors
    /// When the manager's name is wrong, or it does not answer the first time.
    pub async fn of(manager: &str, every: Duration) -> Result<Rc<Members>, Trouble> {
        let manager = ask::address(manager, MANAGER_PORT)?;
        let members = Rc::new(Members { servers: RefCell::default(), space: RefCell::default(), every });
        members.are(&ask::hash_space(manager).await?);
        tokio::task::spawn_local(follow(Rc::downgrade(&members), manager));
        Ok(members)
    }

    fn are(&self, space: &HashSpace) {
        let mut servers = self.servers.borrow_mut();
        servers.retain(|address, _| space.is_active(*address));
        for node in space.nodes.iter().filter(|n| n.active) {
            servers.entry(node.address).or_insert_with(|| Watched::start(node.address, self.every));
        }
        self.space.replace(space.clone());
    }

    /// Those that are taken for dead.
    pub fn faults(&self) -> Vec<Address> {
        self.space.borrow().nodes.iter().filter(|n| !n.active).map(|n| n.address).collect()
    }

    /// The hash space for writing.
    pub fn space(&self) -> HashSpace {
        self.space.borrow().clone()
    }

    /// All active ones, by address.
    pub fn all(&self) -> Vec<Rc<Watched>> {
        self.servers.borrow().values().cloned().collect()
    }
}

async fn follow(members: Weak<Members>, manager: Address) {
    loop {
        time::sleep(MEMBERS_EVERY).await;
        let space = ask::hash_space(manager).await;
        let Some(members) = members.upgrade() else { return };
        if let Ok(space) = space {
            members.are(&space);
        }
    }
}
