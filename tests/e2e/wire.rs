//! Version 0 of the RPC over real sockets: the golden bytes of kumofs 0.4.13, and tools written for it.

use crate::common::cluster::Cluster;
use crate::common::rpc::{Link, Value, address, hex, socket_address, to_hex};
use crate::common::{Turn, eventually};
use std::net::SocketAddr;

/// hash("wirekey") and the key, as they travel.
const WIREKEY: &str = "af 667df3131b5ae4d7 776972656b6579";

/// Compares bytes with a pattern of hexadecimal digits, in which `..` stands for any byte.
#[track_caller]
fn assert_like(bytes: &[u8], pattern: &str) {
    let (have, want) = (to_hex(bytes), pattern.replace(' ', ""));
    let same = have.len() == want.len() && have.bytes().zip(want.bytes()).all(|(h, w)| w == b'.' || h == w);
    assert!(same, "\n got {have}\nwant {want}");
}

/// Sends golden bytes and compares the answer.
#[track_caller]
fn exchange(link: &mut Link, request: &str, answer: &str) -> Value {
    link.send(&hex(request));
    let (bytes, value) = link.receive();
    assert_like(&bytes, answer);
    value
}

/// `[[node...], ClockTime]` in which nodes stand in the order in which they were added.
fn seed(nodes: &[SocketAddr]) -> String {
    let nodes: Vec<String> = nodes.iter().map(|n| format!("a701{}", to_hex(&address(*n)))).collect();
    format!("92 9{} {} cf ................", nodes.len(), nodes.concat())
}

/// The address of each node of a hash space, and whether it is active.
fn nodes(space: &Value) -> Vec<(SocketAddr, bool)> {
    let nodes = space.array()[0].array().iter().map(Value::raw);
    nodes.map(|raw| (socket_address(&raw[1..]), raw[0] == 1)).collect()
}

/// A server that answers a request for "wirekey" as its coordinator, and the others.
fn coordinator_and_others(cluster: &Cluster) -> (SocketAddr, Vec<SocketAddr>) {
    let request = hex(&format!("94 00 07 23 93 00 {WIREKEY} ad 0000000000000000 0000 6e6577"));
    let (takes, refuses): (Vec<_>, Vec<_>) = (0..3).map(|i| cluster.server_address(i)).partition(|server| {
        let mut link = Link::connect(*server);
        link.send(&request);
        let (bytes, _) = link.receive();
        bytes[3] == 0xc0
    });
    assert_eq!(takes.len(), 1, "one is the coordinator, {refuses:?} are not");
    (takes[0], refuses)
}

#[test]
fn clients_of_a_server_get_the_golden_answers() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let (coordinator, others) = coordinator_and_others(&cluster);

    let mut link = Link::connect(coordinator);
    let set = format!("94 00 07 23 93 00 {WIREKEY} ad 0000000000000000 0000 6e6577");
    let first = exchange(&mut link, &set, "94 01 07 c0 cf ................");
    let second = exchange(&mut link, &set, "94 01 07 c0 cf ................");
    assert!(second.array()[3].int() > first.array()[3].int(), "versions grow");

    let get = format!("94 00 07 22 91 {WIREKEY}");
    let got = exchange(&mut link, &get, "94 01 07 c0 ad ................ 0000 6e6577");
    let version = second.array()[3].int().to_be_bytes();
    assert_eq!(got.array()[3].raw()[..8], version, "a value carries its version");

    let cas = format!("94 00 07 23 93 02 {WIREKEY} ad 0000000000000001 0000 636173");
    exchange(&mut link, &cas, "94 01 07 c0 c2");
    let right = format!("94 00 07 23 93 02 {WIREKEY} ad {} 0000 636173", to_hex(&version));
    let swapped = exchange(&mut link, &right, "94 01 07 c0 cf ................");
    exchange(&mut link, &get, "94 01 07 c0 ad ................ 0000 636173");

    let version = to_hex(&swapped.array()[3].int().to_be_bytes());
    let if_modified = format!("94 00 07 25 92 {WIREKEY} cf {version}");
    exchange(&mut link, &if_modified, "94 01 07 c0 c3");
    let if_modified = format!("94 00 07 25 92 {WIREKEY} 00");
    exchange(&mut link, &if_modified, "94 01 07 c0 ad ................ 0000 636173");

    for other in others {
        exchange(&mut Link::connect(other), &set, "94 01 07 06 c0");
        exchange(&mut Link::connect(other), &get, "94 01 07 c0 ad ................ 0000 636173");
        // The condition is kept when the question is passed on to the coordinator.
        let if_modified = |version: &str| format!("94 00 07 25 92 {WIREKEY} {version}");
        exchange(&mut Link::connect(other), &if_modified(&format!("cf {version}")), "94 01 07 c0 c3");
        exchange(&mut Link::connect(other), &if_modified("00"), "94 01 07 c0 ad ................ 0000 636173");
    }

    let delete = format!("94 00 07 24 92 00 {WIREKEY}");
    exchange(&mut link, &delete, "94 01 07 c0 c3");
    exchange(&mut link, &delete, "94 01 07 c0 c2");
    exchange(&mut link, &get, "94 01 07 c0 c0");
    cluster.assert_sound();
}

