//! The binary log of a daemon: hands encoded records to a [`Queue`], and does nothing without `--binary-log`.

use super::queue::{Queue, Target};
use crate::proto::binlog::{Happened, encode};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where roles write down what happened. Clones write to the same file.
#[derive(Clone, Default, Debug)]
pub struct BinaryLog {
    queue: Option<Queue>,
}

impl BinaryLog {
    /// Opens the file, or none: then all else does nothing. The error is a line for the user.
    pub fn open(path: Option<&Path>) -> Result<BinaryLog, String> {
        let Some(path) = path else { return Ok(BinaryLog::default()) };
        let queue = Queue::open(Target::File(path.to_owned()), |lost| record(&Happened::RecordsLost(lost)))
            .map_err(|e| format!("cannot open the binary log {}: {e}; name another with -g", path.display()))?;
        Ok(BinaryLog { queue: Some(queue) })
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Writes a record with the present time. Never blocks.
    pub fn log(&self, happened: &Happened<'_>) {
        if let Some(queue) = &self.queue {
            queue.write(record(happened));
        }
    }

    /// Opens the file anew, for log rotation.
    pub fn reopen(&self) {
        self.queue.iter().for_each(Queue::reopen);
    }

    /// Waits until all is written, but not longer than `patience`; true when it is.
    pub fn flush(&self, patience: Duration) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.flush(patience))
    }

    /// How many records were dropped because the file was written too slowly.
    pub fn dropped(&self) -> u64 {
        self.queue.as_ref().map_or(0, Queue::dropped)
    }
}

fn record(happened: &Happened<'_>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut bytes = Vec::with_capacity(64);
    encode(now.as_secs(), happened, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binlog::{Step, next};

    #[test]
    fn records_reach_the_file_and_nothing_happens_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.mpac");
        let log = BinaryLog::open(Some(&path)).unwrap();
        log.log(&Happened::GetFailed { key: b"k", error: 6 });
        assert!(log.flush(Duration::from_secs(20)) && log.dropped() == 0);
        let bytes = std::fs::read(&path).unwrap();
        let Step::Record(record, used) = next(&bytes) else { panic!("{bytes:?}") };
        assert_eq!((record.name.to_string().as_str(), used), ("eg", bytes.len()));

        let none = BinaryLog::open(None).unwrap();
        none.log(&Happened::GetFailed { key: b"k", error: 6 });
        none.reopen();
        assert!(none.flush(Duration::ZERO));
        assert!(BinaryLog::open(Some(Path::new("/nonexistent/x.mpac"))).unwrap_err().contains("/nonexistent/x.mpac"));
    }
}
