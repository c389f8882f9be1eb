//! `kumofs`: a whole cluster in one process.

use crate::common::load::Load;
use crate::common::memcache::Client;
use crate::common::net::free_address;
use crate::common::process::{Process, Said, run};
use crate::common::rng::Rng;
use crate::common::{Turn, eventually, program, temp_dir};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// Starts it on a port of the system's choice, and reads that from what it prints.
pub fn start(dir: &Path, name: &str, more: &[&str]) -> (Process, SocketAddr) {
    let data = dir.join(format!("{name}-data"));
    let mut args = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
    args.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
    args.extend(more.iter().map(|a| (*a).to_owned()));
    let mut process = Process::start(name, &program("kumofs"), &args, &dir.join(name));
    let address = printed_address(&mut process, 0);
    (process, address)
}

/// The last word of the line it prints when it serves is where.
fn printed_address(process: &mut Process, mark: u64) -> SocketAddr {
    let what = format!("{} prints where it listens", process.name);
    eventually(&what, || {
        let log = process.log_since(mark);
        assert!(!process.has_ended(), "{} ended: {log}", process.name);
        let whole = log.split_inclusive('\n').filter(|l| l.ends_with('\n') && l.contains("memcached"));
        whole.flat_map(str::split_whitespace).find_map(|word| word.parse().ok())
    })
}

fn again(process: &mut Process) -> SocketAddr {
    let mark = process.mark();
    process.restart();
    printed_address(process, mark)
}

fn connect(to: SocketAddr) -> Client {
    Client::connect(to).expect("it listens where it said")
}

#[test]
fn one_command_and_any_client_can_use_it() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (mut kumofs, address) = start(dir.path(), "one", &[]);
    let mut client = connect(address);
    client.set("key", b"value").expect("it is stored at once, without an operator");
    assert_eq!(client.get("key").expect("an answer"), Some(b"value".to_vec()));
    drop(client);
    let status = kumofs.terminate();
    assert_eq!(status.code(), Some(0), "SIGTERM ends it in good order: {status:?}");
    assert!(!kumofs.log_since(0).contains("defect"));
}

#[test]
fn restarted_by_sigterm_or_sigint_it_serves_what_it_had() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (mut kumofs, mut address) = start(dir.path(), "kept", &[]);
    for (round, signal) in [libc::SIGTERM, libc::SIGINT].into_iter().enumerate() {
        let mut client = connect(address);
        for i in 0..500 {
            client.set(&format!("key-{round}-{i}"), format!("{i}").as_bytes()).expect("it is stored");
        }
        kumofs.signal(signal);
        assert_eq!(kumofs.wait().code(), Some(0));
        address = again(&mut kumofs);
        let mut client = connect(address);
        for i in 0..500 {
            let found = client.get(&format!("key-{round}-{i}")).expect("an answer");
            assert_eq!(found, Some(format!("{i}").into_bytes()), "key-{round}-{i}");
        }
    }
}

