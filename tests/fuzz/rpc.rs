//! What must hold for any bytes on a port that speaks MessagePack-RPC.

use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::epoch::{Epoch, ManagerEntry, Pace, Phase, ServerEntry};
use kumofs::logic::memory::{Deed, Id};
use kumofs::logic::mutation::Answer;
use kumofs::logic::ring::{HashSpace, Node};
use kumofs::logic::route::Route;
use kumofs::logic::weight::Weight;
use kumofs::proto::rpc::frame::{self, Frame, Role, Scanner};
use kumofs::proto::rpc::msgpack::{Reader, write_array, write_raw, write_uint};
use kumofs::proto::rpc::{v0, v1};

/// The scanner finds the same ends of messages however the bytes arrive, and what it finds is one value of MessagePack. Where
/// it takes a message apart on the way, it finds the same in it.
pub fn fuzz_frames(data: &[u8]) {
    let whole = ends(data, usize::MAX);
    let piece_bytes = 1 + usize::from(data.first().copied().unwrap_or(0) % 16);
    assert_eq!(ends(data, piece_bytes), whole, "in pieces of {piece_bytes}");
    let mut start = 0;
    for end in whole.iter().flatten() {
        let message = &data[start..*end];
        assert_eq!(Scanner::default().advance(&data[start..]), Ok(Some(message.len())));
        let taken = Scanner::default().take(&data[start..]);
        assert_eq!(taken, frame::parse(message).map(|frame| Some((frame, message.len()))));
        let mut reader = Reader::new(message);
        assert_eq!(reader.skip().map(<[u8]>::len), Ok(message.len()), "a message is one value");
        if let Ok(frame) = frame::parse(message) {
            assert_written_again(frame);
        }
        start = *end;
    }
}

/// Where each message ends, and at last `None` when what follows cannot be one.
fn ends(data: &[u8], piece_bytes: usize) -> Vec<Option<usize>> {
    let mut ends = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut scanner = Scanner::default();
    while end < data.len() {
        end = end.saturating_add(piece_bytes).min(data.len());
        loop {
            match scanner.take(&data[start..end]) {
                Ok(None) => break,
                Ok(Some((_, len))) => {
                    assert!(len > 0 && start + len <= end, "a message lies within what has arrived");
                    start += len;
                    ends.push(Some(start));
                }
                Err(_) => {
                    ends.push(None);
                    return ends;
                }
            }
        }
    }
    ends
}

/// What was read can be written, and is read as the same again.
fn assert_written_again(frame: Frame<'_>) {
    let mut out = Vec::new();
    match frame {
        Frame::Request { msgid, method, params } => {
            frame::write_request(&mut out, msgid, method);
            out.extend_from_slice(params);
            messages(method, params);
        }
        Frame::Response { msgid, error: None, result } => {
            frame::write_success(&mut out, msgid);
            out.extend_from_slice(result);
        }
        Frame::Response { msgid, error: Some(error), result } => {
            frame::write_error_head(&mut out, msgid, error);
            out.extend_from_slice(result);
        }
        Frame::Hello { address, role } => frame::write_hello(&mut out, address, role),
    }
    assert_eq!(frame::parse(&out), Ok(frame));
}

/// No reader of parameters or results panics, and each reads what it writes. The first byte chooses a method, the rest
/// is what comes with it.
pub fn fuzz_messages(data: &[u8]) {
    let Some((first, params)) = data.split_first() else { return };
    let method = if *first < 128 { u32::from(*first) } else { 1 << 16 | u32::from(*first - 128) };
    messages(method, params);
}

