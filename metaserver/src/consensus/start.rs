//! How a replica starts: what its directory says, whether that can be believed, and what follows.
//!
//! ```text
//! ballot, log and state agree                -> goes on where it was
//! the log's end was cut, or is older than the
//! ballot or the state say                    -> in doubt (`doubt`): no vote, no acknowledgement,
//!                                               until it has heard the others
//! rot below a later mark, a log or ballot that
//! is gone, a state that cannot be read       -> a new life: a new Raft id asks to be let in, in
//!                                               place of the old one, and is filled by a snapshot
//! ```
//!
//! A new life changes nothing on the disk before a leader has let it in: if the others are gone too,
//! what is left here is still there for a person to look at.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use platform::Platform;
use platform::disk::Disk;
use platform::planted::PlantedBug;
use prost_old::Message as _;
use proto::ballot::{Ballot, Doubt, Phase};
use proto::keys;
use raft::prelude::{ConfState, Entry, HardState};
use raft::{Config, RawNode};
use rpc::peers::Peers;
use tokio::sync::Notify;
use types::ids::StoreId;

use super::doubt::Doubting;
use super::log::{LogConfig, LogEntry, LogError, LogWriter, Recovered, Tail, Vote, keep_ahead};
use super::replica::{Core, Inner, Replica, ReplicaConfig, StartError};
use super::storage::SharedMem;
use crate::store::{StateStore, StoreFault};

/// The file beside the log (`proto::ballot`).
pub(super) const BALLOT: &str = "ballot";
/// A start that replays more entries than this is followed by a flush.
const REPLAY_MAX: usize = 1000;
/// Segments smaller than this (tests) are not written ahead.
const WRITE_AHEAD_MIN: u64 = 4 << 20;

/// The row under `keys::table::APPLIED`: index, term, encoded ConfState.
pub(super) fn applied_key() -> Vec<u8> {
    vec![keys::table::APPLIED]
}

/// Members: id to address.
pub(super) fn member_key(id: u64) -> Vec<u8> {
    let mut key = vec![keys::table::APPLIED, 1];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// The last snapshot installed: in which life, and its index. Absent until there was one.
pub(super) fn life_key() -> Vec<u8> {
    vec![keys::table::APPLIED, 2]
}

pub(super) fn encode_life(raft_id: u64, index: u64) -> Vec<u8> {
    [raft_id.to_be_bytes(), index.to_be_bytes()].concat()
}

fn decode_life(bytes: &[u8]) -> Option<(u64, u64)> {
    let (raft_id, index) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*raft_id), u64::from_be_bytes(index.try_into().ok()?)))
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

