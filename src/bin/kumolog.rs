//! kumolog: shows binary logs as text. See [`kumofs::tools::logs`].

use kumofs::tools::{logs, start};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<logs::Options>(logs::run)
}
