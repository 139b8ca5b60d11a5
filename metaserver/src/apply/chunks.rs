//! Chunks: grant, fence, seal, move, delete (ARCHITECTURE 4, rules 5 to 9).

use platform::planted::PlantedBug;
use proto::chunk::ShardName;
use proto::keys::{self, Counter};
use proto::meta::{
    ChunkEntry, Deleted, DiskShards, EndSession, FinishMove, GrantChunks, Outcome, RaiseEpoch, SealChunk, StartMove,
    refusal,
};
use proto::rows::{
    ChunkRow, CounterRow, DeleteRow, DiskRow, MoveRow, RedundancyRow, SessionRow, ShardRow, chunk_state, disk_state,
};
use types::ids::{ChunkId, DiskId, Partition, PlacementId, SessionId};

use super::txn::Txn;
use super::{Applied, Env, Stop, refuse};
use crate::store::StoreFault;

const ROOT: Partition = Partition(0);
/// Chunks of one grant.
const GRANT_MAX: usize = 64;

pub(super) fn chunk_row(txn: &Txn<'_>, chunk: u64) -> Result<ChunkRow, Stop> {
    match txn.get(&keys::chunk(ChunkId(chunk)))? {
        Some(row) => Ok(row),
        None => refuse(refusal::CHUNK, format!("chunk {} does not exist", ChunkId(chunk))),
    }
}

pub(super) fn live_session(txn: &Txn<'_>, session: SessionId) -> Result<(), Stop> {
    match txn.get::<SessionRow>(&keys::session(ROOT, session))? {
        Some(row) if !row.ended => Ok(()),
        _ => refuse(refusal::NO_SESSION, format!("session {session} is unknown or has ended")),
    }
}

fn in_use(txn: &Txn<'_>, disk: u64) -> Result<bool, Stop> {
    let row = txn.get::<DiskRow>(&keys::disk(DiskId(disk)))?;
    Ok(row.is_some_and(|row| row.state == disk_state::IN))
}

/// Whether a shard that is moved may go there.
fn takes_shards(txn: &Txn<'_>, disk: u64) -> Result<bool, Stop> {
    let row = txn.get::<DiskRow>(&keys::disk(DiskId(disk)))?;
    Ok(row.is_some_and(|row| row.state == disk_state::IN && !row.draining))
}

pub(super) fn grant(txn: &mut Txn<'_>, env: &Env, body: &GrantChunks) -> Applied {
    live_session(txn, SessionId(body.session))?;
    let Some(policy) = body.redundancy.policy() else { return refuse(refusal::MALFORMED, "no such redundancy") };
    if body.becomes.is_some_and(|becomes| becomes.policy().is_none()) {
        return refuse(refusal::MALFORMED, "no such redundancy to become");
    }
    if body.chunks.is_empty() || body.chunks.len() > GRANT_MAX || body.capacity == 0 {
        return refuse(refusal::MALFORMED, "grant of 0 or more than 64 chunks");
    }
    let mut granted = Vec::new();
    for planned in &body.chunks {
        if planned.disks.len() != policy.shards() {
            return refuse(refusal::MALFORMED, "a disk for each shard is needed");
        }
        let mut shards = Vec::new();
        for (index, disk) in planned.disks.iter().enumerate() {
            if !in_use(txn, *disk)? {
                return refuse(refusal::DISK, format!("disk {} is not in use", DiskId(*disk)));
            }
            let placement = txn.next(ROOT, Counter::Placement)?;
            shards.push(ShardRow { index: index as u32, placement, disk: *disk, bad: false });
        }
        let chunk = ChunkId::new(env.partition, txn.next(env.partition, Counter::Chunk)?);
        let row = ChunkRow {
            redundancy: body.redundancy,
            cell_size: body.cell_size,
            capacity: body.capacity,
            epoch: 1,
            state: chunk_state::OPEN,
            session: body.session,
            shards,
            becomes: body.becomes,
            ..ChunkRow::default()
        };
        for shard in &row.shards {
            txn.put_bytes(keys::disk_chunk(DiskId(shard.disk), chunk), Vec::new());
        }
        txn.put_bytes(keys::open_chunk(SessionId(body.session), chunk), Vec::new());
        txn.put(keys::chunk(chunk), &row);
        granted.push(ChunkEntry { chunk: chunk.0, row });
    }
    Ok(Outcome { chunks: granted, ..Outcome::default() })
}

