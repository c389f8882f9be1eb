//! A small client of memcached's text protocol, blocking, with a deadline for each answer.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than a gateway tries: whoever gets no answer in this time has found a mistake.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub enum Error {
    /// No answer: the connection is of no use any more, and what the command did is not known.
    Gone(io::Error),
    /// The server answered that it could not (`SERVER_ERROR`).
    Refused(String),
    /// An answer that is none to this command.
    Strange(String),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gone(e) => write!(f, "no answer: {e}"),
            Error::Refused(line) | Error::Strange(line) => f.write_str(line),
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Gone(e)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// What became of a compare-and-swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swapped {
    Stored,
    Exists,
    NotFound,
}

/// A value as `gets` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    pub key: String,
    pub flags: u32,
    pub data: Vec<u8>,
    /// 0 when it was not asked for.
    pub cas: u64,
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(to: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&to, ANSWER_DEADLINE)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// One command of one line, answered by one line.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.send(format!("{command}\r\n").as_bytes())?;
        self.answer()
    }

    pub fn answer(&mut self) -> Result<String> {
        let line = self.line()?;
        if line.starts_with("SERVER_ERROR") { Err(Error::Refused(line)) } else { Ok(line) }
    }

    /// `verb` is set, add, replace, append or prepend; true when it was stored.
    pub fn store(&mut self, verb: &str, key: &str, flags: u32, data: &[u8]) -> Result<bool> {
        let mut command = format!("{verb} {key} {flags} 0 {}\r\n", data.len()).into_bytes();
        command.extend_from_slice(data);
        command.extend_from_slice(b"\r\n");
        self.send(&command)?;
        match self.answer()?.as_str() {
            "STORED" => Ok(true),
            "NOT_STORED" => Ok(false),
            other => Err(Error::Strange(other.to_owned())),
        }
    }

    pub fn set(&mut self, key: &str, data: &[u8]) -> Result<()> {
        match self.store("set", key, 0, data)? {
            true => Ok(()),
            false => Err(Error::Strange("a set that is not stored".to_owned())),
        }
    }

    pub fn cas(&mut self, key: &str, data: &[u8], cas: u64) -> Result<Swapped> {
        let mut command = format!("cas {key} 0 0 {} {cas}\r\n", data.len()).into_bytes();
        command.extend_from_slice(data);
        command.extend_from_slice(b"\r\n");
        self.send(&command)?;
        match self.answer()?.as_str() {
            "STORED" => Ok(Swapped::Stored),
            "EXISTS" => Ok(Swapped::Exists),
            "NOT_FOUND" => Ok(Swapped::NotFound),
            other => Err(Error::Strange(other.to_owned())),
        }
    }

    /// True when something was deleted.
    pub fn delete(&mut self, key: &str) -> Result<bool> {
        match self.command(&format!("delete {key}"))?.as_str() {
            "DELETED" => Ok(true),
            "NOT_FOUND" => Ok(false),
            other => Err(Error::Strange(other.to_owned())),
        }
    }

    /// The new number, or `None` when there is no such key.
    pub fn incr(&mut self, key: &str, by: u64) -> Result<Option<u64>> {
        match self.command(&format!("incr {key} {by}"))?.as_str() {
            "NOT_FOUND" => Ok(None),
            other => other.parse().map(Some).map_err(|_| Error::Strange(other.to_owned())),
        }
    }

    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.retrieve("get", &[key])?.pop().map(|v| v.data))
    }

    pub fn gets(&mut self, key: &str) -> Result<Option<Value>> {
        Ok(self.retrieve("gets", &[key])?.pop())
    }

    /// What is found of `keys`, in the order of the answer.
    pub fn retrieve(&mut self, verb: &str, keys: &[&str]) -> Result<Vec<Value>> {
        self.send(format!("{verb} {}\r\n", keys.join(" ")).as_bytes())?;
        let mut values = Vec::new();
        loop {
            let line = self.answer()?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["END"] => return Ok(values),
                ["VALUE", key, flags, len] => values.push(self.value(&line, key, flags, len, "0")?),
                ["VALUE", key, flags, len, cas] => values.push(self.value(&line, key, flags, len, cas)?),
                _ => return Err(Error::Strange(line)),
            }
        }
    }

    fn value(&mut self, line: &str, key: &str, flags: &str, len: &str, cas: &str) -> Result<Value> {
        let strange = || Error::Strange(line.to_owned());
        let len: usize = len.parse().map_err(|_| strange())?;
        let mut data = vec![0; len + 2];
        self.stream.read_exact(&mut data)?;
        if !data.ends_with(b"\r\n") {
            return Err(Error::Strange(format!("no line end after the data of {line}")));
        }
        data.truncate(len);
        Ok(Value {
            key: key.to_owned(),
            flags: flags.parse().map_err(|_| strange())?,
            data,
            cas: cas.parse().map_err(|_| strange())?,
        })
    }

    /// Lines of `stats`, as pairs.
    pub fn stats(&mut self) -> Result<Vec<(String, String)>> {
        self.stats_of("")
    }

    /// Lines of `stats` about a topic.
    pub fn stats_of(&mut self, topic: &str) -> Result<Vec<(String, String)>> {
        self.send(format!("{}\r\n", format!("stats {topic}").trim_end()).as_bytes())?;
        let mut stats = Vec::new();
        loop {
            let line = self.answer()?;
            match line.strip_prefix("STAT ").and_then(|l| l.split_once(' ')) {
                Some((name, value)) => stats.push((name.to_owned(), value.to_owned())),
                None if line == "END" => return Ok(stats),
                None => return Err(Error::Strange(line)),
            }
        }
    }
}
