//! How kumotop's pages are laid out, on a terminal of any size. Pure.

use super::circle::{self, Share};
use super::detail::{self, state_style};
use super::row::{Column, Row};
use super::table::{Page, Table};
use crate::logic::address::Address;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as GridRow, Sparkline, Table as Grid};

/// Heights in lines from which the course of all requests is shown, and how high it is then.
const TALL: u16 = 14;
const COURSE_LINES: u16 = 3;
/// Widths of the address and of the state, at least and at most.
const ADDRESS_WIDTHS: (u16, u16) = (9, 47);
const STATUS_WIDTHS: (u16, u16) = (6, 20);
/// From this width on, a page has two columns.
const WIDE: u16 = 90;
/// Colours of servers in the picture of the ring.
const COLORS: [Color; 6] = [Color::Green, Color::Yellow, Color::Blue, Color::Magenta, Color::Cyan, Color::Red];
/// A row's course, from nothing to its highest.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws everything.
pub fn render(table: &Table, frame: &mut Frame<'_>) {
    let area = frame.area();
    let course = if table.page == Page::Servers && area.height >= TALL { COURSE_LINES } else { 0 };
    let parts = [Constraint::Length(1), Constraint::Length(course), Constraint::Min(1), Constraint::Length(1)];
    let [head, line, body, foot] = Layout::vertical(parts).areas(area);
    frame.render_widget(Paragraph::new(title(table)).style(Modifier::BOLD), head);
    let skipped = table.history().len().saturating_sub(usize::from(line.width));
    let history: Vec<u64> = table.history().iter().skip(skipped).copied().collect();
    frame.render_widget(Sparkline::default().data(history).style(Color::Green), line);
    match table.page {
        Page::Servers => servers(table, frame, body),
        Page::Detail(address) => detail(table, address, frame, body),
        Page::Ring => ring(table, frame, body),
    }
    frame.render_widget(Paragraph::new(Line::styled(keys(table), Modifier::DIM)), foot);
}

fn title(table: &Table) -> String {
    let rows = table.rows();
    let mut title = format!("kumotop  {} requests/s  {}", table.requests_per_sec(), super::table::count_of(rows.len()));
    for state in ["fault", "silent", "inactive", "Copying", "Deleting", "WAIT"] {
        let so = rows.values().filter(|row| row.status() == state).count();
        if so > 0 {
            title.push_str(&format!(", {so} {state}"));
        }
    }
    if !table.filter.is_empty() {
        title.push_str(&format!("  showing {}", table.filter));
    }
    if table.paused {
        title.push_str("  paused");
    }
    title
}

fn keys(table: &Table) -> String {
    match (table.typing, table.page) {
        (true, _) => format!("/{}_  Enter: keep  Esc: no filter", table.filter),
        (false, Page::Servers) => "q leave  Enter detail  s/S sort  o order  / filter  r ring  p pause".to_owned(),
        (false, _) => "q leave  Esc back  up/down scroll  p pause".to_owned(),
    }
}

fn servers(table: &Table, frame: &mut Frame<'_>, area: Rect) {
    let rows = table.shown();
    let longest = |texts: &mut dyn Iterator<Item = usize>, (least, most): (u16, u16)| {
        u16::try_from(texts.max().unwrap_or(0)).unwrap_or(most).clamp(least, most)
    };
    let address = longest(&mut rows.iter().map(|(a, _)| a.to_string().len() + 1), ADDRESS_WIDTHS);
    let status = longest(&mut rows.iter().map(|(_, row)| row.state().len()), STATUS_WIDTHS);
    let width_of = |column: Column| match column {
        Column::Address => address.min(area.width / 2),
        Column::Status => status,
        column => column.width(),
    };
    let columns = columns_for(area.width, table.sorted_by, width_of);
    let heads = columns.iter().map(|column| {
        let arrow = match (*column == table.sorted_by, table.descending) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        placed(*column, format!("{}{arrow}", column.heading()))
    });
    let total = columns.iter().map(|column| match column {
        Column::Address => Cell::new("total"),
        Column::Status => Cell::new(""),
        column => placed(*column, table.total(*column).map_or(String::new(), |sum| column.show(Some(sum)))),
    });
    // The heading and the total take a line each; the selected row is kept in sight.
    let room = usize::from(area.height.saturating_sub(2));
    let selected = rows.iter().position(|(address, _)| Some(**address) == table.selected);
    let skipped = selected.map_or(0, |place| (place + 1).saturating_sub(room));
    let body = rows.iter().skip(skipped).take(room.max(1)).map(|(address, row)| {
        let style = state_style(row.status());
        let chosen = if Some(**address) == table.selected { style.add_modifier(Modifier::REVERSED) } else { style };
        GridRow::new(columns.iter().map(|column| cell(**address, row, *column))).style(chosen)
    });
    let grid = Grid::new(body.collect::<Vec<_>>(), columns.iter().map(|c| Constraint::Length(width_of(*c))))
        .header(GridRow::new(heads).style(Modifier::REVERSED))
        .footer(GridRow::new(total).style(Modifier::BOLD));
    frame.render_widget(grid, area);
}

