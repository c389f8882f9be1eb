//! The settings of a daemon as they travel: the result of [`super::v1::method::CONFIG`].

use super::msgpack::{DecodeError, Reader, write_array, write_bool, write_raw};

/// The most settings that are read.
const MAX_SETTINGS: usize = 1000;

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The long name of its option.
    pub name: String,
    /// What it is.
    pub value: String,
    /// Whether it can be changed while the daemon runs.
    pub changeable: bool,
}

/// Writes `[[name, value, changeable]...]`.
pub fn write_list(out: &mut Vec<u8>, settings: &[Setting]) {
    write_array(out, settings.len());
    for setting in settings {
        write_array(out, 3);
        write_raw(out, setting.name.as_bytes());
        write_raw(out, setting.value.as_bytes());
        write_bool(out, setting.changeable);
    }
}

/// Reads it. Further elements of a setting are for versions to come.
///
/// # Errors
/// When it is something else.
pub fn read_list(r: &mut Reader<'_>) -> Result<Vec<Setting>, DecodeError> {
    let count = r.array()?;
    if count > MAX_SETTINGS {
        return Err(DecodeError::Type);
    }
    let text = |r: &mut Reader<'_>| Ok(String::from_utf8_lossy(r.raw()?).into_owned());
    let one = |_| {
        r.array_of(3)?;
        Ok(Setting { name: text(r)?, value: text(r)?, changeable: r.bool()? })
    };
    (0..count).map(one).collect()
}
