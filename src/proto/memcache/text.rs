//! The classic text protocol: a line of words, for stores a block of data after it.
//!
//! Source: memcached's protocol.txt, and memcached 1.6.18 as it behaves where that is silent; `tests/vectors/text.txt`
//! holds what was found out. [`parse`] decides nothing but the form: what it lets through is a [`Request`] to execute,
//! what it refuses carries the answer. It looks only at the first command of the buffer; call it again after what it
//! used. What it says does not depend on how the bytes arrived, with one exception, which is memcached's: a line over
//! [`Limits::LINE_BYTES`] is served when it is there to its end and ends the connection when it is not.

mod encode;
#[cfg(test)]
mod tests;

pub use encode::{encode, value_head};

use super::request::Spaces;
use super::{Detail, Keys, Limits, Request, StatsTopic, Trouble, Verb, meta};
use crate::logic::counter::Direction;
use crate::logic::decimal::{parse_i64, parse_u32, parse_u64};
use memchr::{memchr, memchr2};

/// The longest data that memcached accepts as a length at all; beyond it the line is malformed.
const MAX_LENGTH: i64 = i32::MAX as i64 - 2;
/// Spaces before a retrieval that memcached puts up with in a long line.
const MAX_LEADING_SPACES: usize = 100;
/// Most words in any command whose words are counted (cas with noreply), not counting the command itself.
const MAX_WORDS: usize = 6;

/// What stands at the head of a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed<'a> {
    /// The beginning of a command.
    Incomplete {
        /// Bytes the buffer must hold in all before it is worth parsing again.
        needed_bytes: usize,
    },
    /// A command to execute.
    Request {
        /// The command.
        request: Request<'a>,
        /// Bytes of the buffer that were the command.
        used_bytes: usize,
    },
    /// A command that is not executed.
    Refused {
        /// What to answer; `None` when the client wants no answer, or the connection is closed without one.
        reply: Option<Trouble>,
        /// Bytes of the buffer to drop.
        used_bytes: usize,
        /// How the connection goes on.
        then: Then<'a>,
    },
}

/// How a connection goes on after a refused command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then<'a> {
    /// With what follows in the buffer.
    GoOn,
    /// With what follows after these bytes, which are dropped unread as they come.
    Swallow {
        /// How many.
        bytes: u64,
        /// A key whose value is removed: it was to be replaced, and serving the old one would be wrong.
        stale_key: Option<StaleKey<'a>>,
    },
    /// Closed, after earlier answers and this one were sent.
    Close,
}

/// A key whose value is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleKey<'a> {
    /// The key as it was sent.
    pub key: &'a [u8],
    /// It is base64 of the real one.
    pub base64: bool,
}

/// Why a line is refused: the answer, and whether the client wants it.
struct Refusal {
    trouble: Trouble,
    noreply: bool,
    /// Bytes of data that follow, where that is known.
    swallow_bytes: u64,
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Refusal {
        Refusal { trouble, noreply: false, swallow_bytes: 0 }
    }
}

impl From<meta::Refusal> for Refusal {
    fn from(meta::Refusal { trouble, swallow_bytes }: meta::Refusal) -> Refusal {
        Refusal { trouble, noreply: false, swallow_bytes }
    }
}

impl Trouble {
    fn unless(self, noreply: bool) -> Refusal {
        Refusal { trouble: self, noreply, swallow_bytes: 0 }
    }
}

