//! `kumoctl check`: whether all replicas hold the same, and with `--repair`, that they do.
//!
//! Each member of a group is compared with the coordinator by digests of leaves of the ring; leaves that differ are listed.
//! A change that is on its way differs for a moment, so what differs is looked at again, and counts when the member's record
//! has stayed as it was. Source: doc/guide.md, "Check the replicas".
//!
//! Memory: the digests of a window, and at most [`SUSPECTS`] records that may differ.

use super::Trouble;
use super::ask::{Node, PATIENCE};
use super::cluster::{Cluster, TRY_FOR, View, trouble};
use crate::logic::digest::{Leaves, Window};
use crate::logic::record::dbkey_hash;
use crate::net::chance::random_u64;
use crate::proto::rpc::msgpack::{Reader, write_array, write_raw, write_uint};
use crate::proto::rpc::v0;
use crate::proto::rpc::v1::{Held, method, read_digests};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often is looked again, and how long after each other.
const LOOKS: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Records that are looked at again together.
const SUSPECTS: usize = 4096;
/// Records that are told by name.
const NAMED: usize = 1000;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is to be checked, and how.
#[derive(Debug)]
pub struct Order {
    /// The manager that is asked.
    pub manager: String,
    /// What differs is stored anew.
    pub repair: bool,
    /// The outcome is JSON.
    pub json: bool,
}

/// How a member's record differs from the coordinator's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum How {
    /// Both have one.
    Differs,
    /// The member has none.
    Missing,
    /// The coordinator has none.
    Extra,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::Differs => "differs",
            How::Missing => "missing",
            How::Extra => "extra",
        }
    }
}

/// A coordinator and another full member: places in the epoch.
type Pair = (u16, u16);

/// A record that differs, or may.
struct Suspect {
    pair: Pair,
    leaf: u64,
    dbkey: Vec<u8>,
    /// The digest of the member's record.
    member: Option<u64>,
    how: How,
}

/// What was found.
#[derive(Default)]
struct Found {
    epoch: u64,
    /// By the member's address: how many records, by how they differ.
    members: BTreeMap<String, BTreeMap<How, u64>>,
    /// Some of them: position, key, member, coordinator, how.
    named: Vec<(u64, Vec<u8>, String, String, How)>,
    repaired: u64,
}

impl Found {
    fn count(&self) -> u64 {
        self.members.values().flat_map(BTreeMap::values).sum()
    }
}

/// Runs it.
///
/// # Errors
/// When it could not be done, or replicas differ and are not repaired.
pub async fn run(order: &Order) -> Result<(), Trouble> {
    let cluster = Cluster::of(&order.manager).await?;
    let begun = Instant::now();
    let found = loop {
        match check(&cluster.view(), order.repair).await {
            Ok(found) => break found,
            Err(why) if begun.elapsed() > TRY_FOR => return Err(Trouble::Failed(why)),
            // Whom to compare may be others now.
            Err(_) => cluster.renew().await,
        }
    };
    super::print(&if order.json { format!("{}\n", as_json(&found)) } else { as_text(&found) });
    match found.count() {
        n if n == found.repaired => Ok(()),
        1 => Err(Trouble::Failed("1 record differs".to_owned())),
        n => Err(Trouble::Failed(format!("{} records differ", n - found.repaired))),
    }
}

async fn check(view: &View, repair: bool) -> Result<Found, String> {
    view.is_whole()?;
    let seed = random_u64().map_err(|e| e.to_string())?;
    let check = Check { view, seed, leaves: Leaves::for_records(most_records(view).await?) };
    let mut found = Found { epoch: view.epoch.number, ..Found::default() };
    for server in view.epoch.servers.iter().filter(|s| s.removed.is_none() && view.epoch.rhs.is_active(s.address)) {
        found.members.insert(server.address.to_string(), BTreeMap::new());
    }
    let pairs: BTreeSet<Pair> = view
        .groups()
        .iter()
        .flat_map(|group| {
            let coordinator = group.coordinator();
            group.full().iter().filter_map(move |member| Some((coordinator?, *member))).filter(|(c, m)| c != m)
        })
        .collect();
    let (mut told, mut done) = (Instant::now(), 0);
    let all = pairs.len() as u64 * check.leaves.count();
    let mut suspects = Vec::new();
    for pair in pairs {
        let mut next = Window::at(check.leaves, 0);
        while let Some(window) = next {
            suspects.extend(check.window(pair, window).await?);
            if suspects.len() >= SUSPECTS {
                check.settle(std::mem::take(&mut suspects), repair, &mut found).await?;
            }
            done += window.len;
            next = window.next();
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                eprintln!("kumoctl: {}% checked", done * 100 / all.max(1));
            }
        }
    }
    check.settle(suspects, repair, &mut found).await?;
    Ok(found)
}

