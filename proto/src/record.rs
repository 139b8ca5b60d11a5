//! Records: how a shard's bytes lie on a disk. A record describes itself and binds what it holds.
//!
//! One 4 KiB header block, then the payload in whole 4 KiB blocks (the last one padded with
//! zeros). A payload that fits behind the checksum table lies inside the header block ("inline").
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | magic | `BXR1` |
//! | 4..6 | version | 1 |
//! | 6 | kind | 1 data, 2 fence, 3 seal, 4 tombstone |
//! | 7 | shard | index in the chunk |
//! | 8..16 | chunk | ChunkId |
//! | 16..24 | placement | PlacementId |
//! | 24..32 | epoch | of the append or fence |
//! | 32..40 | offset | data: first shard byte; fence, seal: the length fixed by it |
//! | 40..44 | payload_len | bytes, 0 for fence and seal |
//! | 44..48 | flags | 1 inline, 2 cut (the shard lost a tail at a restart before this record) |
//! | 48..56 | durable_len | shard bytes known flushed when this record was written |
//! | 56..64 | slot_sequence | occupancy of the slot; tells old content from new |
//! | 64..68 | slot_index | which slot of the shard, from 0 |
//! | 68..72 | reserved | 0 |
//! | 72..80 | request | request id that caused it |
//! | 80..88 | table_crc | CRC-64/NVME of the checksum table |
//! | 88..96 | header_crc | CRC-64/NVME of bytes 0..88 followed by the StoreId (not stored here): bytes that users write cannot pass for a record, and a record of another disk is none |
//! | 96..128 | reserved | 0 |
//! | 128.. | table | CRC-64/NVME of each 4 KiB block of payload (the last one of its bytes only) |

use types::checksum::crc64;
use types::ids::{ChunkId, Epoch, PlacementId, RequestId, ShardIndex, StoreId};

use crate::error::{CodecError, u16_at, u32_at, u64_at};

/// Unit of checksums and of alignment, bytes.
pub const BLOCK: usize = 4096;
/// Bytes before the checksum table.
pub const HEADER_LEN: usize = 128;
/// The largest payload of a record, bytes (256 blocks).
pub const PAYLOAD_MAX: usize = 1 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"BXR1");
const VERSION: u16 = 1;
const FLAG_INLINE: u32 = 1;
const FLAG_CUT: u32 = 2;
const WHAT: &str = "shard record";

/// What a record does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Carries bytes of the shard.
    Data,
    /// Raises the epoch; creates the shard if it is its first record.
    Fence,
    /// Fixes the length for ever.
    Seal,
    /// Written over the first record of a shard: it was deleted.
    Tombstone,
}

/// The decoded header of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What it does.
    pub kind: RecordKind,
    /// Which shard of the chunk.
    pub shard: ShardIndex,
    /// The chunk.
    pub chunk: ChunkId,
    /// The shard's home.
    pub placement: PlacementId,
    /// The epoch it was written under.
    pub epoch: Epoch,
    /// Data: first shard byte. Fence and seal: the length.
    pub offset: u64,
    /// Bytes of payload.
    pub payload_len: u32,
    /// The shard had cut a tail before this record was written.
    pub cut: bool,
    /// Shard bytes known to be flushed when this record was written.
    pub durable_len: u64,
    /// Occupancy number of the slot.
    pub slot_sequence: u64,
    /// Which slot of the shard.
    pub slot_index: u32,
    /// The request that caused it.
    pub request: RequestId,
}

/// Number of 4 KiB blocks that hold `len` bytes.
pub fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// Whether a payload of `len` bytes rides inside the header block.
pub fn is_inline(len: usize) -> bool {
    HEADER_LEN + 8 * blocks(len) + len <= BLOCK
}

/// Bytes a record with `len` bytes of payload takes on the disk.
pub fn record_len(len: usize) -> usize {
    if is_inline(len) { BLOCK } else { BLOCK + blocks(len) * BLOCK }
}

/// Where the payload begins inside a record with `len` bytes of it.
pub fn payload_start(len: usize) -> usize {
    if is_inline(len) { HEADER_LEN + 8 * blocks(len) } else { BLOCK }
}