/// What a line is, before its data.
enum Line<'a> {
    Whole(Request<'a>),
    Store(StoreLine<'a>),
    Meta(meta::Line<'a>),
    /// Speaks HTTP: there is no use in going on.
    Http,
}

struct StoreLine<'a> {
    verb: Verb,
    key: &'a [u8],
    flags: u32,
    exptime: i64,
    data_bytes: usize,
    noreply: bool,
}

/// Parses the first command in `buf`.
pub fn parse<'a>(buf: &'a [u8], limits: &Limits) -> Parsed<'a> {
    let Some((line, used_bytes)) = find_line(buf) else {
        return unfinished(buf, limits);
    };
    match parse_line(line, limits) {
        Ok(Line::Whole(request)) => Parsed::Request { request, used_bytes },
        Ok(Line::Store(store)) => finish_store(store, buf, used_bytes, limits),
        Ok(Line::Meta(line)) => finish_meta(line, buf, used_bytes, limits),
        Ok(Line::Http) => Parsed::Refused { reply: None, used_bytes, then: Then::Close },
        Err(Refusal { trouble, noreply, swallow_bytes }) => {
            let reply = (!noreply).then_some(trouble);
            let then = match swallow_bytes {
                0 => Then::GoOn,
                bytes => Then::Swallow { bytes, stale_key: None },
            };
            Parsed::Refused { reply, used_bytes, then }
        }
    }
}

/// The first line without its end, and how many bytes it takes with it. As in memcached, a line's text ends at a NUL.
fn find_line(buf: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr2(b'\n', 0, buf)?;
    if buf[end] == 0 {
        let newline = end + memchr(b'\n', &buf[end..])?;
        return Some((&buf[..end], newline + 1));
    }
    let line = &buf[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// A line without an end: worth waiting for, or not.
fn unfinished<'a>(buf: &'a [u8], limits: &Limits) -> Parsed<'a> {
    let incomplete = Parsed::Incomplete { needed_bytes: buf.len() + 1 };
    if buf.len() <= Limits::LINE_BYTES {
        return incomplete;
    }
    let line = buf.trim_leading_spaces();
    let retrieval = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|c| line.starts_with(c));
    let reply = if !retrieval || buf.len() - line.len() > MAX_LEADING_SPACES {
        None
    } else if buf.len() > limits.get_line_bytes {
        Some(Trouble::LineTooLong)
    } else {
        return incomplete;
    };
    Parsed::Refused { reply, used_bytes: buf.len(), then: Then::Close }
}

/// A store's data follows its line at `line_bytes`.
fn finish_store<'a>(store: StoreLine<'a>, buf: &'a [u8], line_bytes: usize, limits: &Limits) -> Parsed<'a> {
    let StoreLine { verb, key, flags, exptime, data_bytes, noreply } = store;
    let refused = |trouble, used_bytes, then| {
        let reply = (!noreply).then_some(trouble);
        Parsed::Refused { reply, used_bytes, then }
    };
    if data_bytes > limits.value_bytes {
        let stale_key = (verb == Verb::Set).then_some(StaleKey { key, base64: false });
        let then = Then::Swallow { bytes: data_bytes as u64 + 2, stale_key };
        return refused(Trouble::TooLarge, line_bytes, then);
    }
    let used_bytes = line_bytes + data_bytes + 2;
    let Some(block) = buf.get(line_bytes..used_bytes) else {
        return Parsed::Incomplete { needed_bytes: used_bytes };
    };
    match block.strip_suffix(b"\r\n") {
        Some(data) => {
            let request = Request::Store { verb, key, flags, exptime, data, cas: 0, noreply };
            Parsed::Request { request, used_bytes }
        }
        None => refused(Trouble::BadDataChunk, used_bytes, Then::GoOn),
    }
}

/// The data of `ms` follows its line at `line_bytes`.
fn finish_meta<'a>(line: meta::Line<'a>, buf: &'a [u8], line_bytes: usize, limits: &Limits) -> Parsed<'a> {
    let meta::Line { mut meta, data_bytes } = line;
    let Some(data_bytes) = data_bytes else {
        return Parsed::Request { request: Request::Meta(meta), used_bytes: line_bytes };
    };
    if data_bytes > limits.value_bytes {
        // Unlike other stores, memcached's ms removes the old value in every mode.
        let stale_key = Some(StaleKey { key: meta.key, base64: meta.form.base64 });
        let then = Then::Swallow { bytes: data_bytes as u64 + 2, stale_key };
        return Parsed::Refused { reply: Some(Trouble::TooLarge), used_bytes: line_bytes, then };
    }
    let used_bytes = line_bytes + data_bytes + 2;
    let Some(block) = buf.get(line_bytes..used_bytes) else {
        return Parsed::Incomplete { needed_bytes: used_bytes };
    };
    match block.strip_suffix(b"\r\n") {
        Some(data) => {
            meta.data = data;
            Parsed::Request { request: Request::Meta(meta), used_bytes }
        }
        None => Parsed::Refused { reply: Some(Trouble::BadDataChunk), used_bytes, then: Then::GoOn },
    }
}

