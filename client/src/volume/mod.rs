//! Volumes: block devices whose bytes lie in a journal of their own (ARCHITECTURE 6; Rosenblum and
//! Ousterhout, "The Design and Implementation of a Log-Structured File System", 1991).
//!
//! ```text
//! write -> record (changes merged while another is under way) -> journal chunk, flushed -> index -> ack
//! read  -> index -> chunks
//! ```
//!
//! - [`index`] maps bytes to chunks, a pure core.
//! - [`journal`] makes records and appends them; chunks are noted in the volume's row before the first
//!   byte goes there, so whoever comes next finds them.
//! - [`device`] orders what clients ask: acknowledgements and index follow the order of records.
//! - [`checkpoint`] writes the index into the journal, and gives back chunks in which nothing is alive.
//! - [`snapshots`] keeps the index as it was at a moment, which costs no more than noting the moment, and
//!   reads it; [`mapped`] is an index with its chunks, also of a volume.
//! - [`encrypted`] encrypts what is written, before it is in a record.
//! - [`watch`] hears what is asked of the volume elsewhere: snapshots, another size, limits ([`qos`]).
//! - [`recover`] takes a volume over: raises its epoch, seals its chunks, reads index and journal again.
//!
//! Invariants: everything acknowledged is durable, so a flush has nothing to do; a volume has one owner,
//! and an older one's appends are refused by sealed chunks, its chunks and checkpoints by its epoch.

mod admin;
mod checkpoint;
mod counts;
mod device;
mod encrypted;
pub mod index;
mod journal;
mod mapped;
mod pace;
mod qos;
mod recover;
mod snapshots;
mod watch;

pub use admin::{chunks, clone, create, delete, delete_snapshot, list, named, rename, resize, set_qos, snapshots};
pub use counts::Counts;
pub use device::{Volume, VolumeError};
pub use index::Piece;
pub use mapped::Change;
pub use pace::{CHUNK_LEN, Pace};
pub use recover::Claim;
pub use snapshots::{Snapshot, roll_back, take_snapshot};
