//! `kumobench` as its users meet it: exit statuses, and errors of one line.

use std::net::TcpListener;
use std::process::{Command, Output};

fn kumobench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kumobench")).args(args).output().unwrap()
}

fn failed_with(status: i32, args: &[&str]) -> String {
    let output = kumobench(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(text.starts_with("kumobench: ") && text.lines().count() == 1 && output.stdout.is_empty(), "{text}");
    text
}

#[test]
fn usage_errors_are_one_line_and_status_two() {
    assert!(failed_with(2, &[]).contains("ADDR:PORT"));
    assert!(failed_with(2, &["127.0.0.1:1", "--op", "fly"]).contains("--op"));
    assert!(failed_with(2, &["127.0.0.1:1", "--depht", "3"]).contains("--depht"));
}

#[test]
fn a_server_that_is_not_there_is_one_line_and_status_one() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(failed_with(1, &[&unused]).contains("is the server running?"));
    assert!(failed_with(1, &["127.0.0.1"]).contains("HOST:PORT"));
}

#[test]
fn help_and_version_are_no_errors() {
    for args in ["--help", "-h", "--version"] {
        let output = kumobench(&[args]);
        assert!(output.status.success() && !output.stdout.is_empty() && output.stderr.is_empty(), "{args}");
    }
}
