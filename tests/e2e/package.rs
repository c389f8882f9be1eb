//! The Debian package: built by cargo-deb, installed on a machine to throw away, started by its units, used, upgraded and
//! removed.

mod machine;

use crate::common::process::run_command;
use crate::common::{PATIENCE, Turn, eventually, program, skip, temp_dir};
use machine::Machine;
use std::path::{Path, PathBuf};
use std::process::Command;

fn has_cargo_deb() -> bool {
    Command::new("cargo-deb").arg("--version").output().is_ok_and(|said| said.status.success())
}

/// Packs the programs of this build.
fn build(dir: &Path) -> PathBuf {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/package/build"));
    let package = dir.join("kumofs.deb");
    command.args(["--fast", "--offline", "--quiet", "-o"]).arg(&package);
    command.env("KUMO_PROGRAMS", program("kumoctl").parent().expect("programs are in a directory"));
    let said = run_command("package/build", command, 3 * PATIENCE);
    assert_eq!(said.code, Some(0), "{said:?}");
    package
}

/// What the gateway of the machine answers to memcached's commands.
fn asked(machine: &Machine, commands: &str) -> String {
    machine.must(&format!("exec 3<>/dev/tcp/127.0.0.1/11211; printf '{commands}quit\\r\\n' >&3; cat <&3"))
}

#[test]
fn the_package_is_installed_started_upgraded_and_removed() {
    let _turn = Turn::shared();
    // SAFETY: a system call without pointers.
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root can make a machine");
    }
    if !has_cargo_deb() {
        return skip("there is no cargo-deb; cargo install cargo-deb");
    }
    let dir = temp_dir();
    let package = build(dir.path());
    let package = package.display();
    let machine = match Machine::start(temp_dir()) {
        Ok(machine) => machine,
        Err(why) => return skip(&why),
    };

    machine.must(&format!("dpkg -i {package}"));
    assert_eq!(
        machine.run("systemctl is-enabled kumo-manager kumo-server kumo-gateway").stdout,
        "disabled\n".repeat(3)
    );
    let verify = machine.run("systemd-analyze verify /usr/lib/systemd/system/kumo-*.service");
    assert!(!verify.stderr.contains("kumo-"), "{verify:?}");
    machine.must("man -w kumoctl kumo-server");
    // Not configured, it says what is missing, once.
    machine.run("systemctl start kumo-server");
    assert_eq!(machine.must("systemctl show -P NRestarts kumo-server"), "0");
    let told = machine.must("journalctl --no-pager -u kumo-server");
    assert!(told.contains("missing --listen"), "{told}");

    machine.must("echo KUMO_LISTEN=127.0.0.1 >>/etc/kumofs/kumo-manager.conf");
    machine.must("echo KUMO_LISTEN=127.0.0.1 >>/etc/kumofs/kumo-server.conf");
    machine.must("echo KUMO_MANAGER1=127.0.0.1 | tee -a /etc/kumofs/kumo-server.conf >>/etc/kumofs/kumo-gateway.conf");
    machine.must("systemctl start kumo-manager kumo-server kumo-gateway");
    assert_eq!(machine.must("systemctl is-active kumo-manager kumo-server kumo-gateway"), "active\nactive\nactive");
    let owners = machine.must("stat -c '%U %a' /var/lib/kumofs/manager /var/lib/kumofs/server/database");
    assert_eq!(owners, "kumofs 750\nkumofs 700");
    let attached = |machine: &Machine| {
        eventually("the server is attached", || {
            machine.must("kumoctl 127.0.0.1 attach");
            machine.must("kumoctl 127.0.0.1 status").contains("127.0.0.1:19800  (active)").then_some(())
        });
    };
    attached(&machine);
    eventually("the gateway stores", || {
        asked(&machine, "set greeting 0 0 5\\r\\nhello\\r\\n").contains("STORED").then_some(())
    });

    machine.must("systemctl restart kumo-server");
    attached(&machine);
    eventually("the record is there again", || {
        asked(&machine, "get greeting\\r\\n").contains("VALUE greeting 0 5\r\nhello").then_some(())
    });
    machine.must("systemctl reload kumo-manager kumo-server kumo-gateway");

    // Replaced by itself, as by a newer one: nothing stops, and what the operator wrote stays.
    let pids = || machine.must("systemctl show -P MainPID kumo-manager kumo-server kumo-gateway");
    let before = pids();
    machine.must(&format!("dpkg -i {package}"));
    assert_eq!(pids(), before);
    assert!(machine.must("cat /etc/kumofs/kumo-server.conf").contains("\nKUMO_LISTEN=127.0.0.1\n"));

    machine.must("dpkg -r kumofs");
    assert_eq!(machine.run("pgrep ^kumo-").stdout, "");
    machine.must("test -e /etc/kumofs/kumo-server.conf -a ! -e /usr/bin/kumo-server");
    let told = machine.must("dpkg -P kumofs");
    assert!(told.contains("what was stored is still in /var/lib/kumofs"), "{told}");
    machine.must("test ! -e /etc/kumofs -a -d /var/lib/kumofs/server/database -a ! -e /var/lib/kumofs/gateway");
}
