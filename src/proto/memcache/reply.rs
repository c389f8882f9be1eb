//! What clients are answered, whatever the dialect.

use super::meta::Fault;

/// One answer, or one part of an answer (values and stats come in parts, closed by [`Reply::End`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// A value that was found.
    Value {
        /// Its key.
        key: &'a [u8],
        /// The client's flags.
        flags: u32,
        /// Its cas unique, when it was asked for.
        cas: Option<u64>,
        /// The data.
        data: &'a [u8],
    },
    /// A name and a value of `stats`.
    Stat {
        /// The name.
        name: &'a str,
        /// The value, in text.
        value: &'a str,
    },
    /// No more values, or stats.
    End,
    /// Written.
    Stored,
    /// Not written: the condition of add, replace, append or prepend was not met.
    NotStored,
    /// Not written: cas found another value.
    Exists,
    /// Nothing there to cas, delete, count or touch.
    NotFound,
    /// Removed.
    Deleted,
    /// The expiry was set.
    Touched,
    /// Done (flush_all, verbosity).
    Ok,
    /// `stats reset` was done.
    Reset,
    /// What incr or decr counted to.
    Number(u64),
    /// The answer to noop.
    Noop,
    /// Our version, the bare text.
    Version(&'a str),
    /// Something else.
    Trouble(Trouble),
}

/// What went wrong, by the line that the client gets.
///
/// The texts up to [`Trouble::TooLarge`] are memcached 1.6's; the others are ours, for what cannot happen to a single
/// process. [`Trouble::Unknown`] is the only one after which a change may have taken place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// No such command, or it has too few or too many words.
    NoCommand,
    /// `shutdown`.
    ShutdownDisabled,
    /// `cache_memlimit`: there is no such limit here.
    MemlimitFailed,
    /// A number that is none, a negative length, or a key that is too long.
    BadFormat,
    /// Other words than `0` and `noreply` after the key of a delete.
    DeleteUsage,
    /// The data does not end where its length says.
    BadDataChunk,
    /// The exptime of touch, gat or flush_all is no number.
    InvalidExptime,
    /// The delta of incr or decr is no number.
    InvalidDelta,
    /// The data that incr or decr found is no number.
    NonNumeric,
    /// `lru_crawler`.
    CrawlerDisabled,
    /// `slabs reassign`.
    ReassignDisabled,
    /// `stats cachedump`.
    CachedumpDisabled,
    /// `stats detail` with another word, or none.
    DetailUsage,
    /// `watch`.
    WatchDisabled,
    /// A flag of a meta command.
    Meta(Fault),
    /// The data is longer than values may be.
    TooLarge,
    /// A retrieval's line is longer than its limit; the connection is closed after this.
    LineTooLong,
    /// No server that has the key can be reached. Nothing was changed.
    NoServer,
    /// The cluster is changing, and did not settle while we retried. Nothing was changed.
    TryAgain,
    /// The outcome did not reach us: the change took place, or will not.
    Unknown,
    /// A server has no room left on its disk. Nothing was changed.
    NoSpace,
    /// More is under way than we keep in memory. Nothing was changed.
    Overloaded,
    /// What the servers or managers of a kumofs 0.4 cluster cannot do. Nothing was changed.
    NotServed,
    /// No manager decided a flush in time: it may still happen.
    NoManager,
}

impl Trouble {
    /// The line of the text protocol, with its end.
    pub fn line(self) -> &'static [u8] {
        match self {
            Trouble::NoCommand => b"ERROR\r\n",
            Trouble::ShutdownDisabled => b"ERROR: shutdown not enabled\r\n",
            Trouble::MemlimitFailed => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
            Trouble::BadFormat => b"CLIENT_ERROR bad command line format\r\n",
            Trouble::DeleteUsage => b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
            Trouble::BadDataChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Trouble::InvalidExptime => b"CLIENT_ERROR invalid exptime argument\r\n",
            Trouble::InvalidDelta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Trouble::NonNumeric => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            Trouble::CrawlerDisabled => b"CLIENT_ERROR lru crawler disabled\r\n",
            Trouble::ReassignDisabled => b"CLIENT_ERROR slab reassignment disabled\r\n",
            Trouble::CachedumpDisabled => b"CLIENT_ERROR stats cachedump not allowed\r\n",
            Trouble::DetailUsage => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
            Trouble::WatchDisabled => b"CLIENT_ERROR watch commands not allowed\r\n",
            Trouble::Meta(fault) => fault.line(),
            Trouble::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Trouble::LineTooLong => b"CLIENT_ERROR line too long\r\n",
            Trouble::NoServer => b"SERVER_ERROR no server reachable\r\n",
            Trouble::TryAgain => b"SERVER_ERROR cluster is changing, try again\r\n",
            Trouble::Unknown => b"SERVER_ERROR outcome unknown\r\n",
            Trouble::NoSpace => b"SERVER_ERROR no space left\r\n",
            Trouble::Overloaded => b"SERVER_ERROR overloaded, try again\r\n",
            Trouble::NotServed => b"SERVER_ERROR not served by kumofs 0.4\r\n",
            Trouble::NoManager => b"SERVER_ERROR no manager decided the flush; it may still happen\r\n",
        }
    }
}
