//! Mending: a damaged record is fetched from another member of its group, while the request for it waits.

use super::link::Call;
use super::worker::{State, Worker};
use crate::logic::record;
use crate::logic::rule::{Rule, on};
use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{Reader, write_array, write_raw};
use crate::proto::rpc::v1::method;
use crate::store::{Record, StoreError};
use std::rc::Rc;
use std::time::Duration;

/// How long after it was found pending a damaged record is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Worker {
    /// Fetches a damaged record from another member of its group.
    pub(super) fn mend(self: &Rc<Self>, state: &mut State, hash: u64, dbkey: &[u8]) {
        if state.links.mending.iter().any(|key| key == dbkey) {
            return;
        }
        // The others may have what was before a pending write, and that write will be acknowledged.
        if state.unstable_write(hash).is_some() && on(Rule::MendStableOnly) {
            state.links.mending.push(dbkey.to_vec());
            let (worker, dbkey) = (self.clone(), dbkey.to_vec());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(LOOK_AGAIN).await;
                let mut state = worker.state.borrow_mut();
                state.links.mending.retain(|key| *key != dbkey);
                state.unpark = true;
                worker.turn.wake();
            });
            return;
        }
        let group = state.range(hash).group;
        let links: Vec<usize> = state.links_for(&group, hash).collect();
        for place in links {
            let asked = state.links.get_mut(place).is_some_and(|link| {
                // A member that is being filled may not have it yet, and its nil would pass for the truth.
                group.sources().contains(&link.server)
                    && !link.is_version0()
                    && link.call(Call::Mend(dbkey.to_vec()), |out, id| {
                        write_request(out, id, method::FETCH);
                        write_array(out, 1);
                        write_raw(out, dbkey);
                    })
            });
            if asked {
                state.links.mending.push(dbkey.to_vec());
                return;
            }
        }
    }

    pub(super) fn mended(self: &Rc<Self>, dbkey: &[u8], result: Result<&[u8], u32>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.links.mending.retain(|key| key != dbkey);
        let Ok(result) = result else { return };
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut r = Reader::new(result);
        // A newer record that was stored meanwhile is not to be replaced by what another had before.
        let put = if r.take_nil() {
            if !matches!(shard.get(dbkey), Err(StoreError::Damaged { .. })) {
                state.unpark = true;
                return self.turn.wake();
            }
            // The other has none. A mark in the place of what was damaged says the same.
            let version = state.clock.tick(state.now_secs);
            let epoch = state.view.epoch.number;
            shard.put(dbkey, Record { epoch, dbval: &version.0.to_be_bytes() })
        } else {
            match r.array_of(2).and_then(|()| Ok((r.u64()?, r.raw()?))) {
                Ok((epoch, dbval)) if record::parse(dbval).is_some() => {
                    shard.put_newer(dbkey, Record { epoch, dbval }).map(drop)
                }
                _ => return,
            }
        };
        match put {
            Ok(()) => tracing::warn!("a damaged record was mended from a replica"),
            Err(e) => tracing::error!("cannot mend a damaged record: {e}"),
        }
        (state.unpark, state.is_staged) = (true, true);
        self.turn.wake();
    }
}
