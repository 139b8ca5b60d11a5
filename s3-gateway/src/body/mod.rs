//! Bodies on their way in: off the wire, out of their chunks, through the hashes, into a writer.
//!
//! ```text
//! hyper -> payload (length, aws-chunked, signatures) -> receive -> ObjectWriter
//!                                                          \---> hashing (worker lane if large)
//! ```
//!
//! Invariants: memory is bounded whatever the size; nothing is committed before length, signature
//! and every checksum that was announced have been found right.

pub mod checksum;
pub mod chunked;
pub mod form;
pub mod hashing;
pub mod payload;
pub mod receive;
