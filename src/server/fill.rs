//! Being filled: a server that comes back with an old database takes the group as the truth, whatever the stamps.
//!
//! Source: doc/guarantees.md, "Deletion marks". Its records may have been deleted meanwhile, and the marks collected; they
//! may come from a clock that was ahead, or from another cluster's backup. So each record stamped before the epoch that
//! admitted this life has to be *confirmed*: sent by a full server, as a copy or as a write that was still pending. What
//! is sent takes the place of what was here, and what no full server sent is dropped before this server says that it
//! has all. Records of that epoch or later came as live writes, and are not in doubt.
//!
//! Invariant: a server that becomes full holds no record from before its life that a full server did not send.
//!
//! Memory: a hash for each record confirmed, some 16 bytes, until the server is full.

use super::copy::drop_in_slices;
use super::shared::View;
use super::worker::{State, Worker};
use crate::logic::rule::{Rule, on};
use crate::store::{Record, Shard, StoreError};
use std::collections::HashSet;
use std::rc::Rc;
use tokio::sync::oneshot;

/// What a worker that is being filled knows.
pub struct Fill {
    /// The epoch that admitted this life: records stamped before it are in doubt.
    epoch: u64,
    /// The ring positions of records from before that epoch that full servers have sent.
    confirmed: HashSet<u64>,
}

impl Fill {
    /// Whether what is stored at a ring position, stamped in `epoch`, may be what no other server has.
    fn doubts(&self, hash: u64, epoch: u64) -> bool {
        epoch < self.epoch && !self.confirmed.contains(&hash) && on(Rule::OneWayRefill)
    }
}

impl State {
    /// Begins to be filled with a life that is, and ends when it is full.
    pub(super) fn begin_or_end_fill(&mut self, begins: bool) {
        let filling = self.view.is_filling() && !self.view.is_version0();
        if !filling {
            self.fill = None;
        } else if begins {
            self.fill = Some(Fill { epoch: self.view.epoch.number, confirmed: HashSet::new() });
        }
    }

    /// Whether this server is one of those who fill the others with what is at a ring position.
    fn is_source(&self, hash: u64) -> bool {
        self.view.me.is_some_and(|me| self.range(hash).group.sources().contains(&me))
    }

    /// Stores a record of a full server unless a newer one is here that is not in doubt; true when it was stored.
    pub(super) fn put_sent(
        &mut self,
        shard: &mut dyn Shard,
        hash: u64,
        dbkey: &[u8],
        record: Record<'_>,
    ) -> Result<bool, StoreError> {
        let sourced_here = self.is_source(hash);
        let Some(fill) = self.fill.as_mut().filter(|_| !sourced_here) else { return shard.put_newer(dbkey, record) };
        let doubtful = match shard.get(dbkey) {
            Ok(Some(old)) => fill.doubts(hash, old.epoch),
            Ok(None) => false,
            Err(_) => true,
        };
        let stored = if doubtful { shard.put(dbkey, record).map(|()| true) } else { shard.put_newer(dbkey, record) }?;
        if record.epoch < fill.epoch {
            fill.confirmed.insert(hash);
        }
        Ok(stored)
    }
}

impl View {
    /// Whether this server is being filled: active in the write space alone.
    pub fn is_filling(&self) -> bool {
        let Some(me) = self.me.and_then(|me| self.epoch.servers.get(usize::from(me))) else { return false };
        self.epoch.whs.is_active(me.address) && !self.epoch.rhs.is_active(me.address)
    }
}

/// Starts to drop what no full server has sent, all of them having sent everything. `done` is told at the end.
pub(super) fn start_drop(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    drop_in_slices(worker, "old records that the others do not have", done, |state, hash, record| {
        !state.is_source(hash) && state.fill.as_ref().is_some_and(|fill| fill.doubts(hash, record.epoch))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_this_life_is_in_doubt_until_it_is_sent() {
        let mut fill = Fill { epoch: 5, confirmed: HashSet::new() };
        assert!(fill.doubts(1, 4));
        assert!(!fill.doubts(1, 5));
        fill.confirmed.insert(1);
        assert!(!fill.doubts(1, 4));
        assert!(fill.doubts(2, 4));
    }
}
