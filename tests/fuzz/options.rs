//! What must hold for any words after a daemon's name, and for any file that its options are read from.

use kumofs::daemon::cmdline::{Ended, Options, parse};
use kumofs::daemon::options::{GatewayOptions, KumofsOptions, ManagerOptions, ServerOptions};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Options, or an answer, or one line for the user. Words are divided by line ends; what comes after an empty one is
/// the text of the file of options.
pub fn fuzz_options(data: &[u8]) {
    let (line, file) = match data.windows(2).position(|w| w == b"\n\n") {
        Some(at) => (&data[..at], Some(&data[at + 2..])),
        None => (data, None),
    };
    let mut words: Vec<OsString> = line.split(|b| *b == b'\n').map(|w| OsString::from_vec(w.to_vec())).collect();
    if let Some(text) = file {
        let path = file_of_this_thread();
        std::fs::write(&path, text).expect("a temporary file can be written");
        words.extend(["--config".into(), path.into()]);
    }
    try_all(&words);
}

fn file_of_this_thread() -> PathBuf {
    std::env::temp_dir().join(format!("kumo-fuzz-{}-{:?}.toml", std::process::id(), std::thread::current().id()))
}

fn try_all(words: &[OsString]) {
    try_one::<ManagerOptions>(words);
    try_one::<ServerOptions>(words);
    try_one::<GatewayOptions>(words);
    try_one::<KumofsOptions>(words);
}

fn try_one<O: Options>(words: &[OsString]) {
    match parse::<O>(words.to_vec(), &|_| None) {
        Ok(_) => {}
        Err(Ended::Answered(text)) => assert!(!text.is_empty()),
        Err(Ended::Usage(line) | Ended::Failed(line)) => {
            assert!(!line.trim().is_empty(), "nothing is said about {words:?}");
            assert!(line.len() < 100_000, "too much is said");
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "-v\n-l\n127.0.0.1:19700\n-p\n127.0.0.2\n-c\n19799\n-a\n-Rs\n4",
        "-v\n-l\n[::1]:19800\n-L\n19900\n-m\nlocalhost\n-p\nsvr2:19700\n-s\ndatabase.tch#xmsiz=600m#rcnum=4k\n-gN\n60",
        "-m\nsvr1\n-t\n0.0.0.0:11211\n-b\n11212\n-lc\n*#capsiz=64m\n-F\n-E\n-G\n5\n-rn\n4\n-As\n-Ad\n-k\nprefix",
        "--listen\n127.0.0.1:0\n--data\n./kumofs-data\n--servers\n3\n--max-value=128m\n--sync",
        "--listen=127.0.0.1\n--control=1\n--replace-delay=0.5\n-TR\n4\n-TW2\n-Ci0.1\n-o\n-",
        "--help",
        "-h\n-V",
        "-l\n127.0.0.1\n\nverbose = true\nlisten = \"127.0.0.1:19700\"\ncontrol = 19799\nreplace-delay = 1.5\n",
        "-m\nx\n\nmemproto-text = 11211\nget-retry = \"5\"\n[table]\nx = [1, 2]\n",
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}
