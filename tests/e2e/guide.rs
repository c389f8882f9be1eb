//! The guide's tutorial and how-to, done as written.

use crate::common::cluster::{Cluster, MANAGER_PORT, Status, show};
use crate::common::load::Load;
use crate::common::memcache::Client;
use crate::common::net::{free_port, has_ipv6};
use crate::common::process::{Process, run};
use crate::common::rng::Rng;
use crate::common::{Turn, eventually, program, skip, temp_dir};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const NOBODY: Status = Status { timestamp: String::new(), attached: Vec::new(), not_attached: Vec::new() };

fn fill(client: &mut Client, records: usize) {
    for i in 0..records {
        client.set(&format!("record-{i}"), format!("value {i}").as_bytes()).expect("it is stored");
    }
}

#[track_caller]
fn assert_filled(client: &mut Client, records: usize) {
    for i in 0..records {
        let found = client.get(&format!("record-{i}")).expect("an answer");
        assert_eq!(found, Some(format!("value {i}").into_bytes()), "record-{i}");
    }
}

#[test]
fn tutorial_two_managers_three_servers_and_a_gateway() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::unattached(2, 3);
    let servers: Vec<SocketAddr> = (0..3).map(|i| cluster.server_address(i)).collect();

    let before = cluster.status();
    assert_eq!(before.attached, NOBODY.attached);
    assert_eq!(sorted(before.not_attached), servers);

    let marks = cluster.manager_marks();
    cluster.order(&["attach"]);
    let after = cluster.until("three servers are active", |s| s.active() == 3);
    assert_eq!(after.not_attached, NOBODY.not_attached);
    assert_eq!(sorted(after.attached.into_iter().map(|(a, _)| a).collect()), servers);
    cluster.until_logged("start replace copy", &marks);
    cluster.until_logged("start replace delete", &marks);
    cluster.until_replaced(&marks);

    let mut client = Client::connect(cluster.add_gateway(&[])).expect("it listens");
    client.set("the-key", b"the value").expect("it is stored");
    assert_eq!(client.get("the-key").expect("an answer"), Some(b"the value".to_vec()));
    assert!(client.delete("the-key").expect("an answer"));
    assert_eq!(client.get("the-key").expect("an answer"), None);

    for (process, own) in cluster.servers.iter_mut().zip(&servers) {
        let others = servers.iter().filter(|other| *other != own);
        others.for_each(|other| drop(process.wait_for(&format!("new node 1 {other}"), 0)));
    }
    cluster.kill_server(2);
    cluster.servers[..2].iter_mut().for_each(|s| drop(s.wait_for(&format!("lost node 1 {}", servers[2]), 0)));
    cluster.assert_sound();
}

fn sorted(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort();
    addresses
}

#[test]
fn status_prints_what_scripts_read() {
    let _turn = Turn::shared();
    let cluster = Cluster::unattached(1, 1);
    let server = cluster.server_address(0);
    let said = cluster.ctl(&["status"]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    let at = |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("{line:?} in {said:?}"));
    assert_eq!(at("hash space timestamp:"), 0);
    // "  Wed Dec 03 22:15:55 +0900 2008 clock 62"
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert!(lines[1].starts_with("  ") && words.len() == 8 && words[6] == "clock", "{said:?}");
    assert!(words[5].parse::<u32>().is_ok() && words[7].parse::<u32>().is_ok(), "{said:?}");
    assert_eq!(at("attached node:") + 1, at("not attached node:"));
    assert_eq!(at(&format!("  {server}")), at("not attached node:") + 1);
    cluster.order(&["attach"]);
    cluster.until("it is active", |s| s.is_active(server));
    assert!(cluster.ctl(&["status"]).stdout.contains(&format!("\n  {server}  (active)\n")));
}

#[test]
fn both_managers_of_a_pair_answer_alike() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(2, 3);
    let answers = [0, 1].map(|m| Status::read(&cluster.ctl_at(m, &["status"]).stdout));
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_fourth_server_is_added_under_load() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let load = Load::start(cluster.gateway_addresses(), 300, 1);
    load.progress(300);
    let fourth = cluster.add_server();
    let address = cluster.server_address(fourth);
    assert_eq!(cluster.status().not_attached, [address]);
    cluster.attach();
    load.progress(300);
    let report = load.finish("a fourth server");
    assert_eq!((report.refused, report.unanswered), (0, 0));
    assert!(cluster.status().is_active(address));
    cluster.assert_sound();
}

