//! Voting on epochs: what a manager asks of the voters, what they answer, and how a vote is kept on disk.
//!
//! Source: `doc/protocol.md`, "Voting". The decisions are [`crate::logic::paxos`]'s.

use super::frame::write_request;
use super::msgpack::{DecodeError, Reader, write_array, write_nil, write_raw, write_uint};
use super::v1::method;
use crate::logic::address::Address;
use crate::logic::paxos::{Answer, Ballot, Question, Vote, Voter};

/// Parameters of [`method::VOTE`]: `[cluster, number, ballot, text or nil]`. Without a text it is the first phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The asking manager's cluster; 0 when the first epoch is being decided.
    pub cluster: u64,
    /// What it asks.
    pub question: Question,
}

impl Ask {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::VOTE);
        write_array(out, 4);
        write_uint(out, self.cluster);
        write_uint(out, self.question.number);
        write_ballot(out, &self.question.ballot);
        match &self.question.text {
            Some(text) => write_raw(out, text),
            None => write_nil(out),
        }
    }

    /// Reads the parameters.
    pub fn read(params: &[u8]) -> Result<Ask, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(4)?;
        let (cluster, number, ballot) = (r.u64()?, r.u64()?, read_ballot(&mut r)?);
        let text = if r.take_nil() { None } else { Some(r.raw()?.to_vec()) };
        Ok(Ask { cluster, question: Question { number, ballot, text } })
    }
}

/// Result of [`method::VOTE`]; the first element is the voter's disk id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voted {
    /// The random number on the voter's disk.
    pub disk_id: u64,
    /// `[disk id, 0, nil or [ballot, text]]`: promised, and what was accepted before. `[disk id, 1]`: accepted.
    /// `[disk id, 2, ballot]`: it takes part in that higher one. `[disk id, 3, epoch number, nil or epoch]`: it does not
    /// vote on this number, because this is its newest epoch, told when that is news to the manager.
    pub answer: Answer,
    /// The number of the newest epoch that the voter knows, and that epoch; for [`Answer::Elsewhere`] alone.
    pub newest: (u64, Option<Vec<u8>>),
}

impl Voted {
    /// Appends the result.
    pub fn write(&self, out: &mut Vec<u8>) {
        let begin = |out: &mut Vec<u8>, len: usize, kind: u64| {
            write_array(out, len);
            write_uint(out, self.disk_id);
            write_uint(out, kind);
        };
        match &self.answer {
            Answer::Promised(accepted) => {
                begin(out, 3, 0);
                write_accepted(out, accepted.as_ref());
            }
            Answer::Accepted => begin(out, 2, 1),
            Answer::Outbid(ballot) => {
                begin(out, 3, 2);
                write_ballot(out, ballot);
            }
            Answer::Elsewhere => {
                begin(out, 4, 3);
                write_uint(out, self.newest.0);
                match &self.newest.1 {
                    Some(epoch) => write_raw(out, epoch),
                    None => write_nil(out),
                }
            }
        }
    }

    /// Reads the result.
    pub fn read(result: &[u8]) -> Result<Voted, DecodeError> {
        let mut r = Reader::new(result);
        let len = r.array()?;
        let disk_id = r.u64()?;
        let mut newest = (0, None);
        let answer = match (r.u64()?, len) {
            (0, 3) => Answer::Promised(read_accepted(&mut r)?),
            (1, 2) => Answer::Accepted,
            (2, 3) => Answer::Outbid(read_ballot(&mut r)?),
            (3, 4) => {
                newest.0 = r.u64()?;
                newest.1 = if r.take_nil() { None } else { Some(r.raw()?.to_vec()) };
                Answer::Elsewhere
            }
            _ => return Err(DecodeError::Type),
        };
        Ok(Voted { disk_id, answer, newest })
    }
}

/// Appends a vote as it is kept on disk: `[number, promised ballot or nil, nil or [ballot, text]]`.
pub fn write_vote(out: &mut Vec<u8>, vote: &Vote) {
    write_array(out, 3);
    write_uint(out, vote.number);
    match &vote.promised {
        Some(ballot) => write_ballot(out, ballot),
        None => write_nil(out),
    }
    write_accepted(out, vote.accepted.as_ref());
}

