//! Stories of clusters, told in few verbs: `start`, `kill`, `silence`, `wait`, and what the epoch says afterwards.

use super::*;
use crate::logic::route::Route;
use std::collections::BTreeMap;

mod drained;
mod model;
mod parted;
mod quorum;
mod stranded;
mod weighed;

const MANAGER: &str = "10.0.0.100:19700";

fn server(n: u8) -> Address {
    Address::new(format!("10.0.0.{n}:19800").parse().unwrap())
}

fn setup(own: &str, partners: &[&str], disk_id: u64) -> Setup {
    let address = |text: &str| Address::new(text.parse().unwrap());
    Setup {
        own: address(own),
        disk_id,
        new_cluster: 4242,
        partners: partners.iter().map(|p| address(p)).collect(),
        lost_after: Duration::from_millis(1500),
        replace_delay: Duration::from_secs(4),
    }
}

/// A manager alone, with its first disk.
fn lone(kept: Kept) -> State {
    State::new(setup(MANAGER, &[], 7), kept, false)
}

/// A manager and the servers around it, which answer pings while they run.
struct World {
    state: State,
    millis: u64,
    conns: BTreeMap<u8, ConnId>,
    /// Each server's disk: its id and the newest epoch on it.
    disks: BTreeMap<u8, (u64, Option<Epoch>)>,
    silent: BTreeSet<u8>,
    next: u64,
    log: Vec<String>,
    told: usize,
}

impl World {
    fn new() -> World {
        World::with(lone(Kept::default()))
    }

    fn with(state: State) -> World {
        World {
            state,
            millis: 0,
            conns: BTreeMap::new(),
            disks: BTreeMap::new(),
            silent: BTreeSet::new(),
            next: 1,
            log: Vec::new(),
            told: 0,
        }
    }

    /// Servers 1 to n, attached, with all phases done.
    fn attached(n: u8) -> World {
        let mut world = World::new();
        (1..=n).for_each(|i| world.start(i));
        world.state.attach(world.now(), true).unwrap();
        world.copy_and_delete();
        world.log.clear();
        world
    }

