//! kumosum: requests of all active servers of a cluster, summed, a line every half second.
//!
//! The lines are those of the script that came with kumofs. A server that does not answer counts with what it told last,
//! and a line on standard error says so, once. Source: `doc/guide.md`, "kumosum".

use super::ask;
use super::watch::{Members, Sample};
use super::{Trouble, print};
use crate::logic::address::Address;
use clap::Parser;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{self, Instant};

/// Shows the requests per second of a whole cluster.
#[derive(Parser, Debug)]
#[command(name = "kumosum", version)]
pub struct Options {
    /// The manager that knows the servers
    #[arg(value_name = "MANAGER[:19700]")]
    manager: String,
    /// Seconds between two lines, from 0.05 to 3600
    #[arg(short, long, value_name = "SEC", default_value = "0.5", value_parser = interval)]
    interval: Duration,
    /// End after so many lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
    /// Print each line as a JSON object
    #[arg(long)]
    json: bool,
}

/// Seconds between two questions.
pub fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(secs) if (0.05..=3600.0).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err("must be a number of seconds from 0.05 to 3600".to_owned()),
    }
}

/// Runs kumosum, until it is ended or nobody reads.
///
/// # Errors
/// When the manager does not answer at the start.
pub fn run(options: &Options) -> Result<(), Trouble> {
    ask::block_on(watch(options))?
}

async fn watch(options: &Options) -> Result<(), Trouble> {
    let members = Members::of(&options.manager, options.interval).await?;
    let mut ticks = time::interval_at(Instant::now() + options.interval / 2, options.interval);
    let mut sums = Sums::default();
    let mut silent = BTreeSet::new();
    let mut left = options.lines;
    while left != Some(0) {
        ticks.tick().await;
        let servers = members.all();
        let told: BTreeMap<Address, Sample> =
            servers.iter().filter_map(|s| s.sample().map(|sample| (s.address, sample))).collect();
        let troubles: Vec<_> = servers.iter().filter_map(|s| s.trouble().map(|why| (s.address, why))).collect();
        for (_, why) in troubles.iter().filter(|(address, _)| !silent.contains(address)) {
            eprintln!("kumosum: {why}");
        }
        silent = troubles.into_iter().map(|(address, _)| address).collect();
        let sum = sums.add(told);
        let line = if options.json { sum.json(servers.len(), silent.len()) } else { sum.text() };
        if !print(&line) {
            return Ok(());
        }
        left = left.map(|n| n - 1);
    }
    Ok(())
}

/// What was summed so far.
#[derive(Debug, Default)]
struct Sums {
    before: BTreeMap<Address, Sample>,
}

/// One line.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Sum {
    per_sec: f64,
    gets: u64,
    sets: u64,
    deletes: u64,
}

impl Sums {
    /// The rate is the sum of each server's own, between its last two samples, so that one that comes, goes or starts
    /// anew makes no jump.
    fn add(&mut self, now: BTreeMap<Address, Sample>) -> Sum {
        let mut sum = Sum::default();
        for (address, sample) in &now {
            sum.gets += sample.gets;
            sum.sets += sample.sets;
            sum.deletes += sample.deletes;
            let Some(before) = self.before.get(address) else { continue };
            let secs = sample.at.saturating_duration_since(before.at).as_secs_f64();
            if secs > 0.0 {
                sum.per_sec += sample.requests().saturating_sub(before.requests()) as f64 / secs;
            }
        }
        self.before = now;
        sum
    }
}

impl Sum {
    fn total(&self) -> u64 {
        self.gets + self.sets + self.deletes
    }

    fn text(&self) -> String {
        format!("{} requests/sec (total {})\n", self.per_sec as u64, self.total())
    }

    fn json(&self, servers: usize, silent: usize) -> String {
        let object = json!({
            "requests_per_sec": self.per_sec as u64,
            "total": self.total(),
            "gets": self.gets,
            "sets": self.sets,
            "deletes": self.deletes,
            "servers": servers,
            "silent": silent,
        });
        format!("{object}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: std::time::Instant, all: &[(u8, u64)]) -> BTreeMap<Address, Sample> {
        let sample = |gets| Sample { at, gets, sets: 10, deletes: 1, items: 0, clock_time: 0, replace: 0, more: None };
        all.iter().map(|(last, gets)| (Address::new(([10, 0, 0, *last], 1).into()), sample(*gets))).collect()
    }

    #[test]
    fn rates_are_summed_and_who_comes_goes_or_starts_anew_makes_no_jump() {
        let start = std::time::Instant::now();
        let later = |halves: u32| start + halves * Duration::from_millis(500);
        let mut sums = Sums::default();
        assert_eq!(sums.add(told(start, &[(1, 100), (2, 50)])).text(), "0 requests/sec (total 172)\n");
        assert_eq!(sums.add(told(later(1), &[(1, 150), (2, 60)])).text(), "120 requests/sec (total 232)\n");
        assert_eq!(sums.add(told(later(2), &[(1, 160), (2, 0), (3, 9999)])).per_sec, 20.0);
        assert_eq!(sums.add(told(later(2), &[(1, 160)])).per_sec, 0.0, "no newer sample");
    }

    #[test]
    fn a_line_as_json_has_all_numbers() {
        let sum = Sum { per_sec: 12.7, gets: 1, sets: 2, deletes: 3 };
        let object: serde_json::Value = serde_json::from_str(&sum.json(4, 1)).unwrap();
        assert_eq!(
            (&object["requests_per_sec"], &object["total"], &object["silent"]),
            (&json!(12), &json!(6), &json!(1))
        );
    }

    #[test]
    fn intervals_are_bounded() {
        assert!(["0", "-1", "x", "inf", "3601"].iter().all(|text| interval(text).is_err()));
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
    }
}
