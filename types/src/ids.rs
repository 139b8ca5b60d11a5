//! Numbers that must not mix, each as its own type.
//!
//! All of them are allocated in Raft and never reused, except `ShardIndex` (a position) and
//! `ClusterId`/`StoreId` (random, drawn when a cluster or a store is made).

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// An append-only unit of placement, sealing and repair. The upper 16 bits name the
    /// partition that holds its rows.
    ChunkId, "c"
);
id!(
    /// One shard's home on one disk; unique for ever.
    PlacementId, "p"
);
id!(
    /// Counter that rises when the right to write a chunk moves.
    Epoch, "e"
);
id!(
    /// One process start, registered in Raft.
    SessionId, "s"
);
id!(
    /// A disk known to the metaserver.
    DiskId, "d"
);
id!(
    /// An immutable list of extents.
    BlobId, "b"
);
id!(
    /// Random name of one store (the directory of one chunkserver disk or metaserver replica).
    StoreId, "store-"
);
id!(
    /// Random name of a cluster.
    ClusterId, "cluster-"
);

/// One request from its entry into Bixi to the disk record. Written everywhere as S3's
/// `x-amz-request-id` is: 16 upper-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A logical part of the metadata keyspace; a command touches exactly one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Partition(pub u16);

impl ChunkId {
    /// The chunk with the given counter inside a partition.
    pub fn new(partition: Partition, counter: u64) -> ChunkId {
        assert!(counter < 1 << 48, "chunk counter exhausted");
        ChunkId((u64::from(partition.0) << 48) | counter)
    }

    /// The partition that holds the rows of this chunk.
    pub fn partition(self) -> Partition {
        Partition((self.0 >> 48) as u16)
    }
}

/// Position of a shard in its chunk, counted from 0; data columns first, then parity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardIndex(pub u8);

#[cfg(test)]
mod tests {
    use super::{ChunkId, Partition, RequestId};

    #[test]
    fn chunk_id_names_its_partition() {
        let chunk = ChunkId::new(Partition(7), 42);
        assert_eq!(chunk.partition(), Partition(7));
        assert_eq!(chunk.0 & 0xffff_ffff_ffff, 42);
    }

    #[test]
    fn request_id_reads_as_the_one_of_s3() {
        assert_eq!(RequestId(0xab).to_string(), "00000000000000AB");
        assert_eq!(RequestId(u64::MAX).to_string(), "FFFFFFFFFFFFFFFF");
    }
}
