//! `apply(command) -> outcome`: the state machine. Deterministic, without IO beyond the state
//! store, without clock or randomness: time is the command's `now_ms`.
//!
//! Exactly once (ARCHITECTURE 5): a command carries (session, sequence), the floor below which
//! its client has all outcomes, and is known by the hash of its body. A retry returns the first
//! outcome; anything below the floor, of an unknown or an ended session is refused.

mod buckets;
pub(crate) mod chunks;
pub(crate) mod disks;
mod objects;
mod references;
pub(crate) mod snapshots;
mod trash;
pub mod txn;
mod uploads;
pub(crate) mod volumes;

use bytes::Bytes;
use platform::planted::PlantedBug;
use proto::keys;
use proto::meta::{Body, Command, Outcome, refusal};
use proto::rows::{ClusterRow, OutcomeRow, SessionRow};
use types::checksum::crc64;
use types::ids::{Partition, SessionId};

use self::txn::Txn;
use crate::store::StoreFault;

/// Outcomes a session may leave unacknowledged.
const OUTSTANDING_MAX: u64 = 1024;

/// Why a command is refused, with facts for people.
pub(crate) struct Refused {
    code: u32,
    text: String,
}

/// A refusal, or a damaged store (which stops the replica).
pub(crate) enum Stop {
    Refused(Refused),
    Fault(StoreFault),
}

impl From<StoreFault> for Stop {
    fn from(fault: StoreFault) -> Stop {
        Stop::Fault(fault)
    }
}

pub(crate) type Applied = Result<Outcome, Stop>;

pub(crate) fn refuse<T>(code: u32, text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(Refused { code, text: text.into() }))
}

/// What apply knows beside the state: where and when the command was proposed.
pub(crate) struct Env {
    pub partition: Partition,
    pub now_ms: u64,
    pub session: SessionId,
    /// The cluster's feature level; 0 before it is known.
    pub level: u64,
}

/// Applies one command. The changes are in `txn`; a refusal changes nothing but that its outcome
/// is remembered.
///
/// # Errors
/// Only when the store is damaged.
pub fn apply(txn: &mut Txn<'_>, command: &Command) -> Result<Outcome, StoreFault> {
    let env = Env {
        partition: Partition(command.partition as u16),
        now_ms: command.now_ms,
        session: SessionId(command.session),
        level: 0,
    };
    let outcome =
        if command.session == 0 { txn.all_or_nothing(|txn| run(txn, &env, command)) } else { once(txn, &env, command) };
    match outcome {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Refused(refused)) => Ok(Outcome { refusal: refused.code, text: refused.text, ..Outcome::default() }),
    }
}

fn once(txn: &mut Txn<'_>, env: &Env, command: &Command) -> Applied {
    // Sessions live in partition 0 while one Raft group hosts all partitions.
    let session_key = keys::session(Partition(0), env.session);
    let mut session: SessionRow = match txn.get(&session_key)? {
        Some(session) => session,
        None => return refuse(refusal::NO_SESSION, format!("session {} is unknown", env.session)),
    };
    if session.ended && !txn.planted(PlantedBug::CommitOfEndedSession) {
        return refuse(refusal::NO_SESSION, format!("session {} has ended", env.session));
    }
    if command.sequence <= session.floor {
        return refuse(refusal::BELOW_FLOOR, "the outcome was acknowledged already");
    }
    if command.sequence > session.floor + OUTSTANDING_MAX {
        return refuse(refusal::TOO_MANY_OUTSTANDING, "more than 1024 commands outstanding");
    }
    let body_hash = body_hash(command);
    let outcome_key = keys::outcome(Partition(0), env.session, command.sequence);
    if let Some(first) = txn.get::<OutcomeRow>(&outcome_key)?.filter(|_| !txn.planted(PlantedBug::RetryAppliedTwice)) {
        if first.body_hash != body_hash {
            return refuse(refusal::OTHER_BODY, "this sequence number was used for another command");
        }
        return proto::decode(&first.outcome).map_err(|error| Stop::Fault(StoreFault(error.to_string())));
    }
    if command.floor > session.floor && command.floor < command.sequence {
        for sequence in session.floor + 1..=command.floor {
            txn.delete(keys::outcome(Partition(0), env.session, sequence));
        }
        session.floor = command.floor;
        txn.put(session_key, &session);
    }
    let outcome = match txn.all_or_nothing(|txn| run(txn, env, command)) {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refused)) => Outcome { refusal: refused.code, text: refused.text, ..Outcome::default() },
        Err(fault) => return Err(fault),
    };
    let row = OutcomeRow { body_hash, outcome: Bytes::from(proto::encode(&outcome)) };
    txn.put(outcome_key, &row);
    Ok(outcome)
}

/// The hash of what a command does: its body and partition, not its time.
fn body_hash(command: &Command) -> u64 {
    let bare = Command { session: 0, sequence: 0, floor: 0, now_ms: 0, ..command.clone() };
    crc64(&proto::encode(&bare))
}

