//! Backup: a directory of hard links to the segments, made while serving.
//!
//! Sealed segments never change, so a link is a copy. The active segments are sealed first, which takes a shard's lock
//! for a moment. The backup is a store of its own, with a disk id of its own: it must not be taken for the same disk. An
//! increment ([`super::increment`]) leaves out the segments that an earlier backup has.

use super::increment::{Chain, MANIFEST, Manifest};
use super::segment::Segment;
use super::{LogStore, files_of, identity};
use crate::store::StoreError;
use crate::store::fs::{self, Disk, PARTIAL_SUFFIX, partial_name, store_error};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const COPY_CHUNK: usize = 1 << 20;

/// Gives the bytes that it put there.
pub(super) fn backup(store: &LogStore, dst: &Path, since: Option<&Path>) -> Result<u64, StoreError> {
    let disk = store.core.disk.as_ref();
    since.map_or(Ok(()), |since| check_backup(disk, since))?;
    match disk.list(dst) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() != io::ErrorKind::NotADirectory => return Err(store_error("cannot look at", dst, e)),
        _ => {
            let text = format!("{} exists: name another directory for the backup", dst.display());
            return Err(StoreError::Unusable(text));
        }
    }
    store.pins.fetch_add(1, Ordering::AcqRel);
    let made = snapshot(store).and_then(|segments| write_backup(store, &segments, dst, since));
    store.pins.fetch_sub(1, Ordering::AcqRel);
    made
}

/// Seals all segments; returns those that hold everything up to now. Compaction waits for this moment.
fn snapshot(store: &LogStore) -> Result<Vec<Arc<Segment>>, StoreError> {
    let mut maintenance = store.maintenance();
    maintenance.seal_outputs();
    for shard in 0..store.shard_count() {
        store.with_shard(shard, |s| s.roll())?;
    }
    if store.core.options.sync {
        store.core.sync_all()?;
    }
    Ok(store.core.segments().into_iter().filter(|s| s.is_sealed()).collect())
}

/// Whether something can be built upon a directory.
fn check_backup(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let none = || StoreError::Unusable(format!("{} is no backup to build upon", dir.display()));
    let listed = disk.list(dir).map_err(|_| none())?;
    let is_one = listed.iter().any(|l| l.name == identity::IDENTITY || l.name == MANIFEST);
    if is_one { Ok(()) } else { Err(none()) }
}

fn write_backup(
    store: &LogStore,
    segments: &[Arc<Segment>],
    dst: &Path,
    since: Option<&Path>,
) -> Result<u64, StoreError> {
    let disk = store.core.disk.as_ref();
    let partial = partial_name(dst);
    clear_partial(disk, &partial)?;
    disk.create_dir(&partial).map_err(|e| store_error("cannot make", &partial, e))?;
    let earlier = since.map(|since| Chain::of(disk, since)).transpose()?;
    let (mut bytes, mut kept) = (0, BTreeMap::new());
    for segment in segments {
        if earlier.as_ref().is_some_and(|earlier| has(disk, earlier, segment)) {
            let file = disk.open(&segment.path).and_then(|file| file.size());
            kept.insert(segment.head.id, file.map_err(|e| store_error("cannot read", &segment.path, e))?);
            continue;
        }
        bytes += segment.len() + segment.hint_len();
        for from in files_of(segment) {
            let to = partial.join(from.file_name().unwrap_or_default());
            match link_or_copy(disk, &from, &to) {
                // A hint may not be there yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound && from != segment.path => {}
                other => other.map_err(|e| store_error("cannot back up to", &to, e))?,
            }
        }
    }
    match since.and_then(Path::file_name) {
        Some(name) => {
            let manifest = Manifest { since: name.to_string_lossy().into_owned(), kept };
            manifest.write(disk, &partial)?;
        }
        None => drop(identity::write(disk, &partial)?),
    }
    disk.rename(&partial, dst).map_err(|e| store_error("cannot rename to", dst, e))?;
    let above = dst.parent().unwrap_or(Path::new("."));
    disk.sync_dir(above).map_err(|e| store_error("cannot sync", above, e))?;
    Ok(bytes)
}

/// Whether an earlier backup has this very file. Where links are impossible, none has.
fn has(disk: &dyn Disk, earlier: &Chain<'_>, segment: &Segment) -> bool {
    let name = segment.path.file_name().unwrap_or_default();
    let holder = earlier.holder(segment.head.id);
    holder.is_some_and(|holder| disk.is_same(&holder.join(name), &segment.path).unwrap_or(false))
}

/// Removes what an earlier backup left that did not end.
fn clear_partial(disk: &dyn Disk, partial: &Path) -> Result<(), StoreError> {
    debug_assert!(partial.to_string_lossy().ends_with(PARTIAL_SUFFIX));
    let failed = |e| store_error("cannot remove", partial, e);
    match disk.list(partial) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(listed) => {
            listed.iter().try_for_each(|l| disk.remove(&partial.join(&l.name)).map_err(failed))?;
            disk.remove_dir(partial).map_err(failed)
        }
    }
}

fn link_or_copy(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    match disk.hard_link(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound && e.kind() != io::ErrorKind::StorageFull => copy(disk, from, to),
        other => other,
    }
}

fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (disk.open(from)?, disk.create(to)?);
    let mut chunk = vec![0; COPY_CHUNK];
    let mut offset = 0;
    loop {
        let read = fs::read_full(from.as_ref(), &mut chunk, offset)?;
        if read == 0 {
            return to.sync();
        }
        fs::write_all(to.as_ref(), &chunk[..read], offset)?;
        offset += read as u64;
    }
}
