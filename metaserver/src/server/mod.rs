//! The metaserver's service: commands, queries and plans of one replica.
//!
//! Any replica answers who leads; everything else is the leader's. What the leader merely hears
//! (heartbeats) lives in memory and is counted anew by each leader; what matters is in Raft.

mod abandoned;
mod agenda;
mod census;
pub mod copysets;
mod deal;
mod disk_table;
mod grants;
mod group;
mod heartbeat;
mod homes;
mod jobs;
pub mod keyring;
mod listing;
pub mod placement;
mod planner;
mod query;
mod repairs;
mod safety;
pub mod scale;
pub mod seal;
mod trash;
mod upkeep;
mod volumes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use platform::Platform;
use platform::disk::Disk;
use platform::planted::PlantedBug;
use proto::keys;
use proto::level;
use proto::meta::{Body, ChunkList, Command, LogEnd, LogEndRequest, MetaState, Outcome};
use proto::rows::{ClusterRow, DiskRow};
use proto::service::{Answer, Done, Failure, Request, class, code};
use rpc::call::{Call, Reply};
use rpc::peers::Peers;
use types::ids::{DiskId, StoreId};

use self::abandoned::Turns;
use self::agenda::{Agenda, KeptPool};
use self::census::Rounds;
use self::disk_table::DiskTable;
use self::heartbeat::Liveness;
use self::jobs::Lease;
use self::keyring::Keyring;
use self::repairs::Repairs;
use crate::apply::txn::Txn;
use crate::consensus::replica::{Replica, ReplicaConfig, ReplicaError, StartError};
use crate::store::{StateStore, StoreFault};

/// Times the leader goes by. None of them decides about loss.
#[derive(Clone, Copy, Debug)]
pub struct ServerTimes {
    /// A disk that is silent for this long gets no new shards.
    pub disk_silent: Duration,
    /// A disk that is silent for this long is declared lost.
    pub disk_lost: Duration,
    /// A session that is silent for this long ends.
    pub session_silent: Duration,
    /// How long the seal of a chunk waits for a shard.
    pub fence_timeout: Duration,
    /// A repair that has not finished by then is given to somebody else.
    pub job_lease: Duration,
}

impl Default for ServerTimes {
    fn default() -> ServerTimes {
        ServerTimes {
            disk_silent: Duration::from_secs(3),
            disk_lost: Duration::from_secs(600),
            session_silent: Duration::from_secs(30),
            fence_timeout: Duration::from_secs(1),
            job_lease: Duration::from_secs(120),
        }
    }
}

/// With less than this left on its disk the metaserver takes only what frees space, bytes.
const RESERVE_BYTES: u64 = 24 << 20;

struct Inner {
    platform: Platform,
    peers: Peers,
    replica: Replica,
    times: ServerTimes,
    name: String,
    liveness: RefCell<Liveness>,
    /// Chunks being sealed, so that one seal serves all who ask.
    sealing: RefCell<BTreeMap<u64, Rc<tokio::sync::Notify>>>,
    /// Chunks whose seal would leave no shard to spare, and since when their other shards are waited for.
    short_seals: RefCell<BTreeMap<u64, platform::clock::Instant>>,
    abandoned: RefCell<Turns>,
    census: RefCell<Rounds>,
    /// Pending moves, by move id.
    leased: RefCell<BTreeMap<u64, Lease>>,
    agenda: RefCell<Agenda>,
    /// As of a number of `Replica::disk_changes`.
    disk_table: RefCell<Option<(u64, DiskTable)>>,
    pool: RefCell<Option<KeptPool>>,
    repairs: RefCell<Repairs>,
    /// The chunk up to which crowded and mostly dead ones were looked for, and when.
    looked_upto: Cell<u64>,
    looked_at: Cell<platform::clock::Instant>,
    /// Chunks that are being compacted, until when nobody else tries.
    compacting: RefCell<BTreeMap<u64, platform::clock::Instant>>,
    /// How often a domain was chosen: spreads new chunks evenly.
    chosen: RefCell<BTreeMap<u64, u64>>,
    status: RefCell<Option<(platform::clock::Instant, proto::query::StatusView)>>,
    repaired: Cell<u64>,
    /// A command has changed a volume's row.
    volumes_changed: tokio::sync::Notify,
    keyring: Keyring,
    disk: Disk,
    /// The disk of log and state is nearly full: only what frees space is taken.
    full: Cell<bool>,
}

