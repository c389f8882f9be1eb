//! kumotop: a screen that shows what each server does, for an operator who leaves it open.
//!
//! Each server is asked by a task of its own ([`super::watch`]), so that one that hangs slows no other row; those of kumofs 0.4
//! show its columns. What is known is [`mod@table`], how it is laid out [`screen`]; both are pure. Source: `doc/guide.md`,
//! "kumotop".

pub mod circle;
pub mod detail;
pub mod row;
pub mod screen;
pub mod table;

use super::ask::{self, SERVER_PORT};
use super::sum::interval;
use super::watch::{Members, Watched, follow_space};
use super::{Trouble, print};
use crate::logic::ring::HashSpace;
use clap::Parser;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;
use table::{Page, Table};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{self, Instant};

/// How often keys are looked for, and what servers told.
const KEYS: Duration = Duration::from_millis(50);
/// Rows that PageUp and PageDown pass.
const PAGE: isize = 10;
/// Lines that a page can be scrolled by.
const SCROLL_MAX: u16 = 1000;
/// How long `--once` waits for servers that do not answer.
const ONCE: Duration = Duration::from_secs(2);

/// Shows what the servers of a cluster do.
#[derive(Parser, Debug)]
#[command(name = "kumotop", version)]
pub struct Options {
    /// Show all servers that this manager knows
    #[arg(short, long, value_name = "MANAGER[:19700]", conflicts_with = "servers")]
    manager: Option<String>,
    /// The servers to show
    #[arg(value_name = "SERVER[:19800]", required_unless_present = "manager")]
    servers: Vec<String>,
    /// Seconds between two looks at a server, from 0.05 to 3600
    #[arg(short, long, value_name = "SEC", default_value = "0.5", value_parser = interval)]
    interval: Duration,
    /// Print one table, and end
    #[arg(long)]
    once: bool,
    /// Print one table as JSON, and end
    #[arg(long)]
    json: bool,
}

/// Runs kumotop, until `q`.
///
/// # Errors
/// When the manager does not answer at the start, or there is no terminal.
pub fn run(options: &Options) -> Result<(), Trouble> {
    ask::block_on(async {
        let shown = Shown::of(options).await?;
        if options.once || options.json {
            return once(options, &shown).await;
        }
        if !std::io::stdout().is_terminal() {
            return Err(Trouble::Failed("standard output is no terminal: say --once for one table".to_owned()));
        }
        let mut terminal = ratatui::try_init()?;
        let left = screen(&mut terminal, &shown).await;
        ratatui::restore();
        left
    })?
}

/// Two looks at everybody, so that there are rates; servers that do not answer are waited for a little.
async fn once(options: &Options, shown: &Shown) -> Result<(), Trouble> {
    let mut table = Table::default();
    let began = Instant::now();
    let rounds = options.interval * 2 + Duration::from_millis(100);
    shown.enter(&mut table);
    while !(began.elapsed() >= rounds && table.all_answered()) && began.elapsed() < rounds + ONCE {
        time::sleep(KEYS).await;
        shown.enter(&mut table);
    }
    print(&if options.json { table.json() } else { table.text() });
    Trouble::of_all(table.silent().map(|address| format!("{address} does not answer")))
}

async fn screen(terminal: &mut ratatui::DefaultTerminal, shown: &Shown) -> Result<(), Trouble> {
    let mut table = Table::default();
    let mut ticks = time::interval(KEYS);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut ended = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut drawn = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // The terminal is left as it was found.
            _ = ended.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        }
        while event::poll(Duration::ZERO)? {
            // Also a terminal of another size is drawn anew.
            drawn = None;
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !pressed(key, &mut table)
            {
                return Ok(());
            }
        }
        shown.enter(&mut table);
        if drawn.replace(table.version()) != Some(table.version()) {
            terminal.draw(|frame| screen::render(&table, frame))?;
        }
    }
}

/// Does what a key stands for; false: leave.
fn pressed(key: KeyEvent, table: &mut Table) -> bool {
    table.touched();
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return key.code != KeyCode::Char('c');
    }
    if table.typing {
        type_filter(key.code, table);
        return true;
    }
    match (key.code, table.page) {
        (KeyCode::Char('q'), _) => return false,
        (KeyCode::Char('p'), _) => table.paused = !table.paused,
        (KeyCode::Esc, Page::Servers) if table.filter.is_empty() => return false,
        (KeyCode::Esc, Page::Servers) => table.filter.clear(),
        (KeyCode::Char('s'), Page::Servers) => table.sort_by_next(true),
        (KeyCode::Char('S'), Page::Servers) => table.sort_by_next(false),
        (KeyCode::Char('o'), Page::Servers) => table.descending = !table.descending,
        (KeyCode::Char('/'), Page::Servers) => table.typing = true,
        (KeyCode::Down | KeyCode::Char('j'), Page::Servers) => table.select(1),
        (KeyCode::Up | KeyCode::Char('k'), Page::Servers) => table.select(-1),
        (KeyCode::PageDown, Page::Servers) => table.select(PAGE),
        (KeyCode::PageUp, Page::Servers) => table.select(-PAGE),
        (KeyCode::Enter, Page::Servers) => {
            if table.selected.is_none() {
                table.select(0);
            }
            turn_to(table.selected.map_or(Page::Servers, Page::Detail), table);
        }
        (KeyCode::Char('r'), Page::Servers | Page::Detail(_)) => turn_to(Page::Ring, table),
        (KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('r'), _) => {
            turn_to(Page::Servers, table);
        }
        (KeyCode::Down | KeyCode::Char('j'), _) => table.scrolled = table.scrolled.saturating_add(1).min(SCROLL_MAX),
        (KeyCode::Up | KeyCode::Char('k'), _) => table.scrolled = table.scrolled.saturating_sub(1),
        _ => {}
    }
    true
}

