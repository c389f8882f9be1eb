//! memcached's text and meta protocols as the simulated clients speak them: written apart from the production code, so
//! that a mistake of that is not repeated.

use crate::check::{Action, Marks, Outcome, Seen, Stored};
use std::io;

/// The bytes of a command about `key`.
pub fn request(key: &str, action: &Action) -> Vec<u8> {
    let ttl = |secs: &Option<u32>| secs.unwrap_or(0);
    let store = |verb: &str, new: &Stored, more: &str| {
        let head = format!("{verb} {key} {} {} {}{more}\r\n", new.flags, ttl(&new.ttl_secs), new.data.len());
        [head.as_bytes(), &new.data, b"\r\n"].concat()
    };
    let joined = |verb: &str, data: &[u8]| store(verb, &data.to_vec().into(), "");
    match action {
        Action::Get => gets(&[key.to_owned()]),
        Action::Set(new) => store("set", new, ""),
        Action::Add(new) => store("add", new, ""),
        Action::Replace(new) => store("replace", new, ""),
        Action::Append(data) => joined("append", data),
        Action::Prepend(data) => joined("prepend", data),
        Action::Cas(unique, new) => store("cas", new, &format!(" {unique}")),
        Action::Incr(by) => format!("incr {key} {by}\r\n").into_bytes(),
        Action::Decr(by) => format!("decr {key} {by}\r\n").into_bytes(),
        Action::Delete => format!("delete {key}\r\n").into_bytes(),
        Action::Touch(secs) => format!("touch {key} {}\r\n", ttl(secs)).into_bytes(),
        Action::GetAndTouch(secs) => format!("gats {} {key}\r\n", ttl(secs)).into_bytes(),
        Action::Fetch { vivify_secs, recache_secs } => {
            let flag = |letter: char, secs: &Option<u32>| secs.map_or_else(String::new, |n| format!(" {letter}{n}"));
            format!("mg {key} v f c{}{}\r\n", flag('N', vivify_secs), flag('R', recache_secs)).into_bytes()
        }
        Action::Invalidate => format!("md {key} I\r\n").into_bytes(),
        Action::Flush => b"flush_all\r\n".to_vec(),
        Action::FlushLater(secs) => format!("flush_all {secs}\r\n").into_bytes(),
    }
}

/// The command that gets several keys.
pub fn gets(keys: &[String]) -> Vec<u8> {
    format!("gets {}\r\n", keys.join(" ")).into_bytes()
}

/// What the first line of an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// All of it.
    Whole(Outcome),
    /// A value, whose data is the next line: its key, if that is told, and whether `END` follows.
    Value(Option<String>, Seen, bool),
}

/// Reads the first line of an answer.
///
/// # Errors
/// With the line when it is none of these.
pub fn line(text: &str) -> io::Result<Line> {
    let other = || io::Error::other(text.to_owned());
    let words: Vec<&str> = text.split(' ').collect();
    Ok(Line::Whole(match text {
        "STORED" => Outcome::Stored,
        "NOT_STORED" => Outcome::NotStored,
        "EXISTS" => Outcome::Exists,
        "NOT_FOUND" | "NF" => Outcome::NotFound,
        "DELETED" | "HD" => Outcome::Deleted,
        "TOUCHED" => Outcome::Touched,
        "OK" => Outcome::Ok,
        "END" | "EN" => Outcome::Miss,
        "CLIENT_ERROR cannot increment or decrement non-numeric value" => Outcome::NotANumber,
        _ => match words.as_slice() {
            ["VALUE", key, flags, _, unique] => {
                let flags = flags.parse().map_err(|_| other())?;
                let (unique, marks) = (unique.parse().ok(), Marks::default());
                return Ok(Line::Value(Some((*key).to_owned()), Seen { data: Vec::new(), flags, unique, marks }, true));
            }
            ["VA", _, told @ ..] => {
                let number = |letter| told.iter().find_map(|flag| flag.strip_prefix(letter)?.parse::<u64>().ok());
                let has = |letter| told.contains(&letter);
                let flags = number('f').and_then(|n| u32::try_from(n).ok()).ok_or_else(other)?;
                let marks = Marks { won: has("W"), stale: has("X"), sent: has("Z") };
                return Ok(Line::Value(None, Seen { data: Vec::new(), flags, unique: number('c'), marks }, false));
            }
            _ => Outcome::Number(text.trim_end().parse().map_err(|_| other())?),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_all_that_they_tell() {
        assert_eq!(line("HD").unwrap(), Line::Whole(Outcome::Deleted));
        assert_eq!(line("12 ").unwrap(), Line::Whole(Outcome::Number(12)));
        let Line::Value(Some(key), seen, true) = line("VALUE key1 7 2 99").unwrap() else { panic!("a value") };
        assert_eq!((key.as_str(), seen.flags, seen.unique), ("key1", 7, Some(99)));
        let Line::Value(None, seen, false) = line("VA 2 f7 c99 Z X").unwrap() else { panic!("a value") };
        assert_eq!((seen.flags, seen.unique, seen.marks), (7, Some(99), Marks { won: false, stale: true, sent: true }));
        assert!(line("SERVER_ERROR no").is_err() && line("VA 2 c99").is_err());
    }
}
