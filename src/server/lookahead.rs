//! Which records the messages of a batch will ask for, so that memory can bring them all at once.
//!
//! A lookup waits for memory three times, for longer than all else that it does. The messages that one read brought know
//! what they will look up; where they are cut apart, [`Ahead`] finds it without executing them. It is a hint, and believed by
//! nobody: whatever is odd ends it, and is dealt with when the message is executed. A message with more of them than are looked
//! ahead at a time is looked at by who executes it: [`behind`].

use super::request::hash_of;
use crate::proto::rpc::frame::{Frame, FrameError, Scanner};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader};
use crate::proto::rpc::v1::method;

/// So many positions are looked ahead: no more than stay in the processor's first cache until they are used.
pub const POSITIONS: usize = 64;

/// The next messages of a connection, and the ring positions of keys in them.
#[derive(Default)]
pub struct Ahead {
    /// The messages' lengths in bytes.
    pub lens: Vec<usize>,
    /// The ring positions.
    pub positions: Vec<u64>,
}

impl Ahead {
    /// Looks at the messages at the beginning of `bytes`, until there are [`POSITIONS`] or a few more. There is none when more
    /// bytes are needed, and none with an error; one behind other messages is found when those are done.
    pub fn look(&mut self, bytes: &[u8], scanner: &mut Scanner) -> Result<(), FrameError> {
        self.lens.clear();
        self.positions.clear();
        let mut seen = 0;
        while self.positions.len() < POSITIONS {
            match scanner.take(&bytes[seen..]) {
                Ok(Some((frame, len))) => {
                    if let Frame::Request { method, params, .. } = frame {
                        // Half of them are better than none.
                        let _ = of_request(method, params, &mut self.positions);
                    }
                    self.lens.push(len);
                    seen += len;
                }
                Ok(None) => break,
                Err(_) if seen > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether it is time to look ahead in a message of many keys or entries, of which `done` are done and `left` are left; then
/// fills `out` with the positions of the next ones. `next` reads one after the other: [`of_key`] or [`of_entry`].
#[inline]
pub fn behind(
    (done, left): (usize, usize),
    r: &Reader<'_>,
    next: impl Fn(&mut Reader<'_>) -> Result<u64, DecodeError>,
    out: &mut Vec<u64>,
) -> bool {
    // The first ones were looked at with the messages before this one.
    if done == 0 || !done.is_multiple_of(POSITIONS) {
        return false;
    }
    out.clear();
    // Half of them are better than none.
    let _ = of_many(left, &mut r.clone(), next, out);
    true
}

fn of_many(
    count: usize,
    r: &mut Reader<'_>,
    next: impl Fn(&mut Reader<'_>) -> Result<u64, DecodeError>,
    out: &mut Vec<u64>,
) -> Result<(), DecodeError> {
    for _ in 0..count.min(POSITIONS) {
        out.push(next(r)?);
    }
    Ok(())
}

/// The position of the next key of a MultiGet.
#[inline]
pub fn of_key(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    hash_of(r.raw()?)
}

/// The position of the next entry of a Replicate.
#[inline]
pub fn of_entry(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let values = r.array()?;
    let position = hash_of(r.raw()?)?;
    for _ in 1..values {
        r.skip()?;
    }
    Ok(position)
}

fn of_request(method: u32, params: &[u8], out: &mut Vec<u64>) -> Result<(), DecodeError> {
    let mut r = Reader::new(params);
    r.array()?;
    match method {
        method::GET | method::GET_IF_MODIFIED | method::MUTATE => out.push(hash_of(first_raw(&mut r)?)?),
        method::MULTI_GET => {
            r.u64()?;
            of_many(r.array()?, &mut r, of_key, out)?;
        }
        method::REPLICATE => {
            let entries = loop {
                if let Head::Array(entries) = r.head()? {
                    break entries;
                }
            };
            of_many(entries, &mut r, of_entry, out)?;
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
    use crate::proto::rpc::frame::{self, write_request};
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

    fn look(bytes: &[u8]) -> Result<Ahead, FrameError> {
        let mut ahead = Ahead::default();
        ahead.look(bytes, &mut Scanner::default()).map(|()| ahead)
    }

    #[test]
    fn rubbish_behind_messages_is_an_error_when_they_are_done() {
        let mut bytes = Vec::new();
        get(&mut bytes, 1);
        let whole = bytes.len();
        bytes.push(0xc1);
        let (mut ahead, mut scanner) = (Ahead::default(), Scanner::default());
        assert_eq!(ahead.look(&bytes, &mut scanner), Ok(()));
        assert_eq!((&ahead.lens[..], &ahead.positions[..]), (&[whole][..], &[1][..]));
        assert_eq!(ahead.look(&bytes[whole..], &mut scanner), Err(FrameError::Malformed));
        assert!(ahead.lens.is_empty());
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
        let ahead = look(&bytes).unwrap();
        assert_eq!(ahead.positions, [1, 2, 3, 4, 5]);
        assert_eq!((ahead.lens.len(), ahead.lens.iter().sum()), (4, bytes.len()));
    }

    #[test]
    fn a_long_batch_is_looked_at_in_parts() {
        let mut bytes = Vec::new();
        (0..150).for_each(|n| get(&mut bytes, n));
        let (mut all, mut seen) = (Vec::new(), 0);
        while seen < bytes.len() {
            let mut ahead = look(&bytes[seen..]).unwrap();
            assert!(ahead.positions.len() <= POSITIONS);
            all.append(&mut ahead.positions);
            seen += ahead.lens.iter().sum::<usize>();
        }
        assert_eq!(all, (0..150).collect::<Vec<u64>>());
    }

    #[test]
    fn all_entries_of_a_long_message_are_looked_at_once() {
        let mut bytes = Vec::new();
        ReplicateHead { epoch: 3, since: 1, stable: 4, first: 5 }.write(&mut bytes, 9, 150);
        (0..150).for_each(|n| write_entry(&mut bytes, &dbkey(n), 3, b"12345678\0\0v", &[]));
        let mut all = look(&bytes).unwrap().positions;
        let mut found = Vec::new();
        let Ok(Frame::Request { params, .. }) = frame::parse(&bytes) else { panic!("it is a request") };
        let mut r = Reader::new(params);
        let (_, entries) = ReplicateHead::read(&mut r).unwrap();
        for done in 0..entries {
            if behind((done, entries - done), &r, of_entry, &mut found) {
                assert!(found.len() <= POSITIONS);
                all.append(&mut found);
            }
            assert_eq!(of_entry(&mut r), Ok(done as u64));
        }
        assert_eq!(all, (0..150).collect::<Vec<u64>>());
    }

    #[test]
    fn any_bytes_are_passed_over() {
        let mut whole = Vec::new();
        get(&mut whole, 1);
        write_multi_get_head(&mut whole, 8, 3, 900);
        write_raw(&mut whole, &dbkey(2));
        for cut in 0..whole.len() {
            for byte in [0x00, 0x93, 0xc1, 0xdd, 0xff] {
                let odd = [&whole[..cut], &[byte], &whole[cut..]].concat();
                if let Ok(ahead) = look(&odd) {
                    assert!(ahead.lens.iter().sum::<usize>() <= odd.len() && ahead.positions.len() <= POSITIONS);
                }
            }
        }
    }
}
