//! What `-s` names: an engine, a directory, and Tokyo Cabinet's tuning words.
//!
//! kumofs opened a Tokyo Cabinet hash database whose path could be followed by words such as `#xmsiz=600m#rcnum=4k`.
//! Ours are other engines; the words are accepted, so that a start script need not change, and those without meaning
//! here are kept by name for one warning. A word that Tokyo Cabinet does not know is an error.

use super::values::Size;
pub use crate::store::open::Engine;
use std::path::PathBuf;
use std::str::FromStr;

/// A store as `-s` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSpec {
    /// Which engine.
    pub engine: Engine,
    /// Its directory.
    pub dir: PathBuf,
    /// Memory for sled's cache, in bytes (`xmsiz`). The log engine leaves caching to the operating system.
    pub cache_bytes: Option<u64>,
    /// Words that were given and mean nothing here, in order.
    pub ignored: Vec<String>,
}

/// Tokyo Cabinet's words with a number or size as value, then those with another value.
const NUMBER_WORDS: [&str; 12] =
    ["bnum", "apow", "fpow", "rcnum", "xmsiz", "dfunit", "lmemb", "nmemb", "lcnum", "ncnum", "capnum", "capsiz"];
const OTHER_WORDS: [&str; 2] = ["mode", "opts"];

impl FromStr for StoreSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreSpec, String> {
        let mut parts = text.split('#');
        let (engine, path) = split_engine(parts.next().unwrap_or_default())?;
        if path.is_empty() {
            return Err("the path is missing; write log:DIR, sled:DIR or DIR".to_owned());
        }
        let mut spec = StoreSpec { engine, dir: PathBuf::from(path), cache_bytes: None, ignored: Vec::new() };
        for word in parts {
            spec.tune(word)?;
        }
        Ok(spec)
    }
}

impl StoreSpec {
    fn tune(&mut self, word: &str) -> Result<(), String> {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("expected #WORD=VALUE, found '#{word}'"));
        };
        let is_number = NUMBER_WORDS.contains(&name);
        if !is_number && !OTHER_WORDS.contains(&name) {
            return Err(format!("unknown tuning word '{name}'; known are xmsiz and the others of Tokyo Cabinet"));
        }
        let size = if is_number { Some(value.parse::<Size>().map_err(|e| format!("{name}: {e}"))?) } else { None };
        match (name, size) {
            ("xmsiz", Some(Size(bytes))) if self.engine == Engine::Sled => self.cache_bytes = Some(bytes),
            _ => self.ignored.push(name.to_owned()),
        }
        Ok(())
    }

    /// The one warning about words without meaning, if there are any.
    pub fn warning(&self) -> Option<String> {
        if self.ignored.is_empty() {
            return None;
        }
        let engine = match self.engine {
            Engine::Log => "log",
            Engine::Sled => "sled",
        };
        Some(format!("--store: {} without meaning for the {engine} engine, ignored", self.ignored.join(", ")))
    }
}

/// Takes the engine's name off a path. What looks like a name but is none is refused, so that a typing error does not
/// become a directory.
fn split_engine(text: &str) -> Result<(Engine, &str), String> {
    match text.split_once(':') {
        Some(("log", path)) => Ok((Engine::Log, path)),
        Some(("sled", path)) => Ok((Engine::Sled, path)),
        Some((name, path)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()) => Err(format!(
            "unknown engine '{name}'; write log:DIR or sled:DIR, or ./{name}:{path} for a path with a colon"
        )),
        _ => Ok((Engine::Log, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(engine: Engine, dir: &str) -> StoreSpec {
        StoreSpec { engine, dir: dir.into(), cache_bytes: None, ignored: Vec::new() }
    }

    #[test]
    fn the_engine_stands_before_the_path_and_log_is_the_default() {
        assert_eq!("/var/kumodb.tch".parse(), Ok(spec(Engine::Log, "/var/kumodb.tch")));
        assert_eq!("log:data".parse(), Ok(spec(Engine::Log, "data")));
        assert_eq!("sled:/d".parse(), Ok(spec(Engine::Sled, "/d")));
        assert_eq!("./odd:name".parse(), Ok(spec(Engine::Log, "./odd:name")));
    }

    #[test]
    fn words_without_meaning_are_named_in_one_warning() {
        let s: StoreSpec = "database.tch#xmsiz=600m#rcnum=4k#mode=wct".parse().unwrap();
        assert_eq!(s.dir, PathBuf::from("database.tch"));
        let warning = "--store: xmsiz, rcnum, mode without meaning for the log engine, ignored";
        assert_eq!(s.warning().as_deref(), Some(warning));
        assert_eq!("data".parse::<StoreSpec>().unwrap().warning(), None);
    }

    #[test]
    fn xmsiz_is_the_cache_of_sled() {
        let s: StoreSpec = "sled:d#xmsiz=600m".parse().unwrap();
        assert_eq!((s.cache_bytes, s.warning()), (Some(600 << 20), None));
    }

    #[test]
    fn mistakes_are_refused() {
        let cases = [
            ("", "the path is missing; write log:DIR, sled:DIR or DIR"),
            ("log:", "the path is missing; write log:DIR, sled:DIR or DIR"),
            ("rocks:/d", "unknown engine 'rocks'; write log:DIR or sled:DIR, or ./rocks:/d for a path with a colon"),
            ("d#xmsiz", "expected #WORD=VALUE, found '#xmsiz'"),
            ("d#xmsiz=big", "xmsiz: expected a size such as 4096, 64k or 1m"),
            ("d#size=1", "unknown tuning word 'size'; known are xmsiz and the others of Tokyo Cabinet"),
        ];
        for (typed, message) in cases {
            assert_eq!(typed.parse::<StoreSpec>(), Err(message.to_owned()), "{typed}");
        }
    }
}
