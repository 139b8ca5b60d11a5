//! Keeper of shards: appends, fences, seals, verified reads, deletion by decision. It knows
//! neither objects nor volumes, and it never decides which shard may go.
//!
//! ```text
//! append -> accept (epoch, offset) -> one device write -> flush shared by all waiting -> ack
//! ```
//!
//! Invariants: an ack means written and flushed, with every byte before it; once an epoch is
//! stored no append of a lower one is acked; every byte read was checked against its checksum and
//! against the record's name; a disk whose flush failed is never flushed again and stops nobody
//! else.

pub mod service;
pub mod store;
