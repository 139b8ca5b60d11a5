//! Compaction: what is alive of a mostly dead chunk is appended to another one, then one command
//! points the blobs there, each by compare-and-set. A crash in the middle leaves dead bytes in the
//! new chunk and nothing else; what a user deletes meanwhile stays deleted.

use bytes::Bytes;
use platform::buffer::Buffer;
use proto::meta::{Body, ChunkEntry, ExtentMove, LiveExtent, MoveExtents};
use proto::rows::{ChunkRow, ExtentRow};
use types::ids::ChunkId;
use types::redundancy::{Filling, Redundancy};

use super::pace;
use crate::chunk::reader::{ChunkReader, READ_MAX};
use crate::chunk::writer::{APPEND_MAX, ChunkWriter, Pin};
use crate::meta::MetaClient;

/// Moves live bytes. Its chunks are its own: they may take from what full disks keep for it.
pub(super) struct Compactor {
    pub meta: MetaClient,
    pub reader: ChunkReader,
    pub writer: ChunkWriter,
}

/// Bytes that wait for their append, and whose they are: move, first byte inside the blob, length.
struct Batch {
    bytes: Buffer,
    parts: Vec<(usize, u64, u64)>,
}

impl Compactor {
    /// Moves `live` out of the chunk; answers how many extents were moved.
    pub(super) async fn compact(&self, entry: &ChunkEntry, live: &[LiveExtent]) -> Result<u64, String> {
        let chunk = ChunkId(entry.chunk);
        let Some(policy) = entry.row.redundancy.policy() else { return Err("chunk without a policy".into()) };
        let (mut filling, mut unit, grain) = self.unit(chunk, policy, &entry.row).await?;
        if live.iter().any(|one| !one.extent.len.is_multiple_of(grain)) {
            // Small extents in stripes: the chunk was one of copies once, and these begin there again.
            filling = policy.small();
            unit = APPEND_MAX;
        }
        let mut moves: Vec<ExtentMove> = Vec::new();
        let mut pins = Vec::new();
        let mut batch = Batch { bytes: Buffer::with_capacity(unit), parts: Vec::new() };
        for one in live {
            moves.push(ExtentMove { blob: one.blob, old: one.extent, new: Vec::new() });
            let mut at = 0;
            while at < one.extent.len {
                let began = self.meta.platform().clock().now();
                let len = (one.extent.len - at).min((unit - batch.bytes.len()) as u64);
                self.read_into(&mut batch.bytes, chunk, one.extent.offset + at, len).await?;
                batch.parts.push((moves.len() - 1, one.extent.logical + at, len));
                at += len;
                if batch.bytes.len() == unit {
                    pins.push(self.append(chunk, filling, &mut batch, &mut moves).await?);
                }
                pace(&self.meta, began, len).await;
            }
        }
        if !batch.bytes.is_empty() {
            pins.push(self.append(chunk, filling, &mut batch, &mut moves).await?);
        }
        let body = Body::MoveExtents(MoveExtents { chunk: chunk.0, moves });
        let outcome = self.meta.command(chunk.partition(), body).await;
        // Until here the new chunks could not be released.
        drop(pins);
        Ok(outcome.map_err(|error| error.to_string())?.number)
    }

    /// How the new chunk is filled, bytes of one append, and what every extent must be a multiple of.
    async fn unit(&self, chunk: ChunkId, policy: Redundancy, row: &ChunkRow) -> Result<(Filling, usize, u64), String> {
        let stripe = self.writer.stripe_len(chunk.partition(), policy).await.map_err(|error| error.to_string())?;
        let most = APPEND_MAX * policy.needed();
        let filling = Filling { policy, becomes: row.becomes.and_then(|becomes| becomes.policy()) };
        Ok((filling, (most / stripe).max(1) * stripe, stripe as u64))
    }

    async fn read_into(&self, out: &mut Buffer, chunk: ChunkId, offset: u64, len: u64) -> Result<(), String> {
        let mut at = 0;
        while at < len {
            let step = (len - at).min(READ_MAX);
            let bytes = self.reader.read_once(chunk, offset + at, step).await.map_err(|error| error.to_string())?;
            out.extend_from_slice(&bytes);
            at += step;
        }
        Ok(())
    }

    async fn append(
        &self,
        chunk: ChunkId,
        filling: Filling,
        batch: &mut Batch,
        moves: &mut [ExtentMove],
    ) -> Result<Pin, String> {
        let bytes: Bytes = std::mem::replace(&mut batch.bytes, Buffer::with_capacity(0)).freeze();
        let stored = self.writer.append(chunk.partition(), filling, bytes).await;
        let (extent, pin) = stored.map_err(|error| error.to_string())?;
        let mut offset = extent.offset;
        for (index, logical, len) in batch.parts.drain(..) {
            add(&mut moves[index].new, ExtentRow { logical, chunk: extent.chunk.0, offset, len });
            offset += len;
        }
        Ok(pin)
    }
}

/// Adds an extent; one that goes on where the last ends becomes part of it.
fn add(extents: &mut Vec<ExtentRow>, next: ExtentRow) {
    match extents.last_mut() {
        Some(last) if last.chunk == next.chunk && last.offset + last.len == next.offset => last.len += next.len,
        _ => extents.push(next),
    }
}

#[cfg(test)]
mod tests {
    use proto::rows::ExtentRow;

    use super::add;

    #[test]
    fn pieces_that_follow_each_other_become_one_extent() {
        let extent = |logical, chunk, offset, len| ExtentRow { logical, chunk, offset, len };
        let mut extents = Vec::new();
        for next in [extent(7, 1, 100, 10), extent(17, 1, 110, 10), extent(27, 2, 120, 5), extent(32, 2, 130, 5)] {
            add(&mut extents, next);
        }
        assert_eq!(extents, [extent(7, 1, 100, 20), extent(27, 2, 120, 5), extent(32, 2, 130, 5)]);
    }
}
