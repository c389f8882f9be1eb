//! The pure functions of the hot path, one by one.

use crate::region::count;
use kumofs::logic::address::Address;
use kumofs::logic::clock::{Clock, ClockTime};
use kumofs::logic::epoch::{Epoch, ServerEntry};
use kumofs::logic::expiry::NEVER;
use kumofs::logic::hottest::Hottest;
use kumofs::logic::memory::{Deed, Deeds, Id, Limits, Memory};
use kumofs::logic::mutation::{self, Answer, Decision};
use kumofs::logic::outlog::Outlog;
use kumofs::logic::pending::Pending;
use kumofs::logic::record::{self, LAYOUT_FULL};
use kumofs::logic::ring::{self, HashSpace, Node};
use kumofs::logic::route::Route;
use kumofs::proto::memcache::{self, Reply, Request, Style, binary, style, text};
use kumofs::proto::rpc::frame::{self, Frame, Scanner};
use kumofs::proto::rpc::msgpack::Reader;
use kumofs::proto::rpc::v1::{self, Mutate, Op, RequestId, Terms};
use kumofs::store::fs::mem::MemDisk;
use kumofs::store::log::{LogStore, Options};
use kumofs::store::{Record, Shard, Store};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

/// How often each is done.
const TIMES: u64 = 1000;
/// Bytes of a value.
const VALUE: usize = 100;

fn times(name: &str, mut run: impl FnMut(u64)) {
    // Once before, so that memory is there.
    run(0);
    count(name, TIMES, || (1..=TIMES).for_each(&mut run));
}

/// Counts each.
pub fn run() {
    clients();
    routes();
    messages();
    decisions();
    coordinating();
    store();
}

fn key(number: u64) -> String {
    format!("key:{number:016}")
}

fn dbkey(number: u64) -> Vec<u8> {
    let mut dbkey = Vec::new();
    record::encode_dbkey(key(number).as_bytes(), &mut dbkey);
    dbkey
}

fn dbval(version: u64) -> Vec<u8> {
    let mut dbval = Vec::new();
    record::encode_header(ClockTime(version), LAYOUT_FULL, 5, NEVER, version, &mut dbval);
    dbval.extend_from_slice(&[b'v'; VALUE]);
    dbval
}

fn clients() {
    let limits = memcache::Limits::default();
    let get = format!("get {}\r\n", key(7)).into_bytes();
    times("parse a get", |_| _ = black_box(text::parse(black_box(&get), &limits)));
    let set = [format!("set {} 5 0 {VALUE}\r\n", key(7)).as_bytes(), &[b'v'; VALUE], b"\r\n"].concat();
    times("parse a set", |_| _ = black_box(text::parse(black_box(&set), &limits)));
    let keys: Vec<String> = (0..20).map(key).collect();
    let many = format!("get {}\r\n", keys.join(" ")).into_bytes();
    times("parse a get of 20 keys", |_| {
        if let text::Parsed::Request { request: Request::Get { keys, .. }, .. } = text::parse(black_box(&many), &limits)
        {
            keys.for_each(|key| _ = black_box(key));
        }
    });
    let mut packet = vec![binary::MAGIC, 0, 0, 20];
    packet.resize(24, 0);
    packet[11] = 20;
    packet.extend_from_slice(key(7).as_bytes());
    times("parse a binary get", |_| _ = black_box(binary::parse(black_box(&packet), &limits)));
    let (key, data) = (key(7).into_bytes(), [b'v'; VALUE]);
    let mut out = Vec::new();
    times("write a value and its end", |_| {
        out.clear();
        let value = Reply::Value { key: black_box(&key), flags: 5, cas: None, data: black_box(&data) };
        style::encode(Style::Text, &key, &value, 0, &mut out);
        text::encode(&Reply::End, &mut out);
    });
}

fn routes() {
    let address = |n: u8| Address::new(([10, 0, 0, n], 19800).into());
    let entry = |n| ServerEntry::new(address(n), 1, n.into(), 2);
    let nodes: Vec<Node> = (1..=6).map(|n| Node::new(address(n), true)).collect();
    let space = HashSpace { nodes, timestamp: ClockTime(1) };
    let servers = (1..=6).map(entry).collect();
    let epoch = Epoch { number: 1, servers, whs: space.clone(), rhs: space, ..Epoch::default() };
    let route = Route::new(&epoch);
    let keys: Vec<String> = (0..=TIMES).map(key).collect();
    times("find a key's coordinator", |n| {
        let hash = ring::hash(black_box(keys[n as usize].as_bytes()));
        black_box(route.group(hash).coordinator());
    });
}

fn mutate<'a>(number: u64, dbkey: &'a [u8], dbval: &'a [u8]) -> Mutate<'a> {
    let id = RequestId { sequence: number + 1, attempt: 1, first_epoch: 1, floor: number + 1 };
    Mutate { epoch: 1, id, op: Op::Set, options: 0, dbkey, arg: 0, dbval, terms: Terms::default() }
}

