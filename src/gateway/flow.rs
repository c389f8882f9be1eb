//! An operation's way: sent by the newest view, answered or not, sent again, told.

use super::assembly::Found;
use super::failures;
use super::link::Links;
use super::op::{Ask, Home, Op, WHOLE};
use super::outcome::{self, Answer};
use super::pending::Request;
use super::retry::{counts_after_loss, delay_ms, give_up_after_ms, may_repeat};
use super::stats::Figure;
use super::v0::{self, Stage, Step};
use super::view::{Dialect, View};
use super::worker::{self, State};
use crate::logic::epoch::Epoch;
use crate::logic::record::HASH_LEN;
use crate::net::time::unix_secs;
use crate::proto::memcache::{Reply, Trouble, text};
use crate::proto::rpc::frame::{write_error, write_request, write_success};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::v1::{self, Connected, method};
use crate::proto::rpc::{error, v1::write_multi_get_head};
use std::cmp::Reverse;
use std::sync::Arc;

/// How many parts of an answer that a server left out are asked for at once.
const ALONE_AT_ONCE: usize = 8;

/// The link for an operation; `None`: nobody serves the key.
#[inline]
fn route(op: &Op, view: &View, links: &Links) -> Option<u32> {
    let writes = op.stage == Stage::Write || (op.stage == Stage::Start && v0::first_stage(op.ask) == Stage::Write);
    let server = if writes { view.writer(op.hash)? } else { view.reader(op.hash, op.fallback)? };
    links.to(server, op.hash)
}

impl State {
    /// Takes over a newer view: what is under way with servers that no longer are the ones to ask is asked anew, and
    /// what waits goes at once.
    pub fn adopt(&mut self, view: Arc<View>) {
        self.read_clock();
        self.view = view;
        self.refusals = 0;
        self.links.adopt(&self.view, self.now_ms);
        self.waiting.clear();
        for place in self.ops.select(|_| true) {
            let (view, links) = (&self.view, &self.links);
            let op = self.ops.at(place);
            let Some(link) = op.link else {
                self.resend(place);
                continue;
            };
            if op.ask != Ask::Batch && route(op, view, links) == Some(link) {
                continue;
            }
            let still = self.links.at(link).is_some_and(|link| !link.has_left());
            if still && self.ops.at(place).ask == Ask::Batch {
                // Each server of a batch refuses it whole, by its epoch, or answers it whole.
                continue;
            }
            let op = self.ops.at(place);
            op.uncertain |= op.is_mutation();
            if self.cannot_repeat(place, link) {
                self.finish(place, Answer::trouble(Trouble::Unknown));
            } else {
                self.ops.at(place).link = None;
                self.resend(place);
            }
        }
        self.ring_clock();
    }

    fn speaks_v0(&mut self, link: u32) -> bool {
        self.links.at(link).is_some_and(|link| link.dialect == Dialect::V0)
    }

    /// Sends an operation that waited.
    fn resend(&mut self, place: u32) {
        if self.ops.at(place).ask == Ask::Batch { self.split_batch(place, None) } else { self.send(place) }
    }

    /// Counts an operation that is complete now, and sends it.
    #[inline]
    pub fn launch(&mut self, place: u32) {
        self.ops.count_bytes(place);
        self.wake_clock();
        self.send(place);
    }

    /// Sends an operation by the newest view.
    pub fn send(&mut self, place: u32) {
        let Some(link_place) = route(self.ops.at(place), &self.view, &self.links) else {
            return self.put_off(place, Trouble::NoServer);
        };
        let (floor, epoch, now_ms) = (self.ops.floor(), self.view.number(), self.now_ms);
        if self.usable_link(link_place).is_none() {
            return self.unreachable(place);
        }
        let Some(link) = self.links.at(link_place) else { return };
        let op = self.ops.at(place);
        op.attempt += 1;
        op.link = Some(link_place);
        if op.attempt == 1 {
            op.first_epoch = epoch;
        }
        let request = Request::Attempt { op: place, generation: op.generation, attempt: op.attempt };
        let Some(msgid) = link.ask(request, now_ms) else {
            return self.put_off(place, Trouble::Overloaded);
        };
        match link.dialect {
            Dialect::V1 => link.write(|out| op.write_v1(out, msgid, epoch, floor)),
            Dialect::V0 => {
                if op.stage == Stage::Start {
                    op.stage = v0::first_stage(op.ask);
                }
                link.write(|out| v0::write_op(op, out, msgid));
            }
        }
    }

