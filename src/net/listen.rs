//! From what an operator writes (`host`, `host:port`, `[v6]:port`, a bare port) to addresses and listeners.
//!
//! Every error is one line that says what to do. Source: `doc/guide.md`, the top.

use super::sock;
use crate::logic::address::Address;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// Connections that the system may hold ready for accept: as many as a cluster's gateways open at once after a cut.
pub const BACKLOG: i32 = 1024;

/// How long accepting pauses when the system refuses.
pub(super) const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// How often a free port is looked for that both IPv4 and IPv6 can have.
const PORT_ATTEMPTS: u32 = 16;

/// Why there is no address or no listener; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not of the form of an address.
    #[error("`{0}` is no address: write HOST, HOST:PORT or [IPV6]:PORT, with a port from 0 to 65535")]
    Form(String),
    /// The name server or /etc/hosts does not know the name.
    #[error("cannot resolve `{host}` ({source}): check the name with `getent hosts {host}`, or write its IP address")]
    Unresolvable {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("{0} is in use: another process listens there; stop it (`ss -ltnp` shows it) or choose another port")]
    InUse(SocketAddr),
    /// The address belongs to no interface of this host.
    #[error("{0} is not an address of this host: `ip addr` shows which ones are")]
    NotOurs(SocketAddr),
    /// Another process listens at a path.
    #[error("{0} is in use: another process listens there; stop it (`ss -lxp` shows it) or choose another path")]
    PathInUse(String),
    /// There is something that is none of ours.
    #[error("{0} is there and is no socket: choose another path, or move it away")]
    NoSocket(String),
    /// The system has no room for so long a path.
    #[error("{path} has {bytes} bytes, and a socket's path at most {limit}: choose a shorter one", limit = super::unix::MAX_PATH_BYTES)]
    PathTooLong {
        /// Where to.
        path: String,
        /// Its length.
        bytes: usize,
    },
    /// The system refuses a path: no such directory, no permission.
    #[error("cannot listen on {path}: {source}; choose another path, or see to its directory")]
    Path {
        /// Where to.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses: a port below 1024, a limit.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` or a plain IPv6 address into host and port.
fn split(text: &str) -> Result<(&str, Option<u16>), ListenError> {
    let form = || ListenError::Form(text.to_owned());
    let port = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<u16>().map_err(|_| form()) } else { Err(form()) }
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').ok_or_else(form)?;
        match tail.strip_prefix(':') {
            Some(digits) => (host, Some(port(digits)?)),
            None if tail.is_empty() => (host, None),
            None => return Err(form()),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, digits)) => (host, Some(port(digits)?)),
            None => (text, None),
        }
    };
    let sane = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
    if sane { Ok((host, port)) } else { Err(form()) }
}

/// Resolves the address of a node: `host`, `host:port`, `[v6]:port`, with `default_port` where none is written. Of
/// several addresses the first IPv4 one is taken, so that all nodes of a cluster agree on what a name means. Blocks.
///
/// # Errors
/// When the text has another form, or the name cannot be resolved.
pub fn resolve(text: &str, default_port: u16) -> Result<Address, ListenError> {
    let (host, port) = split(text)?;
    let found = lookup(host, port.unwrap_or(default_port))?;
    let preferred = found.iter().find(|a| a.is_ipv4()).or(found.first());
    preferred.map(|a| Address::new(*a)).ok_or_else(|| ListenError::Form(text.to_owned()))
}

/// Resolves where clients are to be served: `[ADDR:]PORT`. A bare port means this host only: 127.0.0.1 and ::1. A name
/// means all of its addresses. Blocks.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_clients(text: &str, default_port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let port = text.parse::<u16>().map_err(|_| ListenError::Form(text.to_owned()))?;
        return Ok(loopback(port));
    }
    let (host, port) = split(text)?;
    let mut found = lookup(host, port.unwrap_or(default_port))?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Both loopback addresses with a port.
pub fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
}

fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let unresolvable = |source| ListenError::Unresolvable { host: host.to_owned(), source };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unresolvable)?.collect();
    if found.is_empty() { Err(unresolvable(io::Error::other("no address"))) } else { Ok(found) }
}

