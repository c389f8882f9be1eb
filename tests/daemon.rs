//! How a daemon starts and ends, with real processes: detaching, pid file, signals, logs, exit status.
//!
//! Forking needs a process of one thread, so this program has no test harness: started with `KUMO_TEST_DAEMON` it is
//! the daemon, a manager that only listens, and without it, the tests, one after the other.

use kumofs::daemon::options::ManagerOptions;
use kumofs::proto::binlog::{Happened, Step, next};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if std::env::var_os("KUMO_TEST_DAEMON").is_some() {
        return kumofs::daemon::run::<ManagerOptions>(|options, host| {
            let listener = TcpListener::bind(options.listen.to_string()).map_err(|e| format!("cannot listen: {e}"))?;
            let address = listener.local_addr().map_err(|e| e.to_string())?;
            assert!(!options.auto_replace, "told to fail");
            host.listening()?;
            tracing::info!("start manager {address}");
            host.binary_log().log(&Happened::GetFailed { key: b"k", error: 1 });
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
            let mut stop = host.stop();
            runtime.block_on(stop.wait_for(|stop| *stop)).map_err(|e| e.to_string())?;
            tracing::info!("stopped");
            Ok(())
        });
    }
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in TESTS {
        let ok = std::panic::catch_unwind(test).is_ok();
        failed += usize::from(!ok);
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
    }
    // As libtest says it, for whoever counts.
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, TESTS.len() - failed);
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const TESTS: &[(&str, fn())] = &[
    (
        "without_v_nothing_is_logged_and_sigterm_ends_with_success",
        without_v_nothing_is_logged_and_sigterm_ends_with_success,
    ),
    ("with_v_lines_come_at_once_without_colour_in_a_pipe", with_v_lines_come_at_once_without_colour_in_a_pipe),
    ("a_closed_standard_output_does_not_matter", a_closed_standard_output_does_not_matter),
    (
        "detached_it_returns_when_it_listens_and_removes_its_pid_file",
        detached_it_returns_when_it_listens_and_removes_its_pid_file,
    ),
    ("detached_it_tells_its_error_to_whoever_started_it", detached_it_tells_its_error_to_whoever_started_it),
    ("sighup_opens_both_logs_anew", sighup_opens_both_logs_anew),
    ("wrong_options_end_with_two_and_a_port_in_use_with_one", wrong_options_end_with_two_and_a_port_in_use_with_one),
    ("a_defect_is_one_line_and_status_one", a_defect_is_one_line_and_status_one),
];

fn daemon(options: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("KUMO_TEST_DAEMON", "1").args(options.split_whitespace()).stdin(Stdio::null());
    command
}

/// A process that does not outlive its test, whatever becomes of that.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon whose standard output is a pipe.
fn start(options: &str) -> Running {
    Running(daemon(options).stdout(Stdio::piped()).spawn().unwrap())
}

fn run(options: &str) -> Output {
    daemon(options).output().unwrap()
}

fn signal(pid: u32, signal: i32) -> bool {
    // SAFETY: sends a signal to a process that this test started.
    unsafe { libc::kill(pid as i32, signal) == 0 }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a file has so many lines that contain the text.
fn wait_for_lines(path: &Path, text: &str, count: usize) {
    let lines = || fs::read_to_string(path).unwrap_or_default().lines().filter(|l| l.contains(text)).count();
    wait_for(&format!("{text} in {}", path.display()), || (lines() >= count).then_some(()));
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

fn one_error_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

fn without_v_nothing_is_logged_and_sigterm_ends_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let mpac = dir.path().join("x.mpac");
    let mut running = start(&format!("-l 127.0.0.1:0 -g {}", mpac.display()));
    wait_for("a record", || fs::metadata(&mpac).is_ok_and(|m| m.len() > 0).then_some(()));
    assert!(signal(running.0.id(), libc::SIGTERM));
    let mut logged = String::new();
    running.0.stdout.as_mut().unwrap().read_to_string(&mut logged).unwrap();
    assert_eq!((running.0.wait().unwrap().code(), logged.as_str()), (Some(0), ""));
    assert!(matches!(next(&fs::read(mpac).unwrap()), Step::Record(..)));
}

fn with_v_lines_come_at_once_without_colour_in_a_pipe() {
    let mut running = start("-v -l 127.0.0.1:0");
    let child = &mut running.0;
    let line = first_line(child);
    assert!(line.contains(" INFO start manager 127.0.0.1:") && !line.contains('\x1b'), "{line}");
    assert!(signal(child.id(), libc::SIGINT));
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.contains(" INFO SIGINT: stopping\n") && rest.ends_with(" INFO stopped\n"), "{rest}");
    assert!(child.wait().unwrap().success());
}

