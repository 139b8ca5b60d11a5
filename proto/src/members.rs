//! Disks and nodes that come and go: commands, and what the leader says of safety and of its plan.

use prost::Message;

use crate::rows::RedundancyRow;

/// Has the shards of disks moved away, or no longer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DrainDisks {
    #[prost(uint64, repeated, tag = "1")]
    pub disks: Vec<u64>,
    /// Drain, else take back into use.
    #[prost(bool, tag = "2")]
    pub draining: bool,
}

/// Takes a disk out of the pool for good.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RemoveDisk {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    /// Also if shards that are needed lie there: it will not come back.
    #[prost(bool, tag = "2")]
    pub lost: bool,
}

/// A replica leaves the group for good: another one votes in its place, or its node goes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LeaveReplica {
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
}

/// A machine asks to become a node, or a node for its next certificate.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinNode {
    /// Its name: unique, and for people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// It is one already.
    #[prost(bool, tag = "2")]
    pub renews: bool,
}

/// What a node needs to take part.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct NodeJoined {
    /// Its certificates, as they are kept in `tls.json`.
    #[prost(string, tag = "1")]
    pub certificates: String,
    /// The metaserver replicas: Raft ids and addresses.
    #[prost(uint64, repeated, tag = "2")]
    pub member_ids: Vec<u64>,
    #[prost(string, repeated, tag = "3")]
    pub members: Vec<String>,
    /// The cluster's root key, as it is kept in `root-key`; empty: the operator gives it to each node.
    #[prost(string, tag = "4")]
    pub root_key: String,
}

impl std::fmt::Debug for NodeJoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeJoined").field("members", &self.members).finish_non_exhaustive()
    }
}

/// Raises the cluster's feature level by one: older programs are shut out from then on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RaiseLevel {
    #[prost(uint64, tag = "1")]
    pub level: u64,
}

/// Changes the redundancy of new data; what has less is laid out anew behind it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SetRedundancy {
    #[prost(message, required, tag = "1")]
    pub redundancy: RedundancyRow,
}

/// Whether disks and nodes can be removed at once, now.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AskSafety {
    #[prost(uint64, repeated, tag = "1")]
    pub disks: Vec<u64>,
    /// Names of processes, metaservers too.
    #[prost(string, repeated, tag = "2")]
    pub nodes: Vec<String>,
}

/// The answer to [`AskSafety`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Safety {
    /// No data is lost and metadata keeps its majority.
    #[prost(bool, tag = "1")]
    pub safe: bool,
    /// Why, in one line.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Chunks that could not be read any more, and bytes of users in them.
    #[prost(uint64, tag = "3")]
    pub chunks_lost: u64,
    #[prost(uint64, tag = "4")]
    pub bytes_lost: u64,
    /// Chunks that would lack shards but stay readable, and bytes to be written to mend them.
    #[prost(uint64, tag = "5")]
    pub chunks_degraded: u64,
    #[prost(uint64, tag = "6")]
    pub bytes_to_repair: u64,
    /// Metaserver replicas that answer and would stay, of how many, and how many a majority is.
    #[prost(uint64, tag = "7")]
    pub replicas_left: u64,
    #[prost(uint64, tag = "8")]
    pub replicas: u64,
    #[prost(uint64, tag = "9")]
    pub majority: u64,
    /// One of the named that does not exist.
    #[prost(string, tag = "10")]
    pub unknown: String,
}

/// What the cluster would move now.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PlanView {
    /// The first moves, in the order in which they begin.
    #[prost(message, repeated, tag = "1")]
    pub moves: Vec<PlannedMove>,
    /// All moves, by reason.
    #[prost(message, repeated, tag = "2")]
    pub totals: Vec<PlanTotal>,
    /// Seconds until all is done; 0 = nothing to do.
    #[prost(uint64, tag = "3")]
    pub eta_s: u64,
    /// The speed that this goes by, bytes of new shards a second.
    #[prost(uint64, tag = "4")]
    pub bytes_per_s: u64,
}

/// Values of [`PlannedMove::why`] and [`PlanTotal::why`].
pub mod why {
    /// A shard is lacking or bad.
    pub const REPAIR: u32 = 1;
    /// Its disk is drained.
    pub const DRAIN: u32 = 2;
    /// A failure domain holds more shards of a chunk than it must.
    pub const SPREAD: u32 = 3;
    /// Its disk is much fuller than another.
    pub const BALANCE: u32 = 4;
    /// A mostly dead chunk's live bytes go elsewhere.
    pub const COMPACT: u32 = 5;
    /// A full chunk of copies is turned into stripes.
    pub const TRANSCODE: u32 = 6;
}

/// Shards of one chunk that will be moved together.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PlannedMove {
    /// See [`why`].
    #[prost(uint32, tag = "1")]
    pub why: u32,
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// Bytes of new shards.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Disks whose shards are replaced; empty where there is none any more.
    #[prost(uint64, repeated, tag = "4")]
    pub sources: Vec<u64>,
    /// Disks of the new shards; empty for a compaction, or if no disk can take them now.
    #[prost(uint64, repeated, tag = "5")]
    pub targets: Vec<u64>,
    /// It has begun.
    #[prost(bool, tag = "6")]
    pub under_way: bool,
}

/// Sum of planned moves.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PlanTotal {
    /// See [`why`].
    #[prost(uint32, tag = "1")]
    pub why: u32,
    #[prost(uint64, tag = "2")]
    pub moves: u64,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Of these, moves that no disk can take now.
    #[prost(uint64, tag = "4")]
    pub blocked: u64,
}

/// What lies on a disk, by the metadata.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DiskLoad {
    #[prost(uint64, tag = "1")]
    pub disk: u64,
    /// Shards that are needed, and their bytes.
    #[prost(uint64, tag = "2")]
    pub shards: u64,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}
