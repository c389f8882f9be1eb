//! kumohash: computes where keys belong. See [`kumofs::tools::hash`].

use kumofs::tools::{hash, start};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<hash::Options>(hash::run)
}
