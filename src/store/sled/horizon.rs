//! How far the tree must reach: what tells damage from a torn tail.
//!
//! When sled opens its log, it takes the first entry that fails its checksum for the end and drops what follows. After
//! a kill that is right; but a bit that flipped in the middle would cost everything after it, without a word. So each
//! flush has a number. It is put into a tree of its own before the flush begins, and into the file `DIR/flushed` when
//! the flush is done and before anything is acknowledged:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the number, big-endian |
//! | 16 | the boot id of the system that wrote it |
//! | 1 | 1: what was flushed has also been synced to the device |
//! | 4 | CRC-32C of the bytes before |
//!
//! Invariant: the log is in order, so a tree that holds a number holds all that was acknowledged for it. A tree that
//! holds a lower number than the file has lost records: to the loss of power, where the file says that this can be;
//! else to damage, and then it is not opened.

use super::{guarded, io_error};
use crate::store::StoreError;
use sled::{Db, Tree};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file's name.
pub const HORIZON_FILE: &str = "flushed";
const TREE_NAME: &[u8] = b"flushed";
const KEY: &[u8] = b"number";
const FILE_LEN: usize = 29;
const BOOT_ID_LEN: usize = 16;

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reached {
    number: u64,
    boot: [u8; BOOT_ID_LEN],
    synced: bool,
}

/// The numbers of the flushes of an open tree.
pub struct Horizon {
    tree: Tree,
    file: File,
    path: PathBuf,
    boot: [u8; BOOT_ID_LEN],
    number: u64,
}

impl Horizon {
    /// Compares the tree with the file in `dir`. The text says what was lost with the system's power, if anything;
    /// the error is [`StoreError::Unusable`] when records were lost to damage.
    pub fn open(db: &Db, dir: &Path) -> Result<(Horizon, Option<String>), StoreError> {
        let path = dir.join(HORIZON_FILE);
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(|e| io_error("opening", &path, e))?;
        let (tree, held) = guarded("reading", dir, || {
            let tree = db.open_tree(TREE_NAME)?;
            let held = tree.get(KEY)?;
            Ok((tree, held))
        })?;
        let held = held.and_then(|n| Some(u64::from_be_bytes(n.as_ref().try_into().ok()?))).unwrap_or(0);
        let boot = boot_id();
        let read = read(&file).map_err(|e| io_error("reading", &path, e))?;
        let (reached, lost) = match judge(held, read, boot) {
            Verdict::Whole => (held, None),
            Verdict::PowerLost(flushes) => {
                (held + flushes, Some(format!("the last {flushes} flushes of {} were lost with power", dir.display())))
            }
            Verdict::Torn => (held, Some(format!("{} was torn when power was lost", path.display()))),
            Verdict::Damaged => {
                let (dir, path) = (dir.display(), path.display());
                return Err(StoreError::Unusable(format!(
                    "{dir} has lost acknowledged records to damage: set it aside and let its replicas fill a new one, or, \
                     if there are none, remove {path} to go on with what is left"
                )));
            }
        };
        // Numbers never come again: a lost one, found after all, must not pass for a later one.
        Ok((Horizon { tree, file, path, boot, number: reached }, lost))
    }

    /// Puts the next number into the tree, for the flush that is about to begin.
    pub fn begin(&mut self) -> Result<(), StoreError> {
        let number = self.number + 1;
        guarded("numbering a flush in", &self.path, || self.tree.insert(KEY, &number.to_be_bytes()))?;
        self.number = number;
        Ok(())
    }

    /// Writes down that the last flush begun is done. `synced`: to the device.
    pub fn reached(&self, synced: bool) -> Result<(), StoreError> {
        let reached = Reached { number: self.number, boot: self.boot, synced };
        self.file.write_all_at(&encode(reached), 0).map_err(|e| io_error("writing", &self.path, e))
    }

    /// The same, and makes it survive the loss of power itself.
    pub fn reached_for_good(&self) -> Result<(), StoreError> {
        self.reached(true)?;
        self.file.sync_all().map_err(|e| io_error("syncing", &self.path, e))
    }
}

