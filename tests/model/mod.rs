//! A memcached in a hash map: the parser, the smallest possible execution, the encoder.

use kumofs::logic::{counter, expiry};
use kumofs::proto::memcache::text::{self, Parsed, Then};
use kumofs::proto::memcache::{Keys, Limits, Reply, Request, StatsTopic, Trouble, Verb};
use std::collections::HashMap;

const NOW_SECS: u64 = 1_800_000_000;

struct Item {
    flags: u32,
    expiry: u32,
    cas: u64,
    data: Vec<u8>,
}

/// What is stored. Time stands still.
#[derive(Default)]
pub struct Model {
    items: HashMap<Vec<u8>, Item>,
    cas: u64,
}

/// One connection to a [`Model`].
#[derive(Default)]
pub struct Session {
    unparsed: Vec<u8>,
    swallow_bytes: u64,
    pub closed: bool,
}

impl Session {
    /// Takes what a client sent, and appends the answers to `out`.
    pub fn feed(&mut self, model: &mut Model, bytes: &[u8], out: &mut Vec<u8>) {
        self.unparsed.extend_from_slice(bytes);
        while !self.closed {
            let swallowed = self.swallow_bytes.min(self.unparsed.len() as u64);
            self.swallow_bytes -= swallowed;
            self.unparsed.drain(..swallowed as usize);
            if self.unparsed.is_empty() {
                return;
            }
            let used = match text::parse(&self.unparsed, &Limits::default()) {
                Parsed::Incomplete { needed_bytes } => {
                    assert!(needed_bytes > self.unparsed.len());
                    return;
                }
                Parsed::Request { request: Request::Quit, used_bytes } => {
                    self.closed = true;
                    used_bytes
                }
                Parsed::Request { request, used_bytes } => {
                    model.execute(request, out);
                    used_bytes
                }
                Parsed::Refused { reply, used_bytes, then } => {
                    if let Some(trouble) = reply {
                        text::encode(&Reply::Trouble(trouble), out);
                    }
                    match then {
                        Then::GoOn => {}
                        Then::Close => self.closed = true,
                        Then::Swallow { bytes, stale_key } => {
                            self.swallow_bytes = bytes;
                            stale_key.map(|stale| model.items.remove(stale.key));
                        }
                    }
                    used_bytes
                }
            };
            self.unparsed.drain(..used);
        }
    }
}

impl Model {
    fn execute(&mut self, request: Request<'_>, out: &mut Vec<u8>) {
        let noreply = request.noreply();
        let reply = match request {
            Request::Get { keys, with_cas } => self.retrieve(keys, None, with_cas, out),
            Request::GetAndTouch { exptime, keys, with_cas } => self.retrieve(keys, Some(exptime), with_cas, out),
            Request::Store { verb, key, flags, exptime, data, .. } => self.store(verb, key, flags, exptime, data),
            Request::Delete { key, .. } => {
                let found = self.live(key).is_some();
                self.items.remove(key);
                if found { Reply::Deleted } else { Reply::NotFound }
            }
            Request::Count { direction, key, delta, .. } => self.count(direction, key, delta),
            Request::Touch { key, exptime, .. } => match self.live(key) {
                Some(item) => {
                    item.expiry = expiry::expiry_of(exptime, NOW_SECS);
                    Reply::Touched
                }
                None => Reply::NotFound,
            },
            Request::FlushAll { delay, .. } => {
                if u64::from(expiry::flush_time(delay, NOW_SECS)) <= NOW_SECS {
                    self.items.clear();
                }
                Reply::Ok
            }
            Request::Stats(StatsTopic::Reset) => Reply::Reset,
            Request::Stats(_) => {
                text::encode(&Reply::Stat { name: "curr_items", value: &self.items.len().to_string() }, out);
                Reply::End
            }
            Request::Version => Reply::Version("0.0.0"),
            Request::Verbosity { .. } => Reply::Ok,
            // The differential test of the gateway has those.
            Request::Meta(_) => return,
            Request::Noop => Reply::Noop,
            Request::Quit => return,
        };
        if !noreply {
            text::encode(&reply, out);
        }
    }

    fn live(&mut self, key: &[u8]) -> Option<&mut Item> {
        self.items.get_mut(key).filter(|item| !expiry::is_gone(item.expiry, NOW_SECS))
    }

    fn next_cas(&mut self) -> u64 {
        self.cas += 1;
        self.cas
    }

    fn retrieve(&mut self, keys: Keys<'_>, exptime: Option<i64>, with_cas: bool, out: &mut Vec<u8>) -> Reply<'static> {
        for key in keys {
            let Some(item) = self.live(key) else { continue };
            let cas = with_cas.then_some(item.cas);
            text::encode(&Reply::Value { key, flags: item.flags, cas, data: &item.data }, out);
            if let Some(exptime) = exptime {
                item.expiry = expiry::expiry_of(exptime, NOW_SECS);
            }
        }
        Reply::End
    }

    fn store(&mut self, verb: Verb, key: &[u8], flags: u32, exptime: i64, data: &[u8]) -> Reply<'static> {
        let new_cas = self.next_cas();
        let old = self.live(key);
        match (verb, old) {
            (Verb::Add, Some(_)) | (Verb::Replace | Verb::Append | Verb::Prepend, None) => return Reply::NotStored,
            (Verb::Cas(_), None) => return Reply::NotFound,
            (Verb::Cas(cas), Some(item)) if item.cas != cas => return Reply::Exists,
            (Verb::Append | Verb::Prepend, Some(item)) => {
                if item.data.len() + data.len() > Limits::default().value_bytes {
                    return Reply::NotStored;
                }
                let at = if verb == Verb::Append { item.data.len() } else { 0 };
                item.data.splice(at..at, data.iter().copied());
                item.cas = new_cas;
            }
            _ => {
                let expiry = expiry::expiry_of(exptime, NOW_SECS);
                self.items.insert(key.to_vec(), Item { flags, expiry, cas: new_cas, data: data.to_vec() });
            }
        }
        Reply::Stored
    }

    fn count(&mut self, direction: counter::Direction, key: &[u8], delta: u64) -> Reply<'static> {
        let new_cas = self.next_cas();
        let Some(item) = self.live(key) else { return Reply::NotFound };
        let Ok(number) = counter::count(&item.data, direction, delta) else {
            return Reply::Trouble(Trouble::NonNumeric);
        };
        let mut data = Vec::new();
        counter::write_data(number, item.data.len(), &mut data);
        item.data = data;
        item.cas = new_cas;
        Reply::Number(number)
    }
}
