use super::*;
use crate::logic::clock::ClockTime;
use crate::logic::ring::Node;
use std::io::Read;
use std::net::{Shutdown, TcpListener};

fn address(text: &str) -> Address {
    Address::new(text.parse().unwrap())
}

fn guide() -> NodesInfo {
    let node = |last, active| Node::new(address(&format!("192.168.0.{last}:19800")), active);
    NodesInfo {
        whs: HashSpace {
            nodes: vec![node(101, true), node(104, false)],
            timestamp: ClockTime(1_228_310_160 << 32 | 72),
        },
        not_attached: vec![address("192.168.0.105:19800"), address("[::1]:19800")],
    }
}

#[test]
fn status_is_printed_as_scripts_expect_it() {
    let expected = "\
hash space timestamp:
  Wed Dec 03 22:16:00 +0900 2008 clock 72
attached node:
  192.168.0.101:19800  (active)
  192.168.0.104:19800  (fault)
not attached node:
  192.168.0.105:19800
  [::1]:19800
";
    assert_eq!(guide().text(|_| 9 * 3600), expected);
}

#[test]
fn status_as_json_has_the_same_and_the_epoch() {
    let epoch = Epoch { number: 5, ..Epoch::default() };
    let value = guide().json(Some(&epoch), &[]);
    assert_eq!(value["attached"][1], json!({"address": "192.168.0.104:19800", "state": "fault", "weight": null}));
    assert_eq!(value["not_attached"][1], "[::1]:19800");
    assert_eq!((&value["epoch"], &value["phase"], &value["clock"]), (&json!(5), &json!("idle"), &json!(72)));
    assert_eq!(guide().json(None, &[])["epoch"], Value::Null);
}

/// Answers the first request of one client with bytes, and hangs up. Returns what it was asked.
fn manager(answer: &'static [u8]) -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = vec![0; 100];
        let len = stream.read(&mut asked).unwrap();
        asked.truncate(len);
        stream.write_all(answer).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Until the client has closed its side, so that it is not reset.
        let _ = stream.read_to_end(&mut Vec::new());
        asked
    });
    (at, thread)
}

fn execute_on(args: &[&str], answer: &'static [u8]) -> (Vec<u8>, Result<String, String>) {
    let (at, thread) = manager(answer);
    let args = ["kumoctl", &at].into_iter().chain(args.iter().copied());
    let options = Options::try_parse_from(args).unwrap();
    let mut out = String::new();
    let done = execute(&options, &mut out).map_err(|e| e.to_string().replace(&at, "HERE"));
    (thread.join().unwrap(), done.map(|()| out))
}

#[test]
fn each_command_asks_what_kumofs_asks_and_prints_the_result() {
    let nil: &[u8] = &[0x94, 1, 0, 0xc0, 0xc0];
    for (command, request) in [
        ("attach", [100, 0x91, 0xc3]),
        ("attach-noreplace", [100, 0x91, 0xc2]),
        ("detach", [101, 0x91, 0xc3]),
        ("detach-noreplace", [101, 0x91, 0xc2]),
        ("replace", [104, 0x91, 0xc2]),
        ("full-replace", [104, 0x91, 0xc3]),
        ("disable-auto-replace", [103, 0x91, 0xc2]),
    ] {
        let (asked, printed) = execute_on(&[command], nil);
        assert_eq!(asked, [&[0x94, 0, 0][..], &request].concat(), "{command}");
        assert_eq!(printed.unwrap(), "nil\n");
    }
    let (asked, printed) = execute_on(&["enable-auto-replace"], &[0x94, 1, 0, 0xc0, 0xc3]);
    assert_eq!(asked, [0x94, 0, 0, 103, 0x91, 0xc3]);
    assert_eq!(printed.unwrap(), "true\n");
    let (_, printed) = execute_on(&["attach", "--json"], nil);
    assert_eq!(printed.unwrap(), "{\"result\":null}\n");
}

