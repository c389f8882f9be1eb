//! A terminal for programs that people use: a pseudo-terminal, and what its screen shows.

use super::process::spawn;
use super::{eventually, program};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// What has come so far.
struct Shown {
    screen: vt100::Parser,
    raw: Vec<u8>,
}

/// A program at a terminal of its own.
pub struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Mutex<Shown>>,
}

impl Terminal {
    /// Starts one of this package's programs at a terminal of so many rows and columns.
    pub fn start(name: &str, args: &[&str], (rows, columns): (u16, u16)) -> Terminal {
        let (mut master, mut slave) = (-1, -1);
        let size = window(rows, columns);
        // SAFETY: the pointers are valid for the call, and null where nothing is asked for.
        let opened = unsafe {
            libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null(), &raw const size)
        };
        assert_eq!(opened, 0, "a pseudo-terminal can be made");
        // SAFETY: both are open, and nobody else's.
        let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        let stdio = || Stdio::from(slave.try_clone().expect("it can be had twice"));
        let mut command = Command::new(program(name));
        command.args(args).env("TERM", "xterm-256color").stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: setsid and ioctl are plain system calls, which is all that may be done between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = spawn(command).expect("it starts");
        let shown = Shown { screen: vt100::Parser::new(cells(rows), cells(columns), 0), raw: Vec::new() };
        let shown = Arc::new(Mutex::new(shown));
        let (mut from, to) = (master.try_clone().expect("it can be had twice"), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end is an error, as long as this side is open.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.screen.process(&bytes[..n]);
                to.raw.extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { child, master, shown }
    }

    fn shown<T>(&self, look: impl FnOnce(&mut Shown) -> T) -> T {
        look(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the screen shows now.
    pub fn screen(&self) -> String {
        self.shown(|shown| shown.screen.screen().contents())
    }

    /// How often these bytes have come.
    pub fn came(&self, bytes: &[u8]) -> usize {
        self.shown(|shown| shown.raw.windows(bytes.len()).filter(|window| *window == bytes).count())
    }

    /// Waits until the screen shows a text; gives all that it shows then.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("the screen shows {text:?}"), |screen| screen.contains(text))
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, || Some(self.screen()).filter(|screen| wanted(screen)))
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Gives the window another size, which the program is told.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.shown(|shown| shown.screen.screen_mut().set_size(cells(rows), cells(columns)));
        let size = window(rows, columns);
        // SAFETY: the pointer is valid for the call.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "the size can be set");
    }

    /// Waits for the end; gives the exit status.
    pub fn wait(&mut self) -> Option<i32> {
        eventually("the program ends", || self.child.try_wait().expect("it is a child")).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(n: u16) -> NonZero<u16> {
    NonZero::new(n).expect("a terminal has rows and columns")
}

fn window(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
