//! `kumoctl backup` while faults strike, and whether what it made is what it says: a picture from which the cluster could
//! go on.
//!
//! A backup holds all that was acknowledged before it was asked for, and of what was under way until it was answered this
//! or that. So a get of what it holds, behind everything else that clients did up to then, has to fit into their history,
//! where all that was not answered before it was asked for counts as of unknown outcome. Where one server hangs, that is much,
//! and a search among all that may have come of it takes for ever; so first it is tried whether a get that took as long as the
//! backup fits into what really came of everything. If it does, what stands before it is such an order.

use super::client::SECOND;
use super::cluster::{Cluster, SERVER_PORT, address, key_name};
use super::node::{self, EPOCH_SECS, Process};
use crate::check::{self, Action, Entry, History, Marks, Outcome, Seen, Verdict};
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::expiry;
use crate::logic::record::{self, Stamp};
use crate::logic::route::Route;
use crate::net::rpc::{Limits, RpcConn};
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::v1::{self, BackedUp, method};
use crate::store::log::LogStore;
use crate::store::restored::{self, BACKUP_EPOCH_FILE};
use crate::store::{Shard, Store, StoreError};
use crate::tools::{
    self,
    ask::{Node, Role},
};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps of search for each key. Little is under way while a backup is made.
const CHECK_STEPS: u64 = 30_000;
/// Who reads a backup, in histories.
const READER: u32 = 999;

/// What became of one `kumoctl backup`.
#[derive(Clone, Debug)]
pub struct Backup {
    suffix: String,
    /// The newest epoch that a server knew when it was asked for.
    epoch: Epoch,
    /// What every active server knew to have been flushed then.
    flushed: u64,
    /// When it was asked for, and when the last server had made it, in the times of histories.
    asked: u64,
    answered: u64,
    /// The servers that have made one.
    made: Vec<usize>,
}

fn now() -> u64 {
    node::elapsed_micros() * 1000
}

/// Has every server make a backup of that number.
pub async fn make(cluster: &Rc<Cluster>, number: u32) {
    let (epoch, asked, suffix) = (cluster.newest_epoch(), now(), number.to_string());
    let (done, made) = tokio::sync::oneshot::channel();
    let flushed = cluster.flushed_everywhere(&epoch);
    let servers = cluster.shape.servers;
    let managers = cluster.manager_addresses();
    let operator = cluster.operator(number);
    let suffixed = suffix.clone().into_bytes();
    let process = Process::start(&operator, async move {
        let addresses: Vec<Address> = (0..servers).map(|server| address(2, server, SERVER_PORT)).collect();
        let newest = tools::backup::newest(told(&managers).await, &addresses).await;
        let text = newest.as_ref().map(Epoch::encode);
        let backup = v1::Backup { suffix: suffixed, since: None, epoch: text };
        let is_out = |server: &usize| newest.as_ref().is_some_and(|e| tools::backup::is_out(e, addresses[*server]));
        let mut asked = JoinSet::new();
        for server in (0..servers).filter(|server| !is_out(server)) {
            let backup = backup.clone();
            asked.spawn_local(async move { at(server, &backup).await.then_some(server) });
        }
        let (mut made, mut last) = (Vec::new(), 0);
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(server)) = answer {
                made.push(server);
                last = now();
            }
        }
        let _ = done.send((made, last));
    });
    let (made, answered) = made.await.unwrap_or_default();
    process.kill();
    super::net::process_died(operator.ip, operator.lives.get());
    tracing::info!("kumoctl backup {suffix}: servers {made:?} have made one");
    cluster.backups.borrow_mut().push(Backup { suffix, epoch, flushed, asked, answered, made });
}

/// The epoch of the first manager that answers.
async fn told(managers: &[Address]) -> Option<Epoch> {
    for manager in managers {
        let Ok(node) = Node::connect(*manager, Role::Manager).await else { continue };
        if let Ok(epoch) = tools::ask::newest_epoch(&node).await {
            return epoch;
        }
    }
    None
}

async fn at(server: usize, backup: &v1::Backup) -> bool {
    let handler = Rc::new(|_: &RpcConn, _: crate::net::rpc::Event| ());
    let to = address(2, server, SERVER_PORT).socket_addr();
    let connected = RpcConn::connect_client(to, Duration::from_secs(1), Limits::default(), handler).await;
    let Ok(conn) = connected else { return false };
    let answer = conn.call(method::BACKUP, |out| backup.write(out), PATIENCE).await;
    answer.is_ok_and(|result| matches!(BackedUp::read(&mut Reader::new(&result)), Ok(Ok(_))))
}

