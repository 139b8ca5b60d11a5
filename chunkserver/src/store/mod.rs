//! A store: the shards of one disk, in one data file of recycled slots.
//!
//! Files in the directory: `data` (slots), `checkpoint` (see `proto::checkpoint`). Slot `n` begins
//! at byte `n * slot_size`; the file's first 4 KiB are never used. A crash at any moment leaves
//! records that were flushed, and perhaps torn ones behind them, which recovery cuts.

mod census;
pub mod config;
mod delete;
mod flush;
mod maintain;
mod read;
mod recovery;
mod scrub;
pub mod shard;
mod slots;
mod tables;
mod tail;
pub mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use platform::Platform;
use platform::disk::{Disk, DiskError, File, Space};
use proto::chunk::ScrubState;
use proto::record::BLOCK;
use thiserror::Error;
use tokio::sync::Notify;
use types::ids::{Epoch, PlacementId, StoreId};

use self::config::StoreConfig;
use self::delete::Dying;
use self::flush::Flusher;
use self::shard::Shard;
use self::slots::Slots;
use self::tables::TableCache;

/// Why a store refuses a request. A variant is what the caller does next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another epoch is stored: the right to write moved.
    #[error("epoch {stored} is stored")]
    Fenced {
        /// What the shard holds.
        stored: Epoch,
    },
    /// Sealed: open another chunk.
    #[error("sealed at {len}")]
    Sealed {
        /// Shard bytes.
        len: u64,
    },
    /// Not the shard's length.
    #[error("offset is not the shard's length {len}")]
    WrongOffset {
        /// Shard bytes.
        len: u64,
    },
    /// No such shard here: refetch the layout.
    #[error("no such shard here")]
    NoShard,
    /// Beyond what is durable.
    #[error("read ends beyond the durable length {len}")]
    Beyond {
        /// Shard bytes.
        len: u64,
    },
    /// Bytes fail their checksum: read another shard, repair this one.
    #[error("bytes at {offset} fail their checksum")]
    Rot {
        /// Shard byte.
        offset: u64,
    },
    /// The shard takes no appends until it is fenced.
    #[error("shard takes no appends after a failed write")]
    Broken,
    /// No room: go elsewhere.
    #[error("store is full")]
    Full,
    /// Malformed.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The disk failed.
    #[error("disk: {0}")]
    Disk(#[from] Rc<DiskError>),
}

/// Slots above the set capacity that compactions, and beyond them fences and seals, may take.
const RESERVE_SLOTS: u64 = 8;

/// What a slot is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Bytes of users: refused while the reserve is not free.
    Data,
    /// Bytes that are moved so that more become free: half of the reserve.
    Compaction,
    /// Fences and seals: without them a full store could never give space back. What is left then
    /// serves checkpoints, the log and whoever else writes to the disk.
    Control,
}

struct State {
    shards: BTreeMap<PlacementId, Shard>,
    slots: Slots,
    /// Records written since the last checkpoint.
    fresh_records: u64,
    /// Shards that are deleted, until their tombstones are durable.
    dying: BTreeMap<PlacementId, Dying>,
    /// Deleted since the last checkpoint.
    deleted: BTreeSet<PlacementId>,
    /// Shards that gave a reader wrong bytes or none, until they are deleted.
    damaged: BTreeSet<PlacementId>,
    /// Bytes the data file could still grow by, asked now and then.
    space: Space,
    /// Slots in the file when that was asked: what came since is not off it yet.
    slots_then: u64,
}

pub(crate) struct Inner {
    platform: Platform,
    disk: Disk,
    file: File,
    id: StoreId,
    config: StoreConfig,
    state: RefCell<State>,
    /// Woken when any shard's durable or accepted length, or epoch, changed.
    changed: Notify,
    flusher: Flusher,
    failed: Cell<bool>,
    rot_found: Cell<u64>,
    tables: TableCache,
    checkpointing: Cell<bool>,
    scrub: Cell<ScrubState>,
    /// The shard that was scrubbed last, and when its round began (unix ms; 0 = none did yet),
    /// over restarts.
    scrubbed: Cell<(PlacementId, u64)>,
}

