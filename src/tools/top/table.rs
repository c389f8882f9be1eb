//! What kumotop shows: a row for each server, the sum of all, and how the requests per second went. Pure.
//!
//! [`super::screen`] draws it.

use super::row::{Column, Row};
use crate::logic::address::Address;
use crate::logic::ring::HashSpace;
use crate::tools::stat::details_json;
use crate::tools::watch::Sample;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

/// Samples of the whole cluster that are kept for the sparkline: as many as the widest terminals have columns.
const HISTORY: usize = 512;
/// Columns of the address, and of each number, in the table for scripts; of the state last.
const ADDRESS_WIDTH: usize = 21;
const WIDTHS: [usize; 11] = [10, 10, 9, 8, 8, 7, 9, 10, 10, 10, 8];
/// Letters of a filter.
const FILTER_MAX: usize = 64;

/// What is on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Page {
    /// All servers.
    #[default]
    Servers,
    /// One of them.
    Detail(Address),
    /// The ring.
    Ring,
}

/// All rows, and how they are to be shown.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<Address, Row>,
    /// Requests per second of all, newest last.
    history: VecDeque<u64>,
    space: HashSpace,
    /// What the rows are sorted by.
    pub sorted_by: Column,
    /// The other way round.
    pub descending: bool,
    /// The screen stands still.
    pub paused: bool,
    /// What is on it.
    pub page: Page,
    /// Only servers whose address or state has this in it.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    /// The row that Enter opens.
    pub selected: Option<Address>,
    /// Lines of a page above the screen.
    pub scrolled: u16,
    version: u64,
}

impl Table {
    /// Grows with each change of what is to be seen.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A server is to be shown; `fault`: it is taken for dead, and works no more.
    pub fn expect(&mut self, address: Address, fault: bool) {
        let known = self.rows.contains_key(&address);
        let row = self.rows.entry(address).or_default();
        if std::mem::replace(&mut row.fault, fault) == fault && known {
            return;
        }
        if fault {
            row.stand();
        }
        self.changed();
    }

    /// Servers that are not `wanted` are not shown any more.
    pub fn keep(&mut self, wanted: impl Fn(Address) -> bool) {
        let before = self.rows.len();
        self.rows.retain(|address, _| wanted(*address));
        if self.rows.len() < before {
            self.changed();
        }
    }

    /// A server answered; what it told already is no news.
    pub fn add(&mut self, address: Address, sample: Sample) {
        let row = self.rows.entry(address).or_default();
        if row.newest.as_ref().is_some_and(|newest| newest.at == sample.at) {
            return;
        }
        row.add(sample);
        // One value for each round, whoever is first of those that answer.
        let first = self.rows.iter().find(|(_, row)| !row.fault && row.trouble.is_none());
        if first.map(|(first, _)| *first) == Some(address) {
            self.history.push_back(self.requests_per_sec());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.changed();
    }

    /// A server does not answer: its rates are none, its totals stay.
    pub fn failed(&mut self, address: Address, why: &str) {
        let row = self.rows.entry(address).or_default();
        if row.trouble.as_deref() == Some(why) {
            return;
        }
        row.trouble = Some(why.to_owned());
        row.stand();
        self.changed();
    }

    /// Who is on the ring.
    pub fn lie_on(&mut self, space: HashSpace) {
        if self.space != space {
            self.space = space;
            self.changed();
        }
    }

    fn changed(&mut self) {
        if !self.paused {
            self.version += 1;
        }
    }

    /// A key was pressed that changes what is to be seen.
    pub fn touched(&mut self) {
        self.version += 1;
    }

    /// Sorts by the column after the present one, or before it.
    pub fn sort_by_next(&mut self, forward: bool) {
        let all = Column::ALL;
        let step = if forward { 1 } else { all.len() - 1 };
        let place = all.iter().position(|c| *c == self.sorted_by).unwrap_or(0);
        self.sorted_by = all[(place + step) % all.len()];
        if self.sorted_by == Column::Course {
            self.sort_by_next(forward);
        }
    }

    /// Selects the row so many below, or above.
    pub fn select(&mut self, by: isize) {
        let shown: Vec<Address> = self.shown().into_iter().map(|(address, _)| *address).collect();
        let now = shown.iter().position(|address| Some(*address) == self.selected);
        let next = now.map_or(0, |now| now.saturating_add_signed(by)).min(shown.len().saturating_sub(1));
        self.selected = shown.get(next).copied();
    }

    /// A letter of the filter.
    pub fn type_letter(&mut self, letter: char) {
        if self.filter.len() < FILTER_MAX && !letter.is_control() {
            self.filter.push(letter);
        }
    }

    /// Whether every server answered, or is known not to.
    pub fn all_answered(&self) -> bool {
        self.rows.values().all(|row| row.newest.is_some() || row.fault || row.trouble.is_some())
    }

    /// The servers that do not answer and are not taken for dead.
    pub fn silent(&self) -> impl Iterator<Item = Address> + '_ {
        let silent = |row: &Row| !row.fault && (row.newest.is_none() || row.trouble.is_some());
        self.rows.iter().filter(move |(_, row)| silent(row)).map(|(address, _)| *address)
    }

