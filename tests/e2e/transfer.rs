//! Records out of a cluster and into another: kumoctl export and import.

use crate::common::cluster::{Cluster, MANAGER_PORT, show};
use crate::common::memcache::Client;
use crate::common::process::{Said, run};
use crate::common::{Turn, eventually};
use std::fmt::Write;
use std::path::Path;

fn ctl(cluster: &Cluster, args: &[&str]) -> Said {
    let manager = show(cluster.manager_address(0), MANAGER_PORT);
    run("kumoctl", &[&[manager.as_str()], args].concat(), cluster.dir())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = char::from(DIGITS[(n >> (18 - 6 * i) & 63) as usize]);
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

/// Lines without their versions, sorted: what two exports have in common.
fn records(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("it was exported");
    assert!(text.ends_with("{\"end\":true}\n"), "it is complete");
    let strip = |line: &str| line.split(",\"version\"").next().expect("a line").trim_end_matches('}').to_owned();
    let mut lines: Vec<String> = text.lines().map(strip).filter(|line| line.contains("key")).collect();
    lines.sort_unstable();
    lines
}

fn path_in(cluster: &Cluster, name: &str) -> String {
    cluster.dir().join(name).display().to_string()
}

#[test]
fn a_hundred_thousand_records_come_back_from_an_export() {
    let _turn = Turn::alone();
    let (mut old, mut new) = (Cluster::start(1, 3), Cluster::start(1, 4));
    let mut made = String::new();
    for i in 0_u32..100_000 {
        // Any bytes, those that the text protocol cannot name among them.
        let key = [&i.to_be_bytes()[..], b" \n\xff"].concat();
        let (key, value) = (base64(&key), base64(&i.to_le_bytes()[..i as usize % 5]));
        let more = match i % 3 {
            0 => format!(",\"flags\":{i}"),
            1 => ",\"expiry\":4000000000".to_owned(),
            _ => String::new(),
        };
        let more = if more == ",\"flags\":0" { "" } else { &more };
        writeln!(made, "{{\"key\":\"{key}\",\"value\":\"{value}\"{more}}}").expect("memory is there");
    }
    made.push_str("{\"end\":true}\n");
    let (first, second, third) = (path_in(&old, "made"), path_in(&old, "out"), path_in(&new, "out"));
    std::fs::write(&first, made).expect("it can be written");

    let said = ctl(&old, &["import", &first]);
    assert!(said.code == Some(0) && said.stderr.contains("100000 records imported"), "{said:?}");
    let said = ctl(&old, &["export", &second, "--json"]);
    let summary: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(
        (said.code, &summary["records"], &summary["damaged"]),
        (Some(0), &100_000.into(), &0.into()),
        "{said:?}"
    );
    let said = ctl(&new, &["import", &second, "--json"]);
    let summary: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!((said.code, &summary["stored"]), (Some(0), &100_000.into()), "{said:?}");
    assert_eq!(ctl(&new, &["export", &third]).code, Some(0));
    let given = records(Path::new(&first));
    assert!(given == records(Path::new(&second)) && given == records(Path::new(&third)), "records differ");
    old.assert_sound();
    new.assert_sound();
}

#[test]
fn what_is_exported_is_what_clients_see_and_what_is_there_can_be_kept() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..50).for_each(|i| client.set(&format!("k{i}"), b"old").expect("it is stored"));
    (0..10).for_each(|i| assert!(client.delete(&format!("k{i}")).expect("an answer")));
    let file = path_in(&cluster, "out");
    assert_eq!(ctl(&cluster, &["export", &file]).code, Some(0));
    assert_eq!(records(Path::new(&file)).len(), 40);
    let said = ctl(&cluster, &["export"]);
    assert_eq!((said.code, said.stdout.lines().count()), (Some(0), 41), "{said:?}");

    (20..30).for_each(|i| client.set(&format!("k{i}"), b"new").expect("it is stored"));
    (30..50).for_each(|i| assert!(client.delete(&format!("k{i}")).expect("an answer")));
    let said = ctl(&cluster, &["import", &file, "--keep"]);
    assert!(said.stderr.contains("20 records imported, 20 kept"), "{said:?}");
    let value = |client: &mut Client, key: &str| client.get(key).expect("an answer").map(|value| value.to_vec());
    assert_eq!(value(&mut client, "k25").as_deref(), Some(&b"new"[..]));
    assert_eq!(value(&mut client, "k45").as_deref(), Some(&b"old"[..]));
    let said = ctl(&cluster, &["import", &file]);
    assert!(said.stderr.contains("40 records imported, 0 kept"), "{said:?}");
    assert_eq!(value(&mut client, "k25").as_deref(), Some(&b"old"[..]));
    assert_eq!(value(&mut client, "k5"), None);
    cluster.assert_sound();
}

