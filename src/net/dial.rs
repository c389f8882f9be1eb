//! Connecting where packets get lost.
//!
//! The first packet of a connection is sent again by the system after one second, which is as long as a whole attempt may
//! take here. So a further attempt is begun beside those that are under way every [`AGAIN`], and the first to succeed is taken.

use super::sock::TcpStream;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

/// When a further attempt is begun: more than a round trip takes nearly everywhere.
const AGAIN: Duration = Duration::from_millis(250);

/// Connects.
///
/// # Errors
/// The first that an attempt ends with; `TimedOut` after `limit`.
pub async fn dial(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let connected = timeout(limit, first_of(|| Box::pin(TcpStream::connect(to)))).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Begins attempts until one ends.
async fn first_of<T>(mut begin: impl FnMut() -> Pin<Box<dyn Future<Output = T>>>) -> T {
    let mut attempts = Vec::new();
    loop {
        attempts.push(begin());
        let first = poll_fn(|cx| {
            let mut ended = attempts.iter_mut().map(|attempt| attempt.as_mut().poll(cx));
            ended.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        if let Ok(ended) = timeout(AGAIN, first).await {
            return ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    /// A gateway whose first packet got lost waited for a second until the system sent it again.
    #[tokio::test]
    async fn an_attempt_that_hangs_is_overtaken_by_a_later_one() {
        let begun = Cell::new(0);
        let began = tokio::time::Instant::now();
        let first = first_of(|| {
            begun.set(begun.get() + 1);
            match begun.get() {
                3 => Box::pin(async { "third" }),
                _ => Box::pin(pending()),
            }
        });
        assert_eq!(first.await, "third");
        assert!(begun.get() == 3 && began.elapsed() >= 2 * AGAIN, "{begun:?}");
    }

    /// Where a round trip takes longer than the pause between attempts, the first is the one that succeeds.
    #[tokio::test]
    async fn an_attempt_that_is_slow_is_not_given_up() {
        let begun = Cell::new(0);
        let began = tokio::time::Instant::now();
        let first = first_of(|| {
            begun.set(begun.get() + 1);
            let number = begun.get();
            Box::pin(async move {
                tokio::time::sleep(3 * AGAIN + AGAIN / 2).await;
                number
            })
        });
        assert_eq!(first.await, 1);
        assert!(begun.get() > 1 && began.elapsed() >= 3 * AGAIN, "{begun:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_at_once_and_a_connection_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        assert!(dial(to, AGAIN * 100).await.is_ok());
        drop(listener);
        assert_eq!(dial(to, AGAIN * 100).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
