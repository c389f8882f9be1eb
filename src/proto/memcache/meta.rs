//! The meta protocol: text lines of a command of two letters, a key, and flags of one letter with tokens behind them.
//!
//! Source: memcached's protocol.txt, and memcached 1.6.18 as it behaves. A line is checked here as a whole, so that
//! what gets past has tokens that are what they should be; a [`Meta`] then reads them from its flags when they are
//! asked for, which costs a request nothing to carry. Answers repeat some flags in the order in which they were asked for.

pub mod base64;
mod encode;
mod fault;
#[cfg(test)]
mod tests;

pub use encode::{Seen, encode, encode_head};
pub use fault::Fault;

use super::request::Spaces;
use super::{Limits, Trouble};
use crate::logic::decimal::{parse_i64, parse_u32, parse_u64};

/// Most words of a line: the command, the key, for ms the length, and flags.
const MAX_WORDS: usize = 19;
/// Most bytes of the token of an opaque, with its letter.
const MAX_OPAQUE_BYTES: usize = 32;

/// The commands, by their second letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `mg`: the value of a key, and what to do with it.
    Get,
    /// `ms`: stores.
    Set,
    /// `md`: deletes, or marks stale.
    Delete,
    /// `ma`: counts.
    Arithmetic,
    /// `me`: what is known about a key, for people.
    Debug,
}

/// What of a command its answer depends on, apart from its flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// The command.
    pub command: Command,
    /// `q`: the usual outcome is not answered.
    pub quiet: bool,
    /// `b`: the key is base64 of the real one.
    pub base64: bool,
    /// `v`: the value is wanted.
    pub value: bool,
}

impl Form {
    /// Whether the answer tells a value that is there.
    pub fn tells_value(&self) -> bool {
        self.value && matches!(self.command, Command::Get | Command::Arithmetic)
    }
}

/// How `ms` stores and `ma` counts: the token of `M`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// None, or S: in any case.
    Set,
    /// E: where nothing is.
    Add,
    /// A: behind what is there.
    Append,
    /// P: before what is there.
    Prepend,
    /// R: over what is there.
    Replace,
    /// None, I or +: up.
    Up,
    /// D or -: down.
    Down,
}

/// A command whose form is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta<'a> {
    /// What it is.
    pub form: Form,
    /// The key as it was sent; see [`Meta::write_key`].
    pub key: &'a [u8],
    /// All flags with their tokens.
    pub flags: &'a [u8],
    /// The data of `ms`.
    pub data: &'a [u8],
}

/// A line that is right, before its data.
pub(super) struct Line<'a> {
    pub(super) meta: Meta<'a>,
    /// How much data follows; none is not the same as 0 bytes.
    pub(super) data_bytes: Option<usize>,
}

/// Why a line is refused.
pub(super) struct Refusal {
    pub(super) trouble: Trouble,
    /// Bytes of data that follow and are dropped.
    pub(super) swallow_bytes: u64,
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Refusal {
        Refusal { trouble, swallow_bytes: 0 }
    }
}

/// The words of a text.
#[derive(Clone)]
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.trim_leading_spaces();
        let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

impl<'a> Meta<'a> {
    /// The flags, each a letter with its token.
    pub fn all(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        flags_of(self.flags)
    }

    fn token(&self, letter: u8) -> Option<&'a [u8]> {
        self.all().find(|(flag, _)| *flag == letter).map(|(_, token)| token)
    }

    /// Whether it has a flag.
    pub fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// Where among the flags one stands.
    pub fn place(&self, letter: u8) -> Option<usize> {
        self.all().position(|(flag, _)| flag == letter)
    }

    /// The exptime of `T`, `N` or `R`.
    pub fn exptime(&self, letter: u8) -> Option<i64> {
        parse_i64(self.token(letter)?)
    }

    /// `F`: the client's flags; 0 without.
    pub fn client_flags(&self) -> u32 {
        self.token(b'F').and_then(parse_u32).unwrap_or(0)
    }

    /// The number of `C`, `D` or `J`.
    pub fn number(&self, letter: u8) -> Option<u64> {
        parse_u64(self.token(letter)?)
    }

    /// How it stores or counts.
    pub fn mode(&self) -> Mode {
        mode(self.form.command, self.token(b'M')).unwrap_or(Mode::Set)
    }

    /// Appends the real key.
    pub fn write_key(&self, out: &mut Vec<u8>) {
        match self.form.base64 {
            true => drop(base64::decode(self.key, out)),
            false => out.extend_from_slice(self.key),
        }
    }
}

/// Flags with their tokens.
fn flags_of(flags: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    Words(flags).filter_map(|word| word.split_first().map(|(letter, token)| (*letter, token)))
}

fn mode(command: Command, token: Option<&[u8]>) -> Option<Mode> {
    Some(match (command, token) {
        (Command::Set, None | Some(b"S")) => Mode::Set,
        (Command::Set, Some(b"E")) => Mode::Add,
        (Command::Set, Some(b"A")) => Mode::Append,
        (Command::Set, Some(b"P")) => Mode::Prepend,
        (Command::Set, Some(b"R")) => Mode::Replace,
        (Command::Arithmetic, None | Some(b"I" | b"+")) => Mode::Up,
        (Command::Arithmetic, Some(b"D" | b"-")) => Mode::Down,
        (Command::Set | Command::Arithmetic, Some(_)) => return None,
        _ => Mode::Set,
    })
}

