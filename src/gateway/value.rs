//! Between what clients see of a value and what is stored: our own layout, and kumofs's (`-F`, `-E`).
//!
//! Without `-F` and `-E` values are stored in [`LAYOUT_FULL`]. With one of them, as kumofs's gateways store them: in
//! [`LAYOUT_KUMOFS`], flags (16 bits, big-endian) before the data with `-F`, and before that the expiry (32 bits,
//! big-endian) with `-E`. Values in our layouts are read either way.

use super::assembly::Found;
use crate::logic::clock::ClockTime;
use crate::logic::expiry::{NEVER, is_gone};
use crate::logic::record::{self, Body, LAYOUT_FULL, LAYOUT_KUMOFS};
use crate::proto::rpc::v1::option;

/// Which layout values are stored in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// `-F`: kumofs's flags.
    pub flags: bool,
    /// `-E`: kumofs's expiry.
    pub expire: bool,
}

impl Layout {
    /// Whether it is one of kumofs's.
    pub fn is_kumofs(self) -> bool {
        self.flags || self.expire
    }

    /// The option bits that tell a server of it.
    pub fn options(self) -> u8 {
        (u8::from(self.flags) * option::KUMOFS_FLAGS) | (u8::from(self.expire) * option::KUMOFS_EXPIRE)
    }

    /// Bytes before the data in [`LAYOUT_KUMOFS`].
    fn prefix_len(self) -> usize {
        usize::from(self.expire) * 4 + usize::from(self.flags) * 2
    }

    /// Appends a whole dbval. kumofs's layout keeps the lower 16 bits of the flags: callers refuse more.
    pub fn encode(self, version: ClockTime, flags: u32, expiry: u32, data: &[u8], out: &mut Vec<u8>) {
        if self.is_kumofs() {
            record::encode_header(version, LAYOUT_KUMOFS, 0, 0, 0, out);
            if self.expire {
                out.extend_from_slice(&expiry.to_be_bytes());
            }
            if self.flags {
                out.extend_from_slice(&(flags as u16).to_be_bytes());
            }
        } else {
            record::encode_header(version, LAYOUT_FULL, flags, expiry, 0, out);
        }
        out.extend_from_slice(data);
    }

    /// What a client sees of a stored value; `None` when it is gone, or shorter than its layout demands. The time is
    /// asked for only where it matters.
    #[inline]
    pub fn read<'a>(self, body: &Body<'a>, now_secs: impl FnOnce() -> u64) -> Option<Seen<'a>> {
        let (mut flags, mut expiry, mut data) = (body.flags, body.expiry, body.data);
        if body.layout == LAYOUT_KUMOFS && self.is_kumofs() {
            let (prefix, rest) = data.split_at_checked(self.prefix_len())?;
            data = rest;
            let (expire_bytes, flags_bytes) = prefix.split_at(usize::from(self.expire) * 4);
            expiry = expire_bytes.try_into().map_or(NEVER, u32::from_be_bytes);
            flags = flags_bytes.try_into().map_or(0, |bytes| u32::from(u16::from_be_bytes(bytes)));
        }
        let gone = expiry != NEVER && is_gone(expiry, now_secs());
        (!gone).then_some(Seen { found: Found { flags, expiry, cas: body.cas, data }, expiry })
    }
}

/// A value as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// What the client sees.
    pub found: Found<'a>,
    /// When it expires.
    pub expiry: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Layout; 4] = [
        Layout { flags: false, expire: false },
        Layout { flags: true, expire: false },
        Layout { flags: false, expire: true },
        Layout { flags: true, expire: true },
    ];

    fn stored(layout: Layout, flags: u32, expiry: u32) -> Vec<u8> {
        let mut dbval = Vec::new();
        layout.encode(ClockTime(7), flags, expiry, b"data", &mut dbval);
        dbval
    }

    #[test]
    fn each_layout_keeps_what_it_has_room_for() {
        for layout in ALL {
            let dbval = stored(layout, 0xfffe, 1000);
            let body = record::parse(&dbval).unwrap().body.unwrap();
            let seen = layout.read(&body, || 999).unwrap();
            let keeps_flags = layout.flags || !layout.is_kumofs();
            let keeps_expiry = layout.expire || !layout.is_kumofs();
            let flags = if keeps_flags { 0xfffe } else { 0 };
            let expiry = if keeps_expiry { 1000 } else { 0 };
            assert_eq!(seen.found, Found { flags, expiry, cas: 7, data: b"data" });
            assert_eq!(seen.expiry, expiry);
            assert_eq!(layout.read(&body, || 1000).is_none(), keeps_expiry);
        }
    }

    #[test]
    fn kumofs_has_expiry_outermost_and_both_big_endian() {
        let dbval = stored(ALL[3], 0x0102, 0x03040506);
        assert_eq!(dbval, [&[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 3, 4, 5, 6, 1, 2][..], b"data"].concat());
    }

    #[test]
    fn a_value_of_ours_is_read_by_a_gateway_for_kumofs() {
        let dbval = stored(ALL[0], 70_000, 0);
        let body = record::parse(&dbval).unwrap().body.unwrap();
        assert_eq!(ALL[3].read(&body, || 5).unwrap().found.flags, 70_000);
    }

    #[test]
    fn a_value_shorter_than_its_layout_is_not_there() {
        let mut dbval = Vec::new();
        record::encode_header(ClockTime(1), LAYOUT_KUMOFS, 0, 0, 0, &mut dbval);
        dbval.extend_from_slice(b"abc");
        assert_eq!(ALL[3].read(&record::parse(&dbval).unwrap().body.unwrap(), || 5), None);
    }
}
