//! Transcode: a full chunk of copies becomes stripes. Its logical bytes are laid out anew on the
//! placements of the pending move, sealed there and read back; then the move's commit exchanges
//! layout and shards in one batch, and extents stay as they are. A crash in the middle leaves
//! placements that the metaserver deletes.

use bytes::Bytes;
use futures_util::future::try_join_all;
use platform::buffer::Buffer;
use proto::rows::{ChunkRow, MoveRow};
use types::checksum::crc64;
use types::ids::ChunkId;
use types::redundancy::Redundancy;

use super::{STEP, pace};
use crate::chunk::reader::{ChunkReader, READ_MAX};
use crate::chunk::shards::Shards;
use crate::chunk::writer::ChunkWriter;
use crate::meta::MetaClient;

/// Lays chunks out anew.
pub(super) struct Transcoder {
    pub meta: MetaClient,
    pub shards: Shards,
    pub reader: ChunkReader,
    /// For its arithmetic; it appends nothing here.
    pub writer: ChunkWriter,
}

impl Transcoder {
    /// Builds all shards of the move.
    pub(super) async fn transcode(&self, chunk: ChunkId, row: &ChunkRow, pending: &MoveRow) -> Result<(), String> {
        let then = pending.becomes.and_then(|becomes| becomes.policy());
        let (Some(now), Some(then)) = (row.redundancy.policy(), then) else { return Err("no such policy".into()) };
        let logical = row.sealed_len * now.needed() as u64;
        let cell = row.cell_size.max(1);
        // Rows of cells of one step.
        let step = (STEP / cell).max(1) * cell;
        let mut sums: Vec<Vec<u64>> = Vec::new();
        let mut at = 0;
        while at < pending.sealed_len {
            let began = self.meta.platform().clock().now();
            let upto = pending.sealed_len.min(at + step);
            let columns = self.columns(chunk, then, cell, logical, (at, upto)).await?;
            sums.push(columns.iter().map(|column| crc64(column)).collect());
            let request = self.meta.peers().new_request();
            let appends = pending.shards.iter().map(|shard| {
                let column = columns.get(shard.index as usize).cloned().unwrap_or_default();
                self.shards.append(chunk.0, *shard, row.epoch, at, column, false, request)
            });
            try_join_all(appends).await.map_err(|error| error.to_string())?;
            pace(&self.meta, began, (upto - at) * pending.shards.len() as u64).await;
            at = upto;
        }
        for shard in &pending.shards {
            let request = self.meta.peers().new_request();
            let sealed = self.shards.seal(chunk.0, *shard, row.epoch, pending.sealed_len, request).await;
            let sealed = sealed.map_err(|error| error.to_string())?;
            if sealed.len != pending.sealed_len || !sealed.sealed {
                return Err("target sealed at another length".into());
            }
        }
        self.read_back(chunk, pending, step, &sums).await
    }

    /// Shard bytes `at..upto` of every column.
    async fn columns(
        &self,
        chunk: ChunkId,
        then: Redundancy,
        cell: u64,
        logical: u64,
        (at, upto): (u64, u64),
    ) -> Result<Vec<Bytes>, String> {
        let data = then.needed() as u64;
        let (mut from, end) = (at * data, logical.min(upto * data));
        let mut bytes = Buffer::with_capacity(((upto - at) * data) as usize);
        while from < end {
            let len = (end - from).min(READ_MAX);
            let read = self.reader.read_once(chunk, from, len).await.map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&read);
            from += len;
        }
        // The last stripe is filled up; no extent names what lies behind the chunk's bytes.
        bytes.resize(((upto - at) * data) as usize);
        Ok(self.writer.columns(then, cell as usize, &bytes.freeze()))
    }

    /// The copies go when the move is committed: what replaces them must be there, as the devices give it back.
    async fn read_back(&self, chunk: ChunkId, pending: &MoveRow, step: u64, sums: &[Vec<u64>]) -> Result<(), String> {
        let mut at = 0;
        for sums in sums {
            let began = self.meta.platform().clock().now();
            let upto = pending.sealed_len.min(at + step);
            let reads = pending.shards.iter().map(|shard| async move {
                let request = self.meta.peers().new_request();
                let read = self.shards.read(chunk.0, *shard, at, (upto - at) as u32, request).await;
                let read = read.map_err(|error| error.to_string())?;
                if sums.get(shard.index as usize) != Some(&crc64(&read)) {
                    return Err(format!("shard {} reads back other bytes at {at}", shard.index));
                }
                Ok(())
            });
            try_join_all(reads).await?;
            pace(&self.meta, began, (upto - at) * pending.shards.len() as u64).await;
            at = upto;
        }
        Ok(())
    }
}
