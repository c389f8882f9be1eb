//! The options of the daemons: one struct each, with what they have in common in [`Common`].
//!
//! Long names are clap's; the short spellings of kumofs are in the tables beside each struct. Where a default is
//! kumofs's, it is the one of its 0.4 releases.

use super::argv::Shorts;
use super::cmdline::Options;
use super::log::Format;
use super::store_spec::StoreSpec;
use super::values::{
    HostPort, ListenOn, MEMCACHE_PORT, Mode, STREAM_PORT, Size, interval, manager_address, max_value, port_number,
    seconds, server_address, whole,
};
use crate::logic::address::Address;
use clap::{ArgAction, Args, Parser};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod serving;
pub use serving::Serving;
use serving::listeners;

/// The most worker threads that may be asked for.
const MAX_THREADS: u32 = 1024;
/// The most retries that may be asked for, as in kumofs.
const MAX_RETRIES: u32 = 65_535;
/// The longest that cores may be allowed to take to wake up, in microseconds: no core takes longer.
const MAX_WAKE_LATENCY: u32 = 1_000_000;
/// The most servers that one process may hold.
const MAX_SERVERS: u32 = 60;
/// Who may connect to sockets of the file system, as with memcached: this user alone.
const UNIX_MODE: Mode = Mode(0o700);
/// The longest key prefix, in bytes: it leaves one of the 250 that a key has with it.
const MAX_PREFIX_BYTES: usize = 249;

/// A daemon's options, as the common start-up needs them.
pub trait DaemonOptions: Options {
    /// Where it logs, and whether it detaches.
    fn surroundings(&self) -> Surroundings<'_>;

    /// What was accepted without meaning anything here: a line each, logged once at start.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Where a daemon logs, and whether it detaches.
#[derive(Clone, Copy, Default, Debug)]
pub struct Surroundings<'a> {
    /// `--log`.
    pub log: Option<&'a Path>,
    /// `--log-format`.
    pub log_format: Format,
    /// `--verbose`.
    pub verbose: bool,
    /// `--binary-log`.
    pub binary_log: Option<&'a Path>,
    /// `--daemon`.
    pub daemon: Option<&'a Path>,
    /// `--test-config`.
    pub test_config: bool,
}

/// What all three daemons understand.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// write the log to this file; - is standard output without colour
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// what a line of the log looks like
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: Format,
    /// log what happens, not only warnings and errors
    #[arg(long)]
    pub verbose: bool,
    /// write a binary log to this file; SIGHUP reopens it
    #[arg(long, value_name = "PATH")]
    pub binary_log: Option<PathBuf>,
    /// detach from the terminal and write the process id to this file
    #[arg(long, value_name = "PIDFILE")]
    pub daemon: Option<PathBuf>,
    /// seconds between two signs of life to other nodes
    #[arg(long, value_name = "SEC", default_value = "0.5", value_parser = interval)]
    pub keepalive_interval: Duration,
    /// accepted for kumofs's sake; the logical clock needs no steps
    #[arg(long, value_name = "SEC", default_value = "2", value_parser = interval)]
    pub clock_interval: Duration,
    /// seconds that connecting to a node may take
    #[arg(long, value_name = "SEC", default_value = "1", value_parser = interval)]
    pub connect_timeout: Duration,
    /// how often a server that does not answer is tried again (manager)
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole(0..=MAX_RETRIES))]
    pub connect_retry_limit: u32,
    /// worker threads in all; the larger of this and --write-threads counts [default: half the cores]
    #[arg(long, value_name = "N", value_parser = whole(1..=MAX_THREADS))]
    pub read_threads: Option<u32>,
    /// worker threads in all; the larger of this and --read-threads counts
    #[arg(long, value_name = "N", value_parser = whole(1..=MAX_THREADS))]
    pub write_threads: Option<u32>,
    /// read options from this TOML file; keys are long names
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// check all options, say whether they are valid, and end
    #[arg(long)]
    pub test_config: bool,
    /// show this text
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// show the version
    #[arg(long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

