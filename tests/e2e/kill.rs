//! The kill loops: clusters of several shapes lose servers and managers by kill -9, again and again, while clients
//! verify every value. `KUMO_KILL_ROUNDS` says how often each; `KUMO_TEST_SEED` replays the choice of victims.

use crate::common::cluster::{CACHING, Cluster};
use crate::common::load::Load;
use crate::common::memcache::{Client, Error, Swapped};
use crate::common::process::Process;
use crate::common::rng::Rng;
use crate::common::{Turn, eventually, say, setting};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Far above what is promised (0.3 s), for machines that are busy with other things; the measured one is printed.
const GAP_LIMIT: Duration = Duration::from_secs(5);
/// So many writes must be acknowledged between two strokes.
const PROGRESS: u64 = 150;

fn rounds() -> u64 {
    setting("KUMO_KILL_ROUNDS", 2)
}

/// What is killed in each round.
#[derive(Clone, Copy)]
struct Stroke {
    servers: usize,
    managers: usize,
    /// Strike while records are being copied.
    replacing: bool,
}

fn kill_loop(name: &str, managers: usize, servers: usize, stroke: Stroke) {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(managers, servers);
    cluster.add_gateway(CACHING);
    kill_loop_on(cluster, name, stroke);
}

/// The same on a cluster that is up, with two gateways.
fn kill_loop_on(mut cluster: Cluster, name: &str, stroke: Stroke) {
    let mut rng = Rng::announced(name);
    let load = Load::start(cluster.gateway_addresses(), 400, rng.next());
    load.progress(PROGRESS);
    for _ in 0..rounds() {
        round(&mut cluster, &load, stroke, &mut rng);
    }
    let report = load.finish(name);
    cluster.assert_sound();
    assert!(report.longest_gap < GAP_LIMIT, "{name}: {report:?}");
    // Gateways retry, so that clients see a pause. What they may see of errors is bounded all the same.
    let allowed = rounds() * 4;
    assert!(report.refused + report.unanswered <= allowed, "{name}: more than {allowed} errors: {report:?}");
}

fn round(cluster: &mut Cluster, load: &Load, stroke: Stroke, rng: &mut Rng) {
    if stroke.replacing {
        let marks = cluster.manager_marks();
        cluster.order(&["full-replace"]);
        cluster.until_logged("start replace copy", &marks);
    }
    let victims = choose(rng, cluster.servers.len(), stroke.servers);
    let manager = (stroke.managers > 0).then(|| rng.below(cluster.managers.len()));
    manager.into_iter().for_each(|m| cluster.managers[m].kill());
    victims.iter().for_each(|v| cluster.servers[*v].kill());
    load.progress(PROGRESS);
    if let Some(m) = manager {
        if cluster.managers.len() == 2 {
            notice(cluster, &victims);
        }
        cluster.restart_manager(m);
    }
    notice(cluster, &victims);
    load.progress(PROGRESS);
    victims.iter().for_each(|v| cluster.restart_server(*v));
    let servers = cluster.servers.len();
    cluster.until("all servers are known", |s| s.active() + s.not_attached.len() >= servers);
    if cluster.status().active() < servers {
        cluster.attach();
    }
    load.progress(PROGRESS);
}

fn notice(cluster: &Cluster, victims: &[usize]) {
    let victims: Vec<SocketAddr> = victims.iter().map(|v| cluster.server_address(*v)).collect();
    cluster.until(&format!("{victims:?} are taken for dead"), |s| victims.iter().all(|v| s.is_fault(*v)));
}

fn choose(rng: &mut Rng, from: usize, how_many: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..from).collect();
    (0..how_many).map(|_| left.swap_remove(rng.below(left.len()))).collect()
}

#[test]
fn loop_1_one_manager_three_servers_one_server_dies() {
    kill_loop("loop 1", 1, 3, Stroke { servers: 1, managers: 0, replacing: false });
}

#[test]
fn loop_2_one_manager_three_servers_the_manager_dies() {
    kill_loop("loop 2", 1, 3, Stroke { servers: 0, managers: 1, replacing: false });
}

#[test]
fn loop_3_a_pair_three_servers_one_server_dies_while_replacing() {
    kill_loop("loop 3", 2, 3, Stroke { servers: 1, managers: 0, replacing: true });
}

#[test]
fn loop_4_a_pair_three_servers_two_servers_die() {
    kill_loop("loop 4", 2, 3, Stroke { servers: 2, managers: 0, replacing: false });
}

#[test]
fn loop_5_a_pair_three_servers_a_manager_dies() {
    kill_loop("loop 5", 2, 3, Stroke { servers: 0, managers: 1, replacing: false });
}

