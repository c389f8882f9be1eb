//! A machine of the test's own with systemd on it; see `machine.sh` for what it is made of.

use crate::common::process::{Process, Said, run_command};
use crate::common::{PATIENCE, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Where it is, and what belongs to it outside.
pub struct Machine {
    /// The process that made its namespaces; what runs in them dies with it.
    maker: Process,
    systemd: u32,
    cgroup: Cgroup,
    _dir: TempDir,
}

/// The control group in which its processes are. systemd makes others below it, which the kernel does not take away.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut remove = Command::new("find");
        remove.arg(&self.0).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        let _ = remove.output();
    }
}

impl Machine {
    /// Starts one. What it sees of this machine's files are copies of how they are now.
    ///
    /// # Errors
    /// When this machine has no such thing, or does not allow it: why.
    pub fn start(dir: TempDir) -> Result<Machine, String> {
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err("there is no systemd".to_owned());
        }
        let mounts = fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
        let is_v2 = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
        let root = mounts.lines().find(is_v2).and_then(|line| line.split(' ').nth(1));
        let root = root.ok_or("there are no control groups of version 2")?;
        let cgroup = Path::new(root).join(format!("kumofs-test-{}", std::process::id()));
        fs::create_dir(&cgroup).map_err(|e| format!("no control group can be made: {e}"))?;
        let cgroup = Cgroup(cgroup);

        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/package/machine.sh");
        let enter = "echo $$ >\"$0/cgroup.procs\" && exec unshare --mount --pid --cgroup --ipc --uts --net --fork \
                     --kill-child bash \"$@\"";
        let args = ["-c", enter, &cgroup.0.to_string_lossy(), script, &dir.path().to_string_lossy()].map(str::to_owned);
        let mut maker = Process::start("machine", Path::new("bash"), &args, &dir.path().join("machine"));
        let systemd = eventually("the machine runs systemd, or ends", || {
            let children = format!("/proc/{0}/task/{0}/children", maker.pid());
            let child: Option<u32> = fs::read_to_string(children).ok().and_then(|all| all.trim().parse().ok());
            let is_up =
                child.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "systemd\n"));
            if is_up.is_none() && maker.has_ended() { Some(None) } else { is_up.map(Some) }
        });
        let systemd = systemd.ok_or_else(|| format!("no machine can be made: {}", maker.log_since(0).trim()))?;
        let machine = Machine { maker, systemd, cgroup, _dir: dir };
        eventually("systemd is up", || {
            let said = machine.run("systemctl is-system-running");
            ["running\n", "degraded\n"].contains(&said.stdout.as_str()).then_some(())
        });
        Ok(machine)
    }

    /// Runs a command of the shell there, to its end.
    pub fn run(&self, command: &str) -> Said {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &self.systemd.to_string(), "-m", "-p", "-C", "-i", "-u", "-n", "-r", "-w"]);
        enter.args(["bash", "-c", command]).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        run_command(command, enter, PATIENCE)
    }

    /// The same, of one that is to succeed: what it printed.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        let said = self.run(command);
        if said.code != Some(0) {
            let journal = self.run("journalctl --no-pager -n 50").stdout;
            panic!("{command}: {said:?}\n{journal}");
        }
        said.stdout.trim_end().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.maker.kill();
        // The kernel ends what was there, and then the groups are empty.
        eventually("all of the machine's processes are gone", || {
            let of = |dir: &Path| fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
            (!of(&self.cgroup.0).contains("populated 1")).then_some(())
        });
    }
}
