//! The local cache of a gateway (`-lc`): what travels and what does not, and that nothing is ever told that is not so.

use crate::client::Client;
use crate::fake::{Fake, Mode, Seen, Setup};
use kumofs::gateway::Config;
use kumofs::gateway::cache::Limits;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CACHE: Limits = Limits { bytes: 1 << 20, least_value: 1000 };

fn start(servers: usize, local_cache: Limits) -> (Fake, Client) {
    let config = Config { local_cache, ..Config::default() };
    let fake = Fake::start(Setup { servers, config, ..Setup::default() });
    let client = Client::connect(fake.gateway);
    (fake, client)
}

fn set(client: &mut Client, key: &str, flags: u32, exptime: i64, value: &str) {
    client.ask(format!("set {key} {flags} {exptime} {}\r\n{value}\r\n", value.len()), "STORED\r\n");
}

fn found(key: &str, flags: u32, value: &str) -> String {
    format!("VALUE {key} {flags} {}\r\n{value}\r\n", value.len())
}

fn get(client: &mut Client, key: &str, flags: u32, value: &str) {
    client.ask(format!("get {key}\r\n"), found(key, flags, value) + "END\r\n");
}

/// What servers saw since this was last asked.
fn seen(fake: &Fake) -> Vec<Seen> {
    fake.with(|world| {
        let seen = world.seen();
        world.servers.iter_mut().for_each(|s| s.seen.clear());
        seen
    })
}