pub(super) fn end_session(txn: &mut Txn<'_>, body: &EndSession) -> Applied {
    let session = SessionId(body.session);
    let key = keys::session(ROOT, session);
    let Some(mut row) = txn.get::<SessionRow>(&key)? else { return refuse(refusal::NO_SESSION, "no such session") };
    if row.ended {
        return Ok(Outcome::default());
    }
    row.ended = true;
    txn.put(key, &row);
    let prefix = [&[keys::table::OUTCOME][..], &ROOT.0.to_be_bytes(), &session.0.to_be_bytes()].concat();
    for (key, _) in txn.scan_prefix(&prefix, usize::MAX)? {
        txn.delete(key);
    }
    // Its open chunks stay listed as open: the leader fences and seals them; from now on no
    // command of the session can name them.
    for (key, _) in txn.scan_prefix(&keys::open_chunks(session), usize::MAX)? {
        let Some(chunk) = keys::last_u64(&key) else { continue };
        let mut row = chunk_row(txn, chunk)?;
        row.released = true;
        settle(txn, ChunkId(chunk), row)?;
    }
    Ok(Outcome::default())
}

pub(super) fn raise_epoch(txn: &mut Txn<'_>, body: &RaiseEpoch) -> Applied {
    let mut row = chunk_row(txn, body.chunk)?;
    if row.state != chunk_state::OPEN {
        return Ok(Outcome {
            refusal: refusal::CHUNK,
            text: "not open".into(),
            chunks: vec![ChunkEntry { chunk: body.chunk, row }],
            ..Outcome::default()
        });
    }
    row.epoch += 1;
    txn.put(keys::chunk(ChunkId(body.chunk)), &row);
    Ok(Outcome { number: row.epoch, chunks: vec![ChunkEntry { chunk: body.chunk, row }], ..Outcome::default() })
}

pub(super) fn seal(txn: &mut Txn<'_>, body: &SealChunk) -> Applied {
    let chunk = ChunkId(body.chunk);
    let mut row = chunk_row(txn, body.chunk)?;
    if row.state != chunk_state::OPEN {
        row.released |= body.release;
        let entry = settle(txn, chunk, row)?;
        return Ok(Outcome { chunks: vec![entry], ..Outcome::default() });
    }
    if row.epoch != body.epoch {
        return refuse(refusal::EPOCH, format!("epoch is {}", row.epoch));
    }
    let Some(policy) = row.redundancy.policy() else { return refuse(refusal::MALFORMED, "chunk without a policy") };
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for shard in row.shards.iter().copied() {
        // A disk that was declared lost meanwhile holds nothing, whatever it answered.
        let good = body.keep.contains(&shard.placement) && in_use(txn, shard.disk)?;
        if good { kept.push(shard) } else { dropped.push(shard) }
    }
    if kept.len() < policy.needed() {
        return refuse(refusal::CHUNK, "fewer shards than a read needs");
    }
    let logical = body.len.saturating_mul(policy.needed() as u64);
    if logical < row.committed_len {
        return refuse(
            refusal::CHUNK,
            format!("seal at {logical} is below a committed extent ending at {}", row.committed_len),
        );
    }
    row.state = chunk_state::SEALED;
    row.sealed_len = body.len;
    row.released |= body.release;
    row.shards = kept;
    for shard in dropped {
        forget_shard(txn, chunk, &row.shards, shard)?;
    }
    let entry = settle(txn, chunk, row)?;
    Ok(Outcome { chunks: vec![entry], ..Outcome::default() })
}

/// Queues the deletion of a shard that left the layout.
fn forget_shard(txn: &mut Txn<'_>, chunk: ChunkId, remaining: &[ShardRow], shard: ShardRow) -> Result<(), Stop> {
    if in_use(txn, shard.disk)? {
        let row = DeleteRow { disk: shard.disk, chunk: chunk.0 };
        txn.put(keys::delete(DiskId(shard.disk), PlacementId(shard.placement)), &row);
    }
    if !remaining.iter().any(|other| other.disk == shard.disk) {
        txn.delete(keys::disk_chunk(DiskId(shard.disk), chunk));
    }
    Ok(())
}