/// One replica's service. Cheap to clone.
#[derive(Clone)]
pub struct MetaServer(Rc<Inner>);

/// Why the leader could not do what was asked.
#[derive(Debug)]
pub(crate) enum Trouble {
    Replica(ReplicaError),
    State(StoreFault),
    Failure(Failure),
}

impl From<ReplicaError> for Trouble {
    fn from(error: ReplicaError) -> Trouble {
        Trouble::Replica(error)
    }
}

impl From<StoreFault> for Trouble {
    fn from(fault: StoreFault) -> Trouble {
        Trouble::State(fault)
    }
}

impl Trouble {
    fn new(class: u32, code: u32, text: impl Into<String>) -> Trouble {
        Trouble::Failure(Failure::new(class, code, text))
    }

    fn failure(self) -> Failure {
        match self {
            Trouble::Failure(failure) => failure,
            Trouble::Replica(ReplicaError::NotLeader(leader)) => {
                let mut failure = Failure::new(class::ELSEWHERE, code::NOT_LEADER, "not the leader");
                failure.hint = leader;
                failure
            }
            Trouble::Replica(ReplicaError::Dropped) => {
                Failure::new(class::RETRY, code::OTHER, "leadership moved before the outcome was known")
            }
            Trouble::Replica(error @ ReplicaError::Stopped(_)) => {
                Failure::new(class::ELSEWHERE, code::NOT_LEADER, error.to_string())
            }
            Trouble::State(fault) => Failure::new(class::ELSEWHERE, code::NOT_LEADER, fault.to_string()),
        }
    }
}

impl MetaServer {
    /// Starts a replica and its service.
    ///
    /// # Errors
    /// See [`StartError`].
    #[expect(clippy::too_many_arguments, reason = "its parts, put together in one place of each program")]
    pub async fn start(
        platform: Platform,
        disk: Disk,
        state: StateStore,
        peers: Peers,
        name: String,
        config: ReplicaConfig,
        times: ServerTimes,
        keyring: Keyring,
    ) -> Result<MetaServer, StartError> {
        let replica = Replica::start(platform.clone(), disk.clone(), state, peers.clone(), config).await?;
        let server = MetaServer(Rc::new(Inner {
            platform: platform.clone(),
            peers,
            replica,
            times,
            name,
            liveness: RefCell::new(Liveness::default()),
            sealing: RefCell::new(BTreeMap::new()),
            short_seals: RefCell::new(BTreeMap::new()),
            abandoned: RefCell::new(Turns::default()),
            census: RefCell::new(Rounds::default()),
            leased: RefCell::new(BTreeMap::new()),
            agenda: RefCell::new(Agenda::default()),
            disk_table: RefCell::new(None),
            pool: RefCell::new(None),
            repairs: RefCell::new(Repairs::default()),
            looked_upto: Cell::new(0),
            looked_at: Cell::new(platform::clock::Instant(0)),
            compacting: RefCell::new(BTreeMap::new()),
            chosen: RefCell::new(BTreeMap::new()),
            status: RefCell::new(None),
            repaired: Cell::new(0),
            volumes_changed: tokio::sync::Notify::new(),
            keyring,
            disk,
            full: Cell::new(false),
        }));
        platform.tasks().spawn(server.clone().upkeep());
        platform.tasks().spawn(server.clone().take_census());
        platform.tasks().spawn(server.clone().empty_trash());
        Ok(server)
    }

    /// The replica beneath.
    pub fn replica(&self) -> &Replica {
        &self.0.replica
    }

