//! Records of a volume's journal.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `BXVJ` |
//! | 4 | 1 | kind |
//! | 5 | 1 | 0 |
//! | 6 | 2 | number of entries |
//! | 8 | 8 | volume |
//! | 16 | 8 | the owner's epoch |
//! | 24 | 8 | sequence number |
//! | 32 | 4 | bytes of data |
//! | 36 | 4 | 0 |
//! | 40 | 8 | the chunk that moved bytes come from, else 0 |
//! | 48 | 8 | CRC-64 of head and entries, with these bytes zero |
//! | 56 | 16 each | entries: kind in the top byte of the start (8), length (4), 0 (4) |
//!
//! The data follows; its own checksums are those of the chunk's records. Little-endian.

use types::checksum::crc64;

use crate::error::{CodecError, u16_at, u32_at, u64_at};

/// First bytes of a record.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BXVJ");
const WHAT: &str = "journal record";
const SUM_AT: usize = 48;
/// Bytes of a record's head.
pub const HEAD_LEN: usize = 56;
/// Bytes of an entry behind the head.
pub const ENTRY_LEN: usize = 16;
/// Entries of a record at most.
pub const ENTRIES_MAX: usize = 4096;

/// What an entry says of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Its bytes lie behind the entries, those of earlier entries before them.
    Write = 1,
    /// It reads as zeroes.
    Clear = 2,
}

/// A range of the volume that a record changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What becomes of it.
    pub kind: EntryKind,
    /// First byte.
    pub start: u64,
    /// Bytes; for a write those that follow, for a clear at most 2^32 - 1.
    pub len: u32,
}

/// Kinds of records.
pub mod record_kind {
    /// Changes by clients.
    pub const CHANGES: u8 = 1;
    /// Bytes that are copied out of a chunk that goes: an entry holds only where the index still
    /// named that chunk when the record was carried out.
    pub const MOVED: u8 = 2;
    /// Pages of the index or a piece of its root: nothing to carry out.
    pub const INDEX: u8 = 3;
}

/// The head of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// See [`record_kind`].
    pub kind: u8,
    /// The volume.
    pub volume: u64,
    /// The owner's epoch.
    pub epoch: u64,
    /// Rises by one with every record of a volume.
    pub sequence: u64,
    /// Entries that follow.
    pub entries: u16,
    /// Bytes behind the entries.
    pub data_len: u32,
    /// The chunk that moved bytes come from, else 0.
    pub moved_from: u64,
}

impl Head {
    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        HEAD_LEN as u64 + u64::from(self.entries) * ENTRY_LEN as u64 + u64::from(self.data_len)
    }
}

/// Head and entries of a record, ready for the data to follow.
pub fn encode_head(head: &Head, entries: &[Entry]) -> Vec<u8> {
    assert_eq!(usize::from(head.entries), entries.len(), "a record says how many entries it has");
    let mut out = Vec::with_capacity(HEAD_LEN + entries.len() * ENTRY_LEN);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[head.kind, 0]);
    out.extend_from_slice(&head.entries.to_le_bytes());
    out.extend_from_slice(&head.volume.to_le_bytes());
    out.extend_from_slice(&head.epoch.to_le_bytes());
    out.extend_from_slice(&head.sequence.to_le_bytes());
    out.extend_from_slice(&head.data_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&head.moved_from.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for entry in entries {
        out.extend_from_slice(&(entry.start | (entry.kind as u64) << 56).to_le_bytes());
        out.extend_from_slice(&entry.len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    let sum = crc64(&out);
    out[SUM_AT..HEAD_LEN].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The head at the beginning of `bytes`, its checksum not looked at: it says how many entries there are.
///
/// # Errors
/// Too short, or not a record.
pub fn peek_head(bytes: &[u8]) -> Result<Head, CodecError> {
    if bytes.len() < HEAD_LEN {
        return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: HEAD_LEN });
    }
    if u32_at(bytes, 0) != MAGIC {
        return Err(CodecError::Magic { what: WHAT });
    }
    let head = Head {
        kind: bytes[4],
        entries: u16_at(bytes, 6),
        volume: u64_at(bytes, 8),
        epoch: u64_at(bytes, 16),
        sequence: u64_at(bytes, 24),
        data_len: u32_at(bytes, 32),
        moved_from: u64_at(bytes, 40),
    };
    if !(record_kind::CHANGES..=record_kind::INDEX).contains(&head.kind) {
        return Err(CodecError::Bounds { what: WHAT, field: "kind", value: head.kind.into() });
    }
    if usize::from(head.entries) > ENTRIES_MAX {
        return Err(CodecError::Bounds { what: WHAT, field: "entries", value: head.entries.into() });
    }
    Ok(head)
}

/// Head and entries at the beginning of `bytes`, checked.
///
/// # Errors
/// Too short, or not a record.
pub fn decode_head(bytes: &[u8]) -> Result<(Head, Vec<Entry>), CodecError> {
    let head = peek_head(bytes)?;
    let need = HEAD_LEN + usize::from(head.entries) * ENTRY_LEN;
    let Some(whole) = bytes.get(..need) else {
        return Err(CodecError::Short { what: WHAT, have: bytes.len(), need });
    };
    let mut bare = whole.to_vec();
    bare[SUM_AT..HEAD_LEN].fill(0);
    if crc64(&bare) != u64_at(whole, SUM_AT) {
        return Err(CodecError::Checksum { what: WHAT });
    }
    let mut entries = Vec::with_capacity(usize::from(head.entries));
    let mut data_len = 0;
    for at in whole[HEAD_LEN..].chunks_exact(ENTRY_LEN) {
        let (start, len) = (u64_at(at, 0), u32_at(at, 8));
        let kind = match start >> 56 {
            1 => EntryKind::Write,
            2 => EntryKind::Clear,
            value => return Err(CodecError::Bounds { what: WHAT, field: "kind of entry", value }),
        };
        if kind == EntryKind::Write {
            data_len += u64::from(len);
        }
        entries.push(Entry { kind, start: start & ((1 << 56) - 1), len });
    }
    if head.kind != record_kind::INDEX && data_len != u64::from(head.data_len) {
        return Err(CodecError::Bounds { what: WHAT, field: "bytes of data", value: head.data_len.into() });
    }
    Ok((head, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Head, Vec<Entry>) {
        let entries = vec![
            Entry { kind: EntryKind::Write, start: 4096, len: 7 },
            Entry { kind: EntryKind::Clear, start: 1 << 45, len: u32::MAX },
        ];
        let head = Head {
            kind: record_kind::CHANGES,
            volume: 3,
            epoch: 9,
            sequence: 77,
            entries: 2,
            data_len: 7,
            moved_from: 5,
        };
        (head, entries)
    }

    #[test]
    fn record_comes_back_and_every_flipped_bit_is_noticed() {
        let (head, entries) = sample();
        let bytes = encode_head(&head, &entries);
        assert_eq!(bytes.len(), HEAD_LEN + 2 * ENTRY_LEN);
        assert_eq!(decode_head(&bytes), Ok((head, entries)));
        assert_eq!(head.record_len(), bytes.len() as u64 + 7);
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_head(&wrong).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode_head(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn entries_that_disagree_with_the_data_are_refused() {
        let (head, entries) = sample();
        let bytes = encode_head(&Head { data_len: 8, ..head }, &entries);
        assert!(decode_head(&bytes).is_err());
        let index = Head { kind: record_kind::INDEX, entries: 0, data_len: 100, ..head };
        assert!(decode_head(&encode_head(&index, &[])).is_ok());
    }
}
