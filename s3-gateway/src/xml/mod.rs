//! Documents in and out: a bounded reader and a small writer, both without recursion.

pub mod read;
pub mod write;
