//! Copying that, if it ended, would take keys from those who hold them and leave them to nobody.

use super::*;

/// Server 1 alone is full. Of the keys that 2, 3 and 4 are to hold by the write space it holds none, once copying ends.
fn all_that_come_die() -> World {
    let mut world = World::attached(1);
    (2..=4).for_each(|n| world.start(n));
    world.state.attach(world.now(), true).unwrap();
    world.kill_all(&[2, 3, 4]);
    world.wait(100);
    assert_eq!(world.shape(), "1+ 2- 3- 4-");
    world.copy();
    world
}

#[test]
fn keys_stay_with_those_who_hold_them_while_nobody_is_there_to_take_them() {
    let world = all_that_come_die();
    let held: Vec<_> = Route::new(&world.epoch()).groups().iter().map(|g| g.coordinator()).collect();
    assert!(held.iter().all(Option::is_some), "all keys are served");
    assert!(matches!(world.epoch().phase, Phase::Copying { .. }));
    assert_eq!(world.log.iter().filter(|line| line.contains("copying cannot end")).count(), 1, "{:?}", world.log);
}

#[test]
fn they_go_on_to_be_filled_when_they_are_back() {
    let mut world = all_that_come_die();
    (2..=4).for_each(|n| world.start(n));
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+ 4+");
}

#[test]
fn one_of_them_is_enough_where_it_takes_part_in_all_that_goes() {
    let mut world = all_that_come_die();
    // Each key's three of four are without at most one of these.
    (2..=3).for_each(|n| world.start(n));
    world.state.attach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+ 2+ 3+ 4-");
}

#[test]
fn or_they_are_detached() {
    let mut world = all_that_come_die();
    world.state.detach(world.now(), true).unwrap();
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+");
}

#[test]
fn auto_replace_detaches_them() {
    let mut world = all_that_come_die();
    world.state.set_auto_replace(true);
    world.wait(5_000);
    world.copy_and_delete();
    assert_eq!(world.shape(), "1+");
    world.wait(20_000);
    assert_eq!(world.epoch().phase, Phase::Idle, "once is enough");
}
