//! kumostat: shows what servers tell of themselves. See [`kumofs::tools::stat`].

use kumofs::tools::{start, stat};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<stat::Options>(stat::run)
}