fn cell(address: Address, row: &Row, column: Column) -> Cell<'static> {
    match column {
        Column::Address => Cell::new(address.to_string()),
        Column::Status => Cell::new(row.state()),
        Column::Course => Cell::new(course(row)),
        column => placed(column, column.show(row.value(column))),
    }
}

/// Texts begin at the left, numbers end at the right.
fn placed(column: Column, text: String) -> Cell<'static> {
    match column {
        Column::Address | Column::Status | Column::Course => Cell::new(text),
        _ => Cell::new(Line::from(text).right_aligned()),
    }
}

fn course(row: &Row) -> String {
    let highest = row.course.iter().copied().max().unwrap_or(0).max(1);
    let step = |rate: &u64| STEPS[(rate * (STEPS.len() as u64 - 1) / highest) as usize];
    row.course.iter().map(step).collect()
}

/// The columns that fit, as they stand. Address and state, and what the rows are sorted by, are never left out.
fn columns_for(width: u16, sorted_by: Column, width_of: impl Fn(Column) -> u16) -> Vec<Column> {
    let mut columns = vec![Column::Address, Column::Status];
    let first = Some(sorted_by).filter(|column| !columns.contains(column));
    columns.extend(first);
    // One more for the space between two.
    let taken: u16 = columns.iter().map(|c| width_of(*c) + 1).sum();
    let mut left = (width + 1).saturating_sub(taken);
    for column in Column::BY_NEED.into_iter().filter(|c| *c != sorted_by) {
        match left.checked_sub(width_of(column) + 1) {
            Some(rest) => (left, _) = (rest, columns.push(column)),
            // Others that are narrower may take less room, but the order of need is easier to rely on.
            None => break,
        }
    }
    Column::ALL.into_iter().filter(|column| columns.contains(column)).collect()
}

fn detail(table: &Table, address: Address, frame: &mut Frame<'_>, area: Rect) {
    let Some(row) = table.rows().get(&address) else {
        return frame.render_widget(Paragraph::new(format!("{address} is gone")), area);
    };
    let shares = circle::shares(table.space());
    let mut lines = detail::lines(address, row, shares.iter().find(|share| share.address == address));
    let lists = detail::lists(row);
    if area.width >= WIDE {
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
        scrolled(lines, table.scrolled, frame, left);
        return scrolled(lists, table.scrolled, frame, right);
    }
    lines.extend(lists);
    scrolled(lines, table.scrolled, frame, area);
}

fn scrolled(lines: Vec<Line<'static>>, by: u16, frame: &mut Frame<'_>, area: Rect) {
    let most = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(area.height);
    frame.render_widget(Paragraph::new(lines).scroll((by.min(most), 0)), area);
}

fn ring(table: &Table, frame: &mut Frame<'_>, area: Rect) {
    let shares = circle::shares(table.space());
    if shares.is_empty() {
        return frame.render_widget(Paragraph::new("no server is on the ring"), area);
    }
    // The list gets what it needs, the picture the rest.
    let list = shares.iter().enumerate().map(|(place, share)| listed(place, share)).collect::<Vec<_>>();
    let needed = list.iter().map(Line::width).max().unwrap_or(0);
    let needed = u16::try_from(needed).unwrap_or(u16::MAX).min(area.width);
    let [picture, names] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(needed)]).areas(area);
    let cells = circle::picture(table.space(), picture.width.saturating_sub(1), picture.height);
    let span = |cell: &Option<usize>| match cell {
        Some(place) => Span::styled(circle::letter(*place).to_string(), color(*place)),
        None => Span::raw(" "),
    };
    let lines: Vec<Line<'static>> = cells.iter().map(|row| row.iter().map(span).collect()).collect();
    frame.render_widget(Paragraph::new(lines), picture);
    scrolled(list, table.scrolled, frame, names);
}

fn listed(place: usize, share: &Share) -> Line<'static> {
    let style = if share.active { color(place) } else { Style::from(Modifier::DIM) };
    let part = match share.active {
        true => format!("first {:.1}%  holds {:.1}%", share.first * 100.0, share.held * 100.0),
        false => "fault".to_owned(),
    };
    Line::styled(format!("{} {}  {part}", circle::letter(place), share.address), style)
}

