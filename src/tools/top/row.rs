//! A server as kumotop knows it, and the columns that show it. Pure.

use crate::logic::clock::ClockTime;
use crate::proto::rpc::v1::Numbers;
use crate::tools::stat::replace_state;
use crate::tools::watch::Sample;
use std::collections::VecDeque;
use std::time::Instant;

/// Rates that are kept for the course of a row.
pub const COURSE: usize = 12;

/// A server.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Row {
    /// What it told last.
    pub newest: Option<Sample>,
    /// Gets, sets and deletes per second.
    pub rates: [f64; 3],
    /// Share of the gets since the sample before that found something.
    pub hit_rate: Option<f64>,
    /// Requests per second as they went, newest last.
    pub course: VecDeque<u64>,
    /// When copying or deleting was seen first, and how far it was then, in parts per million.
    moving: Option<(Instant, u64)>,
    /// The manager says that it is taken for dead.
    pub fault: bool,
    /// Why it does not answer.
    pub trouble: Option<String>,
}

impl Row {
    /// It answered.
    pub fn add(&mut self, sample: Sample) {
        self.trouble = None;
        if let Some(before) = &self.newest {
            let secs = sample.at.saturating_duration_since(before.at).as_secs_f64();
            let rate = |now: u64, then: u64| if secs > 0.0 { now.saturating_sub(then) as f64 / secs } else { 0.0 };
            self.rates =
                [rate(sample.gets, before.gets), rate(sample.sets, before.sets), rate(sample.deletes, before.deletes)];
            self.hit_rate = hit_rate(before, &sample);
        }
        let moving = sample.more.as_ref().and_then(|more| more.numbers.moving_ppm);
        self.moving = moving.map(|ppm| match self.moving {
            // One that goes back has begun anew.
            Some((since, from)) if ppm >= from => (since, from),
            _ => (sample.at, ppm),
        });
        self.newest = Some(sample);
        self.course.push_back(self.requests_per_sec() as u64);
        if self.course.len() > COURSE {
            self.course.pop_front();
        }
    }

    /// It does nothing that is known of.
    pub fn stand(&mut self) {
        (self.rates, self.hit_rate, self.moving) = ([0.0; 3], None, None);
    }

    /// Requests per second.
    pub fn requests_per_sec(&self) -> f64 {
        self.rates.iter().sum()
    }

    /// What it tells beyond kumofs 0.4.
    pub fn numbers(&self) -> Numbers {
        self.newest.as_ref().and_then(|s| s.more.as_ref()).map_or_else(Numbers::default, |more| more.numbers)
    }

    /// Its state in a word.
    pub fn status(&self) -> &'static str {
        match (&self.newest, &self.trouble) {
            _ if self.fault => "fault",
            (_, Some(_)) => "silent",
            (Some(sample), None) => replace_state(sample.replace),
            (None, None) => "...",
        }
    }

    /// How far a replace is, and how many seconds are left, as far as can be told. One that coordinates nothing sends nothing:
    /// how far it is filled those know who do.
    pub fn progress(&self) -> Option<(u64, Option<u64>)> {
        let (since, from) = self.moving.filter(|_| !self.fault && self.trouble.is_none())?;
        if self.numbers().coordinates_ppm == Some(0) {
            return None;
        }
        let ppm = self.numbers().moving_ppm?;
        let secs = self.newest.as_ref()?.at.saturating_duration_since(since).as_secs_f64();
        let done = ppm.saturating_sub(from);
        let left = (done > 0).then(|| (secs * 1_000_000u64.saturating_sub(ppm) as f64 / done as f64) as u64);
        Some((ppm, left))
    }

    /// Its state, and how far a replace is.
    pub fn state(&self) -> String {
        match self.progress() {
            Some((ppm, Some(left))) => format!("{} {}% {}", self.status(), ppm / 10_000, duration(left)),
            Some((ppm, None)) => format!("{} {}%", self.status(), ppm / 10_000),
            None => self.status().to_owned(),
        }
    }

    /// The age of the oldest change that another server has not acknowledged, in microseconds.
    pub fn lag_micros(&self) -> Option<u64> {
        let more = self.newest.as_ref()?.more.as_ref()?;
        Some(more.lags.iter().map(|(_, lag)| lag.age_micros).max().unwrap_or(0))
    }

    /// The value of a column; `None`: not known.
    pub fn value(&self, column: Column) -> Option<f64> {
        let sample = self.newest.as_ref()?;
        let numbers = self.numbers();
        let time = ClockTime(sample.clock_time);
        let number = |n: Option<u64>| n.map(|n| n as f64);
        Some(match column {
            Column::Gets => sample.gets as f64,
            Column::Sets => sample.sets as f64,
            Column::Deletes => sample.deletes as f64,
            Column::GetRate => self.rates[0],
            Column::SetRate => self.rates[1],
            Column::DeleteRate => self.rates[2],
            Column::Rate => self.requests_per_sec(),
            Column::Items => sample.items as f64,
            Column::Time => time.unix_secs() as f64,
            Column::Clock => f64::from(time.counter()),
            Column::Hits => self.hit_rate? * 100.0,
            Column::P50 => number(numbers.get_p50_micros.max(numbers.set_p50_micros))?,
            Column::P99 => number(numbers.get_p99_micros.max(numbers.set_p99_micros))?,
            Column::Disk => number(numbers.disk_used_bytes)?,
            Column::Memory => number(numbers.memory_bytes)?,
            Column::Lag => number(self.lag_micros())?,
            Column::Address | Column::Course | Column::Status => return None,
        })
    }
}

