//! One program: started, watched through its log, signalled, and never left behind.

use super::world::Network;
use super::{PATIENCE, eventually, program, say};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A program that runs until it is told to end. What it prints is in its log, across restarts.
pub struct Process {
    /// As it is called in messages.
    pub name: String,
    program: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Where it lives; `None`: where the thread that starts it does.
    network: Option<Network>,
}

impl Process {
    /// Starts `program` in `dir`, which is made, with its log beside it.
    pub fn start(name: &str, program: &Path, args: &[String], dir: &Path) -> Process {
        Process::start_within(None, name, program, args, dir)
    }

    /// The same on a host of a [`World`](super::world::World).
    pub fn start_within(network: Option<Network>, name: &str, program: &Path, args: &[String], dir: &Path) -> Process {
        std::fs::create_dir_all(dir).expect("a directory can be made");
        let mut process = Process {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.to_vec(),
            dir: dir.to_owned(),
            log: dir.with_extension("log"),
            child: None,
            network,
        };
        process.restart();
        process
    }

    /// Starts it again with the same options, after it has ended.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} still runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log can be opened");
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be opened twice")).stderr(log);
        let child = match &self.network {
            Some(network) => network.within(|| spawn(command)),
            None => spawn(command),
        };
        self.child = Some(child.unwrap_or_else(|e| panic!("{} cannot be started: {e}", self.name)));
    }

    /// One more with the same options, in the same place, with the same log.
    pub fn start_another(&self) -> Process {
        let (name, args, dir) = (self.name.clone(), self.args.clone(), self.dir.clone());
        let (program, log, network) = (self.program.clone(), self.log.clone(), self.network.clone());
        let mut another = Process { name, program, args, dir, log, child: None, network };
        another.restart();
        another
    }

    pub fn args_mut(&mut self) -> &mut Vec<String> {
        &mut self.args
    }

    /// From its next start on, has a small disk of its own at `at`, where the system allows to mount one. The kernel takes it
    /// away when the process ends. False: it does not allow that.
    pub fn mount_small_disk(&mut self, at: &Path, mib: u32) -> bool {
        let options = format!("size={mib}m");
        let script = "mkdir -p \"$0\" && mount -t tmpfs -o \"$1\" none \"$0\" && shift && exec \"$@\"";
        let before = ["-m", "sh", "-c", script].map(str::to_owned);
        let try_it = Command::new("unshare").args(&before).arg(at).args([&options, "true"]).output();
        if !try_it.is_ok_and(|o| o.status.success()) {
            return false;
        }
        let own = std::mem::replace(&mut self.program, PathBuf::from("unshare"));
        let (at, own) = (at.to_string_lossy().into_owned(), own.to_string_lossy().into_owned());
        let args = std::mem::take(&mut self.args);
        self.args = before.into_iter().chain([at, options, own]).chain(args).collect();
        true
    }

    /// From its next start on, a write that its disk does not take ends with an error, and not with a signal; see
    /// [`Process::break_disk`].
    pub fn survive_broken_disk(&mut self) {
        let own = std::mem::replace(&mut self.program, PathBuf::from("sh"));
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
        let before = ["-c".to_owned(), script.to_owned(), own.to_string_lossy().into_owned()];
        self.args.splice(0..0, before);
    }

    /// From now on, no file of it can be written beyond so many bytes: whatever it stores fails, and not for want of room.
    pub fn break_disk(&self, bytes: u64) {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: the first pointer is to a live local, and nothing is asked for.
        let done =
            unsafe { libc::prlimit(self.pid() as i32, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(done, 0, "{}: {}", self.name, io::Error::last_os_error());
    }

    /// Gives the disk of [`Process::mount_small_disk`] so much room.
    pub fn resize_small_disk(&self, at: &Path, mib: u32) {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-m", "mount", "-o", &format!("remount,size={mib}m")]).arg(at);
        let said = run_command("nsenter", command, PATIENCE);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// kill -9, and its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// kill -TERM, and its end in good order.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{name} does not run"));
        let status = eventually(&format!("{name} ends"), || child.try_wait().expect("it is our child"));
        self.child = None;
        status
    }

    /// kill -STOP: from now on it hangs.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// kill -CONT.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a system call without pointers; the child has not been waited for, so the id is still its own.
        let done = unsafe { libc::kill(self.pid() as i32, signal) };
        assert_eq!(done, 0, "{}: {}", self.name, io::Error::last_os_error());
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("it is our child").is_some())
    }

    /// How long the log is: for [`Process::wait_for`] to look only at what comes later.
    pub fn mark(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |m| m.len())
    }

    /// What it has logged since `mark`.
    pub fn log_since(&self, mark: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.seek(SeekFrom::Start(mark)).and_then(|_| file.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line that holds `text`, and gives it.
    pub fn wait_for(&mut self, text: &str, mark: u64) -> String {
        let what = format!("{} logs {text:?}", self.name);
        eventually(&what, || {
            let found = self.logged(text, mark);
            if found.is_none() && self.has_ended() {
                panic!("{} ended; its log: {}", self.name, self.log_since(mark));
            }
            found
        })
    }

    /// A line since `mark` that holds `text`.
    pub fn logged(&self, text: &str, mark: u64) -> Option<String> {
        let log = self.log_since(mark);
        // A line is looked at when it is whole.
        log.split_inclusive('\n')
            .filter(|l| l.ends_with('\n'))
            .find(|l| l.contains(text))
            .map(|l| l.trim_end().to_owned())
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// Resident memory in bytes without that of files, which the kernel has back when it needs it.
    pub fn own_bytes(&self) -> u64 {
        self.memory_of("RssAnon:")
    }

    fn memory_of(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("Linux tells it");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log_since(0);
            let lines: Vec<&str> = log.lines().collect();
            say(&format!("--- last lines of {} ---", self.name));
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| say(line));
        }
    }
}

