//! What a coordinator makes of a request that changes a key.
//!
//! Source: memcached's protocol.txt for the outcomes; `doc/protocol.md`, "Requests of gateways". A decision looks at
//! the record as it is and writes the new dbval, whose version (the first 8 bytes, zero here) the coordinator stamps.

use super::counter::{self, Direction};
use super::decimal;
use super::expiry;
use super::record::{self, Body, LAYOUT_FULL, LAYOUT_KUMOFS, encode_marked, mark};
use crate::proto::rpc::v1::{Mutate, Mutated, Op, Terms, option, term, told};

/// Bytes of kumofs's own expiry and flags at the head of the data (-E, -F).
const KUMOFS_EXPIRE_LEN: usize = 4;
const KUMOFS_FLAGS_LEN: usize = 2;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Store the new dbval, and answer so once that is stable.
    Store(Answer),
    /// Store a deletion mark.
    Delete,
    /// Change nothing, and answer this.
    Refuse(Mutated<'static>),
    /// Change nothing, and answer the value as it is, with bits of [`told`] and its expiry.
    Show(u8, u32),
}

/// What success is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The version.
    Done,
    /// The version and the number that incr or decr made.
    Number(u64),
    /// The whole new value.
    Value,
    /// The same, with bits of [`told`] and the expiry as it was before.
    Told(u8, u32),
}

/// The record as clients see it: `None` when there is none, or a mark, or it has expired, or was flushed.
pub fn live<'a>(body: Option<Body<'a>>, options: u8, now_secs: u64) -> Option<Body<'a>> {
    body.filter(|body| !expiry::is_gone(expiry_of(body, options), now_secs))
}

/// When the record expires, also where kumofs's own layout says so.
fn expiry_of(body: &Body<'_>, options: u8) -> u32 {
    if body.layout != LAYOUT_KUMOFS || options & option::KUMOFS_EXPIRE == 0 {
        return body.expiry;
    }
    body.data.first_chunk().map_or(expiry::NEVER, |bytes| u32::from_be_bytes(*bytes))
}

/// Bytes of the data that are not the client's.
fn prefix_len(body: &Body<'_>, options: u8) -> usize {
    if body.layout != LAYOUT_KUMOFS {
        return 0;
    }
    let expire = if options & option::KUMOFS_EXPIRE != 0 { KUMOFS_EXPIRE_LEN } else { 0 };
    let flags = if options & option::KUMOFS_FLAGS != 0 { KUMOFS_FLAGS_LEN } else { 0 };
    (expire + flags).min(body.data.len())
}

/// The client's data.
fn data_of<'a>(body: &Body<'a>, options: u8) -> &'a [u8] {
    &body.data[prefix_len(body, options)..]
}

/// Bytes of the client's data.
pub fn data_len(body: Option<Body<'_>>, options: u8) -> usize {
    body.map_or(0, |body| data_of(&body, options).len())
}

/// Bytes of the dbval that a request stores before the client's data.
pub fn head_len(request: &Mutate<'_>) -> usize {
    let body = record::parse(request.dbval).and_then(|value| value.body);
    body.map_or(0, |body| record::header_len(body.layout) + prefix_len(&body, request.options))
}

