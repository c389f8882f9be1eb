//! Operations with servers that speak version 0 only: what they have no method for is done by reading and comparing.
//!
//! Such servers know set, compare-and-swap, get and delete. The rest is a get, a decision here, and a compare-and-swap
//! that starts over when the value has changed meanwhile. There the promise is kumofs's own (`doc/guarantees.md`, "The
//! promise"): `add` over nothing is a plain set, and a change whose answer got lost is told as unknown unless it can
//! be repeated without harm. Pure.

use super::assembly::Found;
use super::op::{Ask, Op};
use super::outcome::{Answer, of_dbval, too_large};
use super::value::{Layout, Seen};
use crate::logic::clock::ClockTime;
use crate::logic::counter::{self, Direction};
use crate::logic::decimal;
use crate::logic::expiry::NEVER;
use crate::logic::record::{self, Body, LAYOUT_CAS, LAYOUT_KUMOFS};
use crate::proto::memcache::{Reply, Trouble};
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::v0::{DELETE_ASYNC, method, set_op};
use crate::proto::rpc::v1::{self, Gone, option};

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// Nothing was sent yet, or it starts over.
    #[default]
    Start,
    /// The value is being read.
    Read,
    /// The change is being written.
    Write,
    /// A compare-and-swap failed: what there is instead is being read.
    Check,
}

/// How an operation goes on after an answer.
#[derive(PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// It is done.
    Answer(Answer<'a>),
    /// Write this dbval: by compare-and-swap with the version in it, or with version 0 in any case.
    Write(Vec<u8>),
    /// Read what there is.
    Check,
    /// Start over: the value has changed meanwhile.
    Again,
    /// The server failed; whether it has done it is not known.
    Failed,
}

/// What to send first.
pub fn first_stage(ask: Ask) -> Stage {
    match ask {
        Ask::Mutate(v1::Op::Set | v1::Op::Cas | v1::Op::Delete) => Stage::Write,
        _ => Stage::Read,
    }
}

/// Whether a change may be sent again although an earlier attempt may have been executed.
pub fn may_repeat(op: &Op) -> bool {
    op.stage != Stage::Write || may_repeat_there(op.ask)
}

/// Whether a change may be sent to a server that speaks version 0 although it may have been executed already.
pub fn may_repeat_there(ask: Ask) -> bool {
    matches!(ask, Ask::Mutate(v1::Op::Set | v1::Op::Delete | v1::Op::Fetch))
}

/// Whether such servers can do it at all: they compare and swap, but do not compare and delete, and what the meta
/// protocol notes about a value has no place with them.
pub fn is_served(op: &Op) -> bool {
    let terms = &op.terms;
    match op.ask {
        Ask::Mutate(v1::Op::Delete) => terms.cas == 0,
        Ask::Mutate(v1::Op::Fetch) => terms.bits == 0 && terms.recache == 0,
        Ask::Mutate(v1::Op::Invalidate) => false,
        Ask::Mutate(v1::Op::Incr | v1::Op::Decr) => terms.bits & !v1::term::CREATE == 0,
        _ => terms.bits == 0,
    }
}

/// Appends the request of an operation's stage. In [`Stage::Write`], [`Op::computed`] is what a [`Step::Write`] said.
pub fn write_op(op: &Op, out: &mut Vec<u8>, msgid: u32) {
    if op.stage != Stage::Write {
        write_request(out, msgid, method::GET);
        write_array(out, 1);
        return write_raw(out, op.dbkey());
    }
    let not_waiting = op.options & option::ASYNC != 0;
    if op.ask == Ask::Mutate(v1::Op::Delete) {
        write_request(out, msgid, method::DELETE);
        write_array(out, 2);
        write_uint(out, if not_waiting { DELETE_ASYNC } else { 0 });
        return write_raw(out, op.dbkey());
    }
    let dbval = if op.computed.is_empty() { op.dbval() } else { &op.computed };
    let required = (op.ask == Ask::Mutate(v1::Op::Cas) && op.computed.is_empty()).then_some(op.arg);
    let is_cas = required.is_some() || record::version_of(dbval) != Some(ClockTime(0));
    let operation = match (is_cas, not_waiting) {
        (true, _) => set_op::CAS,
        (false, true) => set_op::SET_ASYNC,
        (false, false) => set_op::SET,
    };
    write_request(out, msgid, method::SET);
    write_array(out, 3);
    write_uint(out, operation);
    write_raw(out, op.dbkey());
    write_raw(out, dbval);
    let version_at = out.len() - dbval.len();
    if let (Some(required), Some(version)) = (required, out.get_mut(version_at..version_at + 8)) {
        version.copy_from_slice(&required.to_be_bytes());
    }
}

