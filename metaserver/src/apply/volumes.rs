//! Volumes: who owns them, which chunks their journals have, where their index lies.
//!
//! Invariants: what an owner of a lower epoch, or of another session, asks for is refused, so the journal
//! of a volume has one writer; a chunk of a journal stays until its owner drops it or the volume is
//! deleted, however the owner ends; an index is replaced only by one that stands for more records.

use proto::keys::{self, Counter};
use proto::level;
use proto::meta::{Outcome, refusal};
use proto::rows::{ExtentRow, SessionRow, chunk_state};
use proto::volume::{
    AttachVolume, Checkpoint, CreateVolume, DeleteVolume, DetachVolume, PurgeVolume, RenameVolume, ResizeVolume,
    SetQos, TakeChunks, VolumeChunkRow, VolumeRow,
};
use types::ids::{ChunkId, Partition, SessionId};
use types::volume::{SIZE_MAX, VolumeName};

use super::chunks::{chunk_row, live_session, settle};
use super::snapshots;
use super::txn::Txn;
use super::txn::prost_free::Row;
use super::{Applied, Env, Stop, refuse};

/// Chunks that one command gives back, takes or drops at most.
const PAGE: usize = 256;
/// Pieces of an index's root at most.
const ROOT_MAX: usize = 4096;

/// The volume of a name, which must lie in the command's partition.
pub(super) fn named(txn: &Txn<'_>, env: &Env, name: &str) -> Result<VolumeRow, Stop> {
    match txn.get::<VolumeRow>(&keys::volume(name))? {
        None => refuse(refusal::NO_VOLUME, format!("there is no volume {name}")),
        Some(row) if (row.id >> 48) as u16 != env.partition.0 => {
            refuse(refusal::MALFORMED, "volume of another partition")
        }
        Some(row) => Ok(row),
    }
}

/// The volume that the command's session owns by this epoch.
pub(super) fn owned(txn: &Txn<'_>, env: &Env, volume: u64, epoch: u64) -> Result<VolumeRow, Stop> {
    live_session(txn, env.session)?;
    let name = txn.get_bytes(&keys::volume_number(env.partition, volume))?;
    let Some(name) = name.and_then(|name| String::from_utf8(name).ok()) else {
        return refuse(refusal::NO_VOLUME, "there is no such volume");
    };
    let row = named(txn, env, &name)?;
    if row.epoch != epoch || row.session != env.session.0 {
        return refuse(refusal::VOLUME_FENCED, format!("volume {name} belongs to {} now", row.owner));
    }
    Ok(row)
}

pub(super) fn done(row: VolumeRow) -> Applied {
    Ok(Outcome { number: row.epoch, volume: Some(row), ..Outcome::default() })
}

/// Writes a volume's row, of a new revision.
pub(super) fn save(txn: &mut Txn<'_>, env: &Env, row: &mut VolumeRow) {
    row.revision += u64::from(env.level >= level::SNAPSHOTS);
    txn.put(keys::volume(&row.name), row);
}

/// The next tick of a volume's clock.
pub(super) fn tick(env: &Env, row: &mut VolumeRow) -> u64 {
    row.ticks += u64::from(env.level >= level::SNAPSHOTS);
    row.ticks
}

pub(super) fn create(txn: &mut Txn<'_>, env: &Env, body: &CreateVolume) -> Applied {
    if let Err(error) = VolumeName::new(&body.name) {
        return refuse(refusal::MALFORMED, error.to_string());
    }
    if body.size == 0 || body.size > SIZE_MAX || body.redundancy.policy().is_none() {
        return refuse(refusal::MALFORMED, format!("a volume has 1 to {SIZE_MAX} bytes"));
    }
    if txn.get_bytes(&keys::volume(&body.name))?.is_some() {
        return refuse(refusal::EXISTS, format!("there is a volume {}", body.name));
    }
    let id = (u64::from(env.partition.0) << 48) | txn.next(env.partition, Counter::Volume)?;
    let row = VolumeRow {
        id,
        name: body.name.clone(),
        size: body.size,
        redundancy: body.redundancy,
        created_ms: env.now_ms,
        encryption: body.encryption.clone(),
        ..VolumeRow::default()
    };
    txn.put(keys::volume(&row.name), &row);
    txn.put_bytes(keys::volume_number(env.partition, id), row.name.clone().into_bytes());
    done(row)
}

pub(super) fn is_attached(txn: &Txn<'_>, row: &VolumeRow) -> Result<bool, Stop> {
    let session = txn.get::<SessionRow>(&keys::session(Partition(0), SessionId(row.session)))?;
    Ok(row.session != 0 && session.is_some_and(|session| !session.ended))
}