impl Common {
    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            log: self.log.as_deref(),
            log_format: self.log_format,
            verbose: self.verbose,
            binary_log: self.binary_log.as_deref(),
            daemon: self.daemon.as_deref(),
            test_config: self.test_config,
        }
    }

    /// The number of worker threads on a machine with so many cores.
    pub fn workers(&self, cores: usize) -> usize {
        workers(self.read_threads.max(self.write_threads), cores)
    }
}

/// The number asked for, or half the cores, so that clients and other nodes have the rest.
fn workers(asked: Option<u32>, cores: usize) -> usize {
    asked.map_or((cores / 2).max(1), |n| n as usize)
}

const COMMON_SHORTS: &[(&str, &str)] = &[
    ("o", "log"),
    ("v", "verbose"),
    ("g", "binary-log"),
    ("d", "daemon"),
    ("Ci", "clock-interval"),
    ("Ys", "connect-timeout"),
    ("Yn", "connect-retry-limit"),
    ("TR", "read-threads"),
    ("TW", "write-threads"),
    ("h", "help"),
    ("V", "version"),
];

/// Options of kumo-manager.
#[derive(Parser, Clone, Debug)]
#[command(name = "kumo-manager", version, disable_help_flag = true, disable_version_flag = true)]
#[command(about = "Manages the servers of a kumofs cluster", after_help = NAMES_RULE)]
pub struct ManagerOptions {
    /// where other nodes reach this manager
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub listen: HostPort,
    /// another manager; once for each
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub partner: Vec<HostPort>,
    /// one more port for kumoctl
    #[arg(long, value_name = "PORT", value_parser = port_number)]
    pub control: Option<u16>,
    /// copy and drop records by itself when servers come and go
    #[arg(long)]
    pub auto_replace: bool,
    /// seconds to wait before it does
    #[arg(long, value_name = "SEC", default_value = "4", value_parser = seconds)]
    pub replace_delay: Duration,
    /// file that keeps the members of the cluster over restarts [default: ./kumo-manager-ADDR-PORT.state]
    #[arg(long, value_name = "PATH")]
    pub state: Option<PathBuf>,
    /// What all daemons understand.
    #[command(flatten)]
    pub common: Common,
}

impl ManagerOptions {
    /// Where the manager at an address keeps what it must not forget. Several on one host have a file each.
    pub fn state_file(&self, address: Address) -> PathBuf {
        let at = address.socket_addr();
        let name = format!("kumo-manager-{}-{}.state", at.ip(), at.port());
        self.state.clone().unwrap_or_else(|| Path::new(".").join(name))
    }
}

impl Options for ManagerOptions {
    const SHORTS: Shorts = &[
        &[
            ("l", "listen"),
            ("p", "partner"),
            ("c", "control"),
            ("a", "auto-replace"),
            ("Rs", "replace-delay"),
            ("k", "keepalive-interval"),
        ],
        COMMON_SHORTS,
    ];

    fn check(&self) -> Result<(), String> {
        if self.partner.contains(&self.listen) {
            return Err(format!("--partner (-p) {} is this manager itself; name the other one", self.listen));
        }
        if self.control.is_some_and(|port| port != 0 && port == self.listen.port) {
            return Err(format!("--control (-c) is the port of --listen (-l), {}; choose another", self.listen.port));
        }
        Ok(())
    }
}

impl DaemonOptions for ManagerOptions {
    fn surroundings(&self) -> Surroundings<'_> {
        self.common.surroundings()
    }
}

