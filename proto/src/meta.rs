//! Commands and plans of the metaserver.

use prost::bytes::Bytes;
use prost::{Message, Oneof};

use crate::chunk::ShardName;
use crate::members;
use crate::rows::{
    AccessKeyRow, BucketRow, ChunkRow, ClusterRow, DiskRow, ExtentRow, MetaRow, ObjectRow, PartRow, RedundancyRow,
    ShardRow, TrashRow, UploadRow,
};
use crate::{trash, volume};

/// A command for the log. (session, sequence) make it exactly-once; session 0 is the leader
/// itself, whose commands are idempotent by their conditions.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// SessionId, 0 for the leader's own.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Rises by 1 per command of a session.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Outcomes up to here have arrived; their rows go.
    #[prost(uint64, tag = "3")]
    pub floor: u64,
    /// The partition it touches.
    #[prost(uint32, tag = "4")]
    pub partition: u32,
    /// Wall clock of the proposer, milliseconds since 1970: what timestamps are made of.
    #[prost(uint64, tag = "5")]
    pub now_ms: u64,
    /// What to do.
    #[prost(
        oneof = "Body",
        tags = "10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,30,31,32,33,34,35,36,37,38,40,41,50,51,52,53,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75"
    )]
    pub body: Option<Body>,
}

/// What a command does.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    #[prost(message, tag = "10")]
    InitCluster(ClusterRow),
    #[prost(message, tag = "11")]
    RegisterSession(RegisterSession),
    #[prost(message, tag = "12")]
    EndSession(EndSession),
    #[prost(message, tag = "13")]
    RegisterDisk(DiskRow),
    #[prost(message, tag = "14")]
    LoseDisk(LoseDisk),
    #[prost(message, tag = "15")]
    GrantChunks(GrantChunks),
    #[prost(message, tag = "16")]
    RaiseEpoch(RaiseEpoch),
    #[prost(message, tag = "17")]
    SealChunk(SealChunk),
    #[prost(message, tag = "18")]
    StartMove(StartMove),
    #[prost(message, tag = "19")]
    FinishMove(FinishMove),
    #[prost(message, tag = "20")]
    Deleted(Deleted),
    #[prost(message, tag = "21")]
    MarkBad(DiskShards),
    #[prost(message, tag = "22")]
    DropUnknown(DiskShards),
    #[prost(message, tag = "23")]
    DrainDisks(members::DrainDisks),
    #[prost(message, tag = "24")]
    RemoveDisk(members::RemoveDisk),
    #[prost(message, tag = "25")]
    SetRedundancy(members::SetRedundancy),
    #[prost(message, tag = "26")]
    RaiseLevel(members::RaiseLevel),
    #[prost(message, tag = "30")]
    CreateBucket(CreateBucket),
    #[prost(message, tag = "31")]
    DeleteBucket(DeleteBucket),
    #[prost(message, tag = "32")]
    PutObject(PutObject),
    #[prost(message, tag = "33")]
    DeleteObject(DeleteObject),
    #[prost(message, tag = "34")]
    CreateUpload(CreateUpload),
    #[prost(message, tag = "35")]
    PutPart(PutPart),
    #[prost(message, tag = "36")]
    CompleteUpload(CompleteUpload),
    #[prost(message, tag = "37")]
    AbortUpload(AbortUpload),
    #[prost(message, tag = "38")]
    MoveExtents(MoveExtents),
    #[prost(message, tag = "40")]
    PutAccessKey(PutAccessKey),
    #[prost(message, tag = "41")]
    DeleteAccessKey(DeleteAccessKey),
    #[prost(message, tag = "50")]
    TrashBucket(trash::TrashBucket),
    #[prost(message, tag = "51")]
    RestoreBucket(trash::RestoreBucket),
    #[prost(message, tag = "52")]
    PurgeBucket(trash::PurgeBucket),
    #[prost(message, tag = "53")]
    PurgePage(trash::PurgePage),
    #[prost(message, tag = "60")]
    CreateVolume(volume::CreateVolume),
    #[prost(message, tag = "61")]
    DeleteVolume(volume::DeleteVolume),
    #[prost(message, tag = "62")]
    PurgeVolume(volume::PurgeVolume),
    #[prost(message, tag = "63")]
    ResizeVolume(volume::ResizeVolume),
    #[prost(message, tag = "64")]
    AttachVolume(volume::AttachVolume),
    #[prost(message, tag = "65")]
    DetachVolume(volume::DetachVolume),
    #[prost(message, tag = "66")]
    TakeChunks(volume::TakeChunks),
    #[prost(message, tag = "67")]
    Checkpoint(volume::Checkpoint),
    #[prost(message, tag = "68")]
    WantSnapshot(volume::WantSnapshot),
    #[prost(message, tag = "69")]
    TakeSnapshot(volume::TakeSnapshot),
    #[prost(message, tag = "70")]
    DeleteSnapshot(volume::DeleteSnapshot),
    #[prost(message, tag = "71")]
    CloneVolume(volume::CloneVolume),
    #[prost(message, tag = "72")]
    RollBack(volume::RollBack),
    #[prost(message, tag = "73")]
    SetQos(volume::SetQos),
    #[prost(message, tag = "74")]
    RenameVolume(volume::RenameVolume),
    #[prost(message, tag = "75")]
    SweepVolume(volume::SweepVolume),
}

