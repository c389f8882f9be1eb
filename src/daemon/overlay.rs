//! Options that the environment and a TOML file set.
//!
//! Both are turned into the words that would say the same on a command line; [`super::cmdline`] checks and merges them.

use super::argv::spell;
use super::cmdline::{Environment, takes_value};
use super::values::{ListenOn, Size};
use clap::{Arg, ArgAction, Command};
use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;
use toml::Value;

/// The largest file that is read, in bytes: none is this long on purpose.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An option that was set somewhere.
#[derive(Debug)]
pub struct Setting {
    /// Its long name.
    pub long: String,
    /// Where it was set, for errors.
    pub place: String,
    /// What says the same on a command line; none for a flag that is off.
    pub words: Vec<OsString>,
}

/// The variable for an option: `KUMO_`, then its long name in capitals with underscores.
pub fn variable_of(long: &str) -> String {
    format!("KUMO_{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// What the environment sets. An empty variable counts as none.
pub fn from_environment(command: &Command, environment: Environment<'_>) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for (long, arg) in settable(command) {
        let place = variable_of(long);
        let Some(value) = environment(&place).filter(|value| !value.is_empty()) else { continue };
        let words = if takes_value(arg) {
            // Several values, where an option may be given several times, stand with commas between them.
            match (arg.get_action(), value.to_str()) {
                (ArgAction::Append, Some(list)) => {
                    list.split(',').map(|v| spell(long, Some(OsStr::new(v.trim())))).collect()
                }
                _ => vec![spell(long, Some(&value))],
            }
        } else {
            match value.to_str().map(str::to_ascii_lowercase).as_deref() {
                Some("1" | "true" | "yes" | "on") => vec![spell(long, None)],
                Some("0" | "false" | "no" | "off") => Vec::new(),
                _ => return Err(format!("{place}: bad value '{}'; write true or false", value.display())),
            }
        };
        settings.push(Setting { long: long.to_owned(), place, words });
    }
    Ok(settings)
}

/// What a file sets.
pub fn from_file(command: &Command, path: &Path) -> Result<Vec<Setting>, String> {
    let shown = path.display().to_string();
    let text = read(path).map_err(|e| format!("{shown}: cannot read the configuration: {e}"))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line =
            e.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.matches('\n').count() + 1);
        format!("{shown}:{line}: {}", e.message().lines().next().unwrap_or("no TOML"))
    })?;
    let mut settings = Vec::new();
    for (key, value) in table {
        let Some((long, arg)) = settable(command).find(|(long, _)| *long == key) else {
            let program = command.get_name();
            return Err(format!("{shown}: unknown key '{key}'; keys are the long names of {program}'s options"));
        };
        let words = words_for(long, arg, &value).map_err(|line| format!("{shown}: {line}"))?;
        settings.push(Setting { long: key, place: shown.clone(), words });
    }
    Ok(settings)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let length = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}

/// All options but those that make no sense in a file or the environment.
fn settable(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    named.filter(|(long, _)| !matches!(*long, "help" | "version" | "config" | "test-config"))
}

/// The words for a value of a file, if it has the type that the option wants.
fn words_for(long: &str, arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    if !takes_value(arg) {
        return match value {
            Value::Boolean(true) => Ok(vec![spell(long, None)]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => Err(format!("{long} must be true or false, not {}", kind(value))),
        };
    }
    let values = match value {
        Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    values.iter().map(|v| Ok(spell(long, Some(OsStr::new(&value_text(long, arg, v)?))))).collect()
}

/// Writes a value as one would on the command line. Types are as strict as the option: numbers are no strings.
fn value_text(long: &str, arg: &Arg, value: &Value) -> Result<String, String> {
    let wanted = arg.get_value_parser().type_id();
    let is = |types: &[TypeId]| types.iter().any(|t| wanted == *t);
    let whole = is(&[TypeId::of::<u16>(), TypeId::of::<u32>()]);
    let seconds = is(&[TypeId::of::<Duration>()]);
    let number_or_text = is(&[TypeId::of::<ListenOn>(), TypeId::of::<Size>()]);
    match value {
        Value::Integer(n) if whole || seconds || number_or_text => Ok(n.to_string()),
        Value::Float(s) if seconds => Ok(s.to_string()),
        Value::String(s) if !whole && !seconds => Ok(s.clone()),
        _ => {
            let wanted = match (whole, seconds, number_or_text) {
                (true, _, _) => "a whole number",
                (_, true, _) => "a number of seconds",
                (_, _, true) => "a number or a string",
                _ => "a string",
            };
            Err(format!("{long} must be {wanted}, not {}", kind(value)))
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
