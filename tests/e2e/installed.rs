//! Libraries of other languages, fetched once from their registries and kept beside the build.
//!
//! Whoever cannot have them skips: each function says why not, after a bounded time.

use crate::common::process::install;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For one step of an installer.
const LONG: Duration = Duration::from_secs(300);

/// Makes `name` beside the build by `make`, unless what an earlier run made there is as wanted by `has_it`.
fn kept(
    name: &str,
    has_it: impl Fn(&Path) -> bool,
    make: impl Fn(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another run may be making it, so it is made under the lock of a file that stays.
    let lock = File::create(kept.with_extension("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    if !has_it(&kept) {
        let _ = std::fs::remove_dir_all(&kept);
        make(&kept)?;
    }
    Ok(kept)
}

/// The Python of a virtual environment with `packages`, from which `modules` (divided by ", ") can be imported.
pub fn python(name: &str, packages: &[&str], modules: &str) -> Result<PathBuf, String> {
    let python = |kept: &Path| kept.join("bin/python3");
    let mark = packages.join(" ");
    let has_it = |kept: &Path| {
        let mut import = Command::new(python(kept));
        import.args(["-c", &format!("import {modules}")]);
        std::fs::read_to_string(kept.join("packages")).is_ok_and(|made| made == mark)
            && install("python3", import, LONG).is_ok()
    };
    let made = kept(&format!("venv-{name}"), has_it, |kept| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(kept);
        install("python3 -m venv", venv, LONG)?;
        let mut pip = Command::new(python(kept));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]);
        pip.args(packages);
        install("pip", pip, LONG)?;
        std::fs::write(kept.join("packages"), &mark).map_err(|e| e.to_string())
    })?;
    Ok(python(&made))
}

/// A directory for `NODE_PATH` with what `package.json` asks for.
pub fn node(package: &str) -> Result<PathBuf, String> {
    let has_it = |kept: &Path| {
        let same = std::fs::read_to_string(kept.join("package.json")).is_ok_and(|made| made == package);
        same && kept.join("installed").exists()
    };
    let made = kept("node-libraries", has_it, |kept| {
        let write = |name: &str, text| std::fs::write(kept.join(name), text).map_err(|e| e.to_string());
        std::fs::create_dir_all(kept).map_err(|e| e.to_string())?;
        write("package.json", package)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]).current_dir(kept);
        install("npm", npm, LONG)?;
        write("installed", "")
    })?;
    let mut version = Command::new("node");
    version.arg("--version");
    install("node", version, LONG)?;
    Ok(made.join("node_modules"))
}

/// The program of a crate outside of this one, at `from`.
pub fn cargo(from: &Path, program: &str) -> Result<PathBuf, String> {
    // Cargo itself knows what is up to date, and builds without the network what it has fetched before.
    let made = kept(program, |_| false, |_| Ok(()))?;
    let target = made.with_extension("build");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(from.join("Cargo.toml"));
    build.arg("--target-dir").arg(&target);
    build.env("CARGO_NET_RETRY", "1");
    install("cargo build", build, LONG)?;
    Ok(target.join("debug").join(program))
}

/// Whether a command of the system's succeeds; the reason why not.
pub fn works(program: &str, args: &[&str]) -> Result<PathBuf, String> {
    let mut command = Command::new(program);
    command.args(args);
    install(program, command, LONG)?;
    Ok(PathBuf::from(program))
}
