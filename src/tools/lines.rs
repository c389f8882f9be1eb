//! Records as lines of JSON: what `kumoctl export` writes and `kumoctl import` reads.
//!
//! Source: doc/format.md, "Exported records".

use crate::logic::clock::ClockTime;
use crate::logic::record::{self, Body, LAYOUT_KUMOFS};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longest line that is read: the longest value, in base64, and some more.
pub const LINE_MAX: u64 = 200 << 20;
/// Longest key in bytes.
const KEY_MAX: usize = 4096;

/// A line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Base64; missing in the last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// memcached's client flags.
    #[serde(default, skip_serializing_if = "is_zero")]
    flags: u32,
    /// UNIX seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    expiry: u32,
    /// The version, in decimal: readers of JSON that know doubles alone would round the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Bits of [`record::mark`].
    #[serde(default, skip_serializing_if = "is_zero8")]
    marks: u8,
    /// In kumofs's own layout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    kumofs: bool,
    /// The last line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    end: bool,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_zero8(n: &u8) -> bool {
    *n == 0
}

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// A dbkey, and a dbval without a version.
    Record(Vec<u8>, Vec<u8>),
    /// That all before it is complete.
    End,
}

/// The last line.
pub fn end() -> String {
    "{\"end\":true}\n".to_owned()
}

/// The line of a record; `None`: it is none.
pub fn encode(dbkey: &[u8], dbval: &[u8]) -> Option<String> {
    let value = record::parse(dbval)?;
    let Body { layout, flags, expiry, marks, data, .. } = value.body?;
    let line = Line {
        key: Some(STANDARD.encode(dbkey.get(8..)?)),
        value: Some(STANDARD.encode(data)),
        flags,
        expiry,
        version: Some(value.version.0.to_string()),
        marks,
        kumofs: layout == LAYOUT_KUMOFS,
        end: false,
    };
    let mut text = serde_json::to_string(&line).ok()?;
    text.push('\n');
    Some(text)
}

/// What a line says.
///
/// # Errors
/// Why it says nothing.
pub fn decode(text: &[u8]) -> Result<Said, String> {
    let line: Line = serde_json::from_slice(text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => e.to_string(),
        _ => "it is not JSON, or cut off".to_owned(),
    })?;
    let (key, value) = match (&line.key, &line.value) {
        (Some(key), Some(value)) => (key, value),
        (None, None) if line.end => return Ok(Said::End),
        _ => return Err("it lacks `key` or `value`".to_owned()),
    };
    let bytes = |name, text: &str| STANDARD.decode(text).map_err(|_| format!("`{name}` is not base64"));
    let (key, data) = (bytes("key", key)?, bytes("value", value)?);
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(format!("the key has {} bytes; 1 to {KEY_MAX} are possible", key.len()));
    }
    if line.marks & !record::mark::ALL != 0 {
        return Err("`marks` is unknown".to_owned());
    }
    let (mut dbkey, mut dbval) = (Vec::new(), Vec::new());
    record::encode_dbkey(&key, &mut dbkey);
    if line.kumofs {
        record::encode_header(ClockTime(0), LAYOUT_KUMOFS, 0, 0, 0, &mut dbval);
    } else {
        record::encode_marked(ClockTime(0), line.flags, line.expiry, 0, line.marks, &mut dbval);
    }
    dbval.extend_from_slice(&data);
    Ok(Said::Record(dbkey, dbval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::record::mark;

    #[test]
    fn records_of_each_layout_come_back_without_their_versions() {
        for (layout, flags, marks) in [(0, 0, 0), (1, 5, 0), (2, 1 << 31, 0), (3, 0, mark::STALE)] {
            let (mut dbkey, mut dbval) = (Vec::new(), Vec::new());
            record::encode_dbkey(b"\x00\xff key", &mut dbkey);
            record::encode_header(ClockTime(7 << 32), layout, flags, 9, 3, &mut dbval);
            dbval.extend((layout == 3).then_some(marks));
            dbval.extend_from_slice(b"\n\x00\xfe");
            let text = encode(&dbkey, &dbval).unwrap();
            assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text}");
            let Ok(Said::Record(key, value)) = decode(text.as_bytes()) else { panic!("{text}") };
            let (was, is) =
                (record::parse(&dbval).unwrap().body.unwrap(), record::parse(&value).unwrap().body.unwrap());
            assert_eq!((key, is.data, is.flags, is.expiry, is.marks), (dbkey, was.data, was.flags, was.expiry, marks));
            assert_eq!(is.layout == LAYOUT_KUMOFS, layout == LAYOUT_KUMOFS);
        }
    }

    #[test]
    fn the_golden_lines_are_read_and_written() {
        let mut dbval = Vec::new();
        record::encode_header(ClockTime(0x6b00a03f0001a71c), 1, 7, 9, 0, &mut dbval);
        dbval.extend_from_slice(b"abc");
        let golden =
            "{\"key\":\"a2V5\",\"value\":\"YWJj\",\"flags\":7,\"expiry\":9,\"version\":\"7710338754501781276\"}\n";
        assert_eq!(encode(b"12345678key", &dbval).as_deref(), Some(golden));
        assert_eq!(decode(end().as_bytes()), Ok(Said::End));
        assert!(matches!(decode(b"{\"key\":\"a2V5\",\"value\":\"\"}"), Ok(Said::Record(..))));
        assert_eq!(encode(b"12345678key", b"12345678"), None, "a deletion mark is no record");
    }

    #[test]
    fn each_bad_line_is_told_what_is_wrong_with_it() {
        for (line, why) in [
            ("{\"key\":\"a2V5\",\"value\":\"YWJ", "cut off"),
            ("", "cut off"),
            ("[]", "lacks"),
            ("{\"key\":\"a2V5\"}", "lacks"),
            ("{\"end\":false}", "lacks"),
            ("{\"key\":\"a2V5\",\"value\":\"?\"}", "`value` is not base64"),
            ("{\"key\":\"\",\"value\":\"\"}", "0 bytes"),
            ("{\"key\":\"a2V5\",\"value\":\"\",\"colour\":1}", "colour"),
            ("{\"key\":\"a2V5\",\"value\":\"\",\"flags\":-1}", "-1"),
            ("{\"key\":\"a2V5\",\"value\":\"\",\"marks\":64}", "marks"),
        ] {
            let told = decode(line.as_bytes()).unwrap_err();
            assert!(told.contains(why) && !told.contains('\n'), "{line}: {told}");
        }
    }
}
