//! The load itself: connections that keep their requests in flight, and what they measure.
//!
//! Each thread drives its connections on a tokio runtime of its own. A connection writes all requests that it may
//! send at once, and takes the time once for each batch written and once for each batch read: no allocation, no
//! system call and no task per request. A lost connection is made anew after [`RECONNECT_DELAY`].

use super::answers::{Answer, Answers};
use super::load::{Load, Request, Source};
use super::wire::{Connected, Place, Wire};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;

/// Pause before a connection is made anew.
const RECONNECT_DELAY: Duration = Duration::from_millis(20);
/// Bytes of requests encoded before they are written; one request may be longer.
const MAX_BATCH_LEN: usize = 256 << 10;
/// Longest latency that is told from longer ones.
const MAX_LATENCY: Duration = Duration::from_secs(300);
/// Latencies below this many nanoseconds are not told from each other.
const LATENCY_UNIT_NS: u64 = 100;

/// What the connections of a thread have counted.
#[derive(Debug)]
pub struct Tally {
    /// Nanoseconds from writing a request to reading its answer, for each good answer.
    pub latency: Histogram<u64>,
    /// Good answers before the end of the run.
    pub in_time: u64,
    /// Keys asked for by those.
    pub keys_in_time: u64,
    /// Keys that were asked for and not there.
    pub misses: u64,
    /// Requests sent, and requests that have got an answer or lost their connection.
    pub sent: u64,
    /// See `sent`.
    pub settled: u64,
    /// Bad answers, requests lost with their connection, connections refused.
    pub errors: u64,
    /// The first of those.
    pub first_error: Option<String>,
    /// Longest time between two good answers of any connections of this run.
    pub longest_gap: Duration,
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Tally {
        let highest = u64::try_from(MAX_LATENCY.as_nanos()).expect("300 s in nanoseconds fit");
        Tally {
            latency: Histogram::new_with_bounds(LATENCY_UNIT_NS, highest, 3).expect("these bounds are valid"),
            in_time: 0,
            keys_in_time: 0,
            misses: 0,
            sent: 0,
            settled: 0,
            errors: 0,
            first_error: None,
            longest_gap: Duration::ZERO,
        }
    }

    fn error(&mut self, count: usize, what: impl FnOnce() -> String) {
        self.errors += count as u64;
        self.first_error.get_or_insert_with(what);
    }