/// Options of kumo-server.
#[derive(Parser, Clone, Debug)]
#[command(name = "kumo-server", version, disable_help_flag = true, disable_version_flag = true)]
#[command(about = "Stores records of a kumofs cluster", after_help = NAMES_RULE)]
pub struct ServerOptions {
    /// where other nodes reach this server
    #[arg(long, value_name = "ADDR[:19800]", value_parser = server_address)]
    pub listen: HostPort,
    /// port on which other servers fetch records from it
    #[arg(long, value_name = "PORT", default_value_t = STREAM_PORT, value_parser = port_number)]
    pub stream_listen: u16,
    /// a manager
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub manager1: HostPort,
    /// another manager; once for each
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub manager2: Vec<HostPort>,
    /// where records are kept: log:DIR, sled:DIR, or DIR for log
    #[arg(long, value_name = "PATH[#xmsiz=SIZE][#rcnum=SIZE]")]
    pub store: StoreSpec,
    /// acknowledge only what would survive a loss of power
    #[arg(long)]
    pub sync: bool,
    /// largest value that is stored, up to 128m
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = max_value)]
    pub max_value: Size,
    /// accepted for kumofs's sake; no temporary files are needed
    #[arg(long, value_name = "DIR")]
    pub offer_tmp: Option<PathBuf>,
    /// accepted for kumofs's sake; a replica is asked until it has the value, or is taken for dead
    #[arg(long, value_name = "N", default_value = "20", value_parser = whole(0..=MAX_RETRIES))]
    pub replicate_set_retry: u32,
    /// accepted for kumofs's sake, likewise
    #[arg(long, value_name = "N", default_value = "20", value_parser = whole(0..=MAX_RETRIES))]
    pub replicate_delete_retry: u32,
    /// accepted for kumofs's sake; moving records takes little memory
    #[arg(long, value_name = "MB", default_value = "0", value_parser = whole(0..=MAX_RETRIES))]
    pub replace_memory_limit: u32,
    /// seconds that a deletion is remembered at least
    #[arg(long, value_name = "SEC", default_value = "60", value_parser = seconds)]
    pub garbage_min_time: Duration,
    /// seconds that a deletion is remembered at most
    #[arg(long, value_name = "SEC", default_value = "3600", value_parser = seconds)]
    pub garbage_max_time: Duration,
    /// memory for remembered deletions, in KB
    #[arg(long, value_name = "KB", default_value = "2048", value_parser = whole(0..=u32::MAX))]
    pub garbage_mem_limit: u32,
    /// bound how long cores take to wake up while requests come one after another; 0 keeps them awake [default: no bound]
    #[arg(long, value_name = "MICROSECONDS", value_parser = whole(0..=MAX_WAKE_LATENCY))]
    pub wake_latency: Option<u32>,
    /// How the gateway in this process serves, if clients are served at all.
    #[command(flatten)]
    pub serving: Serving,
    /// What all daemons understand.
    #[command(flatten)]
    pub common: Common,
}

impl ServerOptions {
    /// The least time for a deletion to be remembered: never above the most, as in kumofs.
    pub fn garbage_min(&self) -> Duration {
        self.garbage_min_time.min(self.garbage_max_time)
    }

    /// All managers.
    pub fn managers(&self) -> Vec<HostPort> {
        std::iter::once(&self.manager1).chain(&self.manager2).cloned().collect()
    }
}

impl Options for ServerOptions {
    const SHORTS: Shorts = &[
        &[
            ("l", "listen"),
            ("L", "stream-listen"),
            ("m", "manager1"),
            ("p", "manager2"),
            ("s", "store"),
            ("f", "offer-tmp"),
            ("S", "replicate-set-retry"),
            ("D", "replicate-delete-retry"),
            ("M", "replace-memory-limit"),
            ("gN", "garbage-min-time"),
            ("gX", "garbage-max-time"),
            ("gS", "garbage-mem-limit"),
            ("k", "keepalive-interval"),
        ],
        serving::SHORTS,
        COMMON_SHORTS,
    ];

