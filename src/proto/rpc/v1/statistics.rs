//! Statistics: what a server tells of itself to tools, as one map. Source: `doc/protocol.md`, "Statistics".

use super::super::msgpack::{DecodeError, Head, Reader, write_array, write_bool, write_map, write_raw, write_uint};
use super::super::v0::{read_address, write_address};
use crate::logic::address::Address;
use crate::logic::hottest::Hot;

/// Most elements of a list that are read.
const LIST_MAX: usize = 1 << 16;

/// Who opened a connection to a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// A manager.
    Manager,
    /// Another server.
    Server,
    /// A gateway of ours.
    Gateway,
    /// Anybody else: a tool, a script, a kumofs 0.4 gateway.
    Client,
}

impl Caller {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Caller::Manager => "manager",
            Caller::Server => "server",
            Caller::Gateway => "gateway",
            Caller::Client => "client",
        }
    }
}

/// How far another member is behind with what this server coordinates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Changes that it has not acknowledged.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The age of the oldest of them, in microseconds.
    pub age_micros: u64,
    /// All connections to it are established.
    pub up: bool,
}

impl Lag {
    /// Adds what another worker tells.
    pub fn add(&mut self, other: &Lag) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.age_micros = self.age_micros.max(other.age_micros);
        self.up &= other.up;
    }
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Numbers that a server tells; `None`: it does not.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Numbers {
            $($(#[doc = $doc])+ pub $name: Option<u64>,)+
        }

        impl Numbers {
            /// Those that are told, by name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name)),+].into_iter().filter_map(|(name, n)| Some((name, n?)))
            }

            fn place(&mut self, name: &[u8]) -> Option<&mut Option<u64>> {
                $(if name == stringify!($name).as_bytes() {
                    return Some(&mut self.$name);
                })+
                None
            }
        }
    };
}

numbers! {
    /// The epoch that it acts in.
    epoch,
    /// GetStatus's replace flags.
    replace,
    /// Its workers.
    workers,
    /// Gets executed since its start.
    gets,
    /// Those of them that found nothing.
    misses,
    /// Changes other than deletes executed since its start.
    sets,
    /// Deletes executed since its start.
    deletes,
    /// Requests that wait now for their range to be ready.
    parked,
    /// Other servers that have granted it leases for what it coordinates, in all of its workers.
    leases,
    /// Other servers that it wants leases of.
    leases_wanted,
    /// Median latency of gets in the last 5 to 10 seconds.
    get_p50_micros,
    /// 99th percentile.
    get_p99_micros,
    /// Longest.
    get_max_micros,
    /// The same of changes, until they are stable.
    set_p50_micros,
    /// 99th percentile.
    set_p99_micros,
    /// Longest.
    set_max_micros,
    /// Records held.
    items,
    /// Deletion marks held.
    marks,
    /// What its database takes on disk.
    disk_used_bytes,
    /// What it may still fill of that device.
    disk_free_bytes,
    /// The size of that device.
    disk_total_bytes,
    /// Resident memory of the process.
    memory_bytes,
    /// The part of it that the index takes.
    index_bytes,
    /// Parts per million of its records that copying or deleting has gone through, while one of them goes on.
    moving_ppm,
    /// For how long that has been going on, without what it was told to stand still.
    moving_micros,
    /// Records sent to bring other servers up to date, since its start.
    sent_records,
    /// Bytes on the wire for that, compressed, with what was said to find out what others lack.
    sent_bytes,
    /// Records that other servers sent to it in the newest replace.
    received_records,
    /// Their bytes, before compression.
    received_bytes,
    /// Parts per million of all keys that it coordinates.
    coordinates_ppm,
    /// Parts per million of all keys that it holds.
    holds_ppm,
    /// Open connections that others made to it.
    connections,
}

/// Result of [`super::method::STATISTICS`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// What is one number.
    pub numbers: Numbers,
    /// By other member.
    pub lags: Vec<(Address, Lag)>,
    /// Open connections by who opened them, from where (port 0), and how many; where that is unknown, 0.0.0.0.
    pub callers: Vec<(Caller, Address, u64)>,
    /// The most frequent keys, most frequent first.
    pub hottest: Vec<Hot>,
}

