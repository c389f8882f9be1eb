//! How a change of the cluster becomes a fact: the one place to replace when managers and servers vote.
//!
//! Today one manager decides: the only one, or of a connected pair the one with the lower address; each alone, when
//! they do not hear each other. So a cut between the two can make two epochs with one number; [`meet`] says how they
//! become one again. Single-decree Paxos for each number (doc/guarantees.md, "Deciding") takes the place of these three
//! functions; nothing else in this role knows how a decision comes about.

use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, EpochError};

/// Whether the manager at `own` decides, given the partner that it is connected to.
pub fn leads(own: Address, partner: Option<Address>) -> bool {
    partner.is_none_or(|partner| own < partner)
}

/// Makes `next` the epoch after `current`.
///
/// # Errors
/// When `next` contradicts itself or does not follow `current`: the change was computed wrongly, and is dropped.
pub fn decide(current: &Epoch, next: Epoch) -> Result<Epoch, EpochError> {
    if next.number != current.number + 1 {
        return Err(EpochError::Inconsistent("it does not follow the epoch before"));
    }
    next.check()?;
    Ok(next)
}

/// What is to be done when another node shows its newest epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// Both know the same.
    Same,
    /// Ours is newer: the other is to have it.
    Ours,
    /// Theirs is newer: it is in force.
    Theirs,
    /// One number was decided twice: who leads decides its own text again, under the next number.
    Twice,
    /// It belongs to another cluster: have nothing to do with it.
    Foreign,
}

/// Compares two epochs that were both decided.
pub fn meet(ours: &Epoch, theirs: &Epoch) -> Meeting {
    if ours.cluster != 0 && theirs.cluster != 0 && ours.cluster != theirs.cluster {
        return Meeting::Foreign;
    }
    match theirs.number.cmp(&ours.number) {
        std::cmp::Ordering::Less => Meeting::Ours,
        std::cmp::Ordering::Greater => Meeting::Theirs,
        std::cmp::Ordering::Equal if ours == theirs => Meeting::Same,
        std::cmp::Ordering::Equal => Meeting::Twice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64, cluster: u64) -> Epoch {
        Epoch { number, cluster, ..Epoch::default() }
    }

    #[test]
    fn the_lower_address_of_a_connected_pair_leads_and_each_alone() {
        let [a, b] = ["10.0.0.1:19700", "10.0.0.2:19700"].map(|t| Address::new(t.parse().unwrap()));
        assert!(leads(a, Some(b)) && !leads(b, Some(a)));
        assert!(leads(a, None) && leads(b, None));
    }

    #[test]
    fn only_the_next_number_is_decided() {
        assert!(decide(&epoch(4, 1), epoch(5, 1)).is_ok());
        assert!(decide(&epoch(4, 1), epoch(6, 1)).is_err());
        assert!(decide(&epoch(4, 1), Epoch { flushed: 9, ..epoch(5, 1) }).is_err());
    }

    #[test]
    fn the_newer_epoch_wins_but_never_a_foreign_one() {
        assert_eq!(meet(&epoch(4, 1), &epoch(5, 1)), Meeting::Theirs);
        assert_eq!(meet(&epoch(0, 0), &epoch(5, 1)), Meeting::Theirs);
        assert_eq!(meet(&epoch(5, 1), &epoch(4, 1)), Meeting::Ours);
        assert_eq!(meet(&epoch(5, 1), &epoch(5, 1)), Meeting::Same);
        assert_eq!(meet(&epoch(5, 1), &Epoch { flushed: 2, ..epoch(5, 1) }), Meeting::Twice);
        assert_eq!(meet(&epoch(5, 1), &epoch(9, 2)), Meeting::Foreign);
    }
}
