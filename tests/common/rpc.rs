//! Raw MessagePack-RPC for tests: bytes as they are written in the protocol's description, and just enough decoding.

use super::memcache::ANSWER_DEADLINE;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Hexadecimal digits, spaces between them ignored, as bytes.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits are ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("not hexadecimal: {pair}"))).collect()
}

/// The reverse.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An address as it travels: port, then IPv4; or port, IPv6, scope.
pub fn address(of: SocketAddr) -> Vec<u8> {
    let mut bytes = of.port().to_be_bytes().to_vec();
    match of {
        SocketAddr::V4(v4) => bytes.extend_from_slice(&v4.ip().octets()),
        SocketAddr::V6(v6) => {
            bytes.extend_from_slice(&v6.ip().octets());
            bytes.extend_from_slice(&v6.scope_id().to_be_bytes());
        }
    }
    bytes
}

/// What [`address`] makes, read.
pub fn socket_address(bytes: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([bytes[0], bytes[1]]);
    match bytes.len() {
        6 => SocketAddr::from((<[u8; 4]>::try_from(&bytes[2..6]).expect("four bytes"), port)),
        22 => SocketAddr::from((<[u8; 16]>::try_from(&bytes[2..18]).expect("sixteen bytes"), port)),
        len => panic!("an address of {len} bytes"),
    }
}

/// A value of MessagePack.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i128),
    Raw(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    #[track_caller]
    pub fn array(&self) -> &[Value] {
        match self {
            Value::Array(values) => values,
            other => panic!("an array is due: {other:?}"),
        }
    }

    #[track_caller]
    pub fn raw(&self) -> &[u8] {
        match self {
            Value::Raw(bytes) => bytes,
            other => panic!("bytes are due: {other:?}"),
        }
    }

    #[track_caller]
    pub fn int(&self) -> u64 {
        match self {
            Value::Int(n) => u64::try_from(*n).expect("not negative"),
            other => panic!("a number is due: {other:?}"),
        }
    }
}

/// One connection.
pub struct Link {
    stream: TcpStream,
    /// Of the message that is being read.
    bytes: Vec<u8>,
}

impl Link {
    pub fn connect(to: SocketAddr) -> Link {
        let stream = TcpStream::connect_timeout(&to, ANSWER_DEADLINE).unwrap_or_else(|e| panic!("{to}: {e}"));
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).expect("a deadline can be set");
        Link { stream, bytes: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer listens");
    }

    /// The next message, as it stands on the wire and decoded.
    pub fn receive(&mut self) -> (Vec<u8>, Value) {
        self.try_receive().expect("the peer answers")
    }

    pub fn try_receive(&mut self) -> io::Result<(Vec<u8>, Value)> {
        self.bytes.clear();
        let value = self.value()?;
        Ok((self.bytes.clone(), value))
    }

    /// Whether the peer closes without another byte.
    pub fn is_hung_up(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Sends a request without parameters but these, and gives error and result of its answer.
    pub fn call(&mut self, method: u8, params: &[u8]) -> (Value, Value) {
        self.send(&[&[0x94, 0, 7, method], params].concat());
        let (_, answer) = self.receive();
        match answer.array() {
            [Value::Int(1), Value::Int(7), error, result] => (error.clone(), result.clone()),
            other => panic!("an answer is due: {other:?}"),
        }
    }

    fn take(&mut self, len: usize) -> io::Result<u64> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.stream.read_exact(&mut self.bytes[start..])?;
        Ok(self.bytes[start..].iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&mut self) -> io::Result<Value> {
        let tag = self.take(1)? as u8;
        Ok(match tag {
            0x00..=0x7f => Value::Int(i128::from(tag)),
            0xe0..=0xff => Value::Int(i128::from(tag as i8)),
            0x90..=0x9f => self.values(u64::from(tag & 0x0f))?,
            0xa0..=0xbf => self.raw(u64::from(tag & 0x1f))?,
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Bool(tag == 0xc3),
            0xcc..=0xcf => Value::Int(i128::from(self.take(1 << (tag - 0xcc))?)),
            0xda | 0xdb => {
                let len = self.take(2 << (tag - 0xda))?;
                self.raw(len)?
            }
            0xdc | 0xdd => {
                let len = self.take(2 << (tag - 0xdc))?;
                self.values(len)?
            }
            other => panic!("not old MessagePack: {other:02x} after {}", to_hex(&self.bytes)),
        })
    }

    fn raw(&mut self, len: u64) -> io::Result<Value> {
        let start = self.bytes.len();
        self.take(len as usize)?;
        Ok(Value::Raw(self.bytes[start..].to_vec()))
    }

    fn values(&mut self, len: u64) -> io::Result<Value> {
        (0..len).map(|_| self.value()).collect::<io::Result<_>>().map(Value::Array)
    }
}
