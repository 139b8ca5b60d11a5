//! The Network Block Device protocol: fixed newstyle handshake, structured replies and extended headers,
//! as the NetworkBlockDevice project's "proto.md" has them. `qemu-nbd` on a raw file is the yardstick.
//!
//! ```text
//! server: accept -> handshake (wire) -> transmission (a task for each request, one writer)
//! ```

mod handshake;
pub mod server;
mod transmission;
pub mod wire;