    fn now(&self) -> Now {
        Now { since_start: Duration::from_millis(self.millis), unix_secs: 1_000_000 + self.millis / 1000 }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The process starts, with the disk it has.
    fn start(&mut self, n: u8) {
        let incarnation = self.fresh();
        self.connect(n, incarnation);
    }

    fn connect(&mut self, n: u8, incarnation: u64) {
        let conn = self.fresh();
        let fresh_disk = 1000 + self.fresh();
        let (disk_id, epoch) = self.disks.entry(n).or_insert((fresh_disk, None)).clone();
        self.conns.insert(n, conn);
        let stream = server(n);
        let join = Join { disk_id, incarnation, workers: 2, stream, epoch: epoch.map(|e| e.encode()) };
        self.state.server_opened(self.now(), conn, server(n));
        // A refusal shows in what follows.
        let _ = self.state.joined(self.now(), conn, &join);
        self.act();
    }

    fn start_old(&mut self, n: u8) {
        let conn = self.fresh();
        self.conns.insert(n, conn);
        self.state.server_opened(self.now(), conn, server(n));
        self.state.spoke_old(self.now(), conn);
        self.act();
    }

    /// The process dies: the connection breaks, and connecting is refused.
    fn kill(&mut self, n: u8) {
        if let Some(conn) = self.conns.remove(&n) {
            self.state.server_closed(self.now(), conn);
        }
        self.act();
    }

    /// They are told to end, and say so.
    fn leave(&mut self, servers: &[u8]) {
        for n in servers {
            self.state.leaving(self.now(), self.conns[n]);
        }
        self.act();
    }

    /// All die in the same moment.
    fn kill_all(&mut self, servers: &[u8]) {
        for n in servers {
            let conn = self.conns.remove(n).unwrap();
            self.state.server_closed(self.now(), conn);
        }
        self.act();
    }

    fn act(&mut self) {
        loop {
            let actions = self.state.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Log(_, line) => self.log.push(line),
                    Action::Check(address) => {
                        let alive = self.conns.keys().chain(&self.silent).any(|n| server(*n) == address);
                        self.state.checked(self.now(), self.now().since_start, address, alive);
                    }
                    Action::Spread | Action::HandOver | Action::Tell(_) => {
                        self.told += 1;
                        let epoch = Epoch::clone(self.state.epoch());
                        for n in self.conns.keys() {
                            if let (Some(disk), Some(_)) = (self.disks.get_mut(n), epoch.server(server(*n))) {
                                disk.1 = Some(epoch.clone());
                            }
                        }
                    }
                    Action::Close(conn) => {
                        self.conns.retain(|_, c| *c != conn);
                        self.state.server_closed(self.now(), conn);
                    }
                    // A lone manager asks nobody.
                    Action::Ask(..) => panic!("{action:?}"),
                    Action::Answer(_, outcome) => self.log.push(format!("answered {outcome:?}")),
                    Action::NoteNew(_) | Action::NoteLost(_) | Action::Keep | Action::Confer => {}
                    Action::Hint(address) => self.log.push(format!("hint {address}")),
                }
            }
        }
    }

    fn wait(&mut self, millis: u64) {
        for _ in 0..millis / 25 {
            self.millis += 25;
            for (n, conn) in &self.conns {
                if !self.silent.contains(n) {
                    self.state.alive(self.now(), *conn);
                }
            }
            self.state.tick(self.now());
            self.act();
        }
    }

    fn copy(&mut self) {
        let Phase::Copying { time, .. } = self.epoch().phase else { panic!("nothing is copied") };
        for conn in self.conns.values() {
            self.state.copy_ended(self.now(), *conn, time);
        }
        self.act();
    }

    fn copy_and_delete(&mut self) {
        self.copy();
        let Phase::Deleting { time } = self.epoch().phase else { panic!("nothing is deleted") };
        for conn in self.conns.values() {
            self.state.delete_ended(self.now(), *conn, time);
        }
        self.act();
        assert_eq!(self.epoch().phase, Phase::Idle);
    }

    fn epoch(&self) -> Epoch {
        let epoch = Epoch::clone(self.state.epoch());
        epoch.check().unwrap();
        epoch
    }

    /// `1+` full, `2~` filling, `3-` fault.
    fn shape(&self) -> String {
        let epoch = self.epoch();
        let mut shown: Vec<String> = Vec::new();
        for n in 1..100 {
            if epoch.server(server(n)).is_some() {
                let full = change::is_full(&epoch, server(n));
                let mark = if full {
                    '+'
                } else if change::is_active(&epoch, server(n)) {
                    '~'
                } else {
                    '-'
                };
                shown.push(format!("{n}{mark}"));
            }
        }
        shown.join(" ")
    }

    fn not_attached(&self) -> Vec<Address> {
        self.state.newcomers().iter().map(|n| n.address).collect()
    }

    fn serves(&self) -> bool {
        Route::new(&self.epoch()).groups().iter().all(|g| g.coordinator().is_some())
    }

    fn logged(&self, line: &str) -> bool {
        self.log.iter().any(|l| l == line)
    }

    /// The manager dies too and starts anew, with its state file or with a new one.
    fn restart_manager(&mut self, keeps_file: bool) {
        self.state = if keeps_file {
            lone(Kept { epoch: Some(self.epoch()), vote: self.state.vote().clone() })
        } else {
            let disk_id = 500 + self.fresh();
            State::new(setup(MANAGER, &[], disk_id), Kept::default(), false)
        };
        self.conns.clear();
        self.millis = 0;
        self.log.clear();
    }
}

