//! `kumobench`: loads a memcached server and says what it bears. See [`kumofs::tools::bench`].

use kumofs::tools::{bench, parse_args};
use std::process::ExitCode;

fn main() -> ExitCode {
    match bench::run(&parse_args::<bench::Options>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kumobench: {e}");
            ExitCode::FAILURE
        }
    }
}
