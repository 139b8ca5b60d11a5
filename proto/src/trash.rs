//! Buckets in the trash: commands, and what is told of them.

use prost::Message;

use crate::rows::TrashRow;

/// Moves a bucket with all that it holds to the trash. Its name is free at once.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrashBucket {
    #[prost(string, tag = "1")]
    pub name: String,
    /// How long it is kept there, milliseconds.
    #[prost(uint64, tag = "2")]
    pub keep_ms: u64,
}

/// Takes a bucket out of the trash, as it was.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RestoreBucket {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The name it gets; empty = the one it had.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Gives a bucket in the trash up before its time.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PurgeBucket {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
}

/// Removes a page of what a bucket in the trash holds, if it was given up or its time is over; the
/// last page removes the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PurgePage {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
}

/// A bucket in the trash and how much it holds.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TrashEntry {
    #[prost(message, required, tag = "1")]
    pub row: TrashRow,
    /// Objects, and their bytes.
    #[prost(uint64, tag = "2")]
    pub objects: u64,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// There are more: the count was stopped.
    #[prost(bool, tag = "4")]
    pub more: bool,
}
