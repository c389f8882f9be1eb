//! `flush_all` end to end: everything is gone at once or when it was said, at all gateways, and does not come back by
//! restarts, by servers that did not hear of it, or out of a backup.

use crate::common::cluster::Cluster;
use crate::common::memcache::Client;
use crate::common::process::Process;
use crate::common::{Turn, eventually};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const KEYS: usize = 200;

fn key(i: usize) -> String {
    format!("key-{i}")
}

fn fill(client: &mut Client, data: &[u8]) {
    (0..KEYS).for_each(|i| client.set(&key(i), data).expect("it is stored"));
}

/// How many keys have a value.
fn found(client: &mut Client) -> usize {
    (0..KEYS).filter(|i| client.get(&key(*i)).expect("an answer").is_some()).count()
}

#[track_caller]
fn flush(client: &mut Client, command: &str) {
    assert_eq!(client.command(command).expect("it is flushed"), "OK");
}

/// Kills all processes, and starts them again on what they had. Returns a client once it is served.
fn restart_all(cluster: &mut Cluster) -> Client {
    cluster.processes().for_each(Process::kill);
    cluster.processes().for_each(Process::restart);
    let servers = cluster.servers.len();
    cluster.until("all are active", |s| s.active() == servers);
    let mut client = eventually("the gateway listens", || Client::connect(cluster.gateway(0)).ok());
    eventually("it serves", || client.set("after", b"x").ok());
    client
}

#[test]
fn a_flush_is_for_all_gateways_and_outlives_a_restart_of_everything() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let other = cluster.add_gateway(&[]);
    let (mut client, mut other) = (cluster.client(), Client::connect(other).expect("it listens"));
    fill(&mut client, b"old");
    assert_eq!((found(&mut client), found(&mut other)), (KEYS, KEYS));
    flush(&mut client, "flush_all");
    assert_eq!((found(&mut client), found(&mut other)), (0, 0));
    other.set("new", b"1").expect("it is stored");
    assert!(client.store("add", &key(0), 0, b"anew").expect("an answer"), "nothing is there");
    assert!(!client.store("append", &key(1), 0, b"more").expect("an answer"), "nothing is there");
    let mut client = restart_all(&mut cluster);
    assert_eq!(found(&mut client), 1);
    assert_eq!(client.get("new").expect("an answer").as_deref(), Some(&b"1"[..]));
    flush(&mut client, "flush_all");
    assert_eq!((found(&mut client), client.get("new").expect("an answer")), (0, None));
    cluster.assert_sound();
}

#[test]
fn a_delayed_flush_comes_in_its_time_also_when_everything_is_restarted_before() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let mut client = cluster.client();
    fill(&mut client, b"old");
    let asked = Instant::now();
    flush(&mut client, "flush_all 3");
    assert_eq!(found(&mut client), KEYS, "it is for later");
    client.set("later", b"1").expect("it is stored");
    eventually("all is gone", || (found(&mut client) == 0).then_some(()));
    // The seconds of the clock are whole.
    assert!(asked.elapsed() > Duration::from_secs(2), "after {:?}", asked.elapsed());
    assert_eq!(client.get("later").expect("an answer"), None, "what was stored meanwhile is gone, too");
    fill(&mut client, b"new");
    let asked = Instant::now();
    flush(&mut client, "flush_all 1000");
    flush(&mut client, "flush_all 4");
    let mut client = restart_all(&mut cluster);
    eventually("all is gone once more", || (found(&mut client) == 0).then_some(()));
    assert!(asked.elapsed() > Duration::from_secs(3), "after {:?}", asked.elapsed());
    // One without a delay takes the place of one that is to come.
    flush(&mut client, "flush_all 3");
    flush(&mut client, "flush_all");
    fill(&mut client, b"newest");
    let due = Instant::now() + Duration::from_millis(4500);
    while Instant::now() < due {
        assert_eq!(found(&mut client), KEYS);
    }
    cluster.assert_sound();
}

