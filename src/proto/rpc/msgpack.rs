//! Old MessagePack by hand: one string family is written ("raw"), all newer ones are read.
//!
//! Writers append to a `Vec<u8>`; the [`Reader`] borrows from a complete message, so that keys and values are slices.

use std::fmt;

/// Why bytes are not the value that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The bytes end within the value. In a complete message this means that it is malformed.
    Incomplete,
    /// Another type, or out of range.
    Type,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::Incomplete => "the message ends too early",
            DecodeError::Type => "a value of another type was expected",
        })
    }
}

impl std::error::Error for DecodeError {}

/// The head of a value: what it is, and for containers how much belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// nil
    Nil,
    /// true or false
    Bool(bool),
    /// a non-negative integer
    UInt(u64),
    /// a negative integer
    Int(i64),
    /// a float, whose value nothing here needs
    Float,
    /// raw, str or bin with so many bytes, which follow
    Raw(usize),
    /// an array of so many values, which follow
    Array(usize),
    /// a map of so many pairs, which follow
    Map(usize),
    /// an extension with a type byte and so many bytes, which follow
    Ext(usize),
}

/// Reads values one after the other.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes the next `n` bytes as they are.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(DecodeError::Incomplete)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn be<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Incomplete)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// Reads the head of the next value; the bytes of a raw or extension and the members of a container follow.
    pub fn head(&mut self) -> Result<Head, DecodeError> {
        let [tag] = self.be::<1>()?;
        Ok(match tag {
            0x00..=0x7f => Head::UInt(u64::from(tag)),
            0x80..=0x8f => Head::Map(usize::from(tag & 0x0f)),
            0x90..=0x9f => Head::Array(usize::from(tag & 0x0f)),
            0xa0..=0xbf => Head::Raw(usize::from(tag & 0x1f)),
            0xc0 => Head::Nil,
            0xc1 => return Err(DecodeError::Type),
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4 | 0xd9 => Head::Raw(usize::from(self.be::<1>()?[0])),
            0xc5 | 0xda => Head::Raw(usize::from(u16::from_be_bytes(self.be()?))),
            0xc6 | 0xdb => Head::Raw(u32::from_be_bytes(self.be()?) as usize),
            0xc7 => Head::Ext(usize::from(self.be::<1>()?[0])),
            0xc8 => Head::Ext(usize::from(u16::from_be_bytes(self.be()?))),
            0xc9 => Head::Ext(u32::from_be_bytes(self.be()?) as usize),
            0xca => self.take(4).map(|_| Head::Float)?,
            0xcb => self.take(8).map(|_| Head::Float)?,
            0xcc => Head::UInt(u64::from(self.be::<1>()?[0])),
            0xcd => Head::UInt(u64::from(u16::from_be_bytes(self.be()?))),
            0xce => Head::UInt(u64::from(u32::from_be_bytes(self.be()?))),
            0xcf => Head::UInt(u64::from_be_bytes(self.be()?)),
            0xd0 => signed(i64::from(i8::from_be_bytes(self.be()?))),
            0xd1 => signed(i64::from(i16::from_be_bytes(self.be()?))),
            0xd2 => signed(i64::from(i32::from_be_bytes(self.be()?))),
            0xd3 => signed(i64::from_be_bytes(self.be()?)),
            0xd4..=0xd8 => Head::Ext(1 << (tag - 0xd4)),
            0xdc => Head::Array(usize::from(u16::from_be_bytes(self.be()?))),
            0xdd => Head::Array(u32::from_be_bytes(self.be()?) as usize),
            0xde => Head::Map(usize::from(u16::from_be_bytes(self.be()?))),
            0xdf => Head::Map(u32::from_be_bytes(self.be()?) as usize),
            0xe0..=0xff => Head::Int(i64::from(tag as i8)),
        })
    }

    /// A non-negative integer.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        // Without a head in between, where eight bytes can be looked at whatever the number's length is.
        match *self.bytes {
            [tag @ 0x00..=0x7f, ref rest @ ..] => {
                self.bytes = rest;
                return Ok(u64::from(tag));
            }
            [tag @ 0xcc..=0xcf, ref rest @ ..] => {
                if let Some(eight) = rest.first_chunk() {
                    let len = 1 << (tag - 0xcc);
                    self.bytes = &rest[len..];
                    return Ok(u64::from_be_bytes(*eight) >> (64 - 8 * len));
                }
            }
            _ => {}
        }
        self.u64_of_any_kind()
    }

    fn u64_of_any_kind(&mut self) -> Result<u64, DecodeError> {
        match self.head()? {
            Head::UInt(n) => Ok(n),
            _ => Err(DecodeError::Type),
        }
    }

    /// A non-negative integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_| DecodeError::Type)
    }

    /// A non-negative integer of 16 bits.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        u16::try_from(self.u64()?).map_err(|_| DecodeError::Type)
    }

    /// An integer of either sign.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        match self.head()? {
            Head::UInt(n) => i64::try_from(n).map_err(|_| DecodeError::Type),
            Head::Int(n) => Ok(n),
            _ => Err(DecodeError::Type),
        }
    }

    /// true or false.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.head()? {
            Head::Bool(b) => Ok(b),
            _ => Err(DecodeError::Type),
        }
    }

    /// Bytes: raw, str or bin.
    #[inline]
    pub fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        // Without a head in between: keys and values, as we write them.
        let (len, rest) = match *self.bytes {
            [tag @ 0xa0..=0xbf, ref rest @ ..] => (usize::from(tag & 0x1f), rest),
            [0xda, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
            _ => return self.raw_of_any_kind(),
        };
        let (taken, rest) = rest.split_at_checked(len).ok_or(DecodeError::Incomplete)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn raw_of_any_kind(&mut self) -> Result<&'a [u8], DecodeError> {
        match self.head()? {
            Head::Raw(len) => self.take(len),
            _ => Err(DecodeError::Type),
        }
    }

    /// The number of values in an array, which follow.
    pub fn array(&mut self) -> Result<usize, DecodeError> {
        match self.head()? {
            Head::Array(len) => Ok(len),
            _ => Err(DecodeError::Type),
        }
    }

    /// An array that must have exactly `len` values.
    pub fn array_of(&mut self, len: usize) -> Result<(), DecodeError> {
        if self.array()? == len { Ok(()) } else { Err(DecodeError::Type) }
    }

    /// Takes a nil if one comes next; false, taking nothing, otherwise.
    pub fn take_nil(&mut self) -> bool {
        let is_nil = self.bytes.first() == Some(&0xc0);
        if is_nil {
            self.bytes = &self.bytes[1..];
        }
        is_nil
    }

    /// Skips one whole value, however deep, without recursion; returns its bytes.
    pub fn skip(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.bytes;
        let mut left = 1usize;
        while left > 0 {
            left = left - 1 + self.skip_head()?;
        }
        Ok(&start[..start.len() - self.bytes.len()])
    }

    /// Skips a head and its bytes; returns how many values belong to it. Where the bytes end within it, nothing is skipped
    /// or a part.
    #[inline]
    pub(super) fn skip_head(&mut self) -> Result<usize, DecodeError> {
        // Without a head in between: what messages consist of, all but long values.
        let skipped = match *self.bytes {
            [0x00..=0x7f | 0xc0 | 0xc2 | 0xc3, ref rest @ ..] => Some((rest, 0)),
            [tag @ 0xa0..=0xbf, ref rest @ ..] => rest.get(usize::from(tag & 0x1f)..).map(|rest| (rest, 0)),
            [tag @ 0xcc..=0xcf, ref rest @ ..] => rest.get(1 << (tag - 0xcc)..).map(|rest| (rest, 0)),
            [tag @ 0x90..=0x9f, ref rest @ ..] => Some((rest, usize::from(tag & 0x0f))),
            [0xda, high, low, ref rest @ ..] => {
                rest.get(usize::from(u16::from_be_bytes([high, low]))..).map(|rest| (rest, 0))
            }
            _ => None,
        };
        if let Some((rest, children)) = skipped {
            self.bytes = rest;
            return Ok(children);
        }
        self.skip_any_head()
    }

    fn skip_any_head(&mut self) -> Result<usize, DecodeError> {
        match self.head()? {
            Head::Raw(len) => self.take(len).map(|_| 0),
            Head::Ext(len) => self.take(len + 1).map(|_| 0),
            Head::Array(len) => Ok(len),
            Head::Map(len) => Ok(len * 2),
            _ => Ok(0),
        }
    }
}