#[test]
fn loop_6_a_pair_three_servers_a_manager_and_a_server_die() {
    kill_loop("loop 6", 2, 3, Stroke { servers: 1, managers: 1, replacing: false });
}

#[test]
fn loop_7_a_pair_six_servers_two_servers_die_while_replacing() {
    kill_loop("loop 7", 2, 6, Stroke { servers: 2, managers: 0, replacing: true });
}

#[test]
fn loop_8_a_pair_six_servers_a_manager_and_a_server_die_while_replacing() {
    kill_loop("loop 8", 2, 6, Stroke { servers: 1, managers: 1, replacing: true });
}

#[test]
fn servers_and_gateways_of_different_numbers_of_workers_lose_a_server() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::empty();
    cluster.start_managers(2);
    for workers in ["1", "3", "2", "4"] {
        cluster.server_options = vec!["-TR".to_owned(), workers.to_owned()];
        cluster.add_server();
    }
    cluster.attach();
    cluster.add_gateway(&["-TR", "2"]);
    cluster.add_gateway(&["-TR", "3"]);
    kill_loop_on(cluster, "different workers", Stroke { servers: 1, managers: 0, replacing: true });
}

#[test]
fn servers_on_sled_lose_two_servers() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::empty();
    cluster.engine = "sled:";
    cluster.start_managers(1);
    cluster.add_servers(3);
    cluster.attach();
    cluster.add_gateway(&[]);
    cluster.add_gateway(&[]);
    kill_loop_on(cluster, "on sled", Stroke { servers: 2, managers: 0, replacing: false });
}

/// What swappers and counters know of one key.
#[derive(Default)]
struct Tally {
    succeeded: AtomicU64,
    /// Not answered, or answered that it is not known: it may have taken effect once.
    unknown: AtomicU64,
}

const COUNTERS: usize = 4;

/// Adds one to a number by gets and cas until told to stop. Each value tells who wrote it, so that no two are alike.
fn swap(gateway: SocketAddr, me: usize, tallies: &[Tally], stop: &AtomicBool, mut rng: Rng) {
    let mut client = Client::connect(gateway).expect("the gateway listens");
    while !stop.load(SeqCst) {
        let which = rng.below(COUNTERS);
        let key = format!("counter-{which}");
        let Ok(Some(found)) = client.gets(&key) else { continue };
        let n = number(&found.data);
        let told = tallies[which].succeeded.load(SeqCst);
        match client.cas(&key, format!("{} by {me}", n + 1).as_bytes(), found.cas) {
            // Others may have succeeded since, so the count is compared when all have stopped.
            Ok(Swapped::Stored) => drop(tallies[which].succeeded.fetch_add(1, SeqCst)),
            Ok(Swapped::Exists) => {}
            Ok(Swapped::NotFound) => panic!("{key} is gone; {told} swaps were acknowledged"),
            Err(Error::Strange(line)) => panic!("{key}: {line}"),
            Err(_) => {
                tallies[which].unknown.fetch_add(1, SeqCst);
                client = eventually("the gateway listens", || Client::connect(gateway).ok());
            }
        }
    }
}

fn number(data: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(data);
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("never written: {text:?}"))
}

/// Adds one by incr, and checks that no answer comes twice.
fn count(gateway: SocketAddr, tally: &Tally, stop: &AtomicBool) {
    let mut client = Client::connect(gateway).expect("the gateway listens");
    let mut last = 0;
    while !stop.load(SeqCst) {
        match client.incr("tally", 1) {
            Ok(Some(n)) => {
                assert!(n > last, "incr answered {n} after {last}");
                last = n;
                tally.succeeded.fetch_add(1, SeqCst);
            }
            Ok(None) => panic!("the tally is gone after {last}"),
            Err(Error::Strange(line)) => panic!("incr: {line}"),
            Err(_) => {
                tally.unknown.fetch_add(1, SeqCst);
                client = eventually("the gateway listens", || Client::connect(gateway).ok());
            }
        }
    }
}

