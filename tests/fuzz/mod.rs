//! What must hold for any bytes, for each parser that reads what others wrote: plain functions that panic when it does
//! not. `tests/fuzz.rs` runs them over mutated seeds within the gate, the crate in `fuzz/` under libFuzzer for as long
//! as one likes.

// Every binary compiles this for itself, and not each uses all of it.
#![allow(dead_code)]

pub mod binlog;
pub mod options;
pub mod records;
pub mod rpc;
pub mod store;
pub mod text;

/// A parser under test.
pub struct Target {
    /// Names its directory in the corpus.
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
    /// Valid inputs to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs of this are tried where others are tried a thousand times.
    pub per_mille: u64,
}

pub const TARGETS: &[Target] = &[
    Target { name: "text", run: text::fuzz_text, seeds: text::seeds, per_mille: 1000 },
    Target { name: "meta", run: text::fuzz_meta, seeds: text::meta_seeds, per_mille: 1000 },
    Target { name: "binary", run: text::fuzz_binary, seeds: text::binary_seeds, per_mille: 1000 },
    Target { name: "frames", run: rpc::fuzz_frames, seeds: rpc::frame_seeds, per_mille: 1000 },
    Target { name: "messages", run: rpc::fuzz_messages, seeds: rpc::message_seeds, per_mille: 1000 },
    Target { name: "epochs", run: rpc::fuzz_epochs, seeds: rpc::epoch_seeds, per_mille: 200 },
    Target { name: "records", run: records::fuzz_records, seeds: records::seeds, per_mille: 1000 },
    Target { name: "store", run: store::fuzz_store, seeds: store::seeds, per_mille: 50 },
    Target { name: "binlog", run: binlog::fuzz_binlog, seeds: binlog::seeds, per_mille: 1000 },
    Target { name: "options", run: options::fuzz_options, seeds: options::seeds, per_mille: 50 },
];
