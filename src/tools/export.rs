//! `kumoctl export`: every record of a cluster, once, as lines of JSON in the order of the ring.
//!
//! Each worker of each server tells pages of what it coordinates; they are merged by ring position. When the cluster
//! changes, all begin again behind the last position that was written, so that no record is missed or written twice.
//!
//! Memory: three pages for each worker of each server, of 256 KiB and at most one value more.

use super::Trouble;
use super::ask::{Node, PATIENCE};
use super::cluster::{Cluster, TRY_FOR, trouble};
use super::lines;
use crate::logic::record::dbkey_hash;
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::v1::{Page, method};
use serde_json::json;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, Receiver};

/// How often is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is to be exported, and where to.
#[derive(Debug)]
pub struct Order {
    /// The manager that is asked.
    pub manager: String,
    /// The file; `None`: standard output.
    pub file: Option<PathBuf>,
    /// The ring position to begin at. A file is appended to then.
    pub from: Option<u64>,
    /// The summary is JSON.
    pub json: bool,
}

/// A ring position as it is typed: 16 hexadecimal digits at most.
pub fn position(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| "must be a ring position in hexadecimal, as an export tells".to_owned())
}

/// Runs it.
///
/// # Errors
/// When not all was exported.
pub async fn run(order: &Order) -> Result<(), Trouble> {
    let cluster = Cluster::of(&order.manager).await?;
    let out = open(order)?;
    let mut export = Export {
        out: BufWriter::with_capacity(1 << 20, out),
        begun: Instant::now(),
        told: Instant::now(),
        next: order.from.or(Some(0)),
        records: 0,
        damaged: 0,
    };
    if let Err(why) = export.all(&cluster).await {
        return Err(Trouble::Failed(match export.next {
            Some(next) => format!("{why}; {} records were exported: go on with --from {next:016x}", export.records),
            None => why,
        }));
    }
    let (records, millis) = (export.records, export.begun.elapsed().as_millis());
    let summary = if order.json {
        json!({"records": records, "damaged": export.damaged, "milliseconds": millis as u64}).to_string()
    } else {
        format!("{records} records exported in {}.{:03} s", millis / 1000, millis % 1000)
    };
    match (order.json, order.file.is_some()) {
        (true, true) => drop(super::print(&format!("{summary}\n"))),
        (true, false) => eprintln!("{summary}"),
        (false, _) => eprintln!("kumoctl: {summary}"),
    }
    match export.damaged {
        0 => Ok(()),
        n => Err(Trouble::Failed(format!("{n} records are damaged on all servers, and were left out"))),
    }
}

fn open(order: &Order) -> Result<Box<dyn Write>, Trouble> {
    let Some(path) = &order.file else { return Ok(Box::new(std::io::stdout())) };
    let mut options = OpenOptions::new();
    let opened = match order.from {
        Some(_) => options.append(true).open(path),
        None => options.write(true).create_new(true).open(path),
    };
    let file = opened.map_err(|e| Trouble::Failed(format!("cannot write {}: {e}", path.display())))?;
    Ok(Box::new(Synced(file)))
}

/// A file whose content is on the disk once it was flushed.
struct Synced(std::fs::File);

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0.sync_all() {
            // Pipes and devices have nothing to sync.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            synced => synced,
        }
    }
}

struct Export<W: Write> {
    out: BufWriter<W>,
    begun: Instant,
    told: Instant,
    /// What lies before is written; `None`: that is all.
    next: Option<u64>,
    records: u64,
    damaged: u64,
}

/// The pages of one worker.
struct Source {
    pages: Receiver<Result<Page, String>>,
    records: VecDeque<(u64, Vec<u8>, Vec<u8>)>,
    /// Pages before this position have been received; `None`: all have.
    next: Option<u64>,
    damaged: u64,
}

impl<W: Write> Export<W> {
    async fn all(&mut self, cluster: &Cluster) -> Result<(), String> {
        let (mut since, mut at) = (Instant::now(), self.next);
        while let Some(from) = self.next {
            if let Err(why) = self.round(cluster, from).await? {
                if self.next != at {
                    (since, at) = (Instant::now(), self.next);
                }
                if since.elapsed() > TRY_FOR {
                    self.flush()?;
                    return Err(why);
                }
                cluster.renew().await;
            }
        }
        self.write(&lines::end())?;
        self.flush()
    }

