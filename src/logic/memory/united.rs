//! Memories of several servers, as doc/guarantees.md wants them united: one key, four servers, no clocks and no network.
//!
//! Changes add their number to a list, so that one executed twice shows. Servers crash with their memories and come back
//! with their disks, as filling ones or, when the last full one is gone, as full ones; members get entries one by one; changes
//! are asked for again at whoever coordinates. Epochs are adopted by all at once. Each rule can be left out, and
//! then a change is executed twice, within the seeds tried.

use super::*;
use std::collections::VecDeque;

const SERVERS: usize = 4;
const STEPS: usize = 120;
const SEEDS: u64 = 10_000;

/// A rule to leave out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The memory of a new life begins with its epoch.
    SinceOfALife,
    /// Copies bring the since-epoch of their source.
    SinceOfCopies,
    /// Operations travel to members with the records.
    DeedsOfEntries,
    /// Reports name the operations of all unstable writes.
    DeedsOfReports,
    /// Records that were taken over carry their operations on.
    DeedsOfTaken,
    /// What is below the floor is not executed.
    Floor,
}

/// What is stored: when it was written, and the changes that made it.
#[derive(Clone, Default, Debug)]
struct Record {
    stamp: (u64, u64),
    changes: Vec<u64>,
}

#[derive(Clone)]
struct Entry {
    record: Record,
    deeds: Vec<Deed>,
}

struct Server {
    is_up: bool,
    memory: Memory,
    record: Record,
    /// What it was not told to be stable.
    unstable: Vec<Deed>,
    /// As a member: what is on its way to it.
    inbox: VecDeque<Entry>,
    /// As a filling one: it has been copied to.
    is_copied: bool,
}

struct Change {
    sequence: u64,
    first_epoch: u64,
    is_answered: bool,
}

struct World {
    without: Option<Rule>,
    chance: u64,
    epoch: u64,
    servers: Vec<Server>,
    full: Vec<usize>,
    filling: Vec<usize>,
    /// The servers that were removed last, when no full one was left.
    claims: Vec<usize>,
    changes: Vec<Change>,
    floor: u64,
}

fn fresh(since: u64) -> Memory {
    Memory::new(Limits { outcomes: 1000, lanes: 10, gone: 10 }, since)
}