#[test]
fn a_dead_server_is_detached_under_load() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 4);
    let load = Load::start(cluster.gateway_addresses(), 300, 2);
    load.progress(300);
    cluster.kill_server(3);
    let marks = cluster.manager_marks();
    cluster.order(&["detach"]);
    cluster.until("three servers are left", |s| s.attached.len() == 3 && s.active() == 3 && s.not_attached.is_empty());
    cluster.until_replaced(&marks);
    load.progress(300);
    load.finish("detach");
    cluster.assert_sound();
}

#[test]
fn a_dead_server_comes_back_with_an_empty_database_and_is_attached() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let mut client = cluster.client();
    fill(&mut client, 200);
    cluster.kill_server(1);
    std::fs::rename(cluster.store_of(1), cluster.dir().join("old")).expect("the database can be moved away");
    cluster.restart_server(1);
    let address = cluster.server_address(1);
    cluster.until("it is fault and not attached", |s| s.is_fault(address) && s.not_attached == [address]);
    cluster.attach();
    assert_filled(&mut client, 200);
    // What it holds was copied to it: the others are taken away, one after the other.
    cluster.kill_server(0);
    cluster.kill_server(2);
    assert_filled(&mut client, 200);
    cluster.assert_sound();
}

#[test]
fn what_was_deleted_while_a_server_was_away_stays_deleted() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    fill(&mut client, 50);
    cluster.kill_server(2);
    for i in 0..50 {
        assert!(client.delete(&format!("record-{i}")).expect("an answer"));
    }
    cluster.restart_server(2);
    cluster.attach();
    cluster.kill_server(0);
    cluster.kill_server(1);
    for i in 0..50 {
        assert_eq!(client.get(&format!("record-{i}")).expect("an answer"), None, "record-{i}");
    }
}

#[test]
fn attach_and_detach_without_replace_wait_for_replace() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    let mut client = cluster.client();
    fill(&mut client, 100);
    cluster.kill_server(0);
    cluster.add_server();
    cluster.order(&["attach-noreplace"]);
    cluster.order(&["detach-noreplace"]);
    let dead = cluster.server_address(0);
    cluster.until("the members have changed", |s| s.active() == 4 && s.attached.iter().all(|(a, _)| *a != dead));
    let marks = cluster.manager_marks();
    cluster.order(&["replace"]);
    cluster.until_replaced(&marks);
    assert_filled(&mut client, 100);
    cluster.assert_sound();
}

#[test]
fn replace_and_full_replace_change_nothing_that_is_right() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 4);
    let load = Load::start(cluster.gateway_addresses(), 200, 3);
    load.progress(200);
    for (command, line) in [("replace", "start replace copy"), ("full-replace", "start replace copy; full=")] {
        let marks = cluster.manager_marks();
        cluster.order(&[command]);
        cluster.until_logged(line, &marks);
        cluster.until_replaced(&marks);
        load.progress(200);
    }
    let report = load.finish("replace");
    assert_eq!((report.refused, report.unanswered), (0, 0));
    cluster.assert_sound();
}

#[test]
fn a_backup_is_made_while_serving_and_can_be_served_from() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    fill(&mut client, 300);
    let said = cluster.ctl(&["backup", "20090101"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "suffix=20090101\nnil\n"), "{said:?}");
    let backups: Vec<_> = (0..3).map(|i| cluster.store_of(i).with_extension("tch-20090101")).collect();
    eventually("each server has made a backup", || backups.iter().all(|b| b.exists()).then_some(()));
    client.set("record-0", b"changed after the backup").expect("it is stored");

    // All disks are lost; the backups take their place, and nothing else is left of the cluster.
    cluster.processes().for_each(Process::kill);
    let restored = Cluster::restored(&backups);
    assert_filled(&mut restored.client(), 300);
}

