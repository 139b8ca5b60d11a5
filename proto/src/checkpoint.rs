//! The checkpoint of a chunkserver's store: what recovery starts from instead of reading it all.
//!
//! File = `BXC1`, version u32 (1), CRC-64/NVME of the rest, then the protobuf [`Checkpoint`].

use prost::Message;
use types::checksum::crc64;

use crate::chunk::ShardName;
use crate::error::{CodecError, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"BXC1");
const WHAT: &str = "checkpoint";

/// A slot of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SlotEntry {
    /// Position in the data file, counted in slots.
    #[prost(uint64, tag = "1")]
    pub slot: u64,
    /// Occupancy number.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// A shard as it was when the checkpoint was taken; only durable records.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ShardEntry {
    #[prost(message, required, tag = "1")]
    pub name: ShardName,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Durable bytes.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    #[prost(bool, tag = "4")]
    pub sealed: bool,
    #[prost(bool, tag = "5")]
    pub cut: bool,
    #[prost(message, repeated, tag = "6")]
    pub slots: Vec<SlotEntry>,
    /// Triples: first shard byte, position of the header block in the data file, payload bytes.
    #[prost(uint64, repeated, tag = "7")]
    pub records: Vec<u64>,
    /// Where a record behind the last durable one would begin in the data file; 0 = at the start
    /// of the slot below.
    #[prost(uint64, tag = "8")]
    pub tail: u64,
    /// Index (in `slots`, or one past them) of the slot that `tail` lies in.
    #[prost(uint32, tag = "9")]
    pub tail_slot: u32,
    /// It takes no appends until it is fenced.
    #[prost(bool, tag = "10")]
    pub broken: bool,
}

/// All shards of a store.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checkpoint {
    /// Slots taken with this sequence or a later one are not in here.
    #[prost(uint64, tag = "1")]
    pub next_slot_sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub shards: Vec<ShardEntry>,
    /// The shard that was scrubbed last: the scrub goes on behind it.
    #[prost(uint64, tag = "3")]
    pub scrubbed: u64,
    /// When that round of the scrub began, milliseconds since 1970; 0 = none did yet.
    #[prost(uint64, tag = "4")]
    pub scrub_began_ms: u64,
}

impl Checkpoint {
    /// The file's bytes.
    pub fn encode_file(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&crc64(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `CodecError` for damaged bytes: recovery then reads every slot.
    pub fn decode_file(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
        if bytes.len() < 16 {
            return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: 16 });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        if u32_at(bytes, 4) != 1 {
            return Err(CodecError::Version { what: WHAT, version: u64::from(u32_at(bytes, 4)) });
        }
        if u64_at(bytes, 8) != crc64(&bytes[16..]) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        crate::decode(&bytes[16..])
    }
}

#[cfg(test)]
mod tests {
    use super::Checkpoint;

    #[test]
    fn file_round_trips_and_damage_is_seen() {
        let checkpoint = Checkpoint { next_slot_sequence: 9, shards: Vec::new(), scrubbed: 4, scrub_began_ms: 5 };
        let bytes = checkpoint.encode_file();
        assert_eq!(Checkpoint::decode_file(&bytes), Ok(checkpoint));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 8;
            assert!(Checkpoint::decode_file(&bad).is_err(), "byte {at}");
        }
    }
}
