//! What moves when servers are added or removed, and how even the ring is before and after: exact, not sampled.
//!
//! The points of both rings cut the circle into arcs; all keys of an arc have the same servers in each ring, so sums
//! over arcs are the shares of keys that a perfect hash would give. Pure; [`super::hash`] prints it.

use crate::logic::address::Address;
use crate::logic::ring::{Node, REPLICAS, Ring};
use crate::logic::weight::Weight;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most servers that are planned for.
pub const MAX_SERVERS: usize = 1000;
/// Rows of the picture, and how wide its longest bar is.
const PICTURE_ROWS: usize = 12;
const PICTURE_WIDTH: usize = 50;

/// Servers before and after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    before: Vec<Node>,
    after: Vec<Node>,
}

impl Plan {
    /// Takes the last `remove` servers away, adds `add` made-up ones, and gives some of them other weights.
    ///
    /// # Errors
    /// A line when that cannot be.
    pub fn new(before: Vec<Node>, add: usize, remove: usize, weights: &[(Address, Weight)]) -> Result<Plan, String> {
        if before.is_empty() {
            return Err("there are no servers; --servers N makes some up".to_owned());
        }
        if remove > before.len() || (remove == before.len() && add == 0) {
            return Err(format!("of {} servers {remove} cannot be removed", before.len()));
        }
        let mut after = before[..before.len() - remove].to_vec();
        let is_new = |address: &Address| !before.iter().any(|n| n.address == *address);
        let new = (0..).map(made_up_address).filter(is_new).take(add.min(MAX_SERVERS + 1));
        after.extend(new.map(|address| Node::new(address, true)));
        weigh(&mut after, weights)?;
        if before.len().max(after.len()) > MAX_SERVERS {
            return Err(format!("up to {MAX_SERVERS} servers can be planned for"));
        }
        Ok(Plan { before, after })
    }
}

/// Gives servers their weights.
///
/// # Errors
/// A line when there is no such server.
pub fn weigh(nodes: &mut [Node], weights: &[(Address, Weight)]) -> Result<(), String> {
    for (address, weight) in weights {
        let node = nodes.iter_mut().find(|n| n.address == *address);
        node.ok_or_else(|| format!("there is no server {address} to have a weight"))?.weight = *weight;
    }
    Ok(())
}

/// So many servers with addresses of 10.0.0.0/8.
///
/// # Errors
/// A line when there are none, or too many.
pub fn made_up(servers: usize) -> Result<Vec<Node>, String> {
    if !(1..=MAX_SERVERS).contains(&servers) {
        return Err(format!("--servers takes 1 to {MAX_SERVERS}"));
    }
    Ok((0..servers).map(|i| Node::new(made_up_address(i), true)).collect())
}

fn made_up_address(i: usize) -> Address {
    let [.., high, low] = (i + 1).to_be_bytes();
    Address::new(([10, 0, high, low], 19800).into())
}

/// How evenly the records lie on servers: 1 is a share of all copies that is equal, or as a server's weight would have it.
#[derive(Clone, PartialEq, Debug)]
pub struct Balance {
    /// Each server's share of copies over its due share, ascending.
    pub shares: Vec<f64>,
    /// The same for keys of which it is the first server, ascending.
    pub first: Vec<f64>,
}

/// What a [`Plan`] comes to.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Number of servers before and after.
    pub servers: (usize, usize),
    /// Share of copies that a server gets which did not hold them.
    pub copies_moved: f64,
    /// The least that any way of sharing could move.
    pub least: f64,
    /// Whether some servers have other weights than the usual.
    pub weighted: bool,
    /// Share of keys whose first server is another.
    pub first_moved: f64,
    /// Share of keys that any server gets anew.
    pub keys_moved: f64,
    /// Before and after.
    pub balance: (Balance, Balance),
}