fn hit_rate(before: &Sample, now: &Sample) -> Option<f64> {
    let misses = |s: &Sample| s.more.as_ref().and_then(|more| Some((more.numbers.gets?, more.numbers.misses?)));
    let ((gets, misses), (gets_before, misses_before)) = (misses(now)?, misses(before)?);
    let gets = gets.checked_sub(gets_before).filter(|gets| *gets > 0)?;
    Some(1.0 - misses.saturating_sub(misses_before).min(gets) as f64 / gets as f64)
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Column {
    /// Where it is.
    #[default]
    Address,
    /// Gets since its start.
    Gets,
    /// Sets.
    Sets,
    /// Deletes.
    Deletes,
    /// Gets per second.
    GetRate,
    /// Sets per second.
    SetRate,
    /// Deletes per second.
    DeleteRate,
    /// All requests per second.
    Rate,
    /// Percent of the gets that found something.
    Hits,
    /// The median latency of gets or changes, whichever is longer, in microseconds.
    P50,
    /// Likewise the 99th percentile.
    P99,
    /// Records.
    Items,
    /// Bytes on disk.
    Disk,
    /// Bytes of memory.
    Memory,
    /// How far the other servers are behind, in microseconds.
    Lag,
    /// The server's time.
    Time,
    /// Its logical clock.
    Clock,
    /// Requests per second as they went.
    Course,
    /// Its state.
    Status,
}

impl Column {
    /// All, as they stand from left to right.
    pub const ALL: [Column; 19] = {
        use Column::*;
        [
            Address, Gets, Sets, Deletes, GetRate, SetRate, DeleteRate, Rate, Hits, P50, P99, Items, Disk, Memory, Lag,
            Time, Clock, Course, Status,
        ]
    };
    /// kumofs's, in its order.
    pub const KUMOFS: [Column; 12] = {
        use Column::*;
        [Address, Gets, Sets, Deletes, GetRate, SetRate, DeleteRate, Rate, Items, Time, Clock, Status]
    };
    /// The order in which they are given room.
    pub const BY_NEED: [Column; 17] = {
        use Column::*;
        [
            Rate, GetRate, SetRate, P99, Hits, Items, Lag, Memory, Disk, P50, DeleteRate, Course, Gets, Sets, Deletes,
            Clock, Time,
        ]
    };

    /// Its heading.
    pub fn heading(self) -> &'static str {
        match self {
            Column::Address => "address",
            Column::Gets => "#Get",
            Column::Sets => "#Set",
            Column::Deletes => "#Del",
            Column::GetRate => "Get/s",
            Column::SetRate => "Set/s",
            Column::DeleteRate => "Del/s",
            Column::Rate => "QPS",
            Column::Hits => "hit%",
            Column::P50 => "p50",
            Column::P99 => "p99",
            Column::Items => "items",
            Column::Disk => "disk",
            Column::Memory => "mem",
            Column::Lag => "lag",
            Column::Time => "time",
            Column::Clock => "clock",
            Column::Course => "course",
            Column::Status => "status",
        }
    }

    /// Its width on a screen; those of the address and the state depend on what is in them.
    pub fn width(self) -> u16 {
        match self {
            Column::Course => COURSE as u16,
            Column::Time | Column::Clock => 10,
            _ => 6,
        }
    }

    /// Whether the sum of all rows means something.
    pub fn adds_up(self) -> bool {
        !matches!(self, Column::Time | Column::Clock | Column::Hits | Column::P50 | Column::P99 | Column::Lag)
    }

    /// A value for people, in at most 6 letters.
    pub fn show(self, value: Option<f64>) -> String {
        let Some(value) = value else { return "-".to_owned() };
        match self {
            Column::Time | Column::Clock => format!("{value:.0}"),
            Column::Hits => format!("{value:.1}"),
            Column::P50 | Column::P99 | Column::Lag => micros(value),
            Column::Disk | Column::Memory => scaled(value, 1024.0),
            _ => scaled(value, 1000.0),
        }
    }
}

