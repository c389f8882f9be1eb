//! What compaction does next: a decision from counts alone.

use super::Options;
use super::segment::Segment;
use std::sync::Arc;
use std::time::Duration;

/// Compaction begins when the disk holds more than this many hundredths of what is needed.
const USED_PERCENT: u64 = 118;
/// From here on it is behind: hints wait, and stores should.
const BEHIND_PERCENT: u64 = 122;
/// Stores wait longest from here on.
const FAR_BEHIND_PERCENT: u64 = 130;
/// The longest that a writer should wait between two batches.
const LONGEST_PACE: Duration = Duration::from_millis(50);
/// Forgets that are still needed may take one part in so many.
const FORGET_SHARE: u64 = 8;
/// A segment is small below one part in so many of what new ones get.
const SMALL_SHARE: u64 = 4;
/// So many small segments for each shard are left alone.
const SMALL_SEGMENTS: usize = 8;

/// The segments of a store, as compaction sees them.
pub struct Plan<'a> {
    segments: &'a [Arc<Segment>],
    options: &'a Options,
    target: u64,
    allowance: u64,
    is_full: bool,
    /// For each segment: bytes in it that must be kept.
    needed: Vec<u64>,
}

impl<'a> Plan<'a> {
    /// Over all segments, retired ones included. `target`: how large new ones are made. `allowance`: bytes of garbage that
    /// are left alone. `is_full`: stores are being refused, so any garbage worth the work is reason enough.
    pub fn new(
        segments: &'a [Arc<Segment>],
        options: &'a Options,
        target: u64,
        allowance: u64,
        is_full: bool,
    ) -> Plan<'a> {
        let mut plan = Plan { segments, options, target, allowance, is_full, needed: Vec::new() };
        plan.needed = segments.iter().map(|s| plan.needed_in(s)).collect();
        plan
    }

    /// Forgets in `segment` below this sequence number are not needed: no other segment can hold what they drop.
    pub fn forget_below(&self, segment: &Segment) -> u64 {
        let others = self.segments.iter().filter(|other| {
            other.head.id != segment.head.id && other.may_hold_dead() && other.head.overlaps(&segment.head)
        });
        others.map(|other| other.head.birth).min().unwrap_or(u64::MAX)
    }

    fn needed_in(&self, segment: &Segment) -> u64 {
        let live = segment.live();
        if segment.forgets() > 0 && segment.last_forget() < self.forget_below(segment) {
            live.saturating_sub(segment.forgets())
        } else {
            live
        }
    }

    fn counted(&self) -> impl Iterator<Item = (&'a Arc<Segment>, u64)> {
        self.segments.iter().zip(self.needed.iter().copied()).filter(|(s, _)| !s.is_retired())
    }

    fn sealed(&self) -> impl Iterator<Item = (&'a Arc<Segment>, u64)> {
        self.counted().filter(|(s, _)| s.is_sealed())
    }

    /// Hundredths of what is needed that `used` bytes are, but for the allowance and what small stores may have more.
    fn percent_of_needed(&self, used: u64) -> u64 {
        let needed: u64 = self.counted().map(|(_, needed)| needed).sum();
        let slack = 2 * u64::from(self.options.shards) * self.options.min_segment_bytes();
        used.saturating_sub(slack + self.allowance) * 100 / needed.max(1)
    }

    /// With what waits for its removal.
    fn used_percent(&self) -> u64 {
        self.percent_of_needed(self.segments.iter().map(|s| s.len()).sum())
    }

    /// Whether stores bring garbage faster than it is collected.
    pub fn is_behind(&self) -> bool {
        self.used_percent() > BEHIND_PERCENT
    }

    /// How long a writer should wait between two batches.
    pub fn pace(&self) -> Duration {
        let behind = self.used_percent().clamp(BEHIND_PERCENT, FAR_BEHIND_PERCENT) - BEHIND_PERCENT;
        // By the square, so that it begins gently.
        let range = FAR_BEHIND_PERCENT - BEHIND_PERCENT;
        LONGEST_PACE * (behind * behind) as u32 / (range * range) as u32
    }

    /// A sealed segment in which nothing is needed.
    pub fn dead_segment(&self) -> Option<Arc<Segment>> {
        self.sealed().find(|(_, needed)| *needed == 0).map(|(s, _)| s.clone())
    }

    /// The segment that should get a hint next. While few have none they are left alone, and so are those that are
    /// mostly garbage: compaction comes first, and opening reads them whole.
    pub fn segment_to_hint(&self) -> Option<Arc<Segment>> {
        let without = || self.sealed().filter(|(s, _)| s.hint_len() == 0);
        if without().map(|(s, _)| s.len()).sum::<u64>() <= self.allowance / 2 {
            return None;
        }
        without().find(|(s, needed)| 2 * *needed >= s.len()).map(|(s, _)| s.clone())
    }

    /// The segment to compact next, if there is reason to; it may not be sealed yet.
    pub fn victim(&self) -> Option<Arc<Segment>> {
        self.most_garbage().or_else(|| self.oldest_under_forgets()).or_else(|| self.smallest_of_many())
    }

    fn most_garbage(&self) -> Option<Arc<Segment>> {
        let used = self.counted().map(|(s, _)| s.len()).sum();
        if !self.is_full && self.percent_of_needed(used) <= USED_PERCENT {
            return None;
        }
        // In thousandths of the segment.
        let garbage = |(s, needed): &(&Arc<Segment>, u64)| s.len().saturating_sub(*needed) * 1000 / s.len().max(1);
        let most = self.sealed().max_by_key(garbage)?;
        (garbage(&most) >= 125).then(|| most.0.clone())
    }

    fn oldest_under_forgets(&self) -> Option<Arc<Segment>> {
        (0..self.options.shards).find_map(|shard| {
            let of_shard = |s: &Segment| s.head.shards != self.options.shards || s.head.shard == shard;
            let ours = || self.counted().filter(|(s, _)| of_shard(s));
            // Where forgets are not needed, `needed` is without them.
            let held: u64 = ours().filter(|(s, needed)| *needed == s.live()).map(|(s, _)| s.forgets()).sum();
            let live: u64 = ours().map(|(s, _)| s.live()).sum();
            if held <= live / FORGET_SHARE + self.options.min_segment_bytes() {
                return None;
            }
            ours().filter(|(s, _)| s.may_hold_dead()).min_by_key(|(s, _)| s.head.birth).map(|(s, _)| s.clone())
        })
    }

    fn smallest_of_many(&self) -> Option<Arc<Segment>> {
        let small = || self.sealed().filter(|(s, _)| s.len() < self.target / SMALL_SHARE);
        let many = small().count() > SMALL_SEGMENTS * usize::from(self.options.shards);
        many.then(|| small().min_by_key(|(s, _)| s.len()).map(|(s, _)| s.clone())).flatten()
    }
}
