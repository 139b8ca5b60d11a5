//! The cluster's truth: chunks and names, replicated by Raft, decided in `apply`.
//!
//! ```text
//! command -> leader -> own log (flushed on a majority) -> apply (pure) -> state store -> outcome
//! query   -> leader -> read-index -> state store -> view
//! ```
//!
//! Invariants: the Raft log is the only write-ahead log; `apply` is deterministic and free of IO,
//! clocks and randomness; conditions are decided there and nowhere else; user data beyond inlined
//! small objects never comes here.

pub mod apply;
pub mod consensus;
pub mod server;
pub mod store;
