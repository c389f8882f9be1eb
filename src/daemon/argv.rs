//! kumofs's spelling of options, rewritten to the long GNU form before clap reads it.
//!
//! kumofs has options of several letters after one dash, with the value in the next word (`-TR 4`, `-lc SPEC`), which
//! no usual parser knows: to clap `-TR` is `-T` with the value `R`. So clap is told of long names only, and a table
//! gives each its short spelling. The invariant: every word of the result that is an option has the form
//! `--name` or `--name=value`, so that a value may begin with a dash without being taken for an option.

use std::ffi::{OsStr, OsString};

/// Short spellings, without the dash, and the long names they stand for.
pub type Shorts = &'static [&'static [(&'static str, &'static str)]];

/// What is to be known of a long option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its name, without dashes.
    pub long: String,
    /// Whether a value belongs to it.
    pub takes_value: bool,
}

/// The options of one command.
#[derive(Debug)]
pub struct Spelling<'a> {
    /// All long options.
    pub known: &'a [Known],
    /// Their short spellings.
    pub shorts: Shorts,
}

/// An option and the value written in the same word, if any.
struct Found<'a> {
    known: &'a Known,
    attached: Option<OsString>,
}

impl Spelling<'_> {
    /// The short spelling of a long name.
    pub fn short_of(&self, long: &str) -> Option<&'static str> {
        self.shorts.iter().flat_map(|part| part.iter()).find(|(_, l)| *l == long).map(|(short, _)| *short)
    }

    /// Rewrites the words after the program's name. A word that is no known option is left as it is, for the parser to
    /// name in its error. The error is a line that says which option lacks its value.
    pub fn rewrite(&self, words: Vec<OsString>) -> Result<Vec<OsString>, String> {
        let mut out = Vec::with_capacity(words.len());
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            if word == "--" {
                out.push(word);
                out.extend(words);
                break;
            }
            let Some(found) = word.to_str().and_then(|w| self.find(w)) else {
                out.push(word);
                continue;
            };
            for option in found {
                let needs_next = option.known.takes_value && option.attached.is_none();
                let value = if needs_next {
                    Some(self.next_value(&word, option.known, words.next())?)
                } else {
                    option.attached
                };
                out.push(spell(&option.known.long, value.as_deref()));
            }
        }
        Ok(out)
    }

    /// The value of an option is the next word, whatever it looks like, unless that is itself an option: then the
    /// value was forgotten.
    fn next_value(&self, typed: &OsStr, known: &Known, next: Option<OsString>) -> Result<OsString, String> {
        let typed = typed.to_string_lossy();
        let Some(next) = next else {
            return Err(format!("{typed} needs a value"));
        };
        match next.to_str() {
            Some(n) if n.starts_with('-') && n.len() > 1 && self.find(n).is_some() => Err(format!(
                "{typed} needs a value, but the option {n} follows; a value that looks like one is written --{}={n}",
                known.long
            )),
            _ => Ok(next),
        }
    }

    /// The options that a word spells: one, or several flags after one dash of which the last may take a value.
    fn find(&self, word: &str) -> Option<Vec<Found<'_>>> {
        if let Some(long) = word.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (long, None),
            };
            return self.known(name).map(|known| vec![Found { known, attached }]);
        }
        let letters = word.strip_prefix('-').filter(|l| !l.is_empty())?;
        self.find_several_letters(letters).map(|f| vec![f]).or_else(|| self.find_letters(letters))
    }

    /// A spelling of several letters, alone or with `=value`, or with a number at once: `-TR`, `-TR=4`, `-TR4`.
    fn find_several_letters(&self, letters: &str) -> Option<Found<'_>> {
        let several = self.shorts.iter().flat_map(|part| part.iter()).filter(|(short, _)| short.len() > 1);
        for (short, long) in several {
            let (Some(rest), Some(known)) = (letters.strip_prefix(short), self.known(long)) else { continue };
            if rest.is_empty() {
                return Some(Found { known, attached: None });
            }
            if known.takes_value && rest.starts_with(|c: char| c == '=' || c.is_ascii_digit()) {
                return Some(Found { known, attached: Some(rest.strip_prefix('=').unwrap_or(rest).into()) });
            }
        }
        None
    }

    /// Spellings of one letter: flags, then perhaps one that takes the rest of the word as its value.
    fn find_letters(&self, letters: &str) -> Option<Vec<Found<'_>>> {
        let mut found = Vec::new();
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            let (this, after) = rest.split_at(letter.len_utf8());
            let (_, long) = self.shorts.iter().flat_map(|part| part.iter()).find(|(short, _)| *short == this)?;
            let known = self.known(long)?;
            if known.takes_value {
                let attached = (!after.is_empty()).then(|| OsString::from(after.strip_prefix('=').unwrap_or(after)));
                found.push(Found { known, attached });
                return Some(found);
            }
            found.push(Found { known, attached: None });
            rest = after;
        }
        Some(found)
    }

    fn known(&self, long: &str) -> Option<&Known> {
        self.known.iter().find(|k| k.long == long)
    }
}

