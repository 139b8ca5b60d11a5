//! Where an object's bytes lie, as one list of pieces.

use bytes::Bytes;
use proto::rows::{BlobRow, ObjectRow};
use types::extent::Extent;
use types::ids::ChunkId;

/// A run of an object's bytes.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// The bytes came with the row.
    Inline {
        /// First byte inside the object.
        logical: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The bytes lie in a chunk.
    Extent {
        /// Where, as the blob said when it was asked.
        extent: Extent,
        /// The blob.
        blob: u64,
        /// The blob's first byte inside the object.
        base: u64,
    },
}

impl Piece {
    pub fn range(&self) -> (u64, u64) {
        match self {
            Piece::Inline { logical, bytes } => (*logical, *logical + bytes.len() as u64),
            Piece::Extent { extent, .. } => (extent.logical, extent.logical + extent.len),
        }
    }
}

/// Inline bytes and extents in order.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub(super) pieces: Vec<Piece>,
}

impl Body {
    /// Joins an object's blobs. `None` if row and blobs do not fit together.
    pub(super) fn of(row: &ObjectRow, blobs: &[BlobRow]) -> Option<Body> {
        if row.body.blobs.len() != blobs.len() {
            return None;
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        for (part, blob) in row.body.blobs.iter().zip(blobs) {
            let start = at;
            if !blob.inline.is_empty() {
                pieces.push(Piece::Inline { logical: at, bytes: blob.inline.clone() });
                at += blob.inline.len() as u64;
            }
            for extent in &blob.extents {
                let extent = Extent {
                    logical: start + extent.logical,
                    chunk: ChunkId(extent.chunk),
                    offset: extent.offset,
                    len: extent.len,
                };
                at += extent.len;
                pieces.push(Piece::Extent { extent, blob: part.blob, base: start });
            }
            if at - start != part.len {
                return None;
            }
        }
        (at == row.size).then_some(Body { pieces })
    }
}
