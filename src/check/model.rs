//! One key of a memcached that does one thing at a time.
//!
//! A cas unique is the server's choice, so the model does not know it until a client has been told; from then on the
//! version has that one. A client can only ask for a unique that it was told before, so a version whose unique nobody
//! was told is never the one asked for.

use super::history::{Action, Outcome};
use crate::logic::counter::{self, Direction};
use std::rc::Rc;

/// What the key holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Item {
    data: Rc<[u8]>,
    /// Known once a client was told.
    unique: Option<u64>,
}

/// The key's state; `None`: it is not there.
pub type State = Option<Item>;

fn fresh(data: Vec<u8>) -> State {
    Some(Item { data: data.into(), unique: None })
}

fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

/// What becomes of `state` when `action` is done; `None` when it would not have been answered with `outcome`.
/// [`Outcome::Unknown`] fits everything.
pub fn step(state: &State, action: &Action, outcome: &Outcome) -> Option<State> {
    let (answer, next) = execute(state, action, outcome);
    (*outcome == Outcome::Unknown || *outcome == answer).then_some(next)
}

/// The answer and the state after it.
fn execute(state: &State, action: &Action, outcome: &Outcome) -> (Outcome, State) {
    let unchanged = |answer| (answer, state.clone());
    match (action, state) {
        (Action::Get, None) => unchanged(Outcome::Miss),
        (Action::Get, Some(item)) => look(item, outcome),
        (Action::Set(data), _) | (Action::Add(data), None) | (Action::Replace(data), Some(_)) => {
            (Outcome::Stored, fresh(data.clone()))
        }
        (Action::Add(_), Some(_)) | (Action::Replace(_) | Action::Append(_) | Action::Prepend(_), None) => {
            unchanged(Outcome::NotStored)
        }
        (Action::Append(data), Some(item)) => (Outcome::Stored, fresh(joined(&item.data, data))),
        (Action::Prepend(data), Some(item)) => (Outcome::Stored, fresh(joined(data, &item.data))),
        (Action::Cas(unique, data), Some(item)) if item.unique == Some(*unique) => {
            (Outcome::Stored, fresh(data.clone()))
        }
        (Action::Cas(..), Some(_)) => unchanged(Outcome::Exists),
        (Action::Delete, Some(_)) => (Outcome::Deleted, None),
        (Action::Cas(..) | Action::Incr(_) | Action::Decr(_) | Action::Delete | Action::Touch, None) => {
            unchanged(Outcome::NotFound)
        }
        (Action::Incr(by), Some(item)) => count(item, Direction::Up, *by),
        (Action::Decr(by), Some(item)) => count(item, Direction::Down, *by),
        (Action::Touch, Some(_)) => unchanged(Outcome::Touched),
        (Action::Flush, _) => (Outcome::Ok, None),
    }
}

/// A get: where the unique is not known yet, it is the one that was answered.
fn look(item: &Item, outcome: &Outcome) -> (Outcome, State) {
    match outcome {
        Outcome::Value(_, Some(told)) => {
            let known = Item { data: item.data.clone(), unique: Some(item.unique.unwrap_or(*told)) };
            (Outcome::Value(item.data.to_vec(), known.unique), Some(known))
        }
        _ => (Outcome::Value(item.data.to_vec(), None), Some(item.clone())),
    }
}

fn count(item: &Item, direction: Direction, by: u64) -> (Outcome, State) {
    match counter::count(&item.data, direction, by) {
        Err(counter::NotANumber) => (Outcome::NotANumber, Some(item.clone())),
        Ok(number) => {
            let mut data = Vec::new();
            counter::write_data(number, item.data.len(), &mut data);
            (Outcome::Number(number), fresh(data))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memcached_answers_as_memcached_does() {
        let data = |text: &str| text.as_bytes().to_vec();
        let value = |text: &str, unique| Outcome::Value(data(text), unique);
        let mut state = None;
        for (action, outcome) in [
            (Action::Get, Outcome::Miss),
            (Action::Append(data("x")), Outcome::NotStored),
            (Action::Incr(1), Outcome::NotFound),
            (Action::Delete, Outcome::NotFound),
            (Action::Add(data("10")), Outcome::Stored),
            (Action::Add(data("11")), Outcome::NotStored),
            (Action::Get, value("10", Some(77))),
            (Action::Touch, Outcome::Touched),
            (Action::Cas(76, data("0")), Outcome::Exists),
            (Action::Cas(77, data("10")), Outcome::Stored),
            (Action::Cas(77, data("10")), Outcome::Exists),
            (Action::Decr(1), Outcome::Number(9)),
            (Action::Get, value("9 ", None)),
            (Action::Append(data("a")), Outcome::Stored),
            (Action::Prepend(data("b")), Outcome::Stored),
            (Action::Get, value("b9 a", None)),
            (Action::Incr(1), Outcome::NotANumber),
            (Action::Flush, Outcome::Ok),
            (Action::Get, Outcome::Miss),
        ] {
            state = step(&state, &action, &outcome).unwrap_or_else(|| panic!("{action} was not answered {outcome}"));
        }
    }

    #[test]
    fn a_version_has_one_cas_unique() {
        let told = |unique| Outcome::Value(b"1".to_vec(), Some(unique));
        let state = step(&fresh(b"1".to_vec()), &Action::Get, &told(5)).unwrap();
        assert_eq!(step(&state, &Action::Get, &told(5)), Some(state.clone()));
        assert_eq!(step(&state, &Action::Get, &told(6)), None);
    }
}
