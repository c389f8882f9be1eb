//! Managers, servers and gateways as separate processes on hosts of their own, started as the guide tells.

use super::memcache::Client;
use super::net::{Hosts, free_address, free_port};
use super::process::{Process, Said, run};
use super::world::World;
use super::{eventually, program, temp_dir};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub const MANAGER_PORT: u16 = 19700;
pub const SERVER_PORT: u16 = 19800;
const STREAM_PORT: u16 = 19900;
const MEMCACHE_PORT: u16 = 11211;

/// Where the nodes of a cluster are.
enum Place {
    /// Each on a host of its own, on the usual ports.
    Hosts(Hosts),
    /// All on one, on ports of the system's choice.
    One(IpAddr),
    /// Each on a host of a network of its own, on the usual ports.
    World(Arc<World>),
}

/// A cluster; all of it ends with the value.
pub struct Cluster {
    pub managers: Vec<Process>,
    pub servers: Vec<Process>,
    pub gateways: Vec<Process>,
    manager_addresses: Vec<SocketAddr>,
    server_addresses: Vec<SocketAddr>,
    gateway_addresses: Vec<SocketAddr>,
    /// What stands before the path of the stores of servers that are started from now on: "sled:", or nothing.
    pub engine: &'static str,
    /// Options that all servers, and all managers, started from now on get.
    pub server_options: Vec<String>,
    pub manager_options: Vec<String>,
    place: Place,
    dir: TempDir,
}

impl Cluster {
    /// Managers and servers that know of each other, nothing attached.
    pub fn unattached(managers: usize, servers: usize) -> Cluster {
        Cluster::at(Place::Hosts(Hosts::claim()), managers, servers)
    }

    /// The same on one address, as with several daemons on a host.
    pub fn on_one_host(ip: IpAddr, managers: usize, servers: usize) -> Cluster {
        Cluster::at(Place::One(ip), managers, servers)
    }

    /// Attached and with a gateway that serves.
    pub fn start(managers: usize, servers: usize) -> Cluster {
        let mut cluster = Cluster::unattached(managers, servers);
        cluster.attach();
        cluster.add_gateway(&[]);
        cluster
    }

    /// Nothing yet, on hosts of its own.
    pub fn empty() -> Cluster {
        Cluster::at(Place::Hosts(Hosts::claim()), 0, 0)
    }

