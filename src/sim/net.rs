//! A simulated network: TCP connections between hosts, with links that are slow, lose packets, or are cut.
//!
//! What is sent travels in order; a lost packet, or a cut link, holds up what comes behind it until it is sent again, as in
//! TCP. A direction of a link can be cut alone. When a process dies its peers are told by FIN or RST, when its host loses
//! power by nothing: then whoever writes to it later is told by RST once the host is back. Connections live in a table of
//! this thread and are named by numbers, so that streams may be sent to other tasks.

use super::kind::Kind;
use super::node::{self, Dice};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes that a connection holds for a reader that does not read.
const WINDOW: usize = 4 << 20;
/// How long a lost packet waits to be sent again, in milliseconds: from, and up to how much longer.
const RESEND_MS: (u64, u64) = (200, 300);

/// How a direction between two hosts is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Nothing comes through.
    pub cut: bool,
    /// New connections are refused, as by a firewall; those that are there go on.
    pub refuses: bool,
    /// How much longer than usual a packet travels, up to, in milliseconds.
    pub slow_ms: u64,
    /// How much longer than usual every packet travels, in milliseconds.
    pub late_ms: u64,
    /// How much longer than these the packets of one kind travel, in milliseconds.
    pub late_kind: Option<(Kind, u64)>,
    /// Of 1000 packets so many are lost.
    pub lost: u64,
}

enum Packet {
    Open,
    Opened,
    Data(Vec<u8>),
    Fin,
    Reset,
}

/// One end of a connection.
struct End {
    ip: IpAddr,
    life: u64,
    local: SocketAddr,
    remote: SocketAddr,
    peer: u64,
    opened: bool,
    inbox: VecDeque<u8>,
    eof: bool,
    reset: bool,
    /// No handle is left.
    closed: bool,
    sent_fin: bool,
    /// Bytes that the peer has not read.
    unread: usize,
    halves: u8,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When the packet before arrives.
    last: Instant,
    in_flight: usize,
    stuck: VecDeque<Packet>,
}

struct Listening {
    ip: IpAddr,
    life: u64,
    queue: VecDeque<u64>,
    waker: Option<Waker>,
}