/// Of all servers', the most records: by that the ring is cut.
async fn most_records(view: &View) -> Result<u64, String> {
    let mut most = 0;
    for node in view.workers() {
        let node = node.as_ref().map_err(Clone::clone)?;
        most = most.max(node.status(v0::status::ITEMS, |r| r.u64()).await.map_err(|e| e.to_string())?);
    }
    Ok(most)
}

struct Check<'v> {
    view: &'v View,
    seed: u64,
    leaves: Leaves,
}

impl Check<'_> {
    /// Compares a window; records in leaves that differ are suspect.
    async fn window(&self, pair: Pair, window: Window) -> Result<Vec<Suspect>, String> {
        let held = self.question(pair, window, false);
        let (own, theirs) = tokio::join!(self.sums(pair.0, held), self.sums(pair.1, held));
        let (own, theirs) = (own?, theirs?);
        let mut suspects = Vec::new();
        for (leaf, _) in (window.first..).zip(own.iter().zip(&theirs)).filter(|(_, (own, theirs))| own != theirs) {
            suspects.extend(self.leaf(pair, leaf).await?);
        }
        Ok(suspects)
    }

    async fn leaf(&self, pair: Pair, leaf: u64) -> Result<Vec<Suspect>, String> {
        let window = Window::at(self.leaves, leaf).ok_or("there is no such leaf")?;
        let held = self.question(pair, window, true);
        let (own, theirs) = tokio::join!(self.list(pair.0, held), self.list(pair.1, held));
        let (own, mut theirs) = (own?, theirs?);
        let mut suspects = Vec::new();
        let suspect = |dbkey, member, how| Suspect { pair, leaf, dbkey, member, how };
        for (dbkey, digest) in own {
            match theirs.remove(&dbkey) {
                Some(theirs) if theirs == digest => {}
                Some(theirs) => suspects.push(suspect(dbkey, Some(theirs), How::Differs)),
                None => suspects.push(suspect(dbkey, None, How::Missing)),
            }
        }
        suspects.extend(theirs.into_iter().map(|(dbkey, digest)| suspect(dbkey, Some(digest), How::Extra)));
        Ok(suspects)
    }

    /// Looks again at what may differ, and tells what does.
    async fn settle(&self, mut suspects: Vec<Suspect>, repair: bool, found: &mut Found) -> Result<(), String> {
        for _ in 0..LOOKS {
            if suspects.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            let leaves: BTreeSet<(Pair, u64)> = suspects.iter().map(|s| (s.pair, s.leaf)).collect();
            let mut now = BTreeMap::new();
            for (pair, leaf) in leaves {
                for suspect in self.leaf(pair, leaf).await? {
                    now.insert((pair, suspect.dbkey.clone()), suspect);
                }
            }
            // A member that was brought another record meanwhile is not left behind.
            suspects.retain(|s| now.get(&(s.pair, s.dbkey.clone())).is_some_and(|again| again.member == s.member));
        }
        for suspect in suspects {
            let (coordinator, member) = (self.address(suspect.pair.0), self.address(suspect.pair.1));
            *found.members.entry(member.clone()).or_default().entry(suspect.how).or_default() += 1;
            if repair {
                self.repair(&suspect).await?;
                found.repaired += 1;
            }
            if found.named.len() < NAMED {
                let hash = dbkey_hash(&suspect.dbkey).unwrap_or(0);
                found.named.push((hash, suspect.dbkey, member, coordinator, suspect.how));
            }
        }
        Ok(())
    }

    /// Has the coordinator store the newest of its record and the member's at all members.
    async fn repair(&self, suspect: &Suspect) -> Result<(), String> {
        let hash = dbkey_hash(&suspect.dbkey).unwrap_or(0);
        let member = self.view.worker_of(suspect.pair.1, hash)?;
        let mut params = vec![0x91];
        write_raw(&mut params, &suspect.dbkey);
        let fetched = ask(member, method::FETCH, &params).await?;
        let mut r = Reader::new(&fetched);
        let malformed = |_| format!("{} answered what is no record", member.address());
        let (epoch, dbval) = if r.take_nil() {
            (0, Vec::new())
        } else {
            let record = r.array_of(2).and_then(|()| Ok((r.u64()?, r.raw()?.to_vec())));
            record.map_err(malformed)?
        };
        let mut params = Vec::new();
        write_array(&mut params, 4);
        write_uint(&mut params, self.view.epoch.number);
        write_raw(&mut params, &suspect.dbkey);
        write_uint(&mut params, epoch);
        write_raw(&mut params, &dbval);
        ask(self.view.worker_of(suspect.pair.0, hash)?, method::RESTATE, &params).await.map(drop)
    }

    fn question(&self, (coordinator, member): Pair, window: Window, lists: bool) -> Held {
        Held { epoch: self.view.epoch.number, coordinator, member, seed: self.seed, window, lists }
    }

    fn address(&self, place: u16) -> String {
        self.view.epoch.servers[usize::from(place)].address.to_string()
    }

    /// The digests of a server's leaves: the sums of its workers'.
    async fn sums(&self, place: u16, held: Held) -> Result<Vec<u64>, String> {
        let mut sums = vec![0_u64; held.window.len as usize];
        for (node, answer) in self.each_worker(place, held).await? {
            let digests = read_digests(&mut Reader::new(&answer)).ok().filter(|digests| digests.len() == sums.len());
            let digests = digests.ok_or_else(|| format!("{} answered what are no digests", node.address()))?;
            sums.iter_mut().zip(digests).for_each(|(sum, digest)| *sum = sum.wrapping_add(digest));
        }
        Ok(sums)
    }

    async fn list(&self, place: u16, held: Held) -> Result<BTreeMap<Vec<u8>, u64>, String> {
        let mut all = BTreeMap::new();
        for (node, answer) in self.each_worker(place, held).await? {
            let list = Held::read_list(&mut Reader::new(&answer));
            all.extend(list.map_err(|_| format!("{} answered what is no list", node.address()))?);
        }
        Ok(all)
    }

    async fn each_worker(&self, place: u16, held: Held) -> Result<Vec<(&Node, Vec<u8>)>, String> {
        let mut answers = Vec::new();
        for node in self.view.workers_of(place) {
            let node = node.as_ref().map_err(Clone::clone)?;
            let mut params = Vec::new();
            held.write(&mut params);
            answers.push((node, ask(node, method::HELD, &params).await?));
        }
        if answers.is_empty() {
            return Err(format!("{} is not connected", self.address(place)));
        }
        Ok(answers)
    }
}