impl RecordHeader {
    /// Writes the header block (exactly [`BLOCK`] zeroed bytes) for `payload`, which lies in it if
    /// it is inline and is written behind it by the caller otherwise.
    pub fn encode(&self, store: StoreId, payload: &[u8], block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK, "header block");
        assert_eq!(payload.len(), self.payload_len as usize, "payload and header disagree");
        assert!(payload.len() <= PAYLOAD_MAX, "payload too long for a record");
        let inline = is_inline(payload.len());
        let table_end = HEADER_LEN + 8 * blocks(payload.len());
        for (at, part) in payload.chunks(BLOCK).enumerate() {
            let at = HEADER_LEN + 8 * at;
            block[at..at + 8].copy_from_slice(&crc64(part).to_le_bytes());
        }
        let table_crc = crc64(&block[HEADER_LEN..table_end]);
        block[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        block[4..6].copy_from_slice(&VERSION.to_le_bytes());
        block[6] = match self.kind {
            RecordKind::Data => 1,
            RecordKind::Fence => 2,
            RecordKind::Seal => 3,
            RecordKind::Tombstone => 4,
        };
        block[7] = self.shard.0;
        block[8..16].copy_from_slice(&self.chunk.0.to_le_bytes());
        block[16..24].copy_from_slice(&self.placement.0.to_le_bytes());
        block[24..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        block[32..40].copy_from_slice(&self.offset.to_le_bytes());
        block[40..44].copy_from_slice(&self.payload_len.to_le_bytes());
        let flags = if inline { FLAG_INLINE } else { 0 } | if self.cut { FLAG_CUT } else { 0 };
        block[44..48].copy_from_slice(&flags.to_le_bytes());
        block[48..56].copy_from_slice(&self.durable_len.to_le_bytes());
        block[56..64].copy_from_slice(&self.slot_sequence.to_le_bytes());
        block[64..68].copy_from_slice(&self.slot_index.to_le_bytes());
        block[72..80].copy_from_slice(&self.request.0.to_le_bytes());
        block[80..88].copy_from_slice(&table_crc.to_le_bytes());
        let header_crc = header_checksum(block, store);
        block[88..96].copy_from_slice(&header_crc.to_le_bytes());
        if inline {
            block[table_end..table_end + payload.len()].copy_from_slice(payload);
        }
    }

    /// Reads a header block; checks magic, version, both checksums and bounds, not the payload.
    ///
    /// # Errors
    /// `CodecError`, never a panic, for any bytes.
    pub fn decode(block: &[u8], store: StoreId) -> Result<RecordHeader, CodecError> {
        let header = RecordHeader::decode_name(block, store)?;
        let table_end = HEADER_LEN + 8 * blocks(header.payload_len as usize);
        if u64_at(block, 80) != crc64(&block[HEADER_LEN..table_end]) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        Ok(header)
    }

    /// [`RecordHeader::decode`] of a block whose checksum table may be damaged: which record it
    /// was meant to be.
    ///
    /// # Errors
    /// `CodecError`, never a panic, for any bytes.
    pub fn decode_name(block: &[u8], store: StoreId) -> Result<RecordHeader, CodecError> {
        if block.len() < BLOCK {
            return Err(CodecError::Short { what: WHAT, have: block.len(), need: BLOCK });
        }
        if u32_at(block, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        if u64_at(block, 88) != header_checksum(block, store) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        if u16_at(block, 4) != VERSION {
            return Err(CodecError::Version { what: WHAT, version: u64::from(u16_at(block, 4)) });
        }
        let kind = match block[6] {
            1 => RecordKind::Data,
            2 => RecordKind::Fence,
            3 => RecordKind::Seal,
            4 => RecordKind::Tombstone,
            other => return Err(CodecError::Bounds { what: WHAT, field: "kind", value: u64::from(other) }),
        };
        let payload_len = u32_at(block, 40);
        if payload_len as usize > PAYLOAD_MAX {
            return Err(CodecError::Bounds { what: WHAT, field: "payload_len", value: u64::from(payload_len) });
        }
        let flags = u32_at(block, 44);
        if (flags & FLAG_INLINE != 0) != is_inline(payload_len as usize) {
            return Err(CodecError::Bounds { what: WHAT, field: "flags", value: u64::from(flags) });
        }
        Ok(RecordHeader {
            kind,
            shard: ShardIndex(block[7]),
            chunk: ChunkId(u64_at(block, 8)),
            placement: PlacementId(u64_at(block, 16)),
            epoch: Epoch(u64_at(block, 24)),
            offset: u64_at(block, 32),
            payload_len,
            cut: flags & FLAG_CUT != 0,
            durable_len: u64_at(block, 48),
            slot_sequence: u64_at(block, 56),
            slot_index: u32_at(block, 64),
            request: RequestId(u64_at(block, 72)),
        })
    }

    /// Whether damaged bytes still look like a record of this placement or occupancy: a torn or
    /// rotten header, not old content of a recycled slot.
    pub fn resembles(block: &[u8], placement: PlacementId, slot_sequence: u64) -> bool {
        if block.len() < HEADER_LEN {
            return false;
        }
        let hits = [u32_at(block, 0) == MAGIC, u64_at(block, 16) == placement.0, u64_at(block, 56) == slot_sequence];
        hits.iter().filter(|hit| **hit).count() >= 2
    }
}

fn header_checksum(block: &[u8], store: StoreId) -> u64 {
    let mut bound = [0u8; 96];
    bound[..88].copy_from_slice(&block[..88]);
    bound[88..].copy_from_slice(&store.0.to_le_bytes());
    crc64(&bound)
}

/// Bytes of a header block up to the end of its checksum table.
pub fn table_len(payload_len: usize) -> usize {
    HEADER_LEN + 8 * blocks(payload_len)
}

/// Checks blocks `first..` of a payload against the table of its header block. `bytes` begins at
/// payload byte `first * BLOCK`. Answers the index of the first bad block.
///
/// # Errors
/// The block index that does not fit its checksum.
pub fn verify_blocks(header_block: &[u8], payload_len: usize, first: usize, bytes: &[u8]) -> Result<(), usize> {
    for (step, part) in bytes.chunks(BLOCK).enumerate() {
        let index = first + step;
        let len = payload_len.saturating_sub(index * BLOCK).min(BLOCK);
        let at = HEADER_LEN + 8 * index;
        if len == 0
            || part.len() < len
            || at + 8 > header_block.len()
            || u64_at(header_block, at) != crc64(&part[..len])
        {
            return Err(index);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        BLOCK, ChunkId, Epoch, PlacementId, RecordHeader, RecordKind, RequestId, ShardIndex, StoreId, is_inline,
        payload_start, record_len, verify_blocks,
    };

    const STORE: StoreId = StoreId(0xabcd);

    fn header(len: usize) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Data,
            shard: ShardIndex(2),
            chunk: ChunkId(0x0102),
            placement: PlacementId(7),
            epoch: Epoch(3),
            offset: 8192,
            payload_len: len as u32,
            cut: false,
            durable_len: 4096,
            slot_sequence: 99,
            slot_index: 1,
            request: RequestId(5),
        }
    }

    #[test]
    fn header_round_trips_and_every_flipped_byte_is_seen() {
        let payload = vec![7u8; 5000];
        let mut block = vec![0; BLOCK];
        header(5000).encode(STORE, &payload, &mut block);
        assert_eq!(RecordHeader::decode(&block, STORE), Ok(header(5000)));
        for at in (0..96).chain(128..128 + 16) {
            let mut bad = block.clone();
            bad[at] ^= 0x40;
            assert!(RecordHeader::decode(&bad, STORE).is_err(), "byte {at}");
        }
    }

    #[test]
    fn small_payload_rides_inline_and_large_does_not() {
        assert!(is_inline(3000) && !is_inline(4096));
        assert_eq!(record_len(3000), BLOCK);
        assert_eq!(record_len(4096), 2 * BLOCK);
        let payload = vec![1u8; 3000];
        let mut block = vec![0; BLOCK];
        header(3000).encode(STORE, &payload, &mut block);
        let start = payload_start(3000);
        assert_eq!(&block[start..start + 3000], &payload[..]);
        assert_eq!(verify_blocks(&block, 3000, 0, &block[start..start + 3000]), Ok(()));
    }

    #[test]
    fn damaged_payload_block_is_named() {
        let mut payload = vec![1u8; 3 * BLOCK];
        let mut block = vec![0; BLOCK];
        header(payload.len()).encode(STORE, &payload, &mut block);
        payload[BLOCK + 5] ^= 1;
        assert_eq!(verify_blocks(&block, payload.len(), 0, &payload), Err(1));
        assert_eq!(verify_blocks(&block, payload.len(), 2, &payload[2 * BLOCK..]), Ok(()));
    }

    #[test]
    fn any_bytes_decode_without_panic() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut block = vec![0; BLOCK];
            for byte in block.iter_mut().take(200) {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            block[0..4].copy_from_slice(b"BXR1");
            assert!(RecordHeader::decode(&block, STORE).is_err());
        }
    }
}
