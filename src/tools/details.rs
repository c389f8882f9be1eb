//! `kumoctl status -v`: what stands behind the table of servers.
//!
//! Managers and servers are all asked at once; one that does not answer is told as such, and delays no other. The rendering is
//! pure.

use super::ask::{self, AskError, Node, Role};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::logic::ring::REPLICAS;
use crate::logic::route::Route;
use crate::logic::weight::Weight;
use crate::proto::rpc::v0;
use crate::proto::rpc::v1::Numbers;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a server tells: its version, and numbers that are missing where it is one of kumofs 0.4.
pub(super) type Server = Result<(String, Option<Numbers>), String>;

/// What stands behind the table.
pub(super) struct Details {
    epoch: Epoch,
    /// The number of the epoch that each holds.
    managers: Vec<(Address, Result<u64, String>)>,
    servers: Vec<(Address, Server)>,
    /// By the number of full copies: parts of the ring, in millionths.
    copies: BTreeMap<usize, u64>,
}

/// Asks all that an epoch names.
pub(super) async fn gather(epoch: Epoch) -> Details {
    let managers: Vec<Address> = epoch.managers.iter().map(|manager| manager.address).collect();
    let known = ask::each(&managers, |address| async move {
        let node = Node::connect(address, Role::Manager).await?;
        Ok(ask::newest_epoch(&node).await?.map_or(0, |epoch| epoch.number))
    });
    let active: Vec<Address> = epoch.whs.nodes.iter().filter(|node| node.active).map(|node| node.address).collect();
    let told = ask::each(&active, |address| async move {
        let node = Node::connect(address, Role::Server).await?;
        let version = node.status(v0::status::VERSION, |r| r.raw().map(<[u8]>::to_vec)).await?;
        let version = String::from_utf8_lossy(&version).into_owned();
        match ask::statistics(&node).await {
            Ok(statistics) => Ok((version, Some(statistics.numbers))),
            Err(AskError::Old(_)) => Ok((version, None)),
            Err(e) => Err(e),
        }
    });
    let (known, told) = tokio::join!(known, told);
    let words = |e: AskError| e.to_string();
    Details {
        managers: managers.into_iter().zip(known.into_iter().map(|k| k.map_err(words))).collect(),
        servers: active.into_iter().zip(told.into_iter().map(|t| t.map_err(words))).collect(),
        copies: copies(&epoch),
        epoch,
    }
}

/// How much of the ring has how many full copies, in millionths.
fn copies(epoch: &Epoch) -> BTreeMap<usize, u64> {
    let route = Route::new(epoch);
    let mut widths: BTreeMap<usize, u128> = BTreeMap::new();
    let mut before = route.ends().last().copied().unwrap_or(0);
    for end in route.ends() {
        // The first arc begins behind the last end, and wraps; a single one is the whole ring.
        let width = u128::from(end.wrapping_sub(before));
        let width = if width == 0 { 1 << 64 } else { width };
        *widths.entry(route.group(*end).full().len()).or_default() += width;
        before = *end;
    }
    widths.into_iter().map(|(count, width)| (count, ((width * 1_000_000) >> 64) as u64)).collect()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Copying { .. } => "copying",
        Phase::Deleting { .. } => "deleting",
    }
}

fn is_short(epoch: &Epoch, count: usize) -> bool {
    count < REPLICAS.min(epoch.whs.nodes.len())
}

impl Details {
    fn weight(&self, address: Address) -> Option<Weight> {
        self.epoch.whs.find(address).map(|node| node.weight)
    }

    /// Lines for people.
    pub(super) fn text(&self) -> String {
        let mut out = format!("epoch:\n  {}  ({})\nmanager:\n", self.epoch.number, phase(self.epoch.phase));
        for (address, known) in &self.managers {
            let known = known.as_ref().map_or_else(|why| format!("({why})"), |number| format!("epoch {number}"));
            out.push_str(&format!("  {address}  {known}\n"));
        }
        out.push_str("server:\n");
        for (address, told) in &self.servers {
            let weight = self.weight(*address).filter(|weight| !weight.is_usual());
            let weight = weight.map_or(String::new(), |weight| format!("  weight {weight}"));
            out.push_str(&format!("  {address}  {}{weight}\n", server_text(told)));
        }
        out.push_str("copies of keys:\n");
        for (count, ppm) in self.copies.iter().rev() {
            let short = if is_short(&self.epoch, *count) { "  (too few)" } else { "" };
            out.push_str(&format!("  {count}  {}.{:02}%{short}\n", ppm / 10_000, ppm / 100 % 100));
        }
        out
    }