/// Writes `--name` or `--name=value`.
pub fn spell(long: &str, value: Option<&OsStr>) -> OsString {
    let mut word = OsString::from(format!("--{long}"));
    if let Some(value) = value {
        word.push("=");
        word.push(value);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTS: Shorts = &[
        &[("v", "verbose"), ("a", "auto"), ("o", "log"), ("g", "binary-log"), ("l", "listen")],
        &[("TR", "threads"), ("gN", "min"), ("lc", "cache"), ("As", "async")],
    ];

    fn rewrite(line: &str) -> Result<String, String> {
        let flag = ["verbose", "auto", "async"].map(|long| Known { long: long.into(), takes_value: false });
        let valued = ["log", "binary-log", "listen", "threads", "min", "cache"]
            .map(|long| Known { long: long.into(), takes_value: true });
        let known = [&flag[..], &valued[..]].concat();
        let words = line.split(' ').map(OsString::from).collect();
        let out = Spelling { known: &known, shorts: SHORTS }.rewrite(words)?;
        Ok(out.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_way_of_writing_an_option_becomes_the_long_one() {
        let cases = [
            ("-TR 4", "--threads=4"),
            ("-TR4", "--threads=4"),
            ("-TR=4", "--threads=4"),
            ("--threads 4", "--threads=4"),
            ("--threads=4", "--threads=4"),
            ("-lc x", "--cache=x"),
            ("-l c", "--listen=c"),
            ("-lsvr1:80", "--listen=svr1:80"),
            ("-l=svr1", "--listen=svr1"),
            ("-gN 60", "--min=60"),
            ("-gN60", "--min=60"),
            ("-gNew.mpac", "--binary-log=New.mpac"),
            ("-g N", "--binary-log=N"),
            ("-As", "--async"),
            ("-va", "--verbose --auto"),
            ("-valsvr1", "--verbose --auto --listen=svr1"),
            ("-vl svr1", "--verbose --listen=svr1"),
            ("-v -As -TR 4 -a", "--verbose --async --threads=4 --auto"),
        ];
        for (typed, long) in cases {
            assert_eq!(rewrite(typed), Ok(long.to_owned()), "{typed}");
        }
    }

    #[test]
    fn values_may_look_odd_but_not_be_options() {
        assert_eq!(rewrite("-o -").as_deref(), Ok("--log=-"));
        assert_eq!(rewrite("-TR -5").as_deref(), Ok("--threads=-5"));
        assert_eq!(rewrite("-o -x.log").as_deref(), Ok("--log=-x.log"));
        assert_eq!(rewrite("--log=-v").as_deref(), Ok("--log=-v"));
        assert_eq!(rewrite("--log= -v").as_deref(), Ok("--log= --verbose"));
        let forgotten = "-o needs a value, but the option -v follows; a value that looks like one is written --log=-v";
        assert_eq!(rewrite("-o -v"), Err(forgotten.to_owned()));
        assert_eq!(rewrite("-v -TR"), Err("-TR needs a value".to_owned()));
    }

    #[test]
    fn unknown_words_and_all_after_two_dashes_are_left_alone() {
        for same in ["-x", "-Tr 4", "word", "--what", "-- -TR 4", "-", "-Asx", "-vx", "--threadsx 5", "-é"] {
            assert_eq!(rewrite(same).as_deref(), Ok(same), "{same}");
        }
    }
}
