//! kumocount: how many instructions the hot paths take, counted by callgrind and compared with what was kept.
//!
//! Counts do not depend on how busy the machine is, so a gate can hold them to a few percent. [`parts`] are the pure
//! functions, one by one; [`whole`] is a simulated cluster, whose time and network are decided by a seed, so that the ways
//! through gateways and servers are counted too. [`kept`] reads and writes what is compared with.

mod kept;
mod parts;
mod region;
mod whole;

use clap::Parser;
use kept::Kept;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is kept, beside this file.
const KEPT: &str = "bench/count/kept.txt";
/// A count may grow by so much, in percent.
const TOLERANCE: u64 = 10;

/// Counts the instructions of hot paths with callgrind, and compares them with those kept
#[derive(Parser)]
struct Options {
    /// Keeps what is counted now
    #[arg(long)]
    renew: bool,
    /// Shows which functions the instructions of the count with this name are in
    #[arg(long, value_name = "NAME", conflicts_with = "renew")]
    annotate: Option<String>,
    /// Runs what is counted: for use within callgrind
    #[arg(long, hide = true)]
    within: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.within {
        options.annotate.into_iter().for_each(region::count_only);
        parts::run();
        whole::run();
        return ExitCode::SUCCESS;
    }
    let done = match &options.annotate {
        Some(name) => annotate(name).map(|()| true),
        None => compare_or_keep(options.renew),
    };
    match done {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(line) => {
            eprintln!("kumocount: {line}");
            ExitCode::FAILURE
        }
    }
}

fn compare_or_keep(renew: bool) -> Result<bool, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(KEPT);
    if version_of("valgrind").is_none() {
        println!("SKIPPED: instructions are counted by valgrind, which is not installed");
        return Ok(true);
    }
    let maker = maker()?;
    if renew {
        Kept { maker, counts: count()? }.write(&path)?;
        println!("kept in {}", path.display());
        return Ok(true);
    }
    let kept = Kept::read(&path)?;
    if kept.maker != maker {
        println!("SKIPPED: the counts that are kept are of {}, and this is {maker}: see doc/testing.md", kept.maker);
        return Ok(true);
    }
    let (text, passed) = kept.compare(&count()?, TOLERANCE);
    print!("{text}");
    Ok(passed)
}

/// What counts depend on beside our source: the compiler, and which instructions the libraries may choose.
fn maker() -> Result<String, String> {
    let rustc = version_of("rustc").ok_or("no rustc on the path")?;
    let arch = std::env::consts::ARCH;
    #[cfg(target_arch = "x86_64")]
    let vectors = if std::arch::is_x86_feature_detected!("avx2") { " with avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    Ok(format!("{rustc}, {arch}{vectors}"))
}

fn version_of(program: &str) -> Option<String> {
    let said = Command::new(program).arg("--version").output().ok().filter(|said| said.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Runs this program within callgrind; returns what it said, one line for each region.
fn run_within(out: &Path, dumps: &[&str], only: Option<&str>) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args(dumps.iter().map(|option| format!("--{option}={}", region::FUNCTION)))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .arg("--within")
        .args(only.into_iter().flat_map(|name| ["--annotate", name]))
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
    }
}

/// What each region takes for one operation.
fn count() -> Result<Vec<(String, u64)>, String> {
    let dir = Dir::make()?;
    let out = dir.0.join("out");
    let said = run_within(&out, &["toggle-collect", "zero-before", "dump-after"], None)?;
    let mut counted = Vec::new();
    for (number, line) in (1..).zip(said.lines()) {
        let (name, operations) = line.split_once('\t').ok_or_else(|| format!("{line:?} is no region"))?;
        let operations: u64 = operations.parse().map_err(|e| format!("{line:?}: {e}"))?;
        let file = PathBuf::from(format!("{}.{number}", out.display()));
        let dump = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let total: Option<u64> = dump.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        counted.push((name.to_owned(), total.ok_or("a dump without totals")? / operations.max(1)));
    }
    Ok(counted)
}

/// Shows where the instructions of one region are.
fn annotate(name: &str) -> Result<(), String> {
    let dir = Dir::make()?;
    let out = dir.0.join("out");
    if run_within(&out, &["toggle-collect"], Some(name))?.is_empty() {
        return Err(format!("nothing is called {name:?}; {KEPT} names them"));
    }
    let shown = Command::new("callgrind_annotate").args(["--auto=no", "--inclusive=no"]).arg(&out).status();
    shown.map(drop).map_err(|e| format!("callgrind_annotate: {e}"))
}

/// A directory of its own, that goes when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn make() -> Result<Dir, String> {
        let path = std::env::temp_dir().join(format!("kumocount.{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Dir(path))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
