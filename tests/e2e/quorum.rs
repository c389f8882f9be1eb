//! Epochs are decided by votes: what pairs and triples of managers do when some of them, or their disks, are gone.

use crate::common::cluster::Cluster;
use crate::common::load::Load;
use crate::common::memcache::Client;
use crate::common::process::Process;
use crate::common::{Turn, eventually};
use std::path::Path;
use std::time::Duration;

/// Far above what is promised (0.3 s when a process dies), for machines that are busy with other things.
const GAP_LIMIT: Duration = Duration::from_secs(5);

fn epoch_number(cluster: &Cluster, manager: usize) -> u64 {
    let said = cluster.ctl_at(manager, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    status["epoch"].as_u64().unwrap_or_default()
}

/// Waits until two managers say the same of the cluster.
fn agree(cluster: &Cluster, one: usize, other: usize) {
    eventually("the managers agree", || {
        let [a, b] = [one, other].map(|i| cluster.ctl_at(i, &["status", "--json"]).stdout);
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        let (a, b) = (parse(&a)?, parse(&b)?);
        let same = |key: &str| a[key] == b[key];
        (same("epoch") && same("attached") && a["epoch"].is_u64()).then_some(())
    });
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn of_a_pair_the_one_that_is_left_handles_the_death_of_a_server() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(2, 3);
    let load = Load::start(cluster.gateway_addresses(), 100, 1);
    for dead in [0, 1] {
        cluster.managers[dead].kill();
        load.progress(100);
        cluster.kill_server(1);
        load.progress(100);
        cluster.restart_manager(dead);
        agree(&cluster, 0, 1);
        cluster.restart_server(1);
        cluster.attach();
    }
    let report = load.finish("a pair with one manager");
    assert!(report.longest_gap < GAP_LIMIT && report.refused == 0, "{report:?}");
    cluster.assert_sound();
}

/// Each of two managers in turn could not see the other, and decided alone: two epochs had one number.
#[test]
fn managers_that_hang_in_turn_never_decide_two_things() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(2, 5);
    let load = Load::start(cluster.gateway_addresses(), 100, 1);
    let before = epoch_number(&cluster, 0);
    cluster.managers[0].freeze();
    cluster.servers[1].kill();
    let dead = cluster.server_address(1);
    eventually("the other manager takes notice", || {
        let status = cluster.ctl_at(1, &["status"]).stdout;
        (status.contains(&format!("{dead}  (fault)"))).then_some(())
    });
    let decided = epoch_number(&cluster, 1);
    assert!(decided > before);
    // The first wakes up with what it knew, and the second cannot tell it.
    cluster.managers[1].freeze();
    cluster.managers[0].thaw();
    cluster.servers[2].kill();
    let dead = [1, 2].map(|i| cluster.server_address(i));
    cluster.until("the first knows of both deaths", |s| dead.iter().all(|d| s.is_fault(*d)));
    assert!(epoch_number(&cluster, 0) > decided);
    cluster.managers[1].thaw();
    agree(&cluster, 0, 1);
    load.progress(100);
    load.finish("hanging managers");
    for server in [0, 3, 4] {
        let log = cluster.servers[server].log_since(0);
        let mut numbers: Vec<&str> = log.lines().filter_map(|l| l.split(" epoch ").nth(1)).collect();
        let count = numbers.len();
        numbers.dedup();
        assert!(count > 0 && numbers.len() == count, "{numbers:?}");
    }
    cluster.assert_sound();
}