#[test]
fn servers_show_up_and_are_attached_in_the_order_of_coming() {
    let mut world = World::new();
    for n in [2, 3, 1] {
        world.start(n);
    }
    assert_eq!(world.not_attached(), [server(2), server(3), server(1)]);
    assert_eq!(world.epoch().number, 0);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert_eq!(world.epoch().cluster, 4242);
    let order: Vec<Address> = world.epoch().whs.nodes.iter().map(|n| n.address).collect();
    assert_eq!(order, [server(2), server(3), server(1)]);
    assert!(world.not_attached().is_empty());
    world.copy_and_delete();
    assert!(world.logged("new node 1 10.0.0.2:19800") && world.logged("server connected 10.0.0.2:19800"));
    assert!(world.logged("start replace copy; full=true"));
    let time = world.log.iter().find_map(|l| l.strip_prefix("start replace delete ")).unwrap().to_owned();
    assert!(world.logged(&format!("replace finished {time}")) && time.starts_with("time("));
}

#[test]
fn a_server_whose_process_dies_is_removed_within_the_promise() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.kill(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert_eq!(world.epoch().number, before.number + 1);
    assert_eq!(world.epoch().server(server(2)).unwrap().removed, Some(before.number + 1));
    assert!(world.epoch().whs.timestamp > before.whs.timestamp);
    assert_eq!(world.log, ["lost node 1 10.0.0.2:19800", "server lost 10.0.0.2:19800"]);
}

#[test]
fn a_server_that_is_told_to_end_is_removed_while_it_serves() {
    let mut world = World::attached(3);
    world.leave(&[2]);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert_eq!(world.log, ["server 10.0.0.2:19800 ends"]);
    assert_eq!(world.not_attached(), []);
    world.kill(2);
    world.start(2);
    world.wait(100);
    assert_eq!(world.not_attached(), [server(2)]);
}

#[test]
fn servers_that_are_told_to_end_together_come_back_by_themselves() {
    let mut world = World::attached(3);
    world.leave(&[1, 2, 3]);
    world.wait(100);
    assert_eq!(world.shape(), "1- 2- 3-");
    world.kill_all(&[1, 2, 3]);
    (1..=3).for_each(|n| world.start(n));
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+");
}

#[test]
fn a_server_that_hangs_is_removed_within_two_seconds() {
    let mut world = World::attached(3);
    world.silent.insert(2);
    world.wait(1400);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.wait(300);
    assert_eq!(world.shape(), "1+ 2- 3+");
}

#[test]
fn a_broken_connection_to_a_living_server_is_given_time() {
    let mut world = World::attached(3);
    let incarnation = world.epoch().server(server(2)).unwrap().incarnation;
    // Silent, so that the check finds it listening.
    world.silent.insert(2);
    world.kill(2);
    world.wait(1000);
    world.silent.clear();
    world.connect(2, incarnation);
    world.wait(3000);
    assert_eq!(world.shape(), "1+ 2+ 3+");
}

#[test]
fn a_manager_that_was_paused_blames_nobody() {
    let mut world = World::attached(3);
    world.millis += 60_000;
    world.state.tick(world.now());
    world.wait(3000);
    assert_eq!(world.shape(), "1+ 2+ 3+");
}

