use super::*;
use crate::proto::memcache::Reply;
use crate::proto::memcache::style::{self, Style};

const LIMITS: Limits = Limits { value_bytes: 10, get_line_bytes: 100, key_bytes: 250 };

/// A packet; its opaque is `opaq`.
fn packet(opcode: u8, extras: &[u8], key: &[u8], data: &[u8], cas: u64) -> Vec<u8> {
    let mut out = vec![MAGIC, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    out.extend(((extras.len() + key.len() + data.len()) as u32).to_be_bytes());
    out.extend(b"opaq");
    out.extend(cas.to_be_bytes());
    [&out[..], extras, key, data].concat()
}

fn answer(opcode: u8, reply: &Reply<'_>, cas: u64) -> Vec<u8> {
    let mut out = Vec::new();
    style::encode(Style::Binary(Head { opcode, opaque: *b"opaq" }), b"k", reply, cas, &mut out);
    out
}

#[test]
fn every_prefix_of_a_packet_is_incomplete() {
    let set = packet(opcode::SET, &[0, 0, 0, 5, 0, 0, 0, 0], b"k\n", b"value", 0);
    for cut in 0..set.len() {
        let (_, parsed) = parse(&set[..cut], &LIMITS);
        let Parsed::Incomplete { needed_bytes } = parsed else { panic!("cut at {cut}: {parsed:?}") };
        assert!(needed_bytes > cut && needed_bytes <= set.len());
    }
    let (head, parsed) = parse(&set, &LIMITS);
    assert_eq!(head, Head { opcode: opcode::SET, opaque: *b"opaq" });
    let request =
        Request::Store { verb: Verb::Set, key: b"k\n", flags: 5, exptime: 0, data: b"value", cas: 0, noreply: false };
    assert_eq!(parsed, Parsed::Request { request, used_bytes: set.len() });
}

#[test]
fn lengths_that_do_not_fit_are_told_by_the_head_alone_and_close() {
    let mut short_body = packet(opcode::GET, b"", b"key", b"", 0);
    short_body[11] = 2;
    let mut long_key = packet(opcode::GET, b"", b"k", b"", 0);
    (long_key[3], long_key[11]) = (251, 251);
    for (packet, trouble) in [
        (short_body, Trouble::NoCommand),
        (long_key, Trouble::BadFormat),
        (packet(opcode::GET, b"", b"", b"", 0), Trouble::BadFormat),
        (packet(opcode::GET, b"1234", b"k", b"", 0), Trouble::BadFormat),
        (packet(opcode::SET, b"", b"k", b"v", 0), Trouble::BadFormat),
        (packet(opcode::NOOP, b"", b"k", b"", 0), Trouble::BadFormat),
        (packet(opcode::FLUSH, b"12345", b"", b"", 0), Trouble::BadFormat),
        (packet(opcode::SASL_AUTH, b"", b"", b"x", 0), Trouble::BadFormat),
    ] {
        let (_, parsed) = parse(&packet[..HEAD_BYTES], &LIMITS);
        let refused = Parsed::Refused { reply: Some(trouble), used_bytes: HEAD_BYTES, then: Then::Close };
        assert_eq!(parsed, refused, "{packet:?}");
    }
}

#[test]
fn what_is_not_known_is_skipped_and_the_connection_goes_on() {
    for opcode in [0x1b, opcode::SASL_LIST, 0x77, 0xff] {
        let packet = packet(opcode, b"", b"", b"", 0);
        let (_, parsed) = parse(&packet, &LIMITS);
        let then = Then::Swallow { bytes: 0, stale_key: None };
        let reply = Some(Trouble::NoCommand);
        assert_eq!(parsed, Parsed::Refused { reply, used_bytes: HEAD_BYTES, then });
    }
    let packet = packet(0x77, b"ex", b"k", b"data", 0);
    let (_, parsed) = parse(&packet, &LIMITS);
    let then = Then::Swallow { bytes: 7, stale_key: None };
    assert!(matches!(parsed, Parsed::Refused { then: t, .. } if t == then));
}

#[test]
fn data_over_the_limit_is_skipped_and_a_set_loses_what_was_there() {
    for (opcode, stale_key) in [(opcode::SETQ, Some(StaleKey { key: b"k", base64: false })), (opcode::ADD, None)] {
        let packet = packet(opcode, &[0; 8], b"k", &[b'x'; 11], 0);
        let (_, parsed) = parse(&packet[..HEAD_BYTES + 9], &LIMITS);
        let then = Then::Swallow { bytes: 11, stale_key };
        let reply = Some(Trouble::TooLarge);
        assert_eq!(parsed, Parsed::Refused { reply, used_bytes: HEAD_BYTES + 9, then });
    }
}

#[test]
fn another_magic_hangs_up() {
    let (_, parsed) = parse(b"get a\r\n", &LIMITS);
    assert_eq!(parsed, Parsed::Refused { reply: None, used_bytes: 7, then: Then::Close });
}

#[test]
fn counting_creates_unless_the_expiry_is_all_ones() {
    let count = |exptime: [u8; 4]| {
        let extras = [&7u64.to_be_bytes()[..], &3u64.to_be_bytes(), &exptime].concat();
        let packet = packet(opcode::DECREMENTQ, &extras, b"k", b"", 9);
        match parse(&packet, &LIMITS).1 {
            Parsed::Request { request: Request::Count { delta: 7, cas: 9, create, .. }, .. } => create,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(count([0, 0, 0, 60]), Some(Create { initial: 3, exptime: 60 }));
    assert_eq!(count([0xff; 4]), None);
}

#[test]
fn answers_repeat_opcode_and_opaque() {
    let value = Reply::Value { key: b"k", flags: 5, cas: Some(9), data: b"abc" };
    let getk =
        b"\x81\x0c\x00\x01\x04\x00\x00\x00\x00\x00\x00\x08opaq\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x05kabc";
    assert_eq!(answer(opcode::GETK, &value, 0), getk);
    let stored = b"\x81\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00opaq\x00\x00\x00\x00\x00\x00\x00\x07";
    assert_eq!(answer(opcode::SET, &Reply::Stored, 7), stored);
    let counted = answer(opcode::INCREMENT, &Reply::Number(258), 7);
    assert_eq!(counted[24..], [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(answer(opcode::GET, &Reply::NotFound, 0)[24..], *b"Not found");
    assert_eq!(answer(opcode::GETK, &Reply::NotFound, 0)[24..], *b"k");
    assert_eq!(answer(opcode::TOUCH, &value, 0)[24..], [0, 0, 0, 5]);
}

#[test]
fn quiet_commands_are_silent_about_the_usual_only() {
    let status = |opcode, reply: Reply<'_>| answer(opcode, &reply, 1).get(7).copied();
    assert_eq!(status(opcode::GETQ, Reply::NotFound), None);
    assert_eq!(status(opcode::GATKQ, Reply::NotFound), None);
    assert_eq!(status(opcode::SETQ, Reply::Stored), None);
    assert_eq!(status(opcode::DELETEQ, Reply::Deleted), None);
    assert_eq!(status(opcode::INCREMENTQ, Reply::Number(1)), None);
    assert_eq!(status(opcode::FLUSHQ, Reply::Ok), None);
    assert_eq!(status(opcode::DELETEQ, Reply::NotFound), Some(1));
    assert_eq!(status(opcode::ADDQ, Reply::NotStored), Some(2));
    assert_eq!(status(opcode::REPLACEQ, Reply::NotStored), Some(1));
    assert_eq!(status(opcode::APPENDQ, Reply::NotStored), Some(5));
    assert_eq!(status(opcode::GETQ, Reply::Trouble(Trouble::NoServer)), Some(0x86));
    assert_eq!(status(opcode::SETQ, Reply::Trouble(Trouble::Unknown)), Some(0x84));
}

#[test]
fn some_stats_are_named_by_how_their_name_begins() {
    for (key, topic) in [
        (&b""[..], StatsTopic::General),
        (b"settings, please", StatsTopic::Settings),
        (b"resetting", StatsTopic::Reset),
        (b"detail only", StatsTopic::Detail(Detail::On)),
        (b"detail dump", StatsTopic::Detail(Detail::Dump)),
        (b"detail", StatsTopic::Other),
        (b"items", StatsTopic::Items),
        (b"itemsize", StatsTopic::Other),
        (b"conns", StatsTopic::Other),
        (b"kumofs", StatsTopic::Kumofs),
    ] {
        let packet = packet(opcode::STAT, b"", key, b"", 0);
        let Parsed::Request { request, .. } = parse(&packet, &LIMITS).1 else { panic!("{key:?}") };
        assert_eq!(request, Request::Stats(topic));
    }
}
