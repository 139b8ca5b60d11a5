//! What a decoder says about bytes that are not what they should be.

use thiserror::Error;

/// Foreign or damaged bytes.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CodecError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {have} bytes, needs {need}")]
    Short {
        /// The structure.
        what: &'static str,
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Another magic number.
    #[error("{what}: wrong magic")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// A version this build does not read.
    #[error("{what}: version {version} is not supported")]
    Version {
        /// The structure.
        what: &'static str,
        /// What the bytes say.
        version: u64,
    },
    /// A checksum that does not fit.
    #[error("{what}: checksum mismatch")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// A field outside its bounds.
    #[error("{what}: {field} is {value}, out of bounds")]
    Bounds {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Not a protobuf message.
    #[error("{what}: {text}")]
    Message {
        /// The type expected.
        what: &'static str,
        /// What the decoder said.
        text: String,
    },
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
