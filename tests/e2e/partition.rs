//! Faults of processes and of networks, while clients that share keys record what they see; an order of all operations on a
//! key must explain every answer. `KUMO_KILL_ROUNDS` says how long, `KUMO_TEST_SEED` replays the choices.
//!
//! Where the machine allows network namespaces, links are cut one by one and one way, cables are pulled, and lines are slow
//! and lose packets; elsewhere that part is skipped, and processes are killed and hang.

use crate::common::cluster::{Cluster, gateway_host, manager_host, server_host};
use crate::common::memcache::Client;
use crate::common::process::Process;
use crate::common::rng::Rng;
use crate::common::witness::Witness;
use crate::common::world::World;
use crate::common::{Turn, eventually, say, setting};
use std::time::Duration;

const MANAGERS: usize = 2;
const SERVERS: usize = 4;
const GATEWAYS: usize = 2;
/// So many changes must be acknowledged before a fault.
const PROGRESS: u64 = 100;

fn rounds() -> u64 {
    setting("KUMO_KILL_ROUNDS", 2)
}

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    KillServer,
    KillTwoServers,
    KillManagerAndServer,
    HangServer,
    HangManager,
    HangGateway,
    /// Between two servers, nothing comes through.
    CutServers,
    /// From one server to another, nothing comes through.
    CutServersOneWay,
    /// A server, which servers and gateways reach, is cut off from all managers.
    CutFromManagers,
    /// Servers hear the managers, which do not hear one of them.
    MuteToManagers,
    CutManagers,
    /// Nobody hears a server, which hears all.
    Mute,
    /// A server hears nobody.
    Deaf,
    /// Its cable is pulled.
    PullServer,
    PullGateway,
    /// A gateway does not reach one server.
    CutGateway,
    /// The network says that there is no way between two servers.
    RejectServers,
    /// A manager, a server and a gateway on one side, all others on the other.
    Split,
    /// The line to a server is slow, and loses what waits too long.
    SlowServer,
    /// The line of a server goes off and on.
    LossyServer,
}

const OF_PROCESSES: &[Fault] = &[
    Fault::KillServer,
    Fault::KillTwoServers,
    Fault::KillManagerAndServer,
    Fault::HangServer,
    Fault::HangManager,
    Fault::HangGateway,
];

const OF_NETWORKS: &[Fault] = &[
    Fault::CutServers,
    Fault::CutServersOneWay,
    Fault::CutFromManagers,
    Fault::MuteToManagers,
    Fault::CutManagers,
    Fault::Mute,
    Fault::Deaf,
    Fault::PullServer,
    Fault::PullGateway,
    Fault::CutGateway,
    Fault::RejectServers,
    Fault::Split,
    Fault::SlowServer,
    Fault::LossyServer,
];

/// Two different servers, a manager and a gateway that are struck.
struct Victims {
    server: usize,
    other: usize,
    manager: usize,
    gateway: usize,
}

impl Victims {
    fn choose(rng: &mut Rng) -> Victims {
        let server = rng.below(SERVERS);
        let other = (server + 1 + rng.below(SERVERS - 1)) % SERVERS;
        Victims { server, other, manager: rng.below(MANAGERS), gateway: rng.below(GATEWAYS) }
    }
}

/// How long a fault lasts: blinks, and longer than it takes to be removed for it.
fn a_while(rng: &mut Rng) -> Duration {
    Duration::from_millis([50, 300, 1200, 2600, 3500][rng.below(5)] + rng.below(300) as u64)
}

fn hang(process: &Process, how_long: Duration) {
    process.freeze();
    std::thread::sleep(how_long);
    process.thaw();
}

fn strike_processes(cluster: &mut Cluster, fault: Fault, victims: &Victims, how_long: Duration) {
    match fault {
        Fault::HangServer => return hang(&cluster.servers[victims.server], how_long),
        Fault::HangManager => return hang(&cluster.managers[victims.manager], how_long),
        Fault::HangGateway => return hang(&cluster.gateways[victims.gateway], how_long),
        Fault::KillTwoServers => cluster.servers[victims.other].kill(),
        Fault::KillManagerAndServer => cluster.managers[victims.manager].kill(),
        _ => {}
    }
    cluster.servers[victims.server].kill();
    std::thread::sleep(how_long);
    cluster.processes().filter(|p| !p.is_running()).for_each(Process::restart);
}

/// All pairs of hosts between which nothing comes through; one way, from the first to the second.
fn cuts(fault: Fault, victims: &Victims) -> Vec<(usize, usize)> {
    let (server, other) = (server_host(victims.server), server_host(victims.other));
    let gateway = gateway_host(victims.gateway);
    let managers: Vec<usize> = (0..MANAGERS).map(manager_host).collect();
    let servers = (0..SERVERS).map(server_host);
    let everybody: Vec<usize> =
        managers.iter().copied().chain(servers).chain((0..GATEWAYS).map(gateway_host)).collect();
    let both_ways = |pairs: Vec<(usize, usize)>| pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect();
    match fault {
        Fault::CutServers => vec![(server, other), (other, server)],
        Fault::CutServersOneWay => vec![(server, other)],
        Fault::CutFromManagers => both_ways(managers.iter().map(|m| (server, *m)).collect()),
        Fault::MuteToManagers => managers.iter().map(|m| (server, *m)).collect(),
        Fault::CutManagers => vec![(managers[0], managers[1]), (managers[1], managers[0])],
        Fault::Mute => everybody.iter().filter(|h| **h != server).map(|h| (server, *h)).collect(),
        Fault::Deaf => everybody.iter().filter(|h| **h != server).map(|h| (*h, server)).collect(),
        Fault::CutGateway => vec![(gateway, server), (server, gateway)],
        Fault::Split => {
            let side = [manager_host(victims.manager), server, gateway];
            let across = |a: usize| everybody.iter().filter(|b| !side.contains(b)).map(move |b| (a, *b));
            both_ways(side.into_iter().flat_map(across).collect())
        }
        _ => Vec::new(),
    }
}

