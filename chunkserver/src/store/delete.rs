//! Deletion: a shard dies at once and is gone when its tombstone is durable.
//!
//! ```text
//! delete -> dying (refuses everything) -> writes under way come back -> tombstone -> flush -> answer
//! ```
//!
//! Whoever asks again meanwhile, or after a failure, is answered by the durable tombstone and by
//! nothing less: the metaserver forgets a shard with the answer. A crash before it brings the shard
//! back, and the metaserver asks again.

use std::rc::Rc;

use bytes::Bytes;
use platform::planted::PlantedBug;
use proto::record::{RecordHeader, RecordKind};
use types::ids::{PlacementId, RequestId};

use super::shard::Shard;
use super::write::encode;
use super::{State, Store, StoreError};

/// A shard between its deletion and its tombstone.
pub(super) struct Dying {
    pub(super) shard: Shard,
    /// Somebody writes the tombstone.
    taken: bool,
}

/// What is to be done for placements somebody wants deleted.
enum Step {
    /// All are gone, durably.
    Gone,
    /// Others bury the rest, or writes are under way.
    Wait,
    /// These are the caller's to bury.
    Bury(Vec<PlacementId>),
}

impl State {
    /// Deleted, or about to be.
    pub(super) fn is_deleted(&self, placement: PlacementId) -> bool {
        self.deleted.contains(&placement) || self.dying.contains_key(&placement)
    }

    fn next_step(&mut self, placements: &[PlacementId]) -> Step {
        let (mut mine, mut waits) = (Vec::new(), false);
        for placement in placements {
            let Some(dying) = self.dying.get_mut(placement) else { continue };
            // A write that lands after the tombstone would undo it.
            if dying.taken || dying.shard.writing > 0 {
                waits = true;
            } else {
                dying.taken = true;
                mine.push(*placement);
            }
        }
        match (mine.is_empty(), waits) {
            (false, _) => Step::Bury(mine),
            (true, true) => Step::Wait,
            (true, false) => Step::Gone,
        }
    }
}

impl Store {
    /// Deletes shards for ever, durably: the metaserver has decided so. Unknown ones are fine.
    ///
    /// # Errors
    /// The disk failed: the shards serve no one any more, but a restart may bring them back.
    pub async fn delete(&self, placements: &[PlacementId]) -> Result<(), StoreError> {
        let more = self.planted_deletes(placements);
        let placements: &[PlacementId] = if more.is_empty() { placements } else { &more };
        {
            let mut state = self.0.state.borrow_mut();
            for placement in placements {
                state.deleted.insert(*placement);
                state.damaged.remove(placement);
                if let Some(shard) = state.shards.remove(placement) {
                    state.dying.insert(*placement, Dying { shard, taken: false });
                }
            }
        }
        self.0.changed.notify_waiters();
        loop {
            let changed = self.0.changed.notified();
            let step = self.0.state.borrow_mut().next_step(placements);
            match step {
                Step::Gone => return Ok(()),
                Step::Wait => changed.await,
                Step::Bury(mine) => {
                    let buried = self.bury(&mine).await;
                    self.settle_burial(&mine, buried.is_ok());
                    buried?;
                }
            }
        }
    }

    /// A planted mistake: with each placement the others of its chunk.
    fn planted_deletes(&self, placements: &[PlacementId]) -> Vec<PlacementId> {
        if !self.0.platform.planted(PlantedBug::DeleteByChunk) {
            return Vec::new();
        }
        let state = self.0.state.borrow();
        let chunks: Vec<_> =
            placements.iter().filter_map(|placement| state.shards.get(placement)).map(|shard| shard.chunk).collect();
        let others = state.shards.iter().filter(|(_, shard)| chunks.contains(&shard.chunk)).map(|(id, _)| *id);
        placements.iter().copied().chain(others).collect()
    }

