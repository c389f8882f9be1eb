//! `kumobench`: a closed-loop load generator for the memcached text protocol.
//!
//! Each connection keeps a number of requests in flight and sends the next when an answer has come, so the load
//! follows what the server bears. Every answer is verified. The generator costs little itself, so that it can share
//! a small machine with what it measures; what it costs is shown beside the results.
//!
//! Start with `load` (what is asked), then `answers` (what comes back), `client` (how it is sent and timed), `cpu`
//! and `report`.

mod answers;
mod client;
mod cpu;
mod load;
mod report;
mod wire;

use clap::Parser;
use client::{Client, Run, Tally};
use load::{Chance, Load, Op, Source};
use report::{Figures, Measured, Target};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use wire::{Connected, Place};

/// How long answers are waited for when a timed run has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long filling waits for an answer.
const FILL_PATIENCE: Duration = Duration::from_secs(30);
/// How long connecting may take at the beginning.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections and depth for filling: enough to be quick with any server.
const FILL_CONNECTIONS: u32 = 16;
/// See [`FILL_CONNECTIONS`].
const FILL_DEPTH: u32 = 32;

/// Load a memcached server (text protocol) and say what it bears
///
/// Results are medians over the rounds, sums of errors and misses, and the longest of all gaps between two good
/// answers. A multi-get counts as one operation. Every answer is checked against what kumobench stores.
#[derive(Parser, Clone, Debug, serde::Serialize)]
#[command(name = "kumobench", version, args_override_self = true)]
pub struct Options {
    /// The server
    #[arg(value_name = "ADDR:PORT|unix:PATH")]
    pub target: String,
    /// What to ask for
    #[arg(long, value_enum, default_value = "get")]
    op: Op,
    /// Number of connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Requests that each connection keeps in flight
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,
    /// Number of different keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u32,
    /// Length of a key in bytes
    #[arg(long, value_name = "B", default_value_t = 20)]
    key_size: u32,
    /// Length of a value in bytes
    #[arg(long, value_name = "B", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=128 << 20))]
    value_size: u32,
    /// Keys of a multi-get
    #[arg(long, value_name = "N", default_value_t = 20)]
    mget_keys: u32,
    /// Share of sets in a mix, from 0 to 1
    #[arg(long, value_name = "R", default_value_t = 0.1, value_parser = parse_share)]
    set_ratio: f64,
    /// How much the keys asked for differ: the exponent of Zipf's law, 0 for all alike
    #[arg(long, value_name = "E", default_value_t = 0.0, value_parser = parse_exponent)]
    skew: f64,
    /// Length of a round in seconds
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_seconds)]
    duration: f64,
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Store all keys first (the default for everything but sets)
    #[arg(long, overrides_with = "no_fill")]
    #[serde(skip)]
    fill: bool,
    /// Do not store the keys first; values of other programs count as errors
    #[arg(long)]
    no_fill: bool,
    /// A second server, measured in turn with the first
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    compare: Option<String>,
    /// Processes of the server, whose CPU time per operation is shown
    #[arg(long, value_name = "P,...", value_delimiter = ',')]
    pids: Vec<u32>,
    /// Processes of the second server
    #[arg(long, value_name = "P,...", value_delimiter = ',', requires = "compare")]
    compare_pids: Vec<u32>,
    /// Threads that send; connections are dealt out among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// Why there are no results; each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Options that do not fit together.
    #[error("{0}")]
    Options(String),
    /// The server's name means nothing.
    #[error("cannot resolve {0}: {1}; write it as HOST:PORT or unix:PATH")]
    Resolve(String, String),
    /// Nobody answers there.
    #[error("cannot connect to {0}: {1}; {2}")]
    Connect(Place, std::io::Error, &'static str),
    /// A watched process is not there.
    #[error("no process {0}: it must run when the measurement begins")]
    NoProcess(u32),
    /// Storing the keys failed.
    #[error("cannot store the keys at {0}: {1}")]
    Fill(Place, String),
    /// A whole round without one good answer.
    #[error("no good answer from {0}: {1}")]
    NoAnswer(Place, String),
    /// The system refuses what a measurement needs.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 1e6 => Ok(s),
        _ => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

fn parse_exponent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(e) if (0.0..=10.0).contains(&e) => Ok(e),
        _ => Err("a number from 0 to 10 is needed".to_owned()),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(r) if (0.0..=1.0).contains(&r) => Ok(r),
        _ => Err("a number from 0 to 1 is needed".to_owned()),
    }
}

