//! Increments: backups that hold only those segments which an earlier backup has not.
//!
//! Segments never change, so what an earlier backup has need not be kept again. A file in place of the identity names that
//! backup and the segments that count there: an increment is no store, and cannot be taken for one. Together with the
//! earlier ones beside it, each is exactly what the store was; deletions whose marks are long forgotten included.
//!
//! The file: doc/format.md, "What counts".

use super::open::unreadable;
use super::segment::{id_in, log_name};
use crate::store::StoreError;
use crate::store::fs::{self, Disk, read_small, store_error};
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The name of the file that says what else belongs to an increment.
pub const MANIFEST: &str = "kumofs.increment";
const HEADING: &str = "kumofs increment 1";
/// The longest manifest in bytes: some millions of segments.
const MAX_MANIFEST: usize = 64 << 20;
/// The most increments that build upon each other.
const MAX_CHAIN: usize = 1000;

/// What an increment lacks, and where that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The name of the earlier backup, a directory beside this one.
    pub since: String,
    /// The segments that count there, or in what that one builds upon: their numbers, and how long their files are.
    pub kept: BTreeMap<u32, u64>,
}

impl Manifest {
    fn encode(&self) -> String {
        let mut text = format!("{HEADING}\nsince {}\n", self.since);
        for (id, len) in &self.kept {
            text.push_str(&format!("{} {len}\n", log_name(*id)));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc {crc:08x}\n"));
        text
    }

    /// Reads one; `None` when it is damaged, or of another version.
    pub fn parse(bytes: &[u8]) -> Option<Manifest> {
        let text = std::str::from_utf8(bytes).ok()?;
        let at = text.rfind("crc ")?;
        if text[at..] != format!("crc {:08x}\n", crc32c::crc32c(&bytes[..at])) {
            return None;
        }
        let mut lines = text[..at].lines();
        let since = lines.next().filter(|line| *line == HEADING).and(lines.next())?.strip_prefix("since ")?;
        let mut parts = Path::new(since).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else { return None };
        let kept = |line: &str| {
            let (name, len) = line.split_once(' ')?;
            Some((id_in(name, ".log")?, len.parse().ok()?))
        };
        Some(Manifest { since: since.to_owned(), kept: lines.map(kept).collect::<Option<_>>()? })
    }

    /// Writes it, which ends the making of an increment.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MANIFEST);
        fs::write_whole(disk, &path, self.encode().as_bytes()).map_err(|e| store_error("cannot write", &path, e))
    }

    /// That of the increment in a directory; `None` when it is none.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Manifest>, StoreError> {
        let path = dir.join(MANIFEST);
        let bytes = match read_small(disk, &path, MAX_MANIFEST) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|e| unreadable(&path, &e))?,
        };
        let damaged = || StoreError::Unusable(format!("{} is damaged, or of a newer version", path.display()));
        Manifest::parse(&bytes).map(Some).ok_or_else(damaged)
    }
}

/// A backup with all that it builds upon: the directories, and what each leaves to the ones behind it.
pub struct Chain<'d> {
    disk: &'d dyn Disk,
    links: Vec<(PathBuf, Option<Manifest>)>,
}

impl<'d> Chain<'d> {
    /// Reads what each of them says.
    pub fn of(disk: &'d dyn Disk, backup: &Path) -> Result<Chain<'d>, StoreError> {
        let mut links = Vec::new();
        let mut next = Some(backup.to_owned());
        while let Some(dir) = next.filter(|_| links.len() < MAX_CHAIN) {
            let manifest = Manifest::read(disk, &dir)?;
            next = manifest.as_ref().map(|manifest| dir.with_file_name(&manifest.since));
            links.push((dir, manifest));
        }
        Ok(Chain { disk, links })
    }

    /// The directory that holds a segment of the backup: its own, or one of those that it builds upon.
    pub fn holder(&self, id: u32) -> Option<&Path> {
        for (dir, manifest) in &self.links {
            if self.disk.open(&dir.join(log_name(id))).is_ok() {
                return Some(dir);
            }
            if !manifest.as_ref().is_some_and(|manifest| manifest.kept.contains_key(&id)) {
                return None;
            }
        }
        None
    }
}

/// The segments that an increment builds upon: their numbers and directories.
pub fn built_upon(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<Vec<(u32, PathBuf)>, StoreError> {
    let earlier = dir.with_file_name(&manifest.since);
    let chain = Chain::of(disk, &earlier)?;
    let mut found = Vec::new();
    for (id, len) in &manifest.kept {
        let missing = || {
            let (dir, earlier, name) = (dir.display(), earlier.display(), log_name(*id));
            StoreError::Unusable(format!(
                "{dir} is an increment, and {name} is missing in what it builds upon: put the backup {earlier} beside it, and \
                 those that this one builds upon"
            ))
        };
        let holder = chain.holder(*id).ok_or_else(missing)?;
        let path = holder.join(log_name(*id));
        let size = disk.open(&path).and_then(|file| file.size()).map_err(|e| store_error("cannot read", &path, e))?;
        if size != *len {
            return Err(missing());
        }
        found.push((*id, holder.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_written_and_no_other_is_read() {
        let manifest = Manifest { since: "db-monday".to_owned(), kept: BTreeMap::from([(42, 1000), (7, 0)]) };
        let text = manifest.encode();
        assert!(text.starts_with("kumofs increment 1\nsince db-monday\n00000007.log 0\n0000002a.log 1000\ncrc "));
        assert_eq!(Manifest::parse(text.as_bytes()), Some(manifest));
        for cut in 0..text.len() {
            assert_eq!(Manifest::parse(&text.as_bytes()[..cut]), None, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(Manifest::parse(&bytes), None, "damaged at {at}");
        }
        for since in ["..", "a/b", "/etc", ""] {
            let leads_away = Manifest { since: since.to_owned(), kept: BTreeMap::new() };
            assert_eq!(Manifest::parse(leads_away.encode().as_bytes()), None, "{since}");
        }
    }
}
