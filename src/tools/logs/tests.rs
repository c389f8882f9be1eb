use super::*;
use crate::proto::binlog::{Happened, encode};

fn address(last: u8) -> Address {
    Address::new(([192, 168, 0, last], 19800).into())
}

/// A log of a few records, and where each begins.
fn log() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut starts = Vec::new();
    let all = [
        Happened::ManagerStart { addr: address(1), partner: None },
        Happened::NewServer(address(2)),
        Happened::SetFailed { key: b"k\xff]", value: b"a\nb", error: 2 },
        Happened::ReplicateSetFailed {
            key: b"k",
            value: b"v",
            hash: 0xab,
            version: ClockTime(1_228_310_160 << 32 | 72),
            to: Some(address(3)),
        },
        Happened::RecordsLost(5),
    ];
    for happened in &all {
        starts.push(bytes.len());
        encode(1_228_310_160, happened, &mut bytes);
    }
    (bytes, starts)
}

fn found(pieces: &[&[u8]]) -> Vec<Found> {
    let mut scan = Scan::new(false);
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| scan.push(piece, false, &mut out));
    scan.push(b"", true, &mut out);
    out
}

#[test]
fn records_are_lines_that_scripts_can_take_apart() {
    let (bytes, _) = log();
    let mut rest = bytes.as_slice();
    let mut lines = Vec::new();
    while let Step::Record(record, len) = binlog::next(rest) {
        lines.push(as_text(&record, |_| 9 * 3600));
        rest = &rest[len..];
    }
    let time = "time=[Wed Dec 03 22:16:00 +0900 2008]";
    assert_eq!(lines[0], format!("SM.2  start manager  {time}  addr=[192.168.0.1:19800]  Padd=[0.0.0.0:0]\n"));
    assert_eq!(lines[1], format!("nS.3  new server  {time}  addr=[192.168.0.2:19800]\n"));
    assert_eq!(lines[2], format!("es.3  set failed  {time}  key=[k\\xff\\]]  val=[a\\nb]  err=[2]\n"));
    let version = "cktm=[Wed Dec 03 22:16:00 +0900 2008 clock 72]";
    let rest = format!("key=[k]  val=[v]  hash=[00000000000000ab]  {version}  to=[192.168.0.3:19800]\n");
    assert_eq!(lines[3], format!("ers.4  replicate set failed  {time}  {rest}"));
    assert_eq!(lines[4], format!("lost.1  records lost  {time}  num=[5]\n"));
}

#[test]
fn a_record_as_json_keeps_numbers_and_does_not_round_hashes() {
    let (bytes, starts) = log();
    let Step::Record(record, _) = binlog::next(&bytes[starts[3]..]) else { panic!("it is whole") };
    let object: serde_json::Value = serde_json::from_str(&as_json(&record)).unwrap();
    assert_eq!((&object["name"], &object["version"]), (&json!("ers"), &json!(4)));
    assert_eq!(object["fields"]["time"], 1_228_310_160);
    assert_eq!(object["fields"]["hash"], "00000000000000ab");
    assert_eq!(object["fields"]["to"], "192.168.0.3:19800");
}

#[test]
fn pieces_make_no_difference() {
    let (bytes, _) = log();
    let whole = found(&[&bytes]);
    assert_eq!(whole.len(), 5);
    for cut in 0..bytes.len() {
        assert_eq!(found(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(found(&single), whole);
}

#[test]
fn a_damaged_stretch_is_skipped_and_told_once() {
    let (mut bytes, starts) = log();
    bytes[starts[1]..starts[2]].fill(0xc1);
    let len = (starts[2] - starts[1]) as u64;
    let found = found(&[&bytes]);
    assert_eq!(found.len(), 5);
    assert_eq!(found[1], Found::Damaged { at: starts[1] as u64, len });
    assert!(matches!(&found[2], Found::Line(line) if line.starts_with("es.3")));
}

#[test]
fn a_record_that_is_cut_at_the_end_is_told_when_nothing_more_comes() {
    let (bytes, starts) = log();
    let cut = &bytes[..bytes.len() - 1];
    let found = found(&[cut]);
    let len = (cut.len() - starts[4]) as u64;
    assert_eq!(found.last(), Some(&Found::Damaged { at: starts[4] as u64, len }));
}

#[test]
fn a_length_that_leads_astray_hides_no_record_after_it() {
    let (mut bytes, starts) = log();
    bytes[starts[1]..starts[1] + 4].copy_from_slice(&1_000_000u32.to_be_bytes());
    let lines = found(&[&bytes]).into_iter().filter(|f| matches!(f, Found::Line(_))).count();
    assert_eq!(lines, 4);
}

fn chosen(words: &[&str], lines: usize) -> String {
    let options = Options::try_parse_from([&["kumolog"], words, &["file"]].concat()).unwrap();
    let mut chooser = Chooser::new(options.part());
    let mut out = String::new();
    for line in 0..lines {
        chooser.take(format!("{line} "), &mut out);
    }
    chooser.end(&mut out);
    out.trim_end().to_owned()
}

#[test]
fn head_and_tail_choose_as_they_do_elsewhere() {
    assert_eq!(chosen(&[], 12), "0 1 2 3 4 5 6 7 8 9 10 11");
    assert_eq!(chosen(&["-h"], 12), "0 1 2 3 4 5 6 7 8 9");
    assert_eq!(chosen(&["-t"], 12), "2 3 4 5 6 7 8 9 10 11");
    assert_eq!(chosen(&["-h", "-n", "3"], 12), "0 1 2");
    assert_eq!(chosen(&["-h", "-n", "-9"], 12), "0 1 2");
    assert_eq!(chosen(&["-t", "-n3"], 12), "9 10 11");
    assert_eq!(chosen(&["--lines=2"], 12), "10 11");
    assert_eq!(chosen(&["-f", "-n", "0"], 12), "");
    assert_eq!(chosen(&["-h", "-n", "-20"], 12), "");
    assert!(Options::try_parse_from(["kumolog", "-t", "-h", "file"]).is_err());
}
