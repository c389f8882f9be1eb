//! Work that blocks: threads beside the event loops. In a simulation, which has one thread, it is done in steps there.

use std::io;
use std::time::Duration;

/// A thread that does something again and again.
pub struct Background {
    #[cfg(not(feature = "sim"))]
    thread: std::thread::JoinHandle<()>,
    #[cfg(feature = "sim")]
    task: tokio::task::JoinHandle<()>,
}

impl Background {
    /// Calls `step` until it returns `None`; between two calls it pauses for as long as `step` says.
    ///
    /// # Errors
    /// When the system starts no further thread.
    #[cfg(not(feature = "sim"))]
    pub fn start(name: &str, mut step: impl FnMut() -> Option<Duration> + Send + 'static) -> io::Result<Background> {
        let work = move || {
            while let Some(pause) = step() {
                std::thread::sleep(pause);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Background { thread })
    }

    /// As outside of a simulation.
    ///
    /// # Errors
    /// None.
    #[cfg(feature = "sim")]
    pub fn start(_name: &str, mut step: impl FnMut() -> Option<Duration> + Send + 'static) -> io::Result<Background> {
        let work = async move {
            while let Some(pause) = step() {
                tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
            }
        };
        Ok(Background { task: tokio::task::spawn_local(work) })
    }

    /// Waits until it has ended. A thread that panicked has said so already.
    pub async fn ended(self) {
        #[cfg(not(feature = "sim"))]
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
        #[cfg(feature = "sim")]
        let _ = self.task.await;
    }
}

/// Does something that takes long, without holding up the event loop.
///
/// # Errors
/// When it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(not(feature = "sim"))]
    return tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    #[cfg(feature = "sim")]
    return Ok(work());
}
