//! Asking another server what it lacks, window by window of the ring.
//!
//! Source: doc/protocol.md, "Rejoining"; the other end is [`super::compare`]. Half a byte for each record goes there when both
//! hold the same, and 8 bytes for each record of a leaf in which they differ.
//!
//! Memory: the dbkeys of a window, some 1000.

use super::copy::{Failed, Pair};
use super::link::Call;
use super::worker::Worker;
use crate::logic::clock::ClockTime;
use crate::logic::digest::Window;
use crate::proto::rpc::error;
use crate::proto::rpc::msgpack::Reader;
use crate::proto::rpc::v1::{Compare, Compared, List, read_digests};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the other may take to answer: it gives way to its clients, and may have to read from a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a server is asked that is not in the phase yet, or not connected, and how long after each other.
const NOT_READY_TRIES: u32 = 50;
const NOT_READY_PAUSE: Duration = Duration::from_millis(20);

/// What this worker holds in a window.
pub(super) struct Found {
    pub window: Window,
    /// Dbkeys, and the digests of their records.
    records: Vec<(Box<[u8]>, u64)>,
    /// For each pair, the records that the other is to have: their leaves, and their places in `records`.
    shares: Vec<Vec<(usize, usize)>>,
}

impl Found {
    /// Nothing yet.
    pub fn new(window: Window, pairs: usize) -> Found {
        Found { window, records: Vec::new(), shares: vec![Vec::new(); pairs] }
    }

    /// Keeps a record; returns its number.
    pub fn note(&mut self, dbkey: &[u8], digest: u64) -> usize {
        self.records.push((dbkey.into(), digest));
        self.records.len() - 1
    }

    /// A record at a ring position is one that the other of a pair is to have.
    pub fn add(&mut self, pair: usize, number: usize, hash: u64) {
        if let (Some(share), Some(leaf)) = (self.shares.get_mut(pair), self.window.place(hash)) {
            share.push((leaf, number));
        }
    }

    fn digests(&self, pair: usize) -> Vec<u64> {
        let mut sums = vec![0_u64; self.window.len as usize];
        for (leaf, number) in &self.shares[pair] {
            sums[*leaf] = sums[*leaf].wrapping_add(self.records[*number].1);
        }
        sums
    }

    fn list(&self, pair: usize, leaves: &[usize]) -> Vec<(usize, Vec<u64>)> {
        let of = |leaf: &usize| {
            let records = self.shares[pair].iter().filter(|(l, _)| l == leaf);
            (*leaf, records.map(|(_, number)| self.records[*number].1).collect())
        };
        leaves.iter().map(of).collect()
    }

    fn dbkeys(&self, pair: usize, wanted: impl Fn(u64) -> bool) -> Vec<&[u8]> {
        let records = self.shares[pair].iter().map(|(_, number)| &self.records[*number]);
        records.filter(|(_, digest)| wanted(*digest)).map(|(dbkey, _)| &**dbkey).collect()
    }
}

impl Worker {
    /// Finds out which of the records found the other of a pair lacks.
    pub(super) async fn lacking<'f>(
        &self,
        pair: &Pair,
        time: ClockTime,
        found: &'f Found,
        number: usize,
    ) -> Result<Vec<&'f [u8]>, Failed> {
        let malformed = |_| Failed::At(pair.target.0, "its answer is malformed");
        let (window, counter) = (found.window, self.state.borrow().clock.counter());
        let compare = Compare { time, counter, window, digests: found.digests(number) };
        let answer = self.ask(pair, |out, id| compare.write(out, id)).await?;
        let differ = match Compared::read(&answer).map_err(malformed)? {
            Compared::Nothing => return Ok(found.dbkeys(number, |_| true)),
            Compared::Differ(leaves) if leaves.is_empty() => return Ok(Vec::new()),
            Compared::Differ(leaves) => leaves,
        };
        let list = List { time, window, leaves: found.list(number, &differ) };
        let answer = self.ask(pair, |out, id| list.write(out, id)).await?;
        let lacking: HashSet<u64> = read_digests(&mut Reader::new(&answer)).map_err(malformed)?.into_iter().collect();
        Ok(found.dbkeys(number, |digest| lacking.contains(&digest)))
    }

    async fn ask(&self, pair: &Pair, write: impl Fn(&mut Vec<u8>, u32)) -> Result<Vec<u8>, Failed> {
        let failed = |why| Failed::At(pair.target.0, why);
        for _ in 0..NOT_READY_TRIES {
            let (answer, answered) = oneshot::channel();
            if self.ask_once(pair, Call::Ask(answer), &write).is_none() {
                tokio::time::sleep(NOT_READY_PAUSE).await;
                continue;
            }
            match tokio::time::timeout(PATIENCE, answered).await {
                Ok(Ok(Ok(result))) => {
                    self.shared.moved.bytes.fetch_add(result.len() as u64, Ordering::Relaxed);
                    return Ok(result);
                }
                Ok(Ok(Err(error::PROTOCOL))) => return Err(Failed::CannotCompare(pair.target)),
                Ok(Ok(Err(error::SERVER))) => tokio::time::sleep(NOT_READY_PAUSE).await,
                Ok(_) => return Err(failed("the connection to it broke")),
                Err(_) => return Err(failed("it does not answer")),
            }
        }
        Err(failed("it is not ready"))
    }

    fn ask_once(&self, pair: &Pair, call: Call, write: &impl Fn(&mut Vec<u8>, u32)) -> Option<()> {
        let mut state = self.state.borrow_mut();
        let is_it = |l: &super::link::Link| (l.address, l.incarnation) == pair.target && l.worker == pair.worker;
        let place = state.links.iter().find(|(_, l)| is_it(l))?.0;
        let link = state.links.get_mut(place)?;
        let mut len = 0;
        let asked = link.call(call, |out, id| {
            let before = out.len();
            write(out, id);
            len = out.len() - before;
        });
        self.shared.moved.bytes.fetch_add(len as u64, Ordering::Relaxed);
        asked.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::digest::Leaves;

    #[test]
    fn what_is_listed_is_what_was_summed() {
        let window = Window::at(Leaves::for_records(64), 0).unwrap();
        let mut found = Found::new(window, 2);
        let place = |leaf| window.leaves.start(leaf);
        for (n, leaf) in [(1, 0), (2, 0), (3, 2)] {
            let number = found.note(&[n], u64::from(n) * 10);
            found.add(0, number, place(leaf));
            if n > 1 {
                found.add(1, number, place(leaf));
            }
        }
        assert_eq!(found.digests(0), [30, 0, 30, 0]);
        assert_eq!(found.digests(1), [20, 0, 30, 0]);
        assert_eq!(found.list(1, &[0, 1]), [(0, vec![20]), (1, vec![])]);
        assert_eq!(found.dbkeys(0, |digest| digest > 10), [&[2][..], &[3]]);
    }
}
