use super::*;
use crate::logic::ring::Ring;
use crate::logic::weight::Weight;
use crate::manager::ranges::{Claims, Ranges};
use proptest::prelude::*;

fn address(n: u8) -> Address {
    Address::new(format!("10.0.0.{n}:19800").parse().unwrap())
}

fn newcomer(n: u8) -> Newcomer {
    Newcomer { address: address(n), disk_id: u64::from(n), incarnation: 100 + u64::from(n), workers: 2 }
}

fn change(epoch: &Epoch, edit: impl FnOnce(&mut Draft)) -> Epoch {
    let mut draft = Draft::new(epoch, ClockTime(1000 + epoch.number));
    edit(&mut draft);
    let next = draft.finish(Vec::new(), 1);
    next.check().unwrap();
    assert_eq!(next.number, epoch.number + 1);
    next
}

/// Servers 1 to n, attached and settled.
fn cluster(n: u8) -> Epoch {
    let attached = change(&Epoch::default(), |d| {
        (1..=n).for_each(|i| d.admit(&newcomer(i)));
        d.replace(false);
    });
    let copied = change(&attached, Draft::finish_copying);
    change(&copied, Draft::finish_deleting)
}

fn remove(epoch: &Epoch, servers: &[u8]) -> Epoch {
    change(epoch, |d| servers.iter().for_each(|n| d.remove(address(*n))))
}

fn claims(epoch: &Epoch) -> Claims {
    Ranges::of(epoch).claims(epoch)
}

fn claims_something(epoch: &Epoch, server: Address) -> bool {
    let Claims { good, doubtful } = claims(epoch);
    good.contains(&server) || doubtful.contains(&server)
}

fn good(epoch: &Epoch) -> Vec<Address> {
    claims(epoch).good.into_iter().collect()
}

#[test]
fn the_first_servers_are_full_at_once_and_repair_each_other() {
    let epoch = change(&Epoch::default(), |d| {
        (1..=3).for_each(|i| d.admit(&newcomer(i)));
        d.replace(false);
    });
    assert_eq!(epoch.whs.nodes, epoch.rhs.nodes);
    assert_eq!(epoch.phase, Phase::Copying { time: epoch.whs.timestamp, full: true });
}

#[test]
fn an_added_server_fills_first_and_reads_stay_where_they_were() {
    let before = cluster(3);
    let epoch = change(&before, |d| {
        d.admit(&newcomer(4));
        d.replace(false);
    });
    assert_eq!(epoch.rhs, before.rhs);
    assert_eq!(epoch.whs.nodes.len(), 4);
    let done = change(&epoch, Draft::finish_copying);
    assert_eq!(done.rhs, done.whs);
    assert_eq!(done.phase, Phase::Deleting { time: epoch.whs.timestamp });
}

#[test]
fn a_removed_server_keeps_its_place_and_comes_back_there() {
    let epoch = remove(&cluster(3), &[2]);
    assert_eq!(epoch.server(address(2)).unwrap().removed, Some(epoch.number));
    let places = |e: &Epoch| e.whs.nodes.iter().map(|n| n.address).collect::<Vec<_>>();
    let back = change(&epoch, |d| d.admit(&Newcomer { incarnation: 999, ..newcomer(2) }));
    assert_eq!(places(&back), places(&epoch));
    assert!(is_active(&back, address(2)) && !is_full(&back, address(2)));
}

#[test]
fn detached_servers_are_forgotten_when_the_copying_is_done() {
    let epoch = change(&remove(&cluster(4), &[2]), |d| {
        d.detach_faults(|_| false);
        d.replace(false);
    });
    assert!(epoch.whs.find(address(2)).is_none() && epoch.rhs.find(address(2)).is_some());
    let done = change(&epoch, Draft::finish_copying);
    assert!(done.server(address(2)).is_none());
}

#[test]
fn a_loss_starts_the_copying_over() {
    let copying = change(&cluster(4), |d| d.replace(true));
    let epoch = remove(&copying, &[1]);
    assert_eq!(epoch.phase, Phase::Copying { time: epoch.whs.timestamp, full: true });
    assert_ne!(epoch.phase, copying.phase);
    let deleting = change(&epoch, Draft::finish_copying);
    assert_eq!(remove(&deleting, &[2]).phase, deleting.phase);
}

/// The only manager took all servers for dead while keys were to move, and took them back. The copying was forgotten, and the
/// spaces stayed different: new members of a group got what was written from then on, and nothing of what was there.
#[test]
fn what_was_to_move_still_is_when_all_were_lost_and_come_back() {
    let copying = change(&remove(&cluster(4), &[4]), |d| {
        d.detach_faults(|_| false);
        d.replace(true);
    });
    let lost = remove(&copying, &[1, 2, 3]);
    assert!(matches!(lost.phase, Phase::Copying { full: true, .. }));
    let back = change(&lost, |d| (1..=3).for_each(|n| d.revive(&newcomer(n), true)));
    assert_eq!(back.phase, Phase::Copying { time: back.whs.timestamp, full: true });
    let deleting = change(&back, Draft::finish_copying);
    let lost = remove(&deleting, &[1, 2, 3]);
    let back = change(&lost, |d| (1..=3).for_each(|n| d.revive(&newcomer(n), true)));
    assert_eq!(back.phase, deleting.phase);
}

#[test]
fn those_removed_together_may_all_come_back() {
    let epoch = remove(&cluster(3), &[1, 2, 3]);
    assert_eq!(good(&epoch), [address(1), address(2), address(3)]);
}