    /// Carries out one request; `None` if it is not meant for a metaserver.
    pub async fn handle(&self, call: Call) -> Option<Reply> {
        let reply = match call.body {
            Request::Propose(command) => {
                self.propose_for(command).await.map(|outcome| Reply::of(Answer::Outcome(outcome)))
            }
            Request::Query(query) => self.query(query).await.map(|view| Reply::of(Answer::View(view))),
            Request::Heartbeat(beat) => self.heartbeat(beat).await.map(|ack| Reply::of(Answer::HeartbeatAck(ack))),
            Request::Grant(ask) => self.grant(ask).await.map(|outcome| Reply::of(Answer::Outcome(outcome))),
            Request::SealChunk(ask) => {
                let sealed = self.seal_chunk(ask.chunk, ask.release).await;
                sealed.map(|entry| Reply::of(Answer::Chunks(ChunkList { chunks: vec![entry] })))
            }
            Request::LeaseJob(ask) => self.lease_job(ask).await.map(|job| Reply::of(Answer::Job(job))),
            Request::CheckDisk(ask) => {
                self.check_disk(ask).await.map(|checked| Reply::of(Answer::DiskChecked(checked)))
            }
            Request::VolumeKey(ask) => self.volume_key(ask.volume).await.map(|key| Reply::of(Answer::VolumeKey(key))),
            Request::Raft(bytes) => {
                if self.0.replica.receive(&bytes).await {
                    Ok(Reply::of(Answer::Done(Done {})))
                } else {
                    Err(Trouble::new(class::GIVE_UP, code::BAD_REQUEST, "not a raft message"))
                }
            }
            Request::SnapshotPage(ask) => match self.0.replica.snapshot_page(ask.index, ask.page as usize) {
                Some(payload) => Ok(Reply { answer: Answer::Data(Done {}), payload }),
                None => Err(Trouble::new(class::GIVE_UP, code::OTHER, "no such page")),
            },
            Request::LogEnd(ask) => self.log_end(ask).map(|end| Reply::of(Answer::LogEnd(end))),
            Request::MetaState(_) => self.meta_state().map(|state| Reply::of(Answer::MetaState(state))),
            Request::JoinReplica(ask) => self.join(&ask).await.map(|end| Reply::of(Answer::LogEnd(end))),
            Request::LeaveReplica(ask) => self.leave(ask.raft_id).await.map(|()| Reply::of(Answer::Done(Done {}))),
            _ => return None,
        };
        Some(reply.unwrap_or_else(|trouble| Reply::of(Answer::Failed(trouble.failure()))))
    }

    fn log_end(&self, ask: LogEndRequest) -> Result<LogEnd, Trouble> {
        match self.0.replica.stopped() {
            Some(why) => Err(ReplicaError::Stopped(why).into()),
            None => Ok(self.0.replica.log_end(ask)),
        }
    }

    fn meta_state(&self) -> Result<MetaState, Trouble> {
        let replica = &self.0.replica;
        if let Some(why) = replica.stopped() {
            return Err(ReplicaError::Stopped(why).into());
        }
        Ok(MetaState {
            raft_id: replica.raft_id(),
            leader: replica.leader(),
            term: replica.term(),
            applied: replica.applied(),
            state_hash: 0,
            name: self.0.name.clone(),
            in_doubt: replica.is_in_doubt(),
            level: level::CURRENT,
        })
    }

