//! Commands become operations.

use super::client::Flow;
use super::large::Body;
use super::op::{Ask, Home, WHOLE};
use super::prefixes::Event;
use super::stats::{self, Figure};
use super::view::Dialect;
use super::worker::State;
use crate::logic::clock::ClockTime;
use crate::logic::counter::Direction;
use crate::logic::decimal;
use crate::logic::expiry::{NEVER, expiry_of, flush_time};
use crate::logic::record::{LAYOUT_FULL, encode_header};
use crate::net::time::unix_secs;
use crate::proto::memcache::meta::Command;
use crate::proto::memcache::{Create, Keys, Reply, Request, StatsTopic, Style, Trouble, Verb};
use crate::proto::rpc::v1::{Op, Terms, option, term};

/// Most keys in one message to a server.
const BATCH_KEYS: usize = 4096;

/// What `version` answers: the memcached whose protocol this is. Clients read it as three numbers, and go by it; `stats` tells
/// our own beside it.
pub const VERSION: &str = "1.6.18";

/// The expiry of an exptime; the clock is read only where it matters.
pub fn expiry(exptime: i64) -> u32 {
    if exptime == 0 { NEVER } else { expiry_of(exptime, unix_secs()) }
}

impl State {
    /// Executes a client's command: begins its operations, or answers it at once.
    pub fn execute(&mut self, home: Home, style: Style, request: Request<'_>) -> Flow {
        if self.view.has_v0() && takes_steps(&request) && !self.begin_alone(home) {
            return Flow::Wait;
        }
        match request {
            Request::Get { keys, with_cas } => self.get(home, style, keys, with_cas),
            Request::GetAndTouch { exptime, keys, with_cas } => {
                self.get_and_touch(home, style, keys, exptime, with_cas)
            }
            Request::Store { verb, key, flags, exptime, data, cas, noreply } => {
                let terms = Terms { cas, ..Terms::default() };
                self.store(Asked { home, style, key, noreply, terms }, verb, (flags, expiry(exptime)), data);
            }
            Request::Delete { key, cas, noreply } => {
                let terms = Terms { cas, ..Terms::default() };
                self.note(key, Event::Delete);
                self.change(Asked { home, style, key, noreply, terms }, Op::Delete, 0, |_| ());
            }
            Request::Count { direction, key, delta, cas, create, noreply } => {
                let op = if direction == Direction::Up { Op::Incr } else { Op::Decr };
                let terms = Terms { cas, bits: if create.is_some() { term::CREATE } else { 0 }, ..Terms::default() };
                let layout = self.shared.config.layout;
                self.change(Asked { home, style, key, noreply, terms }, op, delta, |out| {
                    if let Some(Create { initial, exptime }) = create {
                        layout.encode(ClockTime(0), 0, expiry(exptime), &[], out);
                        decimal::write(initial, out);
                    }
                });
            }
            Request::Touch { key, exptime, noreply } => {
                self.count(Figure::CmdTouch, 1);
                let expiry = expiry(exptime);
                let asked = Asked { home, style, key, noreply, terms: Terms::default() };
                self.change(asked, Op::Touch, 0, |out| write_expiry(expiry, out));
            }
            Request::FlushAll { delay, noreply } => return self.flush_all(home, style, delay, noreply),
            Request::Stats(topic) => return self.stats(home, style, topic),
            Request::Meta(meta) => self.meta(home, &meta),
            Request::Noop => self.reply(home, style, Reply::Noop),
            Request::Version => self.reply(home, style, Reply::Version(VERSION)),
            Request::Verbosity { noreply } => {
                if !noreply {
                    self.reply(home, style, Reply::Ok);
                }
            }
            Request::Quit => {
                if let Style::Binary(head) = style
                    && head.answers_quit()
                {
                    self.reply(home, style, Reply::Ok);
                }
                return Flow::Quit;
            }
        }
        Flow::GoOn
    }

    /// Counts what happened to a client's key, where that is wanted by its prefix.
    #[inline]
    pub fn note(&self, key: &[u8], event: Event) {
        self.shared.prefixes.note(self.number, key, event);
    }

    fn get(&mut self, home: Home, style: Style, mut keys: Keys<'_>, with_cas: bool) {
        self.count(Figure::CmdGet, keys.len() as u64);
        if keys.len() > 1 {
            return self.get_many(home, keys, with_cas);
        }
        let (Some(key), Some(client)) = (keys.next(), self.clients.get(home)) else { return };
        let home = Home { number: Some(client.answers.push()), part: WHOLE, ..home };
        let (place, op) = self.ops.begin(home, Ask::Get, self.now_ms);
        (op.style, op.with_cas) = (style, with_cas);
        op.set_key(&self.shared.config.key_prefix, key);
        op.known = self.cache.find(op.hash, op.dbkey());
        client.begin(1, op.bytes.len());
        self.launch(place);
    }

