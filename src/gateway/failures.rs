//! Writing down what clients were told has failed: `eg`, `es` and `ed` of the binary log.

use super::op::{Ask, Op};
use crate::daemon::binlog::BinaryLog;
use crate::logic::record::{self, HASH_LEN};
use crate::proto::binlog::Happened;
use crate::proto::memcache::Trouble;
use crate::proto::rpc::{error, v1};

/// Writes down that an operation was answered with `trouble`, if that is the cluster's fault and not the client's.
#[cold]
pub fn note(log: &BinaryLog, op: &Op, trouble: Trouble) {
    let Some(error) = number_of(trouble) else { return };
    let key = op.dbkey().get(HASH_LEN..).unwrap_or_default();
    log.log(&match op.ask {
        Ask::Get | Ask::Batch => Happened::GetFailed { key, error },
        Ask::Mutate(v1::Op::Delete) => Happened::DeleteFailed { key, error },
        Ask::Mutate(_) => {
            let value = record::parse(op.dbval()).and_then(|value| value.body).map_or(&[][..], |body| body.data);
            Happened::SetFailed { key, value, error }
        }
    });
}

/// The number that kumofs's gateway would have got for it.
fn number_of(trouble: Trouble) -> Option<u32> {
    match trouble {
        Trouble::Unknown => Some(error::TRANSPORT_LOST),
        Trouble::NoServer => Some(error::NODE_LOST),
        Trouble::TryAgain | Trouble::NoSpace | Trouble::Overloaded => Some(error::SERVER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::clock::ClockTime;
    use crate::proto::binlog::{Record, Step, Value, next};
    use std::time::Duration;

    /// What is written about an operation, as `name key=value ...`.
    fn noted(ask: Ask, trouble: Trouble) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mpac");
        let log = BinaryLog::open(Some(&path)).unwrap();
        let mut op = Op { ask, ..Op::default() };
        op.set_key(b"p:", b"key");
        op.key_end = op.bytes.len();
        record::encode_header(ClockTime(0), record::LAYOUT_FULL, 0, 0, 0, &mut op.bytes);
        op.bytes.extend_from_slice(b"data");
        note(&log, &op, trouble);
        assert!(log.flush(Duration::from_secs(20)));
        let bytes = std::fs::read(path).unwrap();
        let Step::Record(Record { name, fields, .. }, _) = next(&bytes) else { return None };
        let shown = fields.iter().skip(1).map(|(key, value)| match value {
            Value::Raw(raw) => format!(" {key}={}", String::from_utf8_lossy(raw)),
            value => format!(" {key}={value:?}"),
        });
        Some(format!("{name}{}", shown.collect::<String>()))
    }

    #[test]
    fn failures_are_written_with_key_value_and_error() {
        assert_eq!(noted(Ask::Get, Trouble::NoServer).as_deref(), Some("eg key=p:key err=UInt(2)"));
        let set = noted(Ask::Mutate(v1::Op::Set), Trouble::Unknown);
        assert_eq!(set.as_deref(), Some("es key=p:key val=data err=UInt(1)"));
        let delete = noted(Ask::Mutate(v1::Op::Delete), Trouble::TryAgain);
        assert_eq!(delete.as_deref(), Some("ed key=p:key err=UInt(6)"));
        assert_eq!(noted(Ask::Mutate(v1::Op::Set), Trouble::TooLarge), None);
    }
}