pub(super) fn delete(txn: &mut Txn<'_>, env: &Env, body: &DeleteVolume) -> Applied {
    let row = named(txn, env, &body.name)?;
    if is_attached(txn, &row)? {
        return refuse(refusal::VOLUME_BUSY, format!("volume {} is attached by {}", row.name, row.owner));
    }
    if snapshots::of(txn, row.id)?.iter().any(|snapshot| !snapshot.ready && snapshot.clones > 0) {
        let text = format!("a clone needs a snapshot of {} whose index is not kept yet: attach it once", row.name);
        return refuse(refusal::VOLUME_BUSY, text);
    }
    txn.delete(keys::volume(&row.name));
    txn.delete(keys::volume_number(env.partition, row.id));
    // Without its key what its chunks hold is noise, whenever they go; clones have the key in rows of their own.
    let row = VolumeRow { deleting: true, encryption: None, ..row };
    txn.put(keys::deleted_volume(env.partition, row.id), &row);
    done(row)
}

pub(super) fn rename(txn: &mut Txn<'_>, env: &Env, body: &RenameVolume) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    if let Err(error) = VolumeName::new(&body.to) {
        return refuse(refusal::MALFORMED, error.to_string());
    }
    if is_attached(txn, &row)? {
        return refuse(refusal::VOLUME_BUSY, format!("volume {} is attached by {}", row.name, row.owner));
    }
    if txn.get_bytes(&keys::volume(&body.to))?.is_some() {
        return refuse(refusal::EXISTS, format!("there is a volume {}", body.to));
    }
    txn.delete(keys::volume(&row.name));
    row.name = body.to.clone();
    txn.put_bytes(keys::volume_number(env.partition, row.id), row.name.clone().into_bytes());
    save(txn, env, &mut row);
    done(row)
}

pub(super) fn set_qos(txn: &mut Txn<'_>, env: &Env, body: &SetQos) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    row.qos = body.qos;
    save(txn, env, &mut row);
    done(row)
}

/// Answers in `existed` whether something is left.
pub(super) fn purge(txn: &mut Txn<'_>, env: &Env, body: &PurgeVolume) -> Applied {
    let key = keys::deleted_volume(env.partition, body.volume);
    if txn.get_bytes(&key)?.is_none() {
        return refuse(refusal::NO_VOLUME, "that volume is not being deleted");
    }
    let rows = txn.scan_prefix(&keys::volume_chunks(body.volume), PAGE)?;
    for (key, _) in &rows {
        if let Some(chunk) = keys::last_u64(key) {
            give_back(txn, body.volume, ChunkId(chunk))?;
        }
    }
    let is_left = rows.len() == PAGE;
    if !is_left {
        txn.delete(key);
    }
    Ok(Outcome { number: body.volume, existed: is_left, ..Outcome::default() })
}

pub(super) fn resize(txn: &mut Txn<'_>, env: &Env, body: &ResizeVolume) -> Applied {
    let mut row = named(txn, env, &body.name)?;
    let is_owner = row.epoch == body.epoch && row.session == env.session.0 && row.session != 0;
    if body.size == 0 || body.size > SIZE_MAX {
        return refuse(refusal::MALFORMED, format!("a volume has 1 to {SIZE_MAX} bytes"));
    }
    if body.size < row.size && !is_owner {
        return refuse(refusal::VOLUME_BUSY, "only who has a volume attached can shrink it");
    }
    row.size = body.size;
    save(txn, env, &mut row);
    done(row)
}

pub(super) fn attach(txn: &mut Txn<'_>, env: &Env, body: &AttachVolume) -> Applied {
    live_session(txn, env.session)?;
    let mut row = named(txn, env, &body.name)?;
    if is_attached(txn, &row)? && !body.take_over && row.session != env.session.0 {
        let text = format!("volume {} is attached by {}", row.name, row.owner);
        return Ok(Outcome { refusal: refusal::VOLUME_BUSY, text, volume: Some(row), ..Outcome::default() });
    }
    if env.level >= level::SNAPSHOTS && body.only_epoch > 0 && row.epoch != body.only_epoch {
        return refuse(refusal::VOLUME_FENCED, format!("volume {} was attached by {} since", row.name, row.owner));
    }
    row.epoch += 1;
    row.session = env.session.0;
    row.owner = body.owner.clone();
    row.clean = false;
    save(txn, env, &mut row);
    done(row)
}

