//! A server and a gateway in one process (`kumo-server -t`).
//!
//! The gateway's workers run on the server's threads, and reach the server's workers by pipes ([`crate::net::pipe`])
//! where other gateways would open sockets. That is all that they have in common: what is asked and answered, and what is
//! done when servers come and go, is the same as with a gateway elsewhere.

use crate::gateway;
use crate::net::cores::Cores;
use crate::net::front::Front;
use crate::net::pipe::Doors;
use crate::net::sock::TcpListener;
use crate::server;
use crate::store::Store;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;

/// What clients are served with, and where.
pub struct Serving {
    /// As for a gateway of its own.
    pub config: gateway::Config,
    /// Bound.
    pub clients: Vec<Front>,
}

/// As [`server::run()`], with a gateway beside it that stops first, while what it needs is there.
///
/// # Errors
/// One line that says what to do.
pub async fn run(
    mut config: server::Config,
    store: Arc<dyn Store>,
    (listener, stream_listener): (TcpListener, TcpListener),
    serving: Serving,
    cores: Arc<Cores>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), String> {
    let Serving { config: mut gateway, clients } = serving;
    let doors = Arc::new(Doors::default());
    (config.doors, gateway.doors) = (doors.clone(), doors);
    let (stop_server, server_stop) = watch::channel(false);
    let mut server = pin!(server::run(config, store, listener, stream_listener, cores.clone(), server_stop));
    let served = tokio::select! {
        ended = &mut server => return ended,
        served = gateway::run(gateway, clients, cores, shutdown) => served.map_err(|e| format!("the gateway: {e}")),
    };
    let _ = stop_server.send(true);
    server.await.and(served)
}