/// Decides about `request`, whose dbval parsed to `new` (`None` for operations without one). `old` is the record as
/// [`live`] sees it. What is to be stored is appended to `out`, which is empty.
pub fn decide(
    request: &Mutate<'_>,
    new: Option<Body<'_>>,
    old: Option<Body<'_>>,
    max_value: usize,
    out: &mut Vec<u8>,
) -> Decision {
    if request.terms.cas != 0
        && let Some(old) = &old
        && old.cas != request.terms.cas
    {
        // memcached looks whether there is anything to count before it compares.
        let counts_nothing = matches!(request.op, Op::Incr | Op::Decr) && data_of(old, request.options).is_empty();
        return Decision::Refuse(if counts_nothing { Mutated::NotNumber } else { Mutated::Exists });
    }
    let creates = request.terms.bits & term::CREATE != 0;
    match (request.op, old, new) {
        (Op::Incr | Op::Decr, None, Some(new)) if creates => create(request, new, max_value, out),
        // memcached creates nothing where a cas unique is required.
        (Op::Append | Op::Prepend, None, Some(new)) if creates && request.terms.cas == 0 => {
            store(request, new, max_value, out)
        }
        (Op::Fetch, None, Some(new)) if creates => vivify(request, new, out),
        (Op::Set, _, Some(new)) => store(request, new, max_value, out),
        (Op::Add, Some(_), _) => Decision::Refuse(Mutated::NotStored),
        (Op::Add, None, Some(new)) => store(request, new, max_value, out),
        (Op::Replace | Op::Append | Op::Prepend, None, _) => Decision::Refuse(Mutated::NotStored),
        (Op::Replace, Some(_), Some(new)) => store(request, new, max_value, out),
        (
            Op::Cas | Op::Incr | Op::Decr | Op::Touch | Op::GetAndTouch | Op::Delete | Op::Fetch | Op::Invalidate,
            None,
            _,
        ) => Decision::Refuse(Mutated::NotFound),
        (Op::Cas, Some(old), Some(new)) if old.cas != request.arg => {
            let is_older = request.terms.bits & term::STALE != 0 && request.arg < old.cas;
            if is_older { store_stale(request, new, old, max_value, out) } else { Decision::Refuse(Mutated::Exists) }
        }
        (Op::Cas, Some(_), Some(new)) => store(request, new, max_value, out),
        (Op::Append | Op::Prepend, Some(old), Some(new)) => join(request, new, old, max_value, out),
        (Op::Incr, Some(old), _) => count(request, Direction::Up, old, out),
        (Op::Decr, Some(old), _) => count(request, Direction::Down, old, out),
        (Op::Touch, Some(old), Some(new)) => touch(request.options, new, old, Answer::Done, out),
        (Op::GetAndTouch, Some(old), Some(new)) => touch(request.options, new, old, Answer::Value, out),
        (Op::Delete, Some(_), _) => Decision::Delete,
        (Op::Fetch, Some(old), _) => fetch(request, old, out),
        (Op::Invalidate, Some(old), _) => invalidate(request, old, out),
        // A store without a value does not get past the parser of requests; answered, it would claim too much.
        (_, _, None) => Decision::Refuse(Mutated::NotStored),
    }
}

/// Whether the expiry changes, and to what. `created`: of what was just made.
fn expiry_in(terms: &Terms, created: bool) -> Option<u32> {
    let needed = if created { term::EXPIRE | term::EXPIRE_LAST } else { term::EXPIRE };
    (terms.bits & needed == needed).then_some(terms.expiry)
}

/// Appends what was asked to be stored where nothing is, with the expiry that is asked for beside it.
fn put_created(request: &Mutate<'_>, new: &Body<'_>, marks: u8, out: &mut Vec<u8>) {
    let options = request.options;
    let expiry = expiry_in(&request.terms, true).unwrap_or_else(|| expiry_of(new, options));
    if marks == 0 && new.layout == LAYOUT_KUMOFS {
        put_with_expiry(new, options, expiry, out);
    } else {
        encode_marked(Default::default(), flags_of(new, options), expiry, 0, marks, out);
        out.extend_from_slice(data_of(new, options));
    }
}

/// Makes an empty value for a client to fill, which is so the one to do it.
fn vivify(request: &Mutate<'_>, new: Body<'_>, out: &mut Vec<u8>) -> Decision {
    put_created(request, &new, mark::TOKEN_SENT, out);
    Decision::Store(Answer::Told(told::CREATED | told::WON, expiry::NEVER))
}

