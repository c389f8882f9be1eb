//! From what was measured to what is shown. Pure.
//!
//! A round is a list of named figures, the unit last in the name; the same names stand in the table and in the JSON.

use super::client::Tally;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Named figures, in the order in which they are shown.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Figures(pub Vec<(String, f64)>);

impl Serialize for Figures {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// What was measured in one round, besides the tally.
#[derive(Debug, Default)]
pub struct Measured {
    /// How long requests were sent.
    pub duration: Duration,
    /// CPU time of the watched processes, by name.
    pub cpu_by_name: BTreeMap<String, Duration>,
    /// Watched processes that were not there to be asked.
    pub processes_lost: usize,
    /// CPU time of this process.
    pub client_cpu: Duration,
}

/// A target with its rounds.
#[derive(Debug, Serialize)]
pub struct Target {
    /// As given on the command line.
    pub target: String,
    /// One for each round.
    pub rounds: Vec<Figures>,
    /// Their medians; sums of counts and maxima of gaps.
    pub result: Figures,
    /// The first error, if there was one.
    pub first_error: Option<String>,
}

/// How the rounds' values of a figure become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fold {
    Median,
    Sum,
    Max,
}

fn fold_of(name: &str) -> Fold {
    match name {
        "errors" | "misses" => Fold::Sum,
        "longest_gap_ms" | "processes_lost" => Fold::Max,
        _ => Fold::Median,
    }
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

impl Figures {
    /// The figures of one round.
    pub fn new(tally: &Tally, measured: &Measured, multi_get: bool) -> Figures {
        let secs = measured.duration.as_secs_f64();
        let answered = tally.latency.len() as f64;
        let quantile = |q| tally.latency.value_at_quantile(q) as f64 / 1000.0;
        let mut figures = Figures::default();
        figures.push("ops_per_s", tally.in_time as f64 / secs);
        if multi_get {
            figures.push("keys_per_s", tally.keys_in_time as f64 / secs);
        }
        figures.push("latency_p50_us", quantile(0.5));
        figures.push("latency_p99_us", quantile(0.99));
        figures.push("latency_p99_9_us", quantile(0.999));
        figures.push("latency_max_us", quantile(1.0));
        figures.push("longest_gap_ms", us(tally.longest_gap) / 1000.0);
        figures.push("errors", tally.errors as f64);
        figures.push("misses", tally.misses as f64);
        if !measured.cpu_by_name.is_empty() {
            figures.push("cpu_us_per_op", us(measured.cpu_by_name.values().sum()) / answered);
            for (name, cpu) in &measured.cpu_by_name {
                figures.push(&format!("cpu_us_per_op:{name}"), us(*cpu) / answered);
            }
        }
        if measured.processes_lost > 0 {
            figures.push("processes_lost", measured.processes_lost as f64);
        }
        figures.push("client_cpu_us_per_op", us(measured.client_cpu) / answered);
        figures
    }

    fn push(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }

    /// One list for several rounds.
    pub fn folded(rounds: &[Figures]) -> Figures {
        let mut result = Figures::default();
        for name in names(rounds) {
            let mut values: Vec<f64> = rounds.iter().filter_map(|r| r.get(name)).collect();
            values.sort_by(f64::total_cmp);
            let value = match fold_of(name) {
                Fold::Median => median(&values),
                Fold::Sum => values.iter().sum(),
                Fold::Max => values.last().copied().unwrap_or(0.0),
            };
            result.push(name, value);
        }
        result
    }

    /// `self` divided by `other`, for each figure that both have and that is not 0 in `other`.
    pub fn ratio(&self, other: &Figures) -> Figures {
        let both = self.0.iter().filter_map(|(name, a)| Some((name.clone(), *a, other.get(name)?)));
        Figures(both.filter(|(_, _, b)| *b != 0.0).map(|(name, a, b)| (name, a / b)).collect())
    }
}

/// All names, in the order of the first list that has them.
fn names(lists: &[Figures]) -> Vec<&str> {
    let mut names = Vec::new();
    for (name, _) in lists.iter().flat_map(|l| &l.0) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

fn number(name: &str, value: f64) -> String {
    let digits = match value.abs() {
        _ if fold_of(name) == Fold::Sum || name == "processes_lost" => 0,
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// The results as a table: a column for each target and, with two, one for the ratio.
pub fn table(targets: &[Target]) -> String {
    let results: Vec<Figures> = targets.iter().map(|t| t.result.clone()).collect();
    let names = names(&results);
    let ratio = match results.as_slice() {
        [a, b] => Some(a.ratio(b)),
        _ => None,
    };
    let name_width = names.iter().map(|n| n.len()).max().unwrap_or(0);
    let widths: Vec<usize> = targets.iter().map(|t| t.target.len().max(12)).collect();
    let mut out = format!("{:name_width$}", "");
    for (target, width) in targets.iter().zip(&widths) {
        write_cell(&mut out, &target.target, *width);
    }
    if ratio.is_some() {
        write_cell(&mut out, "ratio", 8);
    }
    out.push('\n');
    for name in names {
        let _ = write!(out, "{name:name_width$}");
        for (result, width) in results.iter().zip(&widths) {
            write_cell(&mut out, &result.get(name).map_or("-".to_owned(), |v| number(name, v)), *width);
        }
        if let Some(ratio) = &ratio {
            write_cell(&mut out, &ratio.get(name).map_or("-".to_owned(), |v| format!("{v:.3}")), 8);
        }
        out.push('\n');
    }
    for target in targets {
        if let Some(error) = &target.first_error {
            let _ = writeln!(out, "first error of {}: {error}", target.target);
        }
    }
    out
}

fn write_cell(out: &mut String, text: &str, width: usize) {
    let _ = write!(out, "  {text:>width$}");
}

/// The results as one JSON object: `options`, `targets` and, with two targets, `ratio`.
pub fn json(options: &impl Serialize, targets: &[Target]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Whole<'a, O> {
        options: &'a O,
        targets: &'a [Target],
        #[serde(skip_serializing_if = "Option::is_none")]
        ratio: Option<Figures>,
    }
    let ratio = match targets {
        [a, b] => Some(a.result.ratio(&b.result)),
        _ => None,
    };
    serde_json::to_string(&Whole { options, targets, ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ops: f64, errors: f64, gap: f64) -> Figures {
        let pairs = [("ops_per_s", ops), ("errors", errors), ("longest_gap_ms", gap)];
        Figures(pairs.map(|(n, v)| (n.to_owned(), v)).to_vec())
    }

    fn target(name: &str, rounds: Vec<Figures>) -> Target {
        let result = Figures::folded(&rounds);
        Target { target: name.into(), rounds, result, first_error: None }
    }

    #[test]
    fn rounds_become_medians_sums_and_maxima() {
        let rounds = [figures(10.0, 1.0, 5.0), figures(30.0, 2.0, 7.0), figures(20.0, 0.0, 6.0)];
        assert_eq!(Figures::folded(&rounds), figures(20.0, 3.0, 7.0));
        assert_eq!(Figures::folded(&rounds[..2]), figures(20.0, 3.0, 7.0));
    }

    #[test]
    fn two_targets_stand_side_by_side_with_their_ratio() {
        let mut a = target("127.0.0.1:1", vec![figures(3000.0, 0.0, 1.5)]);
        a.result.push("cpu_us_per_op:a", 7.0);
        a.first_error = Some("SERVER_ERROR down".into());
        let b = target("127.0.0.1:2", vec![figures(2000.0, 0.0, 3.0)]);
        let expected = "                  127.0.0.1:1   127.0.0.1:2     ratio
ops_per_s                3000          2000     1.500
errors                      0             0         -
longest_gap_ms           1.50          3.00     0.500
cpu_us_per_op:a          7.00             -         -
first error of 127.0.0.1:1: SERVER_ERROR down
";
        assert_eq!(table(&[a, b]), expected);
    }

    #[test]
    fn json_has_the_names_of_the_table() {
        let one = [target("h:1", vec![figures(3000.0, 0.0, 1.5)])];
        let text = json(&"o", &one).unwrap();
        let figures = r#"{"ops_per_s":3000.0,"errors":0.0,"longest_gap_ms":1.5}"#;
        let target = format!(r#"{{"target":"h:1","rounds":[{figures}],"result":{figures},"first_error":null}}"#);
        assert_eq!(text, format!(r#"{{"options":"o","targets":[{target}]}}"#));
    }
}
