//! Snapshots and clones: which chunks of a journal stay for them.
//!
//! A snapshot is an index as it was after a record. Its row is there at once; its index is kept with a
//! checkpoint behind it, before any later one. Chunks that the volume's own index no longer needs stay while
//! a snapshot may need them, told by two ticks of each: a chunk lives from when it was taken until it was
//! dropped, a snapshot needs what lived when it was taken, and what its index was written to until it was
//! ready. A clone keeps the snapshot it was made of, under no name if that was deleted, and a deleted volume
//! keeps the chunks of such snapshots.

use proto::keys::{self, Counter};
use proto::meta::{Outcome, refusal};
use proto::rows::ExtentRow;
use proto::volume::{
    Base, Checkpoint, CloneVolume, DeleteSnapshot, RollBack, SnapshotRow, SweepRow, SweepVolume, TakeSnapshot,
    VolumeChunkRow, VolumeRow, WantSnapshot,
};
use types::ids::{ChunkId, Partition};
use types::volume::{SIZE_MAX, VolumeName};

use super::txn::Txn;
use super::txn::prost_free::Row;
use super::volumes::{done, give_back, named, owned, save, tick};
use super::{Applied, Env, Stop, refuse};
use crate::store::StoreFault;

/// Snapshots of a volume at most: each checkpoint looks at all of them.
const SNAPSHOTS_MAX: usize = 4096;
/// Snapshots that an owner is asked for at once.
const WANTED_MAX: usize = 256;
/// Chunks or snapshots that one command looks through.
const PAGE: usize = 256;

/// The snapshots of a volume, by number; also those that only clones know.
pub(super) fn of(txn: &Txn<'_>, volume: u64) -> Result<Vec<SnapshotRow>, StoreFault> {
    let rows = txn.scan_prefix(&keys::snapshots(volume), usize::MAX)?;
    rows.iter().map(|(_, value)| SnapshotRow::from_bytes(value)).collect()
}

/// A page of a volume's snapshots behind a number.
///
/// # Errors
/// The store is damaged.
pub(crate) fn page_after(txn: &Txn<'_>, volume: u64, after: u64) -> Result<Vec<SnapshotRow>, StoreFault> {
    let from = keys::snapshot(volume, after.saturating_add(1));
    let rows = txn.scan_prefix_from(&keys::snapshots(volume), &from, PAGE)?;
    rows.iter().map(|(_, value)| SnapshotRow::from_bytes(value)).collect()
}

fn of_name(txn: &Txn<'_>, row: &VolumeRow, name: &str) -> Result<SnapshotRow, Stop> {
    match of(txn, row.id)?.into_iter().find(|snapshot| !snapshot.hidden && snapshot.name == name) {
        Some(snapshot) => Ok(snapshot),
        None => refuse(refusal::NO_VOLUME, format!("there is no snapshot {}@{name}", row.name)),
    }
}

/// Whether a volume can have one more snapshot, of this name.
fn check_new(txn: &Txn<'_>, row: &VolumeRow, name: &str) -> Result<Vec<SnapshotRow>, Stop> {
    if let Err(error) = VolumeName::new(name) {
        return refuse(refusal::MALFORMED, error.to_string().replacen("volume name", "snapshot name", 1));
    }
    let all = of(txn, row.id)?;
    if all.iter().any(|snapshot| !snapshot.hidden && snapshot.name == name) {
        return refuse(refusal::EXISTS, format!("there is a snapshot {}@{name}", row.name));
    }
    if all.len() >= SNAPSHOTS_MAX {
        return refuse(refusal::MALFORMED, format!("a volume has at most {SNAPSHOTS_MAX} snapshots"));
    }
    Ok(all)
}

fn told(row: VolumeRow, snapshot: SnapshotRow) -> Applied {
    Ok(Outcome { number: snapshot.number, volume: Some(row), snapshot: Some(snapshot), ..Outcome::default() })
}

