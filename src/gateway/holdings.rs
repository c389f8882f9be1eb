//! What the cluster holds, for `stats`: asked of all servers at once, and told again for [`FRESH`] to whoever asks.
//!
//! Source: `doc/protocol.md`, "Statistics". A server that does not answer in time is left out of the sum, and what the
//! others hold is scaled up by how much of the ring it is: items are spread evenly over it.

use super::view::Dialect;
use super::worker::Shared;
use crate::logic::ring::REPLICAS;
use crate::net::rpc::{CallError, Limits, RpcConn};
use crate::net::time::Instant;
use crate::proto::rpc::msgpack::{Reader, write_array, write_uint};
use crate::proto::rpc::v0::{self, status};
use crate::proto::rpc::v1::{self, Statistics};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;

/// For how long an answer is told again.
const FRESH: Duration = Duration::from_secs(1);
/// How long servers have to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// The whole ring, in the unit of shares.
const WHOLE_PPM: u64 = 1_000_000;

/// What the cluster holds, each record counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    /// Records.
    pub items: u64,
    /// Bytes of disk that they take.
    pub bytes: u64,
    /// Bytes of disk that they may take: those, and what is free.
    pub limit_bytes: u64,
}

/// The newest answer, and when it was made.
pub type Newest = Mutex<Option<(Instant, Holdings)>>;

/// What one server tells of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Told {
    items: u64,
    used_bytes: u64,
    free_bytes: u64,
    /// How much of the ring it has, where it says so.
    share_ppm: Option<u64>,
}

/// What the cluster holds now, or held when a server last answered; `None`: none ever did.
pub async fn holdings(shared: &Shared) -> Option<Holdings> {
    let mut newest = shared.holdings.lock().await;
    if newest.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH)
        && let Some(holdings) = ask_all(shared).await
    {
        *newest = Some((Instant::now(), holdings));
    }
    newest.as_ref().map(|(_, holdings)| *holdings)
}

async fn ask_all(shared: &Shared) -> Option<Holdings> {
    let view = shared.newest.borrow().clone();
    let mut asked = tokio::task::JoinSet::new();
    for node in view.epoch.rhs.nodes.iter().filter(|node| node.active) {
        let server = view.epoch.servers.iter().position(|entry| entry.address == node.address);
        let dialect = server.map_or(Dialect::V0, |place| view.dialect(place as u16));
        let asking = ask(node.address.socket_addr(), dialect);
        asked.spawn_local(tokio::time::timeout(ANSWER_LIMIT, asking));
    }
    let servers = asked.len();
    let mut told = Vec::new();
    while let Some(one) = asked.join_next().await {
        if let Ok(Ok(Ok(one))) = one {
            told.push(one);
        }
    }
    united(&told, servers)
}

async fn ask(server: SocketAddr, dialect: Dialect) -> Result<Told, CallError> {
    let conn = RpcConn::connect_client(server, ANSWER_LIMIT, Limits::default(), Rc::new(|_, _| ()));
    let conn = conn.await.map_err(|_| CallError::Lost)?;
    let told = match dialect {
        Dialect::V1 => ask_statistics(&conn).await,
        Dialect::V0 => ask_items(&conn).await,
    };
    conn.close();
    told
}

async fn ask_statistics(conn: &RpcConn) -> Result<Told, CallError> {
    let result = conn.call(v1::method::STATISTICS, |out| write_array(out, 0), ANSWER_LIMIT).await?;
    let numbers = Statistics::read(&mut Reader::new(&result)).map_err(|_| CallError::Lost)?.numbers;
    Ok(Told {
        items: numbers.items.ok_or(CallError::Lost)?,
        used_bytes: numbers.disk_used_bytes.unwrap_or(0),
        free_bytes: numbers.disk_free_bytes.unwrap_or(0),
        share_ppm: numbers.holds_ppm,
    })
}

/// kumofs 0.4 tells its items, and nothing of its disk.
async fn ask_items(conn: &RpcConn) -> Result<Told, CallError> {
    let params = |out: &mut Vec<u8>| {
        write_array(out, 1);
        write_uint(out, u64::from(status::ITEMS));
    };
    let result = conn.call(v0::method::GET_STATUS, params, ANSWER_LIMIT).await?;
    Ok(Told { items: Reader::new(&result).u64().map_err(|_| CallError::Lost)?, ..Told::default() })
}

/// The sum of what servers told, of so many that were asked.
fn united(told: &[Told], servers: usize) -> Option<Holdings> {
    let copies_ppm = servers.min(REPLICAS) as u64 * WHOLE_PPM;
    let each_ppm = copies_ppm / servers.max(1) as u64;
    let shares = told.iter().map(|one| one.share_ppm.filter(|ppm| *ppm > 0).unwrap_or(each_ppm)).sum();
    // All of them have all copies; shares are rounded.
    let shares_ppm: u64 = if told.len() == servers { copies_ppm } else { shares };
    let once = |sum: u128| {
        let whole = sum * u128::from(WHOLE_PPM) + u128::from(shares_ppm / 2);
        u64::try_from(whole / u128::from(shares_ppm)).unwrap_or(u64::MAX)
    };
    let sum = |of: fn(&Told) -> u64| told.iter().map(|one| u128::from(of(one))).sum();
    (shares_ppm > 0).then(|| Holdings {
        items: once(sum(|one| one.items)),
        bytes: once(sum(|one| one.used_bytes)),
        limit_bytes: once(sum(|one| one.used_bytes.saturating_add(one.free_bytes))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(items: u64, share_ppm: u64) -> Told {
        Told { items, used_bytes: items * 10, free_bytes: items * 90, share_ppm: Some(share_ppm) }
    }

    #[test]
    fn each_record_is_counted_once() {
        let three = [server(2_000_001, 999_999); 3];
        let all = Holdings { items: 2_000_001, bytes: 20_000_010, limit_bytes: 200_000_100 };
        assert_eq!(united(&three, 3), Some(all));
        assert_eq!(united(&[server(5, 1_000_000)], 1).map(|h| h.items), Some(5));
        // Five servers have three copies.
        assert_eq!(united(&[server(60, 600_000); 5], 5).map(|h| h.items), Some(100));
    }

    #[test]
    fn who_does_not_answer_is_made_up_for_by_its_share_of_the_ring() {
        assert_eq!(united(&[server(60, 600_000); 4], 5).map(|h| h.items), Some(100));
        assert_eq!(united(&[server(100, 1_000_000)], 3).map(|h| h.items), Some(100));
        let old = Told { items: 60, ..Told::default() };
        assert_eq!(united(&[old; 4], 5).map(|h| h.items), Some(100));
        assert_eq!(united(&[], 3), None);
        assert_eq!(united(&[], 0), None);
    }
}
