//! From the addresses in options to listeners. Errors are one line that names the option's value and what to do.

use super::values::{HostPort, ListenOn, Mode};
use crate::logic::address::Address;
use crate::net::listen::{self, ListenError};
use crate::net::unix::{self, SocketFile};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

/// A listener, and the address at which other nodes reach it.
pub type Node = (TcpListener, Address);

/// Listens where other nodes reach this one. With port 0 the system chooses one.
pub fn node(at: &HostPort) -> Result<Node, String> {
    bind(resolve(at)?.socket_addr())
}

/// Listens on one more port of the host that a node listens on.
pub fn beside(node: Address, port: u16) -> Result<Node, String> {
    let mut at = node.socket_addr();
    at.set_port(port);
    bind(at)
}

/// A listener for clients that is in no event loop yet.
#[derive(Debug)]
pub enum Clients {
    /// A port.
    Tcp(TcpListener),
    /// A socket of the file system.
    Unix(SocketFile, UnixListener),
}

impl Clients {
    /// Where it is, for people.
    fn name(&self) -> Option<String> {
        match self {
            Clients::Tcp(listener) => listener.local_addr().ok().map(|a| a.to_string()),
            Clients::Unix(file, _) => Some(ListenOn::Unix(file.path().to_owned()).to_string()),
        }
    }
}

/// Listens for clients everywhere they are served. A host without IPv6 does without `::1`. To sockets of the file system those
/// may connect that `mode` says; ports may be `shared` with other processes that share them.
pub fn clients(places: &[ListenOn], mode: Mode, shared: bool) -> Result<Vec<Clients>, String> {
    let mut listeners = Vec::new();
    for place in places {
        let port = match place {
            ListenOn::Unix(path) => {
                let (file, listener) = unix::bind(path, mode.0).map_err(line)?;
                listeners.push(Clients::Unix(file, listener));
                continue;
            }
            ListenOn::Port(port) => *port,
            ListenOn::At(at) => at.port,
        };
        let addresses = listen::resolve_clients(&place.to_string(), port).map_err(line)?;
        listeners.extend(listen::bind_all(&addresses, shared).map_err(line)?.into_iter().map(Clients::Tcp));
    }
    Ok(listeners)
}

/// Hands listeners for clients to the event loop that this is called in.
#[cfg(not(feature = "sim"))]
pub fn fronts(listeners: Vec<Clients>) -> Result<Vec<crate::net::front::Front>, String> {
    use crate::net::front::Front;
    let front = |listener| match listener {
        Clients::Tcp(listener) => into_tokio(listener).map(Front::Tcp),
        Clients::Unix(file, listener) => {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| format!("cannot listen: {e}"))?;
            Ok(Front::Unix(file, listener))
        }
    };
    listeners.into_iter().map(front).collect()
}

/// Where other nodes are. Two names of one node are an error, as is a name of this node itself.
pub fn others(nodes: &[HostPort], own: Option<Address>) -> Result<Vec<Address>, String> {
    let mut found: Vec<Address> = Vec::new();
    for node in nodes {
        let address = resolve(node)?;
        if found.contains(&address) || own == Some(address) {
            return Err(format!("{node} is {address}, which is named already or is this node; name another or none"));
        }
        found.push(address);
    }
    Ok(found)
}

/// The addresses of listeners, for people.
pub fn names(listeners: &[Clients]) -> String {
    listeners.iter().filter_map(Clients::name).collect::<Vec<_>>().join(" and ")
}

/// Hands a listener to the event loop that this is called in.
pub fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, String> {
    tokio::net::TcpListener::from_std(listener).map_err(|e| format!("cannot listen: {e}"))
}

fn resolve(at: &HostPort) -> Result<Address, String> {
    listen::resolve(&at.to_string(), at.port).map_err(line)
}

fn bind(at: SocketAddr) -> Result<Node, String> {
    let listener = listen::bind(at).map_err(line)?;
    let bound = listener.local_addr().map_err(|e| format!("cannot listen on {at}: {e}"))?;
    Ok((listener, Address::new(bound)))
}

fn line(error: ListenError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> HostPort {
        HostPort::parse(text, 0).unwrap()
    }

    #[test]
    fn a_node_and_one_more_port_of_its_host_are_listened_on() {
        let (_listener, address) = node(&at("127.0.0.2")).unwrap();
        assert_ne!(address.port(), 0);
        let (_other, more) = beside(address, 0).unwrap();
        assert_eq!(more.socket_addr().ip(), address.socket_addr().ip());
        assert_ne!(more.port(), address.port());
        assert!(beside(address, address.port()).unwrap_err().contains("is in use"));
    }

    #[test]
    fn clients_on_a_bare_port_get_both_families_where_there_are_both() {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix:{}", dir.path().join("socket").display());
        let places = ["0", "127.0.0.3:0", &socket].map(|place| place.parse().unwrap());
        let listeners = clients(&places, Mode(0o700), false).unwrap();
        let shown = names(&listeners);
        assert!(shown.starts_with("127.0.0.1:") && shown.contains(" and 127.0.0.3:"), "{shown}");
        assert!(shown.ends_with(&format!(" and {socket}")), "{shown}");
    }

    #[test]
    fn one_node_under_two_names_is_refused() {
        let error = others(&[at("127.0.0.1:5"), at("localhost:5")], None).unwrap_err();
        assert!(error.starts_with("localhost:5 is 127.0.0.1:5"), "{error}");
        let own = Address::new("127.0.0.1:5".parse().unwrap());
        assert!(others(&[at("127.0.0.1:5")], Some(own)).is_err());
        assert_eq!(others(&[at("127.0.0.1:6")], Some(own)).unwrap().len(), 1);
    }
}
