//! Backups, asked for by a manager or by kumoctl: a copy beside the store, made while it serves.

use super::shared::{Mail, Shared};
use crate::logic::epoch::Epoch;
use crate::net::background::blocking;
use crate::net::conn::Conn;
use crate::net::time::Instant;
use crate::proto::rpc::frame::write_success;
use crate::proto::rpc::v1::{BackedUp, Backup};
use crate::store::restored;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Longest suffix of a backup, in bytes.
const SUFFIX_MAX: usize = 64;

/// Makes a backup, or what an earlier one has not; it holds all that was acknowledged before. What went wrong is told in the log, too.
pub(super) async fn make(shared: Arc<Shared>, asked: &Backup) -> Result<BackedUp, String> {
    let started = Instant::now();
    let made = copy(&shared, asked).await;
    match made {
        Ok((path, bytes)) => {
            tracing::info!("backup {}", path.display());
            let path = path.to_string_lossy().into_owned();
            let (items, micros) = (shared.items(), started.elapsed().as_micros() as u64);
            Ok(BackedUp { path, items, bytes, micros })
        }
        Err(why) => {
            tracing::error!("no backup: {why}");
            Err(why)
        }
    }
}

async fn copy(shared: &Arc<Shared>, asked: &Backup) -> Result<(PathBuf, u64), String> {
    let base = &shared.config.backup;
    let (path, since) =
        (path(base, &asked.suffix)?, asked.since.as_ref().map(|suffix| path(base, suffix)).transpose()?);
    let told = asked.epoch.as_ref().map(|text| Epoch::decode(text)).transpose();
    let told = told.map_err(|e| format!("an epoch was told that is none: {e}"))?.unwrap_or_default();
    for flushed in shared.ask_all(Mail::Flush) {
        flushed.await.map_err(|_| "the server is about to end")?;
    }
    let (shared, target) = (shared.clone(), path.clone());
    let copied = blocking(move || {
        // Two at a time could be about one directory.
        let _turn = shared.backup_turn.lock().expect("no backup panics");
        let made = match since {
            Some(since) => shared.store.backup_since(&target, &since),
            None => shared.store.backup(&target).map(|()| shared.store.disk_bytes()),
        };
        let bytes = made.map_err(|e| e.to_string())?;
        // It says what was flushed, and whose stamps the records have.
        restored::save(shared.store.disk(), &target, newer(&shared.view().epoch, &told)?)
            .map_err(|e| format!("cannot write to {}: {e}", target.display()))?;
        Ok::<u64, String>(bytes)
    });
    let bytes = copied.await.map_err(|e| e.to_string())??;
    Ok((path, bytes))
}

/// Answers Backup on a connection once it is done.
pub(super) fn answer(shared: Arc<Shared>, conn: Rc<Conn>, msgid: u32, asked: Backup) {
    tokio::task::spawn_local(async move {
        let made = make(shared, &asked).await;
        conn.write(|out| {
            write_success(out, msgid);
            BackedUp::write(&made, out);
        });
    });
}

/// The newer of what this server acts by and of what it was told, from which it may be cut off: it may have missed a flush.
fn newer<'e>(own: &'e Epoch, told: &'e Epoch) -> Result<&'e Epoch, &'static str> {
    match own.cluster != told.cluster && own.cluster != 0 && told.cluster != 0 {
        true => Err("an epoch was told that is another cluster's"),
        false if told.number > own.number => Ok(told),
        false => Ok(own),
    }
}

/// Where a backup goes: the store's path with the suffix behind it, as kumofs does. A suffix that would lead elsewhere is
/// refused.
fn path(base: &Path, suffix: &[u8]) -> Result<PathBuf, &'static str> {
    let suffix = std::str::from_utf8(suffix).map_err(|_| "the suffix is not text")?;
    if suffix.is_empty() || suffix.len() > SUFFIX_MAX || suffix.contains(['/', '\0']) {
        return Err("the suffix is empty, too long, or has a slash in it");
    }
    let mut name = base.as_os_str().to_owned();
    name.push("-");
    name.push(suffix);
    Ok(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that was cut off from the managers made a backup, and when that was restored alone, all was there again that had
    /// been flushed before.
    #[test]
    fn a_backup_says_what_was_flushed_also_where_the_server_has_not_heard_of_it() {
        let epoch = |cluster, number| Epoch { cluster, number, flushed: number, ..Epoch::default() };
        let (own, told) = (epoch(7, 3), epoch(7, 5));
        assert_eq!(newer(&own, &told), Ok(&told));
        assert_eq!(newer(&told, &own), Ok(&told));
        assert_eq!(newer(&own, &Epoch::default()), Ok(&own));
        assert_eq!(newer(&Epoch::default(), &told), Ok(&told));
        assert!(newer(&own, &epoch(8, 5)).is_err());
    }

    #[test]
    fn a_backup_stays_beside_the_store() {
        let base = Path::new("/var/kumodb.tch");
        assert_eq!(path(base, b"20090101"), Ok(PathBuf::from("/var/kumodb.tch-20090101")));
        assert!(path(base, b"/../../etc/passwd").is_err());
        assert!(path(base, &[b'x'; 65]).is_err());
        assert!(path(base, b"\xff").is_err());
        assert!(path(base, b"").is_err());
    }
}
