//! What a client can make the gateway hold is bounded.

use crate::client::Client;
use crate::fake::{Mode, Seen, Setup, World};
use crate::start;
use kumofs::gateway::Config;
use kumofs::proto::memcache::Limits;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::time::Duration;

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Sends `text` again and again until nothing is taken for a while; returns how often it was sent whole.
fn send_until_stuck(client: &mut Client, text: &[u8], at_most: usize) -> usize {
    client.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    for sent in 0..at_most {
        match client.0.write_all(text) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return sent,
            Err(e) => panic!("{e}"),
        }
    }
    at_most
}

#[test]
fn a_client_that_never_reads_is_not_read_from() {
    let (fake, mut client) = start(Setup::default());
    let value = "v".repeat(500_000);
    client.ask(format!("set big 0 0 500000\r\n{value}\r\n"), "STORED\r\n");
    let before = resident_bytes();
    let sent = send_until_stuck(&mut client, "get big\r\n".repeat(1000).as_bytes(), 100_000);
    assert!(sent < 100_000, "the gateway reads without end");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{grown} bytes for one client that does not read");
    let mut other = Client::connect(fake.gateway);
    other.ask("get nothing\r\n", "END\r\n");
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    let (_fake, mut client) = start(Setup::default());
    let value = "v".repeat(100_000);
    client.ask(format!("set big 0 0 100000\r\n{value}\r\n"), "STORED\r\n");
    client.send("get big\r\n".repeat(300) + "get big big big\r\nversion\r\n");
    std::thread::sleep(Duration::from_millis(300));
    let one = format!("VALUE big 0 100000\r\n{value}\r\n");
    for _ in 0..300 {
        client.expect(format!("{one}END\r\n"));
    }
    client.expect(format!("{one}{one}{one}END\r\nVERSION "));
}

