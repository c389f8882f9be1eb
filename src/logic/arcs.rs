//! A table from ring positions to numbers: arcs, each ending at a position, with quick look-up.

/// Arcs that cover the whole ring.
#[derive(Clone, Debug, Default)]
pub struct Arcs {
    /// Last position of each arc, ascending; a position above the last belongs to the first arc.
    ends: Vec<u64>,
    values: Vec<u32>,
    /// For each value of a position's upper bits, the first arc that may hold it.
    buckets: Vec<u32>,
    bucket_shift: u32,
}

impl Arcs {
    /// The arcs that end at `ends` (any order, repeats allowed), each with what `value` says of its end.
    pub fn new(mut ends: Vec<u64>, value: impl FnMut(u64) -> u32) -> Arcs {
        ends.sort_unstable();
        ends.dedup();
        let values = ends.iter().copied().map(value).collect();
        let wanted = (ends.len() * 4).next_power_of_two().max(2);
        let bucket_shift = 64 - wanted.trailing_zeros();
        let mut first = 0;
        let first_of = |bucket: u64| {
            first += ends[first..].iter().take_while(|end| **end < bucket << bucket_shift).count();
            first as u32
        };
        let buckets = (0..wanted as u64).map(first_of).collect();
        Arcs { ends, values, buckets, bucket_shift }
    }

    /// Where the arcs end, ascending.
    pub fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// The number of the arc that holds `position`; 0 when there are no arcs.
    #[inline]
    pub fn value(&self, position: u64) -> u32 {
        let mut arc = self.buckets.get((position >> self.bucket_shift) as usize).map_or(0, |arc| *arc as usize);
        while let Some(end) = self.ends.get(arc) {
            if *end >= position {
                return self.values[arc];
            }
            arc += 1;
        }
        // Beyond the last end the ring wraps.
        self.values.first().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_belong_to_the_first_end_at_or_after_them(ends: Vec<u64>, position: u64) {
            let arcs = Arcs::new(ends.clone(), |end| (end % 1000) as u32);
            for position in [position, 0, u64::MAX].into_iter().chain(ends.iter().copied()) {
                let next = ends.iter().copied().filter(|e| *e >= position).min().or(ends.iter().copied().min());
                prop_assert_eq!(arcs.value(position), next.map_or(0, |e| (e % 1000) as u32));
            }
        }
    }
}
