//! `kumoctl drain`: takes a server out of the ring that still serves, and waits until nothing depends on it.
//!
//! It goes on serving what it holds while that is copied to those that hold it from then on, so no key has fewer copies
//! than before. `attach` has it stay, or come back.

use super::progress;
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::net::time::Instant;
use crate::proto::rpc::msgpack::write_array;
use crate::proto::rpc::{error, v0, v1};
use crate::tools::Trouble;
use crate::tools::ask::{self, AskError, MANAGER_PORT, Node, Role, SERVER_PORT};
use serde_json::json;
use std::time::Duration;
use tokio::time;

/// How often is looked whether it is done.
const EVERY: Duration = Duration::from_millis(200);
/// How often is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What is asked for.
pub(super) struct Order {
    pub manager: String,
    pub server: Option<String>,
    pub wait: bool,
    pub json: bool,
}

/// How it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    Draining,
    Drained,
    /// It will not be.
    Over(&'static str),
}

/// Runs it.
///
/// # Errors
/// When the server cannot be drained, is lost before it is, or the manager does not answer.
pub(super) async fn run(order: &Order) -> Result<(), Trouble> {
    let server = order.server.as_deref();
    let server =
        server.ok_or(Trouble::Usage("drain takes a server, as in `kumoctl MANAGER drain SERVER`".to_owned()))?;
    let (manager, server) = (ask::address(&order.manager, MANAGER_PORT)?, ask::address(server, SERVER_PORT)?);
    let node = Node::connect(manager, Role::Manager).await?;
    let refuses = refusal(&epoch_of(&node).await?, server);
    if let Some(why) = refuses {
        return Err(Trouble::Failed(format!("{server} {why}")));
    }
    let mut params = Vec::new();
    write_array(&mut params, 1);
    v0::write_address(&mut params, server);
    node.call(v1::method::DRAIN, &params).await?;
    if order.wait {
        wait(&node, server).await?;
    }
    crate::tools::print(&match (order.json, order.wait) {
        (true, drained) => format!("{}\n", json!({"server": server.to_string(), "drained": drained})),
        (false, _) => "nil\n".to_owned(),
    });
    Ok(())
}

async fn wait(node: &Node, server: Address) -> Result<(), Trouble> {
    let mut told = Instant::now();
    loop {
        let epoch = epoch_of(node).await?;
        match standing(&epoch, server) {
            Standing::Drained => {
                eprintln!("kumoctl: {server} holds nothing that is needed any more, and can be stopped");
                return Ok(());
            }
            Standing::Over(why) => return Err(Trouble::Failed(format!("{server} {why}"))),
            Standing::Draining => {}
        }
        if told.elapsed() >= TELL_EVERY {
            let paused = epoch.pace.paused;
            progress::ask(&epoch).await.iter().for_each(|one| eprintln!("kumoctl: {}", one.text(paused)));
            told = Instant::now();
        }
        time::sleep(EVERY).await;
    }
}

async fn epoch_of(node: &Node) -> Result<Epoch, Trouble> {
    match ask::newest_epoch(node).await {
        Err(AskError::Refused(address, error::PROTOCOL)) => {
            Err(Trouble::Failed(format!("{address} is a manager of kumofs 0.4, which drains nothing")))
        }
        epoch => Ok(epoch?.unwrap_or_default()),
    }
}

/// Why a server cannot be drained.
fn refusal(epoch: &Epoch, server: Address) -> Option<&'static str> {
    let entry = epoch.server(server);
    if entry.is_some_and(|entry| entry.drained && entry.removed.is_none()) {
        return None;
    }
    if epoch.whs.find(server).is_none() {
        return Some("is not attached");
    }
    if !epoch.whs.is_active(server) {
        return Some("is in fault; `detach` gives up its place");
    }
    if entry.is_some_and(|entry| entry.incarnation == 0) {
        return Some("is a server of kumofs 0.4, which cannot be drained");
    }
    let others = epoch.whs.nodes.iter().any(|n| n.active && n.address != server);
    (!others).then_some("is the only server that would be left")
}

fn standing(epoch: &Epoch, server: Address) -> Standing {
    match epoch.server(server) {
        _ if epoch.whs.find(server).is_some() => Standing::Over("was attached again before it was drained"),
        _ if epoch.rhs.is_active(server) => Standing::Draining,
        _ if epoch.rhs.find(server).is_some() => {
            Standing::Over("was lost before it was drained; what it held is copied from the others")
        }
        Some(_) | None => Standing::Drained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::logic::epoch::ServerEntry;
    use crate::logic::ring::{HashSpace, Node as RingNode};

    fn server(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    /// Servers by space, and whether they are active there.
    fn epoch(whs: &[(u8, bool)], rhs: &[(u8, bool)]) -> Epoch {
        let space = |nodes: &[(u8, bool)]| HashSpace {
            nodes: nodes.iter().map(|(n, active)| RingNode::new(server(*n), *active)).collect(),
            timestamp: ClockTime(1),
        };
        let entry = |n: u8| ServerEntry {
            drained: !whs.iter().any(|(of, _)| *of == n),
            ..ServerEntry::new(server(n), n.into(), if n == 9 { 0 } else { 8 }, 1)
        };
        Epoch { servers: (1..10).map(entry).collect(), whs: space(whs), rhs: space(rhs), ..Epoch::default() }
    }

    #[test]
    fn what_cannot_be_drained_is_told_before_anything_is_asked() {
        let whole = epoch(&[(1, true), (2, true), (3, false), (9, true)], &[]);
        assert_eq!(refusal(&whole, server(1)), None);
        assert_eq!(refusal(&whole, server(99)), Some("is not attached"));
        assert!(refusal(&whole, server(3)).is_some_and(|why| why.starts_with("is in fault")));
        assert!(refusal(&whole, server(9)).is_some_and(|why| why.contains("kumofs 0.4")));
        let one = epoch(&[(1, true), (3, false)], &[]);
        assert!(refusal(&one, server(1)).is_some_and(|why| why.contains("only server")));
        // Asked for again, it is waited for.
        assert_eq!(refusal(&one, server(2)), None);
    }

    #[test]
    fn it_is_drained_when_nobody_reads_from_it() {
        let stands = |whs: &[(u8, bool)], rhs: &[(u8, bool)]| standing(&epoch(whs, rhs), server(1));
        assert_eq!(stands(&[(2, true)], &[(1, true), (2, true)]), Standing::Draining);
        assert_eq!(stands(&[(2, true)], &[(2, true)]), Standing::Drained);
        assert!(matches!(stands(&[(2, true)], &[(1, false), (2, true)]), Standing::Over(_)));
        assert!(matches!(stands(&[(1, true), (2, true)], &[(1, true)]), Standing::Over(_)));
    }
}