/// What the numbers of tree and file tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Nothing acknowledged is missing.
    Whole,
    /// The system went down, and so many flushes had not reached the device.
    PowerLost(u64),
    /// The file itself cannot be read, as when the system went down while it was written.
    Torn,
    /// Acknowledged records are missing that no loss of power explains.
    Damaged,
}

/// `held` is the tree's number; `file` what its file says: nothing when it is new or was removed.
fn judge(held: u64, file: Result<Option<Reached>, Unreadable>, boot: [u8; BOOT_ID_LEN]) -> Verdict {
    match file {
        Err(Unreadable) => Verdict::Torn,
        Ok(Some(reached)) if held < reached.number => match reached.synced || reached.boot == boot {
            true => Verdict::Damaged,
            false => Verdict::PowerLost(reached.number - held),
        },
        Ok(_) => Verdict::Whole,
    }
}

/// The file is not what we write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unreadable;

fn read(file: &File) -> io::Result<Result<Option<Reached>, Unreadable>> {
    let mut bytes = [0; FILE_LEN];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(decode(&bytes).map(Some)),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            Ok(if file.metadata()?.len() == 0 { Ok(None) } else { Err(Unreadable) })
        }
        Err(e) => Err(e),
    }
}

fn encode(reached: Reached) -> [u8; FILE_LEN] {
    let mut bytes = [0; FILE_LEN];
    bytes[..8].copy_from_slice(&reached.number.to_be_bytes());
    bytes[8..24].copy_from_slice(&reached.boot);
    bytes[24] = u8::from(reached.synced);
    let crc = crc32c::crc32c(&bytes[..25]);
    bytes[25..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; FILE_LEN]) -> Result<Reached, Unreadable> {
    let number = u64::from_be_bytes(bytes[..8].try_into().map_err(|_| Unreadable)?);
    let boot = bytes[8..24].try_into().map_err(|_| Unreadable)?;
    let reached = Reached { number, boot, synced: bytes[24] == 1 };
    if encode(reached) == *bytes { Ok(reached) } else { Err(Unreadable) }
}

/// The system's boot id. Where there is none, a kill and a loss of power look alike.
fn boot_id() -> [u8; BOOT_ID_LEN] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: [u8; BOOT_ID_LEN] = *b"the current boot";

    #[test]
    fn the_golden_file_is_written_and_read_and_every_flipped_bit_noticed() {
        let golden = *b"\0\0\0\0\0\0\x01\x02the current boot\x01\x7d\xb2\xe8\x89";
        let reached = Reached { number: 0x102, boot: BOOT, synced: true };
        assert_eq!(encode(reached), golden);
        assert_eq!(decode(&golden), Ok(reached));
        for bit in 0..FILE_LEN * 8 {
            let mut bytes = golden;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Err(Unreadable), "bit {bit}");
        }
    }

    #[test]
    fn missing_flushes_are_damage_unless_power_can_have_cost_them() {
        let file = |number, boot, synced| Ok(Some(Reached { number, boot, synced }));
        let earlier = *b"an earlier  boot";
        assert_eq!(judge(0, Ok(None), BOOT), Verdict::Whole);
        assert_eq!(judge(5, Ok(None), BOOT), Verdict::Whole);
        assert_eq!(judge(5, file(5, BOOT, false), BOOT), Verdict::Whole);
        assert_eq!(judge(6, file(5, BOOT, false), BOOT), Verdict::Whole, "killed before the file was written");
        assert_eq!(judge(4, file(5, BOOT, false), BOOT), Verdict::Damaged);
        assert_eq!(judge(2, file(5, earlier, false), BOOT), Verdict::PowerLost(3));
        assert_eq!(judge(2, file(5, earlier, true), BOOT), Verdict::Damaged);
        assert_eq!(judge(2, Err(Unreadable), BOOT), Verdict::Torn);
    }

    #[test]
    fn the_boot_id_is_known_and_stays() {
        assert_ne!(boot_id(), [0; BOOT_ID_LEN]);
        assert_eq!(boot_id(), boot_id());
    }
}
