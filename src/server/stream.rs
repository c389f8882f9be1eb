//! The replace stream: records on their way from one server to another.
//!
//! Source: `doc/protocol.md`, "The replace stream". The sender offers its stream address; the receiver connects there,
//! tells its cluster address in 23 bytes, and takes one zlib stream of MessagePack ([`super::element`]), closed by nil.
//! The receiver answers an empty array every 100 records and nil when it has stored all.

use super::background::Background;
use super::element::{Elements, NIL, Stage};
use super::shared::Shared;
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::net::sock::{TcpListener, TcpStream};
use crate::proto::rpc::frame::MAX_FRAME;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Bytes that a receiver writes first: the length of its address, and the address, padded with zeros.
const GREETING_LEN: usize = 23;
/// Records between two signs of life.
const ALIVE_EVERY: u64 = 100;
/// Batches that wait in a stream before the worker waits for it.
const BATCHES: usize = 4;
/// How long the other side may do nothing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an offered stream waits to be fetched.
const FETCH: Duration = Duration::from_secs(3);
/// Bytes gathered for one worker before it stores them.
const APPLY_BYTES: usize = 128 << 10;
/// Bytes read, or inflated, at a time.
const CHUNK: usize = 64 << 10;
const ALIVE: u8 = 0x90;

/// Streams that were offered and wait to be fetched, by the receiver's cluster address and the worker that fills them.
#[derive(Default)]
pub struct Offered(Mutex<BTreeMap<(Address, u16), Source>>);

struct Source {
    batches: mpsc::Receiver<Vec<u8>>,
    fetched: Arc<AtomicBool>,
    stored: oneshot::Sender<()>,
}

/// The worker's end of a stream to another server.
pub struct Outgoing {
    batches: mpsc::Sender<Vec<u8>>,
    fetched: Arc<AtomicBool>,
    stored: oneshot::Receiver<()>,
}

impl Outgoing {
    /// Sends encoded elements.
    ///
    /// # Errors
    /// Why they cannot be.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), &'static str> {
        match timeout(PATIENCE, self.batches.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the stream broke"),
            Err(_) => Err("it does not take the stream"),
        }
    }

    /// Sends the last elements and waits until the other has stored everything.
    ///
    /// # Errors
    /// Why it has not.
    pub async fn finish(mut self, bytes: Vec<u8>) -> Result<(), &'static str> {
        if !bytes.is_empty() {
            self.send(bytes).await?;
        }
        drop(self.batches);
        loop {
            match timeout(FETCH, &mut self.stored).await {
                Ok(stored) => return stored.map_err(|_| "the stream broke"),
                Err(_) if self.fetched.load(Ordering::Relaxed) => {}
                Err(_) => return Err("it does not fetch the stream"),
            }
        }
    }
}

/// Makes a stream from a worker that `receiver` is about to fetch, instead of any earlier one that it did not.
pub fn register(shared: &Shared, worker: u16, receiver: Address) -> Outgoing {
    let (batches, source) = mpsc::channel(BATCHES);
    let (stored, outcome) = oneshot::channel();
    let fetched = Arc::new(AtomicBool::new(false));
    let mut offered = shared.offered.0.lock().expect("no holder panics");
    offered.insert((receiver, worker), Source { batches: source, fetched: fetched.clone(), stored });
    Outgoing { batches, fetched, stored: outcome }
}

/// Serves the stream port.
pub async fn listen(shared: Arc<Shared>, background: Rc<Background>, listener: TcpListener) {
    loop {
        let (stream, _) = crate::net::listen::accept(&listener).await;
        let (shared, background) = (shared.clone(), background.clone());
        tokio::task::spawn_local(async move {
            if let Err(e) = send_stream(&shared, &background, stream).await {
                tracing::info!("a replace stream ended: {e}");
            }
        });
    }
}

async fn send_stream(shared: &Shared, background: &Background, mut stream: TcpStream) -> io::Result<()> {
    let mut greeting = [0; GREETING_LEN];
    timeout(PATIENCE, stream.read_exact(&mut greeting)).await??;
    let address = greeting.get(1..1 + usize::from(greeting[0])).and_then(Address::from_bytes);
    let address = address.ok_or_else(|| io::Error::other("the receiver told no address"))?;
    let source = {
        let mut offered = shared.offered.0.lock().expect("no holder panics");
        // Streams whose worker has given up are of no use.
        offered.retain(|_, source| !source.stored.is_closed());
        let waiting = offered.keys().find(|(receiver, _)| *receiver == address).copied();
        waiting.and_then(|key| offered.remove(&key))
    };
    let Some(mut source) = source else {
        return Err(io::Error::other(format!("{address} was offered nothing")));
    };
    source.fetched.store(true, Ordering::Relaxed);
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        while let Some(batch) = source.batches.recv().await {
            // Compressing takes its time, and managers want their pings answered.
            for chunk in batch.chunks(CHUNK) {
                background.step(|| zlib.write_all(chunk)).await?;
            }
            // What lies in the compressor is neither stored there nor told as sent.
            zlib.flush()?;
            let compressed = std::mem::take(zlib.get_mut());
            shared.moved.bytes.fetch_add(compressed.len() as u64, Ordering::Relaxed);
            timeout(PATIENCE, write.write_all(&compressed)).await??;
        }
        zlib.write_all(&[NIL])?;
        let rest = zlib.finish()?;
        shared.moved.bytes.fetch_add(rest.len() as u64, Ordering::Relaxed);
        timeout(PATIENCE, write.write_all(&rest)).await??;
        io::Result::Ok(())
    };
    let answers = async {
        let mut bytes = [0; 64];
        loop {
            // While the worker has nothing to send, the receiver has nothing to say.
            match read.read(&mut bytes).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                n if bytes[..n].contains(&NIL) => return Ok(()),
                _ => {}
            }
        }
    };
    tokio::try_join!(biased; sending, answers)?;
    let _ = source.stored.send(());
    Ok(())
}

