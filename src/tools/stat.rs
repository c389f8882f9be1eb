//! kumostat: what a server tells of itself; or, with `-m`, what all active servers do.
//!
//! Speaks version 0. All servers are asked at once. The output of one server is its answer; with `-m` each answer comes
//! after `HOST:PORT:  `, in the manager's order. Source: `doc/guide.md`, "kumostat".

use super::ask::{self, AskError, MANAGER_PORT, Node, Role, SERVER_PORT};
use super::{Trouble, print, ruby_time};
use crate::logic::address::Address;
use crate::logic::hottest::Hot;
use crate::logic::ring::HashSpace;
use crate::proto::rpc::msgpack::{Reader, write_array, write_bool, write_uint};
use crate::proto::rpc::v0::{self, status};
use crate::proto::rpc::v1::{self, Statistics};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

/// Shows what kumofs servers tell of themselves.
#[derive(Parser, Debug)]
#[command(name = "kumostat", version, allow_missing_positional = true)]
pub struct Options {
    /// Ask all active servers that this manager knows
    #[arg(short, long, value_name = "MANAGER[:19700]")]
    manager: Option<String>,
    /// The server to ask
    #[arg(value_name = "SERVER[:19800]", conflicts_with = "manager", required_unless_present = "manager")]
    server: Option<String>,
    /// What to ask
    #[arg(value_enum)]
    what: What,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a server can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum What {
    /// Process id
    Pid,
    /// Seconds since its start
    Uptime,
    /// UNIX time of its host
    Time,
    /// Its version
    Version,
    /// How many gets it has executed
    CmdGet,
    /// How many sets it has executed
    CmdSet,
    /// How many deletes it has executed
    CmdDelete,
    /// How many records it holds
    Items,
    /// All these numbers, as memcached prints them
    Stats,
    /// All that it tells: latencies, disk, memory, lag, connections, hottest keys (not kumofs 0.4)
    Details,
    /// The table for reading
    Rhs,
    /// The table for writing
    Whs,
    /// Whether both tables are the same
    Hscheck,
    /// inactive, Deleting, Copying, WAIT or ready
    Replstat,
    /// Gain throughput at the expense of latency
    SetDelay,
    /// Gain latency at the expense of throughput
    UnsetDelay,
}

/// The lines of `stats`.
const STATS: [(&str, u32); 7] = [
    ("pid", status::PID),
    ("uptime", status::UPTIME),
    ("time", status::TIME),
    ("cmd_get", status::CMD_GET),
    ("cmd_set", status::CMD_SET),
    ("cmd_delete", status::CMD_DELETE),
    ("curr_items", status::ITEMS),
];

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Number(u64),
    Text(String),
    Stats(Vec<(&'static str, u64)>),
    Details(Box<Statistics>),
    Space(HashSpace),
    Same(bool),
}

/// The flag of GetStatus that says that the hash spaces differ.
const SPACES_DIFFER: u64 = 2;

/// The state of a replace, by GetStatus's flags.
pub fn replace_state(flags: u64) -> &'static str {
    match flags {
        _ if flags & 1 != 0 => "inactive",
        _ if flags & 8 != 0 => "Deleting",
        _ if flags & 4 != 0 => "Copying",
        _ if flags & SPACES_DIFFER != 0 => "WAIT",
        _ => "ready",
    }
}

/// Runs kumostat.
///
/// # Errors
/// One line; also when one of several servers does not answer, after the others' answers are printed.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let what = options.what;
    let (servers, answers) = ask::block_on(async {
        let servers = match (&options.manager, &options.server) {
            (Some(manager), _) => ask::active_servers(ask::address(manager, MANAGER_PORT)?).await?,
            (None, Some(server)) => vec![ask::address(server, SERVER_PORT)?],
            (None, None) => return Err(Trouble::Usage("name a server, or a manager with -m".to_owned())),
        };
        let answers = ask::each(&servers, |server| ask_one(server, what)).await;
        Ok((servers, answers))
    })??;
    let named = options.manager.is_some();
    let all: Vec<_> = servers.into_iter().zip(answers).collect();
    let text = if options.json { as_json(what, named, &all) } else { as_text(named, &all, ruby_time::local_offset) };
    print(&text);
    let differ = all.iter().any(|(_, answer)| matches!(answer, Ok(Answer::Same(false))));
    Trouble::of_all(all.into_iter().filter_map(|(_, answer)| answer.err().map(|e| e.to_string())))?;
    if differ { Err(Trouble::Told) } else { Ok(()) }
}

