//! What must hold for any bytes on a port that speaks memcached's protocols.

use kumofs::proto::memcache::text::{Parsed, Then, parse};
use kumofs::proto::memcache::{Limits, Request, binary, meta};

/// Small, so that short inputs reach them.
const LIMITS: Limits = Limits { value_bytes: 100, get_line_bytes: 4096, key_bytes: 240 };

/// The parser always gets on or asks for more, stays inside the buffer, and says the same however the bytes arrive.
pub fn fuzz_text(data: &[u8]) {
    let parse = |buf: &[u8]| after(&parse(buf, &LIMITS));
    let whole = outcomes(data, usize::MAX, parse);
    // A line over the limit is served when it is there to its end and ends the connection when it is not.
    if data.split(|b| *b == b'\n').all(|line| line.len() < Limits::LINE_BYTES) {
        let piece_bytes = 1 + usize::from(data.first().copied().unwrap_or(0) % 16);
        assert_eq!(outcomes(data, piece_bytes, parse), whole, "in pieces of {piece_bytes}");
    }
}

/// The same of binary packets, which end where their heads say.
pub fn fuzz_binary(data: &[u8]) {
    let parse = |buf: &[u8]| {
        let (head, parsed) = binary::parse(buf, &LIMITS);
        let after = after(&parsed);
        // What is told of a packet before all of it is there, its answer repeats; while more is needed it is not asked.
        After { shown: format!("{head:?} {}", after.shown), ..after }
    };
    let whole = outcomes(data, usize::MAX, parse);
    let piece_bytes = 1 + usize::from(data.first().copied().unwrap_or(0) % 16);
    let pieces = outcomes(data, piece_bytes, parse);
    assert_eq!(pieces, whole, "in pieces of {piece_bytes}");
}

/// Meta commands are lines as all others, and what they are made of can be read without trouble.
pub fn fuzz_meta(data: &[u8]) {
    fuzz_text(data);
    let Parsed::Request { request: Request::Meta(command), .. } = parse(data, &LIMITS) else { return };
    for (letter, _) in command.all() {
        assert!(command.has(letter));
        let _ = (command.place(letter), command.exptime(letter), command.number(letter));
    }
    let _ = (command.client_flags(), command.mode());
    let mut key = Vec::new();
    command.write_key(&mut key);
    assert!((1..=LIMITS.key_bytes).contains(&key.len()), "a key of {} bytes", key.len());
    let mut text = Vec::new();
    meta::base64::encode(&key, &mut text);
    let mut again = Vec::new();
    assert!(meta::base64::decode(&text, &mut again).is_some() && again == key, "a key of a base64 of its own");
}

/// What a parser said, as text, and how many bytes are behind it then: used, and to be swallowed.
struct After {
    shown: String,
    end: End,
}

enum End {
    Needs(usize),
    GoOn(usize, usize),
    Close,
}

fn after(parsed: &Parsed<'_>) -> After {
    let end = match parsed {
        Parsed::Incomplete { needed_bytes } => End::Needs(*needed_bytes),
        Parsed::Request { used_bytes, .. } => End::GoOn(*used_bytes, 0),
        Parsed::Refused { used_bytes, then: Then::GoOn, .. } => End::GoOn(*used_bytes, 0),
        Parsed::Refused { used_bytes, then: Then::Swallow { bytes, .. }, .. } => {
            End::GoOn(*used_bytes, *bytes as usize)
        }
        Parsed::Refused { then: Then::Close, .. } => End::Close,
    };
    // A connection that is closed takes all that is there with it, however much that is.
    let shown = match (parsed, &end) {
        (Parsed::Refused { reply, .. }, End::Close) => format!("closed: {reply:?}"),
        _ => format!("{parsed:?}"),
    };
    After { shown, end }
}

/// What the parser says of a connection's bytes that come `piece_bytes` at a time, as text.
fn outcomes(data: &[u8], piece_bytes: usize, parse: impl Fn(&[u8]) -> After) -> Vec<String> {
    let mut outcomes = Vec::new();
    let (mut start, mut end) = (0usize, 0usize);
    let mut needed = 1;
    while end < data.len() {
        end = end.saturating_add(piece_bytes).min(data.len());
        while end.saturating_sub(start) >= needed {
            let buf = &data[start..end];
            let after = parse(buf);
            let (used, swallow) = match after.end {
                End::Needs(needed_bytes) => {
                    assert!(needed_bytes > buf.len(), "more of the same is asked for");
                    needed = needed_bytes;
                    continue;
                }
                End::GoOn(used, swallow) => (used, swallow),
                End::Close => {
                    outcomes.push(after.shown);
                    return outcomes;
                }
            };
            assert!(used > 0 && used <= buf.len());
            outcomes.push(after.shown);
            start = start.saturating_add(used).saturating_add(swallow);
            needed = 1;
        }
    }
    outcomes
}

