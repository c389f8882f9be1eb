//! Worker threads: one event loop each, and a way to have something done there.

#[cfg(not(feature = "sim"))]
use super::courtesy::Courtesy;
use std::io;
use std::sync::Mutex;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, LocalRuntime};
use tokio::sync::mpsc::{self, UnboundedSender};

type Job = Box<dyn FnOnce() + Send>;

/// An event loop of one thread, whose tasks need not be `Send` and are woken in the order of their events.
///
/// # Errors
/// When the system grants no further descriptors.
pub fn event_loop() -> io::Result<LocalRuntime> {
    built(Builder::new_current_thread())
}

fn built(mut builder: Builder) -> io::Result<LocalRuntime> {
    builder.enable_all().build_local(Default::default())
}

/// As [`event_loop`], of the calling thread, which lets others finish from now on.
#[cfg(not(feature = "sim"))]
fn courteous_loop() -> io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    if let Some(courtesy) = Courtesy::of_this_thread() {
        // Only this thread ever takes the lock.
        let courtesy = Mutex::new(courtesy);
        builder.on_thread_park(move || {
            if let Ok(mut courtesy) = courtesy.try_lock() {
                courtesy.turn_ended();
            }
        });
    }
    built(builder)
}

/// Worker threads. In a simulation, which has one thread, their jobs are tasks of the event loop that gives them.
pub struct Cores {
    workers: Vec<UnboundedSender<Job>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Cores {
    /// As outside of a simulation, in the current event loop.
    ///
    /// # Errors
    /// None.
    #[cfg(feature = "sim")]
    pub fn start(count: usize) -> io::Result<Cores> {
        let worker = |_| {
            let (sender, mut jobs) = mpsc::unbounded_channel::<Job>();
            tokio::task::spawn_local(async move {
                while let Some(job) = jobs.recv().await {
                    job();
                }
            });
            sender
        };
        Ok(Cores { workers: (0..count).map(worker).collect(), threads: Mutex::default() })
    }

    /// Starts `count` threads, named after their numbers.
    ///
    /// # Errors
    /// When the system grants no further threads or descriptors.
    #[cfg(not(feature = "sim"))]
    pub fn start(count: usize) -> io::Result<Cores> {
        Cores::start_with(count, event_loop)
    }

    /// As [`start`](Cores::start), but the threads let others finish before they run ([`courtesy`](super::courtesy)).
    ///
    /// # Errors
    /// When the system grants no further threads or descriptors.
    #[cfg(not(feature = "sim"))]
    pub fn start_courteous(count: usize) -> io::Result<Cores> {
        Cores::start_with(count, courteous_loop)
    }

    #[cfg(not(feature = "sim"))]
    fn start_with(count: usize, event_loop: fn() -> io::Result<LocalRuntime>) -> io::Result<Cores> {
        let mut cores = Cores { workers: Vec::new(), threads: Mutex::default() };
        for number in 0..count {
            let (sender, mut jobs) = mpsc::unbounded_channel::<Job>();
            let (started, start) = std::sync::mpsc::channel();
            // An event loop cannot change its thread, so each is made where it runs.
            let run = move || match event_loop() {
                Ok(event_loop) => {
                    let _ = started.send(Ok(()));
                    event_loop.block_on(async move {
                        while let Some(job) = jobs.recv().await {
                            job();
                        }
                    });
                }
                Err(e) => {
                    let _ = started.send(Err(e));
                }
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?;
            start.recv().map_err(|_| io::Error::other("a worker thread ended at its start"))??;
            cores.workers.push(sender);
            cores.threads.lock().expect("no holder panics").push(thread);
        }
        Ok(cores)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Has a worker do something in its event loop, where `tokio::task::spawn_local` works. Jobs run in order. After
    /// [`stop`](Cores::stop) nothing happens.
    pub fn run_on(&self, worker: usize, job: impl FnOnce() + Send + 'static) {
        // A worker that is gone has stopped for good, and its jobs with it.
        let _ = self.workers[worker].send(Box::new(job));
    }

    /// Ends all event loops, dropping their tasks, and waits for the threads.
    pub fn stop(&mut self) {
        self.workers.clear();
        for thread in self.threads.lock().expect("no holder panics").drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_on_their_worker_in_order() {
        let mut cores = Cores::start(2).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        for i in 0..10 {
            let sender = sender.clone();
            cores.run_on(i % 2, move || {
                tokio::task::spawn_local(async move {
                    let name = std::thread::current().name().map(str::to_owned);
                    sender.send((i, name)).unwrap();
                });
            });
        }
        for _ in 0..10 {
            let (i, name) = receiver.recv().unwrap();
            assert_eq!(name.unwrap(), format!("worker-{}", i % 2));
        }
        cores.stop();
    }
}
