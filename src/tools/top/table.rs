//! What kumotop shows: a row for each server, the sum of all, and how the requests per second went. Pure.

use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::tools::stat::replace_state;
use crate::tools::watch::Sample;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Sparkline, Table as Grid};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

/// Samples of the whole cluster that are kept for the sparkline: as many as the widest terminals have columns.
const HISTORY: usize = 512;
/// Height in lines from which the sparkline is shown.
const TALL: u16 = 10;
/// Columns of the address; the rest have [`WIDTHS`].
const ADDRESS_WIDTH: u16 = 21;
/// Columns of each number, of the state last.
const WIDTHS: [u16; 11] = [10, 10, 9, 8, 8, 7, 9, 10, 10, 10, 8];
/// kumofs's headings.
const HEADINGS: [&str; 12] =
    ["address", "#Get", "#Set", "#Del", "Get/s", "Set/s", "Del/s", "QPS", "items", "time", "clock", "status"];
/// The columns that are left out first on a narrow terminal, by their places in [`HEADINGS`].
const DISPENSABLE: [usize; 6] = [9, 10, 6, 3, 1, 2];

/// A server.
#[derive(Clone, PartialEq, Debug, Default)]
struct Row {
    newest: Option<Sample>,
    /// Gets, sets and deletes per second.
    rates: [f64; 3],
    /// The manager says that it is taken for dead.
    fault: bool,
    /// Why it does not answer.
    trouble: Option<String>,
}

impl Row {
    fn status(&self) -> &str {
        match (&self.newest, &self.trouble) {
            _ if self.fault => "fault",
            (_, Some(_)) => "silent",
            (Some(sample), None) => replace_state(sample.replace),
            (None, None) => "...",
        }
    }

    /// What the columns behind the address hold.
    fn numbers(&self) -> [f64; 10] {
        let Some(s) = self.newest else { return [0.0; 10] };
        let time = ClockTime(s.clock_time);
        let [gets, sets, deletes] = self.rates;
        let counts = [s.gets as f64, s.sets as f64, s.deletes as f64];
        let [g, st, d] = counts;
        let clock = (time.unix_secs() as f64, f64::from(time.counter()));
        [g, st, d, gets, sets, deletes, gets + sets + deletes, s.items as f64, clock.0, clock.1]
    }
}

