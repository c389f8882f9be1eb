//! Schedules for single rules: each is the shortest in which leaving one out shows, with clients that do what it takes.

use super::{B, C, GATEWAY, PAIR, PLAIN, SIX, Scenario, TRIO, X};
use crate::check::Action;
use crate::logic::rule::Rule;
use crate::proto::rpc::v1::method;
use crate::sim::client::{Load, Then, Verb};
use crate::sim::cluster::{Command, STREAM_PORT, Shape, Who};
use crate::sim::kind::Kind;
use crate::sim::script::{Act, Script};

/// Who coordinated the key when the load began, and the other members.
const FIRST: Who = Who::AtFirst(0, 0);
const SECOND: Who = Who::AtFirst(0, 1);
const THIRD: Who = Who::AtFirst(0, 2);
const OTHER_GATEWAY: Who = Who::Gateway(1);
/// Of [`SIX`], the one that is to coordinate the key.
const NEXT: Who = Who::Server(5);

/// One key, and commands that follow each other closely.
fn busy(load: &mut Load) {
    (load.keys, load.pause_ms, load.clients, load.readers) = (1, 15, 2, None);
}

/// Everything from one of these to another takes so many milliseconds longer.
fn delay_all(from: std::ops::Range<usize>, to: std::ops::Range<usize>, ms: u64, at: u64, script: &mut Script) {
    for one in from {
        script.extend(to.clone().map(|other| (at, Act::Delay(Who::Server(one), Who::Server(other), ms))));
    }
}

/// Rules, and the schedule that fails within a few dozen runs where they are left out together.
pub const FOUND: [(&[Rule], &str); 28] = [
    (&[Rule::Fence], "refused-elsewhere"),
    (&[Rule::AwaitReports], "reported-late"),
    (&[Rule::CopyStableOnly], "copied-pending"),
    (&[Rule::MarksStay], "mark-in-front"),
    (&[Rule::DurableVote], "vote-forgotten"),
    (&[Rule::LatestRefusalOnly], "late-refusal"),
    (&[Rule::LookFirst, Rule::LookAgain], "stood-still"),
    (&[Rule::EpochInStamp, Rule::OneWayRefill], "future-unseen"),
    (&[Rule::StableBeforeAcknowledged], "future-unseen"),
    (&[Rule::Quorum], "old-lease"),
    (&[Rule::Lease], "old-lease"),
    (&[Rule::WaitForGrants], "newcomer-first"),
    (&[Rule::OneWayRefill], "deleted-meanwhile"),
    (&[Rule::ReportLeft], "revived-apart"),
    (&[Rule::Floor], "forgotten-outcome"),
    (&[Rule::ReportUnstable], "nobody-asks-again"),
    (&[Rule::QuietStart], "restarted-at-once"),
    (&[Rule::ExpiryIsWritten], "told-expired"),
    (&[Rule::CounterTravels], "flushed-and-filled"),
    (&[Rule::CoordinatorJudges], "two-clocks"),
    (&[Rule::FlushHeard], "flushed-alone"),
    (&[Rule::FlushStays], "flushed-meanwhile"),
    (&[Rule::CounterKept], "flushed-and-restarted"),
    (&[Rule::BackupAsksServers], "flushed-elsewhere"),
    (&[Rule::LastRemovedOnly], "stale-alone"),
    (&[Rule::DurableEpoch], "managers-forget"),
    (&[Rule::PrefixClosed], "refused-in-front"),
    (&[Rule::MendStableOnly], "damaged-pending"),
];