#[test]
fn a_server_that_restarts_is_not_the_one_that_was_attached() {
    let mut world = World::attached(3);
    world.kill(2);
    world.start(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert_eq!(world.not_attached(), [server(2)]);
    world.state.attach(world.now(), true).unwrap();
    assert_eq!(world.shape(), "1+ 2~ 3+");
    assert_eq!(world.epoch().phase, Phase::Copying { time: world.epoch().whs.timestamp, full: false });
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+");
}

#[test]
fn a_restart_faster_than_its_detection_is_noticed_too() {
    let mut world = World::attached(3);
    world.start(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert!(world.logged("server lost 10.0.0.2:19800"));
}

#[test]
fn a_removed_incarnation_is_never_admitted_again() {
    let mut world = World::attached(3);
    let incarnation = world.epoch().server(server(2)).unwrap().incarnation;
    world.silent.insert(2);
    world.wait(2000);
    world.silent.clear();
    world.connect(2, incarnation);
    assert!(world.not_attached().is_empty());
    world.state.detach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert!(world.not_attached().is_empty(), "also when no epoch names it any more");
    world.state.attach(world.now(), true).unwrap();
    assert_eq!(world.shape(), "1+ 3+");
    world.start(2);
    assert_eq!(world.not_attached(), [server(2)]);
}

#[test]
fn a_server_that_learns_of_its_removal_joins_again_on_the_same_connection() {
    let mut world = World::attached(3);
    let old = world.epoch().server(server(2)).unwrap().incarnation;
    world.silent.insert(2);
    world.wait(2000);
    world.silent.clear();
    world.connect(2, old);
    assert!(world.not_attached().is_empty());
    let (disk_id, epoch) = world.disks[&2].clone();
    let join = Join { disk_id, incarnation: 9999, workers: 2, stream: server(2), epoch: epoch.map(|e| e.encode()) };
    world.state.joined(world.now(), world.conns[&2], &join).unwrap();
    assert_eq!(world.not_attached(), [server(2)]);
}

#[test]
fn a_report_counts_only_from_the_incarnation_that_was_admitted() {
    let mut world = World::attached(3);
    world.state.replace(world.now(), false).unwrap();
    let Phase::Copying { time, .. } = world.epoch().phase else { panic!() };
    world.start(3);
    for conn in world.conns.values() {
        world.state.copy_ended(world.now(), *conn, time);
    }
    assert!(matches!(world.epoch().phase, Phase::Copying { .. }));
}

#[test]
fn a_server_without_identity_is_refused() {
    let mut world = World::new();
    world.disks.insert(1, (0, None));
    world.start(1);
    assert!(world.logged("server refused 10.0.0.1:19800: it has no identity"));
    assert!(world.not_attached().is_empty());
}

#[test]
fn a_server_lost_while_copying_starts_the_copying_over() {
    let mut world = World::attached(4);
    world.start(5);
    world.state.attach(world.now(), true).unwrap();
    let Phase::Copying { time, .. } = world.epoch().phase else { panic!() };
    world.state.copy_ended(world.now(), world.conns[&1], time);
    world.kill(4);
    world.wait(100);
    let Phase::Copying { time: again, .. } = world.epoch().phase else { panic!() };
    assert_ne!(time, again);
    // What was reported of the first attempt does not count.
    for n in [2, 3, 5] {
        world.state.copy_ended(world.now(), world.conns[&n], again);
    }
    world.state.copy_ended(world.now(), world.conns[&1], time);
    assert_eq!(world.shape(), "1+ 2+ 3+ 4- 5~");
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+ 4- 5+");
}

#[test]
fn a_server_lost_while_deleting_is_not_waited_for() {
    let mut world = World::attached(4);
    world.state.replace(world.now(), false).unwrap();
    world.copy();
    let Phase::Deleting { time } = world.epoch().phase else { panic!() };
    for n in [1, 2, 3] {
        world.state.delete_ended(world.now(), world.conns[&n], time);
    }
    assert_eq!(world.epoch().phase, Phase::Deleting { time });
    world.kill(4);
    world.wait(100);
    assert_eq!(world.epoch().phase, Phase::Idle);
}

#[test]
fn detach_while_copying_copies_by_the_new_space() {
    let mut world = World::attached(4);
    world.kill(4);
    world.wait(100);
    world.start(5);
    world.state.attach(world.now(), true).unwrap();
    let before = world.epoch().phase;
    world.state.detach(world.now(), false).unwrap();
    assert_ne!(world.epoch().phase, before);
    assert!(world.epoch().whs.find(server(4)).is_none());
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+ 5+");
}

#[test]
fn attach_and_detach_without_replace_wait_for_it() {
    let mut world = World::attached(3);
    world.start(4);
    world.kill(1);
    world.wait(100);
    world.state.attach(world.now(), false).unwrap();
    world.state.detach(world.now(), false).unwrap();
    assert_eq!(world.epoch().phase, Phase::Idle);
    assert_eq!(world.shape(), "1- 2+ 3+ 4~");
    world.state.replace(world.now(), false).unwrap();
    world.copy_and_delete();
    assert_eq!(world.shape(), "2+ 3+ 4+");
}

#[test]
fn a_replace_with_nothing_to_move_runs_its_phases() {
    let mut world = World::attached(3);
    world.state.replace(world.now(), true).unwrap();
    assert_eq!(world.epoch().phase, Phase::Copying { time: world.epoch().whs.timestamp, full: true });
    world.copy_and_delete();
}

#[test]
fn a_command_that_changes_nothing_makes_no_epoch() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.state.attach(world.now(), false).unwrap();
    world.state.detach(world.now(), false).unwrap();
    assert_eq!(world.epoch(), before);
    let mut empty = World::new();
    empty.state.attach(empty.now(), true).unwrap();
    empty.state.replace(empty.now(), true).unwrap();
    empty.state.flush_all(empty.now(), 0).unwrap();
    assert_eq!(empty.epoch().number, 0);
}

#[test]
fn all_killed_at_once_come_back_by_themselves_as_soon_as_all_are_there() {
    let mut world = World::attached(3);
    world.kill_all(&[1, 2, 3]);
    world.wait(200);
    assert_eq!(world.shape(), "1- 2- 3-");
    world.start(1);
    world.start(3);
    world.wait(200);
    assert!(!world.serves());
    world.start(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert_eq!(world.epoch().phase, Phase::Idle);
}

#[test]
fn one_that_does_not_come_back_is_waited_for_a_while() {
    let mut world = World::attached(3);
    world.kill_all(&[1, 2, 3]);
    world.wait(200);
    world.start(1);
    world.start(3);
    world.wait(3900);
    assert!(!world.serves());
    world.wait(200);
    assert_eq!(world.shape(), "1+ 2- 3+");
    world.start(2);
    world.wait(10_000);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert_eq!(world.not_attached(), [server(2)]);
}

#[test]
fn a_power_cut_of_servers_and_manager_heals_by_the_state_file() {
    let mut world = World::attached(3);
    world.restart_manager(true);
    for n in [3, 1, 2] {
        assert!(!world.logged("server 10.0.0.1:19800 is taken back"));
        world.start(n);
    }
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert!(world.not_attached().is_empty());
    assert!(world.serves());
}

#[test]
fn a_power_cut_with_a_manager_that_forgets_heals_when_all_are_there() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.restart_manager(false);
    world.start(1);
    world.start(2);
    world.wait(20_000);
    assert_eq!(world.epoch(), before, "a newer epoch may be on the third disk");
    world.start(3);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert_eq!(world.epoch().number, before.number + 2);
    assert_ne!(world.epoch().managers, before.managers, "the new disk has a vote from now on");
}

#[test]
fn an_operator_ends_the_waiting_of_a_manager_that_forgets() {
    let mut world = World::attached(3);
    world.restart_manager(false);
    world.start(1);
    world.start(2);
    world.wait(5000);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1+ 2+ 3-");
}

#[test]
fn a_power_cut_with_one_disk_lost_heals_after_a_while() {
    let mut world = World::attached(3);
    world.restart_manager(true);
    world.disks.remove(&2);
    for n in [1, 2, 3] {
        world.start(n);
    }
    world.wait(3900);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert_eq!(world.epoch().servers.iter().filter(|s| s.removed.is_some()).count(), 0);
    world.wait(300);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert_eq!(world.not_attached(), [server(2)]);
}

#[test]
fn only_the_last_removed_comes_back_by_itself() {
    let mut world = World::attached(3);
    for n in [1, 2, 3] {
        world.kill(n);
        world.wait(500);
    }
    world.start(1);
    world.start(2);
    world.wait(20_000);
    assert!(!world.serves());
    world.start(3);
    world.wait(100);
    assert_eq!(world.shape(), "1- 2- 3+");
    assert_eq!(world.not_attached(), [server(1), server(2)]);
}

#[test]
fn an_operator_takes_what_is_left_when_the_last_disk_is_gone() {
    let mut world = World::attached(3);
    for n in [1, 2, 3] {
        world.kill(n);
        world.wait(500);
    }
    world.start(1);
    world.start(2);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1~ 2~ 3-");
    world.copy();
    assert_eq!(world.shape(), "1~ 2~ 3-", "2 and 1 miss what 3 took last");
    assert!(world.log.iter().any(|l| l.contains("or give them up with")));
    world.state.detach(world.now(), false).unwrap();
    world.act();
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+", "both hold what 2 has");
}

/// The only full server died while others were filled from it; these reported that nothing was left to copy, and were
/// taken for full.
#[test]
fn filling_servers_without_a_source_do_not_become_full() {
    let mut world = World::attached(1);
    world.start(2);
    world.start(3);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    world.kill(1);
    world.wait(100);
    assert_eq!(world.shape(), "1- 2~ 3~");
    world.copy();
    assert_eq!(world.shape(), "1- 2~ 3~");
    world.state.replace(world.now(), false).unwrap();
    assert_eq!(world.shape(), "1- 2~ 3~");
    world.start(1);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2~ 3~");
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+");
}

#[test]
fn an_operator_gives_up_what_only_a_lost_server_had_by_detaching_it() {
    let mut world = World::attached(1);
    world.start(2);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    world.kill(1);
    world.wait(100);
    world.state.detach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1- 2~");
    assert!(world.log.iter().any(|l| l.contains("is not detached: it holds keys that nobody serves")));
    world.state.detach(world.now(), false).unwrap();
    world.state.replace(world.now(), false).unwrap();
    world.act();
    world.copy_and_delete();
    assert_eq!(world.shape(), "2+");
}

/// A new disk was attached at the address of the server that had been removed last. That ended the old disk's claim, and
/// one that had been removed before it, and had missed its last writes, came back by itself.
#[test]
fn a_new_disk_at_the_address_of_the_last_removed_does_not_make_way_for_a_stale_one() {
    let mut world = World::attached(3);
    for n in [1, 2, 3] {
        world.kill(n);
        world.wait(500);
    }
    world.disks.remove(&3);
    world.start(3);
    world.state.attach(world.now(), true).unwrap();
    world.start(2);
    world.wait(10_000);
    assert_eq!(world.shape(), "1- 2- 3-");
    assert!(world.log.iter().any(|l| l.contains("10.0.0.3:19800 is not attached: an earlier disk")));
    world.state.detach(world.now(), false).unwrap();
    world.state.attach(world.now(), true).unwrap();
    world.act();
    world.copy_and_delete();
    assert!(world.serves(), "{}", world.shape());
}

#[test]
fn a_filling_server_is_filled_anew_after_a_power_cut() {
    let mut world = World::attached(3);
    world.start(4);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    let before = world.epoch().phase;
    world.restart_manager(true);
    (1..=4).for_each(|n| world.start(n));
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+ 4~");
    assert_ne!(world.epoch().phase, before);
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+ 4+");
}

#[test]
fn a_restarted_manager_goes_on_with_the_servers_that_run() {
    for keeps_file in [true, false] {
        let mut world = World::attached(3);
        let before = world.epoch();
        world.restart_manager(keeps_file);
        for n in [1, 2, 3] {
            world.connect(n, before.server(server(n)).unwrap().incarnation);
        }
        world.wait(10_000);
        // A new disk is named before anything else is decided.
        let number = before.number + u64::from(!keeps_file);
        let managers = world.epoch().managers;
        assert_eq!(world.epoch(), Epoch { number, managers, ..before });
    }
}

#[test]
fn a_server_that_died_while_the_manager_was_away_is_removed() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.restart_manager(true);
    for n in [1, 2] {
        world.connect(n, before.server(server(n)).unwrap().incarnation);
    }
    world.wait(3900);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.wait(300);
    assert_eq!(world.shape(), "1+ 2+ 3-");
}

