//! Counters of versions, reserved on disk before anything is acknowledged that has them.
//!
//! A version is a second of some wall clock and a counter, and a cas unique is a version. Where a clock jumps back, or is behind
//! another's, a second comes twice, and the counter alone keeps a key from being given a version that it has had: what it
//! was given may have been deleted and its mark collected, or flushed, so that no record tells. So the counter of a server is
//! above all that it has acknowledged in any of its lives. It is synced ahead, a block at a time, long before it is needed,
//! and a life begins at the end of the last block, or where a server that was told to end has stopped counting. Who is
//! filled learns the counter of those who fill it ([`super::compare`]).
//!
//! Invariant: no commit is made, and no comparison answered, while the counter is beyond what is reserved. So nothing that a
//! client or a coordinator was told hangs on a counter that the next life may begin below.
//!
//! The file: four bytes of CRC-32C, then the counter, 4 bytes, both big-endian (doc/format.md, "Versions").

use super::shared::{Mail, Shared};
use crate::logic::rule::{Rule, on};
use crate::net::background::blocking;
use crate::proto::rpc::error;
use crate::store::fs::{Disk, load_checked, save_checked};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// The name of the file beside the records.
const VERSIONS_FILE: &str = "versions";
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a comparison waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is reserved.
#[derive(Debug)]
pub struct Versions {
    /// Where this life's counters begin.
    start: u32,
    /// How many are reserved at a time.
    block: u32,
    reserved: AtomicU32,
    /// More was reserved.
    grown: Notify,
    /// A counter has come near the end of what is reserved.
    near: Notify,
    /// Held while the file is written; true when nothing is reserved any more.
    closed: Mutex<bool>,
    /// Why the disk did not take the last block: the number of an RPC error, 0 when it did.
    failed: AtomicU32,
}