/// Answers a value: `Show` when nothing of it changes.
fn fetch(request: &Mutate<'_>, old: Body<'_>, out: &mut Vec<u8>) -> Decision {
    let terms = &request.terms;
    let expiry = expiry_of(&old, request.options);
    let changed = expiry_in(terms, false);
    let compared = if terms.bits & term::RECACHE_FIRST != 0 { expiry } else { changed.unwrap_or(expiry) };
    let is_sent = old.marks & mark::TOKEN_SENT != 0;
    let is_stale = old.marks & mark::STALE != 0;
    let is_ending = compared != expiry::NEVER && compared < terms.recache;
    let won = !is_sent && (is_stale || is_ending);
    let mut bits = 0;
    for (is_so, bit) in [(won, told::WON), (is_sent, told::SENT), (is_stale, told::STALE)] {
        bits |= if is_so { bit } else { 0 };
    }
    if !won && changed.is_none() {
        return Decision::Show(bits, expiry);
    }
    let marks = old.marks | if won { mark::TOKEN_SENT } else { 0 };
    put_changed(&old, request.options, changed.unwrap_or(expiry), old.cas, marks, out);
    Decision::Store(Answer::Told(bits, expiry))
}

/// Marks a value stale; nobody was told yet to make it anew.
fn invalidate(request: &Mutate<'_>, old: Body<'_>, out: &mut Vec<u8>) -> Decision {
    let expiry = expiry_in(&request.terms, false).unwrap_or_else(|| expiry_of(&old, request.options));
    put_changed(&old, request.options, expiry, 0, mark::STALE, out);
    Decision::Store(Answer::Done)
}

/// Stores a value that was made of an older one than what is there: it keeps the expiry and goes on being stale.
fn store_stale(request: &Mutate<'_>, new: Body<'_>, old: Body<'_>, max_value: usize, out: &mut Vec<u8>) -> Decision {
    let options = request.options;
    let data = data_of(&new, options);
    if data.len() > max_value {
        return Decision::Refuse(Mutated::TooLarge);
    }
    let marks = mark::STALE | old.marks & mark::TOKEN_SENT;
    encode_marked(Default::default(), flags_of(&new, options), expiry_of(&old, options), 0, marks, out);
    out.extend_from_slice(data);
    Decision::Store(Answer::Done)
}

/// The client's flags, also where kumofs's own layout has them.
fn flags_of(body: &Body<'_>, options: u8) -> u32 {
    if body.layout != LAYOUT_KUMOFS || options & option::KUMOFS_FLAGS == 0 {
        return body.flags;
    }
    let start = if options & option::KUMOFS_EXPIRE != 0 { KUMOFS_EXPIRE_LEN } else { 0 };
    let bytes = body.data.get(start..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes: &[u8; KUMOFS_FLAGS_LEN]| u16::from_be_bytes(*bytes).into())
}

/// Appends a value with another expiry, cas unique (0: a new one) and marks. kumofs's layout has no room for marks: a
/// value that gets one, moves to ours.
fn put_changed(old: &Body<'_>, options: u8, expiry: u32, cas: u64, marks: u8, out: &mut Vec<u8>) {
    if old.layout == LAYOUT_KUMOFS && marks == 0 {
        return put_with_expiry(old, options, expiry, out);
    }
    encode_marked(Default::default(), flags_of(old, options), expiry, cas, marks, out);
    out.extend_from_slice(data_of(old, options));
}

/// Appends a value of kumofs's layout with another expiry, if it has room for one.
fn put_with_expiry(body: &Body<'_>, options: u8, expiry: u32, out: &mut Vec<u8>) {
    record::encode_header(Default::default(), LAYOUT_KUMOFS, 0, 0, 0, out);
    let start = out.len();
    out.extend_from_slice(body.data);
    if options & option::KUMOFS_EXPIRE != 0
        && let Some(place) = out[start..].first_chunk_mut::<KUMOFS_EXPIRE_LEN>()
    {
        *place = expiry.to_be_bytes();
    }
}

/// Stores a number where there is none.
fn create(request: &Mutate<'_>, new: Body<'_>, max_value: usize, out: &mut Vec<u8>) -> Decision {
    let data = data_of(&new, request.options);
    let Some(number) = decimal::parse_u64(data) else {
        return Decision::Refuse(Mutated::NotNumber);
    };
    if data.len() > max_value {
        return Decision::Refuse(Mutated::TooLarge);
    }
    put_created(request, &new, 0, out);
    Decision::Store(counted(&request.terms, number, told::CREATED, expiry::NEVER))
}

