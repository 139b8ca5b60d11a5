//! Rows: the values of the metaserver's tables, as protobuf. Unknown fields are kept out of
//! decisions, so later versions may add fields.

use prost::Message;
use prost::bytes::Bytes;

/// Redundancy as stored: parity 0 and `copies` > 0, or data and parity.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RedundancyRow {
    /// Copies(n) when not 0.
    #[prost(uint32, tag = "1")]
    pub copies: u32,
    /// Erasure data columns.
    #[prost(uint32, tag = "2")]
    pub data: u32,
    /// Erasure parity columns.
    #[prost(uint32, tag = "3")]
    pub parity: u32,
}

/// A run of logical bytes in a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ExtentRow {
    /// First byte inside the blob.
    #[prost(uint64, tag = "1")]
    pub logical: u64,
    /// The chunk.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// First byte inside the chunk.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub len: u64,
}

/// One shard of a chunk: which column, which placement, on which disk.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ShardRow {
    /// Index in the chunk.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// PlacementId.
    #[prost(uint64, tag = "2")]
    pub placement: u64,
    /// DiskId.
    #[prost(uint64, tag = "3")]
    pub disk: u64,
    /// Some of its bytes are damaged or missing: it is read last, and replaced.
    #[prost(bool, tag = "4")]
    pub bad: bool,
}

/// A move that is under way: shards that will replace those of the same index at its commit.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MoveRow {
    /// Unique number of the move.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The new shards.
    #[prost(message, repeated, tag = "2")]
    pub shards: Vec<ShardRow>,
    /// The chunk is laid out anew: all its shards are replaced by these, of this policy.
    #[prost(message, optional, tag = "3")]
    pub becomes: Option<RedundancyRow>,
    /// Bytes of each of them then.
    #[prost(uint64, tag = "4")]
    pub sealed_len: u64,
}

/// Values of [`ChunkRow::state`].
pub mod chunk_state {
    /// A session may append.
    pub const OPEN: u32 = 0;
    /// Length fixed.
    pub const SEALED: u32 = 1;
    /// No references, no writer: its shards are being deleted.
    pub const CONDEMNED: u32 = 2;
}

/// A chunk.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkRow {
    /// Policy.
    #[prost(message, required, tag = "1")]
    pub redundancy: RedundancyRow,
    /// Bytes of a cell (erasure only).
    #[prost(uint64, tag = "2")]
    pub cell_size: u64,
    /// Most logical bytes.
    #[prost(uint64, tag = "3")]
    pub capacity: u64,
    /// The chunk's own epoch.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// See [`chunk_state`].
    #[prost(uint32, tag = "5")]
    pub state: u32,
    /// Bytes of each *shard* when sealed.
    #[prost(uint64, tag = "6")]
    pub sealed_len: u64,
    /// The session it was granted to.
    #[prost(uint64, tag = "7")]
    pub session: u64,
    /// The session released it or ended.
    #[prost(bool, tag = "8")]
    pub released: bool,
    /// Present shards.
    #[prost(message, repeated, tag = "9")]
    pub shards: Vec<ShardRow>,
    /// End of the highest committed extent, logical bytes.
    #[prost(uint64, tag = "10")]
    pub committed_len: u64,
    /// Logical bytes that committed extents refer to.
    #[prost(uint64, tag = "11")]
    pub live_bytes: u64,
    /// At most one move.
    #[prost(message, optional, tag = "12")]
    pub pending_move: Option<MoveRow>,
    /// The policy it is to have in the end, if that is another one.
    #[prost(message, optional, tag = "13")]
    pub becomes: Option<RedundancyRow>,
    /// It is in a volume's journal: its redundancy is the volume's, whatever the cluster's is.
    #[prost(bool, tag = "14")]
    pub of_volume: bool,
}

/// Values of [`DiskRow::state`].
pub mod disk_state {
    /// In use.
    pub const IN: u32 = 0;
    /// Its data is gone: directory returned without its store id, failed flush, or declared.
    pub const LOST: u32 = 1;
}

