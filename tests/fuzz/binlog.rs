//! What must hold for any bytes that pass for a binary log.

use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::proto::binlog::{Happened, Step, encode, next, next_after_cut};

/// Reading gets on with every step, stays inside the bytes, and finds an intact record behind any damage.
pub fn fuzz_binlog(data: &[u8]) {
    read(data);
    // Damage, and a record behind it.
    let whole = record();
    let log = [data, &whole].concat();
    read(&log);
}

fn read(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let used = match next(bytes) {
            Step::Record(record, used) => {
                assert!(!record.name.to_string().is_empty());
                used
            }
            Step::Damaged(damaged) => damaged,
            Step::Incomplete => next_after_cut(bytes),
        };
        assert!(used > 0 && used <= bytes.len(), "{used} of {} bytes", bytes.len());
        bytes = &bytes[used..];
    }
}

fn record() -> Vec<u8> {
    let mut out = Vec::new();
    encode(1_700_000_000, &Happened::NewServer(address()), &mut out);
    out
}

fn address() -> Address {
    Address::new(([127, 0, 0, 1], 19800).into())
}

/// One of each kind of record, and all in a row.
pub fn seeds() -> Vec<Vec<u8>> {
    let addr = address();
    let happened = [
        Happened::ManagerStart { addr, partner: None },
        Happened::ServerStart {
            addr,
            db: b"database.tch",
            manager1: addr,
            manager2: Some(addr),
            stream: addr,
            tmp_dir: b"/tmp",
            backup_prefix: b"database.tch-",
        },
        Happened::GatewayStart { manager1: addr, manager2: None },
        Happened::LostServer(addr),
        Happened::UnknownPartner(addr),
        Happened::ReplicateSetFailed { key: b"key", value: b"value", hash: 7, version: ClockTime(9), to: Some(addr) },
        Happened::ReplicateDeleteFailed { key: b"key", hash: 7, version: ClockTime(9), to: None },
        Happened::GetFailed { key: b"key", error: 3 },
        Happened::SetFailed { key: b"key", value: &[b'v'; 300], error: 3 },
        Happened::DeleteFailed { key: b"key", error: 6 },
        Happened::RecordsLost(12),
    ];
    let mut seeds: Vec<Vec<u8>> = happened
        .iter()
        .map(|h| {
            let mut out = Vec::new();
            encode(1_700_000_000, h, &mut out);
            out
        })
        .collect();
    seeds.push(seeds.concat());
    seeds
}
