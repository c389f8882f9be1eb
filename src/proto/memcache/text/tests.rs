use super::*;
use crate::proto::memcache::Reply;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: Limits = Limits { value_bytes: 1000, get_line_bytes: 8192, key_bytes: 250 };

fn keys<'a>(area: &'a [u8]) -> Keys<'a> {
    Keys::split(area, &LIMITS).unwrap()
}

/// One of each command, with what it means.
fn commands() -> Vec<(&'static [u8], Request<'static>)> {
    let store =
        |verb, noreply| Request::Store { verb, key: b"k", flags: 5, exptime: -6, data: b"a\r\nb", cas: 0, noreply };
    let get_and_touch = |with_cas| Request::GetAndTouch { exptime: 60, keys: keys(b"a bb"), with_cas };
    let count = |direction| Request::Count { direction, key: b"k", delta: 7, cas: 0, create: None, noreply: false };
    vec![
        (b"get a\r\n", Request::Get { keys: keys(b"a"), with_cas: false }),
        (b"gets a bb a\r\n", Request::Get { keys: keys(b"a bb a"), with_cas: true }),
        (b"gat 60 a bb\r\n", get_and_touch(false)),
        (b"gats 60 a bb\r\n", get_and_touch(true)),
        (b"set k 5 -6 4\r\na\r\nb\r\n", store(Verb::Set, false)),
        (b"set k 5 -6 4 noreply\r\na\r\nb\r\n", store(Verb::Set, true)),
        (b"add k 5 -6 4\r\na\r\nb\r\n", store(Verb::Add, false)),
        (b"replace k 5 -6 4\r\na\r\nb\r\n", store(Verb::Replace, false)),
        (b"append k 5 -6 4\r\na\r\nb\r\n", store(Verb::Append, false)),
        (b"prepend k 5 -6 4\r\na\r\nb\r\n", store(Verb::Prepend, false)),
        (b"cas k 5 -6 4 99\r\na\r\nb\r\n", store(Verb::Cas(99), false)),
        (b"cas k 5 -6 4 99 noreply\r\na\r\nb\r\n", store(Verb::Cas(99), true)),
        (b"delete k\r\n", Request::Delete { key: b"k", cas: 0, noreply: false }),
        (b"delete k 0 noreply\r\n", Request::Delete { key: b"k", cas: 0, noreply: true }),
        (b"incr k 7\r\n", count(Direction::Up)),
        (b"decr k 7\r\n", count(Direction::Down)),
        (b"touch k 60 noreply\r\n", Request::Touch { key: b"k", exptime: 60, noreply: true }),
        (b"flush_all\r\n", Request::FlushAll { delay: 0, noreply: false }),
        (b"flush_all 9 noreply\r\n", Request::FlushAll { delay: 9, noreply: true }),
        (b"stats\r\n", Request::Stats(StatsTopic::General)),
        (b"stats settings\r\n", Request::Stats(StatsTopic::Settings)),
        (b"version\r\n", Request::Version),
        (b"verbosity 1\r\n", Request::Verbosity { noreply: false }),
        (b"quit\r\n", Request::Quit),
    ]
}

#[test]
fn each_command_means_what_it_says() {
    for (text, request) in commands() {
        let used_bytes = text.len();
        assert_eq!(parse(text, &LIMITS), Parsed::Request { request, used_bytes }, "{}", text.escape_ascii());
    }
}

#[test]
fn every_beginning_of_a_command_is_incomplete() {
    for (text, _) in commands() {
        for cut in 0..text.len() {
            match parse(&text[..cut], &LIMITS) {
                Parsed::Incomplete { needed_bytes } => {
                    assert!(needed_bytes > cut && needed_bytes <= text.len(), "{} cut at {cut}", text.escape_ascii());
                }
                other => panic!("{} cut at {cut}: {other:?}", text.escape_ascii()),
            }
        }
    }
}

#[test]
fn what_follows_a_command_does_not_change_it() {
    let all = commands();
    for (text, request) in &all {
        for (next, _) in &all {
            let both = [*text, *next].concat();
            let parsed = parse(&both, &LIMITS);
            assert_eq!(parsed, Parsed::Request { request: request.clone(), used_bytes: text.len() });
        }
    }
}

#[test]
fn a_store_says_how_many_bytes_it_needs() {
    assert_eq!(parse(b"set k 0 0 900\r\n", &LIMITS), Parsed::Incomplete { needed_bytes: 15 + 900 + 2 });
    assert_eq!(parse(b"set k 0 0 900\r\nabc", &LIMITS), Parsed::Incomplete { needed_bytes: 15 + 900 + 2 });
}

#[test]
fn data_over_the_limit_is_swallowed_before_it_has_come() {
    let swallow = |stale_key| Then::Swallow { bytes: 1003, stale_key };
    let refused = |reply, used_bytes, then| Parsed::Refused { reply, used_bytes, then };
    let too_large = Some(Trouble::TooLarge);
    assert_eq!(
        parse(b"set k 0 0 1001\r\n", &LIMITS),
        refused(too_large, 16, swallow(Some(StaleKey { key: b"k", base64: false })))
    );
    assert_eq!(parse(b"add k 0 0 1001\r\nabc", &LIMITS), refused(too_large, 16, swallow(None)));
    assert_eq!(
        parse(b"set k 0 0 1001 noreply\r\n", &LIMITS),
        refused(None, 24, swallow(Some(StaleKey { key: b"k", base64: false })))
    );
    assert_eq!(parse(b"cas k 0 0 2147483645 1\r\n", &LIMITS), {
        refused(too_large, 24, Then::Swallow { bytes: 2147483647, stale_key: None })
    });
    assert!(matches!(parse(b"set k 0 0 1000\r\n", &LIMITS), Parsed::Incomplete { .. }));
}

