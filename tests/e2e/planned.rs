//! Planned restarts: what is told to end ends in order, and clients hardly notice.

use crate::common::cluster::Cluster;
use crate::common::load::Load;
use crate::common::process::Process;
use crate::common::{Turn, say};
use std::net::SocketAddr;
use std::time::Duration;

/// Far above what is promised (0.1 s), for machines that are busy with other things; the measured one is printed.
const GAP_LIMIT: Duration = Duration::from_secs(2);

#[test]
fn servers_and_managers_are_restarted_one_after_the_other_without_an_error() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(2, 4);
    cluster.add_gateway(&[]);
    let load = Load::start(cluster.gateway_addresses(), 300, 11);
    load.progress(300);
    for i in 0..4 {
        let address: SocketAddr = cluster.server_address(i);
        assert!(cluster.servers[i].terminate().success());
        cluster.until("it is no longer active", |s| !s.is_active(address));
        load.progress(200);
        cluster.restart_server(i);
        cluster.attach();
        load.progress(200);
    }
    for i in 0..2 {
        assert!(cluster.managers[i].terminate().success());
        load.progress(200);
        cluster.restart_manager(i);
        load.progress(200);
    }
    let report = load.finish("planned restarts");
    say(&format!("planned restarts: longest gap {:?}", report.longest_gap));
    assert_eq!((report.refused, report.unanswered), (0, 0), "{report:?}");
    assert!(report.longest_gap < GAP_LIMIT, "{report:?}");
    cluster.processes().for_each(Process::kill);
}