/// Reads a vote.
pub fn read_vote(r: &mut Reader<'_>) -> Result<Vote, DecodeError> {
    r.array_of(3)?;
    let number = r.u64()?;
    let promised = if r.take_nil() { None } else { Some(read_ballot(r)?) };
    Ok(Vote { number, promised, accepted: read_accepted(r)? })
}

/// A ballot: `[round, address, disk id]`.
fn write_ballot(out: &mut Vec<u8>, ballot: &Ballot) {
    write_array(out, 3);
    write_uint(out, ballot.round);
    write_raw(out, &ballot.proposer.address.to_bytes());
    write_uint(out, ballot.proposer.disk_id);
}

fn read_ballot(r: &mut Reader<'_>) -> Result<Ballot, DecodeError> {
    r.array_of(3)?;
    let round = r.u64()?;
    let address = Address::from_bytes(r.raw()?).ok_or(DecodeError::Type)?;
    Ok(Ballot { round, proposer: Voter { address, disk_id: r.u64()? } })
}

fn write_accepted(out: &mut Vec<u8>, accepted: Option<&(Ballot, Vec<u8>)>) {
    match accepted {
        Some((ballot, text)) => {
            write_array(out, 2);
            write_ballot(out, ballot);
            write_raw(out, text);
        }
        None => write_nil(out),
    }
}

fn read_accepted(r: &mut Reader<'_>) -> Result<Option<(Ballot, Vec<u8>)>, DecodeError> {
    if r.take_nil() {
        return Ok(None);
    }
    r.array_of(2)?;
    let ballot = read_ballot(r)?;
    Ok(Some((ballot, r.raw()?.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64) -> Ballot {
        let address = Address::new("10.0.0.1:19700".parse().unwrap());
        Ballot { round, proposer: Voter { address, disk_id: 7 } }
    }

    /// The parameters behind a request's head, which is `[0, msgid, method, ...]`.
    fn params(request: &[u8]) -> &[u8] {
        let mut r = Reader::new(request);
        r.array_of(4).unwrap();
        for _ in 0..3 {
            r.u64().unwrap();
        }
        r.rest()
    }

    #[test]
    fn questions_and_answers_come_back_as_written_and_no_prefix_does() {
        for text in [None, Some(b"text".to_vec())] {
            let ask = Ask { cluster: 9, question: Question { number: 3, ballot: ballot(2), text } };
            let mut out = Vec::new();
            ask.write(&mut out, 1);
            assert_eq!(Ask::read(params(&out)).unwrap(), ask);
            let whole = params(&out).to_vec();
            assert!((0..whole.len()).all(|cut| Ask::read(&whole[..cut]).is_err()));
        }
        let answers = [
            Answer::Promised(None),
            Answer::Promised(Some((ballot(1), b"t".to_vec()))),
            Answer::Accepted,
            Answer::Outbid(ballot(5)),
            Answer::Elsewhere,
        ];
        for answer in answers {
            for epoch in [None, Some(b"epoch".to_vec())] {
                let newest = if answer == Answer::Elsewhere { (4, epoch) } else { (0, None) };
                let voted = Voted { disk_id: 6, answer: answer.clone(), newest };
                let mut out = Vec::new();
                voted.write(&mut out);
                assert_eq!(Voted::read(&out).unwrap(), voted);
                assert!((0..out.len()).all(|cut| Voted::read(&out[..cut]).is_err()));
            }
        }
    }

    #[test]
    fn a_vote_comes_back_as_kept() {
        let accepted = Some((ballot(2), b"text".to_vec()));
        for vote in [Vote::default(), Vote { number: 8, promised: Some(ballot(3)), accepted }] {
            let mut out = Vec::new();
            write_vote(&mut out, &vote);
            assert_eq!(read_vote(&mut Reader::new(&out)).unwrap(), vote);
        }
    }
}
