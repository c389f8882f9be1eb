use super::super::epoch::{ManagerEntry, ServerEntry};
use super::super::ring::{HashSpace, Node};
use super::*;
use proptest::prelude::*;

fn manager(n: u8) -> Address {
    Address::new(format!("10.0.1.{n}:19700").parse().unwrap())
}

fn server(n: u8) -> Address {
    Address::new(format!("10.0.0.{n}:19800").parse().unwrap())
}

/// Manager n has disk 100 + n, server n disk 200 + n.
fn epoch(managers: u8, servers: u8) -> Epoch {
    let nodes = (0..servers).map(|n| Node::new(server(n), true)).collect();
    let space = HashSpace { nodes, ..HashSpace::default() };
    let entry = |n| ServerEntry::new(server(n), 200 + u64::from(n), 1, 1);
    Epoch {
        number: 6,
        cluster: 1,
        managers: (0..managers).map(|n| ManagerEntry { address: manager(n), disk_id: 100 + u64::from(n) }).collect(),
        servers: (0..servers).map(entry).collect(),
        whs: space.clone(),
        rhs: space,
        ..Epoch::default()
    }
}

fn m(n: u8) -> Voter {
    Voter { address: manager(n), disk_id: 100 + u64::from(n) }
}

fn s(n: u8) -> Voter {
    Voter { address: server(n), disk_id: 200 + u64::from(n) }
}

fn enough(electorate: &Electorate, voters: &[Voter]) -> bool {
    electorate.suffice(&voters.iter().copied().collect())
}

#[test]
fn whose_votes_are_enough() {
    let one = Electorate::of(&epoch(1, 3));
    assert!(enough(&one, &[m(0)]) && !enough(&one, &[s(0), s(1), s(2)]));
    let two = Electorate::of(&epoch(2, 3));
    assert!(enough(&two, &[m(0), m(1)]));
    assert!(enough(&two, &[m(1), s(0), s(2)]) && !enough(&two, &[m(1), s(0)]));
    assert!(!enough(&two, &[s(0), s(1), s(2)]) && !enough(&two, &[m(1)]));
    let even = Electorate::of(&epoch(2, 4));
    assert!(!enough(&even, &[m(0), s(0), s(1)]) && enough(&even, &[m(0), s(0), s(1), s(2)]));
    let three = Electorate::of(&epoch(3, 3));
    assert!(enough(&three, &[m(0), m(2)]) && !enough(&three, &[m(0), s(0), s(1), s(2)]));
    let nobody = Electorate::of(&Epoch::default());
    assert!(!enough(&nobody, &[m(0), s(0)]));
}

/// Of a pair without servers, one had "more than half of none" behind it, and each could decide alone.
#[test]
fn more_than_half_of_no_servers_is_never_reached() {
    let bare = Electorate::of(&epoch(2, 0));
    assert!(enough(&bare, &[m(0), m(1)]) && !enough(&bare, &[m(0)]) && !enough(&bare, &[m(1)]));
}

#[test]
fn another_disk_at_the_same_address_and_a_copy_elsewhere_have_no_vote() {
    let two = Electorate::of(&epoch(2, 3));
    let new_disk = Voter { disk_id: 7, ..m(1) };
    let copy = Voter { disk_id: m(1).disk_id, ..m(9) };
    assert!(!enough(&two, &[m(0), new_disk]) && !enough(&two, &[m(0), copy]));
}

#[test]
fn nodes_of_kumofs_have_no_vote() {
    let mut old = epoch(2, 3);
    old.managers[1].disk_id = 0;
    assert!(enough(&Electorate::of(&old), &[m(0)]), "its partner is no voter");
    let mut old = epoch(2, 3);
    old.servers[1].disk_id = 0;
    assert!(enough(&Electorate::of(&old), &[m(0), s(0), s(2)]) && !enough(&Electorate::of(&old), &[m(0), s(0)]));
}

#[test]
fn when_all_servers_are_gone_those_that_went_last_vote_still() {
    let mut gone = epoch(2, 3);
    for space in [&mut gone.whs, &mut gone.rhs] {
        space.nodes.iter_mut().for_each(|n| n.active = false);
    }
    for (entry, removed) in gone.servers.iter_mut().zip([4, 6, 6]) {
        entry.removed = Some(removed);
    }
    let electorate = Electorate::of(&gone);
    assert_eq!(electorate.servers(), &BTreeSet::from([s(1), s(2)]));
    assert!(enough(&electorate, &[m(0), s(1), s(2)]) && !enough(&electorate, &[m(0), s(0), s(1)]));
}