/// All of them.
pub(super) const ALL: [Scenario; 10] = [
    Scenario {
        name: "damaged-pending",
        story: "what a coordinator has stored is damaged while the others do not have it yet, and they tell what was before",
        shape: TRIO,
        script: |dice, script| {
            // Long enough to travel in parts, which other requests overtake.
            let set = |value: String| Act::Ask(OTHER_GATEWAY, 0, Action::Set(value.into_bytes().into()));
            script.push((500, set("first".to_owned())));
            script.push((1_000, set("second".repeat(3_000))));
            let at = 1_200 + dice.below(140);
            script.push((at, Act::Damage(FIRST, 0)));
            script.extend([5, 30, 55].map(|then| (at + then, Act::Ask(OTHER_GATEWAY, 0, Action::Get))));
        },
        load: |load| (load.keys, load.pause_ms, load.readers, load.then) = (1, 60, None, Some((0, Then::Read))),
        ..PLAIN
    },
    Scenario {
        name: "refused-elsewhere",
        story: "an add is refused where it was asked for again, and its first attempt arrives when the key was deleted",
        shape: SIX,
        script: |_, script| {
            // The newcomers are filled slowly: the first attempt is sent in the epoch that admits them.
            delay_all(0..3, 3..6, 60, 900, script);
            script.push((1_000, Act::Command(Command::Attach)));
            script.push((1_001, Act::AwaitEpoch));
            script.push((1_002, Act::Delay(GATEWAY, FIRST, 1_300)));
            delay_all(0..3, 3..6, 0, 1_500, script);
            script.push((1_950, Act::Kill(NEXT)));
        },
        load: |load| {
            busy(load);
            load.menu = Some(|gateway, ms| match (gateway, ms) {
                (0, 1_030..1_080) => Some(Verb::Add),
                (0, 980..1_950) | (1, 980..1_700) => None,
                (1, 1_700..1_900) => Some(Verb::Delete),
                (1, ..980) => Some(Verb::Set),
                _ => Some(Verb::Get),
            });
        },
        ..PLAIN
    },
    Scenario {
        name: "reported-late",
        story: "an add behind a delete is at one member alone, whose report comes when another has refused it",
        shape: TRIO,
        script: |_, script| {
            script.push((1_000, Act::Cut(X, B)));
            script.extend([X, OTHER_GATEWAY].map(|who| (1_150, Act::Kill(who))));
            script.push((5_000, Act::Start(OTHER_GATEWAY)));
        },
        load: |load| {
            busy(load);
            load.menu = Some(|gateway, ms| match (gateway, ms) {
                (1, ..980) => Some(Verb::Set),
                (1, 1_002..1_060) => Some(Verb::Delete),
                (0, 1_060..1_150) => Some(Verb::Add),
                (_, 980..1_150) => None,
                _ => Some(Verb::Get),
            });
        },
        ..PLAIN
    },
    Scenario {
        name: "stood-still",
        story: "a coordinator stands still while another takes over, and reads what came meanwhile by its clock of before",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::Strand(FIRST, GATEWAY)));
            script.push((1_001, Act::AwaitEpoch));
            script.push((1_002, Act::Stop(FIRST)));
            script.push((1_500 + dice.below(400), Act::Continue(FIRST)));
        },
        load: |load| {
            // Long values leave before the end of their turn, behind a look at the clock of their own.
            load.large = true;
            (load.keys, load.clients, load.pause_ms) = (1, 5, 600);
            (load.readers, load.readers_change_one_in) = (Some(0), 1_000);
        },
        ..PLAIN
    },
    Scenario {
        name: "future-unseen",
        story: "a coordinator alone has writes stamped an hour ahead, is cut off, and comes back when others have gone on",
        shape: TRIO,
        script: |dice, script| {
            script.push((1_000, Act::WallClock(X, 3_600)));
            script.extend([B, C].map(|who| (1_000, Act::Cut(X, who))));
            script.push((1_060 + dice.below(40), Act::Isolate(X)));
            script.push((4_000, Act::HealAll));
            script.push((4_200, Act::Command(Command::Attach)));
        },
        load: busy,
        ..PLAIN
    },
    Scenario {
        name: "copied-pending",
        story: "a server that is filled gets a pending write by the copy alone; who made it dies, and the others lack it",
        shape: Shape { servers: 4, ..TRIO },
        script: |_, script| {
            let newcomer = Who::Server(3);
            // Slow enough for the key, which is not in the first batch, to be changed meanwhile.
            script.push((500, Act::Command(Command::Rate(500_000))));
            script.push((1_000, Act::Command(Command::Attach)));
            script.push((1_001, Act::AwaitEpoch));
            script.extend([SECOND, THIRD].map(|who| (1_100, Act::Cut(FIRST, who))));
            script.push((1_100, Act::DelayKind(FIRST, newcomer, Kind::Request(method::REPLICATE), 900)));
            script.extend([FIRST, OTHER_GATEWAY].map(|who| (1_750, Act::Kill(who))));
        },
        load: |load| {
            busy(load);
            load.ballast = Some((24, 30_000));
            // As large as these, so that it does not go before them.
            load.large = true;
            load.then = Some((1_770, Then::Read));
            // What was written before is stable, and known to be.
            load.menu = Some(|gateway, ms| match (gateway, ms) {
                (1, ..980 | 1_105..1_200) => Some(Verb::Set),
                _ => None,
            });
        },
        ..PLAIN
    },
    Scenario {
        name: "mark-in-front",
        story: "a mark is collected where an older copy of what it deleted is still on its way",
        shape: SIX,
        script: |_, script| {
            for one in 0..3 {
                let late = |other| Act::DelayKind(Who::Server(one), Who::Server(other), Kind::Port(STREAM_PORT), 700);
                script.extend((3..6).map(|other| (900, late(other))));
            }
            script.push((1_000, Act::Command(Command::Attach)));
            script.extend((3..6).map(|n| (1_650, Act::WallClock(Who::Server(n), 3_600))));
        },
        load: |load| {
            busy(load);
            load.menu = Some(|gateway, ms| match (gateway, ms) {
                (1, ..980) => Some(Verb::Set),
                // When it is encoded, and not yet there.
                (1, 1_400..1_600) => Some(Verb::Delete),
                _ => Some(Verb::Get),
            });
        },
        ..PLAIN
    },
    Scenario {
        name: "admitted-twice",
        story: "a removed server is admitted again before it learns of that; others forgot its links, it keeps what was deleted",
        shape: PAIR,
        script: |_, script| {
            let (told, other) = (Who::Manager(0), Who::Manager(1));
            script.push((1_000, Act::Isolate(FIRST)));
            script.extend([SECOND, THIRD].map(|who| (4_000, Act::WallClock(who, 3_600))));
            script.push((5_000, Act::HealAll));
            // One manager hears it, and tells it nothing.
            for who in [other, SECOND, THIRD] {
                script.extend([Act::Cut(who, FIRST), Act::Cut(FIRST, who)].map(|act| (5_000, act)));
                script.extend([Act::Mend(who, FIRST), Act::Mend(FIRST, who)].map(|act| (5_600, act)));
            }
            script.push((5_000, Act::Delay(told, FIRST, 700)));
            script.push((5_001, Act::Insist(Command::AttachOnly)));
            script.push((5_002, Act::Cut(told, FIRST)));
            // Without the wait for it, all others are told at once.
            script.push((5_002, Act::Kill(told)));
            script.push((5_010, Act::Start(told)));
            script.push((7_000, Act::Mend(told, FIRST)));
            script.push((7_500, Act::Command(Command::Replace)));
        },
        load: |load| {
            busy(load);
            load.menu = Some(|_, ms| match ms {
                ..980 => Some(Verb::Set),
                3_300..3_600 => Some(Verb::Delete),
                _ => Some(Verb::Get),
            });
        },
        ..PLAIN
    },
    Scenario {
        name: "vote-forgotten",
        story: "a manager dies behind its vote, and with what it knows then another epoch of that number is decided",
        shape: Shape { managers: 3, ..TRIO },
        script: |_, script| {
            let (proposer, voter, third) = (Who::Manager(0), Who::Manager(1), Who::Manager(2));
            script.push((1_000, Act::Split(vec![third, THIRD, OTHER_GATEWAY])));
            script.push((1_000, Act::Delay(proposer, voter, 250)));
            script.push((1_001, Act::AwaitEpoch));
            script.push((1_002, Act::Kill(voter)));
            script.push((1_002, Act::HealAll));
            script.push((1_002, Act::Split(vec![voter, third, THIRD, OTHER_GATEWAY])));
            script.push((1_010, Act::Start(voter)));
        },
        load: busy,
        ..PLAIN
    },
    Scenario {
        name: "late-refusal",
        story: "the refusal of a first attempt arrives when the second was executed and its answer is still on its way",
        shape: TRIO,
        script: |_, script| {
            script.push((1_000, Act::Delay(X, GATEWAY, 450)));
            script.push((1_000, Act::Delay(B, GATEWAY, 800)));
            script.push((1_080, Act::Kill(X)));
        },
        load: |load| {
            busy(load);
            load.menu = Some(|gateway, ms| match (gateway, ms) {
                (1, ..900) | (1, 1_030..1_075) => Some(Verb::Set),
                (1, 900..990) => Some(Verb::Delete),
                (0, 1_003..1_028) => Some(Verb::Delete),
                (_, 980..1_080) => None,
                _ => Some(Verb::Get),
            });
        },
        ..PLAIN
    },
];
