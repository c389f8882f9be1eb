//! kumohash: where keys belong, computed from the servers' addresses, or from what a manager tells with `-m`.
//!
//! Nothing is asked of servers: their addresses give the ring ([`crate::logic::ring`]). What-if questions are answered
//! by [`super::simulate`]. Source: `doc/guide.md`, "kumohash".

use super::ask::{self, MANAGER_PORT, SERVER_PORT};
use super::simulate::{self, Plan};
use super::{Trouble, print};
use crate::logic::address::Address;
use crate::logic::ring::{Node, Ring, hash};
use crate::logic::weight::{NoWeight, Weight};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Computes where keys belong.
#[derive(Parser, Debug)]
#[command(
    name = "kumohash",
    version,
    after_help = "\
Without -m, servers come before `--` and what to do after it:
  kumohash svr1 svr2 svr3 -- assign the-key
With -m, a manager tells the servers:
  kumohash -m svr1 assign the-key
What to do:
  hash KEY...    the place of each key on the ring
  assign KEY...  the same, and the servers of each key, first replica first
  dump           all points of the ring
  simulate       what moves, and how even it is, when servers are added, removed (--add, --remove, --servers) or weighed"
)]
pub struct Options {
    /// A manager, which tells the servers
    #[arg(short, long, value_name = "MANAGER[:19700]")]
    manager: Option<String>,
    /// For simulate: this many made-up servers instead of real ones, up to 1000
    #[arg(long, value_name = "N", conflicts_with = "manager")]
    servers: Option<usize>,
    /// For simulate: so many servers come
    #[arg(long, value_name = "N", default_value_t = 0)]
    add: usize,
    /// For simulate: so many servers go, the last ones of the list
    #[arg(long, value_name = "N", default_value_t = 0)]
    remove: usize,
    /// A server's weight, as kumoctl's weight gives it; for simulate, the one that it gets
    #[arg(long, value_name = "SERVER=WEIGHT", value_parser = weight)]
    weight: Vec<(String, Weight)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Servers (without -m), or what to do (with it)
    #[arg(value_name = "SERVER[:19800]|COMMAND")]
    words: Vec<String>,
    /// What to do
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Command {
    Hash,
    Assign,
    Dump,
    Simulate,
}

/// What is to be done: the command, its keys, and the servers as they were written.
struct Task<'a> {
    command: Command,
    keys: Vec<&'a str>,
    servers: Vec<&'a str>,
}

impl Options {
    fn task(&self) -> Result<Task<'_>, Trouble> {
        let usage = |line: &str| Err(Trouble::Usage(line.to_owned()));
        let listed = self.manager.is_none() && self.servers.is_none();
        let (servers, words): (Vec<&String>, Vec<&String>) = match self.command.as_slice() {
            [] if listed && !self.words.is_empty() => {
                return usage("write `--` between the servers and what to do, or name a manager with -m");
            }
            command if listed => (self.words.iter().collect(), command.iter().collect()),
            command => (Vec::new(), self.words.iter().chain(command).collect()),
        };
        let Some((name, keys)) = words.split_first() else {
            return usage("say what to do: hash, assign, dump or simulate");
        };
        let Ok(command) = Command::from_str(name, false) else {
            return usage(&format!("'{name}' is none of hash, assign, dump and simulate"));
        };
        let keyed = matches!(command, Command::Hash | Command::Assign);
        if keyed == keys.is_empty() {
            return usage(if keyed { "name at least one key" } else { "dump and simulate take no keys" });
        }
        if listed && servers.is_empty() && command != Command::Hash {
            return usage("name the servers, or a manager with -m");
        }
        if command != Command::Simulate && (self.add > 0 || self.remove > 0 || self.servers.is_some()) {
            return usage("--servers, --add and --remove are for simulate");
        }
        let servers = servers.into_iter().map(String::as_str).collect();
        Ok(Task { command, keys: keys.iter().map(|key| key.as_str()).collect(), servers })
    }
}

/// Runs kumohash.
///
/// # Errors
/// Wrong usage; a manager that does not answer.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let task = options.task()?;
    let mut nodes = nodes(options, &task)?;
    let weight = |(server, weight): &(String, Weight)| Ok((ask::address(server, SERVER_PORT)?, *weight));
    let weights: Vec<(Address, Weight)> = options.weight.iter().map(weight).collect::<Result<_, Trouble>>()?;
    if task.command != Command::Simulate {
        simulate::weigh(&mut nodes, &weights).map_err(Trouble::Usage)?;
    }
    let text = match task.command {
        Command::Hash if options.json => as_lines(task.keys.iter().map(|key| hash_json(key))),
        Command::Hash => task.keys.iter().map(|key| format!("{:016x}  {key}\n", hash(key.as_bytes()))).collect(),
        Command::Assign => assign(&nodes, &task.keys, options.json),
        Command::Dump => dump(&nodes, options.json),
        Command::Simulate => {
            let plan = Plan::new(nodes, options.add, options.remove, &weights).map_err(Trouble::Usage)?;
            let outcome = simulate::simulate(&plan);
            if options.json { format!("{}\n", outcome.json()) } else { outcome.text() }
        }
    };
    print(&text);
    Ok(())
}