impl World {
    fn new(seed: u64, without: Option<Rule>) -> World {
        let server = |i| Server {
            is_up: i < 2,
            memory: fresh(1),
            record: Record::default(),
            unstable: Vec::new(),
            inbox: VecDeque::new(),
            is_copied: false,
        };
        let servers = (0..SERVERS).map(server).collect();
        let (full, filling, claims) = (vec![0, 1], Vec::new(), Vec::new());
        World { without, chance: seed, epoch: 1, servers, full, filling, claims, changes: Vec::new(), floor: 1 }
    }

    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// A number below `n`, by chance.
    fn below(&mut self, n: usize) -> usize {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) as usize % n
    }

    fn members(&self) -> Vec<usize> {
        self.full.iter().chain(&self.filling).copied().collect()
    }

    /// The coordinator, and the other members.
    fn group(&self) -> Option<(usize, Vec<usize>)> {
        let coordinator = *self.full.first()?;
        Some((coordinator, self.members().into_iter().filter(|m| *m != coordinator).collect()))
    }

    fn step(&mut self) -> Result<(), String> {
        match self.below(100) {
            0..=19 => {
                let sequence = self.changes.len() as u64 + 1;
                self.changes.push(Change { sequence, first_epoch: self.epoch, is_answered: false });
                self.ask(self.changes.len() - 1)
            }
            20..=49 if !self.changes.is_empty() => {
                // Mostly one of the newest; of old ones, attempts may have been on their way for ever.
                let newest = self.below(4).min(self.changes.len() - 1);
                let at =
                    if self.below(4) == 0 { self.below(self.changes.len()) } else { self.changes.len() - 1 - newest };
                self.ask(at)
            }
            20..=74 => {
                if let Some((_, members)) = self.group()
                    && !members.is_empty()
                {
                    let member = members[self.below(members.len())];
                    self.deliver(member);
                }
                Ok(())
            }
            75..=80 => self.crash(),
            81..=86 => self.add(),
            87..=92 => self.copy(),
            93..=96 => self.make_full(),
            _ => self.revive(),
        }
    }

    /// An attempt arrives at the coordinator.
    fn ask(&mut self, at: usize) -> Result<(), String> {
        let Some((coordinator, members)) = self.group() else { return Ok(()) };
        let (epoch, has_floor) = (self.epoch, self.has(Rule::Floor));
        let has_deeds = self.has(Rule::DeedsOfEntries);
        let Change { sequence, first_epoch, is_answered } = self.changes[at];
        // One that is answered is asked for by an attempt that was late, with the floor of its time.
        let floor = if is_answered { 1 } else { self.floor };
        let id = Id { gateway: 7, sequence, floor };
        let server = &mut self.servers[coordinator];
        match server.memory.ask(&id, first_epoch, epoch) {
            Asked::New => {}
            Asked::Unknown if !has_floor && sequence < self.floor => {}
            Asked::Known(_) | Asked::Unknown => return Ok(()),
            Asked::Full { .. } => return Err("no bound is met here".to_owned()),
        }
        // An attempt that names an older epoch is executed nowhere; these are all of this one.
        if server.record.changes.contains(&sequence) {
            return Err(format!("change {sequence} is executed twice, in epoch {epoch}"));
        }
        server.record.changes.push(sequence);
        server.record.stamp = (epoch, server.record.stamp.1 + 1);
        let deed = Deed { id, version: server.record.stamp.1, answer: Answer::Done };
        server.memory.note(&deed);
        server.unstable.push(deed);
        let deeds = if has_deeds { vec![deed] } else { Vec::new() };
        let entry = Entry { record: server.record.clone(), deeds };
        members.into_iter().for_each(|m| self.servers[m].inbox.push_back(entry.clone()));
        self.settle();
        Ok(())
    }

    /// A member takes its next entry.
    fn deliver(&mut self, member: usize) {
        let Some((coordinator, _)) = self.group() else { return };
        let since = self.servers[coordinator].memory.since();
        let server = &mut self.servers[member];
        let Some(entry) = server.inbox.pop_front() else { return };
        server.memory.raise_since(since);
        entry.deeds.iter().for_each(|deed| server.memory.note(deed));
        server.unstable.extend(&entry.deeds);
        if entry.record.stamp > server.record.stamp {
            server.record = entry.record;
        }
        self.settle();
    }

    /// When all have all, it is stable: changes in it are answered, and the gateway's floor rises.
    fn settle(&mut self) {
        let Some((coordinator, members)) = self.group() else { return };
        if members.iter().any(|m| !self.servers[*m].inbox.is_empty()) {
            return;
        }
        self.members().into_iter().for_each(|m| self.servers[m].unstable.clear());
        let done = self.servers[coordinator].record.changes.clone();
        self.changes.iter_mut().filter(|c| done.contains(&c.sequence)).for_each(|c| c.is_answered = true);
        while self.changes.get(self.floor as usize - 1).is_some_and(|c| c.is_answered) {
            self.floor += 1;
        }
    }

    /// A new epoch with these full servers: who coordinates now hears all others, and sends on what it heard.
    fn adopt(&mut self, full: Vec<usize>) -> Result<(), String> {
        let old = self.full.first().copied();
        self.epoch += 1;
        self.full = full;
        let epoch = self.epoch;
        self.members().into_iter().for_each(|m| self.servers[m].memory.adopt(epoch));
        let Some((coordinator, members)) = self.group() else { return Ok(()) };
        if old != Some(coordinator) {
            self.take_over(coordinator, &members);
        }
        self.settle();
        self.check(coordinator)
    }

    fn take_over(&mut self, coordinator: usize, members: &[usize]) {
        let mut newest = self.servers[coordinator].record.clone();
        let mut deeds = self.servers[coordinator].unstable.clone();
        let mut since = 0;
        for member in members {
            let member = &mut self.servers[*member];
            member.inbox.clear();
            if member.unstable.is_empty() && member.record.stamp <= newest.stamp {
                continue;
            }
            since = member.memory.since().max(since);
            deeds.extend(&member.unstable);
            if member.record.stamp > newest.stamp {
                newest = member.record.clone();
            }
        }
        let reported = if self.has(Rule::DeedsOfReports) { deeds } else { self.servers[coordinator].unstable.clone() };
        let carried = if self.has(Rule::DeedsOfTaken) { reported.clone() } else { Vec::new() };
        let server = &mut self.servers[coordinator];
        server.inbox.clear();
        server.memory.raise_since(since);
        reported.iter().for_each(|deed| server.memory.note(deed));
        server.unstable.clone_from(&reported);
        server.record = newest;
        let entry = Entry { record: server.record.clone(), deeds: carried };
        members.iter().for_each(|m| self.servers[*m].inbox.push_back(entry.clone()));
    }

    /// What was answered is in the record, once.
    fn check(&self, coordinator: usize) -> Result<(), String> {
        let changes = &self.servers[coordinator].record.changes;
        let lost = self.changes.iter().find(|c| c.is_answered && !changes.contains(&c.sequence));
        lost.map_or(Ok(()), |c| Err(format!("change {} was answered and is lost in epoch {}", c.sequence, self.epoch)))
    }

    /// A member crashes; the next epoch removes it.
    fn crash(&mut self) -> Result<(), String> {
        let members = self.members();
        if members.is_empty() {
            return Ok(());
        }
        let victim = members[self.below(members.len())];
        let was_last = self.full == [victim];
        let server = &mut self.servers[victim];
        server.is_up = false;
        server.inbox.clear();
        self.filling.retain(|f| *f != victim);
        if was_last {
            self.claims = vec![victim];
        }
        let full = self.full.iter().copied().filter(|f| *f != victim).collect();
        self.adopt(full)
    }

    fn begin_life(&mut self, server: usize) {
        let since = if self.has(Rule::SinceOfALife) { self.epoch + 1 } else { 1 };
        let server = &mut self.servers[server];
        server.is_up = true;
        server.memory = fresh(since);
        server.unstable.clear();
        server.inbox.clear();
        server.is_copied = false;
    }

    /// One that is down is filled: what it has on disk counts for nothing.
    fn add(&mut self) -> Result<(), String> {
        let down: Vec<usize> = (0..SERVERS).filter(|i| !self.servers[*i].is_up && !self.claims.contains(i)).collect();
        if down.is_empty() || self.full.is_empty() {
            return Ok(());
        }
        let new = down[self.below(down.len())];
        self.begin_life(new);
        self.servers[new].record = Record::default();
        // What is pending is sent to it, too.
        if let Some((coordinator, _)) = self.group()
            && !self.servers[coordinator].unstable.is_empty()
        {
            let server = &self.servers[coordinator];
            let deeds = if self.has(Rule::DeedsOfEntries) { server.unstable.clone() } else { Vec::new() };
            let entry = Entry { record: server.record.clone(), deeds };
            self.servers[new].inbox.push_back(entry);
        }
        self.filling.push(new);
        let full = self.full.clone();
        self.adopt(full)
    }

    /// What is stable is copied to a filling one.
    fn copy(&mut self) -> Result<(), String> {
        let Some((coordinator, _)) = self.group() else { return Ok(()) };
        let (record, since) = (self.servers[coordinator].record.clone(), self.servers[coordinator].memory.since());
        let is_stable = self.servers[coordinator].unstable.is_empty();
        let brings_since = self.has(Rule::SinceOfCopies);
        for filling in self.filling.clone() {
            let server = &mut self.servers[filling];
            if !is_stable && server.record.stamp.0 == 0 {
                // The link delivers it.
                continue;
            }
            server.is_copied = true;
            if brings_since {
                server.memory.raise_since(since);
            }
            if is_stable && record.stamp > server.record.stamp {
                server.record = record.clone();
            }
        }
        Ok(())
    }

    fn make_full(&mut self) -> Result<(), String> {
        if self.full.is_empty() || self.filling.is_empty() || self.filling.iter().any(|f| !self.servers[*f].is_copied) {
            return Ok(());
        }
        let mut full = self.members();
        self.filling.clear();
        full.sort_unstable();
        self.adopt(full)
    }

    /// No full server is left: the last one comes back, with its disk and without its memory; whoever was being filled by it begins anew.
    fn revive(&mut self) -> Result<(), String> {
        if !self.full.is_empty() || self.claims.is_empty() {
            return Ok(());
        }
        let revived = std::mem::take(&mut self.claims);
        revived.iter().for_each(|server| self.begin_life(*server));
        self.filling.clone().into_iter().for_each(|f| self.servers[f].is_copied = false);
        self.adopt(revived)
    }
}

/// How many seeds it takes until something is wrong, and what.
fn first_violation(without: Option<Rule>) -> Option<(u64, String)> {
    (1..=SEEDS).find_map(|seed| {
        let mut world = World::new(seed, without);
        (0..STEPS).find_map(|_| world.step().err()).map(|why| (seed, why))
    })
}

#[test]
fn united_memories_execute_nothing_twice() {
    assert_eq!(first_violation(None), None);
}

#[test]
fn each_rule_left_out_is_found_out() {
    use Rule::{DeedsOfEntries, DeedsOfReports, DeedsOfTaken, Floor, SinceOfALife, SinceOfCopies};
    for rule in [SinceOfALife, SinceOfCopies, DeedsOfEntries, DeedsOfReports, DeedsOfTaken, Floor] {
        let found = first_violation(Some(rule));
        assert!(found.is_some(), "without {rule:?} nothing is wrong in {SEEDS} seeds");
        println!("without {rule:?}: {found:?}");
    }
}
