//! Clients that know what they wrote, and believe nothing.
//!
//! Each key has one writer. Its n-th operation is a set of a value that tells key and n, or, by a rule that everybody
//! knows, a delete. For each key the *floor* is the highest n that a client was told of, by an acknowledgement or by a
//! value read. Whatever a read that starts later finds must not be older than the floor, nor newer than what was
//! attempted, and it must be, to the byte, what operation n wrote.

use super::memcache::{Client, Error};
use super::rng::Rng;
use super::say;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Pause between two operations of a client, so that clients leave the processors to the cluster.
const BREATH: Duration = Duration::from_micros(500);

struct Key {
    name: String,
    index: u64,
    attempted: AtomicU64,
    floor: AtomicU64,
    /// A command on it was not answered at all, so nobody knows what may still become of it: not used any more.
    retired: AtomicBool,
}

impl Key {
    fn is_delete(&self, n: u64) -> bool {
        n == 0 || (self.index.is_multiple_of(4) && n.is_multiple_of(10))
    }

    /// What the n-th operation stores.
    fn value(&self, n: u64) -> Vec<u8> {
        let mut rng = Rng::new(self.index << 32 | n);
        let mut value = format!("{}:{n}:", self.name).into_bytes();
        let len = value.len() + rng.below(200);
        value.resize_with(len, || b'a' + rng.below(26) as u8);
        value
    }

    /// Checks what a read found that began when the floor was `floor`.
    fn check(&self, floor: u64, found: Option<&[u8]>) -> Result<(), String> {
        let attempted = self.attempted.load(SeqCst);
        let n = match found {
            None => (floor..=attempted).find(|n| self.is_delete(*n)),
            Some(data) => {
                let told = String::from_utf8_lossy(data);
                let n = told.strip_prefix(&format!("{}:", self.name)).and_then(|t| t.split(':').next()?.parse().ok());
                n.filter(|n| (floor..=attempted).contains(n) && !self.is_delete(*n) && self.value(*n) == data)
            }
        };
        match n {
            Some(n) => {
                self.floor.fetch_max(n, SeqCst);
                Ok(())
            }
            None => {
                let found = found.map_or("nothing".to_owned(), |d| format!("{:?}", String::from_utf8_lossy(d)));
                Err(format!("{}: {floor}..={attempted} is due, found {found}", self.name))
            }
        }
    }
}

