//! Node addresses in kumofs's own byte form, which the ring hashes and the wire carries.
//!
//! Source: `doc/protocol.md`, "Values": 6 bytes are port (network order) and IPv4 address; 22 bytes are port, IPv6
//! address and scope id (4 bytes, little-endian, as kumofs copied it from a `sockaddr_in6` on x86).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Length in bytes of the longest encoded address.
pub const MAX_ENCODED_LEN: usize = 22;

/// The address of a node, as other nodes reach it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(SocketAddr);

impl Address {
    /// Wraps a socket address. An IPv4-mapped IPv6 address becomes plain IPv4, and an IPv6 flow label is dropped, so
    /// that a node has one spelling only.
    pub fn new(addr: SocketAddr) -> Address {
        match addr {
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => Address(SocketAddr::new(IpAddr::V4(v4), v6.port())),
                None => Address(SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()))),
            },
            v4 => Address(v4),
        }
    }

    /// The address to connect or bind to.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }

    /// The TCP port.
    pub fn port(self) -> u16 {
        self.0.port()
    }

    /// Reads the 6 or 22 byte form; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Address> {
        let port = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
        match bytes.len() {
            6 => {
                let ip: [u8; 4] = bytes[2..6].try_into().ok()?;
                Some(Address::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port)))
            }
            22 => {
                let ip: [u8; 16] = bytes[2..18].try_into().ok()?;
                let scope = u32::from_le_bytes(bytes[18..22].try_into().ok()?);
                let v6 = SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope);
                Some(Address::new(SocketAddr::V6(v6)))
            }
            _ => None,
        }
    }

    /// Appends the 6 or 22 byte form to `out`.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.port().to_be_bytes());
        match self.0 {
            SocketAddr::V4(v4) => out.extend_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => {
                out.extend_from_slice(&v6.ip().octets());
                out.extend_from_slice(&v6.scope_id().to_le_bytes());
            }
        }
    }

    /// The 6 or 22 byte form.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_ENCODED_LEN);
        self.encode(&mut out);
        out
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Address;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address of 6 or 22 bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Address, E> {
                Address::from_bytes(v).ok_or_else(|| E::invalid_length(v.len(), &self))
            }
        }
        d.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_takes_six_bytes_and_comes_back() {
        let a = Address::new("127.0.0.1:19801".parse().unwrap());
        assert_eq!(a.to_bytes(), [0x4d, 0x59, 127, 0, 0, 1]);
        assert_eq!(Address::from_bytes(&a.to_bytes()), Some(a));
    }

    #[test]
    fn ipv6_takes_twenty_two_bytes_and_keeps_its_scope() {
        let a = Address::new(SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 19800, 0, 7)));
        let bytes = a.to_bytes();
        assert_eq!(bytes.len(), 22);
        assert_eq!(&bytes[18..], [7, 0, 0, 0]);
        assert_eq!(Address::from_bytes(&bytes), Some(a));
    }

    #[test]
    fn mapped_ipv4_is_plain_ipv4() {
        let a = Address::new("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert_eq!(a.to_string(), "10.0.0.1:80");
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in (0..40).filter(|l| *l != 6 && *l != 22) {
            assert_eq!(Address::from_bytes(&vec![1; len]), None, "{len} bytes");
        }
    }
}
