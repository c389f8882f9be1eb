//! kumoctl: shows the state of a cluster and changes it, through a manager.
//!
//! Speaks version 0 only, so that it works with kumofs 0.4 managers too; `--json` adds what a manager of ours knows
//! beyond that. Output: `doc/guide.md`, "kumoctl".

mod config;
mod consent;
mod drain;
mod progress;
mod weight;

use super::{Trouble, ask, backup, check, details, export, follow, import, ruby_time};
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::logic::ring::{HashSpace, Node};
use crate::net::listen;
use crate::net::rpc::{CallError, Limits, RpcConn};
use crate::proto::rpc::msgpack::{DecodeError, Head, Reader, write_array, write_bool, write_raw, write_uint};
use crate::proto::rpc::{v0, v1};
use clap::{CommandFactory, Parser, ValueEnum};
use progress::Filling;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::LocalSet;
use tokio::time;

/// Where managers listen.
const DEFAULT_PORT: u16 = 19700;
/// How long a manager may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Shows the state of a kumofs cluster and changes it.
#[derive(Parser, Debug)]
#[command(name = "kumoctl", version)]
struct Options {
    /// The manager: HOST, HOST:PORT or [IPV6]:PORT; the port is 19700 unless written
    #[arg(value_name = "MANAGER")]
    manager: String,
    /// What to do
    #[arg(value_enum)]
    command: Command,
    /// For backup: what is appended to the names of the files, today's date unless written. For rate: bytes per second for
    /// each server, or `unlimited`. For drain and weight: the server. For config: the name of a setting. For export and import: the file, standard output or input unless
    /// written
    argument: Option<String>,
    /// For config: what the setting is to be. For weight: from 0.1 to 8, 1 is usual
    value: Option<String>,
    /// For status: what stands behind it, too
    #[arg(short, long)]
    verbose: bool,
    /// For watch: end after so many
    #[arg(long, value_name = "N")]
    lines: Option<u64>,
    /// For export: the ring position to go on from, as it told when it failed
    #[arg(long, value_name = "POSITION", value_parser = export::position)]
    from: Option<u64>,
    /// For check: store anew what differs, by the newest version
    #[arg(long)]
    repair: bool,
    /// For backup: leave out what the backup of this suffix has
    #[arg(long, value_name = "SUFFIX")]
    since: Option<String>,
    /// For import: lines to pass over, as it told when it failed
    #[arg(long, value_name = "LINES")]
    skip: Option<u64>,
    /// For import: keep records that are there
    #[arg(long)]
    keep: bool,
    /// For backup and drain: do not wait until it is done, nor for what becomes of it
    #[arg(long)]
    no_wait: bool,
    /// Do not ask before what cannot be taken back; without a terminal nothing is asked
    #[arg(short, long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Command {
    /// Which servers there are, and which are attached
    Status,
    /// Attach all new servers and move data to them
    Attach,
    /// Attach all new servers; `replace` is to follow soon
    AttachNoreplace,
    /// Detach all servers in fault and restore the number of copies
    Detach,
    /// Detach all servers in fault; `replace` is to follow soon
    DetachNoreplace,
    /// Have a server leave that still serves, as soon as others hold what it holds
    Drain,
    /// How much of the ring each server has; with a server and a number, gives it that many times the usual share
    Weight,
    /// Move data to where it belongs
    Replace,
    /// Compare and repair all copies
    FullReplace,
    /// Have every server make a backup of its database
    Backup,
    /// Status as it changes, a line for each change
    Watch,
    /// Compare all replicas, record by record
    Check,
    /// Write every record once, as a line of JSON
    Export,
    /// Store records from such lines
    Import,
    /// How fast each server may move data, in bytes per second; without a number, how fast that is now
    Rate,
    /// Move no data for now
    Pause,
    /// Go on moving data
    Resume,
    /// The settings of a running manager or server (SERVER:19800 in place of the manager), or one of them; with a value,
    /// changes it until the daemon ends
    Config,
    /// Attach and detach without being asked
    EnableAutoReplace,
    /// Do not attach and detach without being asked
    DisableAutoReplace,
}