#[test]
fn how_fast_records_move_is_said_in_bytes_per_second() {
    let nil: &[u8] = &[0x94, 1, 0, 0xc0, 0xc0];
    for (args, request) in [
        (&["rate", "300"][..], &[0xce, 0, 1, 0, 8, 0x91, 0xcd, 1, 44][..]),
        (&["rate", "unlimited"], &[0xce, 0, 1, 0, 8, 0x91, 0]),
        (&["pause"], &[0xce, 0, 1, 0, 9, 0x91, 0xc3]),
        (&["resume"], &[0xce, 0, 1, 0, 9, 0x91, 0xc2]),
    ] {
        let (asked, printed) = execute_on(args, nil);
        assert_eq!(asked, [&[0x94, 0, 0][..], request].concat(), "{args:?}");
        assert_eq!(printed.unwrap(), "nil\n");
    }
    // Nobody has decided anything yet.
    let (asked, printed) = execute_on(&["rate"], nil);
    assert_eq!(asked, [0x94, 0, 0, 0xce, 0, 1, 0, 1, 0x91, 0]);
    assert_eq!(printed.unwrap(), "unlimited\n");
    assert_eq!(execute_on(&["rate", "--json"], nil).1.unwrap(), "{\"bytes_per_sec\":null,\"paused\":false}\n");
}

#[test]
fn backup_prints_its_suffix_first() {
    let nil: &[u8] = &[0x94, 1, 0, 0xc0, 0xc0];
    let (asked, printed) = execute_on(&["backup", "20090101"], nil);
    assert_eq!(asked, [&[0x94, 0, 0, 102, 0x91, 0xa8][..], b"20090101"].concat());
    assert_eq!(printed.unwrap(), "suffix=20090101\nnil\n");
    let (asked, printed) = execute_on(&["backup"], nil);
    let suffix = String::from_utf8(asked[6..].to_vec()).unwrap();
    assert!(suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_digit()), "{suffix}");
    assert_eq!(printed.unwrap(), format!("suffix={suffix}\nnil\n"));
}

#[test]
fn status_is_asked_by_get_nodes_info() {
    let (asked, printed) = execute_on(&["status"], &[0x94, 1, 0, 0xc0, 0x92, 0x92, 0x90, 0, 0x90]);
    assert_eq!(asked, [0x94, 0, 0, 99, 0x90]);
    assert!(printed.unwrap().ends_with(" clock 0\nattached node:\nnot attached node:\n"));
}

#[test]
fn troubles_are_told_in_one_line() {
    let told = |answer| execute_on(&["attach"], answer).1.unwrap_err();
    assert_eq!(told(&[0x94, 1, 0, 6, 0xc0]), "HERE refused (error 6); its log says why");
    assert_eq!(told(b""), "HERE hung up before it answered; is it a kumo-manager?");
    assert_eq!(told(b"HTTP/1.1 400\r\n"), "HERE hung up before it answered; is it a kumo-manager?");
    assert!(told(&[0x94, 1, 0, 0xc0, 0x90]).starts_with("HERE answered what is no answer"));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let options = Options::try_parse_from(["kumoctl", &gone, "status"]).unwrap();
    let error = execute(&options, &mut String::new()).unwrap_err().to_string();
    assert!(error.contains("is kumo-manager running there?") && !error.contains('\n'), "{error}");
}

#[test]
fn wrong_usage_is_exit_status_2() {
    let status = |args: &[&str]| format!("{:?}", main(args.iter().map(OsString::from)));
    let usage = format!("{:?}", ExitCode::from(2));
    assert_eq!(status(&["kumoctl", "127.0.0.1"]), usage);
    assert_eq!(status(&["kumoctl", "127.0.0.1", "dance"]), usage);
    assert_eq!(status(&["kumoctl", "127.0.0.1", "status", "x"]), usage);
    assert_eq!(status(&["kumoctl", "127.0.0.1", "pause", "x"]), usage);
    for wrong in ["fast", "0", "-1", "1MB", ""] {
        assert_eq!(status(&["kumoctl", "127.0.0.1", "rate", wrong]), usage, "{wrong:?}");
    }
    assert_eq!(status(&["kumoctl", "a:b", "status"]), usage);
    assert_eq!(status(&["kumoctl", "--version"]), format!("{:?}", ExitCode::SUCCESS));
}
