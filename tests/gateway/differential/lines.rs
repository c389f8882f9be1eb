//! Lines of the text protocol and of meta commands.

use super::{CACHE, Chance, PATIENCE, Sides, read_some, seeds, show};
use kumofs::gateway::Config;
use std::collections::HashMap;
use std::io::{Read, Write};

/// How many rounds with differences are shown.
const SHOWN_DIFFERENCES: usize = 12;

/// A line of text or meta, and its data; `{C}` stands for the cas unique that each side was last told of the key.
fn random_line(chance: &mut Chance) -> (Vec<u8>, &'static str) {
    let key = chance.of(&["one", "two", "n", "three"]);
    let number = key == "n";
    let data = if number { chance.of(&["1", "41", "18446744073709551615"]) } else { chance.of(&["", "word", "MN"]) };
    let exptime = chance.of(&["0", "1000", "-1", "2000"]);
    let mut line = match chance.below(16) {
        0 => format!("get {key}"),
        1 => format!("gets {key} nothing {key}"),
        2 => format!("gat {exptime} {key}"),
        3 => format!("touch {key} {exptime}"),
        4 if number => format!("{} n 1", chance.of(&["incr", "decr"])),
        5 => format!("delete {key}"),
        6 => {
            let verb = if number { "set" } else { chance.of(&["set", "add", "replace", "append", "prepend"]) };
            format!("{verb} {key} {} {exptime} {}\r\n{data}", chance.of(&[0, 7, u32::MAX]), data.len())
        }
        _ => return (meta_line(chance, key, data), key),
    };
    line += "\r\n";
    (line.into(), key)
}

/// Whether memcached may forget it when a number changes its length, or tell it by the spaces behind the number.
fn is_lost_by_counting(command: &str, flag: char) -> bool {
    matches!((command, flag), (_, 's' | 't' | 'I') | ("mg", 'N' | 'R'))
}

fn meta_line(chance: &mut Chance, key: &str, data: &str) -> Vec<u8> {
    let number = key == "n";
    let counts: &[&str] = if number { &["ma", "ma"] } else { &[] };
    let command = chance.of(&[&["mg", "mg", "mg", "ms", "ms", "md"], counts].concat());
    let base64 = key == "three";
    let mut words = vec![command.to_string(), if base64 { "dGhyZWU=".into() } else { key.into() }];
    if command == "ms" {
        words.push(data.len().to_string());
    }
    let mut flags = String::new();
    let usual: &[char] = match command {
        "mg" => &['N', 'T', 'R', 'O', 'k', 's', 't', 'c', 'f', 'v', 'u', 'q', 'R', 'v'],
        "ms" => &['T', 'F', 'C', 'M', 'I', 'O', 'k', 'c', 'q', 'I', 'C', 's'],
        "md" => &['C', 'I', 'T', 'O', 'k', 'q', 'I'],
        _ => &['D', 'J', 'N', 'T', 'C', 'M', 'O', 'k', 't', 'c', 'v', 'q'],
    };
    for _ in 0..chance.below(6) {
        let rare = chance.below(40) == 0;
        let flag = if rare { chance.of(&['z', 'P', 'L', 'v', '1', 'S', 'D', 'F']) } else { chance.of(usual) };
        if (flags.contains(flag) && chance.below(20) > 0) || (number && is_lost_by_counting(command, flag)) {
            continue;
        }
        flags.push(flag);
        let bad = chance.below(40) == 0;
        let token = match flag {
            // What is left of a time that has passed is told otherwise.
            'T' | 'N' if flags.contains('t') => chance.of(&["0", "1000", "30"]),
            // A number that needs more digits loses it in memcached, and what should have expired has not.
            'T' if command == "ma" => chance.of(&["0", "1000", "500"]),
            't' if flags.contains(['T', 'N']) => continue,
            // It is told as it was when the value was stored.
            'k' if base64 && command == "mg" => continue,
            // Refused, too, but memcached has done it by then.
            'O' if command != "ms" && command != "md" => chance.of(&["abc", "", "1234567890123456789012345678901"]),
            _ if bad => chance.of(&["", "x", "9x", "-"]),
            'T' | 'N' => chance.of(&["0", "1000", "-1", "30", "500"]),
            // None of those: whether 500 is less than what is left of 500 depends on when a second ends.
            'R' => chance.of(&["0", "900", "-1", "20", "400"]),
            'O' => chance.of(&["abc", "", "1234567890123456789012345678901", "12345678901234567890123456789012"]),
            'F' => chance.of(&["0", "5", "4294967295"]),
            'C' => chance.of(&["{C}", "{C}", "1", "0"]),
            'D' | 'J' => chance.of(&["0", "1", "10", "18446744073709551615"]),
            'M' if command == "ms" && number => chance.of(&["S", "E", "R", "s"]),
            'M' if command == "ms" => chance.of(&["S", "E", "A", "P", "R", "s", "AA"]),
            'M' => chance.of(&["I", "+", "D", "-", "x"]),
            _ => "",
        };
        words.push(format!("{flag}{token}"));
    }
    if base64 {
        let at = if command == "ms" { 3 } else { 2 }
            + chance.below(words.len() as u64 - if command == "ms" { 2 } else { 1 }) as usize;
        words.insert(at.min(words.len()), "b".into());
    }
    let mut line = words.join(" ") + "\r\n";
    if command == "ms" {
        line += data;
        line += "\r\n";
    }
    line.into_bytes()
}

