//! What happens to a cluster beside faults: clocks that are seconds apart, backups, replaces, and how fast records move.
//!
//! Drawn from a sequence of its own and added to a script, so that a seed without it means what it always meant.

use super::cluster::{Command, Shape, Who};
use super::node::Dice;
use super::script::{Act, Script};

/// Seconds that the clock of a node is ahead or behind at most.
const APART_SECS: u64 = 2;

/// Adds it to the script of a run that takes `duration_ms`.
pub fn add(seed: u64, shape: &Shape, duration_ms: u64, script: &mut Script) {
    let mut dice = Dice::new(seed ^ 0xe7e47);
    if dice.one_in(2) {
        set_clocks_apart(&mut dice, shape, script);
    }
    for number in 0..dice.below(3) as u32 {
        script.push((dice.below(duration_ms), Act::Command(Command::Backup(number))));
    }
    if dice.one_in(2) {
        script.push((dice.below(duration_ms), Act::Command(Command::FullReplace)));
    }
    if dice.one_in(3) {
        let at = dice.below(duration_ms);
        let pace = [Command::Pause(true), Command::Rate(200), Command::Rate(5_000)][dice.below(3) as usize];
        script.push((at, Act::Command(pace)));
        let end = at + 1 + dice.below(3_000);
        script.extend([Command::Pause(false), Command::Rate(0)].map(|command| (end, Act::Command(command))));
    }
    for _ in 0..dice.below(3) {
        let (server, points) =
            (dice.below(shape.servers as u64) as usize, [13, 60, 128, 300, 1_024][dice.below(5) as usize]);
        script.push((dice.below(duration_ms), Act::Command(Command::Weigh(server, points))));
    }
    script.sort_by_key(|(at, _)| *at);
}

/// Every clock is off by some seconds from the start. One that the script has jump does not jump far: in an hour to be
/// waited for no value is ever seen to expire.
fn set_clocks_apart(dice: &mut Dice, shape: &Shape, script: &mut Script) {
    for (_, act) in script.iter_mut() {
        if let Act::WallClock(_, secs) = act {
            *secs = secs.signum() * (APART_SECS as i64 + 1);
        }
    }
    let managers = (0..shape.managers).map(Who::Manager);
    let servers = (0..shape.servers).map(Who::Server);
    for who in managers.chain(servers).chain((0..shape.gateways).map(Who::Gateway)) {
        let secs = dice.below(2 * APART_SECS + 1) as i64 - APART_SECS as i64;
        script.push((0, Act::WallClock(who, secs)));
    }
}

/// Whether a script changes how fast records move.
pub fn changes_pace(script: &Script) -> bool {
    script.iter().any(|(_, act)| matches!(act, Act::Command(Command::Pause(_) | Command::Rate(_))))
}
