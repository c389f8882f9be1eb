//! The text log: one line for each event, `YYYY-MM-DD HH:MM:SS.mmm LEVEL message`, in local time; or a JSON object.
//!
//! Operators grep these lines and scripts wait for them, so a line is written at once and whole, and whatever a
//! message quotes from the network cannot begin a line of its own. Colour is for terminals only. Nobody waits for
//! the log: see [`super::queue`]. The same warning again and again is counted ([`super::repeats`]).

use super::cmdline::one_line;
use super::queue::{Queue, Target};
use super::repeats::Repeats;
use serde_json::{Map, Value, json};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// The variable that sets the level, whatever `--verbose` says: off, error, warn, info, debug or trace.
pub const LEVEL_VARIABLE: &str = "KUMO_LOG_LEVEL";

/// The level, for as long as the process runs.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// The level of the log, as `kumoctl ADDR config` shows it.
pub fn level() -> String {
    let level = LEVEL.get().and_then(reload::Handle::clone_current).unwrap_or(LevelFilter::OFF);
    level.to_string()
}

/// Changes the level of the log.
///
/// # Errors
/// A line that says what may be set.
pub fn set_level(level: &str) -> Result<(), String> {
    let level = read_level(level)?;
    let handle = LEVEL.get().ok_or("nothing is logged")?;
    handle.reload(level).map_err(|e| e.to_string())
}

fn read_level(level: &str) -> Result<LevelFilter, String> {
    let read = LevelFilter::from_str(level).ok().filter(|_| level.parse::<u8>().is_err() && !level.is_empty());
    read.ok_or_else(|| format!("a level is off, error, warn, info, debug or trace, not '{level}'"))
}

/// What a line of the log looks like.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum Format {
    /// Time, level and message.
    #[default]
    Text,
    /// An object with these and the event's other fields.
    Json,
}

/// Starts logging. `path` is what `--log` names: nothing or `-` for standard output, of which only nothing may come
/// in colour, and only on a terminal. The error is a line for the user.
pub fn start(path: Option<&Path>, verbose: bool, format: Format, colour_allowed: bool) -> Result<Queue, String> {
    let level = match std::env::var(LEVEL_VARIABLE) {
        Ok(level) if !level.is_empty() => LevelFilter::from_str(&level)
            .map_err(|_| format!("{LEVEL_VARIABLE} must be off, error, warn, info, debug or trace, not '{level}'"))?,
        _ if verbose => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    let target = target(path);
    let colour = colour_allowed && format == Format::Text && path.is_none() && io::stdout().is_terminal();
    let note = if format == Format::Json { drop_note_json } else { drop_note };
    let queue = Queue::open(target.clone(), note)
        .map_err(|e| format!("cannot open the log {target}: {e}; name another with --log (-o)"))?;
    let (filter, handle) = reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colour)
        .event_format(Line { colour, format, repeats: Repeats::default() })
        .with_writer(QueueWriter(queue.clone()));
    let _ = LEVEL.set(handle);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(lines))
        .map_err(|_| "logging was started twice".to_owned())?;
    Ok(queue)
}

/// What `--log` names.
pub fn target(path: Option<&Path>) -> Target {
    match path {
        Some(path) if path != Path::new("-") => Target::File(path.to_owned()),
        _ => Target::Stdout,
    }
}

fn drop_note(dropped: u64) -> Vec<u8> {
    format!("{} WARN {dropped} lines were lost because the log was written too slowly\n", Now).into_bytes()
}

fn drop_note_json(dropped: u64) -> Vec<u8> {
    let message = "lines were lost because the log was written too slowly";
    let fields = Map::from_iter([("lost".to_owned(), json!(dropped))]);
    format!("{}\n", object(Level::WARN, message, fields)).into_bytes()
}

/// An event as JSON. Time and level are named as in most collectors of logs.
fn object(level: Level, message: &str, fields: Map<String, Value>) -> Value {
    let mut object = Map::new();
    object.insert("time".to_owned(), json!(Now.to_string()));
    object.insert("unix_ms".to_owned(), json!(unix_millis()));
    object.insert("level".to_owned(), json!(level.as_str()));
    object.insert("message".to_owned(), json!(message));
    for (name, value) in fields {
        object.entry(name).or_insert(value);
    }
    Value::Object(object)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Displays the time, local, to the millisecond.
struct Now;

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Before 1970 the clock is simply wrong; any time will do.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tm = super::local_time(since.as_secs());
        let (year, month) = (tm.tm_year + 1900, tm.tm_mon + 1);
        write!(f, "{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}", tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec)?;
        write!(f, ".{:03}", since.subsec_millis())
    }
}

/// Formats an event as a line.
struct Line {
    colour: bool,
    format: Format,
    /// Of warnings and errors: everything else is asked for.
    repeats: Repeats,
}

