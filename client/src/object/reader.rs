//! Bytes on their way out of an object: piece by piece, a few pieces ahead.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use platform::tasks::TaskHandle;
use rpc::request::carried;

use super::api::ObjectError;
use super::body::{Body, Piece};
use crate::chunk::reader::{ChunkReader, READ_MAX, ReadError};

/// Pieces read ahead.
const AHEAD: usize = 3;

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
                Piece::Extent(extent) => {
                    // Pieces end at multiples of READ_MAX of the extent, so that the same object
                    // read twice asks for the same pieces (the cache knows them by place).
                    let mut at = from;
                    while at < to {
                        let upto = (start + ((at - start) / READ_MAX + 1) * READ_MAX).min(to);
                        wanted.extend(extent.slice(at, upto).map(Piece::Extent));
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
                Piece::Extent(extent) => {
                    let reader = self.reader.clone();
                    let work = async move { reader.read(extent.chunk, extent.offset, extent.len).await };
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

impl Drop for ObjectReader {
    fn drop(&mut self) {
        for coming in &self.coming {
            if let Coming::Reading(task) = coming {
                task.abort();
            }
        }
    }
}
