//! A gateway with a cache (`-lc`) beside one without.

use crate::common::Turn;
use crate::common::cluster::{CACHING, Cluster};
use crate::common::eventually;
use crate::common::memcache::Client;
use crate::common::net::free_address;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

/// A figure of `stats kumofs`.
fn figure(gateway: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(gateway).expect("the gateway listens");
    stream.write_all(b"stats kumofs\r\nquit\r\n").expect("the gateway reads");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let value = |line: String| line.strip_prefix(&format!("STAT {name} "))?.parse().ok();
    lines.into_iter().find_map(value).expect("the figure is told")
}

#[test]
fn what_another_gateway_changes_is_seen_through_the_cache_at_once() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let caching = cluster.add_gateway(CACHING);
    let mut writer = Client::connect(cluster.gateway(0)).expect("it listens");
    let mut reader = Client::connect(caching).expect("it listens");
    let mut meta = TcpStream::connect(caching).expect("it listens");
    for round in 0..20 {
        for key in 0..10 {
            let (key, value) = (format!("key{key}"), format!("{round} {}", "v".repeat(5000)));
            writer.set(&key, value.as_bytes()).expect("it is stored");
            for _ in 0..2 {
                let found = reader.retrieve("get", &[&key]).expect("an answer");
                assert!(found.len() == 1 && found[0].data == value.as_bytes(), "{key} in round {round}");
                let expected = format!("VA {}\r\n{value}\r\n", value.len());
                meta.write_all(format!("mg {key} v\r\n").as_bytes()).expect("it reads");
                let mut answer = vec![0; expected.len()];
                meta.read_exact(&mut answer).expect("an answer");
                assert!(answer == expected.as_bytes(), "mg {key} in round {round}");
            }
        }
    }
    let (hits, misses) = (figure(caching, "kumo_cache_hits"), figure(caching, "kumo_cache_misses"));
    assert!(hits + misses == 800 && hits >= 500, "{hits} hits, {misses} misses");
    assert!(figure(caching, "kumo_cache_saved_bytes") >= 5000 * hits);
    assert_eq!(figure(cluster.gateway(0), "kumo_cache_hits"), 0);
    cluster.processes().for_each(crate::common::process::Process::kill);
}

#[test]
fn a_server_that_serves_clients_caches_what_the_others_have() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.start_managers(1);
    let clients = free_address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    cluster.server_options =
        ["-t", &clients.to_string()].into_iter().chain(CACHING.iter().copied()).map(String::from).collect();
    cluster.add_server();
    cluster.server_options.clear();
    cluster.add_server();
    cluster.attach();
    eventually("the server serves clients", || Client::connect(clients).ok()?.set("ready", b"1").ok());
    let mut client = Client::connect(clients).expect("it serves");
    for round in 0..2 {
        let value = format!("{round} {}", "v".repeat(5000));
        (0..10).for_each(|key| client.set(&format!("key{key}"), value.as_bytes()).expect("it is stored"));
        for _ in 0..4 {
            for key in 0..10 {
                let found = client.retrieve("get", &[&format!("key{key}")]).expect("an answer");
                assert!(found.len() == 1 && found[0].data == value.as_bytes(), "key{key} in round {round}");
            }
        }
    }
    assert!(figure(clients, "kumo_cache_hits") >= 40, "{} hits", figure(clients, "kumo_cache_hits"));
    cluster.processes().for_each(crate::common::process::Process::kill);
}
