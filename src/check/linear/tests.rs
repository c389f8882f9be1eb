//! What the search accepts and refuses, by hand and against trying out everything.

mod naive;

use super::*;
use crate::check::{Flushed, Marks, Stored};

/// Operations of one key from lines `asked answered action outcome`.
fn history(lines: &[(u64, u64, Action, Outcome)]) -> History {
    let mut history = History::default();
    for (client, (invoked, returned, action, outcome)) in (0..).zip(lines.iter().cloned()) {
        history.push(Entry { client, key: b"k".to_vec(), action, outcome, invoked, returned });
    }
    history
}

fn verdict(lines: &[(u64, u64, Action, Outcome)]) -> Verdict {
    check(&history(lines), 100_000)
}

fn stored(text: &str) -> Stored {
    text.as_bytes().to_vec().into()
}

fn set(text: &str) -> Action {
    Action::Set(stored(text))
}

/// Stores what lives so many seconds.
fn set_for(text: &str, secs: u32) -> Action {
    Action::Set(Stored { ttl_secs: Some(secs), ..stored(text) })
}

fn seen(text: &str) -> Seen {
    Seen { data: text.as_bytes().to_vec(), flags: 0, unique: None, marks: Marks::default() }
}

fn value(text: &str) -> Outcome {
    Outcome::Value(seen(text))
}

fn violated(lines: &[(u64, u64, Action, Outcome)]) -> bool {
    matches!(verdict(lines), Verdict::Violated(_))
}

#[test]
fn a_stale_read_is_found() {
    let (a, b) = ((1, 2, set("a"), Outcome::Stored), (3, 4, set("b"), Outcome::Stored));
    assert_eq!(verdict(&[a.clone(), b.clone(), (5, 6, Action::Get, value("b"))]), Verdict::Linearizable);
    assert!(violated(&[a.clone(), b.clone(), (5, 6, Action::Get, value("a"))]));
    // Asked for while b was under way, either is right.
    assert_eq!(verdict(&[a.clone(), b.clone(), (3, 6, Action::Get, value("a"))]), Verdict::Linearizable);
    // But nobody sees a after somebody saw b.
    let reads = [(3, 4, Action::Get, value("b")), (5, 6, Action::Get, value("a"))];
    assert!(violated(&[a, (3, 9, set("b"), Outcome::Stored), reads[0].clone(), reads[1].clone()]));
}

#[test]
fn a_lost_write_is_found() {
    assert!(violated(&[(1, 2, set("a"), Outcome::Stored), (3, 4, Action::Get, Outcome::Miss)]));
    assert!(violated(&[(1, 2, Action::Incr(1), Outcome::Number(1))]));
}

#[test]
fn a_deleted_value_that_comes_back_is_found() {
    let deleted = [(1, 2, set("a"), Outcome::Stored), (3, 4, Action::Delete, Outcome::Deleted)];
    let [first, second] = deleted;
    assert!(violated(&[first, second, (5, 6, Action::Get, value("a"))]));
}

/// A gateway was cut off for seconds, with clients that went on to ask. Which of their operations were done was searched for
/// among all sets of them, in vain.
#[test]
fn what_does_the_same_and_was_not_answered_is_tried_once() {
    let unknown = (0..40).map(|n| {
        (10 + n, 0, [Action::Incr(1 + n % 3), Action::Delete][usize::from(n % 7 == 0)].clone(), Outcome::Unknown)
    });
    let mut lines = vec![(1, 2, set("1"), Outcome::Stored)];
    lines.extend(unknown);
    let read = |at, text| (at, at + 1, Action::Get, value(text));
    lines.extend([read(60, "1"), read(62, "45"), (64, 65, set("0"), Outcome::Stored), read(66, "9")]);
    assert_eq!(verdict(&lines), Verdict::Linearizable);
    lines.extend([read(68, "33")]);
    assert!(violated(&lines), "they count to 67 together");
}

