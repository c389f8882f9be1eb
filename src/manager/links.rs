//! The connections of a manager, and what each kind of peer is told when an epoch comes into force.

use super::state::{ConnId, State};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::net::rpc::{Peer, RpcConn};
use crate::proto::rpc::msgpack::{write_array, write_bool, write_raw, write_uint};
use crate::proto::rpc::{v0, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a connection leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkKind {
    /// Not known yet.
    New,
    /// A server.
    Server,
    /// Another manager of the cluster.
    Partner,
    /// A second connection to one, or one that took no part any more; about to close.
    Spare,
    /// A tool, or a gateway that has not asked for anything yet.
    Client,
    /// A kumofs 0.4 gateway, which wants to hear of changes.
    OldGateway,
    /// One of our gateways, likewise.
    Gateway,
}

/// A connection.
pub(super) struct Link {
    /// The connection itself.
    pub(super) conn: RpcConn,
    /// What it leads to.
    pub(super) kind: LinkKind,
    /// Whether this manager opened it.
    dialled: bool,
    /// The phase that a kumofs 0.4 server was last told to carry out.
    driven: Phase,
}

impl Link {
    pub(super) fn new(conn: RpcConn, dialled: bool) -> Link {
        Link { conn, kind: LinkKind::New, dialled, driven: Phase::Idle }
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<ConnId, Link>,
    last_id: ConnId,
    /// Partners that have shown that they are kumofs 0.4 managers.
    pub(super) old_partners: BTreeSet<Address>,
}

impl Links {
    pub(super) fn reserve(&mut self) -> ConnId {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn add(&mut self, id: ConnId, link: Link) {
        self.links.insert(id, link);
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Link> {
        self.links.remove(&id)
    }

    pub(super) fn kind(&self, id: ConnId) -> LinkKind {
        self.links.get(&id).map_or(LinkKind::New, |l| l.kind)
    }

    /// The node at the other end.
    pub(super) fn address(&self, id: ConnId) -> Option<Address> {
        self.links.get(&id).and_then(Link::peer_address)
    }

    pub(super) fn set_kind(&mut self, id: ConnId, kind: LinkKind) {
        if let Some(link) = self.links.get_mut(&id) {
            link.kind = kind;
        }
    }

    /// Closes a connection to a partner that another one takes the place of.
    pub(super) fn retire(&mut self, id: ConnId) {
        self.set_kind(id, LinkKind::Spare);
        self.close(id);
    }

    pub(super) fn close(&self, id: ConnId) {
        if let Some(link) = self.links.get(&id) {
            link.conn.close();
        }
    }

    pub(super) fn hang_up(&self, id: ConnId) {
        if let Some(link) = self.links.get(&id) {
            link.conn.hang_up();
        }
    }

    pub(super) fn close_all(&self) {
        self.links.values().for_each(|link| link.conn.close());
    }

    pub(super) fn all(&self) -> Vec<ConnId> {
        self.links.keys().copied().collect()
    }

    /// The connection to a partner, and whether this manager opened it.
    pub(super) fn partner(&self, address: Address) -> Option<(ConnId, bool)> {
        let found = self.links.iter().find(|(_, l)| l.kind == LinkKind::Partner && l.leads_to(address));
        found.map(|(id, l)| (*id, l.dialled))
    }

    /// The connections to all partners.
    pub(super) fn partners(&self) -> impl Iterator<Item = &RpcConn> {
        self.links.values().filter(|l| l.kind == LinkKind::Partner).map(|l| &l.conn)
    }

    /// The connection to a server or partner.
    pub(super) fn node(&self, address: Address) -> Option<(ConnId, RpcConn)> {
        let is_node = |l: &Link| matches!(l.kind, LinkKind::Server | LinkKind::Partner) && l.leads_to(address);
        self.links.iter().find(|(_, l)| is_node(l)).map(|(id, l)| (*id, l.conn.clone()))
    }

    /// Servers and partners.
    pub(super) fn nodes(&self) -> Vec<(ConnId, RpcConn, LinkKind)> {
        let nodes = self.links.iter().filter(|(_, l)| matches!(l.kind, LinkKind::Server | LinkKind::Partner));
        nodes.map(|(id, l)| (*id, l.conn.clone(), l.kind)).collect()
    }

    /// Where a gateway of kumofs 0.4 is connected from.
    pub(super) fn old_gateway(&self) -> Option<SocketAddr> {
        self.links.values().find(|l| l.kind == LinkKind::OldGateway).and_then(|l| l.conn.remote())
    }

    /// Where a connection comes from, for messages.
    pub(super) fn remote(&self, id: ConnId) -> String {
        let remote = self.links.get(&id).and_then(|l| l.conn.remote());
        remote.map_or("somebody".to_owned(), |remote| remote.to_string())
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &RpcConn> {
        self.links.values().filter(|l| l.kind == LinkKind::Server).map(|l| &l.conn)
    }

    pub(super) fn hint_partners(&self, address: Address) {
        for partner in self.partners() {
            partner.notify(v1::method::LOST, |out| {
                write_array(out, 2);
                v0::write_address(out, address);
                write_uint(out, 0);
            });
        }
    }

    /// Tells some of them the epoch in force.
    pub(super) fn tell(&mut self, ids: &[ConnId], state: &State) {
        let epoch = state.epoch();
        if epoch.number == 0 {
            return;
        }
        let encoded = epoch.encode();
        let push = |conn: &RpcConn| {
            conn.notify(v1::method::EPOCH_PUSH, |out| {
                write_array(out, 1);
                write_raw(out, &encoded);
            });
        };
        for id in ids {
            let Some(link) = self.links.get_mut(id) else { continue };
            match link.kind {
                LinkKind::Server if state.is_old(*id) => link.drive(epoch, state.counter()),
                LinkKind::Server if state.follows_epochs(*id) => push(&link.conn),
                LinkKind::Partner if link.peer_address().is_some_and(|a| state.is_old_partner(a)) => {
                    sync_spaces(&link.conn, epoch, state.counter())
                }
                LinkKind::Partner | LinkKind::Gateway => push(&link.conn),
                // What it knows would lead it to servers that refuse it; it is told nothing more.
                LinkKind::OldGateway if epoch.is_weighted() => {}
                LinkKind::OldGateway => link.conn.notify(v0::method::HASH_SPACE_PUSH, |out| {
                    write_array(out, 2);
                    v0::write_seed(out, &epoch.whs);
                    v0::write_seed(out, &epoch.rhs);
                }),
                LinkKind::Server | LinkKind::New | LinkKind::Spare | LinkKind::Client => {}
            }
        }
    }
}

impl Link {
    /// The node at the other end.
    pub(super) fn peer_address(&self) -> Option<Address> {
        match self.conn.peer() {
            Some(Peer::Node(address, _)) => Some(address),
            _ => None,
        }
    }

    fn leads_to(&self, address: Address) -> bool {
        self.peer_address() == Some(address)
    }

    /// A kumofs 0.4 server knows no epochs: it is sent the hash spaces, and each phase as it begins.
    fn drive(&mut self, epoch: &Epoch, counter: u32) {
        sync_spaces(&self.conn, epoch, counter);
        if epoch.phase == self.driven {
            return;
        }
        self.driven = epoch.phase;
        match epoch.phase {
            Phase::Idle => {}
            Phase::Copying { full, .. } => self.conn.notify(v0::method::REPLACE_COPY_START, |out| {
                write_array(out, if full { 3 } else { 2 });
                v0::write_seed(out, &epoch.whs);
                write_uint(out, u64::from(counter));
                if full {
                    write_bool(out, true);
                }
            }),
            Phase::Deleting { .. } => self.conn.notify(v0::method::REPLACE_DELETE_START, |out| {
                write_array(out, 2);
                v0::write_seed(out, &epoch.whs);
                write_uint(out, u64::from(counter));
            }),
        }
    }
}

fn sync_spaces(conn: &RpcConn, epoch: &Epoch, counter: u32) {
    conn.notify(v0::method::HASH_SPACE_SYNC, |out| {
        write_array(out, 3);
        v0::write_seed(out, &epoch.whs);
        v0::write_seed(out, &epoch.rhs);
        write_uint(out, u64::from(counter));
    });
}
