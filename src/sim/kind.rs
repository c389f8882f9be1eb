//! Kinds of packets, for links that delay one of them.

use crate::proto::rpc::frame::{Frame, Scanner};

/// A kind of packets. What a connection sends behind one that is late is late, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With a request of this method.
    Request(u32),
    /// Of connections to or from this port.
    Port(u16),
}

impl Kind {
    /// Whether a packet is one: told the ports of its connection, and the data in it.
    pub fn is_of(self, ports: [u16; 2], data: &[u8]) -> bool {
        match self {
            Kind::Port(port) => ports.contains(&port),
            Kind::Request(wanted) => requests(data).any(|method| method == wanted),
        }
    }
}

/// The methods of the requests that a packet begins with. Nodes write whole messages, but long ones.
fn requests(mut data: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let messages = std::iter::from_fn(move || {
        let (frame, len) = Scanner::default().take(data).ok()??;
        data = &data[len..];
        Some(frame)
    });
    messages.filter_map(|message| if let Frame::Request { method, .. } = message { Some(method) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::frame::{write_request, write_success};
    use crate::proto::rpc::msgpack::{write_array, write_nil};

    #[test]
    fn a_request_is_found_behind_other_messages() {
        let mut data = Vec::new();
        write_success(&mut data, 7);
        write_nil(&mut data);
        write_request(&mut data, 8, 20);
        write_array(&mut data, 0);
        assert!(Kind::Request(20).is_of([1, 2], &data) && !Kind::Request(21).is_of([1, 2], &data));
        assert!(!Kind::Request(20).is_of([1, 2], &data[..data.len() - 1]), "it is not whole");
        assert!(!Kind::Request(20).is_of([1, 2], b"get key\r\n"));
        assert!(Kind::Port(2).is_of([1, 2], b"") && !Kind::Port(3).is_of([1, 2], b""));
    }
}
