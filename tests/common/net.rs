//! Addresses that no other test uses.

use super::rng::Rng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::SystemTime;

/// 254 hosts, as far as programs can tell: a /24 of the loopback network, all of which Linux has without setup.
pub struct Hosts {
    a: u8,
    b: u8,
    /// Held while these hosts are in use; another test's attempt to take them fails.
    _claim: TcpListener,
}

impl Hosts {
    pub fn claim() -> Hosts {
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
        let mut rng = Rng::new(nanos ^ (u64::from(std::process::id()) << 32));
        loop {
            let (a, b) = (1 + rng.below(253) as u8, rng.below(255) as u8);
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::new(127, a, b, 254), 19)) {
                return Hosts { a, b, _claim: claim };
            }
        }
    }

    /// The address of host `n`, from 1 to 253.
    pub fn host(&self, n: usize) -> Ipv4Addr {
        assert!((1..254).contains(&n), "no such host");
        Ipv4Addr::new(127, self.a, self.b, n as u8)
    }
}

/// A port that was free a moment ago. The system takes long to give out the same one again.
pub fn free_port(ip: IpAddr) -> u16 {
    free_address(ip).port()
}

/// The same with the address.
pub fn free_address(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).and_then(|l| l.local_addr()).expect("the system has a free port")
}

/// Whether the system has IPv6, at least for itself.
pub fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}
