//! The settings of a running daemon, as `kumoctl ADDR config` shows and changes them.
//!
//! A role knows its own that can be changed ([`Own`]); what the process was told at its start, and the level of its log, are in
//! [`Settings`]. Changes end with the process.

use crate::proto::rpc::msgpack::{DecodeError, Reader, write_nil, write_raw};
use crate::proto::rpc::settings::{Setting, write_list};
use std::sync::Arc;

/// The level of the log: read, and changed.
#[derive(Clone, Copy, Debug)]
pub struct LogLevel {
    /// What it is.
    pub get: fn() -> String,
    /// Changes it. The error is a line that says what may be set.
    pub set: fn(&str) -> Result<(), String>,
}

/// What a process was told at its start.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Long names of options and their values.
    told: Arc<[(String, String)]>,
    level: Option<LogLevel>,
}

type Change<'a> = dyn FnOnce(&str) -> Result<(), String> + 'a;

/// A setting that a role can change while it runs.
pub struct Own<'a> {
    /// The long name of the option that sets it at the start.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// Changes it. The error is a line that says what may be set.
    pub set: Box<Change<'a>>,
}

/// The name of the level of the log; `--verbose` sets it at the start.
const LOG_LEVEL: &str = "log-level";

impl Settings {
    /// Of a process with these options in effect.
    pub fn new(told: Vec<(String, String)>, level: LogLevel) -> Settings {
        Settings { told: told.into(), level: Some(level) }
    }

    fn all(&self, own: &[Own<'_>]) -> Vec<Setting> {
        let mut all: Vec<Setting> = own
            .iter()
            .map(|own| Setting { name: own.name.to_owned(), value: own.value.clone(), changeable: true })
            .collect();
        all.extend(self.level.map(|level| Setting {
            name: LOG_LEVEL.to_owned(),
            value: (level.get)(),
            changeable: true,
        }));
        let fixed = self.told.iter().filter(|(name, _)| own.iter().all(|own| own.name != name));
        all.extend(fixed.map(|(name, value)| Setting { name: name.clone(), value: value.clone(), changeable: false }));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn change(&self, own: Vec<Own<'_>>, name: &str, value: &str) -> Result<(), String> {
        if let Some(own) = own.into_iter().find(|own| own.name == name) {
            return (own.set)(value);
        }
        match self.level {
            Some(level) if name == LOG_LEVEL => (level.set)(value),
            _ if self.told.iter().any(|(told, _)| told == name) => {
                Err(format!("{name} cannot be changed while it runs; start it with another"))
            }
            _ => Err(format!("there is no setting {name}")),
        }
    }

    /// Does what a request of [`crate::proto::rpc::v1::method::CONFIG`] asks for, and gives the result.
    ///
    /// # Errors
    /// When the parameters are none of it.
    pub fn answer(&self, own: Vec<Own<'_>>, params: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut reader = Reader::new(params);
        let count = reader.array()?;
        let mut out = Vec::new();
        if count == 0 {
            write_list(&mut out, &self.all(&own));
            return Ok(out);
        }
        let text = |reader: &mut Reader<'_>| {
            std::str::from_utf8(reader.raw()?).map(str::to_owned).map_err(|_| DecodeError::Type)
        };
        let (name, value) = (text(&mut reader)?, text(&mut reader)?);
        match self.change(own, &name, &value) {
            Ok(()) => {
                tracing::info!("{name} is {value} from now on");
                write_nil(&mut out);
            }
            Err(why) => write_raw(&mut out, why.as_bytes()),
        }
        Ok(out)
    }
}

/// Reads a number of a setting.
///
/// # Errors
/// A line that says what may be set.
pub fn number(value: &str, at_most: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| *number <= at_most);
    number.ok_or_else(|| format!("'{value}' is no whole number from 0 to {at_most}"))
}

/// Reads true or false.
///
/// # Errors
/// A line that says what may be set.
pub fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("'{value}' is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::msgpack::write_array;
    use crate::proto::rpc::settings::read_list;
    use std::cell::Cell;

    fn settings() -> Settings {
        let level = LogLevel {
            get: || "warn".to_owned(),
            set: |level| if level == "info" { Ok(()) } else { Err("only info".to_owned()) },
        };
        let told = [("listen", "svr1:19700"), ("replace-delay", "4")];
        Settings::new(told.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(), level)
    }

    fn own(delay: &Cell<u64>) -> Vec<Own<'_>> {
        let set = |value: &str| number(value, 100).map(|secs| delay.set(secs));
        vec![Own { name: "replace-delay", value: delay.get().to_string(), set: Box::new(set) }]
    }

    fn change(delay: &Cell<u64>, name: &str, value: &str) -> Option<String> {
        let mut params = Vec::new();
        write_array(&mut params, 2);
        write_raw(&mut params, name.as_bytes());
        write_raw(&mut params, value.as_bytes());
        let result = settings().answer(own(delay), &params).expect("it is a request");
        if result == [0xc0] { None } else { Some(String::from_utf8_lossy(&result[1..]).into_owned()) }
    }

    #[test]
    fn all_are_listed_with_their_present_values() {
        let delay = Cell::new(9);
        let result = settings().answer(own(&delay), &[0x90]).expect("it is a request");
        let shown: Vec<(String, String, bool)> = read_list(&mut Reader::new(&result))
            .expect("it is a list")
            .into_iter()
            .map(|s| (s.name, s.value, s.changeable))
            .collect();
        let expected = [("listen", "svr1:19700", false), ("log-level", "warn", true), ("replace-delay", "9", true)];
        assert_eq!(shown, expected.map(|(name, value, can)| (name.to_owned(), value.to_owned(), can)));
    }

    #[test]
    fn what_can_be_changed_is_and_all_else_is_refused_with_a_reason() {
        let delay = Cell::new(4);
        assert_eq!(change(&delay, "replace-delay", "7"), None);
        assert_eq!(delay.get(), 7);
        assert_eq!(change(&delay, "log-level", "info"), None);
        for (name, value, why) in [
            ("replace-delay", "101", "no whole number from 0 to 100"),
            ("replace-delay", "", "no whole number"),
            ("log-level", "loud", "only info"),
            ("listen", "svr2", "cannot be changed while it runs"),
            ("listne", "svr2", "there is no setting listne"),
        ] {
            assert!(change(&delay, name, value).is_some_and(|said| said.contains(why)), "{name} {value}");
        }
        assert_eq!(delay.get(), 7);
        for broken in [&[][..], &[0x91, 0xa1, b'x'], &[0x92, 1, 2], &[0x92, 0xa1, 0xff, 0xa0]] {
            assert!(settings().answer(Vec::new(), broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn truth_has_several_names() {
        assert_eq!((truth("on"), truth("0")), (Ok(true), Ok(false)));
        assert!(truth("maybe").is_err());
    }
}
