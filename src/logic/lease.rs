//! Leases: a coordinator's right to tell what it read, with an end.
//!
//! Source: doc/guarantees.md, "Leases come from the group". A member grants for [`GRANT_MICROS`] from its answer; the holder
//! counts [`HOLD_MICROS`] from when it asked. The two differ by more than clocks drift apart in that time.

/// The length of a lease in microseconds.
pub const LEASE_MICROS: u64 = 200_000;
/// How long the member that grants a lease keeps its word, from its answer on.
pub const GRANT_MICROS: u64 = LEASE_MICROS / 100 * 101;
/// How long the holder relies on it, from its request on.
pub const HOLD_MICROS: u64 = LEASE_MICROS / 100 * 99;
/// How often leases are renewed where no replication does it.
pub const RENEW_MICROS: u64 = 60_000;

/// What a coordinator holds from one member.
#[derive(Clone, Debug, Default)]
pub struct Held {
    until_micros: u64,
    asked: std::collections::VecDeque<(u32, u64)>,
}

impl Held {
    /// Notes that request `msgid` left at `now_micros`.
    pub fn ask(&mut self, msgid: u32, now_micros: u64) {
        self.asked.push_back((msgid, now_micros));
    }

    /// The member granted what `msgid` asked for.
    pub fn granted(&mut self, msgid: u32) {
        let Some(place) = self.asked.iter().position(|(asked, _)| *asked == msgid) else { return };
        if let Some((_, asked_micros)) = self.asked.remove(place) {
            self.until_micros = self.until_micros.max(asked_micros + HOLD_MICROS);
        }
    }

    /// The member refused what `msgid` asked for. What it granted before still holds.
    pub fn refused(&mut self, msgid: u32) {
        self.asked.retain(|(asked, _)| *asked != msgid);
    }

    /// The connection broke: no answer will come.
    pub fn forget_requests(&mut self) {
        self.asked.clear();
    }

    /// Gives everything back, as a holder does that adopts an epoch.
    pub fn give_back(&mut self) {
        self.until_micros = 0;
        self.asked.clear();
    }

    /// The holder may rely on it before this moment; 0: there is none.
    pub fn until_micros(&self) -> u64 {
        self.until_micros
    }

    /// When it was last asked for, of requests without an answer.
    pub fn last_asked_micros(&self) -> Option<u64> {
        self.asked.back().map(|(_, micros)| *micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stops_before_the_member_does() {
        const { assert!(HOLD_MICROS < LEASE_MICROS && LEASE_MICROS < GRANT_MICROS) };
        let mut held = Held::default();
        held.ask(1, 1000);
        // The answer is late: it counts from the request all the same.
        held.granted(1);
        assert_eq!(held.until_micros(), 1000 + HOLD_MICROS);
    }

    #[test]
    fn refusals_and_strange_answers_grant_nothing() {
        let mut held = Held::default();
        held.ask(1, 1000);
        held.refused(1);
        held.granted(1);
        held.granted(7);
        assert_eq!(held.until_micros(), 0);
    }

    #[test]
    fn answers_out_of_order_never_shorten_a_lease() {
        let mut held = Held::default();
        held.ask(1, 1000);
        held.ask(2, 2000);
        held.granted(2);
        held.granted(1);
        assert_eq!(held.until_micros(), 2000 + HOLD_MICROS);
    }
}
