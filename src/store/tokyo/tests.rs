//! Files that Tokyo Cabinet's own tool wrote: a committed one, and new ones where the tool is installed.

use super::*;
use crate::logic::record::encode_dbkey;
use crate::store::merge::Heed;
use std::collections::BTreeMap;
use std::process::Command;

/// Made by `tchmgr` of Debian's tokyocabinet-bin 1.4.48, the integers swapped: 40 records of [`sample`], some stored
/// twice and some removed. In [`native`] they are as other builds write them.
const SAMPLE: &[u8] = include_bytes!("../../../tests/vectors/kumofs04.tch");

#[derive(Default)]
struct Ear {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    damaged: Vec<String>,
    notes: Vec<String>,
    bytes: u64,
}

impl Heed for Ear {
    fn record(&mut self, entry: Draft<'_>) -> Result<(), StoreError> {
        assert!(entry.kind == Kind::Put && entry.epoch == 0);
        assert_eq!(self.records.insert(entry.dbkey.to_vec(), entry.dbval.to_vec()), None);
        Ok(())
    }

    fn damaged(&mut self, line: String) {
        self.damaged.push(line);
    }

    fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    fn passed(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.bytes += bytes;
        Ok(())
    }
}

fn dbkey(n: u64) -> Vec<u8> {
    let mut dbkey = Vec::new();
    encode_dbkey(format!("old-{n}").as_bytes(), &mut dbkey);
    dbkey
}

/// A kumofs value, or for each seventh a deletion mark.
fn dbval(n: u64, version: u64) -> Vec<u8> {
    let mark = version.to_be_bytes().to_vec();
    if n % 7 == 3 { mark } else { [mark, vec![0, 0], vec![b'a' + (n % 26) as u8; (n * 9) as usize]].concat() }
}

/// What is in the sample.
fn sample() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let version = |n| if n % 5 == 0 { 2 } else { 1 };
    (0..40).filter(|n| n % 8 != 6).map(|n| (dbkey(n), dbval(n, version(n)))).collect()
}

fn read_bytes(bytes: &[u8]) -> Result<Ear, StoreError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database.tch");
    std::fs::write(&path, bytes).unwrap();
    read(&path)
}

fn read(path: &Path) -> Result<Ear, StoreError> {
    let mut ear = Ear::default();
    let reading = Reading::open(path)?;
    reading.read(&mut ear)?;
    assert_eq!(ear.bytes, reading.bytes());
    Ok(ear)
}

/// The same database with integers in the other order.
fn native(swapped: &[u8]) -> Vec<u8> {
    let mut bytes = swapped.to_vec();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    assert!(header.swapped);
    (40..72).step_by(8).for_each(|at| bytes[at..at + 8].reverse());
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, swapped, 0).unwrap();
    let mut blocks = Blocks { window: Window::new(file, header.file_size, CHUNK), header };
    let mut at = header.first;
    while at < header.file_size {
        let start = at as usize;
        at = match blocks.at(at).unwrap().unwrap() {
            Block::Free { next } => {
                bytes[start + 1..start + 5].reverse();
                next
            }
            Block::Record { next, .. } => {
                bytes[start + 2..start + 6].reverse();
                bytes[start + 6..start + 10].reverse();
                bytes[start + 10..start + 12].reverse();
                next
            }
        };
    }
    bytes
}

#[test]
fn the_sample_is_read_in_both_orders_of_integers() {
    for bytes in [SAMPLE.to_vec(), native(SAMPLE)] {
        let ear = read_bytes(&bytes).unwrap();
        assert_eq!(ear.records, sample());
        assert!(ear.damaged.is_empty() && ear.notes.is_empty(), "{:?} {:?}", ear.damaged, ear.notes);
    }
    assert!(!Header::parse(&native(SAMPLE), SAMPLE.len() as u64).unwrap().swapped);
}