#[test]
fn managers_without_any_former_disk_agree_all_and_with_most_servers() {
    let new: Vec<Voter> = (0..2).map(|n| Voter { disk_id: 7, ..m(n) }).collect();
    let takeover = Electorate::unanimous(new.iter().copied().collect(), &epoch(2, 3));
    assert!(!enough(&takeover, &new) && !enough(&takeover, &[new[0], s(0), s(1), s(2)]));
    assert!(enough(&takeover, &[new[0], new[1], s(0), s(2)]));
    let founding = Electorate::unanimous(new.iter().copied().collect(), &Epoch::default());
    assert!(enough(&founding, &new) && !enough(&founding, &new[..1]));
}

fn ballot(round: u64, by: Voter) -> Ballot {
    Ballot { round, proposer: by }
}

fn ask(number: u64, ballot: Ballot, text: Option<&str>) -> Question {
    Question { number, ballot, text: text.map(|t| t.as_bytes().to_vec()) }
}

#[test]
fn a_voter_keeps_what_it_promised() {
    let mut vote = Vote::default();
    let (low, high) = (ballot(1, m(0)), ballot(1, m(1)));
    assert_eq!(vote.answer(6, &ask(7, high, None)), Answer::Promised(None));
    assert_eq!(vote.answer(6, &ask(7, low, None)), Answer::Outbid(high));
    assert_eq!(vote.answer(6, &ask(7, low, Some("a"))), Answer::Outbid(high));
    assert_eq!(vote.answer(6, &ask(7, high, Some("b"))), Answer::Accepted);
    assert_eq!(vote.answer(6, &ask(7, high, Some("b"))), Answer::Accepted, "told twice");
    assert_eq!(vote.answer(6, &ask(7, high, Some("c"))), Answer::Outbid(high), "two with one disk id");
    let higher = ballot(2, m(0));
    assert_eq!(vote.answer(6, &ask(7, higher, None)), Answer::Promised(Some((high, b"b".to_vec()))));
    assert_eq!(vote.next_round(7), 3);
    assert_eq!(vote.next_round(8), 1);
}

#[test]
fn a_voter_votes_on_the_number_after_the_one_that_it_knows() {
    let mut vote = Vote::default();
    let first = ballot(1, m(0));
    for number in [5, 6, 8] {
        assert_eq!(vote.answer(6, &ask(number, first, None)), Answer::Elsewhere, "{number}");
    }
    assert_eq!(vote, Vote::default());
    assert_eq!(vote.answer(6, &ask(7, first, Some("a"))), Answer::Accepted);
    assert_eq!(vote.answer(7, &ask(8, first, None)), Answer::Promised(None), "the vote on 7 is of no account");
    // The epoch was lost from disk, the vote was not.
    assert_eq!(vote.answer(6, &ask(7, ballot(9, m(1)), None)), Answer::Elsewhere);
}

/// A voter, with what it would find on its disk after a crash.
struct Member {
    voter: Voter,
    vote: Vote,
    proposer: Option<Proposer>,
}

/// A question or an answer under way. Answers name the ballot and the phase that they are for.
#[derive(Clone, Debug)]
enum Message {
    Question { to: usize, from: usize, question: Question },
    Answer { to: usize, from: Voter, ballot: Ballot, answer: Answer },
}

/// Voters of one number among whom messages are lost, repeated, late, and out of order.
struct Sim {
    nodes: Vec<Member>,
    electorate: Electorate,
    flying: Vec<Message>,
    decided: BTreeSet<Vec<u8>>,
    managers: usize,
    wishes: u64,
    random: u64,
}