/// Clients that compare and swap, and count, on keys that they share.
struct Rivals {
    stop: Arc<AtomicBool>,
    tallies: Arc<Vec<Tally>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Rivals {
    /// Starts them over the first two gateways.
    fn start(cluster: &Cluster, rng: &mut Rng) -> Rivals {
        let mut client = cluster.client();
        (0..COUNTERS).for_each(|i| client.set(&format!("counter-{i}"), b"0").expect("it is stored"));
        client.set("tally", b"0").expect("it is stored");
        let mut rivals = Rivals {
            stop: Arc::default(),
            tallies: Arc::new((0..=COUNTERS).map(|_| Tally::default()).collect()),
            threads: Vec::new(),
        };
        for me in 0..6 {
            let (gateway, tallies, stop) = (cluster.gateway(me % 2), rivals.tallies.clone(), rivals.stop.clone());
            let rng = Rng::new(rng.next());
            rivals.threads.push(std::thread::spawn(move || match me {
                0..4 => swap(gateway, me, &tallies, &stop, rng),
                _ => count(gateway, &tallies[COUNTERS], &stop),
            }));
        }
        rivals
    }

    /// Stops them, and compares what is stored with what was acknowledged: nothing was done twice or lost.
    fn finish(self, name: &str, gateway: SocketAddr) {
        self.stop.store(true, SeqCst);
        let broken = self.threads.into_iter().map(|t| t.join()).filter(Result::is_err).count();
        assert_eq!(broken, 0, "clients panicked");
        let mut client = Client::connect(gateway).expect("the gateway listens");
        for (which, tally) in self.tallies.iter().enumerate() {
            let key = if which == COUNTERS { "tally".to_owned() } else { format!("counter-{which}") };
            let found = eventually("it is read", || client.get(&key).ok().flatten());
            let (n, told, unknown) = (number(&found), tally.succeeded.load(SeqCst), tally.unknown.load(SeqCst));
            say(&format!("{name}: {key} is {n}, {told} acknowledged, {unknown} unknown"));
            assert!(n >= told && n <= told + unknown, "{key} is {n}, with {told} acknowledged and {unknown} unknown");
            assert!(told > 0, "{key}: nothing was acknowledged");
        }
    }
}

#[test]
fn loop_9_compare_and_swap_under_kills() {
    let _turn = Turn::alone();
    let mut rng = Rng::announced("loop 9");
    let mut cluster = Cluster::start(2, 6);
    cluster.add_gateway(&[]);
    let rivals = Rivals::start(&cluster, &mut rng);
    let load = Load::start(cluster.gateway_addresses(), 100, rng.next());
    for i in 0..rounds() {
        let stroke = Stroke { servers: 1 + (i as usize % 2), managers: i as usize % 2, replacing: i % 2 == 1 };
        round(&mut cluster, &load, stroke, &mut rng);
    }
    rivals.finish("loop 9", cluster.gateway(0));
    load.finish("loop 9");
    cluster.assert_sound();
}

/// Stops a process for a while, as a machine in trouble does, and lets it go on as if nothing had been.
fn freeze_a_while(process: &Process, rng: &mut Rng) {
    process.freeze();
    std::thread::sleep(Duration::from_millis(100 + rng.below(2500) as u64));
    process.thaw();
}

#[test]
fn whoever_hangs_and_wakes_again_nothing_is_lost_or_done_twice() {
    let _turn = Turn::alone();
    let mut rng = Rng::announced("hanging");
    let mut cluster = Cluster::start(2, 4);
    cluster.add_gateway(&[]);
    let rivals = Rivals::start(&cluster, &mut rng);
    let load = Load::start(cluster.gateway_addresses(), 100, rng.next());
    for i in 0..rounds() * 3 {
        let victim = match i % 3 {
            0 => rng.pick(&cluster.servers),
            1 => rng.pick(&cluster.managers),
            _ => rng.pick(&cluster.gateways),
        };
        freeze_a_while(victim, &mut rng);
        load.progress(PROGRESS);
        // A server that was taken for dead asks to be attached when it has noticed.
        cluster.until("all servers are known", |s| s.active() + s.not_attached.len() >= 4);
        if cluster.status().active() < 4 {
            cluster.attach();
        }
        load.progress(PROGRESS);
    }
    rivals.finish("hanging", cluster.gateway(0));
    load.finish("hanging");
    cluster.assert_sound();
}

/// Sends bursts of sets of one key, each with a get behind it, without waiting in between. What is answered to each must
/// be as if they were done one after the other. A get whose answer got lost, and that would see a later set of its burst,
/// is refused. Returns how many sets there were, and how many gets were refused.
pub fn pipeline(gateway: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    const BURST: u64 = 10;
    let mut client = Client::connect(gateway).expect("the gateway listens");
    let (mut n, mut refused) = (0, 0);
    while !stop.load(SeqCst) {
        let mut commands = String::new();
        for i in n..n + BURST {
            commands.push_str(&format!("set pipelined 0 0 10\r\n{i:010}\r\nget pipelined\r\n"));
        }
        client.send(commands.as_bytes()).expect("the gateway listens");
        for i in n..n + BURST {
            let stored = client.line().expect("an answer");
            assert_eq!(stored, "STORED", "set {i}");
            let first = client.line().expect("an answer");
            if first == "SERVER_ERROR cluster is changing, try again" {
                refused += 1;
                continue;
            }
            let value = [first, client.line().expect("an answer"), client.line().expect("an answer")];
            assert_eq!(value, ["VALUE pipelined 0 10", &format!("{i:010}"), "END"], "get {i}");
        }
        n += BURST;
    }
    (n, refused)
}

#[test]
fn pipelined_commands_keep_their_order_when_servers_die() {
    let _turn = Turn::alone();
    let mut rng = Rng::announced("pipelined commands");
    let mut cluster = Cluster::start(2, 3);
    let stop = Arc::new(AtomicBool::new(false));
    let (gateway, stopped) = (cluster.gateway(0), stop.clone());
    let client = std::thread::spawn(move || pipeline(gateway, &stopped));
    let load = Load::start(cluster.gateway_addresses(), 100, rng.next());
    for _ in 0..rounds() {
        round(&mut cluster, &load, Stroke { servers: 1, managers: 0, replacing: false }, &mut rng);
    }
    stop.store(true, SeqCst);
    let (commands, refused) = client.join().expect("the order is kept");
    say(&format!("pipelined commands: {commands} sets and gets in order, {refused} gets refused"));
    // Those of the burst that was under way when the key's coordinator died; when it comes back, nothing is refused.
    let bursts = rounds() + cluster.standstills();
    assert!(refused <= 10 * bursts, "{refused} gets refused: more than a burst for each death");
    load.finish("pipelined commands");
    cluster.assert_sound();
}

#[test]
fn a_server_in_a_loop_of_death_and_attach() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(1, 4);
    let load = Load::start(cluster.gateway_addresses(), 200, 5);
    for _ in 0..rounds() + 1 {
        // It is killed while it is being filled, and its newer self starts over.
        cluster.kill_server(3);
        cluster.restart_server(3);
        let marks = cluster.manager_marks();
        cluster.order(&["attach"]);
        cluster.until_logged("start replace copy", &marks);
        cluster.servers[3].kill();
        load.progress(PROGRESS);
        notice(&cluster, &[3]);
        cluster.restart_server(3);
        cluster.attach();
        load.progress(PROGRESS);
    }
    load.finish("death and attach");
    cluster.processes().for_each(Process::kill);
}

