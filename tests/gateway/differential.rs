//! Random commands, the same to the gateway and to a real memcached: what both answer is compared.
//!
//! Cas uniques differ, and are compared by whether there is one; a command that requires one is sent to each side with
//! what that side answered. `KUMO_FUZZ_ROUNDS` makes it longer, and a failure prints its seed.

use crate::client::Client;
use crate::fake::{Fake, Setup};
use kumofs::gateway::Config;
use kumofs::gateway::cache::Limits;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Rounds of a run in the gate; each is a few commands at once.
const ROUNDS: u64 = 1500;
/// Values of any size are cached.
const CACHE: Limits = Limits { bytes: 1 << 20, least_value: 0 };

fn rounds() -> u64 {
    std::env::var("KUMO_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS)
}

/// A memcached of the system's, on a socket of its own.
pub struct Memcached {
    process: Child,
    dir: tempfile::TempDir,
}

impl Memcached {
    /// As it is shipped. `None`, said aloud, when none is installed.
    pub fn start() -> Option<Memcached> {
        Memcached::start_with(&[])
    }

    /// One that moves no items about: it holds them then, and a number that is counted at that moment loses its T.
    pub fn start_still() -> Option<Memcached> {
        Memcached::start_with(&["-o", "no_lru_maintainer,no_lru_crawler"])
    }

    fn start_with(options: &[&str]) -> Option<Memcached> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("memcached");
        command.args(options).args(["-vv", "-t", "1", "-u", "root", "-s"]).arg(dir.path().join("socket"));
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(mut process) = started else {
            println!("SKIPPED: memcached is not installed");
            return None;
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|l| l.contains("listening"))), "memcached does not listen");
        // It stops when nobody reads what it logs.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Memcached { process, dir })
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Numbers that a seed gives.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A cas unique as it is generated, before each side puts in its own.
#[derive(Clone, Copy, Debug)]
enum Cas {
    None,
    /// What the side last answered for the key.
    Last,
    Wrong,
}

#[derive(Clone, Debug)]
struct Packet {
    opcode: u8,
    extras: Vec<u8>,
    key: Vec<u8>,
    data: Vec<u8>,
    cas: Cas,
    opaque: u32,
}

const NOOP: u8 = 0x0a;

impl Packet {
    fn bytes(&self, last: &HashMap<Vec<u8>, u64>) -> Vec<u8> {
        let cas = match self.cas {
            Cas::None => 0,
            Cas::Last => last.get(&self.key).copied().unwrap_or(1 << 60),
            Cas::Wrong => (1 << 61) + 1,
        };
        let body_len = self.extras.len() + self.key.len() + self.data.len();
        let mut out = vec![0x80, self.opcode];
        out.extend((self.key.len() as u16).to_be_bytes());
        out.extend([self.extras.len() as u8, 0, 0, 0]);
        out.extend((body_len as u32).to_be_bytes());
        out.extend(self.opaque.to_be_bytes());
        out.extend(cas.to_be_bytes());
        [out, self.extras.clone(), self.key.clone(), self.data.clone()].concat()
    }

