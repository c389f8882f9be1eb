//! Rubbish, halves, floods: a clear error or the end of the connection, and everybody else is served on.

use crate::common::cluster::Cluster;
use crate::common::memcache::Client;
use crate::common::process::raise_file_limit;
use crate::common::rng::Rng;
use crate::common::rpc::hex;
use crate::common::{Turn, eventually, say, setting, skip};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// All ports of a cluster: two of the manager, two of the server, one of the gateway.
fn ports(cluster: &Cluster) -> Vec<SocketAddr> {
    let (manager, server) = (cluster.manager_address(0), cluster.server_address(0));
    let control = SocketAddr::new(manager.ip(), 19799);
    vec![manager, control, server, SocketAddr::new(server.ip(), 19900), cluster.gateway(0)]
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.manager_options = vec!["-c".to_owned(), "19799".to_owned()];
    cluster.start_managers(1);
    cluster.add_servers(3);
    cluster.attach();
    cluster.add_gateway(&[]);
    cluster.client().set("witness", b"served").expect("it is stored");
    cluster
}

/// All processes live, nobody has panicked, and clients are served.
#[track_caller]
fn assert_serving(cluster: &mut Cluster) {
    cluster.assert_sound();
    let mut client = cluster.client();
    assert_eq!(client.get("witness").expect("an answer"), Some(b"served".to_vec()));
    client.set("witness", b"served").expect("it is stored");
    assert_eq!(cluster.status().active(), cluster.servers.len());
}

/// Sends bytes, and hangs up after half a breath, whatever the other side does.
fn throw(to: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(to).unwrap_or_else(|e| panic!("{to} listens: {e}"));
    stream.set_read_timeout(Some(Duration::from_millis(30))).expect("a timeout can be set");
    stream.set_write_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    while matches!(stream.read(&mut answer), Ok(len) if len > 0) {}
}

#[test]
fn rubbish_on_every_port() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let mut rng = Rng::announced("rubbish");
    for round in 0..setting("KUMO_RUBBISH_ROUNDS", 30) {
        for port in ports(&cluster) {
            let len = 1 << rng.below(if round == 0 { 20 } else { 12 });
            let rubbish: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            throw(port, &rubbish);
        }
    }
    let http = b"GET / HTTP/1.1\r\nHost: kumofs\r\n\r\n".to_vec();
    let tls = hex("16 0301 0200 0100 01fc 0303");
    for said in [http, tls, vec![0; 100_000], vec![0xff; 100_000], b"\r\n".repeat(10_000)] {
        ports(&cluster).into_iter().for_each(|port| throw(port, &said));
    }
    assert_serving(&mut cluster);
}

#[test]
fn huge_lengths_and_deep_nesting_cost_no_memory() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let before: u64 = cluster.processes().map(|p| p.resident_bytes()).sum();
    let deep = [hex("94 00 07 01"), vec![0x91; 1 << 20]].concat();
    let wide = [hex("94 00 07 01 dd 00100000"), vec![0x90; 1 << 20]].concat();
    let mut messages = vec![deep, wide];
    // An array, a map, a raw, an extension, a hello and an address of four gigabytes.
    let huge = [
        "dd ffffffff",
        "94 00 07 01 dd ffffffff",
        "94 00 07 01 df ffffffff",
        "94 00 07 22 91 db ffffffff",
        "94 00 07 22 91 c6 ffffffff",
        "94 00 07 01 91 c9 ffffffff 00",
        "93 02 db ffffffff",
        "93 02 a6 000000000000",
        "94 00 07 23 93 00 db 07ffffff",
        "94 01 07 c0 db ffffffff",
    ];
    messages.extend(huge.map(hex));
    messages.push(b"set k 0 0 4294967295\r\n".to_vec());
    messages.push(b"set k 0 0 18446744073709551616\r\n".to_vec());
    messages.push([b"get ".to_vec(), vec![b'k'; 1 << 20]].concat());
    for message in &messages {
        ports(&cluster).into_iter().for_each(|port| throw(port, message));
    }
    let after: u64 = cluster.processes().map(|p| p.resident_bytes()).sum();
    say(&format!("huge lengths: {} KiB before, {} KiB after, five processes", before >> 10, after >> 10));
    assert!(after < before + (64 << 20), "{before} bytes before, {after} after");
    assert_serving(&mut cluster);
}

#[test]
fn half_messages_are_waited_for_and_then_forgotten() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let get = hex("94 00 07 22 91 af 667df3131b5ae4d7 776972656b6579");
    let set = b"set half 0 0 10\r\n0123456789\r\n";
    for cut in 1..get.len() {
        ports(&cluster)[..4].iter().for_each(|port| throw(*port, &get[..cut]));
    }
    for cut in 1..set.len() {
        throw(cluster.gateway(0), &set[..cut]);
    }
    assert_eq!(cluster.client().get("half").expect("an answer"), None, "nothing is stored of a half");
    assert_serving(&mut cluster);
}

#[test]
fn a_slow_writer_is_waited_for_and_disturbs_nobody() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let mut slow = TcpStream::connect(cluster.gateway(0)).expect("it listens");
    slow.set_nodelay(true).expect("it can be set");
    let mut other = cluster.client();
    for byte in b"set slow 0 0 10\r\n0123456789\r\n" {
        slow.write_all(&[*byte]).expect("it listens on");
        other.set("quick", b"x").expect("it is stored");
    }
    let mut answer = [0; 8];
    slow.read_exact(&mut answer).expect("it is answered");
    assert_eq!(&answer, b"STORED\r\n");
    assert_eq!(other.get("slow").expect("an answer"), Some(b"0123456789".to_vec()));
    assert_serving(&mut cluster);
}