    /// One message to each worker of a server that has some of the keys, all at once.
    fn get_many(&mut self, home: Home, keys: Keys<'_>, with_cas: bool) {
        let prefix = &self.shared.config.key_prefix;
        let mut assembly = self.pool.take_assembly();
        assembly.begin(with_cas, prefix.len());
        let mut by_link = std::mem::take(&mut self.by_link);
        by_link.resize_with(by_link.len().max(self.links.len()), Vec::new);
        let mut alone = std::mem::take(&mut self.alone);
        for key in keys {
            let (part, hash) = assembly.add(prefix, key);
            let server = self.view.reader(hash, 0).filter(|s| self.view.dialect(*s) == Dialect::V1);
            let in_order = self.order.is_empty() || !self.order.has(home, hash);
            match server.and_then(|server| self.links.to(server, hash)) {
                // What is known may be asked about alone only.
                Some(link) if in_order && !self.cache.has(hash, assembly.dbkey(part)) => {
                    by_link[link as usize].push(part)
                }
                _ => alone.push(part),
            }
        }
        let Some(client) = self.clients.get(home) else { return };
        let home = Home { number: Some(client.answers.push_many(assembly)), ..home };
        for (link, parts) in by_link.iter_mut().enumerate() {
            match parts.len() {
                0 => {}
                1 => alone.append(parts),
                _ => {
                    parts.chunks(BATCH_KEYS).for_each(|parts| self.get_batch(home, link as u32, parts));
                    parts.clear();
                }
            }
        }
        self.by_link = by_link;
        for part in alone.drain(..) {
            self.ask_part(Home { part, ..home }, self.now_ms, |_| (), None);
        }
        self.alone = alone;
    }

    fn get_batch(&mut self, home: Home, link: u32, parts: &[u32]) {
        let (place, op) = self.ops.begin(home, Ask::Batch, self.now_ms);
        for part in parts {
            op.bytes.extend_from_slice(&part.to_le_bytes());
        }
        if let Some(client) = self.clients.get(home) {
            client.begin(parts.len(), op.bytes.len());
        }
        self.send_batch(place, link);
    }

    /// One change for each key; the answers are put together in the order of the keys.
    fn get_and_touch(&mut self, home: Home, style: Style, keys: Keys<'_>, exptime: i64, with_cas: bool) {
        self.count(Figure::CmdTouch, keys.len() as u64);
        let expiry = expiry(exptime);
        if let (1, Some(key)) = (keys.len(), keys.clone().next()) {
            return self.get_and_touch_one(home, style, key, expiry, with_cas);
        }
        let mut assembly = self.pool.take_assembly();
        assembly.begin(with_cas, self.shared.config.key_prefix.len());
        for key in keys {
            assembly.add(&self.shared.config.key_prefix, key);
        }
        let parts = assembly.len() as u32;
        let Some(client) = self.clients.get(home) else { return };
        let number = client.answers.push_many(assembly);
        if parts == 0 {
            return client.give(&mut self.pool);
        }
        for part in 0..parts {
            let home = Home { number: Some(number), part, ..home };
            let Some(client) = self.clients.get(home) else { return };
            // An answer that failed already needs no more parts.
            let Some(assembly) = client.answers.assembly(number) else { return };
            let (place, op) = self.ops.begin(home, Ask::Mutate(Op::GetAndTouch), self.now_ms);
            op.set_dbkey(assembly.dbkey(part));
            op.options = self.shared.config.options(Op::GetAndTouch);
            write_expiry(expiry, &mut op.bytes);
            client.begin(1, op.bytes.len());
            self.launch(place);
        }
    }

    fn get_and_touch_one(&mut self, home: Home, style: Style, key: &[u8], expiry: u32, with_cas: bool) {
        let Some(client) = self.clients.get(home) else { return };
        let home = Home { number: Some(client.answers.push()), part: WHOLE, ..home };
        let (place, op) = self.ops.begin(home, Ask::Mutate(Op::GetAndTouch), self.now_ms);
        (op.style, op.with_cas) = (style, with_cas);
        op.set_key(&self.shared.config.key_prefix, key);
        op.options = self.shared.config.options(Op::GetAndTouch);
        write_expiry(expiry, &mut op.bytes);
        client.begin(1, op.bytes.len());
        self.launch(place);
    }

