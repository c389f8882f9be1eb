//! From the addresses in options to listeners. Errors are one line that names the option's value and what to do.

use super::values::{HostPort, ListenOn};
use crate::logic::address::Address;
use crate::net::listen::{self, ListenError};
use std::net::{SocketAddr, TcpListener};

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

/// Listens for clients everywhere they are served, on ports that other processes may share, if so said. A host without IPv6
/// does without `::1`.
pub fn clients(places: &[ListenOn], shared: bool) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for place in places {
        let addresses = listen::resolve_clients(&place.to_string(), place.port).map_err(line)?;
        listeners.extend(listen::bind_all(&addresses, shared).map_err(line)?);
    }
    Ok(listeners)
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
pub fn names(listeners: &[TcpListener]) -> String {
    let names: Vec<String> = listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string()).collect();
    names.join(" and ")
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
        let listeners = clients(&["0".parse().unwrap(), "127.0.0.3:0".parse().unwrap()], false).unwrap();
        let shown = names(&listeners);
        assert!(shown.starts_with("127.0.0.1:") && shown.contains(" and 127.0.0.3:"), "{shown}");
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
