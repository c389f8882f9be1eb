//! When an operation is tried again, and when it is given up.
//!
//! It is tried again when a server refuses it, when a link breaks (see [`super::link`]), and when the cluster changes;
//! not because an answer is slow. A cluster may be silent for 0.3 s when a process dies and for 2 s when one hangs
//! (`doc/guarantees.md`, "Short silence"), and clients are to see latency then, not errors. So an operation is given
//! [`PATIENCE_MS`] whatever the number of its tries, and from then on as many more as `-G`, `-S` and `-D` say,
//! [`LAST_DELAY_MS`] apart.
//!
//! Every change may be tried again whatever became of earlier tries: servers remember outcomes, and execute what has one
//! sequence once (`doc/guarantees.md`, "Exactly once"). Those of kumofs 0.4 do not: see [`super::v0::may_repeat`].

/// How long every operation is tried, in milliseconds.
pub const PATIENCE_MS: u64 = 4_000;
/// Longest pause before the first retry, in milliseconds. Each further one is twice as long.
pub const FIRST_DELAY_MS: u64 = 5;
/// Longest pause before any retry, in milliseconds.
pub const LAST_DELAY_MS: u64 = 100;

/// The pause before the next retry, in milliseconds, after `retries` of them: between half of the longest and the
/// longest, by `chance`, so that operations that failed together do not come back together.
pub fn delay_ms(retries: u32, chance: u32) -> u64 {
    let longest = (FIRST_DELAY_MS << retries.min(8)).min(LAST_DELAY_MS);
    let half = longest / 2;
    longest - u64::from(chance) % (half + 1)
}

/// How long an operation is tried in all, in milliseconds, with `limit` retries after the patience.
pub fn give_up_after_ms(limit: u32) -> u64 {
    PATIENCE_MS + u64::from(limit) * LAST_DELAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::backoff::Chance;

    #[test]
    fn pauses_grow_and_differ() {
        let mut chance = Chance(1);
        for retries in 0..100 {
            let longest = [5, 10, 20, 40, 80].get(retries as usize).copied().unwrap_or(100);
            let delays: Vec<u64> = (0..50).map(|_| delay_ms(retries, chance.draw())).collect();
            assert!(delays.iter().all(|d| (longest / 2..=longest).contains(d)), "{retries}: {delays:?}");
            assert!(delays.iter().any(|d| *d != delays[0]));
        }
    }

    #[test]
    fn a_hung_process_is_ridden_out_even_without_retries() {
        assert!(give_up_after_ms(0) >= 4_000);
        assert_eq!(give_up_after_ms(20), 6_000);
    }
}