fn run(txn: &mut Txn<'_>, env: &Env, command: &Command) -> Applied {
    let Some(body) = &command.body else { return refuse(refusal::MALFORMED, "command without a body") };
    if let Body::InitCluster(row) = body {
        return disks::init_cluster(txn, row);
    }
    let Some(cluster) = txn.get::<ClusterRow>(&keys::cluster())? else {
        return refuse(refusal::NOT_INITIALISED, "the cluster is not initialised yet");
    };
    if u32::from(env.partition.0) >= cluster.partitions {
        return refuse(refusal::MALFORMED, "no such partition");
    }
    let env = &Env { level: cluster.feature_level, ..*env };
    match body {
        Body::InitCluster(_) => refuse(refusal::MALFORMED, "unreachable"),
        Body::RegisterSession(body) => disks::register_session(txn, body),
        Body::EndSession(body) => chunks::end_session(txn, body),
        Body::RegisterDisk(row) => disks::register_disk(txn, row),
        Body::LoseDisk(body) => disks::lose_disk(txn, body.disk),
        Body::GrantChunks(body) => chunks::grant(txn, env, body),
        Body::RaiseEpoch(body) => chunks::raise_epoch(txn, body),
        Body::SealChunk(body) => chunks::seal(txn, body),
        Body::StartMove(body) => chunks::start_move(txn, body),
        Body::FinishMove(body) => chunks::finish_move(txn, body),
        Body::Deleted(body) => chunks::deleted(txn, body),
        Body::MarkBad(body) => chunks::mark_bad(txn, body),
        Body::DropUnknown(body) => chunks::drop_unknown(txn, body),
        Body::DrainDisks(body) => disks::drain(txn, body),
        Body::RemoveDisk(body) => disks::remove(txn, body),
        Body::SetRedundancy(body) => disks::set_redundancy(txn, body),
        Body::RaiseLevel(body) => disks::raise_level(txn, body),
        Body::CreateBucket(body) => buckets::create(txn, env, body),
        Body::DeleteBucket(body) => buckets::delete(txn, env, body),
        Body::PutObject(body) => objects::put(txn, env, body),
        Body::DeleteObject(body) => objects::delete(txn, env, body),
        Body::CreateUpload(body) => uploads::create(txn, env, body),
        Body::PutPart(body) => uploads::put_part(txn, env, body),
        Body::CompleteUpload(body) => uploads::complete(txn, env, body),
        Body::AbortUpload(body) => uploads::abort(txn, env, body),
        Body::MoveExtents(body) => references::move_extents(txn, env, body),
        Body::PutAccessKey(body) => buckets::put_access_key(txn, env, body),
        Body::DeleteAccessKey(body) => buckets::delete_access_key(txn, body),
        Body::TrashBucket(body) => trash::put_in(txn, env, body),
        Body::RestoreBucket(body) => trash::restore(txn, env, body),
        Body::PurgeBucket(body) => trash::purge(txn, env, body),
        Body::PurgePage(body) => trash::purge_page(txn, env, body),
        Body::CreateVolume(body) => volumes::create(txn, env, body),
        Body::DeleteVolume(body) => volumes::delete(txn, env, body),
        Body::PurgeVolume(body) => volumes::purge(txn, env, body),
        Body::ResizeVolume(body) => volumes::resize(txn, env, body),
        Body::AttachVolume(body) => volumes::attach(txn, env, body),
        Body::DetachVolume(body) => volumes::detach(txn, env, body),
        Body::TakeChunks(body) => volumes::take_chunks(txn, env, body),
        Body::Checkpoint(body) => volumes::checkpoint(txn, env, body),
        Body::WantSnapshot(body) => snapshots::want(txn, env, body),
        Body::TakeSnapshot(body) => snapshots::take(txn, env, body),
        Body::DeleteSnapshot(body) => snapshots::delete(txn, env, body),
        Body::CloneVolume(body) => snapshots::clone(txn, env, body),
        Body::RollBack(body) => snapshots::roll_back(txn, env, body),
        Body::SetQos(body) => volumes::set_qos(txn, env, body),
        Body::RenameVolume(body) => volumes::rename(txn, env, body),
        Body::SweepVolume(body) => snapshots::sweep(txn, env, body),
    }
}

/// A planted mistake: whether the conditions of a command hold in a state that may be older than
/// the one in which it is applied. Answers the refusal if they do not.
///
/// # Errors
/// The store is damaged.
pub fn too_early(txn: &Txn<'_>, command: &Command) -> Result<Option<Outcome>, StoreFault> {
    let (bucket, key, conditions) = match &command.body {
        Some(Body::PutObject(body)) => (body.bucket, &body.key, &body.conditions),
        Some(Body::DeleteObject(body)) => (body.bucket, &body.key, &body.conditions),
        _ => return Ok(None),
    };
    let old = txn.get(&keys::object(Partition(command.partition as u16), bucket, key))?;
    match objects::check(txn, conditions, old.as_ref()) {
        Err(Stop::Refused(refused)) => {
            Ok(Some(Outcome { refusal: refused.code, text: refused.text, ..Outcome::default() }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