struct Flight {
    at: Instant,
    number: u64,
    from: u64,
    packet: Packet,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.number == other.number
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Net {
    ends: BTreeMap<u64, End>,
    listening: BTreeMap<SocketAddr, Listening>,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    down: BTreeSet<IpAddr>,
    flights: BinaryHeap<Reverse<Flight>>,
    numbers: u64,
    ports: u16,
    dice: Dice,
    news: Rc<Notify>,
    packets: u64,
}

thread_local! {
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

fn with<T>(act: impl FnOnce(&mut Net) -> T) -> Option<T> {
    NET.with_borrow_mut(|net| net.as_mut().map(act))
}

fn with_net<T>(act: impl FnOnce(&mut Net) -> T) -> T {
    with(act).expect("a run has begun its network")
}

/// Makes a new network for this thread. Its packets move while [`run`] is polled.
pub fn begin(seed: u64) {
    let net = Net {
        ends: BTreeMap::new(),
        listening: BTreeMap::new(),
        links: BTreeMap::new(),
        down: BTreeSet::new(),
        flights: BinaryHeap::new(),
        numbers: 0,
        ports: 30_000,
        dice: Dice::new(seed),
        news: Rc::new(Notify::new()),
        packets: 0,
    };
    NET.replace(Some(net));
}

/// Forgets the network. What still holds sockets may go on dropping them.
pub fn end() {
    // Taken out first: dropping wakers may drop sockets.
    let net = NET.take();
    drop(net);
}

/// Packets delivered so far.
pub fn packets() -> u64 {
    with(|net| net.packets).unwrap_or(0)
}

/// Carries packets, for ever.
pub async fn run() {
    let news = with_net(|net| net.news.clone());
    loop {
        let next = with_net(|net| net.flights.peek().map(|Reverse(flight)| flight.at));
        match next {
            Some(at) if at <= Instant::now() => {
                let wakers = with_net(Net::land);
                wakers.into_iter().for_each(Waker::wake);
            }
            Some(at) => {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    () = news.notified() => {}
                }
            }
            None => news.notified().await,
        }
    }
}

/// Changes how the direction between two hosts is.
pub fn set_link(from: IpAddr, to: IpAddr, change: impl FnOnce(&mut Link)) {
    with_net(|net| {
        let link = net.links.entry((from, to)).or_default();
        let was_cut = link.cut;
        change(link);
        if was_cut && !link.cut {
            net.release(from, to);
        }
    });
}

/// Makes all links as they were at first.
pub fn heal_all() {
    with_net(|net| {
        let cut: Vec<_> = net.links.iter().filter(|(_, l)| l.cut).map(|(ends, _)| *ends).collect();
        net.links.clear();
        for (from, to) in cut {
            net.release(from, to);
        }
    });
}

/// A process of `ip` has died: its sockets are closed, and its peers told.
pub fn process_died(ip: IpAddr, life: u64) {
    let wakers = with_net(|net| {
        net.listening.retain(|_, l| (l.ip, l.life) != (ip, life));
        let ids: Vec<u64> = net.ends.iter().filter(|(_, e)| (e.ip, e.life) == (ip, life)).map(|(id, _)| *id).collect();
        ids.into_iter().flat_map(|id| net.close(id)).collect::<Vec<_>>()
    });
    drop(wakers);
}

/// A host loses power, or gets it back. Nobody is told.
pub fn set_power(ip: IpAddr, on: bool) {
    with_net(|net| {
        if on {
            net.down.remove(&ip);
            return;
        }
        net.down.insert(ip);
        net.listening.retain(|_, l| l.ip != ip);
        for end in net.ends.values_mut().filter(|e| e.ip == ip) {
            (end.closed, end.sent_fin) = (true, true);
            end.stuck.clear();
        }
    });
}

impl Net {
    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn link(&self, from: IpAddr, to: IpAddr) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    fn new_end(&mut self, ip: IpAddr, life: u64, local: SocketAddr, remote: SocketAddr, peer: u64) -> u64 {
        let id = self.next_number();
        let end = End {
            ip,
            life,
            local,
            remote,
            peer,
            opened: false,
            inbox: VecDeque::new(),
            eof: false,
            reset: false,
            closed: false,
            sent_fin: false,
            unread: 0,
            halves: 0,
            reader: None,
            writer: None,
            last: Instant::now(),
            in_flight: 0,
            stuck: VecDeque::new(),
        };
        self.ends.insert(id, end);
        id
    }

    fn latency_ms(&mut self, from: IpAddr, to: IpAddr) -> u64 {
        if from == to {
            return 0;
        }
        let link = self.link(from, to);
        let mut latency_ms = [0, 0, 0, 0, 1, 1, 2, 3][self.dice.below(8) as usize];
        latency_ms += link.late_ms;
        if link.slow_ms > 0 {
            latency_ms += self.dice.below(link.slow_ms + 1);
        }
        if link.lost > 0 && self.dice.below(1000) < link.lost {
            latency_ms += RESEND_MS.0 + self.dice.below(RESEND_MS.1);
        }
        latency_ms
    }

    fn send(&mut self, from: u64, packet: Packet) {
        let Some(end) = self.ends.get(&from) else { return };
        let (ip, to) = (end.ip, end.remote.ip());
        if !end.stuck.is_empty() {
            self.ends.get_mut(&from).expect("just seen").stuck.push_back(packet);
            return;
        }
        let bytes = if let Packet::Data(bytes) = &packet { bytes } else { &Vec::new() };
        let ports = [end.local.port(), end.remote.port()];
        let late = self.link(ip, to).late_kind.filter(|(kind, _)| kind.is_of(ports, bytes));
        let latency_ms = self.latency_ms(ip, to) + late.map_or(0, |(_, ms)| ms);
        self.launch(from, packet, latency_ms);
    }

