//! What clients did and saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is stored: data with flags, and for how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The data.
    pub data: Vec<u8>,
    /// The client's flags.
    pub flags: u32,
    /// Whole seconds that it is to live; `None`: for ever.
    pub ttl_secs: Option<u32>,
}

/// Data without flags that lives for ever.
impl From<Vec<u8>> for Stored {
    fn from(data: Vec<u8>) -> Stored {
        Stored { data, flags: 0, ttl_secs: None }
    }
}

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// `get`, or `gets`, whose value comes with its cas unique. Each key of one with several is an entry of its own.
    Get,
    /// `set`.
    Set(Stored),
    /// `add`.
    Add(Stored),
    /// `replace`.
    Replace(Stored),
    /// `append`; flags and expiry stay.
    Append(Vec<u8>),
    /// `prepend`; likewise.
    Prepend(Vec<u8>),
    /// `cas`: the unique, and what is stored.
    Cas(u64, Stored),
    /// `incr`.
    Incr(u64),
    /// `decr`.
    Decr(u64),
    /// `delete`.
    Delete,
    /// `touch`: seconds to live from then on; `None`: for ever.
    Touch(Option<u32>),
    /// `gat` and `gats`, likewise.
    GetAndTouch(Option<u32>),
    /// `mg`, which tells what marks a value has.
    Fetch {
        /// `N`: where nothing is, an empty value is made, to live so many seconds, and the client is to fill it.
        vivify_secs: Option<u32>,
        /// `R`: of a value with fewer seconds left than these one client is told to make it anew.
        recache_secs: Option<u32>,
    },
    /// `md` with `I`: the value is marked stale.
    Invalidate,
    /// `flush_all` at once: a delete that always succeeds. [`History::by_key`] gives it to every key.
    Flush,
    /// `flush_all` in so many seconds, unless another flush is asked for meanwhile.
    FlushLater(u32),
}

impl Action {
    /// Whether what it does depends on when it was asked for.
    pub(super) fn counts_time(&self) -> bool {
        match self {
            Action::Set(stored) | Action::Add(stored) | Action::Replace(stored) | Action::Cas(_, stored) => {
                stored.ttl_secs.is_some()
            }
            Action::Touch(ttl) | Action::GetAndTouch(ttl) => ttl.is_some(),
            Action::Fetch { .. } | Action::FlushLater(_) => true,
            Action::Get
            | Action::Append(_)
            | Action::Prepend(_)
            | Action::Incr(_)
            | Action::Decr(_)
            | Action::Delete
            | Action::Invalidate
            | Action::Flush => false,
        }
    }
}

/// What `mg` tells beside a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Marks {
    /// `W`: this client, and no other, is to make the value anew.
    pub won: bool,
    /// `X`: it is stale.
    pub stale: bool,
    /// `Z`: another client was told to make it anew.
    pub sent: bool,
}

/// A value that a client was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The data.
    pub data: Vec<u8>,
    /// The flags that it was stored with.
    pub flags: u32,
    /// The cas unique, if it was asked for.
    pub unique: Option<u64>,
    /// Its marks; none but for [`Action::Fetch`].
    pub marks: Marks,
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
    /// A value.
    Value(Seen),
    /// An error or no answer: it took effect at one moment after it was asked for, or never.
    Unknown,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which client asked; for people who read a trace.
    pub client: u32,
    /// The key; not looked at for flushes.
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

/// How the times in a history relate to seconds, which expiry is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// A second in units of the history's times. At time 0 a second of all clocks begins.
    pub second: u64,
    /// Seconds that the wall clocks of any two nodes were apart at most.
    pub skew_secs: u64,
}

/// Nanoseconds, and clocks that agree.
impl Default for Clocks {
    fn default() -> Clocks {
        Clocks { second: 1_000_000_000, skew_secs: 0 }
    }
}

/// All that clients did.
#[derive(Clone, Default, Debug)]
pub struct History {
    entries: Vec<Entry>,
    /// For expiry.
    pub clocks: Clocks,
    /// By when delayed flushes that were due must have been done, if that is known.
    pub flushed: Option<Flushed>,
}

/// That delayed flushes are done in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flushed {
    /// Those due until this time by every clock ...
    pub due: u64,
    /// ... have been done until this one.
    pub done: u64,
}

