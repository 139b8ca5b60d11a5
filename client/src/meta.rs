//! The way to the metaserver: finds the leader, keeps a session, makes commands exactly-once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crypto::secret::Secret;
use platform::Platform;
use proto::meta::{
    Body, CheckDisk, ChunkEntry, Command, DiskChecked, DiskReport, FinishMove, GrantRequest, Heartbeat, HeartbeatAck,
    Job, LeaseJobRequest, Outcome, RegisterSession, SealRequest, refusal,
};
use proto::query::{Ask, AskAll, Query, View};
use proto::rows::RedundancyRow;
use proto::service::{Answer, Failure, Request, class, code};
use proto::volume::AskVolumeKey;
use rpc::call::{CallError, Reply};
use rpc::peers::Peers;
use thiserror::Error;
use types::ids::{Partition, RequestId, StoreId};
use types::redundancy::{Filling, Redundancy};

use crate::disks::Avoid;

/// How long an operation tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a seal tries before it gives up.
const SEAL_PATIENCE: Duration = Duration::from_secs(2);
/// How long a comparison of a disk tries before it gives up.
const CHECK_PATIENCE: Duration = Duration::from_secs(15);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one comparison may take: it looks twice, a second apart.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a process looks for the cluster's redundancy.
const POLICY_PERIOD: Duration = Duration::from_secs(5);
/// Commands outstanding at once; the metaserver refuses more than 1,024.
const OUTSTANDING_MAX: usize = 512;

/// Why the metaserver did not do what was asked.
#[derive(Debug, Error, Clone)]
pub enum MetaError {
    /// No leader answered in time; the command may or may not have been applied.
    #[error("metaserver unavailable: {0}")]
    Unavailable(String),
    /// This process's session has ended; a new one is being registered.
    #[error("the session has ended")]
    SessionEnded,
    /// Decided in apply.
    #[error("refused: {text}")]
    Refused {
        /// See `proto::meta::refusal`.
        code: u32,
        /// Facts.
        text: String,
        /// The whole outcome.
        outcome: Box<Outcome>,
    },
    /// The leader cannot, now or ever (see the failure's class).
    #[error("{}", .0.text)]
    Failed(Failure),
}

struct Inner {
    peers: Peers,
    name: String,
    addresses: RefCell<Vec<String>>,
    at: Cell<usize>,
    session: Cell<u64>,
    registering: Cell<bool>,
    next_sequence: Cell<u64>,
    outstanding: RefCell<BTreeSet<u64>>,
    changed: tokio::sync::Notify,
}

/// One process's way to the metaserver. Cheap to clone.
#[derive(Clone)]
pub struct MetaClient(Rc<Inner>);

/// Somebody registers; gone when it is done or its caller stopped waiting.
struct Registering(Rc<Inner>);

impl Drop for Registering {
    fn drop(&mut self) {
        self.0.registering.set(false);
    }
}

/// A sequence number in use; gone when the outcome has arrived or its caller stopped waiting.
struct Ticket {
    inner: Rc<Inner>,
    session: u64,
    sequence: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.inner.session.get() == self.session {
            self.inner.outstanding.borrow_mut().remove(&self.sequence);
            self.inner.changed.notify_waiters();
        }
    }
}

impl MetaClient {
    /// Talks to the replicas at `addresses`; `name` is the process's name, for people.
    pub fn new(peers: Peers, name: &str, addresses: Vec<String>) -> MetaClient {
        assert!(!addresses.is_empty(), "a metaserver address is needed");
        MetaClient(Rc::new(Inner {
            peers,
            name: name.to_owned(),
            addresses: RefCell::new(addresses),
            at: Cell::new(0),
            session: Cell::new(0),
            registering: Cell::new(false),
            next_sequence: Cell::new(1),
            outstanding: RefCell::new(BTreeSet::new()),
            changed: tokio::sync::Notify::new(),
        }))
    }

