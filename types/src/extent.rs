//! Extents: where a run of logical bytes lies.

use crate::ids::ChunkId;

/// A run of logical bytes of an object, file or volume that lies in one chunk.
/// All three numbers are bytes; `offset` is the chunk's logical offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Extent {
    /// First byte inside the object, file or volume.
    pub logical: u64,
    /// The chunk that holds the bytes.
    pub chunk: ChunkId,
    /// First byte inside the chunk.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The part of this extent inside `start..end` of the logical bytes, if any.
    pub fn slice(&self, start: u64, end: u64) -> Option<Extent> {
        let first = self.logical.max(start);
        let last = (self.logical + self.len).min(end);
        (first < last).then(|| Extent {
            logical: first,
            chunk: self.chunk,
            offset: self.offset + (first - self.logical),
            len: last - first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkId, Extent};

    #[test]
    fn slice_keeps_logical_and_chunk_offsets_together() {
        let extent = Extent { logical: 100, chunk: ChunkId(1), offset: 4096, len: 50 };
        let part = extent.slice(120, 1000).expect("overlaps");
        assert_eq!((part.logical, part.offset, part.len), (120, 4116, 30));
        assert_eq!(extent.slice(150, 160), None);
    }
}
