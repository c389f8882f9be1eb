//! kumofs: a whole cluster in one process. See [`kumofs::allinone`].

use kumofs::allinone::{self, Config};
use kumofs::daemon::options::KumofsOptions;
use kumofs::daemon::{Host, cores, run, sockets, supervisor};
use kumofs::net::awake;
use kumofs::net::cores::event_loop;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    run(serve)
}

fn serve(options: KumofsOptions, host: &mut Host<'_>) -> Result<(), String> {
    let clients = sockets::clients(&options.listeners(), options.unix_mode, false)
        .map_err(|e| format!("{e}; --listen names another place"))?;
    let config = Config {
        servers: u16::try_from(options.servers).map_err(|_| "too many servers")?,
        threads: u16::try_from(options.workers(cores())).map_err(|_| "too many threads; choose fewer")?,
        max_value: usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?,
        data: options.data,
        sync: options.sync,
        settings: host.settings(),
    };
    let served = sockets::names(&clients);
    let ready = || {
        supervisor::listening();
        // Without a reader there is nobody to tell.
        let _ = writeln!(std::io::stdout(), "memcached clients are served on {served}");
    };
    let event_loop = event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?;
    event_loop.block_on(async {
        options.wake_latency.into_iter().for_each(awake::start);
        let clients = sockets::fronts(clients)?;
        allinone::run(config, clients, host.stop(), ready).await
    })
}
