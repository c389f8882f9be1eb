//! `kumoctl import`: stores records from lines of JSON, as clients would.
//!
//! Each goes to the coordinator of its key, which gives it a new version. Done twice it is the same as done once, so what
//! was cut off is done again, or gone on with behind the lines that are known to be stored.
//!
//! Memory: [`IN_FLIGHT`] records on their way, and as many lines read ahead as a channel holds.

use super::Trouble;
use super::cluster::{Cluster, TRY_FOR, trouble};
use super::lines::{self, LINE_MAX, Said};
use crate::logic::expiry::is_gone;
use crate::logic::record::{self, dbkey_hash};
use crate::net::rpc::CallError;
use crate::net::time::unix_secs;
use crate::proto::rpc::error;
use crate::proto::rpc::v1::{Mutate, Mutated, Op, RequestId, Terms};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;

/// Records on their way at a time.
const IN_FLIGHT: usize = 128;
/// Lines read ahead.
const AHEAD: usize = 16;
/// How long a server may take to store a record: as long as it takes to go on without one that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is to be imported, and how.
#[derive(Debug)]
pub struct Order {
    /// The manager that is asked.
    pub manager: String,
    /// The file; `None`: standard input.
    pub file: Option<PathBuf>,
    /// What is stored already is kept.
    pub keep: bool,
    /// Lines that are passed over.
    pub skip: u64,
    /// The summary is JSON.
    pub json: bool,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    Yes,
    /// There was one already.
    Kept,
    /// Its time is over.
    Expired,
}

/// Counted by what became of them.
#[derive(Default)]
struct Sums {
    stored: u64,
    kept: u64,
    expired: u64,
    /// Lines of which, and of all before, the records are stored.
    prefix: u64,
    /// Lines behind that which are done: numbered from 0.
    beyond: BTreeSet<u64>,
}

impl Sums {
    fn note(&mut self, line: u64, outcome: Option<Stored>) {
        match outcome {
            Some(Stored::Yes) => self.stored += 1,
            Some(Stored::Kept) => self.kept += 1,
            Some(Stored::Expired) => self.expired += 1,
            None => {}
        }
        self.beyond.insert(line);
        while self.beyond.remove(&self.prefix) {
            self.prefix += 1;
        }
    }
}

/// Runs it.
///
/// # Errors
/// When not all was imported.
pub async fn run(order: &Order) -> Result<(), Trouble> {
    let cluster = Rc::new(Cluster::of(&order.manager).await?);
    let input: Box<dyn Read + Send> = match &order.file {
        Some(path) => {
            Box::new(File::open(path).map_err(|e| Trouble::Failed(format!("cannot read {}: {e}", path.display())))?)
        }
        None => Box::new(std::io::stdin()),
    };
    let (told, lines) = mpsc::channel(AHEAD);
    let skip = order.skip;
    // It ends with the input, or when nobody wants more lines; a read from a terminal may never end.
    std::thread::spawn(move || read_lines(input, skip, &told));
    let begun = Instant::now();
    let mut sums = Sums { prefix: skip, ..Sums::default() };
    let done = store_all(&cluster, order, lines, &mut sums).await;
    if let Err(why) = done {
        return Err(Trouble::Failed(format!("{why}; go on with --skip {}", sums.prefix)));
    }
    let Sums { stored, kept, expired, .. } = sums;
    let millis = begun.elapsed().as_millis();
    if order.json {
        let summary = json!({"stored": stored, "kept": kept, "expired": expired, "milliseconds": millis as u64});
        super::print(&format!("{summary}\n"));
    } else {
        let secs = format!("{}.{:03} s", millis / 1000, millis % 1000);
        eprintln!("kumoctl: {stored} records imported, {kept} kept as they were, {expired} expired, in {secs}");
    }
    Ok(())
}

/// Reads lines until the end, and tells what they say with their numbers, from 0.
fn read_lines(input: Box<dyn Read + Send>, skip: u64, told: &Sender<(u64, Result<Said, String>)>) {
    let mut input = BufReader::with_capacity(1 << 20, input);
    for number in 0.. {
        let mut text = Vec::new();
        let said = match input.by_ref().take(LINE_MAX).read_until(b'\n', &mut text) {
            Ok(0) => return,
            Ok(_) if number < skip => continue,
            Ok(_) if text.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(_) => lines::decode(&text),
            Err(e) => Err(format!("cannot be read: {e}")),
        };
        let is_over = said.is_err();
        if told.blocking_send((number, said)).is_err() || is_over {
            return;
        }
    }
}

