//! Large values that clients read: asked of the server in parts, and written to the client from where they were gathered.
//!
//! A server says of a large value how long it is, and of which version. Its parts are asked for when it is the client's turn to be
//! answered, so that nothing is held for an answer before it, and when there is room: what a worker has of such values, on their
//! way and not yet read by clients, is bounded ([`DOWNLOAD_BYTES`]). The others wait in the order in which they were asked for. One
//! may always go. A value that changes meanwhile is told as it was; when its server cannot do that any more, it is asked for anew.
//!
//! Who asks for what a value is like and not for the value, by the meta protocol, is told by the beginning of it.

use super::assembly::Found;
use super::meta;
use super::op::{Ask, Home, Op, WHOLE};
use super::outcome::{self, Answer};
use super::pending::Request;
use super::uploads::UPLOAD_BYTES;
use super::worker::State;
use crate::net::conn::Piece;
use crate::net::time::unix_secs;
use crate::proto::memcache::{Style, Trouble};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader};
use crate::proto::rpc::v1::{GetPart, InParts, PART_BYTES, PARTS_AT_ONCE};
use crate::store::staged::HEAD_LEN;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// See [`Config::download_bytes`](super::Config::download_bytes): as much as of what they send.
pub const DOWNLOAD_BYTES: usize = UPLOAD_BYTES;

/// Room that is taken; dropping it gives it back.
struct Room {
    taken: Rc<Cell<usize>>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - self.bytes);
    }
}

/// A value as far as it has come.
pub struct Download {
    version: u64,
    /// Bytes that are asked for: all, or the beginning.
    len: usize,
    /// Bytes of the dbval behind those.
    rest_len: usize,
    /// What a fetch was told beside the value.
    told: Option<(u8, u32)>,
    bytes: Vec<u8>,
    asked: usize,
    unanswered: usize,
    room: Option<Room>,
}

/// The large values that a worker's clients read.
#[derive(Default)]
pub struct Downloads {
    taken: Rc<Cell<usize>>,
    /// One of them would go on if there were room.
    is_short: bool,
    line: VecDeque<(u32, u32)>,
}

impl Downloads {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether one of them would go on if there were room.
    pub fn wait_for_room(&self) -> bool {
        self.is_short && !self.line.is_empty()
    }

    fn take_room(&mut self, bytes: usize, most: usize) -> Option<Room> {
        let taken = self.taken.get();
        // Those that came later do not overtake.
        if self.is_short || (taken > 0 && taken + bytes > most) {
            self.is_short = true;
            return None;
        }
        self.taken.set(taken + bytes);
        Some(Room { taken: self.taken.clone(), bytes })
    }
}

impl State {
    /// A server says that the value that an operation asks for is large.
    pub fn begin_download(
        &mut self,
        place: u32,
        latest: bool,
        InParts { version, len }: InParts,
        told: Option<(u8, u32)>,
    ) -> Result<(), DecodeError> {
        if !latest {
            // A later attempt finds the value, too.
            return Ok(());
        }
        let op = self.ops.at(place);
        let is_wanted = !matches!(op.style, Style::Meta(form) if !form.tells_value());
        let wanted = if is_wanted { len } else { len.min(HEAD_LEN) };
        let (bytes, rest_len) = (Vec::new(), len - wanted);
        let download = Download { version, len: wanted, rest_len, told, bytes, asked: 0, unanswered: 0, room: None };
        op.download = Some(Box::new(download));
        // What it is told now of a change has been done, whether the value arrives or not.
        op.uncertain |= op.is_mutation();
        let generation = op.generation;
        // Asked for again, it must not see what its client has asked for behind it.
        self.order.enter(place, op);
        self.downloads.line.push_back((place, generation));
        self.go_on_sending();
        Ok(())
    }

    /// Asks for what may be asked for of large values. Called at the end of a turn.
    pub fn ask_parts(&mut self) {
        if self.downloads.is_empty() {
            return;
        }
        let mut line = std::mem::take(&mut self.downloads.line);
        self.downloads.is_short = false;
        line.retain(|(place, generation)| self.ask_parts_of(*place, *generation));
        // Nothing that was called adds to it.
        self.downloads.line = line;
    }

    /// The same for one; false when it is done with.
    fn ask_parts_of(&mut self, place: u32, generation: u32) -> bool {
        let most = self.shared.config.download_bytes;
        let State { ops, clients, links, downloads, .. } = self;
        let Some(op) = ops.get(place, generation) else { return false };
        let (Some(link_place), Some(download)) = (op.link, op.download.as_mut()) else { return false };
        if download.room.is_none() && download.rest_len == 0 {
            let is_due = clients.get(op.home).is_some_and(|client| client.is_due(op.home));
            let room = if is_due { downloads.take_room(download.len, most) } else { None };
            if room.is_none() {
                // It is not the server that it waits for.
                op.began_ms = self.now_ms;
                return true;
            }
            download.room = room;
            download.bytes.reserve_exact(download.len);
            crate::net::conn::prefer_large_pages(&download.bytes);
            op.began_ms = self.now_ms;
        }
        let Some(link) = links.at(link_place) else { return true };
        let request = Request::Piece { op: place, generation, attempt: op.attempt };
        let mut progress = (download.asked, download.unanswered);
        while progress.0 < download.len && progress.1 < PARTS_AT_ONCE {
            let Some(msgid) = link.ask(request, self.now_ms) else { break };
            let (version, from) = (download.version, progress.0);
            let len = PART_BYTES.min(download.len - from);
            let dbkey = &op.bytes[..op.key_end];
            link.write(|out| GetPart { dbkey, version, from, len }.write(out, msgid));
            progress = (progress.0 + len, progress.1 + 1);
        }
        (download.asked, download.unanswered) = progress;
        true
    }

