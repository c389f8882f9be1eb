//! Clients that share keys, and a record of what each saw, judged by `kumofs::check`: is there an order of all operations on
//! a key that explains every answer?
//!
//! Keys are used for a while and then left for new ones, so that no history is too long to judge; at the end all of them
//! are read once more through every gateway.

use super::memcache::{Client, Error, Result, Swapped};
use super::rng::Rng;
use super::{eventually, say};
use kumofs::check::{Action, Entry, History, Marks, Outcome, Seen, Stored, Verdict, check};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys in use at a time: two of each kind.
const KEYS: usize = 6;
const CLIENTS_PER_GATEWAY: usize = 3;
/// Steps of search for a key; what is judged here takes few thousand.
const SEARCH_STEPS: u64 = 3_000_000;

/// What all clients share.
struct Notes {
    history: Mutex<History>,
    began: Instant,
    /// Which keys are in use.
    page: AtomicUsize,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Notes {
    /// Nanoseconds, by one clock for all.
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn push(&self, entry: Entry) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

/// Clients at work.
pub struct Witness {
    notes: Arc<Notes>,
    gateways: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

/// How it went.
#[derive(Debug)]
pub struct Testimony {
    pub operations: usize,
    /// Answered with an error, or not at all.
    pub unknown: usize,
    pub keys: usize,
}

fn key_name(page: usize, key: usize) -> String {
    format!("page-{page}-key-{key}")
}

impl Witness {
    /// Starts clients at all gateways.
    pub fn start(gateways: &[SocketAddr], rng: &mut Rng) -> Witness {
        let notes = Notes {
            history: Mutex::default(),
            began: Instant::now(),
            page: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let mut witness = Witness { notes: Arc::new(notes), gateways: gateways.to_vec(), threads: Vec::new() };
        for i in 0..CLIENTS_PER_GATEWAY * gateways.len() {
            let client = Watched {
                number: i as u32,
                gateway: gateways[i % gateways.len()],
                client: None,
                notes: witness.notes.clone(),
                rng: Rng::new(rng.next()),
                values: 0,
                uniques: Vec::new(),
            };
            witness.threads.push(std::thread::spawn(move || client.run()));
        }
        witness
    }

    /// From now on, clients use new keys.
    pub fn turn_page(&self) {
        self.notes.page.fetch_add(1, SeqCst);
    }

    /// Waits until so many more changes are acknowledged.
    pub fn progress(&self, changes: u64) {
        let goal = self.notes.acknowledged.load(SeqCst) + changes;
        eventually("changes are acknowledged", || (self.notes.acknowledged.load(SeqCst) >= goal).then_some(()));
    }

    /// Nanoseconds since the start, for [`Witness::longest_gap_since`].
    pub fn now(&self) -> u64 {
        self.notes.now()
    }

    /// The longest time since then in which nobody's change was acknowledged.
    pub fn longest_gap_since(&self, since: u64) -> Duration {
        let history = self.notes.history.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = |e: &&Entry| matches!(e.outcome, Outcome::Stored | Outcome::Deleted | Outcome::Number(_));
        let mut times: Vec<u64> = history.entries().iter().filter(changed).map(|e| e.returned).collect();
        times.retain(|t| *t > since);
        times.push(since);
        times.push(self.notes.now());
        times.sort_unstable();
        Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
    }

    /// Stops, reads all keys once more through every gateway, and panics if no order explains what was seen.
    #[track_caller]
    pub fn finish(mut self, name: &str) -> Testimony {
        self.notes.stop.store(true, SeqCst);
        let broken = self.threads.drain(..).map(JoinHandle::join).filter(|joined| joined.is_err()).count();
        assert_eq!(broken, 0, "clients were told what no memcached says");
        let pages = self.notes.page.load(SeqCst) + 1;
        for (i, gateway) in self.gateways.iter().enumerate() {
            self.read_all(*gateway, 1000 + i as u32, pages);
        }
        let history = self.notes.history.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = history.entries().iter().filter(|e| e.outcome == Outcome::Unknown).count();
        let testimony = Testimony { operations: history.entries().len(), unknown, keys: pages * KEYS };
        match check(&history, SEARCH_STEPS) {
            Verdict::Linearizable => {}
            Verdict::Violated(violation) => panic!("{name}: {testimony:?}: {violation}"),
            Verdict::Undecided(key) => panic!("{name}: {testimony:?}: too hard: {}", String::from_utf8_lossy(&key)),
        }
        say(&format!("{name}: {testimony:?}, explained"));
        testimony
    }

    fn read_all(&self, gateway: SocketAddr, number: u32, pages: usize) {
        let mut client = None;
        for key in (0..pages).flat_map(|page| (0..KEYS).map(move |key| key_name(page, key))) {
            let (invoked, outcome) = eventually("a key is read at the end", || {
                let at = self.notes.now();
                let connection = reach(&mut client, gateway)?;
                let found = ask(connection, &key, &Action::Get).ok();
                client = client.take().filter(|_| found.is_some());
                Some((at, found?))
            });
            let returned = self.notes.now();
            let key = key.into_bytes();
            self.notes.push(Entry { client: number, key, action: Action::Get, outcome, invoked, returned });
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.notes.stop.store(true, SeqCst);
    }
}

fn reach(client: &mut Option<Client>, gateway: SocketAddr) -> Option<&mut Client> {
    if client.is_none() {
        *client = Client::connect(gateway).ok();
    }
    client.as_mut()
}

struct Watched {
    number: u32,
    gateway: SocketAddr,
    client: Option<Client>,
    notes: Arc<Notes>,
    rng: Rng,
    values: u64,
    /// Key, and a cas unique that it had.
    uniques: Vec<(String, u64)>,
}

impl Watched {
    fn run(mut self) {
        while !self.notes.stop.load(SeqCst) {
            std::thread::sleep(Duration::from_micros(1000 + self.rng.below(4000) as u64));
            let which = self.rng.below(KEYS);
            let key = key_name(self.notes.page.load(SeqCst), which);
            let action = self.choose(&key, which);
            if reach(&mut self.client, self.gateway).is_some() {
                self.execute(key, action);
            }
        }
    }

    fn fresh(&mut self) -> Vec<u8> {
        self.values += 1;
        format!("v{}.{}", self.number, self.values).into_bytes()
    }

    /// Every third key counts, every third grows.
    fn choose(&mut self, key: &str, which: usize) -> Action {
        match (which % 3, self.rng.below(100)) {
            (1, 0..30) | (2, 0..40) | (_, 0..40) => Action::Get,
            (1, 30..80) => Action::Incr(1 + self.rng.below(3) as u64),
            (1, 80..88) => Action::Decr(1),
            (1, 88..95) => Action::Add(b"1000".to_vec().into()),
            (1, 95..98) => Action::Set(b"500".to_vec().into()),
            (2, 40..55) => Action::Append(self.fresh()),
            (2, 55..65) => Action::Prepend(self.fresh()),
            (2, 65..85) => Action::Set(self.fresh().into()),
            (0, 40..60) => Action::Set(self.fresh().into()),
            (0, 60..70) => Action::Add(self.fresh().into()),
            (0, 70..75) => Action::Replace(self.fresh().into()),
            (0, 75..90) => match self.uniques.iter().rev().find(|(of, _)| of == key) {
                Some((_, unique)) => Action::Cas(*unique, self.fresh().into()),
                None => Action::Get,
            },
            _ => Action::Delete,
        }
    }

    fn execute(&mut self, key: String, action: Action) {
        let Some(client) = &mut self.client else { return };
        let invoked = self.notes.now();
        let outcome = match ask(client, &key, &action) {
            Ok(outcome) => outcome,
            Err(Error::Strange(line)) => panic!("{action} {key}: {line}"),
            Err(Error::Refused(_)) => Outcome::Unknown,
            Err(Error::Gone(_)) => {
                self.client = None;
                Outcome::Unknown
            }
        };
        let returned = self.notes.now();
        if let Outcome::Value(Seen { unique: Some(unique), .. }) = outcome {
            self.uniques.push((key.clone(), unique));
        }
        if matches!(outcome, Outcome::Stored | Outcome::Deleted | Outcome::Number(_)) {
            self.notes.acknowledged.fetch_add(1, SeqCst);
        }
        let key = key.into_bytes();
        self.notes.push(Entry { client: self.number, key, action, outcome, invoked, returned });
    }
}

/// Does one command.
fn ask(client: &mut Client, key: &str, action: &Action) -> Result<Outcome> {
    let mut store = |verb, new: &Stored| {
        let stored = client.store(verb, key, new.flags, &new.data)?;
        Ok(if stored { Outcome::Stored } else { Outcome::NotStored })
    };
    match action {
        Action::Set(new) => store("set", new),
        Action::Add(new) => store("add", new),
        Action::Replace(new) => store("replace", new),
        Action::Append(data) => store("append", &data.clone().into()),
        Action::Prepend(data) => store("prepend", &data.clone().into()),
        Action::Get => Ok(client.gets(key)?.map_or(Outcome::Miss, |v| told(v.data, v.flags, v.cas))),
        Action::Cas(unique, new) => Ok(match client.cas(key, &new.data, *unique)? {
            Swapped::Stored => Outcome::Stored,
            Swapped::Exists => Outcome::Exists,
            Swapped::NotFound => Outcome::NotFound,
        }),
        Action::Incr(by) => counted(client.command(&format!("incr {key} {by}"))?),
        Action::Decr(by) => counted(client.command(&format!("decr {key} {by}"))?),
        Action::Delete => Ok(if client.delete(key)? { Outcome::Deleted } else { Outcome::NotFound }),
        _ => Err(Error::Strange("not done here".to_owned())),
    }
}

fn told(data: Vec<u8>, flags: u32, unique: u64) -> Outcome {
    Outcome::Value(Seen { data, flags, unique: Some(unique), marks: Marks::default() })
}

fn counted(line: String) -> Result<Outcome> {
    match line.as_str() {
        "NOT_FOUND" => Ok(Outcome::NotFound),
        "CLIENT_ERROR cannot increment or decrement non-numeric value" => Ok(Outcome::NotANumber),
        number => number.trim_end().parse().map(Outcome::Number).map_err(|_| Error::Strange(line.clone())),
    }
}
