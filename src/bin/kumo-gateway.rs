//! kumo-gateway: serves memcached clients from a cluster. See [`kumofs::gateway`].

use kumofs::daemon::options::GatewayOptions;
use kumofs::daemon::{Host, cores, run, sockets};
use kumofs::gateway::{self, Config};
use kumofs::net::awake;
use kumofs::net::cores::{Cores, event_loop};
use kumofs::proto::binlog::Happened;
use kumofs::proto::memcache::Limits;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    run(serve)
}

fn serve(options: GatewayOptions, host: &mut Host<'_>) -> Result<(), String> {
    let listeners = sockets::clients(&options.listeners(), options.serving.unix_mode, options.share_port)?;
    let managers = sockets::others(&options.managers(), None)?;
    let happened = Happened::GatewayStart { manager1: managers[0], manager2: managers.get(1).copied() };
    host.binary_log().log(&happened);
    let value_bytes = usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?;
    let config = Config {
        managers,
        limits: Limits { value_bytes, ..Limits::default() },
        get_retry: options.get_retry,
        set_retry: options.set_retry,
        delete_retry: options.delete_retry,
        renew_threshold: options.renew_threshold,
        key_prefix: options.key_prefix.into_bytes(),
        connect_timeout: options.common.connect_timeout,
        binary_log: host.binary_log(),
        ..Config::serving(&options.serving)
    };
    let workers = options.common.workers(cores());
    let cores = Arc::new(Cores::start(workers).map_err(|e| format!("cannot start threads: {e}"))?);
    event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?.block_on(async {
        let names = sockets::names(&listeners);
        let fronts = sockets::fronts(listeners)?;
        host.listening()?;
        options.wake_latency.into_iter().for_each(awake::start);
        tracing::info!("start gateway for memcached clients on {names}");
        gateway::run(config, fronts, cores, host.stop()).await.map_err(|e| format!("the gateway: {e}"))
    })
}
