//! kumomergedb: merges databases of servers into one. See [`kumofs::tools::mergedb`].

use kumofs::tools::{mergedb, start};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::<mergedb::Options>(mergedb::run)
}
