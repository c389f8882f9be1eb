//! The values that options take, as pure syntax: addresses, ports, sizes, seconds, counts.
//!
//! Nothing is resolved here: a [`HostPort`] is what was typed, completed with the default port. Error texts complete
//! the sentence "bad value '...' for --option: ...".

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The port of managers where none is given.
pub const MANAGER_PORT: u16 = 19700;
/// The port of servers where none is given.
pub const SERVER_PORT: u16 = 19800;
/// The port on which servers hand over records, where none is given.
pub const STREAM_PORT: u16 = 19900;
/// The port of memcached.
pub const MEMCACHE_PORT: u16 = 11211;

/// What stands before the path of a socket.
const UNIX: &str = "unix:";

/// The largest value that `--max-value` may allow, in bytes.
pub const MAX_VALUE_LIMIT: u64 = 128 << 20;

/// The longest time that an option may name, in seconds: some 30 years.
const MAX_SECONDS: f64 = 1e9;

/// A host, by name or number, and a port. Displayed as `host:port` or `[v6]:port`, ready for the resolver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// Name or number, without brackets.
    pub host: String,
    /// Port; 0 asks the system for one.
    pub port: u16,
}

impl HostPort {
    /// Reads `host`, `host:port`, `[v6]:port`, `[v6]` or a bare IPv6 address.
    pub fn parse(text: &str, default_port: u16) -> Result<HostPort, String> {
        let (host, port) = split_host(text)?;
        let port = port.map_or(Ok(default_port), port_number)?;
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where clients are served: `PORT` (this host only), `ADDR:PORT`, or `unix:PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenOn {
    /// This port, 0 for one of the system's choice, at 127.0.0.1 and ::1.
    Port(u16),
    /// At a host, by name or number.
    At(HostPort),
    /// A socket of the file system.
    Unix(PathBuf),
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenOn::Port(port) => port.fmt(f),
            ListenOn::At(at) => at.fmt(f),
            ListenOn::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for ListenOn {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenOn, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(ListenOn::Port(port_number(text)?));
        }
        if let Some(path) = text.strip_prefix(UNIX) {
            return match path {
                "" => Err(format!("the path is missing; write {UNIX}PATH")),
                path => Ok(ListenOn::Unix(PathBuf::from(path))),
            };
        }
        match split_host(text)? {
            (host, Some(port)) => Ok(ListenOn::At(HostPort { host: host.to_owned(), port: port_number(port)? })),
            (_, None) => Err(format!("the port is missing; write PORT, ADDR:PORT or {UNIX}PATH")),
        }
    }
}

/// Who may connect to a socket of the file system, as chmod takes it: up to four octal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u32);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
        let wrong = || "expected octal digits as of chmod, such as 0700 or 0770".to_owned();
        mode.filter(|mode| *mode <= 0o777).map(Mode).ok_or_else(wrong)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A number of bytes, as `600`, `4k`, `1m`, `2g` or `1t` (powers of 1024; a final `b` may follow).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let lower = text.to_ascii_lowercase();
        let unitless = lower.strip_suffix('b').unwrap_or(&lower);
        let digits = unitless.trim_end_matches(['k', 'm', 'g', 't']);
        let shift = match &unitless[digits.len()..] {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err("expected a size such as 4096, 64k or 1m".to_owned()),
        };
        let number: u64 = digits.parse().map_err(|_| "expected a size such as 4096, 64k or 1m".to_owned())?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| "too large".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % (1 << 20) == 0 => write!(f, "{}m", n >> 20),
            n if n > 0 && n % (1 << 10) == 0 => write!(f, "{}k", n >> 10),
            n => n.fmt(f),
        }
    }
}

/// A size that `--max-value` takes: one byte to 128 MiB.
pub fn max_value(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if (1..=MAX_VALUE_LIMIT).contains(&size.0) {
        Ok(size)
    } else {
        Err(format!("expected a size from 1 to {}", Size(MAX_VALUE_LIMIT)))
    }
}

/// Reads a node's address with the manager's port as default.
pub fn manager_address(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text, MANAGER_PORT)
}

/// Reads a node's address with the server's port as default.
pub fn server_address(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text, SERVER_PORT)
}

/// Reads a port; 0 asks the system for one.
pub fn port_number(text: &str) -> Result<u16, String> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits_only { text.parse().ok() } else { None };
    port.ok_or_else(|| format!("'{text}' is no port; expected a number from 0 to 65535"))
}

/// Reads seconds, whole or with a fraction; 0 is one of them.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=MAX_SECONDS).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("expected seconds, such as 2 or 0.5".to_owned()),
    }
}

/// Reads seconds above 0: an interval. Less than a millisecond counts as none.
pub fn interval(text: &str) -> Result<Duration, String> {
    match seconds(text) {
        Ok(d) if d >= Duration::from_millis(1) => Ok(d),
        _ => Err("expected seconds above 0, such as 2 or 0.5".to_owned()),
    }
}

/// Makes a reader of whole numbers in a range.
pub fn whole(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from {} to {}", range.start(), range.end())),
    }
}

/// Splits host and port; the port is not looked at.
fn split_host(text: &str) -> Result<(&str, Option<&str>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the ']' is missing")?;
        let address = host.split_once('%').map_or(host, |(address, _scope)| address);
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(format!("'{host}' is no IPv6 address"));
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("expected [ADDR]:PORT".to_owned()),
        }
    } else if text.split_once('%').map_or(text, |(address, _scope)| address).parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("too many colons; write an IPv6 address with a port as [ADDR]:PORT".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    match host.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']' | ',' | '@')) {
        Some(c) => Err(format!("{c:?} cannot be part of a host's name")),
        None if host.is_empty() => Err("the host is missing; write ADDR:PORT".to_owned()),
        None => Ok((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_the_default_port_and_print_as_the_resolver_reads_them() {
        let cases = [
            ("svr1", "svr1:19700"),
            ("svr1:80", "svr1:80"),
            ("192.168.0.101", "192.168.0.101:19700"),
            ("127.0.0.2:0", "127.0.0.2:0"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "[::1]:19700"),
            ("::1", "[::1]:19700"),
            ("fe80::1%eth0", "[fe80::1%eth0]:19700"),
            ("[fe80::1%2]:5", "[fe80::1%2]:5"),
        ];
        for (typed, shown) in cases {
            assert_eq!(manager_address(typed).map(|a| a.to_string()), Ok(shown.to_owned()), "{typed}");
        }
    }

    #[test]
    fn malformed_addresses_say_what_is_wrong() {
        let cases = [
            ("", "the host is missing; write ADDR:PORT"),
            (":80", "the host is missing; write ADDR:PORT"),
            ("svr1:", "'' is no port; expected a number from 0 to 65535"),
            ("svr1:http", "'http' is no port; expected a number from 0 to 65535"),
            ("svr1:65536", "'65536' is no port; expected a number from 0 to 65535"),
            ("svr1:+5", "'+5' is no port; expected a number from 0 to 65535"),
            ("a:b:c", "too many colons; write an IPv6 address with a port as [ADDR]:PORT"),
            ("[::1", "the ']' is missing"),
            ("[svr1]:80", "'svr1' is no IPv6 address"),
            ("[::1]80", "expected [ADDR]:PORT"),
            ("svr 1", "' ' cannot be part of a host's name"),
            ("http://svr1", "'//svr1' is no port; expected a number from 0 to 65535"),
        ];
        for (typed, message) in cases {
            assert_eq!(manager_address(typed), Err(message.to_owned()), "{typed}");
        }
    }

    #[test]
    fn clients_are_served_at_ports_addresses_and_paths() {
        let at = |host: &str, port| ListenOn::At(HostPort { host: host.into(), port });
        let cases = [
            ("11211", ListenOn::Port(11211)),
            ("0.0.0.0:0", at("0.0.0.0", 0)),
            ("[::1]:5", at("::1", 5)),
            ("unix:11211", ListenOn::Unix("11211".into())),
            ("unix:/run/a b:c", ListenOn::Unix("/run/a b:c".into())),
        ];
        for (typed, on) in cases {
            assert_eq!(on.to_string(), typed);
            assert_eq!(typed.parse(), Ok(on));
        }
        for bad in ["", "svr1", "::1", "70000", "svr1:x", ":80", "a:b:c", "unix:", "unix", "/run/socket"] {
            assert!(bad.parse::<ListenOn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal() {
        for (typed, mode) in [("0700", 0o700), ("770", 0o770), ("0", 0), ("0777", 0o777)] {
            assert_eq!(typed.parse(), Ok(Mode(mode)));
        }
        assert_eq!(Mode(0o60).to_string(), "0060");
        for bad in ["", "8", "0o700", "01000", "00700", "-1", "+7", "rwx", "448"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_know_the_binary_suffixes() {
        let cases =
            [("0", 0), ("600", 600), ("4k", 4096), ("4K", 4096), ("1m", 1 << 20), ("2g", 2 << 30), ("1tb", 1 << 40)];
        for (typed, bytes) in cases {
            assert_eq!(typed.parse(), Ok(Size(bytes)), "{typed}");
        }
        for bad in ["", "k", "1kk", "1.5m", "-1", "1x", "99999999999t"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!(max_value("128m"), Ok(Size(MAX_VALUE_LIMIT)));
        assert_eq!(max_value("129m"), Err("expected a size from 1 to 128m".to_owned()));
        assert!(max_value("0").is_err());
    }

    #[test]
    fn seconds_may_have_fractions_and_intervals_are_above_zero() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "nan", "inf", "1e300", "5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        for bad in ["0", "0.0001", "-0.0"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
