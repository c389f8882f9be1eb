//! Options from the command line, the environment and a file, in this order of precedence.
//!
//! One rule gives all names: the option `--clock-interval` is the key `clock-interval` in the file and
//! `KUMO_CLOCK_INTERVAL` in the environment. What the file and the environment say is turned into words and put
//! before those of the command line, so that clap checks everything alike. What goes wrong is one line that names the
//! place. kumofs's short spellings are rewritten first: see [`super::argv`]. The options are in [`super::options`].

use super::argv::{Known, Shorts, Spelling};
use super::overlay;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

/// A set of options: a clap parser without short names, and the table of its short names.
pub trait Options: CommandFactory + FromArgMatches {
    /// Short spellings and the long names they stand for.
    const SHORTS: Shorts;

    /// Checks what concerns several options at once; the error is a line that says what and how to mend it.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Why a program ends before it began its work, or after it failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// `--help` or `--version`: the text for standard output.
    Answered(String),
    /// Wrong usage: a line for standard error; exit status 2.
    Usage(String),
    /// It cannot run: a line for standard error; exit status 1.
    Failed(String),
}

impl Ended {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Ended::Answered(_) => 0,
            Ended::Failed(_) => 1,
            Ended::Usage(_) => 2,
        }
    }

    /// Says it where it belongs, and gives the exit status.
    pub fn report(&self, program: &str) -> u8 {
        // Whoever closed the stream does not want to hear it, so a failed write is no failure.
        let _ = match self {
            Ended::Answered(text) => io::stdout().write_all(text.as_bytes()),
            Ended::Usage(line) | Ended::Failed(line) => writeln!(io::stderr(), "{program}: {}", one_line(line)),
        };
        self.status()
    }
}

/// The text with control characters escaped: one line, whatever was typed.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Long names and values of all options in effect, usual ones included.
pub type InEffect = Vec<(String, String)>;

/// Reads the options of this process.
pub fn parse_process<O: Options>() -> Result<(O, InEffect), Ended> {
    parse_told(std::env::args_os().skip(1).collect(), &|name| std::env::var_os(name))
}

/// Reads options from words (without the program's name), an environment, and the file that one of them names.
pub fn parse<O: Options>(words: Vec<OsString>, environment: Environment<'_>) -> Result<O, Ended> {
    parse_told(words, environment).map(|(options, _)| options)
}

/// The same, and tells what is in effect.
pub fn parse_told<O: Options>(words: Vec<OsString>, environment: Environment<'_>) -> Result<(O, InEffect), Ended> {
    let command = O::command();
    let program = command.get_name().to_owned();
    let usage = |line: String| Ended::Usage(format!("{line}; '{program} --help' lists the options"));
    let known: Vec<Known> = command.get_arguments().filter_map(known).collect();
    let spelling = Spelling { known: &known, shorts: O::SHORTS };
    let command = command.color(clap::ColorChoice::Never).mut_args(|arg| show_short(arg, &spelling));

    let words = spelling.rewrite(words).map_err(usage)?;
    let given: Vec<String> = words.iter().take_while(|w| *w != "--").filter_map(long_of).collect();
    let mut all = vec![OsString::from(&program)];
    if !given.iter().any(|long| long == "help" || long == "version") {
        let config = words.iter().rev().find_map(|w| w.to_str()?.strip_prefix("--config=").map(OsString::from));
        let lower = lower_words(&command, &spelling, config, environment).map_err(Ended::Usage)?;
        all.extend(lower.into_iter().filter(|(long, _)| !given.contains(long)).flat_map(|(_, words)| words));
    }
    all.extend(words);
    let read = command
        .clone()
        .try_get_matches_from(all)
        .and_then(|matches| Ok((O::from_arg_matches(&matches)?, in_effect(&command, &matches))));
    let (options, told) = read.map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ended::Answered(e.render().to_string()),
        _ => usage(describe(&e, &command, &spelling)),
    })?;
    options.check().map_err(usage)?;
    Ok((options, told))
}

/// Options that say what is to be done at once, and not how the daemon runs.
const NO_SETTINGS: [&str; 3] = ["help", "version", "test-config"];

fn in_effect(command: &Command, matches: &ArgMatches) -> InEffect {
    let named = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    named
        .filter(|(_, long)| !NO_SETTINGS.contains(long))
        .filter_map(|(arg, long)| {
            let id = arg.get_id().as_str();
            let value = if takes_value(arg) {
                let values = matches.get_raw(id)?;
                values.map(|value| one_line(&value.to_string_lossy())).collect::<Vec<_>>().join(" ")
            } else {
                matches.get_flag(id).to_string()
            };
            Some((long.to_owned(), value))
        })
        .collect()
}

