//! A bounded run of all fuzz targets: the kept corpus as it is, then mutations of it and of the seeds.
//!
//! `KUMO_FUZZ_ROUNDS` says how many inputs each target is given; a failure prints the input and how to replay it. What
//! was found once is kept in `tests/fuzz/corpus/`, a directory for each target. Longer runs: `doc/testing.md`.

#[path = "common/rng.rs"]
mod rng;
#[path = "fuzz/mod.rs"]
mod targets;

use rng::Rng;
use std::fmt::Write as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use targets::{TARGETS, Target};

/// Longest input that mutation makes, in bytes.
const MAX_INPUT_BYTES: usize = 4096;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn say(what: &str) {
    eprintln!("{what}");
}

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name)
}

/// The kept inputs of a target, by name.
fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut kept: Vec<(String, Vec<u8>)> = std::fs::read_dir(corpus(target))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a directory can be listed").path())
        .map(|path| (path.to_string_lossy().into_owned(), std::fs::read(&path).expect("a file can be read")))
        .collect();
    kept.sort();
    kept
}

fn try_input(target: &Target, data: &[u8], whence: &str) {
    if catch_unwind(|| (target.run)(data)).is_err() {
        let mut hex = String::new();
        data.iter().for_each(|b| write!(hex, "{b:02x}").expect("a string takes everything"));
        panic!("{} fails on {whence}; the input in hexadecimal: {hex}", target.name);
    }
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of this name");
    let kept = kept(target);
    for (path, data) in &kept {
        try_input(target, data, path);
    }
    let mut pool: Vec<Vec<u8>> = (target.seeds)();
    for (i, seed) in pool.iter().enumerate() {
        try_input(target, seed, &format!("seed {i}"));
    }
    pool.extend(kept.into_iter().map(|(_, data)| data));
    let seed = Rng::announced(name).next();
    let rounds = setting("KUMO_FUZZ_ROUNDS", 20_000) * target.per_mille / 1000;
    for round in 0..rounds {
        // Each round from a seed of its own, so that any can be replayed without those before it.
        let mut rng = Rng::new(seed ^ round);
        let data = mutate(&pool, &mut rng);
        try_input(target, &data, &format!("round {round} of {name}"));
    }
}

/// One of the pool, changed a few times.
fn mutate(pool: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut data = rng.pick(pool).clone();
    for _ in 0..1 + rng.below(6) {
        change(&mut data, pool, rng);
    }
    data.truncate(MAX_INPUT_BYTES);
    data
}

fn change(data: &mut Vec<u8>, pool: &[Vec<u8>], rng: &mut Rng) {
    const TELLING: [u8; 14] = [0, 1, 0x7f, 0x80, 0x90, 0xa0, 0xc0, 0xc4, 0xcf, 0xd9, 0xdb, 0xdd, 0xdf, 0xff];
    let at = rng.below(data.len() + 1);
    match rng.below(9) {
        0 => data.truncate(at),
        1 => data.insert(at, rng.next() as u8),
        2 => data.insert(at, *rng.pick(&TELLING)),
        3 => {
            let other = rng.pick(pool);
            let from = rng.below(other.len() + 1);
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        4 => {
            let end = at + rng.below(data.len() - at + 1).min(64);
            let piece = data[at..end].to_vec();
            let to = rng.below(data.len() + 1);
            data.splice(to..to, piece);
        }
        5 => {
            let end = at + rng.below(data.len() - at + 1).min(16);
            data.drain(at..end);
        }
        _ if at == data.len() => data.push(rng.next() as u8),
        6 => data[at] ^= 1 << rng.below(8),
        7 => data[at] = *rng.pick(&TELLING),
        _ => data[at] = rng.next() as u8,
    }
}

/// Writes every target's seeds into the corpus, for libFuzzer to begin from.
#[test]
#[ignore = "writes into the source tree; doc/testing.md says when"]
fn the_seeds_are_written_to_the_corpus() {
    for target in TARGETS {
        std::fs::create_dir_all(corpus(target)).expect("a directory can be made");
        for (i, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(corpus(target).join(format!("seed-{i:02}")), seed).expect("a file can be written");
        }
    }
}

#[test]
fn text_commands() {
    run("text");
}

#[test]
fn meta_commands() {
    run("meta");
}

#[test]
fn binary_packets() {
    run("binary");
}

#[test]
fn rpc_frames() {
    run("frames");
}

#[test]
fn rpc_messages() {
    run("messages");
}

#[test]
fn epochs() {
    run("epochs");
}

#[test]
fn records() {
    run("records");
}

#[test]
fn files_of_a_store() {
    run("store");
}

#[test]
fn binary_logs() {
    run("binlog");
}

#[test]
fn options() {
    run("options");
}
