use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { outcomes: 1000, lanes: 100, gone: 10 };

fn id(gateway: u64, sequence: u64) -> Id {
    Id { gateway, sequence, floor: 1 }
}

fn deed(gateway: u64, sequence: u64) -> Deed {
    Deed { id: id(gateway, sequence), version: sequence + 1000, answer: Answer::Done }
}

fn done(version: u64) -> Asked {
    Asked::Known(Outcome::Done(version, Answer::Done))
}

#[test]
fn what_was_done_is_answered_and_not_done_again() {
    // Hole 21: set a (its answer got lost), set b, set a again.
    let mut memory = Memory::new(LIMITS, 3);
    assert_eq!(memory.ask(&id(7, 1), 3, 3), Asked::New);
    memory.note(&deed(7, 1));
    assert_eq!(memory.ask(&id(7, 2), 3, 3), Asked::New);
    memory.note(&deed(7, 2));
    assert_eq!(memory.ask(&id(7, 1), 3, 4), done(1001));
    // The same sequence of another gateway, or of another worker, is another operation.
    assert_eq!(memory.ask(&id(8, 1), 4, 4), Asked::New);
    assert_eq!(memory.ask(&Id { floor: 1 << 48, ..id(7, 1 | 1 << 48) }, 4, 4), Asked::New);
}

#[test]
fn what_is_finished_is_forgotten_and_never_executed_again() {
    // Hole 25: a gateway that was paused wakes, and what it sent long ago arrives.
    let mut memory = Memory::new(LIMITS, 3);
    (1..=5).for_each(|sequence| memory.note(&deed(7, sequence)));
    assert_eq!(memory.ask(&Id { floor: 4, ..id(7, 6) }, 3, 3), Asked::New);
    assert_eq!(memory.len(), 2);
    assert_eq!(memory.ask(&id(7, 3), 3, 3), Asked::Unknown);
    assert_eq!(memory.ask(&id(7, 4), 3, 3), done(1004));
    // A floor does not sink again, and what comes late from another server does not bring back what is below.
    memory.note(&deed(7, 2));
    assert_eq!((memory.len(), memory.ask(&id(7, 2), 3, 3)), (2, Asked::Unknown));
}

#[test]
fn a_refusal_counts_within_its_epoch_and_gives_way_to_what_was_done() {
    // Hole 22: the retry found something, a delete follows, and only then the first attempt of the add arrives.
    let mut memory = Memory::new(LIMITS, 3);
    memory.refuse(&id(7, 1), 1, 3);
    assert_eq!(memory.ask(&id(7, 1), 3, 3), Asked::Known(Outcome::Refused(1)));
    assert_eq!(memory.ask(&id(7, 1), 3, 4), Asked::New);
    memory.note(&deed(7, 1));
    memory.refuse(&id(7, 1), 1, 4);
    assert_eq!(memory.ask(&id(7, 1), 3, 4), done(1001));
    assert_eq!(memory.len(), 1);
}

#[test]
fn what_began_before_the_memory_did_is_unknown_unless_it_is_known() {
    // Hole 24: ids that died with their holder, whose records live on.
    let mut memory = Memory::new(LIMITS, 3);
    memory.note(&deed(7, 2));
    memory.raise_since(5);
    memory.raise_since(4);
    assert_eq!(memory.since(), 5);
    assert_eq!(memory.ask(&id(7, 1), 4, 5), Asked::Unknown);
    assert_eq!(memory.ask(&id(7, 3), 4, 5), Asked::Unknown);
    assert_eq!(memory.ask(&id(7, 3), 5, 5), Asked::New);
    assert_eq!(memory.ask(&id(7, 2), 4, 5), done(1002));
}

#[test]
fn a_write_that_was_given_up_is_doubted_until_it_is_heard_of_again() {
    let mut memory = Memory::new(LIMITS, 3);
    memory.note(&deed(7, 1));
    memory.doubt(&id(7, 1));
    memory.doubt(&id(8, 1));
    assert_eq!(memory.ask(&id(7, 1), 3, 4), Asked::Unknown);
    memory.note(&deed(7, 1));
    assert_eq!(memory.ask(&id(7, 1), 3, 4), done(1001));
}