/// Why there is no answer; one line.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error("{0}")]
    Address(#[from] listen::ListenError),
    #[error("cannot connect to {0}: {1}; is kumo-manager running there?")]
    Connect(Address, std::io::Error),
    #[error("{0} does not answer within 5 seconds")]
    Silent(Address),
    #[error("{0} hung up before it answered; is it a kumo-manager?")]
    HungUp(Address),
    #[error("{0} {no}", no = ask::no(*.1))]
    Refused(Address, u32),
    #[error("{0} answered what is no answer of a kumo-manager: {1}")]
    Answer(Address, DecodeError),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// The definition of its command line.
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs kumoctl. Exit status: 0 done, 1 not reachable, timed out or refused, 2 wrong usage.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(e) if !e.use_stderr() => {
            // Help and version; a reader that went away does not want them.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("kumoctl: {}", super::one_line(&e.to_string()));
            return ExitCode::from(2);
        }
    };
    use Command::{Backup, Check, Config, Drain, Export, Import, Rate, Status, Watch, Weight};
    let takes_more = matches!(options.command, Backup | Rate | Config | Drain | Weight | Export | Import);
    if options.argument.is_some() && !takes_more {
        return failed(
            "only backup, rate, config, drain, weight, export and import take something more; see kumoctl --help",
            2,
        );
    }
    if options.value.is_some() && !matches!(options.command, Config | Weight) {
        return failed("only config and weight take two things more; see kumoctl --help", 2);
    }
    for (name, is_given, of) in [
        ("status takes --verbose", options.verbose, Status),
        ("watch takes --lines", options.lines.is_some(), Watch),
        ("export takes --from", options.from.is_some(), Export),
        ("backup takes --since", options.since.is_some(), Backup),
        ("import takes --skip", options.skip.is_some(), Import),
        ("import takes --keep", options.keep, Import),
        ("check takes --repair", options.repair, Check),
    ] {
        if is_given && options.command != of {
            return failed(&format!("only {name}; see kumoctl --help"), 2);
        }
    }
    if options.command == Command::Rate && options.argument.as_deref().is_some_and(|text| rate(text).is_none()) {
        eprintln!("kumoctl: rate takes a number of bytes per second, as in 50000000, or unlimited");
        return ExitCode::from(2);
    }
    if options.no_wait && options.since.is_some() {
        return failed("backup takes --no-wait or --since; see kumoctl --help", 2);
    }
    if options.no_wait && !matches!(options.command, Backup | Drain) {
        return failed("only backup and drain take --no-wait; see kumoctl --help", 2);
    }
    if !consent::given(&options) {
        return failed("nothing was done", 1);
    }
    if options.command == Command::Backup
        && !options.no_wait
        && let Some(status) = backup_and_wait(&options)
    {
        return status;
    }
    if let Some(done) = by_itself(&options) {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Trouble::Usage(line)) => failed(&line, 2),
            Err(Trouble::Failed(line)) => failed(&line, 1),
            Err(Trouble::Told) => ExitCode::FAILURE,
        };
    }
    let mut out = String::new();
    let done = execute(&options, &mut out);
    // A reader that went away is told nothing.
    let _ = std::io::stdout().write_all(out.as_bytes());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kumoctl: {e}");
            ExitCode::from(if matches!(e, CtlError::Address(listen::ListenError::Form(_))) { 2 } else { 1 })
        }
    }
}

/// Does what has a way of its own, if that is what is asked for.
fn by_itself(options: &Options) -> Option<Result<(), Trouble>> {
    let (manager, file) = (options.manager.clone(), options.argument.as_ref().map(PathBuf::from));
    let asked = match options.command {
        Command::Export => {
            let order = export::Order { manager, file, from: options.from, json: options.json };
            ask::block_on(export::run(&order))
        }
        Command::Import => {
            let skip = options.skip.unwrap_or(0);
            let order = import::Order { manager, file, keep: options.keep, skip, json: options.json };
            ask::block_on(import::run(&order))
        }
        Command::Drain => {
            let order =
                drain::Order { manager, server: options.argument.clone(), wait: !options.no_wait, json: options.json };
            ask::block_on(drain::run(&order))
        }
        Command::Config => {
            let (name, value) = (options.argument.clone(), options.value.clone());
            ask::block_on(config::run(&config::Order { daemon: manager, name, value, json: options.json }))
        }
        Command::Weight => {
            let (server, weight) = (options.argument.clone(), options.value.clone());
            ask::block_on(weight::run(&weight::Order { manager, server, weight, json: options.json }))
        }
        Command::Watch => ask::block_on(follow::run(&manager, options.lines, options.json)),
        Command::Check => {
            let order = check::Order { manager, repair: options.repair, json: options.json };
            ask::block_on(check::run(&order))
        }
        _ => return None,
    };
    Some(asked.map_err(Trouble::from).and_then(|done| done))
}