/// A manager back without its state file took two of three servers for enough: the third might have gone on with a newer
/// epoch, in which these two had no part.
#[test]
fn a_manager_that_forgets_hears_every_server_before_it_decides() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.restart_manager(false);
    for n in [1, 2] {
        world.connect(n, before.server(server(n)).unwrap().incarnation);
    }
    world.wait(10_000);
    assert_eq!(world.epoch(), before);
    assert!(world.log.iter().any(|l| l.contains("servers 10.0.0.3:19800 may know more")), "{:?}", world.log);
    assert!(matches!(world.state.detach(world.now(), true), Ok(Progress::Deciding(_))));
    world.wait(3100);
    assert!(world.logged("answered Err(Undecided)"));
    world.connect(3, before.server(server(3)).unwrap().incarnation);
    world.wait(100);
    assert_eq!(world.epoch().number, before.number + 1);
    world.kill(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
}

/// Those that are filled elsewhere keep their claim to the ranges that they held last; they were waited for although they
/// were there.
#[test]
fn a_manager_that_forgets_hears_active_servers_with_a_claim_too() {
    let mut world = World::attached(6);
    world.kill_all(&[1, 2, 3]);
    world.wait(200);
    (1..=3).for_each(|n| world.start(n));
    world.wait(5000);
    let before = world.epoch();
    assert!(before.servers.iter().any(|s| s.claim > 0 && change::is_active(&before, s.address)), "{}", world.shape());
    world.restart_manager(false);
    for n in 1..=6 {
        world.connect(n, before.server(server(n)).unwrap().incarnation);
    }
    world.wait(100);
    assert!(world.epoch().number > before.number);
}

