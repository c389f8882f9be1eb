//! Telling systemd, or whatever else started a daemon with NOTIFY_SOCKET, how it stands: ready, alive, stopping.
//!
//! The signs of life come from the event loop of the control plane, so that a daemon which hangs is started anew
//! (`WatchdogSec=` in its unit). Without that variable nothing of this happens.

use sd_notify::NotifyState::{self, Ready, Stopping, Watchdog};
use std::time::Duration;

/// Tells that the daemon listens, and from then on that it lives. Within the event loop that is to be alive.
pub fn listening() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(Ready);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::task::spawn_local(live(limit));
    }
}

/// Tells that the daemon was asked to end.
pub fn stopping() {
    tell(Stopping);
}

/// Goes on while the daemon ends: an end that hangs is to be noticed as well.
async fn live(limit: Duration) {
    // Twice as often as is asked for, as systemd advises.
    let every = (limit / 2).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(every).await;
        tell(Watchdog);
    }
}

/// A supervisor that cannot be told does what it does with those who say nothing.
fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell NOTIFY_SOCKET: {e}");
    }
}
