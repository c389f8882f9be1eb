//! Clients on sockets of the file system: served as at ports, by gateways of every kind.

use crate::common::cluster::Cluster;
use crate::common::net::{Hosts, free_address};
use crate::common::process::{Process, Said, run, run_command};
use crate::common::{PATIENCE, Turn, eventually, program, skip, temp_dir};
use crate::installed;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

fn connect(path: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    Some(stream)
}

/// What is answered has to be exactly this.
#[track_caller]
fn exchange(stream: &mut UnixStream, sent: &[u8], due: &[u8]) {
    stream.write_all(sent).expect("it is open");
    let mut answer = vec![0; due.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer.escape_ascii().to_string(), due.escape_ascii().to_string());
}

fn until_served(path: &Path) -> UnixStream {
    eventually("the socket is served", || {
        let mut stream = connect(path)?;
        stream.write_all(b"set ready 0 0 1\r\n1\r\n").ok()?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).ok()?;
        (&answer == b"STORED\r\n").then_some(stream)
    })
}

fn shown(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A magic byte, an opcode and zeros: a packet of the binary protocol without a body.
fn packet(magic: u8, opcode: u8) -> Vec<u8> {
    let mut packet = vec![0; 24];
    (packet[0], packet[1]) = (magic, opcode);
    packet
}

#[test]
fn ports_and_sockets_of_one_gateway_serve_the_same_records_in_all_dialects() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::unattached(1, 3);
    cluster.attach();
    let (one, two) = (cluster.dir().join("one"), cluster.dir().join("two"));
    let (on_one, on_two) = (shown(&one), shown(&two));
    cluster.add_gateway(&["-t", &on_one, "-b", &on_two, "-b", &on_one, "--unix-mode", "0750", "-TR", "3"]);
    assert_eq!(fs::metadata(&one).expect("it is there").permissions().mode() & 0o777, 0o750);
    cluster.client().set("key", b"by the port").expect("it is stored");

    // More clients than workers: each worker has some of them.
    let mut clients: Vec<UnixStream> =
        (0..24).map(|i| connect(if i % 2 == 0 { &one } else { &two }).expect("it is served")).collect();
    for client in &mut clients {
        exchange(client, b"get key\r\n", b"VALUE key 0 11\r\nby the port\r\nEND\r\n");
        exchange(client, b"mn\r\nmg key s\r\n", b"MN\r\nHD s11\r\n");
    }
    let mut binary = connect(&one).expect("it is served");
    exchange(&mut binary, &packet(0x80, 0x0a), &packet(0x81, 0x0a));
    let large = vec![b'x'; 1 << 20];
    let set = [b"set large 0 0 1048576\r\n".as_slice(), &large, b"\r\n"].concat();
    exchange(&mut clients[0], &set, b"STORED\r\n");
    assert_eq!(cluster.client().get("large").expect("an answer"), Some(large));

    let settings = cluster.client().stats_of("settings").expect("an answer");
    let told = |name: &str| settings.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(told("domain_socket"), Some(format!("{},{}", one.display(), two.display()).as_str()));
    assert_eq!((told("umask"), told("tcpport")), (Some("750"), Some("11211")));
    assert_eq!(told("inter"), Some(cluster.gateway(0).ip().to_string().as_str()));
    drop(clients);

    let manager = cluster.manager_address(0).to_string();
    run("kumo-gateway", &["-m", &manager, "-t", &on_one], cluster.dir()).complains(1, &["one", "in use"]);
    cluster.gateways[0].kill();
    assert!(one.exists() && connect(&one).is_none(), "what is killed leaves its file");
    cluster.gateways[0].restart();
    let mut again = until_served(&one);
    exchange(&mut again, b"get key\r\n", b"VALUE key 0 11\r\nby the port\r\nEND\r\n");
    assert_eq!(cluster.gateways[0].terminate().code(), Some(0));
    assert!(!one.exists() && !two.exists(), "the files go with the gateway");
    cluster.assert_sound();
}

