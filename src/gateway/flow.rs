//! An operation's way: sent by the newest view, answered or not, sent again, told.

use super::large::more_patience_ms;
use super::link::Links;
use super::op::{Ask, Home, Op};
use super::order::Overtaken;
use super::outcome::Answer;
use super::pending::Request;
use super::retry::{delay_ms, give_up_after_ms};
use super::stats::Figure;
use super::v0::{self, Stage};
use super::view::{Dialect, View};
use super::worker::{self, State};
use crate::proto::memcache::Trouble;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::v0::{method as v0_method, status};
use crate::proto::rpc::v1::{self, method, write_multi_get_head};
use std::cmp::Reverse;
use std::sync::Arc;

/// How long servers that hand over are given to answer what they still have, in milliseconds: many times what that takes, and
/// little beside how long it takes to part with one that hangs.
const ANSWER_MS: u64 = 250;

/// The link for an operation; `None`: nobody serves the key.
#[inline]
fn route(op: &Op, view: &View, links: &Links) -> Option<u32> {
    let writes = op.stage == Stage::Write || (op.stage == Stage::Start && v0::first_stage(op.ask) == Stage::Write);
    let server = if writes { view.writer(op.hash)? } else { view.reader(op.hash, op.fallback)? };
    links.to(server, op.hash)
}

impl State {
    /// Takes over a newer view: what waits goes at once. What is under way with servers that are no longer the ones to ask is
    /// asked anew: when they have answered, as those do that hand over, or at once where they are silent.
    pub fn adopt(&mut self, view: Arc<View>) {
        self.read_clock();
        self.view = view;
        self.refusals = 0;
        self.links.adopt(&self.view, self.now_ms);
        self.waiting.clear();
        let under_way = self.ops.select(|_| true);
        for (place, generation) in under_way.iter().copied() {
            if let Some(op) = self.ops.get(place, generation).filter(|op| op.ask != Ask::Batch) {
                // It may be refused yet, and later ones must not come before it.
                self.order.enter(place, op);
            }
        }
        for (place, generation) in under_way {
            let Some(op) = self.ops.get(place, generation) else { continue };
            let Some(link) = op.link else {
                self.resend(place);
                continue;
            };
            if self.is_astray(place) {
                if self.links.at(link).is_some_and(|link| link.is_answering(self.now_ms)) {
                    self.recall_ms = self.now_ms + ANSWER_MS;
                } else {
                    self.recall(place, link);
                }
            }
        }
        self.ring_clock();
    }

    /// Whether an operation is under way with a server that is not, or no longer, the one to ask.
    fn is_astray(&mut self, place: u32) -> bool {
        let State { ops, view, links, .. } = self;
        let op = ops.at(place);
        let Some(link) = op.link else { return false };
        match op.ask {
            // Each server of a batch refuses it whole, by its epoch, or answers it whole.
            Ask::Batch => links.at(link).is_none_or(|link| link.has_left()),
            _ => route(op, view, links) != Some(link),
        }
    }

    /// Waits no longer for the answer to an operation's attempt, and sends it by the newest view.
    fn recall(&mut self, place: u32, link: u32) {
        self.note_loss(place, link);
        if self.cannot_repeat(place, link) {
            self.finish(place, Answer::trouble(Trouble::Unknown));
        } else {
            let op = self.ops.at(place);
            (op.link, op.download) = (None, None);
            self.resend(place);
        }
    }

    /// Those who were to hand over have had their time: what they have not answered is asked of their successors.
    pub fn recall_late(&mut self) {
        self.recall_ms = u64::MAX;
        let number = self.view.number();
        for (place, generation) in self.ops.select(|op| op.link.is_some() && op.epoch < number) {
            let Some(link) = self.ops.get(place, generation).and_then(|op| op.link) else { continue };
            if self.is_astray(place) {
                self.recall(place, link);
            }
        }
    }

    fn speaks_v0(&mut self, link: u32) -> bool {
        self.links.at(link).is_some_and(|link| link.dialect == Dialect::V0)
    }

    /// Sends an operation that waited, if it is its turn.
    fn resend(&mut self, place: u32) {
        if self.ops.at(place).ask == Ask::Batch {
            self.split_batch(place, None);
        } else if self.order.may_go(self.ops.at(place)) {
            self.send(place);
        }
    }

    /// Counts an operation that is complete now, and sends it.
    #[inline]
    pub fn launch(&mut self, place: u32) {
        self.ops.count_bytes(place);
        self.wake_clock();
        if !self.order.is_empty() && self.stands_behind(place) {
            return;
        }
        self.send(place);
    }

