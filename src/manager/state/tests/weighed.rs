//! Servers with other weights than the usual.

use super::*;
use crate::logic::ring::HashSpace;
use crate::logic::weight::Weight;

impl World {
    /// An operator gives a server a weight.
    fn weigh(&mut self, n: u8, weight: &str) {
        self.state.weigh(self.now(), server(n), weight.parse().unwrap()).unwrap();
        self.act();
    }
}

fn weights(space: &HashSpace) -> Vec<String> {
    space.nodes.iter().map(|n| n.weight.to_string()).collect()
}

#[test]
fn a_weight_is_for_writes_at_once_and_for_reads_when_records_have_moved() {
    let mut world = World::attached(4);
    let before = world.epoch();
    world.weigh(2, "0.5");
    let epoch = world.epoch();
    assert_eq!((weights(&epoch.whs), &epoch.rhs), (["1", "0.5", "1", "1"].map(str::to_owned).into(), &before.rhs));
    assert_eq!(epoch.phase, Phase::Copying { time: epoch.whs.timestamp, full: false });
    // The same again starts nothing over.
    world.weigh(2, "0.5");
    assert_eq!(world.epoch().number, epoch.number);
    world.copy_and_delete();
    let epoch = world.epoch();
    assert_eq!((weights(&epoch.rhs), epoch.phase), (weights(&epoch.whs), Phase::Idle));
    assert!(epoch.rhs.is_weighted() && world.serves());
}

#[test]
fn a_weight_stays_with_its_place_on_the_ring() {
    let mut world = World::attached(4);
    world.weigh(2, "2");
    world.copy_and_delete();
    world.kill(2);
    world.wait(2_000);
    assert!(!world.epoch().whs.is_active(server(2)));
    world.start(2);
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(weights(&world.epoch().rhs), ["1", "2", "1", "1"]);
    // While it is drained it is the read space that remembers.
    world.state.drain(world.now(), server(2)).unwrap();
    world.act();
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(world.epoch().rhs.find(server(2)).unwrap().weight.to_string(), "2");
    // Who gave up its place begins anew.
    world.kill(2);
    world.wait(2_000);
    world.state.detach(world.now(), true).unwrap();
    world.copy_and_delete();
    world.start(2);
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert!(!world.epoch().is_weighted());
}

#[test]
fn all_restarted_come_back_by_their_weights() {
    let mut world = World::attached(5);
    world.weigh(1, "0.1");
    world.weigh(5, "8");
    world.copy_and_delete();
    let epoch = world.epoch();
    for n in 1..=5 {
        world.kill(n);
    }
    world.restart_manager(true);
    for n in 1..=5 {
        world.start(n);
    }
    world.wait(10_000);
    assert!(world.serves());
    assert_eq!(weights(&world.epoch().rhs), weights(&epoch.rhs));
}

#[test]
fn only_an_active_server_beside_none_of_kumofs_is_weighed() {
    let mut world = World::attached(3);
    let weight: Weight = "2".parse().unwrap();
    let refused = world.state.weigh(world.now(), server(9), weight).unwrap_err();
    assert!(matches!(refused, Refused::NotActive(_)), "{refused}");
    world.kill(3);
    world.wait(2_000);
    assert!(matches!(world.state.weigh(world.now(), server(3), weight), Err(Refused::NotActive(_))));
    let mut old = World::attached(2);
    old.start_old(3);
    old.state.attach(old.now(), true).unwrap();
    old.act();
    assert!(matches!(old.state.weigh(old.now(), server(1), weight), Err(Refused::OldServer)));
}

#[test]
fn a_server_of_kumofs_is_not_attached_where_there_are_weights() {
    let mut world = World::attached(3);
    world.weigh(2, "2");
    world.copy_and_delete();
    world.start_old(4);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert!(world.epoch().whs.find(server(4)).is_none());
    world.weigh(2, "1");
    world.copy_and_delete();
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert!(world.epoch().whs.find(server(4)).is_some());
}
