//! Backup. Source: `doc/protocol.md`, "Backups".

use super::super::msgpack::{DecodeError, Reader, write_array, write_nil, write_raw, write_uint};

/// What a tool asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backup {
    /// What is appended to the name of the database.
    pub suffix: Vec<u8>,
    /// The suffix of an earlier backup, whose files may be left out.
    pub since: Option<Vec<u8>>,
    /// The newest epoch that the tool was told by a manager or a server, encoded: the server may have missed a flush.
    pub epoch: Option<Vec<u8>>,
}

impl Backup {
    /// Appends the parameters: `[suffix, since or nil, epoch or nil]`; what is nil at the end is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        let fields = [Some(&self.suffix), self.since.as_ref(), self.epoch.as_ref()];
        let len = fields.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        write_array(out, len);
        fields[..len].iter().for_each(|field| match field {
            Some(bytes) => write_raw(out, bytes),
            None => write_nil(out),
        });
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are none.
    pub fn read(params: &[u8]) -> Result<Backup, DecodeError> {
        let mut r = Reader::new(params);
        let fields = r.array()?;
        if !(1..=3).contains(&fields) {
            return Err(DecodeError::Type);
        }
        let suffix = r.raw()?.to_vec();
        let mut optional = |place| match fields > place && !r.take_nil() {
            true => r.raw().map(|bytes| Some(bytes.to_vec())),
            false => Ok(None),
        };
        Ok(Backup { suffix, since: optional(1)?, epoch: optional(2)? })
    }
}

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
    fn what_is_asked_for_comes_back_as_written_and_every_cut_is_noticed() {
        let (two, one) = (b"2".to_vec(), b"1".to_vec());
        let golden: [(Backup, &[u8]); 4] = [
            (Backup { suffix: two.clone(), ..Backup::default() }, b"\x91\xa12"),
            (Backup { suffix: two.clone(), since: Some(one.clone()), epoch: None }, b"\x92\xa12\xa11"),
            (Backup { suffix: two.clone(), since: None, epoch: Some(b"e".to_vec()) }, b"\x93\xa12\xc0\xa1e"),
            (Backup { suffix: two, since: Some(one), epoch: Some(b"e".to_vec()) }, b"\x93\xa12\xa11\xa1e"),
        ];
        for (asked, bytes) in golden {
            let mut out = Vec::new();
            asked.write(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(Backup::read(bytes), Ok(asked));
            (0..bytes.len()).for_each(|cut| assert!(Backup::read(&bytes[..cut]).is_err()));
        }
        assert!(Backup::read(b"\x90").is_err() && Backup::read(b"\x91\xc0").is_err());
    }

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