/// Opens a session. `nonce` makes a retry find the session it made.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegisterSession {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Unique random number of this process start.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
}

/// Ends a session: its grants may be sealed and reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EndSession {
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

/// Declares a disk's content lost.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LoseDisk {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
}

/// A chunk to grant: which disks its shards go to, in order of shard index.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PlannedChunk {
    #[prost(uint64, repeated, tag = "1")]
    pub disks: Vec<u64>,
}

/// Grants chunks to a session, with placements.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GrantChunks {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(message, required, tag = "2")]
    pub redundancy: RedundancyRow,
    #[prost(uint64, tag = "3")]
    pub cell_size: u64,
    #[prost(uint64, tag = "4")]
    pub capacity: u64,
    #[prost(message, repeated, tag = "5")]
    pub chunks: Vec<PlannedChunk>,
    /// What they are turned into after their seal.
    #[prost(message, optional, tag = "6")]
    pub becomes: Option<RedundancyRow>,
}

/// Raises a chunk's epoch before it is fenced.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RaiseEpoch {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
}

/// Seals a chunk: length and the placements that hold it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SealChunk {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Must equal the chunk's epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Shard bytes.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// Placements that stay; the others are dropped and deleted.
    #[prost(uint64, repeated, tag = "4")]
    pub keep: Vec<u64>,
    /// The writer has also given the chunk back (no later commit will name it).
    #[prost(bool, tag = "5")]
    pub release: bool,
}

/// Opens a move: new placements for the given shard indexes on the given disks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StartMove {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// `placement` is filled in by apply.
    #[prost(message, repeated, tag = "2")]
    pub shards: Vec<ShardRow>,
    /// The chunk is laid out anew by this policy: they are all of its shards then.
    #[prost(message, optional, tag = "3")]
    pub becomes: Option<RedundancyRow>,
}

/// Commits or aborts a move.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FinishMove {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The pending move.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Commit, else abort.
    #[prost(bool, tag = "3")]
    pub commit: bool,
}

/// Shards that are gone from a disk.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Deleted {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub placements: Vec<u64>,
}

/// Shards of one disk. Marked bad, they are replaced; dropped as unknown, they are deleted if no
/// chunk names them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskShards {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    #[prost(message, repeated, tag = "2")]
    pub shards: Vec<ShardName>,
}

/// Makes a bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateBucket {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub owner: String,
    /// 0 flat, 1 tree.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
}

/// Deletes an empty bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteBucket {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Conditions decided in apply.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Conditions {
    /// Only if the key does not exist.
    #[prost(bool, tag = "1")]
    pub absent: bool,
    /// Only if it has this ETag; `*` = any. Empty = no condition.
    #[prost(string, tag = "2")]
    pub etag: String,
}

/// Bytes of an object or part: inline, or extents that become a blob.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NewBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub inline: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<ExtentRow>,
    /// Bytes in all.
    #[prost(uint64, tag = "3")]
    pub size: u64,
}

/// Makes an object visible.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutObject {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(message, required, tag = "3")]
    pub meta: MetaRow,
    #[prost(message, required, tag = "4")]
    pub body: NewBody,
    #[prost(message, required, tag = "5")]
    pub conditions: Conditions,
}

