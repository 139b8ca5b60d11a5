//! One replica: raft-rs driven turn by turn; the log written in groups; commands applied.
//!
//! A turn is synchronous: take what arrived, step, handle what is ready. At most one log write is
//! under way; what becomes ready meanwhile joins the next one. A crash between log and state costs
//! a replay; a crash in a snapshot's installation leaves the old state.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::clock::Instant;
use platform::disk::Disk;
use prost_old::Message as _;
use proto::keys;
use proto::meta::{Command, Outcome};
use proto::service::Request;
use raft::eraftpb::{ConfChangeV2, EntryType};
use raft::prelude::{ConfState, Entry, HardState, Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use rpc::peers::Peers;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use types::checksum::crc64;
use types::ids::StoreId;

use super::log::{LogEntry, LogError, LogWriter, Vote, keep_ahead};
use super::storage::SharedMem;
use super::transport;
use crate::apply::apply;
use crate::apply::txn::Txn;
use crate::store::{StateStore, StoreFault};

/// Settings of a replica.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// Its Raft id: random, never reused, not 0.
    pub raft_id: u64,
    /// Its own address.
    pub address: String,
    /// The voters a new cluster begins with (id to address); empty for a replica that joins.
    pub founders: BTreeMap<u64, String>,
    /// Replicas it can reach before its state tells it of any (a replica that joins has none).
    pub contacts: BTreeMap<u64, String>,
    /// The store it lies in.
    pub store: StoreId,
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks without a leader before an election, at least; up to 60 % more by draw.
    pub election_ticks: usize,
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// The state is flushed and the log trimmed after this many applied entries.
    pub flush_entries: u64,
}

/// Why a proposal or a read got no answer.
#[derive(Debug, Error, Clone)]
pub enum ReplicaError {
    /// Another replica leads (0 = unknown).
    #[error("not the leader; it may be {0:x}")]
    NotLeader(u64),
    /// The leadership moved before the outcome was known; it may still happen.
    #[error("leadership moved before the outcome was known")]
    Dropped,
    /// The replica has stopped.
    #[error("replica has stopped: {0}")]
    Stopped(String),
}

/// Why a replica cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its state.
    #[error(transparent)]
    State(#[from] StoreFault),
    /// Raft refuses what was found.
    #[error("raft: {0}")]
    Raft(String),
}

type Waiter = oneshot::Sender<Result<Outcome, ReplicaError>>;
type ReadWaiter = oneshot::Sender<Result<(), ReplicaError>>;

pub(super) enum Input {
    Messages(Vec<Message>),
    Propose(Vec<u8>, Waiter),
    Read(ReadWaiter),
    Change(ConfChangeV2),
    Unreachable(u64),
    SnapshotSent(u64, bool),
}

#[derive(Default)]
pub(super) struct ToPersist {
    number: u64,
    vote: Option<Vote>,
    cut: Option<u64>,
    entries: Vec<LogEntry>,
    messages: Vec<Message>,
}

pub(super) struct Image {
    pub(super) index: u64,
    pub(super) pages: Vec<Bytes>,
}

pub(super) struct Core {
    pub(super) raw: RawNode<SharedMem>,
    pub(super) mem: SharedMem,
    pub(super) inbox: VecDeque<Input>,
    pub(super) waiting: BTreeMap<u64, Waiter>,
    pub(super) next_proposal: u64,
    pub(super) reads: BTreeMap<u64, Vec<ReadWaiter>>,
    pub(super) reads_at: VecDeque<(u64, Vec<ReadWaiter>)>,
    pub(super) early_reads: Vec<ReadWaiter>,
    pub(super) next_read: u64,
    pub(super) queue: VecDeque<ToPersist>,
    pub(super) applied: u64,
    pub(super) applied_term: u64,
    pub(super) flushed: u64,
    pub(super) image: Option<Image>,
    pub(super) members: BTreeMap<u64, String>,
}

