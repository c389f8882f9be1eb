//! Servers that an operator has leave while they serve.

use super::*;

impl World {
    /// An operator has a server leave.
    fn drain(&mut self, n: u8) {
        self.state.drain(self.now(), server(n)).unwrap();
        self.act();
    }
}

fn is_drained(world: &World, n: u8) -> bool {
    world.epoch().server(server(n)).is_some_and(|s| s.drained)
}

#[test]
fn a_drained_server_serves_until_the_others_have_all() {
    let mut world = World::attached(4);
    world.drain(2);
    let epoch = world.epoch();
    assert!(epoch.whs.find(server(2)).is_none() && epoch.rhs.is_active(server(2)));
    assert_eq!(world.not_attached(), [], "it is no newcomer");
    assert_eq!(world.state.not_attached(), [server(2)]);
    // What it alone is to send is waited for.
    let Phase::Copying { time, .. } = epoch.phase else { panic!("nothing is copied") };
    for n in [1, 3, 4] {
        let conn = world.conns[&n];
        world.state.copy_ended(world.now(), conn, time);
        assert!(!world.state.asks_whether_sourced(world.now(), conn, time));
    }
    world.act();
    assert_eq!(world.epoch().number, epoch.number);
    world.state.copy_ended(world.now(), world.conns[&2], time);
    world.act();
    let epoch = world.epoch();
    assert!(matches!(epoch.phase, Phase::Deleting { .. }));
    assert!(epoch.rhs.find(server(2)).is_none());
    assert_eq!(epoch.server(server(2)).unwrap().removed, Some(epoch.number), "its life is over");
    assert!(is_drained(&world, 2));
    assert!(world.serves());
    // It is seen all the while, also before it has joined with its next life.
    assert_eq!(world.state.not_attached(), [server(2)]);
    assert_eq!(world.not_attached(), []);
}

#[test]
fn only_an_operator_attaches_a_drained_server_again() {
    let mut world = World::attached(4);
    world.state.set_auto_replace(true);
    world.drain(2);
    world.copy_and_delete();
    world.kill(2);
    world.start(2);
    assert_eq!(world.not_attached(), [server(2)]);
    world.wait(60_000);
    assert!(world.epoch().whs.find(server(2)).is_none());
    world.restart_manager(true);
    for n in [1, 2, 3, 4] {
        world.start(n);
    }
    world.wait(60_000);
    assert!(world.epoch().whs.find(server(2)).is_none(), "also when the manager was restarted");
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert!(world.epoch().rhs.is_active(server(2)) && !is_drained(&world, 2));
}

#[test]
fn with_another_disk_it_is_another_server() {
    let mut world = World::attached(4);
    world.state.set_auto_replace(true);
    world.drain(2);
    world.copy_and_delete();
    world.kill(2);
    world.disks.remove(&2);
    world.start(2);
    world.wait(6_000);
    assert!(world.epoch().whs.is_active(server(2)));
}

#[test]
fn attach_has_a_server_stay_that_is_being_drained() {
    let mut world = World::attached(4);
    world.drain(2);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert!(!is_drained(&world, 2));
    world.copy_and_delete();
    let epoch = world.epoch();
    assert!(epoch.whs.is_active(server(2)) && epoch.rhs.is_active(server(2)));
}

#[test]
fn one_that_dies_while_it_is_drained_is_copied_from_the_others() {
    let mut world = World::attached(4);
    world.drain(2);
    world.kill(2);
    world.wait(500);
    assert_eq!(world.shape(), "1+ 2- 3+ 4+");
    world.copy_and_delete();
    assert_eq!(world.epoch().rhs.nodes.len(), 3);
    assert!(world.serves());
    // It is not wanted back.
    world.start(2);
    world.state.set_auto_replace(true);
    world.wait(60_000);
    assert!(!world.epoch().whs.is_active(server(2)));
    // An operator who detaches what is gone forgets it.
    world.kill(2);
    world.state.detach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.epoch().server(server(2)), None);
}

/// The others miss what was acknowledged after they had died.
#[test]
fn one_that_is_drained_and_dies_last_is_waited_for() {
    let mut world = World::attached(3);
    world.drain(2);
    for n in [1, 3, 2] {
        world.kill(n);
        world.wait(500);
    }
    assert!(!world.serves());
    world.start(1);
    world.start(3);
    world.wait(60_000);
    assert!(!world.serves(), "{}", world.shape());
    world.start(2);
    world.wait(6_000);
    assert!(world.serves(), "{}", world.shape());
    assert!(world.epoch().rhs.is_active(server(2)) && is_drained(&world, 2), "and goes on to be drained");
}

#[test]
fn what_cannot_be_drained_is_refused() {
    let mut world = World::attached(2);
    let refused = |world: &mut World, n: u8| world.state.drain(world.now(), server(n)).unwrap_err();
    assert_eq!(refused(&mut world, 9), Refused::NotActive(server(9)));
    world.kill(2);
    world.wait(500);
    assert_eq!(refused(&mut world, 2), Refused::NotActive(server(2)));
    assert_eq!(refused(&mut world, 1), Refused::OnlyOne(server(1)));
    let mut world = World::new();
    (1..=2).for_each(|n| world.start_old(n));
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(refused(&mut world, 1), Refused::OldServer);
}

#[test]
fn drained_twice_is_drained_once() {
    let mut world = World::attached(4);
    world.drain(2);
    let number = world.epoch().number;
    world.drain(2);
    assert_eq!(world.epoch().number, number);
}
