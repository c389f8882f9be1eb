//! The result of Backup. Source: `doc/protocol.md`, "Backups".

use super::super::msgpack::{DecodeError, Reader, write_array, write_raw, write_uint};

/// What a server tells of a backup that it has made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackedUp {
    /// Where it is, on the server.
    pub path: String,
    /// Records that are not deletion marks, as they were counted when it was done.
    pub items: u64,
    /// Bytes of the database, likewise.
    pub bytes: u64,
    /// How long it took.
    pub micros: u64,
}

impl BackedUp {
    /// Writes a result: `[path, items, bytes, microseconds]`, or `[why not]`.
    pub fn write(made: &Result<BackedUp, String>, out: &mut Vec<u8>) {
        match made {
            Ok(made) => {
                write_array(out, 4);
                write_raw(out, made.path.as_bytes());
                [made.items, made.bytes, made.micros].into_iter().for_each(|n| write_uint(out, n));
            }
            Err(why) => {
                write_array(out, 1);
                write_raw(out, why.as_bytes());
            }
        }
    }

    /// Reads a result.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(r: &mut Reader<'_>) -> Result<Result<BackedUp, String>, DecodeError> {
        let fields = r.array()?;
        let text = String::from_utf8_lossy(r.raw()?).into_owned();
        if fields < 4 {
            return Ok(Err(text));
        }
        Ok(Ok(BackedUp { path: text, items: r.u64()?, bytes: r.u64()?, micros: r.u64()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_results_are_written_and_read_and_every_cut_noticed() {
        let made = BackedUp { path: "/d-1".to_owned(), items: 3, bytes: 300, micros: 5 };
        let golden: [(Result<BackedUp, String>, &[u8]); 2] =
            [(Ok(made), b"\x94\xa4/d-1\x03\xcd\x01\x2c\x05"), (Err("full".to_owned()), b"\x91\xa4full")];
        for (made, bytes) in golden {
            let mut out = Vec::new();
            BackedUp::write(&made, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(BackedUp::read(&mut Reader::new(bytes)), Ok(made));
            (0..bytes.len()).for_each(|cut| assert!(BackedUp::read(&mut Reader::new(&bytes[..cut])).is_err()));
        }
    }
}
