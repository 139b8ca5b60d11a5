//! The cluster itself: its first command, sessions, disks.

use proto::keys::{self, Counter};
use proto::members::{DrainDisks, RaiseLevel, RemoveDisk, SetRedundancy};
use proto::meta::{Outcome, RegisterSession, refusal};
use proto::rows::{ChunkRow, ClusterRow, DiskRow, SessionRow, chunk_state, disk_state};
use types::ids::{ChunkId, DiskId, Partition, SessionId};

use super::txn::Txn;
use super::{Applied, Stop, refuse};

const ROOT: Partition = Partition(0);

pub(super) fn init_cluster(txn: &mut Txn<'_>, row: &ClusterRow) -> Applied {
    match txn.get::<ClusterRow>(&keys::cluster())? {
        Some(old) if old.cluster == row.cluster => return Ok(Outcome::default()),
        Some(_) => return refuse(refusal::EXISTS, "the cluster is initialised under another id"),
        None => {}
    }
    if row.partitions == 0 || row.partitions > 65_536 || row.redundancy.policy().is_none() || row.chunk_capacity == 0 {
        return refuse(refusal::MALFORMED, "cluster parameters out of bounds");
    }
    txn.put(keys::cluster(), row);
    Ok(Outcome::default())
}

/// Raises the feature level by one.
pub(super) fn raise_level(txn: &mut Txn<'_>, body: &RaiseLevel) -> Applied {
    let Some(row) = txn.get::<ClusterRow>(&keys::cluster())? else {
        return refuse(refusal::NOT_INITIALISED, "the cluster is not initialised yet");
    };
    if body.level == row.feature_level {
        return Ok(Outcome::default());
    }
    if body.level != row.feature_level + 1 {
        return refuse(refusal::MALFORMED, format!("the feature level is {}; it rises by one", row.feature_level));
    }
    txn.put(keys::cluster(), &ClusterRow { feature_level: body.level, ..row });
    Ok(Outcome::default())
}

/// Changes the redundancy of new data. What is there is laid out anew behind it, if it has less.
pub(super) fn set_redundancy(txn: &mut Txn<'_>, body: &SetRedundancy) -> Applied {
    if body.redundancy.policy().is_none() {
        return refuse(refusal::MALFORMED, "no such redundancy");
    }
    let Some(row) = txn.get::<ClusterRow>(&keys::cluster())? else {
        return refuse(refusal::NOT_INITIALISED, "the cluster is not initialised yet");
    };
    txn.put(keys::cluster(), &ClusterRow { redundancy: body.redundancy, ..row });
    Ok(Outcome::default())
}

pub(super) fn register_session(txn: &mut Txn<'_>, body: &RegisterSession) -> Applied {
    // A retry finds the session that its nonce made: the nonce's row is the outcome of sequence 0.
    let nonce_key = keys::outcome(ROOT, SessionId(0), body.nonce);
    if let Some(row) = txn.get::<proto::rows::CounterRow>(&nonce_key)? {
        return Ok(Outcome { number: row.last, ..Outcome::default() });
    }
    let number = txn.next(ROOT, Counter::Session)?;
    txn.put(keys::session(ROOT, SessionId(number)), &SessionRow { name: body.name.clone(), floor: 0, ended: false });
    txn.put(nonce_key, &proto::rows::CounterRow { last: number });
    Ok(Outcome { number, ..Outcome::default() })
}

/// Adds a disk. The same store again only updates where it is reached. Another store at the same
/// node and path means that the old content is gone: the old disk is lost at once.
pub(super) fn register_disk(txn: &mut Txn<'_>, row: &DiskRow) -> Applied {
    let mut lost = Vec::new();
    for (key, value) in txn.scan_prefix(&[keys::table::DISK], usize::MAX)? {
        let old: DiskRow = super::txn::prost_free::Row::from_bytes(&value)?;
        let number = keys::last_u64(&key).unwrap_or(0);
        if old.store == row.store {
            if old.removed {
                return refuse(refusal::DISK, "this disk was removed; wipe the directory to join anew");
            }
            if old.state == disk_state::LOST {
                return refuse(refusal::DISK, "this store was declared lost; wipe the directory to join anew");
            }
            // What was decided about it is not for the process to say.
            let new = DiskRow { state: old.state, draining: old.draining, removed: old.removed, ..row.clone() };
            if old != new {
                txn.put(key, &new);
            }
            return Ok(Outcome { number, ..Outcome::default() });
        }
        if old.node == row.node && old.path == row.path && old.state == disk_state::IN {
            lost.push(number);
        }
    }
    for disk in lost {
        lose_disk(txn, disk)?;
    }
    let number = txn.next(ROOT, Counter::Disk)?;
    let new = DiskRow { state: disk_state::IN, draining: false, removed: false, ..row.clone() };
    txn.put(keys::disk(DiskId(number)), &new);
    Ok(Outcome { number, ..Outcome::default() })
}

