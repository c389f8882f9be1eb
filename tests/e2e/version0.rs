//! A cluster led by a kumofs 0.4 manager, made up here: our servers and gateway in it speak version 0 and nothing else.

use crate::common::memcache::Client;
use crate::common::net::Hosts;
use crate::common::process::Process;
use crate::common::rpc::{Link, Value};
use crate::common::{Turn, eventually, program, temp_dir};
use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::record::encode_dbkey;
use kumofs::logic::ring::{HashSpace, Node, Ring, hash};
use kumofs::proto::rpc::error;
use kumofs::proto::rpc::frame::{self, Frame, Role, Scanner};
use kumofs::proto::rpc::msgpack::{write_array, write_nil, write_raw};
use kumofs::proto::rpc::v0::{self, method};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Serves one connection: `answer` appends what is answered to a message; false: it hangs up then.
pub fn serve(mut stream: TcpStream, answer: impl Fn(&[u8], &mut Vec<u8>) -> bool) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..n]);
        while let Ok(Some(len)) = Scanner::default().advance(&bytes) {
            let message: Vec<u8> = bytes.drain(..len).collect();
            let mut out = Vec::new();
            let goes_on = answer(&message, &mut out);
            if stream.write_all(&out).is_err() || !goes_on {
                return;
            }
        }
    }
}

/// The same of one that does not even answer what it does not know: it hangs up.
fn answer_or_hang_up(message: &[u8], own: SocketAddr, space: &HashSpace, out: &mut Vec<u8>) -> bool {
    let goes_on = answer(message, own, space, out);
    if !goes_on {
        out.clear();
    }
    goes_on
}

/// Appends what the manager answers; false: it hangs up then.
fn answer(message: &[u8], own: SocketAddr, space: &HashSpace, out: &mut Vec<u8>) -> bool {
    match frame::parse(message) {
        Ok(Frame::Hello { .. }) => frame::write_hello(out, Address::new(own), Role::Manager),
        Ok(Frame::Request { msgid, method, .. }) => match method {
            method::KEEP_ALIVE => {
                frame::write_success(out, msgid);
                write_nil(out);
            }
            method::WHS_REQUEST | method::RHS_REQUEST => {
                frame::write_success(out, msgid);
                v0::write_seed(out, space);
            }
            method::HASH_SPACE_REQUEST => {
                frame::write_success(out, msgid);
                write_array(out, 2);
                v0::write_seed(out, space);
                v0::write_seed(out, space);
            }
            _ => {
                frame::write_error(out, msgid, error::PROTOCOL);
                return false;
            }
        },
        Ok(Frame::Response { .. }) | Err(_) => {}
    }
    true
}

fn set_params(key: &[u8], data: &[u8]) -> Vec<u8> {
    let (mut dbkey, mut params) = (Vec::new(), vec![0x93, 0]);
    encode_dbkey(key, &mut dbkey);
    write_raw(&mut params, &dbkey);
    write_raw(&mut params, &[&[0; 10][..], data].concat());
    params
}

fn get_params(key: &[u8]) -> Vec<u8> {
    let (mut dbkey, mut params) = (Vec::new(), vec![0x91]);
    encode_dbkey(key, &mut dbkey);
    write_raw(&mut params, &dbkey);
    params
}

