use super::*;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// How a fake server misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Good,
    /// Stores nothing and says it did.
    Forgetful,
    /// Answers every hundredth command of a connection with an error line.
    Failing,
    /// Refuses every set.
    Full,
    /// Hangs up after a hundred commands of a connection.
    Moody,
    /// Gives the value of another key.
    Confused,
    /// Stores, but answers no get.
    Mute,
}

type Values = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Serves sets and gets as its manner is; returns where. Its threads end with their connections, or with the test.
fn fake_server(manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let values = Values::default();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let values = values.clone();
            std::thread::spawn(move || serve(stream.unwrap(), &values, manner));
        }
    });
    addr
}

/// Serves one connection until it ends, by whomever.
fn serve(mut stream: TcpStream, values: &Values, manner: Manner) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    for count in 1u32.. {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            break;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut answer = Vec::new();
        if words[0] == "set" {
            let mut value = vec![0; words[4].parse::<usize>().unwrap() + 2];
            reader.read_exact(&mut value).ok()?;
            if manner != Manner::Forgetful {
                values.lock().unwrap().insert(words[1].to_owned(), value);
            }
            answer.extend_from_slice(if manner == Manner::Full { b"SERVER_ERROR full\r\n" } else { b"STORED\r\n" });
        } else {
            for key in &words[1..] {
                let found = if manner == Manner::Confused { "kkkkkkkkkk0000000000" } else { key };
                if let Some(value) = values.lock().unwrap().get(found) {
                    answer.extend_from_slice(format!("VALUE {key} 0 {}\r\n", value.len() - 2).as_bytes());
                    answer.extend_from_slice(value);
                }
            }
            answer.extend_from_slice(b"END\r\n");
        }
        match manner {
            Manner::Failing if count % 100 == 0 && words[0] == "get" => answer = b"SERVER_ERROR tired\r\n".to_vec(),
            Manner::Moody if count % 100 == 0 && words[0] == "get" => break,
            Manner::Mute if words[0] == "get" => continue,
            _ => {}
        }
        stream.write_all(&answer).ok()?;
    }
    Some(())
}

fn options(addr: SocketAddr, more: &str) -> Options {
    let addr = addr.to_string();
    let common = ["kumobench", &addr, "--keys", "500", "--connections", "4", "--duration", "0.2"];
    Options::try_parse_from(common.into_iter().chain(more.split_whitespace())).unwrap()
}

fn figure(target: &Target, name: &str) -> f64 {
    target.result.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Runs against a server of the manner and returns the target.
fn measured(manner: Manner, more: &str) -> Target {
    measure(&options(fake_server(manner), more)).unwrap().remove(0)
}

#[test]
fn every_op_runs_clean_against_a_good_server() {
    for more in [
        "",
        "--depth 16 --threads 2",
        "--op set",
        "--op set --value-size 0 --key-size 4",
        "--op mget",
        "--op mget --depth 7 --value-size 30000",
        "--op mix --set-ratio 0.5 --depth 5",
        "--value-size 300000 --keys 20 --depth 3 --op mix --set-ratio 0.5",
    ] {
        let target = measured(Manner::Good, more);
        assert_eq!(target.first_error, None, "{more}");
        assert_eq!((figure(&target, "errors"), figure(&target, "misses")), (0.0, 0.0), "{more}");
        let (p50, max) = (figure(&target, "latency_p50_us"), figure(&target, "latency_max_us"));
        assert!(figure(&target, "ops_per_s") > 0.0 && p50 > 0.0 && p50 <= max, "{more}: {:?}", target.result);
        if more.contains("mget") {
            let ratio = figure(&target, "keys_per_s") / figure(&target, "ops_per_s");
            assert!((ratio - 20.0).abs() < 1e-6, "{ratio}");
        }
    }
}

#[test]
fn what_is_not_there_is_a_miss() {
    let target = measured(Manner::Forgetful, "--op mget --mget-keys 10");
    assert_eq!(figure(&target, "errors"), 0.0);
    assert!(figure(&target, "misses") >= 10.0);
}

#[test]
fn error_lines_are_counted_and_the_run_goes_on() {
    let target = measured(Manner::Failing, "--depth 8");
    assert!(figure(&target, "errors") >= 1.0);
    assert_eq!(target.first_error.as_deref(), Some("SERVER_ERROR tired"));
}

#[test]
fn a_lost_connection_is_made_anew_and_its_requests_are_errors() {
    let target = measured(Manner::Moody, "--depth 8 --duration 0.5");
    assert!(figure(&target, "errors") >= 2.0, "{:?}", target.result);
    assert!(figure(&target, "ops_per_s") * 0.5 > 400.0, "more than the first connections' share");
    assert!(figure(&target, "longest_gap_ms") > 1.0);
}

#[test]
fn values_of_other_keys_are_errors() {
    let target = measured(Manner::Confused, "--depth 4");
    assert_eq!(target.first_error.as_deref(), Some("a value is not what kumobench stores"));
}

#[test]
fn two_targets_are_measured_in_turn() {
    let (a, b) = (fake_server(Manner::Good), fake_server(Manner::Good));
    let targets = measure(&options(a, &format!("--rounds 3 --compare {b}"))).unwrap();
    assert_eq!([targets[0].rounds.len(), targets[1].rounds.len()], [3, 3]);
    assert!(report::table(&targets).contains("ratio"));
    let json = report::json(&options(a, "--json"), &targets).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["ratio"]["ops_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(json["options"]["keys"], 500);
}

#[test]
fn watched_processes_are_shown_by_name() {
    let pid = std::process::id();
    let target = measured(Manner::Good, &format!("--pids {pid}"));
    assert!(figure(&target, "cpu_us_per_op") >= 0.0);
    assert_eq!(target.result.0.iter().filter(|(n, _)| n.starts_with("cpu_us_per_op:")).count(), 1);
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = fake_server(Manner::Good);
    let cases = [
        (measure(&options(unused, "")), "is the server running?"),
        (measure(&options(good, "--key-size 2")), "--key-size 2"),
        (measure(&options(good, &format!("--pids {}", u32::MAX))), "no process"),
        (measure(&options(fake_server(Manner::Full), "")), "SERVER_ERROR full"),
        (measure(&options(fake_server(Manner::Full), "--op set")), "SERVER_ERROR full"),
        (measure(&options(fake_server(Manner::Mute), "--duration 0.05")), "no answer until the end"),
        (measure(&Options { target: "nowhere.invalid:1".into(), ..options(good, "") }), "HOST:PORT"),
    ];
    for (result, expected) in cases {
        let text = result.map(|_| ()).unwrap_err().to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn rubbish_instead_of_an_answer_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"\x80\x00 what?\r\n");
        }
    });
    let error = measure(&options(addr, "")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not a memcached answer") && !error.contains('\n'), "{error}");
}

#[test]
fn wrong_options_are_refused() {
    for wrong in ["--depth 0", "--duration 0", "--duration nan", "--set-ratio 1.1", "--op fly", "--compare-pids 1"] {
        let args = ["kumobench", "127.0.0.1:1"].into_iter().chain(wrong.split(' '));
        assert!(Options::try_parse_from(args).is_err(), "{wrong}");
    }
}
