//! `kumoctl watch`: the state of a cluster as it changes, a line for each change.
//!
//! A manager that does not answer is a change, too, and asked again. Ends when it is told to, when nobody reads, or after
//! so many lines.

use super::Trouble;
use super::ask::{self, AskError, MANAGER_PORT, Node, Role};
use super::ctl::NodesInfo;
use crate::logic::address::Address;
use crate::logic::epoch::{Epoch, Phase};
use crate::net::time::unix_secs;
use crate::proto::rpc::v0;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(500);

/// What is watched: what it is, and how that stands.
type State = BTreeMap<String, String>;

/// Runs it.
///
/// # Errors
/// When the manager does not answer at the start.
pub async fn run(manager: &str, lines: Option<u64>, as_json: bool) -> Result<(), Trouble> {
    let manager = ask::address(manager, MANAGER_PORT)?;
    let mut state = State::new();
    let mut node = None;
    let mut left = lines;
    let mut ticks = time::interval(EVERY);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = match look(&mut node, manager).await {
            Ok(now) => now,
            Err(e) if state.is_empty() => return Err(e.into()),
            Err(e) => {
                node = None;
                // How servers stand is not known now; what was told last is not taken back.
                let mut now = state.clone();
                now.insert("manager".to_owned(), e.to_string());
                now
            }
        };
        let secs = unix_secs();
        for (what, how) in changes(&state, &now) {
            if left == Some(0) || !super::print(&line(secs, &what, &how, as_json)) {
                return Ok(());
            }
            left = left.map(|left| left - 1);
        }
        if left == Some(0) {
            return Ok(());
        }
        state = now;
    }
}

async fn look(node: &mut Option<Node>, manager: Address) -> Result<State, AskError> {
    let node = match node {
        Some(node) => node,
        None => node.insert(Node::connect(manager, Role::Manager).await?),
    };
    let info = node.ask(v0::method::GET_NODES_INFO, &[0x90], NodesInfo::read).await?;
    // Managers of kumofs 0.4 have no epochs, and hang up when they are asked for one.
    let epoch = ask::newest_epoch(node).await.ok().flatten();
    Ok(state_of(&info, epoch.as_ref()))
}

fn state_of(info: &NodesInfo, epoch: Option<&Epoch>) -> State {
    let mut state = State::from([("manager".to_owned(), "answers".to_owned())]);
    if let Some(epoch) = epoch {
        let phase = match epoch.phase {
            Phase::Idle => "idle",
            Phase::Copying { .. } => "copying",
            Phase::Deleting { .. } => "deleting",
        };
        state.insert("epoch".to_owned(), epoch.number.to_string());
        state.insert("phase".to_owned(), phase.to_owned());
    }
    for node in &info.whs.nodes {
        state.insert(node.address.to_string(), if node.active { "active" } else { "fault" }.to_owned());
    }
    for address in &info.not_attached {
        // One that came back is in the table, as in fault, and waits beside it.
        let how = state.entry(address.to_string()).or_default();
        *how = if how.is_empty() { "not attached".to_owned() } else { format!("{how}, back and not attached") };
    }
    state
}

fn changes(before: &State, now: &State) -> Vec<(String, String)> {
    let changed = now.iter().filter(|(what, how)| before.get(*what) != Some(how));
    let gone = before.keys().filter(|what| !now.contains_key(*what)).map(|what| (what.clone(), "gone".to_owned()));
    changed.map(|(what, how)| (what.clone(), how.clone())).chain(gone).collect()
}

fn line(secs: u64, what: &str, how: &str, as_json: bool) -> String {
    if as_json {
        format!("{}\n", json!({"time": secs, "what": what, "state": how}))
    } else {
        let secs = secs as i64;
        let date = super::ruby_time::to_s(secs, super::ruby_time::local_offset(secs));
        format!("{date}  {what}  {how}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let of =
            |all: &[(&str, &str)]| -> State { all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect() };
        let (before, now) = (
            of(&[("a:1", "active"), ("b:1", "active"), ("c:1", "fault")]),
            of(&[("a:1", "fault"), ("b:1", "active"), ("d:1", "active")]),
        );
        let told = changes(&before, &now);
        let expected = [("a:1", "fault"), ("d:1", "active"), ("c:1", "gone")];
        assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(changes(&now, &now).is_empty());
        let text = line(7, "a:1", "fault", true);
        assert_eq!(text, "{\"state\":\"fault\",\"time\":7,\"what\":\"a:1\"}\n");
    }
}