#[test]
fn ten_thousand_idle_connections() {
    let _turn = Turn::alone();
    let connections = setting("KUMO_IDLE_CONNECTIONS", 10_000);
    let files = raise_file_limit();
    if files < connections + 500 {
        return skip(&format!("{files} open files are allowed here, fewer than {connections} connections need"));
    }
    let mut cluster = cluster();
    let gateway = cluster.gateway(0);
    let before = cluster.gateways[0].resident_bytes();
    let idle: Vec<TcpStream> = (0..connections)
        .map(|i| TcpStream::connect(gateway).unwrap_or_else(|e| panic!("connection {i}: {e}")))
        .collect();
    // The last is served, so all before it have been accepted; and so is each that has idled.
    assert_serving(&mut cluster);
    let after = cluster.gateways[0].resident_bytes();
    let each = after.saturating_sub(before) / connections;
    say(&format!("{connections} idle connections: {each} bytes each, {} KiB in all", after >> 10));
    assert!(each <= 16 << 10, "{each} bytes for an idle connection");
    for mut stream in idle.into_iter().step_by(1000) {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
        stream.write_all(b"get witness\r\n").expect("it listens");
        let mut answer = [0; 32];
        stream.read_exact(&mut answer).expect("it is answered");
        assert_eq!(&answer, b"VALUE witness 0 6\r\nserved\r\nEND\r\n");
    }
    assert_serving(&mut cluster);
}

#[test]
fn a_client_that_never_reads_its_answers_fills_no_memory() {
    let _turn = Turn::alone();
    let mut cluster = cluster();
    let value = vec![b'v'; 100_000];
    cluster.client().set("large", &value).expect("it is stored");
    let before: u64 = cluster.processes().map(|p| p.resident_bytes()).sum();
    let mut deaf = TcpStream::connect(cluster.gateway(0)).expect("it listens");
    deaf.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
    // Gigabytes of answers are asked for, until the gateway takes no more of it, or has hung up.
    const MANY: u64 = 5_000_000;
    let ask = b"get large\r\n".repeat(1000);
    let mut asked = 0;
    while asked < MANY && deaf.write_all(&ask).is_ok() {
        asked += 1000;
    }
    assert!(asked < MANY, "the gateway takes whatever comes");
    let highest = (0..20)
        .map(|_| {
            assert_eq!(cluster.client().get("witness").expect("an answer"), Some(b"served".to_vec()));
            std::thread::sleep(Duration::from_millis(25));
            cluster.processes().map(|p| p.resident_bytes()).sum::<u64>()
        })
        .max()
        .unwrap_or(0);
    say(&format!("a deaf client asked {asked} times: {} KiB before, {} KiB at most", before >> 10, highest >> 10));
    assert!(highest < before + (64 << 20), "{before} bytes before, {highest} after {asked} gets");
    drop(deaf);
    assert_serving(&mut cluster);
}

#[test]
fn a_deaf_client_that_begins_to_read_gets_everything_in_order() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let mut client = cluster.client();
    let value = vec![b'v'; 50_000];
    client.set("large", &value).expect("it is stored");
    let mut late = Client::connect(cluster.gateway(0)).expect("it listens");
    const GETS: usize = 2000;
    let mut writer = late.socket().try_clone().expect("a socket can be shared");
    let writing = std::thread::spawn(move || {
        for i in 0..GETS {
            writer.write_all(format!("get large key-{i}\r\nincr none {i}\r\n").as_bytes()).expect("it reads on");
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..GETS {
        assert_eq!(late.line().expect("an answer"), "VALUE large 0 50000");
        assert_eq!(late.line().expect("an answer").len(), value.len());
        assert_eq!(late.line().expect("an answer"), "END");
        assert_eq!(late.line().expect("an answer"), "NOT_FOUND");
    }
    writing.join().expect("the writer does not panic");
    assert_serving(&mut cluster);
}

#[test]
fn a_peer_of_another_version_is_refused_and_the_cluster_goes_on() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    // Methods of a version that does not exist yet, before and after a hello.
    let hello = hex("93 02 a6 4d59 7f000001 01");
    let future = hex("94 00 07 ce 00630001 91 01");
    for port in &ports(&cluster)[..4] {
        throw(*port, &future);
        throw(*port, &[hello.clone(), future.clone()].concat());
    }
    assert_serving(&mut cluster);
}

#[test]
fn connections_that_come_and_go_are_forgotten() {
    let _turn = Turn::shared();
    let mut cluster = cluster();
    let files = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let pids: Vec<u32> = cluster.processes().map(|p| p.pid()).collect();
    let before: Vec<usize> = pids.iter().map(|pid| files(*pid)).collect();
    for port in ports(&cluster) {
        (0..200).for_each(|_| drop(TcpStream::connect(port).expect("it listens")));
    }
    for (pid, before) in pids.iter().zip(before) {
        eventually("files are closed", || (files(*pid) <= before + 20).then_some(()));
    }
    assert_serving(&mut cluster);
}
