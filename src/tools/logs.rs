//! kumolog: a binary log as text, from its beginning, its end, or as it grows.
//!
//! Damaged stretches are skipped, and a note on standard error says where. [`Scan`] and the rendering are pure. Source:
//! `doc/guide.md`, "kumolog"; the format: `doc/protocol.md`, "Binary log".

use super::{Trouble, print, ruby_time};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::proto::binlog::{self, Record, Step, Value};
use clap::{ArgAction, Parser};
use serde_json::{Map, json};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many records `-t` and `-h` show without `-n`.
const USUAL_LINES: i64 = 10;
/// How much is read at a time, in bytes.
const CHUNK: usize = 64 << 10;
/// How often a growing file is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Shows binary logs as text.
#[derive(Parser, Debug)]
#[command(name = "kumolog", version, disable_help_flag = true)]
pub struct Options {
    /// Go on as the file grows, also when it is replaced, as `tail -F`
    #[arg(short, long)]
    follow: bool,
    /// Only the last records, 10 without -n
    #[arg(short, long, conflicts_with = "head")]
    tail: bool,
    /// Only the first records, 10 without -n
    #[arg(short = 'h', long)]
    head: bool,
    /// How many records; with -h, -N means all but the last N. Without -t and -h, the last ones
    #[arg(short = 'n', long, value_name = "[-]N", allow_hyphen_values = true)]
    lines: Option<i64>,
    /// Print each record as a JSON object
    #[arg(long)]
    json: bool,
    /// The log
    #[arg(value_name = "FILE.mpac")]
    file: PathBuf,
    /// Print this text
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Which records are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    All,
    First(usize),
    AllButLast(usize),
    Last(usize),
}

impl Options {
    fn part(&self) -> Part {
        let lines = self.lines.unwrap_or(USUAL_LINES);
        let count = usize::try_from(lines.unsigned_abs()).unwrap_or(usize::MAX);
        match (self.head, self.tail || self.follow || self.lines.is_some()) {
            (true, _) if lines < 0 => Part::AllButLast(count),
            (true, _) => Part::First(count),
            (false, true) => Part::Last(count),
            (false, false) => Part::All,
        }
    }
}

/// What was found in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Found {
    /// A record, as a line.
    Line(String),
    /// So many bytes at a place are no records.
    Damaged { at: u64, len: u64 },
}

/// Finds records in bytes that come in pieces.
#[derive(Debug)]
struct Scan {
    json: bool,
    bytes: Vec<u8>,
    /// Where `bytes` begins in the file.
    at: u64,
    /// A damaged stretch whose end is not reached.
    damaged: Option<(u64, u64)>,
}

impl Scan {
    fn new(json: bool) -> Scan {
        Scan { json, bytes: Vec::new(), at: 0, damaged: None }
    }

    /// Takes more bytes; `end`: no more will come.
    fn push(&mut self, bytes: &[u8], end: bool, out: &mut Vec<Found>) {
        self.bytes.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            let rest = &self.bytes[used..];
            let place = self.at + used as u64;
            let bad = match binlog::next(rest) {
                Step::Record(record, len) => {
                    let line = if self.json { as_json(&record) } else { as_text(&record, ruby_time::local_offset) };
                    note(&mut self.damaged, out);
                    out.push(Found::Line(line));
                    used += len;
                    continue;
                }
                Step::Incomplete if rest.is_empty() || !end => break,
                Step::Incomplete => binlog::next_after_cut(rest),
                Step::Damaged(len) => len,
            };
            let (at, before) = self.damaged.unwrap_or((place, 0));
            self.damaged = Some((at, before + bad as u64));
            used += bad;
        }
        self.bytes.drain(..used);
        self.at += used as u64;
        if end {
            note(&mut self.damaged, out);
        }
    }
}

fn note(damaged: &mut Option<(u64, u64)>, out: &mut Vec<Found>) {
    out.extend(damaged.take().map(|(at, len)| Found::Damaged { at, len }));
}