/// Writes a chunk's row with everything that follows from it: condemned when nothing can refer to
/// it any more, listed as missing shards when it has fewer good ones than its policy asks for or a
/// move is under way.
pub(super) fn settle(txn: &mut Txn<'_>, chunk: ChunkId, mut row: ChunkRow) -> Result<ChunkEntry, Stop> {
    let shards_wanted = row.redundancy.policy().map_or(0, |policy| policy.shards());
    let released = row.released || txn.planted(PlantedBug::ReclaimOfLiveSession);
    if row.state == chunk_state::SEALED && released && row.live_bytes == 0 {
        row.state = chunk_state::CONDEMNED;
        let mut gone = std::mem::take(&mut row.shards);
        if let Some(pending) = row.pending_move.take() {
            gone.extend(pending.shards);
        }
        for shard in gone {
            forget_shard(txn, chunk, &[], shard)?;
        }
    }
    // Listed until it is released: the end of the session must find it.
    if row.state != chunk_state::OPEN && row.released {
        txn.delete(keys::open_chunk(SessionId(row.session), chunk));
    }
    if row.state == chunk_state::CONDEMNED {
        txn.delete(keys::missing(chunk));
        txn.delete(keys::chunk(chunk));
    } else {
        // A chunk without bytes has nothing to rebuild; it goes when its writer releases it.
        let good = row.shards.iter().filter(|shard| !shard.bad).count();
        let lacks = row.state == chunk_state::SEALED && row.sealed_len > 0 && good < shards_wanted;
        if lacks || row.pending_move.is_some() {
            txn.put_bytes(keys::missing(chunk), Vec::new());
        } else {
            txn.delete(keys::missing(chunk));
        }
        txn.put(keys::chunk(chunk), &row);
    }
    Ok(ChunkEntry { chunk: chunk.0, row })
}

/// A disk is lost: the chunk has no shard there any more.
pub(super) fn drop_disk(txn: &mut Txn<'_>, chunk: ChunkId, disk: u64) -> Result<(), Stop> {
    txn.delete(keys::disk_chunk(DiskId(disk), chunk));
    let Some(mut row) = txn.get::<ChunkRow>(&keys::chunk(chunk))? else { return Ok(()) };
    if row.state == chunk_state::OPEN {
        // Before the seal shards are only dropped by the seal itself; the leader seals it soon.
        return Ok(());
    }
    row.shards.retain(|shard| shard.disk != disk);
    if row.pending_move.as_ref().is_some_and(|pending| pending.shards.iter().any(|shard| shard.disk == disk))
        && let Some(pending) = row.pending_move.take()
    {
        for shard in pending.shards {
            forget_shard(txn, chunk, &row.shards, shard)?;
        }
    }
    settle(txn, chunk, row)?;
    Ok(())
}

pub(super) fn start_move(txn: &mut Txn<'_>, body: &StartMove) -> Applied {
    let mut row = chunk_row(txn, body.chunk)?;
    if row.state != chunk_state::SEALED || row.pending_move.is_some() || body.shards.is_empty() {
        return refuse(refusal::CHUNK, "not sealed, or a move is pending");
    }
    let laid_out = match &body.becomes {
        Some(becomes) => Some(laid_out_anew(&row, becomes, &body.shards)?),
        None => None,
    };
    let policy = laid_out.map(|(becomes, _)| becomes).unwrap_or(row.redundancy).policy();
    let count = policy.map_or(0, |policy| policy.shards());
    let mut shards = Vec::new();
    for shard in &body.shards {
        if shard.index as usize >= count || !takes_shards(txn, shard.disk)? {
            return refuse(refusal::DISK, "no such shard or disk");
        }
        let placement = txn.next(ROOT, Counter::Placement)?;
        txn.put_bytes(keys::disk_chunk(DiskId(shard.disk), ChunkId(body.chunk)), Vec::new());
        shards.push(ShardRow { placement, bad: false, ..*shard });
    }
    let id = txn.next(ROOT, Counter::Move)?;
    row.pending_move = Some(MoveRow {
        id,
        shards,
        becomes: laid_out.map(|(becomes, _)| becomes),
        sealed_len: laid_out.map_or(0, |(_, len)| len),
    });
    let entry = settle(txn, ChunkId(body.chunk), row)?;
    Ok(Outcome { number: id, chunks: vec![entry], ..Outcome::default() })
}

/// The policy that a chunk is laid out anew by, and how long its shards are then. Its writer has
/// given it back, and `shards` are all of the new ones.
fn laid_out_anew(row: &ChunkRow, becomes: &RedundancyRow, shards: &[ShardRow]) -> Result<(RedundancyRow, u64), Stop> {
    let policies = row.redundancy.policy().zip(becomes.policy());
    let Some((now, then)) = policies.filter(|_| row.released && row.sealed_len > 0) else {
        return refuse(refusal::CHUNK, "not to be laid out anew, or not released");
    };
    if !shards.iter().map(|shard| shard.index as usize).eq(0..then.shards()) {
        return refuse(refusal::MALFORMED, "all shards of the new layout are needed, in order");
    }
    let logical = row.sealed_len.saturating_mul(now.needed() as u64);
    Ok((RedundancyRow::from(then), then.shard_len(logical, row.cell_size)))
}

