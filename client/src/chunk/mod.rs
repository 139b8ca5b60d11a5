//! The waist: append to a chunk, read from a chunk.

pub mod cache;
mod farewell;
pub mod layout;
pub mod packer;
pub mod parity;
pub mod reader;
pub mod shards;
pub mod writer;
