//! How far a replace is: what servers that are being filled have by now, how fast it comes, and how long it will take.
//!
//! Those who fill tell how far they are, those who are filled what came: each is asked by itself, for a moment only, so that
//! one that hangs hides nothing but its own part.

use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::logic::route::Route;
use crate::proto::rpc::v1::Numbers;
use crate::tools::ask::{self, AskError, Node, Role};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time;

/// How long a server may take: much less than a manager may, so that `status` never fails because of one.
const PATIENCE: Duration = Duration::from_secs(1);
/// All of it, in parts per million.
const ALL: u64 = 1_000_000;

/// A server that is being filled. What is `None` is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filling {
    address: Address,
    /// How much of what is to be brought to it was gone through.
    done_ppm: Option<u64>,
    /// What came per second since the copying began, before compression.
    bytes_per_sec: Option<u64>,
    /// Seconds to the end, if it goes on as it went so far.
    secs_left: Option<u64>,
}

/// Asks the servers of an epoch in which records are copied; none when they are not.
pub(super) async fn ask(epoch: &Epoch) -> Vec<Filling> {
    let filled = sources(epoch);
    let mut addresses: Vec<Address> = filled.iter().flat_map(|(to, from)| from.iter().chain([to])).copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    let numbers = |address| async move {
        let asked = async { ask::statistics(&Node::connect(address, Role::Server).await?).await };
        time::timeout(PATIENCE, asked).await.unwrap_or(Err(AskError::Silent(address)))
    };
    let told = ask::each(&addresses, numbers).await;
    let told = addresses.into_iter().zip(told).filter_map(|(address, told)| Some((address, told.ok()?.numbers)));
    judge(epoch, &told.collect())
}

/// The servers that are being filled, and who fills them.
fn sources(epoch: &Epoch) -> BTreeMap<Address, BTreeSet<Address>> {
    let Phase::Copying { full, .. } = epoch.phase else { return BTreeMap::new() };
    let address = |place: u16| epoch.servers.get(usize::from(place)).map(|server| server.address);
    let mut filled: BTreeMap<Address, BTreeSet<Address>> = BTreeMap::new();
    for group in Route::new(epoch).groups() {
        for (from, to) in group.members().iter().flat_map(|from| group.members().iter().map(move |to| (*from, *to))) {
            if group.moves(full, from, to)
                && let (Some(from), Some(to)) = (address(from), address(to))
            {
                filled.entry(to).or_default().insert(from);
            }
        }
    }
    filled
}

/// What follows from what the servers tell.
fn judge(epoch: &Epoch, told: &BTreeMap<Address, Numbers>) -> Vec<Filling> {
    let judge_one = |(address, from): (Address, BTreeSet<Address>)| {
        let from: Option<Vec<(u64, u64)>> =
            from.iter().map(|source| told.get(source).map(|numbers| copied(epoch, numbers))).collect();
        let from = from.unwrap_or_default();
        let done = from.iter().map(|(ppm, _)| ppm).sum::<u64>().checked_div(from.len() as u64);
        let lasting = from.iter().map(|(_, micros)| *micros).max().filter(|micros| *micros > 0);
        let bytes = told.get(&address).and_then(|numbers| numbers.received_bytes);
        let per_sec = |bytes: u64, micros| u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(micros)).ok();
        // The slowest of those who fill it is the last one.
        let left = |(ppm, micros): &(u64, u64)| match ppm {
            0 => None,
            ppm => u64::try_from(u128::from(*micros) * u128::from(ALL - ppm) / u128::from(*ppm)).ok(),
        };
        let left = from.iter().map(left).collect::<Option<Vec<u64>>>().and_then(|left| left.into_iter().max());
        Filling {
            address,
            done_ppm: done,
            bytes_per_sec: bytes.zip(lasting).and_then(|(bytes, micros)| per_sec(bytes, micros)),
            secs_left: left.map(|micros| micros.div_ceil(1_000_000)),
        }
    };
    sources(epoch).into_iter().map(judge_one).collect()
}

/// How far a server is with copying, in parts per million, and for how long it has been at it, in microseconds.
fn copied(epoch: &Epoch, numbers: &Numbers) -> (u64, u64) {
    let is_there = numbers.epoch.is_some_and(|number| number >= epoch.number);
    match (numbers.moving_ppm, numbers.moving_micros) {
        (Some(ppm), micros) if is_there => (ppm.min(ALL), micros.unwrap_or(0)),
        // It copies no more: it has.
        (None, _) if is_there => (ALL, 0),
        // It does not know of it yet.
        _ => (0, 0),
    }
}