async fn ask(node: &Node, method: u32, params: &[u8]) -> Result<Vec<u8>, String> {
    node.call_for(method, params, PATIENCE).await.map_err(|e| trouble(node.address(), &e))
}

fn as_text(found: &Found) -> String {
    let mut out = String::new();
    for (hash, dbkey, member, coordinator, how) in &found.named {
        let key = dbkey.get(8..).unwrap_or_default().escape_ascii();
        out.push_str(&format!("{hash:016x}  {} at {member}, coordinator {coordinator}: {key}\n", how.word()));
    }
    let named = found.named.len() as u64;
    if named < found.count() {
        out.push_str(&format!("and {} more\n", found.count() - named));
    }
    for (address, hows) in &found.members {
        let counts: Vec<String> = hows.iter().map(|(how, n)| format!("{n} {}", how.word())).collect();
        out.push_str(&format!("{address}:  {}\n", if counts.is_empty() { "ok".to_owned() } else { counts.join(", ") }));
    }
    if found.repaired > 0 {
        out.push_str(&format!("{} repaired\n", found.repaired));
    }
    out
}

fn as_json(found: &Found) -> Value {
    let server = |(address, hows): (&String, &BTreeMap<How, u64>)| {
        let of = |how| hows.get(&how).copied().unwrap_or(0);
        json!({"address": address, "differs": of(How::Differs), "missing": of(How::Missing), "extra": of(How::Extra)})
    };
    let record = |(hash, dbkey, member, coordinator, how): &(u64, Vec<u8>, String, String, How)| {
        json!({
            "position": format!("{hash:016x}"), "key": dbkey.get(8..).unwrap_or_default().escape_ascii().to_string(),
            "server": member, "coordinator": coordinator, "how": how.word(),
        })
    };
    json!({
        "epoch": found.epoch,
        "servers": found.members.iter().map(server).collect::<Vec<_>>(),
        "records": found.named.iter().map(record).collect::<Vec<_>>(),
        "repaired": found.repaired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_by_record_and_by_server() {
        let mut found = Found { epoch: 3, repaired: 1, ..Found::default() };
        found.members.insert("a:1".to_owned(), BTreeMap::from([(How::Missing, 2)]));
        found.members.insert("b:1".to_owned(), BTreeMap::new());
        found.named.push((7, b"12345678k\x01".to_vec(), "a:1".to_owned(), "b:1".to_owned(), How::Missing));
        let text = "0000000000000007  missing at a:1, coordinator b:1: k\\x01\nand 1 more\na:1:  2 missing\nb:1:  ok\n1 repaired\n";
        assert_eq!(as_text(&found), text);
        let told = as_json(&found);
        assert_eq!((&told["servers"][0]["missing"], &told["records"][0]["how"]), (&json!(2), &json!("missing")));
    }
}
