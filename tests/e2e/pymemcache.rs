//! A client library that others wrote, and data that others wrote: pymemcache stores the system's package index.

use crate::common::cluster::Cluster;
use crate::common::process::{Process, run_command};
use crate::common::{Turn, say, skip, temp_dir};
use crate::installed;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PYMEMCACHE: &str = "pymemcache==4.0.0";
/// So many records are wanted; a system whose index is smaller tests with what it has, and says so.
const RECORDS: usize = 50_000;
/// For what the network takes part in, and for tens of thousands of records on a slow machine.
const LONG: Duration = Duration::from_secs(300);

/// The package index, as a file; how many records it has.
fn package_index(into: &Path) -> Result<usize, String> {
    let dump = || {
        let output = Command::new("apt-cache").arg("dumpavail").output();
        output.map(|o| o.stdout).map_err(|e| format!("apt-cache: {e}"))
    };
    let count = |index: &[u8]| index.split(|b| *b == b'\n').filter(|l| l.starts_with(b"Package: ")).count();
    let mut index = dump()?;
    if count(&index) < RECORDS {
        let mut update = Command::new("apt-get");
        update.args(["-q", "update"]);
        let _ = run_command("apt-get", update, LONG);
        index = dump()?;
    }
    std::fs::write(into, &index).map_err(|e| e.to_string())?;
    match count(&index) {
        0 => Err("apt-cache knows no packages, and apt-get update brings none".to_owned()),
        some => Ok(some),
    }
}

#[test]
fn pymemcache_stores_the_package_index_while_a_server_dies_and_a_fourth_comes() {
    let _turn = Turn::alone();
    let dir = temp_dir();
    let index = dir.path().join("index");
    let records = match package_index(&index) {
        Ok(records) => records,
        Err(why) => return skip(&why),
    };
    let python = match installed::python("pymemcache", &[PYMEMCACHE], "pymemcache") {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    say(&format!("pymemcache: {records} records{}", if records < RECORDS { ", fewer than wanted" } else { "" }));

    let mut cluster = Cluster::start(2, 3);
    let gateway = cluster.gateway(0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/records.py");
    let args = [script.to_string_lossy().into_owned(), gateway.ip().to_string(), gateway.port().to_string()];
    let args = [args.as_slice(), &[index.to_string_lossy().into_owned()]].concat();
    let mut client = Process::start("pymemcache", &python, &args, &dir.path().join("client"));

    let a_third = format!("stored {}", records / 3 / 5000 * 5000);
    wait_long(&mut client, &a_third);
    cluster.kill_server(1);
    let two_thirds = format!("stored {}", records * 2 / 3 / 5000 * 5000);
    wait_long(&mut client, &two_thirds);
    cluster.add_server();
    cluster.attach();
    wait_long(&mut client, "stored all");
    wait_long(&mut client, "compared all");
    assert_eq!(client.wait().code(), Some(0));
    cluster.assert_sound();
}

/// Waits for a line as long as there are others.
fn wait_long(client: &mut Process, line: &str) {
    let mut told = client.mark();
    let mut patience = LONG;
    while client.logged(line, 0).is_none() {
        let log = client.log_since(0);
        assert!(!client.has_ended() || client.logged(line, 0).is_some(), "the client ended: {log}");
        let step = Duration::from_millis(20);
        patience = if client.mark() > told { LONG } else { patience.saturating_sub(step) };
        assert!(!patience.is_zero(), "no more is told than: {log}");
        told = client.mark();
        std::thread::sleep(step);
    }
}
