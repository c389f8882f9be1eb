//! A server's vote on the next epoch, which counts when its cluster has two managers, and the file that keeps it.
//!
//! Source: doc/guarantees.md, "Deciding". The vote is synced before its answer leaves. Four bytes of CRC-32C,
//! big-endian, then the vote as [`crate::proto::rpc::vote`] has it. Where the file is damaged, what was promised is not
//! known any more; but it was about the number after the epoch on disk, which is kept in a file of its own, or about a
//! lower one. So the server stays out of these, and votes on later ones.

use crate::logic::epoch::{Epoch, MAX_ENCODED_LEN};
use crate::logic::paxos::{Answer, Question, Vote};
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::vote::{read_vote, write_vote};
use crate::store::fs::{Disk, load_checked, save_checked};
use std::io;
use std::path::Path;

/// The name of the file beside the records.
const VOTE_FILE: &str = "vote";

/// A server as a voter.
#[derive(Debug)]
pub struct Ballots {
    vote: Vote,
    /// Up to this number it does not vote.
    abstains: u64,
}

impl Ballots {
    /// What is on disk, beside `epoch`.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged and the epoch is lost too: one line that says what to do.
    pub fn load(disk: &dyn Disk, dir: &Path, epoch: &Epoch) -> Result<Ballots, String> {
        let path = dir.join(VOTE_FILE);
        let kept = match load_checked(disk, &path, MAX_ENCODED_LEN + 256) {
            Ok(kept) => kept,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ballots { vote: Vote::default(), abstains: 0 }),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        match kept.and_then(|bytes| read_vote(&mut Reader::new(&bytes)).ok()) {
            Some(vote) => Ok(Ballots { vote, abstains: 0 }),
            None if epoch.number == 0 => Err(format!(
                "{} is damaged, and there is no epoch beside it: start this server with a new store, to be filled anew",
                path.display()
            )),
            None => {
                tracing::warn!("{} is damaged: this server votes again on epochs after the next", path.display());
                Ok(Ballots { vote: Vote::default(), abstains: epoch.number + 1 })
            }
        }
    }

    /// Answers a manager's question, given the number of the newest epoch on disk. Blocks.
    ///
    /// # Errors
    /// When the vote cannot be kept, or is not known: nothing may be answered then.
    pub fn answer(&mut self, disk: &dyn Disk, dir: &Path, decided: u64, question: &Question) -> io::Result<Answer> {
        if question.number == decided + 1 && question.number <= self.abstains {
            return Err(io::Error::other("the vote on it is lost"));
        }
        let mut vote = self.vote.clone();
        let answer = vote.answer(decided, question);
        if vote != self.vote {
            let mut bytes = Vec::new();
            write_vote(&mut bytes, &vote);
            if on(Rule::DurableVote) {
                save_checked(disk, &dir.join(VOTE_FILE), &bytes)?;
            }
            self.vote = vote;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::address::Address;
    use crate::logic::paxos::{Ballot, Voter};
    use crate::store::fs::RealDisk;

    fn question(number: u64, round: u64) -> Question {
        let proposer = Voter { address: Address::new("10.0.0.1:19700".parse().unwrap()), disk_id: 7 };
        Question { number, ballot: Ballot { round, proposer }, text: None }
    }

    fn epoch(number: u64) -> Epoch {
        Epoch { number, ..Epoch::default() }
    }

    #[test]
    fn what_was_promised_is_kept_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballots = Ballots::load(&RealDisk, dir.path(), &epoch(6)).unwrap();
        let promised = ballots.answer(&RealDisk, dir.path(), 6, &question(7, 5)).unwrap();
        assert_eq!(promised, Answer::Promised(None));
        let mut ballots = Ballots::load(&RealDisk, dir.path(), &epoch(6)).unwrap();
        let outbid = ballots.answer(&RealDisk, dir.path(), 6, &question(7, 4)).unwrap();
        assert_eq!(outbid, Answer::Outbid(question(7, 5).ballot));
    }

    /// A voter that forgot what it promised could help to decide a number twice.
    #[test]
    fn a_damaged_vote_is_not_cast_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballots = Ballots::load(&RealDisk, dir.path(), &epoch(6)).unwrap();
        ballots.answer(&RealDisk, dir.path(), 6, &question(7, 5)).unwrap();
        let path = dir.path().join(VOTE_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[7] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let why = Ballots::load(&RealDisk, dir.path(), &epoch(0)).unwrap_err();
        assert!(why.contains("is damaged") && !why.contains('\n'), "{why}");
        let mut ballots = Ballots::load(&RealDisk, dir.path(), &epoch(6)).unwrap();
        assert!(ballots.answer(&RealDisk, dir.path(), 6, &question(7, 9)).is_err());
        assert_eq!(ballots.answer(&RealDisk, dir.path(), 7, &question(8, 1)).unwrap(), Answer::Promised(None));
    }

    #[test]
    fn a_vote_that_cannot_be_kept_is_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let mut ballots = Ballots::load(&RealDisk, &gone, &epoch(6)).unwrap();
        std::fs::remove_dir(&gone).unwrap();
        assert!(ballots.answer(&RealDisk, &gone, 6, &question(7, 5)).is_err());
        assert_eq!(ballots.vote, Vote::default());
    }
}