/// Computes it.
pub fn simulate(plan: &Plan) -> Outcome {
    let (old, new) = (Ring::new(&plan.before), Ring::new(&plan.after));
    let mut ends: Vec<u64> = old.points().iter().chain(new.points()).map(|(point, _)| *point).collect();
    ends.sort_unstable();
    ends.dedup();
    let (mut copies, mut first, mut keys) = (0.0, 0.0, 0.0);
    let mut old_loads = vec![(0.0, 0.0); plan.before.len()];
    let mut new_loads = vec![(0.0, 0.0); plan.after.len()];
    let mut previous = ends.last().copied().unwrap_or_default();
    for end in ends {
        // The first arc begins at the last point and wraps; a ring of one point would be one whole turn.
        let share = end.wrapping_sub(previous) as f64 / 2f64.powi(64);
        previous = end;
        let (old_places, is) = (old.assign(end), new.assign(end));
        let was: Vec<Address> = old_places.as_slice().iter().map(|n| plan.before[usize::from(*n)].address).collect();
        let places = is.as_slice();
        let is: Vec<Address> = places.iter().map(|n| plan.after[usize::from(*n)].address).collect();
        let gained = is.iter().filter(|address| !was.contains(address)).count();
        copies += share * gained as f64 / is.len() as f64;
        keys += if gained > 0 { share } else { 0.0 };
        first += if was.first() == is.first() { 0.0 } else { share };
        add_loads(&mut new_loads, places, share);
        add_loads(&mut old_loads, old_places.as_slice(), share);
    }
    Outcome {
        servers: (plan.before.len(), plan.after.len()),
        copies_moved: copies,
        least: least(plan),
        weighted: plan.before.iter().chain(&plan.after).any(|n| !n.weight.is_usual()),
        first_moved: first,
        keys_moved: keys,
        balance: (balance(&old_loads, &plan.before), balance(&new_loads, &plan.after)),
    }
}

fn add_loads(loads: &mut [(f64, f64)], servers: &[u16], share: f64) {
    for (i, server) in servers.iter().enumerate() {
        let load = &mut loads[usize::from(*server)];
        load.0 += share;
        load.1 += if i == 0 { share } else { 0.0 };
    }
}

fn balance(loads: &[(f64, f64)], nodes: &[Node]) -> Balance {
    let copies = loads.len().min(REPLICAS) as f64;
    let over_due = |of: fn(&(f64, f64)) -> f64, copies: f64| {
        let mut shares: Vec<f64> = loads.iter().zip(due(nodes)).map(|(load, due)| of(load) / copies / due).collect();
        shares.sort_by(f64::total_cmp);
        shares
    };
    Balance { shares: over_due(|(share, _)| *share, copies), first: over_due(|(_, first)| *first, 1.0) }
}

/// What each server would hold if all was shared by weight; 1 is everything.
fn due(nodes: &[Node]) -> Vec<f64> {
    let all: f64 = nodes.iter().map(|n| n.weight.as_f64()).sum();
    nodes.iter().map(|n| n.weight.as_f64() / all).collect()
}

/// With due shares, servers that come must get theirs, and what those that go had must go somewhere.
fn least(plan: &Plan) -> f64 {
    let before: BTreeMap<Address, f64> = plan.before.iter().map(|n| n.address).zip(due(&plan.before)).collect();
    let gains = plan.after.iter().zip(due(&plan.after)).map(|(n, due)| match before.get(&n.address) {
        // Fewer servers than copies hold everything anyway.
        Some(had) if plan.after.len() >= REPLICAS => (due - had).max(0.0),
        Some(_) => 0.0,
        None => due,
    });
    gains.sum()
}

impl Balance {
    fn deviation(&self) -> f64 {
        (self.shares.iter().map(|s| (s - 1.0).powi(2)).sum::<f64>() / self.shares.len() as f64).sqrt()
    }

    fn json(&self) -> Value {
        let (least, most) = (self.shares.first(), self.shares.last());
        json!({"least": least, "most": most, "deviation": self.deviation(), "most_first": self.first.last()})
    }
}