    /// Requests per second of all.
    pub fn requests_per_sec(&self) -> u64 {
        self.rows.values().map(Row::requests_per_sec).sum::<f64>() as u64
    }

    /// The course of that.
    pub fn history(&self) -> &VecDeque<u64> {
        &self.history
    }

    /// Who is on the ring.
    pub fn space(&self) -> &HashSpace {
        &self.space
    }

    /// All rows, by address.
    pub fn rows(&self) -> &BTreeMap<Address, Row> {
        &self.rows
    }

    /// The rows that the filter lets through, in their order.
    pub fn shown(&self) -> Vec<(&Address, &Row)> {
        let wanted = |(address, row): &(&Address, &Row)| {
            self.filter.is_empty() || address.to_string().contains(&self.filter) || row.state().contains(&self.filter)
        };
        let mut rows: Vec<_> = self.rows.iter().filter(wanted).collect();
        match self.sorted_by {
            Column::Address => {}
            Column::Status => rows.sort_by_key(|(_, row)| row.state()),
            // What is not known comes before the lowest.
            column => rows.sort_by(|(_, a), (_, b)| {
                let value = |row: &Row| row.value(column).unwrap_or(-1.0);
                value(a).total_cmp(&value(b))
            }),
        }
        if self.descending {
            rows.reverse();
        }
        rows
    }

    /// The sum of a column over all rows, or for what has no sum the highest; `None`: nothing is known.
    pub fn total(&self, column: Column) -> Option<f64> {
        let values = self.rows.values().filter_map(|row| row.value(column));
        match column {
            Column::Hits => self.hit_rate(),
            column if column.adds_up() => values.reduce(|a, b| a + b),
            Column::P50 | Column::P99 | Column::Lag => values.reduce(f64::max),
            _ => None,
        }
    }

    fn hit_rate(&self) -> Option<f64> {
        let of = |row: &Row| Some((row.rates[0], row.hit_rate?));
        let (gets, hits) =
            self.rows.values().filter_map(of).fold((0.0, 0.0), |sum, (gets, rate)| (sum.0 + gets, sum.1 + gets * rate));
        (gets > 0.0).then(|| hits / gets * 100.0)
    }

    /// One table for scripts, with kumofs's columns: headings, a line for each server, and the sum.
    pub fn text(&self) -> String {
        let [_, numbers @ .., _] = Column::KUMOFS;
        let plain = |value: Option<f64>| format!("{:.0}", value.unwrap_or(0.0));
        let heads = Column::KUMOFS.map(|c| c.heading().to_owned()).to_vec();
        let row = |(address, row): (&Address, &Row)| -> Vec<String> {
            let cells = numbers.iter().map(|column| plain(row.value(*column)));
            [address.to_string()].into_iter().chain(cells).chain([row.status().to_owned()]).collect()
        };
        let sum = |column: &Column| if column.adds_up() { plain(self.total(*column)) } else { String::new() };
        let total = [count_of(self.rows.len())].into_iter().chain(numbers.iter().map(sum)).collect();
        let lines = [heads].into_iter().chain(self.shown().into_iter().map(row)).chain([total]);
        lines.map(|cells| format!("{}\n", aligned(&cells).trim_end())).collect()
    }

