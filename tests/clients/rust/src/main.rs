//! The `memcache` crate, text or binary protocol: memcache-steps HOST PORT ascii|binary.
//!
//! Prints a line for each step; ends with 1 when an answer is not what is due.

use memcache::{Client, ClientError, CommandError, MemcacheError};
use std::collections::HashMap;
use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Duration;

struct Steps {
    wrong: usize,
}

impl Steps {
    fn see<T: PartialEq + Debug>(&mut self, name: &str, got: T, due: T) {
        let fine = got == due;
        self.wrong += usize::from(!fine);
        let mut shown = format!("{got:?}");
        if shown.len() > 150 {
            shown = format!("{}... of {}", shown.chars().take(60).collect::<String>(), shown.len());
        }
        println!("{name}: {shown}{}", if fine { "" } else { " WRONG" });
    }
}

/// An answer as a word, so that the two protocols' errors compare alike.
fn word<T: Debug>(answer: Result<T, MemcacheError>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(MemcacheError::CommandError(CommandError::KeyExists)) => "exists".to_owned(),
        Err(MemcacheError::CommandError(CommandError::KeyNotFound)) => "not found".to_owned(),
        Err(MemcacheError::CommandError(CommandError::ValueTooLarge)) => "too large".to_owned(),
        Err(MemcacheError::ClientError(ClientError::KeyTooLong)) => "key too long".to_owned(),
        Err(e) => format!("{e:?}"),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, protocol] = &args[..] else { panic!("HOST PORT ascii|binary") };
    let url = format!("memcache://{host}:{port}?protocol={protocol}&tcp_nodelay=true&timeout=30");
    let c = Client::connect(url).expect("a connection");
    c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut s = Steps { wrong: 0 };

    let text = |key: &str| word(c.get::<String>(key));
    let bytes = |key: &str| c.get::<Vec<u8>>(key).ok().flatten();
    let due = |value: &str| format!("Some({value:?})");

    s.see("missing", text("missing"), "None".to_owned());
    s.see("set", (word(c.set("key", "value", 0)), text("key")), ("()".into(), due("value")));
    s.see("number", (word(c.set("number", -5i64, 0)), word(c.get::<i64>("number"))), ("()".into(), "Some(-5)".into()));
    s.see("flags", c.get::<(Vec<u8>, u32)>("key").ok().flatten(), Some((b"value".to_vec(), 0)));
    s.see("empty", (word(c.set("empty", "", 0)), text("empty")), ("()".into(), due("")));
    let all: Vec<u8> = (0..=255).collect();
    s.see("all bytes", (word(c.set("bytes", &all[..], 0)), bytes("bytes")), ("()".into(), Some(all.clone())));
    let mib = all.repeat(4096);
    s.see("1 MiB", (word(c.set("large", &mib[..], 0)), bytes("large") == Some(mib)), ("()".into(), true));
    let too_large = vec![b'x'; 3 << 20];
    let refused = word(c.set("large", &too_large[..], 0));
    s.see("too large", refused.to_lowercase().contains("too large"), true);
    s.see("goes on", text("key"), due("value"));
    s.see("not expired", (word(c.set("long", "v", 1000)), text("long")), ("()".into(), due("v")));
    // A UNIX time of 1970.
    s.see("expired", (word(c.set("brief", "v", 3_000_000)), text("brief")), ("()".into(), "None".into()));
    s.see("touch", (word(c.touch("long", 2000)), word(c.touch("missing", 1))), ("true".into(), "false".into()));
    // In the text protocol the crate does not tell what was not stored.
    let ascii = protocol == "ascii";
    s.see("add over", word(c.add("key", "other", 0)), if ascii { "()" } else { "exists" }.to_owned());
    s.see("add", word(c.add("new", "v", 0)), "()".to_owned());
    s.see("replace", word(c.replace("new", "w", 0)), "()".to_owned());
    s.see("replace of nothing", word(c.replace("missing", "w", 0)), if ascii { "()" } else { "not found" }.to_owned());
    s.see("append", (word(c.append("new", "z")), word(c.prepend("new", "y"))), ("()".into(), "()".into()));
    s.see("appended", text("new"), due("ywz"));
    s.see("delete", (word(c.delete("new")), word(c.delete("new"))), ("true".into(), "false".into()));
    s.see("increment", (word(c.set("n", 10, 0)), word(c.increment("n", 5))), ("()".into(), "15".into()));
    s.see("decrement", word(c.decrement("n", 20)), "0".to_owned());
    let read: HashMap<String, (Vec<u8>, u32, Option<u64>)> = c.gets(&["key"]).expect("an answer");
    let unique = read["key"].2.expect("a cas unique");
    s.see("cas", word(c.cas("key", "swapped", 0, unique)), "true".to_owned());
    s.see("cas again", word(c.cas("key", "swapped", 0, unique)), "false".to_owned());
    let keys: Vec<String> = (0..500).map(|i| format!("many{i}")).collect();
    let stored = keys.iter().filter(|k| c.set(k, k.as_str(), 0).is_ok()).count();
    let mut asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    asked.push("missing");
    let found: HashMap<String, String> = c.gets(&asked).expect("an answer");
    s.see("500 keys at once", (stored, found.len(), found.iter().all(|(k, v)| k == v)), (500, 500, true));
    s.see("key of 250 bytes", (word(c.set(&"k".repeat(250), "v", 0)), text(&"k".repeat(250))), ("()".into(), due("v")));
    s.see("version", c.version().is_ok_and(|v| v.len() == 1 && !v[0].1.is_empty()), true);
    if !ascii {
        let stats = c.stats().expect("statistics").remove(0).1;
        s.see("stats", ["pid", "curr_items", "get_hits", "threads"].iter().all(|n| stats.contains_key(*n)), true);
    }
    s.see("flush", (word(c.flush()), text("key")), ("()".into(), "None".into()));
    println!("end");
    if s.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
