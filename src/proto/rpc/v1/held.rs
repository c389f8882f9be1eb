//! What tools ask to compare replicas: Held. Source: `doc/protocol.md`, "Checks".

use super::super::msgpack::{DecodeError, Reader, write_array, write_bool, write_uint};
use super::compare::read_window;
use crate::logic::digest::Window;

/// Parameters of Held: `[epoch, coordinator, member, seed, bits, first, lists]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The epoch by which keys belong to servers.
    pub epoch: u64,
    /// The keys are those that this server coordinates: a place in the epoch.
    pub coordinator: u16,
    /// And this one holds fully.
    pub member: u16,
    /// Of the digests.
    pub seed: u64,
    /// The leaves.
    pub window: Window,
    /// Whether the records of the first leaf are to be listed, instead of all leaves summed.
    pub lists: bool,
}

impl Held {
    /// Appends the parameters.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_array(out, 7);
        let numbers = [
            self.epoch,
            self.coordinator.into(),
            self.member.into(),
            self.seed,
            self.window.leaves.bits().into(),
            self.window.first,
        ];
        numbers.into_iter().for_each(|n| write_uint(out, n));
        write_bool(out, self.lists);
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are none.
    pub fn read(params: &[u8]) -> Result<Held, DecodeError> {
        let mut r = Reader::new(params);
        r.array_of(7)?;
        let (epoch, coordinator, member, seed) = (r.u64()?, r.u16()?, r.u16()?, r.u64()?);
        Ok(Held { epoch, coordinator, member, seed, window: read_window(&mut r)?, lists: r.bool()? })
    }

    /// Reads a list: `[[dbkey, digest]...]`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_list(r: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, u64)>, DecodeError> {
        let count = r.array()?;
        let mut list = Vec::new();
        for _ in 0..count {
            r.array_of(2)?;
            list.push((r.raw()?.to_vec(), r.u64()?));
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::digest::Leaves;

    #[test]
    fn the_golden_question_is_written_and_read_and_every_cut_noticed() {
        let window = Window::at(Leaves::of_bits(7).unwrap(), 64).unwrap();
        let held = Held { epoch: 3, coordinator: 1, member: 2, seed: 300, window, lists: true };
        let golden = b"\x97\x03\x01\x02\xcd\x01\x2c\x07\x40\xc3";
        let mut out = Vec::new();
        held.write(&mut out);
        assert_eq!((&out[..], Held::read(golden)), (&golden[..], Ok(held)));
        (0..golden.len()).for_each(|cut| assert!(Held::read(&golden[..cut]).is_err(), "cut at {cut}"));
        let list = b"\x91\x92\xa1k\x05";
        assert_eq!(Held::read_list(&mut Reader::new(list)), Ok(vec![(b"k".to_vec(), 5)]));
        (0..list.len()).for_each(|cut| assert!(Held::read_list(&mut Reader::new(&list[..cut])).is_err()));
    }
}