pub(super) struct Inner {
    pub(super) platform: Platform,
    pub(super) peers: Peers,
    pub(super) store: StateStore,
    pub(super) config: ReplicaConfig,
    pub(super) core: RefCell<Core>,
    pub(super) writer: RefCell<Option<LogWriter>>,
    pub(super) work: Notify,
    pub(super) persisted: Cell<u64>,
    /// When the log write that is under way began.
    pub(super) writing: Cell<Option<Instant>>,
    pub(super) stopped: RefCell<Option<String>>,
    /// Pages of snapshots fetched from the leader, by index.
    pub(super) fetched: RefCell<BTreeMap<u64, Vec<Bytes>>>,
    /// A snapshot is being fetched; one at a time, for it lies in memory.
    pub(super) fetching: Cell<bool>,
    pub(super) leader: Cell<u64>,
    pub(super) term: Cell<u64>,
    pub(super) became_leader: Notify,
    /// The start had much to replay: the next one must not have it again.
    pub(super) flush_soon: Cell<bool>,
}

/// A replica. Cheap to clone.
#[derive(Clone)]
pub struct Replica(pub(super) Rc<Inner>);

/// A start that replays more entries than this is followed by a flush.
const REPLAY_MAX: usize = 1000;
/// A log write that takes this long makes its replica step down.
const STUCK: Duration = Duration::from_secs(1);
/// Segments smaller than this (tests) are not written ahead.
const WRITE_AHEAD_MIN: u64 = 4 << 20;
/// Entries kept behind the flushed index for slow followers.
const KEEP_ENTRIES: u64 = 1000;
/// Bytes of entries kept at most before the state is flushed.
const KEEP_BYTES: usize = 8 << 20;

/// The row under `keys::table::APPLIED`: index, term, encoded ConfState; then members.
pub(super) fn applied_key() -> Vec<u8> {
    vec![keys::table::APPLIED]
}

pub(super) fn member_key(id: u64) -> Vec<u8> {
    let mut key = vec![keys::table::APPLIED, 1];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

pub(super) fn encode_applied(index: u64, term: u64, conf: &ConfState) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&term.to_be_bytes());
    out.extend_from_slice(&conf.encode_to_vec());
    out
}

