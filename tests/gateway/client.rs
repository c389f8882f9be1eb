//! A memcached client that says what it sends and what it expects, to the byte.

use crate::story::Conversation;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).unwrap();
    }

    /// Reads exactly what is expected.
    #[track_caller]
    pub fn expect(&mut self, text: impl AsRef<[u8]>) {
        let expected = text.as_ref();
        let mut got = Vec::new();
        let mut piece = [0; 4096];
        while got.len() < expected.len() && expected.starts_with(&got) {
            let room = piece.len().min(expected.len() - got.len());
            match self.0.read(&mut piece[..room]) {
                Ok(0) => break,
                Ok(len) => got.extend_from_slice(&piece[..len]),
                Err(e) => panic!("{e}; so far: {}", String::from_utf8_lossy(&got)),
            }
        }
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    #[track_caller]
    pub fn ask(&mut self, text: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) {
        self.send(text);
        self.expect(answer);
    }

    /// The lines up to the first that is one of `last`.
    pub fn lines_until(&mut self, last: &[&str]) -> Vec<String> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        let mut byte = [0];
        while self.0.read(&mut byte).unwrap() > 0 {
            line.push(byte[0]);
            if line.ends_with(b"\r\n") {
                let text = String::from_utf8(line.split_off(0)).unwrap().trim_end().to_owned();
                lines.push(text);
                if last.contains(&lines.last().unwrap().as_str()) {
                    break;
                }
            }
        }
        lines
    }

    pub fn close_sending(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        // A connection that was reset has ended too.
        let _ = self.0.read_to_end(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

impl Conversation for Client {
    fn send(&mut self, bytes: &[u8]) {
        // A gateway that closes while it is written to is what some stories are about.
        let _ = self.0.write_all(bytes);
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        let mut piece = [0; 65536];
        match self.0.read(&mut piece) {
            Ok(len) => {
                into.extend_from_slice(&piece[..len]);
                len > 0
            }
            Err(_) => false,
        }
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