    fn check(&self) -> Result<(), String> {
        check_managers(&self.manager1, &self.manager2)?;
        if self.stream_listen != 0 && self.stream_listen == self.listen.port {
            return Err(format!(
                "--stream-listen (-L) is the port of --listen (-l), {}; choose another",
                self.listen.port
            ));
        }
        if let Some(option) = self.serving.of_use_with_clients().filter(|_| self.serving.listeners().is_empty()) {
            return Err(format!("{option} is of use only with --memproto-text (-t); add -t PORT, or leave it out"));
        }
        Ok(())
    }
}

impl DaemonOptions for ServerOptions {
    fn surroundings(&self) -> Surroundings<'_> {
        self.common.surroundings()
    }

    fn warnings(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.store.warning().into_iter().chain(self.serving.warning()).collect();
        if self.offer_tmp.is_some() {
            lines.push("--offer-tmp: no temporary files are needed, ignored".to_owned());
        }
        if self.garbage_min_time > self.garbage_max_time {
            lines.push("--garbage-min-time is above --garbage-max-time, which is used for both".to_owned());
        }
        lines
    }
}

/// Options of kumo-gateway.
#[derive(Parser, Clone, Debug)]
#[command(name = "kumo-gateway", version, disable_help_flag = true, disable_version_flag = true)]
#[command(about = "Serves memcached clients from a kumofs cluster", after_help = NAMES_RULE)]
pub struct GatewayOptions {
    /// a manager
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub manager1: HostPort,
    /// another manager; once for each
    #[arg(long, value_name = "ADDR[:19700]", value_parser = manager_address)]
    pub manager2: Vec<HostPort>,
    /// let another gateway that is started so listen on the same ports: the next one starts before this one ends
    #[arg(long)]
    pub share_port: bool,
    /// largest value that is accepted, up to 128m
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = max_value)]
    pub max_value: Size,
    /// how often a get is tried again
    #[arg(long, value_name = "N", default_value = "5", value_parser = whole(0..=MAX_RETRIES))]
    pub get_retry: u32,
    /// how often a set is tried again
    #[arg(long, value_name = "N", default_value = "20", value_parser = whole(0..=MAX_RETRIES))]
    pub set_retry: u32,
    /// how often a delete is tried again
    #[arg(long, value_name = "N", default_value = "20", value_parser = whole(0..=MAX_RETRIES))]
    pub delete_retry: u32,
    /// after so many failures the members of the cluster are asked for anew
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole(1..=MAX_RETRIES))]
    pub renew_threshold: u32,
    /// put this before every key
    #[arg(long, value_name = "STRING", default_value = "")]
    pub key_prefix: String,
    /// bound how long cores take to wake up while requests come one after another; 0 keeps them awake [default: no bound]
    #[arg(long, value_name = "MICROSECONDS", value_parser = whole(0..=MAX_WAKE_LATENCY))]
    pub wake_latency: Option<u32>,
    /// How clients are served.
    #[command(flatten)]
    pub serving: Serving,
    /// What all daemons understand.
    #[command(flatten)]
    pub common: Common,
}

impl GatewayOptions {
    /// Where clients are served, without repetitions.
    pub fn listeners(&self) -> Vec<ListenOn> {
        let mut on = self.serving.listeners();
        if on.is_empty() {
            on.push(ListenOn::Port(MEMCACHE_PORT));
        }
        on
    }

    /// All managers.
    pub fn managers(&self) -> Vec<HostPort> {
        std::iter::once(&self.manager1).chain(&self.manager2).cloned().collect()
    }
}

impl Options for GatewayOptions {
    const SHORTS: Shorts = &[
        &[
            ("m", "manager1"),
            ("p", "manager2"),
            ("G", "get-retry"),
            ("S", "set-retry"),
            ("D", "delete-retry"),
            ("rn", "renew-threshold"),
            ("k", "key-prefix"),
        ],
        serving::SHORTS,
        COMMON_SHORTS,
    ];