fn is_flush(entry: &Entry) -> bool {
    matches!(entry.action, Action::Flush | Action::FlushLater(_))
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

    /// The operations of each key, by time of asking. Flushes are in all of them; a delayed one as a flush at its time.
    pub fn by_key(&self) -> BTreeMap<Vec<u8>, Vec<Entry>> {
        let keys: BTreeSet<&Vec<u8>> = self.entries.iter().filter(|e| !is_flush(e)).map(|e| &e.key).collect();
        let flushes: Vec<Entry> = self.entries.iter().filter(|e| is_flush(e)).map(|e| self.flush(e)).collect();
        let of_key = |key: &Vec<u8>| {
            let own = self.entries.iter().filter(|e| !is_flush(e) && e.key == *key);
            let mut all: Vec<Entry> = own.chain(&flushes).cloned().collect();
            all.sort_by_key(|e| (e.invoked, e.returned));
            all
        };
        keys.into_iter().map(|key| (key.clone(), of_key(key))).collect()
    }

    /// A delayed flush happens once it is due, or never when another one was asked for, which may have taken its place.
    fn flush(&self, entry: &Entry) -> Entry {
        let Action::FlushLater(secs) = entry.action else { return entry.clone() };
        let Clocks { second, skew_secs } = self.clocks;
        let due = |asked: u64| (asked / second) + u64::from(secs);
        let invoked = (due(entry.invoked).saturating_sub(skew_secs) * second).max(entry.invoked);
        let flush = Entry { action: Action::Flush, outcome: Outcome::Unknown, invoked, ..entry.clone() };
        let is_earlier = |e: &Entry| e.outcome != Outcome::Unknown && e.returned < entry.invoked;
        let is_last = self.entries.iter().filter(|e| is_flush(e) && *e != entry).all(is_earlier);
        let flushed = self.flushed.filter(|by| (due(entry.returned) + skew_secs) * second <= by.due);
        match flushed {
            Some(Flushed { done, .. }) if is_last && entry.outcome == Outcome::Ok => {
                Entry { outcome: Outcome::Ok, returned: done, ..flush }
            }
            _ => flush,
        }
    }
}

struct Ttl(Option<u32>);

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |secs| write!(f, " for {secs} s"))
    }
}

/// A value for a line: of a long one its ends.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(data) = self;
        let text = String::from_utf8_lossy;
        if data.len() <= 200 {
            return write!(f, "{}", text(data));
        }
        write!(f, "{}...{} ({} bytes)", text(&data[..40]), text(&data[data.len() - 20..]), data.len())
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.data))?;
        if self.flags != 0 {
            write!(f, " flags {}", self.flags)?;
        }
        write!(f, "{}", Ttl(self.ttl_secs))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Get => write!(f, "get"),
            Action::Set(stored) => write!(f, "set {stored}"),
            Action::Add(stored) => write!(f, "add {stored}"),
            Action::Replace(stored) => write!(f, "replace {stored}"),
            Action::Append(data) => write!(f, "append {}", Shown(data)),
            Action::Prepend(data) => write!(f, "prepend {}", Shown(data)),
            Action::Cas(unique, stored) => write!(f, "cas #{unique} {stored}"),
            Action::Incr(by) => write!(f, "incr {by}"),
            Action::Decr(by) => write!(f, "decr {by}"),
            Action::Delete => write!(f, "delete"),
            Action::Touch(ttl) => write!(f, "touch{}", Ttl(*ttl)),
            Action::GetAndTouch(ttl) => write!(f, "gats{}", Ttl(*ttl)),
            Action::Fetch { vivify_secs, recache_secs } => {
                write!(f, "mg")?;
                vivify_secs.map_or(Ok(()), |secs| write!(f, " N{secs}"))?;
                recache_secs.map_or(Ok(()), |secs| write!(f, " R{secs}"))
            }
            Action::Invalidate => write!(f, "md I"),
            Action::Flush => write!(f, "flush_all"),
            Action::FlushLater(secs) => write!(f, "flush_all in {secs} s"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Value(Seen { data, flags, unique, marks }) => {
                write!(f, "{}", Shown(data))?;
                if *flags != 0 {
                    write!(f, " flags {flags}")?;
                }
                unique.map_or(Ok(()), |unique| write!(f, " #{unique}"))?;
                let all = [(marks.won, " W"), (marks.stale, " X"), (marks.sent, " Z")];
                all.iter().filter(|(is, _)| *is).try_for_each(|(_, letter)| f.write_str(letter))
            }
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