pub(super) fn finish_move(txn: &mut Txn<'_>, body: &FinishMove) -> Applied {
    let chunk = ChunkId(body.chunk);
    let mut row = chunk_row(txn, body.chunk)?;
    let any = txn.planted(PlantedBug::MoveNotPending);
    let Some(pending) = row.pending_move.take_if(|pending| pending.id == body.id || any) else {
        return refuse(refusal::CHUNK, "that move is not pending");
    };
    let gone: Vec<ShardRow> = if let Some(becomes) = pending.becomes.filter(|_| body.commit) {
        // Extents name logical bytes, which stay where they are.
        row.redundancy = becomes;
        row.sealed_len = pending.sealed_len;
        row.becomes = None;
        std::mem::replace(&mut row.shards, pending.shards)
    } else if body.commit {
        let moved = |shard: &ShardRow| pending.shards.iter().any(|new| new.index == shard.index);
        let (old, kept): (Vec<ShardRow>, Vec<ShardRow>) = row.shards.iter().copied().partition(moved);
        row.shards = kept;
        row.shards.extend(pending.shards.iter().copied());
        row.shards.sort_by_key(|shard| shard.index);
        old
    } else {
        pending.shards
    };
    for shard in gone {
        forget_shard(txn, chunk, &row.shards, shard)?;
    }
    let entry = settle(txn, chunk, row)?;
    Ok(Outcome { chunks: vec![entry], ..Outcome::default() })
}

pub(super) fn deleted(txn: &mut Txn<'_>, body: &Deleted) -> Applied {
    for placement in &body.placements {
        txn.delete(keys::delete(DiskId(body.disk), PlacementId(*placement)));
    }
    Ok(Outcome::default())
}

/// Marks shards whose bytes are damaged or gone: they stay until they are replaced, since what is
/// left of them may be needed, but they count as missing.
pub(super) fn mark_bad(txn: &mut Txn<'_>, body: &DiskShards) -> Applied {
    for name in &body.shards {
        let Some(mut row) = txn.get::<ChunkRow>(&keys::chunk(ChunkId(name.chunk)))? else { continue };
        let found = row.shards.iter_mut().find(|shard| shard.placement == name.placement && shard.disk == body.disk);
        let Some(shard) = found.filter(|shard| !shard.bad) else { continue };
        shard.bad = true;
        settle(txn, ChunkId(name.chunk), row)?;
    }
    Ok(Outcome::default())
}

/// Queues the deletion of shards that a disk holds and no chunk names. Numbers that were never
/// given out are left alone: they belong to a state that is not this one.
pub(super) fn drop_unknown(txn: &mut Txn<'_>, body: &DiskShards) -> Applied {
    if !in_use(txn, body.disk)? {
        return refuse(refusal::DISK, "the disk is not in use");
    }
    for name in &body.shards {
        if given_out(txn, name)? && !is_named(txn, body.disk, name)? {
            let row = DeleteRow { disk: body.disk, chunk: name.chunk };
            txn.put(keys::delete(DiskId(body.disk), PlacementId(name.placement)), &row);
        }
    }
    Ok(Outcome::default())
}

/// Whether chunk and placement are numbers this cluster has given out.
pub(crate) fn given_out(txn: &Txn<'_>, name: &ShardName) -> Result<bool, StoreFault> {
    let chunk = ChunkId(name.chunk);
    let number = name.chunk & 0x0000_ffff_ffff_ffff;
    let last = |partition, which| {
        Ok::<u64, StoreFault>(txn.get::<CounterRow>(&keys::counter(partition, which))?.map_or(0, |row| row.last))
    };
    Ok(number <= last(chunk.partition(), Counter::Chunk)? && name.placement <= last(ROOT, Counter::Placement)?)
}

/// Whether the chunk has, awaits or is about to delete this shard on this disk.
pub(crate) fn is_named(txn: &Txn<'_>, disk: u64, name: &ShardName) -> Result<bool, StoreFault> {
    let delete = keys::delete(DiskId(disk), PlacementId(name.placement));
    if txn.get::<DeleteRow>(&delete)?.is_some() {
        return Ok(true);
    }
    let Some(row) = txn.get::<ChunkRow>(&keys::chunk(ChunkId(name.chunk)))? else { return Ok(false) };
    let pending = row.pending_move.iter().flat_map(|pending| &pending.shards);
    let mut all = row.shards.iter().chain(pending);
    Ok(all.any(|shard| shard.placement == name.placement && shard.disk == disk))
}
