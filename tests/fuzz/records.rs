//! What must hold for any bytes that pass for a dbkey or a dbval, wherever they came from.

use kumofs::logic::clock::ClockTime;
use kumofs::logic::record::{self, LAYOUT_CAS, LAYOUT_FULL, LAYOUT_KUMOFS, LAYOUT_MARKED};
use kumofs::logic::{counter, decimal};

/// What is parsed, when written again, is the same to the byte; with marks, a cas unique of 0 stands for the version.
pub fn fuzz_records(data: &[u8]) {
    if let Some(value) = record::parse(data) {
        let mut out = Vec::new();
        match value.body {
            Some(body) => {
                record::encode_header(value.version, body.layout, body.flags, body.expiry, body.cas, &mut out);
                if body.layout == LAYOUT_MARKED {
                    out.push(body.marks);
                }
                assert_eq!(out.len(), record::header_len(body.layout));
                out.extend_from_slice(body.data);
            }
            None => out.extend_from_slice(&value.version.0.to_be_bytes()),
        }
        if value.body.is_some_and(|body| body.layout == LAYOUT_MARKED) {
            assert_eq!((record::parse(&out), out.len()), (Some(value), data.len()));
        } else {
            assert_eq!(out, data);
        }
        assert_eq!(record::is_mark(data), value.body.is_none());
        assert_eq!(record::version_of(data), Some(value.version));
    }
    if let Some(hash) = record::dbkey_hash(data) {
        for workers in [1, 2, 3, u16::MAX] {
            assert!(record::worker_of(hash, workers) < workers);
        }
    }
    if let Some(number) = decimal::parse_u64(data) {
        let mut out = Vec::new();
        decimal::write(number, &mut out);
        assert_eq!(decimal::parse_u64(&out), Some(number));
    }
    for direction in [counter::Direction::Up, counter::Direction::Down] {
        if let Ok(number) = counter::count(data, direction, 7) {
            let mut out = Vec::new();
            counter::write_data(number, data.len(), &mut out);
            assert_eq!(out.len(), counter::data_len(number, data.len()));
            assert_eq!(counter::count(&out, direction, 0), Ok(number), "what was counted can be counted on");
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [LAYOUT_KUMOFS, LAYOUT_FULL, LAYOUT_CAS, LAYOUT_MARKED]
        .iter()
        .map(|layout| {
            let mut out = Vec::new();
            record::encode_header(ClockTime(0x6b00_a03f_0001_a71c), *layout, 5, 6, 7, &mut out);
            if *layout == LAYOUT_MARKED {
                out.push(record::mark::STALE);
            }
            out.extend_from_slice(b"data");
            out
        })
        .collect();
    let mut dbkey = Vec::new();
    record::encode_dbkey(b"wirekey", &mut dbkey);
    seeds.extend([dbkey, vec![0; 8], b"18446744073709551615".to_vec(), b"12   ".to_vec(), b"+7".to_vec()]);
    seeds
}