    /// Sends a batch; its keys are in the client's assembly.
    pub fn send_batch(&mut self, place: u32, link_place: u32) {
        self.ops.count_bytes(place);
        self.wake_clock();
        let (epoch, now_ms) = (self.view.number(), self.now_ms);
        if self.usable_link(link_place).is_none() {
            return self.put_off(place, Trouble::NoServer);
        }
        let Some(link) = self.links.at(link_place) else { return };
        let op = self.ops.at(place);
        (op.attempt, op.link) = (1, Some(link_place));
        let request = Request::Attempt { op: place, generation: op.generation, attempt: 1 };
        let assembly = self.clients.get(op.home).and_then(|c| c.answers.assembly(op.home.number?));
        let (Some(assembly), Some(msgid)) = (assembly, link.ask(request, now_ms)) else {
            return self.put_off(place, Trouble::Overloaded);
        };
        link.write(|out| {
            let parts = op.parts();
            write_multi_get_head(out, msgid, epoch, parts.len());
            parts.for_each(|part| write_raw(out, assembly.dbkey(part)));
        });
    }

    /// No connection to the server of an operation now: where reads may fall back, the next replica is asked.
    fn unreachable(&mut self, place: u32) {
        let readers = self.view.readers(self.ops.at(place).hash);
        let is_v0 = self.view.number() == 0;
        let op = self.ops.at(place);
        if is_v0 && op.stage != Stage::Write && op.fallback + 1 < readers {
            op.fallback += 1;
            return self.send(place);
        }
        op.fallback = 0;
        self.put_off(place, Trouble::NoServer);
    }

    /// Has an operation tried again after a pause, or gives it up.
    pub fn put_off(&mut self, place: u32, trouble: Trouble) {
        let chance = self.chance.draw();
        let now_ms = self.now_ms;
        let op = self.ops.at(place);
        let patience_ms = self.shared.config.patience_ms(op.ask);
        op.link = None;
        op.trouble = Some(trouble);
        if now_ms.saturating_sub(op.began_ms) >= patience_ms {
            return self.give_up(place);
        }
        if op.ask == Ask::Batch {
            return self.split_batch(place, Some(trouble));
        }
        let due_ms = now_ms + delay_ms(op.retries, chance);
        op.retries += 1;
        self.waiting.push(Reverse((due_ms, op.sequence, place, op.generation)));
        self.count(Figure::Retries, 1);
        self.ring_clock();
    }

    /// Gives up what took too long, also what a server has and does not answer.
    pub fn check_operations(&mut self) {
        let now_ms = self.now_ms;
        let overdue = |op: &Op| now_ms.saturating_sub(op.began_ms) >= self.shared.config.patience_ms(op.ask);
        for place in self.ops.select(overdue) {
            let op = self.ops.at(place);
            op.uncertain |= op.link.is_some() && op.is_mutation();
            self.give_up(place);
        }
    }

    /// Tells an error: nothing was changed, or it is not known.
    fn give_up(&mut self, place: u32) {
        let op = self.ops.at(place);
        let trouble = if op.uncertain { Trouble::Unknown } else { op.trouble.unwrap_or(Trouble::NoServer) };
        if op.ask == Ask::Batch {
            let (home, parts) = (op.home, op.parts().collect::<Vec<_>>());
            if let Some((client, number)) = self.clients.get(home).zip(home.number) {
                let assembly = client.answers.assembly(number);
                assembly.into_iter().for_each(|a| parts.iter().for_each(|part| a.fail(*part, trouble)));
            }
            return self.end_batch(place);
        }
        self.finish(place, Answer::trouble(trouble));
    }

