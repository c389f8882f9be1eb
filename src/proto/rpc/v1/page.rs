//! The result of Page. Source: `doc/protocol.md`, "Pages".

use super::super::msgpack::{DecodeError, Reader, write_array, write_nil, write_uint};

/// A part of what a worker coordinates, by ascending ring position.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// The ring position to go on from; `None`: there is no more.
    pub next: Option<u64>,
    /// Records that could be read neither here nor at another member.
    pub damaged: u64,
    /// Dbkeys and dbvals.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Page {
    /// Writes what comes before `count` records.
    pub fn write_head(out: &mut Vec<u8>, next: Option<u64>, damaged: u64, count: usize) {
        write_array(out, 3);
        match next {
            Some(position) => write_uint(out, position),
            None => write_nil(out),
        }
        write_uint(out, damaged);
        write_array(out, count);
    }

    /// Reads a result: `[next or nil, damaged, [[dbkey, dbval]...]]`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(r: &mut Reader<'_>) -> Result<Page, DecodeError> {
        r.array_of(3)?;
        let next = if r.take_nil() { None } else { Some(r.u64()?) };
        let damaged = r.u64()?;
        let count = r.array()?;
        let mut records = Vec::new();
        for _ in 0..count {
            r.array_of(2)?;
            records.push((r.raw()?.to_vec(), r.raw()?.to_vec()));
        }
        Ok(Page { next, damaged, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_pages_are_read_and_every_cut_noticed() {
        let record = (b"12345678k".to_vec(), b"12345678".to_vec());
        let golden: [(&[u8], Page); 2] = [
            (
                b"\x93\x07\x01\x91\x92\xa912345678k\xa812345678",
                Page { next: Some(7), damaged: 1, records: vec![record] },
            ),
            (b"\x93\xc0\x00\x90", Page::default()),
        ];
        for (bytes, page) in golden {
            assert_eq!(Page::read(&mut Reader::new(bytes)), Ok(page));
            (0..bytes.len()).for_each(|cut| assert!(Page::read(&mut Reader::new(&bytes[..cut])).is_err()));
        }
    }
}