/// Has disks drained, or takes them back into use. All of them or none.
pub(super) fn drain(txn: &mut Txn<'_>, body: &DrainDisks) -> Applied {
    for disk in &body.disks {
        let key = keys::disk(DiskId(*disk));
        let row = txn.get::<DiskRow>(&key)?.filter(|row| row.state == disk_state::IN);
        let Some(row) = row else { return refuse(refusal::NO_DISK, format!("there is no disk {disk} in use")) };
        txn.put(key, &DiskRow { draining: body.draining, ..row });
    }
    Ok(Outcome::default())
}

/// Takes a disk out of the pool. Refused while a shard there is needed, unless it is lost.
pub(super) fn remove(txn: &mut Txn<'_>, body: &RemoveDisk) -> Applied {
    let key = keys::disk(DiskId(body.disk));
    let Some(row) = txn.get::<DiskRow>(&key)? else {
        return refuse(refusal::NO_DISK, format!("there is no disk {}", body.disk));
    };
    if row.state == disk_state::IN && !body.lost {
        let mut needed = 0;
        for (key, _) in txn.scan_prefix(&keys::disk_chunks(DiskId(body.disk)), usize::MAX)? {
            let chunk = keys::last_u64(&key).unwrap_or(0);
            let row = txn.get::<ChunkRow>(&keys::chunk(ChunkId(chunk)))?;
            needed += u64::from(row.is_some_and(|row| is_needed(&row, body.disk)));
        }
        if needed > 0 {
            let what = if row.draining { "is not drained yet" } else { "is in use; drain it first" };
            return refuse(refusal::DISK, format!("disk {} {what}: it holds {needed} shards", body.disk));
        }
    }
    lose_disk(txn, body.disk)?;
    if let Some(row) = txn.get::<DiskRow>(&key)? {
        txn.put(key, &DiskRow { removed: true, draining: false, ..row });
    }
    Ok(Outcome::default())
}

/// Whether a chunk has something on a disk, or is about to: only what was never written is not
/// needed. An open chunk may hold bytes that nobody has committed yet.
pub(crate) fn is_needed(row: &ChunkRow, disk: u64) -> bool {
    let pending = row.pending_move.iter().flat_map(|pending| &pending.shards);
    let is_there = row.shards.iter().chain(pending).any(|shard| shard.disk == disk);
    is_there && (row.state == chunk_state::OPEN || row.sealed_len > 0)
}

/// Declares a disk's content lost: every chunk drops its shards there.
pub(super) fn lose_disk(txn: &mut Txn<'_>, disk: u64) -> Applied {
    let key = keys::disk(DiskId(disk));
    let Some(mut row) = txn.get::<DiskRow>(&key)? else { return refuse(refusal::DISK, "no such disk") };
    if row.state == disk_state::LOST {
        return Ok(Outcome::default());
    }
    row.state = disk_state::LOST;
    txn.put(key, &row);
    for (key, _) in txn.scan_prefix(&keys::disk_chunks(DiskId(disk)), usize::MAX)? {
        let Some(chunk) = keys::last_u64(&key) else { continue };
        super::chunks::drop_disk(txn, ChunkId(chunk), disk)?;
    }
    // Nothing there needs deleting any more.
    let prefix = [&[keys::table::DELETE][..], &disk.to_be_bytes()].concat();
    for (key, _) in txn.scan_prefix(&prefix, usize::MAX)? {
        txn.delete(key);
    }
    Ok::<Outcome, Stop>(Outcome::default())
}
