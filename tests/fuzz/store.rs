//! What must hold for the files of a store after anything happened to them.

use kumofs::logic::clock::ClockTime;
use kumofs::logic::record::{Stamp, encode_dbkey, encode_header};
use kumofs::store::fs::mem::MemDisk;
use kumofs::store::fs::{Disk, read_small, write_all};
use kumofs::store::log::{LogStore, Options};
use kumofs::store::{Record, Store};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const DIR: &str = "/db";
const KEYS: u64 = 20;
const VERSIONS: u64 = 4;
/// Small, so that few records fill several.
const SEGMENT_BYTES: u64 = 1000;

/// A patch is six bytes: which file, where (three bytes), what, and how.
const PATCH_BYTES: usize = 6;

/// A store's files, each with its content.
type Image = Vec<(PathBuf, Vec<u8>)>;

/// Whatever bytes of the files are changed or cut off: opening, reading, scanning and writing do not panic, and what
/// is served was once stored under its key.
pub fn fuzz_store(data: &[u8]) {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    let mut image = IMAGE.get_or_init(image).clone();
    for patch in data.chunks_exact(PATCH_BYTES) {
        damage(&mut image, patch);
    }
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
    disk.create_dir(Path::new(DIR)).expect("memory does not fail");
    for (path, bytes) in &image {
        let file = disk.create(path).expect("memory does not fail");
        write_all(file.as_ref(), bytes, 0).expect("memory does not fail");
    }
    let Ok(store) = open(disk) else { return };
    for shard in store.shards() {
        let mut shard = shard.lock().expect("nobody panics while holding it");
        for i in 0..KEYS {
            if let Ok(Some(record)) = shard.get(&key(i)) {
                assert_was_stored(&key(i), record);
            }
        }
        let mut from = Some(0);
        while let Some(position) = from {
            let mut visit = |dbkey: &[u8], record: Result<Record<'_>, _>| {
                if let Ok(record) = record {
                    assert_was_stored(dbkey, record);
                }
            };
            from = match shard.scan(position, 10, &mut visit) {
                Ok(next) => next,
                Err(_) => break,
            };
        }
        let dbval = value(0, VERSIONS);
        if shard.put(&key(0), Record { epoch: VERSIONS, dbval: &dbval }).is_ok() && shard.commit().is_ok() {
            let record = shard.get(&key(0)).expect("it was just written").expect("it was just written");
            assert_eq!(record, Record { epoch: VERSIONS, dbval: &dbval });
        }
    }
    // An error is an answer; what must not happen is a panic.
    let _ = store.maintain(1 << 20);
    let _ = store.close();
}

fn damage(image: &mut Image, patch: &[u8]) {
    let files = image.len();
    let content = &mut image[usize::from(patch[0]) % files].1;
    if content.is_empty() {
        return;
    }
    let at = (usize::from(patch[1]) << 16 | usize::from(patch[2]) << 8 | usize::from(patch[3])) % content.len();
    match patch[5] % 4 {
        0 => content.truncate(at),
        1 => content.insert(at, patch[4]),
        2 => content[at] ^= 1 << (patch[4] % 8),
        _ => content[at] = patch[4],
    }
}

fn assert_was_stored(dbkey: &[u8], record: Record<'_>) {
    let i = (0..KEYS).find(|i| key(*i) == dbkey).unwrap_or_else(|| panic!("a key that was never stored: {dbkey:?}"));
    let known = (0..=VERSIONS).any(|n| record.epoch == n && record.dbval == value(i, n));
    assert!(known, "never stored under key {i}: {record:?}");
}

fn key(i: u64) -> Vec<u8> {
    let mut dbkey = Vec::new();
    encode_dbkey(format!("key-{i}").as_bytes(), &mut dbkey);
    dbkey
}

/// The n-th dbval of a key; some are deletion marks.
fn value(i: u64, n: u64) -> Vec<u8> {
    let version = ClockTime(1_000_000 + n);
    if (i + n).is_multiple_of(5) {
        return version.0.to_be_bytes().to_vec();
    }
    let mut dbval = Vec::new();
    encode_header(version, 1, n as u32, 0, 0, &mut dbval);
    dbval.resize(dbval.len() + (7 * i + 3 * n) as usize % 60, b'v');
    dbval
}

fn open(disk: Arc<dyn Disk>) -> Result<LogStore, kumofs::store::StoreError> {
    let options = Options { segment_bytes: SEGMENT_BYTES, open_threads: 1, ..Options::default() };
    LogStore::open(disk, Path::new(DIR), options)
}

/// A store that has seen some life: overwritten, forgotten, compacted in part, closed.
fn image() -> Image {
    let disk = Arc::new(MemDisk::new(7));
    let store = open(disk.clone()).expect("memory does not fail");
    for n in 0..VERSIONS {
        let mut shard = store.shards()[0].lock().expect("nobody panics while holding it");
        for i in (0..KEYS).filter(|i| n == 0 || !(i + n).is_multiple_of(3)) {
            shard.put(&key(i), Record { epoch: n, dbval: &value(i, n) }).expect("memory does not fail");
        }
        let stamp = Stamp { epoch: 0, version: ClockTime(1_000_000) };
        shard.forget(&key(n), stamp).expect("memory does not fail");
        shard.commit().expect("memory does not fail");
        drop(shard);
        if n == 1 {
            store.maintain(1 << 16).expect("memory does not fail");
        }
    }
    store.close().expect("memory does not fail");
    let content = |path: &Path| read_small(disk.as_ref(), path, 1 << 20).expect("memory does not fail");
    disk.files().into_iter().map(|(path, _)| (path.clone(), content(&path))).collect()
}

/// Nothing changed, one of each kind of damage, and one in each file.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new(), vec![1, 0, 0, 200, 0, 0], vec![1, 0, 1, 0, 9, 1], vec![2, 0, 0, 100, 3, 2]];
    seeds.extend((0..8).map(|file| vec![file, 0, 0, 40 + file, 0xff, 3]));
    seeds.push(vec![0; 12 * PATCH_BYTES]);
    seeds
}