fn messages(method: u32, params: &[u8]) {
    let mut out = Vec::new();
    match method {
        v1::method::PART => {
            if let Ok(part) = v1::Part::read(params) {
                part.write(&mut out, 1);
                assert_eq!(v1::Part::read(params_of(&out)), Ok(part));
            }
        }
        v1::method::GET_PART => {
            if let Ok(part) = v1::GetPart::read(params) {
                part.write(&mut out, 1);
                assert_eq!(v1::GetPart::read(params_of(&out)), Ok(part));
            }
        }
        v1::method::GET => {
            if let Ok(parts) = v1::InParts::read(params) {
                parts.write(&mut out);
                assert_eq!(v1::InParts::read(&out), Ok(parts));
            }
        }
        v1::method::CONNECT => {
            if let Ok(connect) = v1::Connect::read(params) {
                connect.write(&mut out, 1);
                assert_eq!(v1::Connect::read(params_of(&out)), Ok(connect));
            }
            if let Ok(connected) = v1::Connected::read(params) {
                connected.write(&mut out);
            }
        }
        v1::method::JOIN => {
            if let Ok(join) = v1::Join::read(params) {
                join.write(&mut out, 1);
                assert_eq!(v1::Join::read(params_of(&out)), Ok(join));
            }
        }
        v1::method::PREPARE => {
            if let Ok(prepare) = v1::Prepare::read(params) {
                prepare.write(&mut out, 1);
                assert_eq!(v1::Prepare::read(params_of(&out)), Ok(prepare));
            }
        }
        v1::method::MUTATE => {
            if let Ok(mutate) = v1::Mutate::read(params) {
                mutate.write(&mut out, 1);
                let again = v1::Mutate::read(params_of(&out));
                // Options beyond the seven known bits are not written.
                assert_eq!(again, Ok(v1::Mutate { options: mutate.options & 0x7f, ..mutate }));
            }
            if let Ok(mutated) = v1::Mutated::read(params) {
                mutated.write(&mut out);
            }
        }
        v1::method::REPLICATE => {
            let mut reader = Reader::new(params);
            if let Ok((_, entries)) = v1::ReplicateHead::read(&mut reader) {
                for _ in 0..entries {
                    let Ok(entry) = v1::read_entry(&mut reader) else { break };
                    out.clear();
                    v1::write_entry(&mut out, entry.dbkey, entry.epoch, entry.dbval, entry.deeds.as_slice());
                    assert_eq!(v1::read_entry(&mut Reader::new(&out)), Ok(entry));
                }
            }
        }
        v1::method::BACKUP => {
            if let Ok(backup) = v1::Backup::read(params) {
                backup.write(&mut out);
                assert_eq!(v1::Backup::read(&out), Ok(backup));
            }
        }
        v1::method::COMPARE => {
            if let Ok(compare) = v1::Compare::read(params) {
                compare.write(&mut out, 1);
                assert_eq!(v1::Compare::read(params_of(&out)), Ok(compare));
            }
            if let Ok(compared) = v1::Compared::read(params) {
                compared.write(&mut out);
            }
        }
        v1::method::LIST => {
            if let Ok(list) = v1::List::read(params) {
                list.write(&mut out, 1);
                assert_eq!(v1::List::read(params_of(&out)), Ok(list));
            }
        }
        _ => {
            if let Ok(space) = v0::read_seed(&mut Reader::new(params)) {
                v0::write_seed(&mut out, &space);
                assert_eq!(v0::read_seed(&mut Reader::new(&out)), Ok(space));
            }
            // Whoever answers reads parameters one after the other, as the method has them.
            let mut reader = Reader::new(params);
            while reader.u64().is_ok() || reader.raw().is_ok() || reader.bool().is_ok() || reader.skip().is_ok() {}
        }
    }
}

fn params_of(request: &[u8]) -> &[u8] {
    match frame::parse(request) {
        Ok(Frame::Request { params, .. }) => params,
        other => panic!("a request was written: {other:?}"),
    }
}

/// Bytes that pass for an epoch pass again when written, and a route can be made of them.
pub fn fuzz_epochs(data: &[u8]) {
    let Ok(epoch) = Epoch::decode(data) else { return };
    let again = Epoch::decode(&epoch.encode());
    assert_eq!(again.ok().as_ref(), Some(&epoch));
    let route = Route::new(&epoch);
    for hash in [0, 1, u64::MAX / 2, u64::MAX] {
        let group = route.group(hash);
        let members = group.members();
        assert!(members.iter().all(|m| usize::from(*m) < epoch.servers.len()));
        assert!(group.coordinator().is_none_or(|c| members.contains(&c)));
    }
}

fn address(port: u16) -> Address {
    Address::new(([127, 0, 0, 1], port).into())
}

fn space(servers: u16) -> HashSpace {
    let nodes = (0..servers).map(|i| Node::new(address(19800 + i), i != 3)).collect();
    HashSpace { nodes, timestamp: ClockTime(0x6b00_98c0_0000_0001) }
}

