//! What a load goes over: a port, or a socket of the file system.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At a port.
    Port(SocketAddr),
    /// At a path of this host.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Port(addr) => addr.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// Reads `HOST:PORT` or `unix:PATH`. Asks the resolver.
    ///
    /// # Errors
    /// When the name means nothing.
    pub fn resolve(name: &str) -> io::Result<Place> {
        if let Some(path) = name.strip_prefix("unix:") {
            return Ok(Place::Unix(PathBuf::from(path)));
        }
        let first = name.to_socket_addrs()?.next();
        first.map(Place::Port).ok_or_else(|| io::Error::other("no address"))
    }

    /// Connects, waiting so long at most.
    ///
    /// # Errors
    /// The system's.
    pub fn connect_within(&self, patience: Duration) -> io::Result<Connected> {
        match self {
            Place::Port(addr) => {
                let stream = std::net::TcpStream::connect_timeout(addr, patience)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Connected::Port(stream))
            }
            Place::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Connected::Unix(stream))
            }
        }
    }

    /// Connects, in an event loop.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(&self) -> io::Result<Wire> {
        match self {
            Place::Port(addr) => {
                let stream = tokio::net::TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Ok(Wire::Port(stream))
            }
            Place::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Wire::Unix),
        }
    }
}

/// A connection that no event loop has yet.
#[derive(Debug)]
pub enum Connected {
    /// To a port.
    Port(std::net::TcpStream),
    /// To a path.
    Unix(std::os::unix::net::UnixStream),
}

impl Connected {
    /// Hands it to the event loop that this is called in.
    ///
    /// # Errors
    /// The system's.
    pub fn into_wire(self) -> io::Result<Wire> {
        match self {
            Connected::Port(stream) => tokio::net::TcpStream::from_std(stream).map(Wire::Port),
            Connected::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Wire::Unix),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Wire {
    /// To a port.
    Port(tokio::net::TcpStream),
    /// To a path.
    Unix(tokio::net::UnixStream),
}

impl Wire {
    /// Writes, as [`AsyncWrite`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Wire::Port(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Reads, as [`AsyncRead`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Port(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}