impl Backup {
    /// Whether it is known to be right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, cluster: &Cluster, history: &History, keys: usize) -> Result<bool, String> {
        let route = Route::new(&self.epoch);
        // With each, what it says was flushed.
        let mut opened: BTreeMap<usize, (Arc<LogStore>, u64)> = BTreeMap::new();
        for server in &self.made {
            let wrong = |why: String| format!("backup {} of server{server}: {why}", self.suffix);
            let store = cluster.open_backup(*server, &self.suffix).map_err(wrong)?;
            let epoch =
                restored::load(store.disk(), store.dir(), BACKUP_EPOCH_FILE).map_err(|e| wrong(e.to_string()))?;
            let flushed = epoch.ok_or_else(|| wrong("it does not say what was flushed".to_owned()))?.flushed;
            let is_active = |server: &usize| {
                let address = address(2, *server, SERVER_PORT);
                self.epoch.whs.is_active(address) || self.epoch.rhs.is_active(address)
            };
            if flushed < self.flushed && self.made.iter().any(is_active) {
                return Err(wrong("it brings back what had been flushed".to_owned()));
            }
            opened.insert(*server, (store, flushed));
        }
        let (mut up_to_then, mut as_it_was) = (self.history(history), history.clone());
        for name in (0..keys).map(key_name) {
            let dbkey = dbkey(&name);
            let hash = record::dbkey_hash(&dbkey).unwrap_or_default();
            let full = cluster.numbers(&self.epoch, route.group(hash).full());
            // Without all of them it is no backup of this key.
            if full.is_empty() || !full.iter().all(|server| opened.contains_key(server)) {
                continue;
            }
            let mut newest: Option<(Stamp, Vec<u8>)> = None;
            for (store, flushed) in full.iter().filter_map(|server| opened.get(server)) {
                let held =
                    held(store, cluster.shape.workers, &dbkey).map_err(|e| format!("backup {}: {e}", self.suffix))?;
                let held = held.filter(|(stamp, _)| stamp.epoch >= *flushed);
                if held.as_ref().map(|(stamp, _)| *stamp) > newest.as_ref().map(|(stamp, _)| *stamp) {
                    newest = held;
                }
            }
            let outcome = self.seen(newest.as_ref().map(|(_, dbval)| dbval.as_slice()));
            let (key, at) = (name.into_bytes(), self.answered);
            let get = Entry { client: READER, key, action: Action::Get, outcome, invoked: at, returned: at };
            as_it_was.push(Entry { invoked: self.asked, ..get.clone() });
            up_to_then.push(get);
        }
        if check::check(&as_it_was, CHECK_STEPS) == Verdict::Linearizable {
            return Ok(true);
        }
        match check::check(&up_to_then, CHECK_STEPS) {
            Verdict::Violated(violation) => Err(format!("backup {} does not fit: {violation}", self.suffix)),
            Verdict::Linearizable => Ok(true),
            Verdict::Undecided(_) => Ok(false),
        }
    }

    /// What had been asked for when it was answered.
    fn history(&self, all: &History) -> History {
        let mut history = History::default();
        history.clocks = all.clocks;
        for entry in all.entries().iter().filter(|entry| entry.invoked <= self.answered) {
            let known = entry.outcome != Outcome::Unknown && entry.returned < self.asked;
            let outcome = if known { entry.outcome.clone() } else { Outcome::Unknown };
            history.push(Entry { outcome, ..entry.clone() });
        }
        history
    }

    fn seen(&self, dbval: Option<&[u8]>) -> Outcome {
        let now_secs = EPOCH_SECS + self.answered / SECOND;
        let body = dbval.and_then(record::parse).and_then(|value| value.body);
        match body.filter(|body| !expiry::is_gone(body.expiry, now_secs)) {
            Some(body) => {
                let (data, flags, marks) = (body.data.to_vec(), body.flags, Marks::default());
                Outcome::Value(Seen { data, flags, unique: None, marks })
            }
            None => Outcome::Miss,
        }
    }
}

/// The record of a key in one server's backup.
fn held(store: &LogStore, workers: u16, dbkey: &[u8]) -> Result<Option<(Stamp, Vec<u8>)>, StoreError> {
    let worker = record::worker_of(record::dbkey_hash(dbkey).unwrap_or_default(), workers);
    let mut shard = store.shards()[usize::from(worker)].lock().expect("no holder of a shard panics");
    let shard: &mut dyn Shard = &mut *shard;
    Ok(shard.get(dbkey)?.map(|record| (record.stamp(), record.dbval.to_vec())))
}

fn dbkey(name: &str) -> Vec<u8> {
    let mut dbkey = Vec::new();
    record::encode_dbkey(name.as_bytes(), &mut dbkey);
    dbkey
}
