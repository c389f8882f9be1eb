//! What `-lc` names: the gateway's local cache.
//!
//! kumofs opened a Tokyo Cabinet abstract database here: `*` for one in memory, with words such as
//! `#capnum=10000#capsiz=64m`. Ours is always in memory, and a plain size such as `64m` is enough to say so.

use super::values::Size;
use std::str::FromStr;

/// The size of a cache that does not name one, in bytes.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// A local cache in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheSpec {
    /// Most memory it takes, in bytes.
    pub max_bytes: u64,
    /// Most values it keeps; none means as many as fit.
    pub max_items: Option<u64>,
    /// What was given and means nothing here, in order.
    pub ignored: Vec<String>,
}

impl FromStr for CacheSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<CacheSpec, String> {
        let mut spec = CacheSpec { max_bytes: DEFAULT_CACHE_BYTES, max_items: None, ignored: Vec::new() };
        let mut parts = text.split('#');
        match parts.next().unwrap_or_default() {
            "" => return Err("expected a size such as 64m, or *#capsiz=64m".to_owned()),
            "*" | "+" => {}
            name => match name.parse() {
                Ok(Size(bytes)) => spec.max_bytes = bytes,
                Err(_) => spec.ignored.push(format!("the path {name}")),
            },
        }
        for word in parts {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("expected #WORD=VALUE, found '#{word}'"))?;
            let size = || value.parse::<Size>().map_err(|e| format!("{name}: {e}"));
            match name {
                "capsiz" => spec.max_bytes = size()?.0,
                "capnum" => spec.max_items = Some(size()?.0),
                _ => spec.ignored.push(name.to_owned()),
            }
        }
        Ok(spec)
    }
}

impl CacheSpec {
    /// The one warning about what has no meaning, if anything has none.
    pub fn warning(&self) -> Option<String> {
        let ignored = self.ignored.join(", ");
        (!ignored.is_empty())
            .then(|| format!("--local-cache: the cache is in memory; without meaning, ignored: {ignored}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_the_words_of_tokyo_cabinet_set_the_bounds() {
        let of = |text: &str| text.parse::<CacheSpec>().map(|s| (s.max_bytes, s.max_items));
        assert_eq!(of("16m"), Ok((16 << 20, None)));
        assert_eq!(of("*"), Ok((DEFAULT_CACHE_BYTES, None)));
        assert_eq!(of("*#capnum=10k#capsiz=1m"), Ok((1 << 20, Some(10 << 10))));
        assert!(of("").is_err() && of("*#capsiz").is_err() && of("*#capsiz=x").is_err());
    }

    #[test]
    fn what_has_no_meaning_is_named_in_one_warning() {
        let spec: CacheSpec = "/tmp/cache.tch#bnum=5#capsiz=1m".parse().unwrap();
        let warning = "--local-cache: the cache is in memory; without meaning, ignored: the path /tmp/cache.tch, bnum";
        assert_eq!(spec.warning().as_deref(), Some(warning));
    }
}