    /// Exports until the end, or until the cluster changes: then it tells why. Fails when nothing can be written.
    async fn round(&mut self, cluster: &Cluster, from: u64) -> Result<Result<(), String>, String> {
        let view = cluster.view();
        if let Err(why) = view.is_whole() {
            return Ok(Err(why));
        }
        let mut sources = Vec::new();
        for node in view.workers() {
            match node {
                Ok(node) => sources.push(Source::start(node.clone(), view.epoch.number, from)),
                Err(why) => return Ok(Err(why.clone())),
            }
        }
        loop {
            for source in &mut sources {
                if let Err(why) = source.fill().await {
                    self.damaged += sources.iter().map(|source| source.damaged).sum::<u64>();
                    return Ok(Err(why));
                }
            }
            // Up to there everybody has told everything.
            let known = sources.iter().filter_map(|source| source.next).min();
            let mut due: Vec<(u64, Vec<u8>, Vec<u8>)> = Vec::new();
            for source in &mut sources {
                while let Some(record) =
                    source.records.pop_front_if(|(hash, ..)| known.is_none_or(|known| *hash < known))
                {
                    due.push(record);
                }
            }
            due.sort_by_key(|(hash, ..)| *hash);
            for (_, dbkey, dbval) in due {
                if let Some(line) = lines::encode(&dbkey, &dbval) {
                    self.write(&line)?;
                    self.records += 1;
                }
            }
            self.next = known;
            if known.is_none() {
                self.damaged += sources.iter().map(|source| source.damaged).sum::<u64>();
                return Ok(Ok(()));
            }
            self.tell();
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let percent = self.next.map_or(100, |next| (u128::from(next) * 100) >> 64);
            eprintln!("kumoctl: {percent}%, {} records exported", self.records);
        }
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.out.write_all(text.as_bytes()).map_err(|e| format!("cannot write: {e}"))
    }

    fn flush(&mut self) -> Result<(), String> {
        self.out.flush().map_err(|e| format!("cannot write: {e}"))
    }
}

impl Source {
    fn start(node: Node, epoch: u64, from: u64) -> Source {
        let (told, pages) = mpsc::channel(1);
        tokio::task::spawn_local(async move {
            let mut position = Some(from);
            while let Some(from) = position {
                let page = ask(&node, epoch, from).await;
                position = page.as_ref().ok().and_then(|page| page.next);
                // Whoever wants no more pages is not told.
                if told.send(page).await.is_err() {
                    return;
                }
            }
        });
        Source { pages, records: VecDeque::new(), next: Some(from), damaged: 0 }
    }

    /// Sees to it that there are records, unless there are no more.
    async fn fill(&mut self) -> Result<(), String> {
        while self.records.is_empty() && self.next.is_some() {
            let page = self.pages.recv().await.unwrap_or_else(|| Err("a connection failed".to_owned()))?;
            self.next = page.next;
            self.damaged += page.damaged;
            let positioned = |(dbkey, dbval): (Vec<u8>, Vec<u8>)| Some((dbkey_hash(&dbkey)?, dbkey, dbval));
            self.records.extend(page.records.into_iter().filter_map(positioned));
        }
        Ok(())
    }
}

async fn ask(node: &Node, epoch: u64, from: u64) -> Result<Page, String> {
    let mut params = Vec::new();
    write_array(&mut params, 2);
    write_uint(&mut params, epoch);
    write_uint(&mut params, from);
    let answer = node.call_for(method::PAGE, &params, PATIENCE).await.map_err(|e| trouble(node.address(), &e))?;
    let malformed = |_| format!("{} answered what is no page", node.address());
    let page = Page::read(&mut Reader::new(&answer)).map_err(malformed)?;
    let is_ahead = page.next.is_none_or(|next| next > from);
    if is_ahead { Ok(page) } else { Err(format!("{} answered what is no page", node.address())) }
}
