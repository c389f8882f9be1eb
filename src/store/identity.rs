//! What makes a directory a store: the identity file, and the lock that keeps a second process out.
//!
//! The identity, `DIR/kumofs`, is one line: `kumofs ENGINE FORMAT DISKID CHECK`: the engine's name, the version of the
//! directory's format (engine files included), the disk id in 16 hexadecimal digits, and the CRC-32C of all before it
//! in 8. `DIR/kumofs.lock` is locked while the store is open, and names the process that holds it.
//!
//! Invariant: nothing is created in a directory that holds files of others; the identity file appears complete or
//! not at all; from then on the disk id never changes.

use super::StoreError;
use super::fs::lock_file;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The identity file's name.
pub const IDENTITY_FILE: &str = "kumofs";
/// The lock file's name.
pub const LOCK_FILE: &str = "kumofs.lock";
/// The format of directories written by this version.
pub const FORMAT: u32 = 1;

const PARTIAL_FILE: &str = "kumofs.partial";
const MAGIC: &str = "kumofs";
/// Longer identity files were not written by any version.
const MAX_IDENTITY_LEN: u64 = 4096;
/// How a Tokyo Cabinet database begins.
const TOKYO_CABINET: &[u8] = b"ToKyO CaBiNeT";
/// What may lie in a directory that becomes a store: our own beginnings, and what file systems put there.
const NOT_FOREIGN: [&str; 3] = [LOCK_FILE, PARTIAL_FILE, "lost+found"];

/// What the identity file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The engine's name, as before the colon of `-s`: `log` or `sled`.
    pub engine: String,
    /// The random number that names this disk in epochs.
    pub disk_id: u64,
}

/// Why a text is not an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Mismatch {
    /// Written by another program.
    Foreign,
    /// Written by another version, of this format.
    Format(u32),
    /// Ours, but changed.
    Damaged,
}

/// An open directory: nobody else has it open while this lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    identity: Identity,
    /// Released when it is dropped.
    _lock: File,
}

impl Directory {
    /// Opens the store at `path` for an engine, or makes a new one there. Errors are [`StoreError::Unusable`], in
    /// words for the operator, and [`StoreError::Io`].
    pub fn open(path: &Path, engine: &str) -> Result<Directory, StoreError> {
        match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return Err(not_a_directory(path)),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(|e| unusable(path, "cannot be made", &e))?;
            }
            Err(e) => return Err(unusable(path, "cannot be used", &e)),
        }
        if read_identity(path)?.is_none() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        // Read again: until the lock was ours, another process may have been at it.
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => {
                let identity = Identity { engine: engine.to_owned(), disk_id: new_disk_id(path)? };
                write_identity(path, &identity)?;
                identity
            }
        };
        if identity.engine != engine {
            let holds = &identity.engine;
            return Err(StoreError::Unusable(format!(
                "{path} holds a store of engine {holds}, not {engine}: open it with -s {holds}:{path}, or name another directory",
                path = path.display()
            )));
        }
        Ok(Directory { path: path.to_owned(), identity, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The random number that names this disk.
    pub fn disk_id(&self) -> u64 {
        self.identity.disk_id
    }
}

/// Makes the identity file of a directory that holds a copy: of the same engine, but with a disk id of its own,
/// since a copy does not follow its original any further.
pub fn write_copy_identity(path: &Path, engine: &str) -> Result<(), StoreError> {
    write_identity(path, &Identity { engine: engine.to_owned(), disk_id: new_disk_id(path)? })
}

/// Makes the entries of a directory survive the loss of power.
pub fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| io_error("syncing", path, e))
}

fn io_error(doing: &str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(path.to_owned()),
        _ => StoreError::Io { context: format!("{doing} {}", path.display()), source },
    }
}

fn unusable(path: &Path, what: &str, source: &io::Error) -> StoreError {
    let advice = "check its owner and permissions, or name another directory";
    StoreError::Unusable(format!("{} {what}: {source}: {advice}", path.display()))
}

fn not_a_directory(path: &Path) -> StoreError {
    let mut start = Vec::new();
    // What cannot be read is no more than a file.
    let _ = File::open(path).and_then(|f| f.take(TOKYO_CABINET.len() as u64).read_to_end(&mut start));
    let path = path.display();
    StoreError::Unusable(match start == TOKYO_CABINET {
        true => format!(
            "{path} is a Tokyo Cabinet database: name a new directory, and bring its records in with \
             `kumomergedb DIR {path}`"
        ),
        false => format!("{path} is a file, and a store is a directory: name a new or an empty directory"),
    })
}

fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|e| unusable(path, "cannot be read", &e))?;
    for entry in entries {
        let name = entry.map_err(|e| unusable(path, "cannot be read", &e))?.file_name();
        if !NOT_FOREIGN.iter().any(|ours| name == *ours) {
            return Err(StoreError::Unusable(format!(
                "{} is no kumofs store, but holds {}: name an empty or a new directory",
                path.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = path.join(LOCK_FILE);
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file);
    let mut lock = opened.map_err(|e| unusable(&file, "cannot be opened", &e))?;
    if lock_file(&lock).map_err(|e| unusable(&file, "cannot be locked", &e))? {
        // Only a courtesy to whoever finds it locked.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        return Ok(lock);
    }
    let mut holder = String::new();
    let _ = lock.take(32).read_to_string(&mut holder);
    Err(StoreError::Unusable(format!(
        "{} is in use by process {}: stop it, or name another directory",
        path.display(),
        holder.trim()
    )))
}

fn new_disk_id(path: &Path) -> Result<u64, StoreError> {
    // 0 would look like an id that nobody has drawn.
    let drawn = getrandom::u64().map(|id| id.max(1));
    drawn.map_err(|e| io_error("drawing a disk id for", path, io::Error::other(e)))
}

/// What the directory's identity file says; `None` when there is none.
fn read_identity(path: &Path) -> Result<Option<Identity>, StoreError> {
    let file = path.join(IDENTITY_FILE);
    let mut bytes = Vec::new();
    match File::open(&file).and_then(|f| f.take(MAX_IDENTITY_LEN).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(&file, "cannot be read", &e)),
    }
    parse(&bytes).map(Some).map_err(|mismatch| {
        StoreError::Unusable(match mismatch {
            Mismatch::Foreign => format!("{} is not kumofs's: name another directory", file.display()),
            Mismatch::Damaged => {
                format!("{} is damaged: set the directory aside and let its replicas fill a new one", file.display())
            }
            Mismatch::Format(theirs) => format!(
                "{} has format {theirs}, and this version knows format {FORMAT}: use the version that wrote it",
                path.display()
            ),
        })
    })
}

fn write_identity(path: &Path, identity: &Identity) -> Result<(), StoreError> {
    let (temporary, file) = (path.join(PARTIAL_FILE), path.join(IDENTITY_FILE));
    let write = || {
        let mut f = File::create(&temporary)?;
        f.write_all(encode(identity).as_bytes())?;
        f.sync_all()?;
        fs::rename(&temporary, &file)
    };
    write().map_err(|e| io_error("writing", &file, e))?;
    sync_directory(path)
}

fn encode(identity: &Identity) -> String {
    let text = format!("{MAGIC} {} {FORMAT} {:016x} ", identity.engine, identity.disk_id);
    format!("{text}{:08x}\n", crc32c::crc32c(text.as_bytes()))
}

fn parse(bytes: &[u8]) -> Result<Identity, Mismatch> {
    let text = std::str::from_utf8(bytes).map_err(|_| Mismatch::Foreign)?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    if words.first() != Some(&MAGIC) {
        return Err(Mismatch::Foreign);
    }
    let &[_, engine, format, disk_id, _] = words.as_slice() else { return Err(Mismatch::Damaged) };
    let format = format.parse::<u32>().map_err(|_| Mismatch::Damaged)?;
    let disk_id = u64::from_str_radix(disk_id, 16).map_err(|_| Mismatch::Damaged)?;
    let identity = Identity { engine: engine.to_owned(), disk_id };
    // One spelling only: whatever differs from what we would write has been changed, or written by another version.
    match encode(&identity) == text {
        true => Ok(identity),
        false if format != FORMAT => Err(Mismatch::Format(format)),
        false => Err(Mismatch::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, engine: &str) -> String {
        match Directory::open(path, engine) {
            Err(StoreError::Unusable(text)) => {
                assert!(!text.contains('\n') && text.contains(&path.display().to_string()), "{text}");
                text
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn the_golden_identity_is_written_and_read() {
        let identity = Identity { engine: "log".into(), disk_id: 0xc0ffee00c0ffee };
        let text = "kumofs log 1 00c0ffee00c0ffee e3da06fc\n";
        assert_eq!(encode(&identity), text);
        assert_eq!(parse(text.as_bytes()), Ok(identity));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let text = encode(&Identity { engine: "sled".into(), disk_id: 42 });
        for cut in 0..text.len() {
            assert!(parse(&text.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(parse(&bytes).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_directory_keeps_its_disk_id_and_each_has_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let (a, b) = (temp.path().join("deep/a"), temp.path().join("b"));
        let id = Directory::open(&a, "log").unwrap().disk_id();
        assert_eq!(Directory::open(&a, "log").unwrap().disk_id(), id);
        assert_ne!(Directory::open(&b, "log").unwrap().disk_id(), id);
    }

    #[test]
    fn a_second_opener_is_told_who_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let held = Directory::open(temp.path(), "log").unwrap();
        let text = refused(temp.path(), "log");
        assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
        drop(held);
        Directory::open(temp.path(), "log").unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_as_it_was() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("data.tch");
        fs::write(&file, "ToKyO CaBiNeT").unwrap();
        assert!(refused(&file, "log").contains("Tokyo Cabinet"));
        let foreign = temp.path().join("home");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("letter"), "dear").unwrap();
        assert!(refused(&foreign, "log").contains("holds letter"));
        assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
        let named_alike = temp.path().join("alike");
        fs::create_dir(&named_alike).unwrap();
        fs::write(named_alike.join(IDENTITY_FILE), "a text\n").unwrap();
        assert!(refused(&named_alike, "log").contains("not kumofs's"));
    }

    #[test]
    fn another_engine_another_format_and_damage_say_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        drop(Directory::open(temp.path(), "log").unwrap());
        assert!(refused(temp.path(), "sled").contains("-s log:"));
        fs::write(temp.path().join(IDENTITY_FILE), "kumofs log 9 00c0ffee00c0ffee 12345678\n").unwrap();
        assert!(refused(temp.path(), "log").contains("format 9"));
        fs::write(temp.path().join(IDENTITY_FILE), "kumofs log 1 00c0ffee00c0ffee 12345678\n").unwrap();
        assert!(refused(temp.path(), "log").contains("replicas"));
    }

    #[test]
    fn a_process_that_died_while_making_it_leaves_nothing_in_the_way() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(PARTIAL_FILE), "kumofs l").unwrap();
        fs::write(temp.path().join(LOCK_FILE), "").unwrap();
        fs::create_dir(temp.path().join("lost+found")).unwrap();
        Directory::open(temp.path(), "log").unwrap();
    }
}