    fn launch(&mut self, from: u64, packet: Packet, latency_ms: u64) {
        let number = self.next_number();
        let Some(end) = self.ends.get_mut(&from) else { return };
        let at = (Instant::now() + Duration::from_millis(latency_ms)).max(end.last);
        end.last = at;
        end.in_flight += 1;
        self.flights.push(Reverse(Flight { at, number, from, packet }));
        self.news.notify_one();
    }

    /// Sends again what a cut held up.
    fn release(&mut self, from: IpAddr, to: IpAddr) {
        let held = |e: &End| e.ip == from && e.remote.ip() == to && !e.stuck.is_empty();
        let ids: Vec<u64> = self.ends.iter().filter(|(_, e)| held(e)).map(|(id, _)| *id).collect();
        for id in ids {
            let packets = std::mem::take(&mut self.ends.get_mut(&id).expect("just listed").stuck);
            let mut latency_ms = self.latency_ms(from, to) + self.dice.below(RESEND_MS.0);
            for packet in packets {
                self.launch(id, packet, latency_ms);
                latency_ms = 0;
            }
        }
    }

    /// Delivers the next packet. Returns who is to be woken.
    fn land(&mut self) -> Vec<Waker> {
        let Some(Reverse(Flight { from, packet, .. })) = self.flights.pop() else { return Vec::new() };
        let Some(sender) = self.ends.get_mut(&from) else { return Vec::new() };
        sender.in_flight -= 1;
        let (ip, remote, local, to) = (sender.ip, sender.remote, sender.local, sender.peer);
        let held = !sender.stuck.is_empty();
        if ip != remote.ip() && (self.link(ip, remote.ip()).cut || held) {
            self.ends.get_mut(&from).expect("just seen").stuck.push_back(packet);
            return Vec::new();
        }
        if self.down.contains(&remote.ip()) {
            // Nobody is there; the sender goes on trying, which is the same as never being answered.
            self.bury(from);
            return Vec::new();
        }
        self.packets += 1;
        let woken = match packet {
            Packet::Open => self.land_open(from, ip, local, remote),
            other => self.land_on(to, from, other),
        };
        self.bury(from);
        woken
    }

    fn land_open(&mut self, from: u64, ip: IpAddr, local: SocketAddr, remote: SocketAddr) -> Vec<Waker> {
        let refused = self.link(ip, remote.ip()).refuses;
        let listening = self.listening.get(&remote).filter(|_| !refused).map(|l| (l.ip, l.life));
        match listening {
            None => {
                // An end that stands for the host itself, to send the refusal with.
                let id = self.new_end(remote.ip(), u64::MAX, remote, local, from);
                self.ends.get_mut(&id).expect("just made").closed = true;
                self.send(id, Packet::Reset);
                Vec::new()
            }
            Some((at, life)) => {
                let id = self.new_end(at, life, remote, local, from);
                self.ends.get_mut(&id).expect("just made").opened = true;
                if let Some(client) = self.ends.get_mut(&from) {
                    client.peer = id;
                }
                self.send(id, Packet::Opened);
                let listening = self.listening.get_mut(&remote).expect("just seen");
                listening.queue.push_back(id);
                listening.waker.take().into_iter().collect()
            }
        }
    }

    fn land_on(&mut self, to: u64, from: u64, packet: Packet) -> Vec<Waker> {
        let Some(end) = self.ends.get_mut(&to).filter(|e| !e.closed && !e.reset) else {
            // Nobody holds this end any more.
            if matches!(packet, Packet::Data(_) | Packet::Fin) && self.ends.get(&from).is_some_and(|e| !e.reset) {
                let (local, remote) = (self.ends[&from].remote, self.ends[&from].local);
                let id = self.new_end(local.ip(), u64::MAX, local, remote, from);
                self.ends.get_mut(&id).expect("just made").closed = true;
                self.send(id, Packet::Reset);
            }
            return Vec::new();
        };
        match packet {
            Packet::Open => {}
            Packet::Opened => end.opened = true,
            Packet::Data(bytes) => end.inbox.extend(bytes),
            Packet::Fin => end.eof = true,
            Packet::Reset => end.reset = true,
        }
        end.reader.take().into_iter().chain(end.writer.take()).collect()
    }

