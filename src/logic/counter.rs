//! What `incr` and `decr` make of a record's data.
//!
//! Source: memcached's protocol.txt, "Increment/Decrement", and memcached 1.6 as it behaves: the number is read by
//! [`decimal::parse_u64`]; counting up wraps at 2^64, counting down stops at 0; a text that got shorter is filled with
//! spaces to the length it had, so the data of a counter never shrinks.

use super::decimal;

/// Which way to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// `incr`: wraps around at 2^64.
    Up,
    /// `decr`: stops at 0.
    Down,
}

/// The data is not a decimal number of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a number")]
pub struct NotANumber;

/// The number that `data` becomes, which is also the answer to the client.
pub fn count(data: &[u8], direction: Direction, delta: u64) -> Result<u64, NotANumber> {
    let old = decimal::parse_u64(data).ok_or(NotANumber)?;
    Ok(match direction {
        Direction::Up => old.wrapping_add(delta),
        Direction::Down => old.saturating_sub(delta),
    })
}

/// Bytes of the data that [`write_data`] makes of `number` over data of `old_len` bytes.
pub fn data_len(number: u64, old_len: usize) -> usize {
    let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    digits.max(old_len)
}

/// Appends the new data: `number`, and spaces up to `old_len`, the length of the data before.
pub fn write_data(number: u64, old_len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    decimal::write(number, out);
    if out.len() - start < old_len {
        out.resize(start + old_len, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(data: &[u8], direction: Direction, delta: u64) -> Result<(u64, String), NotANumber> {
        let number = count(data, direction, delta)?;
        let mut out = b"before".to_vec();
        write_data(number, data.len(), &mut out);
        assert_eq!(out.len() - 6, data_len(number, data.len()));
        Ok((number, String::from_utf8(out[6..].to_vec()).unwrap()))
    }

    #[test]
    fn counting_up_grows_the_text_when_it_must() {
        assert_eq!(counted(b"10", Direction::Up, 1), Ok((11, "11".into())));
        assert_eq!(counted(b"99", Direction::Up, 1), Ok((100, "100".into())));
        assert_eq!(counted(b"5", Direction::Up, 0), Ok((5, "5".into())));
    }

    #[test]
    fn counting_down_stops_at_zero_and_keeps_the_length() {
        assert_eq!(counted(b"10", Direction::Down, 1), Ok((9, "9 ".into())));
        assert_eq!(counted(b"10", Direction::Down, 100), Ok((0, "0 ".into())));
        assert_eq!(counted(b"1000", Direction::Down, 999), Ok((1, "1   ".into())));
    }

    #[test]
    fn counting_up_wraps_at_sixty_four_bits() {
        let max = b"18446744073709551615";
        assert_eq!(counted(max, Direction::Up, 1), Ok((0, "0                   ".into())));
        assert_eq!(counted(max, Direction::Up, 3), Ok((2, "2                   ".into())));
        assert_eq!(counted(max, Direction::Down, u64::MAX), Ok((0, "0                   ".into())));
    }

    #[test]
    fn spaces_around_the_number_become_spaces_after_it() {
        assert_eq!(counted(b" 12", Direction::Up, 1), Ok((13, "13 ".into())));
        assert_eq!(counted(b"12 ", Direction::Up, 1), Ok((13, "13 ".into())));
        assert_eq!(counted(b"12 abc", Direction::Up, 1), Ok((13, "13    ".into())));
        assert_eq!(counted(b"0000000000000000000000000000001", Direction::Up, 1).unwrap().1.len(), 31);
    }

    #[test]
    fn other_data_is_not_counted() {
        for data in [&b""[..], b"abc", b"12abc", b"-1", b"1.5", b"   ", b"18446744073709551616"] {
            assert_eq!(count(data, Direction::Up, 1), Err(NotANumber), "{data:?}");
        }
    }
}
