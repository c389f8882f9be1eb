//! The golden bytes in `doc/protocol.md` are those that the code writes: what is on the wire may not change unnoticed.

use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::digest::{Leaves, Window};
use kumofs::logic::epoch::{Epoch, ManagerEntry, Pace, Phase, ServerEntry};
use kumofs::logic::hottest::Hot;
use kumofs::logic::memory::{Deed, Id};
use kumofs::logic::mutation::Answer;
use kumofs::logic::paxos::{self, Ballot, Question, Voter};
use kumofs::logic::record::{LAYOUT_CAS, LAYOUT_FULL, LAYOUT_KUMOFS, encode_dbkey, encode_header, encode_marked, mark};
use kumofs::logic::ring::{HashSpace, Node};
use kumofs::logic::weight::Weight;
use kumofs::proto::rpc::frame::{Role, write_error, write_error_head, write_hello, write_request, write_success};
use kumofs::proto::rpc::msgpack::{Reader, write_array, write_bool, write_nil, write_raw, write_uint};
use kumofs::proto::rpc::settings::{Setting, read_list, write_list};
use kumofs::proto::rpc::v1::{
    BackedUp, Caller, Compare, Compared, Connect, Connected, GetPart, Held, InParts, Join, Lag, List, Mutate, Mutated,
    Numbers, Op, Page, Part, Peer, ReplicateHead, ReportHead, RequestId, Statistics, Terms, method, term, told,
    write_digests, write_entry, write_get, write_get_if_modified, write_multi_get_head,
};
use kumofs::proto::rpc::vote::{Ask, Voted};
use kumofs::proto::rpc::{error, v0};
use std::collections::BTreeMap;

const MSGID: u32 = 9;
const EPOCH: u64 = 3;
const VERSION: ClockTime = ClockTime(0x6b00a03f0001a71c);
/// A record as a mark, the shortest one.
const MARK: [u8; 8] = VERSION.0.to_be_bytes();

/// The lines of the document's block: a name, at least two spaces, the bytes in hex.
fn documented() -> BTreeMap<String, Vec<u8>> {
    let document = include_str!("../doc/protocol.md");
    let section = document.split("## Golden bytes").nth(1).expect("the document has such a section");
    let block = section.split("```").nth(1).expect("with a block");
    let lines = block.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(name, hex)| (name.trim().to_owned(), bytes(hex))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("it is hex");
    digits.chunks(2).map(byte).collect()
}

fn server(port: u16) -> Address {
    Address::new(([127, 0, 0, 1], port).into())
}

fn epoch() -> Epoch {
    let address = server(19801);
    let space = HashSpace { nodes: vec![Node::new(address, true)], timestamp: ClockTime(5) };
    Epoch {
        number: EPOCH,
        cluster: 9,
        managers: vec![ManagerEntry { address: server(19700), disk_id: 4 }],
        servers: vec![ServerEntry::new(address, 7, 8, 2)],
        whs: space.clone(),
        rhs: space,
        flushed: 1,
        flush_at: None,
        phase: Phase::Idle,
        pace: Pace::default(),
    }
}

/// Writes a parameter of a request.
type Param<'a> = &'a dyn Fn(&mut Vec<u8>);

/// What the code writes, under the names of the document.
#[derive(Default)]
struct Written(BTreeMap<String, Vec<u8>>);

impl Written {
    fn add(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(self.0.insert(name.to_owned(), out), None, "{name} is there twice");
    }

    fn answer(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(name, |out| {
            write_success(out, MSGID);
            write(out);
        });
    }

