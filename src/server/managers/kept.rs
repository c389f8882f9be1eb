//! Epochs that are on disk before they are acted by.
//!
//! Whatever a server acts by is on its disk. When nobody is removed in haste, managers have all servers keep an epoch before
//! any is told of it, so that nobody waits for a disk between one epoch and the next ([`Prepare`]).

use super::{Control, all, is_foreign};
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::rule::{Rule, on};
use crate::net::rpc::Reply;
use crate::net::time::Instant;
use crate::proto::rpc::error;
use crate::proto::rpc::msgpack::write_uint;
use crate::proto::rpc::v1::Prepare;
use crate::server::epoch_file::save_epoch;
use crate::server::shared::{Mail, View};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An epoch that was kept and not told is acted by after so long: whoever was to tell it is gone.
const KEPT_LIMIT: Duration = Duration::from_secs(3);

impl Control {
    /// Has an epoch on disk, unless a newer one is there already. `None`: that cannot be.
    pub(super) fn keep(&self, epoch: Epoch) -> Option<Arc<View>> {
        let (shared, life) = (&self.shared, self.shared.incarnation());
        let newest = self.kept.borrow().clone();
        match newest {
            Some((then, view)) if view.epoch.number == epoch.number && then == life => return Some(view),
            Some((_, view)) if view.epoch.number >= epoch.number => {}
            _ if on(Rule::DurableEpoch) => {
                if let Err(e) = save_epoch(shared.store.disk(), shared.store.dir(), &epoch) {
                    tracing::error!("cannot keep epoch {}: {e}", epoch.number);
                    return None;
                }
            }
            _ => {}
        }
        let view = Arc::new(View::new(epoch, shared.config.address, life));
        self.kept.replace_with(|kept| match kept.take() {
            Some((then, newer)) if newer.epoch.number > view.epoch.number => Some((then, newer)),
            _ => Some((life, view.clone())),
        });
        Some(view)
    }

    /// Acts by the epoch that was kept, if its number is at least `number`.
    pub(super) fn act_on_kept(self: &Rc<Self>, number: u64) {
        let kept = self.kept.borrow().as_ref().map(|(_, view)| view.epoch.clone());
        kept.into_iter().filter(|epoch| epoch.number >= number).for_each(|epoch| self.adopt(epoch));
    }

    /// A manager is about to tell a decided epoch: keeps it on disk, and, if asked to, has the workers finish what others are
    /// to have.
    pub(super) fn prepare(self: &Rc<Self>, manager: Address, prepare: &Prepare<'_>, reply: Reply) {
        let shared = &self.shared;
        self.stirred.set(Instant::now());
        let Ok(epoch) = Epoch::decode(prepare.epoch) else { return reply.error(error::SERVER) };
        let (number, known) = (epoch.number, shared.view());
        if is_foreign(&known.epoch, epoch.cluster) {
            tracing::warn!("manager {manager} prepares an epoch of another cluster");
            return reply.error(error::SERVER);
        }
        if number <= known.epoch.number || shared.draining.load(Ordering::Relaxed) {
            return reply.success(|out| write_uint(out, number));
        }
        let is_news = self.kept.borrow().as_ref().is_none_or(|(_, kept)| kept.epoch.number < number);
        let Some(view) = self.keep(epoch) else { return reply.error(error::SERVER) };
        if is_news {
            let control = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(KEPT_LIMIT).await;
                control.act_on_kept(number);
            });
        }
        if !prepare.yields {
            return reply.success(|out| write_uint(out, number));
        }
        let workers = shared.ask_all(|done| Mail::Yield(view.clone(), done));
        tokio::task::spawn_local(async move {
            all(workers).await;
            reply.success(|out| write_uint(out, number));
        });
    }
}