    /// A server has answered a part.
    pub fn piece_answered(
        &mut self,
        link_place: u32,
        (place, generation, attempt): (u32, u32, u32),
        error: Option<u32>,
        result: &[u8],
    ) -> Result<(), DecodeError> {
        let now_ms = self.now_ms;
        let Some(op) = self.ops.get(place, generation).filter(|op| op.attempt == attempt && op.link.is_some()) else {
            return Ok(());
        };
        let Some(download) = &mut op.download else { return Ok(()) };
        if let Some(error) = error {
            self.refused(place, link_place, error, result);
            return Ok(());
        }
        let mut r = Reader::new(result);
        match r.head()? {
            Head::Raw(len) if len == PART_BYTES.min(download.len - download.bytes.len()) => {
                download.bytes.extend_from_slice(r.take(len)?);
            }
            // It has another value by now.
            Head::Bool(false) => {
                self.put_off(place, Trouble::TryAgain);
                return Ok(());
            }
            _ => return Err(DecodeError::Type),
        }
        download.unanswered = download.unanswered.saturating_sub(1);
        op.began_ms = now_ms;
        if download.bytes.len() == download.len {
            return self.finish_download(place);
        }
        self.go_on_sending();
        Ok(())
    }

    /// All of a value is here: gives it to the client.
    fn finish_download(&mut self, place: u32) -> Result<(), DecodeError> {
        let layout = self.shared.config.layout;
        let key_at = crate::logic::record::HASH_LEN + self.shared.config.key_prefix.len();
        let op = self.ops.at(place);
        let Some(download) = op.download.take() else { return Ok(()) };
        let Download { bytes, room, rest_len, told, .. } = *download;
        let bytes = Rc::new(bytes);
        let answer = match op.ask {
            Ask::Get => outcome::of_judged(&bytes, layout, unix_secs)?,
            _ => outcome::of_changed(&bytes, layout, told)?,
        };
        if let (Answer::Found(found) | Answer::Told(found, ..), Some(number)) = (&answer, op.home.number)
            && let Some(client) = self.clients.get(op.home)
        {
            let data = Piece::new(bytes.clone(), bytes.len() - found.data.len(), room);
            match op.style {
                Style::Meta(form) => {
                    let prefix_len = self.shared.config.key_prefix.len();
                    let len = found.data.len() + rest_len;
                    let encode = |out: &mut Vec<u8>| meta::encode_head(form, op, prefix_len, &answer, len, out);
                    client.answer_meta(number, len, encode, data, &mut self.pool);
                }
                Style::Text | Style::Binary(_) => {
                    let key = &op.bytes[key_at..op.key_end];
                    client.answer_large(number, (op, key), found, data, &mut self.pool);
                }
            }
            // It has its answer.
            op.home.number = None;
        }
        self.finish(place, answer);
        Ok(())
    }

    /// A link broke: what was to be asked over it goes another way.
    pub fn downloads_lost(&mut self, link_place: u32) {
        for (place, generation) in self.downloads.line.clone() {
            let waits = |op: &&mut Op| op.link == Some(link_place) && op.download.is_some();
            if self.ops.get(place, generation).filter(waits).is_some() {
                self.put_off(place, Trouble::NoServer);
            }
        }
    }
}

impl super::client::Client {
    /// Whether the answer that belongs to `home` would go to the client now.
    fn is_due(&mut self, home: Home) -> bool {
        let Some(number) = home.number else { return true };
        self.answers.is_next(number)
            && (home.part == WHOLE || self.answers.assembly(number).is_none_or(|assembly| assembly.is_next(home.part)))
    }

    /// Gives the answer of a meta command about a large value. `encode` appends what stands before the data, and says whether that
    /// follows; then it is the answer's turn.
    fn answer_meta(
        &mut self,
        number: u32,
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> bool,
        data: Piece,
        pool: &mut super::answers::Pool,
    ) {
        let mut head = Vec::new();
        if !encode(&mut head) {
            return self.answer(number, pool, |out| out.extend_from_slice(&head));
        }
        self.answer_around(len, |out| out.extend_from_slice(&head), |conn| conn.write_piece(data), b"\r\n", pool);
    }

    /// Gives an answer with a large value, whose turn it is; `data` is what `found` tells.
    fn answer_large(
        &mut self,
        number: u32,
        (op, key): (&Op, &[u8]),
        found: &Found<'_>,
        data: Piece,
        pool: &mut super::answers::Pool,
    ) {
        let len = found.data.len();
        if op.home.part == WHOLE {
            let value = (key, found.flags, op.with_cas.then_some(found.cas));
            let head = |out: &mut Vec<u8>| op.style.write_value_head(value, len, out);
            self.answer_around(len, head, |conn| conn.write_piece(data), op.style.value_tail(), pool);
        } else if let Some(assembly) = self.answers.assembly(number) {
            pool.written_bytes += len as u64;
            if op.alone {
                assembly.told_alone();
            }
            self.conn.write(|out| pool.counted(out, |out, _| assembly.write_head(op.home.part, found, out)));
            self.conn.write_piece(data);
            self.conn.write(|out| pool.counted(out, |out, _| out.extend_from_slice(b"\r\n")));
            self.give_parts(number, pool);
        }
    }
}