#[test]
fn servers_that_did_not_hear_of_a_flush_bring_nothing_back() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    fill(&mut client, b"old");
    cluster.kill_server(2);
    cluster.until("two are left", |s| s.active() == 2);
    flush(&mut client, "flush_all");
    (0..10).for_each(|i| client.set(&key(i), b"new").expect("it is stored"));
    // One comes back with its old file, and one is new.
    let marks = cluster.manager_marks();
    cluster.restart_server(2);
    cluster.add_server();
    cluster.until("both are there", |s| s.not_attached.len() == 2);
    cluster.order(&["attach"]);
    cluster.until_replaced(&marks);
    assert_eq!(found(&mut client), 10);
    for (dead, left) in [(0, 3), (1, 2)] {
        cluster.kill_server(dead);
        cluster.until("one less is left", |s| s.active() == left);
        let found = eventually("all keys are served", || {
            let values: Option<Vec<_>> = (0..KEYS).map(|i| client.get(&key(i)).ok()).collect();
            values.map(|values| values.iter().flatten().count())
        });
        assert_eq!(found, 10, "with {left} servers");
    }
    cluster.assert_sound();
}

/// A request of the binary protocol about no key, and whether it has an expiration.
fn binary(opcode: u8, delay_secs: Option<u32>) -> Vec<u8> {
    let extras = delay_secs.map_or_else(Vec::new, |secs| secs.to_be_bytes().to_vec());
    let mut message = vec![0x80, opcode, 0, 0, extras.len() as u8, 0, 0, 0, 0, 0, 0, extras.len() as u8];
    message.extend_from_slice(&[0, 0, 0, 7]);
    message.resize(24, 0);
    message.extend_from_slice(&extras);
    message
}

#[test]
fn the_binary_protocol_flushes_too() {
    const FLUSH: u8 = 0x08;
    const NOOP: u8 = 0x0a;
    const FLUSHQ: u8 = 0x18;
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    let mut stream = std::net::TcpStream::connect(cluster.gateway(0)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let mut ask = |messages: &[Vec<u8>], answers: &[u8]| {
        stream.write_all(&messages.concat()).expect("it is sent");
        for opcode in answers {
            let mut answer = [0; 24];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(
                (answer[0], answer[1], &answer[6..8], &answer[12..16]),
                (0x81, *opcode, &[0, 0][..], &[0, 0, 0, 7][..])
            );
        }
    };
    for (request, answers) in [
        (vec![binary(FLUSH, None)], vec![FLUSH]),
        (vec![binary(FLUSH, Some(0))], vec![FLUSH]),
        (vec![binary(FLUSHQ, None), binary(NOOP, None)], vec![NOOP]),
    ] {
        fill(&mut client, b"old");
        assert_eq!(found(&mut client), KEYS);
        ask(&request, &answers);
        assert_eq!(found(&mut client), 0, "{request:?}");
    }
    fill(&mut client, b"old");
    let asked = Instant::now();
    ask(&[binary(FLUSH, Some(3))], &[FLUSH]);
    assert_eq!(found(&mut client), KEYS, "it is for later");
    eventually("all is gone", || (found(&mut client) == 0).then_some(()));
    assert!(asked.elapsed() > Duration::from_secs(2), "after {:?}", asked.elapsed());
    cluster.assert_sound();
}

/// The records in a backup bear the epochs of the cluster that they come from.
#[test]
fn a_backup_brings_back_nothing_that_was_flushed_and_what_it_brings_can_be_changed_and_flushed() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..10).for_each(|_| flush(&mut client, "flush_all"));
    fill(&mut client, b"old");
    flush(&mut client, "flush_all");
    (0..100).for_each(|i| client.set(&key(i), b"new").expect("it is stored"));
    let said = cluster.ctl(&["backup", "one"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let backups: Vec<_> = (0..3).map(|i| cluster.store_of(i).with_extension("tch-one")).collect();
    cluster.processes().for_each(Process::kill);
    let mut restored = Cluster::restored(&backups);
    let mut client = restored.client();
    assert_eq!(found(&mut client), 100, "and nothing that was flushed");
    // What is changed now is newer than what the backup brought, at every server.
    (0..50).for_each(|i| client.set(&key(i), b"newer").expect("it is stored"));
    for dead in 0..2 {
        restored.kill_server(dead);
        restored.until("one less is left", |s| s.active() == 2 - dead);
        for i in 0..100 {
            let value = eventually("it is served", || client.get(&key(i)).ok());
            let due: &[u8] = if i < 50 { b"newer" } else { b"new" };
            assert_eq!(value.as_deref(), Some(due), "{} with {} servers", key(i), 2 - dead);
        }
    }
    flush(&mut client, "flush_all");
    assert_eq!(found(&mut client), 0);
    restored.assert_sound();
}