pub(super) fn want(txn: &mut Txn<'_>, env: &Env, body: &WantSnapshot) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    row.wanted.retain(|name| *name != body.snapshot);
    if !body.withdraw {
        check_new(txn, &row, &body.snapshot)?;
        if row.wanted.len() >= WANTED_MAX {
            return refuse(refusal::VOLUME_BUSY, "its owner is asked for too many snapshots already");
        }
        row.wanted.push(body.snapshot.clone());
    }
    save(txn, env, &mut row);
    done(row)
}

pub(super) fn take(txn: &mut Txn<'_>, env: &Env, body: &TakeSnapshot) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    if body.epoch > 0 {
        row = owned(txn, env, row.id, body.epoch)?;
    } else if row.session != 0 || row.epoch > 0 && !row.clean {
        return refuse(refusal::VOLUME_BUSY, format!("only {} knows what volume {} holds", row.owner, row.name));
    }
    let sequence = if body.epoch > 0 { body.sequence } else { row.sequence };
    let all = check_new(txn, &row, &body.snapshot)?;
    if sequence < row.sequence || all.iter().any(|snapshot| snapshot.sequence > sequence) {
        return refuse(refusal::MALFORMED, "a snapshot of a moment that is past");
    }
    row.snapshots_made += 1;
    row.wanted.retain(|name| *name != body.snapshot);
    let now = tick(env, &mut row);
    let kept = if sequence == row.sequence { index_of(txn, &row)? } else { None };
    let ready = kept.is_some();
    let (root, used) = kept.unwrap_or_default();
    let snapshot = SnapshotRow {
        number: row.snapshots_made,
        name: body.snapshot.clone(),
        sequence,
        size: row.size,
        created_ms: env.now_ms,
        ready,
        root,
        used,
        frozen_tick: now,
        ready_tick: if ready { now } else { 0 },
        hidden: false,
        clones: 0,
        upto_order: row.next_order,
    };
    txn.put(keys::snapshot(row.id, snapshot.number), &snapshot);
    save(txn, env, &mut row);
    told(row, snapshot)
}

/// The index that is kept for a volume, and the bytes that it maps: its own or, of a clone that has none yet,
/// that of what it was made of.
fn index_of(txn: &Txn<'_>, row: &VolumeRow) -> Result<Option<(Vec<ExtentRow>, u64)>, Stop> {
    match row.base_to_read() {
        Some(base) => {
            let snapshot = txn.get::<SnapshotRow>(&keys::snapshot(base.volume, base.snapshot))?;
            Ok(snapshot.filter(|snapshot| snapshot.ready).map(|snapshot| (snapshot.root, snapshot.used)))
        }
        None => Ok(Some((row.root.clone(), row.used))),
    }
}

/// Snapshots of the checkpoint's record have an index now. Answers all of the volume.
pub(super) fn checkpointed(
    txn: &mut Txn<'_>,
    row: &VolumeRow,
    body: &Checkpoint,
    now: u64,
) -> Result<Vec<SnapshotRow>, Stop> {
    let mut all = of(txn, row.id)?;
    for snapshot in all.iter_mut().filter(|snapshot| !snapshot.ready) {
        if snapshot.sequence < body.sequence {
            return refuse(refusal::MALFORMED, format!("the index of {}@{} comes first", row.name, snapshot.name));
        }
        if snapshot.sequence == body.sequence {
            snapshot.ready = true;
            snapshot.ready_tick = now;
            snapshot.root = body.root.clone();
            snapshot.used = body.used;
            txn.put(keys::snapshot(row.id, snapshot.number), &*snapshot);
        }
    }
    Ok(all)
}

