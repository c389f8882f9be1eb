//! A stretch of a file in memory, which moves along as the file is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// See the module.
pub struct Window {
    file: File,
    /// Nothing is read from here on.
    end: u64,
    chunk: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Reads the first `end` bytes of `file`, at least `chunk` of them at a time.
    pub fn new(file: File, end: u64, chunk: usize) -> Window {
        Window { file, end, chunk, start: 0, bytes: Vec::new() }
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// From now on at least `chunk` bytes at a time.
    pub fn set_chunk(&mut self, chunk: usize) {
        self.chunk = chunk;
    }

    /// `len` bytes at `offset`; `None` when they do not all lie before the end.
    pub fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        if offset < self.start || offset + len as u64 > self.start + self.bytes.len() as u64 {
            let wanted = (len.max(self.chunk) as u64).min(self.end - offset) as usize;
            // Nothing is there should reading fail.
            self.bytes.clear();
            self.bytes.resize(wanted, 0);
            self.start = offset;
            if let Err(e) = self.file.read_exact_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(e);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.bytes[at..at + len]))
    }

    /// What is at `offset`, up to `most` bytes.
    pub fn up_to(&mut self, offset: u64, most: usize) -> io::Result<&[u8]> {
        let len = self.end.saturating_sub(offset).min(most as u64) as usize;
        Ok(self.get(offset.min(self.end), len)?.unwrap_or_default())
    }
}
