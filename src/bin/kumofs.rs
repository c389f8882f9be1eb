//! kumofs: a whole cluster in one process. See [`kumofs::allinone`].

use kumofs::allinone::{self, Config};
use kumofs::daemon::cmdline::{Ended, parse_process};
use kumofs::daemon::log;
use kumofs::daemon::options::KumofsOptions;
use kumofs::net::{cores, listen};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

fn main() -> ExitCode {
    match parse_process::<KumofsOptions>().and_then(|options| run(&options).map_err(Ended::Failed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => ended.report("kumofs"),
    }
}

fn run(options: &KumofsOptions) -> Result<(), String> {
    let _log = log::start(options.log.as_deref(), options.verbose, true)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config {
        data: options.data.clone(),
        servers: u16::try_from(options.servers).map_err(|_| "too many servers")?,
        threads: u16::try_from(options.workers(cores)).map_err(|_| "too many threads")?,
        max_value: usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?,
        sync: options.sync,
    };
    let event_loop = cores::event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?;
    event_loop.block_on(async {
        let mut addresses = Vec::new();
        for place in options.listen.addresses() {
            addresses.push(listen::resolve(&place.to_string(), place.port).map_err(|e| e.to_string())?.socket_addr());
        }
        let clients = listen::bind_all(&addresses).map_err(|e| format!("{e}; name another with --listen"))?;
        let served: Vec<String> =
            clients.iter().filter_map(|l| l.local_addr().ok()).map(|address| address.to_string()).collect();
        let (stop, stopped) = watch::channel(false);
        let mut interrupted = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let mut terminated = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        tokio::task::spawn_local(async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            let _ = stop.send(true);
        });
        let ready = || println!("memcached clients are served on {}", served.join(" and "));
        allinone::run(config, clients, stopped, ready).await
    })
}
