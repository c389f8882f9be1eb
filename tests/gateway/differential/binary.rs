//! Packets of the binary protocol.

use super::{CACHE, Chance, Memcached, PATIENCE, Sides, read_some, seeds, show};
use crate::client::Client;
use crate::fake::{Fake, Setup};
use kumofs::gateway::Config;
use std::collections::HashMap;
use std::io::{Read, Write};

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
    /// Data type and virtual bucket, which memcached does not look at.
    ignored: [u8; 3],
    extras: Vec<u8>,
    key: Vec<u8>,
    data: Vec<u8>,
    cas: Cas,
    opaque: u32,
}

const NOOP: u8 = 0x0a;

impl Packet {
    fn plain(opcode: u8, extras: &[u8], key: &[u8], data: &[u8], opaque: u32) -> Packet {
        let (extras, key, data) = (extras.to_vec(), key.to_vec(), data.to_vec());
        Packet { opcode, ignored: [0; 3], extras, key, data, cas: Cas::None, opaque }
    }

    fn bytes(&self, last: &HashMap<Vec<u8>, u64>) -> Vec<u8> {
        let cas = match self.cas {
            Cas::None => 0,
            Cas::Last => last.get(&self.key).copied().unwrap_or(1 << 60),
            Cas::Wrong => (1 << 61) + 1,
        };
        let body_len = self.extras.len() + self.key.len() + self.data.len();
        let mut out = vec![0x80, self.opcode];
        out.extend((self.key.len() as u16).to_be_bytes());
        out.push(self.extras.len() as u8);
        out.extend(self.ignored);
        out.extend((body_len as u32).to_be_bytes());
        out.extend(self.opaque.to_be_bytes());
        out.extend(cas.to_be_bytes());
        [out, self.extras.clone(), self.key.clone(), self.data.clone()].concat()
    }

    fn random(chance: &mut Chance, opaque: u32) -> Packet {
        let opcode = chance.of(&[
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x11, 0x12, 0x13, 0x14,
            0x15, 0x16, 0x19, 0x1a, 0x1c, 0x1d, 0x1e, 0x20, 0x21, 0x22, 0x23, 0x24, 0x01, 0x05, 0x15, 0x00, 0x10, 0x08,
            0x18, 0x1b, 0x30, 0xff,
        ]);
        let key = chance.of(&[&b"one"[..], b"two", b"a key\r\n", b"\0\xff", b"n"]).to_vec();
        let data = chance.of(&[&b"1"[..], b"", b"41", b"18446744073709551615", b"word", b" 7 ", b"\r\n\0"]).to_vec();
        let cas = chance.of(&[Cas::None, Cas::None, Cas::None, Cas::Last, Cas::Wrong]);
        let flags = chance.of(&[0u32, 5, u32::MAX]);
        let ignored = chance.of(&[[0, 0, 0], [0, 0, 0], [1, 0, 0], [0xff, 0xff, 0xff]]);
        let plain =
            |extras: Vec<u8>, key: Vec<u8>, data: Vec<u8>| Packet { opcode, ignored, extras, key, data, cas, opaque };
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
            0x08 | 0x18 => plain(chance.of(&[&b""[..], &[0; 4]]).to_vec(), vec![], vec![]),
            // One that is not known has no body: memcached loses its place in the stream behind it.
            0x0a | 0x0b | 0x20 | 0x1b | 0x30 | 0xff => plain(vec![], vec![], vec![]),
            // Of what is not served, these alone may have one.
            0x21 | 0x22 => plain(vec![], b"PLAIN".to_vec(), data),
            0x10 => {
                plain(vec![], chance.of(&[&b"nonsense"[..], b"resetting", b"conns", b"detail offer"]).to_vec(), vec![])
            }
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

/// Whether a packet says what a single memcached has no occasion to say.
fn tells_of_trouble(packet: &[u8]) -> bool {
    matches!(packet.get(6..8), Some([0, 0x84..=0x86]))
}

fn compare_binary(config: Config) {
    let Some(mut sides) = Sides::start(&config, PATIENCE) else { return };
    for seed in seeds() {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = 1 + chance.below(6) as u32;
        let mut packets: Vec<Packet> = (1..=len).map(|opaque| Packet::random(&mut chance, opaque)).collect();
        packets.push(Packet::plain(NOOP, &[], b"", b"", u32::MAX));
        let ours = play(&packets, &mut sides.ours, &mut sides.our_cas);
        if ours.iter().any(|packet| tells_of_trouble(packet)) {
            sides.start_over(&config);
            continue;
        }
        let theirs = play(&packets, &mut sides.theirs, &mut sides.their_cas);
        let first = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        assert_eq!(
            ours,
            theirs,
            "seed {seed}: {packets:#?}\nours, theirs: {:?}",
            first.map(|(a, b)| (show(a), show(b)))
        );
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
        match read_some(on, &mut piece) {
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
        Packet::plain(opcode, extras, key, data, 7).bytes(&HashMap::new())
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
        packet(0x10, b"", b"resetting", b""),
        packet(0x10, b"", b"conns", b""),
        packet(0x10, b"", b"detail off and on", b""),
        packet(0x10, b"", b"detail  on", b""),
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
    let get = Packet::plain(0x0c, &[], b"k", b"", 1);
    let mut client = Client::connect(fake.gateway);
    client.send(get.bytes(&HashMap::new()));
    let (answer, cas) = read_packet(&mut client.0);
    assert_eq!((&answer[24..], cas != 0), (&b"\0\0\0\x05kv"[..], true));
}