fn stats(client: &mut Client) -> BTreeMap<String, String> {
    client.send("stats kumofs\r\n");
    let lines = client.lines_until(&["END"]);
    let pairs = lines.iter().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_value_that_is_asked_for_again_and_again_travels_twice() {
    let (fake, mut client) = start(1, CACHE);
    let value = "x".repeat(5000);
    set(&mut client, "a", 7, 0, &value);
    seen(&fake);
    (0..5).for_each(|_| get(&mut client, "a", 7, &value));
    assert_eq!(seen(&fake), [Seen::Get, Seen::Get, Seen::GetIfModified, Seen::GetIfModified, Seen::GetIfModified]);
    let told = stats(&mut client);
    assert_eq!((&*told["kumo_cache_hits"], &*told["kumo_cache_misses"]), ("3", "2"));
    assert_eq!((&*told["kumo_cache_hit_rate"], &*told["kumo_cache_items"]), ("0.6000", "1"));
    assert_eq!(told["kumo_cache_limit_bytes"], (1 << 20).to_string());
    assert!(told["kumo_cache_saved_bytes"].parse::<u64>().unwrap() > 15_000);
    assert!((5000..6000).contains(&told["kumo_cache_bytes"].parse::<u64>().unwrap()));
}

/// What is asked of the value of `a` by `mg`, and what is answered before it.
fn fetch(client: &mut Client, flags: &str, head: &str, value: &str) {
    client.ask(
        format!("mg a {flags}\r\n"),
        format!("{}\r\n{value}\r\n", format!("VA {} {head}", value.len()).trim_end()),
    );
}

fn figure(client: &mut Client, name: &str) -> u64 {
    stats(client)[name].parse().unwrap()
}

#[test]
fn a_meta_get_uses_what_it_or_a_get_has_brought() {
    let (fake, mut client) = start(1, CACHE);
    let value = "x".repeat(5000);
    set(&mut client, "a", 7, 0, &value);
    seen(&fake);
    (0..5).for_each(|_| fetch(&mut client, "t f s v k Oq", "t-1 f7 s5000 ka Oq", &value));
    client.ask("mg YQ== b s k q\r\n", "HD s5000 kYQ== b\r\n");
    get(&mut client, "a", 7, &value);
    assert_eq!((figure(&mut client, "kumo_cache_misses"), figure(&mut client, "kumo_cache_hits")), (2, 5));
    assert!(figure(&mut client, "kumo_cache_saved_bytes") > 25_000);
    // By the other way round.
    set(&mut client, "b", 7, 0, &value);
    (0..2).for_each(|_| get(&mut client, "b", 7, &value));
    client.ask("mg b v\r\n", format!("VA 5000\r\n{value}\r\n"));
    assert_eq!((figure(&mut client, "kumo_cache_misses"), figure(&mut client, "kumo_cache_hits")), (4, 6));
}

#[test]
fn a_cached_value_is_told_with_its_marks_and_its_time_by_a_meta_get() {
    let (_fake, mut client) = start(1, CACHE);
    let value = "x".repeat(5000);
    set(&mut client, "a", 0, 0, &value);
    (0..3).for_each(|_| fetch(&mut client, "v t", "t-1", &value));
    client.ask("md a I\r\n", "HD\r\n");
    // The win is a change; what it leaves is known by then.
    fetch(&mut client, "v", "X W", &value);
    (0..3).for_each(|_| fetch(&mut client, "v", "Z X", &value));
    let hits = figure(&mut client, "kumo_cache_hits");
    assert_eq!(hits, 4, "one of the first three, and the last three");
    // A new time is a change as well, and the next answer has it.
    client.ask("mg a T-1\r\n", "HD Z X\r\n");
    client.ask("mg a v\r\n", "EN\r\n");
    assert_eq!(figure(&mut client, "kumo_cache_items"), 0);
    client.ask("mg a N0 v\r\n", "VA 0 W\r\n\r\n");
    client.ask("mg a v\r\n", "VA 0 Z\r\n\r\n");
    set(&mut client, "a", 0, 1000, &value);
    (0..2).for_each(|_| fetch(&mut client, "v", "", &value));
    fetch(&mut client, "R2000 v", "W", &value);
    fetch(&mut client, "R2000 v", "Z", &value);
}

#[test]
fn small_values_and_no_cache_at_all_ask_for_the_value() {
    let (fake, mut client) = start(1, CACHE);
    set(&mut client, "a", 0, 0, "small");
    (0..4).for_each(|_| get(&mut client, "a", 0, "small"));
    assert!(!seen(&fake).contains(&Seen::GetIfModified));
    let (fake, mut client) = start(1, Limits::OFF);
    let value = "x".repeat(5000);
    set(&mut client, "a", 0, 0, &value);
    (0..4).for_each(|_| get(&mut client, "a", 0, &value));
    assert!(!seen(&fake).contains(&Seen::GetIfModified));
    assert_eq!(stats(&mut client)["kumo_cache_misses"], "0");
}

#[test]
fn whatever_changes_a_value_is_seen_by_the_next_get() {
    let (fake, mut client) = start(3, CACHE);
    let (one, other) = ("1".repeat(2000), "2".repeat(3000));
    let warm = |client: &mut Client| {
        set(client, "a", 1, 0, &one);
        (0..3).for_each(|_| get(client, "a", 1, &one));
    };
    warm(&mut client);
    set(&mut client, "a", 2, 0, &other);
    get(&mut client, "a", 2, &other);
    warm(&mut client);
    client.ask("append a 0 0 1\r\n!\r\n", "STORED\r\n");
    get(&mut client, "a", 1, &format!("{one}!"));
    warm(&mut client);
    client.ask("delete a\r\n", "DELETED\r\n");
    client.ask("get a\r\n", "END\r\n");
    warm(&mut client);
    client.ask("touch a -1\r\n", "TOUCHED\r\n");
    client.ask("get a\r\n", "END\r\n");
    warm(&mut client);
    client.ask("flush_all\r\n", "OK\r\n");
    client.ask("get a\r\n", "END\r\n");
    warm(&mut client);
    fetch(&mut client, "v f", "f1", &one);
    client.ask("prepend a 0 0 1\r\n!\r\n", "STORED\r\n");
    fetch(&mut client, "v f", "f1", &format!("!{one}"));
    warm(&mut client);
    client.ask("delete a\r\n", "DELETED\r\n");
    client.ask("mg a v\r\n", "EN\r\n");
    warm(&mut client);
    client.ask("flush_all\r\n", "OK\r\n");
    client.ask("mg a v\r\n", "EN\r\n");
    warm(&mut client);
    // Another gateway's doing: nothing of it comes by here.
    fake.with(|world| world.store.clear());
    client.ask("get a\r\n", "END\r\n");
    assert_eq!(stats(&mut client)["kumo_cache_items"], "0");
}

#[test]
fn a_cached_value_expires_when_it_should() {
    let (_fake, mut client) = start(1, CACHE);
    let value = "x".repeat(2000);
    set(&mut client, "a", 0, 2, &value);
    (0..3).for_each(|_| get(&mut client, "a", 0, &value));
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        client.send("get a\r\nmn\r\n");
        if client.lines_until(&["MN"]).first().is_some_and(|line| line == "END") {
            return;
        }
        assert!(Instant::now() < until, "it is still there");
    }
}