/// The same of sets, each of another value, none of which was ever seen; and what is stored over them is the same whichever of
/// them were done before. A run whose gateway was cut off for seconds was not decided in three million steps.
#[test]
fn what_nobody_has_seen_is_one_value() {
    let unknown = (0..36).map(|n| {
        let action = match n % 4 {
            0 => Action::Delete,
            1 => Action::Append(format!("v{n}").into_bytes()),
            2 => Action::Cas(n, stored(&format!("v{n}"))),
            _ => set(&format!("v{n}")),
        };
        (10 + n, 0, action, Outcome::Unknown)
    });
    let mut lines = vec![(1, 2, set("a"), Outcome::Stored)];
    lines.extend(unknown);
    for n in 0..12 {
        lines.push((60 + 4 * n, 61 + 4 * n, set(&format!("b{n}")), Outcome::Stored));
        lines.push((62 + 4 * n, 63 + 4 * n, Action::Add(stored("c")), Outcome::NotStored));
    }
    assert_eq!(verdict(&lines), Verdict::Linearizable);
    lines.push((120, 121, Action::Get, value("v7")));
    assert_eq!(verdict(&lines), Verdict::Linearizable);
    lines.push((122, 123, Action::Get, value("b3")));
    assert!(violated(&lines), "what was stored over is back");
}

#[test]
fn the_unknown_may_happen_later_or_never_but_once() {
    let start = (1, 2, set("1"), Outcome::Stored);
    let unknown = (3, 4, Action::Incr(1), Outcome::Unknown);
    let read = |at, text| (at, at + 1, Action::Get, value(text));
    assert_eq!(verdict(&[start.clone(), unknown.clone(), read(90, "1")]), Verdict::Linearizable);
    assert_eq!(verdict(&[start.clone(), unknown.clone(), read(90, "1"), read(95, "2")]), Verdict::Linearizable);
    assert!(violated(&[start.clone(), unknown.clone(), read(90, "3")]));
    assert!(violated(&[start.clone(), unknown.clone(), read(90, "2"), read(95, "1")]));
    // Not before it was asked for.
    assert!(violated(&[start, (50, 51, Action::Incr(1), Outcome::Unknown), read(40, "2")]));
}

#[test]
fn a_compare_and_swap_on_what_was_not_current_is_found() {
    let gets =
        |at, text: &str, unique| (at, at + 1, Action::Get, Outcome::Value(Seen { unique: Some(unique), ..seen(text) }));
    let cas = |at, outcome| (at, at + 1, Action::Cas(7, stored("c")), outcome);
    let (a, b) = ((1, 2, set("a"), Outcome::Stored), (5, 6, set("b"), Outcome::Stored));
    assert_eq!(verdict(&[a.clone(), gets(3, "a", 7), cas(5, Outcome::Stored)]), Verdict::Linearizable);
    assert_eq!(verdict(&[a.clone(), gets(3, "a", 7), b.clone(), cas(7, Outcome::Exists)]), Verdict::Linearizable);
    assert!(violated(&[a.clone(), gets(3, "a", 7), b.clone(), cas(7, Outcome::Stored)]));
    assert!(violated(&[a, gets(3, "a", 7), b, gets(7, "b", 7)]));
}

#[test]
fn a_flush_concerns_every_key() {
    let mut history = history(&[(1, 2, set("a"), Outcome::Stored), (5, 6, Action::Get, value("a"))]);
    assert_eq!(check(&history, 1000), Verdict::Linearizable);
    let flush =
        Entry { client: 9, key: Vec::new(), action: Action::Flush, outcome: Outcome::Ok, invoked: 3, returned: 4 };
    history.push(flush);
    let Verdict::Violated(violation) = check(&history, 1000) else { panic!("a value survived a flush") };
    assert!(violation.to_string().contains("flush_all"), "{violation}");
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    let many: Vec<_> = (0..40).map(|n| (1, 100, set(&n.to_string()), Outcome::Stored)).collect();
    let mut lines = many.clone();
    lines.push((101, 102, Action::Get, value("none")));
    assert_eq!(verdict(&lines), Verdict::Undecided(b"k".to_vec()));
    assert_eq!(verdict(&many), Verdict::Linearizable);
}

/// The same, with seconds of ten units, and clocks that are up to so many seconds apart.
fn violated_by(skew_secs: u64, lines: &[(u64, u64, Action, Outcome)]) -> bool {
    let mut history = history(lines);
    history.clocks = Clocks { second: 10, skew_secs };
    matches!(check(&history, 100_000), Verdict::Violated(_))
}

