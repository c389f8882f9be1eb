//! Schedules about what becomes of values by themselves, or all at once: expiry, flushes, and who makes a stale value anew.

use super::{B, C, GATEWAY, PAIR, PLAIN, Scenario, TRIO, X};
use crate::check::{Action, Stored};
use crate::sim::client::{Load, Then};
use crate::sim::cluster::{Command, Who};
use crate::sim::script::{Act, Script};

/// Another gateway than [`GATEWAY`].
const OTHER: Who = Who::Gateway(1);

/// A client of that gateway asks for something about the first key.
fn ask(script: &mut Script, at: u64, gateway: Who, action: Action) {
    script.push((at, Act::Ask(gateway, 0, action)));
}

/// Stores a value that is to live for so many seconds.
fn set_for(secs: u32) -> Action {
    Action::Set(Stored { ttl_secs: Some(secs), ..b"for a while".to_vec().into() })
}

fn set(value: String) -> Action {
    Action::Set(value.into_bytes().into())
}

/// Clients read one key, and change nothing.
fn watch(load: &mut Load) {
    (load.keys, load.pause_ms, load.readers, load.then) = (1, 60, None, Some((0, Then::Read)));
}

/// All of them.
pub(super) const ALL: [Scenario; 12] = [
    Scenario {
        name: "told-expired",
        story: "a value is told to have expired by a clock that is ahead, and a server whose clock is right takes over",
        shape: TRIO,
        script: |dice, script| {
            script.push((100, Act::WallClock(X, 2)));
            ask(script, 500, OTHER, set_for(4));
            script.push((2_700 + dice.below(500), Act::Kill(X)));
            script.extend((0..3).map(|n| (6_000, Act::Start(Who::Server(n)))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "two-clocks",
        story: "a gateway whose clock is ahead tells a value to have expired that the other one still finds",
        shape: TRIO,
        script: |dice, script| {
            script.push((100, Act::WallClock(GATEWAY, 2)));
            ask(script, 500, OTHER, set_for(4));
            script.push((500 + dice.below(1_500), Act::Kill(X)));
            script.extend((0..3).map(|n| (2_500, Act::Start(Who::Server(n)))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "touched-and-lost",
        story: "a value is touched at the coordinator alone, which dies, and it ends when it was to end before",
        shape: TRIO,
        script: |dice, script| {
            ask(script, 500, OTHER, set_for(3));
            script.extend([B, C].map(|who| (1_500, Act::Cut(X, who))));
            ask(script, 1_510, OTHER, Action::Touch(Some(6)));
            ask(script, 1_520, GATEWAY, Action::GetAndTouch(Some(7)));
            script.push((1_530 + dice.below(100), Act::Kill(X)));
            script.push((2_500, Act::HealAll));
            script.extend((0..3).map(|n| (6_000, Act::Start(Who::Server(n)))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "won-once",
        story: "the one who is to make a stale value anew is told so by an answer that gets lost, or two are",
        shape: TRIO,
        script: |dice, script| {
            for at in [1_000, 3_500, 6_000] {
                script.push((at, Act::Cut(X, GATEWAY)));
                let then = at + 20 + dice.below(150);
                script.push((then, Act::Kill(X)));
                script.push((then + 20 + dice.below(300), Act::HealAll));
                script.extend((0..3).map(|n| (at + 700, Act::Start(Who::Server(n)))));
                script.push((at + 1_000, Act::Command(Command::Attach)));
            }
        },
        load: |load| (load.keys, load.pause_ms, load.clients, load.then) = (1, 60, 3, Some((0, Then::Recache))),
        ..PLAIN
    },
    Scenario {
        name: "flushed-alone",
        story: "a server holds all keys alone, does not hear that they were flushed, and answers a gateway that did not either",
        shape: TRIO,
        script: |dice, script| {
            script.extend([B, C].map(|who| (500, Act::Kill(who))));
            script.push((2_500, Act::Strand(X, GATEWAY)));
            ask(script, 2_510 + dice.below(500), OTHER, Action::Flush);
            script.push((7_500, Act::HealAll));
            script.extend((0..3).map(|n| (7_600, Act::Start(Who::Server(n)))));
        },
        load: |load| (load.keys, load.pause_ms, load.readers, load.readers_change_one_in) = (1, 200, Some(0), 40),
        ..PLAIN
    },
    Scenario {
        name: "flushed-twice",
        story: "a manager waits in vain for a server that has flushed, and the gateway has another one flush once more",
        shape: PAIR,
        script: |dice, script| {
            script.extend([B, C].map(|who| (500, Act::Kill(who))));
            // The one that holds all keys alone hears managers, and they do not hear it.
            script.extend((0..2).map(|n| (2_500, Act::Cut(X, Who::Manager(n)))));
            ask(script, 2_510 + dice.below(300), OTHER, Action::Flush);
            script.push((7_000, Act::HealAll));
            script.extend((0..3).map(|n| (7_600, Act::Start(Who::Server(n)))));
        },
        load: |load| (load.keys, load.pause_ms) = (1, 200),
        ..PLAIN
    },
    Scenario {
        name: "flushed-meanwhile",
        story: "one is away while all keys are flushed, comes back with its old file, and takes over",
        shape: PAIR,
        script: |dice, script| {
            script.push((500, Act::Isolate(B)));
            ask(script, 2_600, OTHER, Action::Flush);
            script.push((3_000 + dice.below(500), Act::Kill(X)));
            script.push((4_500, Act::HealAll));
            script.push((4_700, Act::Command(Command::Attach)));
            script.push((6_000 + dice.below(300), Act::Kill(X)));
            script.extend((0..3).map(|n| (7_500, Act::Start(Who::Server(n)))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "flushed-and-filled",
        story: "a server whose clock is behind is filled when all is flushed, and gives values the versions that others had",
        shape: TRIO,
        script: |dice, script| {
            script.extend([(100, Act::WallClock(X, -1)), (400, Act::Kill(X))]);
            // More than it has reserved.
            (0..60).for_each(|n| ask(script, 1_000 + n * 15, OTHER, set(format!("before {n}"))));
            script.extend((0..3).map(|n| (1_900, Act::Start(Who::Server(n)))));
            ask(script, 2_000, OTHER, Action::Flush);
            script.push((2_100, Act::Command(Command::Attach)));
            let first = 2_300 + dice.below(200);
            (0..40).for_each(|n| ask(script, first + n * 20, GATEWAY, set(format!("after {n}"))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "flushed-and-restarted",
        story: "as before, and then all restart: no record and no life tells which versions the values of before had",
        shape: TRIO,
        script: |dice, script| {
            script.extend([(100, Act::WallClock(X, -3)), (400, Act::Kill(X))]);
            (0..20).for_each(|n| ask(script, 1_000 + n * 45, OTHER, set(format!("before {n}"))));
            script.extend((0..3).map(|n| (1_900, Act::Start(Who::Server(n)))));
            ask(script, 2_000, OTHER, Action::Flush);
            script.push((2_100, Act::Command(Command::Attach)));
            script.extend((0..3).map(|n| (2_700, Act::Kill(Who::Server(n)))));
            script.extend((0..3).map(|n| (2_701 + n as u64, Act::Start(Who::Server(n)))));
            // In the seconds of before, by the clock that is behind.
            let first = 3_800 + dice.below(300);
            (0..60).for_each(|n| ask(script, first + n * 25, GATEWAY, set(format!("after {n}"))));
        },
        load: watch,
        ..PLAIN
    },
    Scenario {
        name: "flushed-elsewhere",
        story: "a backup is asked for at a manager that was left behind, and brings back what was flushed at the others",
        shape: PAIR,
        script: |dice, script| {
            script.push((1_000, Act::Split(vec![X, Who::Manager(0)])));
            // The gateway may ask the one that it no longer reaches first.
            for at in [2_500, 3_200, 3_900] {
                ask(script, at + dice.below(300), OTHER, Action::Flush);
            }
            script.push((5_000, Act::Command(Command::Backup(0))));
            script.push((6_000, Act::HealAll));
            script.push((6_500, Act::Command(Command::Attach)));
        },
        load: |load| (load.keys, load.pause_ms) = (1, 100),
        ..PLAIN
    },
    Scenario {
        name: "flushed-and-cut-off",
        story: "a coordinator that managers and one gateway alone do not reach answers by its leases after a flush",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Strand(X, GATEWAY)));
            ask(script, 1_001 + dice.below(1_800), OTHER, Action::Flush);
            script.push((6_000, Act::HealAll));
        },
        load: |load| (load.keys, load.pause_ms, load.readers, load.readers_change_one_in) = (1, 20, Some(0), 40),
        ..PLAIN
    },
    Scenario {
        name: "flushed-later",
        story: "the manager that was told to flush later dies, and so does a coordinator, and nothing is ever flushed",
        shape: PAIR,
        script: |dice, script| {
            ask(script, 1_000, OTHER, Action::FlushLater(2));
            script.push((1_050 + dice.below(500), Act::Kill(Who::Manager(0))));
            script.push((1_500 + dice.below(2_500), Act::Kill(X)));
            script.extend((0..3).map(|n| (5_500, Act::Start(Who::Server(n)))));
            script.push((6_000, Act::Start(Who::Manager(0))));
        },
        load: watch,
        ..PLAIN
    },
];