/// One store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

impl Store {
    /// The store's random name.
    pub fn id(&self) -> StoreId {
        self.0.id
    }

    /// The directory it lies in.
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// A flush failed or the disk answers no more: its shards must be repaired elsewhere.
    pub fn is_failed(&self) -> bool {
        self.0.failed.get()
    }

    /// Its disk was taken out of the pool: nothing more is written, and what runs behind it ends.
    pub fn retire(&self) {
        self.0.failed.set(true);
    }

    /// Damaged reads found since the start.
    pub fn rot_found(&self) -> u64 {
        self.0.rot_found.get()
    }

    /// Number of shards held.
    pub fn shard_count(&self) -> usize {
        self.0.state.borrow().shards.len()
    }

    /// All shards above `after`, at most `max`, in order.
    pub fn list(&self, after: PlacementId, max: usize) -> Vec<proto::chunk::ShardName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = self.0.state.borrow();
        let range = state.shards.range((Excluded(after), Unbounded));
        range
            .take(max)
            .map(|(_, shard)| proto::chunk::ShardName {
                placement: shard.placement.0,
                chunk: shard.chunk.0,
                index: u32::from(shard.index.0),
            })
            .collect()
    }

    /// Where the durable data records of a shard begin in the data file and how many bytes each
    /// carries, in order of offset: for those that look behind the store's back.
    pub fn records(&self, placement: PlacementId) -> Vec<(u64, u32)> {
        let state = self.0.state.borrow();
        let shard = state.shards.get(&placement);
        shard.map_or_else(Vec::new, |shard| shard.records.iter().map(|one| (one.position, one.len)).collect())
    }

    /// Bytes of slots that could be taken without growing the file.
    pub fn free_bytes(&self) -> u64 {
        self.0.state.borrow().slots.free_count() * self.0.config.slot_size
    }

    /// Bytes of the file system, with free slots counted as available.
    pub fn space(&self) -> Space {
        let free = self.free_bytes();
        let state = self.0.state.borrow();
        let cap = self.0.config.capacity_bytes;
        let grown = state.slots.count().saturating_sub(state.slots_then) * self.0.config.slot_size;
        let growth = state.space.available.saturating_sub(self.0.config.reserve_bytes + grown);
        let growth = if cap == 0 {
            growth
        } else {
            growth.min(cap.saturating_sub(state.slots.count() * self.0.config.slot_size))
        };
        Space { total: if cap == 0 { state.space.total } else { cap }, available: free + growth }
    }
}

impl Inner {
    fn slot_start(&self, slot: u64) -> u64 {
        (slot * self.config.slot_size).max(BLOCK as u64)
    }

    /// How many slots the file may have now for `need`.
    fn slots_max(&self, state: &State, need: Need) -> u64 {
        let (reserve, extra) = match need {
            Need::Data => (self.config.reserve_bytes, 0),
            Need::Compaction => (self.config.reserve_bytes / 2, RESERVE_SLOTS),
            Need::Control => (self.config.reserve_bytes / 3, 2 * RESERVE_SLOTS),
        };
        let by_space = state.slots_then + state.space.available.saturating_sub(reserve) / self.config.slot_size;
        if self.config.capacity_bytes == 0 {
            return by_space;
        }
        by_space.min((self.config.capacity_bytes / self.config.slot_size).max(1) + extra)
    }

    fn fail(&self, error: &DiskError) {
        if !self.failed.replace(true) {
            tracing::error!(store = %self.id, %error, "disk failed, its shards must be repaired elsewhere");
        }
    }
}

#[cfg(test)]
mod flips;
#[cfg(test)]
mod tests;
