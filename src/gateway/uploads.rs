//! Who may send a large command: what clients make a worker hold of commands that are not complete yet is bounded.
//!
//! A command up to [`LARGE_BYTES`] is read as it comes. A larger one is read on only when all of it has room within
//! [`UPLOAD_BYTES`], so that whoever began can end; the others wait in the order in which they asked, and the system's buffers and
//! their own senders with them. One may always go, however large it is.

use super::op::Home;
use super::worker::State;
use crate::proto::memcache::Limits;
use std::collections::VecDeque;

/// A command is large from here on, in bytes. Above the longest line of a retrieval.
pub const LARGE_BYTES: usize = 2 << 20;
/// Bytes of large commands of a worker's clients that may be on their way at once. One command may exceed it.
/// Two of the largest have room, with their lines.
pub const UPLOAD_BYTES: usize = 2 * (Limits::MAX_VALUE_BYTES + Limits::LINE_BYTES);

/// What a client has of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Upload {
    /// Nothing: what it sends is small.
    #[default]
    None,
    /// It stands in the line.
    Waiting,
    /// It may send so many bytes.
    Granted(usize),
}

/// The uploads of a worker's clients.
#[derive(Default)]
pub struct Uploads {
    granted_bytes: usize,
    /// Who waits, and for how many bytes.
    line: VecDeque<(Home, usize)>,
}

impl Uploads {
    fn has_room(&self, bytes: usize) -> bool {
        self.granted_bytes == 0 || self.granted_bytes + bytes <= UPLOAD_BYTES
    }
}

impl State {
    /// Whether a client may go on to send a command of so many bytes. If not, it is shown again when it may.
    #[inline]
    pub fn may_upload(&mut self, home: Home, bytes: usize) -> bool {
        bytes <= LARGE_BYTES || self.may_upload_large(home, bytes)
    }

    #[cold]
    fn may_upload_large(&mut self, home: Home, bytes: usize) -> bool {
        let Some(client) = self.clients.get(home) else { return true };
        match client.upload {
            Upload::Granted(granted) if granted >= bytes => true,
            Upload::Waiting => false,
            Upload::None | Upload::Granted(_) => {
                let before = std::mem::replace(&mut client.upload, Upload::Waiting);
                self.give_back(before);
                self.uploads.line.push_back((home, bytes));
                self.grant();
                self.clients.get(home).is_some_and(|client| client.upload != Upload::Waiting)
            }
        }
    }

    /// A client's large command is complete, or the client is gone.
    #[inline]
    pub fn end_upload(&mut self, upload: Upload) {
        if upload != Upload::None {
            self.give_back(upload);
            self.grant();
        }
    }

    fn give_back(&mut self, upload: Upload) {
        if let Upload::Granted(bytes) = upload {
            self.uploads.granted_bytes -= bytes;
        }
    }

    /// Lets those go on for whom there is room, in their order.
    fn grant(&mut self) {
        while let Some((home, bytes)) = self.uploads.line.front().copied() {
            match self.clients.get(home) {
                Some(client) if client.upload == Upload::Waiting => {
                    if !self.uploads.has_room(bytes) {
                        return;
                    }
                    self.uploads.granted_bytes += bytes;
                    client.upload = Upload::Granted(bytes);
                    client.conn.expect(bytes);
                    client.conn.resume();
                }
                // It is gone.
                _ => {}
            }
            self.uploads.line.pop_front();
        }
    }
}