/// Reads the line of a command, without its first word.
pub(super) fn parse<'a>(command: Command, rest: &'a [u8], limits: &Limits) -> Result<Line<'a>, Refusal> {
    let mut words = Words(rest);
    let Some(key) = words.next() else {
        return Err(if command == Command::Debug { Trouble::BadFormat } else { Trouble::NoCommand }.into());
    };
    if key.len() > Limits::KEY_BYTES {
        return Err(Trouble::BadFormat.into());
    }
    let form = Form { command, quiet: false, base64: false, value: false };
    if command == Command::Debug {
        return debug(form, key, words, limits);
    }
    let length = if command == Command::Set { Some(words.next().ok_or(Trouble::BadFormat)?) } else { None };
    let flags = words.0.trim_ascii_spaces();
    let words_before = if length.is_some() { 3 } else { 2 };
    if words.count() + words_before > MAX_WORDS {
        let fault = if command == Command::Get { Fault::TooManyFlagsToGet } else { Fault::TooManyFlags };
        return Err(Trouble::Meta(fault).into());
    }
    let data_bytes = match length {
        Some(length) => Some(super::text::data_length(length).ok_or(Trouble::BadFormat)?),
        None => None,
    };
    let refused = |trouble| Refusal { trouble, swallow_bytes: data_bytes.map_or(0, |bytes| bytes as u64 + 2) };
    let meta = check(Meta { form, key, flags, data: b"" }).map_err(refused)?;
    if !is_allowed(&meta, limits) {
        return Err(refused(Trouble::BadFormat));
    }
    Ok(Line { meta, data_bytes })
}

/// Whether a key may be so, with what is put before it.
fn is_allowed(meta: &Meta<'_>, limits: &Limits) -> bool {
    if meta.form.base64 { base64::decoded_len(meta.key) <= limits.key_bytes } else { limits.allow(meta.key) }
}

/// `me`: of its flags, only a `b` that is the first counts.
fn debug<'a>(form: Form, key: &'a [u8], mut words: Words<'a>, limits: &Limits) -> Result<Line<'a>, Refusal> {
    let base64 = words.next() == Some(b"b");
    if base64 && !base64::is_valid(key) {
        return Err(Trouble::BadFormat.into());
    }
    let meta = Meta { form: Form { base64, ..form }, key, flags: b"", data: b"" };
    if !is_allowed(&meta, limits) {
        return Err(Trouble::BadFormat.into());
    }
    Ok(Line { meta, data_bytes: None })
}

/// Checks the flags. Of several bad tokens memcached tells the last; a flag that is none, or there twice, comes first.
fn check(mut meta: Meta<'_>) -> Result<Meta<'_>, Trouble> {
    let mut seen = 0u128;
    let mut bad = None;
    let command = meta.form.command;
    // md and ma do not say what is wrong.
    let told = |fault| match command {
        Command::Delete | Command::Arithmetic => Trouble::Meta(Fault::BadFlag),
        _ => fault,
    };
    for (letter, token) in meta.all() {
        if letter >= 127 || seen & (1 << letter) != 0 {
            return Err(told(Trouble::Meta(Fault::DuplicateFlag)));
        }
        seen |= 1 << letter;
        let fault = match letter {
            b'b' => (!base64::is_valid(meta.key)).then_some(Trouble::Meta(Fault::BadKey)),
            b'N' | b'T' | b'R' => parse_i64(token).is_none().then_some(Trouble::Meta(Fault::BadToken)),
            // memcached has no words for this one: those for the one before it stay.
            b'F' => parse_u32(token).is_none().then(|| bad.unwrap_or(Trouble::BadFormat)),
            b'C' => parse_u64(token).is_none().then_some(Trouble::Meta(Fault::BadToken)),
            b'M' => (token.len() != 1).then_some(Trouble::Meta(Fault::BadModeLength)),
            b'J' => parse_u64(token).is_none().then_some(Trouble::Meta(Fault::BadInitial)),
            b'D' => parse_u64(token).is_none().then_some(Trouble::Meta(Fault::BadDelta)),
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'v' | b'h' | b'l' | b'u' | b'q' | b'I' => None,
            _ => return Err(told(Trouble::Meta(Fault::InvalidFlag))),
        };
        bad = fault.or(bad);
    }
    if let Some(fault) = bad {
        return Err(told(fault));
    }
    match (command, mode(command, meta.token(b'M'))) {
        (Command::Set, None) => return Err(Trouble::Meta(Fault::BadSetMode)),
        (Command::Arithmetic, None) => return Err(Trouble::Meta(Fault::BadArithmeticMode)),
        _ => {}
    }
    if meta.token(b'O').is_some_and(|token| token.len() + 1 > MAX_OPAQUE_BYTES) {
        return Err(Trouble::Meta(Fault::OpaqueTooLong));
    }
    let has = |letter: u8| seen & (1 << letter) != 0;
    meta.form = Form { quiet: has(b'q'), base64: has(b'b'), value: has(b'v'), ..meta.form };
    Ok(meta)
}