/// The volume's own index needs the chunk no more. It goes unless a snapshot may need it.
pub(super) fn drop_chunk(
    txn: &mut Txn<'_>,
    volume: u64,
    chunk: ChunkId,
    snapshots: &[SnapshotRow],
    now: u64,
) -> Result<(), Stop> {
    let key = keys::volume_chunk(volume, chunk);
    match txn.get::<VolumeChunkRow>(&key)? {
        Some(taken) if taken.dropped == 0 && snapshots.iter().any(|snapshot| snapshot.needs(taken.born, 0)) => {
            txn.put(key, &VolumeChunkRow { dropped: now.max(1), ..taken });
            Ok(())
        }
        Some(taken) if taken.dropped > 0 => refuse(refusal::CHUNK, format!("chunk {chunk} was dropped already")),
        _ => give_back(txn, volume, chunk),
    }
}

fn has_to_sweep(txn: &mut Txn<'_>, partition: Partition, volume: u64) {
    txn.put(keys::sweep(partition, volume), &SweepRow { after: 0 });
}

pub(super) fn delete(txn: &mut Txn<'_>, env: &Env, body: &DeleteSnapshot) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    let mut snapshot = of_name(txn, &row, &body.snapshot)?;
    let key = keys::snapshot(row.id, snapshot.number);
    if snapshot.clones > 0 {
        snapshot.hidden = true;
        txn.put(key, &snapshot);
    } else {
        txn.delete(key);
        has_to_sweep(txn, env.partition, row.id);
    }
    save(txn, env, &mut row);
    told(row, snapshot)
}

pub(super) fn clone(txn: &mut Txn<'_>, env: &Env, body: &CloneVolume) -> Applied {
    let parent = named(txn, env, &body.from)?;
    let mut snapshot = of_name(txn, &parent, &body.snapshot)?;
    if let Err(error) = VolumeName::new(&body.name) {
        return refuse(refusal::MALFORMED, error.to_string());
    }
    let size = if body.size == 0 { snapshot.size } else { body.size };
    if size < snapshot.size || size > SIZE_MAX {
        return refuse(
            refusal::MALFORMED,
            format!("the snapshot has {} bytes, and a volume {SIZE_MAX}", snapshot.size),
        );
    }
    let redundancy = body.redundancy.unwrap_or(parent.redundancy);
    if redundancy.policy().is_none() {
        return refuse(refusal::MALFORMED, "that redundancy is unknown here");
    }
    if txn.get_bytes(&keys::volume(&body.name))?.is_some() {
        return refuse(refusal::EXISTS, format!("there is a volume {}", body.name));
    }
    snapshot.clones += 1;
    txn.put(keys::snapshot(parent.id, snapshot.number), &snapshot);
    let id = (u64::from(env.partition.0) << 48) | txn.next(env.partition, Counter::Volume)?;
    let name = format!("{}@{}", parent.name, snapshot.name);
    let mut row = VolumeRow {
        id,
        name: body.name.clone(),
        size,
        redundancy,
        created_ms: env.now_ms,
        used: snapshot.used,
        base: Some(Base { volume: parent.id, snapshot: snapshot.number, name }),
        encryption: parent.encryption.clone(),
        ..VolumeRow::default()
    };
    txn.put_bytes(keys::volume_number(env.partition, id), row.name.clone().into_bytes());
    save(txn, env, &mut row);
    done(row)
}

/// A clone needs what it was made of no more.
pub(super) fn let_go(txn: &mut Txn<'_>, row: &mut VolumeRow) -> Result<(), Stop> {
    let Some(base) = row.base.take() else { return Ok(()) };
    let key = keys::snapshot(base.volume, base.snapshot);
    let Some(mut snapshot) = txn.get::<SnapshotRow>(&key)? else { return Ok(()) };
    snapshot.clones = snapshot.clones.saturating_sub(1);
    if snapshot.hidden && snapshot.clones == 0 {
        txn.delete(key);
        has_to_sweep(txn, Partition((base.volume >> 48) as u16), base.volume);
    } else {
        txn.put(key, &snapshot);
    }
    Ok(())
}