fn decode_applied(bytes: &[u8]) -> Result<(u64, u64, ConfState), StoreFault> {
    let damaged = || StoreFault("applied row is damaged".into());
    let (index, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (term, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let conf = ConfState::decode(rest).map_err(|_| damaged())?;
    Ok((u64::from_be_bytes(*index), u64::from_be_bytes(*term), conf))
}

impl Replica {
    /// Opens log and state and starts the replica's tasks.
    ///
    /// # Errors
    /// Damage that peers must repair (`LogError::Rot`, a damaged state), or the disk.
    pub async fn start(
        platform: Platform,
        disk: Disk,
        store: StateStore,
        peers: Peers,
        config: ReplicaConfig,
    ) -> Result<Replica, StartError> {
        let (writer, recovered) = LogWriter::open(disk.clone(), config.store, config.segment_size).await?;
        let ahead_ready = writer.ahead_ready();
        let mut members = config.contacts.clone();
        members.extend(config.founders.clone());
        let (applied, applied_term, conf_state) = match store.get(&applied_key())? {
            Some(bytes) => decode_applied(&bytes)?,
            None => {
                let conf = ConfState { voters: config.founders.keys().copied().collect(), ..ConfState::default() };
                // Founders begin as if they had installed a snapshot at index 1: their membership is
                // in no log entry, so a replica that joins later must be given a snapshot, never a
                // log that begins at nothing. (Logs made before that rule begin at index 1.)
                let old_log = recovered.entries.first().is_some_and(|first| first.index == 1);
                let begin = u64::from(!config.founders.is_empty() && !old_log);
                (begin, begin, conf)
            }
        };
        let prefix = vec![keys::table::APPLIED, 1];
        store.scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |key, value| {
            if let Some(id) = keys::last_u64(key) {
                members.insert(id, String::from_utf8_lossy(value).into_owned());
            }
            true
        })?;
        let mem = SharedMem::default();
        {
            let mut mem = mem.0.borrow_mut();
            mem.truncated = (applied, applied_term);
            mem.conf_state = conf_state;
            let mut hard_state = HardState {
                term: recovered.vote.term.max(applied_term),
                vote: if recovered.vote.term >= applied_term { recovered.vote.vote } else { 0 },
                commit: recovered.vote.commit.max(applied),
            };
            let mut entries: Vec<Entry> =
                recovered.entries.iter().filter(|entry| entry.index > applied).map(raft_entry).collect();
            if entries.first().is_some_and(|first| first.term < applied_term) {
                // A snapshot was installed over entries of an older term that were never committed.
                entries.clear();
            }
            if entries.first().is_some_and(|first| first.index == applied + 1) {
                mem.append(&entries);
            } else if let Some(first) = entries.first() {
                return Err(StartError::Raft(format!("log begins at {} but the state ends at {applied}", first.index)));
            }
            // Commit rides in the same write as the entries it covers, so a torn write may keep it
            // and lose them: none of them was acknowledged by this replica then (clamp).
            hard_state.commit = hard_state.commit.min(mem.last_index());
            mem.hard_state = hard_state;
        }
        let spread = (config.election_ticks * 6 / 10).max(1) as u64;
        let election_tick = config.election_ticks + platform.random().below(spread) as usize;
        let raft_config = Config {
            id: config.raft_id,
            election_tick,
            heartbeat_tick: 2,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: election_tick,
            max_election_tick: election_tick + 1,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let backlog = mem.0.borrow().entries.len();
        let raw =
            RawNode::new(&raft_config, mem.clone(), &logger).map_err(|error| StartError::Raft(error.to_string()))?;
        let core = Core {
            raw,
            mem,
            inbox: VecDeque::new(),
            waiting: BTreeMap::new(),
            // Not from 1: an entry that an earlier life of this replica proposed may be committed
            // in this one, and must not answer whoever has the same number now.
            next_proposal: platform.random().next_u64() >> 1,
            reads: BTreeMap::new(),
            reads_at: VecDeque::new(),
            early_reads: Vec::new(),
            next_read: 1,
            queue: VecDeque::new(),
            applied,
            applied_term,
            flushed: applied,
            image: None,
            members,
        };
        let replica = Replica(Rc::new(Inner {
            platform: platform.clone(),
            peers,
            store,
            config,
            core: RefCell::new(core),
            writer: RefCell::new(Some(writer)),
            work: Notify::new(),
            persisted: Cell::new(0),
            writing: Cell::new(None),
            stopped: RefCell::new(None),
            fetched: RefCell::new(BTreeMap::new()),
            fetching: Cell::new(false),
            leader: Cell::new(0),
            term: Cell::new(0),
            became_leader: Notify::new(),
            flush_soon: Cell::new(backlog > REPLAY_MAX),
        }));
        if replica.0.config.founders.len() == 1 && replica.0.config.founders.contains_key(&replica.0.config.raft_id) {
            // Alone: no reason to wait for an election timeout.
            let mut core = replica.0.core.borrow_mut();
            core.raw.campaign().map_err(|error| StartError::Raft(error.to_string()))?;
        }
        replica.0.work.notify_one();
        platform.tasks().spawn(replica.clone().drive());
        platform.tasks().spawn(replica.clone().tick());
        platform.tasks().spawn(replica.clone().flush_now_and_then());
        if replica.0.config.segment_size >= WRITE_AHEAD_MIN {
            let segment_size = replica.0.config.segment_size;
            platform.tasks().spawn(keep_ahead(platform.clone(), disk, ahead_ready, segment_size));
        }
        Ok(replica)
    }

    /// Starts an election now: a new cluster need not wait for a timeout.
    pub fn campaign(&self) {
        let mut core = self.0.core.borrow_mut();
        // A replica that is not let in yet must not ask for votes (raft-rs would panic).
        if core.raw.raft.promotable() {
            // Refusing is Raft's right; the timeout comes anyway.
            let _ = core.raw.campaign();
        }
        drop(core);
        self.0.work.notify_one();
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ReplicaError`]; after `Dropped` the same command (session, sequence) may be proposed
    /// again anywhere.
    pub async fn propose(&self, command: &Command) -> Result<Outcome, ReplicaError> {
        self.check()?;
        let (sender, receiver) = oneshot::channel();
        self.0.core.borrow_mut().inbox.push_back(Input::Propose(proto::encode(command), sender));
        self.0.work.notify_one();
        receiver.await.map_err(|_| ReplicaError::Dropped)?
    }

    /// Waits until everything committed before this call is applied here, and this replica was
    /// the leader after the call: then a read of the state is linearizable.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn read_barrier(&self) -> Result<(), ReplicaError> {
        self.check()?;
        let (sender, receiver) = oneshot::channel();
        self.0.core.borrow_mut().inbox.push_back(Input::Read(sender));
        self.0.work.notify_one();
        receiver.await.map_err(|_| ReplicaError::Dropped)?
    }

    /// Takes in messages from another replica (authenticated by the connection). A snapshot is
    /// fetched before this returns: until then the sender must not offer it again. Answers whether
    /// all of it was taken.
    pub async fn receive(&self, bytes: &Bytes) -> bool {
        let Some(mut messages) = transport::split(bytes) else { return false };
        // A replica that lost its directory joins under a new id at the same address; what was
        // meant for the old one must not be taken for its own.
        messages.retain(|message| message.to == self.0.config.raft_id);
        let (snapshots, others): (Vec<Message>, Vec<Message>) =
            messages.into_iter().partition(|message| message.msg_type() == MessageType::MsgSnapshot);
        self.0.core.borrow_mut().inbox.push_back(Input::Messages(others));
        self.0.work.notify_one();
        let mut is_taken = true;
        for message in snapshots {
            is_taken &= self.fetch_snapshot(message).await;
        }
        is_taken
    }

    /// The state store.
    pub fn store(&self) -> &StateStore {
        &self.0.store
    }

    /// Whether this replica leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.0.leader.get() == self.0.config.raft_id
    }

    /// The leader's Raft id, 0 = unknown.
    pub fn leader(&self) -> u64 {
        self.0.leader.get()
    }

    /// The leader's address, if known.
    pub fn leader_address(&self) -> Option<String> {
        self.0.core.borrow().members.get(&self.0.leader.get()).cloned()
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.0.term.get()
    }

    /// The highest applied index.
    pub fn applied(&self) -> u64 {
        self.0.core.borrow().applied
    }

    /// Raft ids that vote.
    pub fn voters(&self) -> Vec<u64> {
        self.0.core.borrow().raw.raft.prs().conf().to_conf_state().voters
    }

    /// Addresses of all members by Raft id.
    pub fn members(&self) -> BTreeMap<u64, String> {
        self.0.core.borrow().members.clone()
    }

    /// This replica's Raft id.
    pub fn raft_id(&self) -> u64 {
        self.0.config.raft_id
    }

    /// Why it stopped, if it did.
    pub fn stopped(&self) -> Option<String> {
        self.0.stopped.borrow().clone()
    }

    /// Returns when this replica becomes the leader next.
    pub async fn leadership(&self) {
        self.0.became_leader.notified().await;
    }

    /// A hash over the whole state except what is the replica's own; equal at equal applied index.
    ///
    /// # Errors
    /// The state is damaged.
    pub fn state_hash(&self) -> Result<(u64, u64), StoreFault> {
        let mut hash = 0u64;
        self.0.store.scan(&[], Some(&[keys::table::APPLIED]), &mut |key, value| {
            let mut row = Vec::with_capacity(16 + key.len() + value.len());
            row.extend_from_slice(&hash.to_le_bytes());
            row.extend_from_slice(&(key.len() as u64).to_le_bytes());
            row.extend_from_slice(key);
            row.extend_from_slice(value);
            hash = crc64(&row);
            true
        })?;
        Ok((self.applied(), hash))
    }

    fn check(&self) -> Result<(), ReplicaError> {
        match &*self.0.stopped.borrow() {
            Some(why) => Err(ReplicaError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    fn stop(&self, why: String) {
        tracing::error!(replica = format!("{:x}", self.0.config.raft_id), %why, "metaserver replica stops");
        *self.0.stopped.borrow_mut() = Some(why);
        self.0.leader.set(0);
        let mut core = self.0.core.borrow_mut();
        core.waiting.clear();
        core.reads.clear();
        core.reads_at.clear();
        core.early_reads.clear();
        core.inbox.clear();
    }

    async fn tick(self) {
        let tick = self.0.config.tick;
        loop {
            // Elections of equal replicas are kept apart by drawing each tick's length.
            let micros = tick.as_micros() as u64;
            let drawn = micros * 3 / 4 + self.0.platform.random().below(micros / 2 + 1);
            self.0.platform.clock().sleep(Duration::from_micros(drawn)).await;
            if self.stopped().is_some() {
                return;
            }
            {
                let mut core = self.0.core.borrow_mut();
                if self.is_stuck() {
                    self.make_way(&mut core);
                } else {
                    core.raw.tick();
                }
                self.promote(&mut core);
                // A read whose messages were lost is asked again.
                let lost: Vec<ReadWaiter> = std::mem::take(&mut core.reads).into_values().flatten().collect();
                for waiter in lost {
                    core.inbox.push_back(Input::Read(waiter));
                }
            }
            self.0.work.notify_one();
        }
    }

    /// The log's disk does not answer.
    fn is_stuck(&self) -> bool {
        let now = self.0.platform.clock().now();
        self.0.writing.get().is_some_and(|since| now.saturating_since(since) >= STUCK)
    }

    /// A replica that cannot write its log cannot apply, so it must not lead: it steps down, and does
    /// not stand for election (it does not tick) until the disk answers.
    fn make_way(&self, core: &mut Core) {
        if core.raw.raft.state == StateRole::Follower {
            return;
        }
        tracing::warn!(replica = format!("{:x}", self.0.config.raft_id), "log disk does not answer, stepping down");
        let term = core.raw.raft.term;
        core.raw.raft.become_follower(term, raft::INVALID_ID);
    }

    async fn drive(self) {
        loop {
            self.0.work.notified().await;
            if self.stopped().is_some() {
                return;
            }
            if let Err(fault) = self.turn() {
                self.stop(fault.to_string());
                return;
            }
            self.start_write();
        }
    }

    fn turn(&self) -> Result<(), StoreFault> {
        let core = &mut *self.0.core.borrow_mut();
        let persisted = self.0.persisted.get();
        if persisted > 0 {
            core.raw.on_persist_ready(persisted);
            self.0.persisted.set(0);
        }
        self.take_inputs(core);
        let mut outgoing: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        while core.raw.has_ready() {
            self.handle_ready(core, &mut outgoing)?;
        }
        self.after(core);
        for (to, messages) in outgoing {
            self.send(core, to, messages);
        }
        Ok(())
    }

    fn take_inputs(&self, core: &mut Core) {
        let leads = core.raw.raft.state == StateRole::Leader;
        let hint = core.raw.raft.leader_id;
        let mut reads: Vec<ReadWaiter> = std::mem::take(&mut core.early_reads);
        for input in std::mem::take(&mut core.inbox) {
            match input {
                Input::Messages(messages) => {
                    for message in messages {
                        let last = core.raw.raft.raft_log.last_index();
                        if message.msg_type() == MessageType::MsgHeartbeat && message.commit > last {
                            // This replica once acknowledged more than its log holds: the disk lost
                            // it. raft-rs would panic; it stays behind until it is replaced.
                            tracing::error!(last, commit = message.commit, "log is shorter than was acknowledged");
                            continue;
                        }
                        // Stale messages are refused by Raft, as they should be.
                        let _ = core.raw.step(message);
                    }
                }
                Input::Propose(_, waiter) if !leads => {
                    let _ = waiter.send(Err(ReplicaError::NotLeader(hint)));
                }
                Input::Propose(data, waiter) => {
                    let number = core.next_proposal;
                    core.next_proposal += 1;
                    let mut context = self.0.config.raft_id.to_be_bytes().to_vec();
                    context.extend_from_slice(&number.to_be_bytes());
                    match core.raw.propose(context, data) {
                        Ok(()) => {
                            core.waiting.insert(number, waiter);
                        }
                        Err(_) => {
                            let _ = waiter.send(Err(ReplicaError::Dropped));
                        }
                    }
                }
                Input::Read(waiter) => reads.push(waiter),
                Input::Change(change) => {
                    let context = change.context.clone();
                    if let Err(error) = core.raw.propose_conf_change(context, change) {
                        tracing::debug!(%error, "membership change was not proposed");
                    }
                }
                Input::Unreachable(id) => core.raw.report_unreachable(id),
                Input::SnapshotSent(id, well) => {
                    let status = if well { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                    core.raw.report_snapshot(id, status);
                }
            }
        }
        if reads.is_empty() {
            return;
        }
        if core.raw.raft.state != StateRole::Leader {
            for waiter in reads {
                let _ = waiter.send(Err(ReplicaError::NotLeader(core.raw.raft.leader_id)));
            }
        } else if core.mem.0.borrow().term(core.raw.raft.raft_log.committed) != Some(core.raw.raft.term) {
            // A new leader answers reads once an entry of its own term is committed.
            core.early_reads = reads;
        } else {
            let number = core.next_read;
            core.next_read += 1;
            core.reads.insert(number, reads);
            core.raw.read_index(number.to_be_bytes().to_vec());
        }
    }

    fn handle_ready(&self, core: &mut Core, outgoing: &mut BTreeMap<u64, Vec<Message>>) -> Result<(), StoreFault> {
        let mut ready = core.raw.ready();
        for message in ready.take_messages() {
            outgoing.entry(message.to).or_default().push(message);
        }
        let snapshot = ready.snapshot().clone();
        if snapshot.get_metadata().index > 0 {
            self.install(core, &snapshot)?;
        }
        let entries = ready.take_entries();
        let cut = core.mem.0.borrow_mut().append(&entries);
        let vote = ready.hs().map(|hs| Vote { term: hs.term, vote: hs.vote, commit: hs.commit });
        if let Some(hs) = ready.hs() {
            core.mem.0.borrow_mut().hard_state = hs.clone();
        }
        // A changed commit index alone is no reason for a write of its own.
        let vote = if ready.must_sync() { vote } else { None };
        core.queue.push_back(ToPersist {
            number: ready.number(),
            vote,
            cut,
            entries: entries.iter().map(log_entry).collect(),
            messages: ready.take_persisted_messages(),
        });
        for state in ready.take_read_states() {
            if let Ok(number) = state.request_ctx.as_slice().try_into().map(u64::from_be_bytes)
                && let Some(waiters) = core.reads.remove(&number)
            {
                core.reads_at.push_back((state.index, waiters));
            }
        }
        let committed = ready.take_committed_entries();
        let (number, installed) = (ready.number(), snapshot.get_metadata().index);
        core.raw.advance_append_async(ready);
        if installed > 0 {
            // The state is durable already, and Raft must know at once that everything up to there
            // is applied: an election that it starts before would look for entries that are gone.
            core.raw.on_persist_ready(number);
            core.raw.advance_apply_to(installed);
        }
        self.apply_entries(core, committed)
    }

    fn apply_entries(&self, core: &mut Core, entries: Vec<Entry>) -> Result<(), StoreFault> {
        let Some(last) = entries.last() else { return Ok(()) };
        let (last_index, last_term) = (last.index, last.term);
        let mut txn = Txn::new(&self.0.store);
        let mut told: Vec<(Waiter, Outcome)> = Vec::new();
        for entry in entries {
            match entry.entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let command: Command = proto::decode(&entry.data).map_err(|error| StoreFault(error.to_string()))?;
                    let outcome = apply(&mut txn, &command)?;
                    if let Some(waiter) = self.waiter(core, &entry.context) {
                        told.push((waiter, outcome));
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_change(core, &mut txn, &entry)?;
                }
            }
        }
        let conf = core.mem.0.borrow().conf_state.clone();
        txn.put_bytes(applied_key(), encode_applied(last_index, last_term, &conf));
        self.0.store.write(&txn.into_batch())?;
        core.applied = last_index;
        core.applied_term = last_term;
        core.raw.advance_apply_to(last_index);
        for (waiter, outcome) in told {
            // A proposer that gave up is no error.
            let _ = waiter.send(Ok(outcome));
        }
        Ok(())
    }

    fn waiter(&self, core: &mut Core, context: &[u8]) -> Option<Waiter> {
        let (id, number) = context.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*id) != self.0.config.raft_id {
            return None;
        }
        core.waiting.remove(&u64::from_be_bytes(number.try_into().ok()?))
    }

    /// What follows from a turn: reads that may be answered, leadership, proposals that are lost.
    fn after(&self, core: &mut Core) {
        while core.reads_at.front().is_some_and(|(index, _)| *index <= core.applied) {
            for waiter in core.reads_at.pop_front().map(|(_, waiters)| waiters).into_iter().flatten() {
                let _ = waiter.send(Ok(()));
            }
        }
        let leads = core.raw.raft.state == StateRole::Leader;
        let leader = core.raw.raft.leader_id;
        self.0.term.set(core.raw.raft.term);
        if self.0.leader.replace(leader) != leader {
            tracing::info!(
                replica = format!("{:x}", self.0.config.raft_id),
                leader = format!("{leader:x}"),
                term = core.raw.raft.term,
                "leader"
            );
            if leads {
                self.0.became_leader.notify_waiters();
            }
        }
        if !leads {
            for (_, waiter) in std::mem::take(&mut core.waiting) {
                let _ = waiter.send(Err(ReplicaError::Dropped));
            }
            let reads = std::mem::take(&mut core.reads).into_values().flatten();
            for waiter in reads.chain(core.reads_at.drain(..).flat_map(|(_, waiters)| waiters)) {
                let _ = waiter.send(Err(ReplicaError::NotLeader(leader)));
            }
        }
        if std::mem::take(&mut core.mem.0.borrow_mut().snapshot_wanted) {
            self.make_snapshot(core);
        }
    }

    /// Starts the log write of everything queued, unless one is under way.
    fn start_write(&self) {
        if self.0.writing.get().is_some() {
            return;
        }
        let mut group = ToPersist::default();
        {
            let mut core = self.0.core.borrow_mut();
            while let Some(next) = core.queue.front() {
                // A cut in the middle of a group would void entries of the group itself.
                if next.cut.is_some() && !group.entries.is_empty() {
                    break;
                }
                let Some(next) = core.queue.pop_front() else { break };
                group.number = next.number;
                group.vote = next.vote.or(group.vote);
                group.cut = next.cut.or(group.cut);
                group.entries.extend(next.entries);
                group.messages.extend(next.messages);
            }
        }
        if group.number == 0 {
            return;
        }
        if group.vote.is_none() && group.cut.is_none() && group.entries.is_empty() {
            self.written(group.number, group.messages);
            return;
        }
        let Some(mut writer) = self.0.writer.borrow_mut().take() else { return };
        self.0.writing.set(Some(self.0.platform.clock().now()));
        let this = self.clone();
        self.0.platform.tasks().spawn(async move {
            let outcome = writer.append(group.vote, group.cut, &group.entries).await;
            *this.0.writer.borrow_mut() = Some(writer);
            this.0.writing.set(None);
            match outcome {
                Ok(()) => this.written(group.number, group.messages),
                Err(error) => this.stop(error.to_string()),
            }
        });
    }

    fn written(&self, number: u64, messages: Vec<Message>) {
        self.0.persisted.set(number);
        let mut outgoing: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        for message in messages {
            outgoing.entry(message.to).or_default().push(message);
        }
        let core = self.0.core.borrow();
        for (to, messages) in outgoing {
            self.send(&core, to, messages);
        }
        drop(core);
        self.0.work.notify_one();
    }

    fn send(&self, core: &Core, to: u64, messages: Vec<Message>) {
        let Some(address) = core.members.get(&to).cloned() else { return };
        let this = self.clone();
        let has_snapshot = messages.iter().any(|message| message.msg_type() == MessageType::MsgSnapshot);
        let bytes = Bytes::from(transport::join(&messages));
        self.0.platform.tasks().spawn(async move {
            let request = this.0.peers.new_request();
            let timeout = if has_snapshot { Duration::from_secs(60) } else { Duration::from_secs(2) };
            let sent =
                this.0.peers.call(&address, StoreId(to), request, Request::Raft(bytes), Bytes::new(), timeout).await;
            let mut core = this.0.core.borrow_mut();
            if has_snapshot {
                core.inbox.push_back(Input::SnapshotSent(to, sent.is_ok()));
            }
            if sent.is_err() {
                core.inbox.push_back(Input::Unreachable(to));
            }
            if has_snapshot || sent.is_err() {
                drop(core);
                this.0.work.notify_one();
            }
        });
    }

    /// Flushes the state and trims the log behind it.
    async fn flush_now_and_then(self) {
        loop {
            self.0.platform.clock().sleep(Duration::from_secs(1)).await;
            if self.stopped().is_some() {
                return;
            }
            let (applied, due) = {
                let core = self.0.core.borrow();
                let soon = self.0.flush_soon.replace(false) && core.applied > core.flushed;
                let many = soon || core.applied >= core.flushed + self.0.config.flush_entries;
                (core.applied, many || core.mem.0.borrow().bytes > KEEP_BYTES && core.applied > core.flushed)
            };
            if due && let Err(error) = self.flush(applied).await {
                self.stop(error.to_string());
                return;
            }
        }
    }

    async fn flush(&self, applied: u64) -> Result<(), LogError> {
        if let Err(fault) = self.0.store.flush(&self.0.platform).await {
            self.stop(fault.to_string());
            return Ok(());
        }
        let keep_from = {
            let mut core = self.0.core.borrow_mut();
            core.flushed = core.flushed.max(applied);
            let mut mem = core.mem.0.borrow_mut();
            let keep_from =
                applied.saturating_sub(if mem.bytes > KEEP_BYTES { KEEP_ENTRIES / 10 } else { KEEP_ENTRIES });
            mem.trim(keep_from);
            keep_from
        };
        // The writer is away while a write is under way; the next round trims then.
        let writer = self.0.writer.borrow_mut().take();
        if let Some(mut writer) = writer {
            self.0.writing.set(Some(self.0.platform.clock().now()));
            let trimmed = writer.trim(keep_from).await;
            *self.0.writer.borrow_mut() = Some(writer);
            self.0.writing.set(None);
            self.0.work.notify_one();
            trimmed?;
        }
        Ok(())
    }

    /// Makes the state durable now (orderly stop): the next start has nothing to replay.
    pub async fn settle(&self) {
        let applied = self.applied();
        if let Err(error) = self.flush(applied).await {
            tracing::warn!(%error, "flush at the stop failed; the log will be replayed");
        }
    }
}

fn log_entry(entry: &Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, kind: 0, data: entry.encode_to_vec() }
}

fn raft_entry(entry: &LogEntry) -> Entry {
    // Bytes that passed the record's checksum were written by this code.
    Entry::decode(entry.data.as_slice()).unwrap_or_default()
}
