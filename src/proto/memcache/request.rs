//! What clients ask for. Keys and data borrow from the buffer that was parsed.

use super::{Limits, Meta, has_controls};
use crate::logic::counter::Direction;
use memchr::memchr;

/// A command, whatever dialect it came in. `noreply`: the client reads no answer, so none may be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Each key's value, if it has one, in the order of the keys; then [`Reply::End`](super::Reply::End).
    Get {
        /// At least one.
        keys: Keys<'a>,
        /// Whether the values carry their cas unique.
        with_cas: bool,
    },
    /// As `Get`, and sets the expiry of what it finds.
    GetAndTouch {
        /// The new expiry, see [`expiry_of`](crate::logic::expiry::expiry_of).
        exptime: i64,
        /// May be none: then the end follows at once.
        keys: Keys<'a>,
        /// Whether the values carry their cas unique.
        with_cas: bool,
    },
    /// Writes a value.
    Store {
        /// On what condition, and where the data goes.
        verb: Verb,
        /// The key.
        key: &'a [u8],
        /// The client's own; append and prepend leave what is stored.
        flags: u32,
        /// See [`expiry_of`](crate::logic::expiry::expiry_of); append and prepend leave what is stored.
        exptime: i64,
        /// At most [`Limits::value_bytes`](super::Limits) bytes.
        data: &'a [u8],
        /// The cas unique that append and prepend require; 0: any.
        cas: u64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
        /// The cas unique required; 0: any.
        cas: u64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// Counts a decimal number up or down, see [`counter`](crate::logic::counter).
    Count {
        /// `incr` or `decr`.
        direction: Direction,
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// The cas unique required of what is there; 0: any.
        cas: u64,
        /// What to store where nothing is.
        create: Option<Create>,
        /// No answer is wanted.
        noreply: bool,
    },
    /// Sets the expiry.
    Touch {
        /// The key.
        key: &'a [u8],
        /// The new expiry, see [`expiry_of`](crate::logic::expiry::expiry_of).
        exptime: i64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// Hides everything stored before a moment, see [`flush_time`](crate::logic::expiry::flush_time).
    FlushAll {
        /// Seconds from now, or UNIX time; 0 and less is now.
        delay: i64,
        /// No answer is wanted.
        noreply: bool,
    },
    /// A command of the meta protocol.
    Meta(Meta<'a>),
    /// Nothing; the answer tells that all before it are answered.
    Noop,
    /// Figures about the service.
    Stats(StatsTopic),
    /// The version's text.
    Version,
    /// Sets how much memcached logs; answered OK and otherwise without effect.
    Verbosity {
        /// No answer is wanted.
        noreply: bool,
    },
    /// Closes the connection after all earlier answers.
    Quit,
}

impl Request<'_> {
    /// Whether the client reads no answer.
    pub fn noreply(&self) -> bool {
        match self {
            Request::Store { noreply, .. }
            | Request::Delete { noreply, .. }
            | Request::Count { noreply, .. }
            | Request::Touch { noreply, .. }
            | Request::FlushAll { noreply, .. }
            | Request::Verbosity { noreply } => *noreply,
            Request::Get { .. }
            | Request::GetAndTouch { .. }
            | Request::Stats(_)
            | Request::Meta(_)
            | Request::Noop
            | Request::Version
            | Request::Quit => false,
        }
    }
}

/// A number to store where there is none to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Create {
    /// The number.
    pub initial: u64,
    /// See [`expiry_of`](crate::logic::expiry::expiry_of).
    pub exptime: i64,
}

/// How a value is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// In any case.
    Set,
    /// Only where there is none.
    Add,
    /// Only over one that is there.
    Replace,
    /// After the data that is there. memcached answers "not stored" also where the sum is too large.
    Append,
    /// Before the data that is there, otherwise as `Append`.
    Prepend,
    /// Only over the value with this cas unique.
    Cas(u64),
}

/// Which figures `stats` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatsTopic {
    /// `stats`.
    General,
    /// `stats settings`.
    Settings,
    /// `stats items`.
    Items,
    /// `stats slabs`.
    Slabs,
    /// `stats sizes`.
    Sizes,
    /// `stats conns`.
    Conns,
    /// `stats reset`: sets the counters to zero, answered by [`Reply::Reset`](super::Reply::Reset).
    Reset,
    /// `stats detail`: what was asked for by prefix.
    Detail(Detail),
    /// `stats kumofs`: what memcached has no names for.
    Kumofs,
    /// One that there is not.
    Other,
}