#[test]
fn flags_that_are_others_or_get_lost_are_found() {
    let flagged = |flags| Outcome::Value(Seen { flags, ..seen("a") });
    let set = (1, 2, Action::Set(Stored { flags: 5, ..stored("a") }), Outcome::Stored);
    assert!(!violated(&[set.clone(), (3, 4, Action::Get, flagged(5))]));
    assert!(violated(&[set.clone(), (3, 4, Action::Get, flagged(0))]));
    // They stay when something is appended.
    let append = (3, 4, Action::Append(b"b".to_vec()), Outcome::Stored);
    let read = |flags| (5, 6, Action::Get, Outcome::Value(Seen { flags, ..seen("ab") }));
    assert!(!violated(&[set.clone(), append.clone(), read(5)]));
    assert!(violated(&[set, append, read(0)]));
}

#[test]
fn keys_of_one_command_are_judged_each_on_its_own() {
    let mut history = history(&[(1, 2, set("a"), Outcome::Stored), (5, 9, Action::Get, value("a"))]);
    let other = |invoked, returned, action, outcome| Entry {
        client: 9,
        key: b"other".to_vec(),
        action,
        outcome,
        invoked,
        returned,
    };
    history.push(other(3, 4, set("b"), Outcome::Stored));
    history.push(other(5, 9, Action::Get, value("b")));
    assert_eq!(check(&history, 1000), Verdict::Linearizable);
    history.push(other(10, 11, Action::Get, value("a")));
    assert!(matches!(check(&history, 1000), Verdict::Violated(_)));
}

#[test]
fn a_value_is_neither_gone_too_early_nor_there_too_late() {
    // Asked for in second 1, answered in second 2: it ends in second 4 or 5.
    let set = (15, 21, set_for("a", 3), Outcome::Stored);
    let reads = |at, outcome| [set.clone(), (at, at + 1, Action::Get, outcome)];
    assert!(violated_by(0, &reads(38, Outcome::Miss)));
    assert!(!violated_by(0, &reads(39, Outcome::Miss)), "answered when second 4 begins");
    assert!(!violated_by(0, &reads(49, value("a"))));
    assert!(violated_by(0, &reads(50, value("a"))));
    // A second more and less where clocks are apart by one.
    assert!(violated_by(1, &reads(28, Outcome::Miss)));
    assert!(!violated_by(1, &reads(29, Outcome::Miss)));
    assert!(!violated_by(1, &reads(59, value("a"))) && violated_by(1, &reads(60, value("a"))));
}

#[test]
fn what_was_seen_to_be_over_stays_so() {
    let set = (1, 2, set_for("a", 2), Outcome::Stored);
    let [gone, there] = [Outcome::Miss, value("a")];
    let reads = |first: &Outcome, second: &Outcome| {
        let [first, second] = [first.clone(), second.clone()];
        [set.clone(), (22, 23, Action::Get, first), (24, 25, Action::Get, second)]
    };
    assert!(!violated_by(1, &reads(&there, &gone)));
    assert!(violated_by(1, &reads(&gone, &there)));
    // What looks for the value, and stores over it, sees it end, too.
    let add = (22, 23, Action::Add(stored("b")), Outcome::Stored);
    assert!(!violated_by(1, &[set.clone(), add.clone(), (24, 25, Action::Get, value("b"))]));
    assert!(violated_by(1, &[set.clone(), add.clone(), (24, 25, Action::Get, value("a"))]));
    assert!(violated_by(1, &[set, (2, 3, Action::Touch(None), Outcome::Touched), add]));
}

#[test]
fn a_touch_counts_anew() {
    let set = (1, 2, set_for("a", 2), Outcome::Stored);
    let touch = (11, 12, Action::Touch(Some(2)), Outcome::Touched);
    assert!(!violated_by(0, &[set.clone(), touch.clone(), (29, 29, Action::Get, value("a"))]));
    assert!(violated_by(0, &[set.clone(), touch.clone(), (28, 29, Action::Get, Outcome::Miss)]));
    assert!(violated_by(0, &[set.clone(), touch, (30, 31, Action::Get, value("a"))]));
    // One of unknown outcome was done now, later, or never; its seconds count from when it was done at the latest.
    let unknown = (11, 12, Action::GetAndTouch(Some(2)), Outcome::Unknown);
    assert!(!violated_by(0, &[set.clone(), unknown.clone(), (28, 29, Action::Get, Outcome::Miss)]));
    assert!(!violated_by(0, &[set.clone(), unknown.clone(), (30, 31, Action::Get, Outcome::Miss)]));
    let seen = (15, 16, Action::Get, value("a"));
    assert!(!violated_by(0, &[set.clone(), unknown.clone(), seen.clone(), (29, 29, Action::Get, value("a"))]));
    // It can have been done before the first end only.
    assert!(violated_by(0, &[set, unknown, seen, (30, 31, Action::Get, value("a"))]));
}

