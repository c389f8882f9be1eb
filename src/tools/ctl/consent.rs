//! What a person is asked before it is done: what loses records, or gives up a place in the ring.
//!
//! Scripts of kumofs are asked nothing: only where a person sits at both ends, and `--yes` was not said.

use super::{Command, Options};
use std::io::{IsTerminal, Write};

/// What is at stake; `None`: nothing that could not be taken back.
fn stake(options: &Options) -> Option<String> {
    let server = options.argument.as_deref().unwrap_or("it");
    Some(match options.command {
        Command::Detach => "all servers in fault lose their places, and what no other server holds is lost".to_owned(),
        Command::DetachNoreplace => {
            "all servers in fault lose their places, also those that alone hold some keys; these are lost".to_owned()
        }
        Command::Drain => format!("all that {server} holds is copied to others, and {server} serves no more then"),
        Command::Import if !options.keep => "records that are there are overwritten by those imported".to_owned(),
        _ => return None,
    })
}

/// Whether what the options say may be done; a person is asked if need be.
pub(super) fn given(options: &Options) -> bool {
    let asks = !options.yes && !options.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let Some(stake) = stake(options).filter(|_| asks) else { return true };
    eprint!("kumoctl: {stake}. Go on? [y/N] ");
    // A terminal that is gone says no.
    let _ = std::io::stderr().flush();
    let mut said = String::new();
    std::io::stdin().read_line(&mut said).is_ok() && is_yes(&said)
}

fn is_yes(said: &str) -> bool {
    ["y", "yes"].iter().any(|yes| said.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn only_what_loses_something_is_asked_about() {
        let stake = |words: &[&str]| {
            let words = ["kumoctl", "svr1"].iter().chain(words);
            stake(&Options::try_parse_from(words).expect("it is a command"))
        };
        for harmless in ["status", "attach", "replace", "full-replace", "backup", "check", "pause", "export"] {
            assert_eq!(stake(&[harmless]), None, "{harmless}");
        }
        assert_eq!(stake(&["import", "--keep"]), None);
        for asked in ["detach", "detach-noreplace", "drain", "import"] {
            assert!(stake(&[asked]).is_some(), "{asked}");
        }
        assert!(stake(&["drain", "svr4"]).is_some_and(|stake| stake.contains("svr4")));
    }

    #[test]
    fn yes_is_yes_and_all_else_is_no() {
        assert!(is_yes("y\n") && is_yes(" Yes \n"));
        assert!(!is_yes("\n") && !is_yes("") && !is_yes("yep\n") && !is_yes("no\n"));
    }
}
