//! Versions of values: kumofs's ClockTime, made by a clock that is half wall clock, half Lamport counter.
//!
//! Source: `doc/protocol.md`, "Values". A ClockTime is UNIX seconds << 32 | counter. The counter grows with each event
//! and is raised by what other nodes send; the whole never falls, whatever the wall clock does.

use std::fmt;

/// The version of a value, or of a hash space: UNIX seconds in the upper half, a logical counter in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ClockTime(pub u64);

impl ClockTime {
    /// UNIX time in seconds.
    pub fn unix_secs(self) -> u64 {
        self.0 >> 32
    }

    /// The logical counter.
    pub fn counter(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unix_secs(), self.counter())
    }
}

/// Makes strictly growing [`ClockTime`]s.
#[derive(Debug, Default)]
pub struct Clock {
    last: ClockTime,
}

impl Clock {
    /// A clock that continues after `last` (zero for a new one).
    pub fn starting_after(last: ClockTime) -> Clock {
        Clock { last }
    }

    /// The next version: above every one made or observed before, at `unix_secs` or later.
    pub fn tick(&mut self, unix_secs: u64) -> ClockTime {
        let counter = u64::from(self.last.counter()) + 1;
        let by_wall = (unix_secs << 32) | (counter & u64::from(u32::MAX));
        self.last = ClockTime(by_wall.max(self.last.0.saturating_add(1)));
        self.last
    }

    /// The next version above `floor` too: what a coordinator stamps on a write over a stored version `floor`. Its counter
    /// is above all that were observed, also where `floor` comes from a clock that was ahead: what that clock made meanwhile
    /// may have been collected with its marks, and must not be made again.
    pub fn tick_above(&mut self, unix_secs: u64, floor: ClockTime) -> ClockTime {
        let observed = self.counter();
        self.last = self.last.max(floor);
        self.observe_counter(observed);
        self.tick(unix_secs)
    }

    /// The logical counter now, as KeepAlive and its like carry it.
    pub fn counter(&self) -> u32 {
        self.last.counter()
    }

    /// The newest version made or observed.
    pub fn last(&self) -> ClockTime {
        self.last
    }

    /// Raises the counter to what another node sent. Its wall clock is not believed.
    pub fn observe_counter(&mut self, counter: u32) {
        if counter > self.last.counter() {
            self.last = ClockTime((self.last.0 & !u64::from(u32::MAX)) | u64::from(counter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_although_the_wall_clock_jumps_back() {
        let mut clock = Clock::default();
        let a = clock.tick(1000);
        let b = clock.tick(10);
        let c = clock.tick(1001);
        assert!(a < b && b < c);
        assert_eq!(c.unix_secs(), 1001);
    }

    #[test]
    fn a_stored_version_from_the_future_is_exceeded() {
        let mut clock = Clock::default();
        let stored = ClockTime(5000 << 32 | 7);
        assert!(clock.tick_above(1000, stored) > stored);
    }

    #[test]
    fn the_counter_wraps_without_going_back() {
        let mut clock = Clock::starting_after(ClockTime(9 << 32 | u64::from(u32::MAX)));
        assert_eq!(clock.tick(9), ClockTime(10 << 32));
    }

    #[test]
    fn counters_of_others_raise_ours() {
        let mut clock = Clock::default();
        clock.tick(1);
        clock.observe_counter(100);
        assert_eq!(clock.tick(1).counter(), 101);
        clock.observe_counter(50);
        assert_eq!(clock.counter(), 101);
    }

    /// A coordinator whose wall clock was an hour ahead made (3608, 133) for a key and (3608, 134) for its mark; the next one
    /// stored that, let the mark be collected, and took (3608, 132) of another key for its floor.
    #[test]
    fn a_version_of_a_clock_that_was_ahead_is_not_made_again() {
        let mut clock = Clock::starting_after(ClockTime(8 << 32 | 125));
        clock.observe_counter(134);
        let next = clock.tick_above(13, ClockTime(3608 << 32 | 132));
        assert_eq!((next.unix_secs(), next.counter()), (3608, 135));
        assert_eq!(clock.tick_above(13, ClockTime(3608 << 32 | 132)).counter(), 136);
    }
}
