//! Whole operations, through the gateway and the servers of a simulated cluster. What the simulated network costs is
//! counted with them.

use crate::region::count;
use kumofs::sim::cluster::{CLIENT_PORT, Cluster, Command, Shape, Who};
use kumofs::sim::net::{self, TcpStream};
use kumofs::sim::node::{self, Node, Process};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::sleep;

const SEED: u64 = 1;
/// Connections to the gateway.
const CLIENTS: u64 = 16;
/// Rounds in each of which every client sends its requests and awaits their answers.
const ROUNDS: u64 = 20;
const KEYS: u64 = 200;
/// Bytes of a value.
const VALUE: usize = 100;
/// Keys of a get of many.
const MANY: u64 = 20;

/// Counts each.
pub fn run() {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing of the system");
    let world = LocalSet::new();
    let cluster = world.block_on(&runtime, bring_up());
    let run = |name: Option<&str>, depth: u64, request: fn(u64) -> String, answer: fn(u64) -> String| {
        world.block_on(&runtime, load(&cluster, 1, depth, request, answer));
        let rounds = || world.block_on(&runtime, load(&cluster, ROUNDS, depth, request, answer));
        match name {
            Some(name) => count(name, CLIENTS * ROUNDS * depth, rounds),
            None => rounds(),
        }
    };
    run(None, 1, set, stored);
    run(Some("set, 16 clients"), 1, set, stored);
    run(Some("set, 16 clients with 16 in flight"), 16, set, stored);
    run(Some("get, 16 clients"), 1, get, value);
    run(Some("get, 16 clients with 16 in flight"), 16, get, value);
    run(Some("get of 20 keys, 16 clients"), 1, get_many, values);
    drop(cluster);
    drop(world);
    net::end();
}

async fn bring_up() -> Rc<Cluster> {
    node::begin();
    net::begin(SEED);
    tokio::task::spawn_local(net::run());
    let shape = Shape {
        managers: 1,
        servers: 3,
        attached: 3,
        gateways: 1,
        workers: 1,
        sync: false,
        auto_replace: false,
        outcomes: None,
        combined: false,
    };
    let cluster = Rc::new(Cluster::new(shape, SEED));
    cluster.compacts.set(false);
    cluster.caches.set(false);
    cluster.everybody().into_iter().for_each(|who| cluster.start(who));
    sleep(Duration::from_secs(2)).await;
    cluster.command(Command::Attach).await.expect("the manager attaches the servers");
    sleep(Duration::from_secs(2)).await;
    cluster
}

/// Has every client ask `rounds` times for so many operations at once.
async fn load(cluster: &Cluster, rounds: u64, depth: u64, request: fn(u64) -> String, answer: fn(u64) -> String) {
    let ip = cluster.host(Who::Gateway(0)).node.ip;
    let done = Rc::new(Cell::new(0));
    let host = Node::new("clients", ip, SEED);
    host.lives.set(1_000_000);
    let told = done.clone();
    let process = Process::start(&host, async move {
        for client in 0..CLIENTS {
            let told = told.clone();
            tokio::task::spawn_local(async move {
                let mut stream =
                    TcpStream::connect(SocketAddr::new(ip, CLIENT_PORT)).await.expect("the gateway listens");
                for round in 0..rounds {
                    let keys = (0..depth).map(|n| (client * 7919 + round * 104_729 + n * 31) % KEYS);
                    let requests: String = keys.clone().map(request).collect();
                    let answers: String = keys.map(answer).collect();
                    stream.write_all(requests.as_bytes()).await.expect("the gateway reads");
                    let mut answered = vec![0; answers.len()];
                    stream.read_exact(&mut answered).await.expect("the gateway answers");
                    assert_eq!(String::from_utf8_lossy(&answered), answers, "what was asked for");
                }
                told.set(told.get() + 1);
            });
        }
    });
    while done.get() < CLIENTS {
        sleep(Duration::from_millis(1)).await;
    }
    process.kill();
    net::process_died(ip, host.lives.get());
}

fn key(number: u64) -> String {
    format!("key:{number:016}")
}

fn data() -> String {
    "v".repeat(VALUE)
}

fn set(number: u64) -> String {
    format!("set {} 5 0 {VALUE}\r\n{}\r\n", key(number), data())
}

fn stored(_: u64) -> String {
    "STORED\r\n".to_owned()
}

fn get(number: u64) -> String {
    format!("get {}\r\n", key(number))
}

fn value(number: u64) -> String {
    format!("VALUE {} 5 {VALUE}\r\n{}\r\nEND\r\n", key(number), data())
}

fn many(number: u64) -> impl Iterator<Item = u64> {
    (0..MANY).map(move |n| (number + n) % KEYS)
}

fn get_many(number: u64) -> String {
    format!("get {}\r\n", many(number).map(key).collect::<Vec<_>>().join(" "))
}

fn values(number: u64) -> String {
    let value = |number| format!("VALUE {} 5 {VALUE}\r\n{}\r\n", key(number), data());
    format!("{}END\r\n", many(number).map(value).collect::<String>())
}
