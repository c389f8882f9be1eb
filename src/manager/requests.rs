//! The methods of a manager: what each asks, who may ask it, and what is answered.
//!
//! Sources: `doc/protocol.md`, "Version 0", and `doc/protocol.md` for version 1. Commands are answered when the
//! epoch that they brought about is decided and on disk; a manager whose partner decides passes them on.

mod operator;

use super::flushing;
use super::links::LinkKind;
use super::run::Manager;
use super::state::{ConnId, Now, Refused, State, Ticket};
use crate::logic::address::Address;
use crate::logic::clock::ClockTime;
use crate::logic::epoch::Epoch;
use crate::logic::paxos::Answer;
use crate::net::rpc::{CallError, Incoming, Reply};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_bool, write_nil, write_raw, write_uint};
use crate::proto::rpc::vote::{Ask, Voted};
use crate::proto::rpc::{error, v0, v1};
use std::rc::Rc;
use std::time::Duration;

/// How long the partner may take over a command: less than a tool waits.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);

/// What comes of a request.
enum Outcome {
    /// A result, encoded.
    Result(Vec<u8>),
    /// Error 6.
    Refused,
    /// Error 6, and nothing more is to be said to this peer.
    Dismissed,
    /// A partner decides, and is to be asked.
    ForPartner,
    /// Votes are being gathered.
    Later(Ticket),
}

/// A command that is being voted on.
pub(super) struct Waiting {
    method: u32,
    params: Vec<u8>,
    reply: Reply,
}

/// `Err`: the method is not known, or not for this peer, or its parameters are of other types.
type Handled = Result<Outcome, DecodeError>;

/// Handles one request.
pub(super) fn handle(manager: &Rc<Manager>, id: ConnId, request: Incoming) {
    let kind = manager.links.borrow().kind(id);
    let Incoming { method, params, reply } = request;
    if kind == LinkKind::Server {
        manager.with_state(|state, now| state.alive(now, id));
    }
    let caller = Caller { manager, id, kind, method, params: &params };
    let handled = match kind {
        LinkKind::Server | LinkKind::Partner | LinkKind::Spare => caller.node(),
        LinkKind::New | LinkKind::Client | LinkKind::OldGateway | LinkKind::Gateway => caller.client(),
    };
    match handled {
        Ok(Outcome::Result(_)) if manager.has_failed() => reply.error(error::SERVER),
        Ok(Outcome::Result(_)) if method == v1::method::FLUSH_ALL => answer_flush(manager, &params, reply),
        Ok(Outcome::Result(result)) => reply.success(|out| out.extend_from_slice(&result)),
        Ok(Outcome::Later(ticket)) => {
            manager.waiting.borrow_mut().insert(ticket, Waiting { method, params, reply });
        }
        Ok(Outcome::Refused) => reply.error(error::SERVER),
        Ok(Outcome::Dismissed) => {
            reply.error(error::SERVER);
            manager.links.borrow().hang_up(id);
        }
        Ok(Outcome::ForPartner) => forward(manager, method, &params, reply),
        Err(_) => reply.protocol_error(),
    }
    // After the answer, because it may bring on requests of ours.
    if kind == LinkKind::Server && method >> 16 == 0 {
        manager.with_state(|state, now| state.spoke_old(now, id));
    }
}

/// Answers a command that was voted on.
pub(super) fn answer(manager: &Rc<Manager>, ticket: Ticket, outcome: Result<(), Refused>) {
    let Some(waiting) = manager.waiting.borrow_mut().remove(&ticket) else { return };
    let Waiting { method, params, reply } = waiting;
    match outcome {
        Ok(()) if method == v1::method::FLUSH_ALL => answer_flush(manager, &params, reply),
        Ok(()) => reply.success(write_nil),
        Err(Refused::NotLeading) => forward(manager, method, &params, reply),
        Err(Refused::Undecided) if method == v1::method::FLUSH_ALL => leave_in_doubt(reply),
        Err(why) => {
            tracing::warn!("a command is refused: {why}");
            reply.error(error::SERVER);
        }
    }
}

/// Has the partner that decides carry out a command, and passes its answer on.
fn forward(manager: &Rc<Manager>, method: u32, params: &[u8], reply: Reply) {
    let leader = manager.state.borrow().leader();
    let Some((_, partner)) = leader.and_then(|leader| manager.links.borrow().node(leader)) else {
        return reply.error(error::SERVER);
    };
    let call = partner.call(method, |out| out.extend_from_slice(params), FORWARD_TIMEOUT);
    tokio::task::spawn_local(async move {
        match call.await {
            Ok(result) => reply.success(|out| out.extend_from_slice(&result)),
            Err(CallError::Refused(number, _)) => reply.error(number),
            Err(_) if method == v1::method::FLUSH_ALL => leave_in_doubt(reply),
            Err(e) => reply.error(e.number()),
        }
    });
}

