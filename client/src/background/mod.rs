//! The background executor: does what the metaserver plans and leases, through the same shards.
//!
//! It runs beside every chunkserver. A repair reads what is left, rebuilds the missing shards on
//! their new placements, seals them there, reads them back and reports; the move is committed in
//! Raft or it never happened, and a crash in the middle leaves placements that the metaserver
//! deletes. A transcode (`transcode`) does the same with all shards of a chunk. A compaction (`compact`) moves what is alive out of a mostly dead chunk. Bytes flow
//! within a budget, so that users' requests have the rest.

mod compact;
mod transcode;

use std::time::Duration;

use bytes::Bytes;
use platform::clock::Instant;
use proto::meta::{ChunkEntry, FinishMove};
use proto::rows::{ChunkRow, ShardRow};
use types::checksum::crc64;
use types::ids::ChunkId;
use types::redundancy::Redundancy;

use self::compact::Compactor;
use self::transcode::Transcoder;
use crate::chunk::reader::ChunkReader;
use crate::chunk::shards::Shards;
use crate::chunk::writer::ChunkWriter;
use crate::meta::MetaClient;

/// Bytes of a shard rebuilt in one step.
const STEP: u64 = 1 << 20;
/// Bytes a second that one executor writes, and reads back, at most.
const BUDGET: u64 = 128 << 20;
/// Pause when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// Executes background jobs for ever.
pub async fn run(meta: MetaClient, shards: Shards, reader: ChunkReader) {
    let clock = meta.platform().clock().clone();
    let writer = ChunkWriter::from_reserve(meta.clone(), shards.clone());
    meta.platform().tasks().spawn(follow_policy(meta.clone(), writer.clone()));
    let transcoder =
        Transcoder { meta: meta.clone(), shards: shards.clone(), reader: reader.clone(), writer: writer.clone() };
    let compactor = Compactor { meta: meta.clone(), reader: reader.clone(), writer };
    let (mut done, mut compacted) = (None, None);
    loop {
        match meta.lease_job(done.take(), compacted.take()).await {
            Ok(job) => match job.chunk {
                Some(entry) if entry.row.pending_move.is_none() => match compactor.compact(&entry, &job.live).await {
                    Ok(moved) => {
                        tracing::info!(chunk = %ChunkId(entry.chunk), moved, "live bytes of a chunk were moved");
                        // Nothing moved: not at once again.
                        compacted = (moved > 0).then_some(entry.chunk);
                    }
                    Err(why) => {
                        tracing::warn!(chunk = %ChunkId(entry.chunk), %why, "chunk could not be compacted");
                        clock.sleep(IDLE).await;
                    }
                },
                Some(entry) => {
                    let finish = carry_out(&transcoder, entry).await;
                    if !finish.commit {
                        // The same repair would be leased at once and fail again.
                        clock.sleep(IDLE).await;
                    }
                    done = Some(finish);
                }
                None => clock.sleep(IDLE).await,
            },
            Err(error) => {
                tracing::debug!(%error, "no job could be leased");
                clock.sleep(IDLE).await;
            }
        }
    }
}

/// Chunks of any policy are compacted; when the cluster's changes, those kept open for others are given back.
async fn follow_policy(meta: MetaClient, writer: ChunkWriter) {
    let mut known = None;
    loop {
        let policy = meta.policy_later().await;
        if known.replace(policy) != Some(policy) {
            writer.keep_only(policy);
        }
    }
}

/// Carries out the move that is pending for a chunk; answers whether it can be committed.
async fn carry_out(transcoder: &Transcoder, entry: ChunkEntry) -> FinishMove {
    let chunk = ChunkId(entry.chunk);
    let pending = entry.row.pending_move.clone().unwrap_or_default();
    let Transcoder { meta, shards, reader, .. } = transcoder;
    if pending.becomes.is_some() {
        let done = transcoder.transcode(chunk, &entry.row, &pending).await;
        match &done {
            Ok(()) => meta.platform().reached("chunk is transcoded"),
            Err(why) => tracing::warn!(%chunk, %why, "chunk could not be transcoded"),
        }
        return FinishMove { chunk: entry.chunk, id: pending.id, commit: done.is_ok() };
    }
    let mut finish = FinishMove { chunk: entry.chunk, id: pending.id, commit: true };
    for shard in &pending.shards {
        if let Err(why) = rebuild_shard(meta, shards, reader, chunk, &entry.row, *shard).await {
            tracing::warn!(%chunk, index = shard.index, %why, "shard could not be rebuilt");
            finish.commit = false;
            break;
        }
        meta.platform().reached("shard is rebuilt");
    }
    finish
}

