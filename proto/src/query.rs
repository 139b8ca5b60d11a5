//! Queries of the metaserver and what answers them.

use prost::{Message, Oneof};

use crate::chunk::ScrubState;
use crate::members;
use crate::meta::ChunkEntry;
use crate::rows::{AccessKeyRow, BlobRow, BucketRow, ClusterRow, DiskRow, ObjectRow, PartRow, UploadRow};
use crate::{trash, volume};

/// A linearizable read.
#[derive(Clone, PartialEq, Message)]
pub struct Query {
    #[prost(oneof = "Ask", tags = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,20,30,31,32,33,34")]
    pub ask: Option<Ask>,
}

/// What is asked of the state.
#[derive(Clone, PartialEq, Oneof)]
pub enum Ask {
    #[prost(message, tag = "1")]
    Bucket(AskBucket),
    #[prost(message, tag = "2")]
    Buckets(AskAll),
    #[prost(message, tag = "3")]
    Object(AskObject),
    #[prost(message, tag = "4")]
    Objects(AskObjects),
    #[prost(message, tag = "5")]
    Uploads(AskUploads),
    #[prost(message, tag = "6")]
    Parts(AskParts),
    #[prost(message, tag = "7")]
    AccessKey(AskAccessKey),
    #[prost(message, tag = "8")]
    AccessKeys(AskAll),
    #[prost(message, tag = "9")]
    Chunks(AskChunks),
    #[prost(message, tag = "10")]
    Disks(AskAll),
    #[prost(message, tag = "11")]
    Status(AskAll),
    #[prost(message, tag = "12")]
    Cluster(AskAll),
    #[prost(message, tag = "13")]
    Blob(AskBlob),
    #[prost(message, tag = "14")]
    Safety(members::AskSafety),
    #[prost(message, tag = "15")]
    Plan(AskAll),
    #[prost(message, tag = "20")]
    Trash(AskAll),
    #[prost(message, tag = "30")]
    Volumes(AskAll),
    #[prost(message, tag = "31")]
    Volume(AskBucket),
    #[prost(message, tag = "32")]
    VolumeChunks(volume::AskVolumeChunks),
    #[prost(message, tag = "33")]
    Snapshots(volume::AskSnapshots),
    #[prost(message, tag = "34")]
    WatchVolume(volume::AskWatch),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AskAll {}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskBucket {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskObject {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskObjects {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub prefix: String,
    #[prost(string, tag = "3")]
    pub delimiter: String,
    #[prost(string, tag = "4")]
    pub after: String,
    #[prost(uint32, tag = "5")]
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskUploads {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub prefix: String,
    #[prost(string, tag = "3")]
    pub delimiter: String,
    #[prost(string, tag = "4")]
    pub after_key: String,
    #[prost(uint64, tag = "5")]
    pub after_upload: u64,
    #[prost(uint32, tag = "6")]
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskParts {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub upload: u64,
    #[prost(uint32, tag = "4")]
    pub after: u32,
    #[prost(uint32, tag = "5")]
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskAccessKey {
    #[prost(string, tag = "1")]
    pub access_key: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskChunks {
    #[prost(uint64, repeated, tag = "1")]
    pub chunks: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AskBlob {
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    #[prost(uint64, tag = "2")]
    pub blob: u64,
}

/// The answer to a [`Query`]; only the fields of the question are filled.
#[derive(Clone, PartialEq, Message)]
pub struct View {
    #[prost(message, optional, tag = "1")]
    pub bucket: Option<BucketRow>,
    #[prost(message, repeated, tag = "2")]
    pub buckets: Vec<BucketRow>,
    #[prost(message, optional, tag = "3")]
    pub object: Option<ObjectRow>,
    /// The blobs of the object, in the order of its body.
    #[prost(message, repeated, tag = "4")]
    pub blobs: Vec<BlobRow>,
    /// The chunks those name, each once.
    #[prost(message, repeated, tag = "5")]
    pub chunks: Vec<ChunkEntry>,
    #[prost(message, repeated, tag = "6")]
    pub listed: Vec<ListedObject>,
    #[prost(string, repeated, tag = "7")]
    pub prefixes: Vec<String>,
    #[prost(bool, tag = "8")]
    pub truncated: bool,
    #[prost(string, tag = "9")]
    pub next_after: String,
    #[prost(message, repeated, tag = "10")]
    pub uploads: Vec<ListedUpload>,
    #[prost(message, repeated, tag = "11")]
    pub parts: Vec<ListedPart>,
    #[prost(message, repeated, tag = "12")]
    pub access_keys: Vec<ListedAccessKey>,
    #[prost(message, repeated, tag = "13")]
    pub disks: Vec<DiskEntry>,
    #[prost(message, optional, tag = "14")]
    pub status: Option<StatusView>,
    #[prost(message, optional, tag = "15")]
    pub cluster: Option<ClusterRow>,
    #[prost(message, optional, tag = "16")]
    pub safety: Option<members::Safety>,
    #[prost(message, optional, tag = "17")]
    pub plan: Option<members::PlanView>,
    /// Buckets in the trash.
    #[prost(message, repeated, tag = "20")]
    pub trash: Vec<trash::TrashEntry>,
    /// There is no bucket of the number that was asked for.
    #[prost(bool, tag = "21")]
    pub no_bucket: bool,
    #[prost(message, repeated, tag = "30")]
    pub volumes: Vec<volume::VolumeRow>,
    #[prost(message, repeated, tag = "31")]
    pub volume_chunks: Vec<volume::VolumeChunk>,
    #[prost(message, repeated, tag = "32")]
    pub snapshots: Vec<volume::SnapshotRow>,
}

/// A row of a listing (no body).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedObject {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(uint64, tag = "3")]
    pub modified_ms: u64,
    #[prost(string, tag = "4")]
    pub etag: String,
    #[prost(string, tag = "5")]
    pub owner: String,
    #[prost(string, tag = "6")]
    pub storage_class: String,
    #[prost(string, repeated, tag = "7")]
    pub checksum_kinds: Vec<String>,
    #[prost(string, tag = "8")]
    pub checksum_type: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedUpload {
    #[prost(uint64, tag = "1")]
    pub upload: u64,
    #[prost(message, required, tag = "2")]
    pub row: UploadRow,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedPart {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(message, required, tag = "2")]
    pub row: PartRow,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedAccessKey {
    #[prost(string, tag = "1")]
    pub access_key: String,
    #[prost(message, required, tag = "2")]
    pub row: AccessKeyRow,
}

/// A disk with its number and what the leader hears of it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskEntry {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    #[prost(message, required, tag = "2")]
    pub row: DiskRow,
    /// Heard of within the last seconds.
    #[prost(bool, tag = "3")]
    pub alive: bool,
    #[prost(uint64, tag = "4")]
    pub total_bytes: u64,
    #[prost(uint64, tag = "5")]
    pub available_bytes: u64,
    #[prost(bool, tag = "6")]
    pub failed: bool,
    /// Its scrub, as last heard.
    #[prost(message, required, tag = "7")]
    pub scrub: ScrubState,
    /// Shards there that no chunk names.
    #[prost(uint64, tag = "8")]
    pub unknown_shards: u64,
}

/// Counts for `bixi status`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusView {
    #[prost(uint64, tag = "1")]
    pub healthy: u64,
    #[prost(uint64, tag = "2")]
    pub crowded: u64,
    #[prost(uint64, tag = "3")]
    pub degraded: u64,
    #[prost(uint64, tag = "4")]
    pub lost: u64,
    #[prost(uint64, tag = "5")]
    pub leader: u64,
    #[prost(uint64, tag = "6")]
    pub term: u64,
    #[prost(uint64, tag = "7")]
    pub applied: u64,
    #[prost(uint64, repeated, tag = "8")]
    pub voters: Vec<u64>,
    #[prost(string, tag = "9")]
    pub leader_name: String,
    /// Hash of the applied state (asked only by tests; 0 otherwise).
    #[prost(uint64, tag = "10")]
    pub state_hash: u64,
    /// Fewest further losses of disks any chunk survives now (255 = no chunk).
    #[prost(uint32, tag = "11")]
    pub survives: u32,
    #[prost(uint64, tag = "12")]
    pub live_bytes: u64,
    /// Chunks that still lack a shard and can be repaired, and bytes to be written for that.
    #[prost(uint64, tag = "13")]
    pub repair_chunks: u64,
    #[prost(uint64, tag = "14")]
    pub repair_bytes: u64,
    /// Speed over the last minute, and seconds left at it; 0 = unknown.
    #[prost(uint64, tag = "15")]
    pub repair_bytes_per_s: u64,
    #[prost(uint64, tag = "16")]
    pub repair_eta_s: u64,
    /// Shards that are damaged or gone and not replaced yet.
    #[prost(uint64, tag = "17")]
    pub bad_shards: u64,
    /// Disks that hold shards.
    #[prost(message, repeated, tag = "18")]
    pub loads: Vec<members::DiskLoad>,
    /// Speed at which drained disks were emptied over the last minute, and seconds left at it; 0 = unknown.
    #[prost(uint64, tag = "19")]
    pub drain_bytes_per_s: u64,
    #[prost(uint64, tag = "20")]
    pub drain_eta_s: u64,
}
