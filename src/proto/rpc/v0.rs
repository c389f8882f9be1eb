//! Version 0: the methods of kumofs 0.4.13 (`doc/protocol.md`, "Version 0").
//!
//! Method numbers, and the values that travel in parameters and results. Each role reads the parameters of the
//! methods that it answers; what two of them share is here.

use super::msgpack::{DecodeError, Reader, write_array, write_raw, write_raw_head, write_uint};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::ring::{HashSpace, Node};

/// Method numbers. The same number may mean different things to different roles.
pub mod method {
    /// To nodes: `[clock]` → nil.
    pub const KEEP_ALIVE: u32 = 0;
    /// To a manager, from clients: `[]` → `[wseed, rseed]`.
    pub const HASH_SPACE_REQUEST: u32 = 1;
    /// To a manager from its partner, to a server from a manager: `[wseed, rseed, clock]` → true, or nil when obsolete.
    pub const HASH_SPACE_SYNC: u32 = 2;
    /// To a gateway, from a manager: `[wseed, rseed]` → true.
    pub const HASH_SPACE_PUSH: u32 = 3;
    /// To a manager, from nodes: `[]` → seed.
    pub const WHS_REQUEST: u32 = 4;
    /// To a manager, from nodes: `[]` → seed.
    pub const RHS_REQUEST: u32 = 5;
    /// To a server: `[seed, clock]` or `[seed, clock, full]` → true.
    pub const REPLACE_COPY_START: u32 = 8;
    /// To a server: `[seed, clock]` → true.
    pub const REPLACE_DELETE_START: u32 = 9;
    /// To a manager: `[clocktime, clock]` → true.
    pub const REPLACE_COPY_END: u32 = 10;
    /// To a manager: `[clocktime, clock]` → true.
    pub const REPLACE_DELETE_END: u32 = 11;
    /// To a manager, from its partner: `[seed, clock]` → true: the sender does it, nil: the receiver does.
    pub const REPLACE_ELECTION: u32 = 12;
    /// To a server, from a server: `[address of the stream port]`, never answered.
    pub const REPLACE_OFFER: u32 = 16;
    /// To a server, from a server: `[clock, flags, dbkey, dbval]` → bool: updated.
    pub const REPLICATE_SET: u32 = 32;
    /// To a server, from a server: `[clock, flags, clocktime, dbkey]` → bool: deleted.
    pub const REPLICATE_DELETE: u32 = 33;
    /// To a server: `[dbkey]` → dbval or nil.
    pub const GET: u32 = 34;
    /// To a server: `[op, dbkey, dbval]` → ClockTime, false: compare failed, nil: failed.
    pub const SET: u32 = 35;
    /// To a server: `[flags, dbkey]` → true, false: not found, nil: failed.
    pub const DELETE: u32 = 36;
    /// To a server: `[dbkey, clocktime]` → true when not newer, dbval, or nil.
    pub const GET_IF_MODIFIED: u32 = 37;
    /// To a server, from a manager: `[suffix]` → true.
    pub const SERVER_CREATE_BACKUP: u32 = 96;
    /// To a server: `[what]` → by [`super::status`].
    pub const GET_STATUS: u32 = 97;
    /// To a server: `[what, arg]`; 0 = TCP_NODELAY, bool → number of sockets changed.
    pub const SET_CONFIG: u32 = 98;
    /// To a manager: `[]` → `[wseed, [address of each server seen but not attached...]]`.
    pub const GET_NODES_INFO: u32 = 99;
    /// To a manager: `[replace]` → nil.
    pub const ATTACH_NEW_SERVERS: u32 = 100;
    /// To a manager: `[replace]` → nil.
    pub const DETACH_FAULT_SERVERS: u32 = 101;
    /// To a manager: `[suffix]` → nil.
    pub const CREATE_BACKUP: u32 = 102;
    /// To a manager: `[bool]` → bool or nil.
    pub const SET_AUTO_REPLACE: u32 = 103;
    /// To a manager: `[]` or `[full]` → nil.
    pub const START_REPLACE: u32 = 104;
}

