//! Servers that live and do not hear each other.

use super::*;

impl World {
    /// For so long, each server of a pair says that it does not hear the other.
    fn cut(&mut self, pairs: &[(u8, u8)], millis: u64) {
        for step in (0..millis).step_by(300) {
            for (a, b) in pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
                let Some(conn) = self.conns.get(&a).copied().filter(|_| !self.silent.contains(&a)) else { continue };
                self.state.alive(self.now(), conn);
                let lasting = Duration::from_millis(step);
                self.state.link_lost(self.now(), conn, server(b), lasting);
            }
            self.act();
            self.wait(300);
        }
    }
}

/// One link between two servers was cut. The managers found both alive, nobody was removed, and changes to the keys that
/// the two have in common waited for ever.
#[test]
fn of_two_that_do_not_hear_each_other_one_goes() {
    let mut world = World::attached(3);
    world.cut(&[(1, 2)], 900);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.cut(&[(1, 2)], 1500);
    assert_eq!(world.shape(), "1+ 2- 3+");
    assert!(world.logged("server 10.0.0.2:19800 does not hear 10.0.0.1:19800: it is parted with"));
    assert!(world.logged("server lost 10.0.0.2:19800"));
}

#[test]
fn the_one_that_nobody_hears_goes() {
    let mut world = World::attached(4);
    world.cut(&[(1, 2), (1, 3), (1, 4)], 2100);
    assert_eq!(world.shape(), "1- 2+ 3+ 4+");
}

#[test]
fn one_that_is_being_filled_goes_before_a_full_one() {
    let mut world = World::attached(1);
    world.start(2);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1+ 2~");
    world.cut(&[(1, 2)], 2100);
    assert_eq!(world.shape(), "1+ 2-");
}

#[test]
fn a_server_that_hangs_is_a_matter_of_its_deadline() {
    let mut world = World::attached(3);
    world.wait(100);
    world.silent.insert(3);
    world.cut(&[(1, 3), (2, 3)], 1200);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    world.wait(600);
    assert_eq!(world.shape(), "1+ 2+ 3-");
}

#[test]
fn with_auto_replace_it_comes_back_after_a_while_and_not_at_once() {
    let mut world = World::attached(4);
    world.state.set_auto_replace(true);
    world.cut(&[(1, 2)], 2100);
    assert_eq!(world.shape(), "1+ 2- 3+ 4+");
    let incarnation = world.fresh();
    world.connect(2, incarnation);
    world.wait(5000);
    world.copy_and_delete();
    world.wait(10_000);
    assert_eq!(world.shape(), "1+ 3+ 4+");
    world.wait(20_000);
    assert_eq!(world.shape(), "1+ 2~ 3+ 4+");
}

#[test]
fn an_operator_need_not_wait() {
    let mut world = World::attached(3);
    world.cut(&[(1, 2)], 2100);
    let incarnation = world.fresh();
    world.connect(2, incarnation);
    world.state.attach(world.now(), true).unwrap();
    world.act();
    assert_eq!(world.shape(), "1+ 2~ 3+");
}

/// A server whose disk was full acknowledged nothing, and of the two ends of each link that waited for it the wrong one could
/// be parted with.
#[test]
fn one_whose_disk_is_full_goes_and_not_those_who_wait_for_it() {
    for full in [1, 2] {
        let mut world = World::attached(2);
        world.cut(&[(1, 2), (full, full)], 2100);
        assert_eq!(world.shape(), if full == 1 { "1- 2+" } else { "1+ 2-" });
        assert!(
            world.logged(&format!(
                "server 10.0.0.{full}:19800 cannot store: its disk is full or fails: it is parted with"
            ))
        );
    }
}

#[test]
fn when_all_disks_are_full_nobody_goes() {
    let mut world = World::attached(3);
    world.cut(&[(1, 1), (2, 2), (3, 3), (1, 2), (1, 3)], 3000);
    assert_eq!(world.shape(), "1+ 2+ 3+");
    let mut world = World::attached(1);
    world.cut(&[(1, 1)], 3000);
    assert_eq!(world.shape(), "1+");
}
