//! The consistent-hashing ring.
//!
//! Source: `doc/protocol.md`: hash(x) is the first 8 bytes of SHA-1(x) read little-endian. A node has 128 points:
//! p0 = hash(address bytes), p(i+1) = hash(p(i) as 8 little-endian bytes). A key belongs to the first point at or
//! after its hash, wrapping; its replicas are the first three distinct nodes met walking on from there, fault nodes
//! counted. A node with another [`Weight`] than the usual has as many more points of the same sequence, or fewer.

use super::address::Address;
use super::clock::ClockTime;
use super::weight::Weight;
use sha1::block_api::compress;
use sha1::{Digest, Sha1};

/// Copies kept of each key.
pub const REPLICAS: usize = 3;

/// Most bytes that SHA-1 takes in one block, whose rest is padding and the length.
const ONE_BLOCK_LEN: usize = 55;
/// Where SHA-1 starts (RFC 3174, 6.1).
const SHA1_START: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];

/// Where a byte string lies on the ring.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    if bytes.len() <= ONE_BLOCK_LEN {
        return hash_one_block(bytes);
    }
    let digest = Sha1::digest(bytes);
    u64::from_le_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

/// The same without the machinery for long strings, which would take longer than the hashing.
fn hash_one_block(bytes: &[u8]) -> u64 {
    let mut block = [0; 64];
    block[..bytes.len()].copy_from_slice(bytes);
    block[bytes.len()] = 0x80;
    block[56..].copy_from_slice(&(8 * bytes.len() as u64).to_be_bytes());
    let mut state = SHA1_START;
    compress(&mut state, &[block]);
    // The digest is the state in big-endian words; its first 8 bytes are read little-endian.
    u64::from(state[0].swap_bytes()) | u64::from(state[1].swap_bytes()) << 32
}

/// A server in a hash space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Node {
    /// Where it is reached; its points on the ring come from this.
    pub address: Address,
    /// False: taken for dead ("fault"); skipped, but its place on the ring is kept.
    pub active: bool,
    /// How much of the ring is its own. Left out when it is usual, as in [`super::epoch::Epoch::pace`]; version 0 cannot say it.
    #[serde(default, skip_serializing_if = "Weight::is_usual")]
    pub weight: Weight,
}

impl Node {
    /// One of the usual weight.
    pub fn new(address: Address, active: bool) -> Node {
        Node { address, active, weight: Weight::USUAL }
    }
}

/// A hash space as the wire carries it ("seed"): nodes in the order in which they were added, and a timestamp.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct HashSpace {
    /// The nodes, oldest first.
    pub nodes: Vec<Node>,
    /// When it was last changed.
    pub timestamp: ClockTime,
}

impl HashSpace {
    /// Whether both name the same nodes in the same states, whenever they were made.
    pub fn same_nodes(&self, other: &HashSpace) -> bool {
        self.nodes == other.nodes
    }

    /// Whether a node has another weight than the usual.
    pub fn is_weighted(&self) -> bool {
        self.nodes.iter().any(|n| !n.weight.is_usual())
    }

    /// Whether the node at `address` is there and not taken for dead.
    pub fn is_active(&self, address: Address) -> bool {
        self.find(address).is_some_and(|n| n.active)
    }

    /// The node at `address`.
    pub fn find(&self, address: Address) -> Option<&Node> {
        self.nodes.iter().find(|n| n.address == address)
    }
}

/// The points of a [`HashSpace`], sorted, ready for look-ups.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    points: Vec<(u64, u16)>,
    nodes: usize,
}

/// Up to [`REPLICAS`] node numbers, first replica first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    nodes: [u16; REPLICAS],
    len: u8,
}

impl Replicas {
    /// The node numbers (places in [`HashSpace::nodes`]).
    pub fn as_slice(&self) -> &[u16] {
        &self.nodes[..usize::from(self.len)]
    }
}

impl Ring {
    /// Lays out the points of `nodes`, which are numbered by their place.
    pub fn new(nodes: &[Node]) -> Ring {
        let mut points = Vec::with_capacity(nodes.iter().map(|n| n.weight.points()).sum());
        for (number, node) in nodes.iter().enumerate() {
            let number = u16::try_from(number).expect("a hash space has fewer than 65536 nodes");
            let mut point = hash(&node.address.to_bytes());
            for _ in 0..node.weight.points() {
                points.push((point, number));
                point = hash(&point.to_le_bytes());
            }
        }
        points.sort_unstable();
        Ring { points, nodes: nodes.len() }
    }

