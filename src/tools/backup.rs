//! `kumoctl backup`: has every server make a backup, and waits for what becomes of each.
//!
//! kumofs's own command is answered at once and tells nobody of failures. Here the manager is asked for the servers, and
//! each of them for its backup; standard output stays what scripts know, and results go to standard error.
//!
//! A manager that is cut off from the others does not know that everything was flushed, nor whom they have removed. But every
//! server that serves knows, or `flush_all` had not been answered. So all of them are asked for the newest epoch first, and
//! are told it: with any of them in reach, no backup brings back what had been flushed before it was asked for.

use super::ask::{self, MANAGER_PORT, Node, PATIENCE, Role};
use super::ctl::NodesInfo;
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::rule::{Rule, on};
use crate::net::rpc::CallError;
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::v1::{BackedUp, Backup, method};
use crate::proto::rpc::{error, v0};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time;

/// How often is told who is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often a server that makes its backup is asked whether it still lives.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// No backup takes longer.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Why a server is not asked.
const FAULT: &str = "it is in fault: not connected";

/// What became of it at one server.
type Outcome = Result<BackedUp, String>;

/// What a manager tells of its cluster.
pub(super) struct Cluster {
    /// The servers, and what it says of each: not connected, or nothing.
    servers: Vec<(Address, Option<&'static str>)>,
    /// The newest epoch that it or a server knows; `None` before the first one.
    epoch: Option<Epoch>,
}

/// The servers to ask; `None` when the manager is one of kumofs 0.4, which its servers then are likely to be, too.
pub(super) async fn cluster(manager: &str) -> Result<Option<Cluster>, super::Trouble> {
    let node = Node::connect(ask::address(manager, MANAGER_PORT)?, Role::Manager).await?;
    let info = node.ask(v0::method::GET_NODES_INFO, &[0x90], NodesInfo::read).await?;
    let epoch = match node.call(method::GET_EPOCH, &[0x91, 0]).await {
        Err(ask::AskError::Refused(_, error::PROTOCOL)) => return Ok(None),
        told => told?,
    };
    let attached = info.whs.nodes.iter().map(|n| (n.address, (!n.active).then_some(FAULT)));
    let others = info.not_attached.iter().map(|address| (*address, None));
    let mut servers: Vec<(Address, Option<&'static str>)> = attached.chain(others).collect();
    let told = Reader::new(&epoch).raw().ok().and_then(|text| Epoch::decode(text).ok());
    let addresses: Vec<Address> = servers.iter().map(|(address, _)| *address).collect();
    let epoch = newest(told, &addresses).await;
    if let Some(epoch) = &epoch {
        let newly = epoch.servers.iter().filter(|s| s.removed.is_none() && !addresses.contains(&s.address));
        servers.extend(newly.map(|s| (s.address, None)));
        for (address, fault) in servers.iter_mut().filter(|(address, _)| epoch.server(*address).is_some()) {
            *fault = is_out(epoch, *address).then_some(FAULT);
        }
    }
    Ok(Some(Cluster { servers, epoch }))
}

/// The newest epoch of a cluster that a manager or one of the servers knows.
pub async fn newest(told: Option<Epoch>, servers: &[Address]) -> Option<Epoch> {
    if !on(Rule::BackupAsksServers) {
        return told;
    }
    let ask = |address| async move { ask::newest_epoch(&Node::connect(address, Role::Server).await?).await };
    let answers = ask::each(servers, ask).await;
    // Who does not answer will say why when it is asked for its backup.
    let mut epochs: Vec<Epoch> = answers.into_iter().filter_map(|answer| answer.ok().flatten()).collect();
    let cluster = told.as_ref().map(|epoch| epoch.cluster);
    epochs.retain(|epoch| cluster.is_none_or(|cluster| cluster == 0 || cluster == epoch.cluster));
    told.into_iter().chain(epochs).max_by_key(|epoch| epoch.number)
}

/// Whether an epoch removed a server: what it holds is not what the others do.
pub fn is_out(epoch: &Epoch, server: Address) -> bool {
    epoch.server(server).is_some_and(|s| s.removed.is_some())
}

/// Asks all at once, and tells of each when it is done. The results are in the order of the servers.
pub(super) async fn make(cluster: Cluster, suffix: &str, since: Option<&str>) -> Vec<(Address, Outcome)> {
    let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
    let addresses: Vec<Address> = cluster.servers.iter().map(|(address, _)| *address).collect();
    let backup = Backup {
        suffix: suffix.into(),
        since: since.map(Into::into),
        epoch: cluster.epoch.map(|epoch| epoch.encode()),
    };
    let mut params = Vec::new();
    backup.write(&mut params);
    for (address, fault) in cluster.servers {
        let (done, params) = (done.clone(), params.clone());
        tokio::task::spawn_local(async move {
            let outcome = match fault {
                Some(why) => Err(why.to_owned()),
                None => at(address, &params).await,
            };
            // Who waits is still there.
            let _ = done.send((address, outcome));
        });
    }
    drop(done);
    let mut outcomes: Vec<(Address, Outcome)> = Vec::new();
    while outcomes.len() < addresses.len() {
        match time::timeout(TELL_EVERY, results.recv()).await {
            Ok(Some((address, outcome))) => {
                eprintln!("kumoctl: {address}: {}", line(&outcome));
                outcomes.push((address, outcome));
            }
            // A task that panicked has told so.
            Ok(None) => break,
            Err(_) => {
                let waiting = addresses.iter().filter(|a| outcomes.iter().all(|(done, _)| done != *a));
                let waiting: Vec<String> = waiting.map(Address::to_string).collect();
                eprintln!(
                    "kumoctl: {} of {} done, waiting for {}",
                    outcomes.len(),
                    addresses.len(),
                    waiting.join(", ")
                );
            }
        }
    }
    outcomes.sort_by_key(|(address, _)| addresses.iter().position(|a| a == address));
    outcomes
}

/// Has one server make its backup. It is asked for signs of life meanwhile: how long a backup takes nobody can know.
async fn at(address: Address, params: &[u8]) -> Outcome {
    let node = Node::connect(address, Role::Server).await.map_err(|e| e.to_string())?;
    let call = node.call_for(method::BACKUP, params, LONGEST);
    tokio::pin!(call);
    loop {
        tokio::select! {
            answer = &mut call => return read(answer),
            () = time::sleep(ASK_EVERY) => {
                let silent = || format!("it does not answer any more within {} seconds", PATIENCE.as_secs());
                node.status(v0::status::PID, |r| r.u64()).await.map_err(|_| silent())?;
            }
        }
    }
}

fn read(answer: Result<Vec<u8>, CallError>) -> Outcome {
    match answer {
        Ok(result) => {
            let read = BackedUp::read(&mut Reader::new(&result));
            read.map_err(|e| format!("its answer is none of a kumo-server: {e}"))?
        }
        Err(CallError::Refused(error::PROTOCOL, _)) => {
            Err("it is an older version, which tells nothing of its backups: use --no-wait".to_owned())
        }
        Err(CallError::Refused(number, _)) => Err(format!("it refused (error {number}); its log says why")),
        Err(CallError::Lost) => Err("it hung up before its backup was done".to_owned()),
        Err(CallError::Timeout) => Err("its backup takes more than a day".to_owned()),
    }
}

fn line(outcome: &Outcome) -> String {
    match outcome {
        Ok(BackedUp { path, items, bytes, micros }) => {
            format!("{items} records, {bytes} bytes in {}.{:03} s: {path}", micros / 1_000_000, micros / 1000 % 1000)
        }
        Err(why) => format!("no backup: {why}"),
    }
}

/// For `--json`.
pub(super) fn as_json(outcomes: &[(Address, Outcome)]) -> Value {
    let one = |(address, outcome): &(Address, Outcome)| match outcome {
        Ok(BackedUp { path, items, bytes, micros }) => json!({
            "address": address.to_string(), "path": path, "items": items, "bytes": bytes, "micros": micros,
        }),
        Err(why) => json!({"address": address.to_string(), "error": why}),
    };
    outcomes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_became_of_it() {
        let made = BackedUp { path: "/d-1".to_owned(), items: 3, bytes: 300, micros: 1_002_345 };
        assert_eq!(line(&Ok(made)), "3 records, 300 bytes in 1.002 s: /d-1");
        assert_eq!(line(&Err("no space".to_owned())), "no backup: no space");
        assert!(read(Err(CallError::Lost)).unwrap_err().contains("hung up"));
        assert!(read(Ok(vec![0xc0])).unwrap_err().contains("none of a kumo-server"));
    }
}