    /// Forgets an end that nobody holds and that has nothing more to send.
    fn bury(&mut self, id: u64) {
        let done = |e: &End| e.closed && e.in_flight == 0 && e.stuck.is_empty();
        if self.ends.get(&id).is_some_and(done) {
            self.ends.remove(&id);
        }
    }

    /// The last handle of an end is gone. Returns wakers for the caller to drop.
    fn close(&mut self, id: u64) -> Vec<Waker> {
        let Some(end) = self.ends.get_mut(&id) else { return Vec::new() };
        if end.closed {
            return Vec::new();
        }
        end.closed = true;
        let wakers = end.reader.take().into_iter().chain(end.writer.take()).collect();
        let unread = !end.inbox.is_empty();
        if !end.reset && (unread || !end.sent_fin) {
            end.sent_fin = true;
            self.send(id, if unread { Packet::Reset } else { Packet::Fin });
        }
        self.bury(id);
        wakers
    }
}

fn close(id: u64) {
    drop(with(|net| net.close(id)));
}

fn poll_read(id: u64, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, take: bool) -> Poll<io::Result<()>> {
    let (polled, woken) = with_net(|net| {
        let Some(end) = net.ends.get_mut(&id) else {
            return (Poll::Ready(Err(io::ErrorKind::NotConnected.into())), None);
        };
        if end.inbox.is_empty() {
            if end.reset {
                return (Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())), None);
            }
            if end.eof {
                return (Poll::Ready(Ok(())), None);
            }
            end.reader = Some(cx.waker().clone());
            return (Poll::Pending, None);
        }
        let n = buf.remaining().min(end.inbox.len());
        let (first, second) = end.inbox.as_slices();
        let from_first = n.min(first.len());
        buf.put_slice(&first[..from_first]);
        buf.put_slice(&second[..n - from_first]);
        if !take {
            return (Poll::Ready(Ok(())), None);
        }
        end.inbox.drain(..n);
        let peer = end.peer;
        let writer = net.ends.get_mut(&peer).and_then(|peer| {
            peer.unread = peer.unread.saturating_sub(n);
            peer.writer.take()
        });
        (Poll::Ready(Ok(())), writer)
    });
    woken.into_iter().for_each(Waker::wake);
    polled
}

