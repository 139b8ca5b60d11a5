//! What every engine of the platform must do, written once; `real.rs` and `simulated.rs` run it.

pub mod disk;
pub mod net;
pub mod tasks;
