//! Whether the tests' own clients can be trusted: they find nothing wrong with memcached, and find what is made wrong.

use crate::common::load::Load;
use crate::common::memcache::{Client, Swapped};
use crate::common::net::Hosts;
use crate::common::process::Process;
use crate::common::rng::Rng;
use crate::common::witness::Witness;
use crate::common::{Turn, eventually, skip, temp_dir};
use std::net::SocketAddr;
use std::path::PathBuf;

pub struct Memcached {
    _process: Process,
    pub address: SocketAddr,
    _hosts: Hosts,
    _dir: tempfile::TempDir,
}

/// A memcached of the system's; `None`, said aloud, when there is none.
pub fn memcached() -> Option<Memcached> {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("memcached")).find(|program| program.exists())
    });
    let Some(program) = found.or_else(|| Some(PathBuf::from("/usr/bin/memcached")).filter(|p| p.exists())) else {
        skip("memcached is not installed");
        return None;
    };
    let (hosts, dir) = (Hosts::claim(), temp_dir());
    let address = SocketAddr::from((hosts.host(1), 11211));
    let args = ["-u", "nobody", "-l", &address.ip().to_string(), "-p", "11211", "-I", "2m"].map(str::to_owned);
    let process = Process::start("memcached", &program, &args, &dir.path().join("memcached"));
    eventually("memcached listens", || Client::connect(address).ok());
    Some(Memcached { _process: process, address, _hosts: hosts, _dir: dir })
}

#[test]
fn the_client_understands_memcached() {
    let _turn = Turn::shared();
    let Some(memcached) = memcached() else { return };
    let mut client = Client::connect(memcached.address).expect("it listens");
    client.set("key", b"a\r\nb").expect("it is stored");
    assert!(!client.store("add", "key", 0, b"x").expect("an answer"));
    assert!(client.store("append", "key", 0, b"c").expect("an answer"));
    let found = client.gets("key").expect("an answer").expect("it is there");
    assert_eq!((found.key.as_str(), found.data.as_slice()), ("key", b"a\r\nbc".as_slice()));
    assert_eq!(client.cas("key", b"1", found.cas).expect("an answer"), Swapped::Stored);
    assert_eq!(client.cas("key", b"2", found.cas).expect("an answer"), Swapped::Exists);
    assert_eq!(client.cas("none", b"2", 1).expect("an answer"), Swapped::NotFound);
    assert_eq!(client.incr("key", 2).expect("an answer"), Some(3));
    assert_eq!(client.retrieve("get", &["none", "key", "nor this"]).expect("an answer").len(), 1);
    assert!(client.delete("key").expect("an answer"));
    assert!(!client.delete("key").expect("an answer"));
    assert_eq!(client.incr("key", 2).expect("an answer"), None);
    assert!(client.stats().expect("an answer").iter().any(|(name, _)| name == "curr_items"));
}

#[test]
fn a_store_that_forgets_nothing_passes() {
    let _turn = Turn::shared();
    let Some(memcached) = memcached() else { return };
    let load = Load::start(&[memcached.address], 100, 1);
    load.progress(1000);
    let report = load.finish("memcached");
    assert!(report.acknowledged >= 1000 && report.reads > 0 && report.refused == 0 && report.unanswered == 0);
}

#[test]
fn a_store_that_forgets_is_found_out() {
    let _turn = Turn::shared();
    let Some(memcached) = memcached() else { return };
    let load = Load::start(&[memcached.address], 100, 1);
    load.progress(300);
    Client::connect(memcached.address)
        .and_then(|mut c| c.command("flush_all").map_err(std::io::Error::other))
        .expect("flushed");
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load.finish("a forgetful store")));
    assert!(finished.is_err(), "what was lost was not missed");
}

#[test]
fn clients_that_share_keys_find_out_a_store_that_forgets_and_no_other() {
    let _turn = Turn::shared();
    let Some(memcached) = memcached() else { return };
    let mut rng = Rng::announced("a witness");
    for forgets in [false, true] {
        let witness = Witness::start(&[memcached.address; 2], &mut rng);
        witness.progress(300);
        if forgets {
            let mut client = Client::connect(memcached.address).expect("it listens");
            client.command("flush_all").expect("it is flushed");
        }
        witness.progress(50);
        let finish = || witness.finish("memcached");
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(finish));
        assert_eq!(finished.is_err(), forgets, "{finished:?}");
        Client::connect(memcached.address).expect("it listens").command("flush_all").expect("it is flushed");
    }
}
