//! A server that hears of an epoch which it was not told: it asks for it, the managers first, and then the other servers.

use super::{Control, PATIENCE};
use crate::logic::address::Address;
use crate::net::rpc::{Handler, Limits, RpcConn};
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::v1::method;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a manager may take to answer before others are asked: one that is out of reach takes for ever.
const MANAGERS_PATIENCE: Duration = Duration::from_millis(100);
/// How long managers are not asked again for an epoch that others name.
const MANAGERS_PAUSE: Duration = Duration::from_millis(5);
/// How long servers are not asked again for an epoch that no manager tells.
const SERVERS_PAUSE: Duration = Duration::from_millis(100);

impl Control {
    /// Asks for epochs that others seem to know, whenever that is noticed.
    pub(super) async fn catch_up(self: Rc<Self>) {
        loop {
            self.shared.behind.notified().await;
            // Whoever is ahead may act by what was only kept here so far.
            self.act_on_kept(0);
            let known = self.shared.view().epoch.number;
            let managers: Vec<RpcConn> = self.managers.borrow().iter().filter(|m| m.2).map(|m| m.1.clone()).collect();
            for conn in managers {
                if !self.ask_for_epoch(&conn, known, MANAGERS_PATIENCE).await {
                    conn.hang_up();
                }
            }
            let pause = match self.shared.view().epoch.number > known {
                true => MANAGERS_PAUSE,
                false => {
                    self.ask_servers(known).await;
                    SERVERS_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks the other servers for an epoch above `known`: what is decided is a fact, whoever tells it, and managers may be out
    /// of reach.
    async fn ask_servers(self: &Rc<Self>, known: u64) {
        let (view, own) = (self.shared.view(), self.shared.config.address);
        let others =
            view.epoch.servers.iter().filter(|s| s.removed.is_none() && s.incarnation != 0 && s.address != own);
        let mut asked = JoinSet::new();
        for server in others {
            asked.spawn_local(self.clone().ask_server(server.address, known));
        }
        while asked.join_next().await.is_some() {
            if self.shared.view().epoch.number > known {
                return;
            }
        }
    }

    async fn ask_server(self: Rc<Self>, server: Address, known: u64) {
        let (to, timeout) = (server.socket_addr(), self.shared.config.connect_timeout);
        let nothing: Handler = Rc::new(|_, _| {});
        let Ok(conn) = RpcConn::connect_client(to, timeout, Limits::default(), nothing).await else { return };
        if !self.ask_for_epoch(&conn, known, PATIENCE).await {
            tracing::warn!("server {server} told an epoch of another cluster");
        }
        conn.close();
    }

    /// Asks a node for an epoch above `known`, and acts by it. False: it told one that cannot be taken.
    async fn ask_for_epoch(self: &Rc<Self>, conn: &RpcConn, known: u64, patience: Duration) -> bool {
        let ask = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_uint(out, known);
        };
        let Ok(result) = conn.call(method::GET_EPOCH, ask, patience).await else { return true };
        Reader::new(&result).raw().map_or(true, |bytes| self.take_epoch(bytes).is_ok())
    }
}
