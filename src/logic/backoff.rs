//! Pauses between attempts to connect, drawn by chance, so that those who lost a peer together do not come back together.
//!
//! A pause is drawn evenly between the shortest and a longest that doubles with each failure up to a bound. Where many wait for
//! one, the first longest is already long: with 500 gateways, as many milliseconds.

use std::time::Duration;

/// A cheap source of chance (SplitMix64); the seed decides.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next number.
    pub fn draw(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }
}

/// The bounds of pauses.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// No pause is shorter, in milliseconds.
    pub shortest_ms: u32,
    /// The longest first one, in milliseconds.
    pub first_ms: u32,
    /// The longest of all, in milliseconds.
    pub longest_ms: u32,
}

/// The pauses of one that tries to connect.
#[derive(Clone, Debug)]
pub struct Backoff {
    bounds: Bounds,
    failures: u32,
    chance: Chance,
}

impl Backoff {
    /// Nothing has failed yet. Who share a seed share their pauses.
    pub fn new(bounds: Bounds, seed: u64) -> Backoff {
        Backoff { bounds, failures: 0, chance: Chance(seed) }
    }

    /// It worked: what fails next fails for the first time.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// It failed: the pause before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let Bounds { shortest_ms, first_ms, longest_ms } = self.bounds;
        let longest_ms = (u64::from(first_ms) << self.failures.min(16)).min(u64::from(longest_ms));
        self.failures = self.failures.saturating_add(1);
        let (least, most) = (u64::from(shortest_ms) * 1000, longest_ms * 1000);
        Duration::from_micros(least + u64::from(self.chance.draw()) % (most.saturating_sub(least) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { shortest_ms: 10, first_ms: 40, longest_ms: 500 };

    #[test]
    fn pauses_grow_within_their_bounds_and_differ() {
        let ms = Duration::from_millis;
        for seed in 0..200 {
            let mut backoff = Backoff::new(BOUNDS, seed);
            for longest in [40, 80, 160, 320, 500, 500] {
                let pause = backoff.failed();
                assert!((ms(10)..=ms(longest)).contains(&pause), "{pause:?} for up to {longest} ms");
            }
            (0..100).for_each(|_| assert!(backoff.failed() <= ms(500)));
            backoff.worked();
            assert!(backoff.failed() <= ms(40));
        }
        let first: std::collections::BTreeSet<Duration> = (0..200).map(|s| Backoff::new(BOUNDS, s).failed()).collect();
        assert!(first.len() > 190);
    }

    #[test]
    fn bounds_that_are_the_same_are_kept_to() {
        let mut backoff = Backoff::new(Bounds { shortest_ms: 5, first_ms: 5, longest_ms: 5 }, 1);
        assert_eq!(backoff.failed(), Duration::from_millis(5));
    }
}