/// What a program said that ran to its end.
#[derive(Debug)]
pub struct Said {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Checks that it failed with one line that holds `words`, without a trace of where in the program.
    #[track_caller]
    pub fn complains(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines = self.stderr.lines().count();
        assert!(lines == 1 && self.stderr.ends_with('\n'), "one line is due, not {lines}: {self:?}");
        let defects = ["panicked", "defect", "backtrace"];
        assert!(defects.iter().all(|d| !self.stderr.contains(d)), "{self:?}");
        let missing: Vec<_> = words.iter().filter(|w| !self.stderr.contains(**w)).collect();
        assert!(missing.is_empty(), "not said: {missing:?} in {:?}", self.stderr);
    }
}

/// Runs one of this package's programs to its end.
pub fn run(name: &str, args: &[&str], dir: &Path) -> Said {
    let mut command = Command::new(program(name));
    command.args(args).current_dir(dir);
    run_command(name, command, PATIENCE)
}

/// Runs any command to its end; it is killed, and the test fails, when that takes too long.
pub fn run_command(name: &str, mut command: Command, patience: Duration) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command).unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let readers = [read_all(stdout), read_all(stderr)];
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = readers.map(|r| r.join().expect("a reader does not panic"));
    assert!(status.is_some(), "{name} did not end in {patience:?}; it said {stdout:?} {stderr:?}");
    Said { code: status.and_then(|s| s.code()), stdout, stderr }
}

/// Runs a command that the network takes part in; an error, and all that it started killed, when it takes too long,
/// cannot be started, or fails.
pub fn install(name: &str, mut command: Command, patience: Duration) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn(command).map_err(|e| format!("{name} cannot be started: {e}"))?;
    let reader = read_all(child.stderr.take().expect("it is piped"));
    let group = libc::pid_t::try_from(child.id()).expect("a process id");
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    // SAFETY: a plain system call; the group is the child's own. What it left behind would keep the pipe open.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let _ = child.wait();
    let said = reader.join().expect("a reader does not panic");
    match status {
        Some(status) if status.success() => Ok(()),
        Some(_) => Err(format!("{name} failed: {}", said.trim_end().lines().last().unwrap_or_default())),
        None => Err(format!("{name} did not end in {patience:?}")),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a child that the kernel kills when this process is gone, however it went.
///
/// The kernel means the thread that started the child, so one that lives as long as the process starts them all. The child
/// lives in the network of the thread that asks for it.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("KUMO_")) {
        command.env_remove(name);
    }
    let network = Network::unusual();
    // SAFETY: prctl and setns are plain system calls, which is all that may be done between fork and exec.
    unsafe {
        command.pre_exec(move || {
            network.as_ref().map_or(Ok(()), Network::enter)?;
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let (answer, answered) = channel();
    let sent = spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    sent.expect("the thread lives as long as the process");
    answered.recv().expect("each order is answered")
}

/// Lets this process and those it starts open as many files as the system allows; gives the number.
pub fn raise_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live local.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    limit.rlim_cur
}
