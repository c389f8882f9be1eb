//! What `-lc` names: how much memory a gateway's cache may take.
//!
//! kumofs opened an abstract database of Tokyo Cabinet, whose name `*` meant a hash in memory, and which words such as
//! `#capsiz=64m` could follow. Ours is always in memory; a size alone is enough.

use super::values::Size;
use std::str::FromStr;

/// Where nothing else is said, in bytes.
const DEFAULT_BYTES: u64 = 64 << 20;
/// Values of fewer bytes are not cached, unless `minsiz` says so: see doc/performance.md, "The local cache".
pub const LEAST_VALUE: u64 = 1 << 10;
/// The smallest cache, in bytes: less than what tells which keys are asked for again.
const LEAST_BYTES: u64 = 1 << 20;
/// Names of Tokyo Cabinet's databases in memory.
const IN_MEMORY: [&str; 4] = ["*", "+", ":", ""];
/// Tokyo Cabinet's words for them that mean nothing here.
const IGNORED_WORDS: [&str; 4] = ["bnum", "capnum", "mutex", "cmpfunc"];

/// A cache as `-lc` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheSpec {
    /// Memory for it, in bytes (`capsiz`).
    pub bytes: u64,
    /// Values of fewer bytes are not cached (`minsiz`, a word of ours).
    pub least_value: u64,
    /// Words that were given and mean nothing here, in order.
    pub ignored: Vec<String>,
}

impl FromStr for CacheSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<CacheSpec, String> {
        let mut parts = text.split('#');
        let name = parts.next().unwrap_or_default();
        let mut spec = CacheSpec { bytes: DEFAULT_BYTES, least_value: LEAST_VALUE, ignored: Vec::new() };
        if !IN_MEMORY.contains(&name) {
            spec.bytes = size(name).map_err(|_| format!("'{name}' is no size; write one such as 64m, or '*'"))?;
        }
        for word in parts {
            let Some((name, value)) = word.split_once('=') else {
                return Err(format!("expected #WORD=VALUE, found '#{word}'"));
            };
            let size = || size(value).map_err(|e| format!("{name}: {e}"));
            match name {
                "capsiz" => spec.bytes = size()?,
                "minsiz" => spec.least_value = size()?,
                _ if IGNORED_WORDS.contains(&name) => spec.ignored.push(name.to_owned()),
                _ => return Err(format!("unknown word '{name}'; known are capsiz and minsiz")),
            }
        }
        if spec.bytes < LEAST_BYTES {
            return Err("a cache takes at least 1m".to_owned());
        }
        Ok(spec)
    }
}

fn size(text: &str) -> Result<u64, String> {
    text.parse().map(|Size(bytes)| bytes)
}

impl CacheSpec {
    /// The one warning about words without meaning, if there are any.
    pub fn warning(&self) -> Option<String> {
        (!self.ignored.is_empty())
            .then(|| format!("--local-cache: {} without meaning, ignored", self.ignored.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bytes: u64, least_value: u64, ignored: &[&str]) -> CacheSpec {
        CacheSpec { bytes, least_value, ignored: ignored.iter().map(|word| (*word).to_owned()).collect() }
    }

    #[test]
    fn a_size_alone_and_kumofs_spelling_mean_the_same() {
        assert_eq!("64m".parse(), Ok(spec(64 << 20, LEAST_VALUE, &[])));
        assert_eq!("*#capsiz=64m".parse(), Ok(spec(64 << 20, LEAST_VALUE, &[])));
        assert_eq!("*".parse(), Ok(spec(DEFAULT_BYTES, LEAST_VALUE, &[])));
        assert_eq!("2g#minsiz=0".parse(), Ok(spec(2 << 30, 0, &[])));
    }

    #[test]
    fn words_without_meaning_are_named_in_one_warning() {
        let spec: CacheSpec = "*#bnum=1000#capnum=5#capsiz=8m".parse().unwrap();
        assert_eq!(spec.bytes, 8 << 20);
        assert_eq!(spec.warning().as_deref(), Some("--local-cache: bnum, capnum without meaning, ignored"));
        assert_eq!("8m".parse::<CacheSpec>().unwrap().warning(), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for (typed, message) in [
            ("casket.tch", "'casket.tch' is no size; write one such as 64m, or '*'"),
            ("64m#size=3", "unknown word 'size'; known are capsiz and minsiz"),
            ("64m#capsiz", "expected #WORD=VALUE, found '#capsiz'"),
            ("64m#minsiz=x", "minsiz: expected a size such as 4096, 64k or 1m"),
            ("1k", "a cache takes at least 1m"),
        ] {
            assert_eq!(typed.parse::<CacheSpec>(), Err(message.to_owned()), "{typed}");
        }
    }
}