fn strike_network(world: &World, fault: Fault, victims: &Victims, how_long: Duration, rng: &mut Rng) {
    let (server, other) = (server_host(victims.server), server_host(victims.other));
    let pulled = if fault == Fault::PullGateway { gateway_host(victims.gateway) } else { server };
    let cuts = cuts(fault, victims);
    cuts.iter().for_each(|(from, to)| world.cut(*from, *to));
    match fault {
        Fault::PullServer | Fault::PullGateway => world.pull(pulled),
        Fault::RejectServers => world.reject(server, other),
        Fault::SlowServer => world.narrow(server, 20_000),
        _ => {}
    }
    if fault == Fault::LossyServer {
        let until = std::time::Instant::now() + how_long.max(Duration::from_secs(2));
        while std::time::Instant::now() < until {
            world.pull(server);
            std::thread::sleep(Duration::from_millis(5 + rng.below(60) as u64));
            world.plug(server);
            std::thread::sleep(Duration::from_millis(20 + rng.below(200) as u64));
        }
    } else {
        std::thread::sleep(how_long);
    }
    match fault {
        Fault::PullServer | Fault::PullGateway => world.plug(pulled),
        Fault::RejectServers => world.accept(server, other),
        Fault::SlowServer => world.widen(server),
        _ => {}
    }
    cuts.iter().for_each(|(from, to)| world.mend(*from, *to));
}

/// Everything is well again: all servers are active, and every gateway serves.
fn recover(cluster: &Cluster) {
    cluster.until("all servers are known", |s| s.active() + s.not_attached.len() >= SERVERS);
    eventually("all are active", || {
        let status = cluster.ctl(&["status"]);
        if status.code != Some(0) {
            // The manager hangs, or waits for a processor that others use.
            return None;
        }
        let status = crate::common::cluster::Status::read(&status.stdout);
        if status.active() == SERVERS && status.not_attached.is_empty() {
            return Some(());
        }
        // One that woke up a moment ago may be taken for dead after this, and one that is being copied to is there soon.
        cluster.ctl(&["attach"]);
        std::thread::sleep(Duration::from_millis(100));
        None
    });
    for gateway in cluster.gateway_addresses() {
        eventually("every gateway serves", || Client::connect(*gateway).ok()?.set("recovered", b"yes").ok());
    }
}

/// Strikes with all of `faults` in an order that chance decides.
fn schedule(cluster: &mut Cluster, world: Option<&World>, faults: &[Fault], rng: &mut Rng, name: &str) {
    let witness = Witness::start(cluster.gateway_addresses(), rng);
    for _ in 0..rounds().div_ceil(2) {
        let mut left = faults.to_vec();
        while !left.is_empty() {
            let fault = left.swap_remove(rng.below(left.len()));
            witness.progress(PROGRESS);
            let (victims, how_long, began) = (Victims::choose(rng), a_while(rng), witness.now());
            match world {
                Some(world) if OF_NETWORKS.contains(&fault) => strike_network(world, fault, &victims, how_long, rng),
                _ => strike_processes(cluster, fault, &victims, how_long),
            }
            recover(cluster);
            let (server, gap) = (victims.server + 1, witness.longest_gap_since(began));
            say(&format!("{name}: {fault:?} (server{server}) for {how_long:?}: no change for {gap:?}"));
            witness.turn_page();
        }
    }
    witness.progress(PROGRESS);
    witness.finish(name);
    cluster.assert_sound();
}

#[test]
fn processes_die_and_hang_and_an_order_explains_what_all_clients_saw() {
    let _turn = Turn::alone();
    let mut rng = Rng::announced("deaths and hanging");
    let mut cluster = Cluster::start(MANAGERS, SERVERS);
    cluster.add_gateway(&[]);
    schedule(&mut cluster, None, OF_PROCESSES, &mut rng, "deaths and hanging");
}

/// What is decided is a fact, whoever tells it. A server that heard of epochs from managers alone held up the writes of its
/// keys until it was taken for dead.
#[test]
fn a_server_that_no_manager_reaches_learns_of_an_epoch_from_the_others() {
    let _turn = Turn::alone();
    World::run(|world| {
        let mut cluster = Cluster::start_in(world.clone(), 1, 3, 1);
        let (server, manager) = (server_host(0), manager_host(0));
        let mark = cluster.servers[0].mark();
        world.cut(server, manager);
        world.cut(manager, server);
        // It is parted with at once, long before the first is missed.
        cluster.servers[2].kill();
        let line = cluster.servers[0].wait_for(" epoch ", mark);
        assert!(!line.contains("not in it"), "it was removed before it heard of the epoch before that: {line}");
        let mut client = cluster.client();
        (0..20).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    });
}

#[test]
fn links_break_in_all_ways_and_an_order_explains_what_all_clients_saw() {
    let _turn = Turn::alone();
    World::run(|world| {
        let mut rng = Rng::announced("broken links");
        let mut cluster = Cluster::start_in(world.clone(), MANAGERS, SERVERS, GATEWAYS);
        schedule(&mut cluster, Some(&world), OF_NETWORKS, &mut rng, "broken links");
    });
}
