//! CPU time of processes, from `/proc/PID/stat` (all threads, also those that have ended).

use std::collections::BTreeMap;
use std::time::Duration;

/// Length of the kernel's clock tick in `/proc/PID/stat`: USER_HZ is 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// A process's name and the CPU time it has used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// As the kernel shows it, cut to 15 bytes.
    pub name: String,
    /// User and system time.
    pub cpu: Duration,
}

/// What each of the processes has used so far; `None` for one that is not there.
pub fn usages(pids: &[u32]) -> Vec<Option<Usage>> {
    pids.iter().map(|pid| usage(&pid.to_string())).collect()
}

/// What this process has used so far.
pub fn own_usage() -> Duration {
    usage("self").map_or(Duration::ZERO, |u| u.cpu)
}

fn usage(pid: &str) -> Option<Usage> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of `/proc/PID/stat`: `PID (NAME) STATE ...`, with utime and stime as its 14th and 15th fields. The
/// name may hold spaces and brackets.
fn parse_stat(stat: &str) -> Option<Usage> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u32>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    Some(Usage { name: name.to_owned(), cpu: TICK * ticks })
}

/// What was used between two samples of the same processes, summed by name. A process that ended meanwhile, or was
/// not there at the beginning, is left out: nobody knows what it used.
pub fn used_by_name(before: &[Option<Usage>], after: &[Option<Usage>]) -> BTreeMap<String, Duration> {
    let mut used = BTreeMap::new();
    for (before, after) in before.iter().zip(after) {
        if let (Some(before), Some(after)) = (before, after) {
            *used.entry(after.name.clone()).or_default() += after.cpu.saturating_sub(before.cpu);
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_is_read() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0";
        assert_eq!(parse_stat(stat), Some(Usage { name: "a (b) c".into(), cpu: Duration::from_secs(2) }));
        for cut in 0..stat.find(" 0 0").unwrap() - 2 {
            assert_eq!(parse_stat(&stat[..cut]), None);
        }
    }

    #[test]
    fn this_process_has_a_usage_and_a_missing_one_has_none() {
        assert!(usage("self").is_some());
        assert_eq!(usages(&[u32::MAX]), [None]);
    }

    #[test]
    fn processes_of_one_name_are_summed_and_lost_ones_left_out() {
        let at = |name: &str, secs| Some(Usage { name: name.into(), cpu: Duration::from_secs(secs) });
        let before = [at("server", 1), at("server", 2), at("gateway", 5), at("server", 9), None];
        let after = [at("server", 2), at("server", 4), at("gateway", 5), None, at("server", 1)];
        let used = used_by_name(&before, &after);
        assert_eq!(used["server"], Duration::from_secs(3));
        assert_eq!(used["gateway"], Duration::ZERO);
    }
}
