//! Whole numbers as memcached clients write them: reading as lenient as memcached's, writing without allocation.
//!
//! memcached reads with C's `strtoul` and its like, so leading white space, a sign and anything after the next white
//! space are let through, in command lines and in the data that `incr` works on. What we do not follow: memcached 1.6
//! keeps the lower bits of what is too big for the field, and takes some large negative numbers for small positive
//! ones. Here these are no numbers.

/// Most digits a u64 has.
pub const MAX_DIGITS: usize = 20;

/// What C's `isspace` says of ASCII.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Sign (true: minus) and magnitude of the number at the head of `text`.
fn scan(text: &[u8]) -> Option<(bool, u64)> {
    let start = text.iter().position(|b| !is_space(*b))?;
    let (minus, digits) = match &text[start..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut magnitude = 0u64;
    for (i, byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            // A C string ends at its NUL; the rest is as unseen as what follows a space.
            let ends = i > 0 && (is_space(*byte) || *byte == 0);
            return ends.then_some((minus, magnitude));
        }
        magnitude = magnitude.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (!digits.is_empty()).then_some((minus, magnitude))
}

/// Reads an unsigned number; `None` when there is none, or it does not fit.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    match scan(text)? {
        (true, magnitude) if magnitude > 0 => None,
        (_, magnitude) => Some(magnitude),
    }
}

/// Reads an unsigned number of 32 bits; `None` when there is none, or it does not fit.
pub fn parse_u32(text: &[u8]) -> Option<u32> {
    parse_u64(text)?.try_into().ok()
}

/// Reads a signed number; `None` when there is none, or it does not fit.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match scan(text)? {
        (true, magnitude) => 0i64.checked_sub_unsigned(magnitude),
        (false, magnitude) => magnitude.try_into().ok(),
    }
}

/// Appends `number` in decimal and returns how many digits that took.
pub fn write(mut number: u64, out: &mut Vec<u8>) -> usize {
    let mut digits = [0u8; MAX_DIGITS];
    let mut at = MAX_DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    MAX_DIGITS - at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_as_leniently_as_memcached_reads_them() {
        for (text, number) in [
            ("0", 0),
            ("007", 7),
            ("+5", 5),
            ("-0", 0),
            (" 12", 12),
            ("\t12", 12),
            ("\r\n7", 7),
            ("12 abc", 12),
            ("5\tx", 5),
            ("12\0abc", 12),
            ("12\n", 12),
            ("0000000000000000000000000000001", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_u64(text.as_bytes()), Some(number), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            " ",
            "\t",
            "+",
            "-",
            "abc",
            "12abc",
            "1.5",
            "0x10",
            "-1",
            "--1",
            "+-1",
            "\x0012",
            "5-",
            "18446744073709551616",
            "184467440737095516150",
            "99999999999999999999999",
            "-18446744073709551615",
        ] {
            assert_eq!(parse_u64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_edges_of_each_width_are_exact() {
        assert_eq!(parse_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_u32(b"4294967296"), None);
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"-9223372036854775809"), None);
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_i64(b"9223372036854775808"), None);
        assert_eq!(parse_i64(b"-1"), Some(-1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u64) {
            let mut text = Vec::new();
            prop_assert_eq!(write(number, &mut text), text.len());
            prop_assert_eq!(String::from_utf8_lossy(&text), number.to_string());
            prop_assert_eq!(parse_u64(&text), Some(number));
        }

        #[test]
        fn signed_numbers_are_read(number: i64) {
            prop_assert_eq!(parse_i64(number.to_string().as_bytes()), Some(number));
        }
    }
}
