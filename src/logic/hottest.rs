//! Which keys are asked for most: a sketch of bounded size that sees a sample of the requests.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams",
//! 2005): a key that has no counter takes over the lowest one, and remembers how much of it is not its own. What is told
//! of a key is therefore never more than its due, and a load without hot keys shows none. Halving all counts now and
//! then makes it forget.

/// Keys that have a counter.
pub const COUNTERS: usize = 64;
/// Bytes of a key that are kept, and told.
pub const KEY_BYTES: usize = 256;
/// Requests of which one is seen, in the mean.
pub const ONE_IN: u32 = 64;

#[derive(Clone, Debug)]
struct Counter {
    hash: u64,
    key: Vec<u8>,
    count: u64,
    /// How much of the count may be other keys'.
    error: u64,
}

/// A key, and how many of a million requests were about it, at least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hot {
    /// The key; of a longer one, its first [`KEY_BYTES`] bytes.
    pub key: Vec<u8>,
    /// Parts per million.
    pub ppm: u64,
}

/// The sketch, and when to look next.
#[derive(Clone, Debug)]
pub struct Hottest {
    counters: Vec<Counter>,
    seen: u64,
    until_next: u32,
    chance: u32,
}

impl Default for Hottest {
    fn default() -> Hottest {
        Hottest { counters: Vec::with_capacity(COUNTERS), seen: 0, until_next: ONE_IN, chance: 0x9e37_79b9 }
    }
}

impl Hottest {
    /// A request about a dbkey. Nearly always this only counts.
    #[inline]
    pub fn touch(&mut self, dbkey: &[u8]) {
        self.until_next -= 1;
        if self.until_next == 0 {
            self.see(dbkey);
        }
    }

    /// The steps between two looks vary, so that requests that come in a fixed rhythm are all seen.
    #[cold]
    fn see(&mut self, dbkey: &[u8]) {
        // Xorshift (Marsaglia, 2003).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 17;
        self.chance ^= self.chance << 5;
        self.until_next = 1 + self.chance % (2 * ONE_IN - 1);
        if let Some((hash, key)) = dbkey.split_first_chunk() {
            self.count(u64::from_be_bytes(*hash), key);
        }
    }

    fn count(&mut self, hash: u64, key: &[u8]) {
        self.seen += 1;
        if let Some(counter) = self.counters.iter_mut().find(|c| c.hash == hash) {
            counter.count += 1;
            return;
        }
        let key = &key[..key.len().min(KEY_BYTES)];
        if self.counters.len() < COUNTERS {
            self.counters.push(Counter { hash, key: key.to_vec(), count: 1, error: 0 });
            return;
        }
        let Some(lowest) = self.counters.iter_mut().min_by_key(|c| c.count) else { return };
        (lowest.hash, lowest.error) = (hash, lowest.count);
        lowest.count += 1;
        lowest.key.clear();
        lowest.key.extend_from_slice(key);
    }

    /// Forgets half.
    pub fn halve(&mut self) {
        self.seen /= 2;
        for counter in &mut self.counters {
            (counter.count, counter.error) = (counter.count / 2, counter.error / 2);
        }
        self.counters.retain(|c| c.count > 0);
    }

    /// How many requests were seen, newer ones counting more.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The keys and how often each was seen, at least; the most frequent first. Those seen once or twice are chance.
    pub fn top(&self, most: usize) -> Vec<(Vec<u8>, u64)> {
        let mut top: Vec<_> = self.counters.iter().map(|c| (c.key.clone(), c.count - c.error)).collect();
        top.retain(|(_, count)| *count > 2);
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(most);
        top
    }
}

/// What one sketch made of the requests that it saw: how many, and [`Hottest::top`].
pub type Part = (u64, Vec<(Vec<u8>, u64)>);

/// The hottest keys of several sketches that saw different keys.
pub fn hottest_of(parts: Vec<Part>, most: usize) -> Vec<Hot> {
    let seen: u64 = parts.iter().map(|(seen, _)| seen).sum();
    let ppm = |count: u64| count.saturating_mul(1_000_000) / seen.max(1);
    let mut all: Vec<Hot> =
        parts.into_iter().flat_map(|(_, top)| top).map(|(key, count)| Hot { key, ppm: ppm(count) }).collect();
    all.sort_by(|a, b| b.ppm.cmp(&a.ppm).then_with(|| a.key.cmp(&b.key)));
    all.truncate(most);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(sketch: &mut Hottest, n: u64) {
        let mut dbkey = n.to_be_bytes().to_vec();
        dbkey.extend_from_slice(n.to_string().as_bytes());
        sketch.touch(&dbkey);
    }

    #[test]
    fn a_hot_key_among_many_is_found_with_about_its_share() {
        let mut sketch = Hottest::default();
        for n in 0..400_000u64 {
            touch(&mut sketch, if n % 5 == 0 { 7 } else { 1_000 + n * 2_654_435_761 % 100_003 });
        }
        let hot = hottest_of(vec![(sketch.seen(), sketch.top(10))], 10);
        assert_eq!(hot[0].key, b"7");
        assert!((150_000..=250_000).contains(&hot[0].ppm), "{hot:?}");
        assert!(hot[1..].iter().all(|h| h.ppm < 5_000), "{hot:?}");
    }

    #[test]
    fn what_is_told_of_a_key_is_never_more_than_its_due() {
        let mut sketch = Hottest::default();
        let mut truth = std::collections::BTreeMap::new();
        for n in 0..20_000u64 {
            let key = n * n % 307;
            *truth.entry(key.to_string().into_bytes()).or_insert(0) += 1;
            sketch.count(key, key.to_string().as_bytes());
        }
        assert_eq!(sketch.counters.len(), COUNTERS);
        assert!(sketch.top(COUNTERS).iter().all(|(key, count)| *count <= truth[key]));
    }

    #[test]
    fn a_key_that_is_asked_for_in_a_rhythm_is_seen_like_others() {
        let mut sketch = Hottest::default();
        for n in 0..640_000u64 {
            touch(&mut sketch, n % u64::from(ONE_IN));
        }
        let seen: Vec<u64> = sketch.top(COUNTERS).into_iter().map(|(_, count)| count).collect();
        assert!(seen.len() == COUNTERS && seen[0] < 3 * seen[COUNTERS - 1], "{seen:?}");
    }

    #[test]
    fn yesterdays_key_is_forgotten() {
        let mut sketch = Hottest::default();
        (0..10_000).for_each(|_| sketch.count(1, b"old"));
        (0..20).for_each(|_| sketch.halve());
        assert_eq!((sketch.top(9), sketch.seen()), (vec![], 0));
        (0..10).for_each(|_| sketch.count(2, b"new"));
        assert_eq!(sketch.top(9), [(b"new".to_vec(), 10)]);
    }

    #[test]
    fn long_keys_are_cut_and_parts_are_put_together() {
        let mut sketch = Hottest::default();
        (0..3).for_each(|_| sketch.count(1, &[b'x'; 1000]));
        assert_eq!(sketch.top(1)[0].0.len(), KEY_BYTES);
        let parts = vec![(30, vec![(b"a".to_vec(), 10)]), (70, vec![(b"b".to_vec(), 20)]), (0, vec![])];
        let hot = hottest_of(parts, 5);
        assert_eq!(hot, [Hot { key: b"b".to_vec(), ppm: 200_000 }, Hot { key: b"a".to_vec(), ppm: 100_000 }]);
        assert_eq!(hottest_of(Vec::new(), 5), []);
    }
}
