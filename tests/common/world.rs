//! A network of our own: a switch with hosts, each in a network namespace, whose cables can be pulled and whose links can be
//! cut one by one and one way.
//!
//! The namespaces have no names: they are gone with the last process and file that holds them, so that nothing is left
//! behind however a test ends. The thread that makes the world lives at the switch, and so do threads and programs that it
//! starts; clients reach all hosts.

use super::process::run_command;
use super::{PATIENCE, skip};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

/// A network namespace.
#[derive(Clone)]
pub struct Network(Arc<OwnedFd>);

impl Network {
    /// That of the calling thread.
    pub fn own() -> io::Result<Network> {
        Ok(Network(Arc::new(File::open("/proc/thread-self/ns/net")?.into())))
    }

    /// That of the calling thread, unless it is the one in which this program was started.
    pub fn unusual() -> Option<Network> {
        let inode = |path| std::fs::metadata(path).map(|m| m.ino()).ok();
        (inode("/proc/thread-self/ns/net")? != inode("/proc/self/ns/net")?).then(|| Network::own().ok())?
    }

    /// Moves the calling thread there. One system call, so that it may be made between fork and exec.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: a system call without pointers, on a file that is open.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Does something there.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let home = Network::own().expect("a thread has a network");
        self.enter().expect("a network that was made can be entered");
        let done = work();
        home.enter().expect("a thread can go back");
        done
    }

    /// A path of it for other programs.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A new, empty network, in which the calling thread is from now on.
fn make_network() -> io::Result<Network> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Network::own(),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `ip` or `tc`.
fn tool(name: &str, args: &str) -> Result<(), String> {
    let mut command = Command::new(name);
    command.args(args.split_whitespace());
    let said = run_command(name, command, PATIENCE);
    if said.code == Some(0) { Ok(()) } else { Err(format!("{name} {args}: {}", said.stderr.trim())) }
}

#[track_caller]
fn must(name: &str, args: &str) {
    tool(name, args).unwrap_or_else(|e| panic!("{e}"));
}

/// A link address that no host has: what is sent there is lost without a word.
const NOBODY: &str = "02:00:00:00:ff:ff";

/// The switch and its hosts.
pub struct World {
    hub: Network,
    hosts: Mutex<BTreeMap<usize, Network>>,
}

impl World {
    /// Runs a test in a world of its own; where the machine allows none, says why and does not run it.
    pub fn run(test: impl FnOnce(Arc<World>) + Send) {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let work = || match World::new() {
            Ok(world) => test(Arc::new(world)),
            Err(why) => skip(&format!("no networks of its own can be made here: {why}")),
        };
        // A thread of its own, because there is no way back for those that it starts.
        let done = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
            thread.expect("a thread can be started").join()
        });
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Result<World, String> {
        let ip = Command::new("ip").arg("-V").output();
        ip.map_err(|e| format!("ip cannot be run: {e}"))?;
        let hub = make_network().map_err(|e| e.to_string())?;
        tool("ip", "link set lo up")?;
        tool("ip", "link add switch type bridge")?;
        tool("ip", &format!("addr add {}/24 dev switch", World::ip(254)))?;
        tool("ip", "link set switch up")?;
        tool("ip", "link add probe type veth peer name probed")?;
        tool("ip", "link del probe")?;
        Ok(World { hub, hosts: Mutex::default() })
    }

    /// The address of host `n`: of a network that is for tests of networks.
    pub fn ip(n: usize) -> Ipv4Addr {
        assert!((1..255).contains(&n), "no such host");
        Ipv4Addr::new(198, 18, 0, n as u8)
    }

    /// The network of host `n`, which is plugged in when it is first asked for.
    pub fn host(&self, n: usize) -> Network {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(n).or_insert_with(|| self.plug_in(n)).clone()
    }

    fn plug_in(&self, n: usize) -> Network {
        let host = make_network().expect("what could be made once can be made again");
        self.hub.enter().expect("a thread can go back");
        must("ip", &format!("link add port{n} type veth peer name eth0 netns {}", host.path()));
        must("ip", &format!("link set port{n} master switch up"));
        host.within(|| {
            must("ip", "link set lo up");
            must("ip", &format!("addr add {}/24 dev eth0", World::ip(n)));
            must("ip", "link set eth0 up");
        });
        host
    }

    /// From now on, nothing that one host sends arrives at the other; it is not told.
    pub fn cut(&self, from: usize, to: usize) {
        self.host(from).within(|| {
            must("ip", &format!("neigh replace {} lladdr {NOBODY} dev eth0 nud permanent", World::ip(to)));
        });
    }

    /// It does again.
    pub fn mend(&self, from: usize, to: usize) {
        // It may be mended already.
        let _ = self.host(from).within(|| tool("ip", &format!("neigh del {} dev eth0", World::ip(to))));
    }

    /// Pulls a host's cable out.
    pub fn pull(&self, n: usize) {
        self.hub.within(|| must("ip", &format!("link set port{n} down")));
    }

    /// Plugs it in again.
    pub fn plug(&self, n: usize) {
        self.hub.within(|| must("ip", &format!("link set port{n} up")));
    }

    /// From now on, one host's network says that there is no way to the other.
    pub fn reject(&self, from: usize, to: usize) {
        self.host(from).within(|| must("ip", &format!("route replace unreachable {}", World::ip(to))));
    }

    /// There is one again.
    pub fn accept(&self, from: usize, to: usize) {
        self.host(from).within(|| must("ip", &format!("route del unreachable {}", World::ip(to))));
    }

    /// What goes to a host passes at this many bytes a second, the last 0.1 s of it wait, and more is lost.
    pub fn narrow(&self, n: usize, bytes_per_sec: u32) {
        let limits = format!("rate {bytes_per_sec}bps burst 4k latency 100ms");
        self.hub.within(|| must("tc", &format!("qdisc replace dev port{n} root tbf {limits}")));
    }

    /// It is as wide as before.
    pub fn widen(&self, n: usize) {
        self.hub.within(|| must("tc", &format!("qdisc del dev port{n} root")));
    }
}