    /// Makes operations of their own of the parts of a batch that are not told yet. With a trouble they wait, without
    /// they are sent.
    fn split_batch(&mut self, place: u32, trouble: Option<Trouble>) {
        let op = self.ops.at(place);
        let (home, began_ms, parts) = (op.home, op.began_ms, op.parts().collect::<Vec<_>>());
        for part in parts {
            self.ask_part(Home { part, ..home }, began_ms, trouble, false);
        }
        self.end_batch(place);
    }

    /// Asks for one part of an answer, if it is not told yet.
    pub fn ask_part(&mut self, home: Home, began_ms: u64, trouble: Option<Trouble>, alone: bool) {
        let Some((client, number)) = self.clients.get(home).zip(home.number) else { return };
        let Some(assembly) = client.answers.assembly(number).filter(|a| a.is_asked(home.part)) else { return };
        let (place, op) = self.ops.begin(home, Ask::Get, began_ms);
        let dbkey = assembly.dbkey(home.part);
        op.set_dbkey(dbkey);
        op.alone = alone;
        client.begin(1, op.bytes.len());
        self.ops.count_bytes(place);
        match trouble {
            Some(trouble) => self.put_off(place, trouble),
            None => self.send(place),
        }
    }

    /// An attempt will not be answered. `sent`: it may have been executed.
    pub fn attempt_lost(&mut self, place: u32, generation: u32, attempt: u32, sent: bool) {
        let Some(op) = self.ops.get(place, generation).filter(|op| op.attempt == attempt && op.link.is_some()) else {
            return;
        };
        op.uncertain |= sent && op.is_mutation();
        let link = op.link.unwrap_or_default();
        if self.cannot_repeat(place, link) {
            return self.finish(place, Answer::trouble(Trouble::Unknown));
        }
        if self.speaks_v0(link) {
            self.restart(place);
            return self.unreachable(place);
        }
        self.put_off(place, Trouble::NoServer);
    }

    /// Whether an operation must not be sent again: a lost attempt may have been executed.
    fn cannot_repeat(&mut self, place: u32, link: u32) -> bool {
        let is_v0 = self.speaks_v0(link);
        let op = self.ops.at(place);
        match op.ask {
            Ask::Mutate(change) if op.uncertain => !(if is_v0 { v0::may_repeat(op) } else { may_repeat(change) }),
            _ => false,
        }
    }

    /// Makes an operation with a version 0 server begin again.
    fn restart(&mut self, place: u32) {
        let op = self.ops.at(place);
        op.stage = Stage::Start;
        op.computed.clear();
    }

    /// Takes an answer from a server.
    pub fn answered(&mut self, link_place: u32, msgid: u32, error: Option<u32>, result: &[u8]) {
        let Some(link) = self.links.at(link_place) else { return };
        let dialect = link.dialect;
        let valid = match link.pending.take(msgid) {
            // Nothing was asked so: an answer to what was given up, or made up.
            None => return,
            Some(Request::Connect) => self.connect_answered(link_place, error, result),
            Some(Request::Epoch) => self.epoch_answered(link_place, error, result),
            Some(Request::Attempt { op: place, generation, attempt }) => {
                let Some(op) = self.ops.get(place, generation) else { return };
                let latest = op.attempt == attempt && op.link.is_some();
                match (error, dialect) {
                    (Some(error), _) => {
                        if latest {
                            self.refused(place, link_place, error, result);
                        }
                        Ok(())
                    }
                    (None, Dialect::V1) => self.take_result(place, latest, result),
                    (None, Dialect::V0) if latest => self.take_v0_result(place, result),
                    (None, Dialect::V0) => Ok(()),
                }
            }
        };
        if valid.is_err() {
            self.break_link(link_place, "a malformed answer");
        }
    }

