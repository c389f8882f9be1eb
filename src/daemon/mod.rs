//! What the daemons have in common: options, logs, signals, and how they start and end.
//!
//! A daemon's main function calls [`run`] with the type of its options and what it does with them. Options:
//! [`options`] lists them, [`cmdline`] reads them, [`values`], [`store_spec`] and [`cache_spec`] read what they take. Logs: [`log`] is
//! for people and says nothing too often (`repeats`), [`binlog`] is for programs; both written through [`queue`]. [`detach`] leaves the terminal, [`sockets`]
//! listens, [`supervisor`] tells systemd how the daemon stands.

pub mod argv;
pub mod binlog;
pub mod cache_spec;
pub mod cmdline;
pub mod detach;
pub mod log;
pub mod options;
mod overlay;
pub mod queue;
mod repeats;
pub mod signals;
pub mod sockets;
pub mod store_spec;
pub mod supervisor;
pub mod values;

use crate::net::settings::{LogLevel, Settings};
use binlog::BinaryLog;
use cmdline::{Ended, InEffect};
use detach::Attachment;
use options::{DaemonOptions, Surroundings};
use queue::Target;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;

/// The number of cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How long the end of a process waits for its logs to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// What a running daemon has from its surroundings.
#[derive(Debug)]
pub struct Host<'a> {
    stop: watch::Receiver<bool>,
    binary_log: BinaryLog,
    settings: Settings,
    attachment: &'a mut Attachment,
}

impl Host<'_> {
    /// Turns true when the daemon shall end.
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Where to write down what happens.
    pub fn binary_log(&self) -> BinaryLog {
        self.binary_log.clone()
    }

    /// What it was told at its start.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// To be called once, when the daemon listens, within its event loop: writes the pid file, lets the terminal go, and tells
    /// the supervisor. Pass the error on.
    pub fn listening(&mut self) -> Result<(), String> {
        self.attachment.listening()?;
        supervisor::listening();
        Ok(())
    }
}

/// Runs a daemon from its command line to its end: reads options, detaches if asked to, starts logs and signals, and
/// calls `body`, whose error is one line that says what went wrong and how to mend it.
pub fn run<O: DaemonOptions>(body: impl FnOnce(O, &mut Host<'_>) -> Result<(), String>) -> ExitCode {
    let program = O::command().get_name().to_owned();
    let (options, told) = match cmdline::parse_process::<O>() {
        Ok(read) => read,
        Err(ended) => return ended.report(&program).into(),
    };
    let surroundings = options.surroundings();
    if surroundings.test_config {
        options.warnings().iter().for_each(|line| eprintln!("{program}: {}", cmdline::one_line(line)));
        return Ended::Answered("the configuration is valid\n".to_owned()).report(&program).into();
    }
    let detaching = surroundings.daemon.map_or(Ok(Attachment::foreground()), |pid_file| {
        let keep_stdout = surroundings.log == Some(Path::new("-"));
        Attachment::background(&program, pid_file, keep_stdout)
    });
    let mut attachment = match detaching {
        Ok(attachment) => attachment,
        Err(line) => return Ended::Failed(line).report(&program).into(),
    };
    match run_attached(options, told, &mut attachment, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => attachment.report(&program, &Ended::Failed(line)).into(),
    }
}

fn run_attached<O: DaemonOptions>(
    options: O,
    told: InEffect,
    attachment: &mut Attachment,
    body: impl FnOnce(O, &mut Host<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let Surroundings { log, log_format, verbose, binary_log, .. } = options.surroundings();
    let to_file = matches!(log::target(log), Target::File(_));
    let text_log = log::start(log, verbose, log_format, !attachment.is_detached())?;
    let binary_log = BinaryLog::open(binary_log)?;
    log_panics();
    raise_file_limit();
    options.warnings().iter().for_each(|line| tracing::warn!("{line}"));
    let stop = signals::start({
        let (text_log, binary_log) = (text_log.clone(), binary_log.clone());
        move || {
            text_log.reopen();
            binary_log.reopen();
            tracing::info!("SIGHUP: log files opened anew");
        }
    })
    .map_err(|e| format!("cannot receive signals: {e}"))?;

    let detached = attachment.is_detached();
    let settings = Settings::new(told, LogLevel { get: log::level, set: log::set_level });
    let mut host = Host { stop, binary_log: binary_log.clone(), settings, attachment };
    let result = catch_unwind(AssertUnwindSafe(|| body(options, &mut host)))
        .unwrap_or_else(|_| Err("ended by a defect of its own; the log says where".to_owned()));
    if let Err(line) = &result
        && (to_file || detached)
    {
        // In the foreground the line comes on standard error, next to a log on standard output.
        tracing::error!("{line}");
    }
    attachment.end();
    binary_log.flush(LOG_PATIENCE);
    text_log.flush(LOG_PATIENCE);
    result
}

/// Makes a panic one line in the log and on standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let line = cmdline::one_line(&format!("defect at {place}: {}", text.unwrap_or("unknown")));
        tracing::error!("{line}");
        // Without a reader there is nobody to tell.
        let _ = writeln!(io::stderr(), "{line}");
    }));
}

/// Allows as many open files as the system lets this process have: one for each connection.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a live local.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("cannot raise the limit of open files: {}", io::Error::last_os_error());
    }
}

/// A moment in the local time zone. What is beyond the system's calendar counts as 1970.
pub fn local_time(unix_secs: u64) -> libc::tm {
    // SAFETY: all fields of tm are numbers or a pointer, for which zero is valid.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    let secs = libc::time_t::try_from(unix_secs).unwrap_or(0);
    // SAFETY: both pointers are to live locals; localtime_r may be called by several threads at once.
    unsafe { libc::localtime_r(&raw const secs, &raw mut tm) };
    tm
}
