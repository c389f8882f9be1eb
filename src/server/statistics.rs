//! Statistics: what a server tells of itself to tools, gathered from all of its workers.
//!
//! Asking is cheap for the workers: an answer is made at most every [`FRESH_MICROS`], and told to all who ask meanwhile.
//! Source: `doc/protocol.md`, "Statistics".

use super::measures::Measured;
use super::shared::{Mail, Shared, View};
use super::status;
use crate::logic::address::Address;
use crate::logic::hottest::hottest_of;
use crate::net::conn::Conn;
use crate::net::time::boot_micros;
use crate::proto::rpc::error;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::v1::{Caller, Lag, Numbers, Statistics};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Mutex;

/// For how long an answer is told again.
const FRESH_MICROS: u64 = 50_000;
/// Hottest keys told.
const HOTTEST: usize = 16;
/// Hosts that connections are told by.
const CALLERS: usize = 256;

/// The newest answer, encoded, and when it was made.
pub type Newest = Mutex<Option<(u64, Arc<[u8]>)>>;

/// Answers Statistics once all workers have told theirs.
pub(super) fn answer(shared: Arc<Shared>, conn: Rc<Conn>, msgid: u32) {
    tokio::task::spawn_local(async move {
        let mut newest = shared.statistics.lock().await;
        let now = boot_micros();
        if newest.as_ref().is_none_or(|(at, _)| now > at + FRESH_MICROS) {
            *newest = gather(&shared).await.map(|encoded| (now, encoded));
        }
        let encoded = newest.as_ref().map(|(_, encoded)| encoded.clone());
        drop(newest);
        conn.write(|out| match encoded {
            Some(encoded) => {
                write_success(out, msgid);
                out.extend_from_slice(&encoded);
            }
            None => write_error(out, msgid, error::SERVER),
        });
    });
}

/// `None`: a worker has ended.
async fn gather(shared: &Arc<Shared>) -> Option<Arc<[u8]>> {
    let mut all = Vec::new();
    for measured in shared.ask_all(Mail::Measure) {
        all.push(measured.await.ok()?);
    }
    let mut encoded = Vec::new();
    united(shared, all).write(&mut encoded);
    Some(encoded.into())
}

fn united(shared: &Shared, all: Vec<Measured>) -> Statistics {
    let mut lags: BTreeMap<Address, Lag> = BTreeMap::new();
    let mut callers: BTreeMap<(Caller, Address), u64> = BTreeMap::new();
    for one in &all {
        for (address, lag) in &one.lags {
            lags.entry(*address).and_modify(|sum| sum.add(lag)).or_insert(*lag);
        }
        for ((caller, from), count) in &one.callers {
            let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            *callers.entry((*caller, Address::new((from, 0).into()))).or_insert(0) += count;
        }
    }
    let numbers = numbers(shared, &all, callers.values().sum());
    let callers = callers.into_iter().take(CALLERS).map(|((caller, from), count)| (caller, from, count)).collect();
    let hottest = hottest_of(all.into_iter().map(|one| one.hottest).collect(), HOTTEST);
    Statistics { numbers, lags: lags.into_iter().collect(), callers, hottest }
}

fn numbers(shared: &Shared, all: &[Measured], connections: u64) -> Numbers {
    let view = shared.view();
    let gets = quantiles(all.iter().map(|one| &one.gets));
    let sets = quantiles(all.iter().map(|one| &one.changes));
    let (coordinates, holds) = shares(&view);
    let received = {
        let received = shared.received.lock().expect("no holder panics");
        (received.records, received.bytes)
    };
    let mut leases: BTreeMap<Address, bool> = BTreeMap::new();
    for (address, holds) in all.iter().flat_map(|one| &one.leases) {
        *leases.entry(*address).or_insert(true) &= holds;
    }
    let space = shared.store.disk().space(shared.store.dir()).ok();
    Numbers {
        epoch: Some(view.epoch.number),
        replace: Some(status::replace_flags(shared)),
        workers: Some(u64::from(shared.config.workers)),
        gets: Some(shared.total(|c| &c.gets)),
        misses: Some(shared.total(|c| &c.misses)),
        sets: Some(shared.total(|c| &c.sets)),
        deletes: Some(shared.total(|c| &c.deletes)),
        parked: Some(all.iter().map(|one| one.parked).sum()),
        leases: Some(leases.values().filter(|holds| **holds).count() as u64),
        leases_wanted: Some(leases.len() as u64),
        get_p50_micros: gets.map(|q| q[0]),
        get_p99_micros: gets.map(|q| q[1]),
        get_max_micros: gets.map(|q| q[2]),
        set_p50_micros: sets.map(|q| q[0]),
        set_p99_micros: sets.map(|q| q[1]),
        set_max_micros: sets.map(|q| q[2]),
        items: Some(shared.items()),
        marks: Some(all.iter().map(|one| one.marks).sum()),
        disk_used_bytes: Some(shared.store.disk_bytes()),
        disk_free_bytes: space.map(|s| s.free),
        disk_total_bytes: space.map(|s| s.total),
        memory_bytes: resident_bytes(),
        index_bytes: all.iter().map(|one| one.index_bytes).sum(),
        moving_ppm: moving_ppm(shared),
        moving_micros: moving_micros(shared),
        sent_records: Some(shared.moved.records.load(Ordering::Relaxed)),
        sent_bytes: Some(shared.moved.bytes.load(Ordering::Relaxed)),
        received_records: Some(received.0),
        received_bytes: Some(received.1),
        coordinates_ppm: Some(coordinates),
        holds_ppm: Some(holds),
        connections: Some(connections),
    }
}

