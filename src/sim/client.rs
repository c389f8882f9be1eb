//! Clients: random commands in memcached's text protocol, and a record of what came of them.

use super::cluster::{CLIENT_PORT, key_name};
use super::net::TcpStream;
use super::node::{self, Dice};
use super::text::{self, Line};
use super::wide::{Asked, Wide};
use crate::check::{Action, Entry, History, Outcome, Seen};
use crate::net::conn::THROUGH_BYTES;
use crate::store::LARGE_BYTES;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of the first key that is stored once, and left alone.
pub const BALLAST: usize = 1_000;
/// Of the times in a history.
pub const SECOND: u64 = 1_000_000_000;

/// What clients have done, and the clock that orders it.
#[derive(Default)]
pub struct Log {
    /// Everything.
    pub history: RefCell<History>,
    last: Cell<u64>,
    watched: Cell<bool>,
    /// Virtual microseconds at which the last change was acknowledged, and the longest gap between two so far.
    changed: Cell<u64>,
    /// The longest time without an acknowledged change, in microseconds.
    pub longest_gap: Cell<u64>,
}

impl Log {
    /// A moment later than all before: virtual microseconds with three more digits.
    fn stamp(&self) -> u64 {
        let stamp = (node::elapsed_micros() * 1000).max(self.last.get() + 1);
        self.last.set(stamp);
        stamp
    }

    /// Whether the load has not begun.
    pub fn is_new(&self) -> bool {
        !self.watched.get()
    }

    /// From now on, when the load begins, gaps count.
    pub fn watch_gaps(&self) {
        self.watched.set(true);
        self.changed.set(node::elapsed_micros());
        self.longest_gap.set(0);
    }

    fn note_change(&self) {
        let now = node::elapsed_micros();
        let gap = now - self.changed.replace(now);
        self.longest_gap.set(self.longest_gap.get().max(gap));
    }
}

/// How much of which commands.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Keys that are set, read and deleted in all ways.
    pub keys: usize,
    /// Longest pause between two commands in milliseconds.
    pub pause_ms: u64,
    /// Also commands that must not be done twice.
    pub counters: bool,
    /// The clients of this gateway hardly do anything but read, so that no write of their own keeps an old value from them.
    pub readers: Option<usize>,
    /// One in so many commands of these is another.
    pub readers_change_one_in: u64,
    /// Clients of each gateway.
    pub clients: u32,
    /// What clients do from some time on, in virtual milliseconds since the load began.
    pub then: Option<(u64, Then)>,
    /// What they do beside the plain commands.
    pub wide: Wide,
    /// Every second value is large, and every fourth long.
    pub large: bool,
    /// What they do instead of choosing.
    pub menu: Option<Menu>,
    /// Keys that are stored before the load begins, and left alone: how many, and of how many bytes.
    pub ballast: Option<(usize, usize)>,
}

/// What a client of a gateway does at some millisecond since the load began; `None`: nothing for now.
pub type Menu = fn(usize, u64) -> Option<Verb>;

/// A command of a [`Menu`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// get
    Get,
    /// set to a value of its own
    Set,
    /// add, likewise
    Add,
    /// delete
    Delete,
}

/// What clients turn to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// They delete and read. What was deleted is seen to stay so, because nobody stores anything over it.
    Delete,
    /// They read, also at the end of the run: what the servers hold is compared before anything is stored over it.
    Read,
    /// They fetch with marks, and now and then mark what is there as stale, or store it anew.
    Recache,
}

impl Load {
    /// Two clients at each gateway.
    pub fn new(keys: usize, pause_ms: u64, readers: Option<usize>) -> Load {
        let wide = Wide::default();
        Load {
            keys,
            pause_ms,
            counters: true,
            readers,
            readers_change_one_in: 40,
            clients: 2,
            then: None,
            wide,
            large: false,
            menu: None,
            ballast: None,
        }
    }

    /// Whether nothing is stored at the end of the run.
    pub fn ends_reading(&self) -> bool {
        matches!(self.then, Some((_, Then::Read)))
    }
}

