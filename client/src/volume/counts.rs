//! What an owner has done with a volume since it attached it.

use std::ops::Add;

use proto::journal::record_kind;

/// Requests and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Reads that clients asked for.
    pub reads: u64,
    /// Bytes of these.
    pub read_bytes: u64,
    /// Writes that clients asked for.
    pub writes: u64,
    /// Bytes of these.
    pub written_bytes: u64,
    /// Bytes of records with clients' changes that went into the journal, once, however many copies there are.
    pub change_bytes: u64,
    /// Bytes of records that were moved out of chunks with little in use.
    pub moved_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
}

impl Counts {
    pub(super) fn append(&mut self, kind: u8, len: u64) {
        match kind {
            record_kind::MOVED => self.moved_bytes += len,
            record_kind::INDEX => self.index_bytes += len,
            _ => self.change_bytes += len,
        }
    }
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            written_bytes: self.written_bytes + other.written_bytes,
            change_bytes: self.change_bytes + other.change_bytes,
            moved_bytes: self.moved_bytes + other.moved_bytes,
            index_bytes: self.index_bytes + other.index_bytes,
        }
    }
}