    /// The same as an array of objects, with all that a server tells.
    pub fn json(&self) -> String {
        let object = |(address, row): (&Address, &Row)| {
            let value = |column| row.value(column).unwrap_or(0.0);
            let progress = row.progress();
            json!({
                "server": address.to_string(), "status": row.status(), "error": row.trouble,
                "gets": value(Column::Gets) as u64, "sets": value(Column::Sets) as u64,
                "deletes": value(Column::Deletes) as u64, "gets_per_sec": row.rates[0], "sets_per_sec": row.rates[1],
                "deletes_per_sec": row.rates[2], "requests_per_sec": row.requests_per_sec(),
                "items": value(Column::Items) as u64, "time": value(Column::Time) as u64,
                "clock": value(Column::Clock) as u64, "hit_rate": row.hit_rate,
                "progress_ppm": progress.map(|p| p.0), "seconds_left": progress.and_then(|p| p.1),
                "details": row.newest.as_ref().and_then(|s| s.more.as_ref()).map(|more| details_json(more)),
            })
        };
        format!("{}\n", serde_json::Value::Array(self.shown().into_iter().map(object).collect()))
    }
}

fn aligned(cells: &[String]) -> String {
    let mut line = format!("{:<ADDRESS_WIDTH$}", cells[0]);
    for (cell, width) in cells[1..].iter().zip(WIDTHS) {
        line.push_str(&format!(" {cell:>width$}"));
    }
    line
}

