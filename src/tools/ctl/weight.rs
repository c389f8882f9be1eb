//! `kumoctl weight`: gives a server more of the ring than others have, or less, and tells who has how much.
//!
//! Records move at once, as after `attach`, and nothing waits for that. Source: `doc/guide.md`, "Give a server more or less".

use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::weight::Weight;
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::{error, v0, v1};
use crate::tools::Trouble;
use crate::tools::ask::{self, AskError, MANAGER_PORT, Node, Role, SERVER_PORT};
use serde_json::{Value, json};

/// What is asked for.
pub(super) struct Order {
    pub manager: String,
    pub server: Option<String>,
    pub weight: Option<String>,
    pub json: bool,
}

/// Runs it.
///
/// # Errors
/// When the server cannot have that weight, or the manager does not answer.
pub(super) async fn run(order: &Order) -> Result<(), Trouble> {
    let weight = order.weight.as_deref().map(str::parse::<Weight>).transpose();
    let weight = weight.map_err(|e| Trouble::Usage(e.to_string()))?;
    let server = order.server.as_deref().map(|server| ask::address(server, SERVER_PORT)).transpose()?;
    let node = Node::connect(ask::address(&order.manager, MANAGER_PORT)?, Role::Manager).await?;
    let epoch = match ask::newest_epoch(&node).await {
        Err(AskError::Refused(address, error::PROTOCOL)) => {
            return Err(Trouble::Failed(format!("{address} is a manager of kumofs 0.4, which knows no weights")));
        }
        epoch => epoch?.unwrap_or_default(),
    };
    if let Some(server) = server.filter(|server| epoch.whs.find(*server).is_none()) {
        return Err(Trouble::Failed(format!("{server} is not attached")));
    }
    let Some((server, weight)) = server.zip(weight) else {
        crate::tools::print(&shown(&epoch, server, order.json));
        return Ok(());
    };
    let mut params = Vec::new();
    write_array(&mut params, 2);
    v0::write_address(&mut params, server);
    write_uint(&mut params, weight.points() as u64);
    let read = |r: &mut Reader<'_>| if r.take_nil() { Ok(None) } else { r.raw().map(|why| Some(why.to_vec())) };
    if let Some(why) = node.ask(v1::method::WEIGHT, &params, read).await? {
        return Err(Trouble::Failed(String::from_utf8_lossy(&why).into_owned()));
    }
    crate::tools::print(&match order.json {
        true => format!("{}\n", told(server, weight)),
        false => "nil\n".to_owned(),
    });
    Ok(())
}

fn told(server: Address, weight: Weight) -> Value {
    json!({"server": server.to_string(), "weight": weight.as_f64()})
}

/// The weight of one server, or of each.
fn shown(epoch: &Epoch, server: Option<Address>, as_json: bool) -> String {
    let nodes = &epoch.whs.nodes;
    match (server.and_then(|server| epoch.whs.find(server)), as_json) {
        (Some(node), true) => format!("{}\n", told(node.address, node.weight)),
        (Some(node), false) => format!("{}\n", node.weight),
        (None, true) => {
            format!("{}\n", nodes.iter().map(|n| told(n.address, n.weight)).collect::<Value>())
        }
        (None, false) => nodes.iter().map(|n| format!("{}  {}\n", n.address, n.weight)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::epoch::ServerEntry;
    use crate::logic::ring::Node as RingNode;

    fn server(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    fn epoch() -> Epoch {
        let mut epoch = Epoch { number: 1, ..Epoch::default() };
        epoch.servers = (1..=3).map(|n| ServerEntry::new(server(n), 1, 1, 1)).collect();
        epoch.whs.nodes = (1..=3).map(|n| RingNode::new(server(n), n != 3)).collect();
        epoch.whs.nodes[1].weight = "0.5".parse().unwrap();
        epoch
    }

    #[test]
    fn weights_are_told_of_one_and_of_all() {
        assert_eq!(shown(&epoch(), Some(server(2)), false), "0.5\n");
        assert_eq!(shown(&epoch(), None, false), "10.0.0.1:19800  1\n10.0.0.2:19800  0.5\n10.0.0.3:19800  1\n");
        let all: Value = serde_json::from_str(&shown(&epoch(), None, true)).unwrap();
        assert_eq!(all[1], json!({"server": "10.0.0.2:19800", "weight": 0.5}));
        assert_eq!(shown(&Epoch::default(), None, false), "");
    }
}