/// Exit status: 0 when every server has made its backup. `None`: the manager cannot tell, and is to be asked as kumofs's was.
fn backup_and_wait(options: &Options) -> Option<ExitCode> {
    let suffix = options.argument.clone().unwrap_or_else(today);
    let asked = ask::block_on(async {
        let Some(cluster) = backup::cluster(&options.manager).await? else { return Ok(None) };
        if !options.json {
            super::print(&format!("suffix={suffix}\n"));
        }
        Ok(Some(backup::make(cluster, &suffix, options.since.as_deref()).await))
    });
    let outcomes = match asked.map_err(Trouble::from).and_then(|asked| asked) {
        Ok(Some(outcomes)) => outcomes,
        Ok(None) if options.since.is_some() => {
            return Some(failed("the manager is an older version, whose servers make whole backups only", 1));
        }
        Ok(None) => {
            eprintln!(
                "kumoctl: the manager is an older version, which does not tell how backups went; see servers' logs"
            );
            return None;
        }
        Err(Trouble::Usage(line)) => return Some(failed(&line, 2)),
        Err(Trouble::Failed(line)) => return Some(failed(&line, 1)),
        Err(Trouble::Told) => return Some(ExitCode::FAILURE),
    };
    let all_made = !outcomes.is_empty() && outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    if options.json {
        super::print(&format!(
            "{}\n",
            json!({"suffix": suffix, "result": null, "servers": backup::as_json(&outcomes)})
        ));
    } else if all_made {
        super::print("nil\n");
    }
    Some(match (all_made, outcomes.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => failed("there is no server to make a backup", 1),
        (false, false) => failed("not every server has made its backup", 1),
    })
}

fn failed(line: &str, status: u8) -> ExitCode {
    eprintln!("kumoctl: {line}");
    ExitCode::from(status)
}

