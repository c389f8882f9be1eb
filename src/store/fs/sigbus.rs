//! A map whose file cannot be read raises SIGBUS. The handler puts zeros in place of the page, so that the record on it
//! fails its checksum and counts as damaged, and the process lives.
//!
//! Maps are registered in a table of atomics that the handler may read at any moment. A SIGBUS anywhere else does what
//! it would have done without us.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maps that can be registered; a system allows 65,530 by default.
const SLOTS: usize = 1 << 16;

struct Range {
    start: AtomicUsize,
    len: AtomicUsize,
}

static RANGES: [Range; SLOTS] = [const { Range { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; SLOTS];
/// No slot from here on was ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Marks the range of a registered map until it is dropped.
pub struct Registered(Option<usize>);

/// Registers a map, and installs the handler with the first one. A map beyond the table is not protected.
pub fn register(start: usize, len: usize) -> Registered {
    INSTALL.call_once(|| {
        // A failure leaves the system's own handling, which ends the process.
        let _ = install();
    });
    for (slot, range) in RANGES.iter().enumerate() {
        // Taking the slot with an empty range first: the handler must never see half of one.
        if range.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            range.len.store(len, Ordering::Release);
            USED.fetch_max(slot + 1, Ordering::AcqRel);
            return Registered(Some(slot));
        }
    }
    Registered(None)
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            RANGES[slot].len.store(0, Ordering::Release);
            RANGES[slot].start.store(0, Ordering::Release);
        }
    }
}

fn install() -> io::Result<()> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Release);
    // SAFETY: an all-zero sigaction is a valid value of that plain C struct; the handler has the signature that
    // SA_SIGINFO asks for, and calls only what a handler may.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid siginfo to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let inside = |range: &Range| {
        let start = range.start.load(Ordering::Acquire);
        start != 0 && address >= start && address - start < range.len.load(Ordering::Acquire)
    };
    let page = PAGE.load(Ordering::Acquire);
    if RANGES[..USED.load(Ordering::Acquire)].iter().any(inside) {
        let at = (address & !(page - 1)) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in one of our own maps, which only ever reads it, as bytes that a checksum covers.
        let mapped = unsafe { libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) };
        if mapped == at {
            return;
        }
    }
    // SAFETY: back to the default; the access is repeated on return, and ends the process as it would have.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use crate::store::fs::{Disk, RealDisk, View, write_all};

    fn bytes(view: &View, at: usize) -> [u8; 4] {
        view.slice(at, 4).unwrap().try_into().unwrap()
    }

    #[test]
    fn pages_that_cannot_be_read_are_zeros_and_the_process_lives() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let file = RealDisk.create(&path).unwrap();
        write_all(file.as_ref(), &[7; 5 * 4096], 0).unwrap();
        let view = file.view(64 << 20).unwrap().unwrap();
        assert_eq!(bytes(&view, 3 * 4096), [7; 4]);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(bytes(&view, 3 * 4096), [0; 4]);
        assert_eq!(bytes(&view, 30 << 20), [0; 4]);
        assert_eq!(bytes(&view, 0), [7; 4]);
    }
}
