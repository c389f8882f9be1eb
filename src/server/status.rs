//! What a server tells of itself, and what of it can be changed: GetStatus, SetConfig, Config.
//!
//! Source: `doc/protocol.md`, "Version 0".

use super::shared::{Mail, Shared};
use crate::net::conn::Conn;
use crate::net::settings::{Own, number};
use crate::net::time::unix_secs;
use crate::proto::rpc::frame::{write_error, write_success};
use crate::proto::rpc::msgpack::{DecodeError, write_raw, write_uint};
use crate::proto::rpc::{error, v0, v0::status};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// Bits of GetStatus's replace flags beside those of [`super::shared::moving`].
const INACTIVE: u64 = 1;
const SPACES_DIFFER: u64 = 2;

/// The longest time for deletion marks, in seconds: ten years.
const LONGEST_SECS: u64 = 315_360_000;

/// Answers GetStatus.
pub(super) fn answer(shared: &Shared, conn: &Rc<Conn>, msgid: u32, what: u32) -> Result<(), DecodeError> {
    let mut result = Vec::new();
    append(shared, what, &mut result)?;
    conn.write(|out| {
        write_success(out, msgid);
        out.extend_from_slice(&result);
    });
    Ok(())
}

/// Appends what GetStatus answers about `what`.
fn append(shared: &Shared, what: u32, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let number = match what {
        status::PID => u64::from(std::process::id()),
        status::UPTIME => shared.started.elapsed().as_secs(),
        status::TIME => unix_secs(),
        status::VERSION => {
            write_raw(out, env!("CARGO_PKG_VERSION").as_bytes());
            return Ok(());
        }
        status::CMD_GET => shared.total(|c| &c.gets),
        status::CMD_SET => shared.total(|c| &c.sets),
        status::CMD_DELETE => shared.total(|c| &c.deletes),
        status::ITEMS => shared.items(),
        status::CLOCK_TIME => (unix_secs() << 32) | (shared.clock.load(Ordering::Relaxed) & u64::from(u32::MAX)),
        status::RHS => {
            v0::write_seed(out, &shared.view().epoch.rhs);
            return Ok(());
        }
        status::WHS => {
            v0::write_seed(out, &shared.view().epoch.whs);
            return Ok(());
        }
        status::REPLACE => replace_flags(shared),
        _ => return Err(DecodeError::Type),
    };
    write_uint(out, number);
    Ok(())
}

/// A number that can be changed, kept as so many times its `unit`.
fn counted<'a>(name: &'static str, counter: &'a AtomicU64, unit: u64, at_most: u64) -> Own<'a> {
    let set = move |value: &str| {
        counter.store(number(value, at_most)? * unit, Ordering::Relaxed);
        Ok(())
    };
    Own { name, value: (counter.load(Ordering::Relaxed) / unit).to_string(), set: Box::new(set) }
}

/// Tells or changes settings.
pub(super) fn config(shared: &Shared, params: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let limits = &shared.garbage;
    let own = vec![
        counted("garbage-min-time", &limits.min_secs, 1, LONGEST_SECS),
        counted("garbage-max-time", &limits.max_secs, 1, LONGEST_SECS),
        counted("garbage-mem-limit", &limits.memory, 1024, u64::from(u32::MAX)),
    ];
    shared.config.settings.answer(own, params)
}

pub(super) fn replace_flags(shared: &Shared) -> u64 {
    let view = shared.view();
    let inactive = if view.me.is_none() { INACTIVE } else { 0 };
    let differ = if view.epoch.whs.same_nodes(&view.epoch.rhs) { 0 } else { SPACES_DIFFER };
    inactive | differ | u64::from(shared.moving.load(Ordering::Relaxed))
}

/// Answers SetConfig 0 once all workers have done it.
pub(super) fn set_nodelay(shared: Arc<Shared>, conn: Rc<Conn>, msgid: u32, on: bool) {
    tokio::task::spawn_local(async move {
        let mut changed = 0;
        for worker in 0..shared.mailboxes.len() {
            let (done, count) = oneshot::channel();
            shared.tell(worker, Mail::SetNodelay(on, done));
            match count.await {
                Ok(count) => changed += count as u64,
                Err(_) => return conn.write(|out| write_error(out, msgid, error::SERVER)),
            }
        }
        conn.write(|out| {
            write_success(out, msgid);
            write_uint(out, changed);
        });
    });
}
