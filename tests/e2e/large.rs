//! Large values, which travel in parts.

use crate::common::Turn;
use crate::common::cluster::Cluster;
use crate::common::memcache::Client;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the largest value here.
const LEN: usize = 20 << 20;
/// What servers and gateways are started with.
const OPTIONS: &[&str] = &["--max-value", "128m"];

/// A value that differs from others everywhere.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A cluster for values up to 128 MiB.
fn start(servers: usize) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::empty();
    cluster.server_options = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
    cluster.start_managers(1);
    cluster.add_servers(servers);
    cluster.attach();
    let gateway = cluster.add_gateway(OPTIONS);
    (cluster, gateway)
}

fn connect(gateway: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(gateway).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has it");
    stream
}

fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an answer");
    let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    assert!(got == expected, "{} in place of {}", start(&got), start(expected));
}

fn text_set(key: &str, data: &[u8]) -> Vec<u8> {
    [format!("set {key} 7 0 {}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

fn text_value(key: &str, data: &[u8]) -> Vec<u8> {
    [format!("VALUE {key} 7 {}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

#[test]
fn all_dialects_store_and_read_them_in_the_order_of_the_commands() {
    let _turn = Turn::shared();
    let (mut cluster, gateway) = start(3);
    let mut client = connect(gateway);
    let (a, b, c) = (value(1, LEN), value(2, LEN / 2), value(3, (2 << 20) + 100));
    // One after the other without waiting, with small commands between, about the same keys.
    let mut asked = [text_set("a", &c), b"get a\r\nset small 7 0 1\r\nx\r\n".to_vec(), text_set("a", &a)].concat();
    asked.extend_from_slice(&[text_set("b", &b), b"get small a b nothing\r\ngets a\r\n".to_vec()].concat());
    asked.extend_from_slice(&[b"set a 7 0 3\r\nnow\r\nget a\r\n".to_vec(), text_set("c", &c)].concat());
    let mut sender = client.try_clone().expect("a socket has it");
    let sending = std::thread::spawn(move || sender.write_all(&asked).expect("it is read"));
    expect(&mut client, b"STORED\r\n");
    expect(&mut client, &[&text_value("a", &c), &b"END\r\nSTORED\r\nSTORED\r\nSTORED\r\n"[..]].concat());
    let all = [text_value("small", b"x"), text_value("a", &a), text_value("b", &b), b"END\r\n".to_vec()].concat();
    expect(&mut client, &all);
    // The cas unique is what it is.
    let mut byte = [0];
    while byte != *b"\n" {
        client.read_exact(&mut byte).expect("an answer");
    }
    expect(&mut client, &[&a[..], b"\r\nEND\r\nSTORED\r\n", &text_value("a", b"now"), b"END\r\nSTORED\r\n"].concat());
    sending.join().expect("all of it was sent");

    // Meta: stored, told, and compared.
    client.write_all(&[format!("ms m {} F7\r\n", a.len()).as_bytes(), &a, b"\r\nmg m v s\r\n"].concat()).unwrap();
    expect(&mut client, &[b"HD\r\nVA ", format!("{} s{}\r\n", a.len(), a.len()).as_bytes(), &a, b"\r\n"].concat());
    client.write_all(&[format!("ms m {} C1\r\n", b.len()).as_bytes(), &b, b"\r\n"].concat()).unwrap();
    expect(&mut client, b"EX\r\n");
    client.write_all(&[format!("ms m {} MA\r\n", c.len()).as_bytes(), &c, b"\r\nmg m s\r\n"].concat()).unwrap();
    expect(&mut client, format!("HD\r\nHD s{}\r\n", a.len() + c.len()).as_bytes());
    client
        .write_all(&[&text_set("m", &c)[..], b"add m 7 0 1\r\ny\r\nprepend m 7 0 1\r\ny\r\nmg m s\r\n"].concat())
        .unwrap();
    expect(&mut client, format!("STORED\r\nNOT_STORED\r\nSTORED\r\nHD s{}\r\n", c.len() + 1).as_bytes());

    // Binary, quiet and loud.
    let mut binary = connect(gateway);
    let packet = |opcode: u8, extras: &[u8], key: &[u8], data: &[u8]| {
        let mut out = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
        out.extend_from_slice(&((extras.len() + key.len() + data.len()) as u32).to_be_bytes());
        out.extend_from_slice(&[0; 12]);
        [&out, extras, key, data].concat()
    };
    let asked = [
        packet(0x11, &[0, 0, 0, 7, 0, 0, 0, 0], b"bin", &b),
        packet(0x0c, b"", b"bin", b""),
        packet(0x0a, b"", b"", b""),
    ];
    binary.write_all(&asked.concat()).unwrap();
    let mut head = [0; 24];
    binary.read_exact(&mut head).expect("an answer");
    assert_eq!((head[1], head[7]), (0x0c, 0));
    expect(&mut binary, &[&[0, 0, 0, 7], &b"bin"[..], &b].concat());
    binary.read_exact(&mut head).expect("an answer");
    assert_eq!(head[1], 0x0a);

    // Restarted, the servers tell the same.
    for server in 0..3 {
        cluster.kill_server(server);
        cluster.restart_server(server);
        cluster.attach();
    }
    client.write_all(b"get b\r\n").unwrap();
    expect(&mut client, &[&text_value("b", &b)[..], b"END\r\n"].concat());
    cluster.processes().for_each(crate::common::process::Process::kill);
}

#[test]
fn what_keeps_a_large_value_is_done_in_the_order_of_the_commands_and_lets_others_go_on() {
    let _turn = Turn::shared();
    let (mut cluster, gateway) = start(3);
    let mut client = connect(gateway);
    let a = value(1, LEN);
    client.write_all(&text_set("a", &a)).unwrap();
    expect(&mut client, b"STORED\r\n");
    // One after the other without waiting: each sees what the one before has made.
    let commands = b"append a 0 0 2\r\nyz\r\nmg a s\r\nprepend a 0 0 1\r\nx\r\ntouch a 5000\r\nmg a s t f\r\ngat 9000 a\r\nmg a t\r\n";
    client.write_all(commands).unwrap();
    let joined = [b"x", &a[..], b"yz"].concat();
    let sizes = format!("STORED\r\nHD s{}\r\nSTORED\r\nTOUCHED\r\nHD s{} t", LEN + 2, LEN + 3);
    expect(&mut client, sizes.as_bytes());
    let mut left = [0; 4];
    client.read_exact(&mut left).expect("an answer");
    assert!((4900..=5000).contains(&String::from_utf8_lossy(&left).parse::<u32>().expect("seconds")));
    expect(&mut client, &[b" f7\r\n", &text_value("a", &joined)[..], b"END\r\nHD t"].concat());
    client.read_exact(&mut left).expect("an answer");
    assert!((8900..=9000).contains(&String::from_utf8_lossy(&left).parse::<u32>().expect("seconds")));
    expect(&mut client, b"\r\n");
    // Marked stale, one client wins, and the value is told with that; a counter it is not.
    client.write_all(b"md a I T-1\r\nmg a\r\nincr a 1\r\n").unwrap();
    expect(&mut client, b"HD\r\nEN\r\nNOT_FOUND\r\n");
    client.write_all(&[&text_set("a", &a)[..], b"incr a 1\r\nmd a I\r\nmg a v\r\nmg a s\r\n"].concat()).unwrap();
    let number = "STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\nHD\r\n";
    let told = [number.as_bytes(), format!("VA {LEN} X W\r\n").as_bytes(), &a, b"\r\n"].concat();
    expect(&mut client, &[&told[..], format!("HD s{LEN} Z X\r\n").as_bytes()].concat());
    // Many at once, of one key and of others, with small commands between.
    let mut others: Vec<_> = (0..6).map(|_| connect(gateway)).collect();
    for (n, other) in others.iter_mut().enumerate() {
        other
            .write_all(&[&text_set(&format!("o{}", n % 3), &value(9, 3 << 20))[..], b"get small\r\n"].concat())
            .unwrap();
        expect(other, b"STORED\r\nEND\r\n");
    }
    for (n, other) in others.iter_mut().enumerate() {
        let append = format!("append o{} 0 0 1\r\nx\r\nget small\r\n", n % 3);
        other.write_all(append.as_bytes()).unwrap();
    }
    others.iter_mut().for_each(|other| expect(other, b"STORED\r\nEND\r\n"));
    client.write_all(b"mg o0 s\r\nmg o1 s\r\nmg o2 s\r\n").unwrap();
    expect(&mut client, format!("HD s{}\r\n", (3 << 20) + 2).repeat(3).as_bytes());
    cluster.processes().for_each(crate::common::process::Process::kill);
}

#[test]
fn a_value_over_the_limit_is_refused_and_the_old_one_removed() {
    let _turn = Turn::shared();
    let (mut cluster, _) = start(3);
    let gateway = cluster.add_gateway(&["--max-value", "3m"]);
    let mut client = connect(gateway);
    let good = value(1, 3 << 20);
    client.write_all(&[&text_set("a", &good)[..], b"get a\r\n"].concat()).unwrap();
    expect(&mut client, &[b"STORED\r\n", &text_value("a", &good)[..], b"END\r\n"].concat());
    client.write_all(&[&text_set("a", &value(1, (3 << 20) + 1))[..], b"get a\r\n"].concat()).unwrap();
    expect(&mut client, b"SERVER_ERROR object too large for cache\r\nEND\r\n");
    cluster.processes().for_each(crate::common::process::Process::kill);
}

#[test]
fn small_gets_go_on_beside_them_and_what_was_acknowledged_stays_while_servers_die() {
    let _turn = Turn::alone();
    let (mut cluster, gateway) = start(4);
    let (stop, wrong) = (AtomicBool::new(false), "a large value that was never stored");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = connect(gateway);
            let (mut stored, mut seed, mut maybe) = (None::<u64>, 0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                seed += 1;
                client.write_all(&text_set("large", &value(seed, LEN))).expect("it is read");
                let mut answer = [0; 8];
                client.read_exact(&mut answer).expect("an answer");
                if answer == *b"STORED\r\n" {
                    (stored, maybe) = (Some(seed), Vec::new());
                } else {
                    maybe.push(seed);
                    client = connect(gateway);
                }
                let mut reader = Client::connect(gateway).expect("it listens");
                // What cannot be told now is told later.
                let Ok(Some(found)) = reader.get("large") else { continue };
                let known = stored.into_iter().chain(maybe.iter().copied());
                assert!(known.into_iter().any(|seed| found == value(seed, LEN)), "{wrong}");
            }
            stored.expect("something was stored")
        });
        let mut small = Client::connect(gateway).expect("it listens");
        small.set("small", b"x").expect("it is stored");
        for server in 0..3 {
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                let found = Client::connect(gateway).map(|mut client| client.get("small"));
                assert!(matches!(found, Ok(Ok(Some(data))) if data == b"x"), "a small one is told");
            }
            cluster.kill_server(server);
            cluster.restart_server(server);
            cluster.attach();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer found nothing wrong");
    });
    cluster.processes().for_each(crate::common::process::Process::kill);
}
