//! An orderly change of epochs: nobody is removed but who asked for it, and all servers are there to get ready.
//!
//! What is decided is told in three steps, so that no disk and nothing unfinished stands between the old epoch and the new
//! one. Servers keep the new epoch on disk while all serve by the old one; then those who give keys to others finish what they
//! have begun there, and begin nothing more; then everybody is told to act by it. Only haste depends on the first two: a
//! server that does not answer them is not waited for, and what is told in the end is what is told of any epoch.

use super::links::LinkKind;
use super::run::Manager;
use crate::logic::epoch::Epoch;
use crate::proto::rpc::v1::Prepare;
use std::rc::Rc;
use std::time::Duration;
use tokio::time;

/// How long servers may take to keep an epoch on disk: busy disks take half a second and more. Meanwhile all of them serve.
const KEEP_LIMIT: Duration = Duration::from_millis(1500);
/// How long they may take to finish what they have begun, mostly some milliseconds. Meanwhile changes wait.
const YIELD_LIMIT: Duration = Duration::from_millis(200);

impl Manager {
    /// Has servers get ready for an epoch that is in force here, and then tells everybody; unless another is in force by then.
    pub(super) async fn hand_over(self: Rc<Self>, epoch: Rc<Epoch>) {
        let encoded = epoch.encode();
        for (yields, limit) in [(false, KEEP_LIMIT), (true, YIELD_LIMIT)] {
            if self.state.borrow().epoch().number != epoch.number {
                return;
            }
            let prepare = Prepare { epoch: &encoded, yields };
            let servers = self
                .links
                .borrow()
                .nodes()
                .into_iter()
                .filter(|(id, _, kind)| *kind == LinkKind::Server && self.state.borrow().follows_epochs(*id));
            let calls: Vec<_> =
                servers.map(|(_, conn, _)| conn.call_with(|out, msgid| prepare.write(out, msgid), limit)).collect();
            let all = async {
                for call in calls {
                    // Whoever cannot, or is gone, does without.
                    let _ = call.await;
                }
            };
            let _ = time::timeout(limit, all).await;
        }
        if self.state.borrow().epoch().number == epoch.number {
            self.state.borrow_mut().handed_over();
            let everybody = self.links.borrow().all();
            self.tell(&everybody);
        }
    }
}
