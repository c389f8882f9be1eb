//! What happens to a cluster and when: written down, or drawn from a seed.

use super::cluster::{Cluster, Command, Shape, Who, key_name};
use super::kind::Kind;
use super::net;
use super::node::Dice;
use crate::check::Action;
use crate::store::fs::mem::Faults;
use std::fmt;
use std::rc::Rc;

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// kill -9.
    Kill(Who),
    /// The process is started, if it is not running.
    Start(Who),
    /// The host loses power.
    CutPower(Who, u64),
    /// kill -9, and the disk is empty.
    Wipe(Who, u64),
    /// SIGSTOP.
    Stop(Who),
    /// SIGCONT.
    Continue(Who),
    /// Nothing comes through from one to the other.
    Cut(Who, Who),
    /// It does again.
    Mend(Who, Who),
    /// Nothing comes through between someone and everybody else, in both directions.
    Isolate(Who),
    /// Nothing comes through between someone and the managers.
    IsolateFromManagers(Who),
    /// Nothing comes through between a server and the managers, nor between a gateway and anybody but that server.
    Strand(Who, Who),
    /// Nothing comes through between those on this side and everybody else.
    Split(Vec<Who>),
    /// New connections from one to the other are refused.
    Refuse(Who, Who),
    /// Packets travel up to so many milliseconds longer, in both directions.
    Slow(Who, Who, u64),
    /// Every packet from one to the other travels so many milliseconds longer.
    Delay(Who, Who, u64),
    /// The packets of one kind travel so many milliseconds longer from one to the other.
    DelayKind(Who, Who, Kind, u64),
    /// Of 1000 packets so many are lost, in both directions.
    Lose(Who, Who, u64),
    /// All links are as at first.
    HealAll,
    /// The wall clock jumps to so many seconds ahead.
    WallClock(Who, i64),
    /// The monotonic clock runs so many millionths too fast.
    Drift(Who, i64),
    /// The disk has no room.
    FillDisk(Who),
    /// The disk answers every write with an I/O error.
    BreakDisk(Who),
    /// The disk answers every sync with an I/O error.
    BreakSyncs(Who),
    /// What a server's disk holds of a key, given by its number, has one bit turned over.
    Damage(Who, usize),
    /// The disk has room again, and is whole.
    FreeDisk(Who),
    /// An operator's command.
    Command(Command),
    /// A client at a gateway asks for something about a key, given by its number. It waits for nothing else.
    Ask(Who, usize, Action),
    /// All that follows waits until the cluster is in another epoch than when the act before this one struck, 3 s at most.
    AwaitEpoch,
    /// An operator repeats a command until it has made another epoch, for 3 s at most. All that follows waits.
    Insist(Command),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Kill(who) => write!(f, "kill {who}"),
            Act::Start(who) => write!(f, "start {who}"),
            Act::CutPower(who, _) => write!(f, "cut the power of {who}"),
            Act::Wipe(who, _) => write!(f, "kill {who} and empty its disk"),
            Act::Stop(who) => write!(f, "stop {who}"),
            Act::Continue(who) => write!(f, "continue {who}"),
            Act::Cut(from, to) => write!(f, "cut {from} -> {to}"),
            Act::Mend(from, to) => write!(f, "mend {from} -> {to}"),
            Act::Isolate(who) => write!(f, "isolate {who}"),
            Act::IsolateFromManagers(who) => write!(f, "isolate {who} from the managers"),
            Act::Strand(who, gateway) => write!(f, "isolate {who} from the managers, and {gateway} from all others"),
            Act::Split(side) => {
                write!(f, "split off")?;
                side.iter().try_for_each(|who| write!(f, " {who}"))
            }
            Act::Refuse(from, to) => write!(f, "{to} refuses {from}"),
            Act::Slow(one, other, ms) => write!(f, "{one} <-> {other} is slow by {ms} ms"),
            Act::Delay(from, to, ms) => write!(f, "{from} -> {to} takes {ms} ms longer"),
            Act::DelayKind(from, to, kind, ms) => write!(f, "{from} -> {to} takes {ms} ms longer for {kind:?}"),
            Act::Lose(one, other, n) => write!(f, "{one} <-> {other} loses {n} of 1000"),
            Act::HealAll => write!(f, "heal all links"),
            Act::WallClock(who, secs) => write!(f, "the wall clock of {who} is {secs} s ahead"),
            Act::Drift(who, ppm) => write!(f, "the clock of {who} runs {ppm} ppm fast"),
            Act::FillDisk(who) => write!(f, "the disk of {who} is full"),
            Act::BreakDisk(who) => write!(f, "the disk of {who} fails to write"),
            Act::BreakSyncs(who) => write!(f, "the disk of {who} fails to sync"),
            Act::Damage(who, key) => write!(f, "what {who} has stored of {} is damaged", key_name(*key)),
            Act::FreeDisk(who) => write!(f, "the disk of {who} has room"),
            Act::Command(command) => write!(f, "kumoctl {command:?}"),
            Act::Ask(gateway, key, action) => write!(f, "at {gateway}, {}: {action}", key_name(*key)),
            Act::AwaitEpoch => write!(f, "wait for another epoch"),
            Act::Insist(command) => write!(f, "kumoctl {command:?}, until there is another epoch"),
        }
    }
}

