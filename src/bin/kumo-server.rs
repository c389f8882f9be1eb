//! kumo-server: stores records. See [`kumofs::server`].

use kumofs::daemon::options::ServerOptions;
use kumofs::daemon::{Host, cores, run, sockets};
use kumofs::logic::memory::Limits;
use kumofs::net::cores::{Cores, event_loop};
use kumofs::proto::binlog::Happened;
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
    let config = Config {
        address,
        stream,
        managers,
        workers,
        max_value: usize::try_from(options.max_value.0).map_err(|_| "values cannot be so large here")?,
        keepalive: options.common.keepalive_interval,
        connect_timeout: options.common.connect_timeout,
        garbage_min: options.garbage_min(),
        garbage_max: options.garbage_max_time,
        garbage_memory: options.garbage_mem_limit as usize * 1024,
        backup: spec.dir.clone(),
        doors: Arc::default(),
        memory: Limits::SERVER,
    };
    let cores = Arc::new(Cores::start(usize::from(workers)).map_err(|e| format!("cannot start threads: {e}"))?);
    event_loop().map_err(|e| format!("cannot start an event loop: {e}"))?.block_on(async {
        let (listener, stream_listener) = (sockets::into_tokio(listener)?, sockets::into_tokio(stream_listener)?);
        host.listening()?;
        tracing::info!("start server {address}");
        server::run(config, store, listener, stream_listener, cores, host.stop()).await
    })
}
