//! How a record is stored in sled's tree: the key is the dbkey, the value carries what sled's own checksums do not.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32C of the dbkey, the epoch and the dbval, big-endian |
//! | 8 | epoch, big-endian |
//! | rest | dbval |
//!
//! The checksum covers the key, so that a record that has come under another key is found too.

use crate::logic::record::MARK_LEN;
use crate::store::Record;

/// Bytes before the dbval.
pub const HEAD_LEN: usize = 12;
const CRC_LEN: usize = 4;

/// Replaces `out` by the stored form of a record.
pub fn encode(dbkey: &[u8], record: Record<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; CRC_LEN]);
    out.extend_from_slice(&record.epoch.to_be_bytes());
    out.extend_from_slice(record.dbval);
    let crc = checksum(dbkey, &out[CRC_LEN..]);
    out[..CRC_LEN].copy_from_slice(&crc.to_be_bytes());
}

/// The record in a stored value; `None` when it is damaged.
pub fn decode<'a>(dbkey: &[u8], stored: &'a [u8]) -> Option<Record<'a>> {
    let crc = u32::from_be_bytes(stored.get(..CRC_LEN)?.try_into().ok()?);
    let epoch = u64::from_be_bytes(stored.get(CRC_LEN..HEAD_LEN)?.try_into().ok()?);
    (crc == checksum(dbkey, &stored[CRC_LEN..])).then(|| Record { epoch, dbval: &stored[HEAD_LEN..] })
}

/// Whether a stored value counts as a deletion mark. Told by its length alone, so that a damaged record is counted
/// the same way when it comes and when it goes.
pub fn is_mark(stored: &[u8]) -> bool {
    stored.len() == HEAD_LEN + MARK_LEN
}

fn checksum(dbkey: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(dbkey), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"\x66\x7d\xf3\x13\x1b\x5a\xe4\xd7wirekey";
    const GOLDEN: &[u8] = b"\x0c\xb9\x6b\x11\0\0\0\0\0\0\0\x07\x6b\0\xa0\x3f\0\x01\xa7\x1c\0\0abc";

    #[test]
    fn the_golden_record_is_written_and_read() {
        let record = Record { epoch: 7, dbval: &GOLDEN[HEAD_LEN..] };
        let mut out = vec![1, 2, 3];
        encode(KEY, record, &mut out);
        assert_eq!(out, GOLDEN);
        assert_eq!(decode(KEY, GOLDEN), Some(record));
    }

    #[test]
    fn every_cut_every_flipped_bit_and_another_key_are_noticed() {
        for cut in 0..GOLDEN.len() {
            assert_eq!(decode(KEY, &GOLDEN[..cut]), None, "cut at {cut}");
        }
        for bit in 0..GOLDEN.len() * 8 {
            let mut bytes = GOLDEN.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(KEY, &bytes), None, "bit {bit}");
        }
        assert_eq!(decode(&KEY[..14], GOLDEN), None);
    }

    #[test]
    fn marks_are_told_from_items() {
        assert!(is_mark(&GOLDEN[..HEAD_LEN + MARK_LEN]) && !is_mark(GOLDEN));
    }
}
