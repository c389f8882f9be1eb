//! The tools as operators and scripts use them: on a whole cluster, one with a server that hangs, a dead one, and one of
//! kumofs 0.4.

use crate::common::cluster::{Cluster, MANAGER_PORT, show};
use crate::common::net::{Hosts, free_address};
use crate::common::process::{Process, run};
use crate::common::{Turn, eventually, program, temp_dir};
use crate::version0::serve;
use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::ring::{HashSpace, Node};
use kumofs::proto::rpc::error;
use kumofs::proto::rpc::frame::{self, Frame};
use kumofs::proto::rpc::msgpack::{Reader, write_array, write_raw, write_uint};
use kumofs::proto::rpc::v0::{self, method};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

fn manager_of(cluster: &Cluster) -> String {
    show(cluster.manager_address(0), MANAGER_PORT)
}

/// What a tool prints when all goes well.
#[track_caller]
fn printed(tool: &str, args: &[&str], dir: &Path) -> String {
    let said = run(tool, args, dir);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{tool} {args:?}: {said:?}");
    said.stdout
}

#[test]
fn kumostat_tells_what_servers_tell() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..30).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    let (manager, server) = (manager_of(&cluster), cluster.server_address(0).to_string());
    let stat = |args: &[&str]| printed("kumostat", args, cluster.dir());
    assert_eq!(stat(&[&server, "items"]), "30\n");
    assert_eq!(stat(&[&server, "pid"]), format!("{}\n", cluster.servers[0].pid()));
    assert_eq!(stat(&[&server, "replstat"]), "ready\n");
    assert_eq!(stat(&[&server, "hscheck"]), "ok\n");
    assert_eq!(stat(&[&server, "version"]), format!("{}\n", env!("CARGO_PKG_VERSION")));
    let sockets: u64 = stat(&[&server, "set_delay"]).trim().parse().expect("a number of sockets");
    assert!(sockets > 0 && stat(&[&server, "unset_delay"]).trim().parse::<u64>().is_ok());

    let addresses: Vec<String> = cluster.status().attached.iter().map(|(a, _)| a.to_string()).collect();
    let expected: String = addresses.iter().map(|a| format!("{a}:  30\n")).collect();
    assert_eq!(stat(&["-m", &manager, "items"]), expected);
    let table = stat(&[&server, "whs"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines[0], lines[2]), ("hash space timestamp:", "node:"));
    assert_eq!(lines[3], format!("  {}  (active)", addresses[0]));
    let stats = stat(&[&server, "stats"]);
    let names: Vec<&str> = stats.lines().filter_map(|l| l.strip_prefix("STAT ")?.split(' ').next()).collect();
    assert_eq!(names, ["pid", "uptime", "time", "cmd_get", "cmd_set", "cmd_delete", "curr_items"]);
    assert!(stats.ends_with("STAT curr_items 30\nEND\n"), "{stats}");
    let json: serde_json::Value = serde_json::from_str(&stat(&["-m", &manager, "items", "--json"])).expect("JSON");
    assert_eq!((json.as_array().map(Vec::len), &json[0]["items"]), (Some(3), &serde_json::json!(30)));
    cluster.assert_sound();
}