#[test]
fn a_manager_takes_over_from_another_only_when_told() {
    let mut world = World::attached(3);
    let before = world.epoch();
    world.state = State::new(setup("10.0.0.99:19700", &[], 8), Kept::default(), false);
    world.conns.clear();
    for n in [1, 2, 3] {
        world.connect(n, before.server(server(n)).unwrap().incarnation);
    }
    world.wait(10_000);
    assert_eq!(world.epoch(), before);
    assert!(world.log.iter().any(|l| l.contains("the servers follow manager 10.0.0.100:19700")));
    world.state.attach(world.now(), false).unwrap();
    assert_eq!(world.epoch().managers.len(), 1);
    assert_ne!(world.epoch().managers, before.managers);
}

#[test]
fn a_server_of_another_cluster_is_refused() {
    let mut world = World::attached(3);
    let foreign = Epoch { cluster: 9, number: 1000, ..Epoch::default() };
    world.disks.insert(4, (77, Some(foreign)));
    let before = world.epoch();
    world.start(4);
    assert_eq!(world.epoch(), before);
    assert!(world.not_attached().is_empty());
    assert!(world.logged("server refused 10.0.0.4:19800: it belongs to another cluster"));
}

/// A server that was listed at the managers of two clusters was attached by both. It acted for the first, and for the
/// second it was there and acknowledged nothing, so that writes waited for ever.
#[test]
fn an_active_server_that_shows_another_clusters_epoch_is_taken_for_dead() {
    let mut world = World::attached(3);
    let incarnation = world.epoch().server(server(2)).unwrap().incarnation;
    world.silent.insert(2);
    world.kill(2);
    world.disks.get_mut(&2).unwrap().1 = Some(Epoch { cluster: 9, number: 2, ..Epoch::default() });
    for _ in 0..4 {
        world.connect(2, incarnation);
        world.wait(100);
    }
    assert!(world.logged("server refused 10.0.0.2:19800: it belongs to another cluster"));
    assert_eq!(world.shape(), "1+ 2- 3+");
}

