//! The door to hyper: connections, replies, and a small client.

pub mod client;
pub mod reply;
pub mod server;
pub mod watch;
