use super::*;
use crate::proto::memcache::text::{self, Parsed, StaleKey, Then};
use crate::proto::memcache::{Limits, Request};

const LIMITS: Limits = Limits { value_bytes: 1000, get_line_bytes: 8192, key_bytes: 250 };

fn meta(line: &[u8]) -> Meta<'_> {
    match text::parse(line, &LIMITS) {
        Parsed::Request { request: Request::Meta(meta), used_bytes } if used_bytes == line.len() => meta,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_line_says_what_is_asked() {
    let get = meta(b"mg  key v  T30 Oabc N-1 \r\n");
    assert_eq!((get.key, get.form.value, get.form.quiet, get.form.base64), (&b"key"[..], true, false, false));
    assert_eq!((get.exptime(b'T'), get.exptime(b'N'), get.exptime(b'R')), (Some(30), Some(-1), None));
    assert!(get.place(b'T') < get.place(b'N') && get.has(b'O') && !get.has(b'k'));
    let set = meta(b"ms a2V5 4 b q MA F7 C99\r\nda\r\n\r\n");
    assert_eq!((set.data, set.mode(), set.client_flags()), (&b"da\r\n"[..], Mode::Append, 7));
    assert_eq!((set.number(b'C'), set.form.quiet), (Some(99), true));
    let mut key = Vec::new();
    set.write_key(&mut key);
    assert_eq!(key, b"key");
    assert_eq!(meta(b"ma n D5 M-\r\n").mode(), Mode::Down);
    assert_eq!(meta(b"me a2V5 b\r\n").form.command, Command::Debug);
}

#[test]
fn every_beginning_of_a_command_is_incomplete() {
    let line = b"ms k 5 T0 q\r\nabc\r\n\r\n";
    for cut in 0..line.len() {
        assert!(matches!(text::parse(&line[..cut], &LIMITS), Parsed::Incomplete { .. }), "cut at {cut}");
    }
}

#[test]
fn of_several_bad_tokens_the_last_is_told_and_data_is_dropped() {
    for (line, trouble, then) in [
        (&b"mg k T Dx\r\n"[..], Trouble::Meta(Fault::BadDelta), Then::GoOn),
        (b"mg k Dx T\r\n", Trouble::Meta(Fault::BadToken), Then::GoOn),
        (b"mg k Tx Fx\r\n", Trouble::Meta(Fault::BadToken), Then::GoOn),
        (b"mg k F4294967296\r\n", Trouble::BadFormat, Then::GoOn),
        (b"mg k Tx v v\r\n", Trouble::Meta(Fault::DuplicateFlag), Then::GoOn),
        (b"mg k \xff\r\n", Trouble::Meta(Fault::DuplicateFlag), Then::GoOn),
        (b"mg k z\r\n", Trouble::Meta(Fault::InvalidFlag), Then::GoOn),
        (b"ma k z\r\n", Trouble::Meta(Fault::BadFlag), Then::GoOn),
        (b"mg Zg=  b\r\n", Trouble::Meta(Fault::BadKey), Then::GoOn),
        (b"mg\r\n", Trouble::NoCommand, Then::GoOn),
        (b"me\r\n", Trouble::BadFormat, Then::GoOn),
        (b"ms k\r\n", Trouble::BadFormat, Then::GoOn),
        (b"ms k -1\r\n", Trouble::BadFormat, Then::GoOn),
        (b"ms k 2 MX\r\n", Trouble::Meta(Fault::BadSetMode), Then::Swallow { bytes: 4, stale_key: None }),
        (b"ma k MS\r\n", Trouble::Meta(Fault::BadArithmeticMode), Then::GoOn),
        (
            b"ms Zm9v 1001 b\r\n",
            Trouble::TooLarge,
            Then::Swallow { bytes: 1003, stale_key: Some(StaleKey { key: b"Zm9v", base64: true }) },
        ),
    ] {
        let expected = Parsed::Refused { reply: Some(trouble), used_bytes: line.len(), then };
        assert_eq!(text::parse(line, &LIMITS), expected, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn an_opaque_has_at_most_31_bytes_and_a_line_19_words() {
    let long = |bytes: usize| [b"mg k O", &vec![b'x'; bytes][..], b"\r\n"].concat();
    assert_eq!(meta(&long(31)).flags.len(), 32);
    let refused = |line: &[u8]| match text::parse(line, &LIMITS) {
        Parsed::Refused { reply, .. } => reply,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&long(32)), Some(Trouble::Meta(Fault::OpaqueTooLong)));
    let most = "k s t c f v h l u q I P L O1 T0 N0";
    assert_eq!(meta(format!("mg k {most} R0\r\n").as_bytes()).all().count(), 17);
    assert_eq!(meta(format!("ms k 0 {most}\r\n\r\n").as_bytes()).all().count(), 16);
    for (line, fault) in [
        (format!("mg k {most} R0 C0\r\n"), Fault::TooManyFlagsToGet),
        (format!("md k {most} R0 C0\r\n"), Fault::TooManyFlags),
        (format!("ms k 0 {most} C0\r\n"), Fault::TooManyFlags),
    ] {
        assert_eq!(refused(line.as_bytes()), Some(Trouble::Meta(fault)), "{line}");
    }
}
