//! Before an orderly change of epochs: what others coordinate in the next one is begun no more, and what is under way of it
//! is finished, so that their clients lose no answer.
//!
//! New changes of such keys wait until the next epoch is told, or for [`YIELD_MICROS`] if it is not; then they are refused
//! or executed, like any others. Nothing but the number of answers that are asked for again depends on it.

use super::shared::View;
use super::worker::{State, Worker};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How long changes wait for the next epoch: longer than managers wait until they tell it.
const YIELD_MICROS: u64 = 400_000;

/// Waiting for the next epoch.
pub struct Yielding {
    /// The next epoch.
    view: Arc<View>,
    until_micros: u64,
    /// Told when nothing is under way any more.
    done: Option<oneshot::Sender<()>>,
}

impl Yielding {
    /// Whether the key at a ring position is another's in the next epoch.
    fn gives(&self, hash: u64) -> bool {
        self.view.me.is_none() || self.view.route.group(hash).coordinator() != self.view.me
    }
}

impl State {
    /// Whether changes of a key have to wait for the next epoch.
    #[inline]
    pub(super) fn yields(&self, hash: u64) -> bool {
        self.yielding.as_ref().is_some_and(|yielding| yielding.gives(hash))
    }

    /// Tells when nothing is under way of what others are to have; goes on when the next epoch does not come.
    pub(super) fn advance_yielding(&mut self) {
        let Some(yielding) = &mut self.yielding else { return };
        if yielding.done.is_some() && !self.pending.any(|hash| yielding.gives(hash)) {
            // The manager may have given up.
            let _ = yielding.done.take().map(|done| done.send(()));
        }
        if self.now_micros >= yielding.until_micros {
            self.yielding = None;
            self.unpark = true;
        }
    }
}

impl Worker {
    /// Gets ready for the epoch of `view`, if it is newer.
    pub(super) fn start_yielding(self: &Rc<Self>, view: Arc<View>, done: oneshot::Sender<()>) {
        let mut state = self.state.borrow_mut();
        if view.epoch.number <= state.view.epoch.number || state.has_left {
            return;
        }
        state.set_time();
        let until_micros = state.now_micros + YIELD_MICROS;
        state.yielding = Some(Yielding { view, until_micros, done: Some(done) });
        self.turn.wake();
    }
}
