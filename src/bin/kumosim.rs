//! kumosim: runs simulated clusters by their seeds. See [`kumofs::sim`].

use clap::Parser;
use kumofs::logic::rule::{self, Rule};
use kumofs::sim::run::{Plan, Report};
use kumofs::sim::scenario::left_out::FOUND;
use kumofs::sim::scenario::{self, Scenario};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Runs whole clusters on a simulated network, each decided by a seed, and judges what their clients saw.
#[derive(Parser)]
struct Options {
    /// Which seeds: A..B, or one
    #[arg(long, default_value = "0..100")]
    seeds: String,
    /// Shows what happened in each run
    #[arg(long)]
    trace: bool,
    /// Runs at a time
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Runs each seed twice and compares
    #[arg(long)]
    twice: bool,
    /// Leaves out a rule, which must fail; can be given several times: see --table for their names
    #[arg(long, value_parser = parse_rule)]
    off: Vec<Rule>,
    /// Adds flags, expiry, several keys at once, flushes and the meta protocol to what clients of random runs do
    #[arg(long)]
    wide: bool,
    /// Adds clocks that are seconds apart, backups, replaces and changes of their pace to what happens in random runs
    #[arg(long)]
    eventful: bool,
    /// Makes every second value large, so that it travels in parts
    #[arg(long)]
    large: bool,
    /// Runs one of the named schedules, or `all` of them, instead of random ones
    #[arg(long)]
    scenario: Option<String>,
    /// Leaves out each rule in turn, and tells after how many runs that was found; with --scenario, in the schedules that are
    /// known to find it quickly
    #[arg(long)]
    table: bool,
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let named = |rule: &Rule| format!("{rule:?}").eq_ignore_ascii_case(text);
    Rule::ALL.into_iter().find(named).ok_or_else(|| format!("there is no rule `{text}`"))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(seeds) = parse_range(&options.seeds) else {
        eprintln!("kumosim: `{}` is no range of seeds: write A..B, or one number", options.seeds);
        return ExitCode::from(2);
    };
    let wanted = |s: &&Scenario| options.scenario.as_ref().is_some_and(|name| name == "all" || name == s.name);
    let scenarios: Vec<&Scenario> = scenario::all().filter(wanted).collect();
    if let (Some(name), true) = (&options.scenario, scenarios.is_empty()) {
        eprintln!("kumosim: there is no schedule `{name}`; there are:");
        scenario::all().for_each(|s| eprintln!("  {:<20} {}", s.name, s.story));
        return ExitCode::from(2);
    }
    if options.table {
        let of_schedules = !scenarios.is_empty();
        return table(&seeds, options.jobs, &if of_schedules { trials_of(&scenarios) } else { all_trials() });
    }
    let (next, failed, stop) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicBool::new(false));
    let (operations, unknown, undecided) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (ran, virtual_ms, attached) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                rule::leave_out(&options.off);
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let scenario = scenarios.get(seed as usize % scenarios.len().max(1));
                    let plan = match scenario {
                        Some(scenario) if options.large => scenario.plan(seed).large(),
                        Some(scenario) => scenario.plan(seed),
                        None => draw(seed, &options),
                    };
                    let report = plan.run(options.trace);
                    ran.fetch_add(1, Ordering::Relaxed);
                    attached.fetch_add(u64::from(report.attached), Ordering::Relaxed);
                    operations.fetch_add(report.operations as u64, Ordering::Relaxed);
                    unknown.fetch_add(report.unknown as u64, Ordering::Relaxed);
                    undecided.fetch_add(u64::from(report.undecided), Ordering::Relaxed);
                    virtual_ms.fetch_add(report.virtual_ms, Ordering::Relaxed);
                    if options.twice {
                        let again = plan.run(false);
                        if (again.packets, again.operations) != (report.packets, report.operations) {
                            println!("seed {seed} differs from itself: {report:?} {again:?}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    show(&plan, &report, options.trace);
                    if report.failure.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        stop.fetch_or(!options.keep_going, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!(
        "{} seeds, {failed} failed, {} needed an operator, {} undecided, {} operations, {} unknown, {} s of virtual time in {:.1} s",
        ran.into_inner(),
        attached.into_inner(),
        undecided.into_inner(),
        operations.into_inner(),
        unknown.into_inner(),
        virtual_ms.into_inner() / 1000,
        began.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn draw(seed: u64, options: &Options) -> Plan {
    let plan = if options.wide { Plan::draw(seed).widened() } else { Plan::draw(seed) };
    let plan = if options.large { plan.large() } else { plan };
    if options.eventful { plan.eventful() } else { plan }
}

/// Rules to be left out together, and the schedule that tries it, if it is one alone.
type Trial = (Vec<Rule>, Option<&'static Scenario>);

/// Each rule, with the one that it stands behind.
fn all_trials() -> Vec<Trial> {
    let of = |rule: &Rule| (std::iter::once(*rule).chain(rule.stands_behind()).collect(), None);
    Rule::ALL.iter().map(of).collect()
}

/// What these schedules are known to find.
fn trials_of(scenarios: &[&'static Scenario]) -> Vec<Trial> {
    let trial = |(rules, name): &(&[Rule], &str)| {
        let scenario = scenarios.iter().find(|s| s.name == *name);
        scenario.map(|scenario| (rules.to_vec(), Some(*scenario)))
    };
    FOUND.iter().filter_map(trial).collect()
}

/// What is left out in each trial: after how many runs one failed, and of what.
fn table(seeds: &Range<u64>, jobs: usize, trials: &[Trial]) -> ExitCode {
    let scenarios: Vec<&Scenario> = scenario::all().collect();
    let next = AtomicU64::new(0);
    let missed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((off, scenario)) = trials.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    rule::leave_out(off);
                    let off = off.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>().join(" with ");
                    let mut runs = 0;
                    let found = seeds.clone().find_map(|seed| {
                        let named = scenario.unwrap_or(scenarios[seed as usize % scenarios.len()]);
                        // Without a schedule of its own: random runs and named schedules in turn.
                        let random = scenario.is_none().then(|| (Plan::draw(seed).widened(), "a random run"));
                        random.into_iter().chain([(named.plan(seed), named.name)]).find_map(|(plan, name)| {
                            runs += 1;
                            plan.run(false).failure.map(|failure| (name, failure))
                        })
                    });
                    match found {
                        Some((name, failure)) => {
                            let what = failure.to_string();
                            let what = what.split(':').next().unwrap_or_default().to_owned();
                            println!("| {off} | {runs} | {name}: {what} |");
                        }
                        None => {
                            missed.fetch_add(1, Ordering::Relaxed);
                            println!("| {off} | not in {runs} | |");
                        }
                    }
                }
            });
        }
    });
    if missed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(plan: &Plan, report: &Report, traced: bool) {
    if report.failure.is_none() && !traced {
        if report.undecided {
            println!("seed {}: undecided", plan.seed);
        }
        return;
    }
    let mut text = format!("seed {}: {:?}\n", plan.seed, plan.shape);
    for (at, act) in &plan.script {
        text += &format!("{at:>8} ms {act}\n");
    }
    for line in &report.trace {
        text += line;
        text.push('\n');
    }
    match &report.failure {
        Some(failure) => text += &format!("seed {}: {failure}\n", plan.seed),
        None => text += &format!("seed {}: well, {} operations\n", plan.seed, report.operations),
    }
    print!("{text}");
}

fn parse_range(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => text.parse().ok().map(|seed: u64| seed..seed + 1),
    }
}