async fn rebuild_shard(
    meta: &MetaClient,
    shards: &Shards,
    reader: &ChunkReader,
    chunk: ChunkId,
    row: &ChunkRow,
    target: ShardRow,
) -> Result<(), String> {
    let (epoch, len) = (row.epoch, row.sealed_len);
    if len == 0 {
        // An empty shard is created by its fence; a seal needs it to exist.
        return Err("chunk is empty".into());
    }
    let mut sums = Vec::new();
    for (at, upto) in steps(len) {
        let began = meta.platform().clock().now();
        let bytes = source(shards, meta, reader, chunk, row, target.index, at, upto).await?;
        sums.push(crc64(&bytes));
        let request = meta.peers().new_request();
        shards.append(chunk.0, target, epoch, at, bytes, false, request).await.map_err(|error| error.to_string())?;
        pace(meta, began, upto - at).await;
    }
    let request = meta.peers().new_request();
    let sealed = shards.seal(chunk.0, target, epoch, len, request).await.map_err(|error| error.to_string())?;
    if sealed.len != len || !sealed.sealed {
        return Err("target sealed at another length".into());
    }
    // The old shard goes when this one is reported: it must be there, as the device gives it back.
    for ((at, upto), sum) in steps(len).zip(sums) {
        let began = meta.platform().clock().now();
        let request = meta.peers().new_request();
        let read = shards.read(chunk.0, target, at, (upto - at) as u32, request).await;
        if crc64(&read.map_err(|error| error.to_string())?) != sum {
            return Err(format!("shard reads back other bytes at {at}"));
        }
        pace(meta, began, upto - at).await;
    }
    Ok(())
}

/// A shard of `len` bytes in pieces.
fn steps(len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(STEP)).map(move |step| (step * STEP, len.min((step + 1) * STEP)))
}

/// Waits until `bytes` that began at `began` have taken what the budget asks for.
async fn pace(meta: &MetaClient, began: Instant, bytes: u64) {
    let clock = meta.platform().clock();
    let due = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / BUDGET);
    let took = clock.now().saturating_since(began);
    if took < due {
        clock.sleep(due - took).await;
    }
}

/// A part of shard `index`: from the shard that is to be replaced if it has it, else from the others.
#[expect(clippy::too_many_arguments, reason = "where from, which part")]
async fn source(
    shards: &Shards,
    meta: &MetaClient,
    reader: &ChunkReader,
    chunk: ChunkId,
    row: &ChunkRow,
    index: u32,
    start: u64,
    end: u64,
) -> Result<Bytes, String> {
    let is_copies = match row.redundancy.policy() {
        Some(policy) => matches!(policy, Redundancy::Copies(_)),
        None => return Err("chunk without a policy".into()),
    };
    let mut last = "no shard is left".to_owned();
    let mut direct: Vec<ShardRow> =
        row.shards.iter().filter(|shard| is_copies || shard.index == index).copied().collect();
    // Good ones first; every read is verified, so what a bad one gives is right.
    direct.sort_by_key(|shard| (shard.bad, shards.disks().is_suspect(shard.disk)));
    for shard in direct {
        let request = meta.peers().new_request();
        match shards.read(chunk.0, shard, start, (end - start) as u32, request).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = error.to_string(),
        }
    }
    match row.redundancy.policy() {
        Some(Redundancy::Erasure { data, parity }) => {
            reader.rebuild(chunk, row, (data, parity), index as usize, start, end).await
        }
        _ => Err(last),
    }
}