/// Takes the result of the request that [`write_op`] made. Values have at most `max_len` bytes.
///
/// # Errors
/// When it is no such result.
pub fn step<'a>(
    op: &'a Op,
    result: &'a [u8],
    layout: Layout,
    now_secs: impl FnOnce() -> u64,
    max_len: usize,
) -> Result<Step<'a>, DecodeError> {
    if op.stage == Stage::Write {
        return written(op, result, layout);
    }
    let mut r = Reader::new(result);
    let dbval = if r.take_nil() { None } else { Some(r.raw()?) };
    let Ask::Mutate(change) = op.ask else {
        let answer = dbval.map_or(Ok(Answer::Missing(Gone::Absent)), |dbval| of_dbval(dbval, layout, now_secs))?;
        return Ok(Step::Answer(answer));
    };
    if change == v1::Op::Fetch {
        return Ok(Step::Answer(match dbval.map(|dbval| of_dbval(dbval, layout, now_secs)).transpose()? {
            Some(Answer::Found(found)) => Answer::Told(found, 0, found.expiry),
            _ => Answer::Missing(Gone::Absent),
        }));
    }
    let value = dbval.map(|dbval| record::parse(dbval).ok_or(DecodeError::Type)).transpose()?;
    let body = value.and_then(|value| value.body);
    let seen = body.and_then(|body| layout.read(&body, now_secs));
    let current = body.zip(seen).map(|(body, seen)| Current { body, seen, layout });
    // What has expired is still compared with: it may be written over meanwhile.
    let version = value.filter(|_| body.is_some()).map_or(ClockTime(0), |value| value.version);
    if op.stage == Stage::Check && current.is_none() {
        return Ok(Step::Answer(Answer::Reply(Reply::NotFound)));
    }
    let asked = record::parse(op.dbval()).and_then(|value| value.body);
    Ok(match compute(change, op, current, asked, version, max_len) {
        Ok(dbval) => Step::Write(dbval),
        Err(answer) => Step::Answer(answer),
    })
}

/// The result of a Set or Delete.
fn written<'a>(op: &'a Op, result: &[u8], layout: Layout) -> Result<Step<'a>, DecodeError> {
    let Ask::Mutate(change) = op.ask else { return Err(DecodeError::Type) };
    let done = |reply, cas| Ok(Step::Answer(Answer::Changed(reply, cas)));
    match (Reader::new(result).head()?, change) {
        (Head::Nil, _) => Ok(Step::Failed),
        (Head::Bool(true), v1::Op::Delete) => done(Reply::Deleted, 0),
        (Head::Bool(false), v1::Op::Delete) => Ok(Step::Answer(Answer::Reply(Reply::NotFound))),
        // An earlier attempt, whose answer got lost, may be what it was compared with.
        (Head::Bool(false), v1::Op::Cas) if op.uncertain => Ok(Step::Failed),
        (Head::Bool(false), v1::Op::Cas) => Ok(Step::Check),
        (Head::Bool(false), _) => Ok(Step::Again),
        (Head::UInt(_), v1::Op::Touch) => done(Reply::Touched, 0),
        (Head::UInt(version), v1::Op::Incr | v1::Op::Decr | v1::Op::GetAndTouch) => {
            let body = record::parse(&op.computed).and_then(|value| value.body).ok_or(DecodeError::Type)?;
            // It was there when it was read, even if it has expired by now.
            let seen = layout.read(&body, || 0);
            let cas = if body.layout == LAYOUT_CAS { body.cas } else { version };
            let found = seen.map(|seen| Found { cas, ..seen.found });
            match (change, found) {
                (v1::Op::GetAndTouch, Some(found)) => Ok(Step::Answer(Answer::Found(found))),
                (_, Some(found)) => {
                    done(Reply::Number(decimal::parse_u64(found.data).ok_or(DecodeError::Type)?), version)
                }
                (_, None) => Err(DecodeError::Type),
            }
        }
        (Head::UInt(version), _) => done(Reply::Stored, version),
        _ => Err(DecodeError::Type),
    }
}