impl Versions {
    /// What an earlier life has left beside the records, with nothing reserved beyond that.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged: one line that says what to do.
    pub fn load(disk: &dyn Disk, dir: &Path, block: u32) -> Result<Versions, String> {
        let path = dir.join(VERSIONS_FILE);
        let kept = match load_checked(disk, &path, 4) {
            Ok(kept) => kept,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Some(vec![0; 4]),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        let kept = kept.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?))).ok_or_else(|| {
            format!("{} is damaged: start this server with a new store, to be filled anew", path.display())
        })?;
        let start = if on(Rule::CounterKept) { kept } else { 0 };
        let (grown, near) = (Notify::new(), Notify::new());
        let (reserved, failed) = (AtomicU32::new(start), AtomicU32::new(0));
        Ok(Versions { start, block, reserved, grown, near, closed: Mutex::new(false), failed })
    }

    /// The counter that this life's versions are above.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Whether versions of this counter are reserved. Has more reserved when there are few left.
    pub fn cover(&self, counter: u32) -> bool {
        let reserved = self.reserved.load(Ordering::Acquire);
        if reserved < counter.saturating_add(self.block / 2) && reserved < u32::MAX {
            self.near.notify_one();
        }
        counter <= reserved || !on(Rule::CounterKept)
    }

    /// Waits until versions of this counter are reserved; false when that takes too long.
    pub async fn covered(&self, counter: u32) -> bool {
        let enough = async {
            loop {
                let grown = self.grown.notified();
                if self.cover(counter) {
                    return;
                }
                grown.await;
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.is_ok()
    }

    /// Why no version above `counter` can be made now, because the disk does not take what is to be reserved: an error's number
    /// ([`error`]).
    #[inline]
    pub fn refusal(&self, counter: u32) -> Option<u32> {
        match self.failed.load(Ordering::Relaxed) {
            0 => None,
            why => (!self.cover(counter.saturating_add(1))).then_some(why),
        }
    }

    /// Reserves a block above `counter`. Blocks.
    ///
    /// # Errors
    /// Those of the file system; then no more is reserved than before.
    fn reserve(&self, disk: &dyn Disk, dir: &Path, counter: u32) -> io::Result<()> {
        let until = counter.saturating_add(self.block);
        let closed = self.closed.lock().expect("nothing panics while it holds this");
        if *closed {
            return Ok(());
        }
        save_checked(disk, &dir.join(VERSIONS_FILE), &until.to_be_bytes())?;
        self.reserved.store(until, Ordering::Release);
        self.grown.notify_waiters();
        Ok(())
    }

    /// Gives back what is above `counter`: nothing is acknowledged any more. Otherwise each restart would use up a block. Blocks.
    pub(super) fn give_back(&self, disk: &dyn Disk, dir: &Path, counter: u32) {
        let mut closed = self.closed.lock().expect("nothing panics while it holds this");
        *closed = true;
        if let Err(e) = save_checked(disk, &dir.join(VERSIONS_FILE), &counter.to_be_bytes()) {
            tracing::warn!("cannot give back the versions that were reserved: {e}");
        }
    }
}

/// Reserves what a server begins with, and from then on what it comes near to.
pub(super) async fn keep(shared: Arc<Shared>) {
    let versions = &shared.versions;
    loop {
        let counter = u32::try_from(shared.clock.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(versions.start);
        if versions.reserved.load(Ordering::Acquire) >= counter.saturating_add(versions.block / 2) {
            versions.near.notified().await;
            continue;
        }
        let reserving = shared.clone();
        let reserve = move || reserving.versions.reserve(reserving.store.disk(), reserving.store.dir(), counter);
        let reserved = blocking(reserve).await.and_then(|reserved| reserved);
        let why = match &reserved {
            Ok(()) => 0,
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => error::NO_SPACE,
            Err(_) => error::SERVER,
        };
        let before = versions.failed.swap(why, Ordering::Relaxed);
        if let (Err(e), 0) = (&reserved, before) {
            tracing::error!("cannot reserve versions: {e}");
        }
        // Those who wait go on, or tell that nothing can be stored here.
        (0..shared.mailboxes.len()).for_each(|worker| shared.tell(worker, Mail::Durable));
        if why != 0 {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fs::RealDisk;

    #[test]
    fn a_life_begins_behind_all_that_an_earlier_one_may_have_used() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::load(&RealDisk, dir.path(), 100).unwrap();
        assert_eq!(versions.start(), 0);
        assert!(versions.cover(0) && !versions.cover(1), "nothing is reserved yet");
        versions.reserve(&RealDisk, dir.path(), 0).unwrap();
        assert!(versions.cover(100) && !versions.cover(101));
        // Another server's counter was heard.
        versions.reserve(&RealDisk, dir.path(), 5_000).unwrap();
        assert!(versions.cover(5_100));
        let versions = Versions::load(&RealDisk, dir.path(), 100).unwrap();
        assert_eq!(versions.start(), 5_100);
        versions.reserve(&RealDisk, dir.path(), 5_100).unwrap();
        versions.give_back(&RealDisk, dir.path(), 5_107);
        // One that was on its way comes too late.
        versions.reserve(&RealDisk, dir.path(), 5_107).unwrap();
        assert_eq!(Versions::load(&RealDisk, dir.path(), 100).unwrap().start(), 5_107);
    }

    #[tokio::test]
    async fn a_comparison_waits_until_its_counter_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::load(&RealDisk, dir.path(), 100).unwrap();
        let reserving = async {
            versions.near.notified().await;
            versions.reserve(&RealDisk, dir.path(), 4_000).unwrap();
        };
        let (covered, ()) = tokio::join!(versions.covered(4_050), reserving);
        assert!(covered && !versions.cover(4_101));
    }

    #[test]
    fn the_last_counters_are_reserved_without_wrapping() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::load(&RealDisk, dir.path(), 100).unwrap();
        versions.reserve(&RealDisk, dir.path(), u32::MAX - 3).unwrap();
        assert!(versions.cover(u32::MAX) && versions.cover(7), "those that begin anew");
    }

    #[test]
    fn what_the_disk_does_not_take_is_not_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::load(&RealDisk, dir.path(), 100).unwrap();
        assert!(versions.reserve(&RealDisk, &dir.path().join("gone"), 0).is_err());
        assert!(!versions.cover(1));
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(VERSIONS_FILE);
        for bytes in [&b""[..], b"1234567", b"12345678", b"123456789"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Versions::load(&RealDisk, dir.path(), 1).unwrap_err().contains("damaged"));
        }
    }

    /// The bytes of doc/format.md.
    #[test]
    fn the_file_is_as_documented() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::load(&RealDisk, dir.path(), 1 << 22).unwrap();
        versions.reserve(&RealDisk, dir.path(), 0).unwrap();
        let bytes = std::fs::read(dir.path().join(VERSIONS_FILE)).unwrap();
        assert_eq!(bytes, [0x8f, 0x02, 0xcb, 0x1e, 0, 0x40, 0, 0]);
    }
}
