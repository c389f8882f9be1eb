//! What is asked of the server: keys, values, requests, and the order in which they come. Pure; chance is seeded.
//!
//! Key number `n` of a load is `n` in decimal digits behind as many `k` as fill the key. Its value begins with the
//! key, so that an answer meant for another request is noticed. Numbers instead of strings keep a request two words
//! long: a multi-get asks for `base`, `base + stride`, ..., which is checked without remembering the keys.

use crate::logic::record::MAX_KEY_LEN;
use std::ops::Range;
use std::sync::Arc;

/// Digits at the end of a key; a shorter key is all digits.
const MAX_DIGITS: usize = 10;

/// The shape of keys, values and requests.
#[derive(Clone, Debug)]
pub struct Load {
    keys: u32,
    /// Bytes of a key before its digits.
    prefix_len: usize,
    digits: usize,
    /// A whole set request for key number 0.
    set_template: Vec<u8>,
    /// Where the value begins in it.
    value_at: usize,
    /// How many bytes of the value are the key's.
    marked: usize,
    /// Keys of a multi-get.
    mget_keys: u32,
    /// Where keys are not asked for alike: the share of those up to each, in 1/2³² parts.
    shares: Option<Arc<[u32]>>,
}

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Store the value of a key.
    Set(u32),
    /// Get keys: one, or those of a multi-get.
    Get(KeySet),
}

/// `count` keys, each `stride` behind the one before, wrapping at the number of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeySet {
    /// The first key.
    pub base: u32,
    /// From one key to the next; so small that no key comes twice.
    pub stride: u32,
    /// How many.
    pub count: u32,
}

impl Load {
    /// `keys` keys of `key_size` bytes with values of `value_size` bytes. Errors say which option does not fit.
    pub fn new(keys: u32, key_size: usize, value_size: usize, mget_keys: u32) -> Result<Load, String> {
        if key_size == 0 || key_size > MAX_KEY_LEN {
            return Err(format!("--key-size {key_size} must be from 1 to {MAX_KEY_LEN}"));
        }
        let digits = key_size.min(MAX_DIGITS);
        if keys == 0 || u64::from(keys - 1) >= 10u64.pow(digits as u32) {
            return Err(format!("--keys {keys} does not fit --key-size {key_size}"));
        }
        if mget_keys == 0 || mget_keys > keys {
            return Err(format!("--mget-keys {mget_keys} must be from 1 to the number of --keys, {keys}"));
        }
        let mut load = Load {
            keys,
            prefix_len: key_size - digits,
            digits,
            set_template: Vec::new(),
            value_at: 0,
            marked: key_size.min(value_size),
            mget_keys,
            shares: None,
        };
        let mut template = b"set ".to_vec();
        load.push_key(0, &mut template);
        template.extend_from_slice(format!(" 0 0 {value_size}\r\n").as_bytes());
        load.value_at = template.len();
        template.extend((b'a'..=b'z').cycle().take(value_size));
        template.extend_from_slice(b"\r\n");
        load.set_template = template;
        Ok(load)
    }

    /// Has key number `n` asked for in proportion to 1/(n+1)^`exponent`, as Zipf's law has it; all alike if it is 0.
    pub fn skewed(mut self, exponent: f64) -> Load {
        let weight = |n: u32| f64::from(n + 1).powf(-exponent);
        let total: f64 = (0..self.keys).map(weight).sum();
        let mut sum = 0.0;
        let up_to = |n| {
            sum += weight(n);
            // The last one is all, however sums are rounded; a cast keeps to the largest number.
            (sum / total * (1u64 << 32) as f64) as u32
        };
        self.shares = (exponent > 0.0).then(|| (0..self.keys).map(up_to).collect());
        self
    }

    /// A key, drawn.
    fn draw(&self, chance: &mut Chance) -> u32 {
        match &self.shares {
            None => chance.below(self.keys),
            Some(shares) => {
                let drawn = chance.next();
                (shares.partition_point(|share| *share <= drawn) as u32).min(self.keys - 1)
            }
        }
    }

    /// Number of keys.
    pub fn keys(&self) -> u32 {
        self.keys
    }

    /// Length of every value in bytes.
    pub fn value_size(&self) -> usize {
        self.set_template.len() - self.value_at - 2
    }

    fn key_size(&self) -> usize {
        self.prefix_len + self.digits
    }

