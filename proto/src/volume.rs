//! Volumes: their rows, and the commands that change them.
//!
//! A volume's bytes lie in a journal: chunks that its owner is granted, in the order in which it took
//! them, each filled with records (`journal`). Where a byte lies now is in the index, which the owner
//! keeps in memory and writes into the journal as pages; the row names the last whole index and the
//! record from which the journal must be read again.

use prost::Message;

use crate::rows::{ExtentRow, RedundancyRow};

/// A volume.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VolumeRow {
    /// Number; its top bits are the partition, as a bucket's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// What sealed chunks of it become.
    #[prost(message, required, tag = "4")]
    pub redundancy: RedundancyRow,
    #[prost(uint64, tag = "5")]
    pub created_ms: u64,
    /// Rises with every owner. What an owner of a lower epoch asks for is refused.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// The owner's session, 0 = not attached.
    #[prost(uint64, tag = "7")]
    pub session: u64,
    /// The owner's name, for people; also the last one of a volume that is not attached.
    #[prost(string, tag = "8")]
    pub owner: String,
    /// Where the last whole index lies: pieces in order, `logical` counts from 0. Empty: nothing was written.
    #[prost(message, repeated, tag = "9")]
    pub root: Vec<ExtentRow>,
    /// Records up to this sequence number are in that index.
    #[prost(uint64, tag = "10")]
    pub sequence: u64,
    /// The order number of the next chunk that is taken.
    #[prost(uint64, tag = "11")]
    pub next_order: u64,
    /// It is being deleted: its chunks are given back page by page.
    #[prost(bool, tag = "12")]
    pub deleting: bool,
    /// Bytes that the index of `root` maps.
    #[prost(uint64, tag = "13")]
    pub used: u64,
    /// Chunks of a lower order hold no record above `sequence`.
    #[prost(uint64, tag = "14")]
    pub from_order: u64,
}

/// A chunk of a volume's journal.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct VolumeChunkRow {
    /// Its place in the journal.
    #[prost(uint64, tag = "1")]
    pub order: u64,
    /// Logical bytes that the volume keeps alive by it: the chunk's capacity.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// A chunk with its number, in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct VolumeChunk {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    #[prost(message, required, tag = "2")]
    pub row: VolumeChunkRow,
}

/// Makes a volume of zeroes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateVolume {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(message, required, tag = "3")]
    pub redundancy: RedundancyRow,
}

/// Deletes a volume that nobody has attached.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteVolume {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Gives back some chunks of a volume that is being deleted.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PurgeVolume {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
}

/// Changes the size. The owner (epoch above 0) may shrink: it has looked that nothing lies above.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResizeVolume {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// Makes the session the owner. With `take_over` also if another session is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AttachVolume {
    #[prost(string, tag = "1")]
    pub name: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub owner: String,
    #[prost(bool, tag = "3")]
    pub take_over: bool,
}

/// The owner gives the volume up.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DetachVolume {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// The owner's journal goes on in these chunks, which were granted to its session.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TakeChunks {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub chunks: Vec<u64>,
}

/// A whole index is in the journal. Chunks that nothing in it names and that hold no record after
/// `sequence` are dropped.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checkpoint {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(message, repeated, tag = "3")]
    pub root: Vec<ExtentRow>,
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    #[prost(uint64, tag = "5")]
    pub used: u64,
    #[prost(uint64, repeated, tag = "6")]
    pub drop: Vec<u64>,
    /// The journal has to be read again from the chunk of this order on.
    #[prost(uint64, tag = "7")]
    pub from_order: u64,
}

/// A page of a volume's chunks.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AskVolumeChunks {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    /// Chunk numbers above this one.
    #[prost(uint64, tag = "2")]
    pub after: u64,
}

/// A page of a volume's index: where the bytes of 4 MiB lie. Extents in order, none overlapping; the four
/// lists are equally long.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IndexPage {
    /// First bytes, counted from the page's first.
    #[prost(uint32, repeated, tag = "1")]
    pub starts: Vec<u32>,
    /// Bytes.
    #[prost(uint32, repeated, tag = "2")]
    pub lens: Vec<u32>,
    #[prost(uint64, repeated, tag = "3")]
    pub chunks: Vec<u64>,
    /// Logical bytes of the chunk.
    #[prost(uint32, repeated, tag = "4")]
    pub offsets: Vec<u32>,
}

/// Where a page lies.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PageRow {
    /// The page's number: its first byte / 4 MiB.
    #[prost(uint64, tag = "1")]
    pub page: u64,
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    #[prost(uint32, tag = "3")]
    pub offset: u32,
    /// Bytes of the encoded page.
    #[prost(uint32, tag = "4")]
    pub len: u32,
}

/// What of a chunk is alive.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LiveRow {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Bytes that extents name.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// The root of an index.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IndexRoot {
    #[prost(message, repeated, tag = "1")]
    pub pages: Vec<PageRow>,
    #[prost(message, repeated, tag = "2")]
    pub live: Vec<LiveRow>,
}