    fn random(chance: &mut Chance, opaque: u32) -> Packet {
        let opcode = chance.of(&[
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x11, 0x12, 0x13, 0x14,
            0x15, 0x16, 0x19, 0x1a, 0x1c, 0x1d, 0x1e, 0x20, 0x21, 0x22, 0x23, 0x24, 0x01, 0x05, 0x15, 0x00, 0x10,
        ]);
        let key = chance.of(&[&b"one"[..], b"two", b"a key\r\n", b"\0\xff", b"n"]).to_vec();
        let data = chance.of(&[&b"1"[..], b"", b"41", b"18446744073709551615", b"word", b" 7 ", b"\r\n\0"]).to_vec();
        let cas = chance.of(&[Cas::None, Cas::None, Cas::None, Cas::Last, Cas::Wrong]);
        let flags = chance.of(&[0u32, 5, u32::MAX]);
        let plain = |extras: Vec<u8>, key: Vec<u8>, data: Vec<u8>| Packet { opcode, extras, key, data, cas, opaque };
        match opcode {
            0x01..=0x03 | 0x11..=0x13 => {
                plain([flags.to_be_bytes(), chance.of(&[0u32, 1000, u32::MAX]).to_be_bytes()].concat(), key, data)
            }
            0x05 | 0x06 | 0x15 | 0x16 => {
                let (delta, initial) = (chance.of(&[0u64, 1, 100, u64::MAX]), chance.of(&[0u64, 7, u64::MAX]));
                let exptime = chance.of(&[0u32, 1000, u32::MAX]);
                let extras = [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &exptime.to_be_bytes()].concat();
                plain(extras, b"n".to_vec(), vec![])
            }
            0x0e | 0x0f | 0x19 | 0x1a => plain(vec![], if key == b"n" { b"two".to_vec() } else { key }, data),
            0x1c..=0x1e | 0x23 | 0x24 => plain(chance.of(&[0u32, 1000, u32::MAX]).to_be_bytes().to_vec(), key, vec![]),
            0x0a | 0x0b | 0x20 => plain(vec![], vec![], vec![]),
            // memcached loses its place in the stream when a command that it does not serve has a body, but for SASL.
            0x21 | 0x22 => plain(vec![], b"PLAIN".to_vec(), data),
            0x10 => plain(vec![], b"nonsense".to_vec(), vec![]),
            _ => plain(vec![], key, vec![]),
        }
    }
}

/// An answer, and the cas unique in it, which is not compared.
fn read_packet(from: &mut impl Read) -> (Vec<u8>, u64) {
    let mut packet = vec![0; 24];
    from.read_exact(&mut packet).expect("an answer");
    let body_len = u32::from_be_bytes(packet[8..12].try_into().unwrap()) as usize;
    let cas = u64::from_be_bytes(packet[16..24].try_into().unwrap());
    packet[16..24].copy_from_slice(&u64::from(cas != 0).to_be_bytes());
    packet.resize(24 + body_len, 0);
    from.read_exact(&mut packet[24..]).expect("a body");
    // A number that got shorter is filled with spaces, in memcached only if nobody else has the item in hand just then.
    while packet.len() > 24 && packet.ends_with(b" ") {
        packet.pop();
    }
    let body_len = packet.len() as u32 - 24;
    packet[8..12].copy_from_slice(&body_len.to_be_bytes());
    if packet[1] == 0x0b {
        // The version.
        packet.truncate(8);
    }
    (packet, cas)
}

/// Sends a round, and reads its answers.
fn play(packets: &[Packet], on: &mut (impl Read + Write), last: &mut HashMap<Vec<u8>, u64>) -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.bytes(last)).collect();
    on.write_all(&bytes).unwrap();
    let mut answers = Vec::new();
    loop {
        let (answer, cas) = read_packet(on);
        let opaque = u32::from_be_bytes(answer.get(12..16).unwrap_or(&[0; 4]).try_into().unwrap());
        if let Some(packet) = packets.iter().find(|p| p.opaque == opaque && cas != 0) {
            last.insert(packet.key.clone(), cas);
        }
        let is_last = answer[1] == NOOP && opaque == u32::MAX;
        answers.push(answer);
        if is_last {
            return answers;
        }
    }
}

#[test]
fn random_binary_commands_are_answered_as_by_memcached() {
    compare_binary(Config::default());
}

#[test]
fn random_binary_commands_are_answered_as_by_memcached_where_values_are_cached() {
    compare_binary(Config { local_cache: CACHE, ..Config::default() });
}

