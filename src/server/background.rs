//! Background work on an event loop: in steps, between which the loop serves.
//!
//! Everything that moves, compares, drops or collects records waits here before each of its steps, in the order of asking.
//! How long a step is and when the next one may begin is decided by [`crate::logic::budget`].

use super::shared::Shared;
use crate::logic::budget::{Budget, Portion};
use crate::net::time::boot_micros;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The longest wait before another look at whether clients are served.
const LOOK: Duration = Duration::from_millis(5);

/// Work in portions, whose records cost about the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Looking for what is to be copied.
    Gather,
    /// Encoding what another server lacks.
    Encode,
    /// Storing what others have copied here.
    Apply,
    /// Comparing with another server.
    Compare,
    /// Dropping what moved away.
    Drop,
    /// Collecting marks and what has expired.
    Collect,
    /// Telling tools what is held.
    Check,
}

const KINDS: usize = Kind::Check as usize + 1;

/// What one event loop has for background work.
pub struct Background {
    shared: Arc<Shared>,
    /// Whose loop; `None`: the control plane's, which gives way to all workers.
    worker: Option<u16>,
    books: Mutex<(Budget, [Portion; KINDS])>,
}

impl Background {
    /// For the loop of a worker, or of the control plane.
    pub fn new(shared: Arc<Shared>, worker: Option<u16>) -> Background {
        Background { shared, worker, books: Mutex::default() }
    }

    /// Does one step when its time has come.
    pub(super) async fn step<T>(&self, work: impl FnOnce() -> T) -> T {
        self.measured(|_| (work(), None)).await
    }

    /// Does one step of a kind, which is told how many records it may look at.
    pub(super) async fn step_of<T>(&self, kind: Kind, work: impl FnOnce(usize) -> T) -> T {
        self.measured(|portions| (work(portions[kind as usize].records()), Some(kind))).await
    }

    async fn measured<T>(&self, work: impl FnOnce(&[Portion; KINDS]) -> (T, Option<Kind>)) -> T {
        // Whoever is ready has a turn between two steps, also when there is nothing to wait for.
        tokio::task::yield_now().await;
        let mut books = self.books.lock().await;
        let (budget, portions) = &mut *books;
        loop {
            let wait = budget.wait_micros(boot_micros(), self.shared.served_micros(self.worker));
            if wait == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_micros(wait).min(LOOK)).await;
        }
        let began = boot_micros();
        let (done, kind) = work(portions);
        let ended = boot_micros();
        budget.spent(began, ended);
        if let Some(kind) = kind {
            portions[kind as usize].took(ended.saturating_sub(began));
        }
        done
    }
}
