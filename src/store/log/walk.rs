//! Reading a segment from end to end, around what is damaged in it.
//!
//! A record that fails its checksum is damage when a good record follows anywhere behind it, and a torn tail when none
//! does. The next good record is looked for where the bad one says it ends, and else byte by byte.

use super::format::{Header, MAX_HEAD_LEN, MIN_HEAD_LEN, Raw, SEGMENT_HEAD_LEN, SegmentHead, head_is_intact, seed_at};
use crate::store::fs::File;
use std::io;
use std::sync::Arc;

const CHUNK: usize = 1 << 20;
const SECTOR: usize = 4096;
/// While looking for a record byte by byte: a sequence number further than this above the segment's birth is none.
/// That is more stores than a segment lives through, and tells rubbish apart before its checksum is computed.
const LSN_SPAN: u64 = 1 << 36;

/// What lies at a place of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A good record.
    Record {
        /// Where it starts.
        offset: u64,
        /// Its length.
        len: usize,
    },
    /// Something bad, with good records behind it.
    Damaged {
        /// Where it starts.
        offset: u64,
        /// Bytes up to the next good record.
        len: u64,
        /// Its head, where that is intact and the next good record lies just where it says.
        header: Option<Header>,
    },
    /// Something bad, up to the end.
    Torn {
        /// Where it starts.
        offset: u64,
    },
}

/// See the module.
pub struct Walk {
    file: Arc<dyn File>,
    seed: u32,
    birth: u64,
    lsn_end: u64,
    pos: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
    unreadable: bool,
}

impl Walk {
    /// Reads the segment with this head up to byte `end`.
    pub fn new(file: Arc<dyn File>, head: &SegmentHead, end: u64) -> Walk {
        Walk {
            file,
            seed: head.seed(),
            birth: head.birth,
            lsn_end: head.birth + LSN_SPAN,
            pos: SEGMENT_HEAD_LEN as u64,
            end,
            window: Vec::new(),
            window_start: 0,
            unreadable: false,
        }
    }

    /// Whether the device failed to read some of it. Such a place reads as zeros.
    pub fn met_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Takes all for read.
    pub fn skip_all(&mut self) {
        self.pos = self.end;
    }

    /// Where the next step starts.
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Takes the steps from `position` on once more.
    pub fn go_back(&mut self, position: u64) {
        self.pos = position;
    }

    /// The next step; `None` at the end.
    pub fn step(&mut self) -> Option<Step> {
        let offset = self.pos;
        if offset >= self.end {
            return None;
        }
        if let Some(len) = self.good_at(offset) {
            self.pos += len as u64;
            return Some(Step::Record { offset, len });
        }
        if let Some(header) = self.head_at(offset) {
            let next = offset + header.record_len() as u64;
            if self.good_at(next).is_some() {
                self.pos = next;
                return Some(Step::Damaged { offset, len: next - offset, header: Some(header) });
            }
        }
        match self.look_for_good(offset + 1) {
            Some(next) => {
                self.pos = next;
                Some(Step::Damaged { offset, len: next - offset, header: None })
            }
            None => {
                self.pos = self.end;
                Some(Step::Torn { offset })
            }
        }
    }

    /// Whether a record with an intact head, not cut off, lies at `offset`, whatever its data.
    pub fn is_whole_at(&mut self, offset: u64) -> bool {
        self.head_at(offset).is_some_and(|h| offset + h.record_len() as u64 <= self.end)
    }

    /// The record that the last step was about.
    pub fn record(&mut self, offset: u64, len: usize) -> Option<Raw<'_>> {
        if !self.fill(offset, len) {
            return None;
        }
        Raw::parse(self.at(offset, len), self.birth)
    }

    /// The intact head of a record at `offset`, whose data may be damaged or cut off.
    fn head_at(&mut self, offset: u64) -> Option<Header> {
        let len = self.end.checked_sub(offset)?.min(MAX_HEAD_LEN as u64) as usize;
        if len < MIN_HEAD_LEN || !self.fill(offset, len) {
            return None;
        }
        let bytes = self.at(offset, len);
        let header = Header::parse(bytes, self.birth)?;
        head_is_intact(&header, bytes, self.seed_at(offset)?).then_some(header)
    }

    fn seed_at(&self, offset: u64) -> Option<u32> {
        Some(seed_at(self.seed, u32::try_from(offset).ok()?))
    }

    /// The length of the good record at `offset`, if there is one.
    fn good_at(&mut self, offset: u64) -> Option<usize> {
        let len = self.head_at(offset)?.record_len();
        if !self.fill(offset, len) {
            return None;
        }
        Raw::parse(self.at(offset, len), self.birth)?.is_intact(self.seed_at(offset)?).then_some(len)
    }

    fn look_for_good(&mut self, from: u64) -> Option<u64> {
        let last = self.end.checked_sub(MIN_HEAD_LEN as u64)?;
        (from..=last).find(|offset| {
            self.head_at(*offset).is_some_and(|h| h.lsn < self.lsn_end) && self.good_at(*offset).is_some()
        })
    }

    fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset - self.window_start) as usize;
        &self.window[start..start + len]
    }

    /// Sees to it that the window holds `len` bytes at `offset`; false when they do not lie in the segment.
    fn fill(&mut self, offset: u64, len: usize) -> bool {
        if offset + len as u64 > self.end {
            return false;
        }
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + len as u64 > window_end {
            self.window.resize(len.max(CHUNK).min((self.end - offset) as usize), 0);
            self.window_start = offset;
            if !read_exact(self.file.as_ref(), &mut self.window, offset) {
                self.read_by_sector(offset);
            }
        }
        true
    }

    fn read_by_sector(&mut self, offset: u64) {
        self.unreadable = true;
        for (i, sector) in self.window.chunks_mut(SECTOR).enumerate() {
            if !read_exact(self.file.as_ref(), sector, offset + (i * SECTOR) as u64) {
                sector.fill(0);
            }
        }
    }
}

fn read_exact(file: &dyn File, buf: &mut [u8], offset: u64) -> bool {
    let read: io::Result<usize> = crate::store::fs::read_full(file, buf, offset);
    read.is_ok_and(|n| n == buf.len())
}