/// Every command in some of its forms, and lines that are almost one.
pub fn seeds() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 16] = [
        b"get a\r\nget a b c\r\ngets a b\r\n",
        b"gat 10 a\r\ngats -1 a b\r\n",
        b"set a 1 0 3\r\nabc\r\n",
        b"set a 4294967295 -1 0 noreply\r\n\r\nadd b 0 2592001 1\r\nx\r\n",
        b"replace a 0 0 2\r\nxy\r\nappend a 0 0 1\r\nz\r\nprepend a 0 0 1\r\nw\r\n",
        b"cas a 0 0 1 18446744073709551615\r\nx\r\ncas a 0 0 1 0 noreply\r\nx\r\n",
        b"delete a\r\ndelete a 0\r\ndelete a noreply\r\ndelete a 0 noreply\r\n",
        b"incr a 1\r\ndecr a 18446744073709551615 noreply\r\n",
        b"touch a 100\r\ntouch a -1 noreply\r\n",
        b"flush_all\r\nflush_all 10\r\nflush_all noreply\r\nflush_all -1 noreply\r\n",
        b"stats\r\nstats items\r\nstats reset\r\nversion\r\nverbosity 1\r\nverbosity 1 noreply\r\nquit\r\n",
        b"set a 0 0 101\r\n0123456789012345678901234567890123456789\r\n",
        b"set a 0 0 3\r\nabcd\r\nset a 0 0 3\r\nab\r\n",
        b"set kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk 0 0 -1\r\nset a b c d\r\nset a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\n \r\nget\0a\r\nget \t\r\n\x80\xff\r\n",
    ];
    lines.iter().map(|line| line.to_vec()).collect()
}

/// Every meta command, with flags of all kinds.
pub fn meta_seeds() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 10] = [
        b"mn\r\nmg a\r\nmg a v s t f c k q Oabc\r\nmn\r\n",
        b"mg a N30 R30 T0 v h l u\r\nmg YQ== b k v\r\n",
        b"ms a 3\r\nabc\r\nms a 3 T0 F5 C18446744073709551615 I\r\nabc\r\n",
        b"ms a 1 MA N10\r\nx\r\nms a 1 MP q\r\nx\r\nms a 1 ME\r\nx\r\nms a 1 MR\r\nx\r\n",
        b"md a\r\nmd a q C3 I T30 Oxyz k\r\n",
        b"ma a\r\nma a N0 J13 D2 v t c q\r\nma a MD D18446744073709551615\r\nma a M+\r\n",
        b"me a\r\nme AP8= b\r\n",
        b"ms a 101\r\n0123456789\r\nms AP8= 1 b S101\r\nx\r\n",
        b"mg a O12345678901234567890123456789012\r\nmg a T\r\nmg a T9x\r\nmg a z\r\nmg a v v\r\n",
        b"mg\r\nms a\r\nms a x\r\nms a -1\r\nmg YQ b\r\nmg = b\r\nma a Mx\r\n",
    ];
    lines.iter().map(|line| line.to_vec()).collect()
}

/// Every binary command, and lengths that contradict each other.
pub fn binary_seeds() -> Vec<Vec<u8>> {
    let packet = |opcode: u8, extras: &[u8], key: &[u8], data: &[u8]| {
        let mut out = vec![binary::MAGIC, opcode];
        out.extend((key.len() as u16).to_be_bytes());
        out.extend([extras.len() as u8, 0, 0, 0]);
        out.extend(((extras.len() + key.len() + data.len()) as u32).to_be_bytes());
        out.extend(*b"opaq");
        out.extend([0; 8]);
        [&out, extras, key, data].concat()
    };
    let gets = [0x00, 0x09, 0x0c, 0x0d].map(|opcode| packet(opcode, b"", b"key", b"")).concat();
    let stores = [0x01, 0x02, 0x03, 0x11, 0x12, 0x13].map(|opcode| packet(opcode, &[0; 8], b"key", b"data")).concat();
    let parts = [0x0e, 0x0f, 0x19, 0x1a].map(|opcode| packet(opcode, b"", b"key", b"data")).concat();
    let counts = [0x05, 0x06, 0x15, 0x16].map(|opcode| packet(opcode, &[0; 20], b"key", b"")).concat();
    let touches = [0x1c, 0x1d, 0x1e, 0x23, 0x24].map(|opcode| packet(opcode, &[0; 4], b"key", b"")).concat();
    let deletes = [0x04, 0x14].map(|opcode| packet(opcode, b"", b"\0\r\n\xff", b"")).concat();
    let plain = [0x08, 0x18, 0x0a, 0x0b, 0x10, 0x20, 0x07].map(|opcode| packet(opcode, b"", b"", b"")).concat();
    let unknown = [packet(0x77, b"", b"key", b"data"), packet(0x0a, b"", b"", b"")].concat();
    let mut short_body = packet(0x00, b"", b"key", b"");
    short_body[11] = 2;
    let mut huge_body = packet(0x01, &[0; 8], b"key", b"data");
    huge_body[8..12].fill(0xff);
    let too_large = packet(0x01, &[0; 8], b"key", &[b'x'; 101]);
    vec![gets, stores, parts, counts, touches, deletes, plain, unknown, short_body, huge_body, too_large]
}
