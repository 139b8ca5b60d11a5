//! qcow2, as QEMU's "docs/interop/qcow2.txt" has it. Big-endian; a file is an array of clusters.
//!
//! ```text
//! disk offset -> L1 table (one per image) -> L2 table (one cluster) -> cluster of data
//! what we write: | header | data ... L2 | data ... L2 | ... | L1 | refcount table | refcount blocks |
//! ```
//!
//! | entry | bits | what |
//! |---|---|---|
//! | L1 | 9-55 | offset of an L2 table, 0: all of it unallocated |
//! | | 63 | the table's refcount is 1 |
//! | L2 | 0 | reads as zeroes (version 3) |
//! | | 9-55 | offset of the cluster, 0: unallocated |
//! | | 62 | packed: bits 0-61 say where, see `packed` |
//! | | 63 | the cluster's refcount is 1 |
//!
//! Everything else is 0. Snapshots in the image, bitmaps and the refcounts are not looked at by the reader.

mod header;

mod packed;

mod reader;

mod writer;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod qemu;

pub use reader::{Reader, Step};
pub use writer::{CLUSTER, SIZE_MAX, SMALL_CLUSTER, SMALL_SIZE_MAX, Writer};

/// First bytes of an image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Refcount is 1: may be written in place.
const COPIED: u64 = 1 << 63;
/// The cluster is packed.
const PACKED: u64 = 1 << 62;
/// The cluster reads as zeroes.
const ZERO: u64 = 1;
/// Where an offset is in an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