impl Filling {
    /// One line. It begins without spaces, so that nobody takes it for an entry of the list of servers above it.
    pub(super) fn text(&self, paused: bool) -> String {
        let mut line = format!("filling {}: ", self.address);
        match self.done_ppm {
            Some(ppm) => line.push_str(&format!("{}% done", ppm * 100 / ALL)),
            None => line.push_str("not known how far"),
        }
        if let Some(rate) = self.bytes_per_sec {
            line.push_str(&format!(", {rate} bytes/s"));
        }
        match self.secs_left {
            _ if paused => line.push_str(", paused"),
            Some(secs) => line.push_str(&format!(", {secs} s left")),
            None => {}
        }
        line
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "address": self.address.to_string(),
            "done_ppm": self.done_ppm,
            "bytes_per_sec": self.bytes_per_sec,
            "secs_left": self.secs_left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::logic::epoch::ServerEntry;
    use crate::logic::ring::{HashSpace, Node as RingNode};

    fn server(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    /// Three servers hold everything; `fourth` is whether one more is being filled.
    fn epoch(full: bool, fourth: bool) -> Epoch {
        let space = |last| HashSpace {
            nodes: (1..=last).map(|n| RingNode::new(server(n), true)).collect(),
            timestamp: ClockTime(5),
        };
        let last = if fourth { 4 } else { 3 };
        let entry = |n| ServerEntry::new(server(n), n.into(), 8, 1);
        let phase = Phase::Copying { time: ClockTime(6), full };
        Epoch {
            number: 7,
            servers: (1..=last).map(entry).collect(),
            whs: space(last),
            rhs: space(3),
            phase,
            ..Epoch::default()
        }
    }

    fn copies(ppm: Option<u64>, secs: u64) -> Numbers {
        let moving_micros = ppm.map(|_| secs * 1_000_000);
        Numbers { epoch: Some(7), moving_ppm: ppm, moving_micros, ..Numbers::default() }
    }

    #[test]
    fn who_fills_whom_follows_from_the_epoch() {
        let all = BTreeSet::from([server(1), server(2), server(3)]);
        assert_eq!(sources(&epoch(false, true)), BTreeMap::from([(server(4), all)]));
        assert_eq!(sources(&epoch(true, false)).len(), 3, "all compare with all");
        assert!(sources(&Epoch { phase: Phase::Idle, ..epoch(false, true) }).is_empty());
    }

    #[test]
    fn progress_is_that_of_all_who_fill_and_the_rest_that_of_the_slowest() {
        let received = Numbers { received_bytes: Some(30_000_000), ..copies(Some(0), 30) };
        let mut told = BTreeMap::from([
            (server(1), copies(Some(250_000), 30)),
            (server(2), copies(Some(500_000), 30)),
            (server(3), copies(None, 0)),
            (server(4), received),
        ]);
        let [filling] = &judge(&epoch(false, true), &told)[..] else { panic!("one is filled") };
        assert_eq!(filling.text(false), "filling 10.0.0.4:19800: 58% done, 1000000 bytes/s, 90 s left");
        assert_eq!(filling.text(true), "filling 10.0.0.4:19800: 58% done, 1000000 bytes/s, paused");
        let json =
            json!({"address": "10.0.0.4:19800", "done_ppm": 583_333, "bytes_per_sec": 1_000_000, "secs_left": 90});
        assert_eq!(filling.json(), json);
        // One that has not heard of it has not begun.
        told.insert(server(3), Numbers { epoch: Some(6), ..copies(None, 0) });
        let filling = &judge(&epoch(false, true), &told)[0];
        assert_eq!((filling.done_ppm, filling.secs_left), (Some(250_000), None));
    }

    #[test]
    fn what_nobody_tells_is_not_known() {
        let told = BTreeMap::from([(server(1), copies(Some(1), 1)), (server(2), copies(Some(1), 1))]);
        let filling = &judge(&epoch(false, true), &told)[0];
        assert_eq!(filling.text(false), "filling 10.0.0.4:19800: not known how far");
    }
}
