//! Base64 (RFC 4648, with padding), as the meta protocol writes keys that hold any bytes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Stands for bytes that are no digits.
const NONE: u8 = 0xff;

const DIGITS: [u8; 256] = {
    let mut digits = [NONE; 256];
    let mut i = 0;
    while i < 64 {
        digits[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    digits
};

/// The digits without the padding, if the length and the padding are right.
fn digits_of(text: &[u8]) -> Option<&[u8]> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    digits.iter().all(|byte| DIGITS[usize::from(*byte)] != NONE).then_some(digits)
}

/// Whether `text` is base64 of at least one byte.
pub fn is_valid(text: &[u8]) -> bool {
    digits_of(text).is_some()
}

/// How many bytes `text` stands for, if it is base64.
pub fn decoded_len(text: &[u8]) -> usize {
    digits_of(text).map_or(0, |digits| digits.len() * 3 / 4)
}

/// Appends what `text` stands for; `None`, and nothing, when it is not base64.
pub fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    for group in digits_of(text)?.chunks(4) {
        let digit = |i: usize| group.get(i).map_or(0, |byte| u32::from(DIGITS[usize::from(*byte)]));
        let bits = digit(0) << 18 | digit(1) << 12 | digit(2) << 6 | digit(3);
        let bytes = bits.to_be_bytes();
        out.extend_from_slice(&bytes[1..group.len()]);
    }
    Some(())
}

/// Appends `bytes` as base64.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place > group.len() { b'=' } else { digit });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4648, section 10.
    #[test]
    fn the_vectors_of_the_rfc() {
        for (bytes, text) in [
            (&b"f"[..], &b"Zg=="[..]),
            (b"fo", b"Zm8="),
            (b"foo", b"Zm9v"),
            (b"foob", b"Zm9vYg=="),
            (b"fooba", b"Zm9vYmE="),
            (b"foobar", b"Zm9vYmFy"),
        ] {
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            encode(bytes, &mut encoded);
            assert_eq!((encoded.as_slice(), decode(text, &mut decoded)), (text, Some(())));
            assert_eq!(decoded, bytes);
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in [&b""[..], b"Z", b"Zg", b"Zg=", b"Zg===", b"====", b"Zm 9", b"Zm9v\n", b"Zm-_", b"Z=g=", b"=Zg="] {
            let mut out = Vec::new();
            assert_eq!((decode(text, &mut out), is_valid(text)), (None, false), "{text:?}");
            assert!(out.is_empty());
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            let (mut text, mut back) = (Vec::new(), Vec::new());
            encode(&bytes, &mut text);
            prop_assert_eq!(decode(&text, &mut back), Some(()));
            prop_assert_eq!(back, bytes);
        }
    }
}