/// An answer without what may differ, and the cas unique in it.
fn plain_answer(answer: &[u8]) -> (String, Option<u64>) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let mut cas = None;
    let mut out = String::new();
    for line in text.split_inclusive("\r\n") {
        let mut words: Vec<String> = line.trim_end().split(' ').map(String::from).collect();
        match words[0].as_str() {
            "HD" | "VA" => {
                for word in &mut words[1..] {
                    let (letter, digits) = word.split_at(1.min(word.len()));
                    match (letter, digits.parse::<u64>()) {
                        ("c", Ok(unique)) => {
                            cas = Some(unique);
                            *word = "c".into();
                        }
                        ("t", Ok(secs)) => *word = format!("t{}", (secs + 5) / 10),
                        _ => {}
                    }
                }
                if words[0] == "VA" {
                    words.remove(1);
                }
            }
            "VALUE" => {
                if let Some(unique) = words.get(4) {
                    cas = unique.parse().ok();
                    words.truncate(5);
                    words[4] = "cas".into();
                }
                // The length, which spaces behind a number belong to.
                words[3].clear();
            }
            _ => {}
        }
        out += &words.join(" ");
        out += "\n";
    }
    (out, cas)
}

/// Sends lines, each with a noop behind it, and reads what each is answered.
fn play_lines(
    lines: &[(Vec<u8>, &'static str)],
    on: &mut (impl Read + Write),
    last: &mut HashMap<&'static str, u64>,
) -> Vec<String> {
    const END: &[u8] = b"MN\r\n";
    let mut bytes = Vec::new();
    for (line, key) in lines {
        let cas = last.get(key).copied().unwrap_or(3).to_string();
        let text = String::from_utf8_lossy(line).replace("{C}", &cas);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(b"mn\r\n");
    }
    on.write_all(&bytes).unwrap();
    let (mut received, mut answers, mut piece) = (Vec::new(), Vec::new(), [0; 4096]);
    while answers.len() < lines.len() {
        // A value that looks like the end has something before it: its line.
        let end = (0..received.len()).find(|at| {
            received[*at..].starts_with(END)
                && (*at == 0 || received[..*at].ends_with(b"\r\n"))
                && !is_data(&received[..*at])
        });
        if let Some(end) = end {
            let (answer, cas) = plain_answer(&received[..end]);
            if let Some(cas) = cas {
                last.insert(lines[answers.len()].1, cas);
            }
            answers.push(answer);
            received.drain(..end + END.len());
            continue;
        }
        let len = read_some(on, &mut piece).expect("an answer");
        assert!(len > 0, "hung up: {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..len]);
    }
    answers
}

/// Whether what comes behind `answer` is the data of a value.
fn is_data(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let last = text.trim_end_matches("\r\n").rsplit("\r\n").next().unwrap_or_default();
    let is_first = !text.trim_end_matches("\r\n").contains("\r\n");
    text.ends_with("\r\n")
        && !text.ends_with("\r\n\r\n")
        && ((last.starts_with("VA ") && is_first) || last.starts_with("VALUE "))
}

#[test]
fn random_lines_of_text_and_meta_are_answered_as_by_memcached() {
    compare_lines(Config::default());
}

#[test]
fn random_lines_of_text_and_meta_are_answered_as_by_memcached_where_values_are_cached() {
    compare_lines(Config { local_cache: CACHE, ..Config::default() });
}

fn compare_lines(config: Config) {
    let Some(mut sides) = Sides::start(&config, PATIENCE) else { return };
    let (mut different, mut history) = (Vec::new(), Vec::new());
    for seed in seeds() {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lines: Vec<_> = (0..=chance.below(6)).map(|_| random_line(&mut chance)).collect();
        let ours = play_lines(&lines, &mut sides.ours, &mut sides.our_cas);
        if ours.iter().any(|answer| answer.starts_with("SERVER_ERROR ")) {
            sides.start_over(&config);
            history.clear();
            continue;
        }
        let theirs = play_lines(&lines, &mut sides.theirs, &mut sides.their_cas);
        let first = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        if let Some(first) = first {
            let key = lines[first].1;
            let before = history.iter().filter(|((_, of), _)| *of == key).rev().take(6);
            let mut before: Vec<_> = before.map(|((line, _), answer)| format!("{line:?} {answer:?}")).collect();
            before.reverse();
            let shown: Vec<_> =
                lines[..=first].iter().filter(|(_, of)| *of == key).map(|(line, _)| show(line)).collect();
            let answers = (&ours[first], &theirs[first]);
            different.push(format!("seed {seed}: {before:#?} {shown:#?}\nours, theirs {answers:#?}"));
            if different.len() == SHOWN_DIFFERENCES {
                break;
            }
            // What is stored differs now, too.
            let deletes = ["one", "two", "n", "three"].map(|key| (format!("delete {key}\r\n").into_bytes(), key));
            play_lines(&deletes, &mut sides.ours, &mut sides.our_cas);
            play_lines(&deletes, &mut sides.theirs, &mut sides.their_cas);
            history.clear();
        }
        let shown = lines.iter().map(|(line, key)| (show(line), *key));
        history.extend(shown.zip(ours));
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