/// A server under load.
struct Side {
    name: String,
    place: Place,
    pids: Vec<u32>,
    rounds: Vec<Figures>,
    first_error: Option<String>,
}

impl Side {
    fn new(name: &str, pids: &[u32]) -> Result<Side, BenchError> {
        let unresolved = |why: String| BenchError::Resolve(name.to_owned(), why);
        let place = Place::resolve(name).map_err(|e| unresolved(e.to_string()))?;
        let missing = pids.iter().zip(cpu::usages(pids)).find(|(_, usage)| usage.is_none());
        match missing {
            Some((pid, _)) => Err(BenchError::NoProcess(*pid)),
            None => Ok(Side { name: name.to_owned(), place, pids: pids.to_vec(), rounds: vec![], first_error: None }),
        }
    }
}

/// Measures as `options` say and prints the results on stdout; on a terminal, progress on stderr.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let targets = measure(options)?;
    let text = match options.json {
        true => report::json(options, &targets).expect("figures and options have string keys only") + "\n",
        false => heading(options) + &report::table(&targets),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(BenchError::System("writing the results", e)),
        _ => Ok(()),
    }
}

fn heading(o: &Options) -> String {
    let op = match o.op {
        Op::Get => "get".to_owned(),
        Op::Set => "set".to_owned(),
        Op::Mget => format!("get of {} keys", o.mget_keys),
        Op::Mix => format!("get and {:.0} % set", o.set_ratio * 100.0),
    };
    format!(
        "{op}: {} connections x {} in flight, {} keys of {} bytes, values of {} bytes, {} x {} s\n",
        o.connections, o.depth, o.keys, o.key_size, o.value_size, o.rounds, o.duration
    )
}

/// Fills and runs all rounds, the targets in turn.
fn measure(options: &Options) -> Result<Vec<Target>, BenchError> {
    let mget_keys = if options.op == Op::Mget { options.mget_keys } else { 1 };
    let load = Load::new(options.keys, options.key_size as usize, options.value_size as usize, mget_keys)
        .map_err(BenchError::Options)?
        .skewed(options.skew);
    let mut sides = vec![Side::new(&options.target, &options.pids)?];
    if let Some(compare) = &options.compare {
        sides.push(Side::new(compare, &options.compare_pids)?);
    }
    if options.fill || (options.op != Op::Set && !options.no_fill) {
        for side in &sides {
            fill(side, &load)?;
        }
    }
    for round in 0..options.rounds {
        for side in &mut sides {
            measure_round(side, &load, options, round)?;
        }
    }
    let target = |s: Side| {
        let result = Figures::folded(&s.rounds);
        Target { target: s.name, rounds: s.rounds, result, first_error: s.first_error }
    };
    Ok(sides.into_iter().map(target).collect())
}

/// Stores every key once.
fn fill(side: &Side, load: &Load) -> Result<(), BenchError> {
    let connections = FILL_CONNECTIONS.min(load.keys());
    let bound = |i: u32| (u64::from(load.keys()) * u64::from(i) / u64::from(connections)) as u32;
    let sources = (0..connections).map(|i| Source::Fill(bound(i)..bound(i + 1))).collect();
    let (tally, _) = drive(side, load, FILL_DEPTH, sources, 1, None, "filling")?;
    if tally.latency.len() == u64::from(load.keys()) {
        return Ok(());
    }
    let why = tally.first_error.unwrap_or_else(|| "not all were answered".to_owned());
    Err(BenchError::Fill(side.place.clone(), why))
}

