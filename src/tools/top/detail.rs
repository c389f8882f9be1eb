//! The page about one server. Pure: lines of text.

use super::circle::Share;
use super::row::{Column, Row, micros, scaled};
use crate::logic::address::Address;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

/// Letters of the bars before hottest keys.
const BAR: u64 = 20;

/// What is known of a server; `share`: its part of the ring. Keys are escaped: anybody may have chosen them.
pub fn lines(address: Address, row: &Row, share: Option<&Share>) -> Vec<Line<'static>> {
    let numbers = row.numbers();
    let show = |column: Column| column.show(row.value(column));
    let time = |n: Option<u64>| n.map_or("-".to_owned(), |n| micros(n as f64));
    let bytes = |n: Option<u64>| n.map_or("-".to_owned(), |n| scaled(n as f64, 1024.0));
    let count = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let mut lines = vec![Line::styled(format!("{address}  {}", row.state()), state_style(row.status()))];
    lines.extend(row.trouble.iter().map(|why| Line::styled(why.clone(), Color::Red)));
    let mut say = |text: String| lines.push(Line::from(text));
    say(format!(
        "epoch {}   workers {}   connections {}",
        count(numbers.epoch),
        count(numbers.workers),
        count(numbers.connections)
    ));
    if let Some(share) = share {
        say(format!("ring: first for {:.1}% of all keys, holds {:.1}%", share.first * 100.0, share.held * 100.0));
    }
    let [gets, sets, deletes] = row.rates;
    say(format!("per second: {gets:.0} gets ({}% hits), {sets:.0} sets, {deletes:.0} deletes", show(Column::Hits)));
    say(format!(
        "since its start: {} gets, {} sets, {} deletes",
        show(Column::Gets),
        show(Column::Sets),
        show(Column::Deletes)
    ));
    if row.newest.as_ref().is_some_and(|s| s.more.is_none()) {
        say("it tells no more than kumofs 0.4 does".to_owned());
        return lines;
    }
    let (p50, p99, max) = (numbers.get_p50_micros, numbers.get_p99_micros, numbers.get_max_micros);
    say(format!("gets take {} (99%: {}, longest {}) of late", time(p50), time(p99), time(max)));
    let (p50, p99, max) = (numbers.set_p50_micros, numbers.set_p99_micros, numbers.set_max_micros);
    say(format!("changes take {} (99%: {}, longest {})", time(p50), time(p99), time(max)));
    say(format!("requests that wait for their range: {}", count(numbers.parked)));
    say(format!("records: {}, deletion marks: {}", count(numbers.items), count(numbers.marks)));
    say(format!(
        "disk: {} used, {} of {} free",
        bytes(numbers.disk_used_bytes),
        bytes(numbers.disk_free_bytes),
        bytes(numbers.disk_total_bytes)
    ));
    say(format!("memory: {}, of that the index {}", bytes(numbers.memory_bytes), bytes(numbers.index_bytes)));
    lines
}

/// The other columns of the page: who is behind, the hottest keys, who is connected.
pub fn lists(row: &Row) -> Vec<Line<'static>> {
    let Some(more) = row.newest.as_ref().and_then(|s| s.more.as_ref()) else { return Vec::new() };
    let head = |text: &'static str| Line::styled(text, Modifier::BOLD);
    let mut lines = vec![head("hottest keys")];
    for hot in &more.hottest {
        let bar = "█".repeat((hot.ppm.min(1_000_000) * BAR / 1_000_000) as usize);
        lines.push(Line::from(format!("{:>5.1}% {} {bar}", hot.ppm as f64 / 1e4, hot.key.escape_ascii())));
    }
    if more.hottest.is_empty() {
        lines.push(Line::from("none stands out"));
    }
    lines.push(head("not acknowledged by"));
    for (address, lag) in &more.lags {
        let age = micros(lag.age_micros as f64);
        let text = match (lag.up, lag.entries) {
            (true, 0) => format!("{address}  none"),
            (true, n) => format!("{address}  {n} changes, {}B, {age} old", scaled(lag.bytes as f64, 1024.0)),
            (false, n) => format!("{address}  not connected, {n} changes, {age} old"),
        };
        lines.push(Line::styled(text, if lag.up { Style::default() } else { Color::Red.into() }));
    }
    lines.push(head("connections"));
    for (caller, from, count) in &more.callers {
        lines.push(Line::from(format!("{count:>5} {} {}", caller.name(), from.socket_addr().ip())));
    }
    lines
}

/// How a state is coloured.
pub fn state_style(status: &str) -> Style {
    match status {
        "fault" | "silent" => Style::from(Color::Red),
        "ready" => Style::default(),
        _ => Style::from(Color::Yellow),
    }
}
