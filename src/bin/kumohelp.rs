//! kumohelp: writes man pages and completions. See [`kumofs::tools::help`].

use kumofs::tools::{help, start};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<help::Options>(help::run)
}