fn execute(options: &Options, out: &mut String) -> Result<(), CtlError> {
    let manager = listen::resolve(&options.manager, DEFAULT_PORT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { time::timeout(patience(options), ask_manager(manager, options, out)).await };
    LocalSet::new().block_on(&runtime, asked).map_err(|_| CtlError::Silent(manager))?
}

/// How long all of it may take; what a manager tells names others, who are asked then.
fn patience(options: &Options) -> Duration {
    if options.verbose { 3 * TIMEOUT } else { TIMEOUT }
}

async fn ask_manager(manager: Address, options: &Options, out: &mut String) -> Result<(), CtlError> {
    let connected = RpcConn::connect_client(manager.socket_addr(), TIMEOUT, Limits::default(), Rc::new(|_, _| {}));
    let conn = connected.await.map_err(|e| CtlError::Connect(manager, e))?;
    if options.command == Command::Status {
        return status(&conn, manager, options, out).await;
    }
    if options.command == Command::Rate && options.argument.is_none() {
        return tell_pace(&conn, options.json, out).await;
    }
    let suffix = options.argument.clone().unwrap_or_else(today);
    if options.command == Command::Backup && !options.json {
        out.push_str(&format!("suffix={suffix}\n"));
    }
    let (method, params) = request(options.command, &suffix);
    let result = call(&conn, manager, method, &params).await?;
    let shown = show(&result).map_err(|e| CtlError::Answer(manager, e))?;
    if !options.json {
        out.push_str(&format!("{}\n", if shown.is_null() { "nil".to_owned() } else { shown.to_string() }));
    } else if options.command == Command::Backup {
        out.push_str(&format!("{}\n", json!({"suffix": suffix, "result": shown})));
    } else {
        out.push_str(&format!("{}\n", json!({"result": shown})));
    }
    Ok(())
}

async fn call(conn: &RpcConn, manager: Address, method: u32, params: &[u8]) -> Result<Vec<u8>, CtlError> {
    let answer = conn.call(method, |out| out.extend_from_slice(params), TIMEOUT).await;
    answer.map_err(|e| match e {
        CallError::Lost => CtlError::HungUp(manager),
        CallError::Timeout => CtlError::Silent(manager),
        CallError::Refused(number, _) => CtlError::Refused(manager, number),
    })
}

/// The method of a command, and its parameters.
fn request(command: Command, suffix: &str) -> (u32, Vec<u8>) {
    let one_bool = |value| {
        let mut params = vec![0x91];
        write_bool(&mut params, value);
        params
    };
    match command {
        // Those that go other ways ask for the same first.
        Command::Status
        | Command::Watch
        | Command::Check
        | Command::Config
        | Command::Drain
        | Command::Weight
        | Command::Export
        | Command::Import => (v0::method::GET_NODES_INFO, vec![0x90]),
        Command::Attach => (v0::method::ATTACH_NEW_SERVERS, one_bool(true)),
        Command::AttachNoreplace => (v0::method::ATTACH_NEW_SERVERS, one_bool(false)),
        Command::Detach => (v0::method::DETACH_FAULT_SERVERS, one_bool(true)),
        Command::DetachNoreplace => (v0::method::DETACH_FAULT_SERVERS, one_bool(false)),
        Command::Replace => (v0::method::START_REPLACE, one_bool(false)),
        Command::FullReplace => (v0::method::START_REPLACE, one_bool(true)),
        Command::EnableAutoReplace => (v0::method::SET_AUTO_REPLACE, one_bool(true)),
        Command::DisableAutoReplace => (v0::method::SET_AUTO_REPLACE, one_bool(false)),
        Command::Pause => (v1::method::PAUSE, one_bool(true)),
        Command::Resume => (v1::method::PAUSE, one_bool(false)),
        Command::Rate => {
            let mut params = vec![0x91];
            write_uint(&mut params, rate(suffix).unwrap_or(0));
            (v1::method::RATE, params)
        }
        Command::Backup => {
            let mut params = Vec::new();
            write_array(&mut params, 1);
            write_raw(&mut params, suffix.as_bytes());
            (v0::method::CREATE_BACKUP, params)
        }
    }
}

/// Bytes per second as they are typed; 0: no limit. `None`: it is no rate.
fn rate(text: &str) -> Option<u64> {
    if text == "unlimited" { Some(0) } else { text.parse().ok().filter(|rate| *rate > 0) }
}

/// How fast records may move.
async fn tell_pace(conn: &RpcConn, json: bool, out: &mut String) -> Result<(), CtlError> {
    let pace = newest_epoch(conn).await.map(|epoch| epoch.pace).unwrap_or_default();
    let limit = (pace.bytes_per_sec > 0).then_some(pace.bytes_per_sec);
    if json {
        out.push_str(&format!("{}\n", json!({"bytes_per_sec": limit, "paused": pace.paused})));
    } else {
        let limit = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
        out.push_str(&format!("{limit}{}\n", if pace.paused { ", paused" } else { "" }));
    }
    Ok(())
}

/// A plain result: nil, a bool or a number.
fn show(result: &[u8]) -> Result<Value, DecodeError> {
    match Reader::new(result).head()? {
        Head::Nil => Ok(Value::Null),
        Head::Bool(value) => Ok(json!(value)),
        Head::UInt(value) => Ok(json!(value)),
        _ => Err(DecodeError::Type),
    }
}

fn today() -> String {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    ruby_time::yyyymmdd(secs, ruby_time::local_offset(secs))
}

/// What GetNodesInfo answers.
pub(super) struct NodesInfo {
    pub(super) whs: HashSpace,
    pub(super) not_attached: Vec<Address>,
}

impl NodesInfo {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<NodesInfo, DecodeError> {
        r.array_of(2)?;
        let whs = v0::read_seed(r)?;
        let count = r.array()?;
        let not_attached = (0..count).map(|_| v0::read_address(r)).collect::<Result<_, _>>()?;
        Ok(NodesInfo { whs, not_attached })
    }

    fn text(&self, offset_at: impl Fn(i64) -> i64) -> String {
        let date = ruby_time::timestamp_line(self.whs.timestamp, offset_at);
        let mut out = format!("hash space timestamp:\n  {date}\nattached node:\n");
        for node in &self.whs.nodes {
            out.push_str(&format!("  {}  ({})\n", node.address, state(node.active)));
        }
        out.push_str("not attached node:\n");
        for address in &self.not_attached {
            out.push_str(&format!("  {address}\n"));
        }
        out
    }

    fn json(&self, epoch: Option<&Epoch>, filling: &[Filling]) -> Value {
        let weight = |n: &Node| Some(epoch?.whs.find(n.address)?.weight.as_f64());
        let node = |n: &Node| json!({"address": n.address.to_string(), "state": state(n.active), "weight": weight(n)});
        let phase = |e: &Epoch| match e.phase {
            Phase::Idle => "idle",
            Phase::Copying { .. } => "copying",
            Phase::Deleting { .. } => "deleting",
        };
        json!({
            "time": self.whs.timestamp.unix_secs(),
            "clock": self.whs.timestamp.counter(),
            "attached": self.whs.nodes.iter().map(node).collect::<Vec<_>>(),
            "draining": self.not_attached.iter().filter(|a| drained(epoch, **a) == Some("draining")).map(Address::to_string).collect::<Vec<_>>(),
            "not_attached": self.not_attached.iter().map(Address::to_string).collect::<Vec<_>>(),
            "epoch": epoch.map(|e| e.number),
            "phase": epoch.map(phase),
            "strict": epoch.map(Epoch::strict),
            "bytes_per_sec": epoch.map(|e| e.pace.bytes_per_sec).filter(|rate| *rate > 0),
            "paused": epoch.map(|e| e.pace.paused),
            "filling": epoch.map(|_| filling.iter().map(Filling::json).collect::<Vec<_>>()),
        })
    }
}

/// What an operator's `drain` has come to at a server.
fn drained(epoch: Option<&Epoch>, address: Address) -> Option<&'static str> {
    let entry = epoch?.server(address).filter(|entry| entry.drained)?;
    Some(if entry.removed.is_none() { "draining" } else { "drained" })
}