/// The words after a command.
struct Words<'a> {
    words: [&'a [u8]; MAX_WORDS],
    /// How many there are; one more than fit stands for any larger number.
    len: usize,
}

impl<'a> Words<'a> {
    fn split(mut rest: &'a [u8]) -> Words<'a> {
        let mut words = Words { words: [&[]; MAX_WORDS], len: 0 };
        loop {
            let word;
            (word, rest) = split_word(rest);
            if word.is_empty() {
                return words;
            }
            match words.words.get_mut(words.len) {
                Some(place) => *place = word,
                None => return Words { len: MAX_WORDS + 1, ..words },
            }
            words.len += 1;
        }
    }

    /// The words, if their number is one of `allowed`.
    fn counted(rest: &'a [u8], allowed: std::ops::RangeInclusive<usize>) -> Result<Words<'a>, Refusal> {
        let words = Words::split(rest);
        if allowed.contains(&words.len) { Ok(words) } else { Err(Trouble::NoCommand.into()) }
    }

    /// Whether the last word says that no answer is wanted. memcached looks no further: `set k 0 0 noreply` is a line
    /// with a bad length that is not answered.
    fn noreply(&self) -> bool {
        self.len.checked_sub(1).is_some_and(|last| self.words.get(last) == Some(&&b"noreply"[..]))
    }
}

/// The first word of `text`, and what stands behind it. Empty when there is none.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_leading_spaces();
    let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    text.split_at(end)
}

/// The last word of `text`; empty when there is none.
fn last_word(text: &[u8]) -> &[u8] {
    text.rsplit(|b| *b == b' ').find(|word| !word.is_empty()).unwrap_or_default()
}

fn parse_line<'a>(line: &'a [u8], limits: &Limits) -> Result<Line<'a>, Refusal> {
    let (command, rest) = split_word(line);
    let request = match command {
        b"get" | b"bget" => get(rest, false, limits),
        b"set" => return store(rest, Verb::Set, limits),
        b"gets" => get(rest, true, limits),
        b"gat" => get_and_touch(rest, false, limits),
        b"gats" => get_and_touch(rest, true, limits),
        b"add" => return store(rest, Verb::Add, limits),
        b"replace" => return store(rest, Verb::Replace, limits),
        b"append" => return store(rest, Verb::Append, limits),
        b"prepend" => return store(rest, Verb::Prepend, limits),
        b"cas" => return cas(rest, limits),
        b"incr" => count(rest, Direction::Up, limits),
        b"decr" => count(rest, Direction::Down, limits),
        b"delete" => delete(rest, limits),
        b"touch" => touch(rest, limits),
        b"flush_all" => flush_all(rest),
        b"mg" => return Ok(Line::Meta(meta::parse(meta::Command::Get, rest, limits)?)),
        b"ms" => return Ok(Line::Meta(meta::parse(meta::Command::Set, rest, limits)?)),
        b"md" => return Ok(Line::Meta(meta::parse(meta::Command::Delete, rest, limits)?)),
        b"ma" => return Ok(Line::Meta(meta::parse(meta::Command::Arithmetic, rest, limits)?)),
        b"mn" => Ok(Request::Noop),
        b"me" => return Ok(Line::Meta(meta::parse(meta::Command::Debug, rest, limits)?)),
        b"verbosity" => verbosity(rest),
        b"stats" => stats(rest),
        b"version" => Ok(Request::Version),
        b"quit" => Ok(Request::Quit),
        _ if last_word(line).starts_with(b"HTTP/") => return Ok(Line::Http),
        _ => Err(not_served(command, rest)),
    };
    request.map(Line::Whole)
}