/// Answers a flush once it is seen by all, and one that is for later once it is decided.
fn answer_flush(manager: &Rc<Manager>, params: &[u8], reply: Reply) {
    let is_for_later = Reader::new(params.get(1..).unwrap_or_default()).u64().is_ok_and(|delay_secs| delay_secs > 0);
    if is_for_later {
        return reply.success(write_nil);
    }
    let manager = manager.clone();
    tokio::task::spawn_local(async move {
        match flushing::is_everywhere(&manager).await {
            true => reply.success(write_nil),
            false => {
                tracing::warn!("a flush is decided, but keys are held by servers alone that have not heard of it");
                leave_in_doubt(reply);
            }
        }
    });
}

/// Answers a flush that may happen, or is decided and not seen by all. It is no error: who asked would ask another manager,
/// and there would be two.
fn leave_in_doubt(reply: Reply) {
    reply.success(|out| write_bool(out, false));
}

fn result(write: impl FnOnce(&mut Vec<u8>)) -> Handled {
    let mut out = Vec::new();
    write(&mut out);
    Ok(Outcome::Result(out))
}

/// A request, and whose it is.
struct Caller<'a> {
    manager: &'a Rc<Manager>,
    id: ConnId,
    kind: LinkKind,
    method: u32,
    params: &'a [u8],
}