#[test]
fn kumostat_details_tell_latencies_lag_connections_and_the_hottest_key() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..10).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    client.set("hot\u{e9}key", b"v").expect("it is stored");
    (0..2000).for_each(|_| assert!(client.get("hot\u{e9}key").expect("an answer").is_some()));
    (0..7).for_each(|i| assert!(client.get(&format!("no{i}")).expect("an answer").is_none()));
    let manager = manager_of(&cluster);
    let text = printed("kumostat", &["-m", &manager, "details"], cluster.dir());
    let sum = |name: &str| -> u64 {
        let mark = format!("STAT {name} ");
        text.lines().filter_map(|l| l.split_once(&mark)?.1.parse::<u64>().ok()).sum()
    };
    assert_eq!((sum("gets"), sum("misses"), sum("sets"), sum("items")), (2007, 7, 11, 33), "{text}");
    assert!((999_990..=1_000_000).contains(&sum("coordinates_ppm")) && sum("holds_ppm") >= 2_999_990, "{text}");
    for name in
        ["get_p99_micros", "set_p50_micros", "disk_used_bytes", "disk_free_bytes", "memory_bytes", "index_bytes"]
    {
        assert!(sum(name) > 0, "{name}: {text}");
    }
    assert!(text.contains("HOTTEST ") && text.contains("% hot\\xc3\\xa9key\n"), "{text}");
    assert_eq!(text.matches("LAG 127.").count(), 6, "{text}");
    assert!(text.contains(" entries 0 bytes 0 age_micros 0 connected\n"), "{text}");
    assert!(text.contains("CALLERS gateway 127.") && text.contains("CALLERS server 127."), "{text}");

    // While a member hangs, what waits for it is told, and for how long it has.
    cluster.servers[1].freeze();
    let hung = cluster.server_address(1);
    // Of many keys some are coordinated by the others, where they wait for it.
    let writers: Vec<_> = (0..12)
        .map(|i| {
            let mut writer = cluster.client();
            std::thread::spawn(move || drop(writer.set(&format!("w{i}"), b"v")))
        })
        .collect();
    let behind = format!("LAG {hung} entries ");
    let servers = [cluster.server_address(0).to_string(), cluster.server_address(2).to_string()];
    eventually("the lag shows", || {
        let asked = servers.iter().map(|server| run("kumostat", &[server, "details"], cluster.dir()).stdout);
        let texts: String = asked.collect();
        let lag = texts.lines().find(|l| l.starts_with(&behind) && !l.starts_with(&format!("{behind}0 ")))?;
        (!lag.contains("age_micros 0 ")).then_some(())
    });
    cluster.servers[1].thaw();
    writers.into_iter().for_each(|writer| writer.join().expect("the writer ends"));
    cluster.assert_sound();
}

#[test]
fn a_server_that_hangs_delays_no_other_answer() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(1, 3);
    let manager = manager_of(&cluster);
    let sum = Process::start(
        "kumosum",
        &program("kumosum"),
        &[manager.clone(), "-n".to_owned(), "1000".to_owned()],
        &cluster.dir().join("kumosum"),
    );
    eventually("it sums", || sum.logged(" requests/sec (total ", 0));
    cluster.servers[1].freeze();
    let begun = Instant::now();
    let said = run("kumostat", &["-m", &manager, "items"], cluster.dir());
    let lines = said.stdout.lines().count();
    // The managers may have noticed already, and name two servers only.
    assert!(lines == 2 && begun.elapsed() < Duration::from_secs(30), "{said:?}");
    let (hung, mark) = (cluster.server_address(1), sum.mark());
    assert!(said.code == Some(0) || said.stderr.contains(&hung.to_string()), "{said:?}");
    eventually("it goes on", || (sum.log_since(mark).lines().count() > 4).then_some(()));
    cluster.servers[1].thaw();
    let said = run("kumosum", &[&manager, "-n", "2", "-i", "0.1", "--json"], cluster.dir());
    let last: serde_json::Value = serde_json::from_str(said.stdout.lines().last().expect("a line")).expect("JSON");
    assert!(last["total"].is_u64() && last["requests_per_sec"].is_u64(), "{said:?}");
}

#[test]
fn kumosum_counts_what_clients_do() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..20).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    (0..40).for_each(|i| assert_eq!(client.get(&format!("k{i}")).expect("an answer").is_some(), i < 20));
    (0..5).for_each(|i| assert!(client.delete(&format!("k{i}")).expect("an answer")));
    let lines = printed("kumosum", &[&manager_of(&cluster), "-n", "3", "-i", "0.2"], cluster.dir());
    assert_eq!(lines.lines().last(), Some("0 requests/sec (total 65)"), "{lines}");
    assert_eq!(lines.lines().count(), 3);
    cluster.assert_sound();
}

#[test]
fn kumotop_prints_a_table_for_scripts_and_wants_a_terminal_for_its_screen() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..20).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    let manager = manager_of(&cluster);
    let table = printed("kumotop", &["-m", &manager, "--once", "-i", "0.1"], cluster.dir());
    let last: Vec<&str> = table.lines().last().expect("a sum").split_whitespace().collect();
    assert_eq!((last[0], last[3], last[9]), ("3", "20", "60"), "{table}");
    assert_eq!(table.lines().filter(|line| line.ends_with("ready")).count(), 3, "{table}");
    let one = cluster.server_address(1).to_string();
    let rows = printed("kumotop", &[&one, "--json", "-i", "0.1"], cluster.dir());
    let row: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    assert_eq!((&row[0]["server"], &row[0]["details"]["items"]), (&one.as_str().into(), &20.into()), "{rows}");
    let said = run("kumotop", &["-m", &manager], cluster.dir());
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("--once"), "{}", said.stderr);
    cluster.kill_server(2);
    cluster.until("two are left", |s| s.active() == 2);
    let table = printed("kumotop", &["-m", &manager, "--once", "-i", "0.1"], cluster.dir());
    assert!(table.lines().any(|line| line.ends_with("fault")), "{table}");
    cluster.assert_sound();
}