/// All rows, and how they are to be shown.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<Address, Row>,
    /// Requests per second of all, newest last.
    history: VecDeque<u64>,
    /// A place in [`HEADINGS`].
    sorted_by: usize,
    descending: bool,
    paused: bool,
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
            row.rates = [0.0; 3];
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
        if row.newest.is_some_and(|newest| newest.at == sample.at) {
            return;
        }
        row.trouble = None;
        if let Some(before) = row.newest {
            let secs = sample.at.saturating_duration_since(before.at).as_secs_f64();
            let rate = |now: u64, then: u64| if secs > 0.0 { now.saturating_sub(then) as f64 / secs } else { 0.0 };
            row.rates =
                [rate(sample.gets, before.gets), rate(sample.sets, before.sets), rate(sample.deletes, before.deletes)];
        }
        row.newest = Some(sample);
        // One value for each round, whoever is first.
        if self.rows.keys().next() == Some(&address) {
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
        row.rates = [0.0; 3];
        self.changed();
    }

    fn changed(&mut self) {
        if !self.paused {
            self.version += 1;
        }
    }

    /// Sorts by the column after the present one, or before it.
    pub fn sort_by_next(&mut self, forward: bool) {
        let step = if forward { 1 } else { HEADINGS.len() - 1 };
        self.sorted_by = (self.sorted_by + step) % HEADINGS.len();
        self.version += 1;
    }

    /// Turns the order.
    pub fn turn_order(&mut self) {
        self.descending = !self.descending;
        self.version += 1;
    }

    /// Stops and goes on.
    pub fn pause(&mut self) {
        self.paused = !self.paused;
        self.version += 1;
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

    fn requests_per_sec(&self) -> u64 {
        self.rows.values().map(|row| row.rates.iter().sum::<f64>()).sum::<f64>() as u64
    }

    fn sorted(&self) -> Vec<(&Address, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        match self.sorted_by {
            0 => {}
            column if column < HEADINGS.len() - 1 => {
                rows.sort_by(|(_, a), (_, b)| a.numbers()[column - 1].total_cmp(&b.numbers()[column - 1]));
            }
            _ => rows.sort_by_key(|(_, row)| row.status().to_owned()),
        }
        if self.descending {
            rows.reverse();
        }
        rows
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let cells = |(address, row): (&Address, &Row)| {
            let numbers = row.numbers().map(|n| format!("{n:.0}"));
            [address.to_string()].into_iter().chain(numbers).chain([row.status().to_owned()]).collect()
        };
        self.sorted().into_iter().map(cells).collect()
    }

    /// The sum of all, under the same headings.
    fn total(&self) -> Vec<String> {
        let mut sums = [0.0; 10];
        for row in self.rows.values() {
            sums.iter_mut().zip(row.numbers()).for_each(|(sum, n)| *sum += n);
        }
        let shown = |(i, sum): (usize, &f64)| if i < 8 { format!("{sum:.0}") } else { String::new() };
        let name = format!("{} servers", self.rows.len());
        [name].into_iter().chain(sums.iter().enumerate().map(shown)).chain([String::new()]).collect()
    }

    /// One table for scripts: headings, a line for each server, and the sum.
    pub fn text(&self) -> String {
        let heads = HEADINGS.map(str::to_owned).to_vec();
        let lines = [heads].into_iter().chain(self.cells()).chain([self.total()]);
        lines.map(|cells| format!("{}\n", aligned(&cells).trim_end())).collect()
    }

    /// The same as an array of objects.
    pub fn json(&self) -> String {
        let object = |(address, row): (&Address, &Row)| {
            let [gets, sets, deletes, get_rate, set_rate, delete_rate, rate, items, time, clock] = row.numbers();
            json!({
                "server": address.to_string(), "status": row.status(), "error": row.trouble,
                "gets": gets as u64, "sets": sets as u64, "deletes": deletes as u64,
                "gets_per_sec": get_rate, "sets_per_sec": set_rate, "deletes_per_sec": delete_rate,
                "requests_per_sec": rate, "items": items as u64, "time": time as u64, "clock": clock as u64,
            })
        };
        format!("{}\n", serde_json::Value::Array(self.sorted().into_iter().map(object).collect()))
    }

    /// Draws everything.
    pub fn render(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let graph = if area.height >= TALL { 3 } else { 0 };
        let parts = [Constraint::Length(1), Constraint::Length(graph), Constraint::Min(1), Constraint::Length(1)];
        let [head, line, body, foot] = Layout::vertical(parts).areas(area);
        let paused = if self.paused { "  paused" } else { "" };
        let title = format!("kumotop  {} requests/s{paused}", self.requests_per_sec());
        frame.render_widget(Paragraph::new(title).style(Modifier::BOLD), head);
        let skipped = self.history.len().saturating_sub(usize::from(line.width));
        let history: Vec<u64> = self.history.iter().skip(skipped).copied().collect();
        frame.render_widget(Sparkline::default().data(history).style(Color::Green), line);
        self.render_rows(frame, body);
        let keys = "q leave  s/S sort  r turn  p pause";
        frame.render_widget(Paragraph::new(Line::styled(keys, Modifier::DIM)), foot);
    }

    fn render_rows(&self, frame: &mut Frame<'_>, area: Rect) {
        let columns = columns_for(area.width, self.sorted_by);
        let pick = |cells: &[String]| -> Vec<Cell<'static>> {
            let cell = |column: &usize| match *column {
                0 => Cell::new(cells[0].clone()),
                column => Cell::new(Line::from(cells[column].clone()).right_aligned()),
            };
            columns.iter().map(cell).collect()
        };
        let arrow = if self.descending { "▼" } else { "▲" };
        let mut heads = HEADINGS.map(str::to_owned).to_vec();
        heads[self.sorted_by].push_str(arrow);
        let rows = self.cells().into_iter().map(|cells| {
            let style = match cells[HEADINGS.len() - 1].as_str() {
                "fault" | "silent" => Style::from(Color::Red),
                "ready" => Style::default(),
                _ => Style::from(Color::Yellow),
            };
            TableRow::new(pick(&cells)).style(style)
        });
        let widths = columns.iter().map(|column| Constraint::Length(width_of(*column)));
        let grid = Grid::new(rows, widths)
            .header(TableRow::new(pick(&heads)).style(Modifier::REVERSED))
            .footer(TableRow::new(pick(&self.total())).style(Modifier::BOLD));
        frame.render_widget(grid, area);
    }
}

