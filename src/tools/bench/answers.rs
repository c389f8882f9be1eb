//! The server's answers: a buffer that is read into and taken apart piece by piece. Pure.
//!
//! Invariant: values are compared as they come and never gathered, so the buffer need not hold a whole answer. What
//! cannot be an answer ends the connection; an answer that is well formed but not what was asked for is an error.

use super::load::{Load, Request};
use memchr::memchr;

/// Bytes read at once.
const BUFFER_LEN: usize = 64 << 10;
/// Longest line a server may send: a key of 250 bytes and numbers, or an error message.
const MAX_LINE_LEN: usize = 2048;

/// How a request ended.
#[derive(PartialEq, Eq, Debug)]
pub enum Answer {
    /// A set was stored.
    Stored,
    /// So many of the keys asked for were there, with the right values.
    Values(u32),
    /// An error line, or not what was asked for.
    Wrong(String),
}

/// The receiving side of a connection.
#[derive(Debug)]
pub struct Answers {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    value: Option<Partial>,
    hits: u32,
    wrong: Option<String>,
}

/// A value that is being read.
#[derive(Debug)]
struct Partial {
    /// What to compare it with; `None` when it is already known to be wrong.
    key: Option<u32>,
    /// Bytes seen.
    at: usize,
    /// Bytes in all, with CR LF.
    len: usize,
}

impl Answers {
    /// An empty buffer.
    pub fn new() -> Answers {
        Answers { buf: vec![0; BUFFER_LEN], start: 0, end: 0, value: None, hits: 0, wrong: None }
    }

    /// Forgets what was received, for a new connection.
    pub fn reset(&mut self) {
        (self.start, self.end, self.value, self.hits, self.wrong) = (0, 0, None, 0, None);
    }

    /// Where to read to; never empty after all complete answers were taken.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buf[self.end..]
    }

    /// Says that `n` bytes of [`space`](Answers::space) were read to.
    pub fn filled(&mut self, n: usize) {
        self.end += n;
    }

    /// Whether bytes are left.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The answer to `request`; `None` when it is not complete. An error: the stream cannot be understood any more.
    pub fn next(&mut self, request: Request, load: &Load) -> Result<Option<Answer>, String> {
        loop {
            if self.value.is_some() && !self.take_value(load) {
                return Ok(None);
            }
            let received = &self.buf[self.start..self.end];
            let Some(newline) = memchr(b'\n', &received[..received.len().min(MAX_LINE_LEN)]) else {
                return if received.len() < MAX_LINE_LEN { Ok(None) } else { Err(not_an_answer(received)) };
            };
            let line = &received[..newline];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.start += newline + 1;
            let answer = match (request, line) {
                (Request::Set(_), b"STORED") => Answer::Stored,
                (Request::Get(_), b"END") => match self.wrong.take() {
                    None => Answer::Values(self.hits),
                    Some(wrong) => Answer::Wrong(wrong),
                },
                (Request::Get(_), [b'V', b'A', b'L', b'U', b'E', b' ', rest @ ..]) => {
                    let Some((key, len)) = parse_value_line(rest) else { return Err(not_an_answer(line)) };
                    self.hits += 1;
                    let (number, wrong) = check_value_line(key, len, request, self.hits, load);
                    self.value = Some(Partial { key: number, at: 0, len: len + 2 });
                    self.wrong = self.wrong.take().or(wrong);
                    continue;
                }
                (_, line) if is_error(line) => Answer::Wrong(shown(line)),
                (Request::Set(_), b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND") => Answer::Wrong(shown(line)),
                (_, line) => return Err(not_an_answer(line)),
            };
            (self.hits, self.wrong) = (0, None);
            return Ok(Some(answer));
        }
    }

    /// Compares what is there of the value being read; true when it is complete.
    fn take_value(&mut self, load: &Load) -> bool {
        let Some(value) = &mut self.value else { return true };
        let chunk = &self.buf[self.start..self.end];
        let chunk = &chunk[..chunk.len().min(value.len - value.at)];
        if value.key.is_some_and(|key| !load.value_matches(key, value.at, chunk)) {
            value.key = None;
            self.wrong.get_or_insert_with(|| "a value is not what kumobench stores".to_owned());
        }
        self.start += chunk.len();
        value.at += chunk.len();
        let complete = value.at == value.len;
        if complete {
            self.value = None;
        }
        complete
    }
}

/// The key and the length in `KEY FLAGS LENGTH [CAS]`.
fn parse_value_line(rest: &[u8]) -> Option<(&[u8], usize)> {
    let mut words = rest.split(|b| *b == b' ');
    let (key, _flags, len) = (words.next()?, words.next()?, words.next()?);
    let len = std::str::from_utf8(len).ok()?.parse::<u32>().ok()?;
    Some((key, usize::try_from(len).ok()?))
}

