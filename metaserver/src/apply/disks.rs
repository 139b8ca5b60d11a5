//! The cluster itself: its first command, sessions, disks.

use proto::keys::{self, Counter};
use proto::meta::{Outcome, RegisterSession, refusal};
use proto::rows::{ClusterRow, DiskRow, SessionRow, disk_state};
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
            if old.state == disk_state::LOST {
                return refuse(refusal::DISK, "this store was declared lost; wipe the directory to join anew");
            }
            if old != *row {
                txn.put(key, &DiskRow { state: old.state, ..row.clone() });
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
    txn.put(keys::disk(DiskId(number)), &DiskRow { state: disk_state::IN, ..row.clone() });
    Ok(Outcome { number, ..Outcome::default() })
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