fn messages() {
    let (dbkey, dbval) = (dbkey(7), dbval(0));
    let mut out = Vec::new();
    times("write a Get", |n| {
        out.clear();
        v1::write_get(&mut out, n as u32, 1, black_box(&dbkey));
    });
    let get = out.clone();
    times("write a Mutate", |n| {
        out.clear();
        mutate(n, black_box(&dbkey), &dbval).write(&mut out, n as u32);
    });
    let change = out;
    let read = |message: &[u8]| {
        let whole = Scanner::default().advance(black_box(message));
        assert_eq!(whole.ok().flatten(), Some(message.len()), "a message is whole");
        match frame::parse(message) {
            Ok(Frame::Request { method: v1::method::GET, params, .. }) => {
                let mut r = Reader::new(params);
                _ = black_box((r.array_of(2), r.u64(), r.raw().map(<[u8]>::len)));
            }
            Ok(Frame::Request { params, .. }) => _ = black_box(Mutate::read(params).map(|m| m.epoch)),
            _ => {}
        }
    };
    times("read a Get", |_| read(&get));
    times("read a Mutate", |_| read(&change));
}

fn decisions() {
    let (dbkey, new, old) = (dbkey(7), dbval(0), dbval(9));
    let body = |dbval| record::parse(dbval).and_then(|value| value.body);
    let (mut clock, mut out) = (Clock::default(), Vec::new());
    times("decide a set and stamp it", |n| {
        out.clear();
        let request = mutate(n, &dbkey, black_box(&new));
        let old = mutation::live(body(black_box(&old)), 0, 1_800_000_000);
        let decision = mutation::decide(&request, body(request.dbval), old, 1 << 20, &mut out);
        assert_eq!(decision, Decision::Store(Answer::Done), "a set is done");
        black_box(clock.tick_above(1_800_000_000, ClockTime(9)));
    });
    let mut hottest = Hottest::default();
    let dbkeys: Vec<Vec<u8>> = (0..=TIMES).map(self::dbkey).collect();
    times("note a key's use", |n| hottest.touch(&dbkeys[n as usize]));
}

fn deed(number: u64) -> Deed {
    let id = Id { gateway: 77, sequence: (1 << 48) + number, floor: (1 << 48) + number.saturating_sub(64) };
    Deed { id, version: number + 1, answer: Answer::Done }
}

fn coordinating() {
    let (dbkeys, dbval): (Vec<_>, _) = ((0..=TIMES).map(dbkey).collect(), dbval(9));
    let hashes: Vec<u64> = (0..=TIMES).map(|n| ring::hash(key(n).as_bytes())).collect();
    let mut memory = Memory::new(Limits::SERVER, 1);
    times("ask for and remember a change", |n| {
        let deed = deed(n);
        black_box(memory.ask(&deed.id, 1, 1));
        memory.note(&deed);
    });
    let mut pending = Pending::default();
    times("a write, pending until three have it", |n| {
        let deeds = Deeds::One(deed(n));
        let write = pending.push(hashes[n as usize], &dbkeys[n as usize], 3, deeds, Some(n));
        (0..3).for_each(|_| pending.arrived(write, |answer| _ = black_box(answer)));
        black_box(pending.blocking(hashes[n as usize]));
    });
    let mut log = Outlog::<()>::default();
    times("an entry, sent and acknowledged", |n| {
        log.push(n, n, |out| v1::write_entry(out, &dbkeys[n as usize], 1, &dbval, &[deed(n)]));
        black_box(log.take_batch(1 << 20).map(|batch| batch.count));
        log.acknowledge(n + 1, |write| _ = black_box(write));
        black_box(log.stable(n));
    });
}

fn store() {
    let options = Options { shards: 1, open_threads: 1, ..Options::default() };
    let opened = LogStore::open(Arc::new(MemDisk::new(1)), Path::new("/db"), options);
    let store = opened.unwrap_or_else(|e| panic!("a store in memory opens: {e}"));
    let mut shard = store.shards()[0].lock().expect("nobody else has it");
    let shard: &mut dyn Shard = &mut *shard;
    let (dbkeys, dbval): (Vec<_>, _) = ((0..=TIMES).map(dbkey).collect(), dbval(9));
    let mut put = |n: u64| {
        shard.put(&dbkeys[n as usize], Record { epoch: 1, dbval: &dbval }).expect("there is room");
        if n.is_multiple_of(16) {
            shard.commit().expect("there is room");
        }
    };
    (0..=TIMES).for_each(&mut put);
    times("store a record, a commit for 16", &mut put);
    times("look a record up", |n| {
        let found = shard.get(&dbkeys[n as usize]);
        assert!(matches!(found, Ok(Some(_))), "it was stored");
    });
}