fn signed(n: i64) -> Head {
    u64::try_from(n).map_or(Head::Int(n), Head::UInt)
}

/// Appends nil.
pub fn write_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a bool.
pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0xc3 } else { 0xc2 });
}

/// Appends a non-negative integer in its shortest form.
#[inline]
pub fn write_uint(out: &mut Vec<u8>, n: u64) {
    if n < 0x80 {
        out.push(n as u8);
    } else if n <= 0xff {
        out.extend_from_slice(&[0xcc, n as u8]);
    } else if n <= 0xffff {
        out.push(0xcd);
        out.extend_from_slice(&(n as u16).to_be_bytes());
    } else if n <= 0xffff_ffff {
        out.push(0xce);
        out.extend_from_slice(&(n as u32).to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend_from_slice(&n.to_be_bytes());
    }
}

/// Appends an integer in its shortest form.
pub fn write_int(out: &mut Vec<u8>, n: i64) {
    match u64::try_from(n) {
        Ok(n) => write_uint(out, n),
        Err(_) if n >= -32 => out.push(n as u8),
        Err(_) => {
            out.push(0xd3);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

/// Appends the head of a raw of `len` bytes, which the caller appends next. `len` is below 4 GiB.
#[inline]
pub fn write_raw_head(out: &mut Vec<u8>, len: usize) {
    if len < 32 {
        out.push(0xa0 | len as u8);
    } else if len <= 0xffff {
        out.push(0xda);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(0xdb);
        out.extend_from_slice(&u32::try_from(len).expect("messages are bounded far below 4 GiB").to_be_bytes());
    }
}

/// Appends bytes as raw.
#[inline]
pub fn write_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    write_raw_head(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends the head of an array of `len` values, which the caller appends next.
pub fn write_array(out: &mut Vec<u8>, len: usize) {
    if len < 16 {
        out.push(0x90 | len as u8);
    } else if len <= 0xffff {
        out.push(0xdc);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(0xdd);
        out.extend_from_slice(&u32::try_from(len).expect("arrays are bounded far below 2^32").to_be_bytes());
    }
}

/// Appends the head of a map of `len` pairs, which the caller appends next.
pub fn write_map(out: &mut Vec<u8>, len: usize) {
    if len < 16 {
        out.push(0x80 | len as u8);
    } else {
        out.push(0xde);
        out.extend_from_slice(&u16::try_from(len).expect("maps have a pair for each name there is").to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_string_family_is_read_as_raw() {
        for bytes in [&b"\xa3abc"[..], b"\xd9\x03abc", b"\xda\x00\x03abc", b"\xc4\x03abc", b"\xc5\x00\x03abc"] {
            assert_eq!(Reader::new(bytes).raw(), Ok(&b"abc"[..]));
        }
    }

    #[test]
    fn raw_is_written_in_the_old_family_at_every_length() {
        for (len, head) in [(0, 1), (31, 1), (32, 3), (255, 3), (65535, 3), (65536, 5)] {
            let mut out = Vec::new();
            write_raw(&mut out, &vec![7; len]);
            assert_eq!(out.len(), head + len);
            assert!(matches!(out[0], 0xa0..=0xbf | 0xda | 0xdb));
            assert_eq!(Reader::new(&out).raw().unwrap().len(), len);
        }
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let mut deep = vec![0x91; 1_000_000];
        deep.push(0xc0);
        assert_eq!(Reader::new(&deep).skip().unwrap().len(), deep.len());
    }

    proptest! {
        #[test]
        fn integers_come_back(n: u64, i: i64) {
            let mut out = Vec::new();
            write_uint(&mut out, n);
            write_int(&mut out, i);
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.u64(), Ok(n));
            prop_assert_eq!(r.i64(), Ok(i));
        }

        #[test]
        fn what_is_read_without_a_head_is_what_the_head_says(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            for tag in 0..=u8::MAX {
                let bytes = [&[tag], &rest[..]].concat();
                let mut behind = Reader::new(&bytes);
                let head = behind.head();
                let number = match head {
                    Ok(Head::UInt(number)) => Ok((number, behind.rest())),
                    other => other.and(Err(DecodeError::Type)),
                };
                let mut r = Reader::new(&bytes);
                prop_assert_eq!(r.u64().map(|number| (number, r.rest())), number);
                let raw = match head {
                    Ok(Head::Raw(len)) => behind.clone().take(len).map(|raw| (raw, &behind.rest()[len..])),
                    other => other.and(Err(DecodeError::Type)),
                };
                let mut r = Reader::new(&bytes);
                prop_assert_eq!(r.raw().map(|raw| (raw, r.rest())), raw);
                let skipped = match head {
                    Ok(Head::Raw(len)) => behind.take(len).map(|_| (0, behind.rest())),
                    Ok(Head::Ext(len)) => behind.take(len + 1).map(|_| (0, behind.rest())),
                    Ok(Head::Array(len)) => Ok((len, behind.rest())),
                    Ok(Head::Map(len)) => Ok((2 * len, behind.rest())),
                    other => other.map(|_| (0, behind.rest())),
                };
                let mut r = Reader::new(&bytes);
                prop_assert_eq!(r.skip_head().map(|children| (children, r.rest())), skipped);
            }
        }

        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>) {
            let mut r = Reader::new(&bytes);
            while r.skip().is_ok() && !r.rest().is_empty() {}
        }
    }
}
