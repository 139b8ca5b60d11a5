//! Records of the Raft log's segment files.
//!
//! Records are packed; each append begins on a fresh 4 KiB block, so no flushed block is rewritten.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | magic | `BXL1` |
//! | 4..5 | version | 1 |
//! | 5..6 | kind | 1 entry, 2 hard state, 3 cut of the log's end, 4 end of a block's records |
//! | 6..8 | reserved | 0 |
//! | 8..16 | store | of the replica |
//! | 16..24 | segment | sequence of the segment file, tells recycled content |
//! | 24..32 | index | entry: its index; hard state: commit; cut: first index that is gone |
//! | 32..40 | term | entry: its term; hard state: term |
//! | 40..48 | extra | hard state: vote; entry: Raft entry type |
//! | 48..56 | durable_sequence | record sequence known flushed when this was written |
//! | 56..64 | sequence | of this record, rises by 1 |
//! | 64..68 | len | bytes of data |
//! | 68..72 | check | CRC-32 of bytes 0..68, 1 if that is 0; 0 in records of older versions: then `len` may be believed only if `crc` is right |
//! | 72..80 | crc | CRC-64/NVME of bytes 0..72 and the data |
//! | 80.. | data | padded to 8 |

use types::checksum::{crc32, crc64};
use types::ids::StoreId;

use crate::error::{CodecError, u32_at, u64_at};

/// Bytes before the data.
pub const HEADER_LEN: usize = 80;
/// The largest data of a record, bytes.
pub const DATA_MAX: usize = 8 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"BXL1");
const WHAT: &str = "log record";

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// A Raft entry.
    Entry,
    /// Term, vote and commit.
    HardState,
    /// Entries from `index` on are void.
    Cut,
}

/// A decoded record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    /// What it holds.
    pub kind: LogKind,
    /// The replica's store.
    pub store: StoreId,
    /// Sequence number of the segment.
    pub segment: u64,
    /// Entry index, commit index, or first void index.
    pub index: u64,
    /// Term.
    pub term: u64,
    /// Vote (hard state) or entry type.
    pub extra: u64,
    /// Sequence of the last record known flushed when this was written.
    pub durable_sequence: u64,
    /// Sequence of this record.
    pub sequence: u64,
    /// The entry's bytes.
    pub data: Vec<u8>,
}

/// Bytes a record with `len` bytes of data takes.
pub fn record_len(len: usize) -> usize {
    HEADER_LEN + len.next_multiple_of(8)
}

/// Whether `bytes` begin like a record of that segment, though perhaps damaged: two of magic, store
/// and segment are right.
pub fn resembles(bytes: &[u8], store: StoreId, segment: u64) -> bool {
    if bytes.len() < HEADER_LEN {
        return false;
    }
    let right = [u32_at(bytes, 0) == MAGIC, u64_at(bytes, 8) == store.0, u64_at(bytes, 16) == segment];
    right.into_iter().filter(|right| *right).count() >= 2
}

/// Bytes that the record at the start of `bytes` takes, by its header alone; `None` if that is none or
/// is damaged.
pub fn span(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < HEADER_LEN || u32_at(bytes, 0) != MAGIC || bytes[4] != 1 {
        return None;
    }
    let check = u32_at(bytes, 68);
    if check != 0 && check != header_check(bytes) {
        return None;
    }
    let len = u32_at(bytes, 64) as usize;
    (len <= DATA_MAX).then(|| record_len(len))
}

