//! Commands of the meta protocol become operations, and what servers say becomes their answers.
//!
//! A get goes as a change ([`v1::Op::Fetch`]) always: one that looks plain may still find a value that is stale, and
//! then who asks is told to make it anew, once. A server writes nothing for a fetch that changes nothing, and does not send
//! a value that the gateway's cache has still.

use super::command::expiry;
use super::op::{Ask, Home, Op, WHOLE};
use super::outcome::Answer;
use super::prefixes::Event;
use super::stats::Figure;
use super::worker::State;
use crate::logic::clock::ClockTime;
use crate::logic::decimal;
use crate::logic::expiry::NEVER;
use crate::logic::record::{self, LAYOUT_FULL, encode_header};
use crate::net::time::unix_secs;
use crate::proto::memcache::meta::{Command, Form, Mode, Seen};
use crate::proto::memcache::{Meta, Reply, Style, Trouble, meta};
use crate::proto::rpc::v1::{self, Terms, term};

/// A cas unique that no value has: `md C0` deletes nothing, where 0 in [`Terms`] stands for any.
const NO_CAS: u64 = u64::MAX;

impl State {
    /// Begins the operation of a meta command.
    pub fn meta(&mut self, home: Home, meta: &Meta<'_>) {
        let style = Style::Meta(meta.form);
        let stores = meta.form.command == Command::Set && !matches!(meta.mode(), Mode::Append | Mode::Prepend);
        if stores && self.shared.config.layout.flags && meta.client_flags() > u32::from(u16::MAX) {
            return self.reply(home, style, Reply::Trouble(Trouble::BadFormat));
        }
        self.count_meta(meta);
        let event = match meta.form.command {
            Command::Set => Some(Event::Set),
            Command::Delete => Some(Event::Delete),
            Command::Get | Command::Arithmetic | Command::Debug => None,
        };
        let Some(client) = self.clients.get(home) else { return };
        let home = Home { number: Some(client.answers.push()), part: WHOLE, ..home };
        let (place, op) = self.ops.begin(home, Ask::Get, self.now_ms);
        op.style = style;
        let config = &self.shared.config;
        op.set_key_by(&config.key_prefix, |out| meta.write_key(out));
        if let Some(event) = event {
            let key = &op.dbkey()[record::HASH_LEN + config.key_prefix.len()..];
            self.shared.prefixes.note(self.number, key, event);
        }
        plan(meta, config, op);
        if op.is_fetch() {
            op.known = self.cache.find(op.hash, op.dbkey());
            op.arg = op.known.as_ref().map_or(0, |known| known.version());
        }
        // What is put to another value, or may be marked, goes whole.
        let goes_whole = op.terms.bits != 0 || !matches!(op.ask, Ask::Mutate(change) if change.replaces());
        let body = if goes_whole { None } else { self.keep_large(home, meta.data) };
        let (op, Some(client)) = (self.ops.at(place), self.clients.get(home)) else { return };
        if body.is_none() {
            op.bytes.extend_from_slice(meta.data);
        }
        op.body = body;
        op.bytes.extend_from_slice(meta.flags);
        op.flags_len = meta.flags.len();
        client.begin(1, op.bytes.len());
        self.launch(place);
    }

    fn count_meta(&mut self, meta: &Meta<'_>) {
        self.count(Figure::CmdMeta, 1);
        let figure = match meta.form.command {
            // With T it is counted when it is known what it came to.
            Command::Get if !meta.has(b'T') => Figure::CmdGet,
            Command::Set => Figure::CmdSet,
            _ => return,
        };
        self.count(figure, 1);
    }
}

/// Makes an operation of a command: what is asked, on what terms, and with which dbval.
fn plan(meta: &Meta<'_>, config: &super::run::Config, op: &mut Op) {
    let terms = &mut op.terms;
    terms.cas = meta.number(b'C').unwrap_or(0);
    if let Some(exptime) = meta.exptime(b'T') {
        terms.bits |= term::EXPIRE;
        terms.expiry = expiry(exptime);
    }
    let created_expiry = meta.exptime(b'N').map(expiry);
    if created_expiry.is_some() {
        terms.bits |= term::CREATE;
        if meta.place(b'T') > meta.place(b'N') {
            terms.bits |= term::EXPIRE_LAST;
        }
    }
    let layout = config.layout;
    let change = match meta.form.command {
        // Nobody is told by it to do anything.
        Command::Debug => return,
        Command::Get => {
            terms.cas = 0;
            terms.recache = meta.exptime(b'R').map_or(0, expiry);
            if terms.recache != 0 && meta.place(b'R') < meta.place(b'T') {
                terms.bits |= term::RECACHE_FIRST;
            }
            if let Some(expiry) = created_expiry {
                layout.encode(ClockTime(0), 0, expiry, b"", &mut op.bytes);
            }
            v1::Op::Fetch
        }
        Command::Delete => {
            terms.bits &= term::EXPIRE;
            if meta.number(b'C') == Some(0) {
                terms.cas = NO_CAS;
            }
            if meta.has(b'I') {
                v1::Op::Invalidate
            } else {
                (terms.bits, terms.expiry) = (0, 0);
                v1::Op::Delete
            }
        }
        Command::Arithmetic => {
            op.arg = meta.number(b'D').unwrap_or(1);
            let created_is_told = created_expiry.is_some() && meta.form.quiet;
            if meta.has(b't') || created_is_told {
                terms.bits |= term::TELL;
            }
            if let Some(expiry) = created_expiry {
                layout.encode(ClockTime(0), 0, expiry, b"", &mut op.bytes);
                decimal::write(meta.number(b'J').unwrap_or(0), &mut op.bytes);
            }
            if meta.mode() == Mode::Down { v1::Op::Decr } else { v1::Op::Incr }
        }
        Command::Set => store(meta, config, created_expiry, op),
    };
    op.ask = Ask::Mutate(change);
    op.options = config.options(change);
}