/// Takes up an offer: fetches the stream at `from` and stores what comes.
/// `time` names the replace that it is for; a kumofs 0.4 server does not tell.
pub fn accept_offer(shared: &Shared, from: Address, time: Option<ClockTime>) {
    // The control plane's loop does this, so that inflating costs no worker's time. Without it, nothing serves any more.
    let _ = shared.offers.send((from, time));
}

/// Fetches offered streams, as they are announced.
pub async fn fetch_offers(
    shared: Arc<Shared>,
    background: Rc<Background>,
    mut offers: mpsc::UnboundedReceiver<(Address, Option<ClockTime>)>,
) {
    while let Some((from, time)) = offers.recv().await {
        let (shared, background) = (shared.clone(), background.clone());
        tokio::task::spawn_local(async move {
            if let Err(e) = receive_stream(&shared, &background, from, time).await {
                tracing::warn!("the replace stream from {from} broke: {e}");
            }
        });
    }
}

async fn receive_stream(
    shared: &Shared,
    background: &Background,
    from: Address,
    time: Option<ClockTime>,
) -> io::Result<()> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(from.socket_addr())).await??;
    let mut greeting = [0; GREETING_LEN];
    let address = shared.config.address.to_bytes();
    greeting[0] = address.len() as u8;
    greeting[1..=address.len()].copy_from_slice(&address);
    stream.write_all(&greeting).await?;
    let mut inflate = Inflate::default();
    let mut elements = Elements::new(shared.config.workers);
    let stage: &Stage<'_> = &|worker, key_len, val_len| {
        let shard = &shared.store.shards()[usize::from(worker)];
        shard.lock().expect("no holder of a shard panics").stage(key_len, val_len)
    };
    let mut compressed = vec![0; CHUNK];
    let mut alive = 0;
    loop {
        let n = timeout(PATIENCE, stream.read(&mut compressed)).await??;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut rest = Some(&compressed[..n]);
        while let Some(bytes) = rest {
            let (before, mut plain) = (elements.records, 0);
            let take = |bytes: &[u8]| elements.take(bytes, stage).inspect(|used| plain += *used as u64);
            rest = background.step(|| inflate.take(bytes, take)).await.map_err(io::Error::other)?;
            shared.received.lock().expect("no holder panics").add(time, elements.records - before, plain);
            elements.store(APPLY_BYTES, shared, time).await?;
        }
        for _ in alive..elements.records / ALIVE_EVERY {
            stream.write_all(&[ALIVE]).await?;
        }
        alive = elements.records / ALIVE_EVERY;
        if elements.complete {
            elements.store(0, shared, time).await?;
            stream.write_all(&[NIL]).await?;
            return Ok(());
        }
    }
}

/// Inflates a stream, handing on what was not used up together with what comes next.
struct Inflate {
    zlib: Decompress,
    plain: Vec<u8>,
}

impl Default for Inflate {
    fn default() -> Inflate {
        Inflate { zlib: Decompress::new(true), plain: Vec::new() }
    }
}

impl Inflate {
    /// Inflates `compressed`, as far as it makes little more than [`CHUNK`] bytes; `take` says how much of the plain bytes it used.
    /// Returns what is to be inflated next, `None` when more has to come first.
    fn take<'c>(
        &mut self,
        compressed: &'c [u8],
        mut take: impl FnMut(&[u8]) -> Result<usize, &'static str>,
    ) -> Result<Option<&'c [u8]>, &'static str> {
        self.plain.reserve(CHUNK);
        let before = (self.zlib.total_in(), self.plain.len());
        let status = self.zlib.decompress_vec(compressed, &mut self.plain, FlushDecompress::None);
        let status = status.map_err(|_| "what came is no zlib stream")?;
        let rest = &compressed[(self.zlib.total_in() - before.0) as usize..];
        let used = take(&self.plain)?;
        self.plain.drain(..used);
        if self.plain.len() > MAX_FRAME {
            return Err("a record is too long");
        }
        let progress = self.zlib.total_in() > before.0 || self.plain.len() + used > before.1;
        Ok((status != Status::StreamEnd && progress).then_some(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_cut_anywhere_inflates_to_the_same() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let plain: Vec<u8> = (0..200_000u32).map(|i| (i / 3) as u8).collect();
        zlib.write_all(&plain).unwrap();
        let compressed = zlib.finish().unwrap();
        for cut in [1, 7, 1000, compressed.len()] {
            let mut came = Vec::new();
            let mut inflate = Inflate::default();
            for chunk in compressed.chunks(cut) {
                let mut rest = Some(chunk);
                while let Some(bytes) = rest {
                    let take = |bytes: &[u8]| {
                        assert!(bytes.len() <= 2 * CHUNK, "{} bytes at a time", bytes.len());
                        // Uses up all but the last byte, as a reader of elements may.
                        let used = bytes.len().saturating_sub(1);
                        came.extend_from_slice(&bytes[..used]);
                        Ok(used)
                    };
                    rest = inflate.take(bytes, take).unwrap();
                }
            }
            came.extend_from_slice(&inflate.plain);
            assert!(came == plain, "cut every {cut}");
        }
    }

    #[test]
    fn rubbish_is_no_stream() {
        assert!(Inflate::default().take(b"GET / HTTP/1.1\r\n\r\n", |b| Ok(b.len())).is_err());
    }
}