    /// One more replica may lead.
    pub fn add_address(&self, address: &str) {
        self.0.addresses.borrow_mut().push(address.to_owned());
    }

    /// These replicas may lead, and no others. An empty list changes nothing.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        let mut known = self.0.addresses.borrow_mut();
        if !addresses.is_empty() && *known != addresses {
            let at = known[self.0.at.get() % known.len()].clone();
            // Whoever led leads on.
            self.0.at.set(addresses.iter().position(|address| *address == at).unwrap_or(0));
            *known = addresses;
        }
    }

    /// Has a metaserver replica leave the group for good.
    ///
    /// # Errors
    /// It is the last one; no leader in time.
    pub async fn leave_replica(&self, raft_id: u64) -> Result<(), MetaError> {
        let ask = Request::LeaveReplica(proto::members::LeaveReplica { raft_id });
        self.ask(self.0.peers.new_request(), &ask).await.map(|_| ())
    }

    /// The platform beneath.
    pub fn platform(&self) -> &Platform {
        self.0.peers.platform()
    }

    /// The calling side of the process.
    pub fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// The present session, 0 = none yet.
    pub fn session(&self) -> u64 {
        self.0.session.get()
    }

    /// Asks whoever leads, trying the replicas in turn until one answers.
    async fn ask(&self, request: RequestId, body: &Request) -> Result<Reply, MetaError> {
        self.ask_for(request, body, PATIENCE).await
    }

    async fn ask_for(&self, request: RequestId, body: &Request, patience: Duration) -> Result<Reply, MetaError> {
        let clock = self.0.peers.platform().clock();
        let deadline = clock.now() + patience;
        let mut pause = Duration::from_millis(5);
        let mut last = "no replica answered".to_owned();
        let mut tried = 0;
        while clock.now() < deadline {
            let address = {
                let addresses = self.0.addresses.borrow();
                addresses[self.0.at.get() % addresses.len()].clone()
            };
            let timeout = if matches!(body, Request::CheckDisk(_)) { CHECK_TIMEOUT } else { CALL_TIMEOUT };
            let called = self.0.peers.call(&address, StoreId(0), request, body.clone(), Bytes::new(), timeout).await;
            match called {
                Ok(reply) => return Ok(reply),
                Err(CallError::Refused(failure)) if failure.class == class::ELSEWHERE => {
                    last = failure.text;
                    self.0.at.set(self.0.at.get() + 1);
                }
                Err(CallError::Refused(failure)) if failure.class == class::RETRY && failure.code != code::FULL => {
                    last = failure.text;
                }
                Err(CallError::Refused(failure)) => return Err(MetaError::Failed(failure)),
                Err(error) => {
                    last = error.to_string();
                    self.0.at.set(self.0.at.get() + 1);
                }
            }
            tried += 1;
            if tried % self.0.addresses.borrow().len() == 0 {
                clock.sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        }
        Err(MetaError::Unavailable(last))
    }

    /// Registers this process start; needed before commands. Idempotent.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn register(&self) -> Result<u64, MetaError> {
        loop {
            if self.0.session.get() != 0 {
                return Ok(self.0.session.get());
            }
            if self.0.registering.replace(true) {
                self.platform().clock().sleep(Duration::from_millis(20)).await;
                continue;
            }
            let _guard = Registering(Rc::clone(&self.0));
            let nonce = self.platform().random().next_u64() | 1;
            let body = Body::RegisterSession(RegisterSession { name: self.0.name.clone(), nonce });
            let command = Command { body: Some(body), ..Command::default() };
            let registered = self.ask(self.0.peers.new_request(), &Request::Propose(command)).await;
            let outcome = outcome_of(registered?)?;
            self.0.outstanding.borrow_mut().clear();
            self.0.next_sequence.set(1);
            self.0.session.set(outcome.number);
        }
    }

    async fn ticket(&self) -> Result<Ticket, MetaError> {
        loop {
            let session = self.register().await?;
            let room = {
                let outstanding = self.0.outstanding.borrow();
                let next = self.0.next_sequence.get();
                let oldest = outstanding.first().copied().unwrap_or(next);
                outstanding.len() < OUTSTANDING_MAX && next - oldest < OUTSTANDING_MAX as u64
            };
            if room {
                let sequence = self.0.next_sequence.get();
                self.0.next_sequence.set(sequence + 1);
                self.0.outstanding.borrow_mut().insert(sequence);
                return Ok(Ticket { inner: Rc::clone(&self.0), session, sequence });
            }
            self.0.changed.notified().await;
        }
    }

    /// All outcomes up to here have arrived.
    fn floor(&self) -> u64 {
        let outstanding = self.0.outstanding.borrow();
        outstanding.first().copied().unwrap_or(self.0.next_sequence.get()) - 1
    }

    /// Carries out a command exactly once.
    ///
    /// # Errors
    /// `Refused` when apply decided so; `Unavailable` when the outcome is unknown.
    pub async fn command(&self, partition: Partition, body: Body) -> Result<Outcome, MetaError> {
        let ticket = self.ticket().await?;
        let command = Command {
            session: ticket.session,
            sequence: ticket.sequence,
            floor: self.floor().min(ticket.sequence - 1),
            partition: u32::from(partition.0),
            now_ms: 0,
            body: Some(body),
        };
        let reply = self.ask(self.0.peers.new_request(), &Request::Propose(command)).await?;
        self.judged(&ticket, reply)
    }

    fn judged(&self, ticket: &Ticket, reply: Reply) -> Result<Outcome, MetaError> {
        match outcome_of(reply) {
            Err(MetaError::Refused { code: refusal::NO_SESSION, .. }) => {
                if self.0.session.get() == ticket.session {
                    tracing::warn!(session = ticket.session, "session has ended, registering anew");
                    self.0.session.set(0);
                }
                Err(MetaError::SessionEnded)
            }
            other => other,
        }
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn query(&self, ask: Ask) -> Result<View, MetaError> {
        match self.ask(self.0.peers.new_request(), &Request::Query(Query { ask: Some(ask) })).await?.answer {
            Answer::View(view) => Ok(view),
            _ => Err(confused()),
        }
    }

    /// The cluster's redundancy, a while from now.
    pub async fn policy_later(&self) -> Redundancy {
        loop {
            self.platform().clock().sleep(POLICY_PERIOD).await;
            let Ok(view) = self.query(Ask::Cluster(AskAll {})).await else { continue };
            if let Some(policy) = view.cluster.and_then(|row| row.redundancy.policy()) {
                return policy;
            }
        }
    }

    /// Chunks for this session to write (16 at most), with their placements; with `reserve` also on nearly full
    /// disks, for what frees space.
    ///
    /// # Errors
    /// Too few disks, no leader in time.
    pub async fn grant(
        &self,
        partition: Partition,
        filling: Filling,
        count: usize,
        reserve: bool,
        avoid: Avoid,
    ) -> Result<Vec<ChunkEntry>, MetaError> {
        let deadline = self.platform().clock().now() + PATIENCE;
        loop {
            let ticket = self.ticket().await?;
            let ask = GrantRequest {
                redundancy: RedundancyRow::from(filling.policy),
                becomes: filling.becomes.map(RedundancyRow::from),
                count: count as u32,
                session: ticket.session,
                sequence: ticket.sequence,
                floor: self.floor().min(ticket.sequence - 1),
                partition: u32::from(partition.0),
                avoid: avoid.failed.clone(),
                slow: avoid.slow.clone(),
                reserve,
            };
            match self.ask(self.0.peers.new_request(), &Request::Grant(ask)).await {
                Ok(reply) => return Ok(self.judged(&ticket, reply)?.chunks),
                // Asked twice while a leader was slow, and planned differently: the first plan
                // stands and its chunks go with the session. Again, as another command.
                Err(MetaError::Failed(failure))
                    if failure.class == class::REFETCH && self.platform().clock().now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fences and seals a chunk; `release` = no later commit of this session names it. Tries for
    /// a moment only: the caller decides when to ask again.
    ///
    /// # Errors
    /// Too few shards answer, no leader in time.
    pub async fn seal(&self, chunk: u64, release: bool) -> Result<ChunkEntry, MetaError> {
        let ask = Request::SealChunk(SealRequest { chunk, session: self.session(), release });
        match self.ask_for(self.0.peers.new_request(), &ask, SEAL_PATIENCE).await?.answer {
            Answer::Chunks(list) => list.chunks.into_iter().next().ok_or_else(confused),
            _ => Err(confused()),
        }
    }

    /// Says that this process and its disks live. A session that has ended is given up. Answers which
    /// of the disks were taken out of the pool.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn heartbeat(&self, disks: Vec<DiskReport>) -> Result<HeartbeatAck, MetaError> {
        let session = self.session();
        let sessions = if session == 0 { Vec::new() } else { vec![session] };
        let beat = Request::Heartbeat(Heartbeat { sessions, disks });
        match self.ask(self.0.peers.new_request(), &beat).await?.answer {
            Answer::HeartbeatAck(ack) => {
                if ack.ended.contains(&session) && self.0.session.get() == session {
                    self.0.session.set(0);
                }
                Ok(ack)
            }
            _ => Err(confused()),
        }
    }

    /// Reports the last job (a move, or the chunk that was compacted) and asks for another.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn lease_job(&self, done: Option<FinishMove>, compacted: Option<u64>) -> Result<Job, MetaError> {
        let compacted = compacted.unwrap_or(0);
        let ask = Request::LeaseJob(LeaseJobRequest { executor: self.0.name.clone(), done, compacted });
        match self.ask(self.0.peers.new_request(), &ask).await?.answer {
            Answer::Job(job) => Ok(job),
            _ => Err(confused()),
        }
    }

    /// Has the leader compare a page of what a disk holds with what it should.
    ///
    /// # Errors
    /// The disk does not answer, no leader in time.
    pub async fn check_disk(&self, disk: u64, after: u64) -> Result<DiskChecked, MetaError> {
        let ask = Request::CheckDisk(CheckDisk { disk, after });
        match self.ask_for(self.0.peers.new_request(), &ask, CHECK_PATIENCE).await?.answer {
            Answer::DiskChecked(checked) => Ok(checked),
            _ => Err(confused()),
        }
    }

    /// The key of an encrypted volume, and the key's own number.
    ///
    /// # Errors
    /// The leader has not the root key for it; no leader in time.
    pub async fn volume_key(&self, volume: u64) -> Result<(Vec<u8>, Secret<Vec<u8>>), MetaError> {
        let ask = Request::VolumeKey(AskVolumeKey { volume });
        match self.ask(self.0.peers.new_request(), &ask).await?.answer {
            Answer::VolumeKey(told) => Ok((told.number, Secret::new(told.key))),
            _ => Err(confused()),
        }
    }

    /// A command that needs no session (cluster, disks).
    ///
    /// # Errors
    /// See [`MetaClient::command`].
    pub async fn bare_command(&self, body: Body) -> Result<Outcome, MetaError> {
        let command = Command { body: Some(body), ..Command::default() };
        outcome_of(self.ask(self.0.peers.new_request(), &Request::Propose(command)).await?)
    }
}

fn confused() -> MetaError {
    MetaError::Failed(Failure::new(
        class::GIVE_UP,
        code::OTHER,
        "the metaserver answered something else than was asked",
    ))
}

fn outcome_of(reply: Reply) -> Result<Outcome, MetaError> {
    match reply.answer {
        Answer::Outcome(outcome) if outcome.refusal == refusal::NONE => Ok(outcome),
        Answer::Outcome(outcome) => {
            Err(MetaError::Refused { code: outcome.refusal, text: outcome.text.clone(), outcome: Box::new(outcome) })
        }
        _ => Err(confused()),
    }
}