impl Caller<'_> {
    fn node(&self) -> Handled {
        let is_server = self.kind == LinkKind::Server;
        match self.method {
            v0::method::KEEP_ALIVE => self.keep_alive(),
            v0::method::WHS_REQUEST => self.tell(|state, out| v0::write_seed(out, &state.epoch().whs)),
            v0::method::RHS_REQUEST => self.tell(|state, out| v0::write_seed(out, &state.epoch().rhs)),
            v0::method::REPLACE_COPY_END if is_server => self.report(State::copy_ended),
            v0::method::REPLACE_DELETE_END if is_server => self.report(State::delete_ended),
            v0::method::HASH_SPACE_SYNC if !is_server => self.spaces(),
            v0::method::REPLACE_ELECTION if !is_server => self.election(),
            v1::method::JOIN if is_server => self.join(),
            v1::method::SOURCED if is_server => self.sourced(),
            v1::method::CONNECT => self.connect(),
            v1::method::GET_EPOCH => self.get_epoch(),
            v1::method::EPOCH_PUSH => self.epoch_push(),
            v1::method::VOTE if !is_server => self.vote(),
            v1::method::LOST => self.lost(),
            v1::method::LEAVING if is_server => {
                self.manager.with_state(|state, now| state.leaving(now, self.id));
                result(write_nil)
            }
            // What the partner passes on.
            _ if !is_server => self.command(),
            _ => Err(DecodeError::Type),
        }
    }

    fn client(&self) -> Handled {
        match self.method {
            v0::method::HASH_SPACE_REQUEST if self.manager.state.borrow().epoch().is_weighted() => {
                let from = self.manager.links.borrow().remote(self.id);
                tracing::warn!("{from} is told no hash spaces: servers have weights, and kumofs 0.4 knows none");
                Ok(Outcome::Refused)
            }
            v0::method::HASH_SPACE_REQUEST => {
                // Only who asks for both spaces wants to hear of changes: that is a gateway.
                if self.kind == LinkKind::Client {
                    self.manager.links.borrow_mut().set_kind(self.id, LinkKind::OldGateway);
                }
                self.tell(|state, out| {
                    write_array(out, 2);
                    v0::write_seed(out, &state.epoch().whs);
                    v0::write_seed(out, &state.epoch().rhs);
                })
            }
            v0::method::GET_NODES_INFO => self.tell(|state, out| {
                let not_attached = state.not_attached();
                write_array(out, 2);
                v0::write_seed(out, &state.epoch().whs);
                write_array(out, not_attached.len());
                not_attached.iter().for_each(|address| v0::write_address(out, *address));
            }),
            v1::method::CONNECT => self.connect(),
            v1::method::GET_EPOCH => self.get_epoch(),
            v1::method::CONFIG => self.config(),
            _ => self.command(),
        }
    }

    /// Before the first of at least so many parameters. Further ones are for versions to come.
    fn reader(&self, at_least: usize) -> Result<Reader<'_>, DecodeError> {
        let mut reader = Reader::new(self.params);
        if reader.array()? < at_least { Err(DecodeError::Type) } else { Ok(reader) }
    }

    fn tell(&self, write: impl FnOnce(&State, &mut Vec<u8>)) -> Handled {
        result(|out| write(&self.manager.state.borrow(), out))
    }

    fn keep_alive(&self) -> Handled {
        let mut params = self.reader(1)?;
        let counter = params.u32()?;
        self.manager.state.borrow_mut().observe_counter(counter);
        if let (LinkKind::Partner, Some(address), false) = (self.kind, self.peer_address(), params.rest().is_empty()) {
            let hears = params.u32()?;
            self.manager.with_state(|state, now| state.partner_hears(now, address, hears));
        }
        result(write_nil)
    }

    fn report(&self, ended: fn(&mut State, Now, ConnId, ClockTime)) -> Handled {
        let mut params = self.reader(2)?;
        let (time, counter) = (ClockTime(params.u64()?), params.u32()?);
        self.manager.with_state(|state, now| {
            state.observe_counter(counter);
            ended(state, now, self.id, time);
        });
        result(|out| write_bool(out, true))
    }

    fn spaces(&self) -> Handled {
        let mut params = self.reader(3)?;
        let (whs, rhs) = (v0::read_seed(&mut params)?, v0::read_seed(&mut params)?);
        let counter = params.u32()?;
        let taken = self.manager.with_state(|state, now| {
            state.observe_counter(counter);
            state.partner_spaces(now, whs, rhs)
        });
        result(|out| if taken { write_bool(out, true) } else { write_nil(out) })
    }

    /// A kumofs 0.4 partner asks who is to replace: who has the lower address.
    fn election(&self) -> Handled {
        v0::read_seed(&mut self.reader(2)?)?;
        let config = &self.manager.config;
        if config.partners.iter().any(|partner| *partner < config.listen) {
            return result(|out| write_bool(out, true));
        }
        self.manager.with_state(|state, now| state.replace(now, false)).ok();
        result(write_nil)
    }

    fn join(&self) -> Handled {
        let join = v1::Join::read(self.params)?;
        match self.manager.with_state(|state, now| state.joined(now, self.id, &join)) {
            Ok(()) => {
                let over = self.manager.state.borrow().is_over(self.id, join.incarnation);
                result(|out| write_bool(out, !over))
            }
            Err(_) => Ok(Outcome::Dismissed),
        }
    }

    fn connect(&self) -> Handled {
        let connect = v1::Connect::read(self.params)?;
        if self.kind == LinkKind::Client && connect.peer == v1::Peer::Gateway {
            self.manager.links.borrow_mut().set_kind(self.id, LinkKind::Gateway);
        }
        if let (LinkKind::Partner, Some(address)) = (self.kind, self.peer_address()) {
            self.manager.links.borrow_mut().old_partners.remove(&address);
        }
        let connected = v1::Connected {
            incarnation: self.manager.config.dice[0],
            disk_id: self.manager.disk_id,
            workers: 1,
            epoch: self.manager.state.borrow().epoch().number,
        };
        result(|out| connected.write(out))
    }

    fn get_epoch(&self) -> Handled {
        let known = self.reader(1)?.u64()?;
        let newest = if self.kind == LinkKind::Gateway { State::for_gateways } else { State::epoch };
        self.tell(|state, out| {
            if newest(state).number > known {
                write_raw(out, &newest(state).encode());
            } else {
                write_nil(out);
            }
        })
    }

    fn epoch_push(&self) -> Handled {
        let epoch = Epoch::decode(self.reader(1)?.raw()?).map_err(|_| DecodeError::Type)?;
        match self.manager.with_state(|state, now| state.shown(now, epoch)) {
            Ok(number) => result(|out| write_uint(out, number)),
            Err(why) => {
                if let Some(address) = self.peer_address() {
                    tracing::warn!("an epoch shown by {address} is refused: {why}");
                }
                Ok(Outcome::Dismissed)
            }
        }
    }

    /// Another manager asks for this one's vote.
    fn vote(&self) -> Handled {
        let Ask { cluster, question } = Ask::read(self.params)?;
        let answer = match self.manager.with_state(|state, _| state.asked(cluster, &question)) {
            Ok(answer) => answer,
            Err(why) => {
                tracing::warn!("a vote is refused: {why}");
                return Ok(Outcome::Refused);
            }
        };
        let state = self.manager.state.borrow();
        let news = answer == Answer::Elsewhere && state.epoch().number >= question.number;
        let newest = (state.epoch().number, news.then(|| state.epoch().encode()));
        let newest = if answer == Answer::Elsewhere { newest } else { (0, None) };
        result(|out| Voted { disk_id: self.manager.disk_id, answer, newest }.write(out))
    }

    fn peer_address(&self) -> Option<Address> {
        self.manager.links.borrow().address(self.id)
    }

    fn sourced(&self) -> Handled {
        let time = ClockTime(self.reader(1)?.u64()?);
        let sourced = self.manager.with_state(|state, now| state.asks_whether_sourced(now, self.id, time));
        result(|out| write_bool(out, sourced))
    }

    fn lost(&self) -> Handled {
        let mut params = self.reader(1)?;
        let address = v0::read_address(&mut params)?;
        let lasting = Duration::from_millis(if params.rest().is_empty() { 0 } else { params.u64()? });
        self.manager.with_state(|state, now| state.link_lost(now, self.id, address, lasting));
        result(write_nil)
    }
}