/// How a number that was counted is answered.
fn counted(terms: &Terms, number: u64, bits: u8, expiry: u32) -> Answer {
    if terms.bits & term::TELL != 0 { Answer::Told(bits, expiry) } else { Answer::Number(number) }
}

fn store(request: &Mutate<'_>, new: Body<'_>, max_value: usize, out: &mut Vec<u8>) -> Decision {
    if new.data.len() > max_value.saturating_add(prefix_len(&new, request.options)) {
        return Decision::Refuse(Mutated::TooLarge);
    }
    out.extend_from_slice(request.dbval);
    out[..8].fill(0);
    Decision::Store(Answer::Done)
}

/// Appends the head of a changed record: everything but the data stays.
fn keep_head(old: &Body<'_>, out: &mut Vec<u8>) {
    let layout = if old.layout == LAYOUT_KUMOFS { LAYOUT_KUMOFS } else { LAYOUT_FULL };
    record::encode_header(Default::default(), layout, old.flags, old.expiry, 0, out);
}

fn join(request: &Mutate<'_>, new: Body<'_>, old: Body<'_>, max_value: usize, out: &mut Vec<u8>) -> Decision {
    let (head, old_data) = old.data.split_at(prefix_len(&old, request.options));
    let new_data = data_of(&new, request.options);
    if old_data.len() + new_data.len() > max_value {
        return Decision::Refuse(Mutated::TooLarge);
    }
    keep_head(&old, out);
    out.extend_from_slice(head);
    let (first, second) = if request.op == Op::Append { (old_data, new_data) } else { (new_data, old_data) };
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    Decision::Store(Answer::Done)
}

fn count(request: &Mutate<'_>, direction: Direction, old: Body<'_>, out: &mut Vec<u8>) -> Decision {
    let (head, old_data) = old.data.split_at(prefix_len(&old, request.options));
    let Ok(number) = counter::count(old_data, direction, request.arg) else {
        return Decision::Refuse(Mutated::NotNumber);
    };
    let expiry = expiry_of(&old, request.options);
    let changed = expiry_in(&request.terms, false);
    if old.layout == LAYOUT_KUMOFS {
        let head = Body { data: head, ..old };
        put_with_expiry(&head, request.options, changed.unwrap_or(expiry), out);
    } else {
        encode_marked(Default::default(), old.flags, changed.unwrap_or(expiry), 0, old.marks, out);
    }
    counter::write_data(number, old_data.len(), out);
    Decision::Store(counted(&request.terms, number, 0, expiry))
}