/// A number with a letter for its magnitude.
pub fn scaled(mut value: f64, step: f64) -> String {
    for unit in ["", "k", "M", "G", "T", "P"] {
        if value < 9_999.5 && unit.is_empty() {
            return format!("{value:.0}");
        }
        if value < 99.95 && !unit.is_empty() {
            return format!("{value:.1}{unit}");
        }
        if value < 999.5 && !unit.is_empty() {
            return format!("{value:.0}{unit}");
        }
        value /= step;
    }
    format!("{value:.0}E")
}

/// Microseconds in the unit that fits.
pub fn micros(value: f64) -> String {
    match value {
        v if v < 0.5 => "0".to_owned(),
        v if v < 999.5 => format!("{v:.0}us"),
        v if v < 99_950.0 => format!("{:.1}ms", v / 1e3),
        v if v < 999_500.0 => format!("{:.0}ms", v / 1e3),
        v if v < 99_950_000.0 => format!("{:.1}s", v / 1e6),
        v => format!("{}s", scaled(v / 1e6, 1000.0)),
    }
}

/// Seconds in the unit that fits.
pub fn duration(secs: u64) -> String {
    match secs {
        0..=99 => format!("{secs}s"),
        100..=5_999 => format!("{}m", secs / 60),
        6_000..=359_999 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rpc::v1::Statistics;
    use std::rc::Rc;
    use std::time::Duration;

    fn told(at: Instant, gets: u64, misses: u64, moving_ppm: Option<u64>) -> Sample {
        let numbers = Numbers { gets: Some(gets), misses: Some(misses), moving_ppm, ..Numbers::default() };
        let more = Some(Rc::new(Statistics { numbers, ..Statistics::default() }));
        Sample { at, gets, sets: 0, deletes: 0, items: 0, clock_time: 0, replace: 4, more }
    }

    #[test]
    fn values_fit_their_columns_at_every_magnitude() {
        for exponent in 0..60 {
            let value = 1.37f64.powi(exponent);
            for column in Column::BY_NEED.into_iter().filter(|c| c.width() == 6) {
                let value = if column == Column::Hits { value.min(100.0) } else { value };
                assert!(column.show(Some(value)).len() <= 6, "{column:?} {}", column.show(Some(value)));
            }
        }
        assert_eq!((scaled(9_999.0, 1000.0).as_str(), scaled(12_345.0, 1000.0).as_str()), ("9999", "12.3k"));
        assert_eq!(
            (micros(950.0), micros(1_500.0), micros(2_500_000.0)),
            ("950us".into(), "1.5ms".into(), "2.5s".into())
        );
        assert_eq!((duration(7), duration(600), duration(7_200)), ("7s".into(), "10m".into(), "2h".into()));
    }

    #[test]
    fn time_left_comes_from_how_fast_it_went() {
        let start = Instant::now();
        let mut row = Row::default();
        row.add(told(start, 0, 0, Some(100_000)));
        assert_eq!(row.state(), "Copying 10%");
        row.add(told(start + Duration::from_secs(10), 0, 0, Some(300_000)));
        assert_eq!(row.state(), "Copying 30% 35s");
        row.add(told(start + Duration::from_secs(11), 0, 0, Some(50_000)));
        assert_eq!(row.state(), "Copying 5%", "it began anew");
        row.add(told(start + Duration::from_secs(12), 0, 0, None));
        assert_eq!(row.state(), "Copying");
    }

    #[test]
    fn one_that_is_filled_alone_has_nothing_to_go_through() {
        let mut filled = told(Instant::now(), 0, 0, None);
        let numbers = Numbers { moving_ppm: Some(0), coordinates_ppm: Some(0), ..Numbers::default() };
        filled.more = Some(Rc::new(Statistics { numbers, ..Statistics::default() }));
        let mut row = Row::default();
        row.add(filled);
        assert_eq!(row.state(), "Copying");
    }

    #[test]
    fn the_hit_rate_is_of_the_time_between_two_samples() {
        let start = Instant::now();
        let mut row = Row::default();
        row.add(told(start, 1000, 1000, None));
        assert_eq!(row.value(Column::Hits), None);
        row.add(told(start + Duration::from_secs(1), 1200, 1050, None));
        assert_eq!(row.value(Column::Hits), Some(75.0));
        row.add(told(start + Duration::from_secs(2), 1200, 1050, None));
        assert_eq!(row.value(Column::Hits), None, "no gets");
        row.add(told(start + Duration::from_secs(3), 3, 0, None));
        assert_eq!(row.value(Column::Hits), None, "it has started anew");
    }

    #[test]
    fn every_column_has_a_place_and_a_rank() {
        let ranked = |c: &Column| *c == Column::Address || *c == Column::Status || Column::BY_NEED.contains(c);
        assert!(Column::ALL.iter().all(ranked));
        assert!(Column::KUMOFS.iter().all(|c| Column::ALL.contains(c)));
    }
}