fn epoch(servers: u16) -> Epoch {
    let server = |i: u16| ServerEntry {
        address: address(19800 + i),
        disk_id: 70 + u64::from(i),
        incarnation: u64::MAX - u64::from(i),
        workers: 2,
        removed: (i == 3).then_some(2),
        claim: if i == 3 { 2 } else { 0 },
        drained: i == 3,
    };
    Epoch {
        number: 3,
        cluster: 9,
        managers: vec![ManagerEntry { address: address(19700), disk_id: 4 }],
        servers: (0..servers).map(server).collect(),
        whs: space(servers),
        rhs: space(servers.min(3)),
        flushed: 1,
        flush_at: Some(12),
        phase: Phase::Copying { time: ClockTime(5), full: true },
        pace: Pace::default(),
    }
}

pub fn epoch_seeds() -> Vec<Vec<u8>> {
    let mut weighed = epoch(3);
    weighed.whs.nodes[1].weight = Weight::of_points(1024).expect("it is one");
    weighed.rhs.nodes[2].weight = Weight::of_points(13).expect("it is one");
    let mut seeds = [0, 1, 3, 5].map(|servers| epoch(servers).encode()).to_vec();
    seeds.push(weighed.encode());
    seeds
}

/// Requests of both versions, responses and hellos.
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut seed = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        seeds.push(out);
    };
    seed(&|out| frame::write_hello(out, address(19801), Role::Server));
    seed(&|out| frame::write_hello(out, Address::new("[fe80::1]:19800".parse().expect("an address")), Role::Manager));
    seed(&|out| frame::write_error(out, 7, 6));
    seed(&|out| {
        frame::write_success(out, 70_000);
        v0::write_seed(out, &space(3));
    });
    seed(&|out| {
        frame::write_request(out, 7, v0::method::SET);
        write_array(out, 3);
        write_uint(out, 0);
        write_raw(out, b"\x66\x7d\xf3\x13\x1b\x5a\xe4\xd7wirekey");
        write_raw(out, &[0; 300]);
    });
    for message in message_seeds() {
        seed(&|out| {
            let method = u32::from(message[0]);
            frame::write_request(out, 1, if method < 128 { method } else { 1 << 16 | (method - 128) });
            out.extend_from_slice(&message[1..]);
        });
    }
    let all: Vec<u8> = seeds.concat();
    seeds.push(all);
    seeds
}

/// Parameters behind the number of their method, as [`fuzz_messages`] takes them.
pub fn message_seeds() -> Vec<Vec<u8>> {
    let mut requests: Vec<Vec<u8>> = Vec::new();
    let mut request = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        requests.push(out);
    };
    let connect = v1::Connect { peer: v1::Peer::Gateway, incarnation: u64::MAX, workers: 4, worker: 3, from_worker: 1 };
    request(&|out| connect.write(out, 1));
    let join =
        v1::Join { disk_id: 1, incarnation: 2, workers: 3, stream: address(19900), epoch: Some(epoch(3).encode()) };
    request(&|out| join.write(out, 1));
    request(&|out| v1::Prepare { epoch: &epoch(4).encode(), yields: true }.write(out, 1));
    let id = v1::RequestId { sequence: 1 << 50, attempt: 3, first_epoch: 4, floor: 300 };
    let mutate = v1::Mutate {
        epoch: 7,
        id,
        op: v1::Op::Cas,
        options: 5,
        dbkey: b"12345678k",
        arg: 99,
        dbval: b"0123456789v",
        terms: v1::Terms::default(),
    };
    request(&|out| mutate.write(out, 1));
    let id = Id { gateway: u64::MAX, sequence: 1 << 50, floor: 300 };
    let deed = Deed { id, version: 7, answer: Answer::Number(12) };
    request(&|out| {
        v1::ReplicateHead { epoch: 7, since: 3, stable: 4, first: 5 }.write(out, 1, 2);
        v1::write_entry(out, b"12345678k", 7, b"0123456789v", &[deed]);
        v1::write_entry(out, b"12345678l", 7, b"01234567", &[]);
    });
    request(&|out| v1::write_get(out, 1, 7, b"12345678k"));
    request(&|out| v1::write_get_if_modified(out, 1, 7, b"12345678k", 1 << 60));
    request(&|out| {
        v1::write_multi_get_head(out, 1, 7, 2);
        write_raw(out, b"12345678k");
        write_raw(out, b"12345678l");
    });
    let mut seeds: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| match frame::parse(request) {
            Ok(Frame::Request { method, params, .. }) => [&[128 + (method & 0x7f) as u8], params].concat(),
            other => panic!("a request was written: {other:?}"),
        })
        .collect();
    let mut seed = vec![v0::method::HASH_SPACE_SYNC as u8];
    v0::write_seed(&mut seed, &space(4));
    seeds.push(seed);
    seeds
}