async fn ask_one(server: Address, what: What) -> Result<Answer, AskError> {
    let node = Node::connect(server, Role::Server).await?;
    let number = async |which| node.status(which, |r| r.u64()).await.map(Answer::Number);
    match what {
        What::Pid => number(status::PID).await,
        What::Uptime => number(status::UPTIME).await,
        What::Time => number(status::TIME).await,
        What::CmdGet => number(status::CMD_GET).await,
        What::CmdSet => number(status::CMD_SET).await,
        What::CmdDelete => number(status::CMD_DELETE).await,
        What::Items => number(status::ITEMS).await,
        What::Version => {
            let text = |r: &mut Reader<'_>| r.raw().map(|raw| String::from_utf8_lossy(raw).into_owned());
            node.status(status::VERSION, text).await.map(Answer::Text)
        }
        What::Stats => {
            let mut stats = Vec::new();
            for (name, which) in STATS {
                stats.push((name, node.status(which, |r| r.u64()).await?));
            }
            Ok(Answer::Stats(stats))
        }
        What::Details => ask::statistics(&node).await.map(|told| Answer::Details(Box::new(told))),
        What::Rhs => node.status(status::RHS, v0::read_seed).await.map(Answer::Space),
        What::Whs => node.status(status::WHS, v0::read_seed).await.map(Answer::Space),
        What::Hscheck => {
            let rhs = node.status(status::RHS, v0::read_seed).await?;
            let whs = node.status(status::WHS, v0::read_seed).await?;
            // Hash spaces do not tell weights, which the flag knows of.
            let flags = node.status(status::REPLACE, |r| r.u64()).await?;
            Ok(Answer::Same(rhs.same_nodes(&whs) && flags & SPACES_DIFFER == 0))
        }
        What::Replstat => {
            let flags = node.status(status::REPLACE, |r| r.u64()).await?;
            Ok(Answer::Text(replace_state(flags).to_owned()))
        }
        What::SetDelay => set_nodelay(&node, false).await,
        What::UnsetDelay => set_nodelay(&node, true).await,
    }
}

/// SetConfig 0: TCP_NODELAY of all connections; the answer is how many were changed.
async fn set_nodelay(node: &Node, on: bool) -> Result<Answer, AskError> {
    let mut params = Vec::new();
    write_array(&mut params, 2);
    write_uint(&mut params, 0);
    write_bool(&mut params, on);
    node.ask(v0::method::SET_CONFIG, &params, |r| r.u64()).await.map(Answer::Number)
}

/// Answers as people and scripts read them. `offset_at` is how far local time is ahead of UTC.
fn as_text(named: bool, all: &[(Address, Result<Answer, AskError>)], offset_at: impl Fn(i64) -> i64 + Copy) -> String {
    let mut out = String::new();
    for (server, answer) in all {
        let Ok(answer) = answer else { continue };
        if named {
            out.push_str(&format!("{server}:  "));
        }
        match answer {
            Answer::Number(n) => out.push_str(&format!("{n}\n")),
            Answer::Text(text) => out.push_str(&format!("{text}\n")),
            Answer::Same(same) => out.push_str(if *same { "ok\n" } else { "rhs and whs differ\n" }),
            Answer::Stats(stats) => {
                stats.iter().for_each(|(name, n)| out.push_str(&format!("STAT {name} {n}\n")));
                out.push_str("END\n");
            }
            Answer::Details(told) => out.push_str(&details(told)),
            Answer::Space(space) => {
                let date = ruby_time::timestamp_line(space.timestamp, offset_at);
                out.push_str(&format!("hash space timestamp:\n  {date}\nnode:\n"));
                for node in &space.nodes {
                    let state = if node.active { "active" } else { "fault" };
                    out.push_str(&format!("  {}  ({state})\n", node.address));
                }
            }
        }
    }
    out
}

