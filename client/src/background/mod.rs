//! The background executor: does what the metaserver plans and leases, through the same shards.
//!
//! It runs beside every chunkserver. A repair reads what is left, rebuilds the missing shards on
//! their new placements, seals them there and reports; the move is committed in Raft or it never
//! happened, and a crash in the middle leaves placements that the metaserver deletes.

use std::time::Duration;

use bytes::Bytes;
use proto::meta::{ChunkEntry, FinishMove};
use proto::rows::{ChunkRow, ShardRow};
use types::ids::ChunkId;
use types::redundancy::Redundancy;

use crate::chunk::reader::ChunkReader;
use crate::chunk::shards::Shards;
use crate::meta::MetaClient;

/// Bytes of a shard rebuilt in one step.
const STEP: u64 = 1 << 20;
/// Pause when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// Executes background jobs for ever.
pub async fn run(meta: MetaClient, shards: Shards, reader: ChunkReader) {
    let clock = meta.platform().clock().clone();
    let mut done = None;
    loop {
        match meta.lease_job(done.take()).await {
            Ok(job) => match job.chunk {
                Some(entry) => {
                    let finish = repair(&meta, &shards, &reader, entry).await;
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

async fn repair(meta: &MetaClient, shards: &Shards, reader: &ChunkReader, entry: ChunkEntry) -> FinishMove {
    let chunk = ChunkId(entry.chunk);
    let pending = entry.row.pending_move.clone().unwrap_or_default();
    let mut finish = FinishMove { chunk: entry.chunk, id: pending.id, commit: true };
    for shard in &pending.shards {
        if let Err(why) = rebuild_shard(meta, shards, reader, chunk, &entry.row, *shard).await {
            tracing::warn!(%chunk, index = shard.index, %why, "shard could not be rebuilt");
            finish.commit = false;
            break;
        }
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
    let epoch = row.epoch;
    let len = row.sealed_len;
    let mut at = 0;
    while at < len {
        let upto = len.min(at + STEP);
        let bytes = source(shards, meta, reader, chunk, row, target.index, at, upto).await?;
        let request = meta.peers().new_request();
        shards.append(chunk.0, target, epoch, at, bytes, request).await.map_err(|error| error.to_string())?;
        at = upto;
    }
    let request = meta.peers().new_request();
    if len == 0 {
        // An empty shard is created by its fence; a seal needs it to exist.
        return Err("chunk is empty".into());
    }
    let sealed = shards.seal(chunk.0, target, epoch, len, request).await.map_err(|error| error.to_string())?;
    if sealed.len == len && sealed.sealed { Ok(()) } else { Err("target sealed at another length".into()) }
}

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
    match row.redundancy.policy() {
        Some(Redundancy::Erasure { data, parity }) => {
            reader.rebuild(chunk, row, (data, parity), index as usize, start, end).await
        }
        Some(Redundancy::Copies(_)) => {
            let mut last = "no shard is left".to_owned();
            for shard in &row.shards {
                let request = meta.peers().new_request();
                match shards.read(chunk.0, *shard, start, (end - start) as u32, request).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(last)
        }
        None => Err("chunk without a policy".into()),
    }
}
