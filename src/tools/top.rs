//! kumotop: a screen that shows what each server does, for an operator who leaves it open.
//!
//! Each server is asked by a task of its own, so that one that hangs slows no other row. Speaks version 0. What is shown
//! and how is pure: [`mod@table`]. Keys: `q` leaves, `s` and `S` choose the column to sort by, `r` turns the order,
//! `p` pauses. Source: `doc/guide.md`, "kumotop".

pub mod table;

use super::ask::{self, AskError, MANAGER_PORT, Node, Role, SERVER_PORT};
use super::sum::interval;
use super::{Trouble, print, stat};
use crate::logic::address::Address;
use crate::proto::rpc::v0::status;
use clap::Parser;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;
use table::{Sample, Table};
use tokio::task::AbortHandle;
use tokio::time::{self, Instant};

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);
/// How often the manager is asked who is there.
const MEMBERS: Duration = Duration::from_secs(1);
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
        let watched = Watched::start(options).await?;
        if options.once || options.json {
            return once(options, &watched).await;
        }
        if !std::io::stdout().is_terminal() {
            return Err(Trouble::Failed("standard output is no terminal: say --once for one table".to_owned()));
        }
        let mut terminal = ratatui::try_init()?;
        let shown = screen(&mut terminal, &watched).await;
        ratatui::restore();
        shown
    })?
}

/// Two looks at everybody, so that there are rates; servers that do not answer are waited for a little.
async fn once(options: &Options, watched: &Watched) -> Result<(), Trouble> {
    let began = Instant::now();
    let rounds = options.interval * 2 + Duration::from_millis(100);
    while !(began.elapsed() >= rounds && watched.table.borrow().all_answered()) && began.elapsed() < rounds + ONCE {
        time::sleep(KEYS).await;
    }
    let table = watched.table.borrow();
    print(&if options.json { table.json() } else { table.text() });
    Trouble::of_all(table.silent().map(|address| format!("{address} does not answer")))
}

async fn screen(terminal: &mut ratatui::DefaultTerminal, watched: &Watched) -> Result<(), Trouble> {
    let mut ticks = time::interval(KEYS);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut drawn = 0;
    loop {
        ticks.tick().await;
        let mut changed = false;
        while event::poll(Duration::ZERO)? {
            changed = true;
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !pressed(key, &mut watched.table.borrow_mut())
            {
                return Ok(());
            }
        }
        let table = watched.table.borrow();
        if changed || table.version() != drawn {
            drawn = table.version();
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

/// The table, and the tasks that fill it.
struct Watched {
    table: Rc<RefCell<Table>>,
}

impl Watched {
    async fn start(options: &Options) -> Result<Watched, Trouble> {
        let table = Rc::new(RefCell::new(Table::default()));
        match &options.manager {
            Some(manager) => {
                let manager = ask::address(manager, MANAGER_PORT)?;
                let space = ask::hash_space(manager).await?;
                tokio::task::spawn_local(follow(manager, space, table.clone(), options.interval));
            }
            None => {
                for server in &options.servers {
                    let address = ask::address(server, SERVER_PORT)?;
                    table.borrow_mut().expect(address, false);
                    tokio::task::spawn_local(watch(address, table.clone(), options.interval));
                }
            }
        }
        // The tasks that were just started enter who is there.
        tokio::task::yield_now().await;
        Ok(Watched { table })
    }
}

/// Has the servers watched that the manager knows, as they come and go. While it does not answer, nothing changes.
async fn follow(
    manager: Address,
    mut space: crate::logic::ring::HashSpace,
    table: Rc<RefCell<Table>>,
    interval: Duration,
) {
    let mut tasks: BTreeMap<Address, AbortHandle> = BTreeMap::new();
    loop {
        for node in &space.nodes {
            table.borrow_mut().expect(node.address, !node.active);
            tasks.entry(node.address).or_insert_with(|| {
                tokio::task::spawn_local(watch(node.address, table.clone(), interval)).abort_handle()
            });
        }
        tasks.retain(|address, task| {
            let stays = space.find(*address).is_some();
            if !stays {
                task.abort();
                table.borrow_mut().remove(*address);
            }
            stays
        });
        time::sleep(MEMBERS).await;
        if let Ok(newer) = ask::hash_space(manager).await {
            space = newer;
        }
    }
}

/// Asks a server again and again.
async fn watch(address: Address, table: Rc<RefCell<Table>>, interval: Duration) {
    loop {
        if let Err(e) = look(address, &table, interval).await {
            table.borrow_mut().failed(address, &e.to_string());
        }
        time::sleep(interval).await;
    }
}

async fn look(address: Address, table: &RefCell<Table>, interval: Duration) -> Result<(), AskError> {
    let node = Node::connect(address, Role::Server).await?;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let number = async |what| node.status(what, |r| r.u64()).await;
        let sample = Sample {
            at: std::time::Instant::now(),
            gets: number(status::CMD_GET).await?,
            sets: number(status::CMD_SET).await?,
            deletes: number(status::CMD_DELETE).await?,
            items: number(status::ITEMS).await?,
            clock_time: number(status::CLOCK_TIME).await?,
            state: stat::replace_state(number(status::REPLACE).await?),
        };
        table.borrow_mut().add(address, sample);
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