    /// Counts requests that never got an answer as errors.
    pub fn close(&mut self) {
        let unanswered = self.sent - self.settled;
        if unanswered > 0 {
            self.error(unanswered as usize, || "no answer until the end".to_owned());
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.in_time += other.in_time;
        self.keys_in_time += other.keys_in_time;
        self.misses += other.misses;
        self.sent += other.sent;
        self.settled += other.settled;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

/// What all connections of a run share.
#[derive(Debug)]
pub struct Run {
    /// Where they connect to.
    pub target: Place,
    /// What they ask.
    pub load: Load,
    /// Requests that each keeps in flight.
    pub depth: usize,
    /// When it began.
    pub start: Instant,
    /// When sending ends; `None`: when the sources are exhausted, or at the first error.
    pub deadline: Option<Instant>,
    /// Nanoseconds from the start to the last good answer.
    pub last_good_ns: AtomicU64,
    /// Set at the first error when there is no deadline: nothing more is sent.
    pub failed: AtomicBool,
}

/// Nanoseconds in a `Duration`; far beyond the length of any run they stop growing.
pub fn as_ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().expect("no holder of a tally panics")
}

/// A connection and all its buffers, which outlive reconnecting.
pub struct Client {
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
    source: Source,
    out: Vec<u8>,
    written: usize,
    /// The last encoding stopped at [`MAX_BATCH_LEN`].
    more_to_encode: bool,
    in_flight: VecDeque<(Instant, Request)>,
    answers: Answers,
}

impl Client {
    /// A client that asks what `source` yields and counts in `tally`.
    pub fn new(run: Arc<Run>, tally: Arc<Mutex<Tally>>, source: Source) -> Client {
        let in_flight = VecDeque::with_capacity(run.depth);
        let answers = Answers::new();
        Client { run, tally, source, out: Vec::new(), written: 0, more_to_encode: false, in_flight, answers }
    }

    /// Works until the run is over and everything sent is answered, beginning on a connection that is already made.
    pub async fn work(mut self, connected: Connected) {
        let mut next = connected.into_wire();
        loop {
            let ended = match next {
                Ok(stream) => self.session(stream).await,
                Err(e) => Err(format!("cannot connect to {}: {e}", self.run.target)),
            };
            let Err(reason) = ended else { return };
            self.lost(reason);
            if self.over(Instant::now()) {
                return;
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
            next = self.run.target.connect().await;
        }
    }

    fn over(&self, now: Instant) -> bool {
        match self.run.deadline {
            Some(deadline) => now >= deadline,
            None => self.run.failed.load(Ordering::Relaxed),
        }
    }

    /// Counts what was lost with a connection and makes ready for the next.
    fn lost(&mut self, reason: String) {
        let mut tally = locked(&self.tally);
        tally.settled += self.in_flight.len() as u64;
        tally.error(self.in_flight.len().max(1), || reason);
        drop(tally);
        self.run.failed.store(true, Ordering::Relaxed);
        self.in_flight.clear();
        self.out.clear();
        self.written = 0;
        self.answers.reset();
    }

    /// One connection's life. `Ok`: the run is over.
    async fn session(&mut self, mut stream: Wire) -> Result<(), String> {
        let mut now = Instant::now();
        loop {
            if self.out.is_empty() && !self.over(now) {
                self.encode();
            }
            if self.in_flight.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| self.poll_exchange(&mut stream, cx)).await?;
            now = Instant::now();
            self.settle(now)?;
        }
    }

    /// Encodes the requests that may be sent now. They are timed together, when they are about to be written.
    fn encode(&mut self) {
        let now = Instant::now();
        let before = self.in_flight.len();
        self.more_to_encode = false;
        while self.in_flight.len() < self.run.depth {
            if self.out.len() >= MAX_BATCH_LEN {
                self.more_to_encode = true;
                break;
            }
            let Some(request) = self.source.next(&self.run.load) else { break };
            self.run.load.encode(request, &mut self.out);
            self.in_flight.push_back((now, request));
        }
        locked(&self.tally).sent += (self.in_flight.len() - before) as u64;
    }

    /// Writes what is encoded and reads what is there; ready when something was read, or when more can be encoded.
    /// Reading goes on while writing is stuck: else two full buffers would wait for each other.
    fn poll_exchange(&mut self, stream: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        while self.written < self.out.len() {
            match stream.poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(format!("writing to {}: {e}", self.run.target))),
                Poll::Pending => break,
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if std::mem::take(&mut self.more_to_encode) {
                return Poll::Ready(Ok(()));
            }
        }
        let mut buf = ReadBuf::new(self.answers.space());
        let read = ready!(stream.poll_read(cx, &mut buf));
        let n = buf.filled().len();
        self.answers.filled(n);
        Poll::Ready(match read {
            Err(e) => Err(format!("reading from {}: {e}", self.run.target)),
            Ok(()) if n == 0 => Err(format!("{} closed the connection", self.run.target)),
            Ok(()) => Ok(()),
        })
    }

    /// Takes all complete answers and counts them, as read at `now`.
    fn settle(&mut self, now: Instant) -> Result<(), String> {
        let mut tally = locked(&self.tally);
        let in_time = self.run.deadline.is_none_or(|d| now < d);
        let mut any_good = false;
        while let Some(&(sent, request)) = self.in_flight.front() {
            let Some(answer) = self.answers.next(request, &self.run.load)? else { break };
            self.in_flight.pop_front();
            tally.settled += 1;
            let (asked, hits) = match (request, answer) {
                (_, Answer::Wrong(what)) => {
                    tally.error(1, || what);
                    self.run.failed.store(true, Ordering::Relaxed);
                    continue;
                }
                (Request::Get(set), Answer::Values(hits)) => (set.count, hits),
                (Request::Get(_) | Request::Set(_), _) => (1, 1),
            };
            any_good = true;
            tally.misses += u64::from(asked - hits);
            tally.latency.saturating_record(as_ns(now - sent));
            if in_time {
                tally.in_time += 1;
                tally.keys_in_time += u64::from(asked);
            }
        }
        if any_good {
            let at = as_ns(now - self.run.start);
            let last = self.run.last_good_ns.fetch_max(at, Ordering::Relaxed);
            tally.longest_gap = tally.longest_gap.max(Duration::from_nanos(at.saturating_sub(last)));
        }
        if self.in_flight.is_empty() && !self.answers.is_empty() {
            return Err(format!("{} sent more than was asked for", self.run.target));
        }
        Ok(())
    }
}

/// Drives clients, each with its connection, until they are done, or until the run is given up: `drain` after its
/// deadline, or when no good answer has come for `patience`.
pub async fn drive(run: &Run, clients: Vec<(Client, Connected)>, drain: Duration, patience: Duration) {
    let tasks: Vec<_> = clients.into_iter().map(|(client, stream)| tokio::spawn(client.work(stream))).collect();
    let all = async {
        for task in tasks {
            task.await.expect("a client's task does not panic and is not cancelled");
        }
    };
    let give_up = async {
        match run.deadline {
            Some(deadline) => tokio::time::sleep_until((deadline + drain).into()).await,
            None => {
                while idle_time(run) < patience {
                    tokio::time::sleep(patience - idle_time(run)).await;
                }
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = give_up => {}
    }
}

/// Time since the last good answer of a run.
pub fn idle_time(run: &Run) -> Duration {
    run.start.elapsed().saturating_sub(Duration::from_nanos(run.last_good_ns.load(Ordering::Relaxed)))
}
