//! Wrong options, names and files: one line that says what to do, and the right exit status.

use crate::common::cluster::Cluster;
use crate::common::net::{Hosts, free_address};
use crate::common::process::{Said, run};
use crate::common::{Turn, eventually, temp_dir};
use std::net::{Ipv4Addr, TcpListener};

fn fails(program: &str, args: &[&str]) -> Said {
    run(program, args, temp_dir().path())
}

#[test]
fn unknown_options_and_bad_values_are_wrong_usage() {
    let _turn = Turn::shared();
    fails("kumo-manager", &["-v", "-l", "127.0.0.1", "--lsten", "x"]).complains(2, &["--lsten"]);
    fails("kumo-manager", &["-v"]).complains(2, &["--listen"]);
    fails("kumo-manager", &["-l", "127.0.0.1", "-Rs", "soon"]).complains(2, &["soon"]);
    fails("kumo-manager", &["-l", "127.0.0.1:70000"]).complains(2, &["70000"]);
    fails("kumo-manager", &["-l", "127.0.0.1", "-Q"]).complains(2, &["-Q"]);
    fails("kumo-server", &["-l", "127.0.0.1", "-m", "127.0.0.1"]).complains(2, &["--store"]);
    fails("kumo-server", &["-l", "127.0.0.1", "-s", "x"]).complains(2, &["--manager1"]);
    fails("kumo-server", &["-l", "127.0.0.1", "-m", "127.0.0.1", "-s", "x", "-gN", "-1"]).complains(2, &["-1"]);
    fails("kumo-gateway", &["-t", "11211"]).complains(2, &["--manager1"]);
    fails("kumo-gateway", &["-m", "127.0.0.1", "-t", "0:http"]).complains(2, &["http"]);
    fails("kumo-gateway", &["-m", "127.0.0.1", "-t", "0", "-G", "many"]).complains(2, &["many"]);
    fails("kumoctl", &[]).complains(2, &["<MANAGER>"]);
    fails("kumoctl", &["127.0.0.1"]).complains(2, &["<COMMAND>"]);
    fails("kumoctl", &["127.0.0.1", "atach"]).complains(2, &["atach", "attach-noreplace"]);
}

#[test]
fn a_bound_on_waking_up_is_kept_where_the_system_allows_it_and_nothing_else_depends_on_that() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::unattached(1, 1);
    cluster.attach();
    cluster.servers[0].terminate();
    cluster.servers[0].args_mut().extend(["--wake-latency".to_owned(), "0".to_owned()]);
    cluster.restart_server(0);
    cluster.until("the server is back", |status| status.active() == 1);
    cluster.add_gateway(&["--wake-latency", "0"]);
    let mut client = cluster.client();
    eventually("it serves", || client.set("key", b"value").ok());
    for _ in 0..1000 {
        assert_eq!(client.get("key").expect("an answer"), Some(b"value".to_vec()));
    }
    let allowed = std::fs::OpenOptions::new().write(true).open("/dev/cpu_dma_latency").is_ok();
    assert_eq!(cluster.servers[0].log_since(0).contains("cores are not kept awake"), !allowed);
    cluster.assert_sound();
}

#[test]
fn a_configuration_is_tested_without_being_run() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let file = dir.path().join("server.toml");
    let path = file.display().to_string();
    let test = |text: &str| {
        std::fs::write(&file, text).expect("it can be written");
        run("kumo-server", &["--config", &path, "--test-config"], dir.path())
    };
    let valid = "listen = \"127.0.0.1\"\nmanager1 = \"svr1\"\nstore = \"db\"\nlog-format = \"json\"\n";
    let said = test(valid);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "the configuration is valid\n"), "{said:?}");
    assert!(!dir.path().join("db").exists(), "nothing was made");
    test(&format!("{valid}\noffer-tmp = \"x\"\n")).complains(0, &["--offer-tmp"]);
    test(&format!("{valid}\nthreads = 4\n")).complains(2, &["threads"]);
    test("listen = \"127.0.0.1\"\n").complains(2, &["--manager1"]);
    test(&valid.replace("json", "xml")).complains(2, &["xml"]);
}

#[test]
fn a_log_of_json_is_one_object_a_line() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.manager_options = ["--log-format", "json"].map(str::to_owned).to_vec();
    cluster.start_managers(1);
    cluster.add_servers(1);
    let log = cluster.managers[0].log_since(0);
    let objects: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let connected = format!("server connected {}", cluster.server_address(0));
    assert!(objects.iter().any(|o| o["message"] == connected.as_str() && o["level"] == "INFO"), "{log}");
    cluster.assert_sound();
}