async fn store_all(
    cluster: &Rc<Cluster>,
    order: &Order,
    mut lines: Receiver<(u64, Result<Said, String>)>,
    sums: &mut Sums,
) -> Result<(), String> {
    let mut under_way: JoinSet<(u64, Vec<u8>, Result<Stored, String>)> = JoinSet::new();
    let mut keys: HashSet<Vec<u8>> = HashSet::new();
    let (mut failed, mut is_complete, mut told) = (None, false, Instant::now());
    loop {
        let next = if failed.is_none() { lines.recv().await } else { None };
        let record = match next {
            Some((number, Ok(Said::Record(dbkey, dbval)))) => Some((number, dbkey, dbval)),
            Some((number, Ok(Said::End))) => {
                sums.note(number, None);
                is_complete = true;
                continue;
            }
            Some((number, Err(why))) => {
                failed = Some(format!("line {}: {why}", number + 1));
                None
            }
            None => None,
        };
        // Of one key, the last line is to win.
        let (most, is_last) = (if record.is_some() { IN_FLIGHT - 1 } else { 0 }, record.is_none());
        while under_way.len() > most || record.as_ref().is_some_and(|(_, dbkey, _)| keys.contains(dbkey)) {
            let Some(done) = under_way.join_next().await else { break };
            let (number, dbkey, outcome) = done.map_err(|e| format!("a task failed: {e}"))?;
            keys.remove(&dbkey);
            match outcome {
                Ok(stored) => sums.note(number, Some(stored)),
                Err(why) => failed = failed.or(Some(format!("line {}: {why}", number + 1))),
            }
        }
        if let Some((number, dbkey, dbval)) = record.filter(|_| failed.is_none()) {
            is_complete = false;
            keys.insert(dbkey.clone());
            let (cluster, keep) = (cluster.clone(), order.keep);
            under_way.spawn_local(async move {
                let outcome = store(&cluster, keep, &dbkey, &dbval).await;
                (number, dbkey, outcome)
            });
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            eprintln!("kumoctl: {} lines imported", sums.prefix);
        }
        if is_last && under_way.is_empty() {
            break;
        }
    }
    match failed {
        Some(why) => Err(why),
        None if !is_complete => Err("the last line is missing: what was exported is cut off".to_owned()),
        None => Ok(()),
    }
}

/// Stores one record; while the cluster changes, again and again.
async fn store(cluster: &Cluster, keep: bool, dbkey: &[u8], dbval: &[u8]) -> Result<Stored, String> {
    let expiry = record::parse(dbval).and_then(|value| value.body).map_or(0, |body| body.expiry);
    if is_gone(expiry, unix_secs()) {
        return Ok(Stored::Expired);
    }
    let begun = Instant::now();
    loop {
        match try_to_store(cluster, keep, dbkey, dbval).await {
            Ok(stored) => return Ok(stored),
            Err((false, why)) => return Err(why),
            Err((true, why)) if begun.elapsed() > TRY_FOR => return Err(why),
            Err(_) => cluster.renew().await,
        }
    }
}

/// An error tells whether it is worth another try.
async fn try_to_store(cluster: &Cluster, keep: bool, dbkey: &[u8], dbval: &[u8]) -> Result<Stored, (bool, String)> {
    let view = cluster.view();
    let node = view.coordinator(dbkey_hash(dbkey).unwrap_or(0)).map_err(|why| (true, why))?;
    let mutate = Mutate {
        epoch: view.epoch.number,
        id: RequestId::default(),
        op: if keep { Op::Add } else { Op::Set },
        options: 0,
        dbkey,
        arg: 0,
        dbval,
        terms: Terms::default(),
    };
    let answer = node.call_with(|out, id| mutate.write(out, id), PATIENCE).await;
    let answer = answer.map_err(|e| {
        let is_final = matches!(e, CallError::Refused(error::NO_SPACE | error::PROTOCOL, _));
        (!is_final, trouble(node.address(), &e))
    })?;
    match Mutated::read(&answer) {
        Ok(Mutated::Done(_)) => Ok(Stored::Yes),
        Ok(Mutated::NotStored) => Ok(Stored::Kept),
        Ok(Mutated::TooLarge) => Err((false, "the value is larger than servers take (--max-value)".to_owned())),
        Ok(_) | Err(_) => Err((false, format!("{} answered what is no answer to a store", node.address()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_skipped_ends_before_the_first_line_that_is_not_done() {
        let mut sums = Sums { prefix: 10, ..Sums::default() };
        sums.note(11, Some(Stored::Yes));
        assert_eq!(sums.prefix, 10);
        sums.note(10, Some(Stored::Kept));
        sums.note(12, None);
        sums.note(14, Some(Stored::Expired));
        assert_eq!((sums.prefix, sums.stored, sums.kept, sums.expired), (13, 1, 1, 1));
    }
}
