//! What operators ask a manager for: changes of the cluster, its settings, backups.

use super::super::links::LinkKind;
use super::super::state::{Command, Progress, Refused};
use super::{Caller, Handled, Outcome, result};
use crate::logic::address::Address;
use crate::logic::weight::Weight;
use crate::net::rpc::Peer;
use crate::net::settings::{Own, number, truth};
use crate::proto::rpc::msgpack::{DecodeError, write_array, write_bool, write_nil, write_raw};
use crate::proto::rpc::{v0, v1};
use std::time::Duration;

/// How long a server may take over a backup before that is worth a warning.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest suffix of a backup in bytes: what file systems leave of a name.
const MAX_SUFFIX: usize = 64;

/// The longest `replace-delay`, in seconds: a day.
const LONGEST_DELAY_SECS: u64 = 86_400;

impl Caller<'_> {
    /// Tells or changes settings of this manager; what is the cluster's is said to all of them.
    pub(super) fn config(&self) -> Handled {
        let state = &self.manager.state;
        let (auto_replace, delay) = (state.borrow().auto_replace(), state.borrow().replace_delay());
        let own = vec![
            Own {
                name: "auto-replace",
                value: auto_replace.to_string(),
                set: Box::new(|value| {
                    self.turn_auto_replace(truth(value)?);
                    Ok(())
                }),
            },
            Own {
                name: "replace-delay",
                value: delay.as_secs().to_string(),
                set: Box::new(|value| {
                    let delay = Duration::from_secs(number(value, LONGEST_DELAY_SECS)?);
                    state.borrow_mut().set_replace_delay(delay);
                    Ok(())
                }),
            },
        ];
        self.manager.config.settings.answer(own, self.params).map(Outcome::Result)
    }

    /// What an operator or a gateway wants done.
    pub(super) fn command(&self) -> Handled {
        match self.method {
            v0::method::ATTACH_NEW_SERVERS => {
                let replace = self.reader(1)?.bool()?;
                self.change(Command::Attach { replace })
            }
            v0::method::DETACH_FAULT_SERVERS => {
                let replace = self.reader(1)?.bool()?;
                self.change(Command::Detach { replace })
            }
            v0::method::START_REPLACE => {
                let mut params = self.reader(0)?;
                let full = !params.rest().is_empty() && params.bool()?;
                self.change(Command::Replace { full })
            }
            v1::method::DRAIN => {
                let address = v0::read_address(&mut self.reader(1)?)?;
                self.change(Command::Drain(address))
            }
            v1::method::WEIGHT => {
                let mut params = self.reader(2)?;
                let address = v0::read_address(&mut params)?;
                let weight = Weight::of_points(params.u64()?).ok_or(DecodeError::Type)?;
                self.weigh(address, weight)
            }
            v1::method::RATE => {
                let bytes_per_sec = self.reader(1)?.u64()?;
                self.change(Command::Rate(bytes_per_sec))
            }
            v1::method::PAUSE => {
                let paused = self.reader(1)?.bool()?;
                self.change(Command::Pause(paused))
            }
            v1::method::FLUSH_ALL => {
                let delay = self.reader(1)?.u64()?;
                self.change(Command::flush(self.manager.now(), delay))
            }
            v0::method::SET_AUTO_REPLACE => self.set_auto_replace(),
            v0::method::CREATE_BACKUP => self.create_backup(),
            _ => Err(DecodeError::Type),
        }
    }

    fn change(&self, command: Command) -> Handled {
        self.begin(command).unwrap_or_else(|why| {
            tracing::warn!("a command is refused: {why}");
            Ok(Outcome::Refused)
        })
    }

    /// The same, and says why not. A gateway that knows no weights would find nothing from then on.
    fn weigh(&self, address: Address, weight: Weight) -> Handled {
        let why_not = match self.manager.links.borrow().old_gateway() {
            Some(gateway) => Err(format!("the gateway at {gateway} is of kumofs 0.4, which knows no weights")),
            None => self.begin(Command::Weigh(address, weight)).map_err(|why| why.to_string()),
        };
        why_not.unwrap_or_else(|why| {
            tracing::warn!("a weight is refused: {why}");
            result(|out| write_raw(out, why.as_bytes()))
        })
    }

    fn begin(&self, command: Command) -> Result<Handled, Refused> {
        let passed_on = self.kind == LinkKind::Partner;
        match self.manager.with_state(|state, now| state.command(now, command, passed_on)) {
            Ok(Progress::Done) => Ok(result(write_nil)),
            Ok(Progress::Deciding(ticket)) => Ok(Ok(Outcome::Later(ticket))),
            Err(Refused::NotLeading) => Ok(Ok(Outcome::ForPartner)),
            Err(why) => Err(why),
        }
    }

    fn set_auto_replace(&self) -> Handled {
        let on = self.reader(1)?.bool()?;
        self.turn_auto_replace(on);
        result(|out| if on { write_bool(out, true) } else { write_nil(out) })
    }

    fn turn_auto_replace(&self, on: bool) {
        self.manager.state.borrow_mut().set_auto_replace(on);
        if self.kind == LinkKind::Client {
            for partner in self.manager.links.borrow().partners() {
                partner.notify(v0::method::SET_AUTO_REPLACE, |out| {
                    write_array(out, 1);
                    write_bool(out, on);
                });
            }
        }
    }

    /// Every server that is connected makes a backup; how that went is told in the log, for it may take long.
    fn create_backup(&self) -> Handled {
        let suffix = self.reader(1)?.raw()?.to_vec();
        let plain = |b: &u8| b.is_ascii_graphic() && *b != b'/';
        if suffix.is_empty() || suffix.len() > MAX_SUFFIX || !suffix.iter().all(plain) {
            return Ok(Outcome::Refused);
        }
        let params = |out: &mut Vec<u8>| {
            write_array(out, 1);
            write_raw(out, &suffix);
        };
        for server in self.manager.links.borrow().servers() {
            let call = server.call(v0::method::SERVER_CREATE_BACKUP, params, BACKUP_TIMEOUT);
            let Some(Peer::Node(address, _)) = server.peer() else { continue };
            tokio::task::spawn_local(async move {
                match call.await {
                    Ok(_) => tracing::info!("backup made by {address}"),
                    Err(e) => tracing::warn!("backup failed at {address}: {e}"),
                }
            });
        }
        result(write_nil)
    }
}