#[test]
fn too_many_outcomes_raise_the_floors_of_those_who_have_most() {
    let mut memory = Memory::new(Limits { outcomes: 100, ..LIMITS }, 3);
    (1..=10).for_each(|sequence| memory.note(&deed(8, sequence)));
    (1..=91).for_each(|sequence| memory.note(&deed(7, sequence)));
    assert!(memory.len() <= 50, "{}", memory.len());
    assert_eq!(memory.ask(&id(8, 1), 3, 3), done(1001));
    assert_eq!(memory.ask(&id(7, 66), 3, 3), Asked::Unknown);
    assert_eq!(memory.ask(&id(7, 67), 3, 3), done(1067));
}

#[test]
fn gateways_that_are_gone_leave_a_name_behind_and_nothing_else() {
    let mut memory = Memory::new(Limits { lanes: 4, gone: 3, ..LIMITS }, 3);
    (1..=4).for_each(|gateway| memory.note(&deed(gateway, 1)));
    // The first is heard of again, so that it is not among the older half.
    assert_eq!(memory.ask(&id(1, 2), 3, 3), Asked::New);
    assert_eq!(memory.ask(&id(5, 1), 3, 3), Asked::New);
    assert_eq!(memory.ask(&id(2, 1), 3, 3), Asked::Unknown);
    assert_eq!(memory.ask(&id(3, 9), 3, 3), Asked::Unknown);
    assert_eq!(memory.ask(&id(1, 1), 3, 3), done(1001));
    assert_eq!(memory.len(), 2);
    // Room for one more name, and then for none: new gateways are refused, and known ones are not.
    assert_eq!(memory.ask(&id(6, 1), 3, 3), Asked::New);
    assert_eq!(memory.ask(&id(7, 1), 3, 3), Asked::New);
    assert_eq!(memory.ask(&id(8, 1), 3, 3), Asked::Full { is_news: true });
    assert_eq!(memory.ask(&id(8, 2), 3, 3), Asked::Full { is_news: false });
    assert_eq!(memory.ask(&id(7, 2), 3, 3), Asked::New);
    // The next epoch ends that: what began before it is unknown.
    memory.adopt(4);
    assert_eq!((memory.since(), memory.len()), (4, 0));
    assert_eq!(memory.ask(&id(1, 1), 3, 4), Asked::Unknown);
    assert_eq!(memory.ask(&id(8, 2), 4, 4), Asked::New);
}

#[test]
fn what_a_member_could_not_remember_is_not_vouched_for_from_the_next_epoch_on() {
    let mut memory = Memory::new(Limits { lanes: 1, gone: 0, ..LIMITS }, 3);
    memory.note(&deed(1, 1));
    memory.note(&deed(2, 1));
    memory.adopt(4);
    assert_eq!(memory.ask(&id(2, 1), 3, 4), Asked::Unknown);
    memory.adopt(5);
    assert_eq!(memory.since(), 4);
}

#[test]
fn what_is_remembered_is_as_small_as_the_limits_say() {
    assert!(size_of::<(u64, Kept)>() <= 40);
    assert!(size_of::<Lane>() <= 100);
}

#[test]
fn one_deed_needs_no_memory_of_its_own() {
    let collect = |n| (1..=n).map(|sequence| deed(7, sequence)).collect::<Deeds>();
    assert_eq!((collect(0), collect(1)), (Deeds::None, Deeds::One(deed(7, 1))));
    assert_eq!(collect(2).as_slice(), [deed(7, 1), deed(7, 2)]);
}

/// What happens in a history.
#[derive(Clone, Debug)]
enum Event {
    /// An attempt of an operation of a gateway's worker, the first or a further one, arrives and, if it is new, is executed;
    /// in vain when the flag says so.
    Arrives(u8, u8, bool),
    /// The gateway has finished the oldest operations of a worker: so many.
    Finishes(u8, u8),
    /// A new epoch.
    Epoch,
    /// The write of an operation is given up.
    GivenUp(u8, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0u8..6, 1u8..60, prop::bool::weighted(0.2)).prop_map(|(lane, n, vain)| Event::Arrives(lane, n, vain)),
        2 => (0u8..6, 1u8..60).prop_map(|(lane, n)| Event::Finishes(lane, n)),
        1 => Just(Event::Epoch),
        1 => (0u8..6, 1u8..60).prop_map(|(lane, n)| Event::GivenUp(lane, n)),
    ]
}

