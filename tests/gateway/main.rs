//! The gateway over a made-up cluster that misbehaves on demand, seen by its clients.

mod cache;
mod client;
mod differential;
mod fake;
mod figures;
#[path = "../story/mod.rs"]
mod story;

use client::Client;
use fake::{Fake, Mode, Seen, Setup};
use kumofs::gateway::{Config, Layout};
use kumofs::proto::rpc::v1::Op;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use story::{Side, Story};

const STORIES: &str = include_str!("../vectors/text.txt");

fn start(setup: Setup) -> (Fake, Client) {
    let fake = Fake::start(setup);
    let client = Client::connect(fake.gateway);
    (fake, client)
}

fn play_stories(fake: &Fake, wanted: impl Fn(&Story) -> bool) {
    for story in story::read(STORIES).iter().filter(|s| s.is_for(Side::Kumofs) && wanted(s)) {
        story::play(story, &mut Client::connect(fake.gateway));
    }
}

#[test]
fn all_stories_of_the_text_protocol_come_true() {
    let (fake, _) = start(Setup { server_workers: 2, gateway_workers: 2, ..Setup::default() });
    play_stories(&fake, |_| true);
}

#[test]
fn answers_come_in_the_order_of_the_commands_when_servers_answer_in_reverse() {
    let (fake, mut client) = start(Setup::default());
    for i in 0..100 {
        client.ask(format!("set k{i} {i} 0 2\r\n{i:02}\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.mode = Mode::Hold));
    let commands: String = (0..100).map(|i| format!("get k{i}\r\n")).collect();
    let more = "get k1 nothing k2 k3\r\nversion\r\nnonsense\r\nset z 0 0 1\r\nx\r\nget nothing\r\n";
    client.send(commands + more);
    fake.wait_until("all are held", |world| (0..3).map(|s| world.held(s)).sum::<usize>() >= 103);
    for server in [2, 0, 1] {
        fake.with(move |world| world.release_in_reverse(server));
    }
    for i in 0..100 {
        client.expect(format!("VALUE k{i} {i} 2\r\n{i:02}\r\nEND\r\n"));
    }
    client.expect("VALUE k1 1 2\r\n01\r\nVALUE k2 2 2\r\n02\r\nVALUE k3 3 2\r\n03\r\nEND\r\n");
    client.expect("VERSION 1.6.18\r\nERROR\r\nSTORED\r\nEND\r\n");
}

#[test]
fn a_multi_get_is_one_message_to_each_worker_concerned() {
    let (fake, mut client) = start(Setup { server_workers: 2, ..Setup::default() });
    let keys: Vec<String> = (0..200).map(|i| format!("k{i}")).collect();
    for key in keys.iter().step_by(2) {
        client.ask(format!("set {key} 7 0 3\r\nabc\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.seen.clear()));
    client.send(format!("get {}\r\n", keys.join(" ")));
    for key in keys.iter().step_by(2) {
        client.expect(format!("VALUE {key} 7 3\r\nabc\r\n"));
    }
    client.expect("END\r\n");
    let seen = fake.with(|world| world.seen());
    assert_eq!(seen.len(), 6, "three servers of two workers: {seen:?}");
    let keys_seen: usize = seen.iter().map(|s| if let Seen::MultiGet(keys) = s { *keys } else { 0 }).sum();
    assert_eq!(keys_seen, 200);
    let connects = fake.with(|world| world.servers[0].connects.iter().map(|c| c.worker).collect::<Vec<_>>());
    assert_eq!(connects.len(), 2, "one link to each worker: {connects:?}");
}

#[test]
fn what_a_server_leaves_out_of_a_multi_get_is_asked_for_alone() {
    let (fake, mut client) = start(Setup::default());
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    for key in &keys {
        client.ask(format!("set {key} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.mode = Mode::LeaveOut));
    client.send(format!("get {}\r\nversion\r\n", keys.join(" ")));
    for key in &keys {
        client.expect(format!("VALUE {key} 0 1\r\nx\r\n"));
    }
    client.expect("END\r\nVERSION ");
    let gets = fake.with(|world| world.seen().iter().filter(|s| **s == Seen::Get).count());
    assert_eq!(gets, 100);
}

#[test]
fn a_dead_servers_requests_go_to_the_next_one_when_the_epoch_says_so() {
    let (fake, mut client) = start(Setup::default());
    for i in 0..60 {
        client.ask(format!("set k{i} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    let commands: String = (0..60).map(|i| format!("get k{i}\r\nset s{i} 0 0 1\r\ny\r\n")).collect();
    client.send(commands);
    fake.wait_until("some are held", |world| world.held(0) >= 10);
    fake.with(|world| world.kill(0));
    std::thread::sleep(Duration::from_millis(50));
    fake.with(|world| world.remove(0, true));
    for i in 0..60 {
        client.expect(format!("VALUE k{i} 0 1\r\nx\r\nEND\r\nSTORED\r\n"));
    }
}

#[test]
fn a_hung_servers_requests_move_with_the_new_epoch() {
    let (fake, mut client) = start(Setup::default());
    fake.with(|world| world.servers[0].mode = Mode::Silent);
    client.send((0..30).map(|i| format!("get k{i}\r\n")).collect::<String>() + &many_keys(30));
    fake.wait_until("some are unanswered", |world| world.servers[0].seen.len() > 3);
    fake.with(|world| world.remove(0, true));
    client.expect("END\r\n".repeat(31));
}

fn many_keys(n: usize) -> String {
    format!("get {}\r\n", (0..n).map(|i| format!("k{i}")).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_refusal_that_tells_a_newer_epoch_has_it_fetched_from_the_server() {
    let (fake, mut client) = start(Setup::default());
    client.ask("get a\r\n", "END\r\n");
    fake.with(|world| world.change(false, |_| ()));
    client.ask("set a 0 0 1\r\nx\r\nget a b c d e f g\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    let ids: Vec<_> = fake.with(|world| {
        let id = |seen: &Seen| if let Seen::Mutate(Op::Set, id) = seen { Some(*id) } else { None };
        world.seen().iter().filter_map(id).collect()
    });
    assert!(ids.len() >= 2);
    assert!(ids.iter().all(|id| id.sequence == ids[0].sequence), "{ids:?}");
    // What was refused was not executed: the first attempt that counts is the one that was not.
    assert_eq!((ids[0].first_epoch, ids[ids.len() - 1].first_epoch), (1, 2), "{ids:?}");
    assert!(ids.iter().enumerate().all(|(i, id)| id.attempt == i as u32 + 1), "{ids:?}");
}

#[test]
fn the_floor_follows_the_lowest_unfinished_operation() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    for i in 0..5 {
        client.ask(format!("set k{i} 0 0 1\r\nx\r\n"), "STORED\r\n");
    }
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    client.send("set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\n");
    fake.wait_until("both are held", |world| world.held(0) == 2);
    fake.with(|world| world.release_in_reverse(0));
    client.expect("STORED\r\nSTORED\r\n");
    let ids: Vec<_> = fake.with(|world| {
        let id = |seen: &Seen| if let Seen::Mutate(_, id) = seen { Some(*id) } else { None };
        world.seen().iter().filter_map(id).collect()
    });
    let (a, b) = (ids[5], ids[6]);
    assert!(ids[..6].iter().all(|id| id.floor == id.sequence), "{ids:?}");
    assert_eq!((a.sequence + 1, b.floor), (b.sequence, a.sequence));
}

/// An incr, a cas or an append whose answer got lost was answered as unknown, and a set or a delete sent again
/// as if it were another.
#[test]
fn a_change_whose_answer_is_lost_is_asked_for_again_under_the_same_number() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    client.ask("set n 0 0 1\r\n5\r\nset m 0 0 1\r\nx\r\n", "STORED\r\nSTORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Swallow);
    client.send(
        "incr n 1\r\nadd a 0 0 1\r\nx\r\ncas m 0 0 1 1002\r\ny\r\nappend m 0 0 1\r\nz\r\ndelete n\r\nadd m 0 0 1\r\nx\r\n",
    );
    fake.wait_until("all were executed", |world| world.servers[0].seen.len() == 8);
    fake.with(|world| world.kill(0));
    std::thread::sleep(Duration::from_millis(30));
    fake.with(|world| world.servers[0].mode = Mode::Serve);
    client.expect("6\r\nSTORED\r\nSTORED\r\nSTORED\r\nDELETED\r\nNOT_STORED\r\n");
    client.ask("get n m a\r\n", "VALUE m 0 2\r\nyz\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    let ids: Vec<_> = fake.with(|world| {
        let id = |seen: &Seen| if let Seen::Mutate(_, id) = seen { Some(*id) } else { None };
        world.seen().iter().filter_map(id).skip(2).collect()
    });
    assert_eq!(ids.len(), 12, "{ids:?}");
    for first in &ids[..6] {
        let again = ids[6..].iter().find(|id| id.sequence == first.sequence).expect("each is asked for again");
        assert!(again.attempt > first.attempt && again.first_epoch == first.first_epoch, "{first:?} {again:?}");
        assert!(again.floor <= again.sequence, "{again:?}");
    }
}

#[test]
fn what_a_server_cannot_know_is_told_as_unknown_at_once() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    client.ask("set n 0 0 1\r\n5\r\n", "STORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Forget);
    client.ask("incr n 1\r\ndelete n\r\n", "SERVER_ERROR outcome unknown\r\n".repeat(2));
    client.ask("get n\r\n", "VALUE n 0 1\r\n5\r\nEND\r\n");
}

/// Each that was given up let the next one go, which was given up at once, and so on: one inside the other, until the
/// stack was full; and the list of those to be given up named some twice.
#[test]
fn a_long_line_of_commands_on_one_key_is_given_up_together() {
    const GETS: usize = 150;
    let config = Config { get_retry: 0, set_retry: 0, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    client.ask("get a\r\n", "END\r\n");
    fake.with(|world| (0..3).for_each(|server| world.kill(server)));
    client.send("get a\r\n".repeat(GETS));
    client.expect("SERVER_ERROR no server reachable\r\n".repeat(GETS));
}

#[test]
fn nothing_served_is_an_error_and_never_a_miss() {
    let config = Config { get_retry: 0, set_retry: 0, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    client.ask("get a\r\n", "END\r\n");
    fake.with(|world| (0..3).for_each(|server| world.kill(server)));
    let began = Instant::now();
    client.send("get a\r\nget a b c\r\nset d 0 0 1\r\nx\r\n");
    client.expect("SERVER_ERROR no server reachable\r\n".repeat(2));
    // The set may have been sent before the death was noticed.
    let told = client.lines_until(&["SERVER_ERROR no server reachable", "SERVER_ERROR outcome unknown"]);
    assert_eq!(told.len(), 1);
    // It was patient for as long as it promises; how much longer this machine takes is no matter.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_gateway_without_a_cluster_waits_for_one() {
    let (fake, mut client) = start(Setup::default());
    fake.with(|world| {
        world.change(true, |epoch| {
            epoch.whs.nodes.clear();
            epoch.rhs.nodes.clear();
        });
    });
    client.send("set a 0 0 1\r\nx\r\nget a\r\n");
    std::thread::sleep(Duration::from_millis(100));
    fake.with(|world| {
        let nodes = world.servers.iter().map(|s| kumofs::logic::ring::Node::new(s.address, true));
        let nodes: Vec<_> = nodes.collect();
        world.change(true, |epoch| {
            (epoch.whs.nodes, epoch.rhs.nodes) = (nodes.clone(), nodes);
        });
    });
    client.expect("STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_malformed_answer_breaks_the_link_and_nothing_else() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Rubbish);
    client.send("get a\r\nget a b c\r\nset d 0 0 1\r\ny\r\nget d\r\n");
    fake.wait_until("it came back", |world| world.servers[0].connects.len() > 2);
    fake.with(|world| world.servers[0].mode = Mode::Serve);
    let value = |v| format!("VALUE a 0 1\r\n{v}\r\nEND\r\n");
    client.expect(format!("{0}{0}STORED\r\n{1}", value("x"), value("y").replace('a', "d")));
}

/// Servers do not execute a change twice. So a get whose answer got lost, and that was tried again, told the set that its
/// client had sent behind it.
#[test]
fn a_get_does_not_tell_a_change_that_was_sent_behind_it() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Rubbish);
    client.send("get a\r\nset a 0 0 1\r\ny\r\nget a\r\n");
    fake.wait_until("it came back", |world| world.servers[0].connects.len() > 2);
    fake.with(|world| world.servers[0].mode = Mode::Serve);
    client.expect("SERVER_ERROR cluster is changing, try again\r\nSTORED\r\nVALUE a 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_server_that_speaks_something_else_is_hung_up_on() {
    let config = Config { get_retry: 0, ..Config::default() };
    let (fake, mut client) = start(Setup { servers: 1, config, ..Setup::default() });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kumofs::logic::address::Address::new(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let texts = ["HTTP/1.1 400 Bad Request\r\n", "\u{94}\u{1}\u{7}", "\u{1}", ""];
            let _ = std::io::Write::write_all(&mut { stream }, texts[n % texts.len()].as_bytes());
        }
    });
    fake.with(move |world| {
        world.change(true, |epoch| {
            epoch.servers[0].address = address;
            epoch.whs.nodes[0].address = address;
            epoch.rhs.nodes[0].address = address;
        });
    });
    client.ask("get a\r\nversion\r\n", "SERVER_ERROR no server reachable\r\nVERSION ");
}

#[test]
fn a_cluster_made_anew_takes_the_place_of_the_one_before() {
    let (fake, mut client) = start(Setup::default());
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    fake.with(|world| (0..9).for_each(|_| world.change(true, |_| ())));
    client.ask("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    fake.with(|world| {
        world.store.clear();
        world.change(true, |epoch| (epoch.cluster, epoch.number) = (77, 1));
    });
    client.ask("get a\r\nset a 0 0 1\r\ny\r\n", "END\r\nSTORED\r\n");
}

#[test]
fn a_silent_link_is_taken_for_broken_and_a_slow_server_is_not() {
    let (fake, mut client) = start(Setup { servers: 1, ..Setup::default() });
    client.ask("set n 0 0 1\r\n1\r\n", "STORED\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    client.send("incr n 1\r\n");
    fake.wait_until("it is held", |world| world.held(0) == 1);
    // As long as a replica may hang before the cluster goes on without it.
    std::thread::sleep(Duration::from_millis(2500));
    fake.with(|world| world.release_in_reverse(0));
    client.expect("2\r\n");
    fake.with(|world| world.servers[0].mode = Mode::Silent);
    client.send("get n\r\n");
    fake.wait_until("it is given up", |world| world.servers[0].connects.len() == 2);
    fake.with(|world| {
        world.kill(0);
        world.servers[0].mode = Mode::Serve;
    });
    client.expect("VALUE n 0 1\r\n2\r\nEND\r\n");
}

#[test]
fn noreply_is_never_answered() {
    let (_fake, mut client) = start(Setup::default());
    client.send("set a 0 0 1 noreply\r\nx\r\nincr a 1 noreply\r\ndelete b noreply\r\ntouch b 0 noreply\r\n");
    client.send("flush_all noreply\r\nset a 0 0 1 noreply\r\ny\r\nverbosity 1 noreply\r\n");
    client.ask("get a\r\n", "VALUE a 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn a_flush_comes_after_what_was_asked_before_and_before_what_is_asked_after() {
    let (fake, mut client) = start(Setup::default());
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.mode = Mode::Hold));
    client.send("set a 0 0 1\r\nx\r\nflush_all\r\nget a\r\n");
    fake.wait_until("the set is held", |world| (0..3).map(|s| world.held(s)).sum::<usize>() == 1);
    (0..3).for_each(|server| fake.with(move |world| world.release_in_reverse(server)));
    client.expect("STORED\r\nOK\r\nEND\r\n");
}

#[test]
fn a_flush_that_is_in_doubt_is_told_as_that() {
    let (fake, mut client) = start(Setup::default());
    fake.with(|world| world.doubts_flushes = true);
    client.ask("flush_all\r\n", "SERVER_ERROR no manager decided the flush; it may still happen\r\n");
    fake.with(|world| world.doubts_flushes = false);
    client.ask("flush_all\r\n", "OK\r\n");
}

#[test]
fn stats_tell_what_is_true() {
    let (fake, mut client) = start(Setup { speaks_v1: true, ..Setup::default() });
    client.ask("set a 0 0 1\r\n1\r\n", "STORED\r\n");
    client.ask("get a b c\r\nget a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
    client.ask("incr a 1\r\nincr b 1\r\n", "2\r\nNOT_FOUND\r\n");
    client.send("stats\r\n");
    let stats = client.lines_until(&["END"]);
    for line in ["cmd_get 4", "cmd_set 1", "get_hits 2", "get_misses 2", "incr_hits 1", "incr_misses 1"] {
        assert!(stats.contains(&format!("STAT {line}")), "{line}: {stats:?}");
    }
    for line in [
        "curr_connections 1",
        "threads 1",
        "curr_items 7",
        "bytes 1000",
        "limit_maxbytes 10000",
        "total_items 1",
        "bytes_written 64",
    ] {
        assert!(stats.contains(&format!("STAT {line}")), "{line}: {stats:?}");
    }
    client.send("stats kumofs\r\n");
    let ours = client.lines_until(&["END"]);
    for line in ["kumo_servers 3", "kumo_failures 0"] {
        assert!(ours.contains(&format!("STAT {line}")), "{line}: {ours:?}");
    }
    client.ask("stats reset\r\n", "RESET\r\n");
    client.send("stats\r\n");
    let stats = client.lines_until(&["END"]);
    assert!(stats.contains(&"STAT cmd_get 0".to_owned()) && stats.contains(&"STAT curr_connections 1".to_owned()));
    drop(fake);
}

#[test]
fn a_client_that_closed_its_side_still_gets_its_answers() {
    let (fake, mut client) = start(Setup::default());
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.mode = Mode::Hold));
    client.send("set a 0 0 1\r\nx\r\nget");
    client.close_sending();
    fake.wait_until("the set is held", |world| (0..3).map(|s| world.held(s)).sum::<usize>() == 1);
    (0..3).for_each(|server| fake.with(move |world| world.release_in_reverse(server)));
    client.expect("STORED\r\n");
    client.expect_end();
}

#[test]
fn stopping_answers_what_is_under_way_and_takes_no_more() {
    let (mut fake, mut client) = start(Setup::default());
    let mut idle = Client::connect(fake.gateway);
    idle.ask("get a\r\n", "END\r\n");
    fake.with(|world| world.servers.iter_mut().for_each(|s| s.mode = Mode::Hold));
    client.send("set a 0 0 1\r\nx\r\n");
    fake.wait_until("the set is held", |world| (0..3).map(|s| world.held(s)).sum::<usize>() == 1);
    fake.begin_stop();
    idle.expect_end();
    (0..3).for_each(|server| fake.with(move |world| world.release_in_reverse(server)));
    client.expect("STORED\r\n");
    client.expect_end();
    fake.stop();
    assert!(std::net::TcpStream::connect(fake.gateway).is_err());
}

#[test]
fn a_key_prefix_is_seen_by_servers_and_not_by_clients() {
    let config = Config { key_prefix: b"app:".to_vec(), ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    client.ask("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    client.ask("get b a\r\ngat 0 a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    let keys: Vec<Vec<u8>> = fake.with(|world| world.store.keys().cloned().collect());
    assert!(keys.len() == 1 && keys[0].ends_with(b"app:a"), "{keys:?}");
}

#[test]
fn a_key_and_its_prefix_have_250_bytes_together_in_all_dialects() {
    let config = Config { key_prefix: b"app:".to_vec(), ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    let (fits, long) = ("k".repeat(246), "k".repeat(247));
    client.ask(
        format!("set {fits} 0 0 1\r\nx\r\nget a {fits}\r\n"),
        format!("STORED\r\nVALUE {fits} 0 1\r\nx\r\nEND\r\n"),
    );
    client.ask(format!("ms {fits} 1\r\ny\r\nmg {fits} k v\r\n"), format!("HD\r\nVA 1 k{fits}\r\ny\r\n"));
    // What was to be stored is no command.
    let refused = "CLIENT_ERROR bad command line format\r\n";
    client.ask(format!("set {long} 0 0 7\r\nversion\r\nmn\r\n"), format!("{refused}MN\r\n"));
    client.ask(format!("ms {long} 7\r\nversion\r\nmn\r\n"), format!("{refused}MN\r\n"));
    for line in ["get a {}", "gat 0 a {}", "delete {}", "incr {} 1", "touch {} 0", "mg {} v", "md {}", "ma {}", "me {}"]
    {
        client.ask(format!("{}\r\nmn\r\n", line.replace("{}", &long)), format!("{refused}MN\r\n"));
    }
    // A base64 key counts by what it stands for, which may be anything.
    client.ask("ms AAkg/w== 1 b\r\nz\r\nmg AAkg/w== b k v\r\n", "HD\r\nVA 1 kAAkg/w== b\r\nz\r\n");

    let packet = |opcode: u8, key: &[u8]| {
        let len = key.len() as u8;
        [&[0x80, opcode, 0, len, 0, 0, 0, 0, 0, 0, 0, len][..], &[0; 12], key].concat()
    };
    let mut binary = Client::connect(fake.gateway).0;
    binary
        .write_all(&[packet(0x00, fits.as_bytes()), packet(0x00, b"\0\t \xff"), packet(0x00, long.as_bytes())].concat())
        .unwrap();
    for (data, status) in [(&b"y"[..], 0), (b"z", 0), (b"Invalid arguments", 4)] {
        let mut head = [0; 24];
        binary.read_exact(&mut head).unwrap();
        assert_eq!((head[0], head[7]), (0x81, status));
        let mut body = vec![0; usize::from(head[11])];
        binary.read_exact(&mut body).unwrap();
        assert!(body.ends_with(data), "{}", body.escape_ascii());
    }
    assert_eq!(binary.read(&mut [0]).unwrap(), 0);
    let keys: Vec<Vec<u8>> = fake.with(|world| world.store.keys().cloned().collect());
    assert!(keys.len() == 2 && keys.iter().all(|key| key[8..].starts_with(b"app:")), "{keys:?}");
}

#[test]
fn kumofs_own_layout_is_written_and_read_on_demand() {
    let layout = Layout { flags: true, expire: true };
    let config = Config { layout, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    client.ask("set a 513 0 2\r\n10\r\nget a\r\n", "STORED\r\nVALUE a 513 2\r\n10\r\nEND\r\n");
    let stored: Vec<u8> = fake.with(|world| world.store.values().next().cloned().unwrap());
    assert_eq!(stored[8..], [0, 0, 0, 0, 0, 0, 2, 1, b'1', b'0']);
    client.ask("incr a 5\r\nappend a 0 0 1\r\n!\r\nget a\r\n", "15\r\nSTORED\r\nVALUE a 513 3\r\n15!\r\nEND\r\n");
    client.ask("touch a -1\r\nget a\r\n", "TOUCHED\r\nEND\r\n");
    client.ask("set a 65536 0 1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\n");
}

mod bounds;
mod version0;
