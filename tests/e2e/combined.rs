//! Servers that are gateways, too: they serve like any, and speak with themselves over no socket.

use crate::common::cluster::Cluster;
use crate::common::load::Load;
use crate::common::memcache::Client;
use crate::common::net::free_address;
use crate::common::process::Process;
use crate::common::{Turn, eventually};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// A cluster whose servers serve memcached clients; also where they do.
fn start(servers: usize) -> (Cluster, Vec<SocketAddr>) {
    let mut cluster = Cluster::empty();
    cluster.start_managers(1);
    let clients: Vec<SocketAddr> = (0..servers).map(|_| free_address(IpAddr::V4(Ipv4Addr::LOCALHOST))).collect();
    for address in &clients {
        cluster.server_options = vec!["-t".to_owned(), address.to_string()];
        cluster.add_server();
    }
    cluster.attach();
    for address in &clients {
        eventually("the server serves clients", || Client::connect(*address).ok()?.set("ready", b"1").ok());
    }
    (cluster, clients)
}

/// The numbers of a process's sockets.
fn sockets_of(process: &Process) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("it runs");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let number = |target: String| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    targets.filter_map(|target| number(target.display().to_string())).collect()
}

/// How many connections a process has made to an address.
fn connections(process: &Process, to: SocketAddr) -> usize {
    let SocketAddr::V4(to) = to else { panic!("tests use IPv4") };
    let shown = |at: SocketAddrV4| format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port());
    let (mine, to) = (sockets_of(process), shown(to));
    let table = fs::read_to_string("/proc/net/tcp").expect("the system tells");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f.get(2) == Some(&to.as_str()) && f.get(9).is_some_and(|inode| mine.contains(*inode))).count()
}

#[test]
fn a_server_with_clients_of_its_own_asks_itself_over_no_socket() {
    let _turn = Turn::shared();
    let (mut cluster, clients) = start(3);
    let mut writer = Client::connect(clients[0]).expect("it serves");
    (0..100).for_each(|n| writer.set(&format!("key{n}"), format!("value{n}").as_bytes()).expect("it is stored"));
    for address in &clients {
        let mut reader = Client::connect(*address).expect("it serves");
        let keys: Vec<String> = (0..100).map(|n| format!("key{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = reader.retrieve("get", &keys).expect("an answer");
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|v| v.data == v.key.replace("key", "value").as_bytes()));
    }
    for i in 0..3 {
        let to = |other| connections(&cluster.servers[i], cluster.server_address(other));
        assert_eq!(to(i), 0, "server {i} has a socket to itself");
        // One as a member of the same groups, and one as a gateway.
        assert!((0..3).filter(|other| *other != i).all(|other| to(other) >= 2), "server {i} asks the others");
    }
    for server in &mut cluster.servers {
        assert!(server.terminate().success(), "{}", server.log_since(0));
    }
    cluster.processes().for_each(Process::kill);
}

#[test]
fn servers_with_clients_die_and_come_back_and_nothing_is_lost() {
    let _turn = Turn::alone();
    let (mut cluster, clients) = start(3);
    let load = Load::start(&clients, 200, 23);
    load.progress(300);
    for i in [1, 2] {
        cluster.kill_server(i);
        load.progress(200);
        cluster.restart_server(i);
        cluster.attach();
        load.progress(200);
    }
    let report = load.finish("servers with clients of their own");
    assert!(report.acknowledged >= 1_100 && report.reads > 0, "{report:?}");
    cluster.processes().for_each(Process::kill);
}
