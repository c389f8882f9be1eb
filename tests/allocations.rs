//! How often the way of an operation through gateway and servers allocates, counted in a process that is all of a cluster.
//!
//! Counted is what workers allocate. Their clocks do now and then, so the least of several windows counts: what each
//! operation allocates is in every one of them.

use kumofs::allinone::{self, Config};
use kumofs::daemon::sockets::{self, Clients};
use kumofs::net::cores::event_loop;
use kumofs::net::settings::Settings;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Connections of clients.
const CLIENTS: usize = 64;
const KEYS: usize = 256;
/// Bytes of a value.
const VALUE: usize = 100;
/// Windows of one round each, of which the least counts.
const WINDOWS: usize = 1_000;
/// Fewer than this for each operation is nothing: on a busy machine all windows of all clients may be so long that a lease is
/// renewed in each, which allocates once or twice.
const OF_RENEWALS: f64 = 1.0 / 16.0;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Counts, if a worker allocates, whose threads are called worker-0 and so on.
fn count() {
    let is_worker = IS_WORKER.get() || {
        let mut name = [0u8; 16];
        // SAFETY: the name of a thread has at most 16 bytes, and this is a live local of so many.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        name.starts_with(b"worker-")
    };
    if is_worker {
        IS_WORKER.set(true);
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

// SAFETY: everything is the system allocator's; counting changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A cluster in this process.
struct Cluster {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Cluster {
    fn start(data: &Path, servers: u16) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            data: data.to_owned(),
            servers,
            threads: 1,
            max_value: 1 << 20,
            sync: false,
            settings: Settings::default(),
        };
        let (stop, stopped) = watch::channel(false);
        let (told, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let tell = move || told.send(()).unwrap();
            event_loop().map_err(|e| e.to_string())?.block_on(async {
                let clients = sockets::fronts(vec![Clients::Tcp(listener)])?;
                allinone::run(config, clients, stopped, tell).await
            })
        });
        ready.recv_timeout(Duration::from_secs(60)).expect("the cluster serves");
        Cluster { address, stop, thread: Some(thread) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// What each client sends in a round, and what it is answered.
struct Exchange {
    request: Vec<u8>,
    answer: Vec<u8>,
}

fn exchange(depth: usize, of: impl Fn(usize) -> (String, String)) -> Vec<Exchange> {
    let one = |client: usize| {
        let (requests, answers): (String, String) = (0..depth).map(|n| of((client * 31 + n * 7) % KEYS)).unzip();
        Exchange { request: requests.into_bytes(), answer: answers.into_bytes() }
    };
    (0..CLIENTS).map(one).collect()
}

/// Has the clients send what they have to send and read their answers, without allocating.
fn round(clients: &mut [TcpStream], exchanges: &[Exchange], buffer: &mut [u8]) {
    for (client, exchange) in clients.iter_mut().zip(exchanges) {
        client.write_all(&exchange.request).unwrap();
    }
    for (client, exchange) in clients.iter_mut().zip(exchanges) {
        let answer = &mut buffer[..exchange.answer.len()];
        client.read_exact(answer).unwrap();
        assert!(answer == exchange.answer, "{:?}", String::from_utf8_lossy(answer));
    }
}

fn key(number: usize) -> String {
    format!("key:{number:016}")
}

fn value(number: usize) -> String {
    format!("VALUE {} 0 {VALUE}\r\n{}\r\n", key(number), "v".repeat(VALUE))
}

fn set(number: usize) -> (String, String) {
    (format!("set {} 0 0 {VALUE}\r\n{}\r\n", key(number), "v".repeat(VALUE)), "STORED\r\n".to_owned())
}

fn get(number: usize) -> (String, String) {
    (format!("get {}\r\n", key(number)), value(number) + "END\r\n")
}

fn miss(number: usize) -> (String, String) {
    (format!("get nothing{number}\r\n"), "END\r\n".to_owned())
}

fn get_many(number: usize) -> (String, String) {
    let keys = (0..20).map(|n| (number + n) % KEYS);
    let words: Vec<String> = keys.clone().map(key).collect();
    (format!("get {}\r\n", words.join(" ")), keys.map(value).collect::<String>() + "END\r\n")
}

fn meta_get(number: usize) -> (String, String) {
    (format!("mg {} v\r\n", key(number)), format!("VA {VALUE}\r\n{}\r\n", "v".repeat(VALUE)))
}

/// The least allocations that any of the windows had for one of its operations. All clients, or only the first eight where
/// an operation is long: leases are renewed meanwhile, which may allocate, so a window has to be shorter than what lies between.
fn least(clients: &mut [TcpStream], depth: usize, of: impl Fn(usize) -> (String, String)) -> f64 {
    let exchanges = exchange(depth, of);
    let mut buffer = vec![0; exchanges.iter().map(|e| e.answer.len()).max().unwrap_or(0)];
    (0..3).for_each(|_| round(clients, &exchanges, &mut buffer));
    let mut window = || {
        let before = ALLOCATIONS.load(Relaxed);
        round(clients, &exchanges, &mut buffer);
        ALLOCATIONS.load(Relaxed) - before
    };
    let mut least = u64::MAX;
    for _ in 0..WINDOWS {
        least = least.min(window());
        if least == 0 {
            break;
        }
    }
    least as f64 / (clients.len() * depth) as f64
}

#[test]
fn nothing_is_allocated_once_warm() {
    for servers in [1, 3] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let cluster = Cluster::start(dir.path(), servers);
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(cluster.address).unwrap()).collect();
        let mut buffer = [0; 4096];
        for number in 0..KEYS {
            let (request, answer) = set(number);
            let stored = [Exchange { request: request.into_bytes(), answer: answer.into_bytes() }];
            round(&mut clients[..1], &stored, &mut buffer);
        }
        let mut show = |name: &str, at_once: usize, depth, of: fn(usize) -> (String, String)| {
            let each = least(&mut clients[..at_once], depth, of);
            println!("{servers} servers, {name}: {each} allocations an operation");
            each
        };
        let all = [
            show("get", CLIENTS, 1, get),
            show("get × 16", CLIENTS, 16, get),
            show("get of nothing", CLIENTS, 1, miss),
            show("get of 20 keys", 8, 1, get_many),
            show("meta get", 8, 1, meta_get),
            show("set", 8, 1, set),
            show("set × 16", 8, 16, set),
        ];
        assert!(all.iter().all(|each| *each < OF_RENEWALS), "{servers} servers: {all:?}");
    }
}
