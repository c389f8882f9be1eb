//! kumotop: the servers of a cluster, on a terminal, as they work. See [`kumofs::tools::top`].

use kumofs::tools::{start, top};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<top::Options>(top::run)
}