/// So many servers, in words.
pub fn count_of(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::logic::hottest::Hot;
    use crate::logic::ring::Node;
    use crate::proto::rpc::v1::{Caller, Lag, Numbers, Statistics};
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    /// An address for tests.
    pub fn server(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    fn sample(at: Instant, gets: u64) -> Sample {
        let clock_time = (1_700_000_000 << 32) | 77;
        Sample { at, gets, sets: 10, deletes: 1, items: 9, clock_time, replace: 0, more: None }
    }

    /// What a server of ours tells.
    pub fn told(gets: u64) -> Statistics {
        let numbers = Numbers {
            gets: Some(gets),
            misses: Some(gets / 10),
            get_p50_micros: Some(120),
            get_p99_micros: Some(900),
            set_p50_micros: Some(400),
            set_p99_micros: Some(2_300),
            disk_used_bytes: Some(3 << 30),
            disk_free_bytes: Some(9 << 30),
            memory_bytes: Some(700 << 20),
            index_bytes: Some(300 << 20),
            connections: Some(12),
            ..Numbers::default()
        };
        let lag = Lag { entries: 4, bytes: 600, age_micros: 1_500, up: true };
        Statistics {
            numbers,
            lags: vec![(server(2), lag)],
            callers: vec![(Caller::Gateway, Address::new(([10, 0, 0, 9], 0).into()), 4)],
            hottest: vec![Hot { key: b"user:1\x1b[2J".to_vec(), ppm: 250_000 }],
        }
    }

    /// Two servers, the first of which is ours and serves 100 gets a second; the other is one of kumofs 0.4.
    pub fn two() -> Table {
        let start = Instant::now();
        let mut table = Table::default();
        let nodes = (1..=2).map(|n| Node::new(server(n), true)).collect();
        table.lie_on(HashSpace { nodes, ..HashSpace::default() });
        for (half, gets) in [(0, 100), (1, 150)] {
            let at = start + half * Duration::from_millis(500);
            table.add(server(1), Sample { more: Some(Rc::new(told(gets))), ..sample(at, gets) });
            table.add(server(2), sample(at, 50));
        }
        table
    }

    #[test]
    fn a_table_for_scripts_has_kumofss_columns_rates_and_a_sum() {
        let text = two().text();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let heads =
            ["address", "#Get", "#Set", "#Del", "Get/s", "Set/s", "Del/s", "QPS", "items", "time", "clock", "status"];
        assert_eq!(words[0], heads);
        let first = ["10.0.0.1:19800", "150", "10", "1", "100", "0", "0", "100", "9", "1700000000", "77", "ready"];
        assert_eq!(words[1], first);
        assert_eq!(words[3], ["2", "servers", "200", "20", "2", "100", "0", "0", "100", "18"]);
    }

    #[test]
    fn one_that_does_not_answer_has_no_rate_and_says_so() {
        let mut table = two();
        table.failed(server(1), "no answer");
        table.expect(server(3), true);
        let text = table.text();
        assert!(text.lines().nth(1).unwrap().ends_with("silent"), "{text}");
        assert!(text.lines().nth(3).unwrap().ends_with("fault"), "{text}");
        assert_eq!(table.silent().collect::<Vec<_>>(), [server(1)]);
        assert!(table.all_answered());
        table.keep(|address| address != server(1));
        assert_eq!(table.silent().count(), 0);
    }

    #[test]
    fn sorted_by_any_column_in_both_orders() {
        let mut table = two();
        table.sort_by_next(true);
        assert!(table.text().lines().nth(1).unwrap().starts_with("10.0.0.2"));
        table.descending = true;
        assert!(table.text().lines().nth(1).unwrap().starts_with("10.0.0.1"));
        table.sort_by_next(false);
        table.sort_by_next(false);
        assert_eq!(table.sorted_by, Column::Status);
        (0..60).for_each(|_| {
            table.sort_by_next(true);
            assert_eq!(table.shown().len(), 2);
            assert_ne!(table.sorted_by, Column::Course);
        });
    }

    #[test]
    fn the_filter_lets_through_what_has_it_in_address_or_state() {
        let mut table = two();
        table.failed(server(2), "no answer");
        "silent".chars().for_each(|c| table.type_letter(c));
        assert_eq!(table.shown().into_iter().map(|(a, _)| *a).collect::<Vec<_>>(), [server(2)]);
        table.filter = "0.1:".to_owned();
        assert_eq!(table.shown()[0].0, &server(1));
        (0..200).for_each(|_| table.type_letter('x'));
        assert_eq!((table.shown().len(), table.filter.len()), (0, FILTER_MAX));
        table.select(1);
        assert_eq!(table.selected, None);
    }

    #[test]
    fn the_selection_stays_with_its_server_and_within_the_rows() {
        let mut table = two();
        table.select(1);
        assert_eq!(table.selected, Some(server(1)));
        table.select(5);
        assert_eq!(table.selected, Some(server(2)));
        table.descending = true;
        table.select(1);
        assert_eq!(table.selected, Some(server(1)));
        table.select(-9);
        assert_eq!(table.selected, Some(server(2)));
    }

    #[test]
    fn totals_are_sums_or_the_worst_and_the_hit_rate_is_weighted() {
        let table = two();
        assert_eq!(table.total(Column::Gets), Some(200.0));
        assert_eq!(table.total(Column::P99), Some(2_300.0));
        assert_eq!(table.total(Column::Lag), Some(1_500.0));
        assert_eq!(table.total(Column::Hits), Some(90.0));
        assert_eq!((table.total(Column::Time), Table::default().total(Column::Rate)), (None, None));
    }

    #[test]
    fn the_history_goes_on_when_the_first_server_is_silent() {
        let mut table = two();
        let before = table.history().len();
        table.failed(server(1), "no answer");
        table.add(server(2), sample(Instant::now() + Duration::from_secs(9), 70));
        assert_eq!(table.history().len(), before + 1);
    }

    #[test]
    fn json_has_an_object_for_each_server() {
        let value: serde_json::Value = serde_json::from_str(&two().json()).unwrap();
        assert_eq!(value[0]["gets"], 150);
        assert_eq!(value[0]["requests_per_sec"], 100.0);
        assert_eq!(value[0]["details"]["hottest"][0]["key"], "user:1\\x1b[2J");
        assert_eq!(value[1]["server"], "10.0.0.2:19800");
        assert_eq!(value[1]["details"], serde_json::Value::Null);
    }
}