/// Deletes an object.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteObject {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(message, required, tag = "3")]
    pub conditions: Conditions,
}

/// Opens a multipart upload.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateUpload {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(message, required, tag = "3")]
    pub meta: MetaRow,
    #[prost(string, tag = "4")]
    pub checksum_kind: String,
}

/// Adds or replaces a part.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutPart {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub upload: u64,
    #[prost(uint32, tag = "4")]
    pub number: u32,
    #[prost(string, tag = "5")]
    pub etag: String,
    #[prost(message, repeated, tag = "6")]
    pub checksums: Vec<crate::rows::Pair>,
    #[prost(message, required, tag = "7")]
    pub body: NewBody,
}

/// A part as named by Complete.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NamedPart {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub etag: String,
    #[prost(message, repeated, tag = "3")]
    pub checksums: Vec<crate::rows::Pair>,
}

/// Turns parts into an object; copies nothing.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CompleteUpload {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub upload: u64,
    #[prost(message, repeated, tag = "4")]
    pub parts: Vec<NamedPart>,
    #[prost(message, required, tag = "5")]
    pub meta: MetaRow,
    #[prost(message, required, tag = "6")]
    pub conditions: Conditions,
}

/// Drops an upload and its parts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AbortUpload {
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub upload: u64,
}

/// Points blobs at copies of their bytes, so that a mostly dead chunk can go.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MoveExtents {
    /// The chunk that is left.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    #[prost(message, repeated, tag = "2")]
    pub moves: Vec<ExtentMove>,
}

/// One extent and where its bytes are now as well. Skipped if the blob has the extent no more.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExtentMove {
    #[prost(uint64, tag = "1")]
    pub blob: u64,
    /// The extent as the blob has it.
    #[prost(message, required, tag = "2")]
    pub old: ExtentRow,
    /// What stands in its place: the same logical bytes, in order, without gaps.
    #[prost(message, repeated, tag = "3")]
    pub new: Vec<ExtentRow>,
}

/// Stores an access key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutAccessKey {
    #[prost(string, tag = "1")]
    pub access_key: String,
    #[prost(message, required, tag = "2")]
    pub row: AccessKeyRow,
    /// Refuse if a root key exists already.
    #[prost(bool, tag = "3")]
    pub only_first_root: bool,
}

/// Removes an access key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteAccessKey {
    #[prost(string, tag = "1")]
    pub access_key: String,
}

/// Why a command was refused; decided in apply, so every replica agrees.
pub mod refusal {
    pub const NONE: u32 = 0;
    pub const NO_BUCKET: u32 = 1;
    pub const BUCKET_EXISTS: u32 = 2;
    pub const BUCKET_YOURS: u32 = 3;
    pub const BUCKET_NOT_EMPTY: u32 = 4;
    pub const NO_KEY: u32 = 5;
    pub const NO_UPLOAD: u32 = 6;
    pub const INVALID_PART: u32 = 7;
    pub const PART_ORDER: u32 = 8;
    pub const PART_TOO_SMALL: u32 = 9;
    pub const PRECONDITION: u32 = 10;
    pub const NO_SESSION: u32 = 11;
    /// The chunk is condemned, gone, or not what the command thinks.
    pub const CHUNK: u32 = 12;
    pub const EPOCH: u32 = 13;
    pub const NO_ACCESS_KEY: u32 = 14;
    pub const BELOW_FLOOR: u32 = 15;
    pub const OTHER_BODY: u32 = 16;
    pub const TOO_MANY_OUTSTANDING: u32 = 17;
    pub const EXISTS: u32 = 18;
    pub const MALFORMED: u32 = 19;
    pub const DISK: u32 = 20;
    pub const NOT_INITIALISED: u32 = 21;
    pub const NO_DISK: u32 = 22;
    /// A bucket in the trash is not in a state for it.
    pub const TRASH: u32 = 30;
    pub const NO_VOLUME: u32 = 40;
    /// Attached by somebody else.
    pub const VOLUME_BUSY: u32 = 41;
    /// Another owner has taken the volume over, or it was detached.
    pub const VOLUME_FENCED: u32 = 42;
}

