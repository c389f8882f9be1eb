//! Where clients come in: TCP ports, and sockets of the file system beside them.

use super::listen::{self, ACCEPT_PAUSE};
use super::sock::{self, pack, unpack};
use super::stream::Stream;
use super::unix::SocketFile;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use tokio::net::UnixListener;

/// A listener of an event loop.
pub enum Front {
    /// A port.
    Tcp(sock::TcpListener),
    /// A socket of the file system, whose file goes before its listener does.
    Unix(SocketFile, UnixListener),
}

/// A client that came in, on its way from one event loop to another.
pub enum Arrival {
    /// From the network.
    Tcp(sock::Parcel),
    /// From this host.
    Unix(UnixStream),
}

impl From<sock::TcpListener> for Front {
    fn from(listener: sock::TcpListener) -> Front {
        Front::Tcp(listener)
    }
}

impl Front {
    /// The address of a port.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Front::Tcp(listener) => listener.local_addr().ok(),
            Front::Unix(..) => None,
        }
    }

    /// The file of a socket.
    pub fn file(&self) -> Option<&SocketFile> {
        match self {
            Front::Tcp(_) => None,
            Front::Unix(file, _) => Some(file),
        }
    }

    /// Takes the next client out of the event loop. Out of descriptors, it waits for some to be closed.
    ///
    /// # Errors
    /// When this client cannot be served; others can.
    pub async fn accept(&self) -> io::Result<Arrival> {
        match self {
            Front::Tcp(listener) => pack(listen::accept(listener).await.0).map(Arrival::Tcp),
            Front::Unix(_, listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => return stream.into_std().map(Arrival::Unix),
                    Err(e) => {
                        tracing::warn!("cannot accept a connection: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
    }
}

impl Arrival {
    /// Gives it to the current event loop.
    ///
    /// # Errors
    /// When the system does not watch it.
    pub fn unpack(self) -> io::Result<Stream> {
        match self {
            Arrival::Tcp(parcel) => unpack(parcel).map(Stream::Socket),
            Arrival::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}