#[test]
fn a_value_of_unknown_store_ends_after_it_was_seen_first() {
    let set = (1, 2, set_for("a", 2), Outcome::Unknown);
    assert!(!violated_by(0, &[set.clone(), (55, 56, Action::Get, value("a"))]));
    assert!(!violated_by(0, &[set.clone(), (55, 56, Action::Get, value("a")), (69, 69, Action::Get, value("a"))]));
    assert!(!violated_by(0, &[set.clone(), (55, 69, Action::Get, value("a")), (79, 79, Action::Get, value("a"))]));
    assert!(violated_by(0, &[set, (55, 56, Action::Get, value("a")), (70, 71, Action::Get, value("a"))]));
}

#[test]
fn a_delayed_flush_comes_in_its_time_and_once() {
    let run = |reads: &[(u64, Outcome)], others: &[(u64, u64, Action, Outcome)], flushed_by: Option<u64>| {
        let mut lines = vec![(1, 2, set("a"), Outcome::Stored), (11, 12, Action::FlushLater(2), Outcome::Ok)];
        lines.extend(reads.iter().map(|(at, outcome)| (*at, *at + 1, Action::Get, outcome.clone())));
        lines.extend_from_slice(others);
        let mut history = history(&lines);
        history.clocks = Clocks { second: 10, skew_secs: 0 };
        history.flushed = flushed_by.map(|by| Flushed { due: by, done: by });
        check(&history, 100_000) == Verdict::Linearizable
    };
    assert!(!run(&[(28, Outcome::Miss)], &[], None));
    assert!(run(&[(30, Outcome::Miss)], &[], None));
    assert!(run(&[(55, value("a"))], &[], None));
    assert!(!run(&[(30, Outcome::Miss), (32, value("a"))], &[], None));
    // By a time when it must have come, it has.
    assert!(!run(&[(55, value("a"))], &[], Some(50)));
    assert!(run(&[(48, value("a")), (55, Outcome::Miss)], &[], Some(50)));
    // Unless it was not due, or another one was asked for meanwhile.
    assert!(run(&[(55, value("a"))], &[], Some(28)));
    assert!(run(&[(55, value("a"))], &[(20, 21, Action::FlushLater(9), Outcome::Ok)], Some(50)));
    assert!(run(&[(55, value("a"))], &[(20, 21, Action::Flush, Outcome::Unknown)], Some(50)));
}

fn fetch() -> Action {
    Action::Fetch { vivify_secs: None, recache_secs: None }
}

/// A value with the letters that `mg` tells beside it.
fn marked(text: &str, letters: &str) -> Outcome {
    let has = |letter| letters.contains(letter);
    Outcome::Value(Seen { marks: Marks { won: has('W'), stale: has('X'), sent: has('Z') }, ..seen(text) })
}

#[test]
fn two_who_win_are_found_and_a_mark_that_gets_lost() {
    let stale = [(1, 2, set("a"), Outcome::Stored), (3, 4, Action::Invalidate, Outcome::Deleted)];
    let run = |more: &[(u64, u64, Action, Outcome)]| !violated(&[&stale[..], more].concat());
    let told = |at, letters| (at, at + 3, fetch(), marked("a", letters));
    assert!(run(&[told(5, "WX"), told(6, "XZ")]));
    assert!(run(&[told(5, "XZ"), told(6, "WX")]));
    assert!(!run(&[told(5, "WX"), told(6, "WX")]));
    assert!(!run(&[told(5, "XZ"), told(9, "WX")]), "who is told first wins");
    assert!(!run(&[told(5, "")]), "the mark is lost");
    // A win that was not answered may have been, once.
    let unknown = (5, 6, fetch(), Outcome::Unknown);
    assert!(run(&[unknown.clone(), told(7, "XZ")]) && run(&[unknown.clone(), told(7, "WX")]));
    assert!(!run(&[unknown, told(7, "XZ"), told(11, "WX")]));
    // Stored anew it is neither stale nor won.
    let anew = (9, 10, set("a"), Outcome::Stored);
    assert!(run(&[told(5, "WX"), anew.clone(), told(11, "")]));
    assert!(!run(&[told(5, "WX"), anew.clone(), told(11, "XZ")]));
    assert!(run(&[told(5, "WX"), (9, 10, Action::Invalidate, Outcome::Deleted), told(11, "WX")]));
}