/// When, in virtual milliseconds since the load began, and what.
pub type Script = Vec<(u64, Act)>;

impl Act {
    /// Does it.
    pub fn strike(&self, cluster: &Rc<Cluster>) {
        let ip = |who: Who| cluster.host(who).node.ip;
        let link = |from: Who, to: Who, change: &dyn Fn(&mut net::Link)| {
            if ip(from) != ip(to) {
                net::set_link(ip(from), ip(to), change);
            }
        };
        let both = |one: Who, other: Who, change: &dyn Fn(&mut net::Link)| {
            link(one, other, change);
            link(other, one, change);
        };
        match self {
            Act::Kill(who) => cluster.kill(*who),
            Act::Start(who) => cluster.start(*who),
            Act::CutPower(who, seed) => cluster.cut_power(*who, *seed),
            Act::Wipe(who, seed) => cluster.wipe(*who, *seed),
            Act::Stop(who) => cluster.set_stopped(*who, true),
            Act::Continue(who) => cluster.set_stopped(*who, false),
            Act::Cut(from, to) => link(*from, *to, &|l| l.cut = true),
            Act::Mend(from, to) => link(*from, *to, &|l| l.cut = false),
            Act::Isolate(who) => {
                for other in cluster.everybody() {
                    both(*who, other, &|l| l.cut = true);
                }
            }
            Act::IsolateFromManagers(who) => {
                for manager in (0..cluster.shape.managers).map(Who::Manager) {
                    both(*who, manager, &|l| l.cut = true);
                }
            }
            Act::Strand(who, gateway) => {
                let server = cluster.resolve(*who);
                for manager in (0..cluster.shape.managers).map(Who::Manager) {
                    both(server, manager, &|l| l.cut = true);
                }
                for other in cluster.everybody().into_iter().filter(|other| *other != server) {
                    both(*gateway, other, &|l| l.cut = true);
                }
            }
            Act::Split(side) => {
                let side: Vec<Who> = side.iter().map(|who| cluster.resolve(*who)).collect();
                for other in cluster.everybody().into_iter().filter(|who| !side.contains(who)) {
                    side.iter().for_each(|who| both(*who, other, &|l| l.cut = true));
                }
            }
            Act::Refuse(from, to) => link(*from, *to, &|l| l.refuses = true),
            Act::Slow(one, other, ms) => both(*one, *other, &|l| l.slow_ms = *ms),
            Act::Delay(from, to, ms) => link(*from, *to, &|l| l.late_ms = *ms),
            Act::DelayKind(from, to, kind, ms) => link(*from, *to, &|l| l.late_kind = Some((*kind, *ms))),
            Act::Lose(one, other, n) => both(*one, *other, &|l| l.lost = *n),
            Act::HealAll => net::heal_all(),
            Act::WallClock(who, secs) => cluster.host(*who).node.set_wall_offset(*secs),
            Act::Drift(who, ppm) => cluster.host(*who).node.set_drift_ppm(*ppm),
            Act::FillDisk(who) => {
                let capacity = Some(cluster.disk_bytes(*who));
                cluster.set_disk_faults(*who, Faults { capacity, ..Faults::default() });
            }
            Act::BreakDisk(who) => {
                cluster.set_disk_faults(*who, Faults { fail_writes: true, ..Faults::default() });
            }
            Act::BreakSyncs(who) => {
                cluster.set_disk_faults(*who, Faults { fail_syncs: true, ..Faults::default() });
            }
            Act::Damage(who, key) => cluster.damage(*who, &key_name(*key)),
            Act::FreeDisk(who) => cluster.set_disk_faults(*who, Faults::default()),
            // For who strikes: see [`super::run`].
            Act::AwaitEpoch | Act::Ask(..) | Act::Insist(_) => {}
            Act::Command(command) => {
                let (cluster, command) = (cluster.clone(), *command);
                tokio::task::spawn_local(async move {
                    let outcome = cluster.command(command).await;
                    tracing::info!("kumoctl {command:?}: {outcome:?}");
                });
            }
        }
    }
}