/// One client's connection.
pub struct Client {
    number: u32,
    gateway: IpAddr,
    gateway_number: usize,
    log: Rc<Log>,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    dice: Dice,
    /// For what is beside the plain commands.
    wide_dice: Dice,
    large: bool,
    values: u64,
    uniques: Vec<(usize, u64)>,
}

impl Client {
    /// A client of a gateway, given by its number and its address.
    pub fn new(number: u32, (gateway_number, gateway): (usize, IpAddr), log: Rc<Log>, seed: u64) -> Client {
        let dice = Dice::new(seed ^ (u64::from(number) << 40));
        let wide_dice = Dice::new(seed ^ (u64::from(number) << 40) ^ 0x71de);
        Client {
            number,
            gateway,
            gateway_number,
            log,
            stream: None,
            input: Vec::new(),
            dice,
            wide_dice,
            large: false,
            values: 0,
            uniques: Vec::new(),
        }
    }

    /// Sends commands until `enough` says so.
    pub async fn run(mut self, load: Load, enough: Rc<Cell<bool>>) {
        let began = node::elapsed_micros();
        self.large = load.large;
        while !enough.get() {
            let key = self.dice.below(load.keys as u64) as usize;
            let reads = load.readers == Some(self.gateway_number) && !self.dice.one_in(load.readers_change_one_in);
            let turned = load.then.filter(|(ms, _)| node::elapsed_micros() >= began + ms * 1000);
            let asked = load.menu.map(|menu| menu(self.gateway_number, (node::elapsed_micros() - began) / 1000));
            let action = match turned {
                Some((_, Then::Delete)) if self.dice.one_in(4) => Action::Delete,
                Some((_, Then::Recache)) => match self.dice.below(20) {
                    0 => Action::Invalidate,
                    1 => Action::Set(self.fresh().into()),
                    _ => Action::Fetch { vivify_secs: None, recache_secs: None },
                },
                Some(_) => Action::Get,
                None => match asked {
                    Some(Some(verb)) => self.obey(verb),
                    Some(None) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    None if reads => Action::Get,
                    None => self.choose(key, load.counters),
                },
            };
            match if turned.is_none() { load.wide.widen(&mut self.wide_dice, action) } else { Asked::One(action) } {
                Asked::One(action) => drop(self.execute(key, action).await),
                Asked::All => self.get_all(load.keys).await,
            }
            tokio::time::sleep(Duration::from_millis(self.dice.below(load.pause_ms) + 1)).await;
        }
    }

    fn fresh(&mut self) -> Vec<u8> {
        self.values += 1;
        let mut value = format!("v{}.{}", self.number, self.values).into_bytes();
        if self.large && self.values.is_multiple_of(2) {
            // Long enough to travel in parts, and not in full ones.
            value.resize(LARGE_BYTES + 1 + (self.values % 7 * 61) as usize, b'.');
        } else if self.large && self.values % 4 == 1 {
            value.resize(THROUGH_BYTES + 1, b'.');
        }
        value
    }

    fn obey(&mut self, verb: Verb) -> Action {
        match verb {
            Verb::Get => Action::Get,
            Verb::Set => Action::Set(self.fresh().into()),
            Verb::Add => Action::Add(self.fresh().into()),
            Verb::Delete => Action::Delete,
        }
    }

    fn choose(&mut self, key: usize, counters: bool) -> Action {
        // Every third key is a counter, every third grows.
        match (key % 3, self.dice.below(100)) {
            (1, n) if counters => match n {
                0..30 => Action::Get,
                30..80 => Action::Incr(1 + self.dice.below(3)),
                80..88 => Action::Decr(1),
                88..95 => Action::Add(b"1000".to_vec().into()),
                95..98 => Action::Set(b"500".to_vec().into()),
                _ => Action::Delete,
            },
            (2, n) if counters => match n {
                0..30 => Action::Get,
                30..60 => Action::Append(self.fresh()),
                60..75 => Action::Prepend(self.fresh()),
                75..90 => Action::Set(self.fresh().into()),
                90..95 => Action::Add(self.fresh().into()),
                _ => Action::Delete,
            },
            (_, n) => match n {
                0..40 => Action::Get,
                40..68 => Action::Set(self.fresh().into()),
                68..78 => Action::Delete,
                78..83 => Action::Add(self.fresh().into()),
                83..88 => Action::Replace(self.fresh().into()),
                88..90 => Action::Touch(None),
                _ => match self.uniques.iter().rev().find(|(of, _)| *of == key) {
                    Some((_, unique)) => Action::Cas(*unique, self.fresh().into()),
                    None => Action::Get,
                },
            },
        }
    }

