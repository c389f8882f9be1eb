//! What a server's answer means for an operation.
//!
//! What was done is taken from any attempt, and that nothing was done from the latest only (`doc/guarantees.md`, "Exactly
//! once"): an earlier attempt may be refused, find nothing, or have looked at a value that a later one changes.

use super::assembly::Found;
use super::op::Ask;
use super::value::Layout;
use crate::logic::record::{self, LAYOUT_KUMOFS};
use crate::logic::rule::{Rule, on};
use crate::proto::memcache::{Reply, Trouble};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader};
use crate::proto::rpc::v1::{Gone, Mutated, Op, Terms, term, told};

/// What a client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// A value.
    Found(Found<'a>),
    /// A value of a meta command, with bits of [`told`](crate::proto::rpc::v1::told) and the expiry as it was before.
    Told(Found<'a>, u8, u32),
    /// A retrieval found nothing.
    Missing(Gone),
    /// A change was done; the cas unique that what it wrote has, or 0.
    Changed(Reply<'static>, u64),
    /// Anything else.
    Reply(Reply<'static>),
}

impl Answer<'_> {
    /// An answer that says that something went wrong.
    pub fn trouble(trouble: Trouble) -> Answer<'static> {
        Answer::Reply(Reply::Trouble(trouble))
    }

    /// Whether it tells a value that its attempt left as it was.
    fn is_a_look(&self, op: Op, terms: &Terms) -> bool {
        let changes = terms.bits & term::EXPIRE != 0;
        matches!(self, Answer::Told(_, bits, _) if op == Op::Fetch && !changes && bits & (told::WON | told::CREATED) == 0)
    }

    /// Whether it may come from any attempt at `ask`. A look at a value may not: a later attempt may be the one that is
    /// to make the value anew, and nobody else is told so.
    pub fn is_positive(&self, ask: Ask, terms: &Terms) -> bool {
        match (self, ask) {
            (_, Ask::Mutate(op)) if self.is_a_look(op, terms) => false,
            _ => matches!(self, Answer::Found(_) | Answer::Told(..) | Answer::Changed(..)),
        }
    }
}

/// Reads the result of a get.
///
/// # Errors
/// When it is none.
#[inline]
pub fn of_get(result: &[u8], layout: Layout, now_secs: impl FnOnce() -> u64) -> Result<Answer<'_>, DecodeError> {
    let mut r = Reader::new(result);
    match r.head()? {
        Head::Raw(len) => of_judged(r.take(len)?, layout, now_secs),
        head => Ok(Answer::Missing(Gone::of(head).ok_or(DecodeError::Type)?)),
    }
}

/// What a value is to a client that its coordinator has told: by the coordinator's clock it has not expired, and no other
/// counts. What kumofs's own layout says of that, only the gateway knows to read.
///
/// # Errors
/// When it is no dbval.
#[inline]
pub fn of_judged(dbval: &[u8], layout: Layout, now_secs: impl FnOnce() -> u64) -> Result<Answer<'_>, DecodeError> {
    let body = record::parse(dbval).ok_or(DecodeError::Type)?.body;
    let judged = body.as_ref().is_some_and(|body| body.layout != LAYOUT_KUMOFS) && on(Rule::CoordinatorJudges);
    Ok(of_body(body, layout, || if judged { BEFORE_ANY_EXPIRY } else { now_secs() }))
}

/// What a stored value is to a client.
///
/// # Errors
/// When it is no dbval.
#[inline]
pub fn of_dbval(dbval: &[u8], layout: Layout, now_secs: impl FnOnce() -> u64) -> Result<Answer<'_>, DecodeError> {
    Ok(of_body(record::parse(dbval).ok_or(DecodeError::Type)?.body, layout, now_secs))
}