fn poll_write(id: u64, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    with_net(|net| {
        let Some(end) = net.ends.get_mut(&id) else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if end.reset || end.sent_fin {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if end.unread >= WINDOW {
            end.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        end.unread += bytes.len();
        net.send(id, Packet::Data(bytes.to_vec()));
        Poll::Ready(Ok(bytes.len()))
    })
}

fn shutdown(id: u64) {
    with(|net| {
        if let Some(end) = net.ends.get_mut(&id)
            && !end.sent_fin
            && !end.reset
        {
            end.sent_fin = true;
            net.send(id, Packet::Fin);
        }
    });
}

/// A connection. See [`tokio::net::TcpStream`].
#[derive(Debug)]
pub struct TcpStream {
    id: u64,
    split: bool,
}

/// A stream on its way to another event loop: in a simulation they are all one.
pub type Parcel = TcpStream;

/// See [`crate::net::sock`].
///
/// # Errors
/// None.
pub fn pack(stream: TcpStream) -> io::Result<Parcel> {
    Ok(stream)
}

/// See [`crate::net::sock`].
///
/// # Errors
/// None.
pub fn unpack(parcel: Parcel) -> io::Result<TcpStream> {
    Ok(parcel)
}

impl TcpStream {
    fn hold(id: u64) -> TcpStream {
        TcpStream { id, split: false }
    }

    /// Connects from the current process's host.
    ///
    /// # Errors
    /// As a real network's.
    pub async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
        let node = node::current().ok_or_else(|| io::Error::other("no process is running"))?;
        let id = with_net(|net| {
            net.ports = if net.ports == u16::MAX { 30_000 } else { net.ports + 1 };
            let local = SocketAddr::new(node.ip, net.ports);
            let id = net.new_end(node.ip, node.lives.get(), local, to, 0);
            net.send(id, Packet::Open);
            id
        });
        let stream = TcpStream::hold(id);
        poll_fn(|cx| {
            with_net(|net| {
                let Some(end) = net.ends.get_mut(&id) else {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                };
                if end.reset {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
                }
                if end.opened {
                    return Poll::Ready(Ok(()));
                }
                end.reader = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await?;
        Ok(stream)
    }

    /// The other end's address.
    ///
    /// # Errors
    /// When it is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        with_net(|net| net.ends.get(&self.id).map(|end| end.remote)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Does nothing.
    ///
    /// # Errors
    /// None.
    pub fn set_nodelay(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }

    /// Looks at what came, without taking it.
    ///
    /// # Errors
    /// As reading.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        poll_fn(|cx| poll_read(self.id, cx, &mut buffer, false)).await?;
        Ok(buffer.filled().len())
    }

    /// Two halves; the connection is closed when both are gone.
    pub fn into_split(mut self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.split = true;
        with_net(|net| {
            if let Some(end) = net.ends.get_mut(&self.id) {
                end.halves = 2;
            }
        });
        (OwnedReadHalf { id: self.id }, OwnedWriteHalf { stream: TcpStream { id: self.id, split: true } })
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        if !self.split {
            close(self.id);
        }
    }
}

fn drop_half(id: u64) {
    let last = with(|net| {
        net.ends.get_mut(&id).is_some_and(|end| {
            end.halves = end.halves.saturating_sub(1);
            end.halves == 0
        })
    });
    if last == Some(true) {
        close(id);
    }
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct OwnedReadHalf {
    id: u64,
}

impl Drop for OwnedReadHalf {
    fn drop(&mut self) {
        drop_half(self.id);
    }
}

/// The writing half of a stream. Dropping it tells the peer.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    stream: TcpStream,
}

impl AsRef<TcpStream> for OwnedWriteHalf {
    fn as_ref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        shutdown(self.stream.id);
        drop_half(self.stream.id);
    }
}

impl AsyncRead for OwnedReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read(self.id, cx, buf, true)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_read(self.id, cx, buf, true)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_write(self.id, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        shutdown(self.id);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OwnedWriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_write(self.stream.id, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        shutdown(self.stream.id);
        Poll::Ready(Ok(()))
    }
}

/// A listener. See [`tokio::net::TcpListener`].
#[derive(Debug)]
pub struct TcpListener {
    address: SocketAddr,
    life: u64,
}

impl TcpListener {
    /// Listens, as the current process.
    ///
    /// # Errors
    /// When another does, or no process is running.
    pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
        let node = node::current().ok_or_else(|| io::Error::other("no process is running"))?;
        with_net(|net| {
            if net.listening.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let life = node.lives.get();
            let listening = Listening { ip: node.ip, life, queue: VecDeque::new(), waker: None };
            net.listening.insert(address, listening);
            Ok(TcpListener { address, life })
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    /// The next connection.
    ///
    /// # Errors
    /// When the process has died.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let id = poll_fn(|cx| {
            with_net(|net| {
                let Some(listening) = net.listening.get_mut(&self.address) else {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
                };
                match listening.queue.pop_front() {
                    Some(id) => Poll::Ready(Ok(id)),
                    None => {
                        listening.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await?;
        let remote = with_net(|net| net.ends.get(&id).map(|end| end.remote)).unwrap_or(self.address);
        Ok((TcpStream::hold(id), remote))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let gone = with(|net| {
            let ours = net.listening.get(&self.address).is_some_and(|l| l.life == self.life);
            let gone = if ours { net.listening.remove(&self.address) } else { None };
            let queue: Vec<u64> = gone.iter().flat_map(|l| l.queue.iter().copied()).collect();
            let wakers: Vec<Waker> = queue.into_iter().flat_map(|id| net.close(id)).collect();
            (gone.and_then(|l| l.waker), wakers)
        });
        drop(gone);
    }
}