    fn check(&self) -> Result<(), String> {
        check_managers(&self.manager1, &self.manager2)?;
        if self.key_prefix.len() > MAX_PREFIX_BYTES {
            return Err(format!("--key-prefix (-k) is longer than {MAX_PREFIX_BYTES} bytes; choose a shorter one"));
        }
        Ok(())
    }
}

impl DaemonOptions for GatewayOptions {
    fn surroundings(&self) -> Surroundings<'_> {
        self.common.surroundings()
    }

    fn warnings(&self) -> Vec<String> {
        self.serving.warning().into_iter().collect()
    }
}

/// Options of kumofs, the whole cluster in one process.
#[derive(Parser, Clone, Debug)]
#[command(name = "kumofs", version, disable_help_flag = true, disable_version_flag = true)]
#[command(about = "A whole kumofs cluster in one process", after_help = NAMES_RULE)]
pub struct KumofsOptions {
    /// serve memcached clients here; a bare port means this host only; may be repeated
    #[arg(long, value_name = "[ADDR:]PORT|unix:PATH", default_value = "127.0.0.1:11211")]
    pub listen: Vec<ListenOn>,
    /// who may connect to sockets of the file system, as for chmod
    #[arg(long, value_name = "MODE", default_value_t = UNIX_MODE)]
    pub unix_mode: Mode,
    /// directory that keeps everything over restarts
    #[arg(long, value_name = "DIR", default_value = "./kumofs-data")]
    pub data: PathBuf,
    /// number of servers; three or more keep three copies of each record
    #[arg(long, value_name = "N", default_value = "3", value_parser = whole(1..=MAX_SERVERS))]
    pub servers: u32,
    /// worker threads [default: half the cores]
    #[arg(long, value_name = "N", value_parser = whole(1..=MAX_THREADS))]
    pub threads: Option<u32>,
    /// bound how long cores take to wake up while requests come one after another; 0 keeps them awake [default: no bound]
    #[arg(long, value_name = "MICROSECONDS", value_parser = whole(0..=MAX_WAKE_LATENCY))]
    pub wake_latency: Option<u32>,
    /// largest value that is stored, up to 128m
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = max_value)]
    pub max_value: Size,
    /// acknowledge only what would survive a loss of power
    #[arg(long)]
    pub sync: bool,
    /// write the log to this file; - is standard output without colour
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// what a line of the log looks like
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: Format,
    /// log what happens, not only warnings and errors
    #[arg(long)]
    pub verbose: bool,
    /// read options from this TOML file; keys are long names
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// check all options, say whether they are valid, and end
    #[arg(long)]
    pub test_config: bool,
    /// show this text
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// show the version
    #[arg(long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

impl KumofsOptions {
    /// Where clients are served, without repetitions.
    pub fn listeners(&self) -> Vec<ListenOn> {
        listeners(&self.listen, &[])
    }

    /// The number of worker threads on a machine with so many cores.
    pub fn workers(&self, cores: usize) -> usize {
        workers(self.threads, cores)
    }
}

impl Options for KumofsOptions {
    const SHORTS: Shorts = &[&[("o", "log"), ("v", "verbose"), ("h", "help"), ("V", "version")]];
}

impl DaemonOptions for KumofsOptions {
    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            log: self.log.as_deref(),
            log_format: self.log_format,
            verbose: self.verbose,
            test_config: self.test_config,
            ..Surroundings::default()
        }
    }
}

/// The last paragraph of every help text.
const NAMES_RULE: &str = "\
The spelling in brackets is kumofs's. An option --some-name may also be given as the environment's KUMO_SOME_NAME
or as some-name in the file of --config; the command line comes before the environment, and that before the file.";

fn check_managers(one: &HostPort, others: &[HostPort]) -> Result<(), String> {
    if others.contains(one) {
        return Err(format!(
            "--manager1 (-m) and --manager2 (-p) are both {one}; leave one out or name the other manager"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
