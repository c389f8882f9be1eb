//! Signals: SIGINT and SIGTERM end a daemon in order, SIGHUP reopens its logs.
//!
//! They are received by a thread of their own, so that a busy worker delays none. SIGPIPE is ignored: the standard
//! library sees to that in every Rust program.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Starts to receive signals. The receiver turns true at the first SIGINT or SIGTERM; a second one ends the process at
/// once, with status 1. `on_hangup` is called at each SIGHUP.
pub fn start(on_hangup: impl Fn() + Send + 'static) -> io::Result<watch::Receiver<bool>> {
    let (stop, stopping) = watch::channel(false);
    let (started, result) = channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || receive(&stop, &on_hangup, &started))?;
    result.recv().map_err(|_| io::Error::other("the thread for signals ended"))?.map(|()| stopping)
}

fn receive(stop: &watch::Sender<bool>, on_hangup: &impl Fn(), started: &Sender<io::Result<()>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(e) => return report(started, Err(e)),
    };
    runtime.block_on(async {
        match register() {
            Ok(signals) => {
                report(started, Ok(()));
                signals.serve(stop, on_hangup).await;
            }
            Err(e) => report(started, Err(e)),
        }
    });
}

fn report(started: &Sender<io::Result<()>>, result: io::Result<()>) {
    started.send(result).expect("start waits for the result");
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

fn register() -> io::Result<Signals> {
    Ok(Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hangup: signal(SignalKind::hangup())?,
    })
}

impl Signals {
    async fn serve(mut self, stop: &watch::Sender<bool>, on_hangup: &impl Fn()) {
        loop {
            let name = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.hangup.recv() => {
                    on_hangup();
                    continue;
                }
            };
            if *stop.borrow() {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(1);
            }
            // Before the end that it brings about is logged.
            tracing::info!("{name}: stopping");
            super::supervisor::stopping();
            stop.send_replace(true);
        }
    }
}
