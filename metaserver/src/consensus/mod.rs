//! Consensus: raft-rs, its own log, and the loop that drives both. The only door to `raft`.
//!
//! ```text
//! propose/read/receive -> inbox -> turn(): step, ready -> messages out, log write, apply
//!                                               ^ persisted <- write + flush (one at a time, grouped)
//! ```

mod doubt;
pub mod log;
mod membership;
mod persist;
pub mod replica;
mod snapshot;
mod start;
mod storage;
mod transport;
mod turn;