fn store(meta: &Meta<'_>, config: &super::run::Config, created_expiry: Option<u32>, op: &mut Op) -> v1::Op {
    let Terms { cas, bits, expiry, .. } = std::mem::take(&mut op.terms);
    let with_cas = meta.has(b'C');
    let change = match meta.mode() {
        Mode::Add => v1::Op::Add,
        Mode::Append => v1::Op::Append,
        Mode::Prepend => v1::Op::Prepend,
        _ if with_cas => v1::Op::Cas,
        Mode::Replace => v1::Op::Replace,
        _ => v1::Op::Set,
    };
    let (layout, flags) = (config.layout, meta.client_flags());
    let is_part = matches!(change, v1::Op::Append | v1::Op::Prepend);
    if is_part {
        op.terms = Terms { cas, bits: bits & term::CREATE, ..Terms::default() };
    } else if change == v1::Op::Cas {
        op.arg = cas;
        op.terms.bits = if meta.has(b'I') && cas != 0 { term::STALE } else { 0 };
    }
    match created_expiry {
        None if is_part => encode_header(ClockTime(0), LAYOUT_FULL, 0, NEVER, 0, &mut op.bytes),
        Some(created) if is_part => layout.encode(ClockTime(0), flags, created, b"", &mut op.bytes),
        _ => layout.encode(ClockTime(0), flags, expiry, b"", &mut op.bytes),
    }
    change
}

/// Appends the answer of an operation.
pub fn encode(form: Form, op: &Op, prefix_len: usize, answer: &Answer<'_>, out: &mut Vec<u8>) {
    let data = match answer {
        Answer::Found(found) | Answer::Told(found, ..) => found.data,
        Answer::Changed(..) | Answer::Missing(_) | Answer::Reply(_) => b"",
    };
    let mut number = Vec::new();
    let told = match (answer, form.command) {
        (Answer::Changed(Reply::Number(value), _), _) => {
            decimal::write(*value, &mut number);
            &number
        }
        // What is stored may have spaces behind the number.
        (_, Command::Arithmetic) => data.trim_ascii(),
        _ => data,
    };
    if encode_with(form, op, prefix_len, answer, (data.len(), told.len()), out) {
        out.extend_from_slice(told);
        out.extend_from_slice(b"\r\n");
    }
}

/// The same without the data of a value that has `len` bytes; true when that and the end of a line have to follow.
pub fn encode_head(form: Form, op: &Op, prefix_len: usize, answer: &Answer<'_>, len: usize, out: &mut Vec<u8>) -> bool {
    encode_with(form, op, prefix_len, answer, (len, len), out)
}

/// Given how many bytes there are, and how many of them are told.
fn encode_with(
    form: Form,
    op: &Op,
    prefix_len: usize,
    answer: &Answer<'_>,
    (len, told_len): (usize, usize),
    out: &mut Vec<u8>,
) -> bool {
    let key = &op.bytes[record::HASH_LEN + prefix_len..op.key_end];
    let created_expiry = record::parse(op.dbval()).and_then(|value| value.body).map_or(NEVER, |body| body.expiry);
    let mut seen = Seen { expiry_of_t: op.terms.expiry, expiry_of_n: created_expiry, ..Seen::default() };
    let reply = match answer {
        Answer::Found(found) | Answer::Told(found, ..) => {
            (seen.flags, seen.cas, seen.len) = (found.flags, found.cas, len);
            (seen.expiry, seen.expiry_before) = (found.expiry, found.expiry);
            if let Answer::Told(_, bits, expiry_before) = answer {
                (seen.bits, seen.expiry_before) = (*bits, *expiry_before);
            }
            seen.since_secs = found.cas >> 32;
            Reply::Ok
        }
        Answer::Changed(reply, cas) => {
            seen.cas = *cas;
            *reply
        }
        Answer::Missing(_) => return meta::encode_head(form, op.flags(), key, &Reply::End, None, 0, out),
        Answer::Reply(reply) => return meta::encode_head(form, op.flags(), key, reply, None, 0, out),
    };
    if form.command == Command::Debug || op.flags_len > 0 {
        seen.now_secs = unix_secs();
    }
    meta::encode_head(form, op.flags(), key, &reply, Some(&seen), told_len, out)
}
