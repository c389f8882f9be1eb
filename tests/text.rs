//! The text protocol from outside: its stories are played to the parser over a hash map, and to a real memcached where
//! there is one; any bytes, and bytes that are almost commands, are given to the parser.

#[path = "fuzz/text.rs"]
#[allow(dead_code)]
mod fuzz;
mod model;
mod story;

use fuzz::fuzz_text;

use model::{Model, Session};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use story::{Conversation, Side};

const STORIES: &str = include_str!("vectors/text.txt");

struct InMemory<'m> {
    model: &'m mut Model,
    session: Session,
    answers: Vec<u8>,
    /// Most bytes that the session sees at a time.
    piece_bytes: usize,
}

impl Conversation for InMemory<'_> {
    fn send(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece_bytes) {
            self.session.feed(self.model, piece, &mut self.answers);
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        let some = !self.answers.is_empty();
        into.append(&mut self.answers);
        some
    }

    fn is_closed(&mut self) -> bool {
        self.answers.is_empty() && self.session.closed
    }
}

fn play_in_memory(piece_bytes: usize, wanted: impl Fn(&story::Story) -> bool) {
    let mut model = Model::default();
    for story in story::read(STORIES).iter().filter(|s| s.is_for(Side::Kumofs) && !s.is_meta && wanted(s)) {
        let session = Session::default();
        let mut conversation = InMemory { model: &mut model, session, answers: Vec::new(), piece_bytes };
        story::play(story, &mut conversation);
    }
}

#[test]
fn stories_come_true_over_a_hash_map() {
    play_in_memory(usize::MAX, |_| true);
}

#[test]
fn stories_come_true_however_the_bytes_arrive() {
    // A line of over 2 KiB that is not there to its end is the one thing that depends on it.
    let short = |s: &story::Story| s.sent().len() < 4000 && !s.name.contains("ten thousand");
    for piece_bytes in [1, 2, 3, 7] {
        play_in_memory(piece_bytes, short);
    }
}

/// A memcached of the system's, on a socket of its own.
struct Memcached {
    process: Child,
    dir: tempfile::TempDir,
}

impl Memcached {
    /// `None` when none is installed.
    fn start() -> Option<Memcached> {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("memcached");
        command.args(["-vv", "-t", "1", "-u", "root", "-s"]).arg(dir.path().join("socket"));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let listening = lines.any(|line| line.is_ok_and(|l| l.contains("listening")));
        assert!(listening, "memcached does not listen");
        // It stops when nobody reads what it logs.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Memcached { process, dir })
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Conversation for UnixStream {
    fn send(&mut self, bytes: &[u8]) {
        // A server that closes while it is written to is what some stories are about.
        let _ = self.write_all(bytes);
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        let mut piece = [0; 65536];
        match self.read(&mut piece) {
            Ok(len) => {
                into.extend_from_slice(&piece[..len]);
                len > 0
            }
            Err(_) => false,
        }
    }

    fn is_closed(&mut self) -> bool {
        match self.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Says why a test does nothing here, past the capture of what tests print.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", std::thread::current().name().unwrap_or("a test"));
}

#[test]
fn memcached_answers_as_the_stories_tell() {
    let Some(memcached) = Memcached::start() else {
        skip("no memcached is installed: the stories are not compared with it");
        return;
    };
    for story in story::read(STORIES).iter().filter(|s| s.is_for(Side::Memcached)) {
        let mut stream = UnixStream::connect(memcached.dir.path().join("socket")).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        story::play(story, &mut stream);
    }
}

/// How many inputs are tried of each kind; `KUMO_TEST_ROUNDS` in the environment sets another number.
fn rounds() -> ProptestConfig {
    let cases = std::env::var("KUMO_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Words, numbers, separators and rubbish, of which commands and what is almost one come about.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let words = vec![
        "get",
        "gets",
        "gat",
        "gats",
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "incr",
        "decr",
        "delete",
        "touch",
        "flush_all",
        "stats",
        "verbosity",
        "version",
        "quit",
        "noreply",
        "k",
        "key",
        "0",
        "1",
        "2",
        "-1",
        "101",
        "2147483645",
        "18446744073709551616",
        "HTTP/1.1",
        "slabs",
        "lru_crawler",
        "\0",
        "\t",
        "\r",
    ];
    let separators = vec![" ", " ", " ", " ", "  ", "\r\n", "\r\n", "\n", ""];
    let piece = (proptest::sample::select(words), proptest::sample::select(separators));
    vec(piece, 0..60).prop_map(|pieces| pieces.into_iter().flat_map(|(w, s)| [w, s]).collect::<String>().into_bytes())
}

proptest! {
    #![proptest_config(rounds())]

    #[test]
    fn any_bytes_are_taken(data in vec(any::<u8>(), 0..300)) {
        fuzz_text(&data);
    }

    #[test]
    fn what_is_almost_a_command_is_taken(data in soup()) {
        fuzz_text(&data);
    }

    #[test]
    fn stories_with_bytes_changed_are_taken(
        which in any::<proptest::sample::Index>(),
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let stories = story::read(STORIES);
        let mut data = which.get(&stories).sent();
        data.truncate(5000);
        for (at, byte) in changes {
            *at.get_mut(&mut data) = byte;
        }
        fuzz_text(&data);
    }
}

#[test]
fn every_story_is_taken_in_pieces() {
    for story in story::read(STORIES) {
        fuzz_text(&story.sent());
    }
}

/// As `soup`, of what memcached and we mean to answer alike and nobody's own (no versions, figures, uniques; no control
/// characters, which keys have for memcached alone).
fn common_soup() -> impl Strategy<Value = Vec<u8>> {
    let words = vec![
        "get",
        "bget",
        "gat",
        "set",
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "incr",
        "decr",
        "delete",
        "touch",
        "verbosity",
        "noreply",
        "k",
        "k",
        "key",
        "0",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "+1",
        "007",
        "101",
        "18446744073709551616",
        "1x",
        "\0",
        "shutdown",
        "slabs",
        "lru",
        "mx",
        "set k 0 0 2\r\n99\r\n",
        "get k\r\n",
        "incr k 1\r\n",
        "set key 1 0 1 noreply\r\n",
        "GET",
    ];
    let separators = vec![" ", " ", " ", " ", " ", " ", "  ", "\r\n", "\r\n", "\r\n", "\n", ""];
    let piece = (proptest::sample::select(words), proptest::sample::select(separators));
    vec(piece, 0..60).prop_map(|pieces| pieces.into_iter().flat_map(|(w, s)| [w, s]).collect::<String>().into_bytes())
}

#[test]
fn memcached_and_we_answer_the_same_to_what_is_almost_a_command() {
    let Some(memcached) = Memcached::start() else {
        skip("no memcached is installed: nothing to compare with");
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::new(rounds());
    let outcome = runner.run(&common_soup(), |soup| {
        // The tail ends whatever data or line the soup has begun, and then the connection.
        let sent = [&b"flush_all noreply\r\n"[..], &soup, &[b'x'; 110], b"\r\nquit\r\n"].concat();
        let mut stream = UnixStream::connect(memcached.dir.path().join("socket")).expect("it listens");
        stream.send(&sent);
        let mut theirs = Vec::new();
        while stream.receive(&mut theirs) {}
        let mut ours = Vec::new();
        Session::default().feed(&mut Model::default(), &sent, &mut ours);
        prop_assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
        Ok(())
    });
    outcome.expect("the same answers");
}