fn width_of(column: usize) -> u16 {
    column.checked_sub(1).map_or(ADDRESS_WIDTH, |place| WIDTHS[place])
}

/// The columns that fit. The one that the rows are sorted by is never left out.
fn columns_for(width: u16, sorted_by: usize) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..HEADINGS.len()).collect();
    // One more for the space between two.
    let needed = |columns: &[usize]| columns.iter().map(|c| width_of(*c) + 1).sum::<u16>();
    for column in DISPENSABLE.into_iter().filter(|column| *column != sorted_by) {
        if needed(&columns) <= width + 1 {
            break;
        }
        columns.retain(|c| *c != column);
    }
    columns
}

fn aligned(cells: &[String]) -> String {
    let mut line = format!("{:<width$}", cells[0], width = usize::from(ADDRESS_WIDTH));
    for (cell, width) in cells[1..].iter().zip(WIDTHS) {
        line.push_str(&format!(" {cell:>width$}", width = usize::from(width)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    fn server(n: u8) -> Address {
        Address::new(([10, 0, 0, n], 19800).into())
    }

    fn sample(at: Instant, gets: u64) -> Sample {
        Sample { at, gets, sets: 10, deletes: 1, items: 9, clock_time: (1_700_000_000 << 32) | 77, replace: 0 }
    }

    fn two() -> Table {
        let start = Instant::now();
        let mut table = Table::default();
        table.add(server(1), sample(start, 100));
        table.add(server(2), sample(start, 50));
        table.add(server(1), sample(start + Duration::from_millis(500), 150));
        table.add(server(2), sample(start + Duration::from_millis(500), 50));
        table
    }

    fn drawn(table: &Table, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| table.render(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content.chunks(usize::from(width));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn a_table_for_scripts_has_kumofss_columns_rates_and_a_sum() {
        let text = two().text();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], HEADINGS);
        let first = ["10.0.0.1:19800", "150", "10", "1", "100", "0", "0", "100", "9", "1700000000", "77", "ready"];
        assert_eq!(words[1], first);
        assert_eq!(words[3][..10], ["2", "servers", "200", "20", "2", "100", "0", "0", "100", "18"]);
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
        table.turn_order();
        assert!(table.text().lines().nth(1).unwrap().starts_with("10.0.0.1"));
        table.sort_by_next(false);
        table.sort_by_next(false);
        assert_eq!(table.sorted_by, HEADINGS.len() - 1);
    }

    #[test]
    fn a_pause_stops_the_screen_and_keys_still_show() {
        let mut table = two();
        table.pause();
        let version = table.version();
        table.add(server(1), sample(Instant::now(), 500));
        assert_eq!(table.version(), version);
        table.turn_order();
        assert_ne!(table.version(), version);
        assert!(drawn(&table, 80, 24)[0].ends_with("paused"));
    }

    #[test]
    fn on_80_by_24_the_columns_that_matter_are_there() {
        let lines = drawn(&two(), 80, 24);
        assert_eq!(lines[0], "kumotop  100 requests/s");
        let heads = lines.iter().find(|line| line.contains("address")).unwrap();
        for head in ["Get/s", "Set/s", "QPS", "items", "status"] {
            assert!(heads.contains(head), "{heads}");
        }
        assert!(lines.iter().any(|line| line.starts_with("10.0.0.1:19800") && line.ends_with("ready")), "{lines:?}");
        assert!(lines[23].starts_with("q leave"));
    }

    #[test]
    fn the_column_of_the_order_is_shown_on_a_narrow_screen_too() {
        let mut table = two();
        table.sort_by_next(true);
        let lines = drawn(&table, 80, 24);
        assert!(lines.iter().any(|line| line.contains("#Get▲")), "{lines:?}");
    }

    #[test]
    fn any_size_is_drawn() {
        for (width, height) in [(1, 1), (10, 2), (40, 5), (200, 60)] {
            drawn(&two(), width, height);
        }
        let wide = drawn(&two(), 200, 60);
        assert!(HEADINGS.iter().all(|head| wide.iter().any(|line| line.contains(head))));
        drawn(&Table::default(), 80, 24);
    }

    #[test]
    fn json_has_an_object_for_each_server() {
        let value: serde_json::Value = serde_json::from_str(&two().json()).unwrap();
        assert_eq!(value[0]["gets"], 150);
        assert_eq!(value[0]["requests_per_sec"], 100.0);
        assert_eq!(value[1]["server"], "10.0.0.2:19800");
    }
}
