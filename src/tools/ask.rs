//! Asking managers and servers: what all tools that talk to a cluster have in common.
//!
//! Speaks version 0 unless told otherwise, so that the tools work with kumofs 0.4 too. Every question has a deadline, and
//! [`each`] asks all nodes at once, so that one that hangs delays no other's answer. Read next: [`super::stat`], the
//! plainest user.

use super::ctl::NodesInfo;
use crate::logic::address::Address;
use crate::logic::epoch::Epoch;
use crate::logic::ring::HashSpace;
use crate::net::listen;
use crate::net::rpc::{CallError, Limits, RpcConn};
use crate::proto::rpc::msgpack::{DecodeError, Reader, write_array, write_uint};
use crate::proto::rpc::v1::{self, Statistics};
use crate::proto::rpc::{error, frame, v0};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time;

/// Where managers listen.
pub const MANAGER_PORT: u16 = 19700;
/// Where servers listen.
pub const SERVER_PORT: u16 = 19800;
/// How long a node may take for all that it is asked.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a node may answer: the longest message there is.
const LIMITS: Limits =
    Limits { frame: frame::MAX_FRAME, client_frame: 64 << 10, unsent: 1 << 20, linger: Duration::from_secs(1) };

/// What a node is supposed to be; for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// kumo-manager
    Manager,
    /// kumo-server
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Manager => "kumo-manager",
            Role::Server => "kumo-server",
        })
    }
}

/// Why a node gave no answer; one line.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not reached.
    #[error("cannot connect to {0}: {2}; is {1} running there?")]
    Connect(Address, Role, std::io::Error),
    /// It is reached, and says nothing.
    #[error("{0} does not answer within {secs} seconds", secs = PATIENCE.as_secs())]
    Silent(Address),
    /// It closed the connection.
    #[error("{0} hung up before it answered; is it a {1}?")]
    HungUp(Address, Role),
    /// It answered with an error.
    #[error("{0} {no}", no = no(*.1))]
    Refused(Address, u32),
    /// It is older than what is asked.
    #[error("{0} is an older version: it tells only `stats`")]
    Old(Address),
    /// Its answer has another form.
    #[error("{0} answered what is no answer of a {1}: {2}")]
    Answer(Address, Role, DecodeError),
}

