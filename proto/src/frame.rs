//! Frames: how requests and answers travel between processes.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | magic | `BXF1` |
//! | 4 | version_min | lowest protocol version the sender speaks |
//! | 5 | version_max | highest |
//! | 6 | kind | 1 request, 2 answer, 3 hello |
//! | 7 | reserved | 0 |
//! | 8..16 | cluster | ClusterId |
//! | 16..24 | store | target StoreId, 0 = the process |
//! | 24..32 | call | matches an answer to its request |
//! | 32..40 | request | RequestId, the same from S3 to the disk record |
//! | 40..44 | deadline_ms | what is left of the deadline, 0 = none |
//! | 44..48 | message_len | bytes of the prost message |
//! | 48..52 | payload_len | bytes of raw payload behind it |
//! | 52..56 | crc | CRC-32 of the header (this field and the mac 0) and the message |
//! | 56..64 | payload_crc | CRC-64/NVME of the payload, 0 if empty |
//! | 64..80 | mac | 128 bits of HMAC-SHA256 by the connection's key over header and message, 0 before it is agreed |

use types::checksum::{crc32, crc64};
use types::ids::{ClusterId, RequestId, StoreId};

use crate::error::{CodecError, u32_at, u64_at};
use crate::{MESSAGE_LEN_MAX, PAYLOAD_LEN_MAX};

/// Bytes of a frame before its message.
pub const HEADER_LEN: usize = 80;
/// The protocol version spoken here.
pub const PROTOCOL_VERSION: u8 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"BXF1");
const WHAT: &str = "frame";

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Asks.
    Request,
    /// Answers.
    Answer,
    /// Opens a connection (proof of the cluster secret).
    Hello,
}

/// The header of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Lowest and highest protocol version of the sender.
    pub versions: (u8, u8),
    /// What it is.
    pub kind: FrameKind,
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The store it is meant for; 0 = the process.
    pub store: StoreId,
    /// Matches answers to requests on one connection.
    pub call: u64,
    /// One id from the door to the disk.
    pub request: RequestId,
    /// Milliseconds left; 0 = none.
    pub deadline_ms: u32,
    /// Bytes of message.
    pub message_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// CRC-64/NVME of the payload.
    pub payload_crc: u64,
    /// Authenticates header and message.
    pub mac: [u8; 16],
}

impl FrameHeader {
    /// The header's bytes with CRC; `mac` is written as given (set it with [`set_mac`] afterwards).
    pub fn encode(&self, message: &[u8]) -> [u8; HEADER_LEN] {
        assert_eq!(message.len(), self.message_len as usize, "message and header disagree");
        let mut out = [0u8; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.versions.0;
        out[5] = self.versions.1;
        out[6] = match self.kind {
            FrameKind::Request => 1,
            FrameKind::Answer => 2,
            FrameKind::Hello => 3,
        };
        out[8..16].copy_from_slice(&self.cluster.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.store.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.call.to_le_bytes());
        out[32..40].copy_from_slice(&self.request.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.deadline_ms.to_le_bytes());
        out[44..48].copy_from_slice(&self.message_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.payload_len.to_le_bytes());
        out[56..64].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32(&out) ^ crc32(message).rotate_left(1);
        out[52..56].copy_from_slice(&crc.to_le_bytes());
        out[64..80].copy_from_slice(&self.mac);
        out
    }

    /// Reads a header; lengths are bounded, checksums are checked by [`FrameHeader::verify`].
    ///
    /// # Errors
    /// `CodecError`, never a panic, for any bytes.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<FrameHeader, CodecError> {
        if u32_at(bytes, 0) != MAGIC {
            return Err(CodecError::Magic { what: WHAT });
        }
        if bytes[4] > PROTOCOL_VERSION || bytes[5] < PROTOCOL_VERSION {
            return Err(CodecError::Version { what: WHAT, version: u64::from(bytes[5]) });
        }
        let kind = match bytes[6] {
            1 => FrameKind::Request,
            2 => FrameKind::Answer,
            3 => FrameKind::Hello,
            other => return Err(CodecError::Bounds { what: WHAT, field: "kind", value: u64::from(other) }),
        };
        let message_len = u32_at(bytes, 44);
        let payload_len = u32_at(bytes, 48);
        if message_len as usize > MESSAGE_LEN_MAX {
            return Err(CodecError::Bounds { what: WHAT, field: "message_len", value: u64::from(message_len) });
        }
        if payload_len as usize > PAYLOAD_LEN_MAX {
            return Err(CodecError::Bounds { what: WHAT, field: "payload_len", value: u64::from(payload_len) });
        }
        let mut mac = [0; 16];
        mac.copy_from_slice(&bytes[64..80]);
        Ok(FrameHeader {
            versions: (bytes[4], bytes[5]),
            kind,
            cluster: ClusterId(u64_at(bytes, 8)),
            store: StoreId(u64_at(bytes, 16)),
            call: u64_at(bytes, 24),
            request: RequestId(u64_at(bytes, 32)),
            deadline_ms: u32_at(bytes, 40),
            message_len,
            payload_len,
            payload_crc: u64_at(bytes, 56),
            mac,
        })
    }

    /// Checks the header's and message's CRC and the payload's.
    ///
    /// # Errors
    /// `CodecError::Checksum`.
    pub fn verify(bytes: &[u8; HEADER_LEN], message: &[u8], payload: &[u8]) -> Result<(), CodecError> {
        let mut bare = *bytes;
        bare[52..56].fill(0);
        bare[64..80].fill(0);
        if u32_at(bytes, 52) != crc32(&bare) ^ crc32(message).rotate_left(1) {
            return Err(CodecError::Checksum { what: WHAT });
        }
        if u64_at(bytes, 56) != payload_checksum(payload) {
            return Err(CodecError::Checksum { what: "frame payload" });
        }
        Ok(())
    }
}

/// CRC-64/NVME of a payload; 0 for an empty one.
pub fn payload_checksum(payload: &[u8]) -> u64 {
    if payload.is_empty() { 0 } else { crc64(payload) }
}

/// Puts the mac into encoded header bytes.
pub fn set_mac(bytes: &mut [u8; HEADER_LEN], mac: [u8; 16]) {
    bytes[64..80].copy_from_slice(&mac);
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, FrameHeader, FrameKind, RequestId, StoreId, payload_checksum};

    #[test]
    fn round_trip_and_damage_is_seen() {
        let header = FrameHeader {
            versions: (1, 1),
            kind: FrameKind::Request,
            cluster: ClusterId(1),
            store: StoreId(2),
            call: 3,
            request: RequestId(4),
            deadline_ms: 5,
            message_len: 5,
            payload_len: 3,
            payload_crc: payload_checksum(b"abc"),
            mac: [0; 16],
        };
        let bytes = header.encode(b"hello");
        assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        assert!(FrameHeader::verify(&bytes, b"hello", b"abc").is_ok());
        assert!(FrameHeader::verify(&bytes, b"hellp", b"abc").is_err());
        assert!(FrameHeader::verify(&bytes, b"hello", b"abd").is_err());
        for at in 0..64 {
            let mut bad = bytes;
            bad[at] ^= 2;
            assert!(FrameHeader::decode(&bad).is_err() || FrameHeader::verify(&bad, b"hello", b"abc").is_err(), "{at}");
        }
    }
}