    fn push_key(&self, key: u32, out: &mut Vec<u8>) {
        let from = out.len();
        out.resize(from + self.key_size(), b'k');
        write_digits(key, &mut out[from + self.prefix_len..]);
    }

    /// The number of a key, unless it is none of this load's.
    pub fn key_number(&self, key: &[u8]) -> Option<u32> {
        if key.len() != self.key_size() || key[..self.prefix_len].iter().any(|b| *b != b'k') {
            return None;
        }
        let mut number = 0u64;
        for digit in &key[self.prefix_len..] {
            number = number * 10 + u64::from(digit.wrapping_sub(b'0'));
            if !digit.is_ascii_digit() {
                return None;
            }
        }
        u32::try_from(number).ok().filter(|n| *n < self.keys)
    }

    /// Appends a request as it is sent.
    pub fn encode(&self, request: Request, out: &mut Vec<u8>) {
        match request {
            Request::Set(key) => {
                let from = out.len();
                out.extend_from_slice(&self.set_template[..4]);
                self.push_key(key, out);
                out.extend_from_slice(&self.set_template[4 + self.key_size()..]);
                out.copy_within(from + 4..from + 4 + self.marked, from + self.value_at);
            }
            Request::Get(set) => {
                out.extend_from_slice(b"get");
                for i in 0..set.count {
                    out.push(b' ');
                    self.push_key(set.key(i, self.keys), out);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Whether `chunk` is what stands at byte `at` of a key's value followed by CR LF.
    pub fn value_matches(&self, key: u32, at: usize, chunk: &[u8]) -> bool {
        let (head, tail) = chunk.split_at(self.marked.saturating_sub(at).min(chunk.len()));
        let tail_at = self.value_at + at + head.len();
        self.set_template.get(tail_at..tail_at + tail.len()) == Some(tail) && self.head_matches(key, at, head)
    }

    /// The same for the part of a value that repeats its key.
    fn head_matches(&self, key: u32, at: usize, head: &[u8]) -> bool {
        let mut expected = [b'k'; MAX_KEY_LEN];
        let key_size = self.key_size();
        write_digits(key, &mut expected[self.prefix_len..key_size]);
        head.is_empty() || expected[..key_size].get(at..at + head.len()) == Some(head)
    }
}

/// Fills `digits` with the last decimal digits of a number.
fn write_digits(number: u32, digits: &mut [u8]) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

impl KeySet {
    /// Key number `i` of the set.
    fn key(&self, i: u32, keys: u32) -> u32 {
        ((u64::from(self.base) + u64::from(i) * u64::from(self.stride)) % u64::from(keys)) as u32
    }

    /// Whether a key is one of these.
    pub fn contains(&self, key: u32, keys: u32) -> bool {
        let distance = (u64::from(key) + u64::from(keys) - u64::from(self.base)) % u64::from(keys);
        distance % u64::from(self.stride) == 0 && distance / u64::from(self.stride) < u64::from(self.count)
    }
}

/// What kind of requests a run consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Get one key
    Get,
    /// Set one key
    Set,
    /// Get several keys with one command
    Mget,
    /// Sets among gets of one key
    Mix,
}

/// Where a connection's requests come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Sets of a range of keys, each once, in order.
    Fill(Range<u32>),
    /// Requests of a kind for keys drawn at random, without end.
    Random {
        /// The kind.
        op: Op,
        /// The share of sets in [`Op::Mix`], in 1/2³² parts.
        set_share: u64,
        /// The state of the generator.
        chance: Chance,
    },
}

impl Source {
    /// The next request, if there is one.
    pub fn next(&mut self, load: &Load) -> Option<Request> {
        match self {
            Source::Fill(range) => range.next().map(Request::Set),
            Source::Random { op, set_share, chance } => {
                let base = load.draw(chance);
                let one = KeySet { base, stride: 1, count: 1 };
                Some(match op {
                    Op::Set => Request::Set(base),
                    Op::Mix if u64::from(chance.next()) < *set_share => Request::Set(base),
                    Op::Get | Op::Mix => Request::Get(one),
                    Op::Mget => {
                        let stride = 1 + chance.below(load.keys / load.mget_keys);
                        Request::Get(KeySet { base, stride, count: load.mget_keys })
                    }
                })
            }
        }
    }
}

/// A small, fast, seeded generator of random numbers (splitmix64): good enough to choose keys.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(load: &Load, request: Request) -> String {
        let mut out = Vec::new();
        load.encode(request, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_memcached_text() {
        let load = Load::new(1000, 12, 20, 2).unwrap();
        assert_eq!(encoded(&load, Request::Set(42)), "set kk0000000042 0 0 20\r\nkk0000000042mnopqrst\r\n");
        let pair = KeySet { base: 999, stride: 3, count: 2 };
        assert_eq!(encoded(&load, Request::Get(pair)), "get kk0000000999 kk0000000002\r\n");
    }

    #[test]
    fn keys_and_values_are_recognized_at_every_cut_for_all_sizes() {
        for (key_size, value_size) in [(3, 0), (3, 2), (10, 10), (11, 5), (12, 40), (250, 100), (20, 300)] {
            let load = Load::new(1000, key_size, value_size, 1).unwrap();
            let mut out = Vec::new();
            load.encode(Request::Set(907), &mut out);
            assert_eq!(load.key_number(&out[4..4 + key_size]), Some(907));
            let value = &out[load.value_at..];
            assert_eq!(value.len(), value_size + 2);
            for cut in 0..=value.len() {
                assert!(load.value_matches(907, 0, &value[..cut]) && load.value_matches(907, cut, &value[cut..]));
            }
            let mut bad = value.to_vec();
            for at in 0..value.len() {
                bad[at] ^= 1;
                assert!(!load.value_matches(907, 0, &bad), "{key_size} {value_size} {at}");
                bad[at] ^= 1;
            }
            assert!(!load.value_matches(907, 0, b"longer than it should be".repeat(20).as_slice()));
        }
    }

    #[test]
    fn keys_of_others_have_no_number() {
        let load = Load::new(1000, 12, 20, 2).unwrap();
        for key in ["kk0000001000", "kk000000099", "kx0000000999", "kk00000009:9", "", "kk99999999999"] {
            assert_eq!(load.key_number(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn a_multi_get_asks_for_different_keys_and_knows_them() {
        let load = Load::new(105, 12, 20, 20).unwrap();
        let mut source = Source::Random { op: Op::Mget, set_share: 0, chance: Chance(1) };
        for _ in 0..1000 {
            let Some(Request::Get(set)) = source.next(&load) else { panic!("not a get") };
            let mut asked: Vec<u32> = (0..20).map(|i| set.key(i, 105)).collect();
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), 20);
            assert!((0..105).all(|k| set.contains(k, 105) == asked.contains(&k)));
        }
    }

    #[test]
    fn a_mix_has_the_share_of_sets_asked_for() {
        let load = Load::new(100, 12, 20, 1).unwrap();
        let mut source = Source::Random { op: Op::Mix, set_share: 1 << 30, chance: Chance(7) };
        let sets = (0..10_000).filter(|_| matches!(source.next(&load), Some(Request::Set(_)))).count();
        assert!((2300..2700).contains(&sets), "{sets}");
    }

    #[test]
    fn skewed_keys_are_asked_for_as_zipf_says() {
        for (exponent, of_first) in [(0.0, 0.001), (1.0, 0.1336), (1.2, 0.2304)] {
            let load = Load::new(1000, 12, 20, 1).unwrap().skewed(exponent);
            let mut source = Source::Random { op: Op::Set, set_share: 0, chance: Chance(3) };
            let mut drawn = vec![0u32; 1000];
            for _ in 0..100_000 {
                let Some(Request::Set(key)) = source.next(&load) else { panic!("not a set") };
                drawn[key as usize] += 1;
            }
            let share = f64::from(drawn[0]) / 100_000.0;
            assert!((share - of_first).abs() < 0.005, "{exponent}: {share}");
            assert!(drawn[999] < 200, "{exponent}: the last is drawn {} times", drawn[999]);
        }
        let one = Load::new(1, 3, 1, 1).unwrap().skewed(2.0);
        assert_eq!(one.draw(&mut Chance(1)), 0);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert!(Load::new(1001, 3, 1, 1).unwrap_err().contains("--key-size"));
        assert!(Load::new(0, 3, 1, 1).is_err());
        assert!(Load::new(10, 3, 1, 11).unwrap_err().contains("--mget-keys"));
        assert!(Load::new(1000, 3, 1, 1).is_ok());
    }
}