#[test]
fn kumohash_says_where_keys_are() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    let hash = |args: &[&str]| printed("kumohash", args, cluster.dir());
    let manager = manager_of(&cluster);
    let listed: Vec<String> = (0..4).map(|i| cluster.server_address(i).to_string()).collect();
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let told = hash(&["-m", &manager, "assign", "the-key", "user:1"]);
    assert_eq!(told, hash(&[&listed[..], &["--", "assign", "the-key", "user:1"]].concat()));
    assert!(told.starts_with("bfc35380c472f6f6  the-key\n  0: 127."), "{told}");
    assert_eq!(hash(&["-m", &manager, "dump"]).lines().count(), 512);
    assert_eq!(hash(&["--", "hash", "a"]), "fca7a5fa37e4f786  a\n");

    // Each server that is named for the key has it, and no other.
    let mut client = cluster.client();
    client.set("the-key", b"v").expect("it is stored");
    let items = printed("kumostat", &["-m", &manager, "items"], cluster.dir());
    let holders: Vec<&str> = items.lines().filter_map(|l| l.strip_suffix(":  1")).collect();
    let first = told.split("\n").skip(1).take(3).map(|l| l.split(": ").nth(1).expect("an address"));
    let mut first: Vec<&str> = first.collect();
    let mut holders = holders;
    first.sort_unstable();
    holders.sort_unstable();
    assert_eq!(first, holders);
    let plan = hash(&["-m", &manager, "--add", "1", "simulate"]);
    assert!(plan.starts_with("servers                4 -> 5\n"), "{plan}");
    cluster.assert_sound();
}

#[test]
fn kumolog_shows_what_daemons_write_and_goes_on() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    let log = cluster.dir().join("manager.mpac");
    let path = log.display().to_string();
    cluster.manager_options = vec!["-g".to_owned(), path.clone()];
    cluster.start_managers(1);
    let follow = Process::start(
        "kumolog",
        &program("kumolog"),
        &["-f".to_owned(), path.clone()],
        &cluster.dir().join("kumolog"),
    );
    eventually("the start is shown", || follow.logged("SM.2  start manager  time=[", 0));
    cluster.add_servers(1);
    let server = cluster.server_address(0);
    eventually("what comes later, too", || follow.logged(&format!("addr=[{server}]"), 0));
    // As logrotate does.
    std::fs::rename(&log, cluster.dir().join("old.mpac")).expect("it can be renamed");
    cluster.managers[0].signal(libc::SIGHUP);
    eventually("the new file", || log.exists().then_some(()));
    cluster.add_servers(1);
    let server = cluster.server_address(1);
    eventually("and what is in it", || follow.logged(&format!("addr=[{server}]"), 0));

    let old = cluster.dir().join("old.mpac").display().to_string();
    let shown = printed("kumolog", &["-h", "-n", "1", &old], cluster.dir());
    assert!(shown.starts_with("SM.2  start manager  time=["), "{shown}");
    let mut bytes = std::fs::read(&old).expect("it is there");
    bytes.extend_from_slice(b"rubbish");
    std::fs::write(&old, bytes).expect("it can be written");
    let said = run("kumolog", &[&old], cluster.dir());
    said.complains(0, &["7 bytes at"]);
    assert!(said.stdout.contains("nS.3  new server"), "{said:?}");
    cluster.assert_sound();
}