/// Chooses the records of a [`Part`] as they come.
struct Chooser {
    part: Part,
    shown: usize,
    kept: VecDeque<String>,
}

impl Chooser {
    fn new(part: Part) -> Chooser {
        Chooser { part, shown: 0, kept: VecDeque::new() }
    }

    fn take(&mut self, line: String, out: &mut String) {
        match self.part {
            Part::First(n) if self.shown >= n => {}
            Part::All | Part::First(_) => {
                self.shown += 1;
                out.push_str(&line);
            }
            Part::AllButLast(n) | Part::Last(n) => {
                self.kept.push_back(line);
                if self.kept.len() > n {
                    let first = self.kept.pop_front().unwrap_or_default();
                    if let Part::AllButLast(_) = self.part {
                        out.push_str(&first);
                    }
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        matches!(self.part, Part::First(n) if self.shown >= n)
    }

    /// The end of the file, as it is now.
    fn end(&mut self, out: &mut String) {
        if let Part::Last(_) = self.part {
            self.kept.drain(..).for_each(|line| out.push_str(&line));
        }
    }
}

/// Runs kumolog.
///
/// # Errors
/// When the file cannot be read.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let mut log = Log::open(options)?;
    let mut chooser = Chooser::new(options.part());
    let mut text = String::new();
    loop {
        let more = log.read(!options.follow, &mut |line| chooser.take(line, &mut text))?;
        if !more {
            chooser.end(&mut text);
        }
        if !print(&std::mem::take(&mut text)) || chooser.is_full() {
            return Ok(());
        }
        if !more {
            break;
        }
    }
    if options.follow { follow(&mut log) } else { Ok(()) }
}

/// Goes on as the file grows, until nobody reads.
fn follow(log: &mut Log<'_>) -> Result<(), Trouble> {
    loop {
        let mut text = String::new();
        let more = log.read(false, &mut |line| text.push_str(&line))?;
        if !text.is_empty() && !print(&text) {
            return Ok(());
        }
        if !more && !log.reopen_if_replaced()? {
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
}

/// A file that is read.
struct Log<'a> {
    path: &'a Path,
    file: File,
    scan: Scan,
    chunk: Vec<u8>,
}

impl Log<'_> {
    fn open(options: &Options) -> Result<Log<'_>, Trouble> {
        let path = options.file.as_path();
        let file = File::open(path).map_err(|e| Trouble::Failed(format!("cannot open {}: {e}", path.display())))?;
        if file.metadata()?.is_dir() {
            return Err(Trouble::Failed(format!("{} is a directory; name the file that -g wrote", path.display())));
        }
        Ok(Log { path, file, scan: Scan::new(options.json), chunk: vec![0; CHUNK] })
    }

    /// Reads a chunk; false at the end, as it is now. `last`: what is cut there is told as damage.
    fn read(&mut self, last: bool, line: &mut dyn FnMut(String)) -> Result<bool, Trouble> {
        let failed = |e| Trouble::Failed(format!("cannot read {}: {e}", self.path.display()));
        let len = self.file.read(&mut self.chunk).map_err(failed)?;
        self.found(len, last && len == 0, line);
        Ok(len > 0)
    }

    fn found(&mut self, len: usize, end: bool, line: &mut dyn FnMut(String)) {
        let mut found = Vec::new();
        self.scan.push(&self.chunk[..len], end, &mut found);
        for item in found {
            match item {
                Found::Line(text) => line(text),
                Found::Damaged { at, len } => {
                    eprintln!("kumolog: {}: {len} bytes at {at} are damaged, skipped", self.path.display());
                }
            }
        }
    }

    /// Whether another file has the name now, or this one was cut; then it is read from its beginning.
    fn reopen_if_replaced(&mut self) -> Result<bool, Trouble> {
        let now = self.file.metadata()?;
        // Between a rename and the daemon's reopening there is no file of that name.
        let Ok(named) = fs::metadata(self.path) else { return Ok(false) };
        let replaced = (named.dev(), named.ino()) != (now.dev(), now.ino());
        let cut = now.len() < self.scan.at + self.scan.bytes.len() as u64;
        if !replaced && !cut {
            return Ok(false);
        }
        self.found(0, true, &mut |_| ());
        self.file = File::open(self.path)?;
        self.scan = Scan::new(self.scan.json);
        Ok(true)
    }
}

/// What a record's name means.
fn message(name: &str) -> &'static str {
    match name {
        "SM" => "start manager",
        "SS" => "start server",
        "SW" => "start gateway",
        "nS" => "new server",
        "lS" => "lost server",
        "eP" => "unknown partner",
        "ers" => "replicate set failed",
        "erd" => "replicate delete failed",
        "eg" => "get failed",
        "es" => "set failed",
        "ed" => "delete failed",
        "lost" => "records lost",
        _ => "unknown record",
    }
}

