//! Named schedules: those in which lesser designs fail, each for one of the rules of doc/guarantees.md.
//!
//! What is written down is who is struck and about when; the seed draws the rest (latencies, commands, what exactly is under
//! way), so that each is worth many seeds.

pub mod left_out;
mod values;

use super::client::{Load, Then};
use super::cluster::{Command, Shape, Who};
use super::node::Dice;
use super::run::Plan;
use super::script::{Act, Script};
use crate::check::Action;

/// A schedule.
pub struct Scenario {
    /// For the command line.
    pub name: &'static str,
    /// What would go wrong.
    pub story: &'static str,
    shape: Shape,
    script: fn(&mut Dice, &mut Script),
    gap_ms: Option<u64>,
    load: fn(&mut Load),
}

const X: Who = Who::Coordinator(0);
const B: Who = Who::Member(0, 0);
const C: Who = Who::Member(0, 1);
const GATEWAY: Who = Who::Gateway(0);
/// How long clients send commands, in milliseconds.
const DURATION_MS: u64 = 9_000;

const TRIO: Shape = Shape {
    managers: 1,
    servers: 3,
    attached: 3,
    gateways: 2,
    workers: 1,
    sync: false,
    auto_replace: false,
    outcomes: None,
    combined: false,
};
/// When the other three are attached, one of them is to coordinate the first key.
const SIX: Shape = Shape { servers: 6, ..TRIO };
/// Every server is a gateway, too.
const COMBINED: Shape = Shape { gateways: 3, combined: true, ..TRIO };
const PAIR: Shape = Shape { managers: 2, ..TRIO };
const FIVE: Shape = Shape { managers: 2, servers: 5, attached: 5, auto_replace: true, ..TRIO };

/// An operator mends what is wrong with server 1, and starts it again.
fn replace_the_disk(at: u64) -> Script {
    let server = Who::Server(1);
    let steps = [Act::FreeDisk(server), Act::Kill(server), Act::Start(server)];
    let attach = (at + 500, Act::Command(Command::Attach));
    steps.into_iter().map(|act| (at, act)).chain([attach]).collect()
}

/// The clients of gateway 0 read, and now and then change something.
fn readers(load: &mut Load) {
    (load.keys, load.readers, load.readers_change_one_in) = (1, Some(0), 4);
}

/// With any load, and no promise of how soon changes are acknowledged again.
const PLAIN: Scenario = Scenario { name: "", story: "", shape: TRIO, script: |_, _| (), gap_ms: None, load: |_| () };

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    const { &SEVERAL }.iter().chain(const { &left_out::ALL }).chain(const { &values::ALL })
}