/// One object, or with `-m` an array of them.
fn as_json(what: What, named: bool, all: &[(Address, Result<Answer, AskError>)]) -> String {
    let name = what.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    let one = |(server, answer): &(Address, Result<Answer, AskError>)| {
        let (key, value) = match answer {
            Ok(answer) => (name.as_str(), value_of(answer)),
            Err(e) => ("error", json!(e.to_string())),
        };
        Value::Object(Map::from_iter([("server".to_owned(), json!(server.to_string())), (key.to_owned(), value)]))
    };
    let objects: Vec<Value> = all.iter().map(one).collect();
    match objects.as_slice() {
        [object] if !named => format!("{object}\n"),
        _ => format!("{}\n", Value::Array(objects)),
    }
}

fn value_of(answer: &Answer) -> Value {
    match answer {
        Answer::Number(n) => json!(n),
        Answer::Text(text) => json!(text),
        Answer::Same(same) => json!(same),
        Answer::Stats(stats) => Value::Object(stats.iter().map(|(name, n)| ((*name).to_owned(), json!(n))).collect()),
        Answer::Details(told) => details_json(told),
        Answer::Space(space) => {
            let node = |n: &crate::logic::ring::Node| json!({"address": n.address.to_string(), "state": if n.active { "active" } else { "fault" }});
            json!({
                "time": space.timestamp.unix_secs(),
                "clock": space.timestamp.counter(),
                "nodes": space.nodes.iter().map(node).collect::<Vec<_>>(),
            })
        }
    }
}

/// All statistics, a line each. Keys are escaped: anybody may have chosen them.
fn details(told: &Statistics) -> String {
    let mut out: String = told.numbers.each().map(|(name, n)| format!("STAT {name} {n}\n")).collect();
    for (address, lag) in &told.lags {
        let up = if lag.up { "connected" } else { "not connected" };
        let (entries, bytes, age) = (lag.entries, lag.bytes, lag.age_micros);
        out.push_str(&format!("LAG {address} entries {entries} bytes {bytes} age_micros {age} {up}\n"));
    }
    for (caller, from, count) in &told.callers {
        out.push_str(&format!("CALLERS {} {} {count}\n", caller.name(), from.socket_addr().ip()));
    }
    for hot in &told.hottest {
        out.push_str(&format!("HOTTEST {:.1}% {}\n", hot.ppm as f64 / 1e4, hot.key.escape_ascii()));
    }
    out.push_str("END\n");
    out
}