#[test]
fn clients_of_a_manager_get_the_golden_answers() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let servers: Vec<SocketAddr> = cluster.status().attached.iter().map(|(a, _)| *a).collect();
    let mut link = Link::connect(cluster.manager_address(0));
    let space = seed(&servers);
    exchange(&mut link, "94 00 07 01 90", &format!("94 01 07 c0 92 {space} {space}"));
    exchange(&mut link, "94 00 07 63 90", &format!("94 01 07 c0 92 {space} 90"));
    let unattached = cluster.add_server();
    let it = to_hex(&address(cluster.server_address(unattached)));
    exchange(&mut link, "94 00 07 63 90", &format!("94 01 07 c0 92 {space} 91 a6 {it}"));
    cluster.assert_sound();
}

#[test]
fn an_unknown_method_is_answered_by_an_error_and_the_end() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 1);
    for to in [cluster.manager_address(0), cluster.server_address(0)] {
        let mut link = Link::connect(to);
        exchange(&mut link, "94 00 07 37 90", "94 01 07 05 c0");
        assert!(link.is_hung_up(), "{to} goes on");
    }
    cluster.assert_sound();
}

#[test]
fn clients_may_not_use_what_is_for_nodes() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 1);
    // KeepAlive(0) without a hello before it.
    for to in [cluster.manager_address(0), cluster.server_address(0)] {
        let mut link = Link::connect(to);
        exchange(&mut link, "94 00 07 00 91 00", "94 01 07 05 c0");
    }
    cluster.assert_sound();
}

#[test]
fn a_hello_is_answered_by_a_hello() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 1);
    // A server of kumofs 0.4 that has just been started says this to a manager, and appears as not attached.
    let old = SocketAddr::new(cluster.server_address(0).ip(), 19801);
    let hello = format!("93 02 a6 {} 01", to_hex(&address(old)));
    let mut link = Link::connect(cluster.manager_address(0));
    link.send(&hex(&hello));
    let (bytes, _) = link.receive();
    assert_like(&bytes, &format!("93 02 a6 {} 00", to_hex(&address(cluster.manager_address(0)))));
    eventually("it is known", || cluster.status().not_attached.contains(&old).then_some(()));

    let mut link = Link::connect(cluster.server_address(0));
    link.send(&hex(&hello));
    let (bytes, _) = link.receive();
    assert_like(&bytes, &format!("93 02 a6 {} 01", to_hex(&address(cluster.server_address(0)))));
    cluster.assert_sound();
}

#[test]
fn status_of_a_server_as_tools_ask_for_it() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 1);
    let mut client = cluster.client();
    (0..10).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    (0..5).for_each(|i| assert!(client.get(&format!("k{i}")).expect("an answer").is_some()));
    (0..3).for_each(|i| assert!(client.delete(&format!("k{i}")).expect("an answer")));
    let mut link = Link::connect(cluster.server_address(0));
    let mut status = |what: u8| match link.call(97, &[0x91, what]) {
        (Value::Nil, result) => result,
        (error, _) => panic!("GetStatus({what}): {error:?}"),
    };
    assert_eq!(status(0).int(), u64::from(cluster.servers[0].pid()));
    assert!(status(1).int() < 600, "uptime");
    assert!(status(2).int() > 1_600_000_000, "UNIX time");
    assert!(!status(3).raw().is_empty(), "version");
    assert_eq!([4, 5, 6, 7].map(|what| status(what).int()), [5, 10, 3, 7], "gets, sets, deletes, items");
    assert!(status(8).int() >> 32 > 1_600_000_000, "ClockTime");
    let whole = [(cluster.server_address(0), true)];
    assert_eq!([9, 10].map(|what| nodes(&status(what))), [whole.to_vec(), whole.to_vec()], "rhs, whs");
    assert_eq!(status(11).int(), 0, "ready: attached, spaces alike, nothing moving");
    cluster.assert_sound();
}

/// The active servers, as a manager tells tools.
fn active_servers(manager: SocketAddr) -> Vec<SocketAddr> {
    const GET_NODES_INFO: u8 = 99;
    let (error, result) = Link::connect(manager).call(GET_NODES_INFO, &[0x90]);
    assert_eq!(error, Value::Nil);
    nodes(&result.array()[0]).into_iter().filter(|(_, active)| *active).map(|(node, _)| node).collect()
}

/// Gets since each server's start, summed. All are asked before the first answer is waited for.
fn sum_of_gets(servers: &[SocketAddr]) -> u64 {
    let ask = hex("94 00 07 61 91 04");
    let mut links: Vec<Link> = servers.iter().map(|s| Link::connect(*s)).collect();
    links.iter_mut().for_each(|link| link.send(&ask));
    links.iter_mut().map(|link| link.receive().1.array()[3].int()).sum()
}

#[test]
fn a_script_sums_the_requests_of_all_active_servers() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    cluster.kill_server(2);
    let servers = active_servers(cluster.manager_address(0));
    let expected: Vec<SocketAddr> = [0, 1, 3].map(|i| cluster.server_address(i)).to_vec();
    let mut sorted = servers.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    let before = sum_of_gets(&servers);
    let mut client = cluster.client();
    for i in 0..100 {
        assert_eq!(client.get(&format!("key-{i}")).expect("an answer"), None);
    }
    assert_eq!(sum_of_gets(&servers) - before, 100);
    cluster.assert_sound();
}
