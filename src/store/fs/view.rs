//! A file seen as memory.

use super::sigbus::{self, Registered};
use memmap2::{MmapOptions, MmapRaw};
use std::io;

/// Bytes that memory brings at a time.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE_LEN: usize = 64;
/// What is fetched ahead of a record: as much as most have, and 64 of them fill half of the processor's first cache.
const PREFETCHED_LEN: usize = 256;

/// A read-only map of the head of a file, which may be longer than the file is yet.
pub struct View {
    // Dropped first: while the handler may look at the range, it is ours.
    _registered: Registered,
    map: MmapRaw,
}

/// Bytes that are unmapped at a time.
const UNMAP_BYTES: usize = 1 << 20;

impl Drop for View {
    /// Lets go of the pages in small steps. While the system unmaps many at once, nothing else of the process can be mapped or unmapped:
    /// for 128 MiB, workers stood still for tens of milliseconds.
    fn drop(&mut self) {
        for start in (0..self.map.len()).step_by(UNMAP_BYTES) {
            let len = UNMAP_BYTES.min(self.map.len() - start);
            // SAFETY: the range lies inside the map, which is ours alone and is looked at by nobody any more. Where the advice is not
            // taken, the pages go with the map.
            unsafe { libc::madvise(self.map.as_mut_ptr().add(start).cast(), len, libc::MADV_DONTNEED) };
        }
    }
}

impl View {
    /// Maps `capacity` bytes of `file`.
    pub(super) fn new(file: &std::fs::File, capacity: u64) -> io::Result<View> {
        let capacity = usize::try_from(capacity).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(capacity.max(1)).map_raw_read_only(file)?;
        Ok(View { _registered: sigbus::register(map.as_ptr() as usize, map.len()), map })
    }

    /// Has memory bring the bytes at `offset` and some behind it: the whole of a small record. A page that is not in memory
    /// stays where it is.
    pub fn prefetch(&self, offset: usize) {
        if offset >= self.map.len() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        for line in (0..PREFETCHED_LEN).step_by(CACHE_LINE_LEN) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: prefetching is no access: no address is wrong for it, and none faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.map.as_ptr().wrapping_add(offset + line).cast()) };
        }
    }

    /// Has the system map the pages of the bytes from `from` to `to`, which were just written and so are in memory: one that is
    /// mapped when it is first read costs its reader a page fault.
    pub fn map_pages(&self, from: usize, to: usize) {
        #[cfg(target_os = "linux")]
        {
            const PAGE: usize = 4096;
            let (from, to) = (from / PAGE * PAGE, to.min(self.map.len()));
            if from < to {
                // SAFETY: the range lies inside the map. This maps what could be read anyhow, and changes no byte; a system that
                // does not know it, or cannot now, refuses, and pages are mapped when they are read.
                unsafe { libc::madvise(self.map.as_mut_ptr().add(from).cast(), to - from, libc::MADV_POPULATE_READ) };
            }
        }
    }

    /// The `len` bytes at `offset`; `None` when they are not all inside the view. The caller asks only for bytes that
    /// were written.
    pub fn slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.map.len() {
            return None;
        }
        // SAFETY: the range lies inside the map, which lives as long as `self`. Files are only appended to, so bytes
        // below the written length, and callers stay below it, do not change. (They do when the device fails: see
        // `sigbus`. Then the checksum is what tells.)
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset), len) })
    }
}