/// The words that file and environment come to, by long name; the environment's replace the file's.
fn lower_words(
    command: &Command,
    spelling: &Spelling<'_>,
    config: Option<OsString>,
    environment: Environment<'_>,
) -> Result<BTreeMap<String, Vec<OsString>>, String> {
    let config = config.or_else(|| environment("KUMO_CONFIG").filter(|path| !path.is_empty()));
    let mut settings = match config {
        Some(path) => overlay::from_file(command, path.as_ref())?,
        None => Vec::new(),
    };
    settings.extend(overlay::from_environment(command, environment)?);
    let mut words = BTreeMap::new();
    for setting in settings {
        check_alone(command, spelling, &setting.words).map_err(|line| format!("{}: {line}", setting.place))?;
        words.insert(setting.long, setting.words);
    }
    Ok(words)
}

/// Checks words as if they were the only ones and no others required.
fn check_alone(command: &Command, spelling: &Spelling<'_>, words: &[OsString]) -> Result<(), String> {
    let relaxed = command.clone().mut_args(|arg| arg.required(false));
    let all = std::iter::once(OsStr::new(command.get_name())).chain(words.iter().map(OsString::as_os_str));
    relaxed.try_get_matches_from(all).map(drop).map_err(|e| describe(&e, command, spelling))
}

/// What the rewriting has to know of an option.
fn known(arg: &Arg) -> Option<Known> {
    Some(Known { long: arg.get_long()?.to_owned(), takes_value: takes_value(arg) })
}

/// Whether an option has a value.
pub(super) fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The long name of an option in its rewritten form.
fn long_of(word: impl AsRef<OsStr>) -> Option<String> {
    let long = word.as_ref().to_str()?.strip_prefix("--")?;
    Some(long.split_once('=').map_or(long, |(name, _)| name).to_owned())
}

/// Adds the short spelling to an option's help text.
fn show_short(arg: Arg, spelling: &Spelling<'_>) -> Arg {
    let Some(short) = arg.get_long().and_then(|long| spelling.short_of(long)) else { return arg };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    arg.help(format!("{help} [-{short}]"))
}

/// The definition of a daemon's command line with its short spellings, for man pages and completions.
pub fn documented<O: Options>() -> Command {
    let spelling = Spelling { known: &[], shorts: O::SHORTS };
    O::command().mut_args(|arg| {
        let short = arg.get_long().and_then(|long| spelling.short_of(long)).unwrap_or_default();
        let mut letters = short.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => arg.short(letter),
            _ => show_short(arg, &spelling),
        }
    })
}

/// One line for what clap found wrong.
fn describe(error: &clap::Error, command: &Command, spelling: &Spelling<'_>) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(s)) => s.first().cloned(),
        _ => None,
    };
    let option = text(ContextKind::InvalidArg).unwrap_or_default();
    let named = name_both(&option, spelling);
    match error.kind() {
        ErrorKind::UnknownArgument if option.starts_with('-') => match text(ContextKind::SuggestedArg) {
            Some(like) => format!("unknown option {option}; did you mean {}", name_both(&like, spelling)),
            None => format!("unknown option {}", one_line(&option)),
        },
        ErrorKind::UnknownArgument => format!("unexpected word '{}'", one_line(&option)),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            if value.is_empty() {
                return format!("{named} needs a value");
            }
            let why = error.source().map(|e| format!(": {e}")).unwrap_or_default();
            format!("bad value '{}' for {named}{why}", one_line(&value))
        }
        ErrorKind::TooManyValues => format!("{named} takes no value"),
        ErrorKind::ArgumentConflict => format!("{named} is given twice; give it once"),
        ErrorKind::MissingRequiredArgument => {
            let long = option.trim_start_matches("--").split(' ').next().unwrap_or_default();
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long));
            let help = arg.and_then(Arg::get_help).map(|help| format!(": {help}")).unwrap_or_default();
            // The help already ends with the short spelling.
            format!("missing {option}{help}")
        }
        _ => {
            let rendered = error.render().to_string();
            rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

/// An option by its long name and, in brackets, its short spelling. Takes clap's form, `--name <VALUE>`.
fn name_both(option: &str, spelling: &Spelling<'_>) -> String {
    let long = option.split(' ').next().unwrap_or_default();
    match spelling.short_of(long.trim_start_matches("--")) {
        Some(short) => format!("{long} (-{short})"),
        None => long.to_owned(),
    }
}
