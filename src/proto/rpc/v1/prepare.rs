//! What servers are told of an epoch before anybody acts by it: Prepare.

use crate::proto::rpc::frame::write_request;
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_raw};
use crate::proto::rpc::v1::method;

/// Parameters of [`method::PREPARE`]: `[epoch, whether to yield]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare<'a> {
    /// The epoch, decided and encoded: to be kept on disk, and not to be acted by before it is told.
    pub epoch: &'a [u8],
    /// What others coordinate in it is to be started no more, and what is under way of it to be finished.
    pub yields: bool,
}

impl Prepare<'_> {
    /// Appends the whole request.
    pub fn write(&self, out: &mut Vec<u8>, msgid: u32) {
        write_request(out, msgid, method::PREPARE);
        write_array(out, 2);
        write_raw(out, self.epoch);
        write_bool(out, self.yields);
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are of another form.
    pub fn read(params: &[u8]) -> Result<Prepare<'_>, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(2)?;
        Ok(Prepare { epoch: r.raw()?, yields: r.bool()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_bytes() {
        let prepare = Prepare { epoch: b"text", yields: true };
        let mut bytes = Vec::new();
        prepare.write(&mut bytes, 7);
        assert_eq!(bytes, b"\x94\x00\x07\xce\x00\x01\x00\x1f\x92\xa4text\xc3");
        let params = &bytes[8..];
        assert_eq!(Prepare::read(params), Ok(prepare));
        for cut in 0..params.len() {
            assert!(Prepare::read(&params[..cut]).is_err(), "cut at {cut}");
        }
    }
}
