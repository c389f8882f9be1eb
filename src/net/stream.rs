//! What a connection may be made of: a socket, or a pipe to another role of this process.

use super::pipe::{Pipe, Reader, Writer};
use super::sock::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix;

/// Both directions.
pub enum Stream {
    /// Over the network.
    Socket(TcpStream),
    /// On this host, by a socket of the file system.
    Unix(UnixStream),
    /// Within this process.
    Pipe(Pipe),
}

/// What is read from.
pub enum ReadHalf {
    /// A socket.
    Socket(OwnedReadHalf),
    /// A socket of the file system.
    Unix(unix::OwnedReadHalf),
    /// A pipe.
    Pipe(Reader),
}

/// What is written to. Dropping it tells the peer.
pub enum WriteHalf {
    /// A socket.
    Socket(OwnedWriteHalf),
    /// A socket of the file system.
    Unix(unix::OwnedWriteHalf),
    /// A pipe.
    Pipe(Writer),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Socket(stream)
    }
}

impl From<Pipe> for Stream {
    fn from(pipe: Pipe) -> Stream {
        Stream::Pipe(pipe)
    }
}

impl Stream {
    /// Its two halves.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Socket(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Socket(read), WriteHalf::Socket(write))
            }
            Stream::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Stream::Pipe(pipe) => {
                let (read, write) = pipe.into_split();
                (ReadHalf::Pipe(read), WriteHalf::Pipe(write))
            }
        }
    }
}

impl WriteHalf {
    /// Sets TCP_NODELAY; false when the system refuses, or there is none.
    pub fn set_nodelay(&self, on: bool) -> bool {
        match self {
            WriteHalf::Socket(half) => half.as_ref().set_nodelay(on).is_ok(),
            WriteHalf::Unix(_) | WriteHalf::Pipe(_) => false,
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Socket(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Pipe(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Socket(half) => Pin::new(half).poll_write(cx, bytes),
            WriteHalf::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            WriteHalf::Pipe(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Socket(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            WriteHalf::Unix(half) => Pin::new(half).poll_write_vectored(cx, bufs),
            WriteHalf::Pipe(half) => Pin::new(half).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Socket(half) => Pin::new(half).poll_flush(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_flush(cx),
            WriteHalf::Pipe(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Socket(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Pipe(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
