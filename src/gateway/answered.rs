//! What servers answer: finds the operation, and gives the client its answer.

use super::assembly::Found;
use super::cache::Known;
use super::failures;
use super::meta;
use super::op::{Ask, Home, WHOLE};
use super::outcome::{self, Answer};
use super::pending::Request;
use super::prefixes::Event;
use super::stats::Figure;
use super::v0::{self, Stage, Step};
use super::view::{Dialect, View};
use super::worker::State;
use crate::logic::epoch::Epoch;
use crate::logic::record::{HASH_LEN, dbkey_hash};
use crate::logic::rule::{Rule, on};
use crate::net::time::unix_secs;
use crate::proto::memcache::{Reply, Style, Trouble, style, text};
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_uint};
use crate::proto::rpc::v1::{Connected, Gone, InParts, Mutated, Op, method};

/// How many parts of an answer that a server left out are asked for at once.
const ALONE_AT_ONCE: usize = 8;

/// How an [`InParts`](crate::proto::rpc::v1::InParts) begins.
const IN_PARTS: u8 = 0x92;

/// How the results of a change begin that tell one.
const VALUE_IN_PARTS: [u8; 2] = [0x93, 7];
const TOLD_IN_PARTS: [u8; 2] = [0x95, 9];

/// What a coordinator tells of a key, where values are cached.
#[derive(Clone, Copy)]
enum Told<'a> {
    /// Its dbval.
    Value(&'a [u8]),
    /// That it has the value still that it was asked about.
    Same(&'a Known),
    /// That there is none.
    Gone(Gone),
}

impl State {
    /// Takes an answer from a server.
    pub fn answered(&mut self, link_place: u32, msgid: u32, error: Option<u32>, result: &[u8]) {
        let Some(link) = self.links.at(link_place) else { return };
        let dialect = link.dialect;
        // Nothing was asked so: an answer to what was given up, or made up.
        let Some(request) = link.pending.take(msgid) else { return };
        let valid = match request {
            Request::Connect => self.connect_answered(link_place, error, result),
            Request::Epoch => self.epoch_answered(link_place, error, result),
            Request::Ping => {
                link.epoch_asked = false;
                Ok(())
            }
            Request::Part { op, generation, attempt } => {
                self.part_answered(link_place, (op, generation, attempt), error, result);
                Ok(())
            }
            Request::Piece { op, generation, attempt } => {
                self.piece_answered(link_place, (op, generation, attempt), error, result)
            }
            Request::Attempt { op: place, generation, attempt } => {
                let Some(op) = self.ops.get(place, generation) else { return };
                let latest = op.attempt == attempt && op.link.is_some();
                match (error, dialect) {
                    (Some(error), _) if latest => {
                        self.refused(place, link_place, error, result);
                        Ok(())
                    }
                    (None, Dialect::V1) => self.take_result(place, latest, result),
                    (None, Dialect::V0) if latest => self.take_v0_result(place, result),
                    (Some(_), _) | (None, Dialect::V0) => Ok(()),
                }
            }
        };
        if valid.is_err() {
            self.break_link(link_place, "a malformed answer");
            // Its own request is none of those that the link takes down with it any more.
            if let Request::Attempt { op, generation, attempt } | Request::Piece { op, generation, attempt } = request {
                self.attempt_lost(op, generation, attempt, true);
            }
        }
    }

    fn take_result(&mut self, place: u32, latest: bool, result: &[u8]) -> Result<(), DecodeError> {
        let layout = self.shared.config.layout;
        let known;
        let answer = match self.ops.at(place).ask {
            Ask::Get => {
                let told = if self.cache.is_on() {
                    known = self.ops.at(place).known.clone();
                    self.take_get(place, known.as_deref(), result)
                } else {
                    outcome::of_get(result, layout, unix_secs)
                };
                match told {
                    Ok(answer) => answer,
                    Err(_) if result.first() == Some(&IN_PARTS) => {
                        return self.begin_download(place, latest, InParts::read(result)?, None);
                    }
                    Err(e) => return Err(e),
                }
            }
            Ask::Mutate(Op::GetAndTouch | Op::Fetch | Op::Incr | Op::Decr)
                if result.starts_with(&VALUE_IN_PARTS) || result.starts_with(&TOLD_IN_PARTS) =>
            {
                return match Mutated::read(result)? {
                    Mutated::ValueInParts(parts) => self.begin_download(place, latest, parts, None),
                    Mutated::ToldInParts(bits, expiry, parts) => {
                        self.begin_download(place, latest, parts, Some((bits, expiry)))
                    }
                    _ => Err(DecodeError::Type),
                };
            }
            Ask::Mutate(Op::Fetch) if self.cache.is_on() => {
                known = self.ops.at(place).known.clone();
                self.take_fetch(place, known.as_deref(), result)?
            }
            Ask::Mutate(change) => outcome::of_mutation(change, result, layout)?,
            Ask::Batch => return self.take_batch(place, result),
        };
        let op = self.ops.at(place);
        let positive = answer.is_positive(op.ask, &op.terms);
        if self.ops.at(place).unremembered && !positive {
            // What it found may be what the lost attempt left.
            if latest {
                self.finish(place, Answer::trouble(Trouble::Unknown));
            }
        } else if latest || positive || !on(Rule::LatestRefusalOnly) {
            self.finish(place, answer);
        }
        Ok(())
    }

    /// The same for a get, where values are cached. `known`: what it was asked about.
    fn take_get<'a>(
        &mut self,
        place: u32,
        known: Option<&'a Known>,
        result: &'a [u8],
    ) -> Result<Answer<'a>, DecodeError> {
        let mut r = Reader::new(result);
        let told = match r.head()? {
            Head::Raw(len) => Told::Value(r.take(len)?),
            Head::Bool(true) => Told::Same(known.ok_or(DecodeError::Type)?),
            head => match Gone::of(head) {
                Some(gone) => Told::Gone(gone),
                None => {
                    // Another value, in parts: what was known is of no use any more.
                    self.note_told(place, Told::Gone(Gone::Absent));
                    return Err(DecodeError::Type);
                }
            },
        };
        self.note_told(place, told);
        match told {
            Told::Value(dbval) => outcome::of_judged(dbval, self.shared.config.layout, unix_secs),
            Told::Same(known) => outcome::of_judged(known.dbval(), self.shared.config.layout, unix_secs),
            Told::Gone(gone) => Ok(Answer::Missing(gone)),
        }
    }

    /// The same for a fetch.
    fn take_fetch<'a>(
        &mut self,
        place: u32,
        known: Option<&'a Known>,
        result: &'a [u8],
    ) -> Result<Answer<'a>, DecodeError> {
        let layout = self.shared.config.layout;
        match Mutated::read(result)? {
            Mutated::Told(_, _, dbval) => self.note_told(place, Told::Value(dbval)),
            Mutated::Gone(gone) => self.note_told(place, Told::Gone(gone)),
            Mutated::NotFound => self.note_told(place, Told::Gone(Gone::Absent)),
            Mutated::Same(bits) => {
                let known = known.ok_or(DecodeError::Type)?;
                self.note_told(place, Told::Same(known));
                return outcome::of_told(known.dbval(), bits, None, layout);
            }
            _ => {}
        }
        outcome::of_mutation(Op::Fetch, result, layout)
    }

    /// Has the cache learn what a coordinator told of an operation's key, and counts it.
    fn note_told(&mut self, place: u32, told: Told<'_>) {
        let (op, cache) = (self.ops.at(place), &mut self.cache);
        match told {
            Told::Value(dbval) => {
                cache.offer(op.hash, op.dbkey(), dbval);
                self.counters.add(Figure::CacheMisses, 1);
            }
            Told::Same(known) => {
                self.counters.add(Figure::CacheHits, 1);
                self.counters.add(Figure::CacheSavedBytes, known.dbval().len() as u64);
            }
            Told::Gone(_) => cache.forget(op.hash, op.dbkey()),
        }
        self.count_cached();
    }

    /// Takes note of how much is cached.
    fn count_cached(&self) {
        self.counters.set(Figure::CacheItems, self.cache.items() as u64);
        self.counters.set(Figure::CacheBytes, self.cache.bytes() as u64);
    }

    fn take_v0_result(&mut self, place: u32, result: &[u8]) -> Result<(), DecodeError> {
        let config = &self.shared.config;
        let step = v0::step(self.ops.at(place), result, config.layout, unix_secs, config.limits.value_bytes)?;
        match step {
            Step::Answer(Answer::Found(found)) => {
                // It may lie in the operation itself.
                let (Found { flags, expiry, cas, .. }, data) = (found, found.data.to_vec());
                self.finish(place, Answer::Found(Found { flags, expiry, cas, data: &data }));
            }
            Step::Answer(Answer::Told(found, bits, expiry)) => {
                let (Found { flags, expiry: now, cas, .. }, data) = (found, found.data.to_vec());
                self.finish(place, Answer::Told(Found { flags, expiry: now, cas, data: &data }, bits, expiry));
            }
            Step::Answer(Answer::Missing(gone)) => self.finish(place, Answer::Missing(gone)),
            Step::Answer(Answer::Changed(reply, cas)) => self.finish(place, Answer::Changed(reply, cas)),
            Step::Answer(Answer::Reply(reply)) => self.finish(place, Answer::Reply(reply)),
            Step::Write(dbval) => {
                let op = self.ops.at(place);
                (op.stage, op.computed, op.fallback) = (Stage::Write, dbval, 0);
                self.send(place);
            }
            Step::Check => {
                self.ops.at(place).stage = Stage::Check;
                self.send(place);
            }
            Step::Again => {
                self.restart(place);
                self.put_off(place, Trouble::TryAgain);
            }
            Step::Failed => {
                let op = self.ops.at(place);
                (op.uncertain, op.unremembered) = (true, true);
                if !v0::may_repeat(op) {
                    self.finish(place, Answer::trouble(Trouble::Unknown));
                } else {
                    self.put_off(place, Trouble::TryAgain);
                }
            }
        }
        Ok(())
    }

    /// Takes a server's answer to a batch: for each key a value, nil: nothing, or false: to be asked for alone.
    fn take_batch(&mut self, place: u32, result: &[u8]) -> Result<(), DecodeError> {
        let layout = self.shared.config.layout;
        let op = self.ops.at(place);
        let Some((client, number)) = self.clients.get(op.home).zip(op.home.number) else {
            self.end_batch(place);
            return Ok(());
        };
        let is_next = client.answers.is_next(number)
            && client.answers.assembly(number).is_some_and(|a| a.is_worth_writing(op.keys(), result.len()));
        let cache = &mut self.cache;
        let (mut hits, mut misses) = (0, 0);
        let key_at = HASH_LEN + self.shared.config.key_prefix.len();
        let (prefixes, counters, worker) = (&self.shared.prefixes, &self.counters, self.number);
        let mut read = |out: &mut Option<&mut Vec<u8>>| -> Result<(), DecodeError> {
            let Some(assembly) = client.answers.assembly(number) else { return Ok(()) };
            let mut r = Reader::new(result);
            r.array_of(op.keys())?;
            for part in op.parts() {
                let answer = match r.head()? {
                    Head::Raw(len) => {
                        let dbval = r.take(len)?;
                        if cache.is_on() {
                            let dbkey = assembly.dbkey(part);
                            cache.offer(dbkey_hash(dbkey).unwrap_or_default(), dbkey, dbval);
                        }
                        outcome::of_judged(dbval, layout, unix_secs)?
                    }
                    Head::Bool(false) => {
                        assembly.leave_alone(part);
                        continue;
                    }
                    head => Answer::Missing(Gone::of(head).ok_or(DecodeError::Type)?),
                };
                if prefixes.is_on() {
                    let hit = matches!(answer, Answer::Found(_));
                    prefixes.note(worker, &assembly.dbkey(part)[key_at..], Event::Get { hit });
                }
                match answer {
                    Answer::Found(found) => {
                        hits += 1;
                        client.traffic.note(found.data.len());
                        assembly.found(part, &found, out.as_deref_mut());
                    }
                    answer => {
                        misses += 1;
                        if let Answer::Missing(gone) = answer {
                            counters.count_gone(gone, 1);
                        }
                        assembly.missing(part);
                    }
                }
            }
            Ok(())
        };
        if is_next {
            let pool = &mut self.pool;
            client.conn.write(|out| pool.counted(out, |out, _| read(&mut Some(out))))?;
        } else {
            read(&mut None)?;
        }
        if self.cache.is_on() {
            self.count(Figure::CacheMisses, hits);
            self.count_cached();
        }
        self.count(Figure::GetHits, hits);
        self.count(Figure::GetMisses, misses);
        self.end_batch(place);
        Ok(())
    }

    /// A batch is done with: what it told is given to the client, if it is its turn.
    pub fn end_batch(&mut self, place: u32) {
        let op = self.ops.at(place);
        let (home, keys, bytes) = (op.home, op.keys(), op.bytes.len());
        self.ops.end(place);
        let Some(client) = self.clients.get(home) else { return };
        client.end(keys, bytes);
        if let Some(number) = home.number {
            client.give_parts(number, &mut self.pool);
        }
        self.after_answer(home);
    }

    /// An operation is done: its answer goes where it belongs.
    pub fn finish(&mut self, place: u32, answer: Answer<'_>) {
        if matches!(&answer, Answer::Reply(Reply::Trouble(_))) && self.shared.config.binary_log.is_on() {
            // What was not stored is written down.
            self.gather(place);
        }
        let op = self.ops.at(place);
        let home = op.home;
        self.counters.count_answer(op, &answer);
        if self.shared.prefixes.is_on() && op.is_retrieval() {
            let key = &op.bytes[HASH_LEN + self.shared.config.key_prefix.len()..op.key_end];
            let hit = matches!(answer, Answer::Found(_) | Answer::Told(..));
            if hit || matches!(answer, Answer::Missing(_)) {
                self.shared.prefixes.note(self.number, key, Event::Get { hit });
            }
        }
        if let Answer::Reply(Reply::Trouble(trouble)) = &answer {
            failures::note(&self.shared.config.binary_log, op, *trouble);
        }
        if let Some(client) = self.clients.get(home) {
            client.end(1, op.bytes.len());
            match &answer {
                Answer::Found(found) | Answer::Told(found, ..) => client.traffic.note(found.data.len()),
                // What a client stores tells as much about what it will read.
                Answer::Changed(..) | Answer::Reply(_) if op.is_mutation() => client.traffic.note(op.dbval_len()),
                _ => {}
            }
            match home.number {
                Some(number) if let Style::Meta(form) = op.style => {
                    let prefix_len = self.shared.config.key_prefix.len();
                    client.answer(number, &mut self.pool, |out| meta::encode(form, op, prefix_len, &answer, out));
                }
                Some(number)
                    if let Answer::Found(found) = &answer
                        && client.takes_through(number, home, found) =>
                {
                    let key = &op.bytes[HASH_LEN + self.shared.config.key_prefix.len()..op.key_end];
                    client.answer_through((op, key), found, &mut self.pool);
                }
                Some(number) if home.part == WHOLE => {
                    let key = &op.bytes[HASH_LEN + self.shared.config.key_prefix.len()..op.key_end];
                    let (how, cas) = (op.style, op.with_cas);
                    client.answer(number, &mut self.pool, |out| encode(&answer, how, key, cas, out));
                }
                Some(number) => {
                    let alone = op.alone;
                    client.answer_part(number, home.part, alone, &answer, &mut self.pool);
                }
                None => {}
            }
        }
        let undone = matches!(&answer, Answer::Reply(Reply::Trouble(trouble)) if *trouble != Trouble::Unknown);
        if !self.order.is_empty() && op.is_mutation() && op.attempt > 0 && !undone {
            self.order.note_change(op);
        }
        let next = if op.in_line { self.order.leave(op) } else { None };
        let body = op.body.take();
        self.ops.end(place);
        if body.is_some() {
            self.let_go(body);
        }
        if let Some(next) = next {
            self.send_next(next);
        }
        self.after_answer(home);
    }

    /// Sends the operation whose turn it is now. One that fails at once brings the next; that is no recursion, because a
    /// line may be long.
    fn send_next(&mut self, place: u32) {
        let generation = self.ops.at(place).generation;
        self.next_in_line.push((place, generation));
        if self.next_in_line.len() > 1 {
            return;
        }
        while let Some((place, generation)) = self.next_in_line.first().copied() {
            if self.ops.get(place, generation).is_some_and(|op| op.link.is_none()) {
                self.send(place);
            }
            self.next_in_line.remove(0);
        }
    }

    /// Lets a client go on that waited, and asks for what a server left out.
    fn after_answer(&mut self, home: Home) {
        self.feed_starved();
        while let Some(client) = self.clients.get(home)
            && let Some(part) = client.next_alone(ALONE_AT_ONCE)
        {
            let now_ms = self.now_ms;
            self.ask_part(part_home(home, part), now_ms, |op| op.alone = true, None);
        }
        if let Some(client) = self.clients.get(home) {
            client.go_on();
        }
    }

    fn epoch_answered(&mut self, link_place: u32, error: Option<u32>, result: &[u8]) -> Result<(), DecodeError> {
        if let Some(link) = self.links.at(link_place) {
            link.epoch_asked = false;
        }
        let mut r = Reader::new(result);
        if error.is_none() && !r.take_nil() {
            let epoch = Epoch::decode(r.raw()?).map_err(|_| DecodeError::Type)?;
            // Comes back to all workers, this one included, as mail.
            self.shared.offer(View::new(epoch));
        }
        Ok(())
    }

    fn connect_answered(&mut self, link_place: u32, error: Option<u32>, result: &[u8]) -> Result<(), DecodeError> {
        let Some(link) = self.links.at(link_place) else { return Ok(()) };
        match error {
            Some(error::PROTOCOL) => {
                // A kumofs 0.4 server executes nothing of version 1, so nothing of what was sent behind is uncertain.
                link.dialect = Dialect::V0;
                self.break_link(link_place, "speaks version 0 only");
            }
            Some(_) => self.break_link(link_place, "refuses the connection"),
            None if Connected::read(result)?.epoch > self.view.number() => self.fetch_epoch(link_place),
            None => {}
        }
        Ok(())
    }

    /// Takes a request from a server: epochs may be told, nothing else is served.
    pub fn asked(&mut self, link_place: u32, msgid: u32, method: u32, params: &[u8]) {
        let mut r = Reader::new(params);
        let epoch = (method == method::EPOCH_PUSH)
            .then(|| r.array_of(1).ok().and_then(|()| r.raw().ok()).and_then(|bytes| Epoch::decode(bytes).ok()))
            .flatten();
        let number = epoch.map(|epoch| {
            self.shared.offer(View::new(epoch));
            self.shared.newest.borrow().number()
        });
        if let Some(link) = self.links.at(link_place) {
            link.write(|out| match number {
                Some(number) => {
                    write_success(out, msgid);
                    write_uint(out, number);
                }
                None => write_error(out, msgid, error::PROTOCOL),
            });
        }
    }
}

fn part_home(home: Home, part: (u32, u32)) -> Home {
    Home { number: Some(part.0), part: part.1, ..home }
}

/// Appends a whole answer.
#[inline]
fn encode(answer: &Answer<'_>, how: Style, key: &[u8], with_cas: bool, out: &mut Vec<u8>) {
    match answer {
        Answer::Found(found) | Answer::Told(found, ..) => {
            let cas = with_cas.then_some(found.cas);
            style::encode(how, key, &Reply::Value { key, flags: found.flags, cas, data: found.data }, 0, out);
            if how == Style::Text {
                text::encode(&Reply::End, out);
            }
        }
        Answer::Missing(_) if how == Style::Text => text::encode(&Reply::End, out),
        Answer::Missing(_) => style::encode(how, key, &Reply::NotFound, 0, out),
        Answer::Changed(reply, cas) => style::encode(how, key, reply, *cas, out),
        Answer::Reply(reply) => style::encode(how, key, reply, 0, out),
    }
}