fn nodes(options: &Options, task: &Task<'_>) -> Result<Vec<Node>, Trouble> {
    if let Some(manager) = &options.manager {
        let manager = ask::address(manager, MANAGER_PORT)?;
        return Ok(ask::block_on(ask::hash_space(manager))??.nodes);
    }
    if let Some(servers) = options.servers {
        return simulate::made_up(servers).map_err(Trouble::Usage);
    }
    let mut nodes: Vec<Node> = Vec::new();
    for text in &task.servers {
        let address = ask::address(text, SERVER_PORT)?;
        if nodes.iter().any(|n| n.address == address) {
            return Err(Trouble::Usage(format!("{address} is named twice")));
        }
        nodes.push(Node::new(address, true));
    }
    Ok(nodes)
}

fn weight(text: &str) -> Result<(String, Weight), String> {
    let (server, weight) = text.rsplit_once('=').ok_or("it is written as SERVER=WEIGHT")?;
    Ok((server.to_owned(), weight.parse().map_err(|e: NoWeight| e.to_string())?))
}

fn as_lines(values: impl Iterator<Item = Value>) -> String {
    values.map(|value| format!("{value}\n")).collect()
}

fn hash_json(key: &str) -> Value {
    json!({"key": key, "hash": format!("{:016x}", hash(key.as_bytes()))})
}

fn assign(nodes: &[Node], keys: &[&str], json: bool) -> String {
    let ring = Ring::new(nodes);
    let of = |key: &str| -> Vec<Node> {
        let replicas = ring.assign(hash(key.as_bytes()));
        replicas.as_slice().iter().map(|n| nodes[usize::from(*n)]).collect()
    };
    if json {
        return as_lines(keys.iter().map(|key| {
            let mut value = hash_json(key);
            let node = |n: &Node| json!({"address": n.address.to_string(), "active": n.active});
            value["servers"] = of(key).iter().map(node).collect();
            value
        }));
    }
    let mut out = String::new();
    for key in keys {
        out.push_str(&format!("{:016x}  {key}\n", hash(key.as_bytes())));
        for (i, node) in of(key).iter().enumerate() {
            out.push_str(&format!("  {i}: {}\n", node.address));
        }
    }
    out
}

fn dump(nodes: &[Node], json: bool) -> String {
    let ring = Ring::new(nodes);
    let points = ring.points().iter().map(|(point, node)| (point, nodes[usize::from(*node)].address));
    if json {
        let point = |(point, at): (&u64, Address)| json!({"point": format!("{point:016x}"), "address": at.to_string()});
        return as_lines(points.map(point));
    }
    points.map(|(point, address)| format!("{point:016x}  {address}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Vec<Node> {
        let address = |last| Address::new(([192, 168, 0, last], 19800).into());
        (101..=104).map(|last| Node::new(address(last), true)).collect()
    }

    fn options(words: &[&str]) -> Options {
        Options::try_parse_from([&["kumohash"], words].concat()).unwrap()
    }

    #[test]
    fn keys_are_assigned_as_kumofs_does_and_printed_so() {
        let expected = "bfc35380c472f6f6  the-key\n  0: 192.168.0.104:19800\n  1: 192.168.0.101:19800\n  \
                        2: 192.168.0.102:19800\n";
        assert_eq!(assign(&golden(), &["the-key"], false), expected);
        let shown: Value = serde_json::from_str(&assign(&golden(), &["the-key"], true)).unwrap();
        assert_eq!(shown["servers"][2], json!({"address": "192.168.0.102:19800", "active": true}));
    }

    #[test]
    fn the_dump_has_all_points_sorted() {
        let text = dump(&golden(), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 512);
        assert_eq!(lines[0], "002f95a6d6e4b972  192.168.0.104:19800");
        assert_eq!(lines[511], "ffe181fedfe8ca4f  192.168.0.101:19800");
        assert!(lines.is_sorted());
    }

    #[test]
    fn servers_stand_before_two_dashes_and_a_manager_needs_none() {
        let listed = options(&["a", "b", "--", "assign", "k", "-x"]);
        let task = listed.task().unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((task.servers, task.keys, task.command), (vec!["a", "b"], vec!["k", "-x"], Command::Assign));
        let asked = options(&["-m", "svr1", "assign", "k"]);
        let task = asked.task().unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((task.servers.len(), task.keys, task.command), (0, vec!["k"], Command::Assign));
        let made_up = options(&["--servers", "10", "--add", "1", "simulate"]);
        assert!(made_up.task().is_ok_and(|task| task.command == Command::Simulate));
    }

    #[test]
    fn wrong_usage_says_what() {
        let said = |words: &[&str]| match options(words).task() {
            Err(Trouble::Usage(line)) => line,
            _ => panic!("{words:?} is accepted"),
        };
        assert!(said(&["a", "assign", "k"]).contains("`--`"));
        assert!(said(&["a", "--", "assign"]).contains("key"));
        assert!(said(&["-m", "a", "dump", "k"]).contains("no keys"));
        assert!(said(&["-m", "a", "dance"]).contains("'dance'"));
        assert!(said(&["-m", "a"]).contains("what to do"));
        assert!(said(&["--", "assign", "k"]).contains("name the servers"));
        assert!(said(&["-m", "a", "--add", "1", "dump"]).contains("--add"));
    }
}