/// What GetStatus can be asked for.
pub mod status {
    /// Process id.
    pub const PID: u32 = 0;
    /// Seconds since start.
    pub const UPTIME: u32 = 1;
    /// UNIX seconds.
    pub const TIME: u32 = 2;
    /// Version string.
    pub const VERSION: u32 = 3;
    /// Number of gets answered.
    pub const CMD_GET: u32 = 4;
    /// Number of sets.
    pub const CMD_SET: u32 = 5;
    /// Number of deletes.
    pub const CMD_DELETE: u32 = 6;
    /// Number of items stored.
    pub const ITEMS: u32 = 7;
    /// The server's ClockTime.
    pub const CLOCK_TIME: u32 = 8;
    /// The read hash space.
    pub const RHS: u32 = 9;
    /// The write hash space.
    pub const WHS: u32 = 10;
    /// Bits: 1 inactive, 2 rhs ≠ whs, 4 copying, 8 deleting.
    pub const REPLACE: u32 = 11;
}

/// Operation numbers of Set.
pub mod set_op {
    /// Replicated before it is answered.
    pub const SET: u64 = 0;
    /// Answered without waiting for replicas.
    pub const SET_ASYNC: u64 = 1;
    /// Compare-and-swap: the version inside the dbval is the one required.
    pub const CAS: u64 = 2;
}

/// Flag of ReplicateSet and ReplicateDelete: the receiver checks its assignment in rhs instead of whs.
pub const REPLICATE_BY_RHS: u64 = 1;
/// Flag of Delete: do not wait for replicas.
pub const DELETE_ASYNC: u64 = 1;

/// Most nodes that a hash space may have.
pub const MAX_NODES: usize = 4096;

/// Appends a hash space.
pub fn write_seed(out: &mut Vec<u8>, space: &HashSpace) {
    write_array(out, 2);
    write_array(out, space.nodes.len());
    for node in &space.nodes {
        let address = node.address.to_bytes();
        write_raw_head(out, 1 + address.len());
        out.push(u8::from(node.active));
        out.extend_from_slice(&address);
    }
    write_uint(out, space.timestamp.0);
}

/// Reads a hash space. A node named twice, or more than [`MAX_NODES`], is malformed.
pub fn read_seed(r: &mut Reader<'_>) -> Result<HashSpace, DecodeError> {
    r.array_of(2)?;
    let len = r.array()?;
    if len > MAX_NODES {
        return Err(DecodeError::Type);
    }
    let mut nodes: Vec<Node> = Vec::with_capacity(len);
    for _ in 0..len {
        let (active, address) = r.raw()?.split_first().ok_or(DecodeError::Type)?;
        let address = Address::from_bytes(address).ok_or(DecodeError::Type)?;
        if nodes.iter().any(|n| n.address == address) {
            return Err(DecodeError::Type);
        }
        nodes.push(Node::new(address, *active != 0));
    }
    Ok(HashSpace { nodes, timestamp: ClockTime(r.u64()?) })
}

/// Appends an address.
pub fn write_address(out: &mut Vec<u8>, address: Address) {
    write_raw(out, &address.to_bytes());
}

/// Reads an address.
pub fn read_address(r: &mut Reader<'_>) -> Result<Address, DecodeError> {
    Address::from_bytes(r.raw()?).ok_or(DecodeError::Type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_hash_space_is_read_and_written() {
        let golden = [
            &[0x92, 0x93, 0xa7, 1, 0x4d, 0x5a, 127, 0, 0, 1, 0xa7, 1, 0x4d, 0x5b, 127, 0, 0, 1][..],
            &[0xa7, 1, 0x4d, 0x59, 127, 0, 0, 1, 0xcf, 0x6b, 0, 0x98, 0xc0, 0, 0, 0, 1],
        ]
        .concat();
        let space = read_seed(&mut Reader::new(&golden)).unwrap();
        let ports: Vec<u16> = space.nodes.iter().map(|n| n.address.port()).collect();
        assert_eq!(ports, [19802, 19803, 19801]);
        assert_eq!(space.timestamp, ClockTime(0x6b0098c000000001));
        let mut out = Vec::new();
        write_seed(&mut out, &space);
        assert_eq!(out, golden);
        for cut in 0..golden.len() {
            assert!(read_seed(&mut Reader::new(&golden[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_node_named_twice_is_refused() {
        let twice = [0x92, 0x92, 0xa7, 1, 1, 1, 1, 1, 1, 1, 0xa7, 0, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(read_seed(&mut Reader::new(&twice)), Err(DecodeError::Type));
    }
}