/// The number of the key, if the line is what the request demands; else what is wrong with it.
fn check_value_line(key: &[u8], len: usize, request: Request, hits: u32, load: &Load) -> (Option<u32>, Option<String>) {
    let asked = |n: &u32| matches!(request, Request::Get(set) if hits <= set.count && set.contains(*n, load.keys()));
    match load.key_number(key).filter(asked) {
        None => (None, Some(format!("a value for a key not asked for: {}", shown(key)))),
        Some(_) if len != load.value_size() => {
            (None, Some(format!("a value of {len} bytes instead of {}", load.value_size())))
        }
        number => (number, None),
    }
}

/// Whether a line is one of memcached's error lines.
fn is_error(line: &[u8]) -> bool {
    line == b"ERROR" || [&b"ERROR "[..], b"SERVER_ERROR", b"CLIENT_ERROR"].iter().any(|e| line.starts_with(e))
}

fn not_an_answer(bytes: &[u8]) -> String {
    format!("not a memcached answer: {}", shown(bytes))
}

/// The beginning of what was received, as printable text.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(80)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::bench::load::KeySet;

    const GET: Request = Request::Get(KeySet { base: 1, stride: 2, count: 2 });

    fn load() -> Load {
        Load::new(10, 2, 3, 2).unwrap()
    }

    /// Feeds `stream` in two pieces, cut at `cut`.
    fn answer(request: Request, stream: &[u8], cut: usize) -> Result<Option<Answer>, String> {
        let mut answers = Answers::new();
        for piece in [&stream[..cut], &stream[cut..]] {
            answers.space()[..piece.len()].copy_from_slice(piece);
            answers.filled(piece.len());
            match answers.next(request, &load()) {
                Ok(None) => {}
                done => {
                    assert!(answers.is_empty() || done.is_err());
                    return done;
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn answers_are_understood_at_every_cut_and_prefixes_are_incomplete() {
        let cases: [(Request, &[u8], Answer); 5] = [
            (Request::Set(1), b"STORED\r\n", Answer::Stored),
            (GET, b"END\r\n", Answer::Values(0)),
            (GET, b"VALUE 03 0 3\r\n03c\r\nEND\r\n", Answer::Values(1)),
            (GET, b"VALUE 01 0 3 77\r\n01c\r\nVALUE 03 5 3\r\n03c\r\nEND\r\n", Answer::Values(2)),
            (GET, b"SERVER_ERROR no server\r\n", Answer::Wrong("SERVER_ERROR no server".into())),
        ];
        for (request, stream, expected) in cases {
            for cut in 0..stream.len() {
                assert_eq!(answer(request, &stream[..cut], cut), Ok(None), "{}", stream.escape_ascii());
                assert_eq!(answer(request, stream, cut).unwrap().unwrap(), expected, "{}", stream.escape_ascii());
            }
        }
    }

    #[test]
    fn an_answer_for_another_request_is_wrong_but_the_connection_goes_on() {
        let cases: [(Request, &[u8]); 7] = [
            (GET, b"VALUE 02 0 3\r\n02c\r\nEND\r\n"),
            (GET, b"VALUE 01 0 4\r\n01cd\r\nEND\r\n"),
            (GET, b"VALUE 01 0 3\r\n03c\r\nEND\r\n"),
            (GET, b"VALUE other 0 3\r\n03c\r\nEND\r\n"),
            (GET, b"VALUE 01 0 3\r\n01c\r\nVALUE 03 0 3\r\n03c\r\nVALUE 03 0 3\r\n03c\r\nEND\r\n"),
            (Request::Set(1), b"NOT_STORED\r\n"),
            (Request::Set(1), b"ERROR\r\n"),
        ];
        for (request, stream) in cases {
            for cut in 0..stream.len() {
                let got = answer(request, stream, cut);
                assert!(matches!(got, Ok(Some(Answer::Wrong(_)))), "{}: {got:?}", stream.escape_ascii());
            }
        }
    }

    #[test]
    fn what_no_memcached_server_says_ends_the_connection() {
        let long = [b'x'; MAX_LINE_LEN + 1];
        let cases: [(Request, &[u8]); 6] = [
            (Request::Set(1), b"END\r\n"),
            (GET, b"STORED\r\n"),
            (GET, b"VALUE 01\r\n"),
            (GET, b"VALUE 01 0 99999999999\r\n"),
            (GET, b"HTTP/1.1 400 Bad Request\r\n"),
            (GET, &long),
        ];
        for (request, stream) in cases {
            assert!(answer(request, stream, 1).unwrap_err().starts_with("not a memcached answer"));
        }
    }
}
