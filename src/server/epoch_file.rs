//! The newest epoch on disk, beside the records: a server that starts again knows to which cluster they belong.
//!
//! Four bytes of CRC-32C, big-endian, then the encoded epoch.

use crate::logic::epoch::{Epoch, MAX_ENCODED_LEN};
use crate::store::fs::{Disk, read_small, write_whole};
use std::io;
use std::path::Path;

/// The name of the file beside the records that holds the newest epoch.
const EPOCH_FILE: &str = "epoch";

/// Keeps an epoch on disk: complete and synced, or not at all.
///
/// # Errors
/// Those of the file system; then the earlier one is still there.
pub fn save_epoch(disk: &dyn Disk, dir: &Path, epoch: &Epoch) -> io::Result<()> {
    save_checked(disk, &dir.join(EPOCH_FILE), &epoch.encode())
}

/// Keeps bytes on disk with their checksum: complete and synced, or not at all.
pub(super) fn save_checked(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(disk, path, &[&crc32c::crc32c(bytes).to_be_bytes(), bytes].concat())
}

/// Bytes that were kept so, up to `limit`; `None` when they are damaged.
pub(super) fn load_checked(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = read_small(disk, path, limit + 4)?;
    let sound =
        bytes.split_first_chunk::<4>().is_some_and(|(crc, rest)| u32::from_be_bytes(*crc) == crc32c::crc32c(rest));
    Ok(sound.then(|| bytes.split_off(4)))
}

/// The epoch on disk; the default one when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged: one line that says what to do.
pub fn load_epoch(disk: &dyn Disk, dir: &Path) -> Result<Epoch, String> {
    let path = dir.join(EPOCH_FILE);
    let text = match load_checked(disk, &path, MAX_ENCODED_LEN) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Epoch::default()),
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    let damaged = || format!("{} is damaged: move it away, and the managers will tell the epoch anew", path.display());
    Epoch::decode(&text.ok_or_else(damaged)?).map_err(|_| damaged())
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