impl Line {
    /// How often this was left out before, or nothing if it is to be left out, too.
    fn repeated(&self, level: Level, text: impl FnOnce() -> String) -> Option<u64> {
        if level > Level::WARN {
            return Some(0);
        }
        self.repeats.say(&text(), Instant::now())
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        if self.format == Format::Json {
            let mut members = Members::default();
            event.record(&mut members);
            let Some(repeated) = self.repeated(level, || format!("{}{:?}", members.message, members.fields)) else {
                return Ok(());
            };
            if repeated > 0 {
                members.fields.insert("repeated".to_owned(), json!(repeated));
            }
            return writeln!(out, "{}", object(level, &members.message, members.fields));
        }
        let mut text = Text::default();
        event.record(&mut text);
        let mut message = one_line(&format!("{}{}", text.message, text.fields));
        let Some(repeated) = self.repeated(level, || message.clone()) else { return Ok(()) };
        if repeated > 0 {
            write!(message, " repeated={repeated}")?;
        }
        match self.colour.then(|| colour_of(level)).flatten() {
            Some(colour) => writeln!(out, "\x1b[{colour}m{Now} {level} {message}\x1b[0m"),
            None => writeln!(out, "{Now} {level} {message}"),
        }
    }
}

/// The terminal's number for the colour of a level; the usual level has none.
fn colour_of(level: Level) -> Option<u8> {
    match level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => None,
        _ => Some(90),
    }
}

/// Collects an event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Collects an event's message, and its other fields as members of an object.
#[derive(Default)]
struct Members {
    message: String,
    fields: Map<String, Value>,
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => drop(self.fields.insert(name.to_owned(), json!(format!("{value:?}")))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }
}

/// Hands each formatted line to the queue.
struct QueueWriter(Queue);

/// A line on its way to the queue.
struct LineWriter<'a>(&'a Queue);

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(&self.0)
    }
}

impl Write for LineWriter<'_> {
    // The subscriber writes each event in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One that is left out is empty.
        if !line.is_empty() {
            self.0.write(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn logged(colour: bool, log: impl FnOnce()) -> Vec<String> {
        logged_as(Line { colour, format: Format::Text, repeats: Repeats::default() }, log)
    }

    fn logged_as(line: Line, log: impl FnOnce()) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let queue = Queue::open(Target::File(path.clone()), drop_note).unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .event_format(line)
            .with_writer(QueueWriter(queue.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        assert!(queue.flush(Duration::from_secs(20)));
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn levels_have_names_only() {
        assert_eq!(read_level("warn"), Ok(LevelFilter::WARN));
        assert_eq!(read_level("OFF"), Ok(LevelFilter::OFF));
        for wrong in ["", "3", "loud", "warn,info"] {
            assert!(read_level(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_is_time_level_and_message() {
        let lines = logged(false, || {
            tracing::info!("start manager 127.0.0.1:19700");
            tracing::warn!(attempts = 3, "lost node 1 {}", "10.0.0.1:19800");
            tracing::debug!("not shown");
        });
        assert_eq!(lines.len(), 2);
        let (time, rest) = lines[0].split_at(23);
        assert_eq!(rest, " INFO start manager 127.0.0.1:19700");
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "9999-99-99 99:99:99.999");
        assert_eq!(&lines[1][23..], " WARN lost node 1 10.0.0.1:19800 attempts=3");
    }

    #[test]
    fn what_comes_from_outside_stays_within_its_line() {
        let lines = logged(false, || tracing::error!("bad key {}", "a\n2026-01-01 ERROR \x1b[31mforged\0"));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(r" ERROR bad key a\n2026-01-01 ERROR \u{1b}[31mforged\u{0}"), "{}", lines[0]);
    }

    #[test]
    fn colour_surrounds_the_line_where_it_is_wanted() {
        let lines = logged(true, || tracing::warn!("careful"));
        assert!(lines[0].starts_with("\x1b[33m") && lines[0].ends_with(" WARN careful\x1b[0m"), "{}", lines[0]);
    }

    #[test]
    fn as_json_each_line_is_an_object_whatever_comes_from_outside() {
        let lines = logged_as(Line { colour: false, format: Format::Json, repeats: Repeats::default() }, || {
            tracing::warn!(attempts = 3, peer = "a", "lost node 1 {}", "x\ny\"z");
        });
        let object: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((lines.len(), &object["level"]), (1, &json!("WARN")));
        assert_eq!((&object["message"], &object["attempts"]), (&json!("lost node 1 x\ny\"z"), &json!(3)));
        assert!(object["unix_ms"].as_u64() > Some(1_600_000_000_000) && object["peer"] == "a", "{object}");
        let note: Value = serde_json::from_slice(&drop_note_json(5)).unwrap();
        assert_eq!((&note["lost"], &note["level"]), (&json!(5), &json!("WARN")));
    }

    #[test]
    fn the_same_warning_again_and_again_is_a_few_lines() {
        for format in [Format::Text, Format::Json] {
            let lines = logged_as(Line { colour: false, format, repeats: Repeats::default() }, || {
                for n in 0..50 {
                    tracing::error!(disk = "a", "cannot store");
                    tracing::error!(disk = "b", "cannot store");
                    tracing::info!("asked for");
                    tracing::warn!("number {n}");
                }
            });
            let count = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
            assert_eq!((count("cannot store"), count("asked for"), count("number")), (40, 50, 50), "{lines:?}");
        }
    }

    #[test]
    fn a_dash_is_standard_output() {
        assert_eq!(target(None), Target::Stdout);
        assert_eq!(target(Some(Path::new("-"))), Target::Stdout);
        assert_eq!(target(Some(Path::new("x"))), Target::File("x".into()));
    }
}
