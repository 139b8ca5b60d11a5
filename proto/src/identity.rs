//! The identity file of a store: who it is and where it belongs. Written once, atomically.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `BXI1` |
//! | 4..8 | version: 1 at feature level 1, else 2, so that programs that know no levels refuse it |
//! | 8..16 | cluster |
//! | 16..24 | store |
//! | 24..32 | generation |
//! | 32..40 | feature level |
//! | 40..48 | slot size, bytes |
//! | 48..56 | raft id of the metaserver replica here, 0 for none |
//! | 56..64 | CRC-64/NVME of bytes 0..56 |
//! | 64..96 | cluster secret |
//! | 96..104 | CRC-64/NVME of bytes 64..96 |

use types::checksum::crc64;
use types::ids::{ClusterId, StoreId};

use crate::error::{CodecError, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"BXI1");
const LEN: usize = 104;
const WHAT: &str = "identity file";

/// A store's identity. No `Debug`: it carries the cluster secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its own random name.
    pub store: StoreId,
    /// Rises each time the store is opened for writing after an operator re-admitted it.
    pub generation: u64,
    /// The cluster's feature level as far as the directory was told.
    pub feature_level: u64,
    /// Bytes of a slot of the data file.
    pub slot_size: u64,
    /// Raft id of the metaserver replica in the same directory, 0 for none.
    pub raft_id: u64,
    /// Authenticates internal frames; 32 random bytes.
    pub cluster_secret: [u8; 32],
}

fn version(feature_level: u64) -> u32 {
    if feature_level <= crate::level::FIRST { 1 } else { 2 }
}

impl Identity {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; LEN];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&version(self.feature_level).to_le_bytes());
        for (at, value) in [
            (8, self.cluster.0),
            (16, self.store.0),
            (24, self.generation),
            (32, self.feature_level),
            (40, self.slot_size),
            (48, self.raft_id),
        ] {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc64(&out[..56]);
        out[56..64].copy_from_slice(&crc.to_le_bytes());
        out[64..96].copy_from_slice(&self.cluster_secret);
        let crc = crc64(&out[64..96]);
        out[96..104].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `CodecError` for damaged or foreign bytes: the store must not be opened then.
    pub fn decode(bytes: &[u8]) -> Result<Identity, CodecError> {
        if bytes.len() != LEN {
            return Err(CodecError::Short { what: WHAT, have: bytes.len(), need: LEN });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        if u64_at(bytes, 56) != crc64(&bytes[..56]) || u64_at(bytes, 96) != crc64(&bytes[64..96]) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        if u32_at(bytes, 4) != version(u64_at(bytes, 32)) {
            return Err(CodecError::Version { what: WHAT, version: u64::from(u32_at(bytes, 4)) });
        }
        let mut cluster_secret = [0; 32];
        cluster_secret.copy_from_slice(&bytes[64..96]);
        Ok(Identity {
            cluster: ClusterId(u64_at(bytes, 8)),
            store: StoreId(u64_at(bytes, 16)),
            generation: u64_at(bytes, 24),
            feature_level: u64_at(bytes, 32),
            slot_size: u64_at(bytes, 40),
            raft_id: u64_at(bytes, 48),
            cluster_secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, Identity, StoreId};

    #[test]
    fn round_trip_and_every_flipped_bit_is_seen() {
        let identity = Identity {
            cluster: ClusterId(1),
            store: StoreId(2),
            generation: 3,
            feature_level: 4,
            slot_size: 5,
            raft_id: 6,
            cluster_secret: [9; 32],
        };
        let bytes = identity.encode();
        assert!(Identity::decode(&bytes).is_ok_and(|read| read == identity));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
