//! Weights: how many points of the ring a server has, against the usual.
//!
//! The usual number is that of kumofs 0.4, whose hash spaces know no other ([`super::ring`]); so where all weights are
//! usual, epochs and hash spaces are the bytes that they were before there were weights. Source: `doc/guide.md`, "Give a
//! server more or less".

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Points of a server whose weight is 1.
const USUAL_POINTS: u16 = 128;
/// The least and the most that one may have: weights 0.1 and 8.
const POINTS: std::ops::RangeInclusive<u16> = 13..=1024;

/// A server's share of the ring. A weight of 1 stands for 128 points, and so on, rounded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(u16);

impl Weight {
    /// That of a server of which nothing else was said.
    pub const USUAL: Weight = Weight(USUAL_POINTS);

    /// By the number of points; `None`: no server may have so many, or so few.
    pub fn of_points(points: u64) -> Option<Weight> {
        u16::try_from(points).ok().filter(|points| POINTS.contains(points)).map(Weight)
    }

    /// How many points of the ring it has.
    pub fn points(self) -> usize {
        usize::from(self.0)
    }

    /// As a number: 1 is usual.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(USUAL_POINTS)
    }

    /// Whether it is [`Weight::USUAL`].
    pub fn is_usual(&self) -> bool {
        *self == Weight::USUAL
    }

    /// Whether a server may have it. What was read may be anything.
    pub(super) fn is_sound(self) -> bool {
        POINTS.contains(&self.0)
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::USUAL
    }
}

/// It is no weight.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no weight; that is a number from 0.1 to 8, and 1 is usual")]
pub struct NoWeight(String);

impl FromStr for Weight {
    type Err = NoWeight;

    fn from_str(text: &str) -> Result<Weight, NoWeight> {
        let number: Option<f64> = text.parse().ok();
        let points = number.map(|number| (number * f64::from(USUAL_POINTS)).round());
        let weight =
            points.filter(|p| (0.0..=f64::from(u16::MAX)).contains(p)).and_then(|p| Weight::of_points(p as u64));
        weight.ok_or_else(|| NoWeight(text.to_owned()))
    }
}

/// With two decimals at most, which bring the same weight back.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.as_f64());
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_as_they_are_shown() {
        for text in ["0.1", "0.25", "0.33", "0.5", "1", "1.5", "2", "3.14", "7.99", "8"] {
            assert_eq!(text.parse::<Weight>().unwrap().to_string(), text);
        }
        let points = |text: &str| text.parse::<Weight>().unwrap().points();
        assert_eq!([points("0.1"), points("0.5"), points("1"), points("1.004"), points("8")], [13, 64, 128, 129, 1024]);
        for points in 13..=1024 {
            let weight = Weight::of_points(points).unwrap();
            let again: Weight = weight.to_string().parse().unwrap();
            assert!(again.points().abs_diff(weight.points()) <= 1, "{weight}");
        }
        assert!(Weight::default().is_usual() && "1.0".parse() == Ok(Weight::USUAL));
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for text in ["", "0", "0.09", "8.1", "-1", "nan", "inf", "1e9", "a", "1,5"] {
            assert!(text.parse::<Weight>().is_err(), "{text}");
        }
        assert!([0, 12, 1025, u64::MAX].iter().all(|points| Weight::of_points(*points).is_none()));
    }
}