fn key<'a>(word: &'a [u8], limits: &Limits, noreply: bool) -> Result<&'a [u8], Refusal> {
    if limits.allow(word) { Ok(word) } else { Err(Trouble::BadFormat.unless(noreply)) }
}

fn get<'a>(rest: &'a [u8], with_cas: bool, limits: &Limits) -> Result<Request<'a>, Refusal> {
    let keys = Keys::split(rest, limits).ok_or(Trouble::BadFormat)?;
    if keys.len() == 0 {
        return Err(Trouble::NoCommand.into());
    }
    Ok(Request::Get { keys, with_cas })
}

fn get_and_touch<'a>(rest: &'a [u8], with_cas: bool, limits: &Limits) -> Result<Request<'a>, Refusal> {
    let (word, rest) = split_word(rest);
    if word.is_empty() {
        return Err(Trouble::NoCommand.into());
    }
    let exptime = parse_i64(word).ok_or(Trouble::InvalidExptime)?;
    let keys = Keys::split(rest, limits).ok_or(Trouble::BadFormat)?;
    Ok(Request::GetAndTouch { exptime, keys, with_cas })
}

fn store<'a>(rest: &'a [u8], verb: Verb, limits: &Limits) -> Result<Line<'a>, Refusal> {
    let words = Words::counted(rest, 4..=5)?;
    store_line(&words, limits, |_| Some(verb))
}

fn cas<'a>(rest: &'a [u8], limits: &Limits) -> Result<Line<'a>, Refusal> {
    let words = Words::counted(rest, 5..=6)?;
    store_line(&words, limits, |words| parse_u64(words.words[4]).map(Verb::Cas))
}

/// The line of a store. A further word that is not `noreply` is ignored, as in memcached.
fn store_line<'a>(
    words: &Words<'a>,
    limits: &Limits,
    verb: impl Fn(&Words<'a>) -> Option<Verb>,
) -> Result<Line<'a>, Refusal> {
    let noreply = words.noreply();
    let bad_format = || Trouble::BadFormat.unless(noreply);
    let [key_word, flags, exptime, length, ..] = words.words;
    let refused = |refusal| Refusal { swallow_bytes: swallowed(key_word, length), ..refusal };
    Ok(Line::Store(StoreLine {
        key: key(key_word, limits, noreply).map_err(refused)?,
        flags: parse_u32(flags).ok_or_else(bad_format)?,
        exptime: parse_i64(exptime).ok_or_else(bad_format)?,
        data_bytes: data_length(length).ok_or_else(bad_format)?,
        verb: verb(words).ok_or_else(bad_format)?,
        noreply,
    }))
}

/// How much is dropped behind the line of a store whose key is refused. memcached, which refuses only keys that are too long, takes
/// the data for commands; where it would have stored it, that would be news.
fn swallowed(key: &[u8], length: &[u8]) -> u64 {
    if key.len() > Limits::KEY_BYTES { 0 } else { data_length(length).map_or(0, |bytes| bytes as u64 + 2) }
}

/// The length of a store's data.
pub(super) fn data_length(word: &[u8]) -> Option<usize> {
    let length = parse_i64(word).filter(|length| *length <= MAX_LENGTH)?;
    usize::try_from(length).ok()
}

fn count<'a>(rest: &'a [u8], direction: Direction, limits: &Limits) -> Result<Request<'a>, Refusal> {
    let words = Words::counted(rest, 2..=3)?;
    let noreply = words.noreply();
    let key = key(words.words[0], limits, noreply)?;
    let delta = parse_u64(words.words[1]).ok_or_else(|| Trouble::InvalidDelta.unless(noreply))?;
    Ok(Request::Count { direction, key, delta, cas: 0, create: None, noreply })
}

