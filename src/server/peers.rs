//! Which other servers are connected, for the log: as with managers, each that comes and goes is a line.
//!
//! A server has a link for each pair of workers; it is there while one of them is up.

use super::shared::Shared;
use crate::logic::address::Address;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How many links to each server are up.
#[derive(Debug, Default)]
pub struct Peers(Mutex<BTreeMap<Address, usize>>);

impl Peers {
    /// One more is. True: it is the first.
    fn enter(&self, address: Address) -> bool {
        let mut links = self.0.lock().expect("no holder panics");
        let count = links.entry(address).or_default();
        *count += 1;
        *count == 1
    }

    /// One less is. True: it was the last.
    fn leave(&self, address: Address) -> bool {
        let mut links = self.0.lock().expect("no holder panics");
        let Some(count) = links.get_mut(&address) else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            links.remove(&address);
        }
        is_last
    }
}

/// A link that is up, for as long as this lives.
pub(super) struct Up {
    shared: Arc<Shared>,
    address: Address,
}

impl Up {
    pub(super) fn new(shared: &Arc<Shared>, address: Address) -> Up {
        if shared.peers.enter(address) {
            tracing::info!("new node 1 {address}");
        }
        Up { shared: shared.clone(), address }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.shared.peers.leave(self.address) {
            tracing::info!("lost node 1 {}", self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_there_while_one_of_its_links_is_up() {
        let peers = Peers::default();
        let [one, other] = [1, 2].map(|n| Address::new(([10, 0, 0, n], 19800).into()));
        assert!(peers.enter(one) && !peers.enter(one) && peers.enter(other));
        assert!(!peers.leave(one) && peers.leave(one) && peers.leave(other));
        assert!(peers.enter(one), "it is back");
        assert!(!peers.leave(other), "it was gone before");
    }
}