/// Draws a shape.
pub fn draw_shape(dice: &mut Dice) -> Shape {
    let servers = 3 + dice.below(3) as usize;
    let attached = if dice.one_in(3) { servers.min(3 + dice.below(2) as usize) } else { servers };
    Shape {
        managers: 1 + dice.below(3) as usize,
        servers,
        attached,
        gateways: 2,
        workers: 1 + u16::from(dice.one_in(4)),
        sync: dice.one_in(3),
        auto_replace: dice.one_in(2),
        outcomes: None,
        combined: false,
    }
}

/// Draws faults for `duration_ms`, each with its end.
pub fn draw_script(dice: &mut Dice, shape: &Shape, keys: usize, duration_ms: u64) -> Script {
    let mut script = Script::new();
    let faults = 1 + dice.below(6);
    for _ in 0..faults {
        if dice.one_in(3) {
            let at = dice.below(duration_ms);
            draw_plot(dice, shape, keys, at, &mut script);
            continue;
        }
        let at = dice.below(duration_ms);
        let lasting = [60, 150, 300, 700, 1500, 3000, 6000][dice.below(7) as usize];
        let end = at + 1 + dice.below(lasting);
        draw_fault(dice, shape, keys, (at, end), &mut script);
    }
    for _ in 0..dice.below(3) {
        let commands = [Command::Attach, Command::Attach, Command::Detach, Command::Replace, Command::FullReplace];
        script.push((dice.below(duration_ms), Act::Command(*dice.pick(&commands))));
    }
    script.sort_by_key(|(at, _)| *at);
    // Of the votes on disk one may be lost, not a majority of them.
    let wipes = script.iter_mut().filter_map(|(_, act)| match act {
        Act::Wipe(who, _) => Some((*who, act)),
        _ => None,
    });
    wipes.skip(1).for_each(|(who, act)| *act = Act::Kill(who));
    script
}

fn draw_server(dice: &mut Dice, shape: &Shape, keys: usize) -> Who {
    let key = dice.below(keys as u64) as usize;
    match dice.below(8) {
        0..4 => Who::Coordinator(key),
        4 | 5 => Who::Member(key, dice.below(2) as usize),
        _ => Who::Server(dice.below(shape.servers as u64) as usize),
    }
}

fn draw_anybody(dice: &mut Dice, shape: &Shape, keys: usize) -> Who {
    match dice.below(8) {
        0 => Who::Manager(dice.below(shape.managers as u64) as usize),
        1 => Who::Gateway(dice.below(shape.gateways as u64) as usize),
        _ => draw_server(dice, shape, keys),
    }
}

/// Several faults that together try one of the schedules in which lesser designs fail: half of them aim at whoever
/// coordinates a key, and leave it with a gateway that knows no better.
fn draw_plot(dice: &mut Dice, shape: &Shape, keys: usize, at: u64, script: &mut Script) {
    let key = dice.below(keys as u64) as usize;
    let gateway = Who::Gateway(dice.below(shape.gateways as u64) as usize);
    let (coordinator, other) = (Who::Coordinator(key), Who::Member(key, dice.below(2) as usize));
    let mut end = at + 1_000 + dice.below(4_000);
    match dice.below(9) {
        // An old coordinator and its gateway on one side, everybody else on the other.
        0 => script.push((at, Act::Split(vec![coordinator, gateway]))),
        // Only the managers lose sight of it; its leases are live while another takes over, which may have restarted.
        1 | 2 => {
            script.push((at, Act::Strand(coordinator, gateway)));
            if dice.one_in(2) {
                let then = at + 1_300 + dice.below(500);
                script.extend((0..2).map(|n| (then, Act::Kill(Who::Member(key, n)))));
                script.extend((0..shape.servers).map(|n| (then + 1 + dice.below(30), Act::Start(Who::Server(n)))));
            }
        }
        // Answers to a gateway get lost, and then who gave them.
        3 | 4 => {
            script.push((at, Act::Cut(coordinator, gateway)));
            let then = at + 1 + dice.below(300);
            script.push((then, Act::Kill(coordinator)));
            if dice.one_in(2) {
                script.push((then + 50 + dice.below(400), Act::Kill(coordinator)));
            }
            end = then + 1 + dice.below(800);
        }
        // A gateway sleeps over it all.
        5 => {
            script.push((at, Act::Stop(gateway)));
            script.push((at + dice.below(500), Act::Kill(coordinator)));
            script.push((end, Act::Continue(gateway)));
        }
        // One is away until marks are collected, perhaps with a clock that is ahead, and comes back with its old file.
        6 => {
            if dice.one_in(2) {
                script.push((at, Act::WallClock(coordinator, 3600)));
            }
            script.push((at + 300, Act::Kill(if dice.one_in(2) { coordinator } else { other })));
            end = at + 4_500 + dice.below(3_000);
            script.push((end + 300, Act::Command(Command::Attach)));
        }
        // All power goes, one after the other or at once.
        7 => {
            let step_ms = [0, 20, 400][dice.below(3) as usize];
            let cut = |n: usize| (at + n as u64 * step_ms, Act::CutPower(Who::Server(n), at ^ n as u64));
            script.extend((0..shape.servers).map(cut));
            script.extend((0..shape.managers).filter(|_| dice.one_in(2)).map(|n| (at, Act::Kill(Who::Manager(n)))));
            end = at + 500 + dice.below(1_500);
        }
        // A manager comes back with nothing, while servers are cut off.
        _ => {
            let manager = Who::Manager(dice.below(shape.managers as u64) as usize);
            script.push((at, if shape.managers > 1 { Act::Wipe(manager, at) } else { Act::Kill(manager) }));
            script.push((at + dice.below(1_000), Act::Isolate(other)));
            script.push((at + 100 + dice.below(1_000), Act::Start(manager)));
        }
    }
    script.push((end, Act::HealAll));
    let everybody = (0..shape.servers).map(Who::Server).chain((0..shape.managers).map(Who::Manager));
    script.extend(everybody.chain([gateway]).map(|who| (end, Act::Start(who))));
}