#[test]
fn misses_of_what_expired_or_was_flushed_are_counted_as_such() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (_kumofs, address) = start(dir.path(), "gone", &[]);
    let mut client = connect(address);
    let retrievals = ["get gone", "get none gone other", "mg gone v", "mg gone T9", "gat 9 gone", "gat 9 none gone"];
    let mut ask = |line: &str| {
        client.send(format!("{line}\r\nmn\r\n").as_bytes()).expect("it is sent");
        while client.answer().expect("an answer") != "MN" {}
    };
    for retrieval in retrievals {
        // What is deleted was there, too, and is no more.
        for before in ["set gone 0 -1 1\r\nx", "set gone 0 0 1\r\nx\r\nflush_all", "set gone 0 0 1\r\nx\r\ndelete gone"]
        {
            ask(before);
            ask(retrieval);
        }
    }
    let stats = client.stats().expect("an answer");
    let told =
        |name: &str| stats.iter().find(|(n, _)| n == name).map(|(_, value)| value.parse::<usize>().expect("a number"));
    assert_eq!((told("get_expired"), told("get_flushed")), (Some(retrievals.len()), Some(retrievals.len())));
    assert_eq!((told("get_hits"), told("touch_hits")), (Some(0), Some(0)));
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let _turn = Turn::shared();
    let mut rng = Rng::announced("kill -9 of kumofs");
    let dir = temp_dir();
    let (mut kumofs, mut address) = start(dir.path(), "killed", &[]);
    let mut acknowledged = 0;
    for _ in 0..3 {
        let writer = std::thread::spawn(move || {
            let mut client = connect(address);
            let mut done = acknowledged;
            while client.set(&format!("key-{done}"), format!("value {done}").as_bytes()).is_ok() {
                done += 1;
            }
            done
        });
        let some = 200 + rng.below(800) as u64;
        let mut watcher = connect(address);
        let last = format!("key-{}", acknowledged + some);
        eventually("some are stored", || watcher.get(&last).expect("an answer"));
        kumofs.kill();
        acknowledged = writer.join().expect("the writer does not panic");
        address = again(&mut kumofs);
        let mut client = connect(address);
        for i in 0..acknowledged {
            let found = client.get(&format!("key-{i}")).expect("an answer");
            assert_eq!(found, Some(format!("value {i}").into_bytes()), "key-{i} of {acknowledged}");
        }
    }
}

#[test]
fn two_run_side_by_side() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (mut one, address_one) = start(dir.path(), "one", &[]);
    let (mut two, address_two) = start(dir.path(), "two", &["--servers", "4"]);
    let loads = [address_one, address_two].map(|a| Load::start(&[a], 100, 7));
    loads.iter().for_each(|load| load.progress(200));
    for load in loads {
        load.finish("side by side");
    }
    assert_eq!(one.terminate().code(), Some(0));
    assert_eq!(two.terminate().code(), Some(0));
}

#[test]
fn one_server_is_enough_to_begin_with() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let (mut kumofs, address) = start(dir.path(), "single", &["--servers", "1"]);
    connect(address).set("key", b"value").expect("it is stored");
    kumofs.kill();
    let address = again(&mut kumofs);
    assert_eq!(connect(address).get("key").expect("an answer"), Some(b"value".to_vec()));
}

fn fails(args: &[&str], dir: &Path) -> Said {
    run("kumofs", args, dir)
}

#[test]
fn what_is_in_the_way_is_said_in_one_line() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);

    let taken = TcpListener::bind((localhost, 0)).expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    fails(&["--listen", &address, "--data", "a"], dir.path()).complains(1, &[&address]);

    let free = free_address(localhost).to_string();
    std::fs::write(dir.path().join("file"), "not a directory").expect("a file");
    fails(&["--listen", &free, "--data", "file"], dir.path()).complains(1, &["file"]);

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).expect("a directory");
    std::fs::write(foreign.join("thesis.tex"), "years of work").expect("a file");
    fails(&["--listen", &free, "--data", "foreign"], dir.path()).complains(1, &["foreign"]);
    let left: Vec<_> = std::fs::read_dir(&foreign).expect("it is there").collect();
    assert_eq!(left.len(), 1, "a foreign directory is left as it is");

    let (_kumofs, address) = start(dir.path(), "first", &[]);
    let data = dir.path().join("first-data").to_string_lossy().into_owned();
    fails(&["--listen", "127.0.0.1:0", "--data", &data], dir.path()).complains(1, &["first-data"]);
    connect(address).set("key", b"value").expect("the first is not disturbed");

    fails(&["--servers", "none"], dir.path()).complains(2, &["--servers", "none"]);
    fails(&["--server", "3"], dir.path()).complains(2, &["--server"]);
    fails(&["--listen", "nowhere.invalid:1"], dir.path()).complains(1, &["nowhere.invalid"]);
}