    fn store(&mut self, asked: Asked<'_>, verb: Verb, meta: (u32, u32), data: &[u8]) {
        self.count(Figure::CmdSet, 1);
        self.note(asked.key, Event::Set);
        let (flags, expiry) = meta;
        let layout = self.shared.config.layout;
        let (op, arg) = match verb {
            Verb::Set => (Op::Set, 0),
            Verb::Add => (Op::Add, 0),
            Verb::Replace => (Op::Replace, 0),
            Verb::Append => (Op::Append, 0),
            Verb::Prepend => (Op::Prepend, 0),
            Verb::Cas(unique) => (Op::Cas, unique),
        };
        let is_part = matches!(op, Op::Append | Op::Prepend);
        if layout.flags && !is_part && flags > u32::from(u16::MAX) {
            if !asked.noreply {
                self.reply(asked.home, asked.style, Reply::Trouble(Trouble::BadFormat));
            }
            return;
        }
        let body = if is_part { None } else { self.keep_large(asked.home, data) };
        let data = if body.is_some() { &[] } else { data };
        self.change_with(asked, op, arg, body, |out| {
            if is_part {
                // What is put to a value takes over the value's own layout, flags and expiry.
                encode_header(ClockTime(0), LAYOUT_FULL, 0, NEVER, 0, out);
                out.extend_from_slice(data);
            } else {
                layout.encode(ClockTime(0), flags, expiry, data, out);
            }
        });
    }

    /// Begins a change of one key; `write_dbval` appends what is to be stored.
    #[inline]
    fn change(&mut self, asked: Asked<'_>, change: Op, arg: u64, write_dbval: impl FnOnce(&mut Vec<u8>)) {
        self.change_with(asked, change, arg, None, write_dbval);
    }

    /// The same with data that is large, behind what `write_dbval` appends.
    #[inline]
    fn change_with(
        &mut self,
        asked: Asked<'_>,
        change: Op,
        arg: u64,
        body: Option<Body>,
        write_dbval: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(client) = self.clients.get(asked.home) else { return };
        let number = if asked.noreply { None } else { Some(client.answers.push()) };
        let home = Home { number, part: WHOLE, ..asked.home };
        let (place, op) = self.ops.begin(home, Ask::Mutate(change), self.now_ms);
        op.set_key(&self.shared.config.key_prefix, asked.key);
        op.options = self.shared.config.options(change);
        (op.style, op.terms, op.arg) = (asked.style, asked.terms, arg);
        op.body = body;
        write_dbval(&mut op.bytes);
        client.begin(1, op.bytes.len());
        self.launch(place);
    }

    fn flush_all(&mut self, home: Home, style: Style, delay: i64, noreply: bool) -> Flow {
        if !self.begin_barrier(home) {
            return Flow::Wait;
        }
        self.count(Figure::CmdFlush, 1);
        let now_secs = unix_secs();
        let delay_secs = u64::from(flush_time(delay, now_secs)).saturating_sub(now_secs);
        stats::flush(self, home, style, delay_secs, noreply);
        Flow::GoOn
    }

    fn stats(&mut self, home: Home, style: Style, topic: StatsTopic) -> Flow {
        if !self.begin_barrier(home) {
            return Flow::Wait;
        }
        stats::tell(self, home, style, topic);
        Flow::GoOn
    }
}

/// A change of one key, as it was asked for.
struct Asked<'a> {
    home: Home,
    style: Style,
    key: &'a [u8],
    noreply: bool,
    terms: Terms,
}

/// Whether a server of kumofs 0.4 needs more than one message for a command, between which no other may come.
fn takes_steps(request: &Request<'_>) -> bool {
    match request {
        Request::Store { verb, .. } => *verb != Verb::Set,
        Request::Count { .. } | Request::Touch { .. } => true,
        Request::Meta(meta) => !matches!(meta.form.command, Command::Get | Command::Debug),
        // Without keys there is nothing to wait for.
        Request::GetAndTouch { keys, .. } => keys.len() > 0,
        _ => false,
    }
}

/// The dbval of a touch: a head that gives the expiry, and nothing else.
fn write_expiry(expiry: u32, out: &mut Vec<u8>) {
    encode_header(ClockTime(0), LAYOUT_FULL, 0, expiry, 0, out);
}

impl super::run::Config {
    /// The option bits of a change.
    #[inline]
    pub fn options(&self, change: Op) -> u8 {
        let is_async = if change == Op::Delete { self.async_delete } else { self.async_set };
        self.layout.options() | if is_async { option::ASYNC } else { 0 }
    }
}
