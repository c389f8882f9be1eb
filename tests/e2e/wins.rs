//! Of all who find a value stale, new or about to expire, one is told to make it anew: over two gateways, while servers die
//! and come back.
//!
//! Who is answered an error may have been the one, so a round with an error has one winner or none. All rounds without have one.

use crate::common::cluster::Cluster;
use crate::common::memcache::{Client, Error};
use crate::common::{PATIENCE, Turn, eventually, say};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// What a round begins with, and what its clients then ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A value was invalidated.
    Stale,
    /// Nothing is there, and it is to be created.
    New,
    /// A value has little time left.
    Old,
}

impl Kind {
    fn of(round: usize) -> Kind {
        [Kind::Stale, Kind::New, Kind::Old][round % 3]
    }

    /// Commands that make it so, each with the answer that is due.
    fn before(self, key: &str) -> Vec<(String, &'static str)> {
        match self {
            Kind::Stale => vec![(format!("ms {key} 3\r\nold"), "HD"), (format!("md {key} I T300"), "HD")],
            Kind::New => vec![],
            Kind::Old => vec![(format!("ms {key} 3 T300\r\nold"), "HD")],
        }
    }

    fn fetch(self, key: &str) -> String {
        match self {
            Kind::Stale => format!("mg {key} c"),
            Kind::New => format!("mg {key} c N300"),
            Kind::Old => format!("mg {key} c R600"),
        }
    }
}

/// A client that connects anew when it has to.
struct Caller {
    to: SocketAddr,
    client: Option<Client>,
}

impl Caller {
    /// The answer's words; `None`: an error, after which nothing is known.
    fn ask(&mut self, command: &str) -> Option<Vec<String>> {
        if self.client.is_none() {
            self.client = Client::connect(self.to).ok();
        }
        let client = self.client.as_mut()?;
        match client.command(command) {
            Ok(line) => Some(line.split(' ').map(str::to_owned).collect()),
            Err(Error::Refused(_)) => None,
            Err(Error::Gone(_)) => {
                self.client = None;
                None
            }
            Err(Error::Strange(line)) => panic!("{command:?}: {line}"),
        }
    }

    /// Asks until there is an answer other than an error.
    fn insist(&mut self, command: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(command) {
                Some(words) => return words,
                None => assert!(Instant::now() < deadline, "no answer to {command:?}"),
            }
        }
    }
}

#[derive(Default)]
struct Count {
    rounds: AtomicUsize,
    wins: AtomicUsize,
    with_errors: AtomicUsize,
}

fn has(words: &[String], flag: &str) -> bool {
    words.iter().any(|word| word == flag)
}

/// One round of all callers on a key of its own.
fn play(round: usize, callers: &mut [Caller], count: &Count) {
    let (kind, key) = (Kind::of(round), format!("win{round}"));
    for (command, due) in kind.before(&key) {
        let answer = callers[round % 2].insist(&command);
        assert_eq!(answer[0], due, "{command:?}: {answer:?}");
    }
    // Of all answers to all callers: who won, with which cas unique.
    let won = Mutex::new(Vec::new());
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for caller in callers.iter_mut() {
            let (won, failed, key) = (&won, &failed, &key);
            scope.spawn(move || {
                for _ in 0..2 {
                    let Some(words) = caller.ask(&kind.fetch(key)) else {
                        failed.store(true, Ordering::Relaxed);
                        continue;
                    };
                    assert_eq!(words[0], "HD", "{words:?}");
                    let wins = has(&words, "W");
                    assert!(wins != has(&words, "Z"), "{kind:?}: the one, or after the one: {words:?}");
                    assert_eq!(has(&words, "X"), kind == Kind::Stale, "{kind:?}: {words:?}");
                    if wins {
                        won.lock().expect("nobody panics with it").push(words[1][1..].to_owned());
                    }
                }
            });
        }
    });
    let (won, failed) = (won.into_inner().expect("nobody panics with it"), failed.into_inner());
    assert!(won.len() <= 1, "{kind:?}: {} winners of {key}: {won:?}", won.len());
    assert!(failed || won.len() == 1, "{kind:?}: nobody was told to make {key} anew");
    count.with_errors.fetch_add(usize::from(failed), Ordering::Relaxed);
    count.wins.fetch_add(won.len(), Ordering::Relaxed);
    let unique = won.first().cloned().unwrap_or_else(|| callers[0].insist(&kind.fetch(&key))[1][1..].to_owned());
    // An error here is no answer: asked again, it may find what it stored itself.
    let stored = callers[1].insist(&format!("ms {key} 3 C{unique}\r\nnew"));
    assert!(["HD", "EX"].contains(&stored[0].as_str()), "{kind:?}: {stored:?}");
    for caller in callers.iter_mut() {
        let words = caller.insist(&format!("mg {key} s"));
        assert_eq!(words, ["HD", "s3"], "{kind:?}: what was made anew is told so by all");
    }
    count.rounds.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn one_of_all_clients_is_told_to_make_a_value_anew_while_servers_die() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(1, 4);
    cluster.add_gateway(&[]);
    let gateways = cluster.gateway_addresses().to_vec();
    let (count, stop) = (Count::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let playing = scope.spawn(|| {
            let mut callers: Vec<Caller> = (0..6).map(|i| Caller { to: gateways[i % 2], client: None }).collect();
            let rounds = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
            rounds.for_each(|round| play(round, &mut callers, &count));
        });
        let progress = |rounds: usize| {
            let until = count.rounds.load(Ordering::Relaxed) + rounds;
            eventually("rounds are played", || {
                (playing.is_finished() || count.rounds.load(Ordering::Relaxed) >= until).then_some(())
            });
        };
        progress(6);
        for server in [0, 1, 2, 3] {
            cluster.kill_server(server);
            progress(6);
            cluster.restart_server(server);
            cluster.attach();
            progress(6);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let told = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    let (rounds, wins, errors) = (told(&count.rounds), told(&count.wins), told(&count.with_errors));
    say(&format!("{wins} winners of {rounds} rounds, {errors} rounds with errors"));
    assert!(rounds >= 54 && wins * 2 > rounds, "{wins} winners of {rounds} rounds");
    cluster.assert_sound();
}