#[test]
fn names_that_do_not_resolve() {
    let _turn = Turn::shared();
    fails("kumo-manager", &["-l", "nowhere.invalid"]).complains(1, &["nowhere.invalid"]);
    fails("kumo-server", &["-l", "127.0.0.1:0", "-m", "nowhere.invalid", "-s", "x"]).complains(1, &["nowhere.invalid"]);
    fails("kumo-server", &["-l", "nowhere.invalid", "-m", "127.0.0.1", "-s", "x"]).complains(1, &["nowhere.invalid"]);
    fails("kumo-gateway", &["-m", "nowhere.invalid", "-t", "0"]).complains(1, &["nowhere.invalid"]);
    fails("kumoctl", &["nowhere.invalid", "status"]).complains(1, &["nowhere.invalid"]);
}

#[test]
fn ports_in_use() {
    let _turn = Turn::shared();
    let hosts = Hosts::claim();
    let host = hosts.host(1);
    let taken: Vec<TcpListener> =
        [19700, 19800, 19900, 11211].into_iter().map(|port| TcpListener::bind((host, port)).expect("a port")).collect();
    let (manager, server, _stream, gateway) = (&taken[0], &taken[1], &taken[2], &taken[3]);
    let told = |l: &TcpListener| l.local_addr().expect("it is bound").to_string();
    let host_text = host.to_string();
    fails("kumo-manager", &["-l", &host_text]).complains(1, &[&told(manager)]);
    fails("kumo-server", &["-l", &host_text, "-m", &host_text, "-s", "x"]).complains(1, &[&told(server)]);
    let other = format!("{host}:19801");
    fails("kumo-server", &["-l", &other, "-m", &host_text, "-s", "x"]).complains(1, &["19900"]);
    fails("kumo-gateway", &["-m", &host_text, "-t", &told(gateway)]).complains(1, &[&told(gateway)]);
}

#[test]
fn an_address_of_another_host() {
    let _turn = Turn::shared();
    // 192.0.2.0/24 is for documentation: no host has such an address.
    fails("kumo-manager", &["-l", "192.0.2.1"]).complains(1, &["192.0.2.1"]);
    fails("kumo-server", &["-l", "192.0.2.1", "-m", "127.0.0.1", "-s", "x"]).complains(1, &["192.0.2.1"]);
}

#[test]
fn a_manager_that_is_not_there() {
    let _turn = Turn::shared();
    let nobody = free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    fails("kumoctl", &[&nobody, "status"]).complains(1, &[&nobody]);
}

#[test]
fn a_second_process_on_the_same_database() {
    let _turn = Turn::shared();
    let cluster = Cluster::unattached(1, 1);
    let store = cluster.store_of(0).to_string_lossy().into_owned();
    let manager = cluster.manager_address(0).to_string();
    let hosts = Hosts::claim();
    let host = hosts.host(1).to_string();
    fails("kumo-server", &["-l", &host, "-m", &manager, "-s", &store]).complains(1, &[&store]);
}

#[test]
fn databases_that_are_none() {
    let _turn = Turn::shared();
    let hosts = Hosts::claim();
    let host = hosts.host(1).to_string();
    let dir = temp_dir();
    let try_store = |store: &str| run("kumo-server", &["-l", &host, "-m", &host, "-s", store], dir.path());

    std::fs::write(dir.path().join("file.tch"), "ToKyO CaBiNeT\n").expect("a file");
    try_store("file.tch").complains(1, &["file.tch"]);

    std::fs::create_dir(dir.path().join("home")).expect("a directory");
    std::fs::write(dir.path().join("home/letter.txt"), "dear reader").expect("a file");
    try_store("home").complains(1, &["home"]);
    try_store("/proc/kumodb").complains(1, &["/proc/kumodb"]);
}

#[test]
fn help_and_version_are_answers() {
    let _turn = Turn::shared();
    for program in ["kumofs", "kumo-manager", "kumo-server", "kumo-gateway", "kumoctl"] {
        for option in ["--help", "-h", "--version", "-V"] {
            let said = fails(program, &[option]);
            assert_eq!(said.code, Some(0), "{program} {option}: {said:?}");
            assert!(!said.stdout.is_empty() && said.stderr.is_empty(), "{program} {option}: {said:?}");
        }
    }
}