/// What `stats detail` is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Count from now on.
    On,
    /// Count no more; what was counted stays.
    Off,
    /// Tell what was counted.
    Dump,
}

impl Detail {
    /// By its name.
    pub(super) fn named(name: &[u8]) -> Option<Detail> {
        Some(match name {
            b"on" => Detail::On,
            b"off" => Detail::Off,
            b"dump" => Detail::Dump,
            _ => return None,
        })
    }
}

impl StatsTopic {
    /// The topic of this name; none is [`StatsTopic::General`].
    pub(super) fn named(name: &[u8]) -> Option<StatsTopic> {
        Some(match name {
            b"" => StatsTopic::General,
            b"settings" => StatsTopic::Settings,
            b"items" => StatsTopic::Items,
            b"slabs" => StatsTopic::Slabs,
            b"sizes" => StatsTopic::Sizes,
            b"conns" => StatsTopic::Conns,
            b"reset" => StatsTopic::Reset,
            b"kumofs" => StatsTopic::Kumofs,
            _ => return None,
        })
    }
}

/// The keys of a retrieval, in the order they were sent, repetitions included. Iterating allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys<'a> {
    /// The keys left, separated by spaces; neither starts nor ends with one.
    area: &'a [u8],
    left: usize,
}

impl<'a> Keys<'a> {
    /// One key, which may hold any bytes.
    pub fn one(key: &'a [u8]) -> Keys<'a> {
        Keys { area: key, left: 1 }
    }

    /// The words of `area`; `None` when one of them is longer than keys may be, or holds a control character.
    pub(super) fn split(area: &'a [u8], limits: &Limits) -> Option<Keys<'a>> {
        let area = area.trim_ascii_spaces();
        if has_controls(area) {
            return None;
        }
        let mut left = 0;
        let mut rest = area;
        while !rest.is_empty() {
            let end = memchr(b' ', rest).unwrap_or(rest.len());
            if end > limits.key_bytes {
                return None;
            }
            left += 1;
            rest = rest[end..].trim_leading_spaces();
        }
        Some(Keys { area, left })
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self.left {
            0 => None,
            1 => {
                self.left = 0;
                Some(self.area)
            }
            _ => {
                self.left -= 1;
                let end = memchr(b' ', self.area).unwrap_or(self.area.len());
                let (key, rest) = self.area.split_at(end);
                self.area = rest.trim_leading_spaces();
                Some(key)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Keys<'_> {}

/// Spaces separate the words of a line; tabs and the like are bytes of a word.
pub(super) trait Spaces {
    /// Without the spaces in front.
    fn trim_leading_spaces(&self) -> &Self;
    /// Without the spaces at both ends.
    fn trim_ascii_spaces(&self) -> &Self;
}

impl Spaces for [u8] {
    fn trim_leading_spaces(&self) -> &[u8] {
        let start = self.iter().position(|b| *b != b' ').unwrap_or(self.len());
        &self[start..]
    }

    fn trim_ascii_spaces(&self) -> &[u8] {
        let trimmed = self.trim_leading_spaces();
        let end = trimmed.iter().rposition(|b| *b != b' ').map_or(0, |last| last + 1);
        &trimmed[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(area: &[u8]) -> Vec<&[u8]> {
        let keys = Keys::split(area, &Limits::default()).unwrap();
        let (len, keys) = (keys.len(), keys.collect::<Vec<_>>());
        assert_eq!(len, keys.len());
        keys
    }

    #[test]
    fn keys_come_in_order_with_repetitions() {
        assert_eq!(split(b"a"), [b"a"]);
        assert_eq!(split(b"  a   bb a "), [&b"a"[..], b"bb", b"a"]);
        assert_eq!(split(b" ab \xff"), [&b"ab"[..], b"\xff"]);
        assert!(split(b"").is_empty());
        assert!(split(b"    ").is_empty());
    }

    #[test]
    fn one_key_too_long_refuses_all() {
        let longest = [b'k'; 250];
        assert_eq!(split(&longest), [&longest[..]]);
        let mut area = b"a ".to_vec();
        area.extend([b'k'; 251]);
        assert_eq!(Keys::split(&area, &Limits::default()), None);
        let prefixed = Limits { key_bytes: 249, ..Limits::default() };
        assert_eq!(Keys::split(&longest, &prefixed), None);
        assert_eq!(Keys::split(b"a b\tc", &Limits::default()), None);
    }

    #[test]
    fn a_single_key_may_hold_spaces() {
        assert_eq!(Keys::one(b" a b ").collect::<Vec<_>>(), [b" a b "]);
    }
}
