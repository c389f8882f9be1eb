//! A host and the process on it: its clocks, its chance, and when its tasks run.
//!
//! The tasks of a process live in a [`LocalSet`] of their own. While that is polled the process is the *current* one, and
//! the seams of [`crate::net`] ask here for the time and for random numbers. Dropping the set is kill -9, not polling it
//! is SIGSTOP.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// UNIX time at the start of every run.
pub const EPOCH_SECS: u64 = 1_800_000_000;

/// How often [`Process::ended`] looks.
const ENDED_STEP: std::time::Duration = std::time::Duration::from_millis(20);

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed);
        dice.draw();
        dice
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// A host: what stays when its process ends.
pub struct Node {
    /// For people.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// How far its boot clock is ahead at the start, in microseconds.
    boot_offset: Cell<u64>,
    /// How fast the boot clock runs too fast, in millionths.
    drift_ppm: Cell<i64>,
    /// How far its wall clock is ahead, in seconds.
    wall_offset: Cell<i64>,
    dice: RefCell<Dice>,
    /// Counts its processes.
    pub lives: Cell<u64>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Node>>> = const { RefCell::new(None) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Begins a run: the virtual time is 0 now.
pub fn begin() {
    BEGAN.set(Some(Instant::now()));
}

/// Microseconds of virtual time since the run began.
pub fn elapsed_micros() -> u64 {
    BEGAN.get().map_or(0, |began| began.elapsed().as_micros() as u64)
}

/// The process that is running now.
pub fn current() -> Option<Rc<Node>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Does something as a process of `node`.
pub fn act_as<T>(node: &Rc<Node>, act: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(Some(node.clone()));
    let result = act();
    CURRENT.replace(before);
    result
}

/// See [`crate::net::time`].
pub fn boot_micros() -> u64 {
    current().map_or_else(elapsed_micros, |node| node.boot_micros())
}

/// See [`crate::net::time`].
pub fn unix_secs() -> u64 {
    let true_secs = EPOCH_SECS + elapsed_micros() / 1_000_000;
    let offset = current().map_or(0, |node| node.wall_offset.get());
    true_secs.saturating_add_signed(offset)
}

/// See [`crate::net::chance`].
pub fn random_u64() -> u64 {
    current().map_or(4, |node| node.dice.borrow_mut().draw())
}

impl Node {
    /// A host whose clocks are right.
    pub fn new(name: &str, ip: IpAddr, seed: u64) -> Rc<Node> {
        let mut dice = Dice::new(seed);
        Rc::new(Node {
            name: name.to_owned(),
            ip,
            boot_offset: Cell::new(1_000_000 + dice.below(1 << 40)),
            drift_ppm: Cell::new(0),
            wall_offset: Cell::new(0),
            dice: RefCell::new(dice),
            lives: Cell::new(0),
        })
    }

    fn boot_micros(&self) -> u64 {
        let elapsed = elapsed_micros() as i64;
        let drift = elapsed * self.drift_ppm.get() / 1_000_000;
        self.boot_offset.get().saturating_add_signed(elapsed + drift)
    }

    /// Lets the boot clock run so much too fast, in millionths, from now on, without a jump.
    pub fn set_drift_ppm(&self, ppm: i64) {
        let elapsed = elapsed_micros() as i64;
        let (old, new) = (elapsed * self.drift_ppm.get() / 1_000_000, elapsed * ppm / 1_000_000);
        self.boot_offset.set(self.boot_offset.get().saturating_add_signed(old - new));
        self.drift_ppm.set(ppm);
    }

    /// Has the wall clock jump to so many seconds ahead of the true time.
    pub fn set_wall_offset(&self, secs: i64) {
        self.wall_offset.set(secs);
    }
}

/// A process.
pub struct Process {
    node: Rc<Node>,
    tasks: RefCell<Option<LocalSet>>,
    killed: Cell<bool>,
    done: Cell<bool>,
    stopped: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Process {
    /// Starts a process on a host. Needs a [`LocalSet`] around it.
    pub fn start(node: &Rc<Node>, main: impl Future<Output = ()> + 'static) -> Rc<Process> {
        node.lives.set(node.lives.get() + 1);
        let tasks = LocalSet::new();
        tasks.spawn_local(main);
        let process = Rc::new(Process {
            node: node.clone(),
            tasks: RefCell::new(Some(tasks)),
            killed: Cell::new(false),
            done: Cell::new(false),
            stopped: Cell::new(false),
            waker: RefCell::new(None),
        });
        tokio::task::spawn_local(Drive(process.clone()));
        process
    }

    /// Ends it between two of its steps: its tasks are dropped. What the network makes of its sockets is for
    /// [`super::net::process_died`] to say.
    pub fn kill(&self) {
        self.killed.set(true);
        let tasks = self.tasks.borrow_mut().take();
        act_as(&self.node, || drop(tasks));
        self.wake();
    }

    /// Waits until all of its tasks have ended.
    pub async fn ended(&self) {
        while !self.done.get() && !self.killed.get() {
            tokio::time::sleep(ENDED_STEP).await;
        }
    }

    /// Stops it (SIGSTOP) or lets it go on (SIGCONT).
    pub fn set_stopped(&self, stopped: bool) {
        self.stopped.set(stopped);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Polls the tasks of a process.
struct Drive(Rc<Process>);

impl Future for Drive {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let process = &self.0;
        if process.killed.get() {
            return Poll::Ready(());
        }
        *process.waker.borrow_mut() = Some(cx.waker().clone());
        if process.stopped.get() {
            return Poll::Pending;
        }
        let Some(mut tasks) = process.tasks.borrow_mut().take() else { return Poll::Ready(()) };
        let polled = act_as(&process.node, || Pin::new(&mut tasks).poll(cx));
        if process.killed.get() {
            act_as(&process.node, || drop(tasks));
            return Poll::Ready(());
        }
        *process.tasks.borrow_mut() = Some(tasks);
        process.done.set(polled.is_ready());
        polled
    }
}
