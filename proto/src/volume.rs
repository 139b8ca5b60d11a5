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
    /// Counts what happens to chunks and snapshots: the clock of [`VolumeChunkRow`] and [`SnapshotRow`].
    #[prost(uint64, tag = "15")]
    pub ticks: u64,
    /// Rises with every change of this row: who watches it sees that something has happened.
    #[prost(uint64, tag = "16")]
    pub revision: u64,
    /// It was given up with everything in `root`: nothing is to be read again.
    #[prost(bool, tag = "17")]
    pub clean: bool,
    /// Names of snapshots that the owner is asked for.
    #[prost(string, repeated, tag = "18")]
    pub wanted: Vec<String>,
    /// A clone: what it read as when it was made, for as long as its index names chunks of that.
    #[prost(message, optional, tag = "19")]
    pub base: Option<Base>,
    /// What clients may ask of it in a second.
    #[prost(message, optional, tag = "20")]
    pub qos: Option<Qos>,
    /// The number of the snapshot made last.
    #[prost(uint64, tag = "21")]
    pub snapshots_made: u64,
    /// Deleted, and only snapshots that clones need are left: nothing to give back before one of them goes.
    #[prost(bool, tag = "22")]
    pub parked: bool,
    /// How its bytes are encrypted; none: they are not.
    #[prost(message, optional, tag = "23")]
    pub encryption: Option<Encryption>,
}

/// How a volume's bytes are encrypted, and its key, wrapped. A clone has what the volume has that it was made of.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Encryption {
    /// The cipher's number, see `crypto::suite`.
    #[prost(uint32, tag = "1")]
    pub suite: u32,
    /// The key's own number: 16 random bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub number: Vec<u8>,
    /// The name of the root key that it is wrapped by.
    #[prost(bytes = "vec", tag = "3")]
    pub root: Vec<u8>,
    /// Nonce, encrypted key and tag.
    #[prost(bytes = "vec", tag = "4")]
    pub wrapped: Vec<u8>,
}

impl VolumeRow {
    /// What a clone is read by for as long as it has no index of its own. An index may be empty, and its root
    /// without a byte, once everything was cleared: by then records were written.
    pub fn base_to_read(&self) -> Option<&Base> {
        self.base.as_ref().filter(|_| self.root.is_empty() && self.sequence == 0)
    }
}

/// A snapshot that a clone was made of.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Base {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    /// The snapshot's number.
    #[prost(uint64, tag = "2")]
    pub snapshot: u64,
    /// `VOLUME@SNAPSHOT` as it was, for people.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// Limits of a volume; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Qos {
    /// Requests a second.
    #[prost(uint64, tag = "1")]
    pub iops: u64,
    /// Bytes a second.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Seconds for which unused room is kept; 0 = one.
    #[prost(uint32, tag = "3")]
    pub burst_s: u32,
}

/// A volume as it was: its index after all records up to `sequence`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SnapshotRow {
    /// Counted for each volume.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Bytes of the volume then.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    #[prost(uint64, tag = "5")]
    pub created_ms: u64,
    /// `root` is its index. Before, it is made from the volume's index and journal.
    #[prost(bool, tag = "6")]
    pub ready: bool,
    #[prost(message, repeated, tag = "7")]
    pub root: Vec<ExtentRow>,
    /// Bytes that its index maps.
    #[prost(uint64, tag = "8")]
    pub used: u64,
    /// It needs no chunk that was dropped before this tick...
    #[prost(uint64, tag = "9")]
    pub frozen_tick: u64,
    /// ...nor, once it is ready, one that was taken after this one.
    #[prost(uint64, tag = "10")]
    pub ready_tick: u64,
    /// Deleted, but clones need it.
    #[prost(bool, tag = "11")]
    pub hidden: bool,
    /// Clones that need it.
    #[prost(uint32, tag = "12")]
    pub clones: u32,
    /// Chunks of a lower order were there when it was taken.
    #[prost(uint64, tag = "13")]
    pub upto_order: u64,
}

impl SnapshotRow {
    /// Whether a chunk that was taken and dropped (0: it was not) at these ticks may be needed.
    pub fn needs(&self, born: u64, dropped: u64) -> bool {
        (!self.ready || born < self.ready_tick) && (dropped == 0 || dropped > self.frozen_tick)
    }
}

/// A volume whose chunks are looked through for those that nothing needs any more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SweepRow {
    /// Chunks up to this one were looked at.
    #[prost(uint64, tag = "1")]
    pub after: u64,
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
    /// The volume's tick when it was taken.
    #[prost(uint64, tag = "3")]
    pub born: u64,
    /// The tick when the volume's own index ceased to need it; it is kept for snapshots. 0: it has not.
    #[prost(uint64, tag = "4")]
    pub dropped: u64,
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
    /// How it is encrypted. The client says `suite`, the leader draws the key and wraps it.
    #[prost(message, optional, tag = "4")]
    pub encryption: Option<Encryption>,
}

/// Asks for the key of a volume, to encrypt and decrypt by.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AskVolumeKey {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
}

/// A volume's key. Whoever takes `key` out overwrites it; what is sent is inside TLS.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct VolumeKey {
    #[prost(uint32, tag = "1")]
    pub suite: u32,
    /// The key's own number, as the row has it.
    #[prost(bytes = "vec", tag = "2")]
    pub number: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeKey(..)")
    }
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
    /// Above 0: only if nobody has had it since the owner of this epoch.
    #[prost(uint64, tag = "4")]
    pub only_epoch: u64,
}

/// The owner gives the volume up.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DetachVolume {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The last record there is: if the index has it, nothing is to be read again.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
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
    /// A clone whose index names no chunk of what it was made of.
    #[prost(bool, tag = "8")]
    pub is_alone: bool,
}

/// Asks the owner for a snapshot, or withdraws that.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WantSnapshot {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub snapshot: String,
    #[prost(bool, tag = "3")]
    pub withdraw: bool,
}

/// The volume as it is after the record of this sequence number is kept. From the owner; with epoch 0 of
/// a volume that was given up clean.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TakeSnapshot {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub snapshot: String,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
}

/// Deletes a snapshot. One that clones need only loses its name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteSnapshot {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub snapshot: String,
}

/// Makes a volume that reads as a snapshot does.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CloneVolume {
    /// The volume and its snapshot.
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(string, tag = "2")]
    pub snapshot: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// Bytes, not less than the snapshot's; 0 = as many.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// None: as the volume's.
    #[prost(message, optional, tag = "5")]
    pub redundancy: Option<RedundancyRow>,
}

/// The owner takes a snapshot's index for its own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RollBack {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(string, tag = "3")]
    pub snapshot: String,
    /// The last record there is.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    #[prost(uint64, tag = "5")]
    pub from_order: u64,
}

/// Sets the limits of a volume; none: it has none.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetQos {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub qos: Option<Qos>,
}

/// Gives a volume that nobody has attached another name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RenameVolume {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub to: String,
}

/// Gives back some of the chunks that nothing needs, of a volume that is deleted or has lost a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SweepVolume {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
}

/// Asks for a volume's row when it is another revision than this one, or after a moment.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskWatch {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// A page of a volume's snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AskSnapshots {
    #[prost(uint64, tag = "1")]
    pub volume: u64,
    /// Numbers above this one.
    #[prost(uint64, tag = "2")]
    pub after: u64,
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
