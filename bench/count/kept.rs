//! The counts that are kept, and the comparison with them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# Instructions for one operation, as callgrind counts them in the profile `sim`; they are compared by the gate, and
# `cargo run --profile sim --features sim --bin kumocount -- --renew` writes this file. First line: what made them.
";

/// What is kept.
pub struct Kept {
    /// Compiler and processor.
    pub maker: String,
    /// Names and instructions for one operation.
    pub counts: Vec<(String, u64)>,
}

impl Kept {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Kept, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let maker = lines.next().unwrap_or_default().to_owned();
        let mut counts = Vec::new();
        for line in lines {
            let parsed = line.rsplit_once("  ").and_then(|(name, count)| Some((name.trim_end(), count.parse().ok()?)));
            let (name, count) = parsed.ok_or_else(|| format!("{}: {line:?} is no count", path.display()))?;
            counts.push((name.to_owned(), count));
        }
        Ok(Kept { maker, counts })
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let mut text = format!("{HEAD}{}\n", self.maker);
        for (name, count) in &self.counts {
            // A String takes everything.
            let _ = writeln!(text, "{name:<40}  {count}");
        }
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// A table of what is kept beside what was counted, and whether nothing grew by more than `tolerance` percent. What is
    /// counted and not kept, or kept and not counted, fails, too: the file is to be renewed with the change.
    pub fn compare(&self, counted: &[(String, u64)], tolerance: u64) -> (String, bool) {
        let mut kept: BTreeMap<&str, u64> = self.counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let mut text = format!("{:<40} {:>9} {:>9} {:>8}\n", "instructions for one operation", "kept", "now", "change");
        let mut passed = true;
        for (name, now) in counted {
            let Some(before) = kept.remove(name.as_str()) else {
                passed = false;
                let _ = writeln!(text, "{name:<40} {:>9} {now:>9}  NOT KEPT: run with --renew", "");
                continue;
            };
            let change = (*now as f64 / before.max(1) as f64 - 1.0) * 100.0;
            let grew = now * 100 > before * (100 + tolerance);
            passed &= !grew;
            let shrank = now * 100 < before * (100 - tolerance);
            let remark = if grew {
                "  TOO MANY"
            } else if shrank {
                "  keep it: run with --renew"
            } else {
                ""
            };
            let _ = writeln!(text, "{name:<40} {before:>9} {now:>9} {change:>+7.1}%{remark}");
        }
        for (name, before) in kept {
            passed = false;
            let _ = writeln!(text, "{name:<40} {before:>9} {:>9}  NOT COUNTED: run with --renew", "");
        }
        (text, passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, u64)]) -> Vec<(String, u64)> {
        all.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    #[test]
    fn what_grows_by_more_than_the_tolerance_fails() {
        let kept = Kept { maker: String::new(), counts: counts(&[("get", 1000), ("set", 2000)]) };
        let compare = |get, set| kept.compare(&counts(&[("get", get), ("set", set)]), 10).1;
        assert!(compare(1000, 2000) && compare(1100, 2200) && compare(10, 10));
        assert!(!compare(1101, 2000) && !compare(1000, 2201));
    }

    #[test]
    fn what_is_counted_is_what_is_kept() {
        let kept = Kept { maker: String::new(), counts: counts(&[("get", 1000)]) };
        assert!(!kept.compare(&counts(&[("get", 1000), ("set", 1)]), 10).1);
        assert!(!kept.compare(&[], 10).1);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let path = std::env::temp_dir().join(format!("kumocount.kept.{}", std::process::id()));
        let kept = Kept { maker: "rustc 1".to_owned(), counts: counts(&[("get of 20 keys", 7), ("set", 123_456)]) };
        kept.write(&path).unwrap();
        let read = Kept::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read.maker, read.counts), (kept.maker, kept.counts));
    }
}