impl Statistics {
    /// Appends the map.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_map(out, self.numbers.each().count() + 3);
        for (name, n) in self.numbers.each() {
            write_raw(out, name.as_bytes());
            write_uint(out, n);
        }
        write_raw(out, b"lag");
        write_array(out, self.lags.len());
        for (address, lag) in &self.lags {
            write_array(out, 5);
            write_address(out, *address);
            write_uint(out, lag.entries);
            write_uint(out, lag.bytes);
            write_uint(out, lag.age_micros);
            write_bool(out, lag.up);
        }
        write_raw(out, b"callers");
        write_array(out, self.callers.len());
        for (caller, from, count) in &self.callers {
            write_array(out, 3);
            write_uint(out, *caller as u64);
            write_address(out, *from);
            write_uint(out, *count);
        }
        write_raw(out, b"hottest");
        write_array(out, self.hottest.len());
        for hot in &self.hottest {
            write_array(out, 2);
            write_raw(out, &hot.key);
            write_uint(out, hot.ppm);
        }
    }

    /// Reads a map. Names that are not known here are passed over.
    ///
    /// # Errors
    /// When it is no such map.
    pub fn read(r: &mut Reader<'_>) -> Result<Statistics, DecodeError> {
        let Head::Map(pairs) = r.head()? else { return Err(DecodeError::Type) };
        let mut all = Statistics::default();
        for _ in 0..pairs {
            match r.raw()? {
                b"lag" => all.lags = list(r, read_lag)?,
                b"callers" => all.callers = list(r, read_caller)?,
                b"hottest" => all.hottest = list(r, read_hot)?,
                name => match all.numbers.place(name) {
                    Some(place) => *place = Some(r.u64()?),
                    None => {
                        r.skip()?;
                    }
                },
            }
        }
        Ok(all)
    }
}

fn list<T>(
    r: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let len = r.array()?;
    if len > LIST_MAX {
        return Err(DecodeError::Type);
    }
    (0..len).map(|_| read(r)).collect()
}

fn read_lag(r: &mut Reader<'_>) -> Result<(Address, Lag), DecodeError> {
    r.array_of(5)?;
    let address = read_address(r)?;
    Ok((address, Lag { entries: r.u64()?, bytes: r.u64()?, age_micros: r.u64()?, up: r.bool()? }))
}

fn read_caller(r: &mut Reader<'_>) -> Result<(Caller, Address, u64), DecodeError> {
    r.array_of(3)?;
    let caller = match r.u64()? {
        0 => Caller::Manager,
        1 => Caller::Server,
        2 => Caller::Gateway,
        _ => Caller::Client,
    };
    Ok((caller, read_address(r)?, r.u64()?))
}

fn read_hot(r: &mut Reader<'_>) -> Result<Hot, DecodeError> {
    r.array_of(2)?;
    Ok(Hot { key: r.raw()?.to_vec(), ppm: r.u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Statistics {
        let address = Address::new("10.0.0.2:19800".parse().unwrap());
        let numbers = Numbers { epoch: Some(3), gets: Some(1 << 40), index_bytes: None, ..Numbers::default() };
        Statistics {
            numbers,
            lags: vec![(address, Lag { entries: 5, bytes: 400, age_micros: 900, up: true })],
            callers: vec![(Caller::Gateway, Address::new("[::1]:0".parse().unwrap()), 4)],
            hottest: vec![Hot { key: b"k\xff\n".to_vec(), ppm: 250_000 }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_cut_is_incomplete() {
        let mut bytes = Vec::new();
        some().write(&mut bytes);
        assert_eq!(Statistics::read(&mut Reader::new(&bytes)), Ok(some()));
        for cut in 0..bytes.len() {
            assert_eq!(Statistics::read(&mut Reader::new(&bytes[..cut])), Err(DecodeError::Incomplete), "cut at {cut}");
        }
    }

    #[test]
    fn names_that_come_later_are_passed_over() {
        let mut bytes = Vec::new();
        write_map(&mut bytes, 2);
        write_raw(&mut bytes, b"of_tomorrow");
        bytes.extend_from_slice(&[0x92, 0x81, 1, 2, 0xc0]);
        write_raw(&mut bytes, b"epoch");
        write_uint(&mut bytes, 7);
        let read = Statistics::read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(read.numbers, Numbers { epoch: Some(7), ..Numbers::default() });
    }

    #[test]
    fn what_is_no_map_or_claims_too_much_is_refused() {
        assert_eq!(Statistics::read(&mut Reader::new(&[0x90])), Err(DecodeError::Type));
        let mut bytes = vec![0x81];
        write_raw(&mut bytes, b"lag");
        bytes.extend_from_slice(&[0xdd, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Statistics::read(&mut Reader::new(&bytes)), Err(DecodeError::Type));
    }

    #[test]
    fn lags_of_several_workers_are_added() {
        let mut lag = Lag { entries: 1, bytes: 10, age_micros: 7, up: true };
        lag.add(&Lag { entries: 2, bytes: 5, age_micros: 9, up: false });
        assert_eq!(lag, Lag { entries: 3, bytes: 15, age_micros: 9, up: false });
    }
}
