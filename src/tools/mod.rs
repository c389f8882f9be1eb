//! What the command line tools do; the binaries only call it.
//!
//! Rendering is pure, so that outputs which scripts read are tested without a server. Start with [`ctl`], then
//! [`stat`]; [`mod@bench`] is the load generator. [`start`] is what the binaries call.

pub mod ask;
pub mod backup;
pub mod bench;
pub mod check;
pub mod cluster;
pub mod ctl;
pub mod details;
pub mod export;
pub mod follow;
pub mod hash;
pub mod help;
pub mod import;
pub mod lines;
pub mod logs;
pub mod mergedb;
pub mod ruby_time;
pub mod simulate;
pub mod stat;
pub mod sum;
pub mod top;
pub mod watch;

use clap::Parser;
use clap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

/// Why a tool did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Wrong usage: a line for standard error, exit status 2.
    Usage(String),
    /// It did not work: a line for standard error, exit status 1.
    Failed(String),
    /// The same, and all is said: exit status 1.
    Told,
}

impl Trouble {
    /// A failure for each line, if there is any.
    pub fn of_all(lines: impl IntoIterator<Item = String>) -> Result<(), Trouble> {
        let lines: Vec<String> = lines.into_iter().collect();
        if lines.is_empty() { Ok(()) } else { Err(Trouble::Failed(lines.join("\n"))) }
    }
}

impl From<ask::AskError> for Trouble {
    fn from(e: ask::AskError) -> Trouble {
        Trouble::Failed(e.to_string())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Trouble {
        Trouble::Failed(e.to_string())
    }
}

/// Runs a tool: its command line is this process's. Exit status: 0 done, 1 it failed, 2 wrong usage.
pub fn start<O: Parser>(run: impl FnOnce(&O) -> Result<(), Trouble>) -> ExitCode {
    let (lines, status) = match run(&parse_args::<O>()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Trouble::Usage(line)) => (format!("{line}; see --help"), 2),
        Err(Trouble::Failed(lines)) => (lines, 1),
        Err(Trouble::Told) => return ExitCode::FAILURE,
    };
    let program = O::command().get_name().to_owned();
    lines.lines().for_each(|line| eprintln!("{program}: {line}"));
    ExitCode::from(status)
}

/// Prints to standard output. A reader that went away is told nothing; false then.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Parses the command line. Help and version go to stdout with status 0; anything wrong is one line on stderr that
/// says what, with status 2.
pub fn parse_args<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|e| match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => e.exit(),
        _ => {
            eprintln!("{}: {}", T::command().get_name(), one_line(&e.to_string()));
            std::process::exit(2);
        }
    })
}

/// The first paragraph of clap's message as one line.
fn one_line(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_becomes_one_line() {
        let e = bench::Options::try_parse_from(["kumobench", "--depth", "many"]).unwrap_err();
        let line = one_line(&e.to_string());
        assert!(!line.contains('\n') && line.contains("--depth") && line.ends_with("see --help"), "{line}");
        let e = bench::Options::try_parse_from(["kumobench"]).unwrap_err();
        assert!(one_line(&e.to_string()).contains("ADDR:PORT"));
    }
}