    fn request(&mut self, name: &str, method: u32, params: &[Param<'_>]) {
        self.add(name, |out| {
            write_request(out, MSGID, method);
            write_array(out, params.len());
            params.iter().for_each(|write| write(out));
        });
    }

    fn values(&mut self, dbkey: &[u8]) {
        self.add("dbkey", |out| out.extend_from_slice(dbkey));
        let layouts = [("0", LAYOUT_KUMOFS), ("1", LAYOUT_FULL), ("2", LAYOUT_CAS)];
        for (name, layout) in layouts {
            self.add(&format!("dbval, layout {name}"), |out| {
                encode_header(VERSION, layout, 7, 0x6b00a040, VERSION.0 - 1, out);
                out.extend_from_slice(b"abc");
            });
        }
        self.add("dbval, layout 3", |out| {
            encode_marked(VERSION, 7, 0x6b00a040, VERSION.0 - 1, mark::STALE, out);
            out.extend_from_slice(b"abc");
        });
        self.add("deletion mark", |out| out.extend_from_slice(&MARK));
        self.add("epoch", |out| *out = epoch().encode());
        self.add("with weight 0.5, to be", |out| {
            let mut weighed = epoch();
            weighed.whs.nodes[0].weight = Weight::of_points(64).expect("it is one");
            *out = weighed.encode();
        });
        let copying = Phase::Copying { time: ClockTime(5), full: true };
        self.add("copying, flush at 300", |out| {
            *out = Epoch { flush_at: Some(300), phase: copying, ..epoch() }.encode();
        });
    }

    fn version0(&mut self, dbkey: &[u8]) {
        self.add("hello", |out| write_hello(out, server(19801), Role::Server));
        self.add("hash space", |out| v0::write_seed(out, &epoch().whs));
        self.add("version 0 Get", |out| {
            write_request(out, MSGID, v0::method::GET);
            write_array(out, 1);
            write_raw(out, dbkey);
        });
        self.add("error 5", |out| write_error(out, MSGID, error::PROTOCOL));
    }

    fn version1(&mut self, dbkey: &[u8]) {
        let connect = Connect { peer: Peer::Gateway, incarnation: 7, workers: 2, from_worker: 1, worker: 0 };
        self.add("Connect", |out| connect.write(out, MSGID));
        let connected = Connected { incarnation: 5, disk_id: 6, workers: 1, epoch: 300 };
        self.answer("Connected", |out| connected.write(out));
        self.add("GetEpoch", |out| {
            write_request(out, MSGID, method::GET_EPOCH);
            write_array(out, 1);
            write_uint(out, EPOCH);
        });
        let join = Join { disk_id: 7, incarnation: 8, workers: 2, stream: server(19801), epoch: None };
        self.add("Join", |out| join.write(out, MSGID));
        self.add("Get", |out| write_get(out, MSGID, EPOCH, dbkey));
        self.add("GetIfModified", |out| write_get_if_modified(out, MSGID, EPOCH, dbkey, VERSION.0));
        let part = Part { id: 4, dbkey, len: 3_000_000, from: 128 << 10, bytes: b"abc" };
        self.add("Part", |out| part.write(out, MSGID));
        let get = GetPart { dbkey, version: VERSION.0, from: 128 << 10, len: 100 };
        self.add("GetPart", |out| get.write(out, MSGID));
        self.answer("in parts", |out| InParts { version: VERSION.0, len: 3_000_000 }.write(out));
        self.add("MultiGet", |out| {
            write_multi_get_head(out, MSGID, EPOCH, 1);
            write_raw(out, dbkey);
        });
        let mut new = Vec::new();
        encode_header(ClockTime(0), LAYOUT_KUMOFS, 0, 0, 0, &mut new);
        new.extend_from_slice(b"new");
        let id = RequestId { sequence: 4, attempt: 1, first_epoch: EPOCH, floor: 2 };
        let cas =
            Mutate { epoch: EPOCH, id, op: Op::Cas, options: 1, dbkey, arg: 8, dbval: &new, terms: Terms::default() };
        self.add("Mutate: cas", |out| cas.write(out, MSGID));
        let terms = Terms { cas: 9, bits: term::CREATE, ..Terms::default() };
        let count = Mutate { op: Op::Incr, terms, ..cas };
        self.add("Mutate: incr, on terms", |out| count.write(out, MSGID));
        let terms = Terms { cas: 0, bits: term::EXPIRE, expiry: 0x6b00a040, recache: 5 };
        let fetch = Mutate { op: Op::Fetch, arg: 0, dbval: b"", terms, ..cas };
        self.add("Mutate: fetch, on terms", |out| fetch.write(out, MSGID));
        self.answer("fetched", |out| Mutated::Told(told::WON | told::STALE, 5, &new).write(out));
        let parts = InParts { version: VERSION.0, len: 3_000_000 };
        self.answer("touched, in parts", |out| Mutated::ValueInParts(parts).write(out));
        self.answer("fetched, in parts", |out| Mutated::ToldInParts(told::WON | told::STALE, 5, parts).write(out));
        let known = Mutate { arg: VERSION.0, terms: Terms::default(), ..fetch };
        self.add("Mutate: fetch of what is known", |out| known.write(out, MSGID));
        self.answer("still the same", |out| Mutated::Same(told::STALE).write(out));
        self.answer("done", |out| Mutated::Done(VERSION.0).write(out));
        self.answer("exists", |out| Mutated::Exists.write(out));
        self.answer("counted", |out| Mutated::Number(8, 42).write(out));
        self.answer("not known", |out| Mutated::Unknown.write(out));
        self.add("in epoch 300", |out| {
            write_error_head(out, MSGID, error::SERVER);
            write_uint(out, 300);
        });
    }

    fn votes(&mut self) {
        let ballot = Ballot { round: 2, proposer: Voter { address: server(19700), disk_id: 4 } };
        for (name, text) in [("Vote", None), ("Vote, second phase", Some(b"text".to_vec()))] {
            let ask = Ask { cluster: 9, question: Question { number: 4, ballot, text } };
            self.add(name, |out| ask.write(out, MSGID));
        }
        let answers = [
            ("promised", paxos::Answer::Promised(None)),
            ("promised, with a text", paxos::Answer::Promised(Some((ballot, b"text".to_vec())))),
            ("accepted", paxos::Answer::Accepted),
            ("outbid", paxos::Answer::Outbid(ballot)),
            ("elsewhere", paxos::Answer::Elsewhere),
        ];
        for (name, answer) in answers {
            let newest = (if answer == paxos::Answer::Elsewhere { EPOCH } else { 0 }, None);
            self.answer(name, |out| Voted { disk_id: 7, answer, newest }.write(out));
        }
    }

    fn comparing(&mut self) {
        let time = ClockTime(EPOCH);
        let window = Window::at(Leaves::for_records(17), 0).expect("it begins");
        self.add("Compare", |out| Compare { time, counter: 8, window, digests: vec![5, 0] }.write(out, MSGID));
        self.answer("holds nothing there", |out| Compared::Nothing.write(out));
        self.answer("the first differs", |out| Compared::Differ(vec![0]).write(out));
        self.add("List", |out| List { time, window, leaves: vec![(0, vec![5])] }.write(out, MSGID));
        self.answer("it lacks that", |out| write_digests(out, &[5]));
    }

    fn between_servers(&mut self, dbkey: &[u8]) {
        self.add("Replicate", |out| {
            ReplicateHead { epoch: EPOCH, since: 2, stable: 4, first: 5 }.write(out, MSGID, 1);
            write_entry(out, dbkey, EPOCH, &MARK, &[]);
        });
        let id = |sequence| Id { gateway: 7, sequence, floor: 2 };
        let deleted = Deed { id: id(4), version: VERSION.0, answer: Answer::Done };
        let counted = Deed { id: id(3), version: VERSION.0 - 1, answer: Answer::Number(42) };
        self.add("entry of a delete", |out| write_entry(out, dbkey, EPOCH, &MARK, &[deleted]));
        self.add("and of an incr before", |out| write_entry(out, dbkey, EPOCH, &MARK, &[deleted, counted]));
        self.add("renewal", |out| ReplicateHead { epoch: EPOCH, since: 2, stable: 5, first: 6 }.write(out, MSGID, 0));
        self.answer("acknowledged", |out| {
            write_array(out, 1);
            write_uint(out, 5);
        });
        self.add("Report, empty", |out| ReportHead { epoch: EPOCH, since: 2, more: false }.write(out, MSGID, 0));
        self.add("Leaving", |out| {
            write_request(out, MSGID, method::LEAVING);
            write_array(out, 0);
        });
        self.add("Leave", |out| {
            write_request(out, MSGID, method::LEAVE);
            write_array(out, 0);
        });
        self.request("Statistics", method::STATISTICS, &[]);
        let told = Statistics {
            numbers: Numbers { epoch: Some(EPOCH), ..Numbers::default() },
            lags: vec![(server(19801), Lag { entries: 2, bytes: 300, age_micros: 9, up: true })],
            callers: vec![(Caller::Gateway, server(0), 4)],
            hottest: vec![Hot { key: b"key".to_vec(), ppm: 1000 }],
        };
        self.answer("statistics", |out| told.write(out));
        self.add("Offer", |out| {
            write_request(out, MSGID, method::OFFER);
            write_array(out, 2);
            write_uint(out, EPOCH);
            v0::write_address(out, server(19802));
        });
    }

    fn for_tools(&mut self, dbkey: &[u8]) {
        let number = |n: u64| move |out: &mut Vec<u8>| write_uint(out, n);
        let raw = |bytes: &'static [u8]| move |out: &mut Vec<u8>| write_raw(out, bytes);
        let key = |out: &mut Vec<u8>| write_raw(out, dbkey);
        self.request("Rate", method::RATE, &[&number(300)]);
        self.request("Pause", method::PAUSE, &[&|out| write_bool(out, true)]);
        self.request("Drain", method::DRAIN, &[&|out| v0::write_address(out, server(19801))]);
        self.request("Weight", method::WEIGHT, &[&|out| v0::write_address(out, server(19801)), &number(64)]);

        self.request("Backup", method::BACKUP, &[&raw(b"2")]);
        self.request("Backup since another", method::BACKUP, &[&raw(b"2"), &raw(b"1")]);
        self.request("Backup, told an epoch", method::BACKUP, &[&raw(b"2"), &|out| out.push(0xc0), &raw(b"text")]);
        let made = BackedUp { path: "/d-2".to_owned(), items: 3, bytes: 300, micros: 5 };
        self.answer("backed up", |out| BackedUp::write(&Ok(made), out));
        self.answer("no backup", |out| BackedUp::write(&Err("full".to_owned()), out));

        self.request("Page", method::PAGE, &[&number(EPOCH), &number(0)]);
        self.answer("a page", |out| {
            Page::write_head(out, Some(1 << 63), 1, 1);
            write_array(out, 2);
            write_raw(out, dbkey);
            write_raw(out, &MARK);
        });
        self.answer("the last page", |out| Page::write_head(out, None, 0, 0));

        let window = Window::at(Leaves::for_records(17), 0).expect("it begins");
        let held = Held { epoch: EPOCH, coordinator: 1, member: 2, seed: 300, window, lists: true };
        for (name, lists) in [("Held", false), ("Held, listed", true)] {
            self.add(name, |out| {
                write_request(out, MSGID, method::HELD);
                Held { lists, ..held }.write(out);
            });
        }
        self.answer("leaves", |out| write_digests(out, &[5, 6]));
        self.answer("listed", |out| {
            write_array(out, 1);
            write_array(out, 2);
            write_raw(out, dbkey);
            write_uint(out, 5);
        });
        self.request("Restate", method::RESTATE, &[&number(EPOCH), &key, &number(2), &raw(&MARK)]);
        self.request("Restate, without an offer", method::RESTATE, &[&number(EPOCH), &key, &number(0), &raw(b"")]);

        self.request("Config", method::CONFIG, &[]);
        let setting = |name: &str, value: &str, changeable| Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            changeable,
        };
        let settings = [setting("log-level", "warn", true), setting("listen", "svr1", false)];
        self.answer("settings", |out| write_list(out, &settings));
        self.request("Config of one", method::CONFIG, &[&raw(b"log-level"), &raw(b"info")]);
        self.answer("set", write_nil);
        self.answer("not set", |out| write_raw(out, b"no"));
    }
}