#[test]
fn a_disk_at_another_address_is_a_new_server() {
    let mut world = World::attached(3);
    world.kill(2);
    world.wait(100);
    let disk = world.disks[&2].clone();
    world.disks.insert(5, disk);
    world.start(5);
    assert_eq!(world.not_attached(), [server(5)]);
    assert!(world.log.iter().any(|l| l.contains("has the disk of 10.0.0.2:19800")));
}

#[test]
fn flush_all_is_now_or_later_and_the_last_wish_counts() {
    let mut world = World::attached(3);
    world.state.flush_all(world.now(), 10).unwrap();
    assert_eq!(world.epoch().flushed, 0);
    world.state.flush_all(world.now(), 5).unwrap();
    world.wait(4000);
    assert_eq!(world.epoch().flushed, 0);
    world.wait(1100);
    assert_eq!(world.epoch().flushed, world.epoch().number);
    assert_eq!(world.epoch().flush_at, None);
    world.state.flush_all(world.now(), 5).unwrap();
    world.state.flush_all(world.now(), 0).unwrap();
    let number = world.epoch().number;
    world.wait(10_000);
    assert_eq!((world.epoch().flushed, world.epoch().number), (number, number));
}

#[test]
fn a_delayed_flush_outlives_its_manager() {
    let mut world = World::attached(3);
    world.state.flush_all(world.now(), 2).unwrap();
    let before = world.epoch();
    world.restart_manager(true);
    for n in [1, 2, 3] {
        world.connect(n, before.server(server(n)).unwrap().incarnation);
    }
    world.wait(3000);
    assert_eq!(world.epoch().flushed, before.number + 1);
}

