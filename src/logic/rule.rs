//! The rules that keep the promise, by name, so that a simulation can leave one out and see what comes of it.
//!
//! Without the feature `sim`, [`on`] is a constant and costs nothing. doc/testing.md, "The simulation", tells what catches each.

/// A rule. Source of each: doc/guarantees.md.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// A server executes only requests of exactly its epoch.
    Fence,
    /// What was read is told only while all other members' leases are live.
    Lease,
    /// The clock that this goes by is looked at when a request has come, and not only at the ends of turns.
    LookFirst,
    /// Leases are looked at again after the look-up, before anything leaves.
    LookAgain,
    /// A server speaks for a new epoch only when what it granted in older ones has run out or was given back.
    WaitForGrants,
    /// A restarted server first keeps quiet for as long as a lease lasts.
    QuietStart,
    /// What is read is told only when every member has it.
    StableBeforeShown,
    /// A change is acknowledged only when every member has it.
    StableBeforeAcknowledged,
    /// A new coordinator waits for the reports of all other members.
    AwaitReports,
    /// Members report what they hold unstable.
    ReportUnstable,
    /// ... also what was unstable in an earlier life.
    ReportLeft,
    /// What was reported is sent to all members before it is shown.
    ResendReported,
    /// Outcomes are remembered, and an operation asked for again is not executed again.
    Remember,
    /// Outcomes travel with the records to the other members.
    MemoryTravels,
    /// What is below a floor is unknown, and not executed.
    Floor,
    /// What was first attempted before the memory began is unknown, and not executed.
    SinceEpoch,
    /// A member takes messages only without gaps.
    PrefixClosed,
    /// A server that is filled takes the full ones for the truth.
    OneWayRefill,
    /// Stamps are compared by their epochs first.
    EpochInStamp,
    /// A copy leaves out what is not stable.
    CopyStableOnly,
    /// Deletion marks stay while they, or what they delete, are unstable or on the move.
    MarksStay,
    /// A server becomes full only when all have copied.
    CopiedBeforeFull,
    /// Of a range without a full server, only those removed last come back as its source.
    LastRemovedOnly,
    /// A life that an epoch removed is not admitted again.
    DeadStayDead,
    /// Votes are counted: all, or a majority.
    Quorum,
    /// A vote is on disk before it is told.
    DurableVote,
    /// An epoch is on disk before it is acted on.
    DurableEpoch,
    /// A gateway takes that nothing was done from its latest attempt only.
    LatestRefusalOnly,
    /// A flush is answered when nobody can tell any more what was there before it.
    FlushHeard,
    /// An epoch has the mark of the last flush until the next one.
    FlushStays,
    /// Who fills a server tells it the counter of its clock, so that no version is made again.
    CounterTravels,
    /// A life's versions are counted from above all that earlier lives of the server have acknowledged.
    CounterKept,
    /// A damaged record is fetched from another member only when its last write is stable, which all have then.
    MendStableOnly,
    /// A backup is told the newest epoch that any server knows.
    BackupAsksServers,
    /// Whether a value has expired its coordinator says, by its clock alone.
    CoordinatorJudges,
    /// That a value has expired is known to every member before it is told.
    ExpiryIsWritten,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 36] = [
        Rule::Fence,
        Rule::Lease,
        Rule::LookFirst,
        Rule::LookAgain,
        Rule::WaitForGrants,
        Rule::QuietStart,
        Rule::StableBeforeShown,
        Rule::StableBeforeAcknowledged,
        Rule::AwaitReports,
        Rule::ReportUnstable,
        Rule::ReportLeft,
        Rule::ResendReported,
        Rule::Remember,
        Rule::MemoryTravels,
        Rule::Floor,
        Rule::SinceEpoch,
        Rule::PrefixClosed,
        Rule::OneWayRefill,
        Rule::EpochInStamp,
        Rule::CopyStableOnly,
        Rule::MarksStay,
        Rule::CopiedBeforeFull,
        Rule::LastRemovedOnly,
        Rule::DeadStayDead,
        Rule::Quorum,
        Rule::DurableVote,
        Rule::DurableEpoch,
        Rule::LatestRefusalOnly,
        Rule::FlushHeard,
        Rule::FlushStays,
        Rule::CounterTravels,
        Rule::CounterKept,
        Rule::MendStableOnly,
        Rule::BackupAsksServers,
        Rule::CoordinatorJudges,
        Rule::ExpiryIsWritten,
    ];

    /// The rule that stands before this one, and alone keeps what both keep: what leaving out this one does shows where that
    /// one is left out, too.
    pub fn stands_behind(self) -> Option<Rule> {
        match self {
            Rule::LookFirst => Some(Rule::LookAgain),
            Rule::LookAgain => Some(Rule::LookFirst),
            Rule::EpochInStamp => Some(Rule::OneWayRefill),
            _ => None,
        }
    }
}

/// Whether a rule is kept: always, but in a simulation of what comes of breaking it.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn on(_rule: Rule) -> bool {
    true
}

#[cfg(feature = "sim")]
thread_local! {
    /// A bit for each rule that is left out.
    static OFF: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether a rule is kept by this thread's simulation.
#[cfg(feature = "sim")]
pub fn on(rule: Rule) -> bool {
    OFF.get() & 1 << rule as u32 == 0
}

/// Has this thread's simulations leave out these rules and keep all others.
#[cfg(feature = "sim")]
pub fn leave_out(rules: &[Rule]) {
    OFF.set(rules.iter().fold(0, |off, rule| off | 1 << *rule as u32));
}