impl Outcome {
    /// As an object.
    pub fn json(&self) -> Value {
        json!({
            "servers_before": self.servers.0,
            "servers_after": self.servers.1,
            "copies_moved": self.copies_moved,
            "copies_moved_least": self.least,
            "keys_touched": self.keys_moved,
            "keys_with_another_first_server": self.first_moved,
            "before": self.balance.0.json(),
            "after": self.balance.1.json(),
        })
    }

    /// As a table and a picture.
    pub fn text(&self) -> String {
        let (before, after) = &self.balance;
        let mut out = format!("servers                {} -> {}\n", self.servers.0, self.servers.1);
        let percent = |out: &mut String, name: &str, share: f64, note: &str| {
            out.push_str(&format!("{name:<20} {:>6.2} %{note}\n", 100.0 * share));
        };
        let shares = if self.weighted { "shares by weight" } else { "equal shares" };
        let note = format!("  ({shares} would need {:.2} %)", 100.0 * self.least);
        percent(&mut out, "copies that move", self.copies_moved, &note);
        percent(&mut out, "keys that move", self.keys_moved, "  (at least one copy)");
        percent(&mut out, "first server changes", self.first_moved, "");
        let unit = if self.weighted { "1 = by its weight" } else { "1 = equal share" };
        out.push_str(&format!("\n{:<35}  before    after\n", format!("load of a server ({unit})")));
        let row = |out: &mut String, name: &str, of: &dyn Fn(&Balance) -> f64| {
            out.push_str(&format!("  {name:<33} {:>7.3}  {:>7.3}\n", of(before), of(after)));
        };
        row(&mut out, "least records", &|b| b.shares.first().copied().unwrap_or_default());
        row(&mut out, "most records", &|b| b.shares.last().copied().unwrap_or_default());
        row(&mut out, "deviation", &Balance::deviation);
        row(&mut out, "most keys as first server", &|b| b.first.last().copied().unwrap_or_default());
        out.push_str("\nservers by load, after\n");
        picture(&after.shares, &mut out);
        out
    }
}

