//! kumohelp: man pages and completions for shells, made from the definitions of the commands themselves.
//!
//! Invariant: every program of kumofs is in [`commands`], so that none lacks its page; a test compares that with the
//! directory of the programs. Packages call this when they are built. Source: `doc/guide.md`, "kumohelp".

use super::{Trouble, bench, ctl, hash, logs, mergedb, stat, sum, top};
use crate::daemon::cmdline::documented;
use crate::daemon::options::{GatewayOptions, KumofsOptions, ManagerOptions, ServerOptions};
use clap::{Command, CommandFactory, Parser, Subcommand};
use clap_complete::{Shell, generate_to};
use std::path::{Path, PathBuf};

/// Writes man pages and completions of all of kumofs's programs.
#[derive(Parser, Debug)]
#[command(name = "kumohelp", version)]
pub struct Options {
    /// What to write
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
enum What {
    /// Write a man page for each program into a directory
    Man {
        /// The directory; it is made if it is not there
        dir: PathBuf,
    },
    /// Write a completion file for each program into a directory
    Completions {
        /// For which shell
        shell: Shell,
        /// The directory; it is made if it is not there
        dir: PathBuf,
    },
}

/// The definitions of all programs.
pub fn commands() -> Vec<Command> {
    vec![
        documented::<ManagerOptions>(),
        documented::<ServerOptions>(),
        documented::<GatewayOptions>(),
        documented::<KumofsOptions>(),
        ctl::command(),
        stat::Options::command(),
        sum::Options::command(),
        top::Options::command(),
        hash::Options::command(),
        logs::Options::command(),
        mergedb::Options::command(),
        bench::Options::command(),
        Options::command(),
    ]
}

/// Runs kumohelp.
///
/// # Errors
/// One line: what could not be written, and why.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let dir = match &options.what {
        What::Man { dir } | What::Completions { dir, .. } => dir,
    };
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    for mut command in commands() {
        let name = command.get_name().to_owned();
        let written = match &options.what {
            What::Man { .. } => clap_mangen::Man::new(command).generate_to(dir),
            What::Completions { shell, .. } => generate_to(*shell, &mut command, &name, dir),
        };
        written.map_err(|e| failed(dir, &e))?;
    }
    Ok(())
}

fn failed(dir: &Path, why: &std::io::Error) -> Trouble {
    Trouble::Failed(format!("cannot write into {}: {why}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn written(what: What) -> (tempfile::TempDir, BTreeSet<String>) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("new");
        let what = match what {
            What::Man { .. } => What::Man { dir: place.clone() },
            What::Completions { shell, .. } => What::Completions { shell, dir: place.clone() },
        };
        run(&Options { what }).unwrap();
        let names = std::fs::read_dir(place).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        (dir, names)
    }

    /// Programs are added by whoever needs one; this is where a forgotten page is noticed.
    #[test]
    fn every_program_has_a_man_page_and_completions_for_each_shell() {
        let bins = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
        let programs: Vec<String> = std::fs::read_dir(bins)
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            // kumosim is for those who work on kumofs, and is not installed.
            .filter(|name| name != "kumosim")
            .collect();
        let (_, pages) = written(What::Man { dir: PathBuf::new() });
        let all = |form: &dyn Fn(&str) -> String| programs.iter().map(|p| form(p)).collect::<BTreeSet<_>>();
        assert_eq!(pages, all(&|p| format!("{p}.1")));
        let files = |shell| written(What::Completions { shell, dir: PathBuf::new() }).1;
        assert_eq!(files(Shell::Bash), all(&|p| format!("{p}.bash")));
        assert_eq!(files(Shell::Zsh), all(&|p| format!("_{p}")));
        assert_eq!(files(Shell::Fish), all(&|p| format!("{p}.fish")));
    }

    #[test]
    fn pages_and_completions_know_kumofss_spellings_and_the_words_of_a_command() {
        let (dir, _) = written(What::Man { dir: PathBuf::new() });
        let page = |name: &str| std::fs::read_to_string(dir.path().join("new").join(name)).unwrap();
        let server = page("kumo-server.1").replace('\\', "");
        assert!(server.contains("-s") && server.contains("--store") && server.contains("[-gN]"), "{server}");
        assert!(page("kumoctl.1").replace('\\', "").contains("full-replace"));
        let (dir, _) = written(What::Completions { shell: Shell::Bash, dir: PathBuf::new() });
        let script = std::fs::read_to_string(dir.path().join("new/kumoctl.bash")).unwrap();
        assert!(script.contains("enable-auto-replace"), "{script}");
    }

    #[test]
    fn what_cannot_be_written_is_told_in_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dir = file.path().join("below");
        let Err(Trouble::Failed(line)) = run(&Options { what: What::Man { dir } }) else { panic!("it was written") };
        assert!(line.starts_with("cannot write into "), "{line}");
    }
}
