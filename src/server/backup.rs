//! Backups, asked for by a manager or by kumoctl: a copy beside the store, made while it serves.

use super::shared::{Mail, Shared};
use crate::net::background::blocking;
use crate::net::conn::Conn;
use crate::net::time::Instant;
use crate::proto::rpc::frame::write_success;
use crate::proto::rpc::v1::BackedUp;
use crate::store::restored;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Longest suffix of a backup, in bytes.
const SUFFIX_MAX: usize = 64;

/// Makes a backup, or what an earlier one has not; it holds all that was acknowledged before. What went wrong is told in the log, too.
pub(super) async fn make(shared: Arc<Shared>, suffix: &[u8], since: Option<&[u8]>) -> Result<BackedUp, String> {
    let started = Instant::now();
    let made = copy(&shared, suffix, since).await;
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

async fn copy(shared: &Arc<Shared>, suffix: &[u8], since: Option<&[u8]>) -> Result<(PathBuf, u64), String> {
    let base = &shared.config.backup;
    let (path, since) = (path(base, suffix)?, since.map(|suffix| path(base, suffix)).transpose()?);
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
        restored::save(shared.store.disk(), &target, &shared.view().epoch)
            .map_err(|e| format!("cannot write to {}: {e}", target.display()))?;
        Ok(bytes)
    });
    let bytes = copied.await.map_err(|e| e.to_string())?.map_err(|e: String| e)?;
    Ok((path, bytes))
}

/// Answers Backup on a connection once it is done.
pub(super) fn answer(shared: Arc<Shared>, conn: Rc<Conn>, msgid: u32, suffix: Vec<u8>, since: Option<Vec<u8>>) {
    tokio::task::spawn_local(async move {
        let made = make(shared, &suffix, since.as_deref()).await;
        conn.write(|out| {
            write_success(out, msgid);
            BackedUp::write(&made, out);
        });
    });
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