/// A disk of the pool.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskRow {
    /// Random name of the store on it.
    #[prost(uint64, tag = "1")]
    pub store: u64,
    /// Process name.
    #[prost(string, tag = "2")]
    pub node: String,
    /// Failure domain path: zone/rack/host, the smallest domain last.
    #[prost(string, tag = "3")]
    pub domain: String,
    /// Address of the process for frames; empty when it is in this process.
    #[prost(string, tag = "4")]
    pub address: String,
    /// The directory, for people and for "same place, other store".
    #[prost(string, tag = "5")]
    pub path: String,
    /// See [`disk_state`].
    #[prost(uint32, tag = "6")]
    pub state: u32,
    /// It takes no new shards, and those it has are moved away. It is in use all the same.
    #[prost(bool, tag = "7")]
    pub draining: bool,
    /// Somebody has taken it out of the pool for good; `state` is `LOST` then.
    #[prost(bool, tag = "8")]
    pub removed: bool,
    /// Address of the metaserver replica that lives in the same directory; empty = none.
    #[prost(string, tag = "9")]
    pub replica: String,
}

/// A session: one process start that may hold grants and send commands.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SessionRow {
    /// Process name, for people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Commands at or below are acknowledged by the client.
    #[prost(uint64, tag = "2")]
    pub floor: u64,
    /// It ended.
    #[prost(bool, tag = "3")]
    pub ended: bool,
}

/// The outcome of a command, kept until the client has acknowledged it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OutcomeRow {
    /// CRC-64 of the command's body.
    #[prost(uint64, tag = "1")]
    pub body_hash: u64,
    /// The encoded outcome.
    #[prost(bytes = "bytes", tag = "2")]
    pub outcome: Bytes,
}

/// A bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketRow {
    /// Stable number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// User.
    #[prost(string, tag = "3")]
    pub owner: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// 0 flat, 1 tree.
    #[prost(uint32, tag = "5")]
    pub kind: u32,
    /// 0 unversioned, 1 enabled, 2 suspended.
    #[prost(uint32, tag = "6")]
    pub versioning: u32,
}

/// A bucket in the trash. Objects and uploads stay under its number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrashRow {
    /// The bucket, with the name it had.
    #[prost(message, required, tag = "1")]
    pub bucket: BucketRow,
    /// When it came here, milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub trashed_ms: u64,
    /// Until when it can be restored, milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub keep_until_ms: u64,
    /// It was given up: what it holds is being removed.
    #[prost(bool, tag = "4")]
    pub purging: bool,
    /// Keys of objects and uploads below this one are gone.
    #[prost(bytes = "bytes", tag = "5")]
    pub purged_upto: Bytes,
}

/// A pair of strings.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Pair {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// What a client may say about an object.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MetaRow {
    /// Without quotes.
    #[prost(string, tag = "1")]
    pub etag: String,
    /// Standard headers.
    #[prost(message, repeated, tag = "2")]
    pub content: Vec<Pair>,
    /// User metadata.
    #[prost(message, repeated, tag = "3")]
    pub user: Vec<Pair>,
    /// Checksum kind and base64 value.
    #[prost(message, repeated, tag = "4")]
    pub checksums: Vec<Pair>,
    /// FULL_OBJECT or COMPOSITE.
    #[prost(string, tag = "5")]
    pub checksum_type: String,
    /// Empty = STANDARD.
    #[prost(string, tag = "6")]
    pub storage_class: String,
    /// User.
    #[prost(string, tag = "7")]
    pub owner: String,
    /// Reserved: encryption suite and wrapped key.
    #[prost(bytes = "bytes", tag = "8")]
    pub encryption: Bytes,
    /// Reserved: compression kind.
    #[prost(uint32, tag = "9")]
    pub compression: u32,
}

/// Where an object's or part's bytes are: blobs one behind another.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BodyRow {
    /// Empty for no bytes.
    #[prost(message, repeated, tag = "2")]
    pub blobs: Vec<BlobRef>,
}

/// A blob as part of a body.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BlobRef {
    /// BlobId.
    #[prost(uint64, tag = "1")]
    pub blob: u64,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

/// A blob: immutable list of extents, or tiny bytes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BlobRow {
    /// In logical order, without gaps.
    #[prost(message, repeated, tag = "1")]
    pub extents: Vec<ExtentRow>,
    /// The bytes themselves, when tiny; then there are no extents.
    #[prost(bytes = "bytes", tag = "2")]
    pub inline: Bytes,
}