fn compare_binary(config: Config) {
    let Some(memcached) = Memcached::start_still() else { return };
    let fake = Fake::start(Setup { server_workers: 2, config, ..Setup::default() });
    let (mut ours, mut theirs) = (Client::connect(fake.gateway).0, memcached.connect());
    let (mut our_cas, mut their_cas) = (HashMap::new(), HashMap::new());
    for seed in 1..=rounds() {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = 1 + chance.below(6) as u32;
        let mut packets: Vec<Packet> = (1..=len).map(|opaque| Packet::random(&mut chance, opaque)).collect();
        packets.push(Packet {
            opcode: NOOP,
            opaque: u32::MAX,
            cas: Cas::None,
            extras: vec![],
            key: vec![],
            data: vec![],
        });
        let ours = play(&packets, &mut ours, &mut our_cas);
        let theirs = play(&packets, &mut theirs, &mut their_cas);
        assert_eq!(ours, theirs, "seed {seed}: {packets:#?}");
    }
}

/// All that comes back for `bytes` and a noop, to the noop's answer or the end of the connection; and whether it ended.
fn transcript(on: &mut (impl Read + Write), bytes: &[u8]) -> (Vec<u8>, bool) {
    const LAST: [u8; 24] = [0x81, NOOP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'l', b'a', b's', b't', 0, 0, 0, 0, 0, 0, 0, 0];
    let mut noop = LAST;
    noop[0] = 0x80;
    // Who is hung up on may not be able to send all.
    let _ = on.write_all(bytes).and_then(|()| on.write_all(&noop));
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(&LAST) {
        match on.read(&mut piece) {
            Ok(0) => return (answer, true),
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return (answer, true),
            Err(e) => panic!("{e}: {answer:?}"),
        }
    }
    (answer, false)
}

#[test]
fn malformed_packets_get_the_status_of_memcached_and_end_the_connection_where_it_does() {
    let Some(memcached) = Memcached::start_still() else { return };
    let fake = Fake::start(Setup::default());
    let packet = |opcode: u8, extras: &[u8], key: &[u8], data: &[u8]| {
        let (extras, key, data) = (extras.to_vec(), key.to_vec(), data.to_vec());
        Packet { opcode, extras, key, data, cas: Cas::None, opaque: 7 }.bytes(&HashMap::new())
    };
    let mut short_body = packet(0x00, b"", b"key", b"");
    short_body[11] = 2;
    let mut extras_over_body = packet(0x01, b"", b"", b"");
    extras_over_body[4] = 8;
    let mut other_magic = packet(NOOP, b"", b"", b"");
    other_magic[0] = 0x81;
    let store = [0; 8];
    let cases = [
        short_body,
        extras_over_body,
        [packet(NOOP, b"", b"", b""), other_magic].concat(),
        packet(0x00, b"", &[b'k'; 250], b""),
        packet(0x00, b"", &[b'k'; 251], b""),
        packet(0x0d, b"", &[b'k'; 251], b""),
        packet(0x01, &store, &[b'k'; 251], b"v"),
        packet(0x77, b"", &[b'k'; 251], b""),
        packet(0x77, b"", b"", b"data"),
        packet(0x00, b"", b"", b""),
        packet(0x00, b"1234", b"k", b""),
        packet(0x00, b"", b"k", b"data"),
        packet(0x01, &store, b"", b"v"),
        packet(0x01, b"", b"k", b"v"),
        packet(0x01, b"123456789", b"k", b"v"),
        packet(0x05, &[0; 20], b"k", b"v"),
        packet(0x04, b"", b"k", b"v"),
        packet(0x1c, b"", b"k", b""),
        packet(0x0e, b"1234", b"k", b"v"),
        packet(0x1a, b"", b"", b""),
        packet(NOOP, b"", b"k", b""),
        packet(0x0b, b"", b"k", b""),
        packet(0x08, b"12345", b"", b""),
        packet(0x18, &[0; 4], b"", b""),
        packet(0x10, b"abc", b"", b""),
        packet(0x10, b"", b"cachedump", b""),
        packet(0x10, b"", b"reset", b""),
        packet(0x20, b"", b"k", b""),
        packet(0x21, b"", b"", b"x"),
        packet(0x07, b"", b"", b""),
        packet(0x17, b"", b"", b""),
        packet(0x07, b"", b"", b"abc"),
        packet(0x11, &store, b"k", &vec![b'x'; 1 << 21]),
        packet(0x02, &store, b"k", &vec![b'x'; 1 << 21]),
        packet(0x0e, b"", b"k", &vec![b'x'; 1 << 21]),
    ];
    for bytes in cases {
        let ours = transcript(&mut Client::connect(fake.gateway).0, &bytes);
        let theirs = transcript(&mut memcached.connect(), &bytes);
        assert_eq!(ours, theirs, "{:?}", &bytes[..bytes.len().min(60)]);
    }
}

