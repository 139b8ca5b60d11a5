//! What a store does behind the requests: checkpoints, and slots written ahead.

use std::rc::Rc;
use std::time::Duration;

use platform::buffer::Buffer;
use proto::checkpoint::{Checkpoint, ShardEntry, SlotEntry};
use proto::chunk::ShardName;

use super::shard::Shard;
use super::{Need, Store, StoreError};

/// The file that recovery starts from.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// Bytes written ahead in one step.
const STEP: usize = 1 << 20;
/// With less than this available freed slots do not wait for their checkpoint, bytes.
const SPACE_LOW: u64 = 256 << 20;
/// Pause between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// Looks during which slots must have been free before their space goes back to the file system: what is
/// written and deleted in turns keeps its slots, which are fast to write.
const IDLE_LOOKS: u64 = 40;
/// Slots whose space is given back in one look.
const PUNCHED_MAX: usize = 32;

impl Store {
    /// Runs until the store fails; spawn it beside the store.
    pub async fn maintain(self) {
        let mut turns = 0u64;
        // Slots that were free all the time since, and that are to be punched now.
        let (mut least, mut idle) = (u64::MAX, 0);
        loop {
            self.0.platform.clock().sleep(PERIOD).await;
            if self.is_failed() {
                return;
            }
            if turns.is_multiple_of(4)
                && let Ok(space) = self.0.disk.space()
            {
                let mut state = self.0.state.borrow_mut();
                state.space = space;
                state.slots_then = state.slots.count();
            }
            turns += 1;
            let (fresh, resting) = {
                let state = self.0.state.borrow();
                (state.fresh_records, state.slots.resting())
            };
            // Freed slots come back soon, at once if there are no others; records alone may wait.
            let wanted = self.space().available < SPACE_LOW || turns.is_multiple_of(8);
            let due = fresh >= self.0.config.checkpoint_records || (resting > 0 && wanted);
            if due && let Err(error) = self.checkpoint().await {
                tracing::warn!(store = %self.0.id, %error, "checkpoint failed");
            }
            least = least.min(self.0.state.borrow().slots.free_count());
            if turns.is_multiple_of(IDLE_LOOKS) {
                let kept = self.0.config.prewritten_slots * 5 / 4;
                (idle, least) = (least.saturating_sub(kept), u64::MAX);
            }
            let some = idle.min(PUNCHED_MAX as u64);
            idle -= some;
            if some > 0
                && let Err(error) = self.punch(some as usize).await
            {
                tracing::warn!(store = %self.0.id, %error, "giving space back failed");
            }
            if let Err(error) = self.write_ahead().await {
                tracing::warn!(store = %self.0.id, %error, "writing slots ahead failed");
            }
        }
    }

    /// Writes a checkpoint. A crash in the middle leaves the old one.
    ///
    /// # Errors
    /// The disk failed; the old checkpoint stays valid.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        if self.0.checkpointing.replace(true) {
            return Ok(());
        }
        let (checkpoint, resting, fresh, deleted) = {
            let mut state = self.0.state.borrow_mut();
            let checkpoint = Checkpoint {
                next_slot_sequence: state.slots.next_sequence(),
                scrubbed: self.0.scrubbed.get().0.0,
                scrub_began_ms: self.0.scrubbed.get().1,
                // A shard that lost its first record is empty and yet must not pass for a whole one.
                shards: state.shards.values().filter(|shard| !shard.slots.is_empty() || shard.cut).map(entry).collect(),
            };
            let fresh = std::mem::take(&mut state.fresh_records);
            (checkpoint, state.slots.resting(), fresh, state.deleted.clone())
        };
        let written = self.0.disk.write_file(CHECKPOINT, &checkpoint.encode_file()).await;
        self.0.checkpointing.set(false);
        let mut state = self.0.state.borrow_mut();
        match written {
            Ok(()) => {
                state.slots.checkpointed(resting);
                // A placement is never reused; remembering the last few thousand deletions
                // refuses appends that were long on their way.
                if state.deleted.len() > 10_000 {
                    state.deleted.retain(|placement| !deleted.contains(placement));
                }
                Ok(())
            }
            Err(error) => {
                state.fresh_records += fresh;
                Err(StoreError::Disk(Rc::new(error)))
            }
        }
    }

    /// Gives the space of some free slots back to the file system.
    async fn punch(&self, most: usize) -> Result<(), StoreError> {
        let slots = self.0.state.borrow_mut().slots.take_last(most);
        let mut outcome = Ok(());
        for slot in slots {
            let (from, end) = (self.0.slot_start(slot), (slot + 1) * self.0.config.slot_size);
            match self.0.file.punch(from, end - from).await {
                Ok(()) => self.0.state.borrow_mut().slots.add_bare(slot),
                Err(error) => {
                    self.0.state.borrow_mut().slots.untake([slot]);
                    outcome = Err(StoreError::Disk(Rc::new(error)));
                }
            }
        }
        outcome
    }

    /// Keeps some slots written, in small steps: flushing a block that was written before is
    /// twice as fast as one that was not.
    async fn write_ahead(&self) -> Result<(), StoreError> {
        let wanted = self.0.config.prewritten_slots;
        let slot = {
            let mut state = self.0.state.borrow_mut();
            let max = self.0.slots_max(&state, Need::Data);
            if state.slots.free_count() >= wanted { None } else { state.slots.grow(max) }
        };
        let Some(slot) = slot else { return Ok(()) };
        let zeros = Buffer::zeros(STEP);
        let (mut at, end) = (self.0.slot_start(slot), (slot + 1) * self.0.config.slot_size);
        while at < end {
            let len = zeros.len().min((end - at) as usize);
            self.0.file.write_at(at, vec![zeros.slice(..len)]).await.map_err(Rc::new)?;
            at += len as u64;
            platform::tasks::yield_now().await;
        }
        self.0.state.borrow_mut().slots.add_prewritten(slot);
        Ok(())
    }
}

fn entry(shard: &Shard) -> ShardEntry {
    ShardEntry {
        name: ShardName { placement: shard.placement.0, chunk: shard.chunk.0, index: u32::from(shard.index.0) },
        epoch: shard.epoch.0,
        len: shard.durable_len(),
        sealed: shard.sealed,
        cut: shard.cut,
        slots: shard.slots.iter().map(|(slot, sequence)| SlotEntry { slot: *slot, sequence: *sequence }).collect(),
        records: shard
            .records
            .iter()
            .flat_map(|record| [record.offset, record.position, u64::from(record.len)])
            .collect(),
        tail: shard.durable_tail.1,
        tail_slot: shard.durable_tail.0,
        broken: shard.broken,
    }
}
