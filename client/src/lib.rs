//! Meaning: what appended bytes are. The one library behind every door.
//!
//! Every write ends in the same two steps: append to a chunk, then commit extents. The chunk
//! layer ([`chunk`]) stores and reads bytes, the object layer ([`object`]) gives them names, and
//! [`background`] executes what the metaserver plans.
//!
//! Invariants: a byte range of a chunk is written once; after an append whose fate is unknown the
//! chunk is given up, sealed by the metaserver, and writing goes on in another one; nothing is
//! visible before its command is applied.

pub mod background;
pub mod chunk;
pub mod disks;
pub mod meta;
pub mod object;
mod speeds;
pub mod volume;
