use super::*;
use proptest::prelude::*;

fn addr(text: &str) -> Address {
    Address::new(text.parse().unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn encoded(happened: &Happened<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(1, happened, &mut out);
    out
}

/// Everything a log can hold, with the bytes that its description in the wire's specification comes to.
fn golden() -> Vec<(Happened<'static>, &'static str)> {
    let a = addr("127.0.0.1:19700");
    let six = addr("[::1]:19800");
    vec![
        (
            Happened::ManagerStart { addr: a, partner: None },
            "00000024 93 cd534d 02 83 ce74696d65 01 ce61646472 a6 4cf47f000001 ce50616464 a6 000000000000",
        ),
        (
            Happened::ServerStart {
                addr: six,
                db: b"d",
                manager1: a,
                manager2: Some(a),
                stream: a,
                tmp_dir: b"",
                backup_prefix: b"d-",
            },
            "0000005f 93 cd5353 02 88 ce74696d65 01 ce61646472 b6 4d580000000000000000000000000000000100000000 cd6462 a1 64 \
             ce6d677231 a6 4cf47f000001 ce6d677232 a6 4cf47f000001 ce73616464 a6 4cf47f000001 ce746d7064 a0 ce626b7570 a2 642d",
        ),
        (
            Happened::GatewayStart { manager1: a, manager2: None },
            "00000024 93 cd5357 02 83 ce74696d65 01 ce6d677231 a6 4cf47f000001 ce6d677232 a6 000000000000",
        ),
        (Happened::NewServer(a), "00000018 93 cd6e53 03 82 ce74696d65 01 ce61646472 a6 4cf47f000001"),
        (Happened::LostServer(a), "00000018 93 cd6c53 03 82 ce74696d65 01 ce61646472 a6 4cf47f000001"),
        (Happened::UnknownPartner(a), "00000018 93 cd6550 03 82 ce74696d65 01 ce61646472 a6 4cf47f000001"),
        (
            Happened::ReplicateSetFailed {
                key: b"k",
                value: b"v",
                hash: 256,
                version: ClockTime(1 << 32),
                to: Some(a),
            },
            "0000003c 93 ce00657273 04 86 ce74696d65 01 ce006b6579 a1 6b ce0076616c a1 76 ce68617368 cd0100 \
             ce636b746d cf0000000100000000 cd746f a6 4cf47f000001",
        ),
        (
            Happened::ReplicateDeleteFailed { key: b"k", hash: 1, version: ClockTime(2), to: None },
            "0000002b 93 ce00657264 04 85 ce74696d65 01 ce006b6579 a1 6b ce68617368 01 ce636b746d 02 cd746f a6 000000000000",
        ),
        (
            Happened::GetFailed { key: b"k", error: 6 },
            "00000019 93 cd6567 03 83 ce74696d65 01 ce006b6579 a1 6b ce00657272 06",
        ),
        (
            Happened::SetFailed { key: b"k", value: b"v", error: 2 },
            "00000020 93 cd6573 03 84 ce74696d65 01 ce006b6579 a1 6b ce0076616c a1 76 ce00657272 02",
        ),
        (
            Happened::DeleteFailed { key: b"k", error: 3 },
            "00000019 93 cd6564 03 83 ce74696d65 01 ce006b6579 a1 6b ce00657272 03",
        ),
        (Happened::RecordsLost(9), "00000014 93 ce6c6f7374 01 82 ce74696d65 01 ce006e756d 09"),
    ]
}

/// Reads a whole file as kumolog does: its records, and how many bytes were damaged.
fn read_all(mut bytes: &[u8]) -> (Vec<Record<'_>>, usize) {
    let (mut records, mut damaged) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let used = match next(bytes) {
            Step::Record(record, used) => {
                records.push(record);
                used
            }
            Step::Damaged(skip) => {
                damaged += skip;
                skip
            }
            Step::Incomplete => {
                let skip = next_after_cut(bytes);
                damaged += skip;
                skip
            }
        };
        assert!(used > 0 && used <= bytes.len());
        bytes = &bytes[used..];
    }
    (records, damaged)
}

#[test]
fn records_are_the_bytes_that_the_specification_comes_to() {
    for (happened, hex) in golden() {
        assert_eq!(encoded(&happened), unhex(hex), "{happened:?}");
    }
}

#[test]
fn a_record_is_read_back_with_its_fields() {
    let bytes = encoded(&Happened::SetFailed { key: b"k", value: b"v", error: 2 });
    let Step::Record(record, used) = next(&bytes) else { panic!() };
    assert_eq!((record.name.to_string().as_str(), record.version, used), ("es", 3, bytes.len()));
    let fields: Vec<(String, Value<'_>)> = record.fields.iter().map(|(k, v)| (k.to_string(), *v)).collect();
    let expected =
        [("time", Value::UInt(1)), ("key", Value::Raw(b"k")), ("val", Value::Raw(b"v")), ("err", Value::UInt(2))];
    assert_eq!(fields, expected.map(|(k, v)| (k.to_owned(), v)));
}

#[test]
fn every_prefix_of_a_record_is_incomplete() {
    for (happened, _) in golden() {
        let bytes = encoded(&happened);
        for cut in 0..bytes.len() {
            assert_eq!(next(&bytes[..cut]), Step::Incomplete, "{happened:?} cut at {cut}");
            if cut > 0 {
                assert_eq!(next_after_cut(&bytes[..cut]), cut);
            }
        }
    }
}

#[test]
fn other_forms_of_values_are_read() {
    let fields =
        "ce6e696c30 c0 ce626f6f6c c3 ce006e6567 ff ce007374 72 a0 ce0066 6c74 cb3ff8000000000000 ce00617272 92 01 02";
    let body = unhex(&format!("93 cd5858 01 86 {fields}"));
    let bytes = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
    let Step::Record(record, _) = next(&bytes) else { panic!("{:?}", next(&bytes)) };
    let values: Vec<Value<'_>> = record.fields.iter().map(|(_, v)| *v).collect();
    let float = unhex("cb3ff8000000000000");
    let expected = [
        Value::Nil,
        Value::Bool(true),
        Value::Int(-1),
        Value::Raw(b""),
        Value::Other(&float),
        Value::Other(b"\x92\x01\x02"),
    ];
    assert_eq!(values, expected);
}

#[test]
fn long_values_are_cut_and_say_how_long_they_were() {
    let value = vec![7; MAX_VALUE_BYTES + 1];
    let bytes = encoded(&Happened::SetFailed { key: b"k", value: &value, error: 2 });
    assert!(bytes.len() < MAX_VALUE_BYTES + 100);
    let Step::Record(record, _) = next(&bytes) else { panic!() };
    assert_eq!(record.fields[2].1, Value::Raw(&value[..MAX_VALUE_BYTES]));
    assert_eq!(record.fields.last(), Some(&(Name::of("size"), Value::UInt(value.len() as u64))));
}

#[test]
fn what_follows_a_damaged_stretch_is_read() {
    let first = encoded(&Happened::NewServer(addr("10.0.0.1:1")));
    let second = encoded(&Happened::LostServer(addr("10.0.0.1:1")));
    for hole in [&b"\0"[..], b"rubbish", &[0xff; 40], &[0; 40], &first[..20], &first[3..]] {
        let file = [&first[..], hole, &second].concat();
        let (records, damaged) = read_all(&file);
        assert_eq!(records.iter().map(|r| r.name.to_string()).collect::<Vec<_>>(), ["nS", "lS"], "{hole:?}");
        assert_eq!(damaged, hole.len());
    }
}

#[test]
fn a_damaged_length_hides_no_later_record() {
    let record = encoded(&Happened::NewServer(addr("10.0.0.1:1")));
    for length in [0u32, 1, 23, 25, 1000, MAX_RECORD_BYTES as u32, u32::MAX] {
        let mut file = [&record[..], &record].concat();
        file[..4].copy_from_slice(&length.to_be_bytes());
        let (records, damaged) = read_all(&file);
        assert_eq!((records.len(), damaged), (1, record.len()), "length {length}");
    }
}

#[test]
fn a_file_that_still_grows_is_not_called_damaged_too_early() {
    let record = encoded(&Happened::NewServer(addr("10.0.0.1:1")));
    let file = [b"xx", &record[..]].concat();
    for cut in 6 + 4..file.len() {
        assert_eq!(next(&file[..cut]), Step::Damaged(2), "cut at {cut}");
        assert_eq!(next(&file[2..cut]), Step::Incomplete);
    }
}

proptest! {
    #[test]
    fn one_flipped_byte_costs_one_record(at in 0usize..84, to: u8) {
        let record = encoded(&Happened::NewServer(addr("10.0.0.1:1")));
        let mut file = record.repeat(3);
        let changed = file[at] != to;
        file[at] = to;
        let (records, _) = read_all(&file);
        prop_assert!(records.len() + usize::from(changed) >= 3);
    }

    #[test]
    fn rubbish_never_panics(bytes: Vec<u8>) {
        read_all(&bytes);
    }
}
