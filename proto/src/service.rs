//! Requests and answers of the internal protocol: one enum each, so that a call inside a process
//! passes the value itself and only a socket pays for encoding.

use prost::bytes::Bytes;
use prost::{Message, Oneof};

use crate::{chunk, members, meta, query, volume};

/// What is asked.
#[allow(clippy::large_enum_variant, reason = "prost's oneof cannot hold boxes; one lives per call")]
#[derive(Clone, PartialEq, Oneof)]
pub enum Request {
    /// To a chunkserver.
    #[prost(message, tag = "1")]
    Append(chunk::Append),
    #[prost(message, tag = "2")]
    Fence(chunk::Fence),
    #[prost(message, tag = "3")]
    Seal(chunk::Seal),
    #[prost(message, tag = "4")]
    Read(chunk::Read),
    #[prost(message, tag = "5")]
    Delete(chunk::Delete),
    #[prost(message, tag = "6")]
    ListShards(chunk::ListShards),
    #[prost(message, tag = "7")]
    Census(chunk::Census),
    /// To a chunkserver's process: take one more directory into the pool.
    #[prost(message, tag = "8")]
    AddDisk(chunk::AddDisk),
    /// To the metaserver's leader: a command for the log.
    #[prost(message, tag = "20")]
    Propose(meta::Command),
    /// To the leader: a linearizable read.
    #[prost(message, tag = "21")]
    Query(query::Query),
    /// To the leader: a disk says it lives.
    #[prost(message, tag = "22")]
    Heartbeat(meta::Heartbeat),
    /// To the leader: plan and grant chunks.
    #[prost(message, tag = "23")]
    Grant(meta::GrantRequest),
    /// To the leader: fence and seal a chunk.
    #[prost(message, tag = "24")]
    SealChunk(meta::SealRequest),
    /// To the leader: a job for a background executor.
    #[prost(message, tag = "25")]
    LeaseJob(meta::LeaseJobRequest),
    /// Between replicas: a Raft message, opaque.
    #[prost(bytes = "bytes", tag = "30")]
    Raft(Bytes),
    /// To any replica: who leads?
    #[prost(message, tag = "31")]
    MetaState(meta::MetaStateRequest),
    /// To the leader: let a new replica in. It answers with its log end, for the members in it.
    #[prost(message, tag = "32")]
    JoinReplica(meta::JoinReplica),
    /// To the leader: compare what a disk holds with what it should.
    #[prost(message, tag = "26")]
    CheckDisk(meta::CheckDisk),
    /// To the leader: the key of an encrypted volume, unwrapped.
    #[prost(message, tag = "27")]
    VolumeKey(volume::AskVolumeKey),
    /// Between replicas: a page of a snapshot that was offered.
    #[prost(message, tag = "33")]
    SnapshotPage(meta::SnapshotPage),
    /// Between replicas: how far does your log go?
    #[prost(message, tag = "34")]
    LogEnd(meta::LogEndRequest),
    /// To the leader: a replica leaves the group for good.
    #[prost(message, tag = "35")]
    LeaveReplica(members::LeaveReplica),
    /// To the node that keeps the authority: a certificate for a node that joins, or a new one for a member.
    #[prost(message, tag = "36")]
    JoinNode(members::JoinNode),
}

impl Request {
    /// What is asked, in a word, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Append(_) => "append",
            Request::Fence(_) => "fence",
            Request::Seal(_) => "seal",
            Request::Read(_) => "read",
            Request::Delete(_) => "delete",
            Request::ListShards(_) => "list-shards",
            Request::Census(_) => "census",
            Request::AddDisk(_) => "add-disk",
            Request::Propose(_) => "propose",
            Request::Query(_) => "query",
            Request::Heartbeat(_) => "heartbeat",
            Request::Grant(_) => "grant",
            Request::SealChunk(_) => "seal-chunk",
            Request::LeaseJob(_) => "lease-job",
            Request::CheckDisk(_) => "check-disk",
            Request::VolumeKey(_) => "volume-key",
            Request::Raft(_) => "raft",
            Request::MetaState(_) => "meta-state",
            Request::JoinReplica(_) => "join-replica",
            Request::SnapshotPage(_) => "snapshot-page",
            Request::LogEnd(_) => "log-end",
            Request::LeaveReplica(_) => "leave-replica",
            Request::JoinNode(_) => "join-node",
        }
    }
}