/// A fault that names a server by its role is over for a server that is named by its number: [`Act::Start`] and the like
/// come for all at the end of a run, and some of the time before.
fn draw_fault(dice: &mut Dice, shape: &Shape, keys: usize, (at, end): (u64, u64), script: &mut Script) {
    let one = draw_anybody(dice, shape, keys);
    let other = draw_anybody(dice, shape, keys);
    let server = draw_server(dice, shape, keys);
    let starts = |script: &mut Script| {
        script.extend((0..shape.servers).map(|n| (end, Act::Start(Who::Server(n)))));
        script.extend((0..shape.managers).map(|n| (end, Act::Start(Who::Manager(n)))));
        script.extend((0..shape.gateways).map(|n| (end, Act::Start(Who::Gateway(n)))));
    };
    let continues = |script: &mut Script| {
        script.extend((0..shape.servers).map(|n| (end, Act::Continue(Who::Server(n)))));
        script.extend((0..shape.managers).map(|n| (end, Act::Continue(Who::Manager(n)))));
        script.extend((0..shape.gateways).map(|n| (end, Act::Continue(Who::Gateway(n)))));
    };
    match dice.below(18) {
        0..3 => {
            script.push((at, Act::Kill(server)));
            starts(script);
        }
        3 => {
            script.push((at, Act::Kill(one)));
            starts(script);
        }
        4 => {
            script.push((at, Act::CutPower(one, dice.draw())));
            starts(script);
        }
        5..7 => {
            script.push((at, Act::Stop(server)));
            continues(script);
        }
        7 => {
            script.push((at, Act::Stop(one)));
            continues(script);
        }
        8 => {
            script.push((at, Act::Cut(one, other)));
            script.push((end, Act::HealAll));
        }
        9 => {
            script.push((at, Act::Cut(one, other)));
            script.push((at, Act::Cut(other, one)));
            script.push((end, Act::HealAll));
        }
        10 | 11 => {
            script.push((at, Act::Isolate(server)));
            script.push((end, Act::HealAll));
        }
        12 => {
            script.push((at, Act::IsolateFromManagers(server)));
            script.push((end, Act::HealAll));
        }
        13 => {
            let mut side: Vec<Who> = (0..shape.servers).filter(|_| dice.one_in(2)).map(Who::Server).collect();
            side.extend((0..shape.managers).filter(|_| dice.one_in(2)).map(Who::Manager));
            side.extend((0..shape.gateways).filter(|_| dice.one_in(2)).map(Who::Gateway));
            script.push((at, Act::Split(side)));
            script.push((end, Act::HealAll));
        }
        14 => {
            script.push((at, Act::Slow(one, other, 20 + dice.below(300))));
            script.push((at, Act::Lose(one, other, dice.below(300))));
            script.push((end, Act::HealAll));
        }
        15 => {
            script.push((at, Act::WallClock(server, [3600, -3600, 60, -60][dice.below(4) as usize])));
            script.push((at, Act::Drift(server, dice.below(10_000) as i64 - 5_000)));
        }
        16 => {
            script.push((at, Act::FillDisk(server)));
            script.extend((0..shape.servers).map(|n| (end, Act::FreeDisk(Who::Server(n)))));
        }
        _ => {
            script.push((at, Act::Refuse(one, other)));
            script.push((at, Act::Kill(server)));
            script.push((end, Act::HealAll));
            starts(script);
        }
    }
}