    /// A command that came from a client.
    async fn propose_for(&self, mut command: Command) -> Result<Outcome, Trouble> {
        let free =
            matches!(command.body, Some(Body::RegisterSession(_) | Body::RegisterDisk(_) | Body::InitCluster(_)));
        if command.session == 0 && !free {
            return Err(Trouble::new(class::GIVE_UP, code::BAD_REQUEST, "command without a session"));
        }
        let grows = matches!(
            command.body,
            Some(
                Body::PutObject(_)
                    | Body::PutPart(_)
                    | Body::CreateUpload(_)
                    | Body::CreateBucket(_)
                    | Body::PutAccessKey(_)
            )
        );
        if grows && self.0.full.get() {
            return Err(Trouble::new(
                class::RETRY,
                code::FULL,
                "the metaserver's disk is nearly full; delete something or add space",
            ));
        }
        if self.0.platform.planted(PlantedBug::ConditionBeforeLog)
            && let Some(refusal) = crate::apply::too_early(&Txn::new(self.0.replica.store()), &command)?
        {
            return Ok(refusal);
        }
        let registers = matches!(command.body, Some(Body::RegisterSession(_)));
        if matches!(command.body, Some(Body::RegisterDisk(_) | Body::DrainDisks(_) | Body::RemoveDisk(_))) {
            // Repairs that found no place or no source may find them now.
            self.0.repairs.borrow_mut().try_all_again();
            self.0.agenda.borrow_mut().try_all_again();
        }
        match &mut command.body {
            Some(Body::DrainDisks(body)) => self.can_drain(body)?,
            Some(Body::SetRedundancy(body)) => self.can_have(body).await?,
            Some(Body::RaiseLevel(body)) => self.can_raise(body.level).await?,
            Some(Body::TrashBucket(_)) => self.needs_level(level::TRANSCODE).await?,
            Some(Body::CreateVolume(body)) => {
                self.needs_level(level::VOLUMES).await?;
                self.draw_key(body).await?;
            }
            Some(Body::AttachVolume(body)) => self.judge_owner(body)?,
            Some(
                Body::WantSnapshot(_)
                | Body::TakeSnapshot(_)
                | Body::DeleteSnapshot(_)
                | Body::CloneVolume(_)
                | Body::RollBack(_)
                | Body::SetQos(_)
                | Body::RenameVolume(_),
            ) => self.needs_level(level::SNAPSHOTS).await?,
            _ => {}
        }
        let outcome = self.propose(command).await?;
        if outcome.volume.is_some() {
            self.0.volumes_changed.notify_waiters();
        }
        if registers {
            // Its first heartbeat comes a little later; until then this is its sign of life.
            let now = self.0.platform.clock().now();
            let mut liveness = self.0.liveness.borrow_mut();
            liveness.begin(self.0.replica.term(), now);
            liveness.hear_session(outcome.number, now);
        }
        Ok(outcome)
    }

    pub(crate) async fn propose(&self, mut command: Command) -> Result<Outcome, Trouble> {
        command.now_ms = self.0.platform.clock().unix_ms();
        Ok(self.0.replica.propose(&command).await?)
    }

    /// A command of the leader itself.
    pub(crate) async fn propose_own(&self, body: Body) -> Result<Outcome, Trouble> {
        self.propose(Command { body: Some(body), ..Command::default() }).await
    }

    pub(crate) fn cluster(&self) -> Result<ClusterRow, Trouble> {
        let row = Txn::new(self.0.replica.store()).get(&keys::cluster())?;
        row.ok_or_else(|| Trouble::new(class::RETRY, code::OTHER, "the cluster is not initialised yet"))
    }

    /// The cluster's feature level in the applied state; 0 before its first command.
    pub fn level(&self) -> u64 {
        let row: Result<Option<ClusterRow>, StoreFault> = Txn::new(self.0.replica.store()).get(&keys::cluster());
        row.ok().flatten().map_or(0, |row| row.feature_level)
    }

    /// What an older level does not know is not begun in it.
    pub(crate) async fn needs_level(&self, level: u64) -> Result<(), Trouble> {
        if self.level() < level {
            // Only a leader that has applied everything knows: others are behind, or empty.
            self.0.replica.read_barrier().await?;
        }
        let now = self.level();
        if now < level {
            let text = format!("the cluster is at feature level {now} and this needs {level}: bixi cluster finalize");
            return Err(Trouble::new(class::GIVE_UP, code::CONFLICT, text));
        }
        Ok(())
    }

    pub(crate) fn address_of(disks: &BTreeMap<u64, DiskRow>, disk: u64) -> Option<(String, StoreId)> {
        let row = disks.get(&disk)?;
        Some((row.address.clone(), StoreId(row.store)))
    }

    /// Moves made good since this replica started.
    pub fn repaired(&self) -> u64 {
        self.0.repaired.get()
    }

    pub(crate) fn disk_name(disk: u64) -> DiskId {
        DiskId(disk)
    }
}

#[cfg(test)]
mod tests;
