//! Dates as the tools of kumofs print them: `Wed Dec 03 22:16:00 +0900 2008`, Ruby 1.8's `Time#to_s`, in local time.

use crate::logic::clock::ClockTime;

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_SECS: i64 = 86_400;

/// Days of the week and of the calendar for a count of days since 1970-01-01.
struct Day {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
}

/// Counts in years that begin in March, so that the leap day is a year's last; 400 of them have 146,097 days.
fn day(days_since_1970: i64) -> Day {
    let days = days_since_1970 + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12;
    Day {
        year: era * 400 + year_of_era + i64::from(month < 2),
        month: month as usize,
        day: of_year - (153 * from_march + 2) / 5 + 1,
        weekday: (days_since_1970 + 4).rem_euclid(7) as usize,
    }
}

/// A UNIX time as Ruby 1.8 prints it at an offset from UTC, in seconds.
pub fn to_s(unix_secs: i64, offset: i64) -> String {
    let local = unix_secs + offset;
    let Day { year, month, day, weekday } = day(local.div_euclid(DAY_SECS));
    let (weekday, month) = (WEEKDAYS[weekday], MONTHS[month]);
    let secs = local.rem_euclid(DAY_SECS);
    let (h, m, s) = (secs / 3600, secs / 60 % 60, secs % 60);
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
    let (zone_h, zone_m) = (minutes / 60, minutes % 60);
    format!("{weekday} {month} {day:02} {h:02}:{m:02}:{s:02} {sign}{zone_h:02}{zone_m:02} {year}")
}

/// The date as `YYYYMMDD`.
pub fn yyyymmdd(unix_secs: i64, offset: i64) -> String {
    let Day { year, month, day, .. } = day((unix_secs + offset).div_euclid(DAY_SECS));
    format!("{year:04}{:02}{day:02}", month + 1)
}

/// What `status`, `rhs` and `whs` print of a hash space's timestamp.
pub fn timestamp_line(time: ClockTime, offset_at: impl Fn(i64) -> i64) -> String {
    // 32 bits of seconds fit.
    let secs = time.unix_secs() as i64;
    format!("{} clock {}", to_s(secs, offset_at(secs)), time.counter())
}

/// How many seconds local time is ahead of UTC at a UNIX time, by the system's time zone.
pub fn local_offset(unix_secs: i64) -> i64 {
    // SAFETY: all zeroes is a valid `tm`, whose zone name may be null.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to valid places, and nobody changes the environment meanwhile.
    let known = unsafe { !libc::localtime_r(&raw const unix_secs, &raw mut tm).is_null() };
    if known { tm.tm_gmtoff } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_the_guide_is_printed_so() {
        assert_eq!(to_s(1_228_310_160, 9 * 3600), "Wed Dec 03 22:16:00 +0900 2008");
        let time = ClockTime(1_228_310_160 << 32 | 72);
        assert_eq!(timestamp_line(time, |_| 9 * 3600), "Wed Dec 03 22:16:00 +0900 2008 clock 72");
    }

    #[test]
    fn leap_days_and_ends_of_years_are_right() {
        assert_eq!(to_s(0, 0), "Thu Jan 01 00:00:00 +0000 1970");
        assert_eq!(to_s(951_782_400, 0), "Tue Feb 29 00:00:00 +0000 2000");
        assert_eq!(to_s(1_735_689_599, 0), "Tue Dec 31 23:59:59 +0000 2024");
        assert_eq!(to_s(1_735_689_599, -5400), "Tue Dec 31 22:29:59 -0130 2024");
        assert_eq!(yyyymmdd(1_230_735_600, 9 * 3600), "20090101");
    }

    #[test]
    fn every_day_of_a_century_follows_the_one_before() {
        let mut last = day(0);
        for n in 1..36_525 {
            let next = day(n);
            let same_month = next.month == last.month && next.day == last.day + 1;
            let new_month = next.day == 1 && next.month == (last.month + 1) % 12 && last.day >= 28;
            assert!(same_month || new_month, "day {n}");
            assert_eq!(next.year, last.year + i64::from(new_month && next.month == 0));
            last = next;
        }
    }
}