/// The same as an object; what is not told is left out.
pub fn details_json(told: &Statistics) -> Value {
    let numbers = told.numbers.each().map(|(name, n)| (name.to_owned(), json!(n)));
    let mut object = Map::from_iter(numbers);
    let lag = |(address, lag): &(Address, v1::Lag)| {
        json!({
            "server": address.to_string(), "entries": lag.entries, "bytes": lag.bytes,
            "age_micros": lag.age_micros, "connected": lag.up,
        })
    };
    let caller = |(caller, from, count): &(v1::Caller, Address, u64)| json!({"who": caller.name(), "from": from.socket_addr().ip().to_string(), "connections": count});
    let hot = |hot: &Hot| json!({"key": hot.key.escape_ascii().to_string(), "ppm": hot.ppm});
    object.insert("lag".to_owned(), told.lags.iter().map(lag).collect());
    object.insert("callers".to_owned(), told.callers.iter().map(caller).collect());
    object.insert("hottest".to_owned(), told.hottest.iter().map(hot).collect());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::logic::ring;

    fn address(last: u8) -> Address {
        Address::new(([192, 168, 0, last], 19800).into())
    }

    #[test]
    fn answers_are_printed_as_scripts_expect_them() {
        let nodes = vec![ring::Node::new(address(101), true), ring::Node::new(address(104), false)];
        let space = HashSpace { nodes, timestamp: ClockTime(1_228_310_160 << 32 | 72) };
        let shown = |answer| as_text(false, &[(address(101), Ok(answer))], |_| 9 * 3600);
        let table = "hash space timestamp:\n  Wed Dec 03 22:16:00 +0900 2008 clock 72\nnode:\n  \
                     192.168.0.101:19800  (active)\n  192.168.0.104:19800  (fault)\n";
        assert_eq!(shown(Answer::Space(space)), table);
        assert_eq!(shown(Answer::Number(7)), "7\n");
        let stats = Answer::Stats(vec![("pid", 1), ("curr_items", 2)]);
        assert_eq!(shown(stats), "STAT pid 1\nSTAT curr_items 2\nEND\n");
        assert_eq!(shown(Answer::Same(true)), "ok\n");
    }

    #[test]
    fn details_are_a_line_each_and_keys_are_escaped() {
        let told = Statistics {
            numbers: v1::Numbers { epoch: Some(3), gets: Some(10), ..v1::Numbers::default() },
            lags: vec![(address(2), v1::Lag { entries: 5, bytes: 400, age_micros: 900, up: false })],
            callers: vec![(v1::Caller::Gateway, Address::new("10.0.0.9:0".parse().unwrap()), 4)],
            hottest: vec![Hot { key: b"a\x1b[31m\nb\xff".to_vec(), ppm: 254_321 }],
        };
        let text = details(&told);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["STAT epoch 3", "STAT gets 10"]);
        assert_eq!(lines[2], "LAG 192.168.0.2:19800 entries 5 bytes 400 age_micros 900 not connected");
        assert_eq!(lines[3..], ["CALLERS gateway 10.0.0.9 4", "HOTTEST 25.4% a\\x1b[31m\\nb\\xff", "END"]);
        let value = details_json(&told);
        assert_eq!(value["hottest"][0], json!({"key": "a\\x1b[31m\\nb\\xff", "ppm": 254_321}));
        assert_eq!((&value["epoch"], &value["lag"][0]["connected"]), (&json!(3), &json!(false)));
        assert_eq!(value.get("index_bytes"), None);
    }

    #[test]
    fn with_a_manager_each_answer_comes_after_its_server_and_silent_ones_are_left_out() {
        let all = [
            (address(1), Ok(Answer::Number(5))),
            (address(2), Err(AskError::Silent(address(2)))),
            (address(3), Ok(Answer::Number(6))),
        ];
        assert_eq!(as_text(true, &all, |_| 0), "192.168.0.1:19800:  5\n192.168.0.3:19800:  6\n");
        let shown: Value = serde_json::from_str(&as_json(What::CmdGet, true, &all)).unwrap();
        assert_eq!(shown[0], json!({"server": "192.168.0.1:19800", "cmd_get": 5}));
        assert_eq!(shown[1]["error"], "192.168.0.2:19800 does not answer within 5 seconds");
    }

    #[test]
    fn flags_are_named_by_the_most_telling_of_them() {
        let named = [0, 2, 6, 4, 8, 10, 1, 15].map(replace_state);
        assert_eq!(named, ["ready", "WAIT", "Copying", "Copying", "Deleting", "Deleting", "inactive", "inactive"]);
    }

    #[test]
    fn the_command_line_is_that_of_kumofs() {
        let parsed = |words: &[&str]| Options::try_parse_from(words).map(|o| (o.manager, o.server, o.what));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed(&["kumostat", "svr3", "items"]).unwrap(), (None, some("svr3"), What::Items));
        assert_eq!(parsed(&["kumostat", "-m", "svr1", "cmd_get"]).unwrap(), (some("svr1"), None, What::CmdGet));
        assert_eq!(parsed(&["kumostat", "svr3", "set_delay"]).unwrap().2, What::SetDelay);
        for wrong in [&["kumostat"][..], &["kumostat", "items"], &["kumostat", "a", "b"], &["kumostat", "-m", "a"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        assert!(parsed(&["kumostat", "-m", "a", "b", "items"]).is_err());
    }
}
