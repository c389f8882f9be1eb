//! `stats`, compared with a real memcached's: the same names, and the same counts of the same commands.

use crate::client::Client;
use crate::differential::Memcached;
use crate::fake::{Fake, Setup};
use kumofs::gateway::Config;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// What is counted alike. memcached 1.6.18 leaves `cmd_meta` at zero.
const COUNTED: [&str; 24] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "get_hits",
    "get_misses",
    "get_expired",
    "get_flushed",
    "delete_hits",
    "delete_misses",
    "incr_hits",
    "incr_misses",
    "decr_hits",
    "decr_misses",
    "cas_hits",
    "cas_misses",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
    "rejected_connections",
    "evictions",
    "accepting_conns",
];

/// Sends lines, none of which is `mn`, and reads to the answer to the one behind them.
fn ask(on: &mut (impl Read + Write), lines: &str) -> String {
    on.write_all(format!("{lines}\r\nmn\r\n").as_bytes()).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 65536]);
    while !(answer.ends_with(b"\r\nMN\r\n") || answer == b"MN\r\n") {
        let len = on.read(&mut piece).expect("an answer");
        assert!(len > 0, "hung up");
        answer.extend_from_slice(&piece[..len]);
    }
    String::from_utf8(answer).unwrap()
}

fn stats(on: &mut (impl Read + Write), command: &str) -> BTreeMap<String, String> {
    let told = ask(on, command);
    let pairs = told.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn each_command_counts_as_in_memcached() {
    // Its crawler would find what has expired before a get does.
    let Some(memcached) = Memcached::start_still() else { return };
    let fake = Fake::start(Setup { server_workers: 2, ..Setup::default() });
    let (mut ours, mut theirs) = (Client::connect(fake.gateway).0, memcached.connect());
    let too_large = format!("add big 0 0 {}\r\n{}", 2 << 20, "x".repeat(2 << 20));
    let commands = [
        "set a 0 0 1\r\n1",
        "get a",
        "get a b a",
        "gets b",
        "add a 0 0 1\r\n2",
        "add n 0 0 1\r\n2",
        "replace b 0 0 1\r\n2",
        "append a 0 0 1\r\n2",
        "prepend b 0 0 1\r\n2",
        "cas a 0 0 1 1\r\n2",
        "cas b 0 0 1 1\r\n2",
        "incr n 1",
        "incr b 1",
        "decr n 1",
        "decr b 1",
        "touch a 0",
        "touch b 0",
        "gat 0 a",
        "gat 0 b",
        "gats 0 a b",
        "mg a v",
        "mg a",
        "mg b v",
        "mg a T0 v",
        "mg b T0",
        "mg c N0 v",
        "ms d 1\r\n1",
        "ms d 1 ME\r\n1",
        "ms d 1 MR\r\n1",
        "ms d 1 C1\r\n1",
        "ms e 1 C1\r\n1",
        "ma d",
        "ma e",
        "ma d MD",
        "ma f MD",
        "md d",
        "md d",
        "me a",
        "delete a",
        "delete a",
        "set x 0 -1 1\r\n1",
        "get x",
        "set x 0 -1 1\r\n1",
        "get y x",
        "set x 0 -1 1\r\n1",
        "mg x v",
        "set x 0 -1 1\r\n1",
        "mg x v T0",
        "set x 0 -1 1\r\n1",
        "gat 0 x",
        "flush_all",
        "version",
        &too_large,
    ];
    let mut wrong = Vec::new();
    for command in commands {
        ask(&mut ours, "stats reset");
        ask(&mut theirs, "stats reset");
        let first_word = |answer: String| answer.split([' ', '\r']).next().map(str::to_owned);
        assert_eq!(first_word(ask(&mut ours, command)), first_word(ask(&mut theirs, command)), "{command:.40}");
        let (ours, theirs) = (stats(&mut ours, "stats"), stats(&mut theirs, "stats"));
        for name in COUNTED {
            if ours.get(name) != theirs.get(name) {
                wrong.push(format!("{command:.40}: {name} is {:?} for {:?}", ours.get(name), theirs.get(name)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    ask(&mut ours, "stats reset");
    ask(&mut ours, "mg a\r\nmd a\r\nme a");
    assert_eq!(stats(&mut ours, "stats")["cmd_meta"], "3");
}

#[test]
fn prefixes_are_counted_as_in_memcached() {
    let Some(memcached) = Memcached::start() else { return };
    let config = Config { key_prefix: b"app:".to_vec(), ..Config::default() };
    let fake = Fake::start(Setup { server_workers: 2, gateway_workers: 2, config, ..Setup::default() });
    // Two workers serve them, and tell what they counted together.
    let mut ours = [Client::connect(fake.gateway).0, Client::connect(fake.gateway).0];
    let mut theirs = memcached.connect();
    let commands = [
        "set a:1 0 0 1\r\nx",
        "set b 0 0 1\r\nx",
        "get a:1 a:2 b",
        "get a:1",
        "gets a:1",
        "gat 0 a:1 a:3",
        "touch a:1 0",
        "delete a:1",
        "delete a:1",
        "incr a:5 1",
        "set ccc:5:c 0 0 1\r\n1",
        "incr ccc:5:c 1",
        "add ccc:5 0 0 1\r\n1",
        "append e: 0 0 1\r\n1",
        "cas f:x 0 0 1 1\r\n1",
        "set : 0 0 1\r\nx",
        "set app:g 0 0 1\r\nx",
    ];
    let sorted = |told: &str| {
        let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert!(ask(&mut ours[0], "stats settings").contains("STAT detail_enabled no\r\n"));
    for switch in ["stats detail on", "stats detail off"] {
        assert_eq!(ask(&mut ours[0], switch), ask(&mut theirs, switch));
        for on in &mut ours {
            for command in commands {
                ask(on, command);
                ask(&mut theirs, command);
            }
        }
        let (told, real) = (ask(&mut ours[1], "stats detail dump"), ask(&mut theirs, "stats detail dump"));
        assert_eq!(sorted(&told), sorted(&real));
        assert!(told.contains("PREFIX a get 12 hit 8 set 2 del 4\r\n"), "{told}");
    }
    ask(&mut ours[0], "stats detail on\r\nstats reset\r\nms m:1 1\r\nx\r\nmg m:1 v\r\nmg m:2 v\r\nmd m:1\r\nme m:1");
    let told = ask(&mut ours[1], "stats detail dump\r\nstats settings");
    assert!(told.starts_with("PREFIX m get 2 hit 1 set 1 del 1\r\nEND\r\n"), "{told}");
    assert!(told.contains("STAT detail_enabled yes\r\n"), "{told}");

    // In packets, a whole dump is one stat.
    let mut binary = Client::connect(fake.gateway);
    let stat = |topic: &[u8]| {
        [&[0x80, 0x10, 0, topic.len() as u8, 0, 0, 0, 0, 0, 0, 0, topic.len() as u8][..], &[0; 12], topic].concat()
    };
    binary.send(stat(b"detail dump"));
    let dump = b"detailedPREFIX m get 2 hit 1 set 1 del 1\r\nEND\r\n";
    let head = |opcode: u8, key_len: u8, body_len: u8| {
        [&[0x81, opcode, 0, key_len, 0, 0, 0, 0, 0, 0, 0, body_len][..], &[0; 12]].concat()
    };
    binary.expect([head(0x10, 8, dump.len() as u8), dump.to_vec(), head(0x10, 0, 0)].concat());
    binary.ask(stat(b"detail off"), head(0x10, 0, 0));
    assert!(ask(&mut ours[0], "stats settings").contains("STAT detail_enabled no\r\n"));
}

#[test]
fn monitors_find_every_name() {
    let Some(memcached) = Memcached::start() else { return };
    let fake = Fake::start(Setup::default());
    let (mut ours, mut theirs) = (Client::connect(fake.gateway).0, memcached.connect());
    // A gateway knows no servers before a manager has told it of them, which this waits for.
    ask(&mut ours, "get a");
    let missing = |ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>| -> Vec<String> {
        theirs.keys().filter(|name| !ours.contains_key(*name)).cloned().collect()
    };
    let (general, real) = (stats(&mut ours, "stats"), stats(&mut theirs, "stats"));
    assert_eq!(missing(&general, &real), ["libevent"]);
    assert_eq!(missing(&real, &general), [""; 0]);
    // What says nothing false there is said; nothing else is.
    let (settings, real) = (stats(&mut ours, "stats settings"), stats(&mut theirs, "stats settings"));
    assert_eq!(missing(&real, &settings), [""; 0]);
    for name in ["maxconns", "lru_crawler", "lru_maintainer_thread", "item_size_max", "num_threads", "cas_enabled"] {
        assert!(settings.contains_key(name), "{name}");
    }
    for topic in ["stats slabs", "stats items", "stats sizes"] {
        assert_eq!(ask(&mut ours, topic), ask(&mut theirs, topic), "{topic}");
    }
}
