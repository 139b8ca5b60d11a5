//! Calls between processes: frames over byte streams, or a plain function call inside a process.
//!
//! ```text
//! caller -> Peers::call(address) --same process--> Handler
//!                    |--TCP--> frame -> serve() -> Handler -> frame -> caller
//! ```
//!
//! Invariants: a request carries cluster, target store, request id and what is left of its
//! deadline; every frame is checked by CRC and by a mac under a key both ends derived from the
//! cluster secret; a receiver bounds every length before it allocates and holds at most its memory
//! budget; an answer that comes late or twice finds nobody and is dropped. Retrying is the
//! caller's decision, by the class of the failure.

pub mod budget;
pub mod call;
mod connection;
mod handshake;
pub mod peers;
pub mod request;
pub mod server;
mod wire;