#[test]
fn servers_and_whole_clusters_serve_sockets_too() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.start_managers(1);
    let path = cluster.dir().join("of the server");
    cluster.server_options = vec!["-t".to_owned(), shown(&path)];
    cluster.add_server();
    cluster.attach();
    until_served(&path);
    assert_eq!(cluster.servers[0].terminate().code(), Some(0));
    assert!(!path.exists());

    let dir = temp_dir();
    let path = dir.path().join("all");
    let port = free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    let config = dir.path().join("kumofs.toml");
    let text = format!("listen = [{:?}, {port:?}]\nunix-mode = \"0770\"\n", shown(&path));
    fs::write(&config, text).expect("it can be written");
    let args = ["--config", &config.display().to_string()].map(str::to_owned);
    let mut kumofs = Process::start("kumofs", &program("kumofs"), &args, &dir.path().join("whole"));
    until_served(&path);
    let line = format!("served on {} and {port}", shown(&path));
    assert!(kumofs.logged(&line, 0).is_some(), "{}", kumofs.log_since(0));
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o770);
    assert_eq!(kumofs.terminate().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn a_socket_that_cannot_be_is_one_line() {
    let _turn = Turn::shared();
    let (dir, hosts) = (temp_dir(), Hosts::claim());
    let manager = hosts.host(1).to_string();
    let try_at = |path: &str, more: &[&str]| -> Said {
        run("kumo-gateway", &[&["-m", &manager, "-t", &format!("unix:{path}")], more].concat(), dir.path())
    };
    fs::write(dir.path().join("file"), "precious").expect("a file");
    try_at("file", &[]).complains(1, &["file", "no socket"]);
    try_at("none/socket", &[]).complains(1, &["none/socket", "No such file or directory"]);
    try_at(&"x".repeat(200), &[]).complains(1, &["200 bytes", "107"]);
    try_at("", &[]).complains(2, &["unix:PATH"]);
    try_at("socket", &["--unix-mode", "rwx"]).complains(2, &["--unix-mode", "rwx", "0770"]);
    try_at("socket", &["--unix-mode", "0888"]).complains(2, &["--unix-mode"]);
    // Who may do everything is refused nothing, so another user tries.
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("it is ours");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(program("kumo-gateway"));
    command.args(["-m", &manager, "-t", "unix:closed/socket"]).current_dir(dir.path());
    let can = Command::new("setpriv").args(["--bounding-set=-all", "--inh-caps=-all", "true"]).output();
    if !can.is_ok_and(|o| o.status.success()) {
        return skip("setpriv cannot take rights away");
    }
    run_command("setpriv", command, PATIENCE).complains(1, &["closed/socket", "Permission denied"]);
}

#[test]
fn client_libraries_and_kumobench_work_over_a_socket() {
    let _turn = Turn::shared();
    let python = match installed::python("sockets", &["pymemcache==4.0.0", "pylibmc==1.6.3"], "pymemcache, pylibmc") {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let mut cluster = Cluster::empty();
    cluster.server_options = ["--max-value", "2m"].map(str::to_owned).to_vec();
    cluster.start_managers(1);
    cluster.add_servers(3);
    cluster.attach();
    let path = cluster.dir().join("socket");
    let on = shown(&path);
    cluster.add_gateway(&["--max-value", "2m", "-t", &on]);
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let socket = path.to_string_lossy().into_owned();
    // Port 0 says that the host is a path.
    for words in [
        vec!["pymemcache_steps.py", &socket, "0"],
        vec!["pylibmc_steps.py", &socket, "0", "text"],
        vec!["pylibmc_steps.py", &socket, "0", "binary"],
    ] {
        cluster.client().command("flush_all").expect("an answer");
        let mut command = Command::new(&python);
        command.args(&words).current_dir(&scripts).env("PYTHONDONTWRITEBYTECODE", "1");
        let said = run_command("python", command, PATIENCE);
        assert!(said.code == Some(0) && said.stdout.ends_with("\nend\n"), "{words:?}: {said:?}");
    }
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kumobench"));
    bench.args([on.as_str(), "--op", "mix", "--keys", "100", "--connections", "4", "--duration", "0.3", "--json"]);
    let said = run_command("kumobench", bench, PATIENCE);
    let figures: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let result = &figures["targets"][0]["result"];
    assert!(result["ops_per_s"].as_f64() > Some(0.0) && result["errors"].as_f64() == Some(0.0), "{figures}");
    cluster.assert_sound();
}