#[test]
fn only_the_last_one_removed_may_come_back() {
    let epoch = remove(&remove(&remove(&cluster(3), &[1]), &[3]), &[2]);
    assert_eq!(good(&epoch), [address(2)]);
    assert_eq!(claims(&epoch).doubtful.into_iter().collect::<Vec<_>>(), [address(1), address(3)]);
}

#[test]
fn one_who_serves_ends_all_claims() {
    let epoch = remove(&cluster(3), &[1, 2]);
    assert_eq!(claims(&epoch), Claims::default());
}

#[test]
fn one_who_was_never_full_claims_nothing_and_bars_nobody() {
    let refilling = change(&remove(&cluster(3), &[1]), |d| {
        d.admit(&newcomer(1));
        d.replace(false);
    });
    let epoch = remove(&remove(&refilling, &[2, 3]), &[1]);
    assert_eq!(good(&epoch), [address(2), address(3)]);
}

#[test]
fn a_server_that_others_went_on_without_does_not_come_back_by_itself() {
    let epoch = remove(&cluster(6), &[1, 2, 3]);
    let claims = claims(&epoch);
    assert!(claims.good.is_empty(), "each of them shares a range with 4, 5 or 6: {claims:?}");
    assert_eq!(claims.doubtful.len(), 3);
}

/// In a cluster of six, three died; others of their ranges went on. All were back, and some keys had nobody who might serve
/// them, whatever the operator did.
#[test]
fn those_who_held_a_range_last_are_filled_elsewhere_and_keep_their_claim_meanwhile() {
    let lost = remove(&cluster(6), &[1, 2, 3]);
    let ranges = Ranges::of(&lost);
    assert!(!ranges.rescued(&lost, |a| is_active(&lost, a)));
    let back = change(&lost, |d| {
        (1..=3).for_each(|n| d.admit(&Newcomer { incarnation: 900 + u64::from(n), ..newcomer(n) }));
        d.copy(false);
    });
    assert!(ranges.rescued(&back, |a| is_active(&back, a)));
    assert!(!is_full(&back, address(1)));
    // One dies again before it is full, and another comes with a new disk.
    let again = remove(&back, &[1, 2]);
    assert_eq!(again.server(address(1)).unwrap().claim, lost.number);
    let other_disk = change(&again, |d| d.admit(&Newcomer { disk_id: 77, ..newcomer(2) }));
    assert_eq!(other_disk.server(address(2)).unwrap().claim, 0);
    let full = change(&back, Draft::finish_copying);
    assert!(full.servers.iter().all(|s| s.claim == 0) && is_full(&full, address(1)));
}

#[test]
fn no_records_are_full_in_an_empty_cluster() {
    let empty = Epoch::default();
    assert!(!Ranges::of(&empty).covered(|_| true));
    assert!(Ranges::of(&empty).endangered(&empty, |_| false).is_empty());
}

#[test]
fn a_flush_counts_from_its_own_epoch_and_ends_a_delayed_one() {
    let later = change(&cluster(1), |d| d.flush_at(77));
    assert_eq!((later.flush_at, later.flushed), (Some(77), 0));
    let now = change(&later, Draft::flush);
    assert_eq!((now.flush_at, now.flushed), (None, now.number));
}

/// How many histories are tried: `KUMO_TEST_ROUNDS`.
fn rounds() -> u32 {
    std::env::var("KUMO_TEST_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds()))]

    /// Whatever is done in whatever order: the text never contradicts itself, and a server that may come back full
    /// was active in every epoch in which its ranges were served.
    #[test]
    fn any_history_keeps_its_word(steps in proptest::collection::vec((0u8..9, 1u8..7), 1..40)) {
        let mut epoch = cluster(3);
        let mut history = vec![epoch.clone()];
        for (step, n) in steps {
            epoch = change(&epoch, |d| match step {
                0 | 1 => d.remove(address(n)),
                2 if !is_active(&epoch, address(n)) && !claims_something(&epoch, address(n)) => d.admit(&newcomer(n)),
                3 => d.replace(n == 1),
                4 => d.finish_copying(),
                5 => d.finish_deleting(),
                6 => {
                    // Without an operator who gives up what somebody claims.
                    d.detach_faults(|a| claims_something(&epoch, a));
                    d.replace(false);
                }
                8 => d.weigh(address(n), Weight::of_points([13, 64, 500][usize::from(n) % 3]).expect("it is one")),
                7 if claims(&epoch).good.contains(&address(n)) => d.revive(&newcomer(n), true),
                _ => {}
            });
            history.push(epoch.clone());
        }
        for server in claims(&epoch).good {
            let removed = epoch.server(server).unwrap().claim;
            let since = history.iter().filter(|e| e.number >= removed);
            for later in since {
                let shares = Ranges::of(later).endangered(later, |_| false);
                let ring = Ring::new(&later.rhs.nodes);
                let place = later.rhs.nodes.iter().position(|n| n.address == server);
                let Some(place) = place else { continue };
                for arc in 0..ring.points().len() {
                    let replicas = ring.walk(arc);
                    if replicas.as_slice().contains(&(place as u16)) {
                        let served = replicas.as_slice().iter().any(|n| later.rhs.nodes[usize::from(*n)].active);
                        prop_assert!(!served, "{server} missed what {shares:?} took in epoch {}", later.number);
                    }
                }
            }
        }
    }
}
