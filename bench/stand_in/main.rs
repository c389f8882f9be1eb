//! Stands in for a manager and many servers, so that a gateway can be measured with more servers behind it than a machine
//! bears: they keep what they are sent in one table in memory, and do nothing else. Gets, multi-gets and sets are
//! answered, which is what `kumobench` asks for; all else hangs up.
//!
//! `stand-in-servers MANAGER-ADDRESS SERVERS`

use kumofs::logic::address::Address;
use kumofs::logic::clock::ClockTime;
use kumofs::logic::epoch::{Epoch, ServerEntry};
use kumofs::logic::ring::{HashSpace, Node};
use kumofs::net::cores::event_loop;
use kumofs::net::rpc::{Event, Handler, Incoming, Limits, RpcConn};
use kumofs::proto::rpc::frame::Role;
use kumofs::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_raw};
use kumofs::proto::rpc::v1::{Connect, Connected, Gone, Mutate, Mutated, Op, method};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use tokio::net::TcpListener;

/// Number of the only epoch there is.
const EPOCH: u64 = 1;

/// What all of them share.
struct StandIn {
    epoch: Epoch,
    /// dbval by dbkey.
    records: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
    version: Cell<u64>,
}

impl StandIn {
    fn serve(&self, incoming: Incoming) {
        let mut result = Vec::new();
        match self.answer(incoming.method, &incoming.params, &mut result) {
            Ok(()) => incoming.reply.success(|out| out.extend_from_slice(&result)),
            Err(_) => incoming.reply.protocol_error(),
        }
    }

    fn answer(&self, asked: u32, params: &[u8], result: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut r = Reader::new(params);
        match asked {
            method::CONNECT => {
                let workers = Connect::read(params)?.workers;
                Connected { incarnation: 1, disk_id: 1, workers, epoch: EPOCH }.write(result);
            }
            method::GET_EPOCH => write_raw(result, &self.epoch.encode()),
            method::GET => {
                r.array_of(2)?;
                r.u64()?;
                self.get(r.raw()?, result);
            }
            method::MULTI_GET => {
                r.array_of(2)?;
                r.u64()?;
                let keys = r.array()?;
                write_array(result, keys);
                for _ in 0..keys {
                    self.get(r.raw()?, result);
                }
            }
            method::MUTATE => {
                let mutate = Mutate::read(params)?;
                if mutate.op != Op::Set {
                    return Err(DecodeError::Type);
                }
                let version = self.version.get() + 1;
                self.version.set(version);
                let mut dbval = mutate.dbval.to_vec();
                dbval.get_mut(..8).ok_or(DecodeError::Type)?.copy_from_slice(&version.to_be_bytes());
                self.records.borrow_mut().insert(mutate.dbkey.to_vec(), dbval);
                Mutated::Done(version).write(result);
            }
            _ => return Err(DecodeError::Type),
        }
        Ok(())
    }

    fn get(&self, dbkey: &[u8], result: &mut Vec<u8>) {
        match self.records.borrow().get(dbkey) {
            Some(dbval) => write_raw(result, dbval),
            None => Gone::Absent.write(result),
        }
    }
}

/// Serves everybody who connects.
async fn accept(listener: TcpListener, role: Role, stand_in: Rc<StandIn>) -> io::Result<()> {
    let own = (Address::new(listener.local_addr()?), role);
    let handler: Handler = Rc::new(move |_, event| {
        if let Event::Request(incoming) = event {
            stand_in.serve(incoming);
        }
    });
    // A client may send what a node may.
    let limits = Limits { client_frame: Limits::default().frame, ..Limits::default() };
    loop {
        let (stream, _) = listener.accept().await?;
        RpcConn::accept(stream, own, limits, handler.clone());
    }
}

async fn run(manager: &str, servers: usize) -> io::Result<()> {
    let mut listeners = Vec::new();
    let mut epoch = Epoch { number: EPOCH, cluster: 1, ..Epoch::default() };
    for number in 1..=servers as u64 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        epoch.servers.push(ServerEntry::new(Address::new(listener.local_addr()?), number, number, 1));
        listeners.push(listener);
    }
    let nodes = epoch.servers.iter().map(|server| Node::new(server.address, true)).collect();
    epoch.whs = HashSpace { nodes, timestamp: ClockTime(1) };
    epoch.rhs = epoch.whs.clone();
    let stand_in = Rc::new(StandIn { epoch, records: RefCell::default(), version: Cell::new(1) });
    for listener in listeners {
        tokio::task::spawn_local(accept(listener, Role::Server, stand_in.clone()));
    }
    accept(TcpListener::bind(manager).await?, Role::Manager, stand_in).await
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [_, manager, servers] if servers.parse::<usize>().is_ok_and(|n| n > 0) => {
            event_loop()?.block_on(run(manager, servers.parse().unwrap_or(1)))
        }
        _ => Err(io::Error::other("usage: stand-in-servers MANAGER-ADDRESS:PORT SERVERS")),
    }
}
