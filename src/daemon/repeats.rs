//! What is said again and again, in the log: a full disk or a broken peer may be met thousands of times a second, and the lines about it may
//! go to that same disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long repeats are counted, until one is shown again.
const WINDOW: Duration = Duration::from_secs(10);
/// How often the same is shown within that time: more often than a server comes and goes, for which scripts may wait.
const SHOWN: u64 = 20;
/// Different lines that are remembered. What comes when all of them are recent is shown.
const REMEMBERED: usize = 256;

/// Lines that were logged, and how often.
#[derive(Default)]
pub struct Repeats {
    lines: Mutex<HashMap<String, Line>>,
}

struct Line {
    since: Instant,
    said: u64,
}

impl Repeats {
    /// Counts a line, which is said at `now`: how often it was left out before this; `None`: it is to be left out, too.
    pub fn say(&self, text: &str, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |line: &Line| now.saturating_duration_since(line.since) >= WINDOW;
        if let Some(line) = lines.get_mut(text) {
            if is_over(line) {
                let left_out = line.said.saturating_sub(SHOWN);
                *line = Line { since: now, said: 1 };
                return Some(left_out);
            }
            line.said += 1;
            return (line.said <= SHOWN).then_some(0);
        }
        if lines.len() >= REMEMBERED {
            lines.retain(|_, line| !is_over(line));
        }
        if lines.len() < REMEMBERED {
            lines.insert(text.to_owned(), Line { since: now, said: 1 });
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_shown_some_times_then_counted_then_shown_with_how_often() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let said: Vec<_> = (0..100).map(|_| repeats.say("full", now)).collect();
        assert_eq!(said[..20], [Some(0); 20]);
        assert_eq!(said[20..], [None; 80]);
        assert_eq!(repeats.say("other", now), Some(0));
        assert_eq!(repeats.say("full", now + WINDOW), Some(80));
        assert_eq!(repeats.say("full", now + WINDOW), Some(0), "a window like the first one");
        assert_eq!(repeats.say("other", now + WINDOW), Some(0), "it came once");
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_is_shown() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        for n in 0..2 * REMEMBERED {
            repeats.say(&n.to_string(), now);
        }
        assert_eq!(repeats.lines.lock().unwrap().len(), REMEMBERED);
        for _ in 0..2 * SHOWN {
            assert_eq!(repeats.say("late", now), Some(0));
        }
        for _ in 0..SHOWN {
            repeats.say("later", now + WINDOW);
        }
        assert_eq!(repeats.say("later", now + WINDOW), None, "those before are forgotten");
    }
}
