//! The newest epoch on disk, beside the records: a server that starts again knows to which cluster they belong.
//!
//! Four bytes of CRC-32C, big-endian, then the encoded epoch.

use crate::logic::epoch::Epoch;
use std::io::Write;
use std::path::Path;

/// The name of the file beside the records that holds the newest epoch.
const EPOCH_FILE: &str = "epoch";

/// Keeps an epoch on disk: complete and synced, or not at all.
///
/// # Errors
/// Those of the file system; then the earlier one is still there.
pub fn save_epoch(dir: &Path, epoch: &Epoch) -> std::io::Result<()> {
    let bytes = epoch.encode();
    let path = dir.join("epoch.new");
    let mut file = std::fs::File::create(&path)?;
    file.write_all(&crc32c::crc32c(&bytes).to_be_bytes())?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&path, dir.join(EPOCH_FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// The epoch on disk; the default one when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged: one line that says what to do.
pub fn load_epoch(dir: &Path) -> Result<Epoch, String> {
    let path = dir.join(EPOCH_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Epoch::default()),
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    let damaged = || format!("{} is damaged: move it away, and the managers will tell the epoch anew", path.display());
    let (crc, text) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    if u32::from_be_bytes(*crc) != crc32c::crc32c(text) {
        return Err(damaged());
    }
    Epoch::decode(text).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_kept_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_epoch(dir.path()).unwrap(), Epoch::default());
        let epoch = Epoch { number: 7, ..Epoch::default() };
        save_epoch(dir.path(), &epoch).unwrap();
        assert_eq!(load_epoch(dir.path()).unwrap(), epoch);
        let path = dir.path().join(EPOCH_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(load_epoch(dir.path()).unwrap_err().contains("damaged"));
    }
}