#[test]
fn troubles_are_one_line_and_a_status() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::unattached(1, 1);
    let (manager, dir) = (manager_of(&cluster), cluster.dir().to_owned());
    let gone = free_address(cluster.manager_address(0).ip()).to_string();
    for (tool, args) in [
        ("kumostat", vec![gone.as_str(), "items"]),
        ("kumostat", vec!["-m", &gone, "items"]),
        ("kumosum", vec![&gone]),
        ("kumohash", vec!["-m", &gone, "dump"]),
    ] {
        run(tool, &args, &dir).complains(1, &[&gone]);
    }
    for (tool, args, text) in [
        ("kumostat", vec!["items"], "SERVER"),
        ("kumostat", vec![manager.as_str(), "dance"], "dance"),
        ("kumostat", vec!["a:b", "items"], "a:b"),
        ("kumosum", vec![], "MANAGER"),
        ("kumosum", vec![manager.as_str(), "-i", "0"], "0.05"),
        ("kumohash", vec!["-m", manager.as_str(), "assign"], "key"),
        ("kumohash", vec!["svr1"], "`--`"),
        ("kumolog", vec!["--dance", "x"], "--dance"),
    ] {
        run(tool, &args, &dir).complains(2, &[text]);
    }
    run("kumolog", &["not-there"], &dir).complains(1, &["not-there"]);
    // A server is no manager, and the other way round.
    let server = cluster.server_address(0).to_string();
    run("kumostat", &["-m", &server, "items"], &dir).complains(1, &[&server]);
    run("kumostat", &[&cluster.manager_address(0).to_string(), "items"], &dir).complains(1, &[&manager]);
    assert_eq!(printed("kumostat", &[&server, "replstat"], &dir), "inactive\n");
    cluster.servers[0].freeze();
    run("kumostat", &[&server, "items"], &dir).complains(1, &["does not answer within 5 seconds"]);
    cluster.servers[0].thaw();
    cluster.assert_sound();
}

/// A node of kumofs 0.4, made up: as a manager it knows `space`, as a server it has executed some commands.
fn old_node(address: SocketAddr, space: HashSpace) {
    let listener = TcpListener::bind(address).expect("the address is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let space = space.clone();
            std::thread::spawn(move || serve(stream, |message, out| answer_old(message, &space, out)));
        }
    });
}

/// False: it hangs up, as kumofs 0.4 does after an unknown method.
fn answer_old(message: &[u8], space: &HashSpace, out: &mut Vec<u8>) -> bool {
    let Ok(Frame::Request { msgid, method, params }) = frame::parse(message) else { return false };
    let mut r = Reader::new(params);
    let what = r.array().ok().filter(|len| *len > 0).and_then(|_| r.u32().ok());
    match (method, what) {
        (method::GET_NODES_INFO, None) => {
            frame::write_success(out, msgid);
            write_array(out, 2);
            v0::write_seed(out, space);
            write_array(out, 0);
        }
        (method::GET_STATUS, Some(v0::status::RHS | v0::status::WHS)) => {
            frame::write_success(out, msgid);
            v0::write_seed(out, space);
        }
        (method::GET_STATUS, Some(v0::status::VERSION)) => {
            frame::write_success(out, msgid);
            write_raw(out, b"0.4.13");
        }
        (method::GET_STATUS, Some(what)) if what <= v0::status::REPLACE => {
            frame::write_success(out, msgid);
            write_uint(out, if what == v0::status::REPLACE { 0 } else { 100 + u64::from(what) });
        }
        _ => {
            frame::write_error(out, msgid, error::PROTOCOL);
            return false;
        }
    }
    true
}

/// A manager and two servers of kumofs 0.4: where the manager is, and the servers.
pub fn old_cluster(hosts: &Hosts) -> (String, Vec<SocketAddr>) {
    let servers: Vec<SocketAddr> = (2..4).map(|n| SocketAddr::from((hosts.host(n), 19800))).collect();
    let nodes = servers.iter().map(|s| Node::new(Address::new(*s), true)).collect();
    let space = HashSpace { nodes, timestamp: ClockTime(1_228_310_160 << 32 | 72) };
    old_node(SocketAddr::from((hosts.host(1), MANAGER_PORT)), space.clone());
    servers.iter().for_each(|server| old_node(*server, space.clone()));
    (hosts.host(1).to_string(), servers)
}

#[test]
fn the_tools_on_a_cluster_of_kumofs_0_4() {
    let _turn = Turn::shared();
    let (hosts, dir) = (Hosts::claim(), temp_dir());
    let (manager, servers) = old_cluster(&hosts);
    let say = |tool: &str, args: &[&str]| printed(tool, args, dir.path());
    let both = |text: &str| servers.iter().map(|s| format!("{s}:  {text}\n")).collect::<String>();
    assert_eq!(say("kumostat", &["-m", &manager, "cmd_get"]), both("104"));
    assert_eq!(say("kumostat", &["-m", &manager, "version"]), both("0.4.13"));
    assert_eq!(say("kumostat", &["-m", &manager, "replstat"]), both("ready"));
    assert_eq!(say("kumosum", &[&manager, "-n", "1"]), "0 requests/sec (total 630)\n");
    assert!(say("kumohash", &["-m", &manager, "assign", "a"]).starts_with("fca7a5fa37e4f786  a\n  0: 127."));
    assert!(say("kumoctl", &[&manager, "status"]).contains(" clock 72\nattached node:\n  127."));
}
