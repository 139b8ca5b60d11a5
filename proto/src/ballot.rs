//! The file `ballot`: what a metaserver replica keeps beside its log, so that a log that was cut or
//! put back from an older copy is not taken for the whole truth. Replaced atomically.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | magic | `BXB1` |
//! | 4..5 | version | 1 |
//! | 5..6 | phase | 1 member, 2 joining |
//! | 6..7 | doubt | 0 none, 1 the log ended with a torn write, 2 acknowledged entries may be gone |
//! | 7..8 | reserved | 0 |
//! | 8..16 | raft_id | who the replica is in this life |
//! | 16..24 | store | the name that its log records carry in this life |
//! | 24..32 | first_segment | log segments below it are of an earlier life; 0 in the first one |
//! | 32..40 | replaces | Raft id in whose place it joins, 0 for none |
//! | 40..48 | term | as in the log's last hard state |
//! | 48..56 | vote | likewise |
//! | 56..64 | sequence | of a record of the log that was durable when this was written |
//! | 64..72 | crc | CRC-64/NVME of bytes 0..64 |

use types::checksum::crc64;
use types::ids::StoreId;

use crate::error::{CodecError, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"BXB1");
const LEN: usize = 72;
const WHAT: &str = "ballot file";

/// Whether the replica belongs to the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It does; what its log says counts.
    Member,
    /// It asks to be let in.
    Joining,
}

/// What the replica may have forgotten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Doubt {
    /// Nothing.
    None,
    /// What a disk that keeps its word never acknowledged.
    Torn,
    /// Votes, or entries that it acknowledged.
    Forgot,
}

/// The file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ballot {
    /// Whether it belongs to the group.
    pub phase: Phase,
    /// What it may have forgotten.
    pub doubt: Doubt,
    /// Its Raft id in this life.
    pub raft_id: u64,
    /// The name that its log records carry.
    pub store: StoreId,
    /// The first log segment of this life.
    pub first_segment: u64,
    /// In whose place it joins.
    pub replaces: u64,
    /// The current term.
    pub term: u64,
    /// Whom it voted for in it, 0 = nobody.
    pub vote: u64,
    /// A record that the log has at least.
    pub sequence: u64,
}

impl Ballot {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; LEN];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = 1;
        out[5] = match self.phase {
            Phase::Member => 1,
            Phase::Joining => 2,
        };
        out[6] = match self.doubt {
            Doubt::None => 0,
            Doubt::Torn => 1,
            Doubt::Forgot => 2,
        };
        let fields =
            [self.raft_id, self.store.0, self.first_segment, self.replaces, self.term, self.vote, self.sequence];
        for (at, value) in (8..).step_by(8).zip(fields) {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc64(&out[..LEN - 8]);
        out[LEN - 8..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `CodecError` for damaged or foreign bytes: the replica no longer knows who it is.
    pub fn decode(bytes: &[u8]) -> Result<Ballot, CodecError> {
        if bytes.len() != LEN {
            return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: LEN });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        if u64_at(bytes, LEN - 8) != crc64(&bytes[..LEN - 8]) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        if bytes[4] != 1 {
            return Err(CodecError::Version { what: WHAT, version: u64::from(bytes[4]) });
        }
        let out_of_bounds = |field, at: usize| CodecError::Bounds { what: WHAT, field, value: u64::from(bytes[at]) };
        Ok(Ballot {
            phase: match bytes[5] {
                1 => Phase::Member,
                2 => Phase::Joining,
                _ => return Err(out_of_bounds("phase", 5)),
            },
            doubt: match bytes[6] {
                0 => Doubt::None,
                1 => Doubt::Torn,
                2 => Doubt::Forgot,
                _ => return Err(out_of_bounds("doubt", 6)),
            },
            raft_id: u64_at(bytes, 8),
            store: StoreId(u64_at(bytes, 16)),
            first_segment: u64_at(bytes, 24),
            replaces: u64_at(bytes, 32),
            term: u64_at(bytes, 40),
            vote: u64_at(bytes, 48),
            sequence: u64_at(bytes, 56),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Ballot, Doubt, Phase, StoreId};

    #[test]
    fn round_trip_is_pinned_and_every_flipped_bit_is_seen() {
        let ballot = Ballot {
            phase: Phase::Joining,
            doubt: Doubt::Forgot,
            raft_id: 1,
            store: StoreId(2),
            first_segment: 3,
            replaces: 4,
            term: 5,
            vote: 6,
            sequence: 7,
        };
        let bytes = ballot.encode();
        assert_eq!(&bytes[..16], b"BXB1\x01\x02\x02\0\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[56], 7);
        assert_eq!(Ballot::decode(&bytes), Ok(ballot));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Ballot::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