fn state(active: bool) -> &'static str {
    if active { "active" } else { "fault" }
}

async fn status(conn: &RpcConn, manager: Address, options: &Options, out: &mut String) -> Result<(), CtlError> {
    let (method, params) = request(Command::Status, "");
    let result = call(conn, manager, method, &params).await?;
    let info = NodesInfo::read(&mut Reader::new(&result)).map_err(|e| CtlError::Answer(manager, e))?;
    let epoch = newest_epoch(conn).await;
    let filling = match &epoch {
        Some(epoch) => progress::ask(epoch).await,
        None => Vec::new(),
    };
    let behind = match &epoch {
        Some(epoch) if options.verbose => Some(details::gather(epoch.clone()).await),
        _ => None,
    };
    if options.json {
        let mut value = info.json(epoch.as_ref(), &filling);
        if let (Some(behind), Some(object)) = (behind, value.as_object_mut()) {
            behind.add_to(object);
        }
        out.push_str(&format!("{value}\n"));
    } else {
        out.push_str(&info.text(ruby_time::local_offset));
        // Behind what scripts read, and like the next lines not to be taken for an entry of a list.
        for (address, how) in info.not_attached.iter().filter_map(|a| Some((a, drained(epoch.as_ref(), *a)?))) {
            out.push_str(&format!("{how} {address}\n"));
        }
        let paused = epoch.is_some_and(|epoch| epoch.pace.paused);
        filling.iter().for_each(|one| out.push_str(&format!("{}\n", one.text(paused))));
        out.push_str(&behind.map_or(String::new(), |behind| behind.text()));
    }
    Ok(())
}

/// The epoch in force, if the manager is one of ours and there is one.
async fn newest_epoch(conn: &RpcConn) -> Option<Epoch> {
    let params = |out: &mut Vec<u8>| {
        write_array(out, 1);
        write_uint(out, 0);
    };
    let result = conn.call(v1::method::GET_EPOCH, params, TIMEOUT).await.ok()?;
    let epoch = Reader::new(&result).raw().ok()?.to_vec();
    Epoch::decode(&epoch).ok()
}

#[cfg(test)]
mod tests;