#[test]
fn damaged_stretches_are_skipped_and_told_and_nothing_wrong_is_read() {
    let header = Header::parse(SAMPLE, SAMPLE.len() as u64).unwrap();
    let first = header.first as usize;
    let expected = sample();
    let mut missed = 0;
    for at in (first..SAMPLE.len() - 40).step_by(7) {
        let mut bytes = SAMPLE.to_vec();
        bytes[at..at + 40].fill(0xee);
        let ear = read_bytes(&bytes).unwrap();
        for dbkey in ear.records.keys() {
            assert!(expected.contains_key(dbkey), "a key that never was, damaged at {at}");
        }
        // A record of 41 bytes and more may lose its value alone, which nothing tells.
        let lost = expected.len() - ear.records.len();
        assert!(lost <= 3, "{lost} records lost by damage at {at}");
        assert!(lost == 0 || !ear.damaged.is_empty() || !ear.notes.is_empty(), "nothing is told of damage at {at}");
        missed += lost;
    }
    assert!(missed > 20, "{missed}");
    // A file that is cut off loses its end only.
    let ear = read_bytes(&SAMPLE[..SAMPLE.len() - 100]).unwrap();
    assert!(ear.records.len() >= expected.len() - 2 && !ear.damaged.is_empty());
}

#[test]
fn what_kumofs_did_not_write_is_refused_in_a_line() {
    let refused = |bytes: &[u8], word: &str| {
        let line = read_bytes(bytes).map(|_| ()).expect_err("it was read").to_string();
        assert!(line.contains(word) && !line.contains('\n'), "{line}");
    };
    let changed = |at: usize, to: u8| {
        let mut bytes = SAMPLE.to_vec();
        bytes[at] = to;
        bytes
    };
    refused(&SAMPLE[..200], "cut off");
    refused(&changed(32, 1), "no hash database");
    refused(&changed(34, 60), "damaged");
    refused(&changed(64, 0xff), "damaged");
    refused(&changed(36, 4), "compressed");
    // All keys are of some other program.
    let mut foreign = SAMPLE.to_vec();
    for n in 0..40 {
        let key = dbkey(n);
        let places: Vec<usize> = (0..foreign.len() - key.len()).filter(|at| foreign[*at..].starts_with(&key)).collect();
        places.into_iter().for_each(|at| foreign[at] ^= 1);
    }
    refused(&foreign, "not a database of kumofs");
    // One that was not closed is read, and that is told.
    let ear = read_bytes(&changed(33, 1)).unwrap();
    assert_eq!(ear.records, sample());
    assert!(ear.notes.len() == 1 && ear.notes[0].contains("not closed"), "{:?}", ear.notes);
}

/// No bytes may be more than refused.
#[test]
fn any_bytes_are_read_or_refused() {
    let mut state = 0x9e37_79b9_u64;
    let mut draw = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut bytes = SAMPLE.to_vec();
        for _ in 0..1 + draw(30) {
            // Half of the changes into the header and the first records.
            let span = if draw(2) == 0 { 400 } else { bytes.len() };
            bytes[draw(span)] = [0, 0xff, 0xc8, 0xb0, draw(256) as u8][draw(5)];
        }
        bytes.truncate(bytes.len() - draw(3) * draw(200));
        if let Ok(ear) = read_bytes(&bytes) {
            ear.records.keys().for_each(|dbkey| assert!(is_dbkey(dbkey)));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tchmgr(args: &[&str]) -> bool {
    match Command::new("tchmgr").args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "tchmgr {args:?}: {output:?}");
            true
        }
        Err(_) => false,
    }
}

#[test]
fn what_tokyo_cabinets_own_tool_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    // Some may not be compiled in; large, and compressed as it mostly is, always.
    for (name, options) in [("plain", &[][..]), ("large", &["-tl"]), ("deflate", &["-td"]), ("both", &["-tl", "-td"])] {
        let path = dir.path().join(name);
        let file = path.to_str().unwrap();
        if !tchmgr(&[&["create"], options, &[file, "5", "4", "2"]].concat()) {
            eprintln!("SKIPPED what_tokyo_cabinets_own_tool_writes_is_read: there is no tchmgr");
            return;
        }
        for version in [1, 2] {
            for n in (0..40).filter(|n| version == 1 || n % 5 == 0) {
                tchmgr(&["put", "-sx", file, &hex(&dbkey(n)), &hex(&dbval(n, version))]);
            }
        }
        for n in (0..40).filter(|n| n % 8 == 6) {
            tchmgr(&["out", "-sx", file, &hex(&dbkey(n))]);
        }
        let ear = read(&path).unwrap();
        assert_eq!(ear.records, sample(), "{name}");
        assert!(ear.damaged.is_empty() && ear.notes.is_empty(), "{name}: {:?} {:?}", ear.damaged, ear.notes);
    }
}