/// What a replica goes on from.
struct Opened {
    ballot: Ballot,
    /// What the ballot file says; `None` for a new life that has left no trace yet.
    kept: Option<Ballot>,
    writer: LogWriter,
    applied: (u64, u64),
    conf: ConfState,
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl Replica {
    /// Opens log and state and starts the replica's tasks.
    ///
    /// # Errors
    /// The disk; damage, if there are no others to fill the replica anew.
    pub async fn start(
        platform: Platform,
        disk: Disk,
        store: StateStore,
        peers: Peers,
        mut config: ReplicaConfig,
    ) -> Result<Replica, StartError> {
        let mut members = config.contacts.clone();
        members.extend(config.founders.clone());
        config.planted = platform.all_planted();
        config.founding |= config.planted.has(PlantedBug::EmptiedVotes);
        let opened = match open(&disk, &store, &config).await {
            Err(StartError::Damaged(why)) if members.values().any(|address| *address != config.address) => {
                tracing::error!(replica = format!("{:x}", config.raft_id), %why, "the others must fill this replica anew");
                platform.reached("replica begins a new life");
                new_life(&platform, &disk, &config).await?
            }
            other => other?,
        };
        let Opened { ballot, kept, writer, applied, conf, hard_state, entries } = opened;
        config.raft_id = ballot.raft_id;
        let ahead_ready = writer.ahead_ready();
        // Addresses are as good from a state of an earlier life.
        let prefix = vec![keys::table::APPLIED, 1];
        let scanned = store.scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |key, value| {
            if let Some(id) = keys::last_u64(key) {
                members.insert(id, String::from_utf8_lossy(value).into_owned());
            }
            true
        });
        // A new life does without those of a state that cannot be read.
        if kept.is_some() {
            scanned?;
        }
        let voters = conf.voters.clone();
        let backlog = entries.len();
        let mem = SharedMem::default();
        {
            let mut mem = mem.0.borrow_mut();
            mem.truncated = applied;
            mem.conf_state = conf;
            mem.append(&entries);
            mem.hard_state = hard_state;
        }
        let raw = raw_node(&platform, &config, applied.0, mem.clone())?;
        let alone = voters == [config.raft_id];
        let forgets = config.planted.has(PlantedBug::DoubtIgnored) || config.planted.has(PlantedBug::LogCutAtRot);
        let doubt = (ballot.doubt != Doubt::None && !alone && !forgets).then(|| {
            platform.reached(match ballot.doubt {
                Doubt::Torn => "log ended in a torn write",
                _ => "log has lost its end",
            });
            Doubting::new(ballot.doubt, platform.clock().now(), (applied.0, voters))
        });
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
            applied: applied.0,
            applied_term: applied.1,
            flushed: applied.0,
            image: None,
            members,
            note_commit: false,
            doubt,
        };
        let replica = Replica(Rc::new(Inner {
            start_number: platform.random().next_u64(),
            platform: platform.clone(),
            peers,
            disk: disk.clone(),
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
            pages_asked: Cell::new(0),
            leader: Cell::new(0),
            term: Cell::new(0),
            became_leader: Notify::new(),
            flush_soon: Cell::new(backlog > REPLAY_MAX),
            ballot: Cell::new(ballot),
            kept: Cell::new(kept),
            installed: Cell::new(0),
            stranger: Cell::new(false),
            disk_changes: Cell::new(0),
        }));
        replica.begin(alone, ahead_ready)?;
        Ok(replica)
    }

    /// Starts the tasks.
    fn begin(&self, alone: bool, ahead_ready: Rc<Cell<bool>>) -> Result<(), StartError> {
        let inner = &self.0;
        if alone {
            // No reason to wait for an election timeout.
            inner.core.borrow_mut().raw.campaign().map_err(|error| StartError::Raft(error.to_string()))?;
        }
        inner.work.notify_one();
        let tasks = inner.platform.tasks();
        tasks.spawn(self.clone().drive());
        tasks.spawn(self.clone().tick());
        tasks.spawn(self.clone().flush_now_and_then());
        tasks.spawn(self.clone().keep_in_touch());
        if self.is_in_doubt() {
            tasks.spawn(self.clone().resolve_doubt());
        }
        if inner.config.segment_size >= WRITE_AHEAD_MIN {
            let (platform, disk) = (inner.platform.clone(), inner.disk.clone());
            tasks.spawn(keep_ahead(platform, disk, ahead_ready, inner.config.segment_size));
        }
        Ok(())
    }
}

fn raw_node(
    platform: &Platform,
    config: &ReplicaConfig,
    applied: u64,
    mem: SharedMem,
) -> Result<RawNode<SharedMem>, StartError> {
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
    RawNode::new(&raft_config, mem, &logger).map_err(|error| StartError::Raft(error.to_string()))
}