#[test]
fn increments_of_a_backup_are_restored_as_they_were() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    let set = |client: &mut Client, n: usize, value: &str| client.set(&format!("record-{n}"), value.as_bytes());
    (0..2_000).for_each(|n| set(&mut client, n, &"1".repeat(100)).expect("it is stored"));
    assert_eq!(cluster.ctl(&["backup", "one"]).code, Some(0));
    (0..20).for_each(|n| set(&mut client, n, "changed").expect("it is stored"));
    client.delete("record-20").expect("it is deleted");
    let said = cluster.ctl(&["backup", "two", "--since", "one"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "suffix=two\nnil\n"), "{said:?}");
    (0..5).for_each(|n| set(&mut client, n, "changed again").expect("it is stored"));
    let said = cluster.ctl(&["--json", "backup", "three", "--since", "two"]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("it is JSON");
    let bytes = json["servers"][0]["bytes"].as_u64().expect("it is told");
    assert!(bytes < 60_000, "{said:?}");
    let said = cluster.ctl(&["backup", "four", "--since", "none"]);
    assert!(said.code == Some(1) && said.stderr.contains("is no backup to build upon"), "{said:?}");

    // An increment is no store; made whole, it is what the store was.
    let three = |i: usize| cluster.store_of(i).with_extension("tch-three");
    let merged = cluster.dir().join("merged");
    let (first, second) = (three(0), three(1));
    let words = [&merged, &first, &second].map(|path| path.to_str().expect("it is text").to_owned());
    let said = run("kumomergedb", &words.each_ref().map(String::as_str), cluster.dir());
    assert_eq!(said.code, Some(0), "{said:?}");
    cluster.processes().for_each(Process::kill);
    let restored = Cluster::restored(&[merged]);
    let mut client = restored.client();
    for n in 0..2_000 {
        let expected = match n {
            0..5 => Some("changed again".to_owned()),
            5..20 => Some("changed".to_owned()),
            20 => None,
            _ => Some("1".repeat(100)),
        };
        let found = client.get(&format!("record-{n}")).expect("it is answered");
        assert_eq!(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()), expected, "record-{n}");
    }
}

#[test]
fn a_backup_without_a_name_is_named_by_the_day() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(1, 1);
    let said = cluster.ctl(&["backup"]);
    let suffix = said.stdout.lines().next().and_then(|l| l.strip_prefix("suffix=")).expect("it says the suffix");
    assert!(suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_digit()), "{said:?}");
    assert!(said.stdout.ends_with("nil\n"), "{said:?}");
    let backup = cluster.store_of(0).with_extension(format!("tch-{suffix}"));
    eventually("the backup is there", || backup.exists().then_some(()));
}