#[inline]
fn of_body(body: Option<record::Body<'_>>, layout: Layout, now_secs: impl FnOnce() -> u64) -> Answer<'_> {
    let seen = body.and_then(|body| layout.read(&body, now_secs));
    seen.map_or(Answer::Missing(if body.is_some() { Gone::Expired } else { Gone::Absent }), |seen| {
        Answer::Found(seen.found)
    })
}

/// A time at which nothing has expired, not even by a negative exptime.
const BEFORE_ANY_EXPIRY: u64 = 0;

/// Reads the result of a change.
///
/// # Errors
/// When it is none, or none that the change can have.
#[inline]
pub fn of_mutation(op: Op, result: &[u8], layout: Layout) -> Result<Answer<'_>, DecodeError> {
    let reply = match Mutated::read(result)? {
        Mutated::Done(version) => {
            return Ok(match op {
                Op::Delete => Answer::Changed(Reply::Deleted, 0),
                // The cas unique stays as it was.
                Op::Touch => Answer::Changed(Reply::Touched, 0),
                Op::Invalidate => Answer::Changed(Reply::Deleted, version),
                Op::Incr | Op::Decr | Op::GetAndTouch | Op::Fetch => return Err(DecodeError::Type),
                _ => Answer::Changed(Reply::Stored, version),
            });
        }
        Mutated::NotStored => Reply::NotStored,
        Mutated::Exists => Reply::Exists,
        // memcached tells a missing key to append and replace as "not stored", and to gat as a miss.
        Mutated::NotFound => match op {
            Op::GetAndTouch | Op::Fetch => return Ok(Answer::Missing(Gone::Absent)),
            Op::Replace | Op::Append | Op::Prepend => Reply::NotStored,
            _ => Reply::NotFound,
        },
        Mutated::Gone(gone) => match op {
            Op::GetAndTouch | Op::Fetch => return Ok(Answer::Missing(gone)),
            _ => return Err(DecodeError::Type),
        },
        Mutated::NotNumber => Reply::Trouble(Trouble::NonNumeric),
        Mutated::TooLarge => too_large(op),
        Mutated::Number(version, number) => return Ok(Answer::Changed(Reply::Number(number), version)),
        Mutated::Same(_) => return Err(DecodeError::Type),
        Mutated::Value(dbval) => return of_changed(dbval, layout, None),
        Mutated::Told(bits, expiry, dbval) => return of_told(dbval, bits, Some(expiry), layout),
        Mutated::Unknown => Reply::Trouble(Trouble::Unknown),
        // Seen to where the parts are asked for.
        Mutated::ValueInParts(_) | Mutated::ToldInParts(..) => return Err(DecodeError::Type),
    };
    Ok(Answer::Reply(reply))
}

/// What a changed value is to a client: it was there when it was changed, and the expiry that it has since may have passed already;
/// that is for later gets. With bits of [`told`] and the expiry as it was before, as a fetch tells them.
///
/// # Errors
/// When it is no dbval.
pub fn of_changed(dbval: &[u8], layout: Layout, told: Option<(u8, u32)>) -> Result<Answer<'_>, DecodeError> {
    match told {
        Some((bits, expiry)) => of_told(dbval, bits, Some(expiry), layout),
        None => of_dbval(dbval, layout, || BEFORE_ANY_EXPIRY),
    }
}

/// What a value is that a meta command is told, with bits of [`told`] and the expiry as it was before; `None`: as it is.
///
/// # Errors
/// When it is no dbval.
pub fn of_told(dbval: &[u8], bits: u8, before: Option<u32>, layout: Layout) -> Result<Answer<'_>, DecodeError> {
    Ok(match of_dbval(dbval, layout, || BEFORE_ANY_EXPIRY)? {
        Answer::Found(found) => Answer::Told(found, bits, before.unwrap_or(found.expiry)),
        other => other,
    })
}