/// What is answered.
#[allow(clippy::large_enum_variant, reason = "prost's oneof cannot hold boxes; one lives per call")]
#[derive(Clone, PartialEq, Oneof)]
pub enum Answer {
    #[prost(message, tag = "1")]
    Failed(Failure),
    #[prost(message, tag = "2")]
    Shard(chunk::ShardState),
    /// The bytes are the frame's payload.
    #[prost(message, tag = "3")]
    Data(Done),
    #[prost(message, tag = "4")]
    Done(Done),
    #[prost(message, tag = "5")]
    ShardList(chunk::ShardList),
    #[prost(message, tag = "6")]
    CensusPage(chunk::CensusPage),
    #[prost(message, tag = "7")]
    DiskAdded(chunk::DiskAdded),
    #[prost(message, tag = "20")]
    Outcome(meta::Outcome),
    #[prost(message, tag = "21")]
    View(query::View),
    #[prost(message, tag = "22")]
    HeartbeatAck(meta::HeartbeatAck),
    #[prost(message, tag = "23")]
    Chunks(meta::ChunkList),
    #[prost(message, tag = "24")]
    Job(meta::Job),
    #[prost(message, tag = "25")]
    MetaState(meta::MetaState),
    #[prost(message, tag = "26")]
    DiskChecked(meta::DiskChecked),
    #[prost(message, tag = "27")]
    LogEnd(meta::LogEnd),
    #[prost(message, tag = "28")]
    NodeJoined(members::NodeJoined),
    #[prost(message, tag = "29")]
    VolumeKey(volume::VolumeKey),
}

/// Nothing more to say.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Done {}

/// Error classes: what the caller does next.
pub mod class {
    /// The same request again, a little later.
    pub const RETRY: u32 = 1;
    /// The same request to another replica or shard.
    pub const ELSEWHERE: u32 = 2;
    /// Refetch the route (layout, leader, epoch), then again.
    pub const REFETCH: u32 = 3;
    /// It can never succeed.
    pub const GIVE_UP: u32 = 4;
}

/// Finer kinds of failure that callers tell apart.
pub mod code {
    pub const OTHER: u32 = 0;
    /// Not the leader; `hint` says who may be.
    pub const NOT_LEADER: u32 = 1;
    /// Append under an older epoch than stored, or a newer one.
    pub const FENCED: u32 = 2;
    /// The shard is sealed.
    pub const SEALED: u32 = 3;
    /// Offset is not the shard's length.
    pub const WRONG_OFFSET: u32 = 4;
    /// No such placement here.
    pub const NO_SHARD: u32 = 5;
    /// Bytes fail their checksum; not served.
    pub const ROT: u32 = 6;
    /// The disk failed.
    pub const DISK: u32 = 7;
    /// No space.
    pub const FULL: u32 = 8;
    /// Queues or memory budget exhausted.
    pub const BUSY: u32 = 9;
    /// Beyond the shard's length.
    pub const BEYOND: u32 = 10;
    /// Session unknown or ended.
    pub const NO_SESSION: u32 = 11;
    /// Sent to the wrong cluster or store.
    pub const WRONG_TARGET: u32 = 12;
    /// Malformed request.
    pub const BAD_REQUEST: u32 = 13;
    /// The caller's certificate does not hold a role that may ask this.
    pub const NOT_PERMITTED: u32 = 14;
    /// What is there stands against it.
    pub const CONFLICT: u32 = 15;
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failure {
    /// See [`class`].
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// See [`code`].
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// For people.
    #[prost(string, tag = "3")]
    pub text: String,
    /// Leader hint: raft id; wrong offset or fenced: the stored number.
    #[prost(uint64, tag = "4")]
    pub hint: u64,
}

impl Failure {
    /// A refusal of the given class and code.
    pub fn new(class: u32, code: u32, text: impl Into<String>) -> Failure {
        Failure { class, code, text: text.into(), hint: 0 }
    }
}

/// A request on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct RequestMessage {
    /// What is asked; absent = unknown to this build.
    #[prost(oneof = "Request", tags = "1,2,3,4,5,6,7,8,20,21,22,23,24,25,26,27,30,31,32,33,34,35,36")]
    pub body: Option<Request>,
}

/// An answer on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct AnswerMessage {
    /// What is answered.
    #[prost(oneof = "Answer", tags = "1,2,3,4,5,6,7,20,21,22,23,24,25,26,27,28,29")]
    pub body: Option<Answer>,
}