#[test]
fn long_values_and_short_ones_come_in_the_order_of_the_commands() {
    let (_fake, mut client) = start(Setup::default());
    let values: Vec<String> = (0..40).map(|n| n.to_string().repeat(1 + n % 4 * 12_000)).collect();
    for (n, value) in values.iter().enumerate() {
        client.ask(format!("set k{n} 7 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
    }
    let asked = |n: usize| format!("get k{n}\r\nget none k{n}\r\nmg k{n} v\r\n");
    let told = |n: usize| {
        let (value, len) = (&values[n], values[n].len());
        format!("VALUE k{n} 7 {len}\r\n{value}\r\nEND\r\n").repeat(2) + &format!("VA {len}\r\n{value}\r\n")
    };
    client.ask((0..40).map(asked).collect::<String>(), (0..40).map(told).collect::<String>());
}

#[test]
fn a_deep_pipeline_is_worked_off_whole() {
    let (_fake, mut client) = start(Setup { gateway_workers: 2, ..Setup::default() });
    let mut sender = Client(client.0.try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        for i in 0..20_000 {
            sender.send(format!("set k{} 0 0 1 noreply\r\nx\r\nget k{}\r\n", i % 100, i % 100));
        }
    });
    for i in 0..20_000 {
        client.expect(format!("VALUE k{} 0 1\r\nx\r\nEND\r\n", i % 100));
    }
    sending.join().unwrap();
}

#[test]
fn values_up_to_the_limit_are_taken_and_larger_ones_are_not() {
    let limits = Limits { value_bytes: 3 << 20, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let (fake, mut client) = start(Setup { config, speaks_v1: false, ..Setup::default() });
    let value = "v".repeat(3 << 20);
    client.ask(format!("set big 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
    client.ask("get big\r\n", format!("VALUE big 0 {}\r\n{value}\r\nEND\r\n", value.len()));
    client.send(format!("set big 0 0 {}\r\n{value}x\r\n", value.len() + 1));
    client.expect("SERVER_ERROR object too large for cache\r\n");
    // What was to be replaced is gone: serving it would be wrong.
    client.ask("get big\r\n", "END\r\n");
    drop(fake);
}

#[test]
fn rubbish_and_half_commands_hurt_nobody_else() {
    let (fake, mut client) = start(Setup::default());
    let mut half = Client::connect(fake.gateway);
    half.send("set a 0 0 1000000\r\nabc");
    let mut rubbish = Client::connect(fake.gateway);
    rubbish.send([0xff; 5000]);
    rubbish.expect_end();
    let mut http = Client::connect(fake.gateway);
    http.send("GET / HTTP/1.1\r\n\r\n");
    http.expect_end();
    client.ask("get a\r\n", "END\r\n");
}

#[test]
fn clients_wait_for_each_other_when_too_much_is_under_way() {
    let (fake, _client) = start(Setup { servers: 1, ..Setup::default() });
    fake.with(|world| world.servers[0].mode = Mode::Hold);
    let value = "v".repeat(1 << 20);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(fake.gateway)).collect();
    let sending: Vec<_> = clients
        .iter_mut()
        .enumerate()
        .map(|(i, client)| {
            let mut sender = Client(client.0.try_clone().unwrap());
            let value = value.clone();
            std::thread::spawn(move || {
                for n in 0..3 {
                    sender.send(format!("set k{i}.{n} 0 0 {}\r\n{value}\r\n", value.len()));
                }
            })
        })
        .collect();
    // Distinct ones: what is held for long is sent again.
    let held = |world: &World| {
        let sequence = |seen: &Seen| if let Seen::Mutate(_, id) = seen { Some(id.sequence) } else { None };
        world.seen().iter().filter_map(sequence).collect::<BTreeSet<_>>().len()
    };
    fake.wait_until("a worker's worth is held", move |world| held(world) >= 60);
    std::thread::sleep(Duration::from_millis(200));
    let held = fake.with(move |world| held(world));
    assert!(held <= 66, "{held} MiB under way");
    fake.with(|world| world.release_in_reverse(0));
    clients.iter_mut().for_each(|client| client.expect("STORED\r\n".repeat(3)));
    sending.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn large_values_are_received_as_far_as_there_is_room_for_them() {
    const LARGEST: usize = 128 << 20;
    let limits = Limits { value_bytes: LARGEST, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let (fake, mut small) = start(Setup { config, ..Setup::default() });
    let mebibyte = vec![b'x'; 1 << 20];
    let connect = || Client::connect(fake.gateway);
    let begin = |client: &mut Client, len: usize| client.send(format!("set big 0 0 {len}\r\n"));
    let mut senders = [connect(), connect()];
    for sender in &mut senders {
        begin(sender, LARGEST);
        // More than the system holds for a receiver that does not read.
        assert_eq!(send_until_stuck(sender, &mebibyte, 20), 20);
    }
    // One more has no room, nor has a smaller one that came later.
    let mut waiting = [connect(), connect()];
    begin(&mut waiting[0], LARGEST);
    assert!(send_until_stuck(&mut waiting[0], &mebibyte, 20) < 20, "it is read all the same");
    begin(&mut waiting[1], 100 << 20);
    assert!(send_until_stuck(&mut waiting[1], &mebibyte, 20) < 20, "it is read all the same");
    // Nobody else waits.
    small.ask("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    let value = "v".repeat(1 << 20);
    small.ask(format!("set b 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");

    // A place becomes free, and goes to the one that waited first; the other follows.
    let [first, mut second] = senders;
    drop(first);
    assert_eq!(send_until_stuck(&mut waiting[0], &mebibyte, 20), 20);
    assert!(send_until_stuck(&mut waiting[1], &mebibyte, 20) < 20, "it has overtaken");
    // A command that has arrived makes room as one that was given up does.
    second.0.set_write_timeout(None).unwrap();
    second.send(vec![b'x'; LARGEST - (20 << 20) + 2]);
    second.expect("CLIENT_ERROR bad data chunk\r\n");
    assert_eq!(send_until_stuck(&mut waiting[1], &mebibyte, 20), 20);
}

#[test]
fn clients_that_do_not_read_are_closed_when_all_of_them_leave_too_much() {
    const LEN: usize = 1_000_000;
    const ASKED: usize = 14;
    let config = Config { unread_bytes: 24 << 20, ..Config::default() };
    let (fake, mut client) = start(Setup { config, ..Setup::default() });
    let value = "v".repeat(LEN);
    client.ask(format!("set big 0 0 {LEN}\r\n{value}\r\n"), "STORED\r\n");
    let before = resident_bytes();
    let answer = format!("VALUE big 0 {LEN}\r\n{value}\r\nEND\r\n");
    let mut deaf = Vec::new();
    for _ in 0..60 {
        let mut other = Client::connect(fake.gateway);
        other.send("get big\r\n".repeat(ASKED));
        deaf.push(other);
        // Whoever reads is served all along.
        client.ask("get big\r\n", &answer);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for clients that do not read");
    let complete = ASKED * answer.len();
    let gets_all = |client: &mut Client| {
        client.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
        while got < complete {
            match std::io::Read::read(&mut client.0, &mut buffer) {
                Ok(0) => return false,
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return false,
                Err(e) => panic!("{e}"),
            }
        }
        true
    };
    // Those that have waited for the longest are gone, the last one is not.
    assert!(!gets_all(&mut deaf[0]), "the first of them should have been closed");
    assert!(gets_all(&mut deaf[59]), "the last of them should get what it asked for");
}

#[test]
fn a_large_value_that_moves_is_alive_however_long_it_takes() {
    let limits = Limits { value_bytes: 8 << 20, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let (fake, mut client) = start(Setup { servers: 1, config, ..Setup::default() });
    let value = "v".repeat(4 << 20);
    // Its 33 parts, two at a time, take longer than an operation is given that does not move.
    fake.with(|world| world.part_pause = Some(Duration::from_millis(400)));
    let began = std::time::Instant::now();
    client.ask(format!("set big 0 0 {}\r\n{value}\r\nget small\r\n", value.len()), "STORED\r\nEND\r\n");
    assert!(began.elapsed() > Duration::from_secs(6), "{:?}", began.elapsed());
    client.ask("get big\r\n", format!("VALUE big 0 {}\r\n{value}\r\nEND\r\n", value.len()));
    // One that stands still is given up, and has surely not been stored.
    fake.with(|world| world.part_pause = None);
    client.ask(format!("set big 0 0 {}\r\n{value}\r\n", value.len()), "SERVER_ERROR no server reachable\r\n");
    assert!(began.elapsed() > Duration::from_secs(10), "it was given its time");
}

/// Those that waited for room were given up after four seconds, as if a server had not answered.
#[test]
fn large_values_are_asked_for_as_far_as_there_is_room_for_them_and_all_who_wait_get_theirs() {
    const LEN: usize = 8 << 20;
    const ROOM: usize = 20 << 20;
    let limits = Limits { value_bytes: LEN, ..Limits::default() };
    let config = Config { limits, download_bytes: ROOM, ..Config::default() };
    let (fake, mut small) = start(Setup { config, ..Setup::default() });
    fake.with(|world| world.tells_parts = true);
    let value = "v".repeat(LEN);
    small.ask(format!("set big 0 0 {LEN}\r\n{value}\r\nset a 0 0 1\r\nx\r\n"), "STORED\r\nSTORED\r\n");
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(fake.gateway)).collect();
    for client in &mut clients {
        client.send("get big\r\nget a\r\n");
    }
    // Two have room. Nobody reads, so no more is asked for, however long it takes; and small ones go on.
    fake.wait_until("two values were told", |world| world.told_bytes >= 2 * LEN);
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        small.ask("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
        let told = fake.with(|world| world.told_bytes);
        assert!(told <= ROOM, "{told} bytes are held for clients that do not read");
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = format!("VALUE big 0 {LEN}\r\n{value}\r\nEND\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    let reading = clients.into_iter().map(|mut client| {
        let mut got = vec![0; answer.len()];
        std::thread::spawn(move || std::io::Read::read_exact(&mut client.0, &mut got).map(|()| got))
    });
    for thread in reading.collect::<Vec<_>>() {
        assert!(thread.join().unwrap().expect("it is told") == answer.as_bytes());
    }
    let told = fake.with(|world| world.told_bytes);
    assert!((8 * LEN..9 * LEN).contains(&told), "{told} bytes");
}