/// What apply answers.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// See [`refusal`]; 0 = done.
    #[prost(uint32, tag = "1")]
    pub refusal: u32,
    /// For people; also a part number for part refusals.
    #[prost(string, tag = "2")]
    pub text: String,
    /// A number given out (session, disk, bucket, upload, move, epoch).
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// The object that is now visible.
    #[prost(message, optional, tag = "4")]
    pub object: Option<ObjectRow>,
    /// Chunks granted.
    #[prost(message, repeated, tag = "5")]
    pub chunks: Vec<ChunkEntry>,
    #[prost(message, optional, tag = "6")]
    pub bucket: Option<BucketRow>,
    #[prost(message, optional, tag = "7")]
    pub part: Option<PartRow>,
    #[prost(message, optional, tag = "8")]
    pub upload: Option<UploadRow>,
    /// Something existed (delete); something is left (purge).
    #[prost(bool, tag = "9")]
    pub existed: bool,
    /// The bucket that is in the trash now.
    #[prost(message, optional, tag = "20")]
    pub trashed: Option<TrashRow>,
    /// The volume as it is now.
    #[prost(message, optional, tag = "30")]
    pub volume: Option<volume::VolumeRow>,
    /// The snapshot as it is now.
    #[prost(message, optional, tag = "31")]
    pub snapshot: Option<volume::SnapshotRow>,
}

/// A chunk with its number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkEntry {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    #[prost(message, required, tag = "2")]
    pub row: ChunkRow,
}

/// A disk or session says it lives.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Heartbeat {
    /// Sessions of this process.
    #[prost(uint64, repeated, tag = "1")]
    pub sessions: Vec<u64>,
    /// Disks of this process.
    #[prost(message, repeated, tag = "2")]
    pub disks: Vec<DiskReport>,
}

/// What a disk reports.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DiskReport {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    #[prost(uint64, tag = "2")]
    pub total_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub available_bytes: u64,
    /// Its flush failed: content must be repaired elsewhere.
    #[prost(bool, tag = "4")]
    pub failed: bool,
    /// The feature level that its process knows, 0 = the first.
    #[prost(uint64, tag = "5")]
    pub level: u64,
}

/// Answer to a heartbeat.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeartbeatAck {
    /// Sessions of the question that have ended.
    #[prost(uint64, repeated, tag = "1")]
    pub ended: Vec<u64>,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Disks of the question that were removed: their directories are given up.
    #[prost(uint64, repeated, tag = "3")]
    pub removed: Vec<u64>,
    /// The cluster's feature level.
    #[prost(uint64, tag = "4")]
    pub level: u64,
}

/// Asks for chunks to write.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GrantRequest {
    #[prost(message, required, tag = "1")]
    pub redundancy: RedundancyRow,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    /// Of whom; the command built from it carries these.
    #[prost(uint64, tag = "3")]
    pub session: u64,
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    #[prost(uint64, tag = "5")]
    pub floor: u64,
    #[prost(uint32, tag = "6")]
    pub partition: u32,
    /// Disks the writer has just failed on.
    #[prost(uint64, repeated, tag = "7")]
    pub avoid: Vec<u64>,
    /// Disks the writer finds slow: taken only if the others are too few.
    #[prost(uint64, repeated, tag = "9")]
    pub slow: Vec<u64>,
    /// For what frees space: nearly full disks are taken too.
    #[prost(bool, tag = "8")]
    pub reserve: bool,
    /// What the chunks are turned into after their seal.
    #[prost(message, optional, tag = "10")]
    pub becomes: Option<RedundancyRow>,
}

/// Chunks with their layouts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkList {
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<ChunkEntry>,
}

/// Asks the leader to fence and seal a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SealRequest {
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// No later commit of this session will name the chunk.
    #[prost(bool, tag = "3")]
    pub release: bool,
}

/// An executor asks for work.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseJobRequest {
    #[prost(string, tag = "1")]
    pub executor: String,
    /// The move last worked on: finished well or not.
    #[prost(message, optional, tag = "2")]
    pub done: Option<FinishMove>,
    /// The chunk whose live extents were moved last, 0 = none.
    #[prost(uint64, tag = "3")]
    pub compacted: u64,
}

