//! What the command line tools do; the binaries only call it.
//!
//! Rendering is pure, so that outputs which scripts read are tested without a server. Start with [`ctl`];
//! [`mod@bench`] is the load generator.

pub mod bench;
pub mod ctl;
pub mod ruby_time;

use clap::Parser;
use clap::error::ErrorKind;

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