#[test]
fn our_servers_and_gateway_under_a_kumofs_0_4_manager() {
    let _turn = Turn::shared();
    let (hosts, dir) = (Hosts::claim(), temp_dir());
    let manager = TcpListener::bind((hosts.host(1), 0)).expect("a listener");
    let own = manager.local_addr().expect("it is bound");
    let servers: Vec<SocketAddr> = (11..14).map(|n| SocketAddr::from((hosts.host(n), 19800))).collect();
    let nodes: Vec<Node> = servers.iter().map(|s| Node::new(Address::new(*s), true)).collect();
    let ring = Ring::new(&nodes);
    let space = HashSpace { nodes, timestamp: ClockTime(1_234_567 << 32 | 1) };
    std::thread::spawn(move || {
        for stream in manager.incoming().flatten() {
            let space = space.clone();
            std::thread::spawn(move || serve(stream, |message, out| answer(message, own, &space, out)));
        }
    });
    let mut processes = Vec::new();
    for (i, server) in servers.iter().enumerate() {
        let store = dir.path().join(format!("store{i}")).display().to_string();
        let args = ["-v", "-l", &server.to_string(), "-m", &own.to_string(), "-s", &store, "-TR", "1"];
        let name = format!("server{i}");
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        processes.push(Process::start(&name, &program("kumo-server"), &args, &dir.path().join(&name)));
    }
    for process in &mut processes {
        process.wait_for("new node 0", 0);
    }

    let order: Vec<usize> = ring.assign(hash(b"wirekey")).as_slice().iter().map(|n| usize::from(*n)).collect();
    let mut coordinator = Link::connect(servers[order[0]]);
    let stored =
        eventually("the replicas are connected", || match coordinator.call(35, &set_params(b"wirekey", b"new")) {
            (Value::Nil, version @ Value::Int(_)) => Some(version),
            _ => None,
        });
    assert!(stored.int() > 0);
    let refused = Link::connect(servers[order[1]]).call(35, &set_params(b"wirekey", b"other"));
    assert_eq!(refused, (Value::Int(6), Value::Nil), "only the coordinator changes a key");
    for server in &servers {
        let (error, found) = Link::connect(*server).call(34, &get_params(b"wirekey"));
        assert_eq!(error, Value::Nil);
        assert_eq!(&found.raw()[8..], b"\0\0new", "every replica has it");
    }

    let address = SocketAddr::from((hosts.host(101), 11211));
    let args = ["-v", "-t", &address.to_string(), "-m", &own.to_string()].map(str::to_owned);
    let mut gateway = Process::start("gateway", &program("kumo-gateway"), &args, &dir.path().join("gateway"));
    gateway.wait_for("connect success", 0);
    let mut client = eventually("the gateway listens", || Client::connect(address).ok());
    for i in 0..50 {
        client.set(&format!("k{i}"), format!("v{i}").as_bytes()).expect("it is stored");
    }
    for i in 0..50 {
        assert_eq!(client.get(&format!("k{i}")).expect("an answer"), Some(format!("v{i}").into_bytes()));
    }
    client.set("n", b"41").expect("it is stored");
    assert_eq!(client.incr("n", 1).expect("an answer"), Some(42));
    assert!(client.delete("n").expect("an answer"));
    assert_eq!(client.get("n").expect("an answer"), None);
}

/// A server introduced itself again and again to a manager that hangs up on what it does not know, and never spoke to it
/// otherwise.
#[test]
fn a_manager_that_hangs_up_on_what_it_does_not_know_is_spoken_to_in_version_0() {
    let _turn = Turn::shared();
    let (hosts, dir) = (Hosts::claim(), temp_dir());
    let manager = TcpListener::bind((hosts.host(1), 0)).expect("a listener");
    let own = manager.local_addr().expect("it is bound");
    let server = SocketAddr::from((hosts.host(11), 19800));
    let nodes = vec![Node::new(Address::new(server), true)];
    let space = HashSpace { nodes, timestamp: ClockTime(1_234_567 << 32 | 1) };
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = connections.clone();
    std::thread::spawn(move || {
        for stream in manager.incoming().flatten() {
            accepted.fetch_add(1, SeqCst);
            let space = space.clone();
            std::thread::spawn(move || serve(stream, |message, out| answer_or_hang_up(message, own, &space, out)));
        }
    });
    let store = dir.path().join("store").display().to_string();
    let args = ["-v", "-l", &server.to_string(), "-m", &own.to_string(), "-s", &store, "-TR", "1"].map(str::to_owned);
    let mut process = Process::start("server", &program("kumo-server"), &args, &dir.path().join("server"));
    process.wait_for("new node 0", 0);
    let address = SocketAddr::from((hosts.host(101), 11211));
    let args = ["-v", "-t", &address.to_string(), "-m", &own.to_string()].map(str::to_owned);
    let mut gateway = Process::start("gateway", &program("kumo-gateway"), &args, &dir.path().join("gateway"));
    gateway.wait_for("connect success", 0);
    let mut client = eventually("the gateway listens", || Client::connect(address).ok());
    client.set("k", b"v").expect("it is stored");
    assert_eq!(client.get("k").expect("an answer"), Some(b"v".to_vec()));
    let connections = connections.load(SeqCst);
    assert!(connections <= 10, "{connections} connections: a few attempts each, and one that stays");
}