    /// All points, sorted, with their node numbers.
    pub fn points(&self) -> &[(u64, u16)] {
        &self.points
    }

    /// The replicas of a key whose hash is `hash`, fault nodes included. Empty only when the ring is.
    pub fn assign(&self, hash: u64) -> Replicas {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        self.walk(start)
    }

    /// The replicas of the arc that ends at point number `start` (modulo the number of points).
    pub fn walk(&self, start: usize) -> Replicas {
        let mut replicas = Replicas::default();
        let wanted = self.nodes.min(REPLICAS);
        for i in 0..self.points.len() {
            if usize::from(replicas.len) == wanted {
                break;
            }
            let (_, node) = self.points[(start + i) % self.points.len()];
            if !replicas.as_slice().contains(&node) {
                replicas.nodes[usize::from(replicas.len)] = node;
                replicas.len += 1;
            }
        }
        replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden_nodes() -> Vec<Node> {
        let address = |last| Address::new(format!("192.168.0.{last}:19800").parse().unwrap());
        (101..=104).map(|last| Node::new(address(last), true)).collect()
    }

    fn assigned(key: &str) -> Vec<u16> {
        Ring::new(&golden_nodes()).assign(hash(key.as_bytes())).as_slice().iter().map(|n| n + 101).collect()
    }

    #[test]
    fn hashes_are_those_of_kumofs() {
        assert_eq!(hash(b""), 0x0d4b6b5eeea339da);
        assert_eq!(hash(b"a"), 0xfca7a5fa37e4f786);
        assert_eq!(hash(b"the-key"), 0xbfc35380c472f6f6);
        assert_eq!(hash(b"wirekey"), 0x667df3131b5ae4d7);
    }

    #[test]
    fn short_strings_are_hashed_like_long_ones() {
        for len in 0..=130 {
            let bytes: Vec<u8> = (0..len).map(|i: u8| i.wrapping_mul(7)).collect();
            assert_eq!(hash(&bytes), u64::from_le_bytes(Sha1::digest(&bytes)[..8].try_into().unwrap()), "{len} bytes");
        }
    }

    #[test]
    fn the_ring_is_that_of_kumofs() {
        let ring = Ring::new(&golden_nodes());
        assert_eq!(ring.points().len(), 512);
        assert_eq!(ring.points()[0], (0x002f95a6d6e4b972, 3));
        assert_eq!(ring.points()[1], (0x0068f58dc794702b, 0));
        assert_eq!(ring.points()[511], (0xffe181fedfe8ca4f, 0));
        assert_eq!(assigned("a"), [102, 103, 104]);
        assert_eq!(assigned("the-key"), [104, 101, 102]);
        assert_eq!(assigned("wirekey"), [104, 103, 101]);
        assert_eq!(assigned("user:1"), [103, 102, 101]);
        assert_eq!(assigned("user:2"), [101, 102, 103]);
    }

    #[test]
    fn a_nodes_part_of_the_ring_follows_its_weight() {
        let plain = golden_nodes();
        let mut weighed = plain.clone();
        weighed[1].weight = "0.5".parse().unwrap();
        weighed[2].weight = "2".parse().unwrap();
        let points = |ring: &Ring, node| -> Vec<u64> {
            ring.points().iter().filter(|(_, n)| *n == node).map(|(point, _)| *point).collect()
        };
        let (plain, weighed) = (Ring::new(&plain), Ring::new(&weighed));
        assert_eq!((0..4).map(|n| points(&weighed, n).len()).collect::<Vec<_>>(), [128, 64, 256, 128]);
        assert_eq!(points(&weighed, 0), points(&plain, 0));
        // Less weight only takes points away, and more only adds some, so that nothing moves between the others.
        assert!(points(&weighed, 1).iter().all(|point| points(&plain, 1).contains(point)));
        assert!(points(&plain, 2).iter().all(|point| points(&weighed, 2).contains(point)));
        let first = |ring: &Ring, node| {
            (0..20_000_u32).filter(|key| ring.assign(hash(&key.to_be_bytes())).as_slice()[0] == node).count() as f64
        };
        for (node, share) in [(0, 1.0 / 4.5), (1, 0.5 / 4.5), (2, 2.0 / 4.5), (3, 1.0 / 4.5)] {
            let is = first(&weighed, node) / 20_000.0;
            assert!((is / share - 1.0).abs() < 0.25, "{node}: {is} instead of {share}");
        }
    }

    #[test]
    fn few_nodes_are_few_replicas() {
        for n in 0..3 {
            assert_eq!(Ring::new(&golden_nodes()[..n]).assign(42).as_slice().len(), n);
        }
    }
}