/// Listens on one address, not blocking. An IPv6 listener takes IPv6 only. Port 0 lets the system choose.
///
/// # Errors
/// When the address is in use, is not this host's, or the system refuses.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind_as(address, false)
}

/// The same; a `shared` port may be listened on by other processes of the same user that share it, too, and the system gives
/// each connection to one of them.
fn bind_as(address: SocketAddr, shared: bool) -> Result<TcpListener, ListenError> {
    let attempt = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart must not wait for the connections of the former process to leave TIME_WAIT.
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    attempt().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs(address),
        _ => ListenError::Io { address, source },
    })
}

/// Listens on all addresses. Where their port is 0, the system chooses one, the same for all. On a host without IPv6,
/// `::1` is left out when there is another address. A `shared` port may be listened on by other processes of the same user,
/// as long as all of them share it.
///
/// # Errors
/// As [`bind`].
pub fn bind_all(addresses: &[SocketAddr], shared: bool) -> Result<Vec<TcpListener>, ListenError> {
    let mut last = None;
    for _ in 0..PORT_ATTEMPTS {
        match bind_once(addresses, shared) {
            // The system chose a port for the first address that the second cannot have: choose again.
            Err(ListenError::InUse(taken)) if !addresses.contains(&taken) => last = Some(ListenError::InUse(taken)),
            other => return other,
        }
    }
    Err(last.expect("the loop runs at least once, and goes on only with an error"))
}

/// Takes the next connection. Out of descriptors, it waits a moment for some to be closed instead of failing.
pub async fn accept(listener: &sock::TcpListener) -> (sock::TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The peer gave up while it waited; the next one may be there already.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn bind_once(addresses: &[SocketAddr], shared: bool) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let mut address = address;
        if let (0, Some(first)) = (address.port(), listeners.first()) {
            address.set_port(first.local_addr().map_err(|source| ListenError::Io { address, source })?.port());
        }
        match bind_as(address, shared) {
            Ok(listener) => listeners.push(listener),
            Err(ListenError::NotOurs(_) | ListenError::Io { .. })
                if address.ip() == Ipv6Addr::LOCALHOST && addresses.len() > 1 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_an_address_is_understood() {
        let at = |text| resolve(text, 19700).unwrap().to_string();
        assert_eq!(at("127.0.0.1"), "127.0.0.1:19700");
        assert_eq!(at("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(at("[::1]"), "[::1]:19700");
        assert_eq!(at("[::1]:0"), "[::1]:0");
        assert_eq!(at("::1"), "[::1]:19700");
        assert_eq!(at("localhost:5"), "127.0.0.1:5");
    }

    #[test]
    fn a_bare_port_means_this_host_only() {
        let found = resolve_clients("11211", 1).unwrap();
        assert_eq!(found, ["127.0.0.1:11211".parse().unwrap(), "[::1]:11211".parse().unwrap()]);
        assert_eq!(resolve_clients("0.0.0.0", 11211).unwrap(), ["0.0.0.0:11211".parse().unwrap()]);
    }

    #[test]
    fn what_is_no_address_is_refused_in_one_line() {
        for text in ["", ":", ":1", "a:", "a:b", "a:65536", "[::1", "[::1]x", "a b", "a:+1", "99999999999", "1:2:3"] {
            let error = resolve_clients(text, 1).map(|_| ()).or(resolve(text, 1).map(|_| ())).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.contains(text), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_port_in_use_is_told_as_such() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        assert!(matches!(bind(taken), Err(ListenError::InUse(a)) if a == taken));
    }

    #[test]
    fn a_port_is_shared_with_who_shares_it() {
        let first = bind_all(&["127.0.0.1:0".parse().unwrap()], true).unwrap();
        let at = first[0].local_addr().unwrap();
        assert!(bind_all(&[at], true).is_ok());
        assert!(matches!(bind_all(&[at], false), Err(ListenError::InUse(a)) if a == at));
    }

    #[test]
    fn a_foreign_address_is_told_as_such() {
        assert!(matches!(bind("192.0.2.1:0".parse().unwrap()), Err(ListenError::NotOurs(_))));
    }

    #[test]
    fn port_zero_is_the_same_port_for_both_families() {
        let listeners = bind_all(&loopback(0), false).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|p| *p == ports[0] && *p != 0), "{ports:?}");
    }
}
