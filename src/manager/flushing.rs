//! When a flush is answered: once nobody can tell any more what was there before it.
//!
//! A server that has not heard of the flush may still coordinate by an earlier epoch, and be asked by a gateway that has
//! not heard of it either. What it tells rests on leases from all other members of the range. So it falls silent when one
//! who is full now has adopted the flush, and the leases that this one granted before have run out: whoever is full now
//! was a member for everybody who can still coordinate. A server that holds a range alone needs no leases, and goes on
//! for as long as it has not heard of the flush, also when an epoch has taken it for dead: it has to be heard.

use super::run::Manager;
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::route::{Group, Route};
use crate::logic::rule::{Rule, on};
use crate::net::rpc::Peer;
use crate::proto::rpc::msgpack::{Reader, write_array, write_raw};
use crate::proto::rpc::v1::method;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Longer than any lease lasts ([`crate::logic::lease`]).
const LEASES_RUN_OUT: Duration = Duration::from_millis(300);
/// How long servers have to hear of it: less than a partner that passed the command on waits for its answer.
const PATIENCE: Duration = Duration::from_millis(3_000);
/// Between two times that those are told who have not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until no server can tell what was there before the last flush. False: that takes too long.
pub(super) async fn is_everywhere(manager: &Rc<Manager>) -> bool {
    if !on(Rule::FlushHeard) {
        return true;
    }
    let flushed = manager.state.borrow().epoch().flushed;
    let until = Instant::now() + PATIENCE;
    let mut heard = BTreeSet::new();
    let mut route = (0, Route::default());
    loop {
        let epoch = manager.state.borrow().epoch().clone();
        tell(manager, &epoch, flushed, &mut heard).await;
        if route.0 != epoch.number {
            route = (epoch.number, Route::new(&epoch));
        }
        if is_past(&epoch, route.1.groups(), &heard) {
            if epoch.servers.iter().any(|server| !heard.contains(&server.address)) {
                sleep(LEASES_RUN_OUT).await;
            }
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(PAUSE).await;
    }
}

/// Tells the epoch to those of its servers that have not said yet that they act by the flush or something later.
async fn tell(manager: &Rc<Manager>, epoch: &Epoch, flushed: u64, heard: &mut BTreeSet<Address>) {
    let encoded = epoch.encode();
    let push = |out: &mut Vec<u8>| {
        write_array(out, 1);
        write_raw(out, &encoded);
    };
    let mut told = JoinSet::new();
    for conn in manager.links.borrow().servers() {
        let Some(Peer::Node(address, _)) = conn.peer() else { continue };
        if epoch.server(address).is_some() && !heard.contains(&address) {
            let call = conn.call(method::EPOCH_PUSH, push, LEASES_RUN_OUT);
            told.spawn_local(async move {
                let number = Reader::new(&call.await.ok()?).u64().ok()?;
                (number >= flushed).then_some(address)
            });
        }
    }
    while let Some(answer) = told.join_next().await {
        heard.extend(answer.ok().flatten());
    }
}

/// Whether all ranges are held by somebody who has heard of the flush. Those are addresses: a process that says so has
/// taken the place of all that were there before it.
fn is_past(epoch: &Epoch, groups: &[Group], heard: &BTreeSet<Address>) -> bool {
    let has_heard = |place: &u16| epoch.servers.get(usize::from(*place)).is_some_and(|s| heard.contains(&s.address));
    epoch.rhs.nodes.is_empty() || groups.iter().all(|group| group.full().iter().any(has_heard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::epoch::ServerEntry;
    use crate::logic::ring::{HashSpace, Node};

    fn address(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    /// Servers by number, and whether each is active.
    fn epoch(servers: &[(u8, bool)]) -> Epoch {
        let nodes = servers.iter().map(|(n, active)| Node::new(address(*n), *active)).collect();
        let space = HashSpace { nodes, ..HashSpace::default() };
        let entry = |(n, active): &(u8, bool)| ServerEntry {
            removed: if *active { None } else { Some(1) },
            claim: u64::from(!*active),
            ..ServerEntry::new(address(*n), u64::from(*n), u64::from(*n), 1)
        };
        let servers = servers.iter().map(entry).collect();
        Epoch { number: 9, flushed: 9, servers, whs: space.clone(), rhs: space, ..Epoch::default() }
    }

    fn past(servers: &[(u8, bool)], heard: &[u8]) -> bool {
        let epoch = epoch(servers);
        is_past(&epoch, Route::new(&epoch).groups(), &heard.iter().map(|n| address(*n)).collect())
    }

    #[test]
    fn one_who_has_heard_is_enough_for_a_range() {
        let three = [(1, true), (2, true), (3, true)];
        assert!(past(&three, &[1, 2, 3]) && past(&three, &[2]));
        assert!(!past(&three, &[]) && !past(&three, &[4]));
        let six: Vec<(u8, bool)> = (1..=6).map(|n| (n, true)).collect();
        assert!(!past(&six, &[1, 2]), "some ranges are held by others");
        assert!(past(&six, &[1, 2, 3, 4]));
    }

    /// A server that was alone went on answering what had been flushed, taken for dead by managers that it did not hear.
    #[test]
    fn who_holds_a_range_alone_has_to_be_heard_also_when_it_is_taken_for_dead() {
        assert!(!past(&[(1, true), (2, false), (3, false)], &[2, 3]));
        assert!(past(&[(1, true), (2, false), (3, false)], &[1]));
        assert!(!past(&[(1, false), (2, false), (3, false)], &[2, 3]));
        assert!(past(&[], &[]), "nobody holds anything");
    }
}
