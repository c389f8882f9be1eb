//! Client libraries that applications use, in five languages: a script of each goes through what the library can do, at a
//! gateway of a cluster and at a real memcached, and both must answer alike, line by line.
//!
//! The scripts are in `tests/clients/`; they know what is due, and end with 1 where something else comes. doc/clients.md
//! tells of the libraries. A library that cannot be had is skipped.

use crate::common::cluster::Cluster;
use crate::common::memcache::Client;
use crate::common::process::{Said, run_command};
use crate::common::{Turn, skip};
use crate::harness::{Memcached, memcached};
use crate::installed;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The newest releases when they were tried last.
const PYTHON: [&str; 5] = [
    "pymemcache==4.0.0",
    "python-memcached==1.62",
    "pylibmc==1.6.3",
    "python-binary-memcached==0.33.0",
    "aiomcache==0.8.2",
];
const PYTHON_MODULES: &str = "pymemcache, memcache, pylibmc, bmemcached, aiomcache";
/// For a script; it takes some seconds.
const PATIENCE: Duration = Duration::from_secs(120);

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A cluster, and a memcached where there is one; both take values of 2 MiB.
struct Sides {
    cluster: Cluster,
    memcached: Option<Memcached>,
}

impl Sides {
    fn start() -> Sides {
        let mut cluster = Cluster::empty();
        cluster.server_options = ["--max-value", "2m"].map(str::to_owned).to_vec();
        cluster.start_managers(1);
        cluster.add_servers(3);
        cluster.attach();
        cluster.add_gateway(&["--max-value", "2m"]);
        Sides { cluster, memcached: memcached() }
    }

    /// Runs a program at both sides, empty ones. What it prints must be the same.
    fn play(
        &self,
        name: &str,
        program: &Path,
        args: impl Fn(SocketAddr) -> Vec<String>,
        env: &[(&str, &Path)],
    ) -> Said {
        let run = |side: &str, address: SocketAddr| {
            let flushed = Client::connect(address).expect("it listens").command("flush_all");
            assert_eq!(flushed.expect("an answer"), "OK");
            let mut command = Command::new(program);
            command.args(args(address)).current_dir(scripts()).env("PYTHONDONTWRITEBYTECODE", "1").envs(env.to_vec());
            let said = run_command(name, command, PATIENCE);
            assert_eq!(said.code, Some(0), "{name} at {side}:\n{}{}", said.stdout, said.stderr);
            said
        };
        let ours = run("a gateway", self.cluster.gateway(0));
        if let Some(memcached) = &self.memcached {
            let theirs = run("memcached", memcached.address);
            assert_eq!(shown(&ours.stdout), shown(&theirs.stdout), "{name}: ours, and memcached's");
        }
        ours
    }

    /// The same for a script of ours, that goes to its last line, `end`.
    fn play_steps(&self, name: &str, program: &Path, before: &[&str], after: &[&str], env: &[(&str, &Path)]) {
        let args = |to: SocketAddr| {
            let address = [to.ip().to_string(), to.port().to_string()];
            let words = before.iter().map(|w| (*w).to_owned());
            words.chain(address).chain(after.iter().map(|w| (*w).to_owned())).collect()
        };
        let said = self.play(name, program, args, env);
        let steps = said.stdout.lines().count();
        assert!(steps > 20 && said.stdout.ends_with("\nend\n"), "{name}: {}", said.stdout);
    }

    fn end(mut self) {
        self.cluster.assert_sound();
    }
}

/// What a script printed, without what tells versions.
fn shown(stdout: &str) -> Vec<&str> {
    stdout.lines().filter(|line| !line.starts_with("version: ")).collect()
}

#[test]
fn python_libraries_are_answered_as_by_memcached() {
    let _turn = Turn::shared();
    let python = match installed::python("clients", &PYTHON, PYTHON_MODULES) {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let sides = Sides::start();
    for script in ["pymemcache_steps.py", "python_memcached_steps.py", "bmemcached_steps.py", "aiomcache_steps.py"] {
        sides.play_steps(script, &python, &[script], &[], &[]);
    }
    for protocol in ["text", "binary"] {
        sides.play_steps("pylibmc", &python, &["pylibmc_steps.py"], &[protocol], &[]);
    }
    sides.end();
}

#[test]
fn node_libraries_are_answered_as_by_memcached() {
    let _turn = Turn::shared();
    let libraries = match installed::node(include_str!("../clients/package.json")) {
        Ok(libraries) => libraries,
        Err(why) => return skip(&why),
    };
    let sides = Sides::start();
    for script in ["memjs_steps.js", "memcached_steps.js"] {
        sides.play_steps(script, Path::new("node"), &[script], &[], &[("NODE_PATH", &libraries)]);
    }
    sides.end();
}

#[test]
fn rubys_dalli_is_answered_as_by_memcached() {
    let _turn = Turn::shared();
    let ruby = match installed::works("ruby", &["-e", "require 'dalli'"]) {
        Ok(ruby) => ruby,
        Err(why) => return skip(&why),
    };
    let sides = Sides::start();
    sides.play_steps("dalli, binary", &ruby, &["dalli_steps.rb"], &["binary"], &[]);
    sides.end();
}

#[test]
fn perls_fast_client_is_answered_as_by_memcached() {
    let _turn = Turn::shared();
    let perl = match installed::works("perl", &["-e", "use Cache::Memcached::Fast"]) {
        Ok(perl) => perl,
        Err(why) => return skip(&why),
    };
    let sides = Sides::start();
    sides.play_steps("Cache::Memcached::Fast", &perl, &["fast_steps.pl"], &[], &[]);
    sides.end();
}

#[test]
fn the_memcache_crate_is_answered_as_by_memcached() {
    let _turn = Turn::shared();
    let program = match installed::cargo(&scripts().join("rust"), "memcache-steps") {
        Ok(program) => program,
        Err(why) => return skip(&why),
    };
    let sides = Sides::start();
    for protocol in ["ascii", "binary"] {
        sides.play_steps("the memcache crate", &program, &[], &[protocol], &[]);
    }
    sides.end();
}

#[test]
fn memcapable_of_libmemcached_finds_nothing_missing() {
    let _turn = Turn::shared();
    // Debian's name for it, and libmemcached's own.
    let tried = ["memccapable", "memcapable"].map(|name| installed::works("which", &[name]).map(|_| name));
    let Some(name) = tried.into_iter().find_map(Result::ok) else {
        return skip("libmemcached-tools is not installed");
    };
    let sides = Sides::start();
    for protocol in ["-a", "-b"] {
        let args = |to: SocketAddr| {
            let (host, port) = (to.ip().to_string(), to.port().to_string());
            ["-h", &host, "-p", &port, protocol].map(str::to_owned).to_vec()
        };
        let said = sides.play(name, Path::new(name), args, &[]);
        let passed = said.stdout.lines().filter(|line| line.ends_with("[pass]")).count();
        assert!(passed >= 27 && said.stdout.contains("All tests passed"), "{}", said.stdout);
    }
    sides.end();
}
