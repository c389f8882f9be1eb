//! What clients did and saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a client asked for. Flags and times of expiry are not modelled: histories use none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// `get`, or `gets`, whose value comes with its cas unique.
    Get,
    /// `set`.
    Set(Vec<u8>),
    /// `add`.
    Add(Vec<u8>),
    /// `replace`.
    Replace(Vec<u8>),
    /// `append`.
    Append(Vec<u8>),
    /// `prepend`.
    Prepend(Vec<u8>),
    /// `cas`: the unique, and the data.
    Cas(u64, Vec<u8>),
    /// `incr`.
    Incr(u64),
    /// `decr`.
    Decr(u64),
    /// `delete`.
    Delete,
    /// `touch` with an expiry that does not come.
    Touch,
    /// `flush_all` at once: a delete that always succeeds. [`History::by_key`] gives it to every key.
    Flush,
}

/// What the client was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// STORED.
    Stored,
    /// NOT_STORED.
    NotStored,
    /// EXISTS.
    Exists,
    /// NOT_FOUND.
    NotFound,
    /// A miss of a get.
    Miss,
    /// DELETED.
    Deleted,
    /// TOUCHED.
    Touched,
    /// OK.
    Ok,
    /// What a counter became.
    Number(u64),
    /// A refusal to count what is no number.
    NotANumber,
    /// A value, and its cas unique if it was asked for.
    Value(Vec<u8>, Option<u64>),
    /// An error or no answer: it took effect at one moment after it was asked for, or never.
    Unknown,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which client asked; for people who read a trace.
    pub client: u32,
    /// The key; not looked at for [`Action::Flush`].
    pub key: Vec<u8>,
    /// What was asked.
    pub action: Action,
    /// What was answered.
    pub outcome: Outcome,
    /// When it was asked, in any unit, by one clock for all clients.
    pub invoked: u64,
    /// When the answer was there; not looked at for [`Outcome::Unknown`].
    pub returned: u64,
}

/// All that clients did.
#[derive(Clone, Default, Debug)]
pub struct History {
    entries: Vec<Entry>,
}

impl History {
    /// Notes an operation; the order of notes does not matter.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// All operations, in the order of their notes.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The operations of each key, by time of asking. Flushes are in all of them.
    pub fn by_key(&self) -> BTreeMap<Vec<u8>, Vec<Entry>> {
        let is_flush = |e: &&Entry| e.action == Action::Flush;
        let keys: BTreeSet<&Vec<u8>> = self.entries.iter().filter(|e| !is_flush(e)).map(|e| &e.key).collect();
        let of_key = |key: &Vec<u8>| {
            let mut all: Vec<Entry> = self.entries.iter().filter(|e| is_flush(e) || e.key == *key).cloned().collect();
            all.sort_by_key(|e| (e.invoked, e.returned));
            all
        };
        keys.into_iter().map(|key| (key.clone(), of_key(key))).collect()
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        match self {
            Action::Get => write!(f, "get"),
            Action::Set(data) => write!(f, "set {}", text(data)),
            Action::Add(data) => write!(f, "add {}", text(data)),
            Action::Replace(data) => write!(f, "replace {}", text(data)),
            Action::Append(data) => write!(f, "append {}", text(data)),
            Action::Prepend(data) => write!(f, "prepend {}", text(data)),
            Action::Cas(unique, data) => write!(f, "cas #{unique} {}", text(data)),
            Action::Incr(by) => write!(f, "incr {by}"),
            Action::Decr(by) => write!(f, "decr {by}"),
            Action::Delete => write!(f, "delete"),
            Action::Touch => write!(f, "touch"),
            Action::Flush => write!(f, "flush_all"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Value(data, Some(unique)) => write!(f, "{} #{unique}", String::from_utf8_lossy(data)),
            Outcome::Value(data, None) => write!(f, "{}", String::from_utf8_lossy(data)),
            Outcome::Number(n) => write!(f, "{n}"),
            Outcome::Unknown => write!(f, "?"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        write!(f, "{:>10}", self.invoked)?;
        match self.outcome {
            Outcome::Unknown => write!(f, "..{:<10}", "")?,
            _ => write!(f, "..{:<10}", self.returned)?,
        }
        write!(f, " client {} {key}: {} -> {}", self.client, self.action, self.outcome)
    }
}