/// The value that a change works on.
struct Current<'a> {
    body: Body<'a>,
    seen: Seen<'a>,
    layout: Layout,
}

impl Current<'_> {
    /// The dbval with other data or another expiry, in the layout that it has, so that who wrote it reads it.
    fn with(&self, version: ClockTime, expiry: u32, data: &[u8]) -> Vec<u8> {
        const FULL: Layout = Layout { flags: false, expire: false };
        let mut dbval = Vec::with_capacity(record::header_len(record::LAYOUT_FULL) + data.len());
        if self.body.layout != LAYOUT_KUMOFS {
            FULL.encode(version, self.seen.found.flags, expiry, data, &mut dbval);
        } else if self.layout.is_kumofs() || expiry != NEVER {
            self.layout.encode(version, self.seen.found.flags, expiry, data, &mut dbval);
        } else {
            record::encode_header(version, LAYOUT_KUMOFS, 0, 0, 0, &mut dbval);
            dbval.extend_from_slice(data);
        }
        dbval
    }
}

impl Current<'_> {
    /// The dbval with another expiry and the same cas unique, where its layout has room for one.
    fn touched(&self, version: ClockTime, expiry: u32) -> Vec<u8> {
        let found = &self.seen.found;
        if self.body.layout == LAYOUT_KUMOFS {
            return self.with(version, expiry, found.data);
        }
        let mut dbval = Vec::with_capacity(record::header_len(LAYOUT_CAS) + found.data.len());
        record::encode_header(version, LAYOUT_CAS, found.flags, expiry, found.cas, &mut dbval);
        dbval.extend_from_slice(found.data);
        dbval
    }
}

