//! How often an owner looks after its volume, and how much of the index it keeps in memory.

use std::time::Duration;

/// What a chunk of a real owner's journal takes, bytes: with the headers of its records, or of its stripes, a
/// little less than a whole number of slots on each disk.
pub const CHUNK_LEN: u64 = 63 << 20;

/// See the module; the defaults are what real owners go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// How often it is looked whether something is to be done. Default: a second.
    pub period: Duration,
    /// A checkpoint is due when nothing was changed for so long. Default: 3 s.
    pub idle: Duration,
    /// One is due also after so many bytes of journal: what recovery reads again. Default: 128 MiB.
    pub due_bytes: u64,
    /// Extents of the index that are kept in memory, if no more are in use. Default: 4 Mi, about 100 MiB.
    pub extents_max: usize,
    /// What a chunk of the journal takes, if it can: little enough to be copied out of, enough for few grants.
    /// Default: [`CHUNK_LEN`].
    pub chunk_len: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            period: Duration::from_secs(1),
            idle: Duration::from_secs(3),
            due_bytes: 128 << 20,
            extents_max: 4 << 20,
            chunk_len: CHUNK_LEN,
        }
    }
}