/// A field's value as text: dates, addresses and hashes by their names, everything else as it is.
fn show(key: &str, value: &Value<'_>, offset_at: impl Fn(i64) -> i64) -> String {
    match (key, value) {
        ("time", Value::UInt(secs)) => {
            let secs = i64::try_from(*secs).unwrap_or(i64::MAX / 2);
            ruby_time::to_s(secs, offset_at(secs))
        }
        ("cktm", Value::UInt(version)) => ruby_time::timestamp_line(ClockTime(*version), offset_at),
        ("hash", Value::UInt(hash)) => format!("{hash:016x}"),
        ("addr" | "Padd" | "mgr1" | "mgr2" | "sadd" | "to", Value::Raw(raw)) => match Address::from_bytes(raw) {
            Some(address) => address.to_string(),
            None => escaped(raw),
        },
        (_, Value::Nil) => "nil".to_owned(),
        (_, Value::Bool(b)) => b.to_string(),
        (_, Value::UInt(n)) => n.to_string(),
        (_, Value::Int(n)) => n.to_string(),
        (_, Value::Raw(raw)) => escaped(raw),
        (_, Value::Other(raw)) => raw.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Text as it is; what would not print, and what would look like the end of the value, as escapes.
fn escaped(raw: &[u8]) -> String {
    let mut out = String::new();
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | ']' => out.extend(['\\', c]),
                c if c.is_control() => out.extend(c.escape_default()),
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// `NAME.VERSION  MESSAGE  k=[v]  k=[v]`
fn as_text(record: &Record<'_>, offset_at: impl Fn(i64) -> i64 + Copy) -> String {
    let name = record.name.to_string();
    let mut out = format!("{name}.{}  {}", record.version, message(&name));
    for (key, value) in &record.fields {
        let key = key.to_string();
        out.push_str(&format!("  {key}=[{}]", show(&key, value, offset_at)));
    }
    out.push('\n');
    out
}

/// An object; numbers stay numbers but for hashes, which JSON readers would round.
fn as_json(record: &Record<'_>) -> String {
    let name = record.name.to_string();
    let fields = record.fields.iter().map(|(key, value)| {
        let key = key.to_string();
        let value = match (key.as_str(), value) {
            ("hash" | "cktm", Value::UInt(n)) => json!(format!("{n:016x}")),
            (_, Value::UInt(n)) => json!(n),
            (_, Value::Int(n)) => json!(n),
            (_, Value::Bool(b)) => json!(b),
            (_, Value::Nil) => json!(null),
            (key, value) => json!(show(key, value, |_| 0)),
        };
        (key, value)
    });
    let fields: Map<_, _> = fields.collect();
    let message = message(&name);
    format!("{}\n", json!({"name": name, "version": record.version, "message": message, "fields": fields}))
}

#[cfg(test)]
mod tests;