#[test]
fn a_backup_that_a_server_does_not_make_is_told() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    fill(&mut client, 50);
    let said = cluster.ctl(&["backup", "one"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "suffix=one\nnil\n"), "{said:?}");
    assert_eq!(said.stderr.matches("50 records, ").count(), 3, "{said:?}");
    // It is there already.
    let said = cluster.ctl(&["backup", "one"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), "suffix=one\n"), "{said:?}");
    assert_eq!(said.stderr.matches(": no backup: ").count(), 3, "{said:?}");
    assert_eq!(cluster.ctl(&["backup", "one", "--no-wait"]).code, Some(0));
    let dead = cluster.server_address(2).to_string();
    cluster.kill_server(2);
    let said = cluster.ctl(&["--json", "backup", "two"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let told: serde_json::Value = serde_json::from_str(&said.stdout).expect("it is JSON");
    let servers = told["servers"].as_array().expect("a list");
    let failed: Vec<_> = servers.iter().filter(|s| s.get("error").is_some()).map(|s| &s["address"]).collect();
    assert_eq!((servers.len(), failed), (3, vec![&serde_json::json!(dead)]), "{told}");
}

#[test]
fn auto_replace_repairs_without_an_operator() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.manager_options = vec!["-Rs".to_owned(), "1".to_owned()];
    cluster.start_managers(1);
    cluster.add_servers(4);
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    fill(&mut client, 200);
    let said = cluster.ctl(&["enable-auto-replace"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let marks = cluster.manager_marks();
    cluster.kill_server(3);
    cluster.until_replaced(&marks);
    cluster.kill_server(2);
    cluster.kill_server(1);
    assert_filled(&mut client, 200);
    let said = cluster.ctl(&["disable-auto-replace"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    cluster.assert_sound();
}

#[test]
fn all_managers_die_and_nobody_notices() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    let load = Load::start(cluster.gateway_addresses(), 200, 4);
    load.progress(200);
    cluster.managers.iter_mut().for_each(Process::kill);
    load.progress(500);
    cluster.managers.iter_mut().for_each(Process::restart);
    cluster.until("the servers are known again", |s| s.active() + s.not_attached.len() >= 3);
    if cluster.status().active() < 3 {
        cluster.attach();
    }
    load.progress(200);
    let report = load.finish("all managers");
    assert_eq!((report.refused, report.unanswered), (0, 0));
    cluster.assert_sound();
}

#[test]
fn everything_is_killed_at_once_and_comes_back_with_all_that_was_acknowledged() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    fill(&mut cluster.client(), 300);
    cluster.processes().for_each(Process::kill);
    cluster.processes().for_each(Process::restart);
    // Nobody has to do anything.
    cluster.until("all are active", |s| s.active() == 3);
    let mut client = eventually("the gateway listens", || Client::connect(cluster.gateway(0)).ok());
    eventually("it serves", || client.set("after", b"x").ok());
    assert_filled(&mut client, 300);
    cluster.assert_sound();
}

#[test]
fn all_on_localhost() {
    let _turn = Turn::shared();
    let dir = temp_dir();
    let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
    let start = |name: &str, program_name: &str, args: &[&str]| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        Process::start(name, &program(program_name), &args, &dir.path().join(name))
    };
    let manager_address = format!("localhost:{}", free_port(ip));
    let mut manager = start("manager", "kumo-manager", &["-v", "-l", &manager_address]);
    manager.wait_for("start manager", 0);
    let _servers: Vec<Process> = (1..=3)
        .map(|i| {
            let (listen, stream) = (format!("localhost:{}", free_port(ip)), free_port(ip).to_string());
            let database = format!("./database{i}.tch");
            let args = ["-v", "-m", &manager_address, "-l", &listen, "-L", &stream, "-s", &database];
            start(&format!("server{i}"), "kumo-server", &args)
        })
        .collect();
    let ctl = |command: &str| run("kumoctl", &[&manager_address, command], dir.path());
    eventually("three servers are known", || {
        let said = ctl("status");
        (said.code == Some(0) && Status::read(&said.stdout).not_attached.len() == 3).then_some(())
    });
    assert_eq!(ctl("attach").stdout, "nil\n");
    let port = free_port(ip);
    let mut gateway = start("gateway", "kumo-gateway", &["-v", "-m", &manager_address, "-t", &port.to_string()]);
    gateway.wait_for("connect success", 0);
    let mut client = eventually("the gateway listens", || Client::connect(SocketAddr::new(ip, port)).ok());
    client.set("key", b"value").expect("it is stored");
    assert_eq!(client.get("key").expect("an answer"), Some(b"value".to_vec()));
    // A bare port is for this host only, in both families.
    if has_ipv6() {
        let mut client = Client::connect(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).expect("[::1], too");
        assert_eq!(client.get("key").expect("an answer"), Some(b"value".to_vec()));
    }
}

#[test]
fn a_cluster_on_ipv6() {
    if !has_ipv6() {
        return skip("this system has no IPv6");
    }
    let _turn = Turn::shared();
    let mut cluster = Cluster::on_one_host(Ipv6Addr::LOCALHOST.into(), 2, 3);
    assert!(cluster.manager_address(0).is_ipv6());
    cluster.attach();
    cluster.add_gateway(&[]);
    let mut client = cluster.client();
    fill(&mut client, 100);
    cluster.kill_server(0);
    assert_filled(&mut client, 100);
    cluster.restart_server(0);
    cluster.attach();
    assert_filled(&mut client, 100);
    cluster.assert_sound();
}

#[test]
fn kumoctl_is_served_on_the_control_port_too() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::empty();
    cluster.manager_options = vec!["-c".to_owned(), "19799".to_owned()];
    cluster.start_managers(1);
    cluster.add_server();
    let manager = SocketAddr::new(cluster.manager_address(0).ip(), 19799);
    let said = run("kumoctl", &[&show(manager, MANAGER_PORT), "status"], cluster.dir());
    assert_eq!(Status::read(&said.stdout).not_attached, [cluster.server_address(0)], "{said:?}");
}

#[test]
fn a_server_that_hangs_is_noticed_and_does_not_come_back_by_itself_with_old_values() {
    let _turn = Turn::alone();
    let cluster = Cluster::start(2, 3);
    let mut rng = Rng::announced("a server that hangs");
    let load = Load::start(cluster.gateway_addresses(), 200, rng.next());
    load.progress(200);
    let victim = rng.below(3);
    let address = cluster.server_address(victim);
    cluster.servers[victim].freeze();
    cluster.until("it is taken for dead", |s| s.is_fault(address));
    load.progress(300);
    cluster.servers[victim].thaw();
    cluster.until("it asks to be attached", |s| s.not_attached.contains(&address) || s.is_active(address));
    load.progress(200);
    if !cluster.status().is_active(address) {
        cluster.attach();
    }
    load.progress(200);
    load.finish("a server that hangs");
}