#[test]
fn an_unfinished_line_is_waited_for_up_to_its_limit() {
    let closed = |reply, used_bytes| Parsed::Refused { reply, used_bytes, then: Then::Close };
    for (command, limit, reply) in [
        (&b"set "[..], 2048, None),
        (b"xxxx", 2048, None),
        (b"get ", 8192, Some(Trouble::LineTooLong)),
        (b"gats 0 ", 8192, Some(Trouble::LineTooLong)),
    ] {
        let mut line = command.to_vec();
        line.resize(limit, b'x');
        assert_eq!(parse(&line, &LIMITS), Parsed::Incomplete { needed_bytes: limit + 1 });
        line.push(b'x');
        assert_eq!(parse(&line, &LIMITS), closed(reply, limit + 1));
    }
}

/// Words that a client may send as a key.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![b'!'..=b'~', 0x80..=0xff_u8], 1..=250)
}

proptest! {
    #[test]
    fn a_store_is_read_as_it_was_written(
        key in key(), flags: u32, exptime: i64, cas: u64, noreply: bool, data in vec(any::<u8>(), 0..1000),
    ) {
        let mut text = b"cas ".to_vec();
        text.extend_from_slice(&key);
        let tail = if noreply { " noreply" } else { "" };
        text.extend(format!(" {flags} {exptime} {} {cas}{tail}\r\n", data.len()).bytes());
        text.extend_from_slice(&data);
        text.extend_from_slice(b"\r\n");
        let request =
            Request::Store { verb: Verb::Cas(cas), key: &key, flags, exptime, data: &data, cas: 0, noreply };
        let parsed = parse(&text, &LIMITS);
        prop_assert_eq!(parsed, Parsed::Request { request, used_bytes: text.len() });
    }

    #[test]
    fn a_retrieval_is_read_as_it_was_written(keys in vec(key(), 1..50)) {
        let text = [b"get ", &keys.join(&b' ')[..], b"\r\n"].concat();
        match parse(&text, &LIMITS) {
            Parsed::Request { request: Request::Get { keys: read, with_cas: false }, used_bytes } => {
                prop_assert_eq!(used_bytes, text.len());
                prop_assert_eq!(read.len(), keys.len());
                prop_assert!(read.eq(keys.iter().map(|k| &k[..])));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

fn encoded(reply: Reply<'_>) -> String {
    let mut out = Vec::new();
    encode(&reply, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn replies_are_memcached_lines() {
    let value = |cas| Reply::Value { key: b"k", flags: u32::MAX, cas, data: b"abc" };
    assert_eq!(encoded(value(None)), "VALUE k 4294967295 3\r\nabc\r\n");
    assert_eq!(encoded(value(Some(u64::MAX))), "VALUE k 4294967295 3 18446744073709551615\r\nabc\r\n");
    assert_eq!(encoded(Reply::Stat { name: "pid", value: "7" }), "STAT pid 7\r\n");
    assert_eq!(encoded(Reply::Version("1.0.0")), "VERSION 1.0.0\r\n");
    assert_eq!(encoded(Reply::Number(0)), "0\r\n");
    assert_eq!(encoded(Reply::Trouble(Trouble::NoServer)), "SERVER_ERROR no server reachable\r\n");
}

/// `cargo test --release --lib speed_of_the_text_protocol -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn speed_of_the_text_protocol() {
    let get = b"get key:0123456789abcdef\r\n".to_vec();
    let set = [&b"set key:0123456789abcdef 0 0 100\r\n"[..], &[b'v'; 100], b"\r\n"].concat();
    let many = [&b"get"[..], &b" key:0123456789abcdef".repeat(20), b"\r\n"].concat();
    for (name, command) in [("get", get), ("set", set), ("get of 20 keys", many)] {
        let pipelined = command.repeat(64);
        let mut touched = 0;
        let mut parsed_count = 0u32;
        let start = std::time::Instant::now();
        while parsed_count < 5_000_000 {
            let mut rest = std::hint::black_box(&pipelined[..]);
            while let Parsed::Request { request, used_bytes } = parse(rest, &Limits::default()) {
                touched += match request {
                    Request::Get { keys, .. } => keys.map(|key| usize::from(key[0]) + key.len()).sum::<usize>(),
                    Request::Store { key, data, .. } => key.len() + data.len(),
                    _ => 0,
                };
                parsed_count += 1;
                rest = &rest[used_bytes..];
            }
        }
        let ns = start.elapsed().as_nanos() as f64 / f64::from(parsed_count);
        println!("{name}: {ns:.1} ns ({touched})");
    }
    let (data, mut out) = ([b'v'; 100], Vec::new());
    let start = std::time::Instant::now();
    for i in 0..5_000_000u64 {
        if i % 64 == 0 {
            out.clear();
        }
        encode(&Reply::Value { key: b"key:0123456789abcdef", flags: 0, cas: None, data: &data }, &mut out);
        encode(&Reply::End, &mut out);
    }
    println!("value and end: {:.1} ns ({})", start.elapsed().as_nanos() as f64 / 5e6, out.len());
}
