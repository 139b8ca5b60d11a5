//! Situations that a run of many seeds must come into, or else it proves less than it seems to.
//!
//! The code says where it is (`platform.reached`), the faults say what they did. A name that is not
//! listed here is a violation, so that the lists stay true; one that was never reached is reported.

/// What the code says.
pub const PLACES: &[&str] = &[
    "ballot written",
    "bucket is purged",
    "bucket is restored",
    "chunk is transcoded",
    "joined replica votes",
    "log ended in a torn write",
    "log has lost its end",
    "log segment removed",
    "log write under way",
    "log written, ballot not",
    "replica begins a new life",
    "replica in doubt has heard the others",
    "seal is committed",
    "shard is rebuilt",
    "snapshot fetched",
    "snapshot in place",
    "state flushed",
    "vote in doubt",
    "vote refused in doubt",
];

/// What happens to volumes, in the code or in the work.
pub const VOLUMES: &[&str] = &[
    "chunk of a volume is kept for a snapshot",
    "clone is deleted",
    "deleted volumes are gone",
    "volume chunk is compacted",
    "volume chunk is copied out",
    "volume could not be detached",
    "volume goes back to a snapshot",
    "volume index is half stored",
    "volume is attached",
    "volume edge is encrypted anew",
    "volume is cloned",
    "volume is encrypted",
    "volume is taken over with writes under way",
    "volume journal is sealed",
    "volume replay goes on behind a snapshot",
    "volume snapshot is taken",
    "volume write wins over a move",
    "volume's owner was fenced",
];

/// What the code says when three rare things come together; a run may do without.
pub const RARE: &[&str] = &[
    "log is shorter than was acknowledged",
    "offer of a snapshot made anew",
    "torn log forgiven",
    "volume change that failed is settled",
];

/// Kinds of faults.
pub const FAULTS: &[&str] = &[
    "chunkservers go dark behind a seal",
    "clock jumps",
    "damage to a metaserver",
    "disk is drained",
    "disk is lost",
    "disk is passing bad",
    "disk rots",
    "executor stalls with a rebuilt shard",
    "flushes of a metaserver fail",
    "kill -9",
    "leader is cut off from the other metaservers",
    "leader is left behind",
    "one-way partition",
    "owner is cut off from the metaservers",
    "owner of a volume is caught",
    "partition",
    "pause",
    "power cut",
    "power cut in a delicate place",
    "power cut of everything",
    "record of an open chunk rots",
    "redundancy is changed",
    "seal behind the writer's back",
    "upgrade is finalized",
];