fn measure_round(side: &mut Side, load: &Load, options: &Options, round: u32) -> Result<(), BenchError> {
    let set_share = (options.set_ratio * (1u64 << 32) as f64) as u64;
    let source = |i: u32| {
        let chance = Chance((u64::from(round) << 32 | u64::from(i)).wrapping_mul(0x2545_f491_4f6c_dd1d));
        Source::Random { op: options.op, set_share, chance }
    };
    let sources = (0..options.connections).map(source).collect();
    let duration = Duration::from_secs_f64(options.duration);
    let label = format!("round {}/{}", round + 1, options.rounds);
    let before = cpu::usages(&side.pids);
    let own_before = cpu::own_usage();
    let (mut tally, idle) = drive(side, load, options.depth, sources, options.threads, Some(duration), &label)?;
    let client_cpu = cpu::own_usage().saturating_sub(own_before);
    let after = cpu::usages(&side.pids);
    if tally.latency.is_empty() {
        let why = tally.first_error.unwrap_or_else(|| format!("none in {} s", options.duration));
        return Err(BenchError::NoAnswer(side.place.clone(), why));
    }
    tally.longest_gap = tally.longest_gap.max(idle);
    let processes_lost = before.iter().zip(&after).filter(|(b, a)| b.is_none() || a.is_none()).count();
    let cpu_by_name = cpu::used_by_name(&before, &after);
    let measured = Measured { duration, cpu_by_name, processes_lost, client_cpu };
    side.rounds.push(Figures::new(&tally, &measured, options.op == Op::Mget));
    side.first_error = side.first_error.take().or(tally.first_error);
    Ok(())
}

/// Makes the connections, lets them work, and returns what they counted, and how long before the end the last good
/// answer came.
fn drive(
    side: &Side,
    load: &Load,
    depth: u32,
    sources: Vec<Source>,
    threads: u32,
    duration: Option<Duration>,
    label: &str,
) -> Result<(Tally, Duration), BenchError> {
    let streams = sources.iter().map(|_| connect(&side.place)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let run = Arc::new(Run {
        target: side.place.clone(),
        load: load.clone(),
        depth: depth as usize,
        start,
        deadline: duration.map(|d| start + d),
        last_good_ns: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    });
    let tallies: Vec<_> = (0..threads).map(|_| Arc::new(Mutex::new(Tally::new()))).collect();
    let mut clients: Vec<Vec<_>> = tallies.iter().map(|_| Vec::new()).collect();
    for (i, (source, stream)) in sources.into_iter().zip(streams).enumerate() {
        let thread = i % tallies.len();
        clients[thread].push((Client::new(run.clone(), tallies[thread].clone(), source), stream));
    }
    let (alive, ended) = mpsc::channel::<()>();
    let mut handles = Vec::new();
    for clients in clients {
        let (run, alive) = (run.clone(), alive.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| BenchError::System("starting a runtime", e))?;
        handles.push(std::thread::spawn(move || {
            runtime.block_on(client::drive(&run, clients, DRAIN, FILL_PATIENCE));
            drop(alive);
        }));
    }
    drop(alive);
    show_progress(&run, &tallies, &ended, label);
    for handle in handles {
        handle.join().expect("a load thread does not panic");
    }
    let end = duration.unwrap_or_else(|| start.elapsed());
    let idle = end.saturating_sub(Duration::from_nanos(run.last_good_ns.load(Ordering::Relaxed)));
    let mut total = Tally::new();
    for tally in &tallies {
        let mut tally = tally.lock().expect("no holder of a tally panics");
        tally.close();
        total.add(&tally);
    }
    Ok((total, idle))
}

fn connect(place: &Place) -> Result<Connected, BenchError> {
    place.connect_within(CONNECT_TIMEOUT).map_err(|e| {
        let advice = match e.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => "allow more open files (ulimit -n)",
            _ => "is the server running?",
        };
        BenchError::Connect(place.clone(), e, advice)
    })
}

/// Waits until all threads have ended; on a terminal, shows every second how it goes.
fn show_progress(run: &Run, tallies: &[Arc<Mutex<Tally>>], ended: &mpsc::Receiver<()>, label: &str) {
    let terminal = std::io::stderr().is_terminal();
    let mut before = 0;
    while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_secs(1)) {
        if !terminal {
            continue;
        }
        let (mut good, mut errors) = (0, 0);
        for tally in tallies {
            let tally = tally.lock().expect("no holder of a tally panics");
            good += tally.latency.len();
            errors += tally.errors;
        }
        let secs = run.start.elapsed().as_secs();
        show(format_args!("\r\x1b[K{label}  {secs} s  {}  {} ops/s  {errors} errors", run.target, good - before));
        before = good;
    }
    if terminal {
        show(format_args!("\r\x1b[K"));
    }
}

/// Writes to the terminal; one that has gone away is no reason to stop.
fn show(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

#[cfg(test)]
mod tests;
