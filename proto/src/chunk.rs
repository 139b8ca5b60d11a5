//! Messages to chunkservers.

use prost::Message;

/// Names a shard exactly; every request to a chunkserver carries it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ShardName {
    /// PlacementId.
    #[prost(uint64, tag = "1")]
    pub placement: u64,
    /// ChunkId.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// Index in the chunk.
    #[prost(uint32, tag = "3")]
    pub index: u32,
}

/// Appends the payload at exactly `offset` of the shard. Acked when written and flushed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Append {
    /// The shard.
    #[prost(message, required, tag = "1")]
    pub shard: ShardName,
    /// Must equal the stored epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Must equal the shard's length, bytes.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// It serves to free space, and may take from what is kept for that.
    #[prost(bool, tag = "4")]
    pub reserve: bool,
}

/// Raises the epoch, durably, then answers the length. Creates the shard, empty, if it is absent.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Fence {
    /// The shard.
    #[prost(message, required, tag = "1")]
    pub shard: ShardName,
    /// The new epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// Fixes the length for ever (it was decided in Raft).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Seal {
    /// The shard.
    #[prost(message, required, tag = "1")]
    pub shard: ShardName,
    /// The epoch of the seal.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Shard bytes.
    #[prost(uint64, tag = "3")]
    pub len: u64,
}

/// Reads `len` bytes at `offset` of the shard; they come as payload, verified.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Read {
    /// The shard.
    #[prost(message, required, tag = "1")]
    pub shard: ShardName,
    /// Shard bytes.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes, at most 1 MiB.
    #[prost(uint32, tag = "3")]
    pub len: u32,
}

/// Deletes shards; the metaserver has decided so.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Delete {
    /// PlacementIds.
    #[prost(uint64, repeated, tag = "1")]
    pub placements: Vec<u64>,
}

/// Answer to [`Append`], [`Fence`], [`Seal`]: the state of the shard.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ShardState {
    /// Durable length, bytes.
    #[prost(uint64, tag = "1")]
    pub len: u64,
    /// Stored epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// It cut a tail at a restart, or the fence created it: the length is "at least".
    #[prost(bool, tag = "3")]
    pub cut: bool,
    /// Sealed.
    #[prost(bool, tag = "4")]
    pub sealed: bool,
}

/// Asks which shards the store holds.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ListShards {
    /// Only placements above this one.
    #[prost(uint64, tag = "1")]
    pub after: u64,
}

/// A page of shards, by placement.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ShardList {
    /// The shards.
    #[prost(message, repeated, tag = "1")]
    pub shards: Vec<ShardName>,
    /// There is more.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// Asks what a store holds of a range of chunks, which shards it has found damaged, and how far
/// its scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Census {
    /// Chunks above this one.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// Up to and with this one; nothing is listed if it is not above `after`.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
}

/// A shard as a store holds it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HeldShard {
    #[prost(message, required, tag = "1")]
    pub name: ShardName,
    /// Durable length, bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

/// Answer to [`Census`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CensusPage {
    /// The shards of chunks up to `upto`, by chunk.
    #[prost(message, repeated, tag = "1")]
    pub shards: Vec<HeldShard>,
    /// How far the list reaches: what was asked, or less if that would be too much.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
    /// Shards with bytes that failed their checksum or could not be read.
    #[prost(message, repeated, tag = "3")]
    pub damaged: Vec<ShardName>,
    #[prost(message, required, tag = "4")]
    pub scrub: ScrubState,
}

/// How far the reading of everything at rest is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ScrubState {
    /// Time for all of it, seconds; 0 = it does not run.
    #[prost(uint64, tag = "1")]
    pub cycle_s: u64,
    /// Bytes of this round read so far.
    #[prost(uint64, tag = "2")]
    pub done_bytes: u64,
    /// Bytes of this round.
    #[prost(uint64, tag = "3")]
    pub total_bytes: u64,
    /// Bytes a second aimed at.
    #[prost(uint64, tag = "4")]
    pub rate_bytes: u64,
    /// Rounds finished since the process started.
    #[prost(uint64, tag = "5")]
    pub rounds: u64,
}

/// Asks a process to take a directory of its machine into the pool, now and at every start.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AddDisk {
    /// Absolute.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Answer to [`AddDisk`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DiskAdded {
    /// DiskId.
    #[prost(uint64, tag = "1")]
    pub disk: u64,
}