#[test]
fn the_documents_golden_bytes_are_those_that_are_written() {
    let mut dbkey = Vec::new();
    encode_dbkey(b"wirekey", &mut dbkey);
    let mut written = Written::default();
    written.values(&dbkey);
    written.version0(&dbkey);
    written.version1(&dbkey);
    written.between_servers(&dbkey);
    written.comparing();
    written.for_tools(&dbkey);
    written.votes();
    let documented = documented();
    let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documented), names(&written.0));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for (name, bytes) in &documented {
        assert_eq!(hex(bytes), hex(&written.0[name]), "{name}");
    }
}

#[test]
fn the_documents_epoch_is_read() {
    assert_eq!(Epoch::decode(&documented()["epoch"]).unwrap(), epoch());
}

#[test]
fn the_documents_answers_to_tools_are_read() {
    let documented = documented();
    let of = |name: &str| documented[name][4..].to_vec();
    let page = Page::read(&mut Reader::new(&of("a page"))).unwrap();
    let dbkey = documented["dbkey"].clone();
    assert_eq!(page, Page { next: Some(1 << 63), damaged: 1, records: vec![(dbkey.clone(), MARK.to_vec())] });
    assert_eq!(Page::read(&mut Reader::new(&of("the last page"))).unwrap(), Page::default());
    assert_eq!(Held::read_list(&mut Reader::new(&of("listed"))).unwrap(), [(dbkey, 5)]);
    assert_eq!(read_list(&mut Reader::new(&of("settings"))).unwrap().len(), 2);
}