/// What memcached says when a value would become too large.
pub fn too_large(op: Op) -> Reply<'static> {
    match op {
        Op::Append | Op::Prepend => Reply::NotStored,
        _ => Reply::Trouble(Trouble::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::proto::rpc::msgpack::write_raw;

    fn mutated(op: Op, outcome: Mutated<'_>) -> Result<Answer<'static>, DecodeError> {
        let mut result = Vec::new();
        outcome.write(&mut result);
        of_mutation(op, &result, Layout::default()).map(|answer| match answer {
            Answer::Reply(reply) => Answer::Reply(reply),
            Answer::Changed(reply, cas) => Answer::Changed(reply, cas),
            Answer::Missing(gone) => Answer::Missing(gone),
            Answer::Found(_) | Answer::Told(..) => panic!("no value was answered"),
        })
    }

    #[test]
    fn a_value_touched_with_an_expiry_that_has_passed_is_answered_all_the_same() {
        let (mut dbval, mut result) = (Vec::new(), Vec::new());
        Layout::default().encode(ClockTime(9), 5, crate::logic::expiry::GONE, b"abc", &mut dbval);
        Mutated::Value(&dbval).write(&mut result);
        let found = Found { flags: 5, expiry: crate::logic::expiry::GONE, cas: 9, data: b"abc" };
        assert_eq!(of_mutation(Op::GetAndTouch, &result, Layout::default()), Ok(Answer::Found(found)));
    }

    #[test]
    fn a_get_finds_a_value_nothing_or_one_that_has_expired() {
        let mut result = Vec::new();
        let mut dbval = Vec::new();
        Layout::default().encode(ClockTime(9), 5, 50, b"abc", &mut dbval);
        write_raw(&mut result, &dbval);
        let found = Found { flags: 5, expiry: 50, cas: 9, data: b"abc" };
        assert_eq!(of_get(&result, Layout::default(), || 49), Ok(Answer::Found(found)));
        assert_eq!(of_get(&result, Layout::default(), || 50), Ok(Answer::Found(found)), "the coordinator has judged");
        assert_eq!(of_dbval(&dbval, Layout::default(), || 50), Ok(Answer::Missing(Gone::Expired)), "nobody has");
        let kumofs = Layout { expire: true, ..Layout::default() };
        dbval.clear();
        result.clear();
        kumofs.encode(ClockTime(9), 0, 50, b"abc", &mut dbval);
        write_raw(&mut result, &dbval);
        assert!(matches!(of_get(&result, kumofs, || 49), Ok(Answer::Found(_))));
        assert_eq!(
            of_get(&result, kumofs, || 50),
            Ok(Answer::Missing(Gone::Expired)),
            "this layout the gateway alone can read"
        );
        for (result, gone) in [(0xc0, Gone::Absent), (1, Gone::Expired), (2, Gone::Flushed)] {
            assert_eq!(of_get(&[result], Layout::default(), || 0), Ok(Answer::Missing(gone)));
        }
        assert_eq!(of_get(&[3], Layout::default(), || 0), Err(DecodeError::Type));
        assert_eq!(of_get(&[0xa3, 1, 2, 3], Layout::default(), || 0), Err(DecodeError::Type));
        assert_eq!(of_get(&[0xc3], Layout::default(), || 0), Err(DecodeError::Type));
    }

    #[test]
    fn the_same_outcome_is_told_differently_to_different_commands() {
        use Reply::{Deleted, Exists, NotFound, NotStored, Number, Stored, Touched};
        for (op, outcome, reply) in [
            (Op::Add, Mutated::NotStored, NotStored),
            (Op::Append, Mutated::NotFound, NotStored),
            (Op::Cas, Mutated::NotFound, NotFound),
            (Op::Cas, Mutated::Exists, Exists),
            (Op::Prepend, Mutated::TooLarge, NotStored),
            (Op::Set, Mutated::TooLarge, Reply::Trouble(Trouble::TooLarge)),
            (Op::Incr, Mutated::NotNumber, Reply::Trouble(Trouble::NonNumeric)),
            (Op::Set, Mutated::Unknown, Reply::Trouble(Trouble::Unknown)),
        ] {
            assert_eq!(mutated(op, outcome), Ok(Answer::Reply(reply)), "{op:?} {outcome:?}");
        }
        for (op, outcome, reply, cas) in [
            (Op::Set, Mutated::Done(9), Stored, 9),
            (Op::Delete, Mutated::Done(9), Deleted, 0),
            (Op::Touch, Mutated::Done(9), Touched, 0),
            (Op::Incr, Mutated::Number(9, 7), Number(7), 9),
        ] {
            assert_eq!(mutated(op, outcome), Ok(Answer::Changed(reply, cas)), "{op:?} {outcome:?}");
        }
        assert_eq!(mutated(Op::GetAndTouch, Mutated::NotFound), Ok(Answer::Missing(Gone::Absent)));
        assert_eq!(mutated(Op::Fetch, Mutated::Gone(Gone::Flushed)), Ok(Answer::Missing(Gone::Flushed)));
        assert_eq!(mutated(Op::Delete, Mutated::Gone(Gone::Expired)), Err(DecodeError::Type));
        assert_eq!(mutated(Op::Incr, Mutated::Done(1)), Err(DecodeError::Type));
    }

    #[test]
    fn only_what_was_done_counts_from_earlier_attempts() {
        let plain = Terms::default();
        for reply in [Reply::Stored, Reply::Deleted, Reply::Touched, Reply::Number(3)] {
            assert!(Answer::Changed(reply, 1).is_positive(Ask::Mutate(Op::Set), &plain));
        }
        for reply in [Reply::NotStored, Reply::Exists, Reply::NotFound, Reply::Trouble(Trouble::Unknown)] {
            assert!(!Answer::Reply(reply).is_positive(Ask::Mutate(Op::Set), &plain));
        }
        assert!(!Answer::Missing(Gone::Expired).is_positive(Ask::Get, &plain));
    }

    /// An earlier attempt at a meta get had found a value that was not stale; its late answer was taken, and that the
    /// later one had won was told to nobody.
    #[test]
    fn what_an_earlier_attempt_looked_at_does_not_count() {
        let found = Found { flags: 0, expiry: 0, cas: 1, data: b"a" };
        let told = |op, terms: Terms, bits| Answer::Told(found, bits, 0).is_positive(Ask::Mutate(op), &terms);
        let plain = Terms::default();
        assert!(!told(Op::Fetch, plain, 0) && !told(Op::Fetch, plain, told::SENT | told::STALE));
        assert!(!told(Op::Fetch, Terms { bits: term::CREATE, ..plain }, 0));
        assert!(told(Op::Fetch, plain, told::WON) && told(Op::Fetch, plain, told::CREATED));
        assert!(told(Op::Fetch, Terms { bits: term::EXPIRE, ..plain }, 0), "its expiry was changed");
        assert!(told(Op::Incr, Terms { bits: term::TELL, ..plain }, 0));
        assert!(Answer::Found(found).is_positive(Ask::Get, &plain), "a get changes nothing in any attempt");
    }
}