#[derive(Default)]
struct Tally {
    acknowledged: AtomicU64,
    reads: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    longest_gap_us: AtomicU64,
    /// The same since it was last asked for.
    recent_gap_us: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn wrong(&self, what: String) {
        // The time is for comparison with the logs.
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let what = format!("{}.{:03} {what}", now.as_secs(), now.subsec_millis());
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Writers and readers at work.
pub struct Load {
    gateways: Vec<SocketAddr>,
    keys: Arc<Vec<Key>>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    pub acknowledged: u64,
    pub reads: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Not answered in time, or the connection broke.
    pub unanswered: u64,
    /// The longest time in which a writer, always trying, got no acknowledgement.
    pub longest_gap: Duration,
    pub took: Duration,
}

const WRITERS: usize = 2;
const READERS: usize = 2;

impl Load {
    /// Starts writers and readers, each on a connection of its own, over all `gateways` in turn.
    pub fn start(gateways: &[SocketAddr], keys: usize, seed: u64) -> Load {
        let key = |index: usize| Key {
            name: format!("key-{index}"),
            index: index as u64,
            attempted: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        };
        let mut load = Load {
            gateways: gateways.to_vec(),
            keys: Arc::new((0..keys).map(key).collect()),
            tally: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
            started: Instant::now(),
        };
        for i in 0..WRITERS + READERS {
            let worker = Worker {
                gateway: gateways[i % gateways.len()],
                client: None,
                keys: load.keys.clone(),
                tally: load.tally.clone(),
                stop: load.stop.clone(),
                rng: Rng::new(seed ^ i as u64),
            };
            let work = move || if i < WRITERS { worker.write(i) } else { worker.read() };
            load.threads.push(std::thread::spawn(work));
        }
        load
    }

    /// Waits until so many more writes are acknowledged, so that what was done to the cluster has met some.
    pub fn progress(&self, writes: u64) {
        let goal = self.tally.acknowledged.load(SeqCst) + writes;
        super::eventually("writes are acknowledged", || (self.tally.acknowledged.load(SeqCst) >= goal).then_some(()));
    }

    /// The longest time without an acknowledgement since this was last asked.
    pub fn take_longest_gap(&self) -> Duration {
        let us = self.tally.recent_gap_us.swap(0, SeqCst);
        self.tally.longest_gap_us.fetch_max(us, SeqCst);
        Duration::from_micros(us)
    }

    /// Stops, reads every key once more through every gateway, and panics if anything was ever wrong.
    #[track_caller]
    pub fn finish(mut self, name: &str) -> Report {
        self.stop.store(true, SeqCst);
        let broken = self.threads.drain(..).map(JoinHandle::join).filter(Result::is_err).count();
        assert_eq!(broken, 0, "clients panicked");
        self.take_longest_gap();
        for gateway in &self.gateways {
            self.read_all(*gateway);
        }
        let tally = &self.tally;
        let report = Report {
            acknowledged: tally.acknowledged.load(SeqCst),
            reads: tally.reads.load(SeqCst),
            refused: tally.refused.load(SeqCst),
            unanswered: tally.unanswered.load(SeqCst),
            longest_gap: Duration::from_micros(tally.longest_gap_us.load(SeqCst)),
            took: self.started.elapsed(),
        };
        say(&format!("{name}: {report:?}"));
        let wrong = tally.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{name}: {} wrong answers, first {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
        report
    }

    fn read_all(&self, gateway: SocketAddr) {
        let mut client = Client::connect(gateway).expect("the gateway listens");
        for key in self.keys.iter().filter(|k| !k.retired.load(SeqCst)) {
            let floor = key.floor.load(SeqCst);
            let found = super::eventually("a key is read", || client.get(&key.name).ok());
            if let Err(what) = key.check(floor, found.as_deref()) {
                self.tally.wrong(format!("at the end: {what}"));
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

struct Worker {
    gateway: SocketAddr,
    client: Option<Client>,
    keys: Arc<Vec<Key>>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    rng: Rng,
}

impl Worker {
    fn client(&mut self) -> Option<&mut Client> {
        if self.client.is_none() {
            self.client = Client::connect(self.gateway).ok();
        }
        self.client.as_mut()
    }

    /// Counts what went wrong; says whether the operation may have been left undecided.
    fn failed(&mut self, what: &str, error: &Error) -> bool {
        match error {
            Error::Refused(_) => {
                self.tally.refused.fetch_add(1, SeqCst);
                false
            }
            Error::Gone(_) => {
                self.tally.unanswered.fetch_add(1, SeqCst);
                self.client = None;
                true
            }
            Error::Strange(line) => {
                self.tally.wrong(format!("{what}: {line}"));
                self.client = None;
                true
            }
        }
    }

    fn write(mut self, which: usize) {
        let keys = self.keys.clone();
        let own: Vec<&Key> = keys.iter().skip(which).step_by(WRITERS).collect();
        let mut acknowledged = Instant::now();
        while !self.stop.load(SeqCst) {
            std::thread::sleep(BREATH);
            let key = *self.rng.pick(&own);
            if key.retired.load(SeqCst) {
                continue;
            }
            let n = key.attempted.load(SeqCst) + 1;
            let Some(client) = self.client() else { continue };
            key.attempted.store(n, SeqCst);
            let done = if key.is_delete(n) {
                client.delete(&key.name).map(drop)
            } else {
                client.set(&key.name, &key.value(n))
            };
            match done {
                Ok(()) => {
                    key.floor.fetch_max(n, SeqCst);
                    self.tally.acknowledged.fetch_add(1, SeqCst);
                    let gap_us = acknowledged.elapsed().as_micros() as u64;
                    self.tally.recent_gap_us.fetch_max(gap_us, SeqCst);
                    acknowledged = Instant::now();
                }
                Err(e) => {
                    let undecided = self.failed(&key.name, &e);
                    key.retired.fetch_or(undecided, SeqCst);
                }
            }
        }
    }

    fn read(mut self) {
        let keys = self.keys.clone();
        while !self.stop.load(SeqCst) {
            std::thread::sleep(BREATH);
            let many = if self.rng.below(4) == 0 { 1 + self.rng.below(10) } else { 1 };
            let asked: Vec<&Key> =
                (0..many).map(|_| self.rng.pick(&keys)).filter(|k| !k.retired.load(SeqCst)).collect();
            let floors: Vec<u64> = asked.iter().map(|k| k.floor.load(SeqCst)).collect();
            let names: Vec<&str> = asked.iter().map(|k| k.name.as_str()).collect();
            let Some(client) = self.client().filter(|_| !names.is_empty()) else { continue };
            match client.retrieve("get", &names) {
                Ok(values) => {
                    self.tally.reads.fetch_add(1, SeqCst);
                    for (key, floor) in asked.iter().zip(floors) {
                        let found = values.iter().find(|v| v.key == key.name);
                        let checked = key.check(floor, found.map(|v| v.data.as_slice()));
                        // Since the read began, the writer may have been left without an answer.
                        if let Err(what) = checked.or_else(|e| if key.retired.load(SeqCst) { Ok(()) } else { Err(e) }) {
                            self.tally.wrong(what);
                        }
                    }
                }
                Err(e) => drop(self.failed("a read", &e)),
            }
        }
    }
}
