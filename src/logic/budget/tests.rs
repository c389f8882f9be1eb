use super::*;

/// Runs steps of `step` microseconds for a second; `served` says when clients were served last. Returns how much of it they
/// took, and the longest time without a pause between them.
fn a_second(step: u64, late: u64, served: impl Fn(u64) -> u64) -> (u64, u64) {
    let mut budget = Budget::default();
    let (mut now, mut taken, mut at_a_stretch, mut longest) = (5_000_000, 0, 0, 0);
    while now < 6_000_000 {
        match budget.wait_micros(now, served(now)) {
            0 => {
                budget.spent(now, now + step);
                now += step;
                taken += step;
                at_a_stretch += step;
                longest = longest.max(at_a_stretch);
            }
            wait => {
                at_a_stretch = 0;
                now += wait + late;
            }
        }
    }
    (taken, longest)
}

#[test]
fn while_clients_are_served_steps_take_their_share_and_get_it() {
    for step in [100, 300, 1_000, 20_000] {
        for late in [0, 300, 1_000] {
            let (taken, longest) = a_second(step, late, |now| now);
            let share = 1_000_000 / PARTS;
            assert!((share * 4 / 5..=share + 10_000 + step).contains(&taken), "{step} us, {late} us late: {taken}");
            assert!(longest <= step + KEPT_MICROS / PARTS + step, "{step} us, {late} us late: {longest} at a stretch");
        }
    }
}

#[test]
fn when_nobody_asks_they_take_all_of_the_time() {
    let (taken, _) = a_second(300, 0, |_| 0);
    assert!(taken >= 1_000_000, "{taken}");
    // Somebody asks ten times a second.
    let (taken, _) = a_second(300, 0, |now| now - now % 100_000);
    assert!((850_000..990_000).contains(&taken), "{taken}");
}

#[test]
fn what_was_not_used_is_not_made_up_for() {
    let mut budget = Budget::default();
    budget.spent(1_000, 1_300);
    // A minute later.
    let now = 60_000_000;
    let mut steps = 0;
    while budget.wait_micros(now, now) == 0 {
        budget.spent(now, now + 300);
        steps += 1;
    }
    assert!(steps <= 3, "{steps}");
}

#[test]
fn a_loop_that_was_stopped_in_a_step_goes_on_soon() {
    let mut budget = Budget::default();
    budget.spent(1_000, 60_000_000);
    let now = 60_000_000;
    assert_eq!(budget.wait_micros(now, now), 0, "the pause was longer than what it costs");
    budget.spent(now, now + 10_000_000);
    assert!(budget.wait_micros(now, now) <= PARTS * MOST_MICROS);
}

#[test]
fn a_step_that_costs_nothing_is_counted_nevertheless() {
    let mut budget = Budget::default();
    let now = 1_000_000;
    let steps = (0..1000)
        .take_while(|_| {
            budget.wait_micros(now, now) == 0 && {
                budget.spent(now, now);
                true
            }
        })
        .count();
    assert!(steps < 20, "{steps}");
}

/// Records that cost so many microseconds each, with `base` for the step.
fn steps_of(base: u64, each: u64) -> u64 {
    let mut portion = Portion::default();
    let mut took = 0;
    for _ in 0..50 {
        took = base + portion.records() as u64 * each;
        portion.took(took);
    }
    took
}

#[test]
fn a_portion_fits_the_time_of_a_step_whatever_its_records_cost() {
    assert!(steps_of(10, 1) <= 2 * STEP_MICROS);
    for each in [2, 5, 20, 100] {
        let took = steps_of(10, each);
        assert!((STEP_MICROS / 3..=2 * STEP_MICROS).contains(&took), "{each} us a record: {took}");
    }
    // One of them is too long already.
    assert_eq!(steps_of(0, 8_000), 8_000);
}

#[test]
fn a_portion_grows_again_when_records_are_cheap() {
    let mut portion = Portion::default();
    (0..20).for_each(|_| portion.took(1_000_000));
    assert_eq!(portion.records(), 1);
    (0..20).for_each(|_| portion.took(1));
    assert_eq!(portion.records(), Portion::MOST);
}