/// Median, 99th percentile and maximum; `None`: nothing was measured.
fn quantiles<'a>(mut parts: impl Iterator<Item = &'a Histogram<u64>>) -> Option<[u64; 3]> {
    let mut all = parts.next()?.clone();
    for part in parts {
        all.add(part).expect("all have the same bounds");
    }
    (!all.is_empty()).then(|| [all.value_at_quantile(0.5), all.value_at_quantile(0.99), all.max()])
}

/// How far copying or deleting has gone through the records held; `None`: neither is going on.
fn moving_ppm(shared: &Shared) -> Option<u64> {
    if shared.moving.load(Ordering::Relaxed) == 0 {
        return None;
    }
    // A shard holds keys of the whole ring, so a position tells how much of it lies behind.
    let behind: u128 = shared.progress.iter().map(|p| u128::from(p.position.load(Ordering::Relaxed))).sum();
    Some(((behind / shared.progress.len().max(1) as u128).saturating_mul(1_000_000) >> 64) as u64)
}

/// For how long copying or deleting has been going on; `None`: neither is.
fn moving_micros(shared: &Shared) -> Option<u64> {
    if shared.moving.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let began = shared.progress.iter().map(|p| p.began_micros.load(Ordering::Relaxed)).min()?;
    Some(boot_micros().saturating_sub(began))
}

/// How many of a million keys this server coordinates, and holds.
fn shares(view: &View) -> (u64, u64) {
    let Some(me) = view.me else { return (0, 0) };
    let (mut coordinated, mut held) = (0u128, 0u128);
    let ends = view.route.ends();
    let mut previous = ends.last().copied().unwrap_or_default();
    for end in ends {
        // The first arc begins at the last end, and wraps.
        let length = u128::from(end.wrapping_sub(previous));
        previous = *end;
        let group = view.route.group(*end);
        coordinated += if group.coordinator() == Some(me) { length } else { 0 };
        held += if group.members().contains(&me) { length } else { 0 };
    }
    let ppm = |length: u128| ((length * 1_000_000) >> 64) as u64;
    (ppm(coordinated), ppm(held))
}

/// Memory of this process that is in RAM, as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf has no preconditions.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::logic::epoch::{Epoch, Phase, ServerEntry};
    use crate::logic::ring::{HashSpace, Node};

    fn view(servers: u8, me: u8) -> View {
        let address = |n: u8| Address::new(([10, 0, 0, n], 19800).into());
        let nodes: Vec<Node> = (0..servers).map(|n| Node::new(address(n), true)).collect();
        let entry = |n: u8| ServerEntry::new(address(n), u64::from(n) + 1, 8, 1);
        let space = HashSpace { nodes, timestamp: ClockTime(5) };
        let servers = (0..servers).map(entry).collect();
        let (whs, rhs) = (space.clone(), space);
        let epoch = Epoch {
            number: 1,
            cluster: 9,
            managers: vec![],
            servers,
            whs,
            rhs,
            flushed: 0,
            flush_at: None,
            phase: Phase::Idle,
            pace: crate::logic::epoch::Pace::default(),
        };
        View::new(epoch, address(me), 8)
    }

    #[test]
    fn shares_of_all_servers_are_the_whole_ring_and_three_copies_of_it() {
        let all: Vec<_> = (0..5).map(|me| shares(&view(5, me))).collect();
        let coordinated: u64 = all.iter().map(|s| s.0).sum();
        let held: u64 = all.iter().map(|s| s.1).sum();
        assert!((999_990..=1_000_000).contains(&coordinated), "{all:?}");
        assert!((2_999_980..=3_000_000).contains(&held), "{all:?}");
        assert_eq!(shares(&view(3, 7)), (0, 0), "not in it");
    }

    #[test]
    fn this_process_is_in_memory() {
        assert!(resident_bytes().unwrap() > 100_000);
    }

    #[test]
    fn quantiles_are_of_all_workers_together() {
        let mut one = Histogram::<u64>::new_with_bounds(1, 1000, 2).unwrap();
        assert_eq!(quantiles([&one, &one].into_iter()), None);
        one.record_n(10, 99).unwrap();
        let mut other = one.clone();
        other.reset();
        other.record(500).unwrap();
        assert_eq!(quantiles([&one, &other].into_iter()).map(|q| (q[0], q[1], q[2] >= 500)), Some((10, 10, true)));
    }
}
