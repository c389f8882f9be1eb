//! What an idle connection costs the gateway. Alone in its process, whose memory is what is measured.

#[allow(dead_code)]
#[path = "gateway/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "gateway/fake.rs"]
mod fake;
mod story;

use client::Client;
use fake::{Fake, Setup};
use std::io::Write;

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn an_idle_connection_holds_next_to_nothing() {
    const CONNECTIONS: usize = 3000;
    let limit = libc::rlimit { rlim_cur: 10_000, rlim_max: 10_000 };
    // SAFETY: the pointer is to a live local.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        // Past the capture of what tests print.
        let _ = writeln!(std::io::stderr(), "SKIPPED: this system does not allow 10,000 descriptors");
        return;
    }
    let fake = Fake::start(Setup { gateway_workers: 2, ..Setup::default() });
    let mut client = Client::connect(fake.gateway);
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    let before = resident_bytes();
    let busy_once = |_| {
        let mut client = Client::connect(fake.gateway);
        let value = "VALUE a 0 1\r\nx\r\n";
        client.ask("get a\r\nget a a a a\r\n", format!("{value}END\r\n{value}{value}{value}{value}END\r\n"));
        client
    };
    let _idle: Vec<Client> = (0..CONNECTIONS).map(busy_once).collect();
    let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes for an idle connection");
    assert!(each < 16 << 10, "{each} bytes for an idle connection");
}
