//! kumo-manager: knows who belongs to a cluster. See [`kumofs::manager`].

use kumofs::daemon::options::ManagerOptions;
use kumofs::daemon::{Host, run, sockets};
use kumofs::manager::{self, Config, Recorder};
use kumofs::net::{cores, time::unix_secs};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(manage)
}

fn manage(options: ManagerOptions, host: &mut Host<'_>) -> Result<(), String> {
    let (listener, address) = sockets::node(&options.listen)?;
    let mut listeners = vec![listener];
    if let Some(port) = options.control {
        listeners.push(sockets::beside(address, port)?.0);
    }
    let partners = sockets::others(&options.partner, Some(address))?;
    let dice = || getrandom::u64().map_err(|e| format!("the system gives no random numbers: {e}"));
    let binary_log = host.binary_log();
    let config = Config {
        partners,
        auto_replace: options.auto_replace,
        replace_delay: options.replace_delay,
        keepalive_interval: options.common.keepalive_interval,
        connect_timeout: options.common.connect_timeout,
        connect_retry_limit: options.common.connect_retry_limit,
        state: Some(options.state_file(address)),
        settings: host.settings(),
        recorder: Recorder::new(move |happened| binary_log.log(happened)),
        ..Config::new(address, [dice()?, dice()?, dice()?], unix_secs)
    };
    let event_loop = cores::event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?;
    event_loop.block_on(async {
        let listeners = listeners.into_iter().map(sockets::into_tokio).collect::<Result<_, _>>()?;
        host.listening()?;
        manager::run(config, listeners, host.stop()).await.map_err(|e| e.to_string())
    })
}
