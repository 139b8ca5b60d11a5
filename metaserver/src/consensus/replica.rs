//! One replica: what others may ask of it, and what it holds. How it starts is in `start`, how it
//! goes on in `turn` and `persist`, what it does when it may have forgotten something in `doubt`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::clock::Instant;
use platform::disk::Disk;
use platform::planted::{Planted, PlantedBug};
use proto::ballot::Ballot;
use proto::keys;
use proto::meta::{Command, LogEnd, LogEndRequest, Outcome};
use raft::eraftpb::ConfChangeV2;
use raft::prelude::{Message, MessageType};
use raft::{ProgressState, RawNode, StateRole};
use rpc::peers::Peers;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use types::checksum::crc64;
use types::ids::StoreId;

use super::doubt::Doubting;
use super::log::{LogEntry, LogError, LogWriter, Vote};
use super::storage::SharedMem;
use super::transport;
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
    /// The founder in whose place a replica joins, 0 = none.
    pub replaces: u64,
    /// The cluster is being founded: an empty directory is as it should be. Otherwise the directory of
    /// a founder that is empty was emptied, and what the replica promised is forgotten.
    pub founding: bool,
    /// Why the applied state cannot be used, if it cannot.
    pub state_damaged: Option<String>,
    /// Mistakes to make; set by the start.
    pub planted: Planted,
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
    /// Entries kept behind the flushed index for slow followers; who is further behind gets a snapshot.
    pub keep_entries: u64,
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
    /// The replica cannot be trusted with its own past, and there are no others to fill it anew.
    #[error("replica is damaged: {0}")]
    Damaged(String),
}

pub(super) type Waiter = oneshot::Sender<Result<Outcome, ReplicaError>>;
pub(super) type ReadWaiter = oneshot::Sender<Result<(), ReplicaError>>;

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
    pub(super) number: u64,
    pub(super) vote: Option<Vote>,
    pub(super) cut: Option<u64>,
    pub(super) entries: Vec<LogEntry>,
    pub(super) messages: Vec<Message>,
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
    /// A membership change was applied: the log must say that it is committed, or a restart would go
    /// by the old members, who may be gone.
    pub(super) note_commit: bool,
    /// Set while it may have forgotten something.
    pub(super) doubt: Option<Doubting>,
}

pub(super) struct Inner {
    pub(super) platform: Platform,
    pub(super) peers: Peers,
    pub(super) disk: Disk,
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
    /// Pages of snapshots that others have asked this replica for.
    pub(super) pages_asked: Cell<u64>,
    pub(super) leader: Cell<u64>,
    pub(super) term: Cell<u64>,
    pub(super) became_leader: Notify,
    /// The start had much to replay: the next one must not have it again.
    pub(super) flush_soon: Cell<bool>,
    /// What the ballot file should say, and what it says.
    pub(super) ballot: Cell<Ballot>,
    pub(super) kept: Cell<Option<Ballot>>,
    /// Random number of this start.
    pub(super) start_number: u64,
    /// Snapshots installed since the start.
    pub(super) installed: Cell<u64>,
    /// Somebody sent a message whose address is not known.
    pub(super) stranger: Cell<bool>,
    /// Rises whenever rows of disks may have changed in the state.
    pub(super) disk_changes: Cell<u64>,
}

/// A replica. Cheap to clone.
#[derive(Clone)]
pub struct Replica(pub(super) Rc<Inner>);

impl Replica {
    /// Starts an election now: a new cluster need not wait for a timeout.
    pub fn campaign(&self) {
        let mut core = self.0.core.borrow_mut();
        // A replica that is not let in yet must not ask for votes (raft-rs would panic), nor one that
        // may have forgotten something.
        if core.raw.raft.promotable() && core.doubt.is_none() {
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
        if self.0.platform.planted(PlantedBug::StaleRead) && self.is_leader() {
            return Ok(());
        }
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
        let known = |message: &Message| self.0.core.borrow().members.contains_key(&message.from);
        if !messages.iter().all(known) {
            self.0.stranger.set(true);
        }
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

    /// Raft ids that vote, in order.
    pub fn voters(&self) -> Vec<u64> {
        let mut voters = self.0.core.borrow().raw.raft.prs().conf().to_conf_state().voters;
        voters.sort_unstable();
        voters
    }

    /// Addresses of all members by Raft id.
    pub fn members(&self) -> BTreeMap<u64, String> {
        self.0.core.borrow().members.clone()
    }

    /// Addresses of those that belong to the group, by Raft id; others may be known too.
    pub fn group(&self) -> BTreeMap<u64, String> {
        let core = self.0.core.borrow();
        let conf = core.raw.raft.prs().conf().to_conf_state();
        let belongs = |id: &u64| conf.voters.contains(id) || conf.learners.contains(id);
        core.members.iter().filter(|(id, _)| belongs(id)).map(|(id, address)| (*id, address.clone())).collect()
    }

    /// Its own address.
    pub fn address(&self) -> &str {
        &self.0.config.address
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

    /// How far the log goes, for a replica that may have forgotten something. If this one leads, it no
    /// longer counts on what the other one does not hold.
    pub fn log_end(&self, ask: LogEndRequest) -> LogEnd {
        let core = &mut *self.0.core.borrow_mut();
        let leads = core.raw.raft.state == StateRole::Leader;
        if let Some(progress) = core.raw.raft.mut_prs().get_mut(ask.raft_id).filter(|_| leads)
            && progress.matched > ask.last_index
        {
            progress.matched = ask.last_index;
            if progress.state != ProgressState::Snapshot {
                progress.become_probe();
            }
        }
        let log = &core.raw.raft.raft_log;
        let mut conf = core.raw.raft.prs().conf().to_conf_state();
        conf.voters.sort_unstable();
        // Addresses are known of more than belong to the group.
        let belongs = |id: &u64| conf.voters.contains(id) || conf.learners.contains(id);
        let (member_ids, members) =
            core.members.iter().filter(|(id, _)| belongs(id)).map(|(id, address)| (*id, address.clone())).unzip();
        LogEnd {
            raft_id: self.0.config.raft_id,
            start: self.0.start_number,
            term: core.raw.raft.term,
            last_term: log.last_term(),
            last_index: log.last_index(),
            applied: core.applied,
            members,
            member_ids,
            voters: conf.voters,
        }
    }

    /// Index of the last entry that is durable here.
    pub(super) fn durable_index(&self) -> u64 {
        let core = self.0.core.borrow();
        let log = &core.raw.raft.raft_log;
        log.persisted.min(log.last_index())
    }

    /// Whether it may have forgotten something, and so neither votes nor counts.
    pub fn is_in_doubt(&self) -> bool {
        self.0.core.borrow().doubt.is_some()
    }

    /// A number that rises whenever rows of disks may have changed in the state: by an applied
    /// command, or by a snapshot. What was read of them at the same number still holds.
    pub fn disk_changes(&self) -> u64 {
        self.0.disk_changes.get()
    }

    pub(super) fn disks_changed(&self) {
        self.0.disk_changes.set(self.0.disk_changes.get() + 1);
    }

    /// Snapshots installed since the start.
    pub fn snapshots_installed(&self) -> u64 {
        self.0.installed.get()
    }

    /// Stops for ever: it is not needed any more.
    pub fn retire(&self, why: &str) {
        self.stop(why.to_owned());
    }

    fn check(&self) -> Result<(), ReplicaError> {
        match &*self.0.stopped.borrow() {
            Some(why) => Err(ReplicaError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn stop(&self, why: String) {
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
}
