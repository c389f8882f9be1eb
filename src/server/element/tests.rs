use super::*;
use crate::logic::address::Address;
use crate::logic::record::encode_dbkey;
use crate::proto::rpc::v1::read_entry;
use crate::store::open::{Engine, open};

fn target(incarnation: u64) -> Target {
    (Address::from_bytes(&[0, 1, 127, 0, 0, 1]).unwrap(), incarnation)
}

fn dbkey(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode_dbkey(name.as_bytes(), &mut out);
    out
}

fn large_dbval(version: u64) -> Vec<u8> {
    let mut dbval = version.to_be_bytes().to_vec();
    dbval.resize(LARGE_BYTES + 1000, version as u8);
    dbval
}

fn stage(_worker: u16, _key_len: usize, val_len: usize) -> Result<Staged, StoreError> {
    Ok(Staged::in_memory(val_len))
}

/// A stream to a target: a record, a large one, another, another large one, and the end.
fn stream(to: Target) -> Vec<u8> {
    let mut out = opening(to, 7);
    for n in 1..=2 {
        let epoch = 300 + n;
        write_element(&mut out, &dbkey(&format!("small{n}")), Record { epoch, dbval: &[n as u8; 30] }, to.1 == 0);
        let value = Large::in_memory(large_dbval(n));
        let element = LargeElement::new(to, 8 + n, &dbkey(&format!("large{n}")), epoch, value);
        out.extend_from_slice(&element.before);
        assert!(element.value.append_to(0, element.value.val_len(), &mut out));
        out.extend_from_slice(&element.behind);
    }
    out.push(NIL);
    out
}

#[test]
fn a_large_element_is_the_one_that_would_be_written_whole() {
    for to in [target(0), target(9)] {
        let dbval = large_dbval(5);
        let element = LargeElement::new(to, 3, &dbkey("k"), 70_000, Large::in_memory(dbval.clone()));
        let mut whole = opening(to, 3);
        write_element(&mut whole, &dbkey("k"), Record { epoch: 70_000, dbval: &dbval }, to.1 == 0);
        assert!([element.before, dbval, element.behind].concat() == whole);
    }
}

#[test]
fn a_stream_that_comes_in_pieces_of_any_length_is_the_same() {
    for (to, epochs) in [(target(0), [0, 0]), (target(9), [301, 302])] {
        let bytes = stream(to);
        for cut in [bytes.len(), LARGE_BYTES, 100_003, 4096] {
            let mut elements = Elements::new(1);
            let (mut kept, mut most_kept) = (Vec::new(), 0);
            for piece in bytes.chunks(cut) {
                kept.extend_from_slice(piece);
                let used = elements.take(&kept, &stage).unwrap();
                kept.drain(..used);
                most_kept = most_kept.max(kept.len());
            }
            assert!(elements.complete && kept.is_empty(), "cut every {cut}");
            assert!(most_kept < 1000, "{most_kept} bytes of a large value were gathered, cut every {cut}");
            assert_eq!((elements.records, elements.since), (4, if to.1 == 0 { 0 } else { 10 }));
            let mut r = Reader::new(&elements.entries[0]);
            for n in 1..=2 {
                let entry = read_entry(&mut r).unwrap();
                assert_eq!((entry.dbkey, entry.epoch), (&dbkey(&format!("small{n}"))[..], epochs[n as usize - 1]));
                let large = elements.large.remove(0);
                assert_eq!((large.dbkey, large.epoch), (dbkey(&format!("large{n}")), epochs[n as usize - 1]));
                assert!(large.staged.finish(ClockTime(n)).ok().unwrap() == large_dbval(n));
            }
            assert!(r.rest().is_empty() && elements.large.is_empty());
        }
    }
}

#[test]
fn an_element_cut_at_each_of_its_first_and_last_bytes_is_the_same() {
    let bytes = stream(target(9));
    let ends: Vec<usize> = (1..100).chain(bytes.len() - 100..bytes.len()).collect();
    // Also around where the first large value ends: its epoch may come later.
    let first_end = (bytes.len() / 2 - 60)..(bytes.len() / 2 + 60);
    for cut in ends.into_iter().chain(first_end) {
        let mut elements = Elements::new(1);
        let used = elements.take(&bytes[..cut], &stage).unwrap();
        let more = elements.take(&bytes[used..], &stage).unwrap();
        assert_eq!(used + more, bytes.len(), "cut at {cut}");
        assert!(elements.complete);
        let epochs: Vec<u64> = elements.large.iter().map(|l| l.epoch).collect();
        assert_eq!(epochs, [301, 302], "cut at {cut}");
    }
}

#[test]
fn what_is_no_record_is_refused() {
    let mut bytes = stream(target(9));
    let at = bytes.len() - 4;
    // In place of the epoch behind the last large value.
    bytes[at] = 0xc3;
    assert!(Elements::new(1).take(&bytes, &stage).is_err());
    // A dbkey without a ring position.
    let mut short = Vec::new();
    write_array(&mut short, 3);
    write_raw(&mut short, b"short");
    write_raw_head(&mut short, LARGE_BYTES + 1000);
    assert!(Elements::new(1).take(&short, &stage).is_err());
    // No room for it.
    let full = |_, _, _| Err(StoreError::Full("disk".into()));
    assert!(Elements::new(1).take(&stream(target(9)), &full).is_err());
    assert!(Elements::new(1).take(&[0xc1], &stage).is_err());
}

#[test]
fn the_digest_of_a_large_record_is_that_of_all_of_it() {
    let (dbval, stamp) = (large_dbval(5), Stamp { epoch: 3, version: ClockTime(5) });
    let met = Met::Large(stamp, Large::in_memory(dbval.clone()));
    let whole = Met::Whole(Record { epoch: 3, dbval: &dbval });
    assert_eq!(met.digest(77, &dbkey("k")), whole.digest(77, &dbkey("k")));
    assert_eq!((met.stamp(), met.epoch()), (whole.stamp(), 3));
}

#[test]
fn a_scan_visits_everything_once_and_one_large_record_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Engine::Log, dir.path(), 1, false, None).unwrap();
    let mut shard = store.shards()[0].lock().unwrap();
    let mut wanted = Vec::new();
    for n in 0..60 {
        let name = dbkey(&n.to_string());
        let dbval = if n % 10 == 0 { large_dbval(1) } else { vec![0; 30] };
        shard.put(&name, Record { epoch: 5, dbval: &dbval }).unwrap();
        wanted.push(name);
    }
    shard.commit().unwrap();
    let (mut from, mut visited, mut steps) = (Some(0), Vec::new(), 0);
    while let Some(position) = from {
        let mut large = 0;
        from = scan(&mut *shard, position, 1000, &|_| true, &mut |dbkey, met| {
            large += usize::from(matches!(met, Met::Large(..)));
            assert!(dbkey_hash(dbkey) >= Some(position));
            visited.push(dbkey.to_vec());
        })
        .unwrap();
        assert!(large <= 1, "{large} in one step");
        steps += 1;
    }
    assert_eq!(steps, 7, "six that end with a large one, and the rest");
    visited.sort();
    wanted.sort();
    assert!(visited == wanted, "{} of {}", visited.len(), wanted.len());
}