pub(super) fn detach(txn: &mut Txn<'_>, env: &Env, body: &DetachVolume) -> Applied {
    let mut row = owned(txn, env, body.volume, body.epoch)?;
    row.session = 0;
    row.clean = env.level >= level::SNAPSHOTS && row.sequence == body.sequence;
    row.wanted.clear();
    save(txn, env, &mut row);
    done(row)
}

pub(super) fn take_chunks(txn: &mut Txn<'_>, env: &Env, body: &TakeChunks) -> Applied {
    let mut row = owned(txn, env, body.volume, body.epoch)?;
    if body.chunks.is_empty() || body.chunks.len() > PAGE {
        return refuse(refusal::MALFORMED, "1 to 256 chunks are taken at once");
    }
    let born = tick(env, &mut row);
    for chunk in &body.chunks {
        let id = ChunkId(*chunk);
        let mut chunk = chunk_row(txn, *chunk)?;
        let key = keys::volume_chunk(row.id, id);
        let is_free = chunk.session == env.session.0 && !chunk.released && chunk.live_bytes == 0;
        if !is_free || chunk.state != chunk_state::OPEN || txn.get_bytes(&key)?.is_some() {
            return refuse(refusal::CHUNK, format!("chunk {id} is not this session's, or in use"));
        }
        // The volume knows what of it is alive; to everybody else all of it is.
        chunk.live_bytes = chunk.capacity;
        chunk.of_volume = true;
        txn.put(keys::chunk(id), &chunk);
        txn.put(key, &VolumeChunkRow { order: row.next_order, bytes: chunk.capacity, born, dropped: 0 });
        row.next_order += 1;
    }
    save(txn, env, &mut row);
    done(row)
}

/// A chunk is needed no more. It goes when it is sealed and its writer has released it.
pub(super) fn give_back(txn: &mut Txn<'_>, volume: u64, id: ChunkId) -> Result<(), Stop> {
    let key = keys::volume_chunk(volume, id);
    let Some(taken) = txn.get::<VolumeChunkRow>(&key)? else {
        return refuse(refusal::CHUNK, format!("chunk {id} is not in the volume's journal"));
    };
    txn.delete(key);
    let mut row = chunk_row(txn, id.0)?;
    row.live_bytes = row.live_bytes.saturating_sub(taken.bytes);
    settle(txn, id, row)?;
    Ok(())
}

pub(super) fn checkpoint(txn: &mut Txn<'_>, env: &Env, body: &Checkpoint) -> Applied {
    let mut row = owned(txn, env, body.volume, body.epoch)?;
    if body.sequence < row.sequence
        || body.from_order < row.from_order
        || body.root.len() > ROOT_MAX
        || body.drop.len() > PAGE
    {
        return refuse(refusal::MALFORMED, "an older index, too many pieces, or too many chunks at once");
    }
    for piece in &body.root {
        let ExtentRow { chunk, offset, len, .. } = *piece;
        let is_kept = !body.drop.contains(&chunk)
            && txn
                .get::<VolumeChunkRow>(&keys::volume_chunk(row.id, ChunkId(chunk)))?
                .is_some_and(|row| row.dropped == 0)
            && offset.saturating_add(len) <= chunk_row(txn, chunk)?.capacity;
        if !is_kept {
            return refuse(refusal::CHUNK, "the index lies in a chunk that is not the volume's");
        }
    }
    let now = tick(env, &mut row);
    let kept = snapshots::checkpointed(txn, &row, body, now)?;
    for chunk in &body.drop {
        snapshots::drop_chunk(txn, row.id, ChunkId(*chunk), &kept, now)?;
    }
    row.root = body.root.clone();
    row.sequence = body.sequence;
    row.used = body.used;
    row.from_order = body.from_order;
    if body.is_alone && kept.is_empty() {
        snapshots::let_go(txn, &mut row)?;
    }
    save(txn, env, &mut row);
    done(row)
}

/// The chunks of a volume behind `after`, a page of them.
///
/// # Errors
/// The store is damaged.
pub(crate) fn chunks_after(
    txn: &Txn<'_>,
    volume: u64,
    after: u64,
) -> Result<Vec<proto::volume::VolumeChunk>, crate::store::StoreFault> {
    let from = keys::volume_chunk(volume, ChunkId(after.saturating_add(1)));
    let rows = txn.scan_prefix_from(&keys::volume_chunks(volume), &from, PAGE)?;
    let chunk = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let chunk = keys::last_u64(key).unwrap_or(0);
        Ok(proto::volume::VolumeChunk { chunk, row: VolumeChunkRow::from_bytes(value)? })
    };
    rows.iter().map(chunk).collect()
}