/// Reads ballot, log and state and holds them against each other.
async fn open(disk: &Disk, store: &StateStore, config: &ReplicaConfig) -> Result<Opened, StartError> {
    let damaged = |why: String| StartError::Damaged(why);
    let kept = match disk.read_file(BALLOT).await.map_err(LogError::from)? {
        Some(bytes) => Some(Ballot::decode(&bytes).map_err(|error| damaged(error.to_string()))?),
        None => None,
    };
    let mut ballot = identify(kept, LogWriter::exists(disk).await?, config)?;
    if let Some(why) = &config.state_damaged {
        return Err(damaged(why.clone()));
    }
    let State { applied, conf, installed } = state_of(store, &ballot, config)?;
    let opened = LogWriter::open(disk.clone(), log_config(&ballot, config)).await;
    let (mut writer, recovered) = match opened {
        Err(error @ (LogError::Rot { .. } | LogError::Foreign { .. })) => return Err(damaged(error.to_string())),
        other => other?,
    };
    // A founder's log begins behind index 1 (see `state_of`); logs made before that rule, at 1.
    let old_log = recovered.entries.first().is_some_and(|first| first.index == 1);
    let applied = if applied == (1, 1) && old_log { (0, 0) } else { applied };
    ballot.doubt = ballot.doubt.max(doubt_of(&ballot, &recovered, applied.0, installed));
    ballot.sequence = recovered.sequence;
    if conf.voters == [ballot.raft_id] {
        // There is nobody who could know better.
        ballot.doubt = Doubt::None;
    }
    let said = &recovered.vote;
    match said.term.cmp(&ballot.term) {
        Ordering::Less => {}
        Ordering::Equal if said.vote == 0 => {}
        Ordering::Equal | Ordering::Greater => (ballot.term, ballot.vote) = (said.term, said.vote),
    }
    let (hard_state, entries) = resume(&ballot, &recovered, applied)?;
    writer.begin_with(Vote { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit });
    if kept != Some(ballot) {
        disk.write_file(BALLOT, &ballot.encode()).await.map_err(LogError::from)?;
    }
    Ok(Opened { ballot, kept: Some(ballot), writer, applied, conf, hard_state, entries })
}

fn log_config(ballot: &Ballot, config: &ReplicaConfig) -> LogConfig {
    LogConfig {
        store: ballot.store,
        first_segment: ballot.first_segment,
        segment_size: config.segment_size,
        planted: config.planted,
    }
}

/// Who the replica is, by its ballot or for want of one.
fn identify(kept: Option<Ballot>, has_log: bool, config: &ReplicaConfig) -> Result<Ballot, StartError> {
    let newborn = Ballot {
        phase: if config.founders.is_empty() { Phase::Joining } else { Phase::Member },
        doubt: Doubt::None,
        raft_id: config.raft_id,
        store: config.store,
        first_segment: 0,
        replaces: config.replaces,
        term: 0,
        vote: 0,
        sequence: 0,
    };
    match kept {
        Some(ballot) if !has_log && (ballot.sequence > 0 || ballot.term > 0) => {
            Err(StartError::Damaged("its log is gone".into()))
        }
        Some(ballot) => Ok(ballot),
        // Somebody removed the ballot, or the log is from before there was one.
        None if has_log => Ok(Ballot { doubt: Doubt::Forgot, ..newborn }),
        None if config.founding || config.founders.is_empty() => Ok(newborn),
        None => Err(StartError::Damaged("its directory was emptied".into())),
    }
}

/// What the state says of itself.
struct State {
    /// Index and term that it holds.
    applied: (u64, u64),
    /// Who belonged to the group there.
    conf: ConfState,
    /// Index of the last snapshot that was put in place.
    installed: u64,
}

fn state_of(store: &StateStore, ballot: &Ballot, config: &ReplicaConfig) -> Result<State, StartError> {
    let damaged = |fault: StoreFault| StartError::Damaged(fault.to_string());
    let life = store.get(&life_key()).map_err(damaged)?.as_deref().and_then(decode_life);
    let (ours, installed) = match life {
        Some((life, index)) => (life == ballot.raft_id, index),
        None => (ballot.first_segment == 0, 0),
    };
    if !ours && ballot.phase == Phase::Member {
        return Err(StartError::Damaged("its state is that of another life".into()));
    }
    if let Some(bytes) = store.get(&applied_key()).map_err(damaged)?.filter(|_| ours) {
        let (index, term, conf) = decode_applied(&bytes).map_err(damaged)?;
        return Ok(State { applied: (index, term), conf, installed });
    }
    if ballot.first_segment > 0 || config.founders.is_empty() {
        return Ok(State { applied: (0, 0), conf: ConfState::default(), installed: 0 });
    }
    // Founders begin as if they had installed a snapshot at index 1: their membership is in no log
    // entry, so a replica that joins later must be given a snapshot, never a log that begins at nothing.
    let conf = ConfState { voters: config.founders.keys().copied().collect(), ..ConfState::default() };
    Ok(State { applied: (1, 1), conf, installed: 1 })
}