#[test]
fn the_first_byte_of_a_connection_says_what_it_speaks() {
    let fake = Fake::start(Setup::default());
    let mut client = Client::connect(fake.gateway);
    client.ask("set k 5 0 1\r\nv\r\n", "STORED\r\n");
    // On a connection of text it is a byte like any other.
    client.ask(b"\x80\r\n", "ERROR\r\n");
    let get = Packet { opcode: 0x0c, extras: vec![], key: b"k".to_vec(), data: vec![], cas: Cas::None, opaque: 1 };
    let mut client = Client::connect(fake.gateway);
    client.send(get.bytes(&HashMap::new()));
    let (answer, cas) = read_packet(&mut client.0);
    assert_eq!((&answer[24..], cas != 0), (&b"\0\0\0\x05kv"[..], true));
}

/// How many rounds with differences are shown.
const SHOWN_DIFFERENCES: usize = 12;

/// A line of text or meta, and its data; `{C}` stands for the cas unique that each side was last told of the key.
fn random_line(chance: &mut Chance) -> (Vec<u8>, &'static str) {
    let key = chance.of(&["one", "two", "n", "three"]);
    let number = key == "n";
    let data = if number { chance.of(&["1", "41", "18446744073709551615"]) } else { chance.of(&["", "word", "MN"]) };
    let exptime = chance.of(&["0", "1000", "-1", "2000"]);
    let mut line = match chance.below(16) {
        0 => format!("get {key}"),
        1 => format!("gets {key} nothing {key}"),
        2 => format!("gat {exptime} {key}"),
        3 => format!("touch {key} {exptime}"),
        4 if number => format!("{} n 1", chance.of(&["incr", "decr"])),
        5 => format!("delete {key}"),
        6 => {
            let verb = if number { "set" } else { chance.of(&["set", "add", "replace", "append", "prepend"]) };
            format!("{verb} {key} {} {exptime} {}\r\n{data}", chance.of(&[0, 7, u32::MAX]), data.len())
        }
        _ => return (meta_line(chance, key, data), key),
    };
    line += "\r\n";
    (line.into(), key)
}

/// Whether memcached may forget it when a number changes its length, or tell it by the spaces behind the number.
fn is_lost_by_counting(command: &str, flag: char) -> bool {
    matches!((command, flag), (_, 's' | 't' | 'I') | ("mg", 'N' | 'R'))
}