/// Stores keys of its own, one after the other as fast as it can, until told to stop; gives how many.
fn fill(gateway: SocketAddr, who: usize, stop: &AtomicBool) -> usize {
    let mut client = Client::connect(gateway).expect("the gateway listens");
    let mut done = 0;
    while !stop.load(SeqCst) {
        client.set(&fill_key(who, done), fill_key(who, done).as_bytes()).expect("it is stored");
        done += 1;
    }
    done
}

fn fill_key(who: usize, n: usize) -> String {
    format!("filled-by-{who}-{n}")
}

#[test]
fn nothing_is_missing_after_a_death_and_an_attach_among_many_new_keys() {
    const FILLERS: usize = 4;
    let _turn = Turn::alone();
    let mut rng = Rng::announced("many new keys");
    let mut cluster = Cluster::start(1, 4);
    let stop = Arc::new(AtomicBool::new(false));
    let fillers: Vec<_> = (0..FILLERS)
        .map(|who| {
            let (gateway, stop) = (cluster.gateway(0), stop.clone());
            std::thread::spawn(move || fill(gateway, who, &stop))
        })
        .collect();
    let mut watcher = cluster.client();
    let mut goal = 0;
    for _ in 0..rounds() {
        let victim = rng.below(cluster.servers.len());
        for step in 0..3 {
            goal += 1000;
            eventually("keys are stored", || watcher.get(&fill_key(0, goal)).expect("an answer"));
            match step {
                0 => cluster.kill_server(victim),
                1 => {
                    cluster.restart_server(victim);
                    cluster.attach();
                }
                _ => {}
            }
        }
    }
    stop.store(true, SeqCst);
    let counts: Vec<usize> = fillers.into_iter().map(|f| f.join().expect("all is stored")).collect();
    let all: Vec<String> = (0..FILLERS).flat_map(|who| (0..counts[who]).map(move |n| fill_key(who, n))).collect();
    let mut missing = Vec::new();
    for keys in all.chunks(100) {
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = watcher.retrieve("get", &asked).expect("an answer");
        let is_right = |key: &&String| found.iter().any(|v| v.key == **key && v.data == key.as_bytes());
        missing.extend(keys.iter().filter(|key| !is_right(key)).cloned());
    }
    say(&format!("many new keys: {} stored", all.len()));
    assert!(
        missing.is_empty(),
        "{} of {} are missing: {:?}",
        missing.len(),
        all.len(),
        &missing[..missing.len().min(10)]
    );
    cluster.assert_sound();
}
