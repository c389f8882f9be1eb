//! What compaction does next: a decision from counts alone.

use super::Options;
use super::segment::Segment;
use std::sync::Arc;
use std::time::Duration;

/// The disk is to hold at most about this many hundredths of what is needed, and the garbage that is left alone: from there on
/// compaction is far behind.
const FAR_BEHIND_PERCENT: u64 = 130;
/// So many hundredths of what is needed before that it is behind: hints wait, and stores should. Where garbage is left alone, it
/// is so many segments at least, up to half of that garbage: a segment comes and goes at once.
const BEHIND_PERCENT: u64 = 8;
const BEHIND_SEGMENTS: u64 = 4;
/// How long a writer should wait between two batches when compaction is far behind, and the longest.
const FAR_BEHIND_PACE: Duration = Duration::from_millis(5);
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

    /// From how many bytes on compaction is far behind.
    fn far_behind(&self) -> u64 {
        let slack = 2 * u64::from(self.options.shards) * self.options.min_segment_bytes();
        self.all_needed() * FAR_BEHIND_PERCENT / 100 + slack + self.allowance
    }

    /// How many bytes before that it is behind, and half of that earlier it begins.
    fn span(&self) -> u64 {
        let segments = (BEHIND_SEGMENTS * self.target).min(self.allowance / 2);
        (self.all_needed() * BEHIND_PERCENT / 100).max(segments).max(1)
    }

    fn all_needed(&self) -> u64 {
        self.counted().map(|(_, needed)| needed).sum()
    }

    /// How many bytes the disk holds beyond those from which on it is behind, with what waits for its removal.
    fn behind(&self) -> u64 {
        let used: u64 = self.segments.iter().map(|s| s.len()).sum();
        used.saturating_sub(self.far_behind().saturating_sub(self.span()))
    }

    /// Whether stores bring garbage faster than it is collected.
    pub fn is_behind(&self) -> bool {
        self.behind() > 0
    }

    /// How long a writer should wait between two batches.
    pub fn pace(&self) -> Duration {
        // By the square, so that it begins gently.
        let share = self.behind() as f64 / self.span() as f64;
        FAR_BEHIND_PACE.mul_f64((share * share).min(1e3)).min(LONGEST_PACE)
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
        let used: u64 = self.counted().map(|(s, _)| s.len()).sum();
        if !self.is_full && used <= self.far_behind().saturating_sub(self.span() * 3 / 2) {
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