    /// Adds members to an object.
    pub(super) fn add_to(&self, object: &mut Map<String, Value>) {
        let manager = |(address, known): &(Address, Result<u64, String>)| match known {
            Ok(number) => json!({"address": address.to_string(), "epoch": number}),
            Err(why) => json!({"address": address.to_string(), "error": why}),
        };
        let server = |(address, told): &(Address, Server)| match told {
            Ok((version, numbers)) => json!({
                "address": address.to_string(),
                "version": version,
                "epoch": numbers.as_ref().and_then(|n| n.epoch),
                "items": numbers.as_ref().and_then(|n| n.items),
                "parked": numbers.as_ref().and_then(|n| n.parked),
                "leases": numbers.as_ref().and_then(|n| n.leases),
                "leases_wanted": numbers.as_ref().and_then(|n| n.leases_wanted),
                "moving_ppm": numbers.as_ref().and_then(|n| n.moving_ppm),
            }),
            Err(why) => json!({"address": address.to_string(), "error": why}),
        };
        let share = |(count, ppm): (&usize, &u64)| json!({"copies": count, "ppm": ppm, "too_few": is_short(&self.epoch, *count)});
        object.insert("managers".to_owned(), self.managers.iter().map(manager).collect());
        object.insert("servers".to_owned(), self.servers.iter().map(server).collect());
        object.insert("copies".to_owned(), self.copies.iter().map(share).collect());
    }
}

fn server_text(told: &Server) -> String {
    let (version, numbers) = match told {
        Ok(told) => told,
        Err(why) => return format!("({why})"),
    };
    let Some(numbers) = numbers else { return version.clone() };
    let mut out = version.clone();
    for (name, number) in [("epoch", numbers.epoch), ("records", numbers.items), ("waiting", numbers.parked)] {
        out.push_str(&number.map_or(String::new(), |n| format!("  {name} {n}")));
    }
    if let (Some(held), Some(wanted)) = (numbers.leases, numbers.leases_wanted) {
        out.push_str(&format!("  leases {held}/{wanted}"));
    }
    let sends = numbers.coordinates_ppm != Some(0);
    out.push_str(
        &numbers.moving_ppm.filter(|_| sends).map_or(String::new(), |ppm| format!("  moving {}%", ppm / 10_000)),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::epoch::ServerEntry;
    use crate::logic::ring::{HashSpace, Node as RingNode};

    fn epoch(active: &[bool]) -> Epoch {
        let address = |i: usize| Address::new(([10, 0, 0, i as u8], 19800).into());
        let nodes = active.iter().enumerate().map(|(i, active)| RingNode::new(address(i), *active));
        let space = HashSpace { nodes: nodes.collect(), ..HashSpace::default() };
        let entry = |i| ServerEntry::new(address(i), 1, 1, 1);
        let servers = (0..active.len()).map(entry).collect();
        Epoch { number: 12, servers, whs: space.clone(), rhs: space, ..Epoch::default() }
    }

    #[test]
    fn shares_of_the_ring_are_told_by_how_many_copies_they_have() {
        assert_eq!(copies(&epoch(&[true; 3])), BTreeMap::from([(3, 1_000_000)]));
        assert_eq!(copies(&epoch(&[true])), BTreeMap::from([(1, 1_000_000)]));
        let one_down = copies(&epoch(&[true, true, true, false]));
        assert!((999_998..=1_000_000).contains(&one_down.values().sum::<u64>()), "{one_down:?}");
        assert!(one_down[&2] > 600_000 && one_down[&3] > 100_000, "{one_down:?}");
        assert!(is_short(&epoch(&[true; 3]), 2) && !is_short(&epoch(&[true; 2]), 2));
    }

    #[test]
    fn what_stands_behind_the_table_is_told() {
        let mut epoch = epoch(&[true, true, false]);
        epoch.whs.nodes[0].weight = "0.5".parse().unwrap();
        let at = epoch.servers[0].address;
        let numbers = Numbers {
            epoch: Some(12),
            items: Some(7),
            parked: Some(0),
            leases: Some(1),
            leases_wanted: Some(2),
            moving_ppm: Some(460_000),
            ..Numbers::default()
        };
        let details = Details {
            copies: copies(&epoch),
            managers: vec![(at, Ok(12)), (at, Err("gone".to_owned()))],
            servers: vec![
                (at, Ok(("1.0".to_owned(), Some(numbers)))),
                (epoch.servers[1].address, Ok(("0.4.13".to_owned(), None))),
                (epoch.servers[1].address, Err("gone".to_owned())),
            ],
            epoch,
        };
        let expected = "\
epoch:
  12  (idle)
manager:
  10.0.0.0:19800  epoch 12
  10.0.0.0:19800  (gone)
server:
  10.0.0.0:19800  1.0  epoch 12  records 7  waiting 0  leases 1/2  moving 46%  weight 0.5
  10.0.0.1:19800  0.4.13
  10.0.0.1:19800  (gone)
copies of keys:
  2  100.00%  (too few)
";
        assert_eq!(details.text(), expected);
        let mut object = Map::new();
        details.add_to(&mut object);
        assert_eq!((&object["copies"][0]["too_few"], &object["managers"][1]["error"]), (&json!(true), &json!("gone")));
        assert_eq!(object["servers"][0]["moving_ppm"], json!(460_000));
        assert_eq!(object["servers"][0]["leases_wanted"], json!(2));
    }
}
