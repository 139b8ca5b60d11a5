//! References from blobs to chunks: they appear and go in the same batch as what needs them.

use platform::planted::PlantedBug;
use proto::keys::{self, Counter};
use proto::meta::{MoveExtents, NewBody, Outcome, refusal};
use proto::rows::{BlobRef, BlobRow, BodyRow, ExtentRow, chunk_state};
use types::ids::{BlobId, ChunkId};

use super::chunks::{chunk_row, live_session, settle};
use super::txn::Txn;
use super::{Applied, Env, Stop, refuse};

/// The most bytes that ride inside a row.
const INLINE_MAX: usize = 64 << 10;
/// The most extents of one blob.
const EXTENTS_MAX: usize = 100_000;

/// Turns bytes that a writer has stored into a body: checks that its session lives and that none
/// of its chunks is condemned or sealed below them, and notes the references.
pub(super) fn take(txn: &mut Txn<'_>, env: &Env, new: &NewBody) -> Result<BodyRow, Stop> {
    if new.extents.is_empty() {
        if new.inline.len() as u64 != new.size || new.inline.len() > INLINE_MAX {
            return refuse(refusal::MALFORMED, "inline bytes and size disagree");
        }
        if new.inline.is_empty() {
            return Ok(BodyRow::default());
        }
        let blob = BlobId(txn.next(env.partition, Counter::Blob)?);
        txn.put(keys::blob(env.partition, blob), &BlobRow { extents: Vec::new(), inline: new.inline.clone() });
        return Ok(BodyRow { blobs: vec![BlobRef { blob: blob.0, len: new.size }] });
    }
    if !new.inline.is_empty() || new.extents.len() > EXTENTS_MAX {
        return refuse(refusal::MALFORMED, "both inline bytes and extents, or too many");
    }
    if !txn.planted(PlantedBug::CommitOfEndedSession) {
        live_session(txn, env.session)?;
    }
    let mut at = 0;
    for extent in &new.extents {
        if extent.logical != at || extent.len == 0 {
            return refuse(refusal::MALFORMED, "extents have gaps");
        }
        at += extent.len;
    }
    if at != new.size {
        return refuse(refusal::MALFORMED, "extents and size disagree");
    }
    let blob = BlobId(txn.next(env.partition, Counter::Blob)?);
    for extent in &new.extents {
        refer(txn, env, blob, extent)?;
    }
    txn.put(keys::blob(env.partition, blob), &BlobRow { extents: new.extents.clone(), inline: bytes::Bytes::new() });
    Ok(BodyRow { blobs: vec![BlobRef { blob: blob.0, len: new.size }] })
}

/// Notes that a blob uses bytes that the session has stored: its chunk must be its own, not
/// released, not condemned, and not sealed below them.
fn refer(txn: &mut Txn<'_>, env: &Env, blob: BlobId, extent: &ExtentRow) -> Result<(), Stop> {
    let chunk = ChunkId(extent.chunk);
    if chunk.partition() != env.partition {
        return refuse(refusal::CHUNK, "chunk of another partition");
    }
    if txn.planted(PlantedBug::CommitOfEndedSession) && txn.get_bytes(&keys::chunk(chunk))?.is_none() {
        txn.put_bytes(keys::reference(chunk, extent.offset, blob), Vec::new());
        return Ok(());
    }
    let mut row = chunk_row(txn, extent.chunk)?;
    let end = extent.offset.saturating_add(extent.len);
    let needed = row.redundancy.policy().map_or(1, |policy| policy.needed()) as u64;
    let sealed_below = row.state == chunk_state::SEALED && end > row.sealed_len.saturating_mul(needed);
    let released = row.released && !txn.planted(PlantedBug::CommitOfEndedSession);
    if row.session != env.session.0 || released || row.state == chunk_state::CONDEMNED || sealed_below {
        return refuse(refusal::CHUNK, format!("chunk {chunk} cannot be referred to by this session at {end}"));
    }
    row.committed_len = row.committed_len.max(end);
    row.live_bytes += extent.len;
    txn.put(keys::chunk(chunk), &row);
    txn.put_bytes(keys::reference(chunk, extent.offset, blob), Vec::new());
    Ok(())
}

/// Bytes of a chunk are used no more by a blob; a chunk nothing refers to is condemned.
fn unrefer(txn: &mut Txn<'_>, blob: BlobId, extent: &ExtentRow) -> Result<(), Stop> {
    let chunk = ChunkId(extent.chunk);
    txn.delete(keys::reference(chunk, extent.offset, blob));
    let mut row = chunk_row(txn, extent.chunk)?;
    row.live_bytes = row.live_bytes.saturating_sub(extent.len);
    settle(txn, chunk, row)?;
    Ok(())
}

/// Compaction: points blobs at copies of their bytes. Each move is a compare-and-set on the blob's
/// extent: what was deleted or moved meanwhile is skipped, its copy is dead. Answers how many were
/// moved.
pub(super) fn move_extents(txn: &mut Txn<'_>, env: &Env, body: &MoveExtents) -> Applied {
    live_session(txn, env.session)?;
    if ChunkId(body.chunk).partition() != env.partition || body.moves.len() > EXTENTS_MAX {
        return refuse(refusal::CHUNK, "chunk of another partition, or too many extents");
    }
    let mut moved = 0;
    for one in &body.moves {
        let (key, blob) = (keys::blob(env.partition, BlobId(one.blob)), BlobId(one.blob));
        let mut at = one.old.logical;
        for extent in &one.new {
            if extent.logical != at || extent.len == 0 || extent.chunk == body.chunk {
                return refuse(refusal::MALFORMED, "extents have gaps, or stay where they are");
            }
            at += extent.len;
        }
        if at != one.old.logical.saturating_add(one.old.len) || one.old.chunk != body.chunk {
            return refuse(refusal::MALFORMED, "extents do not stand for the old one");
        }
        let Some(mut row) = txn.get::<BlobRow>(&key)? else { continue };
        let Some(place) = row.extents.iter().position(|extent| *extent == one.old) else { continue };
        if row.extents.len() + one.new.len() > EXTENTS_MAX {
            continue;
        }
        for extent in &one.new {
            refer(txn, env, blob, extent)?;
        }
        row.extents.splice(place..=place, one.new.iter().copied());
        txn.put(key, &row);
        unrefer(txn, blob, &one.old)?;
        moved += 1;
    }
    Ok(Outcome { number: moved, ..Outcome::default() })
}

/// Gives a body's bytes back; chunks nothing refers to any more are condemned. Answers how many
/// extents there were.
pub(super) fn release(txn: &mut Txn<'_>, env: &Env, body: &BodyRow) -> Result<usize, Stop> {
    let mut extents = 0;
    if txn.planted(PlantedBug::ReferencesKept) {
        return Ok(extents);
    }
    for part in &body.blobs {
        let blob = BlobId(part.blob);
        let key = keys::blob(env.partition, blob);
        let Some(row) = txn.get::<BlobRow>(&key)? else { continue };
        txn.delete(key);
        for extent in &row.extents {
            unrefer(txn, blob, extent)?;
        }
        extents += row.extents.len();
    }
    Ok(extents)
}
