//! Dropping records that are not this server's to hold: they moved away, or no full server has them.
//!
//! It goes through the shard in slices between which the worker serves.

use super::background::Kind;
use super::copy::RETRY;
use super::shared::{Progress, Shared, moving};
use super::worker::{State, Worker};
use crate::logic::epoch::Phase;
use crate::logic::record::{Stamp, dbkey_hash};
use crate::net::time::boot_micros;
use crate::store::{LARGE_BYTES, Record, StoreError};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Starts to drop what this worker holds and the epoch gives to others.
pub(super) fn start_drop(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    worker.begins_to_go_through();
    worker.shared.moving.fetch_or(moving::DELETING, Ordering::Relaxed);
    let moved_away = |state: &State, hash| {
        let Some(me) = state.view.me else { return false };
        let deleting = matches!(state.view.epoch.phase, Phase::Deleting { .. });
        deleting && !state.range(hash).group.members().contains(&me)
    };
    drop_in_slices(worker, "records that moved away", done, moved_away, |_, _, _| true);
}

/// Starts to go through the shard and to drop records: of those at ring positions where some `may_go`, those for which `goes`
/// says so, which may go by the stamp alone. What stays by its position is not read, and no large record from end to end. The store is
/// asked again when it fails. `done` is told at the end.
pub(super) fn drop_in_slices(
    worker: Rc<Worker>,
    what: &'static str,
    done: oneshot::Sender<()>,
    may_go: impl Fn(&State, u64) -> bool + 'static,
    goes: impl Fn(&State, u64, Record<'_>) -> bool + 'static,
) {
    tokio::task::spawn_local(async move {
        let (mut from, mut dropped) = (Some(0), 0);
        while let Some(position) = from {
            let drop_slice = |records| worker.drop_slice(position, records, &may_go, &goes);
            match worker.background.step_of(Kind::Drop, drop_slice).await {
                Ok((count, next)) => {
                    (dropped, from) = (dropped + count, next);
                    worker.went_through(next);
                }
                Err(e) => {
                    tracing::error!("cannot drop {what}: {e}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if dropped > 0 {
            tracing::info!("dropped {dropped} {what}");
        }
        // Whoever asked may have gone on to another epoch.
        let _ = done.send(());
    });
}

impl Worker {
    fn progress(&self) -> &Progress {
        &self.shared.progress[usize::from(self.number)]
    }

    /// Notes for tools that this worker begins to copy or delete.
    pub(super) fn begins_to_go_through(&self) {
        self.progress().began_micros.store(boot_micros(), Ordering::Relaxed);
        self.went_through(Some(0));
    }

    /// Notes for tools where on the ring this worker's copying or deleting goes on; `None`: it is at the end.
    pub(super) fn went_through(&self, next: Option<u64>) {
        self.progress().position.store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes for tools that it was told to do nothing for so long.
    pub(super) fn stood_still(&self, pause: Duration) {
        self.progress().began_micros.fetch_add(pause.as_micros() as u64, Ordering::Relaxed);
    }

    fn drop_slice(
        &self,
        from: u64,
        records: usize,
        may_go: impl Fn(&State, u64) -> bool,
        goes: impl Fn(&State, u64, Record<'_>) -> bool,
    ) -> Result<(u64, Option<u64>), StoreError> {
        let mut state = self.state.borrow_mut();
        let mut shard = self.shard().lock().expect("no holder of a shard panics");
        let mut gone: Vec<(Vec<u8>, Stamp)> = Vec::new();
        let wanted = |hash| may_go(&state, hash);
        let next = shard.survey(from, records, LARGE_BYTES, &wanted, &mut |dbkey, record| {
            // What is damaged is mended from the others, or found out not to be there, when it is asked for.
            let (Ok(record), Some(hash)) = (record, dbkey_hash(dbkey)) else { return };
            if goes(&state, hash, record) {
                gone.push((dbkey.to_vec(), record.stamp()));
            }
        })?;
        let mut dropped = 0;
        for (dbkey, stamp) in &gone {
            match shard.forget(dbkey, *stamp) {
                Ok(was_there) => dropped += u64::from(was_there),
                // Of a large one, that is seen only now.
                Err(StoreError::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        if dropped > 0 {
            // What was dropped is committed with the turn.
            state.is_staged = true;
            self.turn.wake();
        }
        Ok((dropped, next))
    }
}

/// The bits of GetStatus that tell how far a server is with moving records.
pub(super) fn clear(shared: &Shared, bit: u8) {
    shared.moving.fetch_and(!bit, Ordering::Relaxed);
}
