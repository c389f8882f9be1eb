//! What systemd is told by daemons that it starts, and the units that start them.

use crate::common::net::{free_address, free_port};
use crate::common::process::{Process, run_command};
use crate::common::{PATIENCE, Turn, program, skip, temp_dir};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// The next thing that is told.
fn told(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let len = socket.recv(&mut bytes).expect("something is told in time");
    String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
}

#[test]
fn each_daemon_tells_that_it_is_ready_that_it_lives_and_that_it_stops() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let at = || free_address(ip).to_string();
    let (manager, stream) = (at(), free_port(ip).to_string());
    let [server, client, alone] = [at(), at(), at()];
    let data = dir.path().join("data").display().to_string();
    let daemons: [(&str, Vec<&str>); 4] = [
        ("kumo-manager", vec!["-l", &manager]),
        ("kumo-server", vec!["-l", &server, "-L", &stream, "-m", &manager, "-s", "database"]),
        ("kumo-gateway", vec!["-t", &client, "-m", &manager]),
        ("kumofs", vec!["--listen", &alone, "--data", &data]),
    ];
    for (name, args) in daemons {
        let path = dir.path().join(format!("{name}.socket"));
        let socket = UnixDatagram::bind(&path).expect("it can be bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("a deadline can be set");
        let mut all = vec![format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=200000".to_owned()];
        all.push(program(name).display().to_string());
        all.extend(args.into_iter().map(str::to_owned));
        let daemon = Process::start(name, Path::new("/usr/bin/env"), &all, &dir.path().join(name));
        assert_eq!(told(&socket), "READY=1", "{name}");
        assert_eq!(told(&socket), "WATCHDOG=1", "{name}");
        daemon.signal(libc::SIGTERM);
        let last = std::iter::repeat_with(|| told(&socket)).find(|text| text != "WATCHDOG=1");
        assert_eq!(last.as_deref(), Some("STOPPING=1"), "{name}");
    }
}

#[test]
fn the_units_are_as_systemd_wants_them() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let mut units = Vec::new();
    for name in ["kumo-manager", "kumo-server", "kumo-gateway"] {
        let file = format!("{}/systemd/{name}.service", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(file).expect("it is there");
        // Where it will be installed, nothing is yet.
        let text = text.replace(&format!("/usr/bin/{name}"), &program(name).display().to_string());
        let unit = dir.path().join(format!("{name}.service"));
        std::fs::write(&unit, text).expect("it can be written");
        units.push(unit);
    }
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("there is no systemd-analyze");
    }
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(&units).env("SYSTEMD_LOG_LEVEL", "warning");
    let said = run_command("systemd-analyze", verify, PATIENCE);
    let about_ours: Vec<&str> = said.stderr.lines().filter(|line| line.contains("kumo-")).collect();
    assert!(about_ours.is_empty(), "{about_ours:?}");
}
