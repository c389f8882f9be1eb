//! Planned changes: what is told to end ends in order, and clients hardly notice.

use crate::common::cluster::Cluster;
use crate::common::load::Load;
use crate::common::memcache::{Client, Error};
use crate::common::process::Process;
use crate::common::{Turn, eventually, say};
use crate::kill::pipeline;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Far above what is promised (0.1 s), for machines that are busy with other things; the measured one is printed.
const GAP_LIMIT: Duration = Duration::from_secs(5);
/// Where gaps are longer, the machine stood still for longer than servers are waited for.
const IN_STEP: Duration = Duration::from_millis(150);

/// What is promised, and what is far less: where no step is over as soon as that, the machine is busy with other things.
const PROMISED: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_millis(50);

/// Says how long the longest gap was since it was last said.
fn tell_gap(load: &Load, during: &str) -> Duration {
    let gap = load.take_longest_gap();
    say(&format!("planned: {during}: longest gap {gap:?}"));
    gap
}

/// Each server and manager in turn is told to end and started again, while clients write, read, and send many commands at once.
#[test]
fn servers_and_managers_are_restarted_one_after_the_other_without_an_error() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(2, 4);
    cluster.add_gateway(&[]);
    let load = Load::start(cluster.gateway_addresses(), 300, 11);
    let stop = Arc::new(AtomicBool::new(false));
    let (gateway, stopped) = (cluster.gateway(0), stop.clone());
    let pipelining = std::thread::spawn(move || pipeline(gateway, &stopped));
    load.progress(300);
    tell_gap(&load, "before");
    let (mut gone, mut back) = (Vec::new(), Vec::new());
    for i in 0..4 {
        let address: SocketAddr = cluster.server_address(i);
        assert!(cluster.servers[i].terminate().success());
        cluster.until("it is no longer active", |s| !s.is_active(address));
        load.progress(200);
        gone.push(tell_gap(&load, &format!("server {i} ends")));
        cluster.restart_server(i);
        cluster.attach();
        load.progress(200);
        back.push(tell_gap(&load, &format!("server {i} is back")));
    }
    // One that was attached as soon as it had started held up its clients for as long as it had to keep still.
    assert!(back.iter().min() < Some(&PROMISED) || gone.iter().min() > Some(&QUIET), "{gone:?}, {back:?}");
    for i in 0..2 {
        assert!(cluster.managers[i].terminate().success());
        load.progress(200);
        cluster.restart_manager(i);
        load.progress(200);
        tell_gap(&load, &format!("manager {i}"));
    }
    stop.store(true, SeqCst);
    let (commands, refused) = pipelining.join().expect("the order is kept");
    say(&format!("planned: {commands} sets and gets in one pipeline, {refused} gets refused"));
    let report = load.finish("planned restarts");
    assert_eq!((report.refused, report.unanswered), (0, 0), "{report:?}");
    assert!(report.longest_gap < GAP_LIMIT, "{report:?}");
    // Nobody died, so nothing that was under way got lost; unless the steps took too long, and then a burst each time.
    let bursts = if report.longest_gap < IN_STEP { 0 } else { 12 + cluster.standstills() };
    assert!(refused <= 10 * bursts, "{refused} gets refused");
    cluster.processes().for_each(Process::kill);
}

/// What a client does that knows two gateways: when one hangs up before an answer, it asks the other. Counts up, also in
/// `done`, until told to stop; returns how far it came, and how long the longest set took.
fn count_over(gateways: [SocketAddr; 2], key: &str, done: &AtomicU64, stop: &AtomicBool) -> (u64, Duration) {
    let (mut n, mut which, mut longest) = (0, 0, Duration::ZERO);
    let mut client = Client::connect(gateways[0]).expect("the gateway listens");
    while !stop.load(SeqCst) {
        let began = Instant::now();
        n += 1;
        while let Err(e) = client.set(key, format!("{n}").as_bytes()) {
            assert!(matches!(e, Error::Gone(_)), "{key}: {e:?}");
            client = eventually("a gateway listens", || {
                which = 1 - which;
                Client::connect(gateways[which]).ok()
            });
        }
        longest = longest.max(began.elapsed());
        done.fetch_add(1, SeqCst);
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut client = Client::connect(gateways[which]).expect("the gateway listens");
    let found = client.get(key).expect("an answer");
    assert_eq!(found, Some(format!("{n}").into_bytes()), "what was acknowledged is there");
    (n, longest)
}

#[test]
fn gateways_are_restarted_one_after_the_other_and_their_clients_go_to_the_other() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(1, 3);
    cluster.add_gateway(&[]);
    let gateways = [cluster.gateway(0), cluster.gateway(1)];
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|i| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || count_over(gateways, &format!("counted-{i}"), &done, &stop))
        })
        .collect();
    let progress = || {
        let goal = done.load(SeqCst) + 200;
        eventually("sets are acknowledged", || (done.load(SeqCst) >= goal).then_some(()));
    };
    for i in [0, 1] {
        progress();
        assert!(cluster.gateways[i].terminate().success());
        progress();
        let mark = cluster.gateways[i].mark();
        cluster.gateways[i].restart();
        cluster.gateways[i].wait_for("connect success", mark);
    }
    progress();
    stop.store(true, SeqCst);
    for client in clients {
        let (n, longest) = client.join().expect("no client sees an error");
        say(&format!("planned: gateways restart: {n} sets, the longest took {longest:?}"));
        assert!(n > 0 && longest < GAP_LIMIT, "{n} sets, the longest took {longest:?}");
    }
    cluster.processes().for_each(Process::kill);
}

/// With one address for all of its life, a client finds a gateway there at any time.
#[test]
fn a_gateway_is_replaced_by_one_on_the_same_port_before_it_ends() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(1, 3);
    let address = cluster.add_gateway(&["--share-port"]);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|i| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || count_over([address; 2], &format!("counted-{i}"), &done, &stop))
        })
        .collect();
    for _ in 0..2 {
        let goal = done.load(SeqCst) + 200;
        eventually("sets are acknowledged", || (done.load(SeqCst) >= goal).then_some(()));
        let next = cluster.start_beside_gateway(1);
        // From here on somebody listens all the time.
        assert!(cluster.gateways[1].terminate().success());
        Client::connect(address).expect("somebody listens at any time");
        cluster.gateways[1] = next;
    }
    stop.store(true, SeqCst);
    for client in clients {
        let (n, longest) = client.join().expect("no client sees an error");
        say(&format!("planned: a gateway follows another: {n} sets, the longest took {longest:?}"));
        assert!(longest < GAP_LIMIT, "{n} sets, the longest took {longest:?}");
    }
    cluster.processes().for_each(Process::kill);
}
