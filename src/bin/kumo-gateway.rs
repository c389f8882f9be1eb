//! kumo-gateway: serves memcached clients from a cluster. See [`kumofs::gateway`].

use kumofs::daemon::options::GatewayOptions;
use kumofs::daemon::{Host, cores, run, sockets};
use kumofs::gateway::cache::Limits as CacheLimits;
use kumofs::gateway::{self, Config, Layout};
use kumofs::net::cores::{Cores, event_loop};
use kumofs::proto::binlog::Happened;
use kumofs::proto::memcache::Limits;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    run(serve)
}

fn serve(options: GatewayOptions, host: &mut Host<'_>) -> Result<(), String> {
    let listeners = sockets::clients(&options.listeners(), options.unix_mode, options.share_port)?;
    let managers = sockets::others(&options.managers(), None)?;
    let happened = Happened::GatewayStart { manager1: managers[0], manager2: managers.get(1).copied() };
    host.binary_log().log(&happened);
    let value_bytes = usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?;
    // More than there are addresses is as much as there are.
    let clamped = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let local_cache = options.local_cache.map_or(CacheLimits::OFF, |spec| CacheLimits {
        bytes: clamped(spec.bytes),
        least_value: clamped(spec.least_value),
    });
    let config = Config {
        managers,
        limits: Limits { value_bytes, ..Limits::default() },
        layout: Layout { flags: options.memproto_save_flag, expire: options.memproto_save_expire },
        get_retry: options.get_retry,
        set_retry: options.set_retry,
        delete_retry: options.delete_retry,
        renew_threshold: options.renew_threshold,
        async_set: options.async_replicate_set,
        async_delete: options.async_replicate_delete,
        local_cache,
        key_prefix: options.key_prefix.into_bytes(),
        connect_timeout: options.common.connect_timeout,
        binary_log: host.binary_log(),
        ..Config::default()
    };
    let workers = options.common.workers(cores());
    let cores = Arc::new(Cores::start(workers).map_err(|e| format!("cannot start threads: {e}"))?);
    event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?.block_on(async {
        let names = sockets::names(&listeners);
        let fronts = sockets::fronts(listeners)?;
        host.listening()?;
        tracing::info!("start gateway for memcached clients on {names}");
        gateway::run(config, fronts, cores, host.stop()).await.map_err(|e| format!("the gateway: {e}"))
    })
}
