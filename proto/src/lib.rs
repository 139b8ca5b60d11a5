//! Codecs, pure: every byte that Bixi stores or sends has its shape here and in docs/formats.md.
//!
//! Leaves to others: when to write, where to send. Nothing here does IO; decoders answer an error
//! for foreign bytes and never panic.

pub mod ballot;
pub mod checkpoint;
pub mod chunk;
pub mod error;
pub mod frame;
pub mod identity;
pub mod journal;
pub mod keys;
pub mod level;
pub mod log_record;
pub mod members;
pub mod meta;
pub mod query;
pub mod record;
pub mod roles;
pub mod rows;
pub mod service;
pub mod trash;
pub mod volume;

/// The largest message part of a frame, bytes; protects a receiver before it allocates.
pub const MESSAGE_LEN_MAX: usize = 16 << 20;
/// The largest payload of a frame, bytes.
pub const PAYLOAD_LEN_MAX: usize = 4 << 20;

/// Encodes a prost message to bytes.
pub fn encode<M: prost::Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

/// Decodes a prost message.
///
/// # Errors
/// `CodecError::Message` for anything that is not one.
pub fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, error::CodecError> {
    M::decode(bytes)
        .map_err(|source| error::CodecError::Message { what: std::any::type_name::<M>(), text: source.to_string() })
}