pub(super) fn roll_back(txn: &mut Txn<'_>, env: &Env, body: &RollBack) -> Applied {
    let mut row = owned(txn, env, body.volume, body.epoch)?;
    let snapshot = of_name(txn, &row, &body.snapshot)?;
    if of(txn, row.id)?.iter().any(|snapshot| !snapshot.ready) || body.sequence < row.sequence {
        return refuse(refusal::VOLUME_BUSY, "the indexes of its snapshots are kept first");
    }
    if body.from_order < row.from_order {
        return refuse(refusal::MALFORMED, "an older place in the journal");
    }
    // What the snapshot needs, the volume needs again.
    for (key, value) in txn.scan_prefix(&keys::volume_chunks(row.id), usize::MAX)? {
        let taken = VolumeChunkRow::from_bytes(&value)?;
        if taken.dropped > 0 && snapshot.needs(taken.born, taken.dropped) {
            txn.put(key, &VolumeChunkRow { dropped: 0, ..taken });
        }
    }
    tick(env, &mut row);
    row.root = snapshot.root.clone();
    row.used = snapshot.used;
    row.size = snapshot.size;
    row.sequence = body.sequence;
    row.from_order = body.from_order;
    save(txn, env, &mut row);
    told(row, snapshot)
}

/// Answers in `existed` whether there is more to look through.
pub(super) fn sweep(txn: &mut Txn<'_>, env: &Env, body: &SweepVolume) -> Applied {
    let key = keys::sweep(env.partition, body.volume);
    let deleted: Option<VolumeRow> = txn.get(&keys::deleted_volume(env.partition, body.volume))?;
    let cursor = match txn.get::<SweepRow>(&key)? {
        Some(cursor) => cursor,
        None if deleted.as_ref().is_some_and(|row| !row.parked) => SweepRow { after: 0 },
        None => return refuse(refusal::NO_VOLUME, "that volume is not swept"),
    };
    let more = |existed| Ok(Outcome { number: body.volume, existed, ..Outcome::default() });
    let mut snapshots = of(txn, body.volume)?;
    if deleted.is_some() && drop_snapshots(txn, body.volume, &snapshots) {
        txn.put(key, &cursor);
        return more(true);
    }
    snapshots.retain(|snapshot| deleted.is_none() || snapshot.hidden);
    let from = keys::volume_chunk(body.volume, ChunkId(cursor.after.saturating_add(1)));
    let rows = txn.scan_prefix_from(&keys::volume_chunks(body.volume), &from, PAGE)?;
    let mut after = cursor.after;
    for (chunk_key, value) in &rows {
        let taken = VolumeChunkRow::from_bytes(value)?;
        after = keys::last_u64(chunk_key).unwrap_or(after);
        let is_needed = snapshots.iter().any(|snapshot| snapshot.needs(taken.born, taken.dropped));
        if !is_needed && (taken.dropped > 0 || deleted.is_some()) {
            give_back(txn, body.volume, ChunkId(after))?;
        }
    }
    if rows.len() == PAGE {
        txn.put(key, &SweepRow { after });
        return more(true);
    }
    txn.delete(key);
    if let Some(mut row) = deleted {
        let key = keys::deleted_volume(env.partition, row.id);
        if snapshots.is_empty() {
            let_go(txn, &mut row)?;
            txn.delete(key);
        } else {
            row.parked = true;
            txn.put(key, &row);
        }
    }
    more(false)
}

/// The snapshots of a deleted volume go, some of them, or only lose their names if clones need them. Answers
/// whether there were any.
fn drop_snapshots(txn: &mut Txn<'_>, volume: u64, snapshots: &[SnapshotRow]) -> bool {
    let named: Vec<&SnapshotRow> = snapshots.iter().filter(|snapshot| !snapshot.hidden).take(PAGE).collect();
    for snapshot in &named {
        let key = keys::snapshot(volume, snapshot.number);
        if snapshot.clones > 0 {
            txn.put(key, &SnapshotRow { hidden: true, ..(*snapshot).clone() });
        } else {
            txn.delete(key);
        }
    }
    !named.is_empty()
}
