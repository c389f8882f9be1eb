//! kumo-server: stores records. See [`kumofs::server`]; with `-t` it is a gateway, too: [`kumofs::combined`].

use kumofs::combined::{self, Serving};
use kumofs::daemon::options::ServerOptions;
use kumofs::daemon::{Host, cores, run, sockets};
use kumofs::gateway;
use kumofs::logic::memory;
use kumofs::net::awake;
use kumofs::net::cores::{Cores, event_loop};
use kumofs::proto::binlog::Happened;
use kumofs::proto::memcache;
use kumofs::server::{self, Config};
use kumofs::store::open::open;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    run(serve)
}

fn serve(options: ServerOptions, host: &mut Host<'_>) -> Result<(), String> {
    let (listener, address) = sockets::node(&options.listen)?;
    let (stream_listener, stream) = sockets::beside(address, options.stream_listen)?;
    let clients = sockets::clients(&options.serving.listeners(), options.serving.unix_mode, false)?;
    let managers = sockets::others(&options.managers(), Some(address))?;
    let workers = u16::try_from(options.common.workers(cores())).map_err(|_| "too many threads; choose fewer")?;
    let spec = &options.store;
    let store = open(spec.engine, &spec.dir, workers, options.sync, spec.cache_bytes).map_err(|e| e.to_string())?;
    host.binary_log().log(&Happened::ServerStart {
        addr: address,
        db: spec.dir.as_os_str().as_bytes(),
        manager1: managers[0],
        manager2: managers.get(1).copied(),
        stream,
        tmp_dir: b"",
        backup_prefix: &[spec.dir.as_os_str().as_bytes(), b"-"].concat(),
    });
    let value_bytes = usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?;
    let gateway = gateway::Config {
        managers: managers.clone(),
        limits: memcache::Limits { value_bytes, ..memcache::Limits::default() },
        connect_timeout: options.common.connect_timeout,
        binary_log: host.binary_log(),
        ..gateway::Config::serving(&options.serving)
    };
    let config = Config {
        address,
        stream,
        managers,
        workers,
        max_value: value_bytes,
        keepalive: options.common.keepalive_interval,
        connect_timeout: options.common.connect_timeout,
        garbage_min: options.garbage_min(),
        garbage_max: options.garbage_max_time,
        garbage_memory: options.garbage_mem_limit as usize * 1024,
        backup: spec.dir.clone(),
        doors: Arc::default(),
        settings: host.settings(),
        memory: memory::Limits::SERVER,
        version_block: server::Config::default().version_block,
    };
    // Beside an application, as gateways are, a thread wants its core at once.
    let start = if clients.is_empty() { Cores::start_courteous } else { Cores::start };
    let cores = Arc::new(start(usize::from(workers)).map_err(|e| format!("cannot start threads: {e}"))?);
    event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?.block_on(async {
        let (listener, stream_listener) = (sockets::into_tokio(listener)?, sockets::into_tokio(stream_listener)?);
        let names = sockets::names(&clients);
        let clients = sockets::fronts(clients)?;
        host.listening()?;
        options.wake_latency.into_iter().for_each(awake::start);
        tracing::info!("start server {address}");
        if clients.is_empty() {
            return server::run(config, store, listener, stream_listener, cores, host.stop()).await;
        }
        tracing::info!("start gateway for memcached clients on {names}");
        let serving = Serving { config: gateway, clients };
        combined::run(config, store, (listener, stream_listener), serving, cores, host.stop()).await
    })
}
