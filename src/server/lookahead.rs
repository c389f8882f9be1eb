//! Which records the messages of a batch will ask for, so that memory can bring them all at once.
//!
//! A lookup waits for memory three times, for longer than all else that it does. The messages that one read brought know
//! what they will look up; [`positions`] finds it without executing them. It is a hint, and believed by nobody: whatever is
//! odd ends it, and is dealt with when the message is executed.

use super::request::hash_of;
use crate::proto::rpc::frame::{self, Frame, Scanner};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader};
use crate::proto::rpc::v1::method;

/// So many positions are looked ahead: no more than stay in the processor's first cache until they are used.
pub const POSITIONS: usize = 64;

/// Fills `out` with the ring positions of keys in the messages at the beginning of `bytes`, until it has [`POSITIONS`] or
/// a few more. Returns how many bytes those messages take; all of them when something is odd.
pub fn positions(bytes: &[u8], out: &mut Vec<u64>) -> usize {
    out.clear();
    let mut seen = 0;
    while out.len() < POSITIONS {
        let Ok(Some(len)) = Scanner::default().advance(&bytes[seen..]) else { return bytes.len() };
        if let Ok(Frame::Request { method, params, .. }) = frame::parse(&bytes[seen..seen + len]) {
            // Half of them are better than none.
            let _ = of_request(method, params, out);
        }
        seen += len;
    }
    seen
}

fn of_request(method: u32, params: &[u8], out: &mut Vec<u64>) -> Result<(), DecodeError> {
    let mut r = Reader::new(params);
    r.array()?;
    match method {
        method::GET | method::GET_IF_MODIFIED | method::MUTATE => out.push(hash_of(first_raw(&mut r)?)?),
        method::MULTI_GET => {
            r.u64()?;
            for _ in 0..r.array()?.min(POSITIONS) {
                out.push(hash_of(r.raw()?)?);
            }
        }
        method::REPLICATE => {
            let entries = loop {
                if let Head::Array(entries) = r.head()? {
                    break entries;
                }
            };
            for _ in 0..entries.min(POSITIONS) {
                let values = r.array()?;
                out.push(hash_of(r.raw()?)?);
                for _ in 1..values {
                    r.skip()?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The first value that is bytes, behind numbers.
fn first_raw<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    loop {
        match r.head()? {
            Head::Raw(len) => return r.take(len),
            Head::UInt(_) => {}
            _ => return Err(DecodeError::Type),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::frame::write_request;
    use crate::proto::rpc::msgpack::{write_array, write_raw, write_uint};
    use crate::proto::rpc::v1::{ReplicateHead, write_entry, write_multi_get_head};

    fn dbkey(position: u64) -> Vec<u8> {
        [&position.to_be_bytes()[..], b"key"].concat()
    }

    fn get(out: &mut Vec<u8>, position: u64) {
        write_request(out, 7, method::GET);
        write_array(out, 2);
        write_uint(out, 3);
        write_raw(out, &dbkey(position));
    }

    #[test]
    fn the_keys_of_all_messages_are_found_in_their_order() {
        let mut bytes = Vec::new();
        get(&mut bytes, 1);
        write_multi_get_head(&mut bytes, 8, 3, 2);
        [2, 3].iter().for_each(|n| write_raw(&mut bytes, &dbkey(*n)));
        ReplicateHead { epoch: 3, since: 1, stable: 4, first: 5 }.write(&mut bytes, 9, 2);
        [4, 5].iter().for_each(|n| write_entry(&mut bytes, &dbkey(*n), 3, b"12345678\0\0v", &[]));
        write_request(&mut bytes, 10, method::GET_EPOCH);
        write_array(&mut bytes, 1);
        write_uint(&mut bytes, 3);
        let mut found = Vec::new();
        assert_eq!(positions(&bytes, &mut found), bytes.len());
        assert_eq!(found, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_long_batch_is_looked_at_in_parts() {
        let mut bytes = Vec::new();
        (0..150).for_each(|n| get(&mut bytes, n));
        let (mut found, mut all, mut seen) = (Vec::new(), Vec::new(), 0);
        while seen < bytes.len() {
            seen += positions(&bytes[seen..], &mut found);
            assert!(found.len() <= POSITIONS);
            all.append(&mut found);
        }
        assert_eq!(all, (0..150).collect::<Vec<u64>>());
    }

    #[test]
    fn any_bytes_are_passed_over() {
        let mut whole = Vec::new();
        get(&mut whole, 1);
        write_multi_get_head(&mut whole, 8, 3, 900);
        write_raw(&mut whole, &dbkey(2));
        let mut found = Vec::new();
        for cut in 0..whole.len() {
            for byte in [0x00, 0x93, 0xc1, 0xdd, 0xff] {
                let odd = [&whole[..cut], &[byte], &whole[cut..]].concat();
                assert!((1..=odd.len()).contains(&positions(&odd, &mut found)) && found.len() <= POSITIONS);
            }
        }
    }
}