/// What an executor is to do. With a pending move in the row: build its shards from the others (of
/// another policy, if the move says so).
/// With extents: store their bytes elsewhere and have them moved.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Job {
    /// None = nothing to do.
    #[prost(message, optional, tag = "1")]
    pub chunk: Option<ChunkEntry>,
    /// What is alive of a chunk that is mostly dead.
    #[prost(message, repeated, tag = "2")]
    pub live: Vec<LiveExtent>,
}

/// An extent and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LiveExtent {
    #[prost(uint64, tag = "1")]
    pub blob: u64,
    #[prost(message, required, tag = "2")]
    pub extent: ExtentRow,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MetaStateRequest {}

/// What any replica says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MetaState {
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    #[prost(uint64, tag = "2")]
    pub leader: u64,
    #[prost(uint64, tag = "3")]
    pub term: u64,
    #[prost(uint64, tag = "4")]
    pub applied: u64,
    #[prost(uint64, tag = "5")]
    pub state_hash: u64,
    /// Its name, for people.
    #[prost(string, tag = "6")]
    pub name: String,
    /// It may have forgotten something and takes no part.
    #[prost(bool, tag = "7")]
    pub in_doubt: bool,
    /// The feature level that it knows, 0 = the first.
    #[prost(uint64, tag = "8")]
    pub level: u64,
}

/// A replica that starts empty asks to be let in, in place of an older one at the same address.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinReplica {
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint64, tag = "3")]
    pub replaces: u64,
}

/// Asks the leader for a page of the snapshot it has offered; it comes as payload.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SnapshotPage {
    /// Raft index of the snapshot.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Which page, from 0.
    #[prost(uint64, tag = "2")]
    pub page: u64,
}

/// Asks the leader to compare a page of what a disk holds with what it should hold.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CheckDisk {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    /// Chunks above this one.
    #[prost(uint64, tag = "2")]
    pub after: u64,
}

/// Answer to [`CheckDisk`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskChecked {
    #[prost(message, repeated, tag = "1")]
    pub differences: Vec<Difference>,
    /// Where the next page begins; `u64::MAX` = there is none.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
    /// Shards that the page's chunks should have there.
    #[prost(uint64, tag = "3")]
    pub expected: u64,
}

/// Values of [`Difference::kind`].
pub mod difference {
    /// A chunk names the shard, the disk does not hold it.
    pub const MISSING: u32 = 1;
    /// The disk holds less of it than was acknowledged.
    pub const SHORT: u32 = 2;
    /// No chunk names it: left over from what was deleted.
    pub const UNKNOWN: u32 = 3;
    /// Its numbers were never given out here.
    pub const ALIEN: u32 = 4;
    /// Its bytes failed their checksum or could not be read.
    pub const DAMAGED: u32 = 5;
}

/// A shard that is not on its disk as the metadata says.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Difference {
    #[prost(message, required, tag = "1")]
    pub shard: ShardName,
    /// See [`difference`].
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Bytes there are, and bytes there should be (short shards).
    #[prost(uint64, tag = "3")]
    pub have: u64,
    #[prost(uint64, tag = "4")]
    pub want: u64,
}

/// A replica that may have forgotten something asks another one how far its log goes, and says how
/// far its own does: who leads must not count more of it as stored.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogEndRequest {
    /// Who asks.
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    /// Index of the last entry that it holds durably.
    #[prost(uint64, tag = "2")]
    pub last_index: u64,
}

/// How far a replica's log goes, what is not durable yet included.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogEnd {
    /// Who answers.
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    /// Random number of its process start.
    #[prost(uint64, tag = "2")]
    pub start: u64,
    /// Its current term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
    /// Term of its last entry.
    #[prost(uint64, tag = "4")]
    pub last_term: u64,
    /// Index of its last entry.
    #[prost(uint64, tag = "5")]
    pub last_index: u64,
    /// Highest index that it has applied.
    #[prost(uint64, tag = "6")]
    pub applied: u64,
    /// Who votes, as of there.
    #[prost(uint64, repeated, tag = "7")]
    pub voters: Vec<u64>,
    /// Addresses of all members as of there, in the order of `member_ids`.
    #[prost(string, repeated, tag = "8")]
    pub members: Vec<String>,
    /// Raft ids of all members.
    #[prost(uint64, repeated, tag = "9")]
    pub member_ids: Vec<u64>,
}