fn turn_to(page: Page, table: &mut Table) {
    (table.page, table.scrolled) = (page, 0);
}

fn type_filter(code: KeyCode, table: &mut Table) {
    match code {
        KeyCode::Enter => table.typing = false,
        KeyCode::Esc => {
            table.filter.clear();
            table.typing = false;
        }
        KeyCode::Backspace => {
            table.filter.pop();
        }
        KeyCode::Char(letter) => table.type_letter(letter),
        _ => {}
    }
}

/// The servers to show.
enum Shown {
    /// Those that a manager knows.
    Members(Rc<Members>),
    /// Those that were named, and the hash space as they tell it.
    Named(Vec<Rc<Watched>>, Rc<RefCell<HashSpace>>),
}

impl Shown {
    async fn of(options: &Options) -> Result<Shown, Trouble> {
        if let Some(manager) = &options.manager {
            return Members::of(manager, options.interval).await.map(Shown::Members);
        }
        let resolved = options.servers.iter().map(|server| ask::address(server, SERVER_PORT));
        let servers = resolved.collect::<Result<Vec<_>, Trouble>>()?;
        let space = Rc::new(RefCell::default());
        tokio::task::spawn_local(follow_space(servers.clone(), Rc::downgrade(&space)));
        let watched = servers.into_iter().map(|server| Watched::start(server, options.interval)).collect();
        Ok(Shown::Named(watched, space))
    }

    /// Enters what was told since the last time.
    fn enter(&self, table: &mut Table) {
        if table.paused {
            return;
        }
        let (servers, faults, space) = match self {
            Shown::Members(members) => (members.all(), members.faults(), members.space()),
            Shown::Named(servers, space) => (servers.clone(), Vec::new(), space.borrow().clone()),
        };
        table.lie_on(space);
        table.keep(|address| servers.iter().any(|s| s.address == address) || faults.contains(&address));
        faults.into_iter().for_each(|address| table.expect(address, true));
        for server in servers {
            table.expect(server.address, false);
            if let Some(sample) = server.sample() {
                table.add(server.address, sample);
            }
            if let Some(why) = server.trouble() {
                table.failed(server.address, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::table::tests::{server, two};
    use super::*;

    fn press(code: KeyCode, table: &mut Table) -> bool {
        pressed(KeyEvent::new(code, KeyModifiers::NONE), table)
    }

    #[test]
    fn q_escape_and_control_c_leave_and_other_keys_do_not() {
        let mut table = Table::default();
        assert!(!press(KeyCode::Char('q'), &mut table) && !press(KeyCode::Esc, &mut table));
        assert!(!pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut table));
        for c in ['c', 's', 'S', 'r', 'p', 'x', '\u{e9}'] {
            assert!(press(KeyCode::Char(c), &mut table), "{c}");
        }
    }

    #[test]
    fn enter_opens_the_selected_server_and_escape_comes_back() {
        let mut table = two();
        assert!(press(KeyCode::Enter, &mut table));
        assert_eq!(table.page, Page::Detail(server(1)));
        (0..3).for_each(|_| assert!(press(KeyCode::Down, &mut table)));
        assert_eq!(table.scrolled, 3);
        assert!(press(KeyCode::Esc, &mut table));
        assert_eq!((table.page, table.scrolled), (Page::Servers, 0));
        assert!(press(KeyCode::Down, &mut table) && press(KeyCode::Enter, &mut table));
        assert_eq!(table.page, Page::Detail(server(2)));
        assert!(press(KeyCode::Char('r'), &mut table));
        assert_eq!(table.page, Page::Ring);
        assert!(!press(KeyCode::Char('q'), &mut table));
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut table = two();
        "/0.2q".chars().for_each(|c| assert!(press(KeyCode::Char(c), &mut table)));
        press(KeyCode::Backspace, &mut table);
        press(KeyCode::Enter, &mut table);
        assert_eq!((table.filter.as_str(), table.typing, table.shown().len()), ("0.2", false, 1));
        assert!(press(KeyCode::Esc, &mut table), "it takes the filter back first");
        assert_eq!((table.filter.as_str(), table.shown().len()), ("", 2));
    }

    #[test]
    fn a_pause_stops_the_screen_and_keys_still_show() {
        let mut table = two();
        press(KeyCode::Char('p'), &mut table);
        let version = table.version();
        table.expect(server(9), false);
        assert_eq!(table.version(), version);
        press(KeyCode::Char('o'), &mut table);
        assert_ne!(table.version(), version);
    }
}