#[test]
fn of_three_managers_two_go_on_and_one_does_not() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(3, 3);
    cluster.managers[0].kill();
    cluster.kill_server(0);
    let mut client = cluster.client();
    client.set("key", b"value").expect("it is stored");
    cluster.restart_server(0);
    cluster.attach();
    cluster.managers[1].kill();
    let said = cluster.ctl(&["replace"]);
    said.complains(1, &["6"]);
    cluster.managers[2].wait_for("a command is refused: too few managers and servers have voted so far", 0);
    cluster.managers[2].wait_for("nothing can be decided: too few voters are in reach", 0);
    client.set("key", b"other").expect("it serves without managers");
    cluster.managers[1].restart();
    cluster.until_logged("partner connected", &cluster.manager_marks().iter().map(|_| 0).collect::<Vec<_>>());
    let marks = cluster.manager_marks();
    eventually("two of three decide", || (cluster.ctl_at(1, &["replace"]).code == Some(0)).then_some(()));
    cluster.until_replaced(&marks);
    cluster.assert_sound();
}

/// It took more than half of the servers for enough; those it did not hear might have gone on without these.
#[test]
fn a_manager_back_without_its_state_file_takes_nothing_over_blindly() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    cluster.managers[0].kill();
    remove(&cluster.state_of(0));
    cluster.servers[2].kill();
    cluster.restart_manager(0);
    let line = format!("servers {} may know more", cluster.server_address(2));
    cluster.managers[0].wait_for(&line, 0);
    assert_eq!(cluster.status().active(), 3);
    cluster.servers[2].restart();
    // Started anew, it is not the one that was attached.
    let address = cluster.server_address(2);
    cluster.until("it is noticed", |s| s.is_fault(address) && s.not_attached == [address]);
    cluster.attach();
    cluster.assert_sound();
}

#[test]
fn all_killed_at_once_come_into_service_without_one_manager_and_without_an_operator() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(2, 3);
    cluster.client().set("key", b"value").expect("it is stored");
    cluster.processes().for_each(Process::kill);
    cluster.processes().skip(1).for_each(Process::restart);
    cluster.until("all are active", |s| s.active() == 3);
    let mut client = eventually("the gateway listens", || Client::connect(cluster.gateway(0)).ok());
    let found = eventually("it serves", || client.gets("key").ok());
    assert_eq!(found.map(|f| f.data), Some(b"value".to_vec()));
    cluster.assert_sound();
}

/// A manager whose partner belonged to another cluster left the decisions to that one.
#[test]
fn a_partner_of_another_cluster_is_refused() {
    let _turn = Turn::shared();
    let mut clusters = [Cluster::start(1, 3), Cluster::start(1, 3)];
    let addresses = [0, 1].map(|i| clusters[i].manager_address(0));
    for (i, cluster) in clusters.iter_mut().enumerate() {
        let manager = &mut cluster.managers[0];
        manager.args_mut().extend(["-p".to_owned(), addresses[1 - i].to_string()]);
        manager.kill();
        manager.restart();
    }
    for (i, cluster) in clusters.iter_mut().enumerate() {
        let line = format!("manager {} is refused: it belongs to another cluster", addresses[1 - i]);
        cluster.managers[0].wait_for(&line, 0);
    }
    for cluster in &mut clusters {
        cluster.until("all servers are seen again", |s| s.active() == 3);
        cluster.kill_server(1);
        cluster.assert_sound();
    }
}

/// The second cluster counted it as its own, and writes there waited for it for ever.
#[test]
fn a_server_listed_at_the_managers_of_two_clusters_serves_one_of_them() {
    let _turn = Turn::shared();
    let [mut first, mut second] = [Cluster::start(1, 3), Cluster::start(1, 3)];
    let other = second.manager_address(0).to_string();
    first.server_options = vec!["-p".to_owned(), other];
    let shared = first.add_server();
    let address = first.server_address(shared);
    second.until("both see it", |s| s.not_attached == [address]);
    first.order(&["attach"]);
    second.ctl(&["attach"]);
    second.managers[0].wait_for(&format!("server refused {address}: it belongs to another cluster"), 0);
    first.servers[shared].wait_for("refuses this server", 0);
    second.until("it is none of theirs", |s| !s.is_active(address));
    first.until("it is one of these", |s| s.is_active(address));
    for cluster in [&mut first, &mut second] {
        cluster.client().set("key", b"value").expect("it is stored");
        cluster.assert_sound();
    }
}