impl Sim {
    fn new(managers: u8, servers: u8, seed: u64) -> Sim {
        let voters = (0..managers).map(m).chain((0..servers).map(s));
        Sim {
            nodes: voters.map(|voter| Member { voter, vote: Vote::default(), proposer: None }).collect(),
            electorate: Electorate::of(&epoch(managers, servers)),
            flying: Vec::new(),
            decided: BTreeSet::new(),
            managers: usize::from(managers),
            wishes: 0,
            random: seed | 1,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % n
    }

    /// A manager tries to have a text of its own decided.
    fn propose(&mut self, at: usize) {
        self.wishes += 1;
        let node = &mut self.nodes[at];
        let ballot = Ballot { round: node.vote.next_round(7), proposer: node.voter };
        let wish = format!("{} of {at}", self.wishes).into_bytes();
        node.proposer = Some(Proposer::new(self.electorate.clone(), 7, ballot, wish));
        self.ask_all(at);
    }

    fn ask_all(&mut self, from: usize) {
        let question = self.nodes[from].proposer.as_ref().unwrap().question();
        // Its own vote comes first: so it never bids a ballot twice.
        let ballot = question.ballot;
        let answer = self.nodes[from].vote.answer(6, &question);
        let others = (0..self.nodes.len()).filter(|to| *to != from);
        self.flying.extend(others.map(|to| Message::Question { to, from, question: question.clone() }));
        self.heard(from, self.nodes[from].voter, ballot, answer);
    }

    fn heard(&mut self, at: usize, from: Voter, ballot: Ballot, answer: Answer) {
        let Some(proposer) = self.nodes[at].proposer.as_mut().filter(|p| p.question().ballot == ballot) else { return };
        match proposer.heard(from, answer) {
            Step::Wait | Step::Outbid(_) => {}
            Step::Ask => self.ask_all(at),
            Step::Decided(text) => {
                self.decided.insert(text);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Question { to, from, question } => {
                let node = &mut self.nodes[to];
                let (voter, ballot, answer) = (node.voter, question.ballot, node.vote.answer(6, &question));
                self.flying.push(Message::Answer { to: from, from: voter, ballot, answer });
            }
            Message::Answer { to, from, ballot, answer } => self.heard(to, from, ballot, answer),
        }
    }

    fn step(&mut self, disks_left: &mut usize) {
        let chance = self.below(100);
        if chance < 10 {
            let at = self.below(self.managers);
            self.propose(at);
        } else if chance < 13 {
            let at = self.below(self.nodes.len());
            // The process dies; what it had under way is lost, its disk is not.
            self.nodes[at].proposer = None;
        } else if chance < 14 && *disks_left > 0 {
            *disks_left -= 1;
            let at = self.below(self.nodes.len());
            let voter = Voter { disk_id: 1000 + self.random % 1000, ..self.nodes[at].voter };
            self.nodes[at] = Member { voter, vote: Vote::default(), proposer: None };
        } else if !self.flying.is_empty() {
            let at = self.below(self.flying.len());
            let message = self.flying[at].clone();
            let repeated = self.below(10) == 0;
            if !repeated {
                self.flying.swap_remove(at);
            }
            if self.below(10) > 0 {
                self.deliver(message);
            }
        }
    }

    /// Everything arrives, in order.
    fn quiet(&mut self) {
        while !self.flying.is_empty() {
            let message = self.flying.remove(0);
            self.deliver(message);
        }
    }

    fn can_decide(&self) -> bool {
        self.electorate.suffice(&self.nodes.iter().map(|n| n.voter).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_two_texts_and_always_one_in_the_end(
        managers in 1u8..=5,
        servers in 0u8..=4,
        disks in 0usize..=2,
        steps in 0usize..400,
        seed in any::<u64>(),
    ) {
        let mut sim = Sim::new(managers, servers, seed);
        let mut disks_left = disks;
        for _ in 0..steps {
            sim.step(&mut disks_left);
            prop_assert!(sim.decided.len() <= 1, "{:?}", sim.decided);
        }
        // What is late may still arrive, or be lost.
        if sim.below(2) == 0 {
            sim.flying.clear();
        }
        sim.quiet();
        prop_assert!(sim.decided.len() <= 1, "{:?}", sim.decided);
        // One manager goes on trying, and asks a round above those that it is told of.
        let at = sim.below(sim.managers);
        for _ in 0..sim.nodes.len() {
            let highest = sim.nodes.iter().map(|n| n.vote.next_round(7)).max().unwrap();
            let voter = sim.nodes[at].voter;
            sim.nodes[at].vote.answer(6, &ask(7, Ballot { round: highest, proposer: voter }, None));
            sim.propose(at);
            sim.quiet();
        }
        prop_assert_eq!(sim.decided.len(), usize::from(sim.can_decide() || !sim.decided.is_empty()));
    }

    /// What all of the above rests on. `picks` are two sets of voters.
    #[test]
    fn any_two_sufficient_sets_share_a_voter(
        managers in 1u8..=6,
        servers in 0u8..=5,
        picks in prop::array::uniform2(prop::collection::vec(any::<bool>(), 11)),
        takeover in any::<bool>(),
    ) {
        let before = epoch(managers, servers);
        let ordinary = Electorate::of(&before);
        let new = |v: &Voter| Voter { disk_id: v.disk_id + 500, ..*v };
        let other = if takeover {
            Electorate::unanimous(ordinary.managers().iter().map(new).collect(), &before)
        } else {
            ordinary.clone()
        };
        let voters = |e: &Electorate, picks: &[bool]| -> BTreeSet<Voter> {
            let servers = (0..servers).map(s);
            let all = e.managers().iter().copied().chain(servers).collect::<Vec<_>>();
            all.into_iter().zip(picks).filter(|(_, pick)| **pick).map(|(v, _)| v).collect()
        };
        let (one, two) = (voters(&ordinary, &picks[0]), voters(&other, &picks[1]));
        // A takeover supposes that the former managers' disks are gone: of a pair, one may turn up yet.
        let sound = !takeover || managers == 2 && one.intersection(ordinary.managers()).count() == 1;
        if sound && ordinary.suffice(&one) && other.suffice(&two) {
            prop_assert!(one.intersection(&two).next().is_some(), "{one:?} {two:?}");
        }
    }
}
