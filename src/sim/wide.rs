//! What clients do beside the plain commands: flags, several keys at once, expiry, flushes, the meta protocol.
//!
//! Most commands stay plain, so that few keys are contended for. The choices are drawn from a sequence of their own: without
//! them a seed means what it meant before there were any.

use super::node::Dice;
use crate::check::{Action, Stored};

/// What of it is done in a run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wide {
    /// Values have flags.
    pub flags: bool,
    /// Gets of all keys.
    pub several: bool,
    /// Values that are to live for a second or three, touch and gat.
    pub expiry: bool,
    /// `flush_all`, at once and delayed.
    pub flush: bool,
    /// `mg` and `md` with `I`.
    pub meta: bool,
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// One about one key.
    One(Action),
    /// A get of all.
    All,
}

impl Wide {
    /// Nothing of it, or several.
    pub fn draw(seed: u64) -> Wide {
        let mut dice = Dice::new(seed ^ 0x71de);
        let [flags, several, expiry, meta] = [2, 2, 2, 2].map(|n| dice.one_in(n));
        Wide { flags, several, expiry, flush: dice.one_in(4), meta }
    }

    /// What is done instead of a plain command.
    pub fn widen(self, dice: &mut Dice, plain: Action) -> Asked {
        let (ttl_secs, other) = (Some(1 + dice.below(3) as u32), dice.below(1000));
        let action = match plain {
            _ if self.flush && other < 4 => {
                if dice.one_in(2) {
                    Action::Flush
                } else {
                    Action::FlushLater(1 + dice.below(3) as u32)
                }
            }
            Action::Get => match other % 100 {
                0..12 if self.several => return Asked::All,
                12..18 if self.expiry => Action::GetAndTouch(ttl_secs.filter(|_| dice.one_in(2))),
                18..45 if self.meta => Action::Fetch {
                    vivify_secs: if dice.one_in(3) { Some(1 + dice.below(30) as u32) } else { None },
                    recache_secs: if dice.one_in(3) { Some(1 + dice.below(3) as u32) } else { None },
                },
                _ => Action::Get,
            },
            Action::Touch(None) if self.expiry => Action::Touch(ttl_secs),
            Action::Delete if self.meta && other % 2 == 0 => Action::Invalidate,
            Action::Set(new) => Action::Set(self.dress(dice, new)),
            Action::Add(new) => Action::Add(self.dress(dice, new)),
            Action::Replace(new) => Action::Replace(self.dress(dice, new)),
            Action::Cas(unique, new) => Action::Cas(unique, self.dress(dice, new)),
            other => other,
        };
        Asked::One(action)
    }

    fn dress(self, dice: &mut Dice, plain: Stored) -> Stored {
        let flags = dice.below(u64::from(u32::MAX)) as u32;
        let ttl_secs = if dice.one_in(4) { Some(1 + dice.below(3) as u32) } else { None };
        Stored { flags: if self.flags { flags } else { 0 }, ttl_secs: ttl_secs.filter(|_| self.expiry), ..plain }
    }
}
