//! Measures the log engine alone: `cargo run --release --example log_store -- DIR [RECORDS]`.
//!
//! Records as the hot path has them: a dbkey of 28 bytes, a dbval of 128, commits of 64. Two threads, two shards. With
//! a directory that is there, only its opening is measured.

use kumofs::logic::record::{encode_dbkey, worker_of};
use kumofs::logic::ring::hash;
use kumofs::store::fs::RealDisk;
use kumofs::store::log::{LogStore, Options};
use kumofs::store::{Maintained, Record, Store, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SHARDS: u16 = 2;
const BATCH: usize = 64;
const VALUE_LEN: usize = 128;

fn cpu() -> Duration {
    // SAFETY: the zeroed struct is plain data, and the pointer is valid for the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn key(n: u64) -> Vec<u8> {
    let mut dbkey = Vec::with_capacity(28);
    encode_dbkey(format!("key-{n:016}").as_bytes(), &mut dbkey);
    dbkey
}

/// The keys of each shard, in the order of their numbers.
fn keys(records: u64) -> Vec<Vec<[u8; 28]>> {
    let mut keys = vec![Vec::new(); usize::from(SHARDS)];
    for n in 0..records {
        let dbkey = key(n);
        let shard = worker_of(hash(&dbkey[8..]), SHARDS);
        keys[usize::from(shard)].push(dbkey.try_into().expect("28 bytes"));
    }
    keys
}

/// Runs `act` on each shard's keys, in a thread each; prints what it cost.
fn measure(what: &str, store: &LogStore, keys: &[Vec<[u8; 28]>], act: impl Fn(&LogStore, usize, &[[u8; 28]]) + Sync) {
    let (wall, used) = (Instant::now(), cpu());
    std::thread::scope(|scope| {
        for (shard, keys) in keys.iter().enumerate() {
            let act = &act;
            scope.spawn(move || keys.chunks(BATCH).for_each(|batch| act(store, shard, batch)));
        }
    });
    let (wall, used) = (wall.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
    let n = keys.iter().map(Vec::len).sum::<usize>() as f64;
    println!("{what:32} {:6.2} us CPU each, {:9.0} /s", used / n * 1e6, n / wall);
}

fn puts(version: u64) -> impl Fn(&LogStore, usize, &[[u8; 28]]) + Sync {
    move |store, number, batch| {
        let mut dbval = [7; VALUE_LEN];
        dbval[..8].copy_from_slice(&version.to_be_bytes());
        let mut shard = store.shards()[number].lock().expect("no panics");
        for dbkey in batch {
            shard.put(dbkey, Record { epoch: 1, dbval: &dbval }).expect("the disk has room");
        }
        shard.commit().expect("the disk has room");
        drop(shard);
        let pace = store.pace();
        if !pace.is_zero() {
            std::thread::sleep(pace);
        }
    }
}

fn gets(store: &LogStore, shard: usize, batch: &[[u8; 28]]) {
    let mut shard = store.shards()[shard].lock().expect("no panics");
    for dbkey in batch {
        let record = shard.get(dbkey).expect("no damage").expect("it was put");
        assert_eq!(record.dbval.len(), VALUE_LEN);
    }
}

/// Scans everything in steps of 256 records, as a replace does; says how long one holds the shard.
fn scan(store: &LogStore, records: u64) {
    let used = cpu();
    let (mut longest, mut bytes) = (Duration::ZERO, 0);
    for shard in store.shards() {
        let mut next = Some(0);
        while let Some(from) = next {
            let mut shard = shard.lock().expect("no panics");
            let start = Instant::now();
            let mut visit = |dbkey: &[u8], record: Result<Record<'_>, StoreError>| {
                bytes += dbkey.len() + record.map_or(0, |r| r.dbval.len());
            };
            next = shard.scan(from, 256, &mut visit).expect("the disk works");
            longest = longest.max(start.elapsed());
        }
    }
    let each = (cpu() - used).as_secs_f64() / records as f64 * 1e6;
    println!("{:32} {each:6.2} us CPU each, a step of 256 holds a shard for {longest:?} at most", "scan");
    assert_eq!(bytes as u64, records * (28 + VALUE_LEN as u64));
}

fn shuffled(keys: &[Vec<[u8; 28]>]) -> Vec<Vec<[u8; 28]>> {
    let mut keys = keys.to_vec();
    // By another part of the hash than the index uses.
    keys.iter_mut().for_each(|k| k.sort_unstable_by_key(|k| [k[5], k[6], k[7], k[3], k[4]]));
    keys
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: log_store DIR [RECORDS]");
    let records: u64 = args.next().map_or(10_000_000, |n| n.parse().expect("a number"));
    let options = Options { shards: SHARDS, ..Options::default() };
    let open = || LogStore::open(Arc::new(RealDisk), Path::new(&dir), options.clone()).expect("a new directory");
    if Path::new(&dir).exists() {
        return measure_open(open);
    }
    let keys = keys(records);
    let random = shuffled(&keys);
    let data = (records * (28 + VALUE_LEN as u64)) as f64;
    let store = open();
    measure("insert", &store, &keys, puts(1));
    println!("{:32} {:.3} x dbkey + dbval", "disk after inserting", store.disk_bytes() as f64 / data);
    println!("{:32} {:.1} bytes a key", "index", store.index_bytes() as f64 / records as f64);
    measure("get, in order", &store, &keys, gets);
    measure("get, at random", &store, &random, gets);
    scan(&store, records);
    let start = Instant::now();
    while store.maintain(4 << 20).expect("the disk works") == Maintained::Worked {}
    println!("{:32} {:.2} s", "hints", start.elapsed().as_secs_f64());
    let start = Instant::now();
    store.backup(&Path::new(&dir).with_extension("backup")).expect("a new directory");
    println!("{:32} {:.3} s", "backup", start.elapsed().as_secs_f64());

    let done = AtomicBool::new(false);
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(store.disk_bytes(), Ordering::Relaxed);
                if store.maintain(4 << 20).expect("the disk works") == Maintained::Idle {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        for round in 0..3 {
            measure("overwrite, with compaction", &store, &random, puts(2 + round));
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{:32} {:.3} x dbkey + dbval", "disk while overwriting, at most", most.into_inner() as f64 / data);
    measure("get, at random, then", &store, &random, gets);
    let start = Instant::now();
    store.close().expect("the disk works");
    println!("{:32} {:.2} s", "close", start.elapsed().as_secs_f64());
    drop(store);
    measure_open(open);
}

fn measure_open(open: impl Fn() -> LogStore) {
    let (start, used) = (Instant::now(), cpu());
    let store = open();
    let (wall, used) = (start.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
    println!("{:32} {wall:.2} s, {used:.2} s CPU, {} records", "open", store.items());
}
