//! When records expire: memcached's `exptime` made a point in time.
//!
//! Source: memcached's protocol.txt, "Expiration times". Records hold UNIX seconds in 32 bits, so that all replicas
//! agree on the moment whatever they were told and when. Expired is what [`is_gone`] says; nothing else compares.

/// Up to this many seconds an exptime counts from now; a larger one is UNIX time.
pub const MAX_RELATIVE_SECS: i64 = 60 * 60 * 24 * 30;
/// The expiry of what does not expire.
pub const NEVER: u32 = 0;
/// An expiry that has passed, whatever the time.
pub const GONE: u32 = 1;

/// The expiry, UNIX seconds, that a client's `exptime` means at `now_secs`: 0 is [`NEVER`], negative is [`GONE`], up to
/// [`MAX_RELATIVE_SECS`] is from now on, more is UNIX time. What 32 bits cannot hold (the year 2106) is cut to the
/// last second that they can.
pub fn expiry_of(exptime: i64, now_secs: u64) -> u32 {
    let at_secs = match exptime {
        0 => return NEVER,
        ..0 => return GONE,
        1..=MAX_RELATIVE_SECS => now_secs.saturating_add(exptime.unsigned_abs()),
        _ => exptime.unsigned_abs(),
    };
    u32::try_from(at_secs).unwrap_or(u32::MAX)
}

/// Whether a record with this expiry is gone at `now_secs`.
pub fn is_gone(expiry: u32, now_secs: u64) -> bool {
    expiry != NEVER && u64::from(expiry) <= now_secs
}

/// The moment, UNIX seconds, from which `flush_all delay` hides what was written before that moment: now for 0 and
/// less, otherwise by the rule of [`expiry_of`]. A UNIX time that has passed hides only what was written before it.
pub fn flush_time(delay: i64, now_secs: u64) -> u32 {
    match delay {
        ..=0 => u32::try_from(now_secs).unwrap_or(u32::MAX),
        _ => expiry_of(delay, now_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_800_000_000;

    #[test]
    fn zero_never_expires() {
        assert_eq!(expiry_of(0, NOW_SECS), NEVER);
        assert!(!is_gone(NEVER, u64::MAX));
    }

    #[test]
    fn negative_is_gone_at_once() {
        for exptime in [-1, -100, i64::MIN] {
            assert!(is_gone(expiry_of(exptime, NOW_SECS), NOW_SECS));
        }
    }

    #[test]
    fn thirty_days_are_relative_and_a_second_more_is_unix_time() {
        assert_eq!(expiry_of(1, NOW_SECS), 1_800_000_001);
        assert_eq!(expiry_of(2_592_000, NOW_SECS), 1_802_592_000);
        assert_eq!(expiry_of(2_592_001, NOW_SECS), 2_592_001);
        assert!(is_gone(expiry_of(2_592_001, NOW_SECS), NOW_SECS));
    }

    #[test]
    fn a_record_is_gone_from_its_second_on() {
        let expiry = expiry_of(10, NOW_SECS);
        assert!(!is_gone(expiry, NOW_SECS + 9));
        assert!(is_gone(expiry, NOW_SECS + 10));
    }

    #[test]
    fn beyond_the_year_2106_is_cut_to_its_last_second() {
        assert_eq!(expiry_of(4_294_967_295, NOW_SECS), u32::MAX);
        assert_eq!(expiry_of(4_294_967_296, NOW_SECS), u32::MAX);
        assert_eq!(expiry_of(i64::MAX, NOW_SECS), u32::MAX);
        assert_eq!(expiry_of(100, u64::MAX), u32::MAX);
        assert_eq!(expiry_of(100, u64::from(u32::MAX) - 1), u32::MAX);
    }

    #[test]
    fn a_flush_without_delay_is_now() {
        assert_eq!(flush_time(0, NOW_SECS), 1_800_000_000);
        assert_eq!(flush_time(-10, NOW_SECS), 1_800_000_000);
        assert_eq!(flush_time(10, NOW_SECS), 1_800_000_010);
        assert_eq!(flush_time(1_900_000_000, NOW_SECS), 1_900_000_000);
    }
}