/// What an error of a node says to an operator.
pub(super) fn no(number: u32) -> String {
    match number {
        error::PROTOCOL => "does not know what it was asked; is it another program, or an older version?".to_owned(),
        _ => format!("refused (error {number}); its log says why"),
    }
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub struct Node {
    address: Address,
    role: Role,
    conn: RpcConn,
}

impl Node {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: Address, role: Role) -> Result<Node, AskError> {
        let connected = RpcConn::connect_client(address.socket_addr(), PATIENCE, LIMITS, Rc::new(|_, _| {}));
        let conn = connected.await.map_err(|e| AskError::Connect(address, role, e))?;
        Ok(Node { address, role, conn })
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Whether more can be asked.
    pub fn is_open(&self) -> bool {
        self.conn.is_open()
    }

    /// Asks for `method` with encoded parameters; the result is encoded.
    ///
    /// # Errors
    /// When there is no result.
    pub async fn call(&self, method: u32, params: &[u8]) -> Result<Vec<u8>, AskError> {
        let answer = self.conn.call(method, |out| out.extend_from_slice(params), PATIENCE).await;
        answer.map_err(|e| match e {
            CallError::Lost => AskError::HungUp(self.address, self.role),
            CallError::Timeout => AskError::Silent(self.address),
            CallError::Refused(number, _) => AskError::Refused(self.address, number),
        })
    }

    /// The same for what takes longer.
    ///
    /// # Errors
    /// When there is no result.
    pub async fn call_for(&self, method: u32, params: &[u8], patience: Duration) -> Result<Vec<u8>, CallError> {
        self.conn.call(method, |out| out.extend_from_slice(params), patience).await
    }

    /// The same; `write` appends the whole request.
    ///
    /// # Errors
    /// When there is no result.
    pub async fn call_with(
        &self,
        write: impl FnOnce(&mut Vec<u8>, u32),
        patience: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.conn.call_with(write, patience).await
    }

    /// Asks, and reads the result.
    ///
    /// # Errors
    /// When there is no result, or one of another form.
    pub async fn ask<T>(
        &self,
        method: u32,
        params: &[u8],
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, AskError> {
        let result = self.call(method, params).await?;
        read(&mut Reader::new(&result)).map_err(|e| AskError::Answer(self.address, self.role, e))
    }

    /// GetStatus, of a server.
    ///
    /// # Errors
    /// As [`Node::ask`].
    pub async fn status<T>(
        &self,
        what: u32,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, AskError> {
        let mut params = Vec::new();
        write_array(&mut params, 1);
        write_uint(&mut params, what.into());
        self.ask(v0::method::GET_STATUS, &params, read).await
    }
}

/// Statistics of a server, which those of kumofs 0.4 do not have.
///
/// # Errors
/// As [`Node::ask`].
pub async fn statistics(node: &Node) -> Result<Statistics, AskError> {
    let version = node.status(v0::status::VERSION, |r| r.raw().map(<[u8]>::to_vec)).await?;
    if version.starts_with(b"0.") {
        return Err(AskError::Old(node.address));
    }
    match node.ask(v1::method::STATISTICS, &[0x90], Statistics::read).await {
        Err(AskError::Refused(address, error::PROTOCOL)) => Err(AskError::Old(address)),
        answer => answer,
    }
}

/// The newest epoch that a manager has; `None`: no server was attached yet.
///
/// # Errors
/// As [`Node::ask`]; managers of kumofs 0.4 refuse with [`error::PROTOCOL`], or hang up.
pub async fn newest_epoch(node: &Node) -> Result<Option<Epoch>, AskError> {
    let read = |r: &mut Reader<'_>| {
        if r.take_nil() { Ok(None) } else { Epoch::decode(r.raw()?).map(Some).map_err(|_| DecodeError::Type) }
    };
    node.ask(v1::method::GET_EPOCH, &[0x91, 0], read).await
}

/// The hash space for writing, as a manager tells it.
///
/// # Errors
/// When the manager does not answer.
pub async fn hash_space(manager: Address) -> Result<HashSpace, AskError> {
    let node = Node::connect(manager, Role::Manager).await?;
    let info = node.ask(v0::method::GET_NODES_INFO, &[0x90], NodesInfo::read).await?;
    Ok(with_weights(&node, info.whs).await)
}

/// The hash space for writing, as a server tells it.
///
/// # Errors
/// As [`Node::ask`].
pub async fn hash_space_of(server: &Node) -> Result<HashSpace, AskError> {
    let space = server.status(v0::status::WHS, v0::read_seed).await?;
    Ok(with_weights(server, space).await)
}

/// A hash space of version 0, and what it cannot say: the weights, where the node has an epoch. One of kumofs 0.4 refuses to
/// tell that, or hangs up.
async fn with_weights(node: &Node, mut space: HashSpace) -> HashSpace {
    let Ok(Some(epoch)) = newest_epoch(node).await else { return space };
    for node in &mut space.nodes {
        node.weight = epoch.whs.find(node.address).map_or(node.weight, |known| known.weight);
    }
    space
}

/// The active servers, as a manager tells them, in their order.
///
/// # Errors
/// When the manager does not answer.
pub async fn active_servers(manager: Address) -> Result<Vec<Address>, AskError> {
    let space = hash_space(manager).await?;
    Ok(space.nodes.iter().filter(|n| n.active).map(|n| n.address).collect())
}

/// Asks all at once; answers come in the order of the addresses. Nobody is waited for longer than [`PATIENCE`].
pub async fn each<T: 'static, F>(addresses: &[Address], ask: impl Fn(Address) -> F) -> Vec<Result<T, AskError>>
where
    F: Future<Output = Result<T, AskError>> + 'static,
{
    let asked: Vec<_> = addresses
        .iter()
        .map(|address| (*address, tokio::task::spawn_local(time::timeout(PATIENCE, ask(*address)))))
        .collect();
    let mut answers = Vec::new();
    for (address, answer) in asked {
        // A task fails only when it panicked, which the panic has told.
        answers.push(answer.await.ok().and_then(Result::ok).unwrap_or(Err(AskError::Silent(address))));
    }
    answers
}

/// Runs what asks to its end.
///
/// # Errors
/// When the system gives no event loop.
pub fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// An address as it was written, resolved.
///
/// # Errors
/// One line: wrong usage for what is no address, a failure for a name that nobody knows.
pub fn address(text: &str, default_port: u16) -> Result<Address, super::Trouble> {
    listen::resolve(text, default_port).map_err(|e| match e {
        listen::ListenError::Form(_) => super::Trouble::Usage(e.to_string()),
        _ => super::Trouble::Failed(e.to_string()),
    })
}
