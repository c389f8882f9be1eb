//! The gateway in a cluster of kumofs 0.4: a manager and servers that know version 0 only.

use crate::client::Client;
use crate::fake::{Fake, Mode, Seen, Setup};
use crate::{play_stories, start};
use kumofs::gateway::Config;
use kumofs::proto::rpc::v0::method;

fn setup() -> Setup {
    Setup { speaks_v1: false, ..Setup::default() }
}

#[test]
fn all_commands_work_by_get_set_and_compare() {
    let (fake, _client) = start(setup());
    play_stories(&fake, |story| !String::from_utf8_lossy(&story.sent()).contains("flush_all"));
}

#[test]
fn reads_fall_back_to_the_next_replica_and_writes_do_not() {
    let config = Config { set_retry: 0, get_retry: 0, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..setup() });
    for i in 0..20 {
        client.ask(format!("set k{i} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.kill(0));
    for i in 0..20 {
        client.ask(format!("get k{i}\r\n"), format!("VALUE k{i} 0 1\r\nx\r\nEND\r\n"));
    }
    client.send((0..20).map(|i| format!("set k{i} 0 0 1\r\ny\r\n")).collect::<String>());
    let last = ["SERVER_ERROR no server reachable", "SERVER_ERROR outcome unknown", "STORED"];
    let outcomes: Vec<String> = (0..20).flat_map(|_| client.lines_until(&last)).collect();
    assert!(outcomes.iter().any(|line| line != "STORED"), "{outcomes:?}");
}

#[test]
fn a_pushed_hash_space_is_taken_over() {
    let (fake, mut client) = start(setup());
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    fake.with(|world| world.kill(0));
    fake.with(|world| world.remove(0, true));
    for i in 0..30 {
        client.ask(format!("set k{i} 0 0 1\r\ny\r\n"), "STORED\r\n");
    }
}

#[test]
fn a_refused_change_has_the_hash_space_asked_for() {
    let (fake, mut client) = start(setup());
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Refuse);
    fake.with(|world| world.remove(0, false));
    for i in 0..30 {
        client.ask(format!("set k{i} 0 0 1\r\ny\r\n"), "STORED\r\n");
    }
}

#[test]
fn options_of_replication_are_passed_on() {
    let config = Config { async_set: true, async_delete: true, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..setup() });
    client.ask("set a 0 0 1\r\nx\r\ndelete a\r\n", "STORED\r\nDELETED\r\n");
    let seen = fake.with(|world| world.seen());
    assert_eq!(seen, [Seen::V0(method::SET), Seen::V0(method::DELETE)]);
}

#[test]
fn a_flush_is_refused() {
    let (_fake, mut client) = start(setup());
    client.ask("flush_all\r\n", "SERVER_ERROR not served by kumofs 0.4\r\n");
}

#[test]
fn two_clients_that_count_at_once_lose_nothing() {
    let (fake, mut client) = start(Setup { gateway_workers: 2, ..setup() });
    client.ask("set n 0 0 1\r\n0\r\n", "STORED\r\n");
    let count = |fake: &Fake| {
        let mut client = Client::connect(fake.gateway);
        move || {
            for _ in 0..50 {
                client.send("incr n 1\r\n");
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n") {
                    assert!(crate::story::Conversation::receive(&mut client, &mut answer));
                }
                assert!(answer[0].is_ascii_digit(), "{}", String::from_utf8_lossy(&answer));
            }
        }
    };
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(count(&fake))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    client.ask("get n\r\n", "VALUE n 0 3\r\n200\r\nEND\r\n");
}