/// Number and size of a part an object was completed from.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PartBound {
    /// 1..=10000.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// An object version.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ObjectRow {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub modified_ms: u64,
    /// 0 = the null version.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// Headers and checksums.
    #[prost(message, required, tag = "4")]
    pub meta: MetaRow,
    /// Where the bytes are.
    #[prost(message, required, tag = "5")]
    pub body: BodyRow,
    /// Part boundaries.
    #[prost(message, repeated, tag = "6")]
    pub parts: Vec<PartBound>,
    /// Reserved: a delete marker.
    #[prost(bool, tag = "7")]
    pub delete_marker: bool,
}

/// The part of an [`ObjectRow`] that a listing tells; the rest is skipped, not decoded.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ObjectGlance {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub modified_ms: u64,
    /// Headers and checksums.
    #[prost(message, required, tag = "4")]
    pub meta: MetaGlance,
}

/// The part of a [`MetaRow`] that a listing tells.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MetaGlance {
    /// Without quotes.
    #[prost(string, tag = "1")]
    pub etag: String,
    /// Checksum kind and base64 value.
    #[prost(message, repeated, tag = "4")]
    pub checksums: Vec<Pair>,
    /// FULL_OBJECT or COMPOSITE.
    #[prost(string, tag = "5")]
    pub checksum_type: String,
    /// Empty = STANDARD.
    #[prost(string, tag = "6")]
    pub storage_class: String,
    /// User.
    #[prost(string, tag = "7")]
    pub owner: String,
}

/// An unfinished multipart upload.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UploadRow {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub created_ms: u64,
    /// What the object will carry.
    #[prost(message, required, tag = "3")]
    pub meta: MetaRow,
    /// Announced checksum kind.
    #[prost(string, tag = "4")]
    pub checksum_kind: String,
}

/// An uploaded part.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartRow {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// MD5 hex.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub modified_ms: u64,
    /// Kind and base64 value.
    #[prost(message, repeated, tag = "4")]
    pub checksums: Vec<Pair>,
    /// Where the bytes are.
    #[prost(message, required, tag = "5")]
    pub body: BodyRow,
}

/// An access key. The secret is sealed with a key derived from the cluster secret.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AccessKeyRow {
    /// User.
    #[prost(string, tag = "1")]
    pub user: String,
    /// nonce (12 bytes) and AES-256-GCM ciphertext.
    #[prost(bytes = "bytes", tag = "2")]
    pub sealed_secret: Bytes,
    /// The root user.
    #[prost(bool, tag = "3")]
    pub is_root: bool,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
}

/// A placement whose shard is to be deleted from its disk.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DeleteRow {
    /// DiskId.
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    /// ChunkId.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
}

/// A counter.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CounterRow {
    /// The last number given out.
    #[prost(uint64, tag = "1")]
    pub last: u64,
}

/// What the cluster is; written by its first command.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterRow {
    /// ClusterId.
    #[prost(uint64, tag = "1")]
    pub cluster: u64,
    /// Behaviour hangs on it.
    #[prost(uint64, tag = "2")]
    pub feature_level: u64,
    /// Logical partitions, fixed.
    #[prost(uint32, tag = "3")]
    pub partitions: u32,
    /// Default policy.
    #[prost(message, required, tag = "4")]
    pub redundancy: RedundancyRow,
    /// Logical bytes of a chunk.
    #[prost(uint64, tag = "5")]
    pub chunk_capacity: u64,
    /// Bytes of a cell.
    #[prost(uint64, tag = "6")]
    pub cell_size: u64,
}

impl From<types::redundancy::Redundancy> for RedundancyRow {
    fn from(redundancy: types::redundancy::Redundancy) -> RedundancyRow {
        match redundancy {
            types::redundancy::Redundancy::Copies(copies) => {
                RedundancyRow { copies: copies.into(), data: 0, parity: 0 }
            }
            types::redundancy::Redundancy::Erasure { data, parity } => {
                RedundancyRow { copies: 0, data: data.into(), parity: parity.into() }
            }
        }
    }
}

impl RedundancyRow {
    /// The policy, `None` for numbers that cannot be one.
    pub fn policy(&self) -> Option<types::redundancy::Redundancy> {
        let text = if self.copies > 0 {
            format!("copies:{}", self.copies)
        } else {
            format!("ec:{}+{}", self.data, self.parity)
        };
        text.parse().ok()
    }
}