fn meta_line(chance: &mut Chance, key: &str, data: &str) -> Vec<u8> {
    let number = key == "n";
    let counts: &[&str] = if number { &["ma", "ma"] } else { &[] };
    let command = chance.of(&[&["mg", "mg", "mg", "ms", "ms", "md"], counts].concat());
    let base64 = key == "three";
    let mut words = vec![command.to_string(), if base64 { "dGhyZWU=".into() } else { key.into() }];
    if command == "ms" {
        words.push(data.len().to_string());
    }
    let mut flags = String::new();
    let usual: &[char] = match command {
        "mg" => &['N', 'T', 'R', 'O', 'k', 's', 't', 'c', 'f', 'v', 'u', 'q', 'R', 'v'],
        "ms" => &['T', 'F', 'C', 'M', 'I', 'O', 'k', 'c', 'q', 'I', 'C', 's'],
        "md" => &['C', 'I', 'T', 'O', 'k', 'q', 'I'],
        _ => &['D', 'J', 'N', 'T', 'C', 'M', 'O', 'k', 't', 'c', 'v', 'q'],
    };
    for _ in 0..chance.below(6) {
        let rare = chance.below(40) == 0;
        let flag = if rare { chance.of(&['z', 'P', 'L', 'v', '1', 'S', 'D', 'F']) } else { chance.of(usual) };
        if (flags.contains(flag) && chance.below(20) > 0) || (number && is_lost_by_counting(command, flag)) {
            continue;
        }
        flags.push(flag);
        let bad = chance.below(40) == 0;
        let token = match flag {
            // What is left of a time that has passed is told otherwise.
            'T' | 'N' if flags.contains('t') => chance.of(&["0", "1000", "30"]),
            't' if flags.contains(['T', 'N']) => continue,
            // It is told as it was when the value was stored.
            'k' if base64 && command == "mg" => continue,
            // Refused, too, but memcached has done it by then.
            'O' if command != "ms" && command != "md" => chance.of(&["abc", "", "1234567890123456789012345678901"]),
            _ if bad => chance.of(&["", "x", "9x", "-"]),
            'T' | 'N' => chance.of(&["0", "1000", "-1", "30", "500"]),
            // None of those: whether 500 is less than what is left of 500 depends on when a second ends.
            'R' => chance.of(&["0", "900", "-1", "20", "400"]),
            'O' => chance.of(&["abc", "", "1234567890123456789012345678901", "12345678901234567890123456789012"]),
            'F' => chance.of(&["0", "5", "4294967295"]),
            'C' => chance.of(&["{C}", "{C}", "1", "0"]),
            'D' | 'J' => chance.of(&["0", "1", "10", "18446744073709551615"]),
            'M' if command == "ms" && number => chance.of(&["S", "E", "R", "s"]),
            'M' if command == "ms" => chance.of(&["S", "E", "A", "P", "R", "s", "AA"]),
            'M' => chance.of(&["I", "+", "D", "-", "x"]),
            _ => "",
        };
        words.push(format!("{flag}{token}"));
    }
    if base64 {
        let at = if command == "ms" { 3 } else { 2 }
            + chance.below(words.len() as u64 - if command == "ms" { 2 } else { 1 }) as usize;
        words.insert(at.min(words.len()), "b".into());
    }
    let mut line = words.join(" ") + "\r\n";
    if command == "ms" {
        line += data;
        line += "\r\n";
    }
    line.into_bytes()
}

/// An answer without what may differ, and the cas unique in it.
fn plain_answer(answer: &[u8]) -> (String, Option<u64>) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let mut cas = None;
    let mut out = String::new();
    for line in text.split_inclusive("\r\n") {
        let mut words: Vec<String> = line.trim_end().split(' ').map(String::from).collect();
        match words[0].as_str() {
            "HD" | "VA" => {
                for word in &mut words[1..] {
                    let (letter, digits) = word.split_at(1.min(word.len()));
                    match (letter, digits.parse::<u64>()) {
                        ("c", Ok(unique)) => {
                            cas = Some(unique);
                            *word = "c".into();
                        }
                        ("t", Ok(secs)) => *word = format!("t{}", (secs + 5) / 10),
                        _ => {}
                    }
                }
                if words[0] == "VA" {
                    words.remove(1);
                }
            }
            "VALUE" => {
                if let Some(unique) = words.get(4) {
                    cas = unique.parse().ok();
                    words.truncate(5);
                    words[4] = "cas".into();
                }
                // The length, which spaces behind a number belong to.
                words[3].clear();
            }
            _ => {}
        }
        out += &words.join(" ");
        out += "\n";
    }
    (out, cas)
}