#[test]
fn an_export_outlives_servers_and_keeps_to_each_record_once() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 4);
    let mut client = cluster.client();
    // Longer than what a pipe and the pages under way hold, so that it cannot be over before it is read.
    let value = vec![b'v'; 20_000];
    (0..400).for_each(|i| client.set(&format!("k{i}"), &value).expect("it is stored"));
    let manager = show(cluster.manager_address(0), MANAGER_PORT);
    let mut export = std::process::Command::new(crate::common::program("kumoctl"))
        .args([manager.as_str(), "export"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut out = std::io::BufReader::new(export.stdout.take().expect("it is piped"));
    let mut first = String::new();
    std::io::BufRead::read_line(&mut out, &mut first).expect("it writes");
    cluster.kill_server(1);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).expect("it writes");
    assert!(export.wait().expect("it ends").success());
    let text = first + &rest;
    let mut keys: Vec<&str> =
        text.lines().filter_map(|line| line.split(',').next()).filter(|k| k.contains("key")).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((keys.len(), text.lines().count()), (400, 401));
    cluster.assert_sound();
}

#[test]
fn troubles_of_exports_and_imports_are_one_line_and_say_how_to_go_on() {
    let _turn = Turn::shared();
    let mut cluster = Cluster::start(1, 3);
    let mut client = cluster.client();
    (0..5).for_each(|i| client.set(&format!("k{i}"), b"v").expect("it is stored"));
    let file = path_in(&cluster, "out");
    assert_eq!(ctl(&cluster, &["export", &file]).code, Some(0));
    ctl(&cluster, &["export", &file]).complains(1, &["cannot write", "exists"]);
    ctl(&cluster, &["import", "not-there"]).complains(1, &["cannot read not-there"]);
    ctl(&cluster, &["status", "--keep"]).complains(2, &["only import takes --keep"]);
    ctl(&cluster, &["export", "--from", "nowhere"]).complains(2, &["--from"]);
    let (cut, bad) = (path_in(&cluster, "cut"), path_in(&cluster, "bad"));
    let text = std::fs::read_to_string(&file).expect("it is there");
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&cut, lines[..3].join("\n") + "\n").expect("it can be written");
    ctl(&cluster, &["import", &cut]).complains(1, &["the last line is missing", "--skip 3"]);
    std::fs::write(&bad, format!("{}\n{}\nrubbish\n", lines[0], lines[1])).expect("it can be written");
    ctl(&cluster, &["import", &bad]).complains(1, &["line 3: it is not JSON", "--skip 2"]);
    let said = ctl(&cluster, &["import", &file, "--skip", "2"]);
    assert!(said.code == Some(0) && said.stderr.contains("3 records imported"), "{said:?}");

    // Half of it.
    let all = text.len();
    std::fs::write(&cut, lines[..2].join("\n") + "\n").expect("it can be written");
    let behind = "8000000000000000";
    assert_eq!(ctl(&cluster, &["export", &cut, "--from", behind]).code, Some(0));
    assert!(std::fs::read_to_string(&cut).expect("it is there").len() < all + lines[0].len() + lines[1].len());

    // A cluster that is not whole, and nobody.
    (0..3).for_each(|i| cluster.servers[i].kill());
    eventually("all are taken for dead", || (cluster.status().active() == 0).then_some(()));
    ctl(&cluster, &["export"]).complains(1, &["no server is attached and active"]);
    cluster.managers[0].kill();
    ctl(&cluster, &["export"]).complains(1, &["cannot connect", "kumo-manager"]);
    ctl(&cluster, &["import", &file]).complains(1, &["cannot connect"]);
}