    fn take_result(&mut self, place: u32, latest: bool, result: &[u8]) -> Result<(), DecodeError> {
        let layout = self.shared.config.layout;
        let answer = match self.ops.at(place).ask {
            Ask::Get => outcome::of_get(result, layout, unix_secs())?,
            Ask::Mutate(change) => outcome::of_mutation(change, result, layout)?,
            Ask::Batch => return self.take_batch(place, result),
        };
        let positive = answer.is_positive();
        if self.ops.at(place).uncertain && !counts_after_loss(positive) {
            if latest {
                self.finish(place, Answer::trouble(Trouble::Unknown));
            }
        } else if latest || positive {
            self.finish(place, answer);
        }
        Ok(())
    }

    fn take_v0_result(&mut self, place: u32, result: &[u8]) -> Result<(), DecodeError> {
        let config = &self.shared.config;
        let step = v0::step(self.ops.at(place), result, config.layout, unix_secs(), config.limits.value_bytes)?;
        match step {
            Step::Answer(Answer::Found(found)) => {
                // It may lie in the operation itself.
                let (flags, cas, data) = (found.flags, found.cas, found.data.to_vec());
                self.finish(place, Answer::Found(Found { flags, cas, data: &data }));
            }
            Step::Answer(Answer::Missing) => self.finish(place, Answer::Missing),
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
                op.uncertain = true;
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
        let now_secs = unix_secs();
        let op = self.ops.at(place);
        let Some((client, number)) = self.clients.get(op.home).zip(op.home.number) else {
            self.end_batch(place);
            return Ok(());
        };
        let is_next = client.answers.is_next(number);
        let (mut hits, mut misses) = (0, 0);
        let mut read = |out: &mut Option<&mut Vec<u8>>| -> Result<(), DecodeError> {
            let Some(assembly) = client.answers.assembly(number) else { return Ok(()) };
            let mut r = Reader::new(result);
            r.array_of(op.keys())?;
            for part in op.parts() {
                match r.head()? {
                    Head::Raw(len) => match outcome::of_dbval(r.take(len)?, layout, now_secs)? {
                        Answer::Found(found) => {
                            hits += 1;
                            client.traffic.note(found.data.len());
                            assembly.found(part, &found, out.as_deref_mut());
                        }
                        _ => {
                            misses += 1;
                            assembly.missing(part);
                        }
                    },
                    Head::Nil => {
                        misses += 1;
                        assembly.missing(part);
                    }
                    Head::Bool(false) => assembly.leave_alone(part),
                    _ => return Err(DecodeError::Type),
                }
            }
            Ok(())
        };
        if is_next {
            client.conn.write(|out| read(&mut Some(out)))?;
        } else {
            read(&mut None)?;
        }
        self.count(Figure::GetHits, hits);
        self.count(Figure::GetMisses, misses);
        self.end_batch(place);
        Ok(())
    }

    /// A batch is done with: what it told is given to the client, if it is its turn.
    fn end_batch(&mut self, place: u32) {
        let op = self.ops.at(place);
        let (home, keys, bytes) = (op.home, op.keys(), op.bytes.len());
        self.ops.end(place);
        let Some(client) = self.clients.get(home) else { return };
        client.end(keys, bytes);
        if home.number.is_some_and(|number| client.answers.is_next(number)) {
            client.give(&mut self.pool);
        }
        self.after_answer(home);
    }

    /// An operation is done: its answer goes where it belongs.
    pub fn finish(&mut self, place: u32, answer: Answer<'_>) {
        let op = self.ops.at(place);
        let home = op.home;
        self.counters.count_answer(op.ask, &answer);
        if let Answer::Reply(Reply::Trouble(trouble)) = &answer {
            failures::note(&self.shared.config.binary_log, op, *trouble);
        }
        if let Some(client) = self.clients.get(home) {
            client.end(1, op.bytes.len());
            if let Answer::Found(found) = &answer {
                client.traffic.note(found.data.len());
            }
            match home.number {
                Some(number) if home.part == WHOLE => {
                    let key = &op.bytes[HASH_LEN + self.shared.config.key_prefix.len()..op.key_end];
                    let cas = op.with_cas;
                    client.answer(number, &mut self.pool, |out| encode(&answer, key, cas, out));
                }
                Some(number) => {
                    let alone = op.alone;
                    client.answer_part(number, home.part, alone, &answer, &mut self.pool);
                }
                None => {}
            }
        }
        self.ops.end(place);
        self.after_answer(home);
    }

    /// Lets a client go on that waited, and asks for what a server left out.
    fn after_answer(&mut self, home: Home) {
        self.feed_starved();
        while let Some(client) = self.clients.get(home)
            && let Some(part) = client.next_alone(ALONE_AT_ONCE)
        {
            let now_ms = self.now_ms;
            self.ask_part(part_home(home, part), now_ms, None, true);
        }
        if let Some(client) = self.clients.get(home) {
            client.go_on();
        }
    }

    /// A server refuses an attempt: it was not executed.
    fn refused(&mut self, place: u32, link_place: u32, number: u32, result: &[u8]) {
        if number == error::NO_SPACE {
            let uncertain = self.ops.at(place).uncertain;
            let trouble = if uncertain { Trouble::Unknown } else { Trouble::NoSpace };
            return self.finish(place, Answer::trouble(trouble));
        }
        let newer = Reader::new(result).u64().ok().filter(|epoch| *epoch > self.view.number());
        if number == error::SERVER && newer.is_some() {
            self.fetch_epoch(link_place);
        } else {
            self.note_refusal();
        }
        if self.speaks_v0(link_place) {
            let was_read = self.ops.at(place).stage != Stage::Write;
            self.restart(place);
            if was_read {
                return self.unreachable(place);
            }
        }
        self.put_off(place, Trouble::TryAgain);
    }

    fn note_refusal(&mut self) {
        self.refusals += 1;
        if self.refusals >= self.shared.config.renew_threshold.max(1) {
            self.refusals = 0;
            // Without that task the gateway is stopping.
            let _ = self.shared.requests.send(worker::Request::Renew);
        }
    }

    /// Asks a server for its epoch, which is newer than ours.
    fn fetch_epoch(&mut self, link_place: u32) {
        let (known, now_ms) = (self.view.number(), self.now_ms);
        let Some(link) = self.links.at(link_place) else { return };
        if link.dialect == Dialect::V0 || link.epoch_asked {
            return;
        }
        if let Some(msgid) = link.ask(Request::Epoch, now_ms) {
            link.epoch_asked = true;
            link.write(|out| {
                write_request(out, msgid, method::GET_EPOCH);
                write_array(out, 1);
                write_uint(out, known);
            });
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
fn encode(answer: &Answer<'_>, key: &[u8], with_cas: bool, out: &mut Vec<u8>) {
    match answer {
        Answer::Found(found) => {
            let cas = with_cas.then_some(found.cas);
            text::encode(&Reply::Value { key, flags: found.flags, cas, data: found.data }, out);
            text::encode(&Reply::End, out);
        }
        Answer::Missing => text::encode(&Reply::End, out),
        Answer::Reply(reply) => text::encode(reply, out),
    }
}

impl super::run::Config {
    /// How long an operation is tried, in milliseconds.
    fn patience_ms(&self, ask: Ask) -> u64 {
        give_up_after_ms(match ask {
            Ask::Get | Ask::Batch => self.get_retry,
            Ask::Mutate(v1::Op::Delete) => self.delete_retry,
            Ask::Mutate(_) => self.set_retry,
        })
    }
}
