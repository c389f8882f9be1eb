//! The golden bytes of `tests/vectors/log_store.txt`, in both directions.

use super::super::format::{Draft, Kind, Origin, Raw, SEGMENT_HEAD_LEN, SegmentHead, seed_at};
use super::super::hint::{Hint, HintBuilder, HintEntry};
use super::super::identity;
use super::*;
use crate::store::fs::{Disk, write_all};

const VECTORS: &str = include_str!("../../../../tests/vectors/log_store.txt");
const HEAD: SegmentHead = SegmentHead { id: 1, origin: Origin::Stores, shards: 2, shard: 1, birth: 1000 };

fn golden(name: &str) -> Vec<u8> {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name);
    (0..line.len()).step_by(2).map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap()).collect()
}

/// Name, kind, sequence number, epoch, dbkey and dbval.
type Golden = (&'static str, Kind, u64, u64, Vec<u8>, Vec<u8>);

fn records() -> Vec<Golden> {
    let mut dbkey = Vec::new();
    encode_dbkey(b"wirekey", &mut dbkey);
    let version = 0x6b00_a03f_0001_a71c_u64;
    let put = [&version.to_be_bytes()[..], &[0, 0], b"abc"].concat();
    vec![
        ("record_put", Kind::Put, 1000, 7, dbkey.clone(), put),
        ("record_mark", Kind::Put, 1001, 7, dbkey.clone(), mark(version + 1)),
        ("record_forget", Kind::Forget, 1002, 300, dbkey.clone(), vec![]),
        ("record_lost", Kind::Lost, 900, 0, dbkey[..8].to_vec(), vec![]),
    ]
}

#[test]
fn the_head_and_the_records_of_a_segment() {
    let head = golden("segment_head");
    assert_eq!((HEAD.encode().to_vec(), SegmentHead::parse(&head)), (head.clone(), Some(HEAD)));
    let mut segment = [head.clone(), head].concat();
    for (name, kind, lsn, epoch, dbkey, dbval) in records() {
        let seed = seed_at(HEAD.seed(), segment.len() as u32);
        let start = segment.len();
        Draft { kind, lsn, epoch, dbkey: &dbkey, dbval: &dbval }.encode(HEAD.birth, seed, &mut segment);
        assert_eq!(segment[start..], golden(name), "{name}");
        let raw = Raw::parse(&segment[start..], HEAD.birth).unwrap();
        assert!(raw.is_intact(seed) && !raw.is_intact(seed + 1));
        assert_eq!((raw.header.kind, raw.header.lsn, raw.header.epoch), (kind, lsn, epoch));
        assert_eq!((raw.dbkey(), raw.dbval()), (&dbkey[..], &dbval[..]));
    }
    assert_eq!(segment, golden("segment"));
}

#[test]
fn a_hint_and_an_identity() {
    let (segment, mut builder, mut offset) = (golden("segment"), HintBuilder::default(), SEGMENT_HEAD_LEN);
    while offset < segment.len() {
        let raw = Raw::parse(&segment[offset..], HEAD.birth).unwrap();
        builder.add(HintEntry::of(&raw, offset as u64));
        offset += raw.header.record_len();
    }
    assert_eq!(builder.finish(&HEAD, segment.len() as u64), golden("hint"));
    let hint = Hint::from_bytes(golden("hint")).unwrap();
    assert_eq!((hint.head, hint.segment_len, hint.top_lsn), (HEAD, segment.len() as u64, 1002));
    let lsns: Vec<u64> = hint.entries().map(|e| e.lsn).collect();
    assert_eq!(lsns, [1000, 1001, 1002, 900]);
    assert_eq!(identity::encode(0x0123_4567_89ab_cdef).as_bytes(), golden("identity"));
    assert_eq!(identity::parse(&golden("identity")), Ok(0x0123_4567_89ab_cdef));
}

#[test]
fn the_golden_files_open_as_a_store() {
    for with_hint in [false, true] {
        let disk = MemDisk::new(1);
        disk.create_dir(dir()).unwrap();
        let write = |name: &str, bytes: &[u8]| {
            write_all(disk.create(&dir().join(name)).unwrap().as_ref(), bytes, 0).unwrap();
        };
        write("kumofs", &golden("identity"));
        write("00000001.log", &golden("segment"));
        if with_hint {
            write("00000001.hint", &golden("hint"));
        }
        let store = open(&disk, tiny(2)).unwrap();
        assert_eq!((store.disk_id(), store.items(), store.damage()), (0x0123_4567_89ab_cdef, 0, vec![]));
    }
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_record_is_noticed() {
    let (whole, seed) = (golden("record_put"), seed_at(HEAD.seed(), SEGMENT_HEAD_LEN as u32));
    let is_good = |bytes: &[u8]| Raw::parse(bytes, HEAD.birth).is_some_and(|raw| raw.is_intact(seed));
    assert!(is_good(&whole));
    assert!((0..whole.len()).all(|cut| !is_good(&whole[..cut])));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_good(&flipped), "bit {bit}");
    }
}
