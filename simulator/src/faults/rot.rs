//! Rot of chunkservers' disks, at rest and under a writer.

use std::rc::Rc;
use std::time::Duration;

use platform::fault::DiskFault;
use proto::rows::{ShardRow, chunk_state};
use types::ids::{ChunkId, Partition, PlacementId};

use super::{CALM, Faults};
use crate::cluster::Node;
use crate::inspect;
use crate::nodes::chunk;
use crate::shape::CHUNKS;

impl Faults {
    /// Rots the disk of one chunkserver, if every chunk can spare it. What is damaged stays so until the
    /// scrub has found it.
    pub fn rot(&self) -> bool {
        let index = self.below(CHUNKS);
        let name = Node::Chunk(index).name();
        let files = self.simulation().disk_files(&name, chunk::DIR);
        let Some((_, len)) = files.into_iter().find(|(file, len)| file == "data" && *len > 0) else { return false };
        if self.cluster.shape.rates.rot.is_none() || !inspect::can_spare(&self.cluster, index) {
            return false;
        }
        let draw = &self.cluster.draw;
        let bits = draw.between(1, 300);
        self.cluster.fault("disk rots", &format!("{bits} bits of the disk of {name} flip"));
        for _ in 0..bits {
            let (offset, bit) = (draw.below(len), draw.below(8) as u8);
            let rot = DiskFault::RotBit { file: "data".into(), offset, bit };
            self.simulation().disk_fault(&name, chunk::DIR, rot);
        }
        if draw.chance(0.5) {
            // What recovery makes of it.
            self.cluster.boot(Node::Chunk(index));
        }
        true
    }

    /// A record of an open chunk rots that is not the last, its chunkserver starts anew, and the chunk is
    /// sealed: what was acknowledged is above the rot. Calm before, and until all is repaired.
    pub(super) async fn rot_open(self: &Rc<Faults>) {
        if !self.on.get() || self.calm.replace(true) {
            return;
        }
        self.quiet();
        self.wait(CALM).await;
        let index = self.below(CHUNKS);
        if self.on.get()
            && inspect::can_spare(&self.cluster, index)
            && let Some((chunk, placement, offset)) = self.open_record(index)
        {
            let name = Node::Chunk(index).name();
            self.cluster.fault("record of an open chunk rots", &format!("a record of chunk {chunk:x} rots on {name}"));
            let rot = DiskFault::RotBit { file: "data".into(), offset, bit: self.cluster.draw.below(8) as u8 };
            self.simulation().disk_fault(&name, chunk::DIR, rot);
            self.cluster.boot(Node::Chunk(index));
            self.wait(self.cluster.draw.millis(20, 500)).await;
            // The writer may have had it sealed before.
            drop(self.meta.seal(chunk, false).await);
            // Another disk may fail when the rotten shard has been replaced, not before.
            while self.on.get() && self.is_named(chunk, placement) {
                self.wait(Duration::from_millis(500)).await;
            }
        }
        if self.on.get() {
            self.calm.set(false);
            self.simulation().set_faults(true);
        }
    }

    /// Whether the chunk names that placement, as far as anybody can tell.
    fn is_named(&self, chunk: u64, placement: u64) -> bool {
        let Some(leader) = self.cluster.leader() else { return true };
        let chunks = inspect::chunks(&leader);
        chunks.get(&chunk).is_some_and(|row| row.shards.iter().any(|shard| shard.placement == placement))
    }

    /// A durable record on that chunkserver behind which another one is, of an open chunk: chunk, placement
    /// and the position of a byte.
    fn open_record(&self, index: usize) -> Option<(u64, u64, u64)> {
        let leader = self.cluster.leader()?;
        let store = self.cluster.stores().get(index)?.clone()?;
        let disks = inspect::disks(&leader);
        let mut found = Vec::new();
        for (chunk, row) in inspect::chunks(&leader) {
            let here = |shard: &&ShardRow| disks.get(&shard.disk).is_some_and(|disk| disk.store == store.id().0);
            if row.state == chunk_state::OPEN
                && let Some(shard) = row.shards.iter().find(here)
            {
                let records = store.records(PlacementId(shard.placement));
                found.extend(records.iter().rev().skip(1).take(2).map(|record| (chunk, shard.placement, *record)));
            }
        }
        let draw = &self.cluster.draw;
        // Of an object the metadata knows how long it was; of a journal, which is in the first partition, not.
        let of_journal = |found: &(u64, u64, (u64, u32))| ChunkId(found.0).partition() == Partition(0);
        if found.iter().any(of_journal) && draw.chance(0.7) {
            found.retain(of_journal);
        }
        if found.is_empty() {
            return None;
        }
        let (chunk, placement, (position, len)) = *draw.pick(&found);
        // Recovery reads the headers; of what is vouched for it reads no more.
        let within = if draw.chance(0.8) { 64 } else { u64::from(len).max(64) };
        Some((chunk, placement, position + draw.below(within)))
    }
}