fn color(place: usize) -> Style {
    Style::from(COLORS[place % COLORS.len()])
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{server, two};
    use super::*;
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(table: &Table, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| render(table, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content.chunks(usize::from(width));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    fn heading(lines: &[String]) -> Vec<&str> {
        lines.iter().find(|line| line.contains("address")).unwrap().split_whitespace().collect()
    }

    #[test]
    fn on_80_by_24_the_columns_that_matter_are_there() {
        let lines = drawn(&two(), 80, 24);
        assert_eq!(lines[0], "kumotop  100 requests/s  2 servers");
        let heads = ["address▲", "Get/s", "Set/s", "QPS", "hit%", "p99", "items", "mem", "lag", "status"];
        assert_eq!(heading(&lines), heads, "{lines:#?}");
        let row =
            |name: &str| lines.iter().find(|l| l.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            row("10.0.0.1"),
            ["10.0.0.1:19800", "100", "0", "100", "90.0", "2.3ms", "9", "700M", "1.5ms", "ready"]
        );
        assert_eq!(row("10.0.0.2"), ["10.0.0.2:19800", "0", "0", "0", "-", "-", "9", "-", "-", "ready"]);
        assert_eq!(row("total"), ["total", "100", "0", "100", "90.0", "2.3ms", "18", "700M", "1.5ms"]);
        assert!(lines[23].starts_with("q leave") && lines[23].ends_with("p pause"));
    }

    #[test]
    fn on_40_by_10_rows_states_and_requests_are_left() {
        let lines = drawn(&two(), 40, 10);
        assert_eq!(heading(&lines), ["address▲", "Get/s", "QPS", "status"], "{lines:#?}");
        assert!(lines.iter().any(|l| l.starts_with("10.0.0.2:19800") && l.ends_with("ready")), "{lines:#?}");
        assert!(lines[8].starts_with("total") || lines[4].starts_with("total"), "{lines:#?}");
    }

    #[test]
    fn on_200_by_50_everything_is_there() {
        let lines = drawn(&two(), 200, 50);
        let heads = heading(&lines).join(" ").replace('▲', "");
        assert_eq!(heads, Column::ALL.map(Column::heading).join(" "));
        assert!(lines.iter().any(|l| l.contains("▁█")), "a row's course: {lines:#?}");
    }

    #[test]
    fn the_column_of_the_order_is_shown_on_a_narrow_screen_too() {
        let mut table = two();
        (table.sorted_by, table.descending) = (Column::Clock, true);
        let lines = drawn(&table, 60, 24);
        assert!(lines.iter().any(|line| line.contains("clock▼")), "{lines:?}");
    }

    #[test]
    fn the_selected_row_is_kept_in_sight() {
        let mut table = two();
        (3..60).for_each(|n| table.expect(server(n), false));
        (0..41).for_each(|_| table.select(1));
        assert_eq!(table.selected, Some(server(41)));
        let lines = drawn(&table, 80, 10);
        assert!(lines.iter().any(|l| l.starts_with("10.0.0.41:")), "{lines:#?}");
        assert!(lines.iter().any(|l| l.starts_with("total")), "{lines:#?}");
    }

    #[test]
    fn a_page_about_one_server_has_its_ring_latencies_keys_lag_and_connections() {
        let mut table = two();
        table.page = Page::Detail(server(1));
        for (width, height) in [(80, 40), (120, 24)] {
            let text = drawn(&table, width, height).join("\n");
            for part in [
                "10.0.0.1:19800  ready",
                "ring: first for ",
                "gets take 120us (99%: 900us",
                "25.0% user:1\\x1b[2J █████",
                "10.0.0.2:19800  4 changes, 600B, 1.5ms old",
                "4 gateway 10.0.0.9",
                "disk: 3.0G used, 9.0G of",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        table.page = Page::Detail(server(2));
        assert!(drawn(&table, 80, 24).join("\n").contains("no more than kumofs 0.4"));
        table.page = Page::Detail(server(9));
        assert_eq!(drawn(&table, 80, 24)[1], "10.0.0.9:19800 is gone");
    }

    #[test]
    fn the_ring_names_its_servers_and_draws_them() {
        let mut table = two();
        table.page = Page::Ring;
        let text = drawn(&table, 80, 24).join("\n");
        assert!(text.contains("A 10.0.0.1:19800  first ") && text.contains("holds 100.0%"), "{text}");
        assert!(text.matches('B').count() > 20, "{text}");
    }

    #[test]
    fn a_filter_that_is_typed_is_seen() {
        let mut table = two();
        table.typing = true;
        "0.2".chars().for_each(|c| table.type_letter(c));
        let lines = drawn(&table, 80, 24);
        assert!(lines[23].starts_with("/0.2_") && !lines.iter().any(|l| l.starts_with("10.0.0.1")), "{lines:#?}");
    }

    proptest! {
        #[test]
        fn any_page_is_drawn_at_any_size(
            width in 1u16..260, height in 1u16..90, page in 0usize..4, rows in 0u8..40, chosen in 0u8..50, by in 0usize..19,
            scrolled in 0u16..70, typing: bool,
        ) {
            let mut table = if rows == 0 { Table::default() } else { two() };
            (3..rows).for_each(|n| table.expect(server(n), n % 3 == 0));
            table.page = [Page::Servers, Page::Detail(server(1)), Page::Detail(server(30)), Page::Ring][page];
            table.sorted_by = Column::ALL[by];
            (table.selected, table.scrolled, table.typing) = (Some(server(chosen)), scrolled, typing);
            prop_assert_eq!(drawn(&table, width, height).len(), usize::from(height));
        }
    }
}