    /// A cluster of which nothing is left but backups: a manager, a server on each of them, and a gateway.
    pub fn restored(backups: &[PathBuf]) -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.start_managers(1);
        for (i, backup) in backups.iter().enumerate() {
            std::fs::rename(backup, cluster.store_of(i)).expect("a backup can be moved");
            cluster.add_server();
        }
        cluster.attach();
        cluster.add_gateway(&[]);
        cluster
    }

    /// Attached and with so many gateways that serve, on hosts of a network whose links can be cut.
    pub fn start_in(world: Arc<World>, managers: usize, servers: usize, gateways: usize) -> Cluster {
        let mut cluster = Cluster::at(Place::World(world), managers, servers);
        cluster.attach();
        for _ in 0..gateways {
            cluster.add_gateway(&[]);
        }
        cluster
    }

    fn at(place: Place, managers: usize, servers: usize) -> Cluster {
        let mut cluster = Cluster {
            managers: Vec::new(),
            servers: Vec::new(),
            gateways: Vec::new(),
            manager_addresses: Vec::new(),
            server_addresses: Vec::new(),
            gateway_addresses: Vec::new(),
            engine: "",
            server_options: Vec::new(),
            manager_options: Vec::new(),
            place,
            dir: temp_dir(),
        };
        cluster.start_managers(managers);
        cluster.add_servers(servers);
        cluster
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn address(&self, host: usize, port: u16) -> SocketAddr {
        match &self.place {
            Place::Hosts(hosts) => SocketAddr::from((hosts.host(host), port)),
            Place::One(ip) => free_address(*ip),
            Place::World(_) => SocketAddr::from((World::ip(host), port)),
        }
    }

    /// Starts a program of ours on one of the hosts.
    fn start_on(&self, host: usize, name: &str, what: &str, args: &[String]) -> Process {
        let network = match &self.place {
            Place::World(world) => Some(world.host(host)),
            Place::Hosts(_) | Place::One(_) => None,
        };
        Process::start_within(network, name, &program(what), args, &self.dir.path().join(name))
    }

    /// Starts managers that are all partners of each other.
    pub fn start_managers(&mut self, managers: usize) {
        self.manager_addresses = (0..managers).map(|i| self.address(manager_host(i), MANAGER_PORT)).collect();
        for (i, own) in self.manager_addresses.clone().into_iter().enumerate() {
            let name = format!("manager{}", i + 1);
            let mut args = words(&["-v", "-l", &show(own, MANAGER_PORT)]);
            for partner in self.manager_addresses.iter().filter(|a| **a != own) {
                args.extend(words(&["-p", &show(*partner, MANAGER_PORT)]));
            }
            args.extend_from_slice(&self.manager_options);
            let process = self.start_on(manager_host(i), &name, "kumo-manager", &args);
            self.managers.push(process);
        }
        for manager in &mut self.managers {
            manager.wait_for("start manager", 0);
        }
        let addresses = self.manager_addresses.clone();
        for (i, manager) in self.managers.iter_mut().enumerate() {
            for partner in addresses.iter().filter(|a| **a != addresses[i]) {
                manager.wait_for(&format!("partner connected {partner}"), 0);
            }
        }
    }

    /// Where manager `i` keeps its state.
    pub fn state_of(&self, i: usize) -> PathBuf {
        let at = self.manager_addresses[i];
        self.managers[i].dir().join(format!("kumo-manager-{}-{}.state", at.ip(), at.port()))
    }

    /// Starts one more server, and waits until every manager that runs knows it. Returns its index.
    pub fn add_server(&mut self) -> usize {
        let i = self.servers.len();
        let address = self.address(server_host(i), SERVER_PORT);
        let name = format!("server{}", i + 1);
        let stream = match &self.place {
            Place::Hosts(_) | Place::World(_) => STREAM_PORT,
            Place::One(ip) => free_port(*ip),
        };
        let mut args = words(&["-v", "-l", &show(address, SERVER_PORT), "-L", &stream.to_string()]);
        args.extend(self.manager_args());
        args.extend(words(&["-s", &format!("{}{}", self.engine, self.store_of(i).display())]));
        args.extend_from_slice(&self.server_options);
        let marks = self.manager_marks();
        let process = self.start_on(server_host(i), &name, "kumo-server", &args);
        self.servers.push(process);
        self.server_addresses.push(address);
        self.wait_until_known(i, &marks);
        i
    }

    pub fn add_servers(&mut self, how_many: usize) {
        for _ in 0..how_many {
            self.add_server();
        }
    }

    /// `-m` and `-p`, as servers and gateways take them.
    fn manager_args(&self) -> Vec<String> {
        let managers = self.manager_addresses.iter().map(|a| show(*a, MANAGER_PORT));
        let options = std::iter::once("-m").chain(std::iter::repeat("-p"));
        options.zip(managers).flat_map(|(option, to)| [option.to_owned(), to]).collect()
    }

    /// Where server `i` keeps its records.
    pub fn store_of(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("database{}.tch", i + 1))
    }

    pub fn manager_marks(&self) -> Vec<u64> {
        self.managers.iter().map(Process::mark).collect()
    }

    fn wait_until_known(&mut self, server: usize, marks: &[u64]) {
        let line = format!("server connected {}", self.server_addresses[server]);
        let process = &mut self.servers[server];
        for (manager, mark) in self.managers.iter_mut().zip(marks).filter(|(m, _)| m.is_running()) {
            eventually(&format!("{} logs {line:?}", manager.name), || {
                assert!(!process.has_ended(), "{} ended: {}", process.name, process.log_since(0));
                manager.logged(&line, *mark)
            });
        }
    }

    /// Starts one more gateway and waits until it has reached a manager. Returns where it serves.
    pub fn add_gateway(&mut self, options: &[&str]) -> SocketAddr {
        let i = self.gateways.len();
        let address = self.address(gateway_host(i), MEMCACHE_PORT);
        let name = format!("gateway{}", i + 1);
        let mut args = words(&["-v", "-t", &address.to_string()]);
        args.extend(self.manager_args());
        args.extend(words(options));
        let mut process = self.start_on(gateway_host(i), &name, "kumo-gateway", &args);
        process.wait_for("connect success", 0);
        self.gateways.push(process);
        self.gateway_addresses.push(address);
        eventually("the gateway listens", || Client::connect(address).ok());
        address
    }

    pub fn manager_address(&self, i: usize) -> SocketAddr {
        self.manager_addresses[i]
    }

    pub fn server_address(&self, i: usize) -> SocketAddr {
        self.server_addresses[i]
    }

    pub fn gateway(&self, i: usize) -> SocketAddr {
        self.gateway_addresses[i]
    }

    pub fn gateway_addresses(&self) -> &[SocketAddr] {
        &self.gateway_addresses
    }

    pub fn client(&self) -> Client {
        Client::connect(self.gateway(0)).expect("the gateway listens")
    }

    /// `kumoctl` at the first manager that runs.
    pub fn ctl(&self, command: &[&str]) -> Said {
        let up = self.managers.iter().position(Process::is_running).expect("a manager runs");
        self.ctl_at(up, command)
    }

    /// `kumoctl` at a manager.
    pub fn ctl_at(&self, manager: usize, command: &[&str]) -> Said {
        let address = show(self.manager_addresses[manager], MANAGER_PORT);
        run("kumoctl", &[&[address.as_str()], command].concat(), self.dir.path())
    }

    /// A command that must be accepted: it prints `nil`.
    #[track_caller]
    pub fn order(&self, command: &[&str]) {
        let said = self.ctl(command);
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), "nil\n"), "kumoctl {command:?}: {said:?}");
    }

    /// What `kumoctl status` says.
    pub fn status(&self) -> Status {
        let said = self.ctl(&["status"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        Status::read(&said.stdout)
    }

    /// Waits until `status` is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let up = self.managers.iter().position(Process::is_running).expect("a manager runs");
        let mut last = String::new();
        let deadline = std::time::Instant::now() + super::PATIENCE;
        loop {
            // A manager that has just been started may not listen yet.
            let said = self.ctl_at(up, &["status"]);
            if said.code == Some(0) {
                let status = Status::read(&said.stdout);
                if wanted(&status) {
                    return status;
                }
            }
            last.clone_from(&said.stdout);
            last.push_str(&said.stderr);
            assert!(std::time::Instant::now() < deadline, "waited in vain: {what}; the last status:\n{last}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Attaches all servers that wait for it, and waits until they are active and the copying is over.
    pub fn attach(&self) {
        let marks = self.manager_marks();
        self.order(&["attach"]);
        self.until_replaced(&marks);
        let servers = self.servers.iter().filter(|s| s.is_running()).count();
        self.until("all servers are active", |s| s.active() == servers && s.not_attached.is_empty());
    }

    /// How often servers stood still for longer than their leases, because the machine is busy: each time they drop their
    /// connections, and the answers with them.
    pub fn standstills(&self) -> u64 {
        self.servers.iter().map(|s| s.log_since(0).matches("stood still").count() as u64).sum()
    }

    /// Starts a gateway with the options of gateway `i`, which runs, and waits until it serves.
    pub fn start_beside_gateway(&self, i: usize) -> Process {
        let before = &self.gateways[i];
        let mark = before.mark();
        let mut next = before.start_another();
        next.wait_for("connect success", mark);
        next
    }

    /// Waits until a manager says that a replace begun after `marks` is over.
    pub fn until_replaced(&self, marks: &[u64]) {
        self.until_logged("replace finished", marks);
    }

    /// Waits until one of the managers has logged `text` after `marks`.
    pub fn until_logged(&self, text: &str, marks: &[u64]) {
        eventually(&format!("a manager logs {text:?}"), || {
            self.managers.iter().zip(marks).find_map(|(m, mark)| m.logged(text, *mark))
        });
    }

    /// Kills a server and waits until the managers took notice.
    pub fn kill_server(&mut self, i: usize) {
        self.servers[i].kill();
        let address = self.server_addresses[i];
        self.until(&format!("{address} is taken for dead"), |s| s.is_fault(address));
    }

    /// Starts a server again, on the files that it had, and waits until all managers that run know it.
    pub fn restart_server(&mut self, i: usize) {
        let marks = self.manager_marks();
        self.servers[i].restart();
        self.wait_until_known(i, &marks);
    }

    /// Starts a manager again and waits until it listens and its partner, if it runs, is connected.
    pub fn restart_manager(&mut self, i: usize) {
        let marks = self.manager_marks();
        self.managers[i].restart();
        self.managers[i].wait_for("start manager", marks[i]);
        if self.managers.iter().all(Process::is_running) && self.managers.len() == 2 {
            self.managers.iter_mut().zip(marks).for_each(|(m, mark)| drop(m.wait_for("partner connected", mark)));
        }
    }

    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.managers.iter_mut().chain(&mut self.servers).chain(&mut self.gateways)
    }

    /// Fails when a process that ought to run has ended, or one has said that it panicked.
    #[track_caller]
    pub fn assert_sound(&mut self) {
        for process in self.processes() {
            let log = process.log_since(0);
            let defect = log.lines().find(|l| l.contains("defect at") || l.contains("panicked"));
            assert!(defect.is_none(), "{}: {defect:?}", process.name);
            assert!(!process.is_running() || !process.has_ended(), "{} ended: {log}", process.name);
        }
    }
}

/// The numbers of hosts.
pub fn manager_host(i: usize) -> usize {
    1 + i
}

pub fn server_host(i: usize) -> usize {
    11 + i
}

/// Options of a gateway that caches values, however small.
pub const CACHING: &[&str] = &["-lc", "8m#minsiz=0"];

pub fn gateway_host(i: usize) -> usize {
    101 + i
}

/// As operators type it: without the port where it is the usual one.
pub fn show(address: SocketAddr, usual_port: u16) -> String {
    match address {
        SocketAddr::V4(v4) if v4.port() == usual_port => v4.ip().to_string(),
        other => other.to_string(),
    }
}

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|w| (*w).to_owned()).collect()
}

