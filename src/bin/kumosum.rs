//! kumosum: sums the requests of all servers of a cluster. See [`kumofs::tools::sum`].

use kumofs::tools::{start, sum};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<sum::Options>(sum::run)
}
