//! Reads stories (what is sent, what is answered; see `tests/vectors/text.txt`) and plays them to any server.

// Every test binary compiles this for itself, and not each uses all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fmt::Write as _;

/// One end of a connection that a story is played on.
pub trait Conversation {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]);
    /// Appends what is answered; false when the connection has ended, or nothing came for too long.
    fn receive(&mut self, into: &mut Vec<u8>) -> bool;
    /// Whether the server has closed the connection without sending more.
    fn is_closed(&mut self) -> bool;
}

/// Who a story is played to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Kumofs,
    Memcached,
}

#[derive(Debug)]
pub struct Story {
    pub name: String,
    only: Option<Side>,
    /// Whether it takes meta commands, and not the parser alone.
    pub is_meta: bool,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Send(String),
    Expect(String),
    Closed,
}

impl Story {
    pub fn is_for(&self, side: Side) -> bool {
        self.only.is_none_or(|only| only == side)
    }

    /// Everything that is sent, for tests that only want bytes to parse; names are left as they stand.
    pub fn sent(&self) -> Vec<u8> {
        let texts = self.steps.iter().filter_map(|s| if let Step::Send(text) = s { Some(text) } else { None });
        texts.flat_map(|text| unescape(text, &HashMap::new())).collect()
    }
}

/// Reads a file of stories.
pub fn read(text: &str) -> Vec<Story> {
    let mut stories: Vec<Story> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("== ") {
            stories.push(Story { name: name.to_owned(), only: None, is_meta: false, steps: Vec::new() });
            continue;
        }
        let story = stories.last_mut().expect("a file begins with a story");
        match (line, story.steps.last_mut()) {
            ("@kumofs", _) => story.only = Some(Side::Kumofs),
            ("@memcached", _) => story.only = Some(Side::Memcached),
            ("@meta", _) => story.is_meta = true,
            ("...", _) => story.steps.push(Step::Expect(String::new())),
            ("< (closed)", _) => story.steps.push(Step::Closed),
            (_, Some(Step::Send(text))) if line.starts_with("> ") => text.push_str(&line[2..]),
            (_, Some(Step::Expect(text))) if line.starts_with("< ") => text.push_str(&line[2..]),
            _ if line.starts_with("> ") => story.steps.push(Step::Send(line[2..].to_owned())),
            _ if line.starts_with("< ") => story.steps.push(Step::Expect(line[2..].to_owned())),
            _ => panic!("not a line of a story: {line}"),
        }
    }
    stories
}

/// Plays a story; panics where the server does not answer as told.
pub fn play(story: &Story, conversation: &mut dyn Conversation) {
    let mut names = HashMap::new();
    let mut got = Vec::new();
    for step in &story.steps {
        match step {
            Step::Send(text) => conversation.send(&unescape(text, &names)),
            Step::Expect(text) => expect(story, text, &mut names, &mut got, conversation),
            Step::Closed => {
                assert!(got.is_empty(), "{}: more than expected: {}", story.name, show(&got));
                assert!(conversation.is_closed(), "{}: the connection is not closed", story.name);
                return;
            }
        }
    }
    conversation.send(b"version\r\n");
    expect(story, "VERSION {version}\\r\\n", &mut names, &mut got, conversation);
    assert!(got.is_empty(), "{}: more than expected: {}", story.name, show(&got));
}

/// Receives what `text` says, and takes it off `got`.
fn expect(
    story: &Story,
    text: &str,
    names: &mut HashMap<String, Vec<u8>>,
    got: &mut Vec<u8>,
    conversation: &mut dyn Conversation,
) {
    loop {
        match compare(text, names, got) {
            Compared::Same(len) => {
                got.drain(..len);
                return;
            }
            Compared::Shorter if conversation.receive(got) => {}
            Compared::Shorter | Compared::Different => {
                panic!("{}:\n expected {text}\n got      {}", story.name, show(got));
            }
        }
    }
}

enum Compared {
    /// The first bytes are as told.
    Same(usize),
    /// So far as told, but not all.
    Shorter,
    Different,
}

fn compare(text: &str, names: &mut HashMap<String, Vec<u8>>, got: &[u8]) -> Compared {
    let mut at = 0;
    for part in parts(text) {
        let want = match part {
            Part::Name(name) if !names.contains_key(name) => {
                let Some(len) = got[at..].iter().position(|b| b" \r\n".contains(b)) else {
                    return Compared::Shorter;
                };
                names.insert(name.to_owned(), got[at..at + len].to_vec());
                at += len;
                continue;
            }
            part => part.bytes(names),
        };
        let have = &got[at..got.len().min(at + want.len())];
        if !want.starts_with(have) {
            return Compared::Different;
        }
        if have.len() < want.len() {
            return Compared::Shorter;
        }
        at += want.len();
    }
    Compared::Same(at)
}

enum Part<'a> {
    /// Bytes, escaped.
    Bytes(&'a str),
    Repeated(usize, &'a str),
    Name(&'a str),
}

impl Part<'_> {
    fn bytes(&self, names: &HashMap<String, Vec<u8>>) -> Vec<u8> {
        match self {
            Part::Bytes(text) => unescape_bytes(text),
            Part::Repeated(times, text) => unescape(text, names).repeat(*times),
            Part::Name(name) => names.get(*name).cloned().unwrap_or_default(),
        }
    }
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        parts.push(Part::Bytes(&rest[..open]));
        let mut depth = 0;
        let close = rest[open..]
            .char_indices()
            .find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            })
            .map(|(i, _)| open + i)
            .expect("a brace is closed");
        let inner = &rest[open + 1..close];
        parts.push(match inner.split_once('*') {
            Some((times, what)) => Part::Repeated(times.parse().expect("times"), what),
            None => Part::Name(inner),
        });
        rest = &rest[close + 1..];
    }
    parts.push(Part::Bytes(rest));
    parts
}

fn unescape(text: &str, names: &HashMap<String, Vec<u8>>) -> Vec<u8> {
    parts(text).iter().flat_map(|part| part.bytes(names)).collect()
}

fn unescape_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'\\' => match left.next().expect("something is escaped") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [left.next(), left.next()].map(|d| d.expect("two digits") as char);
                    u8::from_str_radix(&String::from_iter(digits), 16).expect("hexadecimal digits")
                }
                other => other,
            },
            other => other,
        });
    }
    bytes
}

/// Bytes for people; the middle of long ones is left out.
fn show(bytes: &[u8]) -> String {
    const HALF: usize = 200;
    let mut shown = bytes[..bytes.len().min(HALF)].escape_ascii().to_string();
    if bytes.len() > HALF {
        let tail = bytes[HALF..].iter().skip((bytes.len() - HALF).saturating_sub(HALF)).copied().collect::<Vec<_>>();
        let _ = write!(shown, " ({} bytes) {}", bytes.len(), tail.escape_ascii());
    }
    shown
}