    /// Does one command and notes what came of it.
    pub async fn execute(&mut self, key: usize, action: Action) -> Outcome {
        let name = key_name(key);
        let invoked = self.log.stamp();
        let request = text::request(&name, &action);
        let outcome = match timeout(PATIENCE, self.ask(&request)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        if outcome == Outcome::Unknown {
            (self.stream, self.input) = (None, Vec::new());
        }
        if matches!(outcome, Outcome::Stored | Outcome::Deleted | Outcome::Number(_)) {
            self.log.note_change();
        }
        self.note(key, action, outcome.clone(), invoked, self.log.stamp());
        outcome
    }

    /// Gets all keys with one command: an operation on each, all at once.
    async fn get_all(&mut self, keys: usize) {
        let invoked = self.log.stamp();
        let mut outcomes = vec![Outcome::Miss; keys];
        let answered = timeout(PATIENCE, self.ask_all(&mut outcomes)).await;
        if !matches!(answered, Ok(Ok(()))) {
            outcomes.fill(Outcome::Unknown);
            (self.stream, self.input) = (None, Vec::new());
        }
        let returned = self.log.stamp();
        for (key, outcome) in outcomes.into_iter().enumerate() {
            self.note(key, Action::Get, outcome, invoked, returned);
        }
    }

    fn note(&mut self, key: usize, action: Action, outcome: Outcome, invoked: u64, returned: u64) {
        if let Outcome::Value(Seen { unique: Some(unique), .. }) = outcome {
            self.uniques.push((key, unique));
        }
        let key = key_name(key).into_bytes();
        let entry = Entry { client: self.number, key, action, outcome, invoked, returned };
        tracing::debug!("{entry}");
        self.log.history.borrow_mut().push(entry);
    }

    async fn ask(&mut self, request: &[u8]) -> io::Result<Outcome> {
        self.send(request).await?;
        match self.answer().await? {
            Line::Whole(outcome) => Ok(outcome),
            Line::Value(_, seen, ends) => {
                if ends && self.line().await? != b"END" {
                    return Err(io::Error::other("a value without an end"));
                }
                Ok(Outcome::Value(seen))
            }
        }
    }

    async fn ask_all(&mut self, outcomes: &mut [Outcome]) -> io::Result<()> {
        let names: Vec<String> = (0..outcomes.len()).map(key_name).collect();
        self.send(&text::gets(&names)).await?;
        loop {
            match self.answer().await? {
                Line::Whole(Outcome::Miss) => return Ok(()),
                Line::Value(Some(name), seen, _) => {
                    let known = names.iter().position(|known| *known == name);
                    outcomes[known.ok_or_else(|| io::Error::other("a value of another key"))?] = Outcome::Value(seen);
                }
                Line::Whole(_) | Line::Value(..) => return Err(io::Error::other("not the answer of a get")),
            }
        }
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        if self.stream.is_none() {
            let to = SocketAddr::new(self.gateway, CLIENT_PORT);
            self.stream = Some(TcpStream::connect(to).await?);
        }
        match &mut self.stream {
            Some(stream) => stream.write_all(request).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// A line, and the data behind it.
    async fn answer(&mut self) -> io::Result<Line> {
        let line = self.line().await?;
        let text = String::from_utf8_lossy(&line).into_owned();
        match text::line(&text) {
            Ok(Line::Value(key, seen, ends)) => {
                let data = self.line().await?;
                Ok(Line::Value(key, Seen { data, ..seen }, ends))
            }
            Ok(whole) => Ok(whole),
            Err(e) => {
                tracing::debug!("client {} is told: {text}", self.number);
                Err(e)
            }
        }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.input.split_off(end + 2);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.truncate(end);
                return Ok(line);
            }
            let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