/// How many servers have which load: bars, from the least to the most.
fn picture(shares: &[f64], out: &mut String) {
    let (Some(least), Some(most)) = (shares.first(), shares.last()) else { return };
    let from = (least * 20.0).floor() as i64;
    let to = (most * 20.0).floor() as i64;
    // Steps of 0.05, or as many of them together as keep the picture small.
    let step = ((to - from + 1) as u64).div_ceil(PICTURE_ROWS as u64).max(1) as i64;
    let rows: Vec<(i64, usize)> = (from..=to)
        .step_by(step as usize)
        .map(|low| {
            let inside = |share: &&f64| (low..low + step).contains(&((**share * 20.0).floor() as i64));
            (low, shares.iter().filter(inside).count())
        })
        .collect();
    let longest = rows.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (low, count) in rows {
        let (low, high) = (low as f64 / 20.0, (low + step) as f64 / 20.0);
        let bar = "#".repeat((count * PICTURE_WIDTH).div_ceil(longest));
        out.push_str(&format!("  {low:.2}-{high:.2} {count:>5} {bar}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::ring::hash;

    fn plan(servers: usize, add: usize, remove: usize) -> Plan {
        Plan::new(made_up(servers).unwrap(), add, remove, &[]).unwrap()
    }

    fn weighed(servers: usize, weights: &[(usize, &str)]) -> Plan {
        let weight = |(i, weight): &(usize, &str)| (made_up_address(*i), weight.parse().unwrap());
        let weights: Vec<(Address, Weight)> = weights.iter().map(weight).collect();
        Plan::new(made_up(servers).unwrap(), 0, 0, &weights).unwrap()
    }

    /// The same, by looking at keys.
    fn sampled(plan: &Plan, keys: u32) -> (f64, f64) {
        let (old, new) = (Ring::new(&plan.before), Ring::new(&plan.after));
        let (mut copies, mut first) = (0, 0);
        for key in 0..keys {
            let at = hash(&key.to_be_bytes());
            let was: Vec<_> = old.assign(at).as_slice().iter().map(|n| plan.before[usize::from(*n)].address).collect();
            let is: Vec<_> = new.assign(at).as_slice().iter().map(|n| plan.after[usize::from(*n)].address).collect();
            copies += is.iter().filter(|a| !was.contains(a)).count();
            first += usize::from(was[0] != is[0]);
        }
        (copies as f64 / f64::from(keys) / 3.0, first as f64 / f64::from(keys))
    }

    #[test]
    fn the_shares_are_those_that_keys_show() {
        for plan in [plan(4, 1, 0), plan(10, 2, 0), plan(10, 0, 2), plan(7, 2, 3), weighed(10, &[(3, "2")])] {
            let outcome = simulate(&plan);
            let (copies, first) = sampled(&plan, 20_000);
            assert!((outcome.copies_moved - copies).abs() < 0.02, "{} {copies}", outcome.copies_moved);
            assert!((outcome.first_moved - first).abs() < 0.02, "{} {first}", outcome.first_moved);
            assert!(outcome.keys_moved >= outcome.copies_moved);
            // No server has two copies of a key, so that a heavy one cannot have all that its weight asks for.
            assert!(outcome.weighted || outcome.copies_moved > 0.8 * outcome.least);
        }
    }

    #[test]
    fn nothing_moves_when_nobody_comes_or_goes() {
        let outcome = simulate(&plan(5, 0, 0));
        assert_eq!((outcome.copies_moved, outcome.keys_moved, outcome.first_moved), (0.0, 0.0, 0.0));
        assert_eq!(outcome.balance.0, outcome.balance.1);
        for balance in [outcome.balance.0.shares, outcome.balance.0.first] {
            assert!((balance.iter().sum::<f64>() - 5.0).abs() < 1e-9, "shares sum to one a server");
        }
    }

    #[test]
    fn few_servers_hold_everything() {
        let outcome = simulate(&plan(2, 1, 0));
        assert!((outcome.copies_moved - 1.0 / 3.0).abs() < 1e-9, "the third gets one copy of everything");
        assert!(outcome.balance.0.shares.iter().all(|s| (s - 1.0).abs() < 1e-9));
    }

    #[test]
    fn servers_hold_what_their_weights_say() {
        let outcome = simulate(&weighed(10, &[(2, "0.5"), (3, "2")]));
        // One goes from a tenth to 2 of 10.5; one gives up half of its tenth.
        assert!((outcome.least - (2.0 / 10.5 - 0.1)).abs() < 1e-9, "{}", outcome.least);
        assert!((outcome.least..1.5 * outcome.least).contains(&outcome.copies_moved), "{}", outcome.copies_moved);
        let (least, most) = (outcome.balance.1.shares[0], outcome.balance.1.shares[9]);
        assert!((0.8..1.2).contains(&least) && (0.8..1.2).contains(&most), "{least} {most}");
        assert!(outcome.text().contains("by its weight") && !simulate(&plan(3, 0, 0)).text().contains("weight"));
        let unknown = [(made_up_address(99), Weight::USUAL)];
        assert!(Plan::new(made_up(3).unwrap(), 0, 0, &unknown).is_err_and(|line| line.contains("no server")));
    }

    #[test]
    fn a_thousand_servers_are_planned_for() {
        let outcome = simulate(&plan(990, 10, 0));
        assert!((outcome.copies_moved - 0.01).abs() < 0.002, "{}", outcome.copies_moved);
        let text = outcome.text();
        assert!(
            text.lines().count() < 24 && text.lines().all(|line| line.len() <= 80),
            "fits a small terminal:\n{text}"
        );
    }

    #[test]
    fn the_documents_example_is_what_is_printed() {
        assert!(include_str!("../../doc/tools.md").contains(&simulate(&plan(10, 2, 0)).text()));
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        let before = || made_up(3).unwrap();
        assert!(Plan::new(before(), 0, 3, &[]).is_err());
        assert!(Plan::new(before(), 0, 4, &[]).is_err());
        assert!(Plan::new(before(), 998, 0, &[]).is_err());
        assert!(Plan::new(Vec::new(), 1, 0, &[]).is_err());
        assert!(made_up(0).is_err() && made_up(1001).is_err());
    }
}
