//! How much of an event loop's time background work may take: copying, comparing, dropping, collecting.
//!
//! It is done in steps, between which the loop serves. A [`Portion`] keeps each step short, by the records that it may look at;
//! a [`Budget`] says when the next one may begin. While clients are served, steps take a share of the time and no more; when
//! nobody has asked for anything for a while, all of it. The share is also what they are sure of, so whatever moves gets done
//! under any load. All times are microseconds of one clock.

/// Of how many parts of the time background work gets one while clients are served.
const PARTS: u64 = 12;
/// Clients count as served for so long after a request.
const SERVED_MICROS: u64 = 10_000;
/// Time not used is kept for so long: timers wake late, and that is to cost no speed.
const KEPT_MICROS: u64 = 2_000;
/// What a step counts as at least, for what stands around it, and at most: a loop that was stopped in its middle did not work.
const LEAST_MICROS: u64 = 50;
const MOST_MICROS: u64 = 50_000;
/// What a step should take: a client that comes in its middle waits for so long.
const STEP_MICROS: u64 = 300;

/// When the next step of one loop may begin.
#[derive(Debug, Default)]
pub struct Budget {
    due_micros: u64,
}

impl Budget {
    /// How long a step has still to wait at `now`, clients having been served at `served` last.
    pub fn wait_micros(&self, now: u64, served: u64) -> u64 {
        if now >= served.saturating_add(SERVED_MICROS) {
            return 0;
        }
        self.due_micros.saturating_sub(now)
    }

    /// A step began and ended at these times.
    pub fn spent(&mut self, began: u64, ended: u64) {
        let cost = ended.saturating_sub(began).clamp(LEAST_MICROS, MOST_MICROS);
        let not_used = began.saturating_sub(KEPT_MICROS);
        self.due_micros = self.due_micros.clamp(not_used, began) + cost * PARTS;
    }
}

/// How many records a step of some kind of work may look at: as many as are done in the time that it should take.
#[derive(Debug)]
pub struct Portion {
    records: usize,
}

impl Portion {
    /// The most records of a step.
    pub const MOST: usize = 256;
    const FIRST: usize = 32;

    /// What the next step may look at.
    pub fn records(&self) -> usize {
        self.records
    }

    /// A step took so long for its portion, or for the end of what there was.
    pub fn took(&mut self, micros: u64) {
        if micros > 2 * STEP_MICROS {
            // Once, a loop may have been held up by others: so not by all that it was too long.
            self.records = (self.records / 2).max(1);
        } else if micros > STEP_MICROS {
            self.records = (self.records - self.records / 4).max(1);
        } else if micros < STEP_MICROS / 2 {
            self.records = (self.records * 2).min(Portion::MOST);
        }
    }
}

impl Default for Portion {
    fn default() -> Portion {
        Portion { records: Portion::FIRST }
    }
}

#[cfg(test)]
mod tests;