/// Sends lines, each with a noop behind it, and reads what each is answered.
fn play_lines(
    lines: &[(Vec<u8>, &'static str)],
    on: &mut (impl Read + Write),
    last: &mut HashMap<&'static str, u64>,
) -> Vec<String> {
    const END: &[u8] = b"MN\r\n";
    let mut bytes = Vec::new();
    for (line, key) in lines {
        let cas = last.get(key).copied().unwrap_or(3).to_string();
        let text = String::from_utf8_lossy(line).replace("{C}", &cas);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(b"mn\r\n");
    }
    on.write_all(&bytes).unwrap();
    let (mut received, mut answers, mut piece) = (Vec::new(), Vec::new(), [0; 4096]);
    while answers.len() < lines.len() {
        // A value that looks like the end has something before it: its line.
        let end = (0..received.len()).find(|at| {
            received[*at..].starts_with(END)
                && (*at == 0 || received[..*at].ends_with(b"\r\n"))
                && !is_data(&received[..*at])
        });
        if let Some(end) = end {
            let (answer, cas) = plain_answer(&received[..end]);
            if let Some(cas) = cas {
                last.insert(lines[answers.len()].1, cas);
            }
            answers.push(answer);
            received.drain(..end + END.len());
            continue;
        }
        let len = on.read(&mut piece).expect("an answer");
        assert!(len > 0, "hung up: {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..len]);
    }
    answers
}

fn show(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

/// Whether what comes behind `answer` is the data of a value.
fn is_data(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let last = text.trim_end_matches("\r\n").rsplit("\r\n").next().unwrap_or_default();
    let is_first = !text.trim_end_matches("\r\n").contains("\r\n");
    text.ends_with("\r\n")
        && !text.ends_with("\r\n\r\n")
        && ((last.starts_with("VA ") && is_first) || last.starts_with("VALUE "))
}

#[test]
fn random_lines_of_text_and_meta_are_answered_as_by_memcached() {
    compare_lines(Config::default());
}

#[test]
fn random_lines_of_text_and_meta_are_answered_as_by_memcached_where_values_are_cached() {
    compare_lines(Config { local_cache: CACHE, ..Config::default() });
}

fn compare_lines(config: Config) {
    let Some(memcached) = Memcached::start_still() else { return };
    let fake = Fake::start(Setup { server_workers: 2, config, ..Setup::default() });
    let (mut our_side, mut their_side) = (Client::connect(fake.gateway).0, memcached.connect());
    let (mut our_cas, mut their_cas) = (HashMap::new(), HashMap::new());
    let (mut different, mut history) = (Vec::new(), Vec::new());
    for seed in 1..=rounds() {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lines: Vec<_> = (0..=chance.below(6)).map(|_| random_line(&mut chance)).collect();
        let ours = play_lines(&lines, &mut our_side, &mut our_cas);
        let theirs = play_lines(&lines, &mut their_side, &mut their_cas);
        let first = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        if let Some(first) = first {
            let key = lines[first].1;
            let before = history.iter().filter(|((_, of), _)| *of == key).rev().take(6);
            let mut before: Vec<_> = before.map(|((line, _), answer)| format!("{line:?} {answer:?}")).collect();
            before.reverse();
            let shown: Vec<_> =
                lines[..=first].iter().filter(|(_, of)| *of == key).map(|(line, _)| show(line)).collect();
            let answers = (&ours[first], &theirs[first]);
            different.push(format!("seed {seed}: {before:#?} {shown:#?}\nours, theirs {answers:#?}"));
            if different.len() == SHOWN_DIFFERENCES {
                break;
            }
            // What is stored differs now, too.
            let deletes = ["one", "two", "n", "three"].map(|key| (format!("delete {key}\r\n").into_bytes(), key));
            play_lines(&deletes, &mut our_side, &mut our_cas);
            play_lines(&deletes, &mut their_side, &mut their_cas);
            history.clear();
        }
        let shown = lines.iter().map(|(line, key)| (show(line), *key));
        history.extend(shown.zip(ours));
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
