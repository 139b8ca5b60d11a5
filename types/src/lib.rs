//! The words of the domain, pure: identifiers, redundancy, extents, checksums, sizes, names.
//!
//! Nothing here does IO or knows a codec; every other crate stands on this one.

pub mod checksum;
pub mod extent;
pub mod ids;
pub mod names;
pub mod redundancy;
pub mod size;
pub mod volume;
