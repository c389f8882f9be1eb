//! kumotop: a screen that shows what each server does, for an operator who leaves it open.
//!
//! Each server is asked by a task of its own ([`super::watch`]), so that one that hangs slows no other row. Speaks version
//! 0. What is shown and how is pure: [`mod@table`]. Keys: `q` leaves, `s` and `S` choose the column to sort by, `r` turns the order,
//! `p` pauses. Source: `doc/guide.md`, "kumotop".

pub mod table;

use super::ask::{self, SERVER_PORT};
use super::sum::interval;
use super::watch::{Members, Watched};
use super::{Trouble, print};
use clap::Parser;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;
use table::Table;
use tokio::time::{self, Instant};

/// How often keys are looked for, and what servers told.
const KEYS: Duration = Duration::from_millis(50);
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
    let mut drawn = None;
    loop {
        ticks.tick().await;
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
            terminal.draw(|frame| table.render(frame))?;
        }
    }
}

/// Does what a key stands for; false: leave.
fn pressed(key: KeyEvent, table: &mut Table) -> bool {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('s') => table.sort_by_next(true),
        KeyCode::Char('S') => table.sort_by_next(false),
        KeyCode::Char('r') => table.turn_order(),
        KeyCode::Char('p') => table.pause(),
        _ => {}
    }
    true
}

/// The servers to show.
enum Shown {
    /// Those that a manager knows.
    Members(Rc<Members>),
    /// Those that were named.
    Named(Vec<Rc<Watched>>),
}

impl Shown {
    async fn of(options: &Options) -> Result<Shown, Trouble> {
        if let Some(manager) = &options.manager {
            return Members::of(manager, options.interval).await.map(Shown::Members);
        }
        let start = |server: &String| Ok(Watched::start(ask::address(server, SERVER_PORT)?, options.interval));
        options.servers.iter().map(start).collect::<Result<_, Trouble>>().map(Shown::Named)
    }

    /// Enters what was told since the last time.
    fn enter(&self, table: &mut Table) {
        let (servers, faults) = match self {
            Shown::Members(members) => (members.all(), members.faults()),
            Shown::Named(servers) => (servers.clone(), Vec::new()),
        };
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
    use super::*;

    #[test]
    fn q_escape_and_control_c_leave_and_other_keys_do_not() {
        let mut table = Table::default();
        let plain = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
        assert!(!pressed(plain('q'), &mut table));
        assert!(!pressed(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE), &mut table));
        assert!(!pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut table));
        for c in ['c', 's', 'S', 'r', 'p', 'x'] {
            assert!(pressed(plain(c), &mut table), "{c}");
        }
    }
}
