//! The sockets that roles use: the operating system's, or, with the feature `sim`, those of a simulated network
//! (`crate::sim`).

#[cfg(not(feature = "sim"))]
pub use real::{OwnedReadHalf, OwnedWriteHalf, Parcel, TcpListener, TcpStream, pack, unpack};

#[cfg(feature = "sim")]
pub use crate::sim::net::{OwnedReadHalf, OwnedWriteHalf, Parcel, TcpListener, TcpStream, pack, unpack};

#[cfg(not(feature = "sim"))]
mod real {
    use std::io;
    pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use tokio::net::{TcpListener, TcpStream};

    /// A stream on its way from one event loop to another.
    pub type Parcel = std::net::TcpStream;

    /// Takes a stream out of its event loop.
    ///
    /// # Errors
    /// When the system does not let it go.
    pub fn pack(stream: TcpStream) -> io::Result<Parcel> {
        stream.into_std()
    }

    /// Gives a stream to the current event loop.
    ///
    /// # Errors
    /// When the system does not watch it.
    pub fn unpack(parcel: Parcel) -> io::Result<TcpStream> {
        TcpStream::from_std(parcel)
    }
}
