//! Whole clusters of the real code under virtual time, drawn from a seed.
//!
//! ```text
//! seed -> Shape (policy, sizes, fault rates) -> Cluster (3 meta, 6 chunk, clients; all real code)
//!         safety phase:   workload + faults                    -> History
//!         liveness phase: faults stop, everything must be well -> checks
//! ```
//!
//! What it leaves to others: disks, network and time of a simulated machine (`platform::sim`).
//!
//! Invariants: a seed damages only what the promises cover, so that every failure is a bug; the
//! checkers know nothing of how the code works; nothing here is drawn from anything but the seed.

pub mod checkers;
pub mod clock;
pub mod cluster;
pub mod content;
pub mod draw;
pub mod faults;
pub mod history;
pub mod inspect;
pub mod journal;
pub mod linear;
pub mod models;
pub mod moves;
pub mod nodes;
pub mod scale;
pub mod seed;
pub mod settle;
pub mod shape;
pub mod situations;
pub mod trash;
pub mod uncover;
pub mod volumes;
pub mod workload;
