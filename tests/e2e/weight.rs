//! `kumoctl weight`: records follow the weights of servers, and nobody notices but those that know no weights.

use crate::common::Turn;
use crate::common::cluster::{Cluster, show};
use crate::common::load::Load;
use crate::common::process::run;
use crate::common::rpc::{Link, Value};
use kumofs::logic::address::Address;
use kumofs::logic::ring::{Node, Ring, hash};

const RECORDS: usize = 3_000;

/// Of the records that were stored, how many each server is to hold.
fn due(cluster: &Cluster, weights: &[&str]) -> Vec<usize> {
    let mut nodes: Vec<Node> =
        cluster.status().attached.iter().map(|(at, _)| Node::new(Address::new(*at), true)).collect();
    nodes.iter_mut().zip(weights).for_each(|(node, weight)| node.weight = weight.parse().expect("it is one"));
    let ring = Ring::new(&nodes);
    let mut due = vec![0; nodes.len()];
    for i in 0..RECORDS {
        ring.assign(hash(format!("k{i}").as_bytes())).as_slice().iter().for_each(|n| due[usize::from(*n)] += 1);
    }
    due
}

/// How many each server holds, in the order of the ring.
fn held(cluster: &Cluster) -> Vec<usize> {
    let manager = show(cluster.manager_address(0), 19700);
    let said = run("kumostat", &["-m", &manager, "items"], cluster.dir());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout.lines().map(|l| l.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

#[test]
fn records_follow_weights_under_load_and_over_restarts() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 5);
    let mut client = cluster.client();
    (0..RECORDS).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    assert_eq!(held(&cluster), due(&cluster, &["1"; 5]));
    let addresses: Vec<String> = cluster.status().attached.iter().map(|(at, _)| at.to_string()).collect();

    let load = Load::start(cluster.gateway_addresses(), 100, 4);
    load.progress(200);
    for (server, weight) in [(1, "0.25"), (3, "4")] {
        let marks = cluster.manager_marks();
        cluster.order(&["weight", &addresses[server], weight]);
        cluster.until_replaced(&marks);
        load.progress(200);
    }
    let report = load.finish("weight");
    assert_eq!((report.refused, report.unanswered), (0, 0), "{report:?}");
    let said = cluster.ctl(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");

    let weights = ["1", "0.25", "1", "4", "1"];
    let lines: String = addresses.iter().zip(weights).map(|(at, weight)| format!("{at}  {weight}\n")).collect();
    assert_eq!(cluster.ctl(&["weight"]).stdout, lines);
    assert_eq!(cluster.ctl(&["weight", &addresses[1]]).stdout, "0.25\n");
    assert!(cluster.ctl(&["status", "-v"]).stdout.contains("  weight 4\n"));
    let json: serde_json::Value = serde_json::from_str(&cluster.ctl(&["status", "--json"]).stdout).expect("it is JSON");
    assert_eq!(json["attached"][3]["weight"], 4.0, "{json}");

    // Its keys apart, the load has left what was there as it was.
    let mut client = cluster.client();
    let due = due(&cluster, &weights);
    assert!(2 * due[1] < due[0] && due[3] > due[0], "{due:?}");
    let off = |held: &[usize]| held.iter().zip(&due).map(|(held, due)| held.abs_diff(*due)).max().unwrap_or(0);
    let is = held(&cluster);
    assert!(off(&is) <= 100, "the load's 100 keys may be there: {is:?} instead of {due:?}");
    (0..RECORDS).for_each(|i| assert_eq!(client.get(&format!("k{i}")).expect("an answer").as_deref(), Some(&b"v"[..])));

    let manager = show(cluster.manager_address(0), 19700);
    let said = run("kumohash", &["-m", &manager, "dump"], cluster.dir()).stdout;
    let points = |at: &String| said.lines().filter(|line| line.ends_with(&format!("  {at}"))).count();
    assert_eq!(addresses.iter().map(points).collect::<Vec<_>>(), [128, 32, 128, 512, 128]);

    cluster.managers[0].kill();
    cluster.servers.iter_mut().for_each(|server| server.kill());
    cluster.restart_manager(0);
    (0..5).for_each(|i| cluster.restart_server(i));
    cluster.until("all servers are back", |s| s.active() == 5);
    assert_eq!(cluster.ctl(&["weight"]).stdout, lines);
    let is = held(&cluster);
    assert!(off(&is) <= 100, "{is:?} instead of {due:?}");
    cluster.assert_sound();
}

#[test]
fn who_knows_no_weights_is_told_nothing_wrong() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    let address = cluster.server_address(2).to_string();
    for (words, code, line) in [
        (vec!["weight", "127.0.0.1:1", "2"], 1, "127.0.0.1:1 is not attached"),
        (vec!["weight", address.as_str(), "9"], 2, "'9' is no weight; that is a number from 0.1 to 8, and 1 is usual"),
        (vec!["attach", "2"], 2, "weight, export and import take something more; see kumoctl --help"),
    ] {
        let said = cluster.ctl(&words);
        assert!(said.code == Some(code) && said.stderr.ends_with(&format!("{line}\n")), "{words:?}: {said:?}");
    }
    let ask = || Link::connect(cluster.manager_address(0));
    let mut gateway = ask();
    assert_eq!(gateway.call(1, &[0x90]).0, Value::Nil, "it is told the hash spaces");
    let said = cluster.ctl(&["weight", &address, "2"]);
    assert!(said.code == Some(1) && said.stderr.contains("is of kumofs 0.4, which knows no weights"), "{said:?}");
    drop(gateway);

    let marks = cluster.manager_marks();
    crate::common::eventually("the manager notices that it is gone", || {
        (cluster.ctl(&["weight", &address, "2"]).code == Some(0)).then_some(())
    });
    cluster.until_replaced(&marks);
    assert_eq!(ask().call(1, &[0x90]), (Value::Int(6), Value::Nil));
    assert_eq!(ask().call(99, &[0x90]).0, Value::Nil, "who only shows them may have them");
    let marks = cluster.manager_marks();
    cluster.order(&["weight", &address, "1"]);
    cluster.until_replaced(&marks);
    assert_eq!(ask().call(1, &[0x90]).0, Value::Nil);
    cluster.assert_sound();
}