#[test]
fn with_auto_replace_servers_come_and_go_by_themselves() {
    let mut world = World::new();
    world.state.set_auto_replace(true);
    (1..=3).for_each(|n| world.start(n));
    world.wait(3900);
    assert_eq!(world.shape(), "");
    world.wait(300);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.copy_and_delete();
    world.kill(2);
    world.wait(4200);
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 3+");
}

#[test]
fn auto_replace_never_gives_up_records_that_can_come_back() {
    let mut world = World::attached(3);
    world.state.set_auto_replace(true);
    world.kill_all(&[1, 2, 3]);
    world.wait(100);
    world.start(4);
    world.wait(20_000);
    assert_eq!(world.shape(), "1- 2- 3-");
    (1..=3).for_each(|n| world.start(n));
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.wait(5000);
    assert_eq!(world.shape(), "1+ 2+ 3+ 4~");
}

#[test]
fn kumofs_servers_are_attached_lost_and_found_likewise() {
    let mut world = World::new();
    (1..=3).for_each(|n| world.start_old(n));
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+");
    assert!(!world.epoch().strict());
    world.kill(2);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3+");
    world.start_old(2);
    assert_eq!(world.not_attached(), [server(2)]);
    assert_eq!(world.state.flush_all(world.now(), 0), Err(Refused::OldServer));
}

#[test]
fn an_old_partners_newer_spaces_are_taken_and_older_ones_refused() {
    let mut world = World::attached(3);
    let before = world.epoch();
    let mut whs = before.whs.clone();
    whs.nodes[0].active = false;
    whs.timestamp = ClockTime(whs.timestamp.0 + 5);
    assert!(world.state.partner_spaces(world.now(), whs.clone(), whs.clone()));
    assert_eq!(world.shape(), "1- 2+ 3+");
    assert!(!world.state.partner_spaces(world.now(), before.whs, before.rhs));
}
