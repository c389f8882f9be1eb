//! The argument of `-s`: which engine, which directory.
//!
//! Source: `spec/cli.md`: `log:DIR`, `sled:DIR`, or a bare path, which is `log`. Tokyo Cabinet's tuning words
//! (`#xmsiz=SIZE`) may follow, so that kumofs's start scripts keep working; they have no meaning here.

use std::path::PathBuf;

/// An engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// [`crate::store::log`].
    Log,
    /// sled 0.34.
    Sled,
}

/// A parsed `-s`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSpec {
    /// What keeps the records.
    pub engine: Engine,
    /// Where.
    pub dir: PathBuf,
    /// Tuning words that are accepted but mean nothing, as written: for one warning that names them.
    pub ignored: Vec<String>,
}

/// Tokyo Cabinet's, for its databases of every kind.
const TUNING_WORDS: [&str; 16] = [
    "mode", "bnum", "apow", "fpow", "opts", "rcnum", "xmsiz", "dfunit", "lmemb", "nmemb", "lcnum", "ncnum", "width",
    "limsiz", "capnum", "capsiz",
];

/// Parses the argument of `-s`; the error says in one line what is wrong and what to write.
pub fn parse(text: &str) -> Result<StoreSpec, String> {
    let mut parts = text.split('#');
    let place = parts.next().unwrap_or_default();
    let (engine, dir) = match place.split_once(':') {
        Some(("log", dir)) => (Engine::Log, dir),
        Some(("sled", dir)) => (Engine::Sled, dir),
        Some((word, dir)) if !word.contains('/') => {
            return Err(format!("no engine is called {word:?}: write log:{dir}, sled:{dir}, or ./{place} for a path"));
        }
        _ => (Engine::Log, place),
    };
    if dir.is_empty() {
        return Err(format!("{text:?} names no directory: write log:DIR"));
    }
    if dir == "*" || dir == "+" {
        return Err(format!("{dir:?} was a database in memory: name a directory"));
    }
    let mut ignored = Vec::new();
    for word in parts {
        let name = word.split('=').next().unwrap_or_default();
        if !word.contains('=') || !TUNING_WORDS.contains(&name) {
            return Err(format!("{word:?} is no tuning word such as xmsiz=SIZE: leave it out"));
        }
        ignored.push(word.to_owned());
    }
    Ok(StoreSpec { engine, dir: dir.into(), ignored })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_bare_paths() {
        let spec = |engine, dir: &str| Ok(StoreSpec { engine, dir: dir.into(), ignored: vec![] });
        assert_eq!(parse("log:/a/b"), spec(Engine::Log, "/a/b"));
        assert_eq!(parse("sled:b"), spec(Engine::Sled, "b"));
        assert_eq!(parse("/var/kumo/db"), spec(Engine::Log, "/var/kumo/db"));
        assert_eq!(parse("./a:b"), spec(Engine::Log, "./a:b"));
    }

    #[test]
    fn tuning_words_of_old_start_scripts_are_accepted_and_named() {
        let spec = parse("database.tch#xmsiz=600m#rcnum=4k").unwrap();
        assert_eq!((spec.dir, spec.ignored), ("database.tch".into(), vec!["xmsiz=600m".into(), "rcnum=4k".into()]));
    }

    #[test]
    fn what_means_nothing_is_refused_in_one_line() {
        for text in ["", "log:", "rocks:/a", "a:b", "*", "db#xmsiz", "db#speed=9", "db#"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains('\n') && !error.is_empty(), "{text:?}: {error}");
        }
    }
}