#[test]
fn gets_in_flight_behind_and_before_changes_see_each_what_was_there() {
    let (_fake, mut client) = start(1, CACHE);
    let (one, other) = ("1".repeat(2000), "2".repeat(3000));
    set(&mut client, "a", 0, 0, &one);
    (0..3).for_each(|_| get(&mut client, "a", 0, &one));
    client.send(format!("get a\r\nset a 0 0 3000\r\n{other}\r\nget a\r\ndelete a\r\nget a\r\n"));
    client.expect(found("a", 0, &one) + "END\r\nSTORED\r\n");
    client.expect(found("a", 0, &other) + "END\r\nDELETED\r\nEND\r\n");
}

#[test]
fn a_get_of_many_keys_asks_about_those_that_are_known() {
    let (fake, mut client) = start(1, CACHE);
    let value = |key: &str| key.repeat(2000);
    for key in ["a", "b", "c", "d"] {
        set(&mut client, key, 3, 0, &value(key));
    }
    for key in ["b", "d"] {
        (0..2).for_each(|_| get(&mut client, key, 3, &value(key)));
    }
    seen(&fake);
    let all: String = ["a", "b", "c", "d"].iter().map(|key| found(key, 3, &value(key))).collect();
    client.ask("get a b nothing c d\r\n", all.clone() + "END\r\n");
    let mut asked = seen(&fake);
    asked.sort_by_key(|seen| format!("{seen:?}"));
    assert_eq!(asked, [Seen::GetIfModified, Seen::GetIfModified, Seen::MultiGet(3)]);
    client.ask("get a b nothing c d\r\n", all.clone() + "END\r\n");
    seen(&fake);
    client.ask("get a b c d\r\n", all + "END\r\n");
    assert_eq!(seen(&fake), vec![Seen::GetIfModified; 4]);
}

#[test]
fn memory_is_bounded() {
    let limit = 200_000;
    let (_fake, mut client) = start(1, Limits { bytes: limit, least_value: 0 });
    let value = "x".repeat(9000);
    for n in 0..100 {
        set(&mut client, &format!("k{n}"), 0, 0, &value);
        (0..3).for_each(|_| get(&mut client, &format!("k{n}"), 0, &value));
    }
    let told = stats(&mut client);
    let bytes = told["kumo_cache_bytes"].parse::<usize>().unwrap();
    assert!((limit - 20_000..=limit).contains(&bytes), "{bytes}");
    assert_eq!(told["kumo_cache_items"], "21");
}

#[test]
fn a_value_that_is_let_go_while_it_is_asked_about_is_told_all_the_same() {
    let (fake, mut client) = start(1, Limits { bytes: 20_000, least_value: 0 });
    let value = "x".repeat(4000);
    set(&mut client, "a", 5, 0, &value);
    (0..3).for_each(|_| get(&mut client, "a", 5, &value));
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    client.send("get a\r\n");
    fake.wait_until("the get is held", |world| world.held(0) == 1);
    // Answers from elsewhere would let it go; a get that finds nothing does so at once.
    let mut other = Client::connect(fake.gateway);
    other.send("get a\r\n");
    fake.wait_until("both are held", |world| world.held(0) == 2);
    let dbval = fake.with(|world| {
        let dbval = std::mem::take(&mut world.store);
        world.release_last(0);
        dbval
    });
    other.expect("END\r\n");
    fake.with(move |world| {
        world.store = dbval;
        world.release_in_reverse(0);
    });
    client.expect(found("a", 5, &value) + "END\r\n");
}

#[test]
fn a_question_that_got_lost_is_asked_again() {
    let (fake, mut client) = start(3, CACHE);
    let value = "x".repeat(4000);
    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    for key in &keys {
        set(&mut client, key, 0, 0, &value);
        (0..2).for_each(|_| get(&mut client, key, 0, &value));
    }
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    client.send(keys.iter().map(|key| format!("get {key}\r\n")).collect::<String>());
    fake.wait_until("some are held", |world| world.held(0) > 3);
    fake.with(|world| {
        world.kill(0);
        world.remove(0, true);
    });
    for key in &keys {
        client.expect(found(key, 0, &value) + "END\r\n");
    }
}

#[test]
fn servers_of_kumofs_04_are_asked_for_values_as_ever() {
    let config = Config { local_cache: Limits { least_value: 0, ..CACHE }, ..Config::default() };
    let fake = Fake::start(Setup { speaks_v1: false, config, ..Setup::default() });
    let mut client = Client::connect(fake.gateway);
    set(&mut client, "a", 0, 0, "value");
    (0..4).for_each(|_| get(&mut client, "a", 0, "value"));
    assert_eq!(stats(&mut client)["kumo_cache_hits"], "0");
}