fn touch(options: u8, new: Body<'_>, old: Body<'_>, answer: Answer, out: &mut Vec<u8>) -> Decision {
    // memcached's touch leaves the cas unique alone, so it is kept beside the new version.
    put_changed(&old, options, expiry_of(&new, options), old.cas, old.marks, out);
    Decision::Store(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::proto::rpc::v1::RequestId;

    const MAX: usize = 10;

    fn dbval(layout: u16, version: u64, flags: u32, expiry: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        record::encode_header(ClockTime(version), layout, flags, expiry, 4, &mut out);
        out.extend_from_slice(data);
        out
    }

    /// Decides `op` with `arg` and `new` over `old`, and shows what would be stored.
    fn run(op: Op, arg: u64, options: u8, new: &[u8], old: Option<&[u8]>) -> (Decision, Vec<u8>) {
        run_on(Terms::default(), op, arg, options, new, old)
    }

    /// The same on `terms`.
    fn run_on(terms: Terms, op: Op, arg: u64, options: u8, new: &[u8], old: Option<&[u8]>) -> (Decision, Vec<u8>) {
        let (id, dbkey) = (RequestId::default(), b"12345678k");
        let request = Mutate { epoch: 1, id, op, options, dbkey, arg, dbval: new, terms };
        let body = |bytes| record::parse(bytes).and_then(|v| v.body);
        let mut out = Vec::new();
        let old = live(old.and_then(body), options, 1000);
        (decide(&request, body(new), old, MAX, &mut out), out)
    }

    #[test]
    fn stores_depend_on_what_is_there() {
        let new = dbval(LAYOUT_FULL, 0, 7, 0, b"new");
        let old = dbval(LAYOUT_FULL, 44, 1, 0, b"old");
        let refused = |m| (Decision::Refuse(m), Vec::new());
        let stored = (Decision::Store(Answer::Done), new.clone());
        assert_eq!(run(Op::Set, 0, 0, &new, None), stored);
        assert_eq!(run(Op::Set, 0, 0, &new, Some(&old)), stored);
        assert_eq!(run(Op::Add, 0, 0, &new, None), stored);
        assert_eq!(run(Op::Add, 0, 0, &new, Some(&old)), refused(Mutated::NotStored));
        assert_eq!(run(Op::Replace, 0, 0, &new, None), refused(Mutated::NotStored));
        assert_eq!(run(Op::Replace, 0, 0, &new, Some(&old)), stored);
        assert_eq!(run(Op::Cas, 44, 0, &new, Some(&old)), stored);
        assert_eq!(run(Op::Cas, 45, 0, &new, Some(&old)), refused(Mutated::Exists));
        assert_eq!(run(Op::Cas, 44, 0, &new, None), refused(Mutated::NotFound));
        assert_eq!(run(Op::Delete, 0, 0, b"", None), refused(Mutated::NotFound));
        assert_eq!(run(Op::Delete, 0, 0, b"", Some(&old)).0, Decision::Delete);
    }

    #[test]
    fn a_cas_unique_may_be_required_of_any_change_and_not_of_nothing() {
        let new = dbval(LAYOUT_FULL, 0, 7, 0, b"1");
        let old = dbval(LAYOUT_FULL, 44, 1, 0, b"1");
        let on = |cas| Terms { cas, ..Terms::default() };
        for op in [Op::Append, Op::Prepend, Op::Incr, Op::Decr, Op::Delete] {
            assert_ne!(run_on(on(44), op, 1, 0, &new, Some(&old)).0, Decision::Refuse(Mutated::Exists));
            assert_eq!(run_on(on(45), op, 1, 0, &new, Some(&old)), (Decision::Refuse(Mutated::Exists), Vec::new()));
        }
        assert_eq!(run_on(on(45), Op::Delete, 0, 0, b"", None).0, Decision::Refuse(Mutated::NotFound));
    }

    #[test]
    fn counting_where_nothing_is_may_create_a_number() {
        let new = dbval(LAYOUT_FULL, 0, 0, 2000, b"40");
        let old = dbval(LAYOUT_FULL, 44, 1, 0, b"7");
        let terms = Terms { bits: term::CREATE, ..Terms::default() };
        assert_eq!(run_on(terms, Op::Incr, 2, 0, &new, None), (Decision::Store(Answer::Number(40)), new.clone()));
        assert_eq!(run_on(terms, Op::Incr, 2, 0, &new, Some(&old)).0, Decision::Store(Answer::Number(9)));
        assert_eq!(run(Op::Incr, 2, 0, &new, None).0, Decision::Refuse(Mutated::NotFound));
        let word = dbval(LAYOUT_FULL, 0, 0, 0, b"word");
        assert_eq!(run_on(terms, Op::Decr, 2, 0, &word, None).0, Decision::Refuse(Mutated::NotNumber));
    }

    #[test]
    fn what_has_expired_is_not_there() {
        let new = dbval(LAYOUT_FULL, 0, 7, 0, b"new");
        let expired = dbval(LAYOUT_FULL, 44, 1, 1000, b"old");
        assert_eq!(run(Op::Add, 0, 0, &new, Some(&expired)).0, Decision::Store(Answer::Done));
        let kumofs = dbval(LAYOUT_KUMOFS, 44, 0, 0, &[0, 0, 3, 232, b'x']);
        assert_eq!(run(Op::Add, 0, option::KUMOFS_EXPIRE, &new, Some(&kumofs)).0, Decision::Store(Answer::Done));
        assert_eq!(run(Op::Add, 0, 0, &new, Some(&kumofs)).0, Decision::Refuse(Mutated::NotStored));
    }

    #[test]
    fn joined_data_keeps_flags_and_expiry_of_what_was_there() {
        let new = dbval(LAYOUT_FULL, 0, 9, 9, b"new");
        let old = dbval(LAYOUT_FULL, 44, 1, 2000, b"old");
        assert_eq!(run(Op::Append, 0, 0, &new, Some(&old)).1, dbval(LAYOUT_FULL, 0, 1, 2000, b"oldnew"));
        assert_eq!(run(Op::Prepend, 0, 0, &new, Some(&old)).1, dbval(LAYOUT_FULL, 0, 1, 2000, b"newold"));
        let long = dbval(LAYOUT_FULL, 44, 1, 0, &[b'x'; MAX]);
        assert_eq!(run(Op::Append, 0, 0, &new, Some(&long)).0, Decision::Refuse(Mutated::TooLarge));
    }

    #[test]
    fn kumofs_layouts_keep_their_prefix() {
        let options = option::KUMOFS_EXPIRE | option::KUMOFS_FLAGS;
        let new = dbval(LAYOUT_KUMOFS, 0, 0, 0, b"\0\0\0\0\0\x07new");
        let old = dbval(LAYOUT_KUMOFS, 44, 0, 0, b"\0\0\x09\0\0\x01old");
        let joined = dbval(LAYOUT_KUMOFS, 0, 0, 0, b"\0\0\x09\0\0\x01oldnew");
        assert_eq!(run(Op::Append, 0, options, &new, Some(&old)).1, joined);
        let number = dbval(LAYOUT_KUMOFS, 44, 0, 0, b"\0\0\0\0\0\x0141");
        let counted = dbval(LAYOUT_KUMOFS, 0, 0, 0, b"\0\0\0\0\0\x0142");
        assert_eq!(run(Op::Incr, 1, options, b"", Some(&number)), (Decision::Store(Answer::Number(42)), counted));
    }

    #[test]
    fn touch_changes_the_expiry_and_leaves_the_cas_unique() {
        let new = dbval(LAYOUT_FULL, 0, 0, 5000, b"");
        let old = dbval(LAYOUT_FULL, 44, 3, 0, b"old");
        let (decision, out) = run(Op::GetAndTouch, 0, 0, &new, Some(&old));
        let body = record::parse(&out).unwrap().body.unwrap();
        assert_eq!(decision, Decision::Store(Answer::Value));
        assert_eq!((body.cas, body.flags, body.expiry, body.data), (44, 3, 5000, &b"old"[..]));
    }

    #[test]
    fn values_over_the_limit_are_refused() {
        let exact = dbval(LAYOUT_FULL, 0, 0, 0, &[b'x'; MAX]);
        let over = dbval(LAYOUT_FULL, 0, 0, 0, &[b'x'; MAX + 1]);
        assert_eq!(run(Op::Set, 0, 0, &exact, None).0, Decision::Store(Answer::Done));
        assert_eq!(run(Op::Set, 0, 0, &over, None).0, Decision::Refuse(Mutated::TooLarge));
    }

    fn marked(version: u64, expiry: u32, cas: u64, marks: u8, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_marked(ClockTime(version), 3, expiry, cas, marks, &mut out);
        out.extend_from_slice(data);
        out
    }

    #[test]
    fn a_fetch_of_what_is_neither_stale_nor_ending_changes_nothing() {
        let old = marked(44, 2000, 0, 0, b"old");
        assert_eq!(run(Op::Fetch, 0, 0, b"", Some(&old)), (Decision::Show(0, 2000), Vec::new()));
        let sent = marked(44, 2000, 0, mark::ALL, b"old");
        assert_eq!(run(Op::Fetch, 0, 0, b"", Some(&sent)).0, Decision::Show(told::SENT | told::STALE, 2000));
        assert_eq!(run(Op::Fetch, 0, 0, b"", None).0, Decision::Refuse(Mutated::NotFound));
    }

    #[test]
    fn one_fetch_of_a_stale_value_wins_and_the_cas_unique_stays() {
        let stale = marked(44, 0, 0, mark::STALE, b"old");
        let (decision, out) = run(Op::Fetch, 0, 0, b"", Some(&stale));
        assert_eq!(decision, Decision::Store(Answer::Told(told::WON | told::STALE, 0)));
        assert_eq!(out, marked(0, 0, 44, mark::ALL, b"old"));
    }

    #[test]
    fn what_ends_soon_is_won_by_its_expiry_before_or_after_the_change() {
        let old = marked(44, 2000, 0, 0, b"old");
        let terms = Terms { bits: term::EXPIRE, expiry: 9000, recache: 3000, ..Terms::default() };
        let after = run_on(terms, Op::Fetch, 0, 0, b"", Some(&old));
        assert_eq!(after, (Decision::Store(Answer::Told(0, 2000)), marked(0, 9000, 44, 0, b"old")));
        let first = Terms { bits: term::EXPIRE | term::RECACHE_FIRST, ..terms };
        let before = run_on(first, Op::Fetch, 0, 0, b"", Some(&old));
        assert_eq!(before.0, Decision::Store(Answer::Told(told::WON, 2000)));
        assert_eq!(before.1, marked(0, 9000, 44, mark::TOKEN_SENT, b"old"));
    }

    #[test]
    fn a_fetch_may_create_and_its_client_is_the_one_to_fill_it() {
        let new = dbval(LAYOUT_FULL, 0, 0, 5000, b"");
        let terms = Terms { bits: term::CREATE, ..Terms::default() };
        let (decision, out) = run_on(terms, Op::Fetch, 0, 0, &new, None);
        assert_eq!(decision, Decision::Store(Answer::Told(told::CREATED | told::WON, 0)));
        let body = record::parse(&out).unwrap().body.unwrap();
        assert_eq!((body.expiry, body.marks, body.data), (5000, mark::TOKEN_SENT, &b""[..]));
    }

    #[test]
    fn invalidated_values_stay_have_a_new_cas_unique_and_no_winner() {
        let old = marked(44, 2000, 40, mark::TOKEN_SENT, b"old");
        assert_eq!(run(Op::Invalidate, 0, 0, b"", Some(&old)).1, marked(0, 2000, 0, mark::STALE, b"old"));
    }

    #[test]
    fn counting_and_touching_keep_the_marks_and_a_store_does_not() {
        let old = marked(44, 0, 0, mark::ALL, b"9");
        assert_eq!(run(Op::Incr, 1, 0, b"", Some(&old)).1, marked(0, 0, 0, mark::ALL, b"10"));
        let new = dbval(LAYOUT_FULL, 0, 0, 5000, b"");
        assert_eq!(run(Op::Touch, 0, 0, &new, Some(&old)).1, marked(0, 5000, 44, mark::ALL, b"9"));
        assert_eq!(run(Op::Set, 0, 0, &new, Some(&old)).1, new);
        assert_eq!(record::parse(&run(Op::Append, 0, 0, &new, Some(&old)).1).unwrap().body.unwrap().marks, 0);
    }

    #[test]
    fn a_store_of_an_older_value_may_be_taken_as_stale() {
        let old = marked(44, 2000, 0, mark::TOKEN_SENT, b"old");
        let new = dbval(LAYOUT_FULL, 0, 3, 0, b"new");
        let terms = Terms { bits: term::STALE, ..Terms::default() };
        let (decision, out) = run_on(terms, Op::Cas, 43, 0, &new, Some(&old));
        assert_eq!((decision, out), (Decision::Store(Answer::Done), marked(0, 2000, 0, mark::ALL, b"new")));
        assert_eq!(run_on(terms, Op::Cas, 45, 0, &new, Some(&old)).0, Decision::Refuse(Mutated::Exists));
        assert_eq!(run(Op::Cas, 43, 0, &new, Some(&old)).0, Decision::Refuse(Mutated::Exists));
    }

    #[test]
    fn a_value_of_kumofs_that_gets_a_mark_moves_to_our_layout() {
        let options = option::KUMOFS_EXPIRE | option::KUMOFS_FLAGS;
        let old = dbval(LAYOUT_KUMOFS, 44, 0, 0, b"\0\0\x09\0\0\x03old");
        let out = run(Op::Invalidate, 0, options, b"", Some(&old)).1;
        assert_eq!(out, marked(0, 0x900, 0, mark::STALE, b"old"));
    }
}