/// `kumoctl status`, read as scripts do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The line below "hash space timestamp:".
    pub timestamp: String,
    /// Address and what stands in brackets behind it.
    pub attached: Vec<(SocketAddr, String)>,
    pub not_attached: Vec<SocketAddr>,
}

impl Status {
    #[track_caller]
    pub fn read(text: &str) -> Status {
        let mut status = Status::default();
        let mut heading = "";
        let mut headings = Vec::new();
        for line in text.lines() {
            let Some(entry) = line.strip_prefix("  ") else {
                heading = line;
                headings.push(line);
                continue;
            };
            match heading {
                "hash space timestamp:" => status.timestamp = entry.to_owned(),
                "attached node:" => {
                    let (address, state) = entry.split_once("  ").unwrap_or_else(|| panic!("no state: {text}"));
                    let state = state.trim_start_matches('(').trim_end_matches(')');
                    status.attached.push((parse(address, text), state.to_owned()));
                }
                "not attached node:" => status.not_attached.push(parse(entry, text)),
                _ => {}
            }
        }
        let due = ["hash space timestamp:", "attached node:", "not attached node:"];
        assert!(due.iter().all(|d| headings.contains(d)), "a heading is missing:\n{text}");
        status
    }

    pub fn active(&self) -> usize {
        self.attached.iter().filter(|(_, state)| state == "active").count()
    }

    pub fn is_active(&self, address: SocketAddr) -> bool {
        self.attached.iter().any(|(a, state)| *a == address && state == "active")
    }

    pub fn is_fault(&self, address: SocketAddr) -> bool {
        self.attached.iter().any(|(a, state)| *a == address && state == "fault")
    }
}

#[track_caller]
fn parse(address: &str, text: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("not an address: {address:?} in\n{text}"))
}