proptest! {
    /// Against a map that never forgets: nothing is executed twice, and what is answered is what came about. As long as no
    /// bound is met, nothing that is not finished is unknown.
    #[test]
    fn as_a_map_that_never_forgets(
        events in proptest::collection::vec(event(), 1..400),
        outcomes in prop_oneof![Just(8usize), Just(1000)],
        lanes in prop_oneof![Just(2usize), Just(3), Just(1000)],
        gone in prop_oneof![Just(1usize), Just(1000)],
    ) {
        let unbounded = outcomes == 1000 && lanes == 1000;
        let mut memory = Memory::new(Limits { outcomes, lanes, gone }, 1);
        let mut model: BTreeMap<(u64, u64), (Outcome, u64)> = BTreeMap::new();
        let mut first_epochs: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut floors: BTreeMap<u64, u64> = BTreeMap::new();
        let mut doubted: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut epoch = 1;
        for event in events {
            match event {
                Event::Arrives(lane, n, vain) => {
                    // Two workers of each of three gateways.
                    let (gateway, base) = (u64::from(lane % 3), u64::from(lane / 3) << 48);
                    let sequence = base + u64::from(n);
                    let floor = floors.get(&u64::from(lane)).copied().unwrap_or(base + 1);
                    let first_epoch = *first_epochs.entry((gateway, sequence)).or_insert(epoch);
                    let id = Id { gateway, sequence, floor };
                    let known = model.get(&(gateway, sequence)).copied();
                    match memory.ask(&id, first_epoch, epoch) {
                        Asked::New => {
                            let again = known.is_some_and(|(outcome, then)| outcome != Outcome::Refused(1) || then == epoch);
                            prop_assert!(!again, "{id:?} is executed again: {known:?}");
                            prop_assert!(sequence >= floor);
                            let answer = Answer::Number(sequence);
                            let outcome = if vain { Outcome::Refused(1) } else { Outcome::Done(epoch, answer) };
                            model.insert((gateway, sequence), (outcome, epoch));
                            match vain {
                                true => memory.refuse(&id, 1, epoch),
                                false => memory.note(&Deed { id, version: epoch, answer }),
                            }
                        }
                        Asked::Known(outcome) => prop_assert_eq!(Some(outcome), known.map(|k| k.0)),
                        Asked::Unknown => {
                            let is_doubted = doubted.contains(&(gateway, sequence));
                            prop_assert!(!unbounded || sequence < floor || is_doubted, "{:?} is unknown", id);
                        }
                        Asked::Full { .. } => prop_assert!(lanes < 1000 && gone < 1000),
                    }
                }
                Event::Finishes(lane, n) => {
                    let base = u64::from(lane / 3) << 48;
                    let floor = floors.entry(u64::from(lane)).or_insert(base + 1);
                    *floor = (*floor).max(base + u64::from(n));
                }
                Event::Epoch => {
                    epoch += 1;
                    memory.adopt(epoch);
                }
                Event::GivenUp(lane, n) => {
                    let (gateway, base) = (u64::from(lane % 3), u64::from(lane / 3) << 48);
                    let sequence = base + u64::from(n);
                    doubted.insert((gateway, sequence));
                    memory.doubt(&Id { gateway, sequence, floor: 0 });
                }
            }
            prop_assert!(memory.len() <= outcomes);
            prop_assert_eq!(memory.len(), memory.lanes.iter().map(|lane| lane.outcomes.len()).sum::<usize>());
            for lane in &memory.lanes {
                let sequences: Vec<u64> = lane.outcomes.iter().map(|(sequence, _)| *sequence).collect();
                prop_assert!(sequences.is_sorted() && sequences.iter().all(|s| (lane.floor..=lane.highest).contains(s)));
            }
        }
    }
}