fn a_closed_standard_output_does_not_matter() {
    let mut running = start("-v -l 127.0.0.1:0");
    let child = &mut running.0;
    first_line(child);
    drop(child.stdout.take());
    assert!(signal(child.id(), libc::SIGHUP));
    assert!(signal(child.id(), libc::SIGTERM));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn detached_it_returns_when_it_listens_and_removes_its_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let (pid_file, log) = (dir.path().join("pid"), dir.path().join("log"));
    let output = run(&format!("-v -l 127.0.0.1:0 -d {} -o {}", pid_file.display(), log.display()));
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(0), &b""[..], &b""[..]));
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert!(signal(pid, 0));
    wait_for_lines(&log, "start manager 127.0.0.1:", 1);
    // SAFETY: only asks; the daemon must have left the session of the tests.
    assert_ne!(unsafe { libc::getsid(pid as i32) }, unsafe { libc::getsid(0) });
    assert!(signal(pid, libc::SIGTERM));
    wait_for("the pid file to go", || (!pid_file.exists()).then_some(()));
    wait_for("the daemon to end", || (!signal(pid, 0)).then_some(()));
    assert!(!fs::read_to_string(&log).unwrap().contains('\x1b'));
}

fn detached_it_tells_its_error_to_whoever_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let pid_file: PathBuf = dir.path().join("pid");
    let output = run(&format!("-l {} -d {}", taken.local_addr().unwrap(), pid_file.display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(one_error_line(&output).starts_with("kumo-manager: cannot listen: Address already in use"));
    assert!(!pid_file.exists());

    let output = run("-l 127.0.0.1:0 -d /nonexistent/pid");
    assert_eq!(output.status.code(), Some(1));
    assert!(one_error_line(&output).contains("cannot write the pid file /nonexistent/pid"), "{output:?}");
}

fn sighup_opens_both_logs_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mpac) = (dir.path().join("log"), dir.path().join("mpac"));
    let mut running = start(&format!("-v -l 127.0.0.1:0 -o {} -g {}", log.display(), mpac.display()));
    let child = &mut running.0;
    wait_for_lines(&log, "start manager", 1);
    wait_for("a record", || fs::metadata(&mpac).is_ok_and(|m| m.len() > 0).then_some(()));
    fs::rename(&log, dir.path().join("log.1")).unwrap();
    fs::rename(&mpac, dir.path().join("mpac.1")).unwrap();
    assert!(signal(child.id(), libc::SIGHUP));
    wait_for_lines(&log, "SIGHUP: log files opened anew", 1);
    wait_for("the new binary log", || mpac.exists().then_some(()));
    assert!(signal(child.id(), libc::SIGTERM));
    assert!(child.wait().unwrap().success());
    assert!(fs::read_to_string(&log).unwrap().ends_with(" INFO stopped\n"));
}

fn wrong_options_end_with_two_and_a_port_in_use_with_one() {
    let output = run("--listn svr1");
    assert_eq!(output.status.code(), Some(2));
    let line =
        "kumo-manager: unknown option --listn; did you mean --listen (-l); 'kumo-manager --help' lists the options";
    assert_eq!(one_error_line(&output), line);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = run(&format!("-l {}", taken.local_addr().unwrap()));
    assert_eq!(output.status.code(), Some(1));
    assert!(one_error_line(&output).starts_with("kumo-manager: cannot listen"));
    let output = run("-l 127.0.0.1:0 -o /nonexistent/log");
    assert_eq!(output.status.code(), Some(1));
    assert!(one_error_line(&output).contains("cannot open the log /nonexistent/log: No such file or directory"));
    let output = run("-V");
    assert!(output.status.success() && output.stdout.starts_with(b"kumo-manager "));
}

fn a_defect_is_one_line_and_status_one() {
    let output = run("-l 127.0.0.1:0 -a");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("defect at ") && text.contains("told to fail"), "{text}");
    assert!(text.contains("kumo-manager: ended by a defect of its own; the log says where"), "{text}");
}