    async fn bury(&self, placements: &[PlacementId]) -> Result<(), StoreError> {
        let tombstones: Vec<(u64, RecordHeader)> = {
            let state = self.0.state.borrow();
            let dying = placements.iter().filter_map(|placement| state.dying.get(placement));
            dying.filter_map(|dying| self.tombstone(&dying.shard)).collect()
        };
        for (position, header) in &tombstones {
            let block = encode(self.0.id, header, Bytes::new());
            self.0.file.write_at(*position, block).await.map_err(Rc::new)?;
        }
        if !tombstones.is_empty() {
            self.0.flusher.flush(&self.0.file).await.inspect_err(|error| self.0.fail(error))?;
        }
        Ok(())
    }

    /// The record over a shard's first one, and where it goes; none for a shard without bytes.
    fn tombstone(&self, shard: &Shard) -> Option<(u64, RecordHeader)> {
        let (slot, sequence) = shard.slots.first()?;
        let header = RecordHeader {
            kind: RecordKind::Tombstone,
            shard: shard.index,
            chunk: shard.chunk,
            placement: shard.placement,
            epoch: shard.epoch,
            offset: 0,
            payload_len: 0,
            cut: false,
            durable_len: shard.durable_len(),
            slot_sequence: *sequence,
            slot_index: 0,
            request: RequestId(0),
        };
        Some((self.0.slot_start(*slot), header))
    }

    fn settle_burial(&self, placements: &[PlacementId], done: bool) {
        {
            let mut state = self.0.state.borrow_mut();
            let state = &mut *state;
            for placement in placements {
                if !done {
                    if let Some(dying) = state.dying.get_mut(placement) {
                        dying.taken = false;
                    }
                    continue;
                }
                let Some(Dying { shard, .. }) = state.dying.remove(placement) else { continue };
                state.fresh_records += 1;
                state.slots.give_back(shard.slots.iter().map(|(slot, _)| *slot));
                state.slots.give_back(shard.abandoned);
            }
        }
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use platform::fault::DiskFault;
    use types::ids::PlacementId;

    use crate::store::StoreError;
    use crate::store::tests::{append, open, pattern, simulated, target};

    #[test]
    fn delete_sent_again_is_answered_by_the_durable_tombstone() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
            store.checkpoint().await.expect("checkpoint");
            sim.fault(DiskFault::SlowBy(1000));
            let first = store.clone();
            platform.tasks().spawn(async move { first.delete(&[PlacementId(1)]).await }).detach();
            while store.shard_count() > 0 {
                platform::tasks::yield_now().await;
            }
            store.delete(&[PlacementId(1)]).await.expect("the retry");
            sim.fault(DiskFault::Healthy);
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            assert!(matches!(store.read(target(1), 0, 10).await, Err(StoreError::NoShard)));
        });
    }

    #[test]
    fn delete_whose_tombstone_failed_is_refused_until_it_is_durable() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
            store.checkpoint().await.expect("checkpoint");
            sim.fault(DiskFault::WriteFails);
            for _ in 0..2 {
                assert!(matches!(store.delete(&[PlacementId(1)]).await, Err(StoreError::Disk(_))));
            }
            assert!(matches!(append(&platform, &store, 1, 1, 0, b"late").await, Err(StoreError::NoShard)));
            sim.fault(DiskFault::Healthy);
            store.delete(&[PlacementId(1)]).await.expect("delete");
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            assert!(matches!(store.read(target(1), 0, 10).await, Err(StoreError::NoShard)));
        });
    }

    #[test]
    fn shard_deleted_under_an_append_stays_deleted_and_gives_its_slots_back() {
        simulated(|sim| async move {
            let platform = sim.node();
            let store = open(&platform).await;
            sim.fault(DiskFault::SlowBy(1000));
            let (writer, machine) = (store.clone(), platform.clone());
            let append =
                platform.tasks().spawn(async move { append(&machine, &writer, 1, 1, 0, &pattern(1, 9000)).await });
            platform.clock().sleep(std::time::Duration::from_millis(1)).await;
            store.delete(&[PlacementId(1)]).await.expect("delete");
            assert!(append.await.expect("task").is_err());
            sim.fault(DiskFault::Healthy);
            store.checkpoint().await.expect("checkpoint");
            assert_eq!(store.free_bytes(), 1 << 20);
            sim.crash();
            let store = open(&sim.node()).await;
            assert_eq!(store.shard_count(), 0);
        });
    }
}
