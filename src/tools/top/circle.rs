//! The ring as kumotop draws it: who holds which part, and how much of it. Pure.

use crate::logic::address::Address;
use crate::logic::ring::{HashSpace, Ring};
use std::f64::consts::TAU;

/// Letters that stand for servers; more servers than that share them.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// A letter is about twice as high as it is wide.
const ASPECT: f64 = 2.0;

/// The letter of a server, by its place in the hash space.
pub fn letter(place: usize) -> char {
    char::from(LETTERS[place % LETTERS.len()])
}

/// A server's part of the ring.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// Which server.
    pub address: Address,
    /// Not taken for dead.
    pub active: bool,
    /// The share of all keys that it is the first active server of.
    pub first: f64,
    /// The share of all keys that it holds.
    pub held: f64,
}

/// Each server's part, in the order of the hash space.
pub fn shares(space: &HashSpace) -> Vec<Share> {
    let ring = Ring::new(&space.nodes);
    let share = |n: &crate::logic::ring::Node| Share { address: n.address, active: n.active, first: 0.0, held: 0.0 };
    let mut shares: Vec<Share> = space.nodes.iter().map(share).collect();
    let mut previous = ring.points().last().map_or(0, |(point, _)| *point);
    for (point, _) in ring.points() {
        // The first arc begins at the last point, and wraps.
        let length = point.wrapping_sub(previous) as f64 / 2f64.powi(64);
        previous = *point;
        for (i, place) in holders(&ring, space, *point).enumerate() {
            shares[place].held += length;
            shares[place].first += if i == 0 { length } else { 0.0 };
        }
    }
    shares
}

fn holders<'a>(ring: &Ring, space: &'a HashSpace, position: u64) -> impl Iterator<Item = usize> + use<'a> {
    let replicas = ring.assign(position).as_slice().to_vec();
    replicas.into_iter().map(usize::from).filter(|place| space.nodes[*place].active)
}

/// The ring as three circles in each other, one copy each: the outer one says who coordinates the keys at that place.
/// Each cell is the place of a server, at the one point of the ring that lies in its middle.
pub fn picture(space: &HashSpace, width: u16, height: u16) -> Vec<Vec<Option<usize>>> {
    let (width, height) = (usize::from(width), usize::from(height));
    let mut cells = vec![vec![None; width]; height];
    let ring = Ring::new(&space.nodes);
    let radius = (height as f64 / 2.0).min(width as f64 / 2.0 / ASPECT);
    if space.nodes.is_empty() || radius < 2.0 {
        return cells;
    }
    for (y, row) in cells.iter_mut().enumerate() {
        for (x, cell) in row.iter_mut().enumerate() {
            let (dx, dy) = ((x as f64 + 0.5 - width as f64 / 2.0) / ASPECT, y as f64 + 0.5 - height as f64 / 2.0);
            let inward = radius - dx.hypot(dy);
            if !(0.0..3.0).contains(&inward) {
                continue;
            }
            // From the top, as a clock goes.
            let turn = (dx.atan2(-dy) / TAU).rem_euclid(1.0);
            *cell = holders(&ring, space, (turn * 2f64.powi(64)) as u64).nth(inward as usize);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::logic::ring::Node;

    fn space(servers: u8, fault: u8) -> HashSpace {
        let node = |n| Node::new(Address::new(([10, 0, 0, n], 19800).into()), n != fault);
        HashSpace { nodes: (1..=servers).map(node).collect(), timestamp: ClockTime(1) }
    }

    #[test]
    fn shares_are_the_whole_ring_and_its_copies() {
        let all = shares(&space(5, 0));
        let sum = |of: fn(&Share) -> f64| all.iter().map(of).sum::<f64>();
        assert!((sum(|s| s.first) - 1.0).abs() < 1e-9 && (sum(|s| s.held) - 3.0).abs() < 1e-9);
        let all = shares(&space(5, 2));
        assert_eq!((all[1].active, all[1].first, all[1].held), (false, 0.0, 0.0));
        assert!((all.iter().map(|s| s.first).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(shares(&HashSpace::default()), []);
        assert_eq!(shares(&space(1, 0))[0].first.round(), 1.0);
    }

    #[test]
    fn the_picture_shows_every_server_and_fits_any_place() {
        let cells = picture(&space(4, 0), 40, 20);
        let seen: std::collections::BTreeSet<usize> = cells.iter().flatten().flatten().copied().collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(cells[10][20], None, "the middle is empty");
        for (width, height) in [(0, 0), (1, 1), (3, 50), (200, 2)] {
            assert_eq!(picture(&space(4, 0), width, height).len(), usize::from(height));
        }
        assert!(picture(&HashSpace::default(), 40, 20).iter().flatten().all(Option::is_none));
        assert!(picture(&space(2, 1), 40, 20).iter().flatten().flatten().all(|place| *place == 1), "not the dead one");
    }
}
