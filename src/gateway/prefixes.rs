//! `stats detail`: what was asked for, by the part of the keys before the first `:`.
//!
//! As in memcached it costs nothing until it is switched on. Each worker counts for itself; the lock that lets another read is
//! free but for the moment of a dump. What is counted for a client does not begin with the operator's own prefix
//! (`--key-prefix`), which is the same for all keys of a gateway.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What ends a prefix.
const DELIMITER: u8 = b':';
/// How many prefixes a worker tells apart; keys with others are counted together.
pub const MAX_PREFIXES: usize = 4096;

/// What is counted of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.gets += other.gets;
        self.hits += other.hits;
        self.sets += other.sets;
        self.deletes += other.deletes;
    }
}

/// What happened to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It was asked for, and found or not.
    Get {
        /// Whether it was found.
        hit: bool,
    },
    /// It was to be stored.
    Set,
    /// It was to be deleted.
    Delete,
}

#[derive(Default)]
struct OfWorker {
    counts: HashMap<Box<[u8]>, Counts>,
    /// Those of all prefixes that came when the table was full.
    others: Counts,
}

/// The prefixes of a gateway.
pub struct Prefixes {
    on: AtomicBool,
    workers: Vec<Mutex<OfWorker>>,
}

impl Prefixes {
    /// Of so many workers; nothing is counted yet.
    pub fn new(workers: usize) -> Prefixes {
        Prefixes { on: AtomicBool::new(false), workers: (0..workers).map(|_| Mutex::default()).collect() }
    }

    /// Whether it counts.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Begins to count, or ends it; what was counted stays.
    pub fn switch(&self, on: bool) {
        self.on.store(on, Relaxed);
    }

    /// Forgets what was counted.
    pub fn clear(&self) {
        self.workers.iter().for_each(|worker| *locked(worker) = OfWorker::default());
    }

    /// Counts for a worker, if it is switched on. A key without a delimiter is not counted, nor is one whose prefix would not be
    /// one word of a line.
    #[inline]
    pub fn note(&self, worker: u16, key: &[u8], event: Event) {
        if self.is_on() {
            self.count(worker, key, event);
        }
    }

    #[cold]
    fn count(&self, worker: u16, key: &[u8], event: Event) {
        let Some(prefix) = key.iter().position(|b| *b == DELIMITER).map(|end| &key[..end]) else { return };
        if prefix.iter().any(|b| b.is_ascii_control() || *b == b' ') {
            return;
        }
        let Some(worker) = self.workers.get(usize::from(worker)) else { return };
        let OfWorker { counts, others } = &mut *locked(worker);
        let has_room = counts.len() < MAX_PREFIXES;
        let counts = match counts.get_mut(prefix) {
            Some(counts) => counts,
            None if has_room => match counts.entry(prefix.into()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Counts::default()),
            },
            None => others,
        };
        match event {
            Event::Get { hit } => {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            }
            Event::Set => counts.sets += 1,
            Event::Delete => counts.deletes += 1,
        }
    }

    /// Appends memcached's lines about all prefixes, in their order, and the end.
    pub fn dump(&self, out: &mut Vec<u8>) {
        let mut sums: BTreeMap<Box<[u8]>, Counts> = BTreeMap::new();
        for worker in &self.workers {
            for (prefix, counts) in &locked(worker).counts {
                sums.entry(prefix.clone()).or_default().add(counts);
            }
        }
        for (prefix, Counts { gets, hits, sets, deletes }) in &sums {
            out.extend_from_slice(b"PREFIX ");
            out.extend_from_slice(prefix);
            // Memory takes all that is written.
            let _ = write!(out, " get {gets} hit {hits} set {sets} del {deletes}\r\n");
        }
        out.extend_from_slice(b"END\r\n");
    }

    /// How many events had prefixes for which there was no room.
    pub fn untold(&self) -> u64 {
        let of = |worker| {
            let others = locked(worker).others;
            others.gets + others.sets + others.deletes
        };
        self.workers.iter().map(of).sum()
    }
}

fn locked(worker: &Mutex<OfWorker>) -> MutexGuard<'_, OfWorker> {
    // A count more or less is nothing to die for.
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(prefixes: &Prefixes) -> String {
        let mut out = Vec::new();
        prefixes.dump(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn workers_count_together_what_they_are_told_while_it_is_on() {
        let prefixes = Prefixes::new(2);
        prefixes.note(0, b"a:1", Event::Set);
        assert_eq!(dump(&prefixes), "END\r\n");
        prefixes.switch(true);
        prefixes.note(0, b"a:1", Event::Get { hit: true });
        prefixes.note(1, b"a:2:b", Event::Get { hit: false });
        prefixes.note(1, b"ab:", Event::Set);
        prefixes.note(0, b":", Event::Delete);
        for uncounted in [&b"a"[..], b"", b"a b:1", b"a\r\nEND\r\n:1", b"\0:1"] {
            prefixes.note(0, uncounted, Event::Set);
        }
        prefixes.switch(false);
        prefixes.note(0, b"a:1", Event::Set);
        let told = "PREFIX  get 0 hit 0 set 0 del 1\r\nPREFIX a get 2 hit 1 set 0 del 0\r\n\
                    PREFIX ab get 0 hit 0 set 1 del 0\r\nEND\r\n";
        assert_eq!((dump(&prefixes).as_str(), prefixes.untold()), (told, 0));
        prefixes.clear();
        assert_eq!(dump(&prefixes), "END\r\n");
    }

    #[test]
    fn prefixes_for_which_there_is_no_room_are_counted_and_not_told() {
        let prefixes = Prefixes::new(1);
        prefixes.switch(true);
        (0..MAX_PREFIXES).for_each(|i| prefixes.note(0, format!("{i}:").as_bytes(), Event::Set));
        prefixes.note(0, b"one:more", Event::Set);
        prefixes.note(0, b"7:", Event::Delete);
        let told = dump(&prefixes);
        assert_eq!((told.lines().count(), prefixes.untold()), (MAX_PREFIXES + 1, 1));
        assert!(told.contains("PREFIX 7 get 0 hit 0 set 1 del 1\r\n") && !told.contains("one"), "{told}");
    }
}