/// What the replica may have forgotten, by how its log compares with ballot and state.
fn doubt_of(ballot: &Ballot, recovered: &Recovered, applied: u64, installed: u64) -> Doubt {
    let Vote { term, vote, commit } = recovered.vote;
    let newer_ballot = ballot.term > term || ballot.term == term && ballot.vote != 0 && vote == 0;
    let last = recovered.entries.last().map_or(commit, |last| last.index.max(commit));
    // A snapshot may be in place of which the log does not tell yet; founders hold index 1 like one.
    let newer_state = applied > last && applied > installed;
    match recovered.tail {
        _ if newer_ballot || newer_state || ballot.sequence > recovered.sequence => Doubt::Forgot,
        Tail::Bad => Doubt::Forgot,
        Tail::Torn => Doubt::Torn,
        Tail::Whole => Doubt::None,
    }
}

/// What Raft goes on from.
fn resume(ballot: &Ballot, recovered: &Recovered, applied: (u64, u64)) -> Result<(HardState, Vec<Entry>), StartError> {
    let (applied, applied_term) = applied;
    let mut entries: Vec<Entry> =
        recovered.entries.iter().filter(|entry| entry.index > applied).map(raft_entry).collect();
    if entries.first().is_some_and(|first| first.term < applied_term) {
        // A snapshot was installed over entries of an older term that were never committed.
        entries.clear();
    }
    if let Some(first) = entries.first().filter(|first| first.index != applied + 1) {
        return Err(StartError::Damaged(format!("its log begins at {} but its state ends at {applied}", first.index)));
    }
    // Commit rides in the same write as the entries it covers, so a torn write may keep it and lose
    // them: none of them was acknowledged by this replica then (clamp).
    let last = entries.last().map_or(applied, |entry| entry.index);
    let hard_state = HardState {
        term: ballot.term.max(applied_term),
        vote: if ballot.term >= applied_term { ballot.vote } else { 0 },
        commit: recovered.vote.commit.max(applied).min(last),
    };
    Ok((hard_state, entries))
}

/// A life that begins with nothing: the others let it in under a new Raft id, which never voted.
async fn new_life(platform: &Platform, disk: &Disk, config: &ReplicaConfig) -> Result<Opened, StartError> {
    let earlier = match disk.read_file(BALLOT).await.map_err(LogError::from)? {
        Some(bytes) => Ballot::decode(&bytes).map_or(config.raft_id, |ballot| ballot.raft_id),
        None => config.raft_id,
    };
    let ballot = Ballot {
        phase: Phase::Joining,
        doubt: Doubt::None,
        raft_id: platform.random().next_u64() | 1,
        store: StoreId(platform.random().next_u64() | 1),
        first_segment: LogWriter::next_segment(disk).await?,
        replaces: earlier,
        term: 0,
        vote: 0,
        sequence: 0,
    };
    let opened = LogWriter::open(disk.clone(), log_config(&ballot, config)).await;
    let (writer, _) = opened?;
    Ok(Opened {
        ballot,
        kept: None,
        writer,
        applied: (0, 0),
        conf: ConfState::default(),
        hard_state: HardState::default(),
        entries: Vec::new(),
    })
}

fn raft_entry(entry: &LogEntry) -> Entry {
    // Bytes that passed the record's checksum were written by this code.
    Entry::decode(entry.data.as_slice()).unwrap_or_default()
}
