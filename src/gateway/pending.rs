//! Requests on a link that are not answered yet, found by the msgid in the answer.
//!
//! A msgid is a place in a table and how often that place was used before, so that a peer that answers twice, or makes
//! up msgids, finds nothing. No hash map: the table is as long as the most requests that were ever under way at once.

/// Bits of a msgid that are the place; the rest count the uses of the place.
const PLACE_BITS: u32 = 21;
const MAX_PLACES: usize = 1 << PLACE_BITS;
/// A table longer than this gives its memory back when it is empty.
const KEPT_PLACES: usize = 4096;

/// What a request was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// CONNECT, the first of a connection.
    Connect,
    /// GET_EPOCH.
    Epoch,
    /// Anything, for a sign of life.
    Ping,
    /// A part of an operation's value.
    Part {
        /// As of an attempt.
        op: u32,
        /// As of an attempt.
        generation: u32,
        /// Which attempt the value is sent for.
        attempt: u32,
    },
    /// A part of the value that an operation asks for.
    Piece {
        /// As of an attempt.
        op: u32,
        /// As of an attempt.
        generation: u32,
        /// Which attempt it was that found the value.
        attempt: u32,
    },
    /// An attempt of an operation.
    Attempt {
        /// The operation's place in the worker's table.
        op: u32,
        /// Tells it from other operations that had that place.
        generation: u32,
        /// Which attempt.
        attempt: u32,
    },
}

#[derive(Clone, Copy)]
struct Place {
    uses: u32,
    request: Option<Request>,
}

/// The table.
#[derive(Default)]
pub struct Pending {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Pending {
    /// Notes a request; returns its msgid, or `None` when two million are under way already.
    #[inline]
    pub fn add(&mut self, request: Request) -> Option<u32> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < MAX_PLACES => {
                self.places.push(Place { uses: 0, request: None });
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        let entry = &mut self.places[place as usize];
        entry.request = Some(request);
        Some(entry.uses << PLACE_BITS | place)
    }

    /// What the answer with this msgid answers; `None` when nothing was asked so.
    #[inline]
    pub fn take(&mut self, msgid: u32) -> Option<Request> {
        let place = msgid & (MAX_PLACES as u32 - 1);
        let entry = self.places.get_mut(place as usize)?;
        if entry.uses != msgid >> PLACE_BITS {
            return None;
        }
        let request = entry.request.take()?;
        entry.uses = (entry.uses + 1) & (u32::MAX >> PLACE_BITS);
        self.free.push(place);
        Some(request)
    }

    /// How many are not answered.
    #[inline]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes all out: the connection broke.
    pub fn drain(&mut self) -> Vec<Request> {
        let all = self.places.iter_mut().filter_map(|place| place.request.take()).collect();
        if self.places.len() > KEPT_PLACES {
            self.places = Vec::new();
            self.free = Vec::new();
        } else {
            self.free.clear();
            self.free.extend((0..self.places.len() as u32).rev());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(op: u32) -> Request {
        Request::Attempt { op, generation: 1, attempt: 1 }
    }

    #[test]
    fn answers_find_their_requests_in_any_order_and_once() {
        let mut pending = Pending::default();
        let msgids: Vec<u32> = (0..100).map(|op| pending.add(attempt(op)).unwrap()).collect();
        for (op, msgid) in msgids.iter().enumerate().rev() {
            assert_eq!(pending.take(*msgid), Some(attempt(op as u32)));
            assert_eq!(pending.take(*msgid), None);
        }
        assert_eq!(pending.len(), 0);
        let again = pending.add(attempt(7)).unwrap();
        assert!(!msgids.contains(&again), "a late second answer must not find a new request");
        assert_eq!(pending.take(u32::MAX), None);
    }

    #[test]
    fn a_broken_connection_hands_back_what_was_not_answered() {
        let mut pending = Pending::default();
        let msgids: Vec<u32> = (0..3).map(|op| pending.add(attempt(op)).unwrap()).collect();
        pending.take(msgids[1]);
        assert_eq!(pending.drain(), [attempt(0), attempt(2)]);
        assert_eq!(pending.len(), 0);
        assert!(pending.add(Request::Connect).is_some());
    }
}