impl LogRecord {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.data.len() <= DATA_MAX, "log record too long");
        let start = out.len();
        let mut header = [0u8; HEADER_LEN];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4] = 1;
        header[5] = match self.kind {
            LogKind::Entry => 1,
            LogKind::HardState => 2,
            LogKind::Cut => 3,
        };
        for (at, value) in [
            (8, self.store.0),
            (16, self.segment),
            (24, self.index),
            (32, self.term),
            (40, self.extra),
            (48, self.durable_sequence),
            (56, self.sequence),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[64..68].copy_from_slice(&(self.data.len() as u32).to_le_bytes());
        let check = header_check(&header);
        header[68..72].copy_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.data);
        out.resize(start + record_len(self.data.len()), 0);
        let crc = checksum(&out[start..start + HEADER_LEN], &self.data);
        out[start + 72..start + 80].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the record at the start of `bytes` and tells how many bytes it takes.
    ///
    /// # Errors
    /// `CodecError`, never a panic, for any bytes.
    pub fn decode(bytes: &[u8]) -> Result<(LogRecord, usize), CodecError> {
        if bytes.len() < HEADER_LEN {
            return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: HEADER_LEN });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        let len = u32_at(bytes, 64) as usize;
        if len > DATA_MAX {
            return Err(CodecError::Bounds { what: WHAT, field: "len", value: len as u64 });
        }
        let total = record_len(len);
        if bytes.len() < total {
            return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: total });
        }
        let data = &bytes[HEADER_LEN..HEADER_LEN + len];
        if u64_at(bytes, 72) != checksum(&bytes[..HEADER_LEN], data) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        if bytes[4] != 1 {
            return Err(CodecError::Version { what: WHAT, version: u64::from(bytes[4]) });
        }
        let kind = match bytes[5] {
            1 => LogKind::Entry,
            2 => LogKind::HardState,
            3 => LogKind::Cut,
            other => return Err(CodecError::Bounds { what: WHAT, field: "kind", value: u64::from(other) }),
        };
        let record = LogRecord {
            kind,
            store: StoreId(u64_at(bytes, 8)),
            segment: u64_at(bytes, 16),
            index: u64_at(bytes, 24),
            term: u64_at(bytes, 32),
            extra: u64_at(bytes, 40),
            durable_sequence: u64_at(bytes, 48),
            sequence: u64_at(bytes, 56),
            data: data.to_vec(),
        };
        Ok((record, total))
    }
}

/// Tells a header that was damaged from one whose data is.
fn header_check(header: &[u8]) -> u32 {
    crc32(&header[..68]).max(1)
}

fn checksum(header: &[u8], data: &[u8]) -> u64 {
    // Two CRCs chained by value: the data's CRC is hashed with the header.
    let mut whole = [0u8; 80];
    whole[..72].copy_from_slice(&header[..72]);
    whole[72..].copy_from_slice(&crc64(data).to_le_bytes());
    crc64(&whole)
}

#[cfg(test)]
mod tests {
    use super::{LogKind, LogRecord, StoreId};

    fn record(data: &[u8]) -> LogRecord {
        LogRecord {
            kind: LogKind::Entry,
            store: StoreId(1),
            segment: 2,
            index: 3,
            term: 4,
            extra: 5,
            durable_sequence: 6,
            sequence: 7,
            data: data.to_vec(),
        }
    }

    #[test]
    fn records_round_trip_one_behind_another() {
        let mut bytes = Vec::new();
        record(b"hello").encode(&mut bytes);
        record(b"").encode(&mut bytes);
        let (first, used) = LogRecord::decode(&bytes).expect("first");
        assert_eq!(first, record(b"hello"));
        let (second, rest) = LogRecord::decode(&bytes[used..]).expect("second");
        assert_eq!(second, record(b""));
        assert_eq!(used + rest, bytes.len());
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let mut bytes = Vec::new();
        record(b"hello world!").encode(&mut bytes);
        for at in 0..super::HEADER_LEN + 12 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(LogRecord::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn length_in_a_damaged_header_is_not_believed() {
        let mut bytes = Vec::new();
        record(b"hello world!").encode(&mut bytes);
        assert_eq!(super::span(&bytes), Some(bytes.len()));
        for at in 0..super::HEADER_LEN {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            // The record's own checksum is no part of the header's.
            assert_eq!(super::span(&bad).is_none(), at < 72, "byte {at}");
        }
        // As older versions wrote it.
        bytes[68..72].fill(0);
        assert_eq!(super::span(&bytes), Some(bytes.len()));
    }
}
