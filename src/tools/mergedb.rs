//! kumomergedb: merges databases of servers into one, by the newest version of each key.
//!
//! What it merges and by which rules: [`crate::store::merge`]. Here: its command line, how far it is, and an end by
//! a signal that leaves nothing behind. Source: `doc/guide.md`, "kumomergedb".

use super::Trouble;
use crate::daemon::store_spec::StoreSpec;
use crate::store::merge::{Order, Progress, Summary, Watcher, merge};
use clap::Parser;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How often a terminal is told how far it is.
const TERMINAL_EVERY: Duration = Duration::from_millis(200);
/// How often anything else is.
const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR_WIDTH: u64 = 30;
/// Most lines about damage.
const MAX_NOTES: u64 = 1000;

/// Merges databases of kumo-server into a new one: of each key the newest version.
#[derive(Parser, Debug)]
#[command(name = "kumomergedb", version)]
pub struct Options {
    /// The database that is made, as kumo-server's -s names it
    #[arg(value_name = "DEST")]
    dest: StoreSpec,
    /// Databases that are read: of both engines, backups, and files of kumofs 0.4 (.tch)
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<PathBuf>,
    /// Replace a database that is at DEST
    #[arg(long)]
    overwrite: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs kumomergedb.
///
/// # Errors
/// When nothing was made; [`Trouble::Failed`] also when something was damaged, and left out of what was made.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let order = Order {
        dest: options.dest.dir.clone(),
        engine: options.dest.engine,
        sources: options.sources.clone(),
        overwrite: options.overwrite,
    };
    let mut show = Show::new(&order, stop_on_signal()?);
    let merged = merge(&order, &mut show);
    show.clear();
    let summary = merged.map_err(|e| Trouble::Failed(e.to_string()))?;
    super::print(&if options.json { as_json(&order, &summary) } else { as_text(&order, &summary) });
    match summary.damaged() {
        0 => Ok(()),
        1 => Err(Trouble::Failed("1 damaged place was left out".to_owned())),
        n => Err(Trouble::Failed(format!("{n} damaged places were left out"))),
    }
}

/// Becomes true when this process is asked to end.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Trouble> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _within = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let told = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        told.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

fn as_text(order: &Order, summary: &Summary) -> String {
    let mut out = String::new();
    for had in &summary.sources {
        let damaged = if had.damaged > 0 { format!(", {} damaged", had.damaged) } else { String::new() };
        out.push_str(&format!("{}  ({}): {} records{damaged}\n", had.path.display(), had.kind, had.records));
    }
    let Summary { values, marks, bytes, .. } = summary;
    out.push_str(&format!("{}: {values} values and {marks} deletion marks, {bytes} bytes\n", order.dest.display()));
    out
}

fn as_json(order: &Order, summary: &Summary) -> String {
    let source = |had: &crate::store::merge::Had| {
        json!({
            "path": had.path.to_string_lossy(), "kind": had.kind, "records": had.records, "damaged": had.damaged,
        })
    };
    let made = json!({
        "dest": order.dest.to_string_lossy(),
        "values": summary.values,
        "marks": summary.marks,
        "bytes": summary.bytes,
        "damaged": summary.damaged(),
        "sources": summary.sources.iter().map(source).collect::<Vec<_>>(),
    });
    format!("{made}\n")
}

/// Tells how far it is: a bar on a terminal, a line now and then elsewhere.
struct Show {
    names: Vec<String>,
    dest: String,
    stop: Arc<AtomicBool>,
    is_terminal: bool,
    shown: Instant,
    has_bar: bool,
    notes: u64,
}

impl Show {
    fn new(order: &Order, stop: Arc<AtomicBool>) -> Show {
        Show {
            names: order.sources.iter().map(|path| path.display().to_string()).collect(),
            dest: order.dest.display().to_string(),
            stop,
            is_terminal: std::io::stderr().is_terminal(),
            shown: Instant::now(),
            has_bar: false,
            notes: 0,
        }
    }

    /// Takes the bar off the terminal.
    fn clear(&mut self) {
        if std::mem::take(&mut self.has_bar) {
            tell("\r\x1b[K");
        }
    }
}

/// Writes to standard error; that nobody reads it stops nothing.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

impl Watcher for Show {
    fn progress(&mut self, progress: Progress) -> bool {
        let every = if self.is_terminal { TERMINAL_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            let line = line(&progress, &self.names, &self.dest);
            if self.is_terminal {
                self.has_bar = true;
                tell(&format!("\r{} {line}\x1b[K", bar(&progress)));
            } else {
                tell(&format!("kumomergedb: {line}\n"));
            }
        }
        !self.stop.load(Ordering::Relaxed)
    }

    fn note(&mut self, line: &str) {
        self.clear();
        self.notes += 1;
        match self.notes.cmp(&MAX_NOTES) {
            std::cmp::Ordering::Less => tell(&format!("kumomergedb: {line}\n")),
            std::cmp::Ordering::Equal => tell("kumomergedb: and more like these\n"),
            std::cmp::Ordering::Greater => {}
        }
    }
}

fn percent(progress: &Progress) -> u64 {
    (progress.done * 100).checked_div(progress.total).unwrap_or(100).min(100)
}

fn bar(progress: &Progress) -> String {
    let full = percent(progress) * BAR_WIDTH / 100;
    (0..BAR_WIDTH).fold("[".to_owned(), |bar, i| bar + if i < full { "#" } else { " " }) + "]"
}

fn line(progress: &Progress, names: &[String], dest: &str) -> String {
    let (percent, records) = (percent(progress), progress.records);
    match progress.source {
        Some(n) => format!("{percent}% reading {}: {records} records", names.get(n).map_or("", String::as_str)),
        None => format!("{percent}% writing {dest}: {records} records"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_and_the_line_say_how_far_it_is() {
        let names = ["a".to_owned(), "b".to_owned()];
        let reading = Progress { source: Some(1), done: 5, total: 10, records: 7 };
        assert_eq!(line(&reading, &names, "d"), "50% reading b: 7 records");
        assert_eq!(bar(&reading), format!("[{}{}]", "#".repeat(15), " ".repeat(15)));
        let writing = Progress { source: None, done: 0, total: 0, records: 0 };
        assert_eq!(line(&writing, &names, "d"), "100% writing d: 0 records");
        assert_eq!(bar(&Progress { done: 12, total: 10, ..reading }), format!("[{}]", "#".repeat(30)));
    }

    #[test]
    fn the_options_are_as_servers_name_their_stores() {
        let parse = |args: &[&str]| Options::try_parse_from([&["kumomergedb"], args].concat());
        let options = parse(&["sled:d", "a", "b"]).unwrap();
        assert_eq!((options.dest.dir, options.sources), ("d".into(), vec!["a".into(), "b".into()]));
        assert!(parse(&["d"]).is_err() && parse(&[]).is_err() && parse(&["nosuch:d", "a"]).is_err());
    }
}
