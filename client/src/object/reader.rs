//! Bytes on their way out of an object: piece by piece, a few pieces ahead.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use platform::buffer::Buffer;
use platform::tasks::TaskHandle;
use proto::rows::BlobRow;
use rpc::request::carried;
use types::extent::Extent;
use types::ids::ChunkId;

use super::api::ObjectError;
use super::body::{Body, Piece};
use crate::chunk::reader::{ChunkReader, READ_MAX, ReadError};

/// Pieces read ahead.
const AHEAD: usize = 3;
/// How often a blob is asked for its new place in one read.
const RELOCATIONS_MAX: usize = 4;

enum Coming {
    Here(Bytes),
    Reading(TaskHandle<Result<Bytes, ReadError>>),
}

/// Bytes on their way out of an object. Verified; dropping it stops reading ahead.
pub struct ObjectReader {
    reader: ChunkReader,
    /// What is still to be asked for, in order.
    wanted: VecDeque<Piece>,
    coming: VecDeque<Coming>,
}

impl ObjectReader {
    pub(super) fn new(reader: ChunkReader, body: &Body, range: Range<u64>) -> ObjectReader {
        let mut wanted = VecDeque::new();
        for piece in &body.pieces {
            let (start, end) = piece.range();
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from >= to {
                continue;
            }
            match piece {
                Piece::Inline { logical, bytes } => {
                    let bytes = bytes.slice((from - logical) as usize..(to - logical) as usize);
                    wanted.push_back(Piece::Inline { logical: from, bytes });
                }
                Piece::Extent { extent, blob, base } => {
                    // Pieces end at multiples of READ_MAX of the extent, so that the same object
                    // read twice asks for the same pieces (the cache knows them by place).
                    let mut at = from;
                    while at < to {
                        let upto = (start + ((at - start) / READ_MAX + 1) * READ_MAX).min(to);
                        let part = extent.slice(at, upto);
                        wanted.extend(part.map(|extent| Piece::Extent { extent, blob: *blob, base: *base }));
                        at = upto;
                    }
                }
            }
        }
        ObjectReader { reader, wanted, coming: VecDeque::new() }
    }

    fn fill(&mut self) {
        while self.coming.len() < AHEAD {
            let Some(piece) = self.wanted.pop_front() else { return };
            self.coming.push_back(match piece {
                Piece::Inline { bytes, .. } => Coming::Here(bytes),
                Piece::Extent { extent, blob, base } => {
                    let work = read_piece(self.reader.clone(), extent, blob, extent.logical - base);
                    Coming::Reading(self.reader.platform().tasks().spawn(carried(work)))
                }
            });
        }
    }

    /// The next piece, `None` at the end of the range. Verified.
    ///
    /// # Errors
    /// The object was deleted meanwhile, or too few shards answer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        self.fill();
        match self.coming.pop_front() {
            None => Ok(None),
            Some(Coming::Here(bytes)) => Ok(Some(bytes)),
            Some(Coming::Reading(task)) => {
                self.fill();
                let read = task.await.map_err(|_| ObjectError::Unavailable("the process is stopping".into()))?;
                Ok(Some(read?))
            }
        }
    }
}

/// Reads a piece of a blob, from `inside` it on. If its chunk is gone, the bytes may have been moved
/// by a compaction since the blob was asked: then it is asked again.
async fn read_piece(reader: ChunkReader, extent: Extent, blob: u64, inside: u64) -> Result<Bytes, ReadError> {
    let mut gone = match reader.read(extent.chunk, extent.offset, extent.len).await {
        Err(ReadError::Gone(chunk)) => chunk,
        other => return other,
    };
    for _ in 0..RELOCATIONS_MAX {
        let Some(row) = reader.blob(extent.chunk.partition(), blob).await? else { break };
        let mut out = Buffer::with_capacity(extent.len as usize);
        let mut moved = false;
        for part in parts_of(&row, inside, inside + extent.len) {
            match reader.read(part.chunk, part.offset, part.len).await {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(ReadError::Gone(chunk)) => {
                    (gone, moved) = (chunk, true);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !moved && out.len() as u64 == extent.len {
            return Ok(out.freeze());
        }
    }
    Err(ReadError::Gone(gone))
}

/// The extents of a blob that hold `start..end` of it.
fn parts_of(row: &BlobRow, start: u64, end: u64) -> Vec<Extent> {
    let whole = row.extents.iter().map(|extent| Extent {
        logical: extent.logical,
        chunk: ChunkId(extent.chunk),
        offset: extent.offset,
        len: extent.len,
    });
    whole.filter_map(|extent| extent.slice(start, end)).collect()
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        for coming in &self.coming {
            if let Coming::Reading(task) = coming {
                task.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::rows::{BlobRow, ExtentRow};

    use super::parts_of;

    #[test]
    fn parts_of_a_moved_blob_cover_the_range_in_order() {
        let extent = |logical, chunk, offset, len| ExtentRow { logical, chunk, offset, len };
        let row = BlobRow {
            extents: vec![extent(0, 1, 500, 100), extent(100, 2, 0, 50), extent(150, 1, 0, 100)],
            ..BlobRow::default()
        };
        let parts: Vec<(u64, u64, u64)> =
            parts_of(&row, 90, 160).iter().map(|part| (part.chunk.0, part.offset, part.len)).collect();
        assert_eq!(parts, [(1, 590, 10), (2, 0, 50), (1, 0, 10)]);
    }
}
