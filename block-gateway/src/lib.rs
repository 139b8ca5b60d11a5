//! The block door: volumes for machines.
//!
//! [`device`] is what a protocol needs of a volume; [`registry`] attaches a volume when the first client
//! comes and gives it up when the last has gone, which protocols see as [`exports`]; [`nbd`] speaks the Network Block Device protocol;
//! [`image`] reads and writes disk image files.
//! Protocols translate, and decide nothing.

mod attachment;
pub mod device;
pub mod exports;
pub mod image;
pub mod nbd;
pub mod registry;
pub mod vhost;