    /// Has an operation stand behind earlier ones of its client on its key, if such are in trouble.
    fn stands_behind(&mut self, place: u32) -> bool {
        let op = self.ops.at(place);
        if self.order.has(op.home, op.hash) {
            self.order.enter(place, op);
        }
        !self.order.may_go(op)
    }

    fn overtaken(&self, place: u32) -> Overtaken {
        let standing = |place: u32| match self.ops.get_at(place).filter(|other| other.is_mutation()) {
            Some(other) if other.uncertain => Overtaken::Yes,
            Some(other) if other.link.is_some() => Overtaken::Perhaps,
            _ => Overtaken::No,
        };
        self.ops.get_at(place).map_or(Overtaken::No, |op| self.order.overtaken(op, standing))
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
        let retried = self.ops.get_at(place).is_some_and(|op| op.in_line && op.attempt > 0 && op.is_read());
        if retried && !self.speaks_v0(link_place) {
            match self.overtaken(place) {
                Overtaken::No => {}
                Overtaken::Perhaps => return self.put_off(place, Trouble::TryAgain),
                Overtaken::Yes => {
                    // A fetch may have made its client the one to renew the value.
                    let uncertain = self.ops.at(place).uncertain;
                    let trouble = if uncertain { Trouble::Unknown } else { Trouble::TryAgain };
                    return self.finish(place, Answer::trouble(trouble));
                }
            }
        }
        let Some(link) = self.links.at(link_place) else { return };
        let op = self.ops.at(place);
        if link.dialect == Dialect::V0 && op.uncertain && !op.unremembered && !v0::may_repeat_there(op.ask) {
            return self.finish(place, Answer::trouble(Trouble::Unknown));
        }
        if link.dialect == Dialect::V0 && !v0::is_served(op) {
            return self.finish(place, Answer::trouble(Trouble::NotServed));
        }
        if op.body.is_some() {
            match link.dialect {
                Dialect::V1 => return self.begin_parts(place, link_place, epoch),
                Dialect::V0 => self.gather(place),
            }
        }
        let (Some(link), op) = (self.links.at(link_place), self.ops.at(place)) else { return };
        op.attempt += 1;
        (op.link, op.epoch) = (Some(link_place), epoch);
        if !op.uncertain {
            // All earlier attempts, if any, were refused: none of them was executed, or will be.
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
        (op.attempt, op.link, op.epoch) = (1, Some(link_place), epoch);
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
        let patience_ms = self.shared.config.patience_ms(op);
        op.link = None;
        (op.sending, op.download) = (None, None);
        op.trouble = Some(trouble);
        if now_ms.saturating_sub(op.began_ms) >= patience_ms {
            return self.give_up(place);
        }
        if op.ask == Ask::Batch {
            return self.split_batch(place, Some(trouble));
        }
        let due_ms = now_ms + delay_ms(op.retries, chance);
        op.retries += 1;
        self.order.enter(place, op);
        self.waiting.push(Reverse((due_ms, op.order, place, op.generation)));
        self.count(Figure::Retries, 1);
        self.ring_clock();
    }

    /// Gives up what took too long, also what a server has and does not answer.
    pub fn check_operations(&mut self) {
        let now_ms = self.now_ms;
        let overdue = |op: &Op| now_ms.saturating_sub(op.began_ms) >= self.shared.config.patience_ms(op);
        for (place, generation) in self.ops.select(overdue) {
            let Some(op) = self.ops.get(place, generation) else { continue };
            if let Some(link) = op.link {
                self.note_loss(place, link);
            }
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
        let (home, began_ms, order, parts) = (op.home, op.began_ms, op.order, op.parts().collect::<Vec<_>>());
        for part in parts {
            // It was asked for once, as all of the batch.
            let set = |op: &mut Op| (op.order, op.attempt) = (order, 1);
            self.ask_part(Home { part, ..home }, began_ms, set, trouble);
        }
        self.end_batch(place);
    }

    /// Asks for one part of an answer, if it is not told yet. With a trouble it waits.
    pub fn ask_part(&mut self, home: Home, began_ms: u64, set: impl FnOnce(&mut Op), trouble: Option<Trouble>) {
        let Some((client, number)) = self.clients.get(home).zip(home.number) else { return };
        let Some(assembly) = client.answers.assembly(number).filter(|a| a.is_asked(home.part)) else { return };
        let (place, op) = self.ops.begin(home, Ask::Get, began_ms);
        let dbkey = assembly.dbkey(home.part);
        op.set_dbkey(dbkey);
        op.known = self.cache.find(op.hash, dbkey);
        set(op);
        client.begin(1, op.bytes.len());
        match trouble {
            Some(trouble) => {
                self.ops.count_bytes(place);
                self.put_off(place, trouble);
            }
            None => self.launch(place),
        }
    }

    /// An attempt will not be answered. `sent`: it may have been executed.
    pub fn attempt_lost(&mut self, place: u32, generation: u32, attempt: u32, sent: bool) {
        let Some(op) = self.ops.get(place, generation).filter(|op| op.attempt == attempt && op.link.is_some()) else {
            return;
        };
        let link = op.link.unwrap_or_default();
        if sent {
            self.note_loss(place, link);
        }
        if self.cannot_repeat(place, link) {
            return self.finish(place, Answer::trouble(Trouble::Unknown));
        }
        if self.speaks_v0(link) {
            self.restart(place);
            return self.unreachable(place);
        }
        self.put_off(place, Trouble::NoServer);
    }

    /// The attempt that a link has may have been executed, and its answer is not waited for any more.
    fn note_loss(&mut self, place: u32, link: u32) {
        let is_v0 = self.speaks_v0(link);
        let op = self.ops.at(place);
        // With its value still on its way, nothing was asked for.
        if op.sending.take().is_some() {
            return;
        }
        op.uncertain |= op.is_mutation();
        op.unremembered |= op.is_mutation() && is_v0;
    }

    /// Whether an operation must not be sent again over a link: a lost attempt may have been executed, and the server at
    /// its end remembers nothing.
    fn cannot_repeat(&mut self, place: u32, link: u32) -> bool {
        let is_v0 = self.speaks_v0(link);
        let op = self.ops.at(place);
        op.uncertain && is_v0 && !v0::may_repeat(op)
    }

    /// Makes an operation with a version 0 server begin again.
    pub fn restart(&mut self, place: u32) {
        let op = self.ops.at(place);
        op.stage = Stage::Start;
        op.computed.clear();
    }

    /// A server refuses an attempt: it was not executed, unless the error says that nobody knows.
    pub fn refused(&mut self, place: u32, link_place: u32, number: u32, result: &[u8]) {
        let op = self.ops.at(place);
        (op.sending, op.download) = (None, None);
        if number == error::NO_SPACE {
            let uncertain = self.ops.at(place).uncertain;
            let trouble = if uncertain { Trouble::Unknown } else { Trouble::NoSpace };
            return self.finish(place, Answer::trouble(trouble));
        }
        if number == error::UNKNOWN {
            let op = self.ops.at(place);
            let (generation, attempt) = (op.generation, op.attempt);
            return self.attempt_lost(place, generation, attempt, true);
        }
        let theirs = Reader::new(result).u64().ok().filter(|_| number == error::SERVER);
        if theirs.is_some_and(|theirs| theirs > self.view.number()) {
            self.fetch_epoch(link_place);
        } else if theirs.is_some() && self.ops.at(place).epoch < self.view.number() {
            // It named an epoch that was over; by the one that is known now it goes without a pause.
            let op = self.ops.at(place);
            op.link = None;
            if op.ask != Ask::Batch {
                self.order.enter(place, op);
            }
            return self.resend(place);
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

    /// Asks a server for its epoch, should it be newer than ours; one of kumofs 0.4, for anything.
    pub fn fetch_epoch(&mut self, link_place: u32) {
        let (known, now_ms) = (self.view.number(), self.now_ms);
        let Some(link) = self.links.at(link_place) else { return };
        if link.epoch_asked {
            return;
        }
        let is_v0 = link.dialect == Dialect::V0;
        let (request, method, argument) = match is_v0 {
            true => (Request::Ping, v0_method::GET_STATUS, u64::from(status::PID)),
            false => (Request::Epoch, method::GET_EPOCH, known),
        };
        if let Some(msgid) = link.ask(request, now_ms) {
            link.epoch_asked = true;
            link.write(|out| {
                write_request(out, msgid, method);
                write_array(out, 1);
                write_uint(out, argument);
            });
        }
    }
}

impl super::run::Config {
    /// How long an operation is tried, in milliseconds.
    fn patience_ms(&self, op: &Op) -> u64 {
        let retries = match op.ask {
            Ask::Get | Ask::Batch => self.get_retry,
            Ask::Mutate(v1::Op::Delete) => self.delete_retry,
            Ask::Mutate(_) => self.set_retry,
        };
        give_up_after_ms(retries) + more_patience_ms(op)
    }
}
