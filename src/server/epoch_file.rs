//! The newest epoch on disk, beside the records: a server that starts again knows to which cluster they belong.
//!
//! Four bytes of CRC-32C, big-endian, then the encoded epoch.

use crate::logic::epoch::Epoch;
use crate::store::fs::{Disk, save_checked};
use crate::store::restored::{self, EPOCH_FILE};
use std::io;
use std::path::Path;

/// Keeps an epoch on disk: complete and synced, or not at all.
///
/// # Errors
/// Those of the file system; then the earlier one is still there.
pub fn save_epoch(disk: &dyn Disk, dir: &Path, epoch: &Epoch) -> io::Result<()> {
    save_checked(disk, &dir.join(EPOCH_FILE), &epoch.encode())
}

/// The epoch on disk; the default one when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged: one line that says what to do.
pub fn load_epoch(disk: &dyn Disk, dir: &Path) -> Result<Epoch, String> {
    let path = dir.join(EPOCH_FILE);
    restored::load(disk, dir, EPOCH_FILE).map(Option::unwrap_or_default).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => {
            format!("{} is damaged: move it away, and the managers will tell the epoch anew", path.display())
        }
        _ => format!("cannot read {}: {e}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fs::RealDisk;

    #[test]
    fn an_epoch_is_kept_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_epoch(&RealDisk, dir.path()).unwrap(), Epoch::default());
        let epoch = Epoch { number: 7, ..Epoch::default() };
        save_epoch(&RealDisk, dir.path(), &epoch).unwrap();
        assert_eq!(load_epoch(&RealDisk, dir.path()).unwrap(), epoch);
        let path = dir.path().join(EPOCH_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(load_epoch(&RealDisk, dir.path()).unwrap_err().contains("damaged"));
    }
}
