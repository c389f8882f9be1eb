//! Decisions, one by one, and what the kernel makes of them.

use super::*;

const SHORT: Mean = Mean { ran: Duration::from_micros(25), waited: Duration::from_micros(150) };
const LONG: Mean = Mean { ran: Duration::from_micros(30), waited: Duration::from_micros(400) };

/// Looks until `judge` has changed; how many it took.
fn looks_until_change(judge: &mut Judge, mean: Mean, now: Instant) -> u32 {
    let was = judge.courteous();
    (1..100)
        .find(|_| {
            judge.look(mean, now);
            judge.courteous() != was
        })
        .expect("a change")
}

#[test]
fn courtesy_ends_with_the_first_look_that_finds_it_slow() {
    let now = Instant::now();
    let mut judge = Judge::new();
    for _ in 0..100 {
        judge.look(SHORT, now);
        assert!(judge.courteous());
    }
    judge.look(LONG, now);
    assert!(!judge.courteous());
}

#[test]
fn pauses_double_while_courtesy_does_not_pay() {
    let mut now = Instant::now();
    let mut judge = Judge::new();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(looks_until_change(&mut judge, LONG, now), 1);
        let until = judge.until.unwrap();
        pauses.push((until - now).as_secs());
        // However short waits are meanwhile, they say nothing about courtesy.
        judge.look(SHORT, until - Duration::from_millis(1));
        assert!(!judge.courteous());
        now = until;
        judge.look(LONG, now);
        assert!(judge.courteous());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
}

#[test]
fn what_paid_for_long_is_tried_again_soon() {
    let now = Instant::now();
    let mut judge = Judge::new();
    for _ in 0..3 {
        judge.look(LONG, now);
        judge.look(LONG, judge.until.unwrap());
    }
    // One short look is no proof.
    judge.look(SHORT, now);
    judge.look(LONG, now);
    assert_eq!(judge.until, Some(now + Duration::from_secs(8)));
    judge.look(LONG, judge.until.unwrap());
    for _ in 0..PROVEN_LOOKS {
        judge.look(SHORT, now);
    }
    judge.look(LONG, now);
    assert_eq!(judge.until, Some(now + FIRST_PAUSE));
}

#[test]
fn a_wait_is_long_beside_what_was_done() {
    let now = Instant::now();
    let courteous_after = |ran, waited| {
        let mut judge = Judge::new();
        judge.look(Mean { ran: Duration::from_micros(ran), waited: Duration::from_micros(waited) }, now);
        judge.courteous()
    };
    assert!(!courteous_after(20, 201));
    assert!(courteous_after(100, 700), "turns are long, for others, too");
    assert!(courteous_after(5, 99), "too short to matter");
}

#[test]
fn times_are_read_as_the_kernel_writes_them() {
    let before = Times::parse("1000 5000 10\n").unwrap();
    let after = Times::parse("9000 45000 20\n").unwrap();
    let mean = Mean { ran: Duration::from_nanos(800), waited: Duration::from_micros(4) };
    assert_eq!(after.mean_since(&before), mean);
    assert_eq!(after.mean_since(&after), Mean { ran: Duration::ZERO, waited: Duration::ZERO });
    assert!(Times::parse("").is_none());
    assert!(Times::parse("1 2\n").is_none());
    assert!(Times::parse("1 2 x\n").is_none());
}

/// What `ask` says in a thread of its own, which takes its policy along.
fn in_a_thread<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(ask).join().unwrap()
}

#[test]
fn a_thread_has_its_own_policy() {
    let counted = std::path::Path::new("/proc/thread-self/schedstat").exists();
    let (made, policy) = in_a_thread(|| (Courtesy::of_this_thread().is_some(), policy()));
    assert_eq!(made, counted);
    assert_eq!(policy, if counted { libc::SCHED_BATCH } else { libc::SCHED_OTHER });
    assert_eq!(super::policy(), libc::SCHED_OTHER, "this thread keeps its own");
}

#[test]
fn what_somebody_has_set_is_left_alone() {
    let (made, policy) = in_a_thread(|| {
        assert!(set_policy(libc::SCHED_IDLE));
        (Courtesy::of_this_thread().is_some(), policy())
    });
    assert!(!made);
    assert_eq!(policy, libc::SCHED_IDLE);
}

#[test]
fn a_change_of_mind_reaches_the_kernel() {
    in_a_thread(|| {
        let Some(mut courtesy) = Courtesy::of_this_thread() else { return };
        let now = Instant::now();
        courtesy.weigh(LONG, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        courtesy.weigh(SHORT, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        courtesy.weigh(SHORT, now + FIRST_PAUSE);
        assert_eq!(policy(), libc::SCHED_BATCH);
    });
}