/// The dbval that a change makes of what is there, or the answer when it makes none.
fn compute(
    change: v1::Op,
    op: &Op,
    current: Option<Current<'_>>,
    asked: Option<Body<'_>>,
    version: ClockTime,
    max_len: usize,
) -> Result<Vec<u8>, Answer<'static>> {
    use v1::Op::*;
    let reply = |reply| Err(Answer::Reply(reply));
    let as_asked = || {
        let mut dbval = op.dbval().to_vec();
        if let Some(head) = dbval.get_mut(..8) {
            head.copy_from_slice(&version.0.to_be_bytes());
        }
        Ok(dbval)
    };
    let terms = &op.terms;
    let Some(current) = current else {
        return match change {
            Add => as_asked(),
            Incr | Decr if terms.bits & v1::term::CREATE != 0 => as_asked(),
            Replace | Append | Prepend => reply(Reply::NotStored),
            GetAndTouch => Err(Answer::Missing(Gone::Absent)),
            _ => reply(Reply::NotFound),
        };
    };
    if terms.cas != 0 && terms.cas != current.seen.found.cas {
        return reply(Reply::Exists);
    }
    let data = current.seen.found.data;
    let asked_data = asked.map_or(&[][..], |body| body.data);
    let combined = |first: &[u8], second: &[u8]| {
        if first.len() + second.len() > max_len {
            return reply(too_large(change));
        }
        Ok(current.with(version, current.seen.expiry, &[first, second].concat()))
    };
    match change {
        Add => reply(Reply::NotStored),
        Replace => as_asked(),
        Append => combined(data, asked_data),
        Prepend => combined(asked_data, data),
        Incr | Decr => {
            let direction = if change == Incr { Direction::Up } else { Direction::Down };
            let number = counter::count(data, direction, op.arg).map_err(|_| Answer::trouble(Trouble::NonNumeric))?;
            let mut text = Vec::new();
            counter::write_data(number, data.len(), &mut text);
            Ok(current.with(version, current.seen.expiry, &text))
        }
        Touch | GetAndTouch => Ok(current.touched(version, asked.map_or(NEVER, |body| body.expiry))),
        // The version is another, but the cas unique may be older than it: a touch left it alone.
        Cas if current.seen.found.cas == op.arg && version.0 != op.arg => as_asked(),
        Cas => reply(Reply::Exists),
        // The last two are not served.
        Set | Delete | Fetch | Invalidate => as_asked(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::{Home, Ops};
    use super::*;
    use crate::proto::rpc::frame::{Frame, parse};

    const PLAIN: Layout = Layout { flags: false, expire: false };

    fn dbval(version: u64, flags: u32, expiry: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        PLAIN.encode(ClockTime(version), flags, expiry, data, &mut out);
        out
    }

    fn with_op<R>(change: v1::Op, arg: u64, asked: &[u8], stage: Stage, test: impl FnOnce(&mut Op) -> R) -> R {
        let mut ops = Ops::new(0);
        let (_, op) = ops.begin(Home::default(), Ask::Mutate(change), 0);
        op.set_key(b"", b"wirekey");
        op.bytes.extend_from_slice(asked);
        (op.arg, op.stage) = (arg, stage);
        test(op)
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_raw(&mut out, bytes);
        out
    }

    /// Reads `stored`, and returns the data of what is then written, or the reply.
    fn change(change: v1::Op, arg: u64, asked: &[u8], stored: Option<&[u8]>) -> Result<(u64, u32, Vec<u8>), String> {
        with_op(change, arg, asked, Stage::Read, |op| {
            let result = stored.map_or(vec![0xc0], raw);
            match step(op, &result, PLAIN, || 100, 10).unwrap() {
                Step::Write(dbval) => {
                    let value = record::parse(&dbval).unwrap();
                    let body = value.body.unwrap();
                    Ok((value.version.0, body.expiry, body.data.to_vec()))
                }
                other => Err(format!("{other:?}")),
            }
        })
    }

    #[test]
    fn the_golden_requests_are_written() {
        let request = |change, arg, asked: &[u8], stage| {
            with_op(change, arg, asked, stage, |op| {
                let mut out = Vec::new();
                write_op(op, &mut out, 7);
                out
            })
        };
        let dbkey = b"\xaf\x66\x7d\xf3\x13\x1b\x5a\xe4\xd7wirekey";
        let plain = [&[0; 10][..], b"new"].concat();
        let set = [&b"\x94\x00\x07\x23\x93\x00"[..], dbkey, b"\xad", &plain].concat();
        assert_eq!(request(v1::Op::Set, 0, &plain, Stage::Write), set);
        let get = [&b"\x94\x00\x07\x22\x91"[..], dbkey].concat();
        assert_eq!(request(v1::Op::Add, 0, &plain, Stage::Read), get);
        let required = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0][..], b"cas"].concat();
        let cas = [&b"\x94\x00\x07\x23\x93\x02"[..], dbkey, b"\xad", &required].concat();
        let asked = [&[0; 10][..], b"cas"].concat();
        assert_eq!(request(v1::Op::Cas, 1, &asked, Stage::Write), cas);
        let delete = [&b"\x94\x00\x07\x24\x92\x00"[..], dbkey].concat();
        assert_eq!(request(v1::Op::Delete, 0, b"", Stage::Write), delete);
    }

    #[test]
    fn changes_are_computed_from_what_is_there() {
        let asked = dbval(0, 0, 500, b"xy");
        let there = dbval(9, 3, 400, b"10");
        let expired = dbval(9, 3, 100, b"10");
        let ok = |version, expiry, data: &[u8]| Ok((version, expiry, data.to_vec()));
        assert_eq!(change(v1::Op::Add, 0, &asked, None), ok(0, 500, b"xy"));
        assert_eq!(change(v1::Op::Add, 0, &asked, Some(&expired)), ok(9, 500, b"xy"));
        assert_eq!(change(v1::Op::Replace, 0, &asked, Some(&there)), ok(9, 500, b"xy"));
        assert_eq!(change(v1::Op::Append, 0, &asked, Some(&there)), ok(9, 400, b"10xy"));
        assert_eq!(change(v1::Op::Prepend, 0, &asked, Some(&there)), ok(9, 400, b"xy10"));
        assert_eq!(change(v1::Op::Incr, 5, b"", Some(&there)), ok(9, 400, b"15"));
        assert_eq!(change(v1::Op::Decr, 5, b"", Some(&there)), ok(9, 400, b"5 "));
        assert_eq!(change(v1::Op::Touch, 0, &asked, Some(&there)), ok(9, 500, b"10"));
        for (op, stored, reply) in [
            (v1::Op::Add, Some(&there), "NotStored"),
            (v1::Op::Replace, None, "NotStored"),
            (v1::Op::Replace, Some(&expired), "NotStored"),
            (v1::Op::Append, None, "NotStored"),
            (v1::Op::Incr, None, "NotFound"),
            (v1::Op::Touch, Some(&expired), "NotFound"),
            (v1::Op::GetAndTouch, None, "Missing(Absent)"),
        ] {
            let told = change(op, 0, &asked, stored.map(|s| &s[..])).unwrap_err();
            assert!(told.contains(reply), "{op:?}: {told}");
        }
        let word = dbval(9, 0, 0, b"word");
        assert!(change(v1::Op::Incr, 1, b"", Some(&word)).unwrap_err().contains("NonNumeric"));
        let long = dbval(9, 0, 0, b"123456789");
        assert!(change(v1::Op::Append, 0, &asked, Some(&long)).unwrap_err().contains("NotStored"));
    }

    #[test]
    fn a_value_of_a_plain_kumofs_gateway_stays_one() {
        let stored = [&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], b"10"].concat();
        with_op(v1::Op::Incr, 1, b"", Stage::Read, |op| {
            let expected = [&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], b"11"].concat();
            assert_eq!(step(op, &raw(&stored), PLAIN, || 100, 10), Ok(Step::Write(expected)));
        });
    }

    #[test]
    fn a_failed_comparison_starts_over_except_for_cas() {
        let answered = |change, uncertain, result: &[u8]| {
            with_op(change, 0, b"", Stage::Write, |op| {
                (op.uncertain, op.computed) = (uncertain, dbval(9, 0, 0, b"15"));
                format!("{:?}", step(op, result, PLAIN, || 100, 10).unwrap())
            })
        };
        assert_eq!(answered(v1::Op::Incr, false, &[0xc2]), "Again");
        assert_eq!(answered(v1::Op::Cas, false, &[0xc2]), "Check");
        assert_eq!(answered(v1::Op::Cas, true, &[0xc2]), "Failed", "it may be its own earlier attempt that it met");
        assert_eq!(answered(v1::Op::Set, false, &[0xc0]), "Failed");
        assert_eq!(answered(v1::Op::Incr, false, &[7]), "Answer(Changed(Number(15), 7))");
        assert!(answered(v1::Op::GetAndTouch, false, &[7]).contains("cas: 7"));
        assert_eq!(answered(v1::Op::Delete, false, &[0xc3]), "Answer(Changed(Deleted, 0))");
        assert_eq!(answered(v1::Op::Delete, false, &[0xc2]), "Answer(Reply(NotFound))");
    }

    #[test]
    fn after_a_failed_cas_the_key_tells_exists_from_not_found() {
        with_op(v1::Op::Cas, 5, &dbval(0, 0, 0, b"new"), Stage::Check, |op| {
            let exists = Step::Answer(Answer::Reply(Reply::Exists));
            assert_eq!(step(op, &raw(&dbval(9, 0, 0, b"x")), PLAIN, || 100, 10), Ok(exists));
            let mut touched = Vec::new();
            record::encode_header(ClockTime(9), LAYOUT_CAS, 0, 0, 5, &mut touched);
            let touched = raw(&touched);
            let written = step(op, &touched, PLAIN, || 100, 10).unwrap();
            assert!(matches!(written, Step::Write(dbval) if record::version_of(&dbval) == Some(ClockTime(9))));
            let missing = Step::Answer(Answer::Reply(Reply::NotFound));
            assert_eq!(step(op, &[0xc0], PLAIN, || 100, 10), Ok(missing));
            let mut out = Vec::new();
            write_op(op, &mut out, 1);
            assert!(matches!(parse(&out), Ok(Frame::Request { method: method::GET, .. })));
        });
    }
}