/// `delete KEY [0] [noreply]`: the 0 is left from a time when deletes could be delayed.
fn delete<'a>(rest: &'a [u8], limits: &Limits) -> Result<Request<'a>, Refusal> {
    let words = Words::counted(rest, 1..=3)?;
    let zero = words.len > 1 && words.words[1] == b"0";
    let noreply = words.len > 1 && words.noreply();
    let valid = match words.len {
        1 => true,
        2 => zero || noreply,
        _ => zero && noreply,
    };
    if !valid {
        return Err(Trouble::DeleteUsage.unless(noreply));
    }
    Ok(Request::Delete { key: key(words.words[0], limits, noreply)?, cas: 0, noreply })
}

fn touch<'a>(rest: &'a [u8], limits: &Limits) -> Result<Request<'a>, Refusal> {
    let words = Words::counted(rest, 2..=3)?;
    let noreply = words.noreply();
    let key = key(words.words[0], limits, noreply)?;
    let exptime = parse_i64(words.words[1]).ok_or_else(|| Trouble::InvalidExptime.unless(noreply))?;
    Ok(Request::Touch { key, exptime, noreply })
}

fn flush_all(rest: &[u8]) -> Result<Request<'_>, Refusal> {
    let words = Words::counted(rest, 0..=2)?;
    let noreply = words.noreply();
    let delay = match words.len - usize::from(noreply) {
        0 => 0,
        _ => parse_i64(words.words[0]).ok_or_else(|| Trouble::InvalidExptime.unless(noreply))?,
    };
    Ok(Request::FlushAll { delay, noreply })
}

fn verbosity(rest: &[u8]) -> Result<Request<'_>, Refusal> {
    let words = Words::counted(rest, 1..=2)?;
    let noreply = words.noreply();
    match parse_u64(words.words[0]) {
        Some(_) => Ok(Request::Verbosity { noreply }),
        None => Err(Trouble::BadFormat.unless(noreply)),
    }
}

fn stats(rest: &[u8]) -> Result<Request<'_>, Refusal> {
    let topic = match split_word(rest).0 {
        b"cachedump" => return Err(Trouble::CachedumpDisabled.into()),
        b"detail" => {
            let words = Words::split(rest);
            let detail = Detail::named(words.words[1]).ok_or(Trouble::DetailUsage)?;
            StatsTopic::Detail(detail)
        }
        name => StatsTopic::named(name).ok_or(Trouble::NoCommand)?,
    };
    Ok(Request::Stats(topic))
}

/// The answer to what is no command, and to memcached's commands about its own insides, which have nothing to act
/// on here: they are answered as by a memcached where they are switched off, and not at all after `noreply`.
fn not_served(command: &[u8], rest: &[u8]) -> Refusal {
    let words = Words::split(rest);
    let unless_noreply = |trouble: Trouble| trouble.unless(last_word(rest) == b"noreply");
    match (command, words.words[0], words.len) {
        (b"cache_memlimit", limit, 1..=2) if parse_u64(limit).is_some() => unless_noreply(Trouble::MemlimitFailed),
        (b"cache_memlimit", _, 1..=2) => unless_noreply(Trouble::NoCommand),
        (b"lru_crawler", b"crawl" | b"metadump" | b"mgdump", 2) => Trouble::CrawlerDisabled.into(),
        (b"slabs", b"reassign", 3) => Trouble::ReassignDisabled.into(),
        (b"slabs", b"automove", 2..) | (b"lru" | b"extstore", _, 1..) => unless_noreply(Trouble::NoCommand),
        (b"watch", _, _) => unless_noreply(Trouble::WatchDisabled),
        (b"shutdown", _, _) => Trouble::ShutdownDisabled.into(),
        _ => Trouble::NoCommand.into(),
    }
}