/// Those that several rules stand against.
const SEVERAL: [Scenario; 39] = [
    Scenario {
        name: "combined-paused",
        story: "processes that are server and gateway are paused for longer than leases, and ask and answer themselves",
        shape: COMBINED,
        script: |dice, script| {
            for round in 0..4 {
                let at = 500 + round * 2_000;
                script.push((at, Act::Stop(X)));
                let then = at + 150 + dice.below(1_500);
                script.extend((0..3).map(|n| (then, Act::Continue(Who::Server(n)))));
            }
        },
        ..PLAIN
    },
    Scenario {
        name: "old-lease",
        story: "a coordinator, a manager and a gateway are cut off; the others go on, and it answers with old values",
        shape: PAIR,
        script: |_, script| script.push((1_000, Act::Split(vec![X, Who::Manager(0), GATEWAY]))),
        ..PLAIN
    },
    Scenario {
        name: "no-managers",
        story: "all managers are stopped, and service with them",
        shape: PAIR,
        script: |_, script| {
            script.extend((0..2).map(|n| (1_000, Act::Stop(Who::Manager(n)))));
            script.extend((0..2).map(|n| (7_000, Act::Continue(Who::Manager(n)))));
        },
        gap_ms: Some(1_000),
        ..PLAIN
    },
    Scenario {
        name: "manager-wakes",
        story: "a newcomer waits in vain for a manager that hangs; it wakes, and never hears that the newcomer was filled",
        shape: TRIO,
        script: |dice, script| {
            script.push((200, Act::Kill(C)));
            script.extend((0..3).map(|n| (400, Act::Start(Who::Server(n)))));
            script.push((1_000, Act::Stop(Who::Manager(0))));
            script.push((5_500 + dice.below(1_500), Act::Continue(Who::Manager(0))));
            script.push((7_500, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "refused-alive",
        story: "a server refuses new connections, is taken for dead, and goes on over those that it has",
        shape: PAIR,
        script: |_, script| {
            let all = (0..2).map(Who::Manager).chain((0..3).map(Who::Server)).chain([GATEWAY]);
            script.extend(all.map(|who| (1_000, Act::Refuse(who, X))));
            script.push((1_001, Act::IsolateFromManagers(X)));
        },
        ..PLAIN
    },
    Scenario {
        name: "granted-and-forgot",
        story: "members that granted a lease restart, forget it, and take over while its holder still reads",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Strand(X, GATEWAY)));
            let then = 2_200 + dice.below(600);
            script.extend([B, C].map(|who| (then, Act::Kill(who))));
            script.extend((0..3).map(|n| (then + 1 + dice.below(20), Act::Start(Who::Server(n)))));
        },
        ..PLAIN
    },
    Scenario {
        name: "taken-over-early",
        story: "a new coordinator opens while the old one, unseen by managers alone, still holds its leases",
        shape: TRIO,
        script: |_, script| script.push((1_000, Act::Strand(X, GATEWAY))),
        ..PLAIN
    },
    Scenario {
        name: "paused",
        story: "a process is paused between the look at its lease and its answer",
        shape: TRIO,
        script: |dice, script| {
            let mut at = 500;
            while at < 8_000 {
                script.push((at, Act::Stop(X)));
                at += 150 + dice.below(2_600);
                script.extend((0..3).map(|n| (at, Act::Continue(Who::Server(n)))));
                at += 600;
                script.push((at, Act::Command(Command::Attach)));
            }
        },
        ..PLAIN
    },
    Scenario {
        name: "clocks",
        story: "clocks run apart and jump by an hour",
        shape: FIVE,
        script: |_, script| {
            script.push((500, Act::WallClock(X, 3_600)));
            script.push((500, Act::Drift(X, -5_000)));
            script.push((500, Act::Drift(B, 5_000)));
            script.push((1_500, Act::WallClock(B, -3_600)));
            script.push((2_500, Act::Kill(X)));
            script.push((5_000, Act::Kill(X)));
        },
        ..PLAIN
    },
    Scenario {
        name: "two-halves",
        story: "each manager, with a server on its side, decides another next epoch",
        shape: PAIR,
        script: |_, script| {
            script.push((1_000, Act::Split(vec![Who::Manager(0), X, GATEWAY])));
            script.push((1_000, Act::Cut(B, C)));
            script.push((1_000, Act::Cut(C, B)));
        },
        ..PLAIN
    },
    Scenario {
        name: "lost-vote",
        story: "a manager loses its disk and votes again",
        shape: Shape { managers: 3, ..FIVE },
        script: |dice, script| {
            script.push((1_000, Act::Kill(X)));
            script.push((1_000 + dice.below(80), Act::Wipe(Who::Manager(1), 7)));
            script.push((1_100, Act::Split(vec![Who::Manager(0), Who::Server(1)])));
            script.push((1_100 + dice.below(100), Act::Start(Who::Manager(1))));
        },
        ..PLAIN
    },
    Scenario {
        name: "stale-first",
        story: "one was removed early, the others late; all are down, and the first one comes back before them",
        shape: PAIR,
        script: |_, script| {
            script.push((500, Act::Kill(X)));
            script.push((3_000, Act::Kill(X)));
            script.push((3_000, Act::Kill(B)));
            script.push((3_001, Act::Kill(C)));
            script.extend((0..3).map(|n| (3_500 + 700 * n as u64, Act::Start(Who::Server(n)))));
        },
        ..PLAIN
    },
    Scenario {
        name: "stale-alone",
        story: "one was removed early, the others late; all are down, and the first one comes back and serves without them",
        shape: PAIR,
        script: |dice, script| {
            let [early, late, later] = [0, 1, 2].map(|place| Who::AtFirst(0, place));
            script.push((500, Act::Kill(early)));
            script.push((2_500, Act::Kill(late)));
            script.push((2_500 + dice.below(400), Act::Kill(later)));
            script.push((3_500, Act::Start(early)));
            script.extend([late, later].map(|who| (5_500 + dice.below(500), Act::Start(who))));
        },
        ..PLAIN
    },
    Scenario {
        name: "half-written",
        story: "a member holds a write that was not acknowledged, restarts, and the coordinator dies",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Cut(X, C)));
            script.push((1_000 + dice.below(300), Act::Kill(B)));
            script.push((1_020 + dice.below(300), Act::Kill(X)));
            script.extend((0..3).map(|n| (1_350, Act::Start(Who::Server(n)))));
        },
        ..PLAIN
    },
    Scenario {
        name: "revived-apart",
        story: "a write is at the coordinator alone, all die and come back, and the coordinator dies after it told it",
        shape: TRIO,
        script: |dice, script| {
            script.extend([B, C].map(|who| (1_000, Act::Cut(X, who))));
            let then = 1_020 + dice.below(120);
            script.extend((0..3).map(|n| (then, Act::Kill(Who::Server(n)))));
            script.push((then + 1, Act::HealAll));
            script.extend((0..3).map(|n| (then + 2 + dice.below(20), Act::Start(Who::Server(n)))));
            // Nobody writes over it meanwhile, where the other gateway has readers only.
            script.push((then, Act::Stop(Who::Gateway(1))));
            script.push((then + 500 + dice.below(1_000), Act::Kill(X)));
            script.push((5_000, Act::Continue(Who::Gateway(1))));
        },
        ..PLAIN
    },
    Scenario {
        name: "two-takeovers",
        story: "the coordinator dies, and who takes over dies while it does",
        shape: FIVE,
        script: |dice, script| {
            for at in [1_000, 4_500] {
                script.push((at, Act::Kill(X)));
                script.push((at + 40 + dice.below(150), Act::Kill(X)));
                script.extend((0..5).map(|n| (at + 1_500, Act::Start(Who::Server(n)))));
            }
        },
        ..PLAIN
    },
    Scenario {
        name: "attached-under-load",
        story: "the ring for writes differs from that for reads, and the source of a copy dies",
        shape: Shape { attached: 3, ..FIVE },
        script: |dice, script| {
            script.push((1_000, Act::Command(Command::Attach)));
            script.push((1_000 + dice.below(40), Act::Kill(X)));
            script.extend((0..5).map(|n| (2_000, Act::Start(Who::Server(n)))));
            script.push((4_000, Act::Command(Command::FullReplace)));
            script.push((4_000 + dice.below(20), Act::Isolate(B)));
        },
        ..PLAIN
    },
    Scenario {
        name: "weighed",
        story: "servers are to hold more and less, while they and those that fill them die",
        shape: FIVE,
        script: |dice, script| {
            for (at, weighed, points) in [(1_000, 1, 40), (1_020, 2, 400), (4_500, 1, 128), (4_510, 3, 13)] {
                script.push((at, Act::Command(Command::Weigh(weighed, points))));
                let dies = if dice.one_in(2) { Who::Server(weighed) } else { X };
                script.push((at + dice.below(100), Act::Kill(dies)));
                script.extend((0..5).map(|n| (at + 1_500, Act::Start(Who::Server(n)))));
            }
            script.push((2_600, Act::Command(Command::Drain(4))));
            script.push((2_600 + dice.below(60), Act::Kill(B)));
            script.push((7_000, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "drained",
        story: "servers leave while they serve, and they or those who take over from them die meanwhile",
        shape: FIVE,
        script: |dice, script| {
            for (at, leaving) in [(1_000, 1), (5_000, 2)] {
                script.push((at, Act::Command(Command::Drain(leaving))));
                let dies = if dice.one_in(2) { Who::Server(leaving) } else { X };
                script.push((at + dice.below(60), Act::Kill(dies)));
                script.push((at + dice.below(120), Act::Kill(B)));
                script.extend((0..5).map(|n| (at + 1_500, Act::Start(Who::Server(n)))));
            }
            script.push((8_000, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "from-the-future",
        story: "writes stamped an hour ahead are on a removed server alone, which comes back",
        shape: PAIR,
        script: |_, script| {
            script.push((500, Act::WallClock(X, 3_600)));
            script.push((900, Act::Isolate(X)));
            script.push((4_000, Act::HealAll));
            script.push((4_200, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "slept-through",
        story: "one is away until the marks of what was deleted are collected, and comes back with its old file",
        shape: PAIR,
        script: |_, script| {
            script.push((300, Act::Kill(B)));
            script.extend((0..3).map(|n| (6_500, Act::Start(Who::Server(n)))));
            script.push((7_000, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "answers-lost",
        story: "a change is executed, its answer gets lost, the coordinator dies, and the gateway asks again",
        shape: FIVE,
        script: |dice, script| {
            for at in [1_000, 4_000, 6_500] {
                script.push((at, Act::Cut(X, GATEWAY)));
                script.push((at + 20 + dice.below(150), Act::Kill(X)));
                script.push((at + 800, Act::HealAll));
                script.extend((0..5).map(|n| (at + 900, Act::Start(Who::Server(n)))));
            }
        },
        ..PLAIN
    },
    Scenario {
        name: "sleeping-gateway",
        story: "a gateway sleeps until what it asked for is forgotten, and asks again",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Slow(X, GATEWAY, 250)));
            script.push((1_500 + dice.below(200), Act::Stop(GATEWAY)));
            script.push((1_600, Act::Kill(X)));
            script.push((4_500, Act::Continue(GATEWAY)));
            script.extend((0..3).map(|n| (5_000, Act::Start(Who::Server(n)))));
        },
        ..PLAIN
    },
    Scenario {
        name: "given-up-while-connecting",
        story: "a gateway sleeps while it connects anew, gives that up, and uses it after all without saying who it is",
        shape: TRIO,
        script: |dice, script| {
            script.extend([(1_000, Act::Cut(X, GATEWAY)), (1_000, Act::Cut(GATEWAY, X))]);
            script.push((2_650 + dice.below(200), Act::Stop(GATEWAY)));
            script.push((2_900, Act::HealAll));
            script.push((4_150 + dice.below(500), Act::Continue(GATEWAY)));
        },
        ..PLAIN
    },
    Scenario {
        name: "power-cut",
        story: "all power goes, and the cluster needs an operator",
        shape: Shape { sync: true, ..FIVE },
        script: |dice, script| {
            let all = (0..5).map(Who::Server).chain((0..2).map(Who::Manager));
            let cut: Vec<(u64, Act)> = all.clone().map(|who| (2_000, Act::CutPower(who, dice.draw()))).collect();
            script.extend(cut);
            script.extend(all.map(|who| (2_500 + dice.below(1_000), Act::Start(who))));
        },
        ..PLAIN
    },
    Scenario {
        name: "fillers-die",
        story: "all servers that are to have some keys die while they are filled, and whoever has these keys drops them",
        shape: SIX,
        script: |dice, script| {
            script.push((1_000, Act::Command(Command::Attach)));
            let then = 1_001 + dice.below(12);
            script.extend((3..6).map(|n| (then, Act::Kill(Who::Server(n)))));
            script.extend((3..6).map(|n| (3_000, Act::Start(Who::Server(n)))));
            script.push((3_500, Act::Command(Command::Attach)));
        },
        ..PLAIN
    },
    Scenario {
        name: "restarted-at-once",
        story: "members restart, come back full at once and know nothing of the leases they granted to one that was removed",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Strand(X, GATEWAY)));
            script.push((1_001, Act::AwaitEpoch));
            let then = 1_002 + dice.below(60);
            script.extend([B, C].map(|who| (then, Act::Kill(who))));
            script.push((then, Act::Kill(X)));
            script.extend((0..3).map(|n| (then + 2 + dice.below(5), Act::Start(Who::Server(n)))));
            script.push((then + 60, Act::Command(Command::Attach)));
        },
        load: readers,
        ..PLAIN
    },
    Scenario {
        name: "newcomer-first",
        story: "a newcomer becomes the first of its ring while the one before it holds the leases of the others",
        shape: SIX,
        script: |dice, script| {
            script.push((1_000, Act::Strand(X, GATEWAY)));
            script.push((1_001, Act::AwaitEpoch));
            script.push((1_002 + dice.below(20), Act::Command(Command::Attach)));
        },
        load: readers,
        ..PLAIN
    },
    Scenario {
        name: "filled-and-alone",
        story: "a newcomer is filled, all others are removed, and it opens while one holds leases of those",
        shape: Shape { servers: 5, ..TRIO },
        script: |dice, script| {
            script.push((1_000, Act::Strand(X, GATEWAY)));
            script.push((1_001, Act::AwaitEpoch));
            script.push((1_002, Act::Command(Command::Attach)));
            let then = 1_015 + dice.below(60);
            script.extend([0, 2].map(|n| (then, Act::Kill(Who::Server(n)))));
        },
        load: readers,
        ..PLAIN
    },
    Scenario {
        name: "late-first-attempt",
        story: "a change was refused when it was asked for again; its first attempt arrives later, where it would succeed",
        shape: SIX,
        script: |dice, script| {
            for at in [1_000, 4_000] {
                script.push((at, Act::Delay(GATEWAY, X, 450 + dice.below(300))));
                script.push((at + 20 + dice.below(60), Act::Command(Command::Attach)));
                script.push((at + 150, Act::Kill(X)));
                script.push((at + 1_500, Act::HealAll));
                script.extend((0..6).map(|n| (at + 1_600, Act::Start(Who::Server(n)))));
            }
        },
        load: |load| {
            readers(load);
            load.clients = 5;
        },
        ..PLAIN
    },
    Scenario {
        name: "forgotten-outcome",
        story: "changes are executed, their answers get lost, and servers forget the outcomes for want of memory",
        shape: Shape { outcomes: Some(4), ..TRIO },
        script: |dice, script| {
            for at in [1_000, 4_000] {
                script.push((at, Act::Cut(X, GATEWAY)));
                script.push((at + 60 + dice.below(150), Act::Kill(X)));
                script.push((at + 1_000, Act::HealAll));
                script.extend((0..3).map(|n| (at + 1_100, Act::Start(Who::Server(n)))));
                script.push((at + 1_500, Act::Command(Command::Attach)));
            }
        },
        load: |load| (load.keys, load.clients) = (3, 6),
        ..PLAIN
    },
    Scenario {
        name: "refused-in-front",
        story: "a member refuses a message and takes the one behind it, and takes over with a change whose outcome it lacks",
        shape: Shape { servers: 4, attached: 4, ..TRIO },
        script: |dice, script| {
            let [x, y, z] = [Who::Coordinator(1), Who::Member(1, 0), Who::Member(1, 1)];
            script.push((1_000, Act::Delay(Who::Manager(0), y, 60 + dice.below(80))));
            script.push((1_000, Act::Delay(y, x, 400)));
            // Nor does the third tell it of the epoch that it is behind.
            script.extend([Act::Cut(x, z), Act::Cut(y, z)].map(|act| (1_000, act)));
            // One that removes somebody is told at once. This one has no part in the key.
            script.push((1_001, Act::Kill(Who::Server(3))));
            // In front of what makes the member refuse, and behind it.
            for at in [1_020, 1_035, 1_050, 1_165, 1_180, 1_200] {
                script.push((at + dice.below(10), Act::Ask(GATEWAY, 1, Action::Incr(1))));
            }
            let then = 1_218 + dice.below(120);
            script.push((then, Act::Mend(y, z)));
            script.push((then, Act::Kill(x)));
            script.push((2_500, Act::HealAll));
            script.extend((0..4).map(|n| (2_600, Act::Start(Who::Server(n)))));
        },
        load: |load| (load.keys, load.clients, load.pause_ms, load.readers) = (2, 3, 150, None),
        ..PLAIN
    },
    Scenario {
        name: "seen-and-lost",
        story: "a change that one member alone had is read there after a takeover, and that member dies",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Cut(X, C)));
            script.push((1_030 + dice.below(60), Act::Kill(X)));
            script.push((1_350 + dice.below(250), Act::Kill(X)));
            script.extend((0..3).map(|n| (2_600, Act::Start(Who::Server(n)))));
            script.push((3_000, Act::Command(Command::Attach)));
        },
        load: |load| (load.keys, load.clients, load.pause_ms) = (1, 3, 400),
        ..PLAIN
    },
    Scenario {
        name: "nobody-asks-again",
        story: "a change is at one member alone; its coordinator and its gateway are dead, and the replicas differ for good",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Cut(X, B)));
            let then = 1_020 + dice.below(100);
            script.extend([X, Who::Gateway(1)].map(|who| (then, Act::Kill(who))));
        },
        load: |load| {
            readers(load);
            (load.clients, load.readers_change_one_in, load.then) = (3, 40, Some((1_010, Then::Read)));
        },
        ..PLAIN
    },
    Scenario {
        name: "deleted-meanwhile",
        story: "the coordinator is away while keys are deleted and the marks collected, and comes back with its old file",
        shape: TRIO,
        script: |_, script| {
            script.push((1_000, Act::Kill(X)));
            script.extend((0..3).map(|n| (7_600, Act::Start(Who::Server(n)))));
            script.push((7_900, Act::Command(Command::Attach)));
        },
        load: |load| (load.keys, load.then) = (3, Some((1_500, Then::Delete))),
        ..PLAIN
    },
    Scenario {
        name: "managers-forget",
        story: "the only manager loses its disk while all servers restart, and nobody knows who held what",
        shape: TRIO,
        script: |dice, script| {
            // What it missed meanwhile must not come to count.
            script.push((300, Act::Kill(Who::Server(0))));
            script.push((2_000, Act::Wipe(Who::Manager(0), dice.draw())));
            script.extend((1..3).map(|n| (2_000 + dice.below(50), Act::Kill(Who::Server(n)))));
            script.extend((0..3).map(|n| (2_200 + dice.below(200), Act::Start(Who::Server(n)))));
            script.push((2_300 + dice.below(200), Act::Start(Who::Manager(0))));
            script.push((4_500, Act::Command(Command::Attach)));
        },
        load: |load| load.keys = 4,
        ..PLAIN
    },
    Scenario {
        name: "failing-disk",
        story: "a disk fails every write; its server neither acknowledges nor makes way, and its keys wait for ever",
        shape: TRIO,
        script: |_, script| {
            script.push((1_000, Act::BreakDisk(Who::Server(1))));
            script.extend(replace_the_disk(6_000));
        },
        gap_ms: Some(4_000),
        ..PLAIN
    },
    Scenario {
        name: "failing-syncs",
        story: "a disk loses what it was to keep; its server acknowledges it, or waits for ever for what never comes",
        shape: Shape { sync: true, ..TRIO },
        script: |_, script| {
            script.push((1_000, Act::BreakSyncs(Who::Server(1))));
            script.extend(replace_the_disk(6_000));
        },
        gap_ms: Some(4_000),
        ..PLAIN
    },
    Scenario {
        name: "power-cut-unsynced",
        story: "without --sync, one loses power, and comes back with an earlier state that clients get to see",
        shape: Shape { auto_replace: true, ..TRIO },
        script: |dice, script| {
            for at in [1_000, 4_000] {
                script.push((at, Act::CutPower(X, dice.draw())));
                script.extend((0..3).map(|n| (at + 700 + dice.below(600), Act::Start(Who::Server(n)))));
                script.push((at + 2_000, Act::Command(Command::Attach)));
            }
        },
        ..PLAIN
    },
];

impl Scenario {
    /// One run of it.
    pub fn plan(&self, seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x5ce0);
        let mut script = Script::new();
        (self.script)(&mut dice, &mut script);
        script.sort_by_key(|(at, _)| *at);
        let readers = if dice.one_in(2) { Some(0) } else { None };
        let mut load = Load::new(1 + dice.below(3) as usize, 10 + dice.below(60), readers);
        (self.load)(&mut load);
        Plan::new(seed, self.shape, load, script, DURATION_MS, self.gap_ms)
    }
}
